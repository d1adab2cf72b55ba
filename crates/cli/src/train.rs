//! `clearway train`: a policy from demonstrations.

pub(crate) mod config;
pub(crate) mod course;
mod curve;

use std::path::PathBuf;

use burn::tensor::Device;
use clearway_planner::train::Trainer;

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
    let (recipe, folder, device) = (config.recipe(), &config.data.folder, Device::flex());
    let trainer = if arguments.resume {
        Trainer::resume(recipe, folder, &checkpoint, &device)
    } else {
        Trainer::new(recipe, folder, &device)
    };
    let trainer = trainer.map_err(|error| Error::Train(Box::new(error)))?;
    course::follow(trainer, &config.run, config.optimizer.steps)
}
