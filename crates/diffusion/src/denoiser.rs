//! What the engine asks of a network, and what it makes of one.

use std::sync::Arc;

use burn::tensor::Tensor;

use crate::Point;

/// A network that was trained to predict something about a noisy sample.
///
/// What it predicts is said by a [`Parameterization`](crate::Parameterization); [`Parameterized`](crate::Parameterized)
/// makes a [`Denoiser`] of the two.
pub trait Network<const D: usize> {
    /// What a sample is conditioned on: observations, a prompt.
    type Condition;
    /// What depends on the condition alone, computed once a plan or picture.
    type Prepared;

    /// Does the work that all steps share.
    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared;

    /// One pass.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, ..]`
    /// - points: one for all samples, or one a sample
    /// - returns: `[batch, ..]`
    fn forward(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Tensor<D>;
}

/// The clean estimate `x̂ ≈ E[x₀ | x_t]` and the noise `ε̂` that goes with it.
///
/// `x_t = alpha · x̂ + sigma · ε̂` holds unless a wrapper says that it keeps one and changes the other
/// ([`Clip`](crate::Clip) does).
#[derive(Clone, Debug)]
pub struct Estimate<const D: usize> {
    /// `x̂`, the sample without its noise.
    pub clean: Tensor<D>,
    /// `ε̂`, the noise in the sample, of unit variance.
    pub noise: Tensor<D>,
}

/// A model of `E[x₀ | x_t]`.
///
/// Whatever changes an estimate is a `Denoiser` around a `Denoiser`; the executor never learns of it.
pub trait Denoiser<const D: usize> {
    /// What a sample is conditioned on.
    type Condition;
    /// What depends on the condition alone.
    type Prepared;

    /// Does the work that all steps share.
    fn prepare(&self, condition: &Self::Condition) -> Self::Prepared;

    /// Estimates the clean sample and the noise.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, ..]`
    /// - points: one for all samples, or one a sample
    fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D>;

    /// Imposes on a finished sample what must hold exactly; the sampler calls it after the last stage.
    fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
        sample
    }
}

/// What points to a network or a denoiser is one: a wrapper that changes with every plan borrows what does not.
macro_rules! forward {
    ($($pointer:ty),*) => {$(
        impl<const D: usize, N: Network<D> + ?Sized> Network<D> for $pointer {
            type Condition = N::Condition;
            type Prepared = N::Prepared;

            fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
                (**self).prepare(condition)
            }

            fn forward(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Tensor<D> {
                (**self).forward(x, points, prepared)
            }
        }

        impl<const D: usize, N: Denoiser<D> + ?Sized> Denoiser<D> for $pointer {
            type Condition = N::Condition;
            type Prepared = N::Prepared;

            fn prepare(&self, condition: &Self::Condition) -> Self::Prepared {
                (**self).prepare(condition)
            }

            fn denoise(&self, x: Tensor<D>, points: &[Point], prepared: &Self::Prepared) -> Estimate<D> {
                (**self).denoise(x, points, prepared)
            }

            fn finish(&self, sample: Tensor<D>) -> Tensor<D> {
                (**self).finish(sample)
            }
        }
    )*};
}

forward!(&N, Box<N>, Arc<N>);
