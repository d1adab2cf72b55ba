//! How a [`Replanner`](super::Replanner) plans, and what it takes for safe.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clearway_motion::{
    Candidate, Check, Interpolation, Limits, Safety, Trajectory, TrajectoryError, Unsafe,
};

use super::Layout;
use super::log::{Event, Log};

/// How much of a plan is executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Actions of a plan that are executed after its hand-over, before the next one takes over.
    pub execute: usize,
    /// Actions that are committed while a plan is made: the time that it may take, in periods. If plans take longer it
    /// grows by itself.
    pub latency: usize,
}

/// How a [`Replanner`](super::Replanner) plans, and what it takes for safe.
///
/// ```
/// use std::time::Duration;
/// use clearway_motion::Limits;
/// use clearway_planner::{Horizon, Settings};
///
/// let inside = Limits::unlimited(2).with_position(&[0.0; 2], &[512.0; 2])?;
/// let settings = Settings::new(Horizon { execute: 8, latency: 1 })
///     .with_limits(inside)
///     .with_budget(Duration::from_millis(60))
///     .with_seed(7);
/// # Ok::<(), clearway_motion::LimitsError>(())
/// ```
pub struct Settings {
    horizon: Horizon,
    interpolation: Interpolation,
    safety: Option<Safety>,
    position: Option<String>,
    budget: Option<Duration>,
    max_age: Option<Duration>,
    patience: Option<Duration>,
    pinned: bool,
    overlap: Option<usize>,
    seed: u64,
    restarts: u64,
    on_start: Option<OnStart>,
    // Of whichever planning thread is the last one.
    log: Option<Mutex<Box<dyn Log>>>,
}

/// The most coordinates, actions or observations, and the longest period: beyond any robot, and far from an overflow.
const LARGEST: usize = 1 << 16;
const LONGEST: Duration = Duration::from_hours(24);

/// What a planning thread does first.
type OnStart = Arc<dyn Fn() + Send + Sync>;

impl Settings {
    /// Actions that are held, no limits, and for the rest what [each](Self::with_budget) [setting](Self::with_patience)
    /// [says](Self::with_max_age).
    pub fn new(horizon: Horizon) -> Self {
        Self {
            horizon,
            interpolation: Interpolation::Hold,
            safety: None,
            position: None,
            budget: None,
            max_age: None,
            patience: None,
            pinned: true,
            overlap: None,
            seed: 0,
            restarts: 0,
            on_start: None,
            log: None,
        }
    }

    /// What the robot does between two actions.
    ///
    /// [`Hold`](Interpolation::Hold), the default, gives each action as it is, until the next: what policies without a
    /// metric space are trained for. [`Quintic`](Interpolation::Quintic) follows a curve through them, with velocities
    /// and accelerations that stay continuous when a plan takes over, and comes to rest within the limits at the end:
    /// it needs [limits](Self::with_limits) of the acceleration or the jerk.
    #[must_use]
    pub fn with_interpolation(self, interpolation: Interpolation) -> Self {
        Self {
            interpolation,
            ..self
        }
    }

    /// What every plan must keep, its braking included, to be executed: [`Safety`] that requires no other check.
    #[must_use]
    pub fn with_limits(self, limits: Limits) -> Self {
        self.with_safety(Safety::lenient(limits.dof()).with_limits(limits))
    }

    /// What every plan must be to be executed. Each command is checked by it too.
    ///
    /// A plan's age is that of its newest observation when it was asked for; where it starts is compared with where the
    /// robot is by [`with_position`](Self::with_position).
    #[must_use]
    pub fn with_safety(self, safety: Safety) -> Self {
        Self {
            safety: Some(safety),
            ..self
        }
    }

    /// The feature of an observation that says where the robot is, in the coordinates of its actions: what a
    /// [largest jump](Safety::with_max_jump) is measured from.
    #[must_use]
    pub fn with_position(self, feature: impl Into<String>) -> Self {
        Self {
            position: Some(feature.into()),
            ..self
        }
    }

    /// The time for a plan, from the moment that the planner sees the request; a plan whose passes take longer is
    /// truncated. By default nine tenths of the time that is committed.
    #[must_use]
    pub fn with_budget(self, budget: Duration) -> Self {
        Self {
            budget: Some(budget),
            ..self
        }
    }

