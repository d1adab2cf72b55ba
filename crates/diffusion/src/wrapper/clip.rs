use burn::tensor::Tensor;

use super::implied_noise;
use crate::{Denoiser, Estimate, Point};

/// The bound on a clean estimate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Threshold {
    /// `x̂ ← clamp(x̂, −range, range)`.
    Static {
        /// The bound, 1 for data normalised to [−1, 1].
        range: f64,
    },
    /// `q = clamp(quantile(|x̂|, ratio), 1, most)`, `x̂ ← clamp(x̂, −q, q) / q`, a sample at a time.
    ///
    /// Saharia et al., "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding", 2022,
    /// arXiv:2205.11487, section 2.3.
    Dynamic {
        /// The share of values inside of the bound.
        ratio: f64,
        /// The largest bound.
        most: f64,
    },
}

/// What becomes of the noise estimate where the clean one is clipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClippedNoise {
    /// It is kept: diffusers' `clip_sample` in DDIM, and what policies were evaluated with. The two estimates then no
    /// longer belong together, which a step that uses one of them, or their sum at the next level, can bear.
    #[default]
    Kept,
    /// It becomes `(x − α x̂) / σ`: for solvers that step along `x̂ dα + ε̂ dσ` ([`Heun`](crate::Heun)), as diffusers'
    /// does, or use `ε̂` alone ([`Pndm`](crate::Pndm)), which a kept one would not clip at all.
    Implied,
}

/// Bounds the clean estimate.
#[derive(Clone, Debug)]
pub struct Clip<N> {
    /// What is bounded.
    pub denoiser: N,
    /// The bound.
    pub threshold: Threshold,
    /// What becomes of the noise.
    pub noise: ClippedNoise,
}

impl<const D: usize, N: Denoiser<D>> Denoiser<D> for Clip<N> {
    type Condition = N::Condition;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.denoiser.prepare(condition)
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let Estimate { clean, noise } = self.denoiser.denoise(x.clone(), points, prepared);
        let clean = match self.threshold {
            Threshold::Static { range } => clean.clamp(-range, range),
            Threshold::Dynamic { ratio, most } => {
                let bound = quantile_of_magnitude(&clean, ratio).clamp(1.0, most);
                clean.max_pair(bound.clone().neg()).min_pair(bound.clone()) / bound
            }
        };
        let noise = match self.noise {
            ClippedNoise::Kept => noise,
            ClippedNoise::Implied => implied_noise(&x, &clean, points),
        };
        Estimate { clean, noise }
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.denoiser.finish(sample)
    }
}

/// The `ratio`-quantile of `|x|` of each sample, linear between two values as NumPy's and torch's: `[batch, 1, ..]`.
fn quantile_of_magnitude<const D: usize>(x: &Tensor<D>, ratio: f64) -> Tensor<D> {
    let batch = x.dims()[0];
    let each = x.dims()[1..].iter().product::<usize>();
    let sorted = x.clone().abs().reshape([batch, each]).sort(1);
    let place = ratio.clamp(0.0, 1.0) * each.saturating_sub(1) as f64;
    let (below, fraction) = (place as usize, place.fract());
    let low = sorted.clone().narrow(1, below, 1);
    let high = sorted.narrow(1, place.ceil() as usize, 1);
    let mut shape = [1; D];
    shape[0] = batch;
    (low.clone() + (high - low).mul_scalar(fraction)).reshape(shape)
}
