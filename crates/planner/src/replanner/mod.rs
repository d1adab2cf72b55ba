//! Planning while the robot moves: a thread that plans, and a command that never waits for it.
//!
//! | where | what |
//! |---|---|
//! | [`Replanner`] | the control loop's side: [`command`](Replanner::command) |
//! | [`Settings`] | how much of a plan is executed, what is safe, how long to wait |
//! | [`Plans`] | what plans: a [`Planner`], or anything else |
//! | [`Status`], [`Reason`] | how good the command is, and why it is not better |
//! | [`log`] | every decision, and how it is made again |
//!
//! # The clock
//!
//! A plan's actions are a *period* apart, and steps of that length are counted as they are executed: a loop that stalls
//! goes on with the next action and never skips one, so that what was executed is known by count and not by an estimate
//! of the latency.
//!
//! # One plan after another
//!
//! ```text
//! step         k                 k+c                    k+c+e
//! plan n       | ask for n+1      |
//! plan n+1     | committed: n's   | its own actions      | .. in hand, should n+2 be late | braking | rest
//!              observation k      hand-over
//! ```
//!
//! At step `k` the next plan is asked for, from what is seen there. While it is made the robot executes the next `c`
//! actions of the current plan. These are *committed*: the next plan is conditioned on them and begins with them, bit for
//! bit, so that it can take over at step `k + c` as if it had always been there. A plan that comes later than that is
//! dropped, for the robot no longer does what it begins with, and the next one is given more time.
//!
//! `c` is [`Horizon::latency`], or as many steps as the longest of the last plans took. A planner that takes longer than
//! its plans last is of use to a robot that stands: there, a plan begins when it is there, and not when it was asked for.

mod executive;
pub mod log;
mod settings;
mod worker;

use std::fmt;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use clearway_motion::{Refusal, Trajectory};

pub use settings::{Horizon, ReplannerError, Settings};
pub use worker::Failure;

use crate::{Budget, Observation, Plan, PlanError, Planner, Problem};
use executive::{Executive, Reply, Request};
use worker::Worker;

/// What plans for a [`Replanner`].
pub trait Plans: Send + Sync {
    /// What its plans are like.
    fn layout(&self) -> Layout;

    /// Plans once.
    ///
    /// # Errors
    ///
    /// If there is no plan.
    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError>;
}

/// What plans are like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The coordinates of an action.
    pub dof: usize,
    /// The actions of a plan, the first at the time of the newest observation.
    pub actions: usize,
    /// The time between two of them.
    pub period: Duration,
    /// How many observations, a period apart, a plan is made from.
    pub observations: usize,
}

impl Plans for Planner {
    fn layout(&self) -> Layout {
        let config = self.policy().config();
        Layout {
            dof: config.action.len,
            actions: self.actions(),
            period: self.period(),
            observations: config.n_obs_steps,
        }
    }

    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError> {
        Planner::plan(self, problem, budget, seed)
    }
}

impl<P: Plans + ?Sized> Plans for Arc<P> {
    fn layout(&self) -> Layout {
        (**self).layout()
    }

    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError> {
        (**self).plan(problem, budget, seed)
    }
}

/// What the robot is to do now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Command<'a> {
    /// Where to be; always finite.
    pub position: &'a [f64],
    /// How fast, per second; zero where plans are held actions.
    pub velocity: &'a [f64],
    /// Per second squared; zero where plans are held actions.
    pub acceleration: &'a [f64],
    /// How good that is.
    pub status: Status,
    /// The plan that it comes from, counted from 1; 0 is standing where the robot was at the start.
    pub plan: u64,
    /// The step of the plans' clock.
    pub step: u64,
}

/// How good a command is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// The plan is the one that should be executed now.
    Fresh,
    /// The plan should have been replaced; what is left of it is executed, its braking included.
    Stale(Reason),
    /// There is nothing left to execute: the robot is to stay where it is.
    Holding(Reason),
    /// No further plan will come until [`Replanner::restart`], or a planner that hung comes back; what is left is
    /// executed, then held.
    Failed(Reason),
}