    /// The greatest age of an observation that is planned from, and the longest that the loop may have been away from a
    /// plan that it goes on with; by default two periods. An observation may be of the future by a period, as clocks of
    /// one robot are.
    #[must_use]
    pub fn with_max_age(self, max_age: Duration) -> Self {
        Self {
            max_age: Some(max_age),
            ..self
        }
    }

    /// How long the planner may be without an answer before it is said to hang; by default ten times what is committed
    /// and executed of a plan, and at least a second.
    #[must_use]
    pub fn with_patience(self, patience: Duration) -> Self {
        Self {
            patience: Some(patience),
            ..self
        }
    }

    /// Does not tell the planner what is committed: plans follow each other with whatever jump they have. For
    /// comparison; the robot executes its committed actions nevertheless.
    #[must_use]
    pub fn without_pins(self) -> Self {
        Self {
            pinned: false,
            ..self
        }
    }

    /// For so many actions after the hand-over a plan is drawn towards the one before it: see
    /// [`Problem::overlap`](crate::Problem::overlap). By default as many as the last plan still has.
    #[must_use]
    pub fn with_overlap(self, overlap: usize) -> Self {
        Self {
            overlap: Some(overlap),
            ..self
        }
    }

    /// What the seeds of the plans are drawn from; by default 0.
    #[must_use]
    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// How many times in all the planner may panic and is asked again; by default it never is.
    #[must_use]
    pub fn with_restarts(self, restarts: u64) -> Self {
        Self { restarts, ..self }
    }

    /// What the planning thread does first: to be pinned to a core, say, or given a priority.
    #[must_use]
    pub fn on_start(self, begin: impl Fn() + Send + Sync + 'static) -> Self {
        Self {
            on_start: Some(Arc::new(begin)),
            ..self
        }
    }

    /// Where decisions are written, from the planning thread.
    #[must_use]
    pub fn with_log(self, log: impl Log + 'static) -> Self {
        Self {
            log: Some(Mutex::new(Box::new(log))),
            ..self
        }
    }

    /// How much of a plan is executed.
    pub fn horizon(&self) -> Horizon {
        self.horizon
    }

    pub(super) fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    pub(super) fn limits(&self) -> Option<&Limits> {
        self.safety.as_ref()?.limits()
    }

    /// What judges plans and commands of so many coordinates.
    pub(super) fn safety(&self, dof: usize) -> Safety {
        let safety = self.safety.clone();
        safety.unwrap_or_else(|| Safety::lenient(dof))
    }

    pub(super) fn position(&self) -> Option<&str> {
        self.position.as_deref()
    }

    pub(super) fn budget(&self) -> Option<Duration> {
        self.budget
    }

    pub(super) fn pinned(&self) -> bool {
        self.pinned
    }

    pub(super) fn overlap(&self, layout: &Layout) -> usize {
        let Horizon { execute, latency } = self.horizon;
        let rest = layout.actions.saturating_sub(execute + latency);
        self.overlap.unwrap_or(rest)
    }

    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    pub(super) fn restarts(&self) -> u64 {
        self.restarts
    }

    pub(super) fn begin(&self) {
        if let Some(begin) = &self.on_start {
            begin();
        }
    }

    /// Writes events to the log, if there is one.
    pub(super) fn note(&self, events: &[Event]) {
        if let Some(log) = &self.log {
            // A log that panicked may go on where it is, and takes neither plans nor their planner with it.
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            for event in events {
                if catch_unwind(AssertUnwindSafe(|| log.note(event))).is_err() {
                    tracing::error!("the log panicked; an event is lost");
                }
            }
        }
    }

    pub(super) fn max_age(&self, period: Duration) -> Duration {
        self.max_age.unwrap_or(period.saturating_mul(2))
    }

    pub(super) fn patience(&self, period: Duration) -> Duration {
        let Horizon { execute, latency } = self.horizon;
        let actions = u32::try_from(execute.saturating_add(latency)).unwrap_or(u32::MAX);
        self.patience.unwrap_or_else(|| {
            period
                .saturating_mul(actions)
                .saturating_mul(10)
                .max(Duration::from_secs(1))
        })
    }

