//! The `clearway` command: plans, simulates and makes pictures from the shell.
//!
//! Exit codes: 0 success, 1 a check that ran and failed, 2 a wrong argument or input.
#![allow(clippy::print_stderr, reason = "a command says what went wrong")]

mod bench;
mod closed_loop;
mod compare;
#[cfg(feature = "train")]
mod data;
mod demo;
#[cfg(feature = "train")]
mod demonstrate;
#[cfg(feature = "train")]
mod distill;
mod error;
#[cfg(feature = "train")]
mod eval;
mod image;
#[cfg(feature = "train")]
mod interrupt;
mod log;
mod output;
mod plan;
mod policy;
mod precision;
#[cfg(feature = "train")]
mod quantize;
#[cfg(feature = "rerun")]
mod recording;
mod replan;
mod sampling;
mod sim;
mod statistics;
#[cfg(feature = "train")]
mod train;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use error::Error;

/// Allocating is a visible share of a small network's pass; this allocator is the faster one.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Diffusion for robots: plans, and pictures on the same engine.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true)]
struct Arguments {
    /// Threads of a network pass [default: all cores]
    #[arg(long, global = true, value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print what happens inside; twice for more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Let the shipped policy drive a few PushT episodes, and record them
    Demo(demo::Arguments),
    /// Evaluate a policy in a simulated world
    #[command(subcommand)]
    Sim(sim::Command),
    /// Plan ways from a start to a goal, and measure how good they are
    #[command(subcommand)]
    Plan(Box<plan::Command>),
    /// Look into a policy, check it, or plan with it
    #[command(subcommand)]
    Policy(policy::Command),
    /// Look into the log of a control loop, or make its decisions again
    #[command(subcommand)]
    Log(log::Command),
    /// Make pictures with Stable Diffusion, check a model, or look into one
    #[command(subcommand)]
    Image(Box<image::Command>),
    /// Train a policy from demonstrations, or a network of pictures from pictures
    #[cfg(feature = "train")]
    Train(train::Arguments),
    /// Store a model's weights in fewer bits, and measure what it loses
    #[cfg(feature = "train")]
    Quantize(Box<quantize::Arguments>),
    /// Make a policy or a model of pictures that needs fewer steps, or a smaller one, from another
    #[cfg(feature = "train")]
    Distill(distill::Arguments),
    /// Evaluate what was trained: quality against steps, bits and guidance
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Eval(eval::Command),
    /// Look into a dataset of demonstrations or of pictures
    #[cfg(feature = "train")]
    #[command(subcommand)]
    Data(data::Command),
    /// Measure how fast networks run here, beside what the machine can do
    #[command(subcommand)]
    Bench(bench::Command),
}

/// What a command that could run has to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Passed,
    Failed,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(Verdict::Passed) => ExitCode::SUCCESS,
        Ok(Verdict::Failed) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(arguments: Arguments) -> Result<Verdict, Error> {
    let level = match arguments.verbose {
        0 => "warn",
        1 => "info",
        _ => "debug",
    };
    // A viewer that is not there is this program's error to report, once.
    let default = format!("{level},re_grpc_client=off");
    let filter =
        tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .init();
    if let Some(threads) = arguments.threads {
        rayon::ThreadPoolBuilder::new()
            .num_threads(threads.into())
            .build_global()
            .map_err(|error| Error::Threads(error.to_string()))?;
    }
    match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Sim(command) => sim::run(&command),
        Command::Plan(command) => plan::run(&command),
        Command::Policy(command) => policy::run(&command),
        Command::Log(command) => log::run(&command),
        Command::Image(command) => image::run(&command),
        #[cfg(feature = "train")]
        Command::Train(arguments) => train::run(&arguments),
        #[cfg(feature = "train")]
        Command::Quantize(arguments) => quantize::run(&arguments),
        #[cfg(feature = "train")]
        Command::Distill(arguments) => distill::run(&arguments),
        #[cfg(feature = "train")]
        Command::Eval(command) => eval::run(&command),
        #[cfg(feature = "train")]
        Command::Data(command) => data::run(&command),
        Command::Bench(command) => bench::run(&command),
    }
}
