use std::fmt::Debug;

use burn::tensor::Tensor;

use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Point};

/// A cost on a clean sample, by its gradient: collision, smoothness, limits; a classifier's score.
pub trait Cost<const D: usize>: Debug {
    /// `∂cost/∂x̂`, computed on the host or the device, in closed form or by autodiff.
    ///
    /// # Shapes
    ///
    /// - clean: `[batch, ..]`
    /// - returns: the same
    fn gradient(&self, clean: &Tensor<D>, points: &[Point]) -> Tensor<D>;
}

/// Descends a cost on the clean estimate, and lets the noise follow: cost guidance.
///
/// ```text
/// repeat steps:  x̂ ← x̂ − rate · ∂cost(x̂)/∂x̂          ε̂ ← ε̂ − α/σ · (change of x̂)
/// ```
///
/// The gradient is taken at `x̂`, not through the network: one backward pass through a planner costs more than a step.
///
/// After Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, algorithm 1
/// and Carvalho et al., "Motion Planning Diffusion", 2023, arXiv:2308.01557, which descend on the posterior mean.
#[derive(Clone, Debug)]
pub struct Guided<N, C> {
    /// What is guided.
    pub denoiser: N,
    /// What shall be small.
    pub cost: C,
    /// The length of a gradient step.
    pub rate: f64,
    /// Gradient steps a pass.
    pub steps: usize,
}

impl<const D: usize, N: Denoiser<D>, C: Cost<D>> Denoiser<D> for Guided<N, C> {
    type Condition = N::Condition;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.denoiser.prepare(condition)
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let estimate = self.denoiser.denoise(x, points, prepared);
        if self.steps == 0 || self.rate == 0.0 {
            return estimate;
        }
        let mut clean = estimate.clean.clone();
        for _ in 0..self.steps {
            let gradient = self.cost.gradient(&clean, points);
            clean = clean - gradient.mul_scalar(self.rate);
        }
        let ratios: Vec<f64> = points
            .iter()
            .map(|point| point.level.ratio().recip())
            .collect();
        let noise = match scaled(&(clean.clone() - estimate.clean), &ratios) {
            Some(change) => estimate.noise - change,
            None => estimate.noise,
        };
        Estimate { clean, noise }
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.denoiser.finish(sample)
    }
}
