//! `clearway log`: what a control loop decided, and whether it would again.

mod info;
mod replay;

use crate::Verdict;
use crate::error::Error;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Print what is in a log: decisions, verdicts, statuses, latencies
    Info(info::Arguments),
    /// Make every decision again and compare the plans bit by bit; exit code 1 if one differs
    Replay(replay::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    match command {
        Command::Info(arguments) => info::run(arguments),
        Command::Replay(arguments) => replay::run(arguments),
    }
}
