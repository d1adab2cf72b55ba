//! The transposed convolution over time.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::module::conv_transpose1d;
use burn::tensor::ops::ConvTransposeOptions;

use crate::kernel::{self, Layout, Level, Panels, Precision, Window, product};
use crate::parameter::{tensor, values};
use crate::{PackReport, Parameter, Signal, uniform};

/// Makes a [`ConvTranspose1d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConvTranspose1dConfig {
    /// The number of input channels.
    pub channels_in: usize,
    /// The number of output channels.
    pub channels_out: usize,
    /// The number of taps.
    pub kernel_size: usize,
    /// The distance between the places where two inputs are added.
    pub stride: usize,
    /// How many values are cut off at either end of the result.
    pub padding: usize,
}

/// `y[o, stride · t + j - padding] = b[o] + Σ_i,t W[i, o, j] x[i, t]`: the adjoint of a convolution, which lengthens
/// time.
#[derive(Module, Debug)]
pub struct ConvTranspose1d {
    /// `W`: `[channels_in, channels_out, kernel_size]`.
    pub weight: Parameter<3>,
    /// `b`: `[channels_out]`.
    pub bias: Parameter<1>,
    #[module(skip)]
    stride: usize,
    #[module(skip)]
    padding: usize,
}

impl ConvTranspose1dConfig {
    /// A layer with weights drawn from `U(-k, k)`, `k = 1/√(channels_out · kernel_size)`.
    ///
    /// # Panics
    ///
    /// If a size or the stride is zero, or the padding would cut off a whole kernel.
    pub fn init(&self, device: &Device) -> ConvTranspose1d {
        let Self {
            channels_in,
            channels_out,
            kernel_size,
            stride,
            padding,
        } = *self;
        assert!(
            channels_in > 0 && channels_out > 0 && kernel_size > 0 && stride > 0,
            "a transposed convolution needs sizes and a stride of at least 1: {self:?}"
        );
        assert!(
            2 * padding < kernel_size + stride,
            "a padding of {padding} leaves nothing of a kernel of {kernel_size}"
        );
        // PyTorch takes the second axis of the weight for the fan-in, whatever the layer reads.
        let fan_in = channels_out.saturating_mul(kernel_size);
        ConvTranspose1d {
            weight: uniform([channels_in, channels_out, kernel_size], fan_in, device).into(),
            bias: uniform([channels_out], fan_in, device).into(),
            stride,
            padding,
        }
    }
}

