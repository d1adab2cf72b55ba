//! Muon, for whatever shape a weight has.

use burn::optim::momentum::MomentumConfig;
use burn::optim::{AdjustLrFn, MuonConfig, Optimizer as _};
use burn::tensor::Tensor;

/// Momentum whose matrices are made orthogonal before they are steps.
///
/// ```text
/// v ← μ v + g
/// o = orthogonal(g + μ v)                      five steps of Newton and Schulz
/// p ← p - lr · decay · p
/// p ← p - lr · 0.2 √max(m, n) · o              for a matrix m x n: as large as AdamW's step
/// ```
///
/// A convolution's weight is a matrix of as many rows as its first axis has channels. The arithmetic is burn's
/// ([`burn::optim::Muon`]), and one learning rate and one decay do for it and for [`AdamW`](crate::AdamW).
///
/// Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024; the size of a step: Liu et al., "Muon is
/// Scalable for LLM Training", 2025, arXiv:2502.16982, equation 4.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Muon {
    /// How slowly the average of gradients forgets; Jordan's is 0.95.
    pub momentum: f64,
    /// By which share of the learning rate weights shrink in a step.
    pub weight_decay: f64,
}

impl Muon {
    /// Below so many channels on either side a weight is an input's or an output's, and no matrix worth making orthogonal.
    const CHANNELS: usize = 16;

    /// Whether a weight of this shape is a matrix between hidden channels.
    pub(crate) fn is_for(shape: &[usize]) -> bool {
        shape.len() >= 2 && shape[0].min(shape[1]) >= Self::CHANNELS
    }

    /// A step, and the average of gradients that comes of it.
    ///
    /// # Shapes
    ///
    /// - all: `[m, ..]`
    pub(crate) fn step<const D: usize>(
        self,
        rate: f64,
        parameters: Tensor<D>,
        gradients: Tensor<D>,
        velocity: Option<Tensor<D>>,
    ) -> (Tensor<D>, Tensor<D>) {
        let shape = parameters.dims();
        let columns: usize = shape[1..].iter().product();
        let matrix = |it: Tensor<D>| -> Tensor<2> { it.reshape([shape[0], columns]) };
        let velocity = match velocity {
            Some(velocity) => velocity.mul_scalar(self.momentum) + gradients.clone(),
            None => gradients.clone(),
        };
        let ahead = gradients + velocity.clone().mul_scalar(self.momentum);
        // What burn keeps of its momentum cannot be saved by itself, so that it is kept here and burn's is none.
        let none = MomentumConfig {
            momentum: 0.0,
            dampening: 0.0,
            nesterov: false,
        };
        let muon = MuonConfig::new()
            .with_momentum(none)
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        let kept = 1.0 - rate * self.weight_decay;
        let parameters = matrix(parameters).mul_scalar(kept);
        let (parameters, _) = muon.step(rate, parameters, matrix(ahead), None);
        (parameters.reshape(shape), velocity)
    }
}

#[cfg(test)]
mod tests {
    use burn::optim::decay::WeightDecayConfig;
    use burn::tensor::{Device, Distribution};

    use super::*;

    /// Its steps are those of burn's own Muon, whose momentum it keeps itself.
    #[test]
    fn steps_are_burns() {
        let device = Device::flex();
        device.seed(3);
        let draw = || Tensor::<3>::random([24, 16, 3], Distribution::Normal(0.0, 2.0), &device);
        let ours = Muon {
            momentum: 0.9,
            weight_decay: 0.5,
        };
        let burns = MuonConfig::new()
            .with_momentum(MomentumConfig {
                momentum: 0.9,
                dampening: 0.0,
                nesterov: true,
            })
            .with_weight_decay(Some(WeightDecayConfig { penalty: 0.5 }))
            .with_adjust_lr_fn(AdjustLrFn::MatchRmsAdamW)
            .build();
        let start = draw();
        let (mut weight, mut velocity) = (start.clone(), None);
        let (mut expected, mut state) = (start.reshape([24, 48]), None);
        for rate in [0.1, 0.02, 0.3] {
            let gradient = draw();
            let (after, average) = ours.step(rate, weight, gradient.clone(), velocity);
            (weight, velocity) = (after, Some(average));
            (expected, state) = burns.step(rate, expected, gradient.reshape([24, 48]), state);
            let values = |it: Tensor<2>| -> Vec<f32> { it.into_data().try_to_vec().expect("f32") };
            for (a, b) in values(weight.clone().reshape([24, 48]))
                .iter()
                .zip(values(expected.clone()))
            {
                // f32; the velocity is made of the same numbers in another order.
                assert!((a - b).abs() < 1e-5 * (1.0 + b.abs()), "{a} {b}");
            }
        }
    }

    #[test]
    fn inputs_outputs_biases_and_norms_are_no_matrices() {
        for shape in [&[64][..], &[64, 2, 5], &[2, 64, 1], &[10, 64], &[]] {
            assert!(!Muon::is_for(shape), "{shape:?}");
        }
        for shape in [&[64, 32, 5][..], &[16, 16], &[128, 64, 3, 3]] {
            assert!(Muon::is_for(shape), "{shape:?}");
        }
    }
}