    /// Makes sure that plans of this layout can be executed so.
    pub(super) fn check(&self, layout: &Layout, start: &[f64]) -> Result<(), ReplannerError> {
        let Layout {
            dof,
            actions,
            period,
            observations,
        } = *layout;
        let largest = [dof, actions, observations].into_iter().max();
        let sizes = dof.min(actions).min(observations) >= 1 && largest <= Some(LARGEST);
        if !sizes || period.is_zero() || period > LONGEST {
            return Err(ReplannerError::Layout { layout: *layout });
        }
        let Horizon { execute, latency } = self.horizon;
        if execute == 0 {
            return Err(ReplannerError::Execute);
        }
        // A curve is known at the hand-over too.
        let known = usize::from(self.interpolation != Interpolation::Hold);
        let needed = execute.saturating_add(latency).saturating_add(known);
        if needed > layout.actions {
            return Err(ReplannerError::Actions {
                execute,
                latency,
                needed,
                actions: layout.actions,
            });
        }
        if start.len() != layout.dof {
            return Err(ReplannerError::Start {
                expected: layout.dof,
                found: start.len(),
            });
        }
        let safety = self.safety(layout.dof);
        if safety.dof() != layout.dof {
            return Err(ReplannerError::Safety {
                expected: layout.dof,
                found: safety.dof(),
            });
        }
        if safety.applied().contains(Check::Start) && self.position.is_none() {
            return Err(ReplannerError::Position);
        }
        let brakes = |limits: &Limits| {
            let bounds = limits.acceleration().iter().zip(limits.jerk());
            bounds
                .into_iter()
                .all(|(a, j)| a.is_finite() || j.is_finite())
        };
        if self.interpolation != Interpolation::Hold && !self.limits().is_some_and(brakes) {
            return Err(ReplannerError::Brake {
                interpolation: self.interpolation,
            });
        }
        Ok(())
    }

    /// Whether the robot may stay where it is.
    pub(super) fn may_rest(&self, chunk: &Trajectory, start: &[f64]) -> Result<(), Unsafe> {
        let candidate = Candidate {
            trajectory: chunk,
            now: Duration::ZERO,
            observed_at: Some(Duration::ZERO),
            position: Some(start),
        };
        self.safety(start.len()).check(&candidate).map(|_| ())
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("horizon", &self.horizon)
            .field("interpolation", &self.interpolation)
            .field("safety", &self.safety)
            .field("position", &self.position)
            .field("budget", &self.budget)
            .field("max_age", &self.max_age)
            .field("patience", &self.patience)
            .field("pinned", &self.pinned)
            .field("overlap", &self.overlap)
            .field("seed", &self.seed)
            .field("restarts", &self.restarts)
            .finish_non_exhaustive()
    }
}

/// Why a [`Replanner`](super::Replanner) cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReplannerError {
    /// The plans are none.
    #[error(
        "plans have from 1 to {LARGEST} coordinates, actions and observations, and a period from 1 ns to a day, not {layout:?}"
    )]
    Layout {
        /// What the planner says.
        layout: Layout,
    },
    /// Nothing would be executed.
    #[error("at least one action of a plan must be executed")]
    Execute,
    /// In its own thread a plan takes time.
    #[error("a planner in its own thread needs a latency of at least one action")]
    Latency,
    /// Plans are too short.
    #[error(
        "executing {execute} actions after a latency of {latency} needs plans of {needed} actions; these have {actions} (see `Planner::with_actions`)"
    )]
    Actions {
        /// What is to be executed.
        execute: usize,
        /// What is committed.
        latency: usize,
        /// Both, and for a curve the action at the hand-over.
        needed: usize,
        /// What a plan has.
        actions: usize,
    },
    /// The start is another robot's.
    #[error("the start has {found} coordinates, an action has {expected}")]
    Start {
        /// The coordinates of an action.
        expected: usize,
        /// Those of the start.
        found: usize,
    },
    /// The safety check is another robot's.
    #[error("the safety check is for {found} coordinates, an action has {expected}")]
    Safety {
        /// The coordinates of an action.
        expected: usize,
        /// Those of the safety check.
        found: usize,
    },
    /// A largest jump, and nothing to measure it from.
    #[error(
        "the safety check has a largest jump, and no feature says where the robot is (see `Settings::with_position`)"
    )]
    Position,
    /// A curve must come to rest, and nothing says how.
    #[error(
        "to come to rest, {interpolation} interpolation needs a limit of each coordinate's acceleration or jerk"
    )]
    Brake {
        /// What is between the actions.
        interpolation: Interpolation,
    },
    /// The start is no position.
    #[error("the start is no position: {0}")]
    NoPosition(#[from] TrajectoryError),
    /// The robot cannot stay where it is.
    #[error("the start cannot be held: {0}")]
    Hold(#[from] Unsafe),
    /// The system gives no thread.
    #[error("the planning thread cannot be started: {0}")]
    Thread(#[source] std::io::Error),
}
