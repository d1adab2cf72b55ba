//! `clearway eval policies`: policies, samplers and precisions over the same starts, in one table.

mod figures;
mod table;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clap::ValueEnum;
use clearway_planner::{Budget, History, Method, PackPolicy, Planner, Problem};
use clearway_sim::PushT;
use serde::{Deserialize, Serialize};

use crate::Verdict;
use crate::closed_loop::{self, Settings, Sight};
use crate::error::{Error, load_policy, write_json};
use crate::output::say;
use crate::precision::{self, Precision};
use crate::sampling;
use crate::sim::progress;
use crate::statistics;
use crate::train::config::read;

/// Plans that a slice of a round is: enough that a clock tick is nothing.
const PLANS: usize = 20;

/// The arguments of `clearway eval policies`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Which policies, sampled how, over which starts
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// Where results are written; those that are there already are not made again
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Episodes, in place of what the file says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    episodes: Option<u32>,
    /// Rounds in which all plans are timed, one after the other; 0 to leave the times of the last run as they are
    #[arg(long, value_name = "N", default_value_t = 15)]
    rounds: usize,
}

/// What a file may say.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// How many starts.
    episodes: u32,
    /// Episode i is gym-pusht's reset with this plus i.
    seed: u64,
    /// What the noise of the plans is drawn from, beside the episode's seed.
    #[serde(default)]
    noise_seed: u64,
    /// Episodes that share network passes.
    #[serde(default = "batch")]
    batch: u32,
    /// Of whom the first way to be sampled is what all others are compared with.
    contender: Vec<Contender>,
}

fn batch() -> u32 {
    64
}

/// A policy, and all ways in which it is tried.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contender {
    name: String,
    policy: PathBuf,
    /// The policy's own where it is left out.
    #[serde(default, deserialize_with = "method")]
    solver: Option<Method>,
    /// The policy's own where it is left out.
    #[serde(default)]
    steps: Vec<usize>,
    /// The policy's own where it and the solver are left out.
    offset: Option<usize>,
    /// As its weights are stored where it is left out.
    #[serde(default, deserialize_with = "precisions")]
    precision: Vec<Precision>,
}

fn method<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Method>, D::Error> {
    let name = String::deserialize(deserializer)?;
    name.parse().map(Some).map_err(serde::de::Error::custom)
}

fn precisions<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<Precision>, D::Error> {
    let names = Vec::<String>::deserialize(deserializer)?;
    let parse = |name: String| {
        Precision::from_str(&name, true)
            .map_err(|_| serde::de::Error::custom(format!("`{name}` is no precision")))
    };
    names.into_iter().map(parse).collect()
}

/// A policy in one of its ways.
struct Cell {
    name: String,
    precision: String,
    planner: Planner,
    /// Of weights as they are packed.
    bytes: usize,
}

impl Cell {
    /// Its name as a file's.
    fn file(&self) -> String {
        let name = format!(
            "{} {} {}",
            self.name,
            self.planner.sampling(),
            self.precision
        );
        // `int4/64` is no file.
        let name: String = name
            .chars()
            .map(|c| if c.is_alphanumeric() { c } else { '-' })
            .collect();
        format!("{name}.json")
    }
}

/// What came of a cell, as it is kept.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Kept {
    name: String,
    solver: String,
    steps: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    precision: String,
    model: String,
    seed: u64,
    noise_seed: u64,
    bytes: usize,
    successes: Vec<bool>,
    rewards: Vec<f64>,
    /// The median of one plan alone, with the least and the greatest of the rounds; nothing before it was timed.
    plan_ms: Option<[f64; 3]>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let path = &arguments.config;
    let config: Config = read(path)?;
    let wrong = |key, expected| Error::ConfigValue {
        path: path.clone(),
        key,
        expected,
    };
    let episodes = arguments.episodes.unwrap_or(config.episodes) as usize;
    if episodes == 0 {
        return Err(wrong("episodes", "at least 1"));
    }
    if config.batch == 0 {
        return Err(wrong("batch", "at least 1"));
    }
    if config.contender.is_empty() {
        return Err(wrong("contender", "a table, at least one"));
    }
    let device = Device::flex();
    let mut cells = Vec::new();
    for contender in &config.contender {
        cells.extend(contender.cells(&device)?);
    }
    let mut files: Vec<String> = cells.iter().map(Cell::file).collect();
    files.sort_unstable();
    if files.windows(2).any(|pair| pair[0] == pair[1]) {
        return Err(wrong(
            "contender.name",
            "another one for each, where solver, steps, offset and precision are the same",
        ));
    }
    let settings = Settings {
        episodes,
        seed: config.seed,
        noise_seed: config.noise_seed,
        batch: config.batch as usize,
        noise: None,
        kept: 0,
    };
    for cell in &cells {
        closed_loop::check(&cell.planner, &settings)?;
    }
    let out = &arguments.out;
    std::fs::create_dir_all(out.join("cells")).map_err(|error| Error::write(out, &error))?;
    let mut kept = Vec::with_capacity(cells.len());
    for cell in &cells {
        kept.push(evaluated(cell, &settings, out)?);
    }
    if arguments.rounds > 0 {
        for (times, kept) in timed(&cells, arguments.rounds)?.into_iter().zip(&mut kept) {
            kept.plan_ms = Some(times);
        }
        for (cell, kept) in cells.iter().zip(&kept) {
            write_json(&out.join("cells").join(cell.file()), kept)?;
        }
    }
    let rows = table::rows(&kept);
    say!("{}", table::markdown(&rows));
    table::write(&rows, out)?;
    figures::write(&rows, out)?;
    Ok(Verdict::Passed)
}

