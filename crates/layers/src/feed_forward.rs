//! The gated feed-forward network of transformers.

use burn::module::Module;
use burn::prelude::*;

use crate::activation::gelu;
use crate::{Linear, LinearConfig};

/// Makes a [`GegluFeedForward`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GegluFeedForwardConfig {
    /// The number of features, in and out.
    pub features: usize,
    /// The number of features between the two layers; 4 times as many, usually.
    pub hidden: usize,
}

/// `y = W₂ (h ⊙ gelu(g)) + b₂` with `(h, g) = W₁ x + b₁`: a hidden layer whose other half says how much of it passes.
///
/// "GLU Variants Improve Transformer", Shazeer, 2020, arXiv:2002.05202, equation 6.
#[derive(Module, Debug)]
pub struct GegluFeedForward {
    /// `W₁` and `b₁`: `features -> 2 · hidden`, first `h` and then `g`.
    pub expand: Linear,
    /// `W₂` and `b₂`: `hidden -> features`.
    pub contract: Linear,
}

impl GegluFeedForwardConfig {
    /// A network with weights drawn as [`LinearConfig::init`] draws them.
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn init(&self, device: &Device) -> GegluFeedForward {
        let Self { features, hidden } = *self;
        let linear = |d_input, d_output| LinearConfig {
            d_input,
            d_output,
            bias: true,
        };
        GegluFeedForward {
            expand: linear(features, hidden.saturating_mul(2)).init(device),
            contract: linear(hidden, features).init(device),
        }
    }
}

impl GegluFeedForward {
    /// Applies the network to the last axis.
    ///
    /// # Shapes
    ///
    /// - x, returns: `[.., features]`
    ///
    /// # Panics
    ///
    /// If the last axis of `x` is not `features`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [_, hidden] = self.contract.weight.dims();
        let both = self.expand.forward(x);
        let gate = gelu(both.clone().narrow(D - 1, hidden, hidden));
        self.contract.forward(both.narrow(D - 1, 0, hidden) * gate)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn the_second_half_gates_the_first() {
        let device = Device::flex();
        let layer = GegluFeedForwardConfig {
            features: 3,
            hidden: 5,
        }
        .init(&device);
        let x = Tensor::<2>::random([4, 3], Distribution::Normal(0.0, 1.0), &device);
        let y = layer.forward(x.clone());
        let both = layer.expand.forward(x);
        let [h, g]: [Tensor<2>; 2] = both.chunk(2, 1).try_into().expect("two halves");
        let gated: Vec<f32> = h
            .into_data()
            .iter::<f32>()
            .zip(g.into_data().iter::<f32>())
            .map(|(h, g)| h * g * 0.5 * (1.0 + erf(g / 2_f32.sqrt())))
            .collect();
        let expected = layer.contract.forward(Tensor::<2>::from_data(
            TensorData::new(gated, [4, 5]),
            &device,
        ));
        let difference: f32 = (y - expected).abs().max().into_scalar();
        // f32 rounding of sums of five products of order one.
        assert!(difference < 2e-6, "{difference}");
    }

    /// Abramowitz and Stegun, "Handbook of Mathematical Functions", equation 7.1.5, the series, in f64.
    fn erf(x: f32) -> f32 {
        let x = f64::from(x);
        let mut term = x;
        let mut sum = x;
        for n in 1..80 {
            let n = f64::from(n);
            term *= -x * x / n;
            sum += term / (2.0 * n + 1.0);
        }
        (sum * std::f64::consts::FRAC_2_SQRT_PI) as f32
    }
}
