//! What Clearway computes, as [rerun](https://rerun.io) archetypes.
//!
//! Each function turns plain numbers, or a [`Trajectory`](clearway_motion::Trajectory), into an archetype and does
//! nothing else; rerun's own verb does the logging:
//!
//! ```no_run
//! use clearway_motion::{Interpolation, Trajectory};
//! use clearway_viz::{self as viz, timeline};
//! use ndarray::array;
//! use std::time::Duration;
//!
//! let rec = viz::save("pusht", "episode.rrd", viz::pusht_blueprint())?;
//! rec.log_static("world/walls", &viz::walls([5.0, 5.0], [506.0, 506.0]))?;
//! rec.log_static("metrics/score/coverage", &viz::series("coverage", viz::colour::COVERAGE))?;
//!
//! rec.set_duration_secs(timeline::CONTROL, 0.1);
//! rec.set_time_sequence(timeline::STEP, 1);
//! rec.log("world/agent", &viz::agent([200.0, 300.0], 15.0))?;
//! rec.log("metrics/score/coverage", &rerun::Scalars::single(0.4))?;
//!
//! let actions = array![[200.0, 300.0], [220.0, 310.0]];
//! let period = Duration::from_millis(100);
//! let plan = Trajectory::uniform(period, period, actions, Interpolation::Hold)?;
//! rec.log("plan/chosen", &viz::path(&plan, viz::colour::PLAN))?;
//! # use viz::rerun;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Two invariants:
//!
//! - Nothing here opens a socket, [`connect`] excepted, and that only to the address that it is given.
//! - Nothing here computes: an archetype shows the numbers that it got.

mod blueprint;
mod chunk;
mod plan;
mod record;
mod recording;
mod scene;
mod ways;

pub mod colour;
pub mod timeline;

pub use blueprint::{control_loop_blueprint, paths_blueprint, pusht_blueprint, training_blueprint};
pub use chunk::{chunk, hand_over, states};
pub use plan::{candidates, denoised, denoising, path, path_3d};
pub use record::{decision, events, series};
pub use recording::{connect, save};
pub use scene::{agent, block, goal, goal_outline, outline, polygons, pose, trail, walls};
pub use ways::{discs, judged, violations, ways};

pub use rerun;
