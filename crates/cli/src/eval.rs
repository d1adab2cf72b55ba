//! `clearway eval`: how good what was trained is.

mod pictures;
mod policies;

use crate::Verdict;
use crate::error::Error;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Run policies over the same starts, sampled in many ways, and compare them
    Policies(policies::Arguments),
    /// Draw pictures in many ways, and compare them with a test set
    Pictures(pictures::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Policies(arguments) => policies::run(arguments),
        Command::Pictures(arguments) => pictures::run(arguments),
    }
}
