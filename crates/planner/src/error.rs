//! Why a policy could not be loaded, or an observation not be used.

use clearway_layers::WeightsError;

use crate::normalization::{Mode, StatisticsError};

/// Why a policy could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Io {
        /// The file, by its name in the policy's folder.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A JSON file is larger than any that LeRobot writes.
    #[error("{file} has {found} bytes; the limit is {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size, in bytes.
        found: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A JSON file was not downloaded.
    #[error("{file} is a git-lfs pointer, not the file itself: run git lfs pull")]
    LfsPointer {
        /// The file.
        file: String,
    },
    /// A JSON file is malformed.
    #[error("{file} is not JSON: {error}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        error: serde_json::Error,
    },
    /// A JSON file lacks an entry.
    #[error("{file} lacks `{key}`")]
    Missing {
        /// The file.
        file: String,
        /// The entry, with dots between levels.
        key: String,
    },
    /// An entry of a JSON file has a value that cannot be.
    #[error("{file}: `{key}` is {found}; {expected} is needed")]
    Value {
        /// The file.
        file: String,
        /// The entry, with dots between levels.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// Entries of a JSON file that are small enough each, and together ask for more memory than any policy needs.
    #[error("{file}: {keys} comes to {found}; the limit is {limit}")]
    Size {
        /// The file.
        file: String,
        /// The entries, and how they are combined.
        keys: String,
        /// What they come to.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// The folder holds another kind of policy.
    #[error("the policy is of type `{found}`; only `diffusion` is supported")]
    PolicyType {
        /// Its type.
        found: String,
    },
    /// The policy has a feature that a diffusion policy does not use.
    #[error("the feature `{feature}` of type {kind} is not known to a diffusion policy")]
    UnknownFeature {
        /// The feature.
        feature: String,
        /// Its type.
        kind: String,
    },
    /// A processor has a step whose meaning is not known here.
    #[error("{file}: the step `{step}` is not supported here")]
    ProcessorStep {
        /// The file.
        file: String,
        /// The step's name.
        step: String,
    },
    /// A processor's state lies outside the policy's folder.
    #[error("{file}: the state file `{name}` is not a file in the same folder")]
    StateFile {
        /// The file that names it.
        file: String,
        /// The name.
        name: String,
    },
    /// The configuration and a processor normalize differently.
    #[error("{file} normalizes {kind} by {found}, but config.json says {expected}")]
    Normalization {
        /// The processor's file.
        file: String,
        /// The type of feature.
        kind: String,
        /// The processor's mode.
        found: Mode,
        /// The configuration's mode.
        expected: Mode,
    },
    /// The statistics of the normalization are in none of the places where LeRobot has kept them.
    #[error(
        "the statistics of the normalization are in neither place, processor files \
         (policy_preprocessor.json, policy_postprocessor.json) or buffers in model.safetensors: save the policy \
         again with its processors (`save_pretrained` of the pre- and the postprocessor in LeRobot 0.4, or its \
         script `migrate_policy_normalization` on an older policy)"
    )]
    NoStatistics,
    /// A feature's statistics cannot be used.
    #[error("{file}: statistics of `{feature}`: {error}")]
    Statistics {
        /// The file.
        file: String,
        /// The feature.
        feature: String,
        /// Which and why.
        error: StatisticsError,
    },
    /// A weights file cannot be used.
    #[error("{file}: {error}")]
    Weights {
        /// The file.
        file: String,
        /// Why.
        error: WeightsError,
    },
}

/// Why a policy cannot use observations.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ObservationError {
    /// There is no observation.
    #[error("there is no observation")]
    Empty,
    /// An observation lacks a feature.
    #[error("the observation lacks `{feature}`")]
    Missing {
        /// The feature, by the observation's name for it.
        feature: String,
    },
    /// An observation lacks what a camera saw.
    #[error("the observation lacks the image `{camera}`")]
    MissingImage {
        /// The camera, by the observation's name for it.
        camera: String,
    },
    /// An image has another size than the policy was trained with.
    #[error(
        "the image `{camera}` has {} x {} pixels where {} x {} are needed (height x width)",
        found[0], found[1], expected[0], expected[1]
    )]
    ImageSize {
        /// The camera.
        camera: String,
        /// Height and width as the policy needs them.
        expected: [usize; 2],
        /// Height and width as they are.
        found: [usize; 2],
    },
    /// The network finds features in an image that are not finite.
    #[error("the features of the image `{camera}` are not finite: the policy's weights are broken")]
    Features {
        /// The camera.
        camera: String,
    },
    /// A feature has too many values or too few.
    #[error("`{feature}` has {found} values where {expected} are needed")]
    Length {
        /// The feature.
        feature: String,
        /// How many the policy needs.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// A value is not finite, or too large to be normalized in f32.
    #[error(
        "value {index} of `{feature}` is {found:e}, which cannot be normalized to a finite number"
    )]
    NonFinite {
        /// The feature.
        feature: String,
        /// Which of its values.
        index: usize,
        /// What it is.
        found: f64,
    },
}
