//! Group normalization.

use burn::module::Module;
use burn::nn::Initializer;
use burn::prelude::*;

use crate::kernel::{Activation, Affine, Level, Normalization, modulate, statistics};
use crate::parameter::{tensor, values};
#[cfg(feature = "train")]
use crate::{Modulation, autodiff, kernel::training::has_slope};
use crate::{PackReport, Parameter};

/// Makes a [`GroupNorm`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GroupNormConfig {
    /// The number of groups; it divides the number of channels.
    pub n_groups: usize,
    /// The number of channels.
    pub channels: usize,
    /// What is added to the variance; PyTorch's default is 1e-5.
    pub epsilon: f64,
}

/// `y = (x - mean) / √(variance + epsilon) · weight + bias`, with the mean and the variance of each sample's groups of
/// channels, and a weight and a bias for each channel.
///
/// "Group Normalization", Wu and He, 2018, arXiv:1803.08494.
#[derive(Module, Debug)]
pub struct GroupNorm {
    /// The scale of each channel: `[channels]`.
    pub weight: Parameter<1>,
    /// The offset of each channel: `[channels]`.
    pub bias: Parameter<1>,
    #[module(skip)]
    n_groups: usize,
    #[module(skip)]
    epsilon: f64,
}

impl GroupNormConfig {
    /// A layer with scale one and offset zero.
    ///
    /// # Panics
    ///
    /// If the groups do not divide the channels, a size is zero, or epsilon is not positive.
    pub fn init(&self, device: &Device) -> GroupNorm {
        let Self {
            n_groups,
            channels,
            epsilon,
        } = *self;
        assert!(
            n_groups > 0 && channels > 0 && channels.is_multiple_of(n_groups),
            "{n_groups} groups do not divide {channels} channels"
        );
        assert!(epsilon > 0.0, "epsilon must be positive, not {epsilon}");
        GroupNorm {
            weight: Initializer::Ones.init([channels], device).into(),
            bias: Initializer::Zeros.init([channels], device).into(),
            n_groups,
            epsilon,
        }
    }
}

impl GroupNorm {
    /// Lays scale and offset out for the kernels of this crate.
    ///
    /// A packed normalization is computed with the convolution over time that it [follows](crate::Epilogue), and with the
    /// convolution over pictures that it [precedes](crate::Prologue).
    pub fn pack(&mut self) -> PackReport {
        PackReport {
            layers: 1,
            ..self.weight.pack_values() + self.bias.pack_values()
        }
    }

    /// Whether the layer is packed.
    pub(crate) fn is_packed(&self) -> bool {
        self.weight.values().is_some() && self.bias.values().is_some()
    }

