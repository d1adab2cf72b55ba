//! A run between two sittings.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use clearway_diffusion::train::Ema;
use clearway_layers::{ResumableAdamW, Weights, WeightsError, WeightsWriter};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{Recipe, TrainError, Trainer, adamw};

/// What a checkpoint says of its run, beside the tensors. It is one text: several have no order in a safetensors file, and
/// the same run would be other bytes.
pub(super) const RUN: &str = "run";

#[derive(Serialize, Deserialize)]
struct Run {
    step: u64,
    recipe: Value,
    /// The dataset's hash.
    dataset: String,
}

/// Where a checkpoint keeps what.
pub(super) const NETWORK: &str = "network.";
pub(super) const AVERAGE: &str = "average.";
pub(super) const OPTIMIZER: &str = "optimizer.";

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
        let mut weights = Weights::open(checkpoint).map_err(unreadable)?;
        let other = |what: &str| TrainError::OtherRun {
            file: file.clone(),
            what: what.into(),
        };
        let text = weights.metadata().get(RUN).ok_or_else(|| {
            unreadable(WeightsError::Missing {
                key: format!("__metadata__.{RUN}"),
            })
        })?;
        let run: Run = serde_json::from_str(text).map_err(|_| other("format"))?;
        if let Some(key) = different(&run.recipe, &comparable(&this.recipe)) {
            return Err(other(&format!("`{key}`")));
        }
        if run.dataset != this.dataset_hash {
            return Err(other("dataset"));
        }
        this.step = run.step;
        let network = this.config.network().init(device);
        let network = weights
            .load(network, |path| format!("{NETWORK}{path}"))
            .map_err(unreadable)?;
        let average = weights
            .load(network.clone(), |path| format!("{AVERAGE}{path}"))
            .map_err(unreadable)?;
        this.optimizer = ResumableAdamW::load(
            adamw(&this.recipe.optimizer),
            this.step as usize,
            &network,
            &mut weights,
            OPTIMIZER,
        )
        .map_err(unreadable)?;
        weights.finish().map_err(unreadable)?;
        this.network = network.train();
        this.average = Ema::resume(average, this.recipe.average.clone().into(), this.step);
        Ok(this)
    }

    /// Writes all that [`resume`](Self::resume) needs: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let mut writer = WeightsWriter::default();
        let run = json!(Run {
            step: self.step,
            recipe: comparable(&self.recipe),
            dataset: self.dataset_hash.clone(),
        });
        writer.metadata(RUN, run.to_string());
        writer.module(&self.network.valid(), |path| format!("{NETWORK}{path}"));
        writer.module(self.average.network(), |path| format!("{AVERAGE}{path}"));
        self.optimizer.save(&self.network, &mut writer, OPTIMIZER);
        writer.write(path).map_err(|error| TrainError::Write {
            file: path.display().to_string(),
            error,
        })
    }
}

/// What of a recipe must be the same in a run that is resumed: all but how long it is.
fn comparable(recipe: &Recipe) -> Value {
    let mut value = serde_json::to_value(recipe).expect("numbers, words, and maps of words");
    if let Some(optimizer) = value["optimizer"].as_object_mut() {
        optimizer.remove("steps");
    }
    value
}

/// The first key, with dots between levels, of which two values differ.
pub(super) fn different(a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let none = Value::Null;
                let [a, b] = [a, b].map(|it| it.get(key).unwrap_or(&none));
                let inner = different(a, b)?;
                Some(if inner.is_empty() {
                    key.clone()
                } else {
                    format!("{key}.{inner}")
                })
            })
        }
        _ => (a != b).then(String::new),
    }
}
