//! The convolution over pictures.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::module::conv2d;
use burn::tensor::ops::{ConvOptions, PadMode};

#[cfg(feature = "train")]
use crate::autodiff;
use crate::calibration::observe;
use crate::epilogue::Film;
use crate::kernel::{self, Activation, Frame, Level, Panels, Precision, convolve};
use crate::parameter::{tensor, values};
use crate::{Epilogue, PackReport, Parameter, Prologue, uniform};

/// Makes a [`Conv2d`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Conv2dConfig {
    /// The number of input channels.
    pub channels_in: usize,
    /// The number of output channels.
    pub channels_out: usize,
    /// The rows and columns of the kernel.
    pub kernel_size: [usize; 2],
    /// The distance between two outputs, down and across.
    pub stride: [usize; 2],
    /// How many zeros are added at either side, above and below and left and right.
    pub padding: [usize; 2],
    /// Whether an offset is added.
    pub bias: bool,
}

impl Conv2dConfig {
    /// A square kernel of odd size that keeps height and width: stride 1, padding `kernel_size / 2`, with an offset.
    pub fn same(channels_in: usize, channels_out: usize, kernel_size: usize) -> Self {
        Self {
            channels_in,
            channels_out,
            kernel_size: [kernel_size; 2],
            stride: [1; 2],
            padding: [kernel_size / 2; 2],
            bias: true,
        }
    }

    /// The same with another stride, in both directions.
    #[must_use]
    pub fn with_stride(self, stride: usize) -> Self {
        Self {
            stride: [stride; 2],
            ..self
        }
    }

    /// The same without an offset.
    #[must_use]
    pub fn without_bias(self) -> Self {
        Self {
            bias: false,
            ..self
        }
    }

    /// A layer with weights drawn from `U(-k, k)`, `k = 1/√(channels_in · kernel_size)`.
    ///
    /// # Panics
    ///
    /// If a size or a stride is zero.
    pub fn init(&self, device: &Device) -> Conv2d {
        let Self {
            channels_in,
            channels_out,
            kernel_size: [rows, columns],
            stride,
            padding,
            bias,
        } = *self;
        assert!(
            channels_in > 0 && channels_out > 0 && rows > 0 && columns > 0 && !stride.contains(&0),
            "a convolution needs sizes and strides of at least 1: {self:?}"
        );
        let fan_in = channels_in.saturating_mul(rows).saturating_mul(columns);
        Conv2d {
            weight: uniform([channels_out, channels_in, rows, columns], fan_in, device).into(),
            bias: bias.then(|| uniform([channels_out], fan_in, device).into()),
            stride,
            padding,
        }
    }
}

/// `y[o, r, c] = b[o] + Σ_i,j,k W[o, i, j, k] x[i, stride₀ · r + j - padding₀, stride₁ · c + k - padding₁]`, with `x` zero
/// outside.
#[derive(Module, Debug)]
pub struct Conv2d {
    /// `W`: `[channels_out, channels_in, rows, columns]`.
    pub weight: Parameter<4>,
    /// `b`: `[channels_out]`.
    pub bias: Option<Parameter<1>>,
    #[module(skip)]
    stride: [usize; 2],
    #[module(skip)]
    padding: [usize; 2],
}

impl Conv2d {
    /// Lays the weights out for the kernels of this crate.
    ///
    /// Packed kernels of three by three that do not stride are computed as minimal filters, but for tiny pictures: their
    /// error stays below 1e-5 of the output's norm, where the definition in f32 has below 1e-6.
    pub fn pack(&mut self, precision: Precision) -> PackReport {
        let bias = self.bias.as_mut().map(Parameter::pack_values);
        PackReport {
            layers: 1,
            ..self.weight.pack_matrix(precision) + bias.unwrap_or_default()
        }
    }

    /// Whether the layer is packed and laid out for the kernels; codes of a file are not until then.
    pub fn is_packed(&self) -> bool {
        self.weight.matrix().is_some()
    }

