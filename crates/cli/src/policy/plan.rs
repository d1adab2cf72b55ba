use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clearway_planner::{Budget, History, Observation, Problem};
use serde::{Deserialize, Serialize};

use crate::error::{Error, check_writable, spinner, write_json};
use crate::output::say;
use crate::{Verdict, sampling};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// A JSON list, the newest last: `[{"time": 0.0, "observation.state": [222, 97], ...}]`, in seconds
    #[arg(long, value_name = "FILE")]
    observations: PathBuf,
    /// Seed of the noise
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Seconds between two actions
    #[arg(long, value_name = "SECONDS", default_value_t = 0.1)]
    period: f64,
    #[command(flatten)]
    sampling: sampling::Arguments,
    /// Write the plan
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One observation of the file.
#[derive(Deserialize)]
struct Entry {
    /// Seconds since a start that the caller chooses.
    time: f64,
    #[serde(flatten)]
    features: BTreeMap<String, Vec<f64>>,
}

#[derive(Serialize)]
struct Report {
    action: String,
    times: Vec<f64>,
    actions: Vec<Vec<f64>>,
    outcome: String,
    solver: &'static str,
    steps: usize,
    seed: u64,
    latency_ms: f64,
    model: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let history = read(&arguments.observations)?;
    let period = Duration::try_from_secs_f64(arguments.period)
        .ok()
        .filter(|period| !period.is_zero())
        .ok_or_else(|| Error::Argument {
            argument: "--period",
            reason: format!(
                "must be a time above zero in seconds, found {}",
                arguments.period
            ),
        })?;
    let planner = arguments.sampling.planner(&arguments.policy, period)?;
    let bar = spinner("planning");
    let plan = planner.plan(&Problem::new(&history), Budget::default(), arguments.seed);
    bar.finish_and_clear();
    let plan = plan?;
    let report = Report {
        action: planner.policy().config().action.name.clone(),
        times: plan
            .trajectory
            .times()
            .iter()
            .map(Duration::as_secs_f64)
            .collect(),
        actions: plan
            .trajectory
            .positions()
            .rows()
            .into_iter()
            .map(|row| row.to_vec())
            .collect(),
        outcome: plan.outcome.to_string(),
        solver: planner.sampling().method.name(),
        steps: planner.sampling().steps,
        seed: plan.seed,
        latency_ms: plan.elapsed.as_secs_f64() * 1e3,
        model: plan.model.to_string(),
    };
    say!("{:>10}  {}", "time [s]", report.action);
    for (time, action) in report.times.iter().zip(&report.actions) {
        let numbers: Vec<String> = action
            .iter()
            .map(|value| format!("{value:>12.6}"))
            .collect();
        say!("{time:>10.3}  {}", numbers.join(" "));
    }
    say!(
        "{}, {} in {} steps, seed {}, {:.1} ms",
        report.outcome,
        report.solver,
        report.steps,
        report.seed,
        report.latency_ms
    );
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

fn read(path: &Path) -> Result<History, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
    let entries: Vec<Entry> =
        serde_json::from_str(&text).map_err(|error| Error::read(path, &error))?;
    let mut history = History::default();
    for Entry { time, features } in entries {
        let time = Duration::try_from_secs_f64(time).map_err(|error| {
            Error::read(
                path,
                &format!("`time` must be in seconds, found {time:e}: {error}"),
            )
        })?;
        let mut observation = Observation::new(time);
        for (name, values) in features {
            observation = observation.with(name, values);
        }
        history
            .push(observation)
            .map_err(|error| Error::read(path, &error))?;
    }
    if history.newest().is_none() {
        return Err(Error::read(path, &"it holds no observation"));
    }
    Ok(history)
}
