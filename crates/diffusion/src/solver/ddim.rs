use super::{SolverError, Stage, check_fraction, finite, one_step};
use crate::{Grid, Level, Point, Schedule, Solver};

/// DDIM with stochasticity `η`: first order, one pass a step.
///
/// ```text
/// x_next = α_next · x̂ + √(σ_next² − w²) · ε̂ + w · ε
/// w      = η · σ_next · √(1 − (α σ_next / (α_next σ))²)
/// ```
///
/// `η = 0` is the probability-flow ODE and draws nothing; `η = 1` has DDPM's variance.
/// It holds on every line: on the variance-preserving one `w` is the paper's, in σ-space it is Euler-ancestral's
/// `σ_up`, on straight lines `η = 0` is flow-matching Euler.
///
/// Song et al., "Denoising Diffusion Implicit Models", 2020, arXiv:2010.02502, equations 12 and 16.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Ddim {
    /// From 0 (deterministic) to 1 (DDPM's variance).
    pub eta: f64,
}

impl Solver for Ddim {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        check_fraction("DDIM", "eta", self.eta)?;
        finite("DDIM", one_step(grid, |at, to| ddim(at, to, self.eta)))
    }
}

/// Euler's method on the probability-flow ODE `dx = x̂ dα + ε̂ dσ`: in σ-space k-diffusion's Euler, on straight lines
/// flow matching's.
///
/// Since `x = αx̂ + σε̂`, one step of it is `α_next · x̂ + σ_next · ε̂` on every line: DDIM with `η = 0`. So Stable
/// Diffusion's Euler needs no σ-space: on its own table it takes the same steps.
///
/// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
/// algorithm 1 without its correction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Euler;

impl Solver for Euler {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        finite("Euler", one_step(grid, |at, to| ddim(at, to, 0.0)))
    }
}

/// Euler's method with ancestral noise, as in k-diffusion: DDIM with `η = 1`.
///
/// ```text
/// σ_up² = σ_next² (σ² − σ_next²) / σ²,   σ_down² = σ_next² − σ_up²        (α = 1)
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EulerAncestral;

impl Solver for EulerAncestral {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        finite(
            "Euler-ancestral",
            one_step(grid, |at, to| ddim(at, to, 1.0)),
        )
    }
}

fn ddim(at: Point, to: Point, eta: f64) -> Stage {
    let fresh = eta * posterior_deviation(at.level, to.level);
    let Level { alpha, sigma } = to.level;
    Stage {
        at,
        to,
        states: vec![],
        clean: vec![alpha],
        // In f64 the radicand can fall below zero by a rounding where eta is one.
        noise: vec![(sigma * sigma - fresh * fresh).max(0.0).sqrt()],
        fresh,
    }
}

/// The standard deviation of `x_next` given `x` and `x₀`: `σ_next · √(1 − (α σ_next / (α_next σ))²)`.
pub(super) fn posterior_deviation(at: Level, to: Level) -> f64 {
    let kept = (at.alpha * to.sigma) / (to.alpha * at.sigma);
    to.sigma * (1.0 - kept * kept).max(0.0).sqrt()
}
