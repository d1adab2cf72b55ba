//! Diffusion policies that LeRobot trained.
//!
//! A policy is a folder as `save_pretrained` writes it:
//!
//! | file | content |
//! |---|---|
//! | `config.json` | [`DiffusionConfig`] |
//! | `model.safetensors` | the weights; up to LeRobot 0.3.3 the statistics of the normalization too |
//! | `policy_preprocessor.json`, `policy_postprocessor.json` | from LeRobot 0.4 on: how observations are normalized and actions unnormalized |
//! | the state files that these two name | the statistics |
//! | `clearway.json` | of students that were distilled here: with which solver, in how many steps, with which offset; LeRobot ignores it |
//!
//! The formulas were read in LeRobot's source, versions 0.3.3 and 0.4.4. Every value comes from the files: LeRobot has
//! changed its defaults, and a default of today is not what an older policy was trained with.

mod config;
pub(crate) mod json;
mod policy;
#[cfg(feature = "train")]
pub(crate) mod save;
mod statistics;
mod vision;

pub use config::{
    BetaSchedule, DiffusionConfig, Feature, FeatureKind, NoiseScheduler, Prediction, VisionConfig,
};
pub use policy::Policy;
pub use vision::Vision;
