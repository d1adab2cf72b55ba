//! Cells beside each other.

use std::fmt::Write;
use std::path::Path;

use serde::Serialize;

use super::Kept;
use crate::error::{Error, write_json, write_whole};
use crate::statistics;

/// A line of the table.
#[derive(Debug, Serialize)]
pub(super) struct Row {
    pub(super) name: String,
    pub(super) solver: String,
    pub(super) steps: usize,
    pub(super) precision: String,
    pub(super) bytes: usize,
    pub(super) episodes: usize,
    pub(super) success: f64,
    /// 95 %, Wilson.
    pub(super) success_interval: [f64; 2],
    reward: f64,
    /// 95 %, bootstrap.
    reward_interval: [f64; 2],
    /// The success less the first row's, over the same starts.
    difference: f64,
    /// 95 %, paired.
    difference_interval: [f64; 2],
    /// What the difference exceeds with 95 %.
    difference_bound: f64,
    /// Of one plan alone: median, least and greatest of the rounds.
    pub(super) plan_ms: Option<[f64; 3]>,
    /// How many plans are made in the time of one of the first row.
    faster: Option<f64>,
    model: String,
}

/// The rows of all that was kept.
pub(super) fn rows(kept: &[Kept]) -> Vec<Row> {
    let Some(first) = kept.first() else {
        return Vec::new();
    };
    kept.iter().map(|one| Row::new(first, one)).collect()
}

impl Row {
    fn new(first: &Kept, one: &Kept) -> Self {
        let n = one.successes.len();
        let count = |of: &dyn Fn(bool, bool) -> bool| {
            let pairs = first.successes.iter().zip(&one.successes);
            pairs.filter(|&(&a, &b)| of(a, b)).count()
        };
        let (only_first, only_one) = (count(&|a, b| a && !b), count(&|a, b| b && !a));
        let successes = one.successes.iter().filter(|it| **it).count();
        let faster = first.plan_ms.zip(one.plan_ms).map(|(a, b)| a[0] / b[0]);
        Self {
            name: one.name.clone(),
            solver: one.solver.clone(),
            steps: one.steps,
            precision: one.precision.clone(),
            bytes: one.bytes,
            episodes: n,
            success: successes as f64 / n as f64,
            success_interval: statistics::wilson(successes, n),
            reward: statistics::mean(&one.rewards),
            reward_interval: statistics::bootstrap(&one.rewards),
            difference: (only_one as f64 - only_first as f64) / n as f64,
            difference_interval: statistics::paired(only_first, only_one, n),
            difference_bound: statistics::paired_bound(only_first, only_one, n),
            plan_ms: one.plan_ms,
            faster,
            model: one.model.clone(),
        }
    }
}

/// The table, for people.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::from(
        "| policy | solver | steps | precision | MB | success (95 %) | less the first's (95 %, paired) | at least | one plan, ms | faster |\n\
         |---|---|---|---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let [low, high] = row.success_interval;
        let [below, above] = row.difference_interval;
        let time = row
            .plan_ms
            .map_or_else(String::new, |[median, least, greatest]| {
                format!("{median:.2} [{least:.2}, {greatest:.2}]")
            });
        let faster = row.faster.map_or_else(String::new, |it| format!("{it:.1}"));
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "| {} | {} | {} | {} | {:.2} | {:.3} [{low:.3}, {high:.3}] | {:+.3} [{below:+.3}, {above:+.3}] | {:+.3} | {time} | {faster} |",
            row.name,
            row.solver,
            row.steps,
            row.precision,
            row.bytes as f64 / 1e6,
            row.success,
            row.difference,
            row.difference_bound,
        );
    }
    text
}

/// Writes `table.md`, `table.csv` and `table.json`.
pub(super) fn write(rows: &[Row], folder: &Path) -> Result<(), Error> {
    let text = |file: &str, text: &str| {
        let path = folder.join(file);
        write_whole(&path, |beside| std::fs::write(beside, text))
            .map_err(|error| Error::write(&path, &error))
    };
    text("table.md", &markdown(rows))?;
    let mut csv = String::from(
        "policy,solver,steps,precision,bytes,episodes,success,success_low,success_high,reward,reward_low,reward_high,\
         difference,difference_low,difference_high,difference_bound,plan_ms,plan_ms_least,plan_ms_greatest,faster,model\n",
    );
    for row in rows {
        let [median, least, greatest] = row.plan_ms.map_or([const { String::new() }; 3], |it| {
            it.map(|ms| ms.to_string())
        });
        let faster = row.faster.map_or_else(String::new, |it| it.to_string());
        // A name may hold what separates, or quotes.
        let name = format!("\"{}\"", row.name.replace('"', "\"\""));
        let numbers = [
            [
                row.success,
                row.success_interval[0],
                row.success_interval[1],
            ],
            [row.reward, row.reward_interval[0], row.reward_interval[1]],
            [
                row.difference,
                row.difference_interval[0],
                row.difference_interval[1],
            ],
        ];
        let numbers: Vec<String> = numbers.as_flattened().iter().map(f64::to_string).collect();
        let _ = writeln!(
            csv,
            "{name},{},{},{},{},{},{},{},{median},{least},{greatest},{faster},{}",
            row.solver,
            row.steps,
            row.precision,
            row.bytes,
            row.episodes,
            numbers.join(","),
            row.difference_bound,
            row.model
        );
    }
    text("table.csv", &csv)?;
    write_json(&folder.join("table.json"), &rows)
}
