//! `clearway image`: pictures by Stable Diffusion.

mod check;
pub(crate) mod generate;
mod info;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_stable_diffusion::{Files, StableDiffusion};

use crate::error::Error;
use crate::{Verdict, precision};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make pictures of a prompt
    Generate(generate::Generate),
    /// Make pictures of a prompt and a picture to begin with
    Img2img(generate::FromPicture),
    /// Paint new what a mask says, and leave the rest
    Inpaint(generate::Inpaint),
    /// Replay a recorded pipeline and print the largest errors; exit code 1 above tolerance
    Check(check::Arguments),
    /// Print how a PNG was made, or what a model holds
    Info(info::Arguments),
}

pub(crate) fn run(command: &Command) -> Result<Verdict, Error> {
    let verdict = match command {
        Command::Generate(arguments) => arguments.run(),
        Command::Img2img(arguments) => arguments.run(),
        Command::Inpaint(arguments) => arguments.run(),
        Command::Check(arguments) => check::run(arguments),
        Command::Info(arguments) => info::run(arguments),
    };
    if let Some(megabytes) = peak_memory() {
        tracing::info!(megabytes, "memory at its peak");
    }
    verdict
}

/// Where a model lies.
#[derive(Debug, clap::Args)]
struct ModelArguments {
    /// A folder written by diffusers' `save_pretrained`, or a single .safetensors or .ckpt file
    #[arg(long, value_name = "PATH")]
    model: PathBuf,
    /// A folder of diffusers whose configurations a single file has, if not Stable Diffusion 1's or 2's
    #[arg(long, value_name = "DIR")]
    configs: Option<PathBuf>,
    #[command(flatten)]
    precision: precision::Arguments,
}

impl ModelArguments {
    fn open(&self) -> Result<StableDiffusion, Error> {
        let device = Device::flex();
        let model = self.files().and_then(|files| {
            if let Some(precision) = self.precision.chosen() {
                return StableDiffusion::of(files, &device, precision.packed());
            }
            let otherwise = Some(clearway_layers::Precision::F32);
            Ok(StableDiffusion::of(files, &device, otherwise)?.as_stored())
        });
        model.map_err(|error| Error::Model {
            path: self.model.clone(),
            error: Box::new(error),
        })
    }

    fn files(&self) -> Result<Files, clearway_stable_diffusion::GenerateError> {
        let files = Files::open(&self.model)?;
        Ok(match &self.configs {
            Some(folder) => files.with_configs(folder),
            None => files,
        })
    }
}

/// The most memory that this process had, in megabytes, where the system says it.
pub(crate) fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string(Path::new("/proc/self/status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: u64 = line.split_whitespace().next()?.parse().ok()?;
    Some(kilobytes / 1024)
}
