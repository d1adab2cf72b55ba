use super::{SolverError, Stage, check_fraction, finite};
use crate::{Grid, Level, Schedule, Solver};

/// Trajectory consistency: denoise beyond the next level, then add noise back to it.
///
/// ```text
/// q      = (1 − γ) · t_next
/// x_next = α_next/α_q · (α_q x̂ + σ_q ε̂) + √(σ_next² − (α_next σ_q / α_q)²) · ε
/// ```
///
/// `γ = 0` is DDIM; `γ = 1` renews all noise. The last step draws none.
///
/// Zheng et al., "Trajectory Consistency Distillation", 2024, arXiv:2402.19159, strategic stochastic sampling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Tcd {
    /// From 0 (deterministic) to 1 (all noise is renewed); diffusers calls it `eta`.
    pub gamma: f64,
}

impl Solver for Tcd {
    fn plan(&self, schedule: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        check_fraction("TCD", "gamma", self.gamma)?;
        let last = grid.steps() - 1;
        let stages = grid.points().windows(2).enumerate().map(|(i, pair)| {
            let (at, to) = (pair[0], pair[1]);
            let Level { alpha, sigma } = to.level;
            let beyond = if i == last || self.gamma == 0.0 {
                to.level
            } else {
                // Times grow from the start of the domain: EDM's are negative.
                let start = *schedule.domain().start();
                // A whole timestep may come out a rounding below itself.
                let t = start + (1.0 - self.gamma) * (to.t - start);
                schedule.level(schedule.snap(t + 1e-6).min(to.t))
            };
            let noise = alpha * beyond.sigma / beyond.alpha;
            Stage {
                at,
                to,
                states: vec![],
                clean: vec![alpha],
                noise: vec![noise],
                fresh: (sigma * sigma - noise * noise).max(0.0).sqrt(),
            }
        });
        finite("TCD", stages.collect())
    }
}
