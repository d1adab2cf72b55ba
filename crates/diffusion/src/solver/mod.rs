//! Solvers as data: a grid becomes a list of stages before the network is first called.

mod consistency;
mod ddim;
mod ddpm;
mod deis;
mod dpm_solver;
mod heun;
mod lcm;
mod lms;
mod method;
mod pndm;
mod tcd;
mod unipc;

pub use consistency::Consistency;
pub use ddim::{Ddim, Euler, EulerAncestral};
pub use ddpm::{Ddpm, Variance};
pub use deis::Deis;
pub use dpm_solver::{DpmSolver2M, Midpoint, SdeDpmSolver2M};
pub use heun::Heun;
pub use lcm::Lcm;
pub use lms::Lms;
pub use method::{Method, UnknownMethod};
pub use pndm::Pndm;
pub use tcd::Tcd;
pub use unipc::UniPc;

use std::fmt::Debug;

use crate::{Grid, Point, Schedule};

/// One network pass and the step that follows it.
///
/// ```text
/// x_next = Σ states[k]·x[k] + Σ clean[k]·x̂[k] + Σ noise[k]·ε̂[k] + fresh·ε
/// ```
///
/// Index 0 is the newest: `x[0]` is the sample at `at`, `x̂[0]` and `ε̂[0]` are its estimates, and `x[k]`, `x̂[k]`,
/// `ε̂[k]` are those of the k-th stage before.
///
/// Where a method is exact it keeps two invariants, with (α_k, σ_k) the level of `x[k]`:
///
/// ```text
/// Σ states[k]·α_k + Σ clean = α_next
/// (Σ states[k]·σ_k + Σ noise)² + fresh² = σ_next²
/// ```
///
/// Those that by definition do not say so.
#[derive(Clone, Debug, PartialEq)]
pub struct Stage {
    /// Where the network is evaluated.
    pub at: Point,
    /// Where the sample arrives.
    pub to: Point,
    /// The shares of the samples.
    pub states: Vec<f64>,
    /// The shares of the clean estimates.
    pub clean: Vec<f64>,
    /// The shares of the noise estimates.
    pub noise: Vec<f64>,
    /// The share of fresh noise.
    pub fresh: f64,
}

impl Stage {
    /// How many stages back this one reaches: 1 for what needs no history.
    pub fn depth(&self) -> usize {
        [&self.states, &self.clean, &self.noise]
            .map(Vec::len)
            .into_iter()
            .fold(1, usize::max)
    }

    fn coefficients(&self) -> impl Iterator<Item = f64> {
        let lists = [&self.states, &self.clean, &self.noise];
        lists.into_iter().flatten().copied().chain([self.fresh])
    }
}

/// Why a solver cannot run on a grid.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SolverError {
    /// A step divides by a signal or a noise that is not there.
    #[error(
        "{solver} cannot step from alpha {alpha}, sigma {sigma} (step {step}); choose another solver or grid"
    )]
    Singular {
        /// Which solver.
        solver: &'static str,
        /// Which stage.
        step: usize,
        /// The signal there.
        alpha: f64,
        /// The noise there.
        sigma: f64,
    },
    /// A parameter makes no sense.
    #[error("{name} of {solver} must be {expected}, found {value}")]
    Parameter {
        /// Which solver.
        solver: &'static str,
        /// Which parameter.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        value: f64,
    },
}

/// Turns a grid into stages. The worst-case latency, `stages.len()` passes, is then known.
pub trait Solver: Debug + Send + Sync {
    /// The stages of a grid.
    ///
    /// # Errors
    ///
    /// [`SolverError`] if a parameter makes no sense or a step would not be finite.
    fn plan(&self, schedule: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError>;
}

/// Refuses stages that are not finite: every solver passes its own through here.
fn finite(solver: &'static str, stages: Vec<Stage>) -> Result<Vec<Stage>, SolverError> {
    for (step, stage) in stages.iter().enumerate() {
        if !stage.coefficients().all(f64::is_finite) {
            return Err(SolverError::Singular {
                solver,
                step,
                alpha: stage.at.level.alpha,
                sigma: stage.at.level.sigma,
            });
        }
    }
    Ok(stages)
}

/// Below this many steps, diffusers ends with steps of lower order.
const FEW: usize = 15;

/// Refuses an order that a multistep method has not got.
fn check_order(solver: &'static str, order: usize) -> Result<(), SolverError> {
    if (1..=3).contains(&order) {
        Ok(())
    } else {
        Err(SolverError::Parameter {
            solver,
            name: "order",
            expected: "1, 2 or 3",
            value: order as f64,
        })
    }
}

/// The stages of a method whose steps know only their two ends.
fn one_step(grid: &Grid, step: impl Fn(Point, Point) -> Stage) -> Vec<Stage> {
    grid.points()
        .windows(2)
        .map(|pair| step(pair[0], pair[1]))
        .collect()
}

/// Refuses a parameter outside of [0, 1].
fn check_fraction(solver: &'static str, name: &'static str, value: f64) -> Result<(), SolverError> {
    if (0.0..=1.0).contains(&value) {
        Ok(())
    } else {
        Err(SolverError::Parameter {
            solver,
            name,
            expected: "between 0 and 1",
            value,
        })
    }
}
