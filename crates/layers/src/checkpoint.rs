//! A training run between two sittings.

use std::io;
use std::path::Path;

use burn::module::Module;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{ResumableOptimizer, Rule, Weights, WeightsError, WeightsWriter};

/// What a checkpoint says of its run, beside the tensors. It is one text: several have no order in a safetensors file, and
/// the same run would be other bytes.
const RUN: &str = "run";

/// Where a checkpoint keeps what.
const NETWORK: &str = "network.";
const AVERAGE: &str = "average.";
const OPTIMIZER: &str = "optimizer.";

/// What a checkpoint says of its run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// How many steps were made.
    pub step: u64,
    /// The [comparable](Self::comparable) part of what the run was told.
    pub recipe: Value,
    /// The dataset's hash.
    pub dataset: String,
}

impl Run {
    /// What of a recipe must be the same in a run that is resumed: all but how long it is, `optimizer.steps`.
    ///
    /// # Panics
    ///
    /// If the recipe is not made of numbers, words, lists, and maps of words.
    pub fn comparable(recipe: &impl Serialize) -> Value {
        let mut value = serde_json::to_value(recipe).expect("numbers, words, and maps of words");
        if let Some(optimizer) = value["optimizer"].as_object_mut() {
            optimizer.remove("steps");
        }
        value
    }

    /// What of a recipe or a dataset is not this run's; none if it can go on with them.
    pub fn difference(&self, recipe: &impl Serialize, dataset: &str) -> Option<String> {
        match first_difference(&self.recipe, &Self::comparable(recipe)) {
            Some(key) => Some(format!("`{key}`")),
            None => (self.dataset != dataset).then(|| "dataset".into()),
        }
    }
}

/// A checkpoint that was opened: a safetensors file of a network, the average of its weights, the averages of its optimizer,
/// and what is said of the run.
#[derive(Debug)]
pub struct Checkpoint {
    weights: Weights,
    run: Option<Run>,
}

impl Checkpoint {
    /// Writes a checkpoint, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write<M: Module>(
        path: &Path,
        run: &Run,
        [network, average]: [&M; 2],
        optimizer: &ResumableOptimizer,
    ) -> io::Result<()> {
        let mut writer = WeightsWriter::default();
        writer.metadata(RUN, json!(run).to_string());
        writer.module(&network.valid(), |path| format!("{NETWORK}{path}"));
        writer.module(average, |path| format!("{AVERAGE}{path}"));
        optimizer.save(network, &mut writer, OPTIMIZER);
        writer.write(path)
    }

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// As [`Weights::open`], and if it says nothing of a run.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let weights = Weights::open(path)?;
        let run = weights.metadata().get(RUN);
        let run = run.ok_or_else(|| WeightsError::Missing {
            key: format!("__metadata__.{RUN}"),
        })?;
        let run = serde_json::from_str(run).ok();
        Ok(Self { weights, run })
    }

    /// What was said of the run; none if it was said in another format.
    pub fn run(&self) -> Option<&Run> {
        self.run.as_ref()
    }

    /// Fills a network and its average, and an optimizer that made `steps` steps.
    ///
    /// # Errors
    ///
    /// If a tensor is missing, of another shape, not finite, or left over.
    pub fn load<M: Module>(
        mut self,
        network: M,
        rule: Rule,
        steps: u64,
    ) -> Result<([M; 2], ResumableOptimizer), WeightsError> {
        let weights = &mut self.weights;
        let network = weights.load(network, |path| format!("{NETWORK}{path}"))?;
        let average = weights.load(network.clone(), |path| format!("{AVERAGE}{path}"))?;
        let optimizer =
            ResumableOptimizer::load(rule, steps as usize, &network, weights, OPTIMIZER)?;
        weights.finish()?;
        Ok(([network, average], optimizer))
    }
}

/// The first key, with dots between levels, of which two values differ.
pub fn first_difference(a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let none = Value::Null;
                let [a, b] = [a, b].map(|it| it.get(key).unwrap_or(&none));
                let inner = first_difference(a, b)?;
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
