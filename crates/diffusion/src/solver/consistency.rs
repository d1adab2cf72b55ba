use super::{SolverError, Stage, finite, one_step};
use crate::{Grid, Schedule, Solver};

/// Multistep consistency sampling: the clean estimate, and fresh noise between its calls.
///
/// ```text
/// x_next = α_next · x̂ + √(σ_next² − (α_next σ_min)²) · ε
/// ```
///
/// A consistency function trained to stop at `σ_min` leaves that much noise in its estimate; with `sigma_min = 0` the
/// estimate is taken for clean and the invariants hold.
///
/// Song et al., "Consistency Models", 2023, arXiv:2303.01469, algorithm 1.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Consistency {
    /// The noise, per unit of signal, that is left in an estimate.
    pub sigma_min: f64,
}

impl Solver for Consistency {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        if !(self.sigma_min >= 0.0 && self.sigma_min.is_finite()) {
            return Err(SolverError::Parameter {
                solver: "consistency",
                name: "sigma_min",
                expected: "at least 0 and finite",
                value: self.sigma_min,
            });
        }
        let stages = one_step(grid, |at, to| {
            let left = to.level.alpha * self.sigma_min;
            Stage {
                at,
                to,
                states: vec![],
                clean: vec![to.level.alpha],
                noise: vec![],
                fresh: (to.level.sigma.powi(2) - left * left).max(0.0).sqrt(),
            }
        });
        finite("consistency", stages)
    }
}
