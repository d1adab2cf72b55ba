//! What can be trained.

use std::path::Path;

use burn::tensor::Device;
use clearway_planner::paths::train::PathTrainer;
use clearway_planner::train::{Distiller, Step, Trainer};
use clearway_stable_diffusion::dataset::{Pictures, Split};
use clearway_stable_diffusion::train as pictures;

use super::config::Config;
use crate::error::Error;

/// What a run makes, which is what its folder is called.
pub(super) const POLICY: &str = "policy";
pub(super) const MODEL: &str = "model";
pub(super) const CLASSIFIER: &str = "classifier";
pub(super) const PRIOR: &str = "prior";

/// A network that is being trained.
pub(crate) trait Run {
    /// What it will be.
    fn kind(&self) -> &'static str;

    /// How large it is, and on what it is trained.
    fn words(&self) -> String;

    fn steps(&self) -> u64;

    fn step(&mut self) -> Result<Step, Error>;

    fn validate(&self, most: usize) -> Option<f64>;

    /// Writes what is complete after this step though the run goes on: a student that teaches the next.
    fn keep(&self, _output: &Path) -> Result<(), Error> {
        Ok(())
    }

    /// Writes the checkpoint and then the network: one without a checkpoint beside it is not of a run.
    fn save(&self, output: &Path, checkpoint: &Path) -> Result<(), Error>;
}

/// What the file asks for, from its beginning or from a checkpoint.
pub(super) fn begin(config: &Config, checkpoint: Option<&Path>) -> Result<Box<dyn Run>, Error> {
    if let Some(recipe) = &config.pictures {
        let trainer = of_pictures::<pictures::Drawing>(config, recipe, checkpoint)?;
        let parameters = trainer.network().parameters();
        return Ok(Box::new(Pictured {
            trainer,
            kind: MODEL,
            parameters,
        }));
    }
    if let Some(recipe) = &config.classifier {
        let trainer = of_pictures::<pictures::Classifying>(config, recipe, checkpoint)?;
        let parameters = burn::module::Module::num_params(trainer.network());
        return Ok(Box::new(Pictured {
            trainer,
            kind: CLASSIFIER,
            parameters,
        }));
    }
    if let Some(recipe) = &config.guidance {
        let trainer = of_pictures::<pictures::Guiding>(config, recipe, checkpoint)?;
        let parameters = trainer.network().parameters();
        return Ok(Box::new(Pictured {
            trainer,
            kind: MODEL,
            parameters,
        }));
    }
    if let (Some(prior), Some(demonstrated)) = (&config.paths, &config.demonstrations) {
        let failed = |error| Error::TrainPaths(Box::new(error));
        let (recipe, device) = (config.recipe_of_paths(prior), Device::flex());
        let demonstrations = demonstrated.make(prior)?;
        let trainer = match checkpoint {
            Some(checkpoint) => PathTrainer::resume(recipe, demonstrations, checkpoint, &device),
            None => PathTrainer::new(recipe, demonstrations, &device),
        };
        return Ok(Box::new(trainer.map_err(failed)?));
    }
    let (recipe, folder, device) = (config.recipe(), &config.data.folder, Device::flex());
    let trainer = match checkpoint {
        Some(checkpoint) => Trainer::resume(recipe, folder, checkpoint, &device),
        None => Trainer::new(recipe, folder, &device),
    };
    Ok(Box::new(trainer.map_err(Error::train)?))
}

fn of_pictures<T: pictures::Task + Sync>(
    config: &Config,
    recipe: &T::Recipe,
    checkpoint: Option<&Path>,
) -> Result<pictures::Trainer<T>, Error> {
    let failed = |error| Error::TrainPictures(Box::new(error));
    let (recipe, device) = (config.recipe_of(recipe), Device::flex());
    let read = Pictures::open(&config.data.folder, Split::Train);
    let read = read.map_err(|error| failed(error.into()))?;
    match checkpoint {
        Some(checkpoint) => pictures::Trainer::resume(recipe, read, checkpoint, &device),
        None => pictures::Trainer::new(recipe, read, &device),
    }
    .map_err(failed)
}

