//! The control loop's side: what is executed, and when the next plan is asked for.
//!
//! Nothing here waits, locks or, after warm-up, allocates; and nothing is freed: what a plan was made of goes back to
//! the thread that made it.

use std::sync::Arc;
use std::time::Duration;

use clearway_motion::{Interpolation, Safety, State, Trajectory};

use super::worker::{Failure, happened};
use super::{Command, Health, Layout, Reason, ReplannerError, Settings, Status};
use crate::Observation;
use crate::replanner::log::{Event, Verdict};

/// A loop that calls so much of a period early means the next step.
const EARLY: u32 = 8;
/// Of a latency that was longer than now, so much is forgotten with every plan.
const FORGOTTEN: u32 = 16;
/// What evaluating a polynomial in two ways may differ by.
const ROUNDING: f64 = 1e-9;
/// Changes of status that are kept until the next request takes them along.
const CHANGES: usize = 32;

/// A plan that is executed, on the plans' clock.
#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) id: u64,
    /// The plan that it goes on from.
    pub(super) base: u64,
    /// The step of its newest observation, of which its first action is.
    pub(super) first: u64,
    /// The first step of its own.
    pub(super) seam: u64,
    /// The step at which the next plan should take over.
    pub(super) until: u64,
    pub(super) trajectory: Trajectory,
    /// When there is nothing more to execute.
    pub(super) end: Duration,
}

impl Chunk {
    /// Standing still.
    fn rest(start: &[f64], interpolation: Interpolation) -> Result<Self, ReplannerError> {
        let positions =
            ndarray::Array2::from_shape_vec([1, start.len()], start.to_vec()).expect("one row");
        let trajectory = Trajectory::new(vec![Duration::ZERO], positions, interpolation)?;
        Ok(Self {
            id: 0,
            base: 0,
            first: 0,
            seam: 0,
            until: 0,
            trajectory,
            end: Duration::ZERO,
        })
    }
}

/// What the planner is asked: one buffer that goes to and fro.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) id: u64,
    pub(super) step: u64,
    /// How many actions from that step on are committed.
    pub(super) committed: usize,
    /// The plan that is executed now.
    pub(super) base: u64,
    /// The robot's clock.
    pub(super) now: Duration,
    /// The age of the newest observation.
    pub(super) age: Duration,
    /// The newest ones, oldest first, on the plans' clock; only the first `seen` count.
    pub(super) observations: Vec<Observation>,
    pub(super) seen: usize,
    /// The last executed actions before this step, oldest first, one after another: `[executed, dof]`.
    pub(super) executed: Vec<f64>,
    /// What became of the last plan.
    pub(super) verdict: Option<(u64, Verdict)>,
    /// How the status changed since the last request.
    pub(super) changes: Vec<(Duration, Status)>,
    /// What the planner says when it brings no plan.
    pub(super) failure: Option<Failure>,
}

/// What it answers: the buffer, and a plan if there is one.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) request: Box<Request>,
    pub(super) chunk: Option<Arc<Chunk>>,
}

impl Request {
    fn new(layout: &Layout) -> Self {
        Self {
            id: 0,
            step: 0,
            committed: 0,
            base: 0,
            now: Duration::ZERO,
            age: Duration::ZERO,
            observations: vec![Observation::default(); layout.observations],
            seen: 0,
            executed: Vec::with_capacity(remembered(layout) * layout.dof),
            verdict: None,
            changes: Vec::with_capacity(CHANGES),
            failure: None,
        }
    }
}

/// The steps whose actions are remembered: those that a plan looks back on, and those that it may be late by.
fn remembered(layout: &Layout) -> usize {
    layout.observations + layout.actions
}

impl Reply {
    /// Whether no further one will come from this planner.
    pub(super) fn is_last(&self) -> bool {
        matches!(
            self.request.failure,
            Some(Failure::Panicked { last: true, .. })
        )
    }
}

/// A request that is not answered yet.
#[derive(Clone, Copy, Debug)]
struct InFlight {
    id: u64,
    asked: Duration,
}

/// The plans' clock: it counts periods as they are executed.
#[derive(Debug)]
struct Clock {
    period: Duration,
    /// The robot's time at the plans' time `zero`.
    anchor: Duration,
    zero: Duration,
    /// The plans' time now, and the last of the robot's.
    time: Duration,
    now: Option<Duration>,
    step: u64,
}

