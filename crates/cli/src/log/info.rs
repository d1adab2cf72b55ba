//! `clearway log info`: what is in a log.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use clearway_log::LogError;
use clearway_planner::replanner::log::{self, Decision, Event};
use clearway_planner::{Outcome, Reason, Status};
use serde::Serialize;

use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::{Verdict, statistics};

/// The arguments of `clearway log info`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// An MCAP file
    file: PathBuf,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is in a log.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// From the first event to the last, on the robot's clock.
    from_secs: Option<f64>,
    to_secs: Option<f64>,
    /// Control loops: each begins to count its plans at 1.
    loops: usize,
    decisions: usize,
    plans: usize,
    truncated: usize,
    refined: usize,
    /// Why there was no plan, and how often.
    failures: BTreeMap<String, usize>,
    models: BTreeMap<String, usize>,
    samplings: BTreeMap<String, usize>,
    verdicts: BTreeMap<String, usize>,
    /// For how long which status stood.
    status_secs: BTreeMap<String, f64>,
    /// From the request to the checked plan.
    latency_ms: Option<Quantiles>,
    longest_pass_ms: Option<Quantiles>,
    passes: Option<Quantiles>,
    /// Whether the log ends as it should.
    finished: bool,
    /// What could not be read.
    unreadable: Vec<String>,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Quantiles {
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Quantiles {
    fn of(values: &[f64]) -> Option<Self> {
        let at = |share| statistics::percentile(values, share);
        (!values.is_empty()).then(|| Self {
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: at(1.0),
        })
    }
}

impl fmt::Display for Quantiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { p50, p95, p99, max } = self;
        write!(f, "p50 {p50:.1}, p95 {p95:.1}, p99 {p99:.1}, max {max:.1}")
    }
}

/// What is counted on the way.
#[derive(Default)]
struct Counting {
    report: Report,
    latencies: Vec<f64>,
    longest: Vec<f64>,
    passes: Vec<f64>,
    /// The status that stands, and since when.
    status: Option<(Duration, Status)>,
}

impl Counting {
    fn decision(&mut self, decision: &Decision) {
        let report = &mut self.report;
        report.decisions += 1;
        self.latencies.push(milliseconds(decision.elapsed));
        match &decision.result {
            Ok(made) => {
                let plan = &made.plan;
                report.plans += 1;
                report.truncated += usize::from(plan.outcome != Outcome::Complete);
                report.refined += usize::from(plan.refined.is_some());
                *report.models.entry(plan.model.to_string()).or_default() += 1;
                let sampling = plan
                    .sampling
                    .map_or_else(|| "no denoiser".to_owned(), |sampling| sampling.to_string());
                *report.samplings.entry(sampling).or_default() += 1;
                self.longest.push(milliseconds(plan.longest_pass));
                self.passes.push(plan.passes as f64);
            }
            Err(failure) => {
                *report.failures.entry(failure.to_string()).or_default() += 1;
            }
        }
        if decision.plan == 1 {
            self.report.loops += 1;
            // What a loop begins with is no change, and not noted.
            self.stands(decision.asked, Status::Holding(Reason::Starting));
        }
    }

    /// From `now` on another status stands.
    fn stands(&mut self, now: Duration, status: Status) {
        if let Some((since, status)) = self.status.replace((now, status)) {
            let stood = now.saturating_sub(since).as_secs_f64();
            *self
                .report
                .status_secs
                .entry(status.to_string())
                .or_default() += stood;
        }
    }

    fn finish(mut self, last: Duration) -> Report {
        if let Some((_, status)) = self.status {
            self.stands(last, status);
        }
        Report {
            latency_ms: Quantiles::of(&self.latencies),
            longest_pass_ms: Quantiles::of(&self.longest),
            passes: Quantiles::of(&self.passes),
            ..self.report
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let mut counting = Counting::default();
    counting.report.finished = true;
    let mut last = Duration::ZERO;
    for entry in clearway_log::events(&arguments.file)? {
        let entry = match entry {
            Ok(entry) => entry,
            Err(LogError::Truncated { .. }) => {
                counting.report.finished = false;
                continue;
            }
            Err(error) => {
                counting.report.unreadable.push(error.to_string());
                continue;
            }
        };
        last = last.max(entry.time);
        let report = &mut counting.report;
        let time = entry.time.as_secs_f64();
        report.from_secs = Some(report.from_secs.map_or(time, |from| from.min(time)));
        report.to_secs = Some(last.as_secs_f64());
        match &entry.event {
            Event::Decision(decision) => counting.decision(decision),
            Event::Verdict { verdict, .. } => {
                let verdict = match verdict {
                    log::Verdict::Adopted { .. } => "adopted".to_owned(),
                    log::Verdict::Late { .. } => "late".to_owned(),
                    other => other.to_string(),
                };
                *report.verdicts.entry(verdict).or_default() += 1;
            }
            Event::Status { now, status } => counting.stands(*now, *status),
            _ => {}
        }
    }
    let report = counting.finish(last);
    say!("{}: {report}", arguments.file.display());
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.unreadable.is_empty() {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.from_secs, self.to_secs) {
            (Some(from), Some(to)) => write!(f, "{from:.1} s to {to:.1} s")?,
            _ => f.write_str("no event")?,
        }
        if !self.finished {
            f.write_str(", cut off: whoever wrote it did not finish")?;
        }
        write!(
            f,
            "\n  loops         {}\n  decisions     {}: {} plans, {} truncated, {} refined",
            self.loops, self.decisions, self.plans, self.truncated, self.refined
        )?;
        let counts = |f: &mut fmt::Formatter<'_>, title, counts: &BTreeMap<String, usize>| {
            for (what, count) in counts {
                write!(f, "\n  {title:<13} {count} {what}")?;
            }
            Ok(())
        };
        counts(f, "sampling", &self.samplings)?;
        counts(f, "model", &self.models)?;
        counts(f, "without plan", &self.failures)?;
        counts(f, "verdict", &self.verdicts)?;
        let total: f64 = self.status_secs.values().sum();
        for (status, secs) in &self.status_secs {
            let share = 100.0 * secs / total.max(f64::MIN_POSITIVE);
            write!(f, "\n  status        {secs:.1} s ({share:.1} %) {status}")?;
        }
        let quantiles = [
            ("latency, ms", &self.latency_ms),
            ("longest pass", &self.longest_pass_ms),
            ("passes", &self.passes),
        ];
        for (title, quantiles) in quantiles {
            if let Some(quantiles) = quantiles {
                write!(f, "\n  {title:<13} {quantiles}")?;
            }
        }
        for error in &self.unreadable {
            write!(f, "\n  unreadable    {error}")?;
        }
        Ok(())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}
