use super::{SolverError, Stage, finite};
use crate::{Grid, Level, Schedule, Solver};

/// Latent consistency models: a consistency function, and fresh noise between its calls.
///
/// ```text
/// y      = c_out · x̂ + c_skip · x
/// x_next = α_next · y + σ_next · ε,   in the last step x_next = y
/// c_skip = σd² / ((s t)² + σd²),   c_out = s t / √((s t)² + σd²)
/// ```
///
/// `t` is the timestep, `s` its scaling. Since `c_skip` and `c_out` do not sum to one the invariants do not hold; both
/// differences vanish with growing `t`. It is meant for a variance-preserving table: `t` counts its timesteps.
///
/// Luo et al., "Latent Consistency Models: Synthesizing High-Resolution Images with Few-Step Inference", 2023,
/// arXiv:2310.04378, algorithm 3 and section 4.1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lcm {
    /// `σd`, the standard deviation of the data.
    pub sigma_data: f64,
    /// `s`, what a timestep is multiplied by.
    pub timestep_scaling: f64,
}

impl Default for Lcm {
    fn default() -> Self {
        Self {
            sigma_data: 0.5,
            timestep_scaling: 10.0,
        }
    }
}

impl Lcm {
    /// `c_skip` and `c_out`, the shares of the sample and of the clean estimate at a time.
    pub(crate) fn shares(self, t: f64) -> [f64; 2] {
        let time = self.timestep_scaling * t;
        let total = time.hypot(self.sigma_data);
        [(self.sigma_data / total).powi(2), time / total]
    }
}

impl Solver for Lcm {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        for (name, value) in [
            ("sigma_data", self.sigma_data),
            ("timestep_scaling", self.timestep_scaling),
        ] {
            if !(value > 0.0 && value.is_finite()) {
                return Err(SolverError::Parameter {
                    solver: "LCM",
                    name,
                    expected: "positive and finite",
                    value,
                });
            }
        }
        let last = grid.steps() - 1;
        let stages = grid.points().windows(2).enumerate().map(|(i, pair)| {
            let (at, mut to) = (pair[0], pair[1]);
            if i == last {
                // Whatever the grid's end: the consistency function's answer is the result.
                to.level = Level::CLEAN;
            }
            let [skip, output] = self.shares(at.t);
            Stage {
                at,
                to,
                states: vec![to.level.alpha * skip],
                clean: vec![to.level.alpha * output],
                noise: vec![],
                fresh: to.level.sigma,
            }
        });
        finite("LCM", stages.collect())
    }
}
