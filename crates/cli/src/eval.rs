//! `clearway eval`: how good what was trained is.

mod pictures;

use crate::Verdict;
use crate::error::Error;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Draw pictures in many ways, and compare them with a test set
    Pictures(pictures::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Pictures(arguments) => pictures::run(arguments),
    }
}
