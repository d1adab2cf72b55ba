//! What a robot may do: trajectories, the limits they keep, and the check before anything moves.
//!
//! ```text
//! Space       what the coordinates are: names and units
//! Trajectory  a finite curve through waypoints, in that space; it can be cut, joined and handed over
//! Limits      what the curve may not exceed; a Violation says where it does, and by how much
//! brake       from motion to rest, within limits
//! Region      where it may be; a Workspace sweeps the way between waypoints
//! Safety      all of it in one check, which a planner cannot skip; and one for each command
//!
//! Scene       obstacles, as one exact signed distance with its gradient
//! Body        the balls that a robot is covered with, whatever moves them
//! FreeSpace   where a body touches nothing, and the proof that a whole motion stays there
//! RrtConnect, GridSearch, shortcut, Optimizer
//!             classical planners: a Path that is proven free, or a PathError with what stands in the way
//! Path        configurations without times; rounded or a spline it is a curve
//! scale_time  a motion along a curve within limits of velocity, acceleration and jerk
//! ```
//!
//! Quantities are SI and radians in `f64`, unless a [`Space`] declares another [`Unit`] (`PushT` plans in pixels); times
//! are [`Duration`](std::time::Duration)s.
//! There are no tensors here: a state is a `nalgebra` vector, a batch of waypoints an `ndarray` of shape
//! `[waypoint, dof]`.
//!
//! Five invariants hold by construction:
//!
//! - **A [`Trajectory`] that exists is finite**: a NaN ends at the constructor, as an error that says where it was.
//! - **[`Limits::check`] fails closed**: it judges the curve between the waypoints too, and what it cannot compare it
//!   refuses.
//! - **[`Safety`] requires every check until it is waived**: what was not checked is listed, and what could not be
//!   checked is refused.
//! - **A path that leaves a classical planner is proven free**, by a sweep and not by samples.
//! - **[`Trajectory::sample_into`] and [`Safety::check_command`] neither allocate nor wait.**

mod body;
mod brake;
mod classical;
mod draws;
mod free_space;
mod interpolation;
mod limits;
mod path;
mod safety;
mod scene;
mod segment;
mod space;
mod splice;
mod time_scaling;
mod trajectory;
mod workspace;

pub use body::{Body, BodyError, Planar, Translating};
pub use brake::{BrakeError, brake};
pub use classical::{GridSearch, Optimizer, PathError, RrtConnect, shortcut};
pub use free_space::{Blocked, FreeSpace};
pub use interpolation::{Interpolation, State};
pub use limits::{Bound, Limits, LimitsError, Violation};
pub use path::{Path, RoundingError};
pub use safety::{Candidate, Check, Checks, Refusal, Safety, Unsafe, Verified};
pub use scene::{Obstacle, OccupancyGrid, PointCloud, Proximity, Scene, SceneError, Solid};
pub use space::{Coordinate, Space, SpaceError, Unit};
pub use time_scaling::{ScalingError, scale_time};
pub use trajectory::{Quantity, Trajectory, TrajectoryError, Waypoint};
pub use workspace::{Departure, Region, RegionError, Shape, Workspace};
