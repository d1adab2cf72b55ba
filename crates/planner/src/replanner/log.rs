//! Every decision of a [`Replanner`](super::Replanner), whole enough to be made again.

use std::fmt;
use std::time::Duration;

use clearway_motion::{Limits, Trajectory, Verified};

use super::{Failure, Status};
use crate::{Arithmetic, Budget, History, Plan, PlanError, Planner, Problem};

/// Where decisions are written. It is called from the planning thread.
pub trait Log: Send {
    /// Notes what happened.
    fn note(&mut self, event: &Event);
}

impl<F: FnMut(&Event) + Send> Log for F {
    fn note(&mut self, event: &Event) {
        self(event);
    }
}

/// What happened.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum Event {
    /// The planner was asked.
    Decision(Box<Decision>),
    /// What became of a plan: known at the next request.
    Verdict {
        /// Which plan.
        plan: u64,
        /// What became of it.
        verdict: Verdict,
    },
    /// The status of the commands changed: known at the next request.
    Status {
        /// When, on the robot's clock.
        now: Duration,
        /// To what.
        status: Status,
    },
}

/// What became of a plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It took over.
    Adopted {
        /// The step in which it came; it takes over at its hand-over.
        step: u64,
    },
    /// It came after its hand-over.
    Late {
        /// How long after.
        by: Duration,
    },
    /// It does not begin with what was executed.
    Diverged,
    /// There was none that could be executed.
    None,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopted { step } => write!(f, "adopted in step {step}"),
            Self::Late { by } => write!(f, "late by {by:?}"),
            Self::Diverged => f.write_str("diverged"),
            Self::None => f.write_str("none"),
        }
    }
}

/// One request to the planner, and its answer. All times but [`asked`](Self::asked) are of the plans' clock, on which
/// step `k` is at `k` periods.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The number of the plan, from 1.
    pub plan: u64,
    /// The step of the newest observation.
    pub step: u64,
    /// When it was asked for, on the robot's clock.
    pub asked: Duration,
    /// How old the newest observation was.
    pub age: Duration,
    /// The seed.
    pub seed: u64,
    /// What was seen.
    pub observations: History,
    /// How many actions from that step on were executed while it was made.
    pub latency: usize,
    /// The time that it had.
    pub budget: Option<Duration>,
    /// What was executed before, and what was committed; nothing where the planner is not told.
    pub committed: Option<Trajectory>,
    /// The actions of the plan that was executed.
    pub previous: Option<Trajectory>,
    /// For how many actions the plan is drawn towards it.
    pub overlap: usize,
    /// What plans must keep.
    pub limits: Option<Limits>,
    /// What came of it.
    pub result: Result<Made, Failure>,
    /// From the moment that the planner saw the request to the checked plan.
    pub elapsed: Duration,
}

/// A plan that was made.
#[derive(Clone, Debug, PartialEq)]
pub struct Made {
    /// As the planner made it.
    pub plan: Plan,
    /// Which of its candidates is executed: the one that it chose, or the first other that passes the safety check.
    pub candidate: usize,
    /// The step of the hand-over.
    pub seam: u64,
    /// The step at which the next plan should take over.
    pub until: u64,
    /// What is executed of it: up to the hand-over what was committed, at the end its braking.
    pub trajectory: Trajectory,
    /// What was checked of that, and what does not apply to these coordinates.
    pub verified: Verified,
}

/// Why a decision cannot be made again.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// There was no plan.
    #[error("decision {plan} brought no plan: {failure}")]
    None {
        /// Which.
        plan: u64,
        /// Why.
        failure: Failure,
    },
    /// The planner has other weights.
    #[error("decision {plan} was made with the weights {expected}, the planner has {found}")]
    Model {
        /// Which.
        plan: u64,
        /// The SHA-256 of the weights that it was made with.
        expected: String,
        /// That of the planner's.
        found: String,
    },
    /// The planner computes in another way.
    #[error(
        "decision {plan} was made in {}, the planner computes in {}",
        words(*expected),
        words(*found)
    )]
    Arithmetic {
        /// Which.
        plan: u64,
        /// What it was made with; nothing where the weights were plain.
        expected: Option<Arithmetic>,
        /// What the planner computes with.
        found: Option<Arithmetic>,
    },
    /// The planner makes no plan of it.
    #[error("decision {plan} makes no plan now: {error}")]
    Plan {
        /// Which.
        plan: u64,
        /// Why.
        error: PlanError,
    },
    /// Another plan comes out.
    #[error(
        "decision {plan} comes out differently: coordinate {coordinate} of action {action} is {found} now and was {expected}"
    )]
    Differs {
        /// Which.
        plan: u64,
        /// Where first.
        action: usize,
        /// Where first.
        coordinate: usize,
        /// As it was.
        expected: f64,
        /// As it is.
        found: f64,
    },
}

fn words(arithmetic: Option<Arithmetic>) -> String {
    arithmetic.map_or_else(|| "plain f32".to_owned(), |it| it.to_string())
}

impl Decision {
    /// The problem as the planner got it.
    pub fn problem(&self) -> Problem<'_> {
        Problem {
            limits: self.limits.as_ref(),
            committed: self.committed.as_ref(),
            previous: self.previous.as_ref(),
            overlap: self.overlap,
            ..Problem::new(&self.observations)
        }
    }

    /// Makes the decision again, with as many passes as it had, and compares the plan's actions bit for bit.
    ///
    /// The planner must be set up as it was: [`Planner::set_up_as`] does that. And it must compute as it did: with the
    /// same weights in the same precision, on the same level of [instructions](crate::Level::limit).
    ///
    /// # Errors
    ///
    /// If there was no plan, or it does not come out the same.
    pub fn replay(&self, planner: &Planner) -> Result<Plan, ReplayError> {
        let made = self.result.as_ref().map_err(|failure| ReplayError::None {
            plan: self.plan,
            failure: failure.clone(),
        })?;
        let (expected, found) = (&*made.plan.model, planner.policy().hash());
        if expected != found {
            return Err(ReplayError::Model {
                plan: self.plan,
                expected: expected.to_owned(),
                found: found.to_owned(),
            });
        }
        let (expected, found) = (made.plan.arithmetic, planner.arithmetic());
        if expected != found {
            return Err(ReplayError::Arithmetic {
                plan: self.plan,
                expected,
                found,
            });
        }
        let budget = Budget {
            deadline: None,
            passes: Some(made.plan.passes),
        };
        let again = planner
            .plan(&self.problem(), budget, self.seed)
            .map_err(|error| ReplayError::Plan {
                plan: self.plan,
                error,
            })?;
        let then = made.plan.trajectory.positions();
        let now = again.trajectory.positions();
        let same_shape = then.dim() == now.dim();
        for ((action, coordinate), &expected) in then.indexed_iter() {
            let found = now.get([action, coordinate]).copied().unwrap_or(f64::NAN);
            if !same_shape || expected.to_bits() != found.to_bits() {
                return Err(ReplayError::Differs {
                    plan: self.plan,
                    action,
                    coordinate,
                    expected,
                    found,
                });
            }
        }
        Ok(again)
    }
}