impl Status {
    /// Why it is not better; nothing if it is fresh.
    pub fn reason(self) -> Option<Reason> {
        match self {
            Self::Fresh => None,
            Self::Stale(reason) | Self::Holding(reason) | Self::Failed(reason) => Some(reason),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fresh => f.write_str("fresh"),
            Self::Stale(reason) => write!(f, "stale: {reason}"),
            Self::Holding(reason) => write!(f, "holding: {reason}"),
            Self::Failed(reason) => write!(f, "failed: {reason}"),
        }
    }
}

/// Why a command is not fresh.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Reason {
    /// The first plan is being made.
    Starting,
    /// The planner takes longer than the plans last.
    Late,
    /// The planner had no plan: see [`Replanner::failure`].
    NoPlan,
    /// The plan was not safe: see [`Replanner::failure`].
    Unsafe,
    /// A plan did not begin with what was executed.
    Diverged,
    /// The newest observation is too old to plan from, or of the future.
    Observation,
    /// The loop was away for longer than [`Settings::with_max_age`] allows: the plan that it goes on with is that old.
    Stalled,
    /// The planner has not answered for longer than [`Settings::with_patience`] allows.
    Hung,
    /// The planner panicked, more often than [`Settings::with_restarts`] allows.
    Panicked,
    /// The planner's thread has ended.
    Gone,
    /// A command failed the last check: the one before it stands, until a plan that begins there takes over. See
    /// [`Replanner::refusal`].
    Command,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Starting => "the first plan is being made",
            Self::Late => "the planner is late",
            Self::NoPlan => "the planner has no plan",
            Self::Unsafe => "the plan was not safe",
            Self::Diverged => "the plan does not begin with what was executed",
            Self::Observation => "the newest observation is too old, or of the future",
            Self::Stalled => "the loop was away, and the plan is old",
            Self::Hung => "the planner does not answer",
            Self::Panicked => "the planner panicked",
            Self::Gone => "the planner's thread has ended",
            Self::Command => "the command failed the last check",
        })
    }
}

/// What has been counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Plans that were asked for.
    pub asked: u64,
    /// Plans that took over.
    pub adopted: u64,
    /// Plans that came after their hand-over.
    pub late: u64,
    /// Requests that were answered without a plan, or with one that was not safe.
    pub failed: u64,
    /// Plans that did not begin with what was executed.
    pub diverged: u64,
    /// Steps for which the loop was not there; their actions were executed later.
    pub stalled: u64,
    /// Commands that failed the last check; the robot stands after each.
    pub refused: u64,
    /// Changes of status that no request could take along to the log.
    pub unlogged: u64,
    /// From a request to the last command that has to do without its plan: the longest of the last ones, slowly
    /// forgotten.
    pub latency: Duration,
}

/// Plans in its own thread, and says at any time what to do.
///
/// ```no_run
/// # use std::{path::Path, time::{Duration, Instant}};
/// # use burn::tensor::Device;
/// use clearway_planner::{Horizon, Observation, Planner, Replanner, Settings};
///
/// # fn observe(now: Duration) -> Observation { Observation::new(now) }
/// # fn send(position: &[f64]) {}
/// let period = Duration::from_millis(100);
/// let planner = Planner::load(Path::new("models/pusht"), period, &Device::flex())?;
/// let actions = planner.most_actions();
/// let planner = planner.with_actions(actions)?;
///
/// let settings = Settings::new(Horizon { execute: 8, latency: 1 });
/// let mut replanner = Replanner::spawn(planner, settings, &[222.0, 97.0])?;
/// let begun = Instant::now();
/// loop {
///     let now = begun.elapsed();
///     let command = replanner.command(now, &observe(now)); // never blocks, never fails
///     send(command.position);
///     # break;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Its plans keep each thread of rayon's global pool awake while they last. Where the loop is to have a core of its own, set
/// `RAYON_NUM_THREADS`, or build the global pool, to fewer threads than there are cores.
pub struct Replanner {
    executive: Executive,
    transport: Transport,
    layout: Layout,
    plans: Arc<dyn Plans>,
    settings: Arc<Settings>,
}

