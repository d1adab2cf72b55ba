//! What a distillation is told.

use std::path::PathBuf;

use clearway_diffusion::distill::DistillRecipe;
use clearway_layers::{PackPolicy, Precision};
use serde::{Deserialize, Serialize};

use crate::network::ConditionalUnet1d;
use crate::train::{AverageRecipe, DataRecipe, OptimizerRecipe, Recipe, TrainError};

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

/// What of a student differs from its teacher.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StudentRecipe {
    /// The folder of a policy that the student is at first; its teacher where it is left out.
    pub start: Option<PathBuf>,
    /// What it predicts: `sample` where it shall sample in few steps, else what its beginning does.
    pub prediction_type: Option<String>,
    /// The channels of its levels, where they are others: then its first weights are drawn.
    pub down_dims: Option<Vec<usize>>,
    /// The codes that it will be packed in, where it learns to live with their rounding, see [`rehearse`]. Its weights are
    /// saved as they are, and become these codes where they are rounded to the nearest.
    ///
    /// [`rehearse`]: clearway_layers::rehearse
    pub precision: Option<Codes>,
}

impl StudentRecipe {
    /// A student's network, as it learns.
    pub(super) fn rehearsed(&self, network: ConditionalUnet1d) -> ConditionalUnet1d {
        match self.precision {
            Some(codes) => network.rehearse(&codes.into()),
            None => network,
        }
    }
}

/// Whole numbers that weights and inputs are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Codes {
    /// Weights and inputs of 8 bits.
    Int8,
    /// Weights of 4 bits with a scale for 64 of them, inputs of 8.
    Int4,
}

impl From<Codes> for PackPolicy {
    fn from(codes: Codes) -> Self {
        match codes {
            Codes::Int8 => Precision::Int8.into(),
            Codes::Int4 => Precision::INT4.into(),
        }
    }
}

impl Distillation {
    /// Makes sure that the numbers are ones that can be learned with, by a teacher of some timesteps.
    pub(super) fn check(&self, timesteps: usize) -> Result<(), TrainError> {
        // What a training run has too is wrong there too.
        Recipe {
            data: self.data.clone(),
            optimizer: self.optimizer.clone(),
            average: self.average.clone(),
            ..Recipe::default()
        }
        .check()?;
        Ok(self.distill.check(timesteps, self.optimizer.steps)?)
    }
}