    /// What the kernels need of a packed layer.
    pub(crate) fn kernel(&self, channels: usize) -> Option<Normalization<'_>> {
        let (weight, bias) = (self.weight.values()?, self.bias.values()?);
        assert_eq!(
            weight.len(),
            channels,
            "a group norm of other channels than what it follows"
        );
        Some(Normalization {
            groups: self.n_groups,
            epsilon: self.epsilon,
            affine: Affine { weight, bias },
        })
    }

    /// Whether [`then`](Self::then) computes it.
    #[cfg(feature = "train")]
    pub(crate) fn is_trained_with(&self, activation: Activation) -> bool {
        has_slope(activation) && !self.is_packed() && autodiff::suits(&self.weight.val())
    }

    /// Normalizes, activates, modulates and adds in one operation of autodiff.
    #[cfg(feature = "train")]
    pub(crate) fn then<const D: usize>(
        &self,
        x: Tensor<D>,
        activation: Activation,
        modulation: Option<Modulation>,
        residual: Option<Tensor<D>>,
    ) -> Tensor<D> {
        let follow = autodiff::Follow {
            groups: self.n_groups,
            epsilon: self.epsilon,
            activation,
            modulated: modulation.is_some(),
            scales: modulation.as_ref().is_some_and(|it| it.scales),
            added: residual.is_some(),
        };
        let parameters = [self.weight.val(), self.bias.val()];
        autodiff::normalize(x, parameters, follow, modulation, residual)
    }

    /// What a packed layer multiplies each channel of `[batch, channels, each]` by, and what it adds then.
    pub(crate) fn statistics(&self, x: &[f32], batch: usize, each: usize) -> [Vec<f32>; 2] {
        let [channels] = self.weight.dims();
        let normalization = self.kernel(channels).expect("the layer is packed");
        let shape = [batch, channels, each];
        statistics(Level::detected(), &normalization, x, shape)
    }

    /// Normalizes.
    ///
    /// # Shapes
    ///
    /// - x, returns: `[batch, channels, ..]`
    ///
    /// # Panics
    ///
    /// If `x` does not have as many channels as the layer, or nothing after them.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [channels] = self.weight.dims();
        let shape = x.dims();
        assert!(
            D > 2 && shape[1] == channels,
            "a group norm of {channels} channels cannot normalize {shape:?}"
        );
        let batch = shape[0];
        let each: usize = shape[2..].iter().product();
        if self.is_packed() {
            let device = x.device();
            let mut x = values(x);
            let [scale, shift] = self.statistics(&x, batch, each);
            let level = Level::detected();
            modulate(level, Activation::Identity, [&scale, &shift], each, &mut x);
            return tensor(x, shape, &device);
        }
        let weight = self.weight.val();
        #[cfg(feature = "train")]
        if autodiff::suits(&weight) {
            return self.then(x, Activation::Identity, None, None);
        }
        let x = x.reshape([batch, self.n_groups, channels / self.n_groups * each]);
        // Two passes: the variance of what is left when the mean is gone does not cancel.
        let mean = x.clone().mean_dim(2);
        let x = x - mean;
        let variance = x.clone().square().mean_dim(2);
        let scale = variance.add_scalar(self.epsilon).sqrt().recip();
        let x = (x * scale).reshape([batch, channels, each]);
        let x = x * weight.reshape([1, channels, 1]) + self.bias.val().reshape([1, channels, 1]);
        x.reshape(shape)
    }

    /// What [`forward`](Self::forward) multiplies each channel of `x` by, and what it adds then, each
    /// `[batch, channels, 1, 1]`.
    ///
    /// With it a part of a large picture can be normalized as in the whole. The statistics are taken in bands of rows,
    /// so that nothing of the picture's size is laid out.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels, height, width]`
    ///
    /// # Panics
    ///
    /// If `x` does not have as many channels as the layer, or no pixels.
    pub fn affine(&self, x: &Tensor<4>, rows: usize) -> [Tensor<4>; 2] {
        let weight = self.weight.val();
        let [channels] = weight.dims();
        assert_shape!(x, [_, channels, _, _]);
        let [batch, _, height, width] = x.dims();
        let rows = rows.clamp(1, height);
        let groups = self.n_groups;
        let numbers = (channels / groups * height * width) as f64;
        // Sums over all bands of what `of` makes of one: `[batch, groups, 1]`.
        let total = |of: &dyn Fn(Tensor<3>) -> Tensor<3>| {
            let sums = (0..height).step_by(rows).map(|start| {
                let band = x.clone().narrow(2, start, rows.min(height - start));
                let each = band.dims().iter().product::<usize>() / (batch * groups);
                of(band.reshape([batch, groups, each])).sum_dim(2)
            });
            sums.reduce(|a, b| a + b).expect("there is a band")
        };
        let mean = total(&|band| band).div_scalar(numbers);
        let variance = total(&|band| (band - mean.clone()).square()).div_scalar(numbers);
        let scale = variance.add_scalar(self.epsilon).sqrt().recip();
        let each = |of_group: Tensor<3>| {
            let of_group = of_group.repeat_dim(2, channels / groups);
            of_group.reshape([batch, channels, 1, 1])
        };
        let weight = each(scale) * weight.reshape([1, channels, 1, 1]);
        let bias = self.bias.val().reshape([1, channels, 1, 1]) - each(mean) * weight.clone();
        [weight, bias]
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn bands_are_normalized_as_the_whole() {
        let device = Device::flex();
        let config = GroupNormConfig {
            n_groups: 2,
            channels: 6,
            epsilon: 1e-5,
        };
        let layer = config.init(&device);
        let x = Tensor::random([2, 6, 7, 5], Distribution::Normal(3.0, 2.0), &device);
        let whole = layer.forward(x.clone());
        for rows in [1, 3, 7, 100] {
            let [scale, offset] = layer.affine(&x, rows);
            let parts = x.clone() * scale + offset;
            let most: f32 = (parts - whole.clone()).abs().max().into_scalar();
            assert!(most < 5e-6, "{rows} rows: {most}");
        }
    }
}
