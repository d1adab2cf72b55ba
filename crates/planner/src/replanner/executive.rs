//! The control loop's side: what is executed, and when the next plan is asked for.
//!
//! Nothing here waits, locks or, after warm-up, allocates; and nothing is freed: what a plan was made of goes back to
//! the thread that made it.

use std::sync::Arc;
use std::time::Duration;

use clearway_motion::{Interpolation, Refusal, Safety, State, Trajectory};

use super::worker::{Failure, happened};
use super::{Command, Health, Layout, Reason, ReplannerError, Settings, Status};
use crate::Observation;
use crate::replanner::log::{Event, Verdict};

/// A loop that calls so much of a period early means the next step.
const EARLY: u32 = 8;
/// After so many plans that took less than the estimate, half of the difference is forgotten.
const FORGOTTEN: u32 = 8;
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
    /// Its actions, for the next plan to go on from; the trajectory also brakes.
    pub(super) actions: Option<Trajectory>,
    /// Whether it begins with standing where the robot stands, and not with the plan before.
    pub(super) rests: bool,
    /// When it was asked for, on the robot's clock as far as that went on.
    pub(super) asked: Duration,
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
            actions: None,
            rests: true,
            asked: Duration::ZERO,
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
    /// Where the robot stands, if the plan is to begin from there; then no action is committed, and the plan's first is
    /// that of the hand-over.
    pub(super) rests: bool,
    pub(super) stand: Vec<f64>,
    /// The robot's clock, and as far as it went on.
    pub(super) now: Duration,
    pub(super) asked: Duration,
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
            rests: false,
            stand: vec![0.0; layout.dof],
            now: Duration::ZERO,
            asked: Duration::ZERO,
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
    step: u64,
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
    /// The robot's time since the start, as far as its clock went on.
    total: Duration,
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
        self.total = self.total.saturating_add(now.saturating_sub(last));
        let time = now.saturating_sub(self.anchor).saturating_add(self.zero);
        let step = self.step_at(time);
        let skipped = step.saturating_sub(self.step + 1);
        // What was not executed is next, and not lost.
        let late = nanoseconds(self.period, skipped);
        self.anchor = self.anchor.saturating_add(late);
        self.time = time.saturating_sub(late).max(self.time);
        let begins = step > self.step;
        self.step += u64::from(begins);
        (begins, skipped)
    }

    fn step_at(&self, time: Duration) -> u64 {
        let time = time.saturating_add(self.period / EARLY);
        let step = time.as_nanos() / self.period.as_nanos();
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
    /// How many actions had to be executed without the plan that was asked for before them: the most of the last ones.
    needed: u64,
    /// How many plans in a row took less.
    quicker: u32,
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
    /// Whether a command was refused: the robot stands, until a plan from there takes over.
    stands: bool,
    refusal: Option<Refusal>,
    /// Whether all buffers have been used once.
    warm: bool,
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
                total: Duration::ZERO,
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
            needed: 0,
            quicker: 0,
            verdict: None,
            changes: Vec::with_capacity(CHANGES),
            trouble: None,
            failed: None,
            blind: false,
            status: Status::Holding(Reason::Starting),
            last: state.clone(),
            given: Duration::ZERO,
            stands: false,
            refusal: None,
            warm: false,
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

    pub(super) fn refusal(&self) -> Option<Refusal> {
        self.refusal
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
        self.in_flight = None;
        self.failed = None;
        self.trouble = None;
        if self.free.is_none() {
            self.free = Some(Box::new(Request::new(&self.layout)));
            self.warm = false;
        }
    }

    /// Takes an answer in, and the plan over if it still begins with what is executed.
    pub(super) fn receive(&mut self, reply: Reply) {
        let Reply { request, chunk } = reply;
        let Some(asked) = self.in_flight.take_if(|asked| asked.id == request.id) else {
            // Of a planner that was given up.
            return;
        };
        // The first plan of a process also maps memory and starts threads.
        if asked.id > 1 {
            self.learn(asked);
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

    /// Learns from an answer how long answers take: in executed actions, for a plan is late by those and not by a clock.
    fn learn(&mut self, asked: InFlight) {
        let began = nanoseconds(self.layout.period, asked.step);
        let needed = match (self.recorded, self.chunk.trajectory.interpolation()) {
            (None, _) => 0,
            // The action of the hand-over's own step must not have been given yet.
            (Some(last), Interpolation::Hold) => (last + 1).saturating_sub(asked.step),
            (Some(_), _) => {
                let after = self.given.saturating_sub(began).as_nanos();
                let steps = after.div_ceil(self.layout.period.as_nanos());
                u64::try_from(steps).unwrap_or(u64::MAX)
            }
        };
        self.quicker += 1;
        if needed >= self.needed {
            (self.needed, self.quicker) = (needed, 0);
        } else if self.quicker == FORGOTTEN {
            self.quicker = 0;
            self.needed -= (self.needed - needed).div_ceil(2);
        }
        // It may have come at any time since the last command, which had to do without it.
        let took = self.clock.total.saturating_sub(asked.asked);
        let forgotten = self.health.latency.saturating_sub(took) / FORGOTTEN;
        self.health.latency = took.max(self.health.latency.saturating_sub(forgotten));
    }

    fn take_over(&mut self, chunk: Arc<Chunk>) -> Verdict {
        let step = self.clock.step;
        let seam = nanoseconds(self.layout.period, chunk.seam);
        let late = match (self.recorded, chunk.trajectory.interpolation()) {
            (None, _) => false,
            (Some(last), Interpolation::Hold) => last >= chunk.seam,
            (Some(_), _) => self.given > seam,
        };
        if late {
            self.health.late += 1;
            self.trouble = Some(Reason::Late);
            return Verdict::Late {
                by: self.clock.time.saturating_sub(seam),
            };
        }
        let goes_on = chunk.base == self.chunk.id && (chunk.rests || !self.stands);
        if !goes_on || !self.begins_with_what_was_executed(&chunk) {
            self.health.diverged += 1;
            self.trouble = Some(Reason::Diverged);
            return Verdict::Diverged;
        }
        self.health.adopted += 1;
        self.trouble = None;
        self.stands = false;
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
        // Two clocks of one robot differ a little: what is of the future by less than a period is of now.
        let future = observation.time().saturating_sub(now);
        let age = now.saturating_sub(observation.time());
        self.blind = age > self.max_age || future > self.layout.period;
        let total = self.clock.total;
        let hung = self
            .in_flight
            .is_some_and(|asked| total.saturating_sub(asked.asked) > self.patience);
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
        let (committed, rests) = self.committed();
        let due =
            self.clock.step + committed as u64 >= self.chunk.until || self.stands || self.stalled();
        if !begins || !due || self.blind || self.failed.is_some() || self.in_flight.is_some() {
            return None;
        }
        let mut request = self.free.take()?;
        self.asked += 1;
        self.health.asked += 1;
        request.id = self.asked;
        request.step = self.clock.step;
        request.committed = committed;
        request.rests = rests;
        request.stand.clear();
        request
            .stand
            .extend_from_slice(self.last.position.as_slice());
        request.base = self.chunk.id;
        request.now = now;
        request.asked = total;
        request.age = age;
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
            step: request.step,
            asked: total,
        });
        Some(request)
    }

    /// How many actions must be committed for the next plan to be there in time, and whether it begins from rest.
    ///
    /// A planner that takes longer than its plans last is of use only to a robot that stands: its plans then begin when
    /// they are there.
    fn committed(&self) -> (usize, bool) {
        let needed = usize::try_from(self.needed).unwrap_or(usize::MAX);
        let committed = self.latency.max(needed);
        let most = self.layout.actions - self.own();
        let resting = self.stands || self.clock.time >= self.chunk.end;
        if self.stands || (resting && committed > most) {
            return (committed, true);
        }
        (committed.min(most), false)
    }

    /// The least actions that a plan must have of its own: of a curve, which is known at the hand-over too, one more.
    fn own(&self) -> usize {
        match self.chunk.trajectory.interpolation() {
            Interpolation::Hold => 1,
            _ => 2,
        }
    }

    /// Whether the loop was away for so long that the plan, which it goes on with, is too old.
    fn stalled(&self) -> bool {
        let begun = nanoseconds(self.layout.period, self.chunk.first);
        let passed = self.clock.total.saturating_sub(self.chunk.asked);
        let executed = self.clock.time.saturating_sub(begun);
        self.chunk.id > 0 && passed.saturating_sub(executed) > self.max_age
    }

    /// Keeps what is seen at the begin of a step.
    fn remember(&mut self, observation: &Observation) {
        if !self.warm
            && let Some(request) = &mut self.free
        {
            // Every buffer gets the sizes of what is seen, so that none has to grow later.
            let buffers = request.observations.iter_mut();
            let own = self.observations.iter_mut().skip(self.seen);
            buffers
                .chain(own)
                .for_each(|buffer| buffer.clone_from(observation));
            self.warm = true;
        }
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
        if !self.stands {
            self.chunk.trajectory.sample_into(at, &mut self.state);
            // A held action is reached within a period; a curve moves on with its clock.
            let elapsed = match self.chunk.trajectory.interpolation() {
                Interpolation::Hold => period,
                _ => at.saturating_sub(self.given),
            };
            let verdict = self.safety.check_command(&self.state, &self.last, elapsed);
            match verdict {
                Ok(()) => self.last.copy_from(&self.state),
                Err(refusal) => {
                    self.health.refused += 1;
                    self.refusal = Some(refusal);
                    self.stands = true;
                    self.last.velocity.fill(0.0);
                    self.last.acceleration.fill(0.0);
                }
            }
        }
        self.given = at;
        self.record();
        let status = self.judge(at);
        if status != self.status {
            if self.changes.len() < CHANGES {
                self.changes.push((now, status));
            } else {
                self.health.unlogged += 1;
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

    /// Notes the action of a step that begins, as it was executed.
    fn record(&mut self) {
        let step = self.clock.step;
        if self.recorded == Some(step) {
            return;
        }
        self.recorded = Some(step);
        if self.stands {
            self.action.copy_from(&self.last);
        } else {
            let at = nanoseconds(self.layout.period, step);
            self.chunk.trajectory.sample_into(at, &mut self.action);
        }
        if self.executed.len() == remembered(&self.layout) * self.layout.dof {
            self.executed.rotate_left(self.layout.dof);
            self.executed
                .truncate(self.executed.len() - self.layout.dof);
        }
        self.executed
            .extend_from_slice(self.action.position.as_slice());
    }

    fn judge(&self, at: Duration) -> Status {
        let trouble = self.trouble.unwrap_or(match self.chunk.id {
            0 => Reason::Starting,
            _ => Reason::Late,
        });
        if let Some(reason) = self.failed {
            Status::Failed(reason)
        } else if self.stands {
            Status::Holding(Reason::Command)
        } else if at >= self.chunk.end {
            Status::Holding(if self.blind {
                Reason::Observation
            } else {
                trouble
            })
        } else if self.blind {
            Status::Stale(Reason::Observation)
        } else if self.stalled() {
            Status::Stale(Reason::Stalled)
        } else if self.clock.step >= self.chunk.until {
            Status::Stale(trouble)
        } else {
            Status::Fresh
        }
    }
}

#[cfg(test)]
mod tests {
    use clearway_motion::Limits;
    use ndarray::Array2;

    use super::*;
    use crate::replanner::Horizon;

    const PERIOD: Duration = Duration::from_millis(100);

    fn executive() -> Executive {
        let layout = Layout {
            dof: 1,
            actions: 8,
            period: PERIOD,
            observations: 2,
        };
        let limits = Limits::unlimited(1)
            .with_velocity(&[1.0])
            .expect("a velocity");
        let settings = Settings::new(Horizon {
            execute: 4,
            latency: 1,
        })
        .with_limits(limits);
        Executive::new(layout, &settings, &[0.5]).expect("the settings fit")
    }

    /// A tick of a period: what is asked, and what is commanded.
    fn tick(executive: &mut Executive, number: u32) -> (Option<Box<Request>>, f64, Status) {
        let now = PERIOD * number;
        let seen = Observation::new(now).with("observation.state", [0.5]);
        let request = executive.advance(now, &seen, None);
        let command = executive.command(now);
        (request, command.position[0], command.status)
    }

    /// An answer: the start, held, and after the hand-over these.
    fn reply(request: Box<Request>, base: u64, first: f64, own: [f64; 3]) -> Reply {
        let mut positions = vec![first; request.committed];
        positions.extend(own);
        let rows = positions.len();
        let positions = Array2::from_shape_vec([rows, 1], positions).expect("one column");
        let start = nanoseconds(PERIOD, request.step);
        let hold = Interpolation::Hold;
        let trajectory = Trajectory::uniform(start, PERIOD, positions, hold).expect("finite");
        let chunk = Chunk {
            id: request.id,
            base,
            first: request.step,
            seam: request.step + request.committed as u64,
            until: request.step + 4,
            actions: Some(trajectory.clone()),
            rests: request.rests,
            asked: request.asked,
            end: nanoseconds(PERIOD, request.step + rows as u64),
            trajectory,
        };
        Reply {
            request,
            chunk: Some(Arc::new(chunk)),
        }
    }

    #[test]
    fn a_plan_that_does_not_begin_with_what_was_executed_is_dropped() {
        // It goes on from a plan that is not executed; or it begins elsewhere.
        for (base, first) in [(7, 0.5), (0, 0.51)] {
            let mut executive = executive();
            let (request, _, _) = tick(&mut executive, 0);
            let request = request.expect("the first plan is asked for");
            executive.receive(reply(request, base, first, [0.55, 0.6, 0.65]));
            assert_eq!(executive.verdict, Some((1, Verdict::Diverged)));
            assert_eq!(executive.health.diverged, 1);
            let (again, position, status) = tick(&mut executive, 1);
            assert!((position - 0.5).abs() <= 0.0);
            assert_eq!(status, Status::Holding(Reason::Diverged));
            assert_eq!(again.expect("it is asked again").id, 2);
        }
    }

    #[test]
    fn a_command_that_fails_its_check_leaves_the_robot_standing() {
        let mut executive = executive();
        let (request, _, _) = tick(&mut executive, 0);
        let request = request.expect("the first plan is asked for");
        // Half a metre in a tenth of a second, which no worker would let pass.
        executive.receive(reply(request, 0, 0.5, [0.55, 1.05, 1.06]));
        let (_, position, status) = tick(&mut executive, 1);
        assert!((position - 0.55).abs() <= 0.0);
        assert_eq!(status, Status::Fresh);
        let (request, position, status) = tick(&mut executive, 2);
        assert!((position - 0.55).abs() <= 0.0);
        assert_eq!(status, Status::Holding(Reason::Command));
        assert!(matches!(executive.refusal(), Some(Refusal::Step { .. })));
        assert_eq!(executive.health.refused, 1);
        assert!(executive.last.velocity.iter().all(|v| v.abs() <= 0.0));
        // It stands, though the plan would be near again; and is asked for a plan from there.
        assert!(request.is_none(), "it is asked in the step that begins");
        let (request, position, _) = tick(&mut executive, 3);
        assert!((position - 0.55).abs() <= 0.0);
        let request = request.expect("a plan from where it stands");
        assert!(request.rests);
        assert_eq!(request.stand, [0.55]);
        // What was executed is what it is told, and not what was planned.
        assert_eq!(request.executed, [0.5, 0.55, 0.55]);
        let base = request.base;
        executive.receive(reply(request, base, 0.55, [0.6, 0.65, 0.7]));
        let (_, position, status) = tick(&mut executive, 4);
        assert!((position - 0.6).abs() <= 0.0);
        assert_eq!(status, Status::Fresh);
        // And one that does not begin there is of no use to a robot that stands.
        assert_eq!(executive.health.refused, 1);
    }
}
