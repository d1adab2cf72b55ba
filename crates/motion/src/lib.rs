//! What a robot may do: trajectories and the limits they keep.
//!
//! ```text
//! Space       what the coordinates are: names and units
//! Trajectory  a finite curve through waypoints, in that space
//! Limits      what the curve may not exceed; a Violation says where it does, and by how much
//! ```
//!
//! Quantities are SI and radians in `f64`, unless a [`Space`] declares another [`Unit`] (`PushT` plans in pixels); times
//! are [`Duration`](std::time::Duration)s.
//! There are no tensors here: a state is a `nalgebra` vector, a batch of waypoints an `ndarray` of shape
//! `[waypoint, dof]`.
//!
//! Two invariants hold by construction:
//!
//! - **A [`Trajectory`] that exists is finite**: a NaN ends at the constructor, as an error that says where it was.
//! - **[`Limits::check`] fails closed**: it judges the curve between the waypoints too, and what it cannot compare it
//!   refuses.

mod interpolation;
mod limits;
mod space;
mod trajectory;

pub use interpolation::{Interpolation, State};
pub use limits::{Bound, Limits, LimitsError, Violation};
pub use space::{Coordinate, Space, SpaceError, Unit};
pub use trajectory::{Quantity, Trajectory, TrajectoryError, Waypoint};