macro_rules! policy {
    ($($learner:ty { $($more:item)* })*) => {$(
        impl Run for $learner {
            $($more)*

            fn kind(&self) -> &'static str {
                POLICY
            }

            fn words(&self) -> String {
                let [windows, held_out] = self.windows();
                format!(
                    "{} parameters, {windows} windows of {} episodes, {held_out} windows held out",
                    self.network().parameters(),
                    self.dataset().episodes().len()
                )
            }

            fn steps(&self) -> u64 {
                <$learner>::steps(self)
            }

            fn step(&mut self) -> Result<Step, Error> {
                <$learner>::step(self).map_err(Error::train)
            }

            fn validate(&self, most: usize) -> Option<f64> {
                <$learner>::validate(self, most)
            }

            fn save(&self, output: &Path, checkpoint: &Path) -> Result<(), Error> {
                <$learner>::save(self, checkpoint).map_err(Error::train)?;
                self.save_policy(&output.join(POLICY)).map_err(Error::train)
            }
        }
    )*};
}

policy! {
    Trainer {}
    Distiller {
        fn keep(&self, output: &Path) -> Result<(), Error> {
            let Some(sampling) = self.completed() else {
                return Ok(());
            };
            let folder = output.join(format!("{POLICY}-{}", sampling.steps));
            self.save_policy(&folder).map_err(Error::train)
        }
    }
}

impl Run for PathTrainer {
    fn kind(&self) -> &'static str {
        PRIOR
    }

    fn words(&self) -> String {
        let [trained, held_out] = self.counts();
        format!(
            "{} parameters, {trained} demonstrations, {held_out} held out",
            self.network().parameters()
        )
    }

    fn steps(&self) -> u64 {
        PathTrainer::steps(self)
    }

    fn step(&mut self) -> Result<Step, Error> {
        let step = PathTrainer::step(self);
        step.map_err(|error| Error::TrainPaths(Box::new(error)))
    }

    fn validate(&self, most: usize) -> Option<f64> {
        PathTrainer::validate(self, most)
    }

    fn save(&self, output: &Path, checkpoint: &Path) -> Result<(), Error> {
        let saved = PathTrainer::save(self, checkpoint);
        let saved = saved.and_then(|()| self.save_prior(&output.join(PRIOR)));
        saved.map_err(|error| Error::TrainPaths(Box::new(error)))
    }
}

/// A network of pictures.
struct Pictured<T: pictures::Task> {
    trainer: pictures::Trainer<T>,
    kind: &'static str,
    parameters: usize,
}

impl<T: pictures::Task + Sync> Run for Pictured<T> {
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn words(&self) -> String {
        let (counts, pictures) = (self.trainer.counts(), self.trainer.pictures());
        of_what(self.parameters, counts, pictures)
    }

    fn steps(&self) -> u64 {
        self.trainer.steps()
    }

    fn step(&mut self) -> Result<Step, Error> {
        let step = self.trainer.step();
        step.map_err(|error| Error::TrainPictures(Box::new(error)))
    }

    fn validate(&self, most: usize) -> Option<f64> {
        self.trainer.validate(most)
    }

    fn save(&self, output: &Path, checkpoint: &Path) -> Result<(), Error> {
        let saved = self.trainer.save(checkpoint);
        let saved = saved.and_then(|()| self.trainer.save_network(&output.join(self.kind)));
        saved.map_err(|error| Error::TrainPictures(Box::new(error)))
    }
}

/// A model of pictures that learns from another.
pub(crate) struct PictureStudent(pub(crate) pictures::distill::Distiller);

impl Run for PictureStudent {
    fn kind(&self) -> &'static str {
        MODEL
    }

    fn words(&self) -> String {
        let parameters = self.0.network().parameters();
        of_what(parameters, self.0.counts(), self.0.pictures())
    }

    fn steps(&self) -> u64 {
        self.0.steps()
    }

    fn step(&mut self) -> Result<Step, Error> {
        let step = self.0.step();
        step.map_err(|error| Error::TrainPictures(Box::new(error)))
    }

    fn validate(&self, most: usize) -> Option<f64> {
        self.0.validate(most)
    }

    fn keep(&self, output: &Path) -> Result<(), Error> {
        let Some(passes) = self.0.completed() else {
            return Ok(());
        };
        let saved = self.0.save_model(&output.join(format!("{MODEL}-{passes}")));
        saved.map_err(|error| Error::TrainPictures(Box::new(error)))
    }

    fn save(&self, output: &Path, checkpoint: &Path) -> Result<(), Error> {
        let saved = self.0.save(checkpoint);
        let saved = saved.and_then(|()| self.0.save_model(&output.join(MODEL)));
        saved.map_err(|error| Error::TrainPictures(Box::new(error)))
    }
}

/// How large a network of pictures is, and on what it is trained.
fn of_what(parameters: usize, [trained, held_out]: [usize; 2], pictures: &Pictures) -> String {
    let [height, width] = pictures.size();
    format!(
        "{parameters} parameters, {trained} pictures of {width} × {height} pixels in {} classes, {held_out} held out",
        pictures.names().len()
    )
}
