use clearway_diffusion::ScheduleError;
use clearway_diffusion::train::{NonFinite, WrongValue};
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
