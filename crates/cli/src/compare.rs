//! `clearway sim compare`: two evaluations over the same starts.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::{Verdict, statistics};

/// The arguments of `clearway sim compare`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What `clearway sim pusht --json` wrote
    #[arg(value_name = "A")]
    first: PathBuf,
    /// The same of another policy, or of the same one computed otherwise
    #[arg(value_name = "B")]
    second: PathBuf,
    /// The most that the success rates may differ by: their interval must lie inside, 0.03 for three points
    #[arg(long, value_name = "SHARE")]
    within: Option<f64>,
    /// Write the results
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is read of an evaluation.
#[derive(Deserialize)]
struct Evaluation {
    rows: Vec<Row>,
}

#[derive(Clone, Copy, Deserialize)]
struct Row {
    seed: u64,
    success: bool,
    reward: f64,
}

impl Evaluation {
    fn read(path: &Path) -> Result<BTreeMap<u64, Row>, Error> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
        let read: Self = serde_json::from_str(&text).map_err(|error| Error::read(path, &error))?;
        let count = read.rows.len();
        let rows: BTreeMap<u64, Row> = read.rows.into_iter().map(|row| (row.seed, row)).collect();
        if rows.is_empty() || rows.len() < count {
            let reason = format!(
                "must hold episodes, each of another seed; found {count} of {} seeds",
                rows.len()
            );
            return Err(Error::read(path, &reason));
        }
        Ok(rows)
    }
}

#[derive(Debug, Serialize)]
struct Report {
    episodes: usize,
    success_rates: [f64; 2],
    both: usize,
    only_first: usize,
    only_second: usize,
    neither: usize,
    /// The second's rate less the first's.
    difference: f64,
    difference_interval: [f64; 2],
    reward_difference: f64,
    reward_difference_interval: [f64; 2],
    within: Option<f64>,
    passed: bool,
}

impl Report {
    fn new(pairs: &[[Row; 2]], within: Option<f64>) -> Self {
        let count = |first: bool, second: bool| {
            let same = |[a, b]: &&[Row; 2]| a.success == first && b.success == second;
            pairs.iter().filter(same).count()
        };
        let (both, neither) = (count(true, true), count(false, false));
        let (only_first, only_second) = (count(true, false), count(false, true));
        let n = pairs.len() as f64;
        let interval = statistics::paired(only_first, only_second, pairs.len());
        let rewards: Vec<f64> = pairs.iter().map(|[a, b]| b.reward - a.reward).collect();
        let [low, high] = interval;
        Self {
            episodes: pairs.len(),
            success_rates: [only_first, only_second].map(|only| (both + only) as f64 / n),
            both,
            only_first,
            only_second,
            neither,
            difference: (only_second as f64 - only_first as f64) / n,
            difference_interval: interval,
            reward_difference: statistics::mean(&rewards),
            reward_difference_interval: statistics::bootstrap(&rewards),
            within,
            passed: within.is_none_or(|most| -most <= low && high <= most),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    if let Some(within) = arguments.within
        && !(within > 0.0 && within <= 1.0)
    {
        return Err(Error::Argument {
            argument: "--within",
            reason: format!("must be a share above 0 and at most 1, found {within}"),
        });
    }
    let first = Evaluation::read(&arguments.first)?;
    let second = Evaluation::read(&arguments.second)?;
    if !first.keys().eq(second.keys()) {
        let reason = format!(
            "must hold the episodes of the other file, {} of the same seeds",
            first.len()
        );
        return Err(Error::read(&arguments.second, &reason));
    }
    let pairs: Vec<[Row; 2]> = first
        .into_values()
        .zip(second.into_values())
        .map(|(a, b)| [a, b])
        .collect();
    let report = Report::new(&pairs, arguments.within);
    say!("{report}");
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.passed {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [first, second] = self.success_rates;
        writeln!(f, "{} episodes over the same starts", self.episodes)?;
        writeln!(
            f,
            "  success      {first:.3} and {second:.3}: {} both, {} the first alone, {} the second alone",
            self.both, self.only_first, self.only_second
        )?;
        let [low, high] = self.difference_interval;
        writeln!(
            f,
            "  difference   {:+.4} [{low:+.4}, {high:+.4}] (95 %, paired)",
            self.difference
        )?;
        let [low, high] = self.reward_difference_interval;
        write!(
            f,
            "  mean reward  {:+.4} [{low:+.4}, {high:+.4}] (95 %, bootstrap)",
            self.reward_difference
        )?;
        if let Some(most) = self.within {
            let word = if self.passed { "within" } else { "NOT WITHIN" };
            write!(f, "\n  {word} {most} of each other")?;
        }
        Ok(())
    }
}
