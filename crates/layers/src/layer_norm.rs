//! Layer normalization.

use burn::module::Module;
use burn::nn::Initializer;
use burn::prelude::*;

use crate::kernel::{Affine, Level, normalize_rows};
use crate::parameter::{tensor, values};
use crate::{PackReport, Parameter, Tokens};

/// Makes a [`LayerNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerNormConfig {
    /// The size of the last axis.
    pub features: usize,
    /// What is added to the variance; PyTorch's default is 1e-5.
    pub epsilon: f64,
}

/// `y = (x - mean) / √(variance + epsilon) · weight + bias`, with the mean and the variance of each last axis.
///
/// "Layer Normalization", Ba, Kiros and Hinton, 2016, arXiv:1607.06450.
#[derive(Module, Debug)]
pub struct LayerNorm {
    /// The scale of each feature: `[features]`.
    pub weight: Parameter<1>,
    /// The offset of each feature: `[features]`.
    pub bias: Parameter<1>,
    #[module(skip)]
    epsilon: f64,
}

impl LayerNormConfig {
    /// A layer with scale one and offset zero.
    ///
    /// # Panics
    ///
    /// If there are no features, or epsilon is not positive.
    pub fn init(&self, device: &Device) -> LayerNorm {
        let Self { features, epsilon } = *self;
        assert!(features > 0, "a layer norm needs features");
        assert!(epsilon > 0.0, "epsilon must be positive, not {epsilon}");
        LayerNorm {
            weight: Initializer::Ones.init([features], device).into(),
            bias: Initializer::Zeros.init([features], device).into(),
            epsilon,
        }
    }
}

impl LayerNorm {
    /// Lays scale and offset out for the kernels of this crate.
    pub fn pack(&mut self) -> PackReport {
        PackReport {
            layers: 1,
            ..self.weight.pack_values() + self.bias.pack_values()
        }
    }

    /// Normalizes tokens.
    ///
    /// # Shapes
    ///
    /// - x, y: `[batch, n, features]`
    ///
    /// # Panics
    ///
    /// If the layer is not packed, or the shapes do not go together.
    pub fn write(&self, x: &Tokens, y: &mut Tokens) {
        let affine = self.affine().expect("tokens are read by packed layers");
        let features = affine.weight.len();
        x.assert_like(y, [features, features]);
        self.normalize(affine, &x.values, &mut y.values);
    }

    fn affine(&self) -> Option<Affine<'_>> {
        let (weight, bias) = (self.weight.values()?, self.bias.values()?);
        Some(Affine { weight, bias })
    }

    fn normalize(&self, affine: Affine<'_>, x: &[f32], y: &mut [f32]) {
        normalize_rows(Level::detected(), affine, self.epsilon, x, y);
    }

    /// Normalizes the last axis.
    ///
    /// # Shapes
    ///
    /// - x, returns: `[.., features]`
    ///
    /// # Panics
    ///
    /// If the last axis of `x` is not `features`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [features] = self.weight.dims();
        assert_shape!(x, [.., features]);
        if let Some(affine) = self.affine() {
            let (shape, device) = (x.dims(), x.device());
            let x = values(x);
            let mut y = vec![0.0; x.len()];
            self.normalize(affine, &x, &mut y);
            return tensor(y, shape, &device);
        }
        let weight = self.weight.val();
        // Two passes: the variance of what is left when the mean is gone does not cancel.
        let mean = x.clone().mean_dim(D - 1);
        let x = x - mean;
        let variance = x.clone().square().mean_dim(D - 1);
        let scale = variance.add_scalar(self.epsilon).sqrt().recip();
        x * scale * weight.unsqueeze() + self.bias.val().unsqueeze()
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn every_row_is_normalized_then_scaled() {
        let device = Device::flex();
        let mut layer = LayerNormConfig {
            features: 6,
            epsilon: 1e-5,
        }
        .init(&device);
        let scale = [1.0, 2.0, -1.0, 0.5, 3.0, 0.0];
        layer.weight = Param::from_data(scale, &device).into();
        layer.bias = Param::from_data([0.5; 6], &device).into();
        let x = Tensor::<3>::random([2, 3, 6], Distribution::Normal(40.0, 3.0), &device);
        let plain = layer.forward(x.clone());
        assert_eq!(layer.pack().parameters, 12);
        let packed = layer.forward(x.clone());
        let tokens = Tokens::from(x.clone());
        let mut written = tokens.with_features(6);
        layer.write(&tokens, &mut written);
        for y in [plain, packed, written.into_tensor(&device)] {
            check(x.clone(), y, scale);
        }
    }

    fn check(x: Tensor<3>, y: Tensor<3>, scale: [f64; 6]) {
        let x: Vec<f32> = x.into_data().try_to_vec().expect("f32");
        let y: Vec<f32> = y.into_data().try_to_vec().expect("f32");
        for (x, y) in x.chunks(6).zip(y.chunks(6)) {
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / 6.0;
            let variance = x
                .iter()
                .map(|&x| (f64::from(x) - mean).powi(2))
                .sum::<f64>()
                / 6.0;
            for ((&x, &y), scale) in x.iter().zip(y).zip(scale) {
                let expected = (f64::from(x) - mean) / (variance + 1e-5).sqrt() * scale + 0.5;
                assert!((expected - f64::from(y)).abs() < 2e-5, "{expected} {y}");
            }
        }
    }
}
