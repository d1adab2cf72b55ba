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
/// differences vanish with growing `t`.
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

impl Solver for Lcm {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let last = grid.steps() - 1;
        let stages = grid.points().windows(2).enumerate().map(|(i, pair)| {
            let (at, to) = (pair[0], pair[1]);
            let time = self.timestep_scaling * at.t;
            let total = time.hypot(self.sigma_data);
            let next = if i == last { Level::CLEAN } else { to.level };
            Stage {
                at,
                to,
                states: vec![next.alpha * (self.sigma_data / total).powi(2)],
                clean: vec![next.alpha * time / total],
                noise: vec![],
                fresh: next.sigma,
            }
        });
        finite("LCM", stages.collect())
    }
}
