//! The gated feed-forward network of transformers.

use burn::module::Module;
use burn::prelude::*;

use crate::activation::gelu;
use crate::kernel::{self, Layout, Level, Precision, linear};
use crate::parameter::{tensor, values};
use crate::{Linear, LinearConfig, PackReport, Parameter, Tokens};

/// The most hidden values that exist at a time where the layers are packed: 2 MiB, which stay in a cache between them.
const HIDDEN_AT_A_TIME: usize = 1 << 19;
/// Of how many tokens they are at least, so that weights are not read too often.
const LEAST_TOKENS: usize = 192;

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
    /// Lays the weights out for the kernels of this crate: a hidden value is computed beside its gate.
    pub fn pack(&mut self, precision: Precision) -> PackReport {
        let bias = self.expand.bias.as_mut().map(Parameter::pack_values);
        PackReport {
            layers: 1,
            ..self.expand.weight.pack_gated(precision) + bias.unwrap_or_default()
        } + self.contract.pack(precision)
    }

    /// `y ← y + W₂ (h ⊙ gelu(g)) + b₂` for tokens.
    ///
    /// # Shapes
    ///
    /// - x, y: `[batch, n, features]`
    ///
    /// # Panics
    ///
    /// If the network is not packed, or the shapes do not go together.
    pub fn add(&self, x: &Tokens, y: &mut Tokens) {
        let [features, _] = self.contract.weight.dims();
        x.assert_like(y, [features, features]);
        self.run(&x.values, &mut y.values);
    }

    fn run(&self, x: &[f32], y: &mut [f32]) {
        let [features, hidden] = self.contract.weight.dims();
        let expand = self.expand.weight.gated();
        let contract = self.contract.weight.matrix();
        let (Some(expand), Some(contract)) = (expand, contract) else {
            panic!("tokens are read by packed layers");
        };
        let level = Level::detected();
        let tokens = (HIDDEN_AT_A_TIME / hidden).max(LEAST_TOKENS);
        let mut between = vec![0.0; hidden * tokens.min(x.len() / features)];
        let parts = x.chunks(tokens * features);
        for (x, y) in parts.zip(y.chunks_mut(tokens * features)) {
            let n = x.len() / features;
            let h = &mut between[..n * hidden];
            linear(
                level,
                expand,
                Some(hidden),
                1,
                n,
                (x, Layout::channels_last(features)),
                (h, Layout::channels_last(hidden)),
                &kernel::Epilogue {
                    bias: self.expand.offsets(),
                    ..kernel::Epilogue::default()
                },
            );
            linear(
                level,
                contract,
                None,
                1,
                n,
                (h, Layout::channels_last(hidden)),
                (y, Layout::channels_last(features)),
                &kernel::Epilogue {
                    bias: self.contract.offsets(),
                    accumulates: true,
                    ..kernel::Epilogue::default()
                },
            );
        }
    }

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
        let [features, hidden] = self.contract.weight.dims();
        if self.expand.weight.gated().is_some() {
            assert_shape!(x, [.., features]);
            let (shape, device) = (x.dims(), x.device());
            let x = values(x);
            let mut y = vec![0.0; x.len()];
            self.run(&x, &mut y);
            return tensor(y, shape, &device);
        }
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

    #[test]
    fn packed_it_is_the_same_network() {
        let device = Device::flex();
        // Halves that are not whole panels; and so many tokens that their hidden values go in two parts, which is not when
        // there are few.
        for (features, hidden, n) in [(20, 37, 5), (9, HIDDEN_AT_A_TIME / LEAST_TOKENS + 7, 200)] {
            let plain = GegluFeedForwardConfig { features, hidden }.init(&device);
            let x = Tensor::<3>::random([2, n, features], Distribution::Normal(0.0, 1.0), &device);
            let expected = plain.forward(x.clone());
            // Of outputs of about a tenth: weights are rounded to 2⁻⁸, at random.
            for (precision, tolerance) in [(Precision::F32, 1e-6), (Precision::Bf16, 1e-2)] {
                let mut packed = plain.clone();
                assert_eq!(packed.pack(precision).parameters, plain.num_params());
                let y = packed.forward(x.clone());
                let difference: f32 = (y.clone() - expected.clone()).abs().max().into_scalar();
                assert!(difference < tolerance, "{precision}: {difference:e}");
                let mut sum = Tokens::from(x.clone());
                packed.add(&Tokens::from(x.clone()), &mut sum);
                let difference: f32 = (sum.into_tensor(&device) - x.clone() - y)
                    .abs()
                    .max()
                    .into_scalar();
                // The roundings of two sums of order one.
                assert!(difference < 1e-6, "{precision}: {difference:e}");
                if precision == Precision::F32 {
                    let unpacked = packed.expand.weight.val() - plain.expand.weight.val();
                    let difference: f32 = unpacked.abs().max().into_scalar();
                    assert!(difference.to_bits() == 0, "{difference:e}");
                }
            }
        }
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
