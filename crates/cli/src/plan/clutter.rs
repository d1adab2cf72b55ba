//! `clearway plan clutter`.

use std::path::PathBuf;

use clearway_motion::RrtConnect;
use clearway_sim::{Clutter, Environment};

use super::EnvironmentName;
use super::ask;
use super::others::Others;
use super::problem::Problem;
use super::report::Measured;
use crate::Verdict;
use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::sim::progress;

/// What guidance and projection keep from obstacles beyond contact: m.
const MARGIN: f64 = 0.01;

/// The arguments of `clearway plan clutter`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder with a prior of paths
    #[arg(long, value_name = "DIR", default_value = "models/clutter")]
    prior: PathBuf,
    /// The world
    #[arg(long, value_enum, default_value = "dense")]
    environment: EnvironmentName,
    /// Random obstacles beside those of the world, of each problem's own seed
    #[arg(long, value_name = "N", default_value_t = 0)]
    added: u32,
    /// The obstacles that the world's authors add, besides
    #[arg(long, conflicts_with = "added")]
    published_additions: bool,
    /// Problems in place of drawn ones: a JSON file with one or a list, as --problems-out writes them
    #[arg(long, value_name = "FILE", conflicts_with_all = ["added", "published_additions", "environment"])]
    problem: Option<PathBuf>,
    /// Judge the paths of another planner in place of planning: a JSON file of `planner` and its `answers`, one a problem, each
    /// with `paths` (lists of waypoints, or null) and the `milliseconds` of each, as benches/peers/ompl_paths.py writes it
    #[arg(long, value_name = "FILE", requires = "problem", conflicts_with_all = ["planner", "fallback", "candidates", "steps", "solver", "budget"])]
    paths: Option<PathBuf>,
    #[command(flatten)]
    ask: ask::Arguments,
}

pub(super) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let mut ask = arguments.ask.clone();
    if arguments.paths.is_some() {
        ask.planner = ask::Kind::Other;
    }
    let ask = &ask;
    check_writable(ask.json.as_deref())?;
    check_writable(ask.problems_out.as_deref())?;
    let asked = ask.asked(&arguments.prior, MARGIN)?;
    let problems = arguments.problems()?;
    let others = arguments
        .paths
        .as_deref()
        .map(|file| Others::read(file, &problems))
        .transpose()?;
    if let Some(path) = &ask.problems_out {
        write_json(path, &problems)?;
    }
    let recorder = ask
        .record
        .as_deref()
        .map(super::Recorder::open)
        .transpose()?;
    let bar = progress(problems.len());
    let mut measured = Measured::default();
    for (i, problem) in problems.iter().enumerate() {
        let seed = ask.seed + i as u64;
        let world = problem.world()?;
        let keep = recorder.is_some() && i < ask.record_episodes as usize;
        let answer = match &others {
            Some(others) => asked.judge(&others.answers[i], &world, seed)?,
            None => asked.plan(problem, &world, seed, keep)?,
        };
        let free = world.free()?;
        let known = RrtConnect::default().plan(&free, &problem.start, &problem.goal, seed);
        measured.add(&answer, &free, known.is_ok(), seed)?;
        if let Some(recorder) = recorder.as_ref().filter(|_| keep) {
            recorder.problem(problem, &free, &answer, i)?;
        }
        bar.set_message(format!("{} solved", measured.solved()));
        bar.inc(1);
    }
    bar.finish_and_clear();
    let is_solved = measured.solved() == problems.len();
    let mut report = measured.report(arguments.world(), ask, &asked);
    if let Some(others) = others {
        report.planner = others.planner;
        report.candidates = others
            .answers
            .first()
            .map_or(0, |it| it.milliseconds.len() as u32);
    }
    say!("{report}");
    if let Some(path) = &ask.json {
        write_json(path, &report)?;
    }
    if let Some(recorder) = recorder {
        recorder.finish()?;
    }
    // Of drawn problems it is measured how many are solved; who asks one's own wants them solved.
    Ok(if is_solved || arguments.problem.is_none() {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

impl Arguments {
    fn world(&self) -> String {
        if let Some(path) = &self.problem {
            return path.display().to_string();
        }
        let environment = Environment::from(self.environment);
        let added = if self.published_additions {
            environment.additions().len()
        } else {
            self.added as usize
        };
        format!("{environment:?} with {added} added obstacles")
    }

    fn problems(&self) -> Result<Vec<Problem>, Error> {
        if let Some(path) = &self.problem {
            return Problem::read(path);
        }
        let environment = Environment::from(self.environment);
        let drawn = (0..u64::from(self.ask.episodes)).map(|i| {
            let seed = self.ask.seed + i;
            let world = if self.published_additions {
                Clutter::with_published_additions(environment)
            } else {
                Clutter::with_random_additions(environment, self.added as usize, seed)
            };
            let world = world.map_err(|error| Error::World(error.to_string()))?;
            let problem = world.problem(seed);
            let problem = problem.ok_or_else(|| Error::World("it has no room".into()))?;
            Ok(Problem::of_clutter(&world, &problem))
        });
        drawn.collect()
    }
}
