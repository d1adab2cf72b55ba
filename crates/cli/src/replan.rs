//! `clearway sim replan`: plans that overlap, in PushT.

use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clearway_log::McapLog;
use clearway_planner::replanner::log::{Event, Log};
use clearway_planner::{
    Budget, Horizon, Layout, Plan, PlanError, Planner, Plans, Problem, Replanner, Settings,
};
use clearway_sim::{PushT, pusht};
use serde::Serialize;

use crate::closed_loop::{Sight, period};
use crate::error::{Error, check_writable, write_json};
use crate::output::say;
#[cfg(feature = "rerun")]
use crate::recording::LoopRecorder;
use crate::sim::progress;
use crate::{Verdict, precision, sampling, statistics};

/// The arguments of `clearway sim replan`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Episodes to run
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    episodes: u32,
    /// Seed of the first episode; episode i is gym-pusht's reset with this plus i
    #[arg(long, value_name = "FIRST", default_value_t = 100_000)]
    seed: u64,
    #[command(flatten)]
    sampling: sampling::Arguments,
    /// Actions of a plan that are executed before the next one takes over
    #[arg(long, value_name = "N", default_value_t = 8)]
    execute: usize,
    /// Actions that are executed while a plan is made
    #[arg(long, value_name = "N", default_value_t = 1)]
    latency: usize,
    /// Do not tell the planner what is executed meanwhile
    #[arg(long)]
    without_pins: bool,
    /// Draw the first N actions after a hand-over towards the last plan [default: as many as it still has]
    #[arg(long, value_name = "N")]
    overlap: Option<usize>,
    /// Start each plan from the last one, and make only the last K steps
    #[arg(long, value_name = "K")]
    refine: Option<usize>,
    /// The time of each plan, in milliseconds of this machine; what is not done by then is truncated
    #[arg(long, value_name = "MS")]
    budget: Option<f64>,
    /// The most passes of each plan; what is not done by then is truncated
    #[arg(long, value_name = "N")]
    passes: Option<usize>,
    /// Record the first episodes for rerun: a .rrd file, or the rerun+http:// address of a viewer that runs
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    /// Log every decision of the first episodes, one after another: an MCAP file for `clearway log` and Foxglove
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Episodes to record and to log
    #[arg(long, value_name = "N", default_value_t = 1)]
    record_episodes: u32,
    /// Write the results
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Serialize)]
struct Report {
    episodes: usize,
    success_rate: f64,
    success_interval: [f64; 2],
    mean_reward: f64,
    mean_reward_interval: [f64; 2],
    execute: usize,
    latency: usize,
    pinned: bool,
    overlap: Option<usize>,
    refine: Option<usize>,
    budget_ms: Option<f64>,
    most_passes: Option<usize>,
    solver: &'static str,
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    precision: String,
    level: Option<String>,
    candidates: usize,
    seed: u64,
    /// From the last committed action to the first that is new.
    jump_at_hand_over: Lengths,
    /// From one action to the next, both of one plan.
    jump_inside_a_plan: Lengths,
    /// The second differences, at hand-over and inside.
    bend_at_hand_over: Lengths,
    bend_inside_a_plan: Lengths,
    /// Passes that plans made.
    passes: Lengths,
    plan_ms: Lengths,
    model: String,
}

/// A distribution, in pixels unless said otherwise.
#[derive(Clone, Copy, Debug, Serialize)]
struct Lengths {
    mean: f64,
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
    count: usize,
}

impl Lengths {
    fn of(values: &[f64]) -> Self {
        Self {
            mean: statistics::mean(values),
            p50: statistics::percentile(values, 0.5),
            p95: statistics::percentile(values, 0.95),
            p99: statistics::percentile(values, 0.99),
            max: statistics::percentile(values, 1.0),
            count: values.len(),
        }
    }
}

impl fmt::Display for Lengths {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            mean,
            p50,
            p95,
            p99,
            max,
            count,
        } = self;
        write!(
            f,
            "mean {mean:.1}, p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, max {max:.1} (of {count})"
        )
    }
}

/// What plans did, noted from their log.
#[derive(Debug, Default)]
struct Notes {
    at_hand_over: Vec<f64>,
    inside: Vec<f64>,
    bends_at_hand_over: Vec<f64>,
    bends_inside: Vec<f64>,
    passes: Vec<f64>,
    milliseconds: Vec<f64>,
}

