//! Paths by diffusion: from a start, a goal and a scene to a motion that is free and within limits, or to what is in the way.
//!
//! ```text
//! PathProblem --condition, pins, noise--> [ network -> guidance -> stage ] x steps --> candidates
//!             candidates --proof--> free | projection --proof--> free | blocked, where and by how much
//!             the shortest free ones --shortcuts, time scaling, proof--> PathPlan     or   PathPlanError
//! ```
//!
//! | where | what |
//! |---|---|
//! | [`PathPrior`] | a network that knows what paths look like, and the file that it comes from |
//! | [`PathPlanner`] | draws candidates from it, guides, projects and checks them |
//! | [`PathPlan`] | a motion that passed every check, and what was done to get it |
//! | `train` | priors from demonstrations: with the feature `train` |
//!
//! A prior is trained with or without a [code](SceneCode) of the scene. Without one it knows the scene of its demonstrations
//! alone, and whatever is new is the guidance's to avoid.
//!
//! Janner, Du, Tenenbaum and Levine, "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991;
//! Carvalho, Le, Baierl, Koert and Peters, "Motion Planning Diffusion", 2023, arXiv:2308.01557.

mod config;
mod guidance;
mod plan;
mod planner;
mod prior;
mod scene_code;
#[cfg(feature = "train")]
pub mod train;

pub use config::{NetworkConfig, PathConfig, PathCoordinate, PriorConfig, SamplingConfig};
pub use guidance::Guidance;
pub use plan::{
    FallbackReason, PathCandidate, PathOutcome, PathPlan, PathPlanError, PathPlannerError,
    PathProblem,
};
pub use planner::{PathPlanner, PathSettings, Projection};
pub use prior::{PathNetwork, PathPrior, PreparedPath};
pub use scene_code::SceneCode;