impl Clock {
    /// Goes on to `now`; returns whether a step begins, and how many the loop was not there for.
    fn advance(&mut self, now: Duration) -> (bool, u64) {
        let Some(last) = self.now.replace(now) else {
            self.anchor = now;
            return (true, 0);
        };
        if now < last {
            // The robot's clock was set back: go on from where the plans' is.
            self.anchor = now;
            self.zero = self.time;
            return (false, 0);
        }
        let time = now.saturating_sub(self.anchor) + self.zero;
        let step = self.step_at(time);
        let skipped = step.saturating_sub(self.step + 1);
        // What was not executed is next, and not lost.
        let late = nanoseconds(self.period, skipped);
        self.anchor += late;
        self.time = time.saturating_sub(late).max(self.time);
        let begins = step > self.step;
        self.step += u64::from(begins);
        (begins, skipped)
    }

    fn step_at(&self, time: Duration) -> u64 {
        let step = (time + self.period / EARLY).as_nanos() / self.period.as_nanos();
        u64::try_from(step).unwrap_or(u64::MAX)
    }
}

/// So many periods.
pub(super) fn nanoseconds(period: Duration, steps: u64) -> Duration {
    let total = period.as_nanos().saturating_mul(u128::from(steps));
    Duration::from_nanos_u128(total.min(Duration::MAX.as_nanos()))
}

/// The control loop's side of a [`Replanner`](super::Replanner).
#[derive(Debug)]
pub(super) struct Executive {
    layout: Layout,
    latency: usize,
    max_age: Duration,
    patience: Duration,
    safety: Safety,
    clock: Clock,
    chunk: Arc<Chunk>,
    /// The newest observations, one a step, on the plans' clock, oldest first.
    observations: Vec<Observation>,
    seen: usize,
    /// The actions of the last steps, oldest first, and which the last of them was.
    executed: Vec<f64>,
    recorded: Option<u64>,
    action: State,
    /// The buffer for requests, when it is here.
    free: Option<Box<Request>>,
    in_flight: Option<InFlight>,
    asked: u64,
    verdict: Option<(u64, Verdict)>,
    changes: Vec<(Duration, Status)>,
    trouble: Option<Reason>,
    failed: Option<Reason>,
    blind: bool,
    status: Status,
    state: State,
    /// The last command that was given, and when, on the plans' clock.
    last: State,
    given: Duration,
    /// Whether the plan goes on elsewhere than the commands.
    astray: bool,
    health: Health,
}

impl Executive {
    pub(super) fn new(
        layout: Layout,
        settings: &Settings,
        start: &[f64],
    ) -> Result<Self, ReplannerError> {
        let chunk = Chunk::rest(start, settings.interpolation())?;
        settings.may_rest(&chunk.trajectory, start)?;
        let state = chunk
            .trajectory
            .sample(Duration::ZERO)
            .expect("it has a waypoint");
        let horizon = settings.horizon();
        Ok(Self {
            latency: horizon.latency,
            max_age: settings.max_age(layout.period),
            patience: settings.patience(layout.period),
            safety: settings.safety(layout.dof),
            clock: Clock {
                period: layout.period,
                anchor: Duration::ZERO,
                zero: Duration::ZERO,
                time: Duration::ZERO,
                now: None,
                step: 0,
            },
            chunk: Arc::new(chunk),
            observations: vec![Observation::default(); layout.observations],
            seen: 0,
            executed: Vec::with_capacity(remembered(&layout) * layout.dof),
            recorded: None,
            action: state.clone(),
            free: Some(Box::new(Request::new(&layout))),
            in_flight: None,
            asked: 0,
            verdict: None,
            changes: Vec::with_capacity(CHANGES),
            trouble: None,
            failed: None,
            blind: false,
            status: Status::Holding(Reason::Starting),
            last: state.clone(),
            given: Duration::ZERO,
            astray: false,
            state,
            health: Health::default(),
            layout,
        })
    }

    pub(super) fn current(&self) -> Arc<Chunk> {
        Arc::clone(&self.chunk)
    }

    pub(super) fn trajectory(&self) -> &Trajectory {
        &self.chunk.trajectory
    }

    pub(super) fn failure(&self) -> Option<&Failure> {
        self.free.as_ref()?.failure.as_ref()
    }

    pub(super) fn health(&self) -> Health {
        self.health
    }

    /// What no request has taken along yet.
    pub(super) fn unnoted(&self) -> Vec<Event> {
        happened(self.verdict, &self.changes)
    }

