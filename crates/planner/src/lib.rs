//! From observations to a trajectory by diffusion: where robots meet tensors.
//!
//! | where | what |
//! |---|---|
//! | [`Planner`] | plans with a policy; a [`Plan`] says what it did |
//! | [`Replanner`] | plans while the robot moves; its commands never wait |
//! | [`Sampling`] | with which solver, in how many steps |
//! | [`observation`], [`image`] | what a robot saw, and when |
//! | [`paths`] | from a start, a goal and a scene to a motion |
//! | [`lerobot`] | policies that LeRobot trained |
//! | [`normalization`] | between physical values and what networks were trained on |
//! | [`network`] | the networks |
//! | `dataset`, `train` | demonstrations, and policies from them: with the feature `train` |
//!
//! Normalized values never leave this crate's planning; physical values never enter the engine. A statistic that is
//! missing is an error, never a silent pass-through.

#[cfg(feature = "train")]
pub mod dataset;
mod error;
pub mod image;
pub mod lerobot;
pub mod network;
pub mod normalization;
pub mod observation;
pub mod paths;
mod plan;
mod planner;
pub mod replanner;
mod sampling;
#[cfg(feature = "train")]
pub mod train;

pub use clearway_diffusion::{Method, UnknownMethod};
pub use clearway_layers::{Level, PackPolicy, Precision};
pub use error::{LoadError, ObservationError};
pub use image::{Image, ImageError};
pub use lerobot::Policy;
pub use observation::{History, HistoryError, Observation};
pub use plan::{Arithmetic, Budget, Denoising, Outcome, Plan, PlanError, PlannerError, Problem};
pub use planner::{Planner, PolicyDenoiser};
pub use replanner::{
    Command, Failure, Health, Horizon, Layout, Plans, Reason, Replanner, ReplannerError, Settings,
    Status,
};
pub use sampling::{Sampling, SamplingError};
