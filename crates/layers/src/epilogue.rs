//! What follows a convolution.

use burn::prelude::*;

use crate::kernel::{self, Activation, Level};
use crate::parameter::values;
use crate::{GroupNorm, activation};

/// What follows a convolution, over time where `D` is 3 and over pictures where it is 4, in this order. Where the weights
/// are packed, it is computed with the convolution in one sweep; elsewhere operation by operation.
///
/// A picture's normalization is computed by itself: it needs all of the picture before the first of its values.
#[derive(Debug, Default)]
pub struct Epilogue<'a, const D: usize> {
    /// Normalizes.
    pub normalization: Option<&'a GroupNorm>,
    /// Activates.
    pub activation: Activation,
    /// Modulates.
    pub modulation: Option<Modulation>,
    /// Is added.
    pub residual: Option<Tensor<D>>,
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

impl Modulation {
    /// The values, and the distance between two samples'.
    ///
    /// # Panics
    ///
    /// If they do not go with so many samples and channels.
    pub(crate) fn values(self, batch: usize, channels: usize) -> Film {
        let [rows, width] = self.values.dims();
        assert!(
            (rows == 1 || rows == batch) && width == channels * (1 + usize::from(self.scales)),
            "a modulation of [{rows}, {width}] for {batch} samples of {channels} channels"
        );
        Film {
            values: values(self.values),
            scales: self.scales,
            channels,
            sample: if rows == 1 { 0 } else { width },
        }
    }
}

/// The values of a [`Modulation`].
pub(crate) struct Film {
    values: Vec<f32>,
    scales: bool,
    channels: usize,
    sample: usize,
}

impl Film {
    /// What the kernels need of it.
    pub(crate) fn kernel(&self) -> kernel::Film<'_> {
        let (scale, shift) = if self.scales {
            (Some(&self.values[..]), &self.values[self.channels..])
        } else {
            (None, &self.values[..])
        };
        kernel::Film {
            scale,
            shift,
            sample: self.sample,
        }
    }
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
            Self::Relu => activation::relu(x),
            Self::QuickGelu => activation::quick_gelu(x),
        }
    }
}

impl<const D: usize> Epilogue<'_, D> {
    /// Whether the kernels can compute it.
    pub(crate) fn is_packed(&self) -> bool {
        match self.normalization {
            Some(it) => D == 3 && it.is_packed(),
            None => true,
        }
    }

    /// Computes it operation by operation.
    ///
    /// Shapes: y and the result `[batch, channels, ..]`.
    pub(crate) fn forward(self, mut y: Tensor<D>) -> Tensor<D> {
        let channels = y.dims()[1];
        #[cfg(feature = "train")]
        if let Some(normalization) = self.normalization
            && normalization.is_trained_with(self.activation)
        {
            return normalization.then(y, self.activation, self.modulation, self.residual);
        }
        if let Some(normalization) = self.normalization {
            y = normalization.forward(y);
        }
        y = self.activation.forward(y);
        if let Some(Modulation { values, scales }) = self.modulation {
            let [batch, width] = values.dims();
            let mut shape = [1; D];
            (shape[0], shape[1]) = (batch, width);
            let values: Tensor<D> = values.reshape(shape);
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