    /// A new planner, which knows of no request.
    pub(super) fn restarted(&mut self) {
        if self.astray {
            // What stands is safe; plan from there.
            let interpolation = self.chunk.trajectory.interpolation();
            if let Ok(chunk) = Chunk::rest(self.last.position.as_slice(), interpolation) {
                self.chunk = Arc::new(chunk);
            }
        }
        self.in_flight = None;
        self.failed = None;
        self.trouble = None;
        if self.free.is_none() {
            self.free = Some(Box::new(Request::new(&self.layout)));
        }
    }

    /// Takes an answer in, and the plan over if it still begins with what is executed.
    pub(super) fn receive(&mut self, reply: Reply) {
        let Reply { request, chunk } = reply;
        if let Some(asked) = self.in_flight.take() {
            // It may have come at any time since the last command, which had to do without it; to count from there is to
            // count in executed actions, and not in the ticks of the loop.
            let missed = self.clock.now.unwrap_or_default();
            let took = missed.saturating_sub(asked.asked);
            // The first plan of a process also maps memory and starts threads.
            if asked.id > 1 {
                let forgotten = self.health.latency.saturating_sub(took) / FORGOTTEN;
                self.health.latency = took.max(self.health.latency.saturating_sub(forgotten));
            }
        }
        self.failed = match &request.failure {
            Some(Failure::Panicked { last: true, .. }) => Some(Reason::Panicked),
            _ => None,
        };
        let id = request.id;
        let verdict = match (&request.failure, chunk) {
            (_, Some(chunk)) => self.take_over(chunk),
            (failure, None) => {
                self.health.failed += 1;
                let reason = match failure {
                    Some(Failure::Unsafe(_) | Failure::Brake(_)) => Reason::Unsafe,
                    _ => Reason::NoPlan,
                };
                self.trouble = Some(reason);
                Verdict::None
            }
        };
        self.verdict = Some((id, verdict));
        self.free = Some(request);
    }

    fn take_over(&mut self, chunk: Arc<Chunk>) -> Verdict {
        let begun = self.clock.now.is_some();
        let (time, step) = (self.clock.time, self.clock.step);
        let seam = nanoseconds(self.layout.period, chunk.seam);
        let late = match chunk.trajectory.interpolation() {
            // The action of the hand-over's step may not have been given yet.
            Interpolation::Hold => begun && self.recorded.is_some_and(|last| last >= chunk.seam),
            _ => begun && time > seam,
        };
        if late {
            self.health.late += 1;
            self.trouble = Some(Reason::Late);
            return Verdict::Late {
                by: time.saturating_sub(seam),
            };
        }
        if chunk.base != self.chunk.id || !self.begins_with_what_was_executed(&chunk) {
            self.health.diverged += 1;
            self.trouble = Some(Reason::Diverged);
            return Verdict::Diverged;
        }
        self.health.adopted += 1;
        self.trouble = None;
        // The thread that made the old one still has it, and frees it when it hears of this.
        self.chunk = chunk;
        Verdict::Adopted { step }
    }

    /// Compares by count: the actions since the plan's observation, bit for bit; of a curve that was cut between two
    /// waypoints, which only braking is, up to rounding.
    fn begins_with_what_was_executed(&mut self, chunk: &Chunk) -> bool {
        let dof = self.layout.dof;
        let Some(newest) = self.recorded else {
            return true;
        };
        let actions = self.executed.chunks(dof).rev();
        for (back, executed) in actions.enumerate() {
            let step = newest.saturating_sub(back as u64);
            if step < chunk.first {
                break;
            }
            let at = nanoseconds(self.layout.period, step);
            chunk.trajectory.sample_into(at, &mut self.action);
            let rounding = match chunk.trajectory.interpolation() {
                Interpolation::Hold => 0.0,
                _ => ROUNDING,
            };
            let mut planned = self.action.position.iter().zip(executed);
            if !planned.all(|(a, b)| (a - b).abs() <= rounding * b.abs().max(1.0)) {
                return false;
            }
        }
        true
    }