impl Notes {
    fn note(&mut self, event: &Event, execute: usize) {
        let Event::Decision(decision) = event else {
            return;
        };
        let Ok(made) = &decision.result else {
            return;
        };
        self.passes.push(made.plan.passes as f64);
        self.milliseconds.push(decision.elapsed.as_secs_f64() * 1e3);
        // From the robot at rest to the first plan nothing is handed over.
        let (Some(last), true) = (&decision.previous, made.seam > decision.step) else {
            return;
        };
        let positions = made.trajectory.positions();
        let first = (made.seam - decision.step) as usize;
        // What is executed of it: up to the next hand-over; and, before it, one more action of the last plan.
        let end = positions.nrows().min(first + execute);
        let before = last
            .waypoints()
            .filter(|known| known.time < made.trajectory.times()[0]);
        let before = before.last().map(|known| known.position);
        let rows: Vec<_> = before
            .into_iter()
            .chain(positions.rows().into_iter().take(end))
            .collect();
        let first = first + rows.len() - end;
        for (row, window) in rows
            .windows(3)
            .enumerate()
            .map(|(i, window)| (i + 2, window))
        {
            let step = &window[2] - &window[1];
            let bend = &step - &(&window[1] - &window[0]);
            let (length, bend) = (step.dot(&step).sqrt(), bend.dot(&bend).sqrt());
            if row == first {
                self.at_hand_over.push(length);
                self.bends_at_hand_over.push(bend);
            } else if row > first + 1 {
                // Two actions after the hand-over all three are of one plan.
                self.inside.push(length);
                self.bends_inside.push(bend);
            }
        }
    }
}

/// Where an episode is written, and in which step it begins there.
#[derive(Clone, Default)]
struct Sinks {
    notes: Arc<Mutex<Notes>>,
    recorder: Option<LoopRecorder>,
    log: Option<McapLog>,
    begin: usize,
}

impl Sinks {
    /// The notes alone: an episode that is neither recorded nor logged.
    fn notes_alone(&self) -> Self {
        Self {
            notes: Arc::clone(&self.notes),
            begin: self.begin,
            ..Self::default()
        }
    }

    fn note(&mut self, event: &Event, execute: usize) {
        self.notes().note(event, execute);
        if let Some(recorder) = &mut self.recorder {
            recorder.note(event);
        }
        if let Some(log) = &mut self.log {
            log.note(event);
        }
    }

    fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn finish(self) -> Result<(), Error> {
        if let Some(recorder) = self.recorder {
            recorder.finish()?;
        }
        if let Some(log) = self.log {
            log.finish()?;
        }
        Ok(())
    }
}

/// What stands for a recorder in a binary without rerun: there is none, and asking for one says so.
#[cfg(not(feature = "rerun"))]
#[derive(Clone)]
enum LoopRecorder {}

#[cfg(not(feature = "rerun"))]
impl LoopRecorder {
    fn open(_: &str) -> Result<Self, Error> {
        Err(Error::Record)
    }

    fn begin(&self, _: Duration) -> Result<(), Error> {
        match *self {}
    }

    fn world(&self, _: Duration, _: &pusht::Observation) -> Result<(), Error> {
        match *self {}
    }

    fn note(&mut self, _: &Event) {
        match *self {}
    }

    fn finish(self) -> Result<(), Error> {
        match self {}
    }
}

/// A planner with a time for each plan, whatever the world's clock says.
struct Timed {
    planner: Arc<Planner>,
    budget: Option<Duration>,
    passes: Option<usize>,
}