/// How requests reach the planner and plans come back.
enum Transport {
    /// Its own thread, and a slot each way.
    Thread {
        requests: rtrb::Producer<Box<Request>>,
        replies: rtrb::Consumer<Reply>,
        thread: JoinHandle<()>,
    },
    /// The caller's thread, in which planning takes no time of the caller's clock, and a delay that does.
    InStep {
        worker: Box<Worker>,
        delay: Delay,
        reply: Option<(Option<Duration>, Reply)>,
    },
}

/// How long a plan takes on the caller's clock.
type Delay = Box<dyn FnMut(u64) -> Duration + Send>;

impl Replanner {
    /// Starts to plan in a thread of its own; `start` is where the robot is, and stays until the first plan is there.
    ///
    /// # Errors
    ///
    /// If the settings do not fit the planner, `start` has another number of coordinates or is not safe, or the thread
    /// cannot be started.
    pub fn spawn(
        plans: impl Plans + 'static,
        settings: Settings,
        start: &[f64],
    ) -> Result<Self, ReplannerError> {
        let (plans, settings): (Arc<dyn Plans>, _) = (Arc::new(plans), Arc::new(settings));
        let layout = plans.layout();
        settings.check(&layout, start)?;
        if settings.horizon().latency == 0 {
            return Err(ReplannerError::Latency);
        }
        let executive = Executive::new(layout, &settings, start)?;
        let worker = Worker::new(
            layout,
            Arc::clone(&plans),
            Arc::clone(&settings),
            executive.current(),
        );
        Ok(Self {
            transport: thread(worker)?,
            executive,
            layout,
            plans,
            settings,
        })
    }

    /// Plans in the caller's thread, inside [`command`](Self::command): for simulations, which come out the same every
    /// time. Plan `n`, counted from 1, is there when `delay(n)` of the caller's clock has passed.
    ///
    /// # Errors
    ///
    /// As [`spawn`](Self::spawn), but that a latency of zero is possible: a plan without delay takes over in the step of
    /// its observation.
    pub fn in_step(
        plans: impl Plans + 'static,
        settings: Settings,
        start: &[f64],
        delay: impl FnMut(u64) -> Duration + Send + 'static,
    ) -> Result<Self, ReplannerError> {
        let (plans, settings): (Arc<dyn Plans>, _) = (Arc::new(plans), Arc::new(settings));
        let layout = plans.layout();
        settings.check(&layout, start)?;
        let executive = Executive::new(layout, &settings, start)?;
        let worker = Worker::new(
            layout,
            Arc::clone(&plans),
            Arc::clone(&settings),
            executive.current(),
        );
        Ok(Self {
            transport: Transport::InStep {
                worker: Box::new(worker.without_deadline()),
                delay: Box::new(delay),
                reply: None,
            },
            executive,
            layout,
            plans,
            settings,
        })
    }

