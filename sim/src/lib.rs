//! Worlds to plan in: reset, step, observe.
//!
//! A world is a deterministic simulation of one published task, exact enough that its numbers can be compared with those
//! of the reference environment.
//! It knows no learned planner, and none knows it; its experts are classical.
//! Tests, examples and the command line wire the two.
//!
//! | world | task | reference |
//! |---|---|---|
//! | [`Maze2D`] | push a ball through a maze | D4RL's maze2d, on MuJoCo 3.17 |
//! | [`Clutter`] | move a point among discs and boxes | the planar worlds of Motion Planning Diffusion |
//! | [`PushT`] | push a T-shaped block onto a T-shaped target | gym-pusht 0.1.8 on pymunk 6.6 (Chipmunk 7.0.3) |
//!
//! ```
//! use clearway_sim::PushT;
//!
//! let mut world = PushT::reset(100_000);
//! let start = world.observation();
//! let next = world.step([256.0, 256.0])?;
//! assert!(next.coverage <= 1.0 && !world.succeeded());
//! assert_ne!(start.agent, next.agent);
//! # Ok::<(), clearway_sim::SimError>(())
//! ```
//!
//! There is no `World` trait: worlds differ in what they observe and accept.
//!
//! # Determinism
//!
//! Everything is scalar f64 in a fixed order, without fused multiply-adds: `+ - * /` and `sqrt` give the same bits on
//! every machine.
//! `sin`, `cos` and `powf` come from the platform's mathematics library, so that bits are equal on one machine and
//! platform, and equal to those of pymunk there, but may differ in the last place on another platform.
//! Contacts amplify such differences.

pub mod clutter;
mod error;
pub mod maze2d;
mod numpy;
pub mod pusht;

pub use clutter::{Clutter, Environment};
pub use error::SimError;
pub use maze2d::{Expert, Layout, Maze2D};
pub use pusht::PushT;
