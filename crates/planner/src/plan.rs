//! What is planned, and what comes of it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clearway_diffusion::{ParameterizationError, ScheduleError};
use clearway_layers::{Level, Precision};
use clearway_motion::{Checks, Limits, Safety, Trajectory, TrajectoryError, Violation};

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
    /// Actions that are known already: those that were executed, and those that will be while this is planned. At
    /// their times the plan has these actions, bit for bit. Times that the plan does not reach do not matter.
    pub committed: Option<&'a Trajectory>,
    /// The last plan: a planner [with refinement](crate::Planner::with_refinement) starts from it in place of noise.
    pub previous: Option<&'a Trajectory>,
    /// For so many actions after the committed ones the estimates are drawn towards the last plan's, less and less, so
    /// that a plan takes over where the last one was going.
    ///
    /// ```text
    /// x̂ᵢ ← Wᵢ · previousᵢ + (1 − Wᵢ) · x̂ᵢ      Wᵢ = c (eᶜ − 1) / (e − 1),   c = 1 − i / (overlap + 1),   i = 1 .. overlap
    /// ```
    ///
    /// The weights are those of Black et al., "Real-Time Execution of Action Chunking Flow Policies", 2025,
    /// arXiv:2506.07339, equation 5; there they weigh a gradient, here the estimate itself, which costs nothing.
    pub overlap: usize,
    /// Initial noise in place of the seed's, `[horizon, action]`, row-major: what another program drew.
    pub noise: Option<&'a [f32]>,
}

impl<'a> Problem<'a> {
    /// A plan from observations alone.
    pub fn new(observations: &'a History) -> Self {
        Self {
            observations,
            limits: None,
            committed: None,
            previous: None,
            overlap: 0,
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

    /// The same with actions that are known already.
    #[must_use]
    pub fn with_committed(self, committed: &'a Trajectory) -> Self {
        Self {
            committed: Some(committed),
            ..self
        }
    }

    /// The same with the last plan to start from.
    #[must_use]
    pub fn with_previous(self, previous: &'a Trajectory) -> Self {
        Self {
            previous: Some(previous),
            ..self
        }
    }

    /// The same, drawn towards the [last plan](Self::with_previous) for so many actions.
    #[must_use]
    pub fn with_overlap(self, overlap: usize) -> Self {
        Self { overlap, ..self }
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
    /// The time by which the plan is to be there, checked before each pass but the first: a pass begins only where the
    /// longest of the last passes, and the check that comes after them, would still end in time.
    pub deadline: Option<Instant>,
    /// The most passes, at least one: with those that a truncated plan made, it is made again.
    pub passes: Option<usize>,
}

impl Budget {
    /// So much time from now on.
    pub fn within(time: Duration) -> Self {
        Self {
            deadline: Instant::now().checked_add(time),
            passes: None,
        }
    }
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

/// What a packed network computes with. Another precision makes another plan; another level changes its last bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Arithmetic {
    /// What the weights are stored in, but for layers that are [kept](crate::PackPolicy::keep) in f32.
    pub precision: Precision,
    /// The instructions.
    pub level: Level,
}

impl fmt::Display for Arithmetic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.precision, self.level)
    }
}

/// A trajectory that may be executed, and what was done to get it.
///
/// It is a function of the weights, the arithmetic, the problem, the seed and the number of passes.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The actions to execute, the first at the time of the newest observation. Each holds until the next.
    pub trajectory: Trajectory,
    /// All candidates that were drawn and are finite, [`trajectory`](Plan::trajectory) among them.
    pub candidates: Vec<Trajectory>,
    /// Which of them it is: of those that pass the checks the one that goes on most straightly from what is committed,
    /// the first where nothing is.
    pub chosen: usize,
    /// Which of the samples that is, those that are not finite counted.
    pub row: usize,
    /// How many samples were drawn.
    pub drawn: usize,
    /// How many steps of a whole plan were made where this is a
    /// [refinement](crate::Planner::with_refinement) of the last one; nothing where it came from noise.
    pub refined: Option<usize>,
    /// The time between two actions.
    pub period: Duration,
    /// How it ended.
    pub outcome: Outcome,
    /// How it was sampled; nothing where it did not come from a denoiser.
    pub sampling: Option<Sampling>,
    /// What the network computed with; nothing where its weights are plain, or there was none.
    pub arithmetic: Option<Arithmetic>,
    /// How many passes were made.
    pub passes: usize,
    /// The longest of them; what all share is prepared in the first.
    pub longest_pass: Duration,
    /// The seed.
    pub seed: u64,
    /// What was verified.
    pub checks: Checks,
    /// The time that it took, from the observations to the checked trajectory; of the whole batch in
    /// [`plan_batch`](crate::Planner::plan_batch).
    pub elapsed: Duration,
    /// The SHA-256 of the weights file.
    pub model: Arc<str>,
}

impl Plan {
    /// A plan that was made in another way than by diffusion: by a classical planner, or for a test. Nothing but
    /// finiteness was checked.
    pub fn of(trajectory: Trajectory, seed: u64) -> Self {
        let period = match trajectory.times() {
            [first, second, ..] => second.saturating_sub(*first),
            _ => Duration::ZERO,
        };
        Self {
            candidates: vec![trajectory.clone()],
            trajectory,
            chosen: 0,
            row: 0,
            drawn: 1,
            refined: None,
            period,
            outcome: Outcome::Complete,
            sampling: None,
            arithmetic: None,
            passes: 0,
            longest_pass: Duration::ZERO,
            seed,
            checks: Safety::lenient(1).applied(),
            elapsed: Duration::ZERO,
            model: "".into(),
        }
    }
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
    /// The actions that are committed are those of another robot.
    #[error("the committed actions have {found} coordinates, an action has {expected}")]
    CommittedWidth {
        /// The coordinates of an action.
        expected: usize,
        /// Those of the committed ones.
        found: usize,
    },
    /// A committed action lies between two of the plan's.
    #[error(
        "the committed action at {time:?} is not at a whole number of periods of {period:?} from the newest observation at {start:?}"
    )]
    CommittedTime {
        /// When it is.
        time: Duration,
        /// The time of the newest observation.
        start: Duration,
        /// The time between two actions.
        period: Duration,
    },
    /// The last plan is another robot's, or empty.
    #[error("the last plan has {actions} actions of {found} coordinates; an action has {expected}")]
    Previous {
        /// The coordinates of an action.
        expected: usize,
        /// Those of the last plan.
        found: usize,
        /// How many it has.
        actions: usize,
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
    /// What was read back from a log, in the words that it had then.
    #[error("{message}")]
    Recorded {
        /// The words.
        message: String,
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
    /// A plan has at least one action and at most those from the newest observation to the end of the horizon.
    #[error("a plan of this policy has from 1 to {limit} actions, not {found}")]
    Actions {
        /// The most.
        limit: usize,
        /// What was asked for.
        found: usize,
    },
    /// A refinement makes some of the steps of the whole.
    #[error("a refinement makes from 1 to {limit} steps, not {found}")]
    Refinement {
        /// The steps of a whole plan.
        limit: usize,
        /// What was asked for.
        found: usize,
    },
    /// Actions need time between them.
    #[error("the time between two actions must be above zero")]
    Period,
}
