//! `clearway sim`: a policy in a simulated world.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clearway_planner::Planner;
use clearway_sim::pusht::Observation;
use indicatif::{ProgressBar, ProgressStyle};
use safetensors::{Dtype, tensor::TensorView};
use serde::Serialize;

use crate::closed_loop::{self, Episode, Outcome, RecordedNoise, Settings};
#[cfg(feature = "train")]
use crate::demonstrate;
use crate::error::{Error, check_writable, write_json, write_whole};
use crate::output::say;
use crate::{Verdict, compare, precision, replan, sampling, statistics};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Push a T-shaped block onto its target
    Pusht(Pusht),
    /// The same with plans that overlap: the next is made while the last is executed
    Replan(replan::Arguments),
    /// Record demonstrations of a policy that tries its plans in the simulator before it chooses one
    #[cfg(feature = "train")]
    Demonstrate(demonstrate::Arguments),
    /// Compare two evaluations over the same starts, episode by episode; exit code 1 beyond --within
    Compare(compare::Arguments),
}

/// The arguments of `clearway sim pusht`.
#[derive(Debug, clap::Args)]
pub(crate) struct Pusht {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Episodes to run
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    episodes: u32,
    /// Seed of the first episode; episode i is gym-pusht's reset with this plus i
    #[arg(long, value_name = "FIRST", default_value_t = 100_000)]
    seed: u64,
    /// Seed of the plans' noise, for another draw over the same starts
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    noise_seed: u64,
    #[command(flatten)]
    sampling: sampling::Arguments,
    /// Episodes that share network passes
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u32).range(1..=4096))]
    batch: u32,
    /// Initial noise of every replan: a safetensors file with `noise` [episode, replan, horizon, action]
    #[arg(long, value_name = "FILE")]
    noise: Option<PathBuf>,
    /// Record the first episodes for rerun: a .rrd file, or the rerun+http:// address of a viewer that runs. What is
    /// recorded is planned for alone, which can change the last digits of plain weights
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
    /// Episodes to record
    #[arg(long, value_name = "N", default_value_t = 1, requires = "record")]
    record_episodes: u32,
    /// Write every state, action and reward: a safetensors file
    #[arg(long, value_name = "FILE")]
    states: Option<PathBuf>,
    /// Write the results
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Pusht(arguments) => pusht(arguments),
        Command::Replan(arguments) => replan::run(arguments),
        #[cfg(feature = "train")]
        Command::Demonstrate(arguments) => demonstrate::run(arguments),
        Command::Compare(arguments) => compare::run(arguments),
    }
}

fn pusht(arguments: &Pusht) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    check_writable(arguments.states.as_deref())?;
    let planner = arguments
        .sampling
        .planner(&arguments.policy, closed_loop::period())?;
    let noise = arguments
        .noise
        .as_deref()
        .map(|path| RecordedNoise::read(path, &planner))
        .transpose()?;
    let mut settings = Settings {
        episodes: arguments.episodes as usize,
        seed: arguments.seed,
        noise_seed: arguments.noise_seed,
        batch: arguments.batch as usize,
        noise,
        kept: 0,
    };
    closed_loop::check(&planner, &settings)?;
    // Opened before the episodes run, so that a wrong path is found early, and after all that can be wrong beside it.
    let recorder = arguments
        .record
        .as_deref()
        .map(Recorder::open)
        .transpose()?;
    if recorder.is_some() {
        settings.kept = arguments.record_episodes as usize;
    }
    let bar = progress(settings.episodes);
    let mut successes = 0;
    let outcome = closed_loop::run(&planner, &settings, |episode| {
        successes += usize::from(episode.succeeded);
        bar.set_message(format!("{successes} succeeded"));
        bar.inc(1);
    })?;
    bar.finish_and_clear();

    let report = Report {
        noise_file: arguments.noise.clone(),
        ..Report::new(&outcome, &planner, &settings)
    };
    say!("{report}");
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    if let Some(path) = &arguments.states {
        write_states(path, &outcome.episodes)?;
    }
    if let Some(recorder) = recorder {
        recorder.write(&outcome.episodes[..settings.kept.min(outcome.episodes.len())])?;
    }
    Ok(Verdict::Passed)
}

