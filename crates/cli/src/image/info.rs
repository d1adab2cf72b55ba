use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clearway_stable_diffusion::{
    Component, Files, GenerateError, LowRankUpdate, Parameters, SchedulerConfig, StableDiffusion,
};

use crate::Verdict;
use crate::error::Error;
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A PNG, a folder written by diffusers' `save_pretrained`, a single file, or a LoRA
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    let path = &arguments.path;
    if is_png(path) {
        return picture(path);
    }
    model(path)?;
    Ok(Verdict::Passed)
}

fn is_png(path: &Path) -> bool {
    let mut begin = Vec::new();
    let is_file = path.is_file();
    let read =
        is_file && File::open(path).is_ok_and(|file| file.take(4).read_to_end(&mut begin).is_ok());
    read && begin == *b"\x89PNG"
}

fn picture(path: &Path) -> Result<Verdict, Error> {
    let parameters = Parameters::read(path).map_err(|error| Error::Picture {
        path: path.to_owned(),
        error,
    })?;
    match parameters {
        Some(parameters) => say!("{}", parameters.infotext()),
        None => say!("the picture does not say how it was made"),
    }
    Ok(Verdict::Passed)
}

fn model(path: &Path) -> Result<(), Error> {
    let wrong = |error: GenerateError| Error::Model {
        path: path.to_owned(),
        error: Box::new(error),
    };
    let files = Files::open(path).map_err(|error| wrong(error.into()))?;
    let mut errors = Vec::new();
    let mut found = 0;
    for component in [
        Component::TextEncoder,
        Component::Unet,
        Component::Autoencoder,
    ] {
        match files.weights(component) {
            Ok(weights) => {
                let mut types: BTreeMap<String, usize> = BTreeMap::new();
                let (mut tensors, mut parameters) = (0, 0);
                for key in weights.keys() {
                    let numbers: usize = weights.shape(key).into_iter().flatten().product();
                    tensors += 1;
                    parameters += numbers;
                    *types
                        .entry(weights.dtype(key).unwrap_or_default())
                        .or_default() += numbers;
                }
                let types: Vec<_> = types.keys().map(String::as_str).collect();
                say!(
                    "{:14} {:>12} parameters in {:>4} tensors, {}",
                    component.name(),
                    parameters,
                    tensors,
                    types.join(" and ")
                );
                found += 1;
            }
            Err(error) => errors.push(error),
        }
    }
    if found == 0 {
        // A file of nothing that a model has may be an update of one.
        if let Ok(update) = LowRankUpdate::open(path, 1.0) {
            say!("LoRA of {} layers", update.layers());
            return Ok(());
        }
        let error = errors.swap_remove(0);
        return Err(wrong(error.into()));
    }
    for error in errors {
        say!("{error}");
    }
    let device = burn::tensor::Device::flex();
    let model = StableDiffusion::of(files, &device, None).map_err(wrong)?;
    let SchedulerConfig {
        method,
        class,
        schedule,
        parameterization,
        ..
    } = model.scheduler();
    let solver = method.map_or_else(
        || format!("{class}, which is not here"),
        |it| it.to_string(),
    );
    say!(
        "noise          {} timesteps, predicts {parameterization:?}, solver {solver}",
        schedule.len()
    );
    Ok(())
}
