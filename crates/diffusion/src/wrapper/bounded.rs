use burn::tensor::Tensor;

use super::implied_noise;
use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Lcm, Point};

/// A consistency function that is the sample itself where there is no noise: the boundary of latent consistency models.
///
/// ```text
/// x̂ ← c_out · x̂ + c_skip · x          ε̂ ← (x − α x̂) / σ
/// ```
///
/// Students learn in it and are then sampled without it by [`Lcm`], which has the same two numbers; or with it by
/// [`Consistency`](crate::Consistency).
///
/// Luo et al., "Latent Consistency Models", 2023, arXiv:2310.04378, equation 9.
#[derive(Clone, Debug)]
pub struct Bounded<N> {
    /// What sees the end.
    pub denoiser: N,
    /// What says how the shares grow with time.
    pub boundary: Lcm,
}

impl<const D: usize, N: Denoiser<D>> Denoiser<D> for Bounded<N> {
    type Condition = N::Condition;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.denoiser.prepare(condition)
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let seen = self.denoiser.denoise(x.clone(), points, prepared).clean;
        let (skip, output): (Vec<f64>, Vec<f64>) = points
            .iter()
            .map(|point| self.boundary.shares(point.t))
            .map(|[skip, output]| (skip, output))
            .unzip();
        let clean = match (scaled(&x, &skip), scaled(&seen, &output)) {
            (Some(x), Some(seen)) => x + seen,
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => x.zeros_like(),
        };
        Estimate {
            noise: implied_noise(&x, &clean, points),
            clean,
        }
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.denoiser.finish(sample)
    }
}
