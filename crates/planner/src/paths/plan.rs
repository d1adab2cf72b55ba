//! What is asked, and what is answered.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use clearway_diffusion::ParameterizationError;
use clearway_motion::{Blocked, FreeSpace, Path, PathError, ScalingError, Trajectory};

use crate::{LoadError, SamplingError};

/// Where to go from where, in what.
///
/// The free space has the robot, the obstacles and the limits, and whatever margin must be kept.
#[derive(Clone, Copy, Debug)]
pub struct PathProblem<'a> {
    /// Where the robot can be.
    pub free: FreeSpace<'a>,
    /// Where it is.
    pub start: &'a [f64],
    /// Where it shall be.
    pub goal: &'a [f64],
}

/// A motion that is within limits and free, and what was done to get it.
///
/// Only a planner makes one. **Its trajectory was proven free of obstacles and within all limits** after everything else was
/// done to it; it begins and ends at rest, exactly at the problem's start and goal.
///
/// It is a function of the weights, the arithmetic, the problem, the settings, the seed and the number of passes.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PathPlan {
    /// The motion.
    pub trajectory: Trajectory,
    /// The path that it follows, but for its corners.
    pub path: Path,
    /// What was drawn, in the order of the noise; what is not finite is left out.
    pub candidates: Vec<PathCandidate>,
    /// Which of the candidates it came from; none if it came from another planner.
    pub chosen: Option<usize>,
    /// How it ended.
    pub outcome: PathOutcome,
    /// The passes that were made.
    pub passes: usize,
    /// The seed.
    pub seed: u64,
    /// The time that it took, from the problem to the proven motion.
    pub elapsed: Duration,
    /// The SHA-256 of the weights' file.
    pub model: Arc<str>,
}

/// A path that was drawn.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct PathCandidate {
    /// The path, from start to goal; where it was blocked, after the projection.
    pub path: Path,
    /// What blocks it; nothing where it is proven free.
    pub blocked: Option<Blocked>,
    /// Whether it was blocked as it was drawn, and is now what a projection made of it.
    pub projected: bool,
}

/// How a plan ended.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum PathOutcome {
    /// All passes were made.
    Complete,
    /// The budget ran out; candidates are the clean estimates after so many passes.
    Truncated {
        /// Passes that were made.
        passes: usize,
    },
    /// No candidate became a motion, and the classical planner was asked.
    Fallback {
        /// Why.
        reason: FallbackReason,
    },
}

/// Why the classical planner was asked.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum FallbackReason {
    /// All candidates are blocked.
    Blocked(Blocked),
    /// The free ones do not become motions.
    Motion(ScalingError),
    /// The network answered no numbers.
    NonFinite,
}

impl fmt::Display for FallbackReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Blocked(blocked) => {
                write!(f, "all candidates are blocked; the nearest: {blocked}")
            }
            Self::Motion(error) => write!(f, "no free candidate becomes a motion: {error}"),
            Self::NonFinite => f.write_str("the network answered no numbers"),
        }
    }
}

impl fmt::Display for PathOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Truncated { passes } => write!(f, "truncated after {passes} passes"),
            Self::Fallback { reason } => write!(f, "fallback: {reason}"),
        }
    }
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathPlanError {
    /// The robot has other coordinates than the prior.
    #[error("the robot has {found} coordinates, the prior {expected}")]
    Dimensions {
        /// The prior's.
        expected: usize,
        /// The robot's.
        found: usize,
    },
    /// The start is no configuration: not finite, beyond a limit, or in an obstacle.
    #[error("the start is not free: {0}")]
    Start(Blocked),
    /// The goal is no configuration: not finite, beyond a limit, or in an obstacle.
    #[error("the goal is not free: {0}")]
    Goal(Blocked),
    /// The margin of the free space is no number.
    #[error("the margin is {margin} m; it must be finite")]
    Margin {
        /// What it is.
        margin: f64,
    },
    /// All candidates are blocked.
    #[error("none of {candidates} candidates is free; the nearest: {nearest}")]
    Infeasible {
        /// How many were drawn.
        candidates: usize,
        /// What blocks the one that lacks least, where, and by how much.
        nearest: Blocked,
    },
    /// Candidates are free, and none becomes a motion.
    #[error("no free candidate becomes a motion: {0}")]
    Motion(ScalingError),
    /// The network answered no numbers.
    #[error("none of {candidates} candidates is finite")]
    NonFinite {
        /// How many were drawn.
        candidates: usize,
    },
    /// The classical planner found nothing either.
    #[error("{reason}; and the fallback: {error}")]
    Fallback {
        /// Why it was asked.
        reason: FallbackReason,
        /// What it says.
        error: PathError,
    },
}

/// Why a planner cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathPlannerError {
    /// The prior cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Its noise schedule is none.
    #[error(transparent)]
    Schedule(#[from] clearway_diffusion::ScheduleError),
    /// It cannot be sampled in that way.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// What it predicts gives no estimate where sampling starts.
    #[error(transparent)]
    Parameterization(#[from] ParameterizationError),
    /// There is nothing to choose from, or too much.
    #[error("a plan needs from 1 to {limit} candidates, not {found}")]
    Candidates {
        /// The most.
        limit: usize,
        /// What was asked for.
        found: usize,
    },
    /// A number that cannot be worked with.
    #[error("{setting} must be {expected}, but is {found}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it must be.
        expected: &'static str,
        /// What it was.
        found: f64,
    },
}
