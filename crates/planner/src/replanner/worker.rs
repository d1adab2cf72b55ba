//! The planner's side: from a request to a plan that may be executed.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use clearway_motion::{
    BrakeError, Candidate, Interpolation, Limits, Safety, Trajectory, TrajectoryError, Unsafe,
    Verified,
};
use ndarray::{Array2, Axis, Slice};

use super::executive::{Chunk, Reply, Request, nanoseconds};
use super::log::{Decision, Event, Made, Verdict};
use super::{Layout, Plans, Settings, Status};
use crate::{Budget, History, HistoryError, Observation, PlanError};

/// Of the time that is committed, what a plan may take unless the settings say otherwise: the rest is for the way.
const SHARE_OF_COMMITTED: f64 = 0.9;

/// Why a request was answered without a plan that can be executed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Failure {
    /// There is no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// The observations are none to plan from.
    #[error(transparent)]
    Observations(#[from] HistoryError),
    /// The plan with what is committed is no trajectory.
    #[error("the plan is no trajectory: {0}")]
    Trajectory(#[from] TrajectoryError),
    /// The plan is not what the planner's layout says.
    #[error(
        "the plan has {actions} actions of {dof} coordinates; {expected_actions} of {expected_dof} were promised"
    )]
    Layout {
        /// What it has.
        actions: usize,
        /// What it has.
        dof: usize,
        /// What the layout says.
        expected_actions: usize,
        /// What the layout says.
        expected_dof: usize,
    },
    /// The plan cannot come to rest.
    #[error("the plan cannot come to rest: {0}")]
    Brake(#[from] BrakeError),
    /// The plan, from its hand-over to rest, does not pass the safety check.
    #[error("the plan is not safe: {0}")]
    Unsafe(#[from] Unsafe),
    /// The planner panicked.
    #[error("the planner panicked: {message}")]
    Panicked {
        /// What it said.
        message: String,
        /// Whether it is not asked again.
        last: bool,
    },
}

/// Answers requests.
pub(super) struct Worker {
    plans: Arc<dyn Plans>,
    settings: Arc<Settings>,
    layout: Layout,
    safety: Safety,
    /// Plans that the control loop may still hold: whoever lets go last frees, and that is to be here.
    recent: Vec<Arc<Chunk>>,
    panics: u64,
    deadlines: bool,
}

impl Worker {
    pub(super) fn new(
        layout: Layout,
        plans: Arc<dyn Plans>,
        settings: Arc<Settings>,
        current: Arc<Chunk>,
    ) -> Self {
        Self {
            safety: settings.safety(layout.dof),
            layout,
            plans,
            settings,
            recent: vec![current],
            panics: 0,
            deadlines: true,
        }
    }

    /// For a simulation, whose clock stands still while it plans.
    pub(super) fn without_deadline(self) -> Self {
        Self {
            deadlines: false,
            ..self
        }
    }

    /// What a thread does first.
    pub(super) fn begin(&self) {
        self.settings.begin();
    }

    /// Answers a request, and says what is to be noted of it: when the answer is on its way.
    pub(super) fn answer(&mut self, mut request: Box<Request>) -> (Reply, Vec<Event>) {
        let begun = Instant::now();
        let span = tracing::info_span!("replan", plan = request.id, step = request.step);
        let _entered = span.enter();
        let mut events = happened(request.verdict, &request.changes);
        // The control loop has the one that it goes on from, and no other any more.
        self.recent.retain(|chunk| chunk.id == request.base);

        let mut decision = None;
        let made = catch_unwind(AssertUnwindSafe(|| {
            self.make(&request, begun, &mut decision)
        }));
        let result = made.unwrap_or_else(|panic| {
            self.panics += 1;
            Err(Failure::Panicked {
                message: message(&*panic),
                last: self.panics > self.settings.restarts(),
            })
        });
        let (chunk, made) = match result {
            Ok((chunk, made)) => {
                let chunk = Arc::new(chunk);
                self.recent.push(Arc::clone(&chunk));
                request.failure = None;
                (Some(chunk), Ok(made))
            }
            Err(failure) => {
                tracing::warn!(%failure, "no plan");
                request.failure = Some(failure.clone());
                (None, Err(failure))
            }
        };
        // Without observations that are some there was nothing to decide; why is in the failure.
        if let Some(mut decision) = decision {
            decision.result = made;
            decision.elapsed = begun.elapsed();
            events.push(Event::Decision(Box::new(decision)));
        }
        (Reply { request, chunk }, events)
    }

    fn make(
        &self,
        request: &Request,
        begun: Instant,
        noted: &mut Option<Decision>,
    ) -> Result<(Chunk, Made), Failure> {
        let base = self.recent.first();
        let base = base.expect("the control loop executes one");
        let decision = noted.insert(self.decision(request, base)?);
        self.plan(request, base, decision, begun)
    }

    /// What is to be decided.
    fn decision(&self, request: &Request, base: &Chunk) -> Result<Decision, Failure> {
        // Its buffers go back to the control loop, and a log may keep what it gets: nothing is shared between the two.
        let seen = request.observations.iter().take(request.seen);
        let observations = History::new(seen.map(Observation::detached).collect())?;
        let committed = self
            .settings
            .pinned()
            .then(|| self.committed(request, base));
        Ok(Decision {
            plan: request.id,
            step: request.step,
            asked: request.now,
            age: request.age,
            seed: mix(self.settings.seed(), request.id),
            latency: request.committed,
            budget: self.budget(request),
            observations,
            committed: committed.transpose()?,
            previous: base.actions.clone().filter(|_| !request.rests),
            overlap: self.settings.overlap(&self.layout),
            limits: self.limits().cloned(),
            result: Err(Failure::Plan(PlanError::Observation(
                crate::ObservationError::Empty,
            ))),
            elapsed: Duration::ZERO,
        })
    }

    /// What the planner is to keep by itself. Held actions are what it judges; a curve through them is judged here.
    fn limits(&self) -> Option<&Limits> {
        let held = self.settings.interpolation() == Interpolation::Hold;
        self.settings.limits().filter(|_| held)
    }

    /// What was executed up to now, and what will be while this is planned.
    fn committed(&self, request: &Request, base: &Chunk) -> Result<Trajectory, TrajectoryError> {
        let dof = self.layout.dof;
        let past = request.executed.len() / dof;
        let first = request.step - past as u64;
        // A plan that begins from rest begins with its own first action.
        let known = if request.rests {
            0
        } else {
            self.pinned(request.committed)
        };
        let end = request.step + known as u64;
        let mut positions = request.executed.clone();
        for step in request.step..end {
            let at = nanoseconds(self.layout.period, step);
            let state = base.trajectory.sample(at).expect("it has a waypoint");
            positions.extend(state.position.iter());
        }
        let rows = (end - first) as usize;
        let positions = Array2::from_shape_vec([rows, dof], positions).expect("whole rows");
        let times = (first..end).map(|step| nanoseconds(self.layout.period, step));
        Trajectory::new(times.collect(), positions, Interpolation::Hold)
    }

    /// How many waypoints from the request's step on are known: a held action up to the hand-over, a curve at it too.
    fn pinned(&self, committed: usize) -> usize {
        match self.settings.interpolation() {
            Interpolation::Hold => committed,
            _ => committed + 1,
        }
    }

    /// The time for a plan.
    fn budget(&self, request: &Request) -> Option<Duration> {
        let committed = nanoseconds(self.layout.period, request.committed as u64);
        let budget = self.settings.budget();
        let budget = budget.unwrap_or_else(|| committed.mul_f64(SHARE_OF_COMMITTED));
        self.deadlines.then_some(budget)
    }

    fn plan(
        &self,
        request: &Request,
        base: &Chunk,
        decision: &Decision,
        begun: Instant,
    ) -> Result<(Chunk, Made), Failure> {
        let budget = Budget {
            deadline: decision.budget.and_then(|time| begun.checked_add(time)),
            passes: None,
        };
        let plan = self
            .plans
            .plan(&decision.problem(), budget, decision.seed)?;
        // The planner's own choice first; it knows nothing of what else is checked here.
        let others = (0..plan.candidates.len()).filter(|other| *other != plan.chosen);
        let mut refused = None;
        for candidate in std::iter::once(plan.chosen).chain(others) {
            let actions = if candidate == plan.chosen {
                &plan.trajectory
            } else {
                &plan.candidates[candidate]
            };
            match self.execute(request, base, decision, actions) {
                Ok((trajectory, verified)) => {
                    let chunk = self.chunk(request, base, &trajectory);
                    let made = Made {
                        seam: chunk.seam,
                        until: chunk.until,
                        candidate,
                        plan,
                        trajectory,
                        verified,
                    };
                    return Ok((chunk, made));
                }
                Err(failure) => {
                    refused.get_or_insert(failure);
                }
            }
        }
        Err(refused.expect("a plan has a candidate"))
    }

    /// What would be executed of a candidate, if it is safe.
    fn execute(
        &self,
        request: &Request,
        base: &Chunk,
        decision: &Decision,
        actions: &Trajectory,
    ) -> Result<(Trajectory, Verified), Failure> {
        if actions.len() != self.layout.actions || actions.dof() != self.layout.dof {
            return Err(Failure::Layout {
                actions: actions.len(),
                dof: actions.dof(),
                expected_actions: self.layout.actions,
                expected_dof: self.layout.dof,
            });
        }
        let trajectory = if request.rests {
            self.out_of_rest(request, actions)?
        } else {
            self.hand_over(request, base, actions)?
        };
        // How fast a held action is reached is judged from the one that was executed before it.
        let last = request.executed.chunks(self.layout.dof).next_back();
        let before = match (self.settings.interpolation(), last) {
            (Interpolation::Hold, Some(last)) => Some(self.held(request.step - 1, last)?),
            _ => None,
        };
        let judged = match before {
            Some(before) => before.joined(&trajectory)?,
            None => trajectory.clone(),
        };
        let now = nanoseconds(self.layout.period, request.step);
        let newest = decision.observations.newest();
        let position = self.settings.position();
        let verified = self.safety.check(&Candidate {
            trajectory: &judged,
            now,
            // What was seen before the plans' clock began has no time on it, and is refused where age matters.
            observed_at: now.checked_sub(request.age),
            position: position.and_then(|feature| newest?.get(feature)),
        })?;
        Ok((trajectory, verified))
    }

    /// One held action.
    fn held(&self, step: u64, position: &[f64]) -> Result<Trajectory, TrajectoryError> {
        let at = nanoseconds(self.layout.period, step);
        let row = Array2::from_shape_vec([1, self.layout.dof], position.to_vec());
        Trajectory::new(
            vec![at],
            row.expect("one row"),
            self.settings.interpolation(),
        )
    }

    fn chunk(&self, request: &Request, base: &Chunk, trajectory: &Trajectory) -> Chunk {
        let seam = request.step + request.committed as u64;
        let curve = usize::from(trajectory.interpolation() != Interpolation::Hold);
        // What a plan has of its own, and where it ends.
        let (own, last) = if request.rests {
            (self.layout.actions - curve, seam)
        } else {
            let committed = request.committed + curve;
            (self.layout.actions.saturating_sub(committed), request.step)
        };
        let own = own.min(self.settings.horizon().execute);
        let end = match trajectory.interpolation() {
            // The last action stands for a period too.
            Interpolation::Hold => {
                nanoseconds(self.layout.period, last + self.layout.actions as u64)
            }
            _ => trajectory.times().last().copied().unwrap_or_default(),
        };
        // Without the braking: what the next plan is drawn towards.
        let actions_end = nanoseconds(self.layout.period, last + self.layout.actions as u64);
        let actions = trajectory
            .times()
            .partition_point(|&time| time < actions_end);
        Chunk {
            id: request.id,
            base: base.id,
            first: request.step,
            seam,
            until: seam + own as u64,
            actions: Some(trajectory.prefix(actions)),
            trajectory: trajectory.clone(),
            rests: request.rests,
            asked: request.asked,
            end,
        }
    }

    /// A plan that begins when it is there: the robot stands until then.
    fn out_of_rest(&self, request: &Request, actions: &Trajectory) -> Result<Trajectory, Failure> {
        let at = |step| nanoseconds(self.layout.period, step);
        let seam = request.step + request.committed as u64;
        let standing = self.held(request.step, &request.stand)?;
        let held = self.settings.interpolation() == Interpolation::Hold;
        // A curve begins where the robot stands, in place of its first action.
        let first = usize::from(!held);
        let rows = first..actions.len();
        let times: Vec<Duration> = rows.map(|row| at(seam + row as u64)).collect();
        let own = Slice::from(first..);
        let positions = actions.positions().slice_axis(Axis(0), own).to_owned();
        if held {
            let own = Trajectory::new(times, positions, Interpolation::Hold)?;
            let mut before = match request.committed {
                0 => return Ok(own),
                _ => standing,
            };
            // How fast the first action is reached is judged over one period.
            if request.committed > 1 {
                before = before.joined(&self.held(seam - 1, &request.stand)?)?;
            }
            return Ok(before.joined(&own)?);
        }
        let limits = self.settings.limits().expect("checked at the start");
        Ok(standing
            .hand_over(at(seam), &times, &positions)?
            .with_braking(limits)?)
    }

    /// The plan from what is executed up to the hand-over, from there on its own, and at the end to rest.
    fn hand_over(
        &self,
        request: &Request,
        base: &Chunk,
        actions: &Trajectory,
    ) -> Result<Trajectory, Failure> {
        let at = |step| nanoseconds(self.layout.period, step);
        let known = self.pinned(request.committed).min(actions.len());
        let first = match self.settings.interpolation() {
            // Every held action is a waypoint of its own: how fast it is reached is judged over one period.
            Interpolation::Hold => 0,
            _ => known,
        };
        let times: Vec<Duration> = (first..actions.len())
            .map(|row| at(request.step + row as u64))
            .collect();
        let own = Slice::from(first..);
        let mut positions = actions.positions().slice_axis(Axis(0), own).to_owned();
        if self.settings.interpolation() == Interpolation::Hold {
            let rows = positions.rows_mut().into_iter().zip(&times);
            for (mut row, &time) in rows.take(known) {
                let state = base.trajectory.sample(time).expect("it has a waypoint");
                for (to, from) in row.iter_mut().zip(state.position.iter()) {
                    *to = *from;
                }
            }
            return Ok(Trajectory::new(times, positions, Interpolation::Hold)?);
        }
        // A loop that calls early may still ask for what was a moment before this step.
        let before = at(request.step.saturating_sub(1));
        let begun = base.trajectory.times();
        let begun = begun.partition_point(|&time| time <= before);
        let running = base.trajectory.after(begun.saturating_sub(1));
        let seam = at(request.step + request.committed as u64);
        let limits = self.settings.limits().expect("checked at the start");
        Ok(running
            .hand_over(seam, &times, &positions)?
            .with_braking(limits)?)
    }

    /// Writes events to the log, if there is one.
    pub(super) fn note(&self, events: &[Event]) {
        self.settings.note(events);
    }
}

/// What became of the last plan, and of the status since.
pub(super) fn happened(
    verdict: Option<(u64, Verdict)>,
    changes: &[(Duration, Status)],
) -> Vec<Event> {
    let verdict = verdict.map(|(plan, verdict)| Event::Verdict { plan, verdict });
    let changes = changes.iter();
    let changes = changes.map(|&(now, status)| Event::Status { now, status });
    verdict.into_iter().chain(changes).collect()
}

/// What a panic said.
fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "it does not say why".to_owned())
}

/// A seed for each plan: SplitMix64's `number`th output from `seed`, since seeds that are counted up would meet.
///
/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators", 2014, figure 12.
fn mix(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plans_seed_is_splitmixs_output() {
        // The first three outputs of the reference implementation from seed 1234567.
        let outputs = [1, 2, 3].map(|number| mix(1_234_567, number));
        assert_eq!(
            outputs,
            [
                6_457_827_717_110_365_317,
                3_203_168_211_198_807_973,
                9_817_491_932_198_370_423
            ]
        );
    }
}