impl ConvTranspose1d {
    /// Lays the weights out for the kernels of this crate.
    pub fn pack(&mut self, precision: Precision) -> PackReport {
        PackReport {
            layers: 1,
            ..self.weight.pack_phases(precision, self.stride) + self.bias.pack_values()
        }
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels_in, time]`
    /// - returns: `[batch, channels_out, stride · (time - 1) + kernel_size - 2 · padding]`
    ///
    /// # Panics
    ///
    /// If `x` does not have `channels_in` channels.
    pub fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let [channels_in, _, _] = self.weight.dims();
        assert_shape!(x, [_, channels_in, _]);
        if let (Some(phases), Some(bias)) = (self.weight.phases(), self.bias.values()) {
            return self.packed(phases, bias, x);
        }
        let x = self.weight.input(x, false);
        let weight = self.weight.val_of_phases(self.stride);
        #[cfg(feature = "train")]
        if crate::autodiff::suits(&weight) {
            let geometry = crate::autodiff::Geometry {
                stride: self.stride,
                padding: self.padding,
                transposed: true,
                biased: true,
            };
            return crate::autodiff::convolve(x, weight, self.bias.val(), geometry);
        }
        conv_transpose1d(
            x,
            weight,
            Some(self.bias.val()),
            ConvTransposeOptions::new([self.stride], [self.padding], [0], [1], 1),
        )
    }

    /// Applies the packed layer to a signal.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, time, channels_in]`
    /// - y: becomes `[batch, stride · (time - 1) + kernel_size - 2 · padding, channels_out]`
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), or if the layer is not packed.
    pub fn write(&self, x: &Signal, y: &mut Signal) {
        let (Some(phases), Some(bias)) = (self.weight.phases(), self.bias.values()) else {
            panic!("signals are read by packed layers");
        };
        let [batch, time, channels_in] = x.dims();
        let [expected, channels, _] = self.weight.dims();
        assert_eq!(channels_in, expected, "a signal of other channels");
        let length = self.length(time);
        let from = (&x.values[..], Layout::samples(time, channels_in));
        let to = (
            y.resize([batch, length, channels]),
            Layout::samples(length, channels),
        );
        self.compute(phases, bias, [batch, time], from, to);
    }

    /// How many outputs there are for so many inputs.
    fn length(&self, time: usize) -> usize {
        let [_, _, taps] = self.weight.dims();
        assert!(time > 0, "nothing to convolve");
        (self.stride * (time - 1) + taps).saturating_sub(2 * self.padding)
    }

    fn compute(
        &self,
        phases: &[Panels],
        bias: &[f32],
        [batch, time]: [usize; 2],
        (x, from): (&[f32], Layout),
        y: (&mut [f32], Layout),
    ) {
        let [channels_in, _, taps] = self.weight.dims();
        let phases: Vec<_> = phases
            .iter()
            .enumerate()
            .filter_map(|(phase, weight)| {
                let window = Window::phase(time, taps, self.stride, self.padding, phase)?;
                Some((weight, window))
            })
            .collect();
        product(
            Level::detected(),
            &phases,
            0..channels_in,
            batch,
            (x, time, from),
            y,
            &kernel::Epilogue {
                bias: Some(bias),
                ..kernel::Epilogue::default()
            },
        );
    }

    fn packed(&self, phases: &[Panels], bias: &[f32], x: Tensor<3>) -> Tensor<3> {
        let ([batch, channels_in, time], device) = (x.dims(), x.device());
        let [_, channels, _] = self.weight.dims();
        let length = self.length(time);
        let mut y = vec![0.0; batch * channels * length];
        let from = (&values(x)[..], Layout::channels_first(channels_in, time));
        let to = (&mut y[..], Layout::channels_first(channels, length));
        self.compute(phases, bias, [batch, time], from, to);
        let shape = [batch, channels, length];
        tensor(y, shape, &device)
    }
}

#[cfg(test)]
mod tests {
    use burn::module::Param;
    use burn::tensor::Distribution;

    use super::*;
    use crate::Conv1dConfig;

    /// `⟨conv(x), y⟩ = ⟨x, convᵀ(y)⟩` for equal weights and without offsets.
    #[test]
    fn it_is_the_adjoint_of_a_convolution() {
        let device = Device::flex();
        let random = |shape| Tensor::<3>::random(shape, Distribution::Normal(0.0, 1.0), &device);
        let mut forward = Conv1dConfig {
            channels_in: 3,
            channels_out: 5,
            kernel_size: 4,
            stride: 2,
            padding: 1,
        }
        .init(&device);
        forward.bias = Param::from_tensor(Tensor::zeros([5], &device)).into();
        let adjoint = ConvTranspose1d {
            weight: forward.weight.clone(),
            bias: Param::from_tensor(Tensor::zeros([3], &device)).into(),
            stride: 2,
            padding: 1,
        };
        let (x, y) = (random([2, 3, 8]), random([2, 5, 4]));
        let left: f32 = (forward.forward(x.clone()) * y.clone()).sum().into_scalar();
        let right: f32 = (x * adjoint.forward(y)).sum().into_scalar();
        assert!((left - right).abs() < 1e-4, "{left} {right}");
    }

    #[test]
    fn packed_it_is_the_same_layer() {
        let device = Device::flex();
        for (kernel_size, stride, padding) in [(4, 2, 1), (3, 3, 0), (2, 5, 1), (5, 1, 2)] {
            let plain = ConvTranspose1dConfig {
                channels_in: 70,
                channels_out: 20,
                kernel_size,
                stride,
                padding,
            }
            .init(&device);
            let mut packed = plain.clone();
            assert_eq!(packed.pack(Precision::F32).layers, 1);
            for (batch, time) in [(1, 4), (3, 9)] {
                let shape = [batch, 70, time];
                let x = Tensor::random(shape, Distribution::Normal(0.0, 1.0), &device);
                let (expected, y) = (plain.forward(x.clone()), packed.forward(x));
                let error: f32 = (y - expected).abs().max().into_scalar();
                // 350 products of numbers of about 1 and at most 0.22, in another order.
                assert!(error < 4e-6, "{error:e}");
            }
            let again = packed.weight.val().into_data();
            again.assert_eq(&plain.weight.val().into_data(), true);
        }
    }
}
