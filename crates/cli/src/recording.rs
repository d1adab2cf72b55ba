//! Episodes as rerun recordings.

mod control_loop;
mod paths;
#[cfg(feature = "train")]
mod training;

use std::time::Duration;

use clearway_planner::Plan;
use clearway_sim::pusht;
use clearway_viz::rerun::blueprint::Blueprint;
use clearway_viz::rerun::{RecordingStream, Scalars};
use clearway_viz::{self as viz, colour, timeline};

pub(crate) use control_loop::LoopRecorder;
pub(crate) use paths::PathRecorder;
#[cfg(feature = "train")]
pub(crate) use training::{CurveRecorder, Point};

use crate::closed_loop::{self, Episode, Replan};
use crate::error::Error;

const APPLICATION: &str = "clearway_pusht";

/// A rerun recording that is open.
pub(crate) struct Recorder(RecordingStream);

impl Recorder {
    /// Opens a `.rrd` file, or connects to a viewer at a `rerun+http://` address: the one socket of this program.
    pub(crate) fn open(target: &str) -> Result<Self, Error> {
        Ok(Self(open(target, APPLICATION, viz::pusht_blueprint())?))
    }

    /// Logs episodes one after another on one time axis, and completes the recording.
    pub(crate) fn write(self, episodes: &[Episode]) -> Result<(), Error> {
        let Self(rec) = self;
        log_world(&rec)?;
        let mut clock = Clock::default();
        for episode in episodes {
            log_episode(&rec, episode, &mut clock)?;
        }
        rec.flush_blocking()
            .map_err(|error| Error::write("the recording".as_ref(), &error))
    }
}

/// Opens a `.rrd` file, or connects to a viewer at a `rerun+http://` address.
fn open(
    target: &str,
    application: &'static str,
    blueprint: Blueprint,
) -> Result<RecordingStream, Error> {
    Ok(if target.contains("://") {
        viz::connect(application, target, blueprint)?
    } else {
        viz::save(application, target, blueprint)?
    })
}

/// Steps and passes since the first episode of a recording.
#[derive(Default)]
struct Clock {
    step: usize,
    pass: i64,
}

impl Clock {
    fn set(&self, rec: &RecordingStream) {
        let time = closed_loop::period() * u32::try_from(self.step).unwrap_or(u32::MAX);
        rec.set_duration_secs(timeline::CONTROL, time.as_secs_f64());
        rec.set_time_sequence(timeline::STEP, i64::try_from(self.step).unwrap_or(i64::MAX));
        rec.set_time_sequence(timeline::DENOISING, self.pass);
    }
}

/// What does not move.
fn log_world(rec: &RecordingStream) -> Result<(), Error> {
    let [x, y, angle] = pusht::TARGET;
    let [low, high] = pusht::WALLS;
    rec.log_static("world/walls", &viz::walls([low, low], [high, high]))?;
    rec.log_static("world/goal", &viz::goal(&[pusht::SILHOUETTE]))?;
    rec.log_static("world/goal", &viz::pose([x, y], angle))?;
    rec.log_static("world/goal/outline", &viz::goal_outline(&pusht::SILHOUETTE))?;
    rec.log_static("world/block", &viz::block(&[pusht::SILHOUETTE]))?;
    rec.log_static(
        "metrics/score/coverage",
        &viz::series("coverage", colour::COVERAGE),
    )?;
    rec.log_static(
        "metrics/score/threshold",
        &viz::series("success", colour::REFERENCE),
    )?;
    rec.log_static(
        "metrics/latency/plan",
        &viz::events("latency", colour::PLAN),
    )?;
    rec.log_static(
        "metrics/latency/period",
        &viz::series("control period", colour::REFERENCE),
    )?;
    Ok(())
}

fn log_episode(rec: &RecordingStream, episode: &Episode, clock: &mut Clock) -> Result<(), Error> {
    let period = closed_loop::period().as_secs_f64() * 1e3;
    let mut replans = episode.replans.iter().enumerate().peekable();
    let mut trail = Vec::with_capacity(episode.observations.len());
    for (step, seen) in episode.observations.iter().enumerate() {
        let [agent_x, agent_y, x, y, angle] = seen.state();
        trail.push([agent_x, agent_y]);
        clock.set(rec);
        rec.log("world/block", &viz::pose([x, y], angle))?;
        rec.log(
            "world/agent",
            &viz::agent([agent_x, agent_y], pusht::AGENT_RADIUS),
        )?;
        rec.log("world/trail", &viz::trail(&trail))?;
        rec.log("metrics/score/coverage", &Scalars::single(seen.coverage))?;
        rec.log(
            "metrics/score/threshold",
            &Scalars::single(pusht::SUCCESS_COVERAGE),
        )?;
        rec.log("metrics/latency/period", &Scalars::single(period))?;
        while let Some((number, (_, replan))) =
            replans.next_if(|(_, (planned_at, _))| *planned_at == step)
        {
            log_replan(rec, episode, number, replan, clock)?;
        }
        clock.step += 1;
    }
    Ok(())
}

fn log_replan(
    rec: &RecordingStream,
    episode: &Episode,
    number: usize,
    replan: &Replan,
    clock: &mut Clock,
) -> Result<(), Error> {
    let Replan { plan, estimates } = replan;
    for (pass, estimate) in estimates.iter().enumerate() {
        clock.set(rec);
        clock.pass += 1;
        rec.log(
            "denoising/estimate",
            &viz::denoised(estimate, pass, estimates.len()),
        )?;
    }
    rec.log("denoising/steps", &viz::denoising(estimates))?;
    rec.log(
        "plan/candidates",
        &viz::candidates(&plan.candidates, Some(plan.chosen)),
    )?;
    rec.log(
        "metrics/latency/plan",
        &Scalars::single(milliseconds(plan.elapsed)),
    )?;
    let title = format!("plan {number} of episode {}", episode.seed);
    let facts = facts(plan);
    let facts: Vec<(&str, &str)> = facts
        .iter()
        .map(|(name, value)| (*name, value.as_str()))
        .collect();
    rec.log("decision", &viz::decision(&title, &facts))?;
    Ok(())
}

/// What is said of a plan.
fn facts(plan: &Plan) -> [(&'static str, String); 6] {
    let sampling = plan.sampling;
    [
        ("outcome", plan.outcome.to_string()),
        (
            "sampling",
            sampling.map_or_else(String::new, |sampling| sampling.to_string()),
        ),
        (
            "candidate",
            format!("{} of {}", plan.chosen + 1, plan.candidates.len()),
        ),
        ("latency", format!("{:.1} ms", milliseconds(plan.elapsed))),
        ("seed", plan.seed.to_string()),
        ("model", plan.model.chars().take(12).collect()),
    ]
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
