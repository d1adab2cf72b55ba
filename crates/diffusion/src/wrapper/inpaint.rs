use burn::tensor::{Bool, Tensor};

use super::implied_noise;
use crate::{Denoiser, Estimate, Point};

/// Entries of a sample that are known: start and goal of a trajectory, the prefix that is being executed, the part of
/// a picture that stays.
#[derive(Clone, Debug)]
pub struct Pins<const D: usize> {
    mask: Tensor<D>,
    free: Tensor<D>,
    exact: Tensor<D, Bool>,
    values: Tensor<D>,
}

impl<const D: usize> Pins<D> {
    /// Pins `values` where `mask` is one; between zero and one the two are mixed in every estimate, and the sample that
    /// comes of it is left as it is.
    ///
    /// # Shapes
    ///
    /// - mask, values: `[batch or 1, ..]`, each broadcast to the other and over the batch
    pub fn new(mask: Tensor<D>, values: Tensor<D>) -> Self {
        let (ours, theirs) = (mask.dims(), values.dims());
        let shape: [usize; D] = std::array::from_fn(|axis| ours[axis].max(theirs[axis]));
        let (mask, values) = (mask.expand(shape), values.expand(shape));
        // What is not pinned may hold anything in `values`; zero it once so that 0 · NaN cannot spread.
        let unpinned = mask.clone().equal_elem(0.0);
        Self {
            free: mask.clone().neg().add_scalar(1.0),
            exact: mask.clone().equal_elem(1.0),
            values: values.mask_fill(unpinned, 0.0),
            mask,
        }
    }

    /// `mask · pinned + (1 − mask) · x`, exactly `pinned` where the mask is one, and exactly `x` where it is zero.
    fn mix(&self, x: Tensor<D>, pinned: Tensor<D>) -> Tensor<D> {
        let shape = x.dims();
        let pinned = pinned.expand(shape);
        // In f32, m·v + (1 − m)·x is v for m = 1 only while x is finite.
        let mixed = self.mask.clone() * pinned.clone() + self.free.clone() * x;
        mixed.mask_where(self.exact.clone().expand(shape), pinned)
    }

    /// Writes the values where they are pinned exactly.
    pub fn impose(&self, sample: Tensor<D>) -> Tensor<D> {
        let shape = sample.dims();
        sample.mask_where(
            self.exact.clone().expand(shape),
            self.values.clone().expand(shape),
        )
    }
}

/// Pins known entries of the clean estimate, and lets their noise follow.
///
/// ```text
/// x̂ ← mask · values + (1 − mask) · x̂          ε̂ ← mask · (x − α · values) / σ + (1 − mask) · ε̂
/// ```
///
/// What is not pinned keeps its estimates bit for bit, also those that do not belong together ([`Clip`](super::Clip)).
///
/// Since every exact solver carries the signal (`Σ states·α + Σ clean = α_next`), pinned entries end at their values
/// once the last level is clean; [`finish`](Denoiser::finish) imposes them once more, so that they are exact whatever
/// the end and the arithmetic. It is the outermost wrapper.
///
/// Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, section 3.3, for
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
        let Estimate { clean, noise } = self.denoiser.denoise(x.clone(), points, prepared);
        let values = self.pins.values.clone().expand(x.dims());
        let implied = implied_noise(&x, &values, points);
        Estimate {
            clean: self.pins.mix(clean, values),
            noise: self.pins.mix(noise, implied),
        }
    }

    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        self.pins.impose(self.denoiser.finish(sample))
    }
}
