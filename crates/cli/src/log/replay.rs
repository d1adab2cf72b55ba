//! `clearway log replay`: every decision once more.

use std::fmt;
use std::path::PathBuf;

use burn::tensor::Device;
use clearway_log::LogError;
use clearway_planner::Planner;
use clearway_planner::replanner::log::Event;
use serde::Serialize;

use crate::Verdict;
use crate::closed_loop::period;
use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::precision::{load_packed, load_stored};

/// The arguments of `clearway log replay`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// An MCAP file
    file: PathBuf,
    /// The policy that decided: a folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    /// Write the results
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What came of it.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Plans that came out the same, to the bit.
    same: usize,
    different: Vec<Difference>,
    /// Decisions that brought no plan, and are not made again.
    without_plan: usize,
    /// Whether the log ends as it should.
    finished: bool,
    /// What could not be read.
    unreadable: Vec<String>,
}

/// A decision that came out differently.
#[derive(Debug, Serialize)]
struct Difference {
    message: u64,
    plan: u64,
    asked_secs: f64,
    how: String,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let events = clearway_log::events(&arguments.file)?;
    // The period is that of each plan.
    let device = Device::flex();
    let plan_with = |policy| {
        Planner::new(policy, period(), &device)
            .map_err(|error| Error::policy(&arguments.policy, error))
    };
    let mut planner = plan_with(load_stored(&arguments.policy, &device)?)?;
    let mut report = Report {
        finished: true,
        ..Report::default()
    };
    for entry in events {
        let entry = match entry {
            Ok(entry) => entry,
            Err(LogError::Truncated { .. }) => {
                report.finished = false;
                continue;
            }
            Err(error) => {
                report.unreadable.push(error.to_string());
                continue;
            }
        };
        let Event::Decision(decision) = &entry.event else {
            continue;
        };
        let Ok(made) = &decision.result else {
            report.without_plan += 1;
            continue;
        };
        // With other weights it cannot come out the same, however it is set up.
        if *made.plan.model == *planner.policy().hash() {
            let precision = made.plan.arithmetic.map(|it| it.precision);
            if precision != planner.policy().precision() {
                planner = plan_with(load_packed(&arguments.policy, &device, precision)?)?;
            }
            // Where this CPU lacks the instructions, the replay says so.
            if let Some(arithmetic) = made.plan.arithmetic {
                arithmetic.level.limit();
            }
            planner = planner
                .set_up_as(&made.plan)
                .map_err(|error| Error::SetUp {
                    message: entry.message,
                    plan: decision.plan,
                    error: Box::new(error),
                })?;
        }
        match decision.replay(&planner) {
            Ok(_) => report.same += 1,
            Err(error) => report.different.push(Difference {
                message: entry.message,
                plan: decision.plan,
                asked_secs: decision.asked.as_secs_f64(),
                how: error.to_string(),
            }),
        }
    }
    if report.same + report.different.len() == 0 && report.unreadable.is_empty() {
        return Err(Error::NoPlan(arguments.file.clone()));
    }
    say!("{report}");
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(
        if report.different.is_empty() && report.unreadable.is_empty() {
            Verdict::Passed
        } else {
            Verdict::Failed
        },
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let made = self.same + self.different.len();
        write!(
            f,
            "{} of {made} plans came out the same, bit for bit",
            self.same
        )?;
        if self.without_plan > 0 {
            write!(f, "; {} decisions had brought none", self.without_plan)?;
        }
        if !self.finished {
            f.write_str("; the log is cut off")?;
        }
        for Difference {
            message,
            asked_secs,
            how,
            ..
        } in &self.different
        {
            write!(f, "\n  message {message}, at {asked_secs:.1} s: {how}")?;
        }
        for error in &self.unreadable {
            write!(f, "\n  unreadable: {error}")?;
        }
        Ok(())
    }
}
