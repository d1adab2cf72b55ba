//! What is planned, and what comes of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clearway_diffusion::{ParameterizationError, ScheduleError};
use clearway_motion::{Limits, Trajectory, TrajectoryError, Violation};

use crate::sampling::{Sampling, SamplingError};
use crate::{History, LoadError, ObservationError};

/// What is to be planned.
#[derive(Clone, Copy, Debug)]
pub struct Problem<'a> {
    /// Observations with their times, the newest last; the plan starts at the newest, and the policy looks back in
    /// steps of the planner's period.
    pub observations: &'a History,
    /// What the trajectory must satisfy.
    pub limits: Option<&'a Limits>,
    /// Initial noise in place of the seed's, `[horizon, action]`, row-major: what another program drew.
    pub noise: Option<&'a [f32]>,
}

impl<'a> Problem<'a> {
    /// A plan from observations alone.
    pub fn new(observations: &'a History) -> Self {
        Self {
            observations,
            limits: None,
            noise: None,
        }
    }

    /// The same with limits.
    #[must_use]
    pub fn with_limits(self, limits: &'a Limits) -> Self {
        Self {
            limits: Some(limits),
            ..self
        }
    }

    /// The same with the initial noise given.
    #[must_use]
    pub fn with_noise(self, noise: &'a [f32]) -> Self {
        Self {
            noise: Some(noise),
            ..self
        }
    }
}

/// How much may be spent on a plan.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Budget {
    /// The time by which denoising stops, checked between passes; at least one pass is made.
    pub deadline: Option<Instant>,
    /// The most passes, at least one: with those that a truncated plan made, it is made again.
    pub passes: Option<usize>,
}

/// How a plan ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// All passes were made.
    Complete,
    /// The budget ran out; the trajectory is the clean estimate after so many passes.
    Truncated {
        /// Passes that were made.
        passes: usize,
    },
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Truncated { passes } => write!(f, "truncated after {passes} passes"),
        }
    }
}

/// What was verified of a trajectory before it left the planner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Check {
    /// Every number is finite.
    Finite,
    /// The limits that were given hold.
    Limits,
}

/// A trajectory that may be executed, and what was done to get it.
///
/// It is a function of the weights, the problem, the seed and the number of passes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The actions to execute, the first at the time of the newest observation. Each holds until the next.
    pub trajectory: Trajectory,
    /// All candidates that were drawn and are finite, [`trajectory`](Plan::trajectory) among them.
    pub candidates: Vec<Trajectory>,
    /// Which of them it is: the first that passes the checks.
    pub chosen: usize,
    /// Which of the samples that is, those that are not finite counted.
    pub(crate) row: usize,
    /// How it ended.
    pub outcome: Outcome,
    /// How it was sampled.
    pub sampling: Sampling,
    /// The seed.
    pub seed: u64,
    /// What was verified.
    pub checks: Vec<Check>,
    /// The time that it took, from the observations to the checked trajectory; of the whole batch in
    /// [`plan_batch`](crate::Planner::plan_batch).
    pub elapsed: Duration,
    /// The SHA-256 of the weights file.
    pub model: Arc<str>,
}

/// A plan and how it came out of the noise.
#[derive(Clone, Debug)]
pub struct Denoising {
    /// The plan.
    pub plan: Plan,
    /// The clean estimate of the chosen candidate after each pass, the last one the plan itself.
    pub estimates: Vec<Trajectory>,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The observations do not fit the policy.
    #[error(transparent)]
    Observation(#[from] ObservationError),
    /// The initial noise that was given has another size.
    #[error("the initial noise must have {expected} values (horizon times action), found {found}")]
    NoiseLength {
        /// Horizon times action.
        expected: usize,
        /// How many there are.
        found: usize,
    },
    /// The initial noise that was given is not finite.
    #[error("value {index} of the initial noise is {value}")]
    NoiseValue {
        /// Which, row by row.
        index: usize,
        /// NaN or an infinity.
        value: f32,
    },
    /// The limits are those of another robot.
    #[error("the limits are for {found} coordinates, an action has {expected}")]
    Limits {
        /// The coordinates of an action.
        expected: usize,
        /// Those of the limits.
        found: usize,
    },
    /// The network produced what is no trajectory, in every candidate.
    #[error("the network produced no trajectory: {0}")]
    Trajectory(#[from] TrajectoryError),
    /// No candidate satisfies the limits.
    #[error("none of {candidates} candidates is feasible; the nearest: {violation}")]
    Infeasible {
        /// How many were drawn.
        candidates: usize,
        /// The first violation of the candidate whose first violation is the smallest, relative to its limit.
        violation: Violation,
    },
}

/// Why a planner cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlannerError {
    /// The policy cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// The policy's noise schedule is none.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// The policy cannot be sampled in that way.
    #[error(transparent)]
    Sampling(#[from] SamplingError),
    /// What the policy predicts gives no estimate where sampling starts.
    #[error(transparent)]
    Parameterization(#[from] ParameterizationError),
    /// There is nothing to choose from.
    #[error(
        "a plan of this policy needs at least one candidate and at most {limit}, found {found}"
    )]
    Candidates {
        /// The most.
        limit: usize,
        /// What was asked for.
        found: usize,
    },
    /// Actions need time between them.
    #[error("the time between two actions must be above zero")]
    Period,
}
