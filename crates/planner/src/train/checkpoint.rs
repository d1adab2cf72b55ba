//! A run between two sittings.

use std::path::Path;

use burn::tensor::Device;
use clearway_diffusion::train::Fitting;
use clearway_layers::{Checkpoint, Run};

use super::{Recipe, TrainError, Trainer, rule};

impl Trainer {
    /// Reads a dataset and goes on where a [checkpoint](Self::save) was made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the checkpoint cannot be read, or is of another recipe or dataset. The recipe's number of
    /// steps may be another: the learning rate is then another from there on.
    pub fn resume(
        recipe: Recipe,
        folder: &Path,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut this = Self::new(recipe, folder, device)?;
        let file = checkpoint.display().to_string();
        let unreadable = |error| TrainError::Checkpoint {
            file: file.clone(),
            error,
        };
        let opened = Checkpoint::open(checkpoint).map_err(unreadable)?;
        let other = |what: &str| TrainError::OtherRun {
            file: file.clone(),
            what: what.into(),
        };
        let step = match opened.run() {
            None => return Err(other("format")),
            Some(run) => match run.difference(&this.recipe, &this.dataset_hash) {
                Some(what) => return Err(other(&what)),
                None => run.step,
            },
        };
        let network = this.config.network().init(device);
        let ([network, average], optimizer) = opened
            .load(network, rule(&this.recipe.optimizer), step)
            .map_err(unreadable)?;
        let decay = this.recipe.average.clone().into();
        this.fitting = Fitting::resume(network, average, decay, step);
        this.optimizer = optimizer;
        Ok(this)
    }

    /// Writes all that [`resume`](Self::resume) needs: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let run = Run {
            step: self.steps(),
            recipe: Run::comparable(&self.recipe),
            dataset: self.dataset_hash.clone(),
        };
        let networks = [self.fitting.network(), self.fitting.average()];
        let written = Checkpoint::write(path, &run, networks, &self.optimizer);
        written.map_err(|error| TrainError::Write {
            file: path.display().to_string(),
            error,
        })
    }
}