/// A bar on a terminal, nothing where the output is piped.
pub(crate) fn progress(episodes: usize) -> ProgressBar {
    let style = ProgressStyle::with_template(
        "{bar:32} {pos}/{len} episodes, {msg} [{elapsed}, {eta} left]",
    );
    ProgressBar::new(episodes as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// What an evaluation says.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    episodes: usize,
    success_rate: f64,
    success_interval: [f64; 2],
    mean_reward: f64,
    mean_reward_interval: [f64; 2],
    latency_ms: Latency,
    solver: &'static str,
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    precision: String,
    level: Option<String>,
    candidates: usize,
    seed: u64,
    noise_seed: Option<u64>,
    noise_file: Option<PathBuf>,
    batch: usize,
    model: String,
    rows: Vec<Row>,
}

/// Percentiles of the time of one plan, milliseconds; null if no plan was timed.
#[derive(Debug, Serialize)]
struct Latency {
    p50: Option<f64>,
    p95: Option<f64>,
    p99: Option<f64>,
    plans: usize,
}

#[derive(Debug, Serialize)]
struct Row {
    seed: u64,
    success: bool,
    reward: f64,
    steps: usize,
    final_state: [f64; 5],
}

impl Report {
    pub(crate) fn new(outcome: &Outcome, planner: &Planner, settings: &Settings) -> Self {
        let Outcome {
            episodes,
            latencies,
        } = outcome;
        let successes = episodes.iter().filter(|episode| episode.succeeded).count();
        let rewards: Vec<f64> = episodes.iter().map(|episode| episode.reward).collect();
        let (precision, level) = precision::of(planner.policy());
        let percentile = |share| {
            Some(statistics::percentile(latencies, share)).filter(|value| value.is_finite())
        };
        Self {
            episodes: episodes.len(),
            success_rate: successes as f64 / episodes.len() as f64,
            success_interval: statistics::wilson(successes, episodes.len()),
            mean_reward: statistics::mean(&rewards),
            mean_reward_interval: statistics::bootstrap(&rewards),
            latency_ms: Latency {
                p50: percentile(0.5),
                p95: percentile(0.95),
                p99: percentile(0.99),
                plans: latencies.len(),
            },
            solver: planner.sampling().method.name(),
            steps: planner.sampling().steps,
            offset: planner.sampling().offset,
            precision,
            level,
            candidates: planner.candidates(),
            seed: settings.seed,
            noise_seed: settings.noise.is_none().then_some(settings.noise_seed),
            noise_file: None,
            batch: settings.batch,
            model: planner.policy().hash().to_owned(),
            rows: episodes
                .iter()
                .map(|episode| Row {
                    seed: episode.seed,
                    success: episode.succeeded,
                    reward: episode.reward,
                    steps: episode.steps(),
                    final_state: episode.observations[episode.steps()].state(),
                })
                .collect(),
        }
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(
            f,
            "{} episodes from seed {}, {} in {} steps, {}",
            self.episodes, self.seed, self.solver, self.steps, self.precision
        )?;
        let [low, high] = self.success_interval;
        writeln!(
            f,
            "  success      {:.3}  [{low:.3}, {high:.3}]  (95 %, Wilson)",
            self.success_rate
        )?;
        let [low, high] = self.mean_reward_interval;
        write!(
            f,
            "  mean reward  {:.4} [{low:.4}, {high:.4}] (95 %, bootstrap)",
            self.mean_reward
        )?;
        if let Latency {
            p50: Some(p50),
            p95: Some(p95),
            p99: Some(p99),
            plans,
        } = &self.latency_ms
        {
            write!(
                f,
                "\n  one plan     p50 {p50:.1} ms, p95 {p95:.1} ms, p99 {p99:.1} ms (of {plans})"
            )?;
        }
        Ok(())
    }
}

/// Writes `states`, `[episode, 301, 5]`, `actions`, `[episode, 300, 2]`, `rewards`, `[episode, 300]` (NaN after an episode's end)
/// and `lengths`, `[episode]`.
fn write_states(path: &Path, episodes: &[Episode]) -> Result<(), Error> {
    let steps = clearway_sim::pusht::EPISODE_STEPS;
    let padded = |rows: &mut dyn Iterator<Item = &f64>, length: usize| -> Vec<u8> {
        let mut bytes: Vec<u8> = rows.flat_map(|value| value.to_le_bytes()).collect();
        let nan = f64::NAN.to_le_bytes();
        while bytes.len() < length * size_of::<f64>() {
            bytes.extend(nan);
        }
        bytes
    };
    let mut states = Vec::new();
    let mut actions = Vec::new();
    let mut rewards = Vec::new();
    let mut lengths: Vec<u8> = Vec::new();
    for episode in episodes {
        let rows: Vec<[f64; 5]> = episode
            .observations
            .iter()
            .map(Observation::state)
            .collect();
        states.extend(padded(&mut rows.iter().flatten(), (steps + 1) * 5));
        actions.extend(padded(&mut episode.actions.iter().flatten(), steps * 2));
        rewards.extend(padded(&mut episode.rewards.iter(), steps));
        lengths.extend((episode.steps() as u64).to_le_bytes());
    }
    let count = episodes.len();
    let tensors = [
        ("states", Dtype::F64, vec![count, steps + 1, 5], &states),
        ("actions", Dtype::F64, vec![count, steps, 2], &actions),
        ("rewards", Dtype::F64, vec![count, steps], &rewards),
        ("lengths", Dtype::U64, vec![count], &lengths),
    ];
    let views = tensors
        .into_iter()
        .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape, bytes)?)))
        .collect::<Result<BTreeMap<_, _>, safetensors::SafeTensorError>>()
        .map_err(|error| Error::write(path, &error))?;
    write_whole(path, |beside| {
        safetensors::serialize_to_file(views, None, beside).map_err(std::io::Error::other)
    })
    .map_err(|error| Error::write(path, &error))
}

/// Where episodes are recorded, opened before they run so that a wrong path is found early.
#[cfg(feature = "rerun")]
pub(crate) use crate::recording::Recorder;

/// What stands for a recorder in a binary without rerun: there is none, and asking for one says so.
#[cfg(not(feature = "rerun"))]
pub(crate) enum Recorder {}

#[cfg(not(feature = "rerun"))]
impl Recorder {
    pub(crate) fn open(_: &str) -> Result<Self, Error> {
        Err(Error::Record)
    }

    pub(crate) fn write(self, _: &[Episode]) -> Result<(), Error> {
        match self {}
    }
}
