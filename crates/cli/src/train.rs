//! `clearway train`: a policy or a path prior from demonstrations, or a network of pictures from pictures.

pub(crate) mod config;
pub(crate) mod course;
mod curve;
mod demonstrations;
pub(crate) mod run;

use std::path::PathBuf;

use crate::Verdict;
use crate::error::Error;
use config::Config;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// What to train, on what, how and for how long
    #[arg(value_name = "CONFIG.toml")]
    config: PathBuf,
    /// The dataset, in place of the one that the file names
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Where the run is written, in place of what the file says
    #[arg(long, value_name = "DIR")]
    output: Option<PathBuf>,
    /// Go on with the run in the output folder
    #[arg(long)]
    resume: bool,
    /// Record the curve for rerun, besides `curve.csv`: a .rrd file, or the rerun+http:// address of a viewer that runs
    #[arg(long, value_name = "FILE")]
    record: Option<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let mut config = Config::read(&arguments.config)?;
    if let Some(data) = &arguments.data {
        config.data.folder.clone_from(data);
    }
    if let Some(output) = &arguments.output {
        config.run.output.clone_from(output);
    }
    let checkpoint = course::checkpoint(&config.run, arguments.resume)?;
    let resumed = arguments.resume.then_some(checkpoint.as_path());
    let mut learner = run::begin(&config, resumed)?;
    course::follow(
        &mut *learner,
        &config.run,
        arguments.record.as_deref(),
        config.optimizer.steps,
    )
}
