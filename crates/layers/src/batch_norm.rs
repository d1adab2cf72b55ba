//! Batch normalization with the statistics of training.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::prelude::*;

/// Makes a [`BatchNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BatchNormConfig {
    /// The number of channels.
    pub channels: usize,
    /// What is added to the variance; PyTorch's default is 1e-5.
    pub epsilon: f64,
}

/// `y = (x - running_mean) / √(running_var + epsilon) · weight + bias`, all of them one a channel.
///
/// That is the layer as it is used after training: the statistics are those that training left, and not the batch's, so
/// that a sample's result does not depend on its neighbours.
///
/// "Batch Normalization: Accelerating Deep Network Training by Reducing Internal Covariate Shift", Ioffe and Szegedy,
/// 2015, arXiv:1502.03167.
#[derive(Module, Debug)]
pub struct BatchNorm {
    /// The scale of each channel: `[channels]`.
    pub weight: Param<Tensor<1>>,
    /// The offset of each channel: `[channels]`.
    pub bias: Param<Tensor<1>>,
    /// The mean of each channel in training: `[channels]`. It is not trained.
    pub running_mean: Param<Tensor<1>>,
    /// The variance of each channel in training: `[channels]`. It is not trained.
    pub running_var: Param<Tensor<1>>,
    #[module(skip)]
    epsilon: f64,
}

impl BatchNormConfig {
    /// A layer with scale and variance one, offset and mean zero.
    ///
    /// # Panics
    ///
    /// If there is no channel, or epsilon is not positive.
    pub fn init(&self, device: &Device) -> BatchNorm {
        let Self { channels, epsilon } = *self;
        assert!(channels > 0, "a batch norm needs a channel");
        assert!(epsilon > 0.0, "epsilon must be positive, not {epsilon}");
        let ones = || Initializer::Ones.init([channels], device);
        let zeros = || Initializer::Zeros.init([channels], device);
        BatchNorm {
            weight: ones(),
            bias: zeros(),
            running_mean: zeros().set_require_grad(false),
            running_var: ones().set_require_grad(false),
            epsilon,
        }
    }
}

impl BatchNorm {
    /// Normalizes.
    ///
    /// # Shapes
    ///
    /// - x, returns: `[batch, channels, ..]`
    ///
    /// # Panics
    ///
    /// If `x` does not have as many channels as the layer.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let weight = self.weight.val();
        let [channels] = weight.dims();
        let shape = x.dims();
        assert!(
            D >= 2 && shape[1] == channels,
            "a batch norm of {channels} channels cannot normalize {shape:?}"
        );
        // One scale and one offset a channel, as PyTorch computes them: `x` is read once.
        let scale = weight
            * self
                .running_var
                .val()
                .add_scalar(self.epsilon)
                .sqrt()
                .recip();
        let offset = self.bias.val() - self.running_mean.val() * scale.clone();
        let mut each = [1; D];
        each[1] = channels;
        x * scale.reshape(each) + offset.reshape(each)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::golden;

    /// A product and a sum in f32, of values of some units.
    const ROUNDING: f32 = 2e-6;

    fn recorded() -> BatchNorm {
        let layer = BatchNormConfig {
            channels: 4,
            epsilon: 1e-5,
        };
        golden::open()
            .load(layer.init(&Device::flex()), |path| {
                format!("batch_norm.{path}")
            })
            .expect("is recorded")
    }

    #[test]
    fn it_is_pytorchs() {
        let y = recorded().forward(golden::tensor::<4>("batch_norm.x"));
        golden::assert_recorded("batch_norm.y", y, ROUNDING);
    }

    #[test]
    fn a_sample_does_not_depend_on_its_neighbours() {
        let layer = recorded();
        let x = golden::tensor::<4>("batch_norm.x");
        let [batch, ..] = x.dims();
        let both = layer.forward(x.clone());
        for i in 0..batch {
            let alone = layer.forward(x.clone().narrow(0, i, 1));
            let in_batch = both.clone().narrow(0, i, 1);
            assert_eq!(
                alone.into_data().try_to_vec::<f32>().expect("f32"),
                in_batch.into_data().try_to_vec::<f32>().expect("f32")
            );
        }
    }
}