impl Plans for Timed {
    fn layout(&self) -> Layout {
        self.planner.layout()
    }

    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError> {
        let budget = Budget {
            passes: self.passes,
            ..self.budget.map_or(budget, Budget::within)
        };
        self.planner.plan(problem, budget, seed)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let planner = arguments.sampling.planner(&arguments.policy, period())?;
    let sight = Sight::of(&planner)?;
    let wrong = |argument: &'static str| {
        move |error: clearway_planner::PlannerError| Error::Argument {
            argument,
            reason: error.to_string(),
        }
    };
    let most = planner.most_actions();
    let mut planner = planner
        .with_actions(most)
        .map_err(wrong("--execute or --latency"))?;
    if let Some(steps) = arguments.refine {
        planner = planner.with_refinement(steps).map_err(wrong("--refine"))?;
    }
    let budget = arguments.budget.map(budget).transpose()?;
    if arguments.passes == Some(0) {
        return Err(Error::Argument {
            argument: "--passes",
            reason: "must be at least one".to_owned(),
        });
    }
    let planner = Arc::new(planner);
    let mut sinks = Sinks {
        recorder: arguments
            .record
            .as_deref()
            .map(LoopRecorder::open)
            .transpose()?,
        log: arguments
            .log
            .as_deref()
            .map(|path| Ok::<_, Error>(McapLog::create(path)?.with_joint_names(["x", "y"])))
            .transpose()?,
        ..Sinks::default()
    };
    let bar = progress(arguments.episodes as usize);
    let (mut rewards, mut successes) = (Vec::new(), 0);
    for index in 0..u64::from(arguments.episodes) {
        let seed = arguments.seed.wrapping_add(index);
        let plans = Timed {
            planner: Arc::clone(&planner),
            budget,
            passes: arguments.passes,
        };
        let kept = index < u64::from(arguments.record_episodes);
        let to = if kept {
            sinks.clone()
        } else {
            sinks.notes_alone()
        };
        let (reward, succeeded, steps) = episode(arguments, plans, &sight, seed, to)?;
        sinks.begin += steps;
        rewards.push(reward);
        successes += usize::from(succeeded);
        bar.set_message(format!("{successes} succeeded"));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let notes = std::mem::take(&mut *sinks.notes());
    let (precision, level) = precision::of(planner.policy());
    let report = Report {
        episodes: rewards.len(),
        success_rate: successes as f64 / rewards.len() as f64,
        success_interval: statistics::wilson(successes, rewards.len()),
        mean_reward: statistics::mean(&rewards),
        mean_reward_interval: statistics::bootstrap(&rewards),
        execute: arguments.execute,
        latency: arguments.latency,
        pinned: !arguments.without_pins,
        overlap: arguments.overlap,
        refine: arguments.refine,
        budget_ms: arguments.budget,
        most_passes: arguments.passes,
        solver: planner.sampling().method.name(),
        steps: planner.sampling().steps,
        offset: planner.sampling().offset,
        precision,
        level,
        candidates: planner.candidates(),
        seed: arguments.seed,
        jump_at_hand_over: Lengths::of(&notes.at_hand_over),
        jump_inside_a_plan: Lengths::of(&notes.inside),
        bend_at_hand_over: Lengths::of(&notes.bends_at_hand_over),
        bend_inside_a_plan: Lengths::of(&notes.bends_inside),
        passes: Lengths::of(&notes.passes),
        plan_ms: Lengths::of(&notes.milliseconds),
        model: planner.policy().hash().to_owned(),
    };
    say!("{report}");
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    sinks.finish()?;
    Ok(Verdict::Passed)
}

/// A time in milliseconds.
fn budget(milliseconds: f64) -> Result<Duration, Error> {
    Duration::try_from_secs_f64(milliseconds / 1e3).map_err(|error| Error::Argument {
        argument: "--budget",
        reason: format!("must be a time in milliseconds: {error}"),
    })
}

/// One episode: the largest reward, whether it succeeded, and how many steps it took.
fn episode(
    arguments: &Arguments,
    plans: Timed,
    sight: &Sight,
    seed: u64,
    to: Sinks,
) -> Result<(f64, bool, usize), Error> {
    let mut world = PushT::reset(seed);
    let mut seen = world.observation();
    let (begin, recorder) = (to.begin, to.recorder.clone());
    let (mut to, execute) = (to, arguments.execute);
    let mut settings = Settings::new(Horizon {
        execute,
        latency: arguments.latency,
    })
    .with_seed(seed)
    .with_log(move |event: &Event| to.note(event, execute));
    if let Some(overlap) = arguments.overlap {
        settings = settings.with_overlap(overlap);
    }
    if arguments.without_pins {
        settings = settings.without_pins();
    }
    let latency = u32::try_from(arguments.latency).unwrap_or(u32::MAX);
    // A plan is there when the actions that were committed are executed.
    let delay = period() * latency;
    let mut replanner =
        Replanner::in_step(plans, settings, &seen.agent, move |_| delay).map_err(|error| {
            Error::Argument {
                argument: "--execute or --latency",
                reason: error.to_string(),
            }
        })?;
    if let Some(recorder) = &recorder {
        let steps = u32::try_from(begin).unwrap_or(u32::MAX);
        recorder.begin(period() * steps)?;
    }
    let (mut reward, mut succeeded) = (0.0_f64, false);
    while !succeeded && world.steps() < pusht::EPISODE_STEPS {
        // Episodes follow each other on the robot's clock; a replanner counts from its own first step.
        let seen_now = sight.observe(begin + world.steps(), &world, &seen);
        if let Some(recorder) = &recorder {
            recorder.world(seen_now.time(), &seen)?;
        }
        let command = replanner.command(seen_now.time(), &seen_now);
        let action = [0, 1].map(|i| command.position[i].clamp(0.0, pusht::SIZE));
        seen = world.step(action)?;
        reward = reward.max(seen.reward);
        succeeded |= seen.succeeded;
    }
    // What became of the last plan is noted too.
    replanner.finish();
    Ok((reward, succeeded, world.steps()))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} episodes from seed {}, {} in {} steps, {}; executing {}, latency {}, {}",
            self.episodes,
            self.seed,
            self.solver,
            self.steps,
            self.precision,
            self.execute,
            self.latency,
            if self.pinned { "pinned" } else { "not pinned" }
        )?;
        let [low, high] = self.success_interval;
        writeln!(
            f,
            "  success      {:.3} [{low:.3}, {high:.3}] (95 %, Wilson)",
            self.success_rate
        )?;
        let [low, high] = self.mean_reward_interval;
        writeln!(
            f,
            "  mean reward  {:.4} [{low:.4}, {high:.4}] (95 %, bootstrap)",
            self.mean_reward
        )?;
        writeln!(f, "  jump at hand-over [px]  {}", self.jump_at_hand_over)?;
        writeln!(f, "  jump inside a plan      {}", self.jump_inside_a_plan)?;
        writeln!(f, "  bend at hand-over [px]  {}", self.bend_at_hand_over)?;
        writeln!(f, "  bend inside a plan      {}", self.bend_inside_a_plan)?;
        writeln!(f, "  passes a plan           {}", self.passes)?;
        write!(f, "  one plan [ms]           {}", self.plan_ms)
    }
}
