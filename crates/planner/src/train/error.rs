use clearway_diffusion::distill::{LessonError, RecipeError};
use clearway_diffusion::train::{NonFinite, WrongValue};
use clearway_diffusion::{GridError, ScheduleError};
use clearway_layers::WeightsError;

use crate::LoadError;
use crate::dataset::DatasetError;
use crate::normalization::StatisticsError;

/// Why a policy cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The dataset cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The recipe describes no policy.
    #[error(transparent)]
    Policy(#[from] LoadError),
    /// The recipe describes no noise schedule.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A number of the recipe is not one to train with.
    #[error("`{key}` is {found}; it must be {expected}")]
    Value {
        /// The key.
        key: &'static str,
        /// The number.
        found: f64,
        /// What it must be.
        expected: &'static str,
    },
    /// A key that other kinds of distillation have.
    #[error("`{key}` is for {}, and not for {kind}", of.join(" and "))]
    Foreign {
        /// The key.
        key: &'static str,
        /// Who has it.
        of: Vec<&'static str>,
        /// Who was asked for.
        kind: &'static str,
    },
    /// A policy to learn from, or to begin with, cannot be loaded.
    #[error("cannot load the policy in {folder}: {error}")]
    Load {
        /// Its folder.
        folder: String,
        /// Why.
        error: Box<LoadError>,
    },
    /// A policy to learn from, or to begin with, is packed.
    #[error("the weights in {folder} are packed: distil the policy that they were made of")]
    Packed {
        /// Its folder.
        folder: String,
    },
    /// The teacher sees images, of which demonstrations are not read.
    #[error("the teacher sees `{camera}`: policies of vectors are distilled")]
    Sees {
        /// The camera.
        camera: String,
    },
    /// The teacher was trained on other data than it shall teach on.
    #[error(
        "the teacher normalizes `{feature}` otherwise than the dataset's statistics: distil on the data that it was trained on"
    )]
    OtherStatistics {
        /// The feature.
        feature: String,
    },
    /// The dataset has other features than the teacher.
    #[error("the dataset's `{feature}` has shape {found:?}, and the teacher's [{expected}]")]
    OtherShape {
        /// The feature.
        feature: String,
        /// How many values the teacher's has.
        expected: usize,
        /// The dataset's shape.
        found: Vec<usize>,
    },
    /// The policy to begin with is of another task than the teacher.
    #[error("{folder} is no beginning for a student of this teacher: its `{key}` is another")]
    OtherTask {
        /// Its folder.
        folder: String,
        /// What differs.
        key: &'static str,
    },
    /// The teacher cannot be sampled in so many steps.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// Its steps make no lessons.
    #[error(transparent)]
    Lesson(#[from] LessonError),
    /// A policy reads something that is not trained here, or something twice.
    #[error(
        "`policy.inputs` has `{found}`; `observation.state` and `observation.environment_state` are trained, each once"
    )]
    Input {
        /// The feature.
        found: String,
    },
    /// The dataset lacks a statistic that the normalization needs.
    #[error("meta/stats.json lacks `{statistic}` of `{feature}`, which {mode} needs")]
    NoStatistic {
        /// The feature.
        feature: String,
        /// What is missing.
        statistic: &'static str,
        /// The mode of normalization.
        mode: String,
    },
    /// A feature's statistics cannot normalize.
    #[error("statistics of `{feature}`: {error}")]
    Statistics {
        /// The feature.
        feature: String,
        /// Which and why.
        error: StatisticsError,
    },
    /// No window is left to train on.
    #[error(
        "no window is left to train on: {episodes} episodes, of which {held_out} are held out, and the last {dropped} frames of each dropped"
    )]
    NoWindow {
        /// How many episodes there are.
        episodes: usize,
        /// How many are held out.
        held_out: usize,
        /// How many frames of each are dropped.
        dropped: usize,
    },
    /// Training left the numbers.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// A file cannot be written.
    #[error("cannot write {file}: {error}")]
    Write {
        /// The file or folder.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A checkpoint cannot be read.
    #[error("{file}: {error}")]
    Checkpoint {
        /// The file.
        file: String,
        /// Why.
        error: WeightsError,
    },
    /// A checkpoint is of another run.
    #[error("{file} is of another run: its {what} is another")]
    OtherRun {
        /// The file.
        file: String,
        /// What differs.
        what: String,
    },
}

impl From<RecipeError> for TrainError {
    fn from(error: RecipeError) -> Self {
        match error {
            RecipeError::Value(wrong) => wrong.into(),
            RecipeError::Foreign { key, of, kind } => Self::Foreign { key, of, kind },
            RecipeError::Grid(error) => error.into(),
            RecipeError::Lesson(error) => error.into(),
        }
    }
}

impl From<WrongValue> for TrainError {
    fn from(wrong: WrongValue) -> Self {
        let WrongValue {
            key,
            found,
            expected,
        } = wrong;
        Self::Value {
            key,
            found,
            expected,
        }
    }
}
