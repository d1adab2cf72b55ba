//! What comes before a convolution over pictures.

use burn::prelude::*;

use crate::kernel::Activation;
use crate::{GroupNorm, upsample_nearest_2x};

/// What comes before a convolution over pictures, in this order. Where the weights are packed, it is computed as the
/// convolution reads its input; elsewhere operation by operation.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prologue<'a> {
    /// Normalizes.
    pub normalization: Option<&'a GroupNorm>,
    /// Activates.
    pub activation: Activation,
    /// Whether height and width are doubled, as by [`upsample_nearest_2x`].
    pub doubled: bool,
}

impl Prologue<'_> {
    /// Whether the kernels can compute it.
    pub(crate) fn is_packed(&self) -> bool {
        self.normalization.is_none_or(GroupNorm::is_packed)
    }

    /// What is convolved, but for the doubling.
    ///
    /// Shapes: as [`forward`](Self::forward)
    pub(crate) fn activated(&self, x: Tensor<4>) -> Tensor<4> {
        match self.normalization {
            #[cfg(feature = "train")]
            Some(normalization) if normalization.is_trained_with(self.activation) => {
                normalization.then(x, self.activation, None, None)
            }
            Some(normalization) => self.activation.forward(normalization.forward(x)),
            None => self.activation.forward(x),
        }
    }

    /// Computes it operation by operation.
    ///
    /// Shapes: x `[batch, channels, height, width]`; so is the result, which may be doubled.
    pub(crate) fn forward(&self, mut x: Tensor<4>) -> Tensor<4> {
        x = self.activated(x);
        if self.doubled {
            upsample_nearest_2x(x)
        } else {
            x
        }
    }
}