    /// What the robot is to do at `now`, having seen `observation`.
    ///
    /// Both times are of one monotonic clock, from a start that the caller chooses. Call it at any rate, at least once
    /// a period. It never waits for the planner, and in its own thread it never locks; after warm-up, while
    /// observations keep their features and sizes, it does not allocate. Once a plan it wakes the planner's thread.
    pub fn command(&mut self, now: Duration, observation: &Observation) -> Command<'_> {
        let failed = match &mut self.transport {
            Transport::Thread {
                replies, thread, ..
            } => {
                if let Ok(reply) = replies.pop() {
                    self.executive.receive(reply);
                }
                thread.is_finished().then_some(Reason::Gone)
            }
            Transport::InStep { reply, .. } => {
                if let Some((_, reply)) =
                    reply.take_if(|(due, _)| due.is_some_and(|due| due <= now))
                {
                    self.executive.receive(reply);
                }
                None
            }
        };
        if let Some(request) = self.executive.advance(now, observation, failed) {
            match &mut self.transport {
                Transport::Thread {
                    requests, thread, ..
                } => {
                    // There is one request at a time, so the slot is free; if its thread is gone the request is lost.
                    if requests.push(request).is_ok() {
                        thread.thread().unpark();
                    }
                }
                Transport::InStep {
                    worker,
                    delay,
                    reply,
                } => {
                    let takes = delay(request.id);
                    let (answer, events) = worker.answer(request);
                    worker.note(&events);
                    if takes.is_zero() {
                        self.executive.receive(answer);
                    } else {
                        *reply = Some((now.checked_add(takes), answer));
                    }
                }
            }
        }
        self.executive.command(now)
    }

    /// The plan that is executed, with its braking, on the plans' clock: step `k` is at `k` periods.
    pub fn trajectory(&self) -> &Trajectory {
        self.executive.trajectory()
    }

    /// Why the last request was answered without a plan that can be executed; nothing if it was answered with one.
    pub fn failure(&self) -> Option<&Failure> {
        self.executive.failure()
    }

    /// Why the last command that failed its check did; nothing if none has.
    pub fn refusal(&self) -> Option<Refusal> {
        self.executive.refusal()
    }

    /// What has been counted.
    pub fn health(&self) -> Health {
        self.executive.health()
    }

    /// What plans.
    pub fn plans(&self) -> &dyn Plans {
        &*self.plans
    }

    /// Starts a new planning thread in place of one that panicked, ended or hangs; a thread that hangs is left alone,
    /// and what it may still bring is ignored. The robot goes on with what it has.
    ///
    /// It allocates: call it outside the control loop's hard part.
    ///
    /// # Errors
    ///
    /// If the thread cannot be started.
    pub fn restart(&mut self) -> Result<(), ReplannerError> {
        self.executive.restarted();
        let worker = Worker::new(
            self.layout,
            Arc::clone(&self.plans),
            Arc::clone(&self.settings),
            self.executive.current(),
        );
        match &mut self.transport {
            Transport::Thread { .. } => self.transport = thread(worker)?,
            Transport::InStep {
                worker: old, reply, ..
            } => {
                **old = worker.without_deadline();
                *reply = None;
            }
        }
        Ok(())
    }

    /// Waits until the planner has done what it does now, and notes what is left to note.
    ///
    /// Dropping a `Replanner` does not wait: the thread ends when it has answered.
    pub fn finish(mut self) {
        match self.transport {
            Transport::Thread {
                requests,
                mut replies,
                thread,
            } => {
                drop(requests);
                thread.thread().unpark();
                // Whether it panicked was said when it happened.
                let _ = thread.join();
                if let Ok(reply) = replies.pop() {
                    self.executive.receive(reply);
                }
            }
            Transport::InStep { reply, .. } => {
                if let Some((_, reply)) = reply {
                    self.executive.receive(reply);
                }
            }
        }
        self.settings.note(&self.executive.unnoted());
    }
}

impl fmt::Debug for Replanner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Replanner")
            .field("layout", &self.layout)
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

/// Lets a worker answer in a thread of its own.
fn thread(mut worker: Worker) -> Result<Transport, ReplannerError> {
    let (requests, mut asked) = rtrb::RingBuffer::<Box<Request>>::new(1);
    let (mut answers, replies) = rtrb::RingBuffer::<Reply>::new(1);
    let run = move || {
        worker.begin();
        loop {
            match asked.pop() {
                Ok(request) => {
                    let (reply, events) = worker.answer(request);
                    let last = reply.is_last();
                    let heard = answers.push(reply).is_ok();
                    // Whoever waits for the plan does not wait for the log.
                    worker.note(&events);
                    if last || !heard {
                        break;
                    }
                }
                Err(_) if asked.is_abandoned() => break,
                Err(_) => thread::park(),
            }
        }
    };
    let thread = thread::Builder::new()
        .name("clearway-replanner".into())
        .spawn(run)
        .map_err(ReplannerError::Thread)?;
    Ok(Transport::Thread {
        requests,
        replies,
        thread,
    })
}
