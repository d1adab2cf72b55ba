use super::ddim::posterior_deviation;
use super::{SolverError, Stage, finite, one_step};
use crate::{Grid, Level, Point, Schedule, Solver};

/// Which variance DDPM's reverse step has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Variance {
    /// That of the posterior, `β̃ = σ_next² (1 − (α σ_next / (α_next σ))²)`: diffusers' `fixed_small`.
    #[default]
    FixedSmall,
    /// That of the forward step, `β = σ² − (α/α_next)² σ_next²`: diffusers' `fixed_large`. It adds more noise than the
    /// level it arrives at has, so the second invariant does not hold.
    FixedLarge,
}

/// DDPM's ancestral sampling: first order, stochastic, one pass a step.
///
/// ```text
/// x_next = (α σ_next²) / (α_next σ²) · x + α_next (1 − (α σ_next / (α_next σ))²) · x̂ + √variance · ε
/// ```
///
/// No noise is drawn in a step that arrives at the data. In contrast to [`Ddim`](super::Ddim) with `η = 1` the step
/// uses the sample and not the noise estimate, so that a clipped estimate is used consistently.
///
/// Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, equation 7 and algorithm 2.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ddpm {
    /// The variance of a step.
    pub variance: Variance,
}

impl Solver for Ddpm {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        finite("DDPM", one_step(grid, |at, to| self.step(at, to)))
    }
}

impl Ddpm {
    fn step(self, at: Point, to: Point) -> Stage {
        let Level { alpha, sigma } = at.level;
        let next = to.level;
        let carried = alpha * next.sigma * next.sigma / (next.alpha * sigma * sigma);
        let kept = alpha * next.sigma / (next.alpha * sigma);
        let fresh = match self.variance {
            _ if next.sigma == 0.0 => 0.0,
            Variance::FixedSmall => posterior_deviation(at.level, next),
            Variance::FixedLarge => (sigma * sigma - (alpha / next.alpha * next.sigma).powi(2))
                .max(0.0)
                .sqrt(),
        };
        Stage {
            at,
            to,
            states: vec![carried],
            clean: vec![next.alpha * (1.0 - kept * kept)],
            noise: vec![],
            fresh,
        }
    }
}
