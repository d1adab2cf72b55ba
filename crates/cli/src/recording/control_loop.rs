//! A control loop as a rerun recording.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clearway_planner::replanner::log::{Decision, Event, Log, Made, Verdict};
use clearway_planner::{Plan, Status};
use clearway_sim::pusht;
use clearway_viz::rerun::{RecordingStream, Scalars, StateChange};
use clearway_viz::{self as viz, colour, timeline};

use super::{APPLICATION, facts, log_world, milliseconds};
use crate::closed_loop::period;
use crate::error::Error;

/// What a status can be, and its colour.
const STATUSES: [(&str, viz::rerun::Color); 4] = [
    ("fresh", colour::FRESH),
    ("stale", colour::STALE),
    ("holding", colour::HOLDING),
    ("failed", colour::FAILED),
];
const VERDICTS: [(&str, viz::rerun::Color); 4] = [
    ("adopted", colour::FRESH),
    ("late", colour::STALE),
    ("diverged", colour::FAILED),
    ("none", colour::FAILED),
];

/// A recording of a control loop that is open; a clone writes into the same one.
#[derive(Clone)]
pub(crate) struct LoopRecorder {
    rec: RecordingStream,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    trail: Vec<[f64; 2]>,
    /// Why the first thing is not recorded that is not.
    failure: Option<Error>,
}

impl LoopRecorder {
    /// Opens a `.rrd` file, or connects to a viewer.
    pub(crate) fn open(target: &str) -> Result<Self, Error> {
        let rec = super::open(target, APPLICATION, viz::control_loop_blueprint())?;
        set_time(&rec, Duration::ZERO);
        log_world(&rec)?;
        let committed = viz::series("committed", colour::COMMITTED);
        rec.log_static("metrics/latency/committed", &committed)?;
        rec.log_static("loop/status", &viz::states(STATUSES))?;
        rec.log_static("loop/verdict", &viz::states(VERDICTS))?;
        let recorder = Self {
            rec,
            shared: Arc::default(),
        };
        Ok(recorder)
    }

    /// Another episode: the agent has been nowhere yet.
    pub(crate) fn begin(&self, now: Duration) -> Result<(), Error> {
        self.lock().trail.clear();
        set_time(&self.rec, now);
        // What a loop begins with is no change, and not noted.
        self.rec
            .log("loop/status", &StateChange::single("holding"))?;
        Ok(())
    }

    /// The world at `now`.
    pub(crate) fn world(&self, now: Duration, seen: &pusht::Observation) -> Result<(), Error> {
        let rec = &self.rec;
        let [agent_x, agent_y, x, y, angle] = seen.state();
        set_time(rec, now);
        let mut shared = self.lock();
        shared.trail.push([agent_x, agent_y]);
        rec.log("world/block", &viz::pose([x, y], angle))?;
        let agent = viz::agent([agent_x, agent_y], pusht::AGENT_RADIUS);
        rec.log("world/agent", &agent)?;
        rec.log("world/trail", &viz::trail(&shared.trail))?;
        rec.log("metrics/score/coverage", &Scalars::single(seen.coverage))?;
        let threshold = Scalars::single(pusht::SUCCESS_COVERAGE);
        rec.log("metrics/score/threshold", &threshold)?;
        Ok(())
    }

    /// Completes the recording.
    pub(crate) fn finish(self) -> Result<(), Error> {
        if let Some(error) = self.lock().failure.take() {
            return Err(error);
        }
        self.rec
            .flush_blocking()
            .map_err(|error| Error::write("the recording".as_ref(), &error))
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn event(&self, event: &Event) -> Result<(), Error> {
        match event {
            Event::Decision(decision) => self.decision(decision),
            Event::Verdict { verdict, .. } => {
                let state = match verdict {
                    Verdict::Adopted { .. } => "adopted",
                    Verdict::Late { .. } => "late",
                    Verdict::Diverged => "diverged",
                    _ => "none",
                };
                // It has no time of its own: it is that of the event before.
                self.rec.log("loop/verdict", &StateChange::single(state))?;
                Ok(())
            }
            Event::Status { now, status } => {
                set_time(&self.rec, *now);
                let state = match status {
                    Status::Fresh => "fresh",
                    Status::Stale(_) => "stale",
                    Status::Holding(_) => "holding",
                    Status::Failed(_) => "failed",
                };
                self.rec.log("loop/status", &StateChange::single(state))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn decision(&self, decision: &Decision) -> Result<(), Error> {
        let rec = &self.rec;
        set_time(rec, decision.asked);
        let latency = Scalars::single(milliseconds(decision.elapsed));
        rec.log("metrics/latency/plan", &latency)?;
        let title = format!("plan {}, step {}", decision.plan, decision.step);
        match &decision.result {
            Ok(made) => {
                self.made(decision, made)?;
                let hand_over = format!("step {}, until step {}", made.seam, made.until);
                let mut all = vec![("hand-over", hand_over)];
                all.extend(facts(&made.plan));
                let all: Vec<(&str, &str)> =
                    all.iter().map(|(name, fact)| (*name, &**fact)).collect();
                rec.log("decision", &viz::decision(&title, &all))?;
            }
            Err(failure) => {
                let failure = failure.to_string();
                rec.log("decision", &viz::decision(&title, &[("no plan", &failure)]))?;
            }
        }
        Ok(())
    }

    fn made(&self, decision: &Decision, made: &Made) -> Result<(), Error> {
        let Made {
            plan, trajectory, ..
        } = made;
        let waypoint =
            |step: u64| usize::try_from(step.saturating_sub(decision.step)).unwrap_or(usize::MAX);
        let (seam, until) = (waypoint(made.seam), waypoint(made.until));
        let committed = period() * u32::try_from(seam).unwrap_or(u32::MAX);
        let committed = Scalars::single(milliseconds(committed));
        self.rec.log("metrics/latency/committed", &committed)?;
        let Plan { candidates, .. } = plan;
        // The chosen one is drawn as what is executed of it.
        self.rec
            .log("plan/candidates", &viz::candidates(candidates, None))?;
        self.rec
            .log("plan/chunk", &viz::chunk(trajectory, seam, until))?;
        self.rec
            .log("plan/hand_over", &viz::hand_over(trajectory, seam))?;
        Ok(())
    }
}

impl Log for LoopRecorder {
    fn note(&mut self, event: &Event) {
        if let Err(error) = self.event(event) {
            self.lock().failure.get_or_insert(error);
        }
    }
}

fn set_time(rec: &RecordingStream, now: Duration) {
    rec.set_duration_secs(timeline::CONTROL, now.as_secs_f64());
    let step = (now.as_secs_f64() / period().as_secs_f64()).round();
    rec.set_time_sequence(timeline::STEP, step as i64);
}