    /// Goes on to `now`, and says what to ask the planner, if it is time to.
    pub(super) fn advance(
        &mut self,
        now: Duration,
        observation: &Observation,
        gone: Option<Reason>,
    ) -> Option<Box<Request>> {
        let (begins, stalled) = self.clock.advance(now);
        self.health.stalled += stalled;
        let age = now.checked_sub(observation.time());
        self.blind = age.is_none_or(|age| age > self.max_age);
        let hung = self
            .in_flight
            .is_some_and(|asked| now.saturating_sub(asked.asked) > self.patience);
        if let Some(reason) = gone {
            // What a thread said before it ended says more.
            self.failed.get_or_insert(reason);
        } else if hung {
            self.failed = Some(Reason::Hung);
        } else if self.failed == Some(Reason::Hung) {
            self.failed = None;
        }
        if begins {
            self.remember(observation);
        }
        let committed = self.committed();
        let due = self.clock.step + committed as u64 >= self.chunk.until;
        if !begins || !due || self.blind || self.failed.is_some() || self.in_flight.is_some() {
            return None;
        }
        let mut request = self.free.take()?;
        self.asked += 1;
        self.health.asked += 1;
        request.id = self.asked;
        request.step = self.clock.step;
        request.committed = committed;
        request.base = self.chunk.id;
        request.now = now;
        request.age = age.unwrap_or_default();
        request.seen = self.seen;
        for (to, from) in request.observations.iter_mut().zip(&self.observations) {
            to.clone_from(from);
        }
        request.executed.clear();
        request.executed.extend_from_slice(&self.executed);
        request.verdict = self.verdict.take();
        std::mem::swap(&mut request.changes, &mut self.changes);
        self.changes.clear();
        self.in_flight = Some(InFlight {
            id: request.id,
            asked: now,
        });
        Some(request)
    }

    /// How many actions must be committed for the next plan to be there in time.
    fn committed(&self) -> usize {
        let latency = self.health.latency.as_nanos();
        let steps = latency / self.layout.period.as_nanos() + u128::from(latency > 0);
        let steps = usize::try_from(steps).unwrap_or(usize::MAX);
        self.latency.max(steps).min(self.layout.actions - 1)
    }

    /// Keeps what is seen at the begin of a step.
    fn remember(&mut self, observation: &Observation) {
        if self.blind {
            return;
        }
        if self.seen == self.observations.len() {
            self.observations.rotate_left(1);
            self.seen -= 1;
        }
        let newest = &mut self.observations[self.seen];
        newest.clone_from(observation);
        newest.set_time(nanoseconds(self.layout.period, self.clock.step));
        self.seen += 1;
    }

    /// What to do now.
    pub(super) fn command(&mut self, now: Duration) -> Command<'_> {
        let period = self.layout.period;
        let at = match self.chunk.trajectory.interpolation() {
            Interpolation::Hold => nanoseconds(period, self.clock.step),
            _ => self.clock.time,
        };
        self.chunk.trajectory.sample_into(at, &mut self.state);
        // A held action is reached within a period; a curve moves on with its clock.
        let elapsed = match self.chunk.trajectory.interpolation() {
            Interpolation::Hold => period,
            _ => at.saturating_sub(self.given),
        };
        let verdict = self.safety.check_command(&self.state, &self.last, elapsed);
        let refused = verdict.is_err();
        if refused {
            self.health.refused += 1;
        } else {
            self.last.position.copy_from(&self.state.position);
            self.last.velocity.copy_from(&self.state.velocity);
            self.last.acceleration.copy_from(&self.state.acceleration);
        }
        self.given = at;
        self.astray = refused;
        self.record();
        let status = self.judge(at, refused);
        if status != self.status {
            if self.changes.len() < CHANGES {
                self.changes.push((now, status));
            }
            self.status = status;
        }
        Command {
            position: self.last.position.as_slice(),
            velocity: self.last.velocity.as_slice(),
            acceleration: self.last.acceleration.as_slice(),
            status,
            plan: self.chunk.id,
            step: self.clock.step,
        }
    }

    /// Notes the action of a step that begins.
    fn record(&mut self) {
        let step = self.clock.step;
        if self.recorded == Some(step) {
            return;
        }
        self.recorded = Some(step);
        let at = nanoseconds(self.layout.period, step);
        self.chunk.trajectory.sample_into(at, &mut self.action);
        if self.executed.len() == remembered(&self.layout) * self.layout.dof {
            self.executed.rotate_left(self.layout.dof);
            self.executed
                .truncate(self.executed.len() - self.layout.dof);
        }
        self.executed
            .extend_from_slice(self.action.position.as_slice());
    }

    fn judge(&self, at: Duration, refused: bool) -> Status {
        let trouble = self.trouble.unwrap_or(match self.chunk.id {
            0 => Reason::Starting,
            _ => Reason::Late,
        });
        if refused {
            Status::Failed(Reason::Command)
        } else if let Some(reason) = self.failed {
            Status::Failed(reason)
        } else if at >= self.chunk.end {
            Status::Holding(if self.blind {
                Reason::Observation
            } else {
                trouble
            })
        } else if self.blind {
            Status::Stale(Reason::Observation)
        } else if self.clock.step >= self.chunk.until {
            Status::Stale(trouble)
        } else {
            Status::Fresh
        }
    }
}
