//! Layer normalization.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::prelude::*;

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
    pub weight: Param<Tensor<1>>,
    /// The offset of each feature: `[features]`.
    pub bias: Param<Tensor<1>>,
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
            weight: Initializer::Ones.init([features], device),
            bias: Initializer::Zeros.init([features], device),
            epsilon,
        }
    }
}

impl LayerNorm {
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
        let weight = self.weight.val();
        let [features] = weight.dims();
        assert_shape!(x, [.., features]);
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
        layer.weight = Param::from_data(scale, &device);
        layer.bias = Param::from_data([0.5; 6], &device);
        let x = Tensor::<3>::random([2, 3, 6], Distribution::Normal(40.0, 3.0), &device);
        let y = layer.forward(x.clone());
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
