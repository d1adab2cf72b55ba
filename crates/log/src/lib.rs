//! What a control loop decided, as MCAP files: read by Foxglove, and whole enough to decide again.
//!
//! [`McapLog`] writes what a [`Replanner`](clearway_planner::Replanner) notes; [`events`] and [`decisions`] read it back.
//!
//! | topic | schema | what |
//! |---|---|---|
//! | `/decision` | `clearway.Decision` | all that a plan came from, and the plan: what is replayed |
//! | `/plan` | `trajectory_msgs/msg/JointTrajectory` | what is executed of it |
//! | `/path` | `foxglove.PosesInFrame` | the same for a viewer, where there are two coordinates |
//! | `/status` | `clearway.Status` | how good the commands became, and why |
//! | `/verdict` | `clearway.Verdict` | what became of a plan |
//!
//! Messages are JSON with JSON schemas, and their time is the robot's clock. Numbers come back to the bit: a finite
//! `f64` is written with as many digits as tell it from every other, one that is not is a string, and so is a seed, which
//! other readers of JSON would round.
//!
//! ```no_run
//! # use clearway_planner::{Planner, PlannerError};
//! # fn load() -> Result<Planner, PlannerError> { Err(PlannerError::Period) }
//! let mut planner = load()?;
//! for decision in clearway_log::decisions("run.mcap")? {
//!     let decision = decision?;
//!     if let Ok(made) = &decision.result {
//!         planner = planner.set_up_as(&made.plan)?;
//!         decision.replay(&planner)?;
//!     }
//! }
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod decision;
mod error;
pub mod message;
mod number;
mod read;
mod schema;
#[cfg(test)]
mod tests;
mod write;

pub use error::LogError;
pub use number::Time;
pub use read::{Entry, Events, decisions, events};
pub use write::McapLog;
