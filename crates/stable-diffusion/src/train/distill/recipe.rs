//! What a distillation of pictures is told.

use std::path::PathBuf;

use clearway_diffusion::distill::{DistillRecipe, Kind};
use clearway_diffusion::train::{AverageRecipe, OptimizerRecipe, WrongValue};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::picture_model::PictureModel;
use crate::train::{DataRecipe, Recipe, TrainError};

/// Everything that a distillation is a function of, besides its teacher and its dataset.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Distillation {
    /// Of everything that is drawn.
    pub seed: u64,
    /// Who learns.
    pub student: StudentRecipe,
    /// What of the dataset is seen, and when.
    pub data: DataRecipe,
    /// What is learned.
    pub distill: DistillRecipe,
    /// How.
    pub optimizer: OptimizerRecipe,
    /// The average of weights that is evaluated and saved.
    pub average: AverageRecipe,
}

/// What of a student differs from its teacher, and what it is asked for. Names are diffusers', where it has them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudentRecipe {
    /// The folder of a model that the student is at first; its teacher where it is left out.
    pub start: Option<PathBuf>,
    /// The smallest and the largest guidance scale that it is taught, of a teacher that knows scales; 1 to 4 where they are left
    /// out. They may be the same.
    pub scales: Option<[f64; 2]>,
    /// What it predicts: `sample` where its beginning predicts noise and it shall sample in few steps, else what its beginning
    /// does.
    pub prediction_type: Option<String>,
    /// The residual blocks of each stage on the way down, where they are fewer: then it begins with those that are left.
    pub layers_per_block: Option<Vec<usize>>,
    /// Whether it has a middle; as its beginning where it is left out.
    pub mid_block: Option<bool>,
}

/// The scales that are taught where a recipe does not say them.
const SCALES: [f64; 2] = [1.0, 4.0];

impl StudentRecipe {
    /// The scales that are taught; none of a teacher that knows none.
    pub(super) fn scales(&self, knows_guidance: bool) -> Result<Option<[f64; 2]>, TrainError> {
        let [least, most] = self.scales.unwrap_or(SCALES);
        let are_scales = least >= 0.0 && most >= least && most.is_finite();
        match self.scales {
            Some(_) if !knows_guidance => Err(TrainError::NoScales),
            Some(found) if !are_scales => Err(TrainError::TaughtScales { found }),
            _ => Ok(knows_guidance.then_some([least, most])),
        }
    }

    /// The student's configurations: those of its beginning, but for what the recipe changes.
    pub(super) fn said(&self, start: &PictureModel, kind: Kind) -> [Value; 2] {
        let [mut unet, mut scheduler] = start.said().clone();
        if let Some(layers) = &self.layers_per_block {
            unet["layers_per_block"] = json!(layers);
        }
        match self.mid_block {
            Some(true) => unet["mid_block_type"] = json!("UNetMidBlock2D"),
            Some(false) => unet["mid_block_type"] = Value::Null,
            None => {}
        }
        // Whoever samples in few steps begins in pure noise, where a network that predicts noise says nothing.
        let of_noise =
            start.scheduler().parameterization == clearway_diffusion::Parameterization::Noise;
        let few = (kind != Kind::Structure && of_noise).then(|| "sample".to_owned());
        if let Some(prediction) = self.prediction_type.clone().or(few) {
            scheduler["prediction_type"] = json!(prediction);
        }
        // Few steps start at the last timestep: a grid that begins part-way leaves the first noise in the picture.
        if kind != Kind::Structure {
            scheduler["timestep_spacing"] = json!("trailing");
        }
        [unet, scheduler]
    }
}

impl Distillation {
    /// Makes sure that the numbers are ones that can be learned with, by a teacher of some timesteps.
    pub(super) fn check(&self, timesteps: usize) -> Result<(), TrainError> {
        // What a training run has too is wrong there too.
        Recipe {
            seed: self.seed,
            network: (),
            data: self.data.clone(),
            optimizer: self.optimizer.clone(),
            average: self.average.clone(),
        }
        .check()?;
        self.distill.check(timesteps, self.optimizer.steps)?;
        match self.distill.offset {
            // A model of pictures says how its levels are spaced, and its students are sampled on the trailing grid.
            Some(offset) => Err(WrongValue {
                key: "distill.offset",
                found: offset as f64,
                expected: "left out where pictures are distilled",
            }
            .into()),
            None => Ok(()),
        }
    }
}
