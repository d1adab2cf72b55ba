//! `clearway policy`: a policy without a world.

mod check;
mod inspect;
mod plan;

use crate::Verdict;
use crate::error::Error;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print what a policy reads, writes and is
    Inspect(inspect::Arguments),
    /// Replay recorded cases and print the largest errors; exit code 1 above tolerance
    Check(check::Arguments),
    /// Plan once from observations in a file
    Plan(plan::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments),
        Command::Check(arguments) => check::run(arguments),
        Command::Plan(arguments) => plan::run(arguments),
    }
}