    /// Applies the layer.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels_in, height, width]`
    /// - returns: `[batch, channels_out, (height + 2 · padding₀ - rows) / stride₀ + 1, .. width ..]`
    ///
    /// # Panics
    ///
    /// If `x` does not have `channels_in` channels, or with padding is smaller than the kernel.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        self.forward_between(Prologue::default(), x, Epilogue::default())
    }

    /// Applies what comes before, the layer, and what follows.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, channels_in, height, width]`
    /// - returns: as [`forward`](Self::forward) of what the prologue makes of `x`
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward), or if what comes before or follows has other channels.
    pub fn forward_between(
        &self,
        prologue: Prologue<'_>,
        mut x: Tensor<4>,
        epilogue: Epilogue<'_, 4>,
    ) -> Tensor<4> {
        self.forward_keeping(prologue, &mut x, epilogue)
    }

    /// [`forward_between`](Self::forward_between), after which `x` is as it was, if it does not panic: for one that is used again, and whose clone
    /// would be copied.
    ///
    /// # Shapes
    ///
    /// As [`forward_between`](Self::forward_between).
    ///
    /// # Panics
    ///
    /// As [`forward_between`](Self::forward_between).
    pub fn forward_keeping(
        &self,
        prologue: Prologue<'_>,
        x: &mut Tensor<4>,
        epilogue: Epilogue<'_, 4>,
    ) -> Tensor<4> {
        let [_, channels_in, _, _] = self.weight.dims();
        assert_shape!(x, [_, channels_in, _, _]);
        match self.weight.matrix() {
            Some(weight) if prologue.is_packed() => {
                if epilogue.is_packed() {
                    self.packed(weight, prologue, x, epilogue)
                } else {
                    epilogue.forward(self.packed(weight, prologue, x, Epilogue::default()))
                }
            }
            Some(weight) => {
                let mut x = prologue.forward(x.clone());
                epilogue.forward(self.packed(
                    weight,
                    Prologue::default(),
                    &mut x,
                    Epilogue::default(),
                ))
            }
            #[cfg(feature = "train")]
            None if autodiff::suits(&self.weight.val()) => self.trained(prologue, x, epilogue),
            None => {
                let options = ConvOptions::new(self.stride, self.padding, [1, 1], 1);
                let bias = self.bias.as_ref().map(Parameter::val);
                let x = prologue.forward(x.clone());
                let pointwise = self.weight.dims()[2..] == [1, 1] && self.stride == [1, 1];
                observe(&self.weight, x.dims()[0], || self.columns(x.clone()));
                let x = self.weight.input(x, pointwise && self.padding == [0, 0]);
                epilogue.forward(conv2d(x, self.weight.val(), bias, options))
            }
        }
    }

    /// What some of the outputs see, side by side: `[channels_in · rows · columns, outputs]`.
    fn columns(&self, x: Tensor<4>) -> Tensor<2> {
        let [_, channels_in, rows, columns] = self.weight.dims();
        let [row, column] = self.padding;
        let x = x.pad([(row, row), (column, column)], PadMode::Constant(0.0));
        let windows: Tensor<5> = x.unfold(2, rows, self.stride[0]);
        let windows: Tensor<6> = windows.unfold(3, columns, self.stride[1]);
        let [batch, _, height, width, ..] = windows.dims();
        windows
            .permute([1, 4, 5, 0, 2, 3])
            .reshape([channels_in * rows * columns, batch * height * width])
    }

    /// Under autodiff on the CPU: one operation with what precedes its input, and one with most of what follows.
    #[cfg(feature = "train")]
    fn trained(
        &self,
        prologue: Prologue<'_>,
        x: &Tensor<4>,
        mut epilogue: Epilogue<'_, 4>,
    ) -> Tensor<4> {
        let x = prologue.activated(x.clone());
        let pointwise = self.weight.dims()[2..] == [1, 1] && self.stride == [1, 1];
        let x = self.weight.input(x, pointwise && self.padding == [0, 0]);
        let frame = self.frame(x.dims(), prologue.doubled);
        let adds = epilogue.normalization.is_none()
            && epilogue.activation == Activation::Identity
            && epilogue.modulation.as_ref().is_none_or(|it| !it.scales);
        let (shift, residual) = if adds {
            (epilogue.modulation.take(), epilogue.residual.take())
        } else {
            (None, None)
        };
        let bias = self.bias.as_ref().map(Parameter::val);
        let shift = shift.map(|it| it.values);
        let weight = self.weight.val();
        epilogue.forward(autodiff::convolve_pictures(
            x, weight, bias, shift, residual, frame,
        ))
    }

    fn frame(&self, [_, _, height, width]: [usize; 4], doubled: bool) -> Frame {
        let [_, _, rows, columns] = self.weight.dims();
        Frame {
            size: [height, width],
            taps: [rows, columns],
            stride: self.stride,
            padding: self.padding,
            doubled,
        }
    }

    fn packed(
        &self,
        weight: &Panels,
        prologue: Prologue<'_>,
        x: &mut Tensor<4>,
        epilogue: Epilogue<'_, 4>,
    ) -> Tensor<4> {
        let (shape @ [batch, _, height, width], device) = (x.dims(), x.device());
        let frame = self.frame(shape, prologue.doubled);
        let [height_out, width_out] = frame.output();
        let channels = weight.rows();
        let shape_out = [batch, channels, height_out, width_out];
        let modulation = epilogue.modulation.map(|it| it.values(batch, channels));
        let residual = epilogue.residual.map(|residual| {
            assert_eq!(
                residual.dims(),
                shape_out,
                "the residual is like the output"
            );
            values(residual)
        });
        // Taken out and put back, it is not copied.
        let empty = Tensor::empty([1, 1, 1, 1], &device);
        let input = values(std::mem::replace(x, empty));
        let statistics = prologue
            .normalization
            .map(|it| it.statistics(&input, batch, height * width));
        let ones = || [1.0, 0.0].map(|value| vec![value; batch * weight.depth()]);
        let affine = match prologue.activation {
            Activation::Identity => statistics,
            _ => Some(statistics.unwrap_or_else(ones)),
        };
        let before = affine.as_ref().map(|[scale, shift]| kernel::Prologue {
            scale,
            shift,
            activation: prologue.activation,
        });
        let mut y = vec![0.0; shape_out.iter().product()];
        convolve(
            Level::detected(),
            weight,
            &frame,
            batch,
            &input,
            before.as_ref(),
            &mut y,
            &kernel::Epilogue {
                bias: self.bias.as_ref().and_then(Parameter::values),
                normalization: None,
                activation: epilogue.activation,
                film: modulation.as_ref().map(Film::kernel),
                residual: residual.as_deref(),
                accumulates: false,
            },
        );
        *x = tensor(input, shape, &device);
        tensor(y, shape_out, &device)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn it_is_a_convolution() {
        let device = Device::flex();
        for (kernel_size, stride, padding) in
            [(3, 1, 1), (3, 2, 1), (7, 2, 3), (1, 1, 0), (1, 2, 0)]
        {
            let config = Conv2dConfig {
                channels_in: 3,
                channels_out: 4,
                kernel_size: [kernel_size; 2],
                stride: [stride; 2],
                padding: [padding; 2],
                bias: true,
            };
            let layer = config.init(&device);
            let x = Tensor::random([2, 3, 9, 8], Distribution::Normal(0.0, 1.0), &device);
            let y = layer.forward(x.clone());
            let [batch, channels, height, width] = y.dims();
            let y: Vec<f32> = y.into_data().try_to_vec().expect("f32");
            let x: Vec<f32> = x.into_data().try_to_vec().expect("f32");
            let data = layer.weight.val().into_data();
            let weight: Vec<f32> = data.try_to_vec().expect("f32");
            let data = layer.bias.as_ref().expect("it has one").val().into_data();
            let bias: Vec<f32> = data.try_to_vec().expect("f32");
            let mut at = 0;
            for n in 0..batch {
                for (o, &bias) in bias.iter().enumerate().take(channels) {
                    for r in 0..height {
                        for c in 0..width {
                            let mut sum = f64::from(bias);
                            for i in 0..3 {
                                for j in 0..kernel_size {
                                    for k in 0..kernel_size {
                                        let row = (stride * r + j).wrapping_sub(padding);
                                        let column = (stride * c + k).wrapping_sub(padding);
                                        if row < 9 && column < 8 {
                                            let w =
                                                ((o * 3 + i) * kernel_size + j) * kernel_size + k;
                                            let v = ((n * 3 + i) * 9 + row) * 8 + column;
                                            sum += f64::from(weight[w]) * f64::from(x[v]);
                                        }
                                    }
                                }
                            }
                            // 147 products at most, of order one.
                            assert!((sum - f64::from(y[at])).abs() < 5e-6, "{sum} {}", y[at]);
                            at += 1;
                        }
                    }
                }
            }
        }
    }
}
