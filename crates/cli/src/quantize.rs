//! `clearway quantize`: a model with weights of fewer bits, and what it lost.

mod figure;
mod pictures;
mod policy;
mod report;

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use clearway_layers::PackPolicy;

use crate::Verdict;
use crate::error::{Error, check_writable, write_json};
use report::Report;

/// What is kept of the layers' inputs at a time, in bytes; layers that do not fit wait for another look.
const CALIBRATION_MEMORY: usize = 2 << 30;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A policy's folder, or a folder of Stable Diffusion as diffusers writes it
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Where the model is written; must not be there yet
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// What weights are stored in
    #[arg(long, value_enum, value_name = "NAME")]
    precision: Precision,
    /// How many codes of four bits share a scale: a multiple of 8
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = group)]
    group: usize,
    /// What the network reads, to round with it in mind and to measure on: a `LeRobotDataset` folder for a policy, a text file
    /// with a prompt a line for Stable Diffusion
    #[arg(long, value_name = "DATA")]
    calibrate: Option<PathBuf>,
    /// Round every weight to the nearest code all the same, and only measure on the data
    #[arg(long, requires = "calibrate")]
    nearest: bool,
    /// How many windows of the data are looked at
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(8..=100_000))]
    samples: u32,
    /// Keep these layers in f32 as well: a pattern of names, in which * stands for any characters; may be given several times
    #[arg(long, value_name = "PATTERN")]
    keep: Vec<String>,
    /// Keep no layers but those of --keep, not even those that the network would
    #[arg(long)]
    keep_only: bool,
    /// Which networks of Stable Diffusion [default: those of unet and vae that are there]
    #[arg(long, value_enum, value_name = "NAME", value_delimiter = ',')]
    only: Vec<Part>,
    /// What is drawn at random depends on it
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Draw the error of the whole network at each noise level: an SVG file
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    /// Write the report as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What weights can be stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Precision {
    /// The upper halves of f32
    Bf16,
    /// Codes of 8 bits, a scale for each output
    Int8,
    /// Codes of 4 bits, a scale for each group
    Int4,
}

/// A network of Stable Diffusion.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Unet,
    Vae,
    Text,
}

fn group(text: &str) -> Result<usize, String> {
    let group: usize = text.parse().map_err(|_| "is no number".to_owned())?;
    if group == 0 || !group.is_multiple_of(8) || group > 4096 {
        return Err("must be 8, 16, .. or 4096".to_owned());
    }
    Ok(group)
}

impl Arguments {
    fn policy(&self) -> PackPolicy {
        PackPolicy {
            precision: match self.precision {
                Precision::Bf16 => clearway_layers::Precision::Bf16,
                Precision::Int8 => clearway_layers::Precision::Int8,
                Precision::Int4 => clearway_layers::Precision::Int4 { group: self.group },
            },
            keep: self.keep_only.then(Vec::new),
            keep_also: self.keep.clone(),
        }
    }

    /// Whether weights are rounded for what the data make layers read.
    fn rounds_for_data(&self) -> bool {
        self.calibrate.is_some() && !self.nearest && self.policy().precision.is_codes()
    }

    /// That each pattern is that of a layer: one that is misspelt keeps nothing.
    fn check(&self, layers: &[String]) -> Result<(), Error> {
        match self.policy().unmatched(layers) {
            Some(pattern) => Err(Error::Argument {
                argument: "--keep",
                reason: format!("`{pattern}` is the name of no layer"),
            }),
            None => Ok(()),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    check_writable(arguments.plot.as_deref())?;
    let Arguments { model, out, .. } = arguments;
    if out.exists() {
        return Err(Error::Argument {
            argument: "--out",
            reason: format!("{} is there already", out.display()),
        });
    }
    if !model.is_dir() {
        return Err(Error::Argument {
            argument: "--model",
            reason: format!(
                "{} is no folder: give a policy's, or one that diffusers' save_pretrained wrote",
                model.display()
            ),
        });
    }
    // A copy of a folder into itself has no end.
    let parent = match out.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let whole =
        |path: &Path| std::fs::canonicalize(path).map_err(|error| Error::read(path, &error));
    if whole(parent)?.starts_with(whole(model)?) {
        return Err(Error::Argument {
            argument: "--out",
            reason: format!("{} lies in the model's own folder", out.display()),
        });
    }
    // Written beside its place, so that a folder that is there is whole; under a name that no one else has.
    let mut name = out.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.part", std::process::id()));
    let beside = out.with_file_name(name);
    if beside.exists() {
        return Err(Error::Argument {
            argument: "--out",
            reason: format!("{} is in the way", beside.display()),
        });
    }
    let write = || {
        let report = if model.join("unet").is_dir() {
            pictures::quantize(arguments, &beside)?
        } else {
            policy::quantize(arguments, &beside)?
        };
        std::fs::rename(&beside, out).map_err(|error| Error::write(out, &error))?;
        Ok::<Report, Error>(report)
    };
    let report = write();
    if report.is_err() {
        // It may not even be there; the error that matters is the first.
        let _ = std::fs::remove_dir_all(&beside);
    }
    let report = report?;
    report.say();
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    if let Some(path) = &arguments.plot {
        figure::write(&report, path)?;
    }
    Ok(Verdict::Passed)
}

/// Copies a folder, but for what `is_left_out`.
fn copy(from: &Path, to: &Path, is_left_out: &dyn Fn(&Path) -> bool) -> Result<(), Error> {
    let failed = |path: &Path, error: std::io::Error| Error::read(path, &error);
    std::fs::create_dir_all(to).map_err(|error| Error::write(to, &error))?;
    for entry in std::fs::read_dir(from).map_err(|error| failed(from, error))? {
        let path = entry.map_err(|error| failed(from, error))?.path();
        let target = to.join(path.file_name().unwrap_or_default());
        if is_left_out(&path) {
            continue;
        }
        if path.is_dir() {
            copy(&path, &target, is_left_out)?;
        } else {
            std::fs::copy(&path, &target).map_err(|error| failed(&path, error))?;
        }
    }
    Ok(())
}