impl Contender {
    /// The policy in each of its ways.
    fn cells(&self, device: &Device) -> Result<Vec<Cell>, Error> {
        let failed = |error| Error::policy(&self.policy, error);
        let mut cells = Vec::new();
        let precisions = match self.precision.as_slice() {
            [] => vec![None],
            some => some.iter().copied().map(Some).collect(),
        };
        for chosen in precisions {
            let mut policy = load_policy(&self.policy, device)?;
            let packing: Option<PackPolicy> = match chosen {
                Some(precision) => precision.packed().map(PackPolicy::from),
                None => Some(
                    policy
                        .stored()
                        .cloned()
                        .unwrap_or_else(|| clearway_planner::Precision::F32.into()),
                ),
            };
            let packed = packing.map(|it| policy.pack(it));
            let bytes = packed.map_or(4 * policy.parameters(), |report| report.bytes);
            let (precision, _) = precision::of(&policy);
            let own = policy.sampling();
            let steps = if self.steps.is_empty() {
                vec![own.steps]
            } else {
                self.steps.clone()
            };
            for steps in steps {
                let sampling = sampling::chosen(own, self.solver, Some(steps), self.offset);
                let planner = Planner::new(policy.clone(), closed_loop::period(), device)
                    .and_then(|planner| planner.with_sampling(sampling));
                cells.push(Cell {
                    name: self.name.clone(),
                    precision: precision.clone(),
                    planner: planner.map_err(failed)?,
                    bytes,
                });
            }
        }
        Ok(cells)
    }
}

/// What is kept of a cell, or else what comes of it.
fn evaluated(cell: &Cell, settings: &Settings, out: &Path) -> Result<Kept, Error> {
    let sampling = cell.planner.sampling();
    let steps = sampling.steps;
    let solver = sampling.method.name();
    let path = out.join("cells").join(cell.file());
    let model = cell.planner.policy().hash();
    if path.exists() {
        let text = std::fs::read_to_string(&path).map_err(|error| Error::read(&path, &error))?;
        let kept: Kept = serde_json::from_str(&text).map_err(|error| Error::read(&path, &error))?;
        let same = kept.model == model
            && (kept.seed, kept.noise_seed) == (settings.seed, settings.noise_seed)
            && kept.successes.len() == settings.episodes;
        if same {
            return Ok(kept);
        }
    }
    let bar = progress(settings.episodes);
    bar.println(format!("{}, {sampling}, {}", cell.name, cell.precision));
    let mut successes = 0;
    let outcome = closed_loop::run(&cell.planner, settings, |episode| {
        successes += usize::from(episode.succeeded);
        bar.set_message(format!("{successes} succeeded"));
        bar.inc(1);
    })?;
    bar.finish_and_clear();
    let kept = Kept {
        name: cell.name.clone(),
        solver: solver.to_owned(),
        steps,
        offset: sampling.offset,
        precision: cell.precision.clone(),
        model: model.to_owned(),
        seed: settings.seed,
        noise_seed: settings.noise_seed,
        bytes: cell.bytes,
        successes: outcome.episodes.iter().map(|it| it.succeeded).collect(),
        rewards: outcome.episodes.iter().map(|it| it.reward).collect(),
        plan_ms: None,
    };
    write_json(&path, &kept)?;
    Ok(kept)
}

/// How long a plan of each cell takes, alone: the median of rounds in which all are timed in turn, the least and the greatest,
/// milliseconds.
fn timed(cells: &[Cell], rounds: usize) -> Result<Vec<[f64; 3]>, Error> {
    let mut medians = vec![Vec::with_capacity(rounds); cells.len()];
    // A round before those that count maps memory and starts threads.
    for round in 0..=rounds {
        for (cell, medians) in cells.iter().zip(&mut medians) {
            let sight = Sight::of(&cell.planner)?;
            let mut times = Vec::with_capacity(PLANS);
            for i in 0..PLANS {
                // Each plan sees another start: nothing is known from the one before.
                let seed = (round * PLANS + i) as u64;
                let world = PushT::reset(seed);
                let mut history = History::default();
                history.push(sight.observe(0, &world, &world.observation()))?;
                let plan = cell
                    .planner
                    .plan(&Problem::new(&history), Budget::default(), seed)?;
                times.push(plan.elapsed.as_secs_f64() * 1e3);
            }
            if round > 0 {
                medians.push(statistics::percentile(&times, 0.5));
            }
        }
    }
    Ok(medians
        .into_iter()
        .map(|it| [0.5, 0.0, 1.0].map(|share| statistics::percentile(&it, share)))
        .collect())
}
