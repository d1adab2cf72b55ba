//! What follows a convolution over time.

use burn::prelude::*;

use crate::kernel::{self, Activation, Level};
use crate::{GroupNorm, activation};

/// What follows a convolution over time, in this order. Where the weights are packed, it is computed with the
/// convolution in one sweep; elsewhere operation by operation.
#[derive(Debug, Default)]
pub struct Epilogue<'a> {
    /// Normalizes.
    pub normalization: Option<&'a GroupNorm>,
    /// Activates.
    pub activation: Activation,
    /// Modulates.
    pub modulation: Option<Modulation>,
    /// Is added.
    pub residual: Option<Tensor<3>>,
}

/// `scale · y + shift`, or `y + shift`, with one number for each channel of a sample.
///
/// "FiLM: Visual Reasoning with a General Conditioning Layer", Perez et al., 2017, arXiv:1709.07871; as Diffusion Policy
/// has it, and not `(1 + scale) · y + shift` as elsewhere.
#[derive(Clone, Debug)]
pub struct Modulation {
    /// `cat(scale, shift)`: `[batch or 1, 2 · channels]`; or `shift` alone: `[batch or 1, channels]`.
    pub values: Tensor<2>,
    /// Whether there are scales.
    pub scales: bool,
}

impl Activation {
    /// Applies the activation in place, on the CPU.
    ///
    /// Against exact arithmetic, Mish, SiLU and sigmoid are within 4e-7 of their value or, where that is less, 1e-36; GELU
    /// and quick GELU are within 4e-7 of `|x|`.
    pub fn apply(self, x: &mut [f32]) {
        kernel::apply(Level::detected(), self, x);
    }

    /// Applies the activation, element by element.
    pub fn forward<const D: usize>(self, x: Tensor<D>) -> Tensor<D> {
        match self {
            Self::Identity => x,
            Self::Mish => activation::mish(x),
            Self::Silu => activation::silu(x),
            Self::Sigmoid => burn::tensor::activation::sigmoid(x),
            Self::Gelu => burn::tensor::activation::gelu(x),
            Self::QuickGelu => activation::quick_gelu(x),
        }
    }
}

impl Epilogue<'_> {
    /// Whether the kernels can compute it.
    pub(crate) fn is_packed(&self) -> bool {
        self.normalization.is_none_or(GroupNorm::is_packed)
    }

    /// Computes it operation by operation.
    ///
    /// Shapes: y and the result `[batch, channels, time]`.
    pub(crate) fn forward(self, mut y: Tensor<3>) -> Tensor<3> {
        let [_, channels, _] = y.dims();
        if let Some(normalization) = self.normalization {
            y = normalization.forward(y);
        }
        y = self.activation.forward(y);
        if let Some(Modulation { values, scales }) = self.modulation {
            let values: Tensor<3> = values.unsqueeze_dim(2);
            y = if scales {
                y * values.clone().narrow(1, 0, channels) + values.narrow(1, channels, channels)
            } else {
                y + values
            };
        }
        match self.residual {
            Some(residual) => y + residual,
            None => y,
        }
    }
}
