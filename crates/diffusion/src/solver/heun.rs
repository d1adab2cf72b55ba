use super::{SolverError, Stage, finite};
use crate::{Grid, Level, Schedule, Solver};

/// Heun's method on the probability-flow ODE `dx = x̂ dα + ε̂ dσ`: second order, two passes a step.
///
/// ```text
/// x'     = x + Δα · x̂ + Δσ · ε̂
/// x_next = x + Δα · (x̂ + x̂')/2 + Δσ · (ε̂ + ε̂')/2
/// ```
///
/// Primes mark the pass at the predicted point. A step to `sigma = 0` is Euler's, so n steps to the data take 2n − 1
/// passes. In σ-space (`Δα = 0`) it is EDM's deterministic sampler, on straight lines flow matching's Heun.
///
/// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
/// algorithm 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heun;

impl Solver for Heun {
    fn plan(&self, _: &dyn Schedule, grid: &Grid) -> Result<Vec<Stage>, SolverError> {
        let mut stages = Vec::with_capacity(2 * grid.steps());
        for pair in grid.points().windows(2) {
            let (at, to) = (pair[0], pair[1]);
            let change = Level {
                alpha: to.level.alpha - at.level.alpha,
                sigma: to.level.sigma - at.level.sigma,
            };
            stages.push(Stage {
                at,
                to,
                states: vec![1.0],
                clean: vec![change.alpha],
                noise: vec![change.sigma],
                fresh: 0.0,
            });
            if to.level.sigma > 0.0 {
                stages.push(Stage {
                    at: to,
                    to,
                    states: vec![0.0, 1.0],
                    clean: vec![change.alpha / 2.0; 2],
                    noise: vec![change.sigma / 2.0; 2],
                    fresh: 0.0,
                });
            }
        }
        finite("Heun", stages)
    }
}
