use burn::tensor::Tensor;

use super::with_clean;
use crate::{Denoiser, Estimate, Point};

/// Entries of a sample that are known: start and goal of a trajectory, the prefix that is being executed, the part of
/// a picture that stays.
#[derive(Clone, Debug)]
pub struct Pins<const D: usize> {
    mask: Tensor<D>,
    values: Tensor<D>,
}

impl<const D: usize> Pins<D> {
    /// Pins `values` where `mask` is one; between zero and one the two are mixed.
    ///
    /// # Shapes
    ///
    /// - mask, values: `[batch or 1, ..]`, broadcast over the batch
    pub fn new(mask: Tensor<D>, values: Tensor<D>) -> Self {
        // What is not pinned may hold anything in `values`; zero it once so that 0 · NaN cannot spread.
        let free = mask.clone().equal_elem(0.0);
        Self {
            mask,
            values: values.mask_fill(free, 0.0),
        }
    }

    /// `mask · values + (1 − mask) · x`, exactly `values` where the mask is one.
    pub fn impose(&self, x: Tensor<D>) -> Tensor<D> {
        let shape = x.dims();
        let mask = self.mask.clone().expand(shape);
        let values = self.values.clone().expand(shape);
        let mixed = mask.clone() * values.clone() + (mask.clone().neg().add_scalar(1.0)) * x;
        // In f32, m·v + (1 − m)·x is v for m = 1 only while x is finite.
        mixed.mask_where(mask.equal_elem(1.0), values)
    }
}

/// Pins known entries of the clean estimate, and lets the noise follow.
///
/// ```text
/// x̂ ← mask · values + (1 − mask) · x̂          ε̂ = (x − α x̂) / σ
/// ```
///
/// Since every exact solver carries the signal (`Σ states·α + Σ clean = α_next`), pinned entries end at their values
/// once the last level is clean; [`finish`](Denoiser::finish) imposes them once more, so that they are exact whatever
/// the end and the arithmetic. It belongs outside of [`ClassifierFree`](super::ClassifierFree) and [`Clip`](super::Clip).
///
/// Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, section 3.2, for
/// trajectories; Lugmayr et al., "RePaint", 2022, arXiv:2201.09865, pins the noisy sample instead.
#[derive(Clone, Debug)]
pub struct Inpaint<N, const D: usize> {
    /// What is pinned.
    pub denoiser: N,
    /// The known entries.
    pub pins: Pins<D>,
}

impl<const D: usize, N: Denoiser<D>> Denoiser<D> for Inpaint<N, D> {
    type Condition = N::Condition;
    type Prepared = N::Prepared;

    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
        self.denoiser.prepare(condition)
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
        let estimate = self.denoiser.denoise(x.clone(), points, prepared);
        with_clean(&x, self.pins.impose(estimate.clean), points)
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.pins.impose(self.denoiser.finish(sample))
    }
}
