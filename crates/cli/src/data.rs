//! `clearway data`: demonstrations without a policy.

mod inspect;

use crate::Verdict;
use crate::error::Error;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Read a dataset of LeRobot's whole, and print what is in it
    Inspect(inspect::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Inspect(arguments) => inspect::run(arguments),
    }
}
