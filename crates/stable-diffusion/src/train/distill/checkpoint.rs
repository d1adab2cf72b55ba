//! A distillation between two sittings.

use std::path::Path;

use burn::module::Module;
use burn::tensor::Device;
use clearway_diffusion::distill::Lessons;
use clearway_diffusion::train::Ema;
use clearway_layers::{ResumableOptimizer, Weights, WeightsError, WeightsWriter, first_difference};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::matching::Critic;
use super::teaching::Teacher;
use super::{Distillation, Distiller};
use crate::Unet;
use crate::dataset::Pictures;
use crate::train::{TrainError, rule};

#[derive(Serialize, Deserialize)]
struct Run {
    step: u64,
    recipe: Value,
    /// The dataset's hash.
    dataset: String,
    /// That of the teacher's weights.
    teacher: String,
    /// That of the weights that the student began with.
    start: String,
}

/// What a checkpoint says of its run, beside the tensors, as [`clearway_layers::Checkpoint`] does.
const RUN: &str = "run";

/// Where a checkpoint keeps what.
const NETWORK: &str = "network.";
const AVERAGE: &str = "average.";
const OPTIMIZER: &str = "optimizer.";

/// And what a training run has not.
const PREDECESSOR: &str = "predecessor.";
const TARGET: &str = "target.";
const CRITIC: &str = "critic.";
const CRITIC_OPTIMIZER: &str = "critic_optimizer.";

impl Distiller {
    /// Reads a teacher, and goes on where a [checkpoint](Self::save) was made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the checkpoint cannot be read, or is of another recipe, teacher or dataset. How many steps
    /// there are is part of the recipe, since it says when what is learned.
    pub fn resume(
        recipe: Distillation,
        teacher: &Path,
        pictures: Pictures,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut this = Self::new(recipe, teacher, pictures, device)?;
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
        if let Some(key) = first_difference(&run.recipe, &json!(this.recipe)) {
            return Err(other(&format!("`{key}`")));
        }
        for (what, found, expected) in [
            ("dataset", &run.dataset, &this.hash),
            ("teacher", &run.teacher, &this.teacher_hash),
            ("student's beginning", &run.start, &this.start_hash),
        ] {
            if found != expected {
                return Err(other(what));
            }
        }
        this.step = run.step;
        let made = this.step - this.phase().start.min(this.step);
        let mut load = |prefix: &str, like: &Unet| {
            weights
                .load(like.clone(), |path| format!("{prefix}{path}"))
                .map_err(unreadable)
        };
        let plain = this.model.config().init(device);
        let network = load(NETWORK, &plain)?;
        let average = load(AVERAGE, &plain)?;
        let lessons = this.phase().lessons.clone();
        if this.has_predecessor() {
            let predecessor = load(PREDECESSOR, &plain)?;
            this.teacher = Teacher::new(&predecessor, this.of_student);
            this.predecessor = Some(predecessor);
        }
        if matches!(lessons, Lessons::Jumps(_)) && this.step > 0 {
            let target = load(TARGET, &plain)?;
            this.target = Some(Ema::resume(target, this.target_decay(), made));
        }
        let critic = if matches!(lessons, Lessons::Matching(_)) && this.step > 0 {
            Some(load(CRITIC, &this.original)?)
        } else {
            None
        };
        let rule = rule(&this.recipe.optimizer);
        let mut optimizer = |steps: u64, network: &Unet, prefix: &str| {
            ResumableOptimizer::load(rule, steps as usize, network, &mut weights, prefix)
                .map_err(unreadable)
        };
        this.optimizer = optimizer(made, &network, OPTIMIZER)?;
        if let Some(critic) = critic {
            let steps = this.recipe.distill.critic_steps.unwrap_or(2) as u64;
            this.critic = Some(Critic {
                optimizer: optimizer(made * steps, &critic, CRITIC_OPTIMIZER)?,
                network: critic.train(),
            });
        }
        weights.finish().map_err(unreadable)?;
        this.network = network.train();
        this.average = Ema::resume(average, this.recipe.average.clone().into(), made);
        Ok(this)
    }

    /// Whether the teacher of the last step was a student itself.
    fn has_predecessor(&self) -> bool {
        let start = self.phase().start;
        let before = self.phases.iter().rfind(|phase| phase.start < start);
        let halves = |lessons: &Lessons| matches!(lessons, Lessons::Halving(_));
        halves(&self.phase().lessons) && before.is_some_and(|phase| halves(&phase.lessons))
    }

    /// Writes all that [`resume`](Self::resume) needs, but the teacher: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let mut writer = WeightsWriter::default();
        let run = json!(Run {
            step: self.step,
            recipe: json!(self.recipe),
            dataset: self.hash.clone(),
            teacher: self.teacher_hash.clone(),
            start: self.start_hash.clone(),
        });
        writer.metadata(RUN, run.to_string());
        let mut module = |network: &Unet, prefix: &str| {
            writer.module(network, |path| format!("{prefix}{path}"));
        };
        module(&self.network.valid(), NETWORK);
        module(self.average.network(), AVERAGE);
        if let Some(predecessor) = &self.predecessor {
            module(predecessor, PREDECESSOR);
        }
        if let Some(target) = &self.target {
            module(target.network(), TARGET);
        }
        if let Some(critic) = &self.critic {
            module(&critic.network.valid(), CRITIC);
        }
        self.optimizer.save(&self.network, &mut writer, OPTIMIZER);
        if let Some(critic) = &self.critic {
            let Critic { network, optimizer } = critic;
            optimizer.save(network, &mut writer, CRITIC_OPTIMIZER);
        }
        writer.write(path).map_err(|error| TrainError::Write {
            file: path.display().to_string(),
            error,
        })
    }
}
