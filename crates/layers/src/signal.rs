//! What packed networks over time compute on.

use burn::tensor::{Device, Tensor};

use crate::kernel;
use crate::parameter::{tensor, values};
use crate::{Activation, GroupNorm, Tokens};

/// Channels over time, `[batch, time, channels]`, on the CPU: those of a moment lie side by side, as kernels read and
/// write them.
///
/// Between the layers of a packed network they are lent and written over, and their memory is used again from one pass to
/// the next.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Signal {
    pub(crate) values: Vec<f32>,
    dims: [usize; 3],
}

/// What follows a convolution of a [`Signal`], in this order.
#[derive(Clone, Copy, Debug, Default)]
pub struct SignalEpilogue<'a> {
    /// Normalizes; packed.
    pub normalization: Option<&'a GroupNorm>,
    /// Activates.
    pub activation: Activation,
    /// Modulates.
    pub modulation: Option<SignalModulation<'a>>,
    /// Is added.
    pub residual: Option<&'a Signal>,
}

/// A [`Modulation`](crate::Modulation) that is a part of features, as [`Linear::write_parts`](crate::Linear::write_parts)
/// writes those of many layers side by side.
#[derive(Clone, Copy, Debug)]
pub struct SignalModulation<'a> {
    /// `[1, batch or 1, features]`.
    pub features: &'a Tokens,
    /// Where its first scale lies, or its first shift where there are none.
    pub start: usize,
    /// Whether there are scales, before as many shifts.
    pub scales: bool,
}

impl Signal {
    /// `[batch, time, channels]`.
    pub fn dims(&self) -> [usize; 3] {
        self.dims
    }

    /// The tensor.
    pub fn to_tensor(&self, device: &Device) -> Tensor<3> {
        tensor(self.values.clone(), self.dims, device)
    }

    /// Becomes a copy of another.
    pub fn copy(&mut self, x: &Self) {
        self.resize(x.dims).copy_from_slice(&x.values);
    }

    /// Becomes `cat(a, b)`, along channels.
    ///
    /// # Panics
    ///
    /// If their batches or times differ.
    pub fn concatenate(&mut self, a: &Self, b: &Self) {
        let [batch, time, channels] = a.dims;
        let [_, _, more] = b.dims;
        assert_eq!(
            b.dims,
            [batch, time, more],
            "signals of {:?} and {:?} do not lie side by side",
            a.dims,
            b.dims
        );
        let to = self.resize([batch, time, channels + more]);
        let moments = to.chunks_exact_mut((channels + more).max(1));
        for (index, to) in moments.enumerate() {
            let (first, second) = to.split_at_mut(channels);
            first.copy_from_slice(&a.values[index * channels..][..channels]);
            second.copy_from_slice(&b.values[index * more..][..more]);
        }
    }

    /// Takes a shape; what the values are is not known then.
    pub(crate) fn resize(&mut self, dims: [usize; 3]) -> &mut [f32] {
        self.dims = dims;
        self.values.resize(dims.iter().product(), 0.0);
        &mut self.values
    }
}

impl From<Tensor<3>> for Signal {
    /// # Panics
    ///
    /// If the values are not f32.
    fn from(x: Tensor<3>) -> Self {
        let dims = x.dims();
        Self {
            values: values(x),
            dims,
        }
    }
}

impl<'a> SignalModulation<'a> {
    /// What the kernels need of it.
    ///
    /// # Panics
    ///
    /// If the features do not hold it for so many samples and channels.
    fn kernel(&self, batch: usize, channels: usize) -> kernel::Film<'a> {
        let [one, rows, width] = self.features.dims();
        let end = self.start + channels * (1 + usize::from(self.scales));
        assert!(
            one == 1 && (rows == 1 || rows == batch) && end <= width,
            "a modulation that ends at {end} of [{one}, {rows}, {width}] for {batch} samples of {channels} channels"
        );
        let values = &self.features.values[self.start..];
        let (scale, shift) = if self.scales {
            (Some(values), &values[channels..])
        } else {
            (None, values)
        };
        kernel::Film {
            scale,
            shift,
            sample: if rows == 1 { 0 } else { width },
        }
    }
}

impl<'a> SignalEpilogue<'a> {
    /// What the kernels need of it, for an output of this shape.
    ///
    /// # Panics
    ///
    /// If something does not go with the shape, or the normalization is not packed.
    pub(crate) fn kernel(&self, bias: &'a [f32], shape: [usize; 3]) -> kernel::Epilogue<'a> {
        let [batch, _, channels] = shape;
        let residual = self.residual.map(|residual| {
            assert_eq!(residual.dims, shape, "the residual is like the output");
            &residual.values[..]
        });
        kernel::Epilogue {
            bias: Some(bias),
            normalization: self.normalization.map(|it| {
                it.kernel(channels)
                    .expect("what follows a packed layer is packed")
            }),
            activation: self.activation,
            film: self.modulation.map(|it| it.kernel(batch, channels)),
            residual,
            accumulates: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;
    use crate::{
        Conv1dConfig, ConvTranspose1dConfig, Epilogue, GroupNormConfig, Modulation, Precision,
    };

    fn random<const D: usize>(shape: [usize; D], device: &Device) -> Tensor<D> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn signal(x: &Tensor<3>) -> Signal {
        Signal::from(x.clone().swap_dims(1, 2))
    }

    #[test]
    fn signals_are_tensors() {
        let device = Device::flex();
        let (a, b) = (random([2, 3, 5], &device), random([2, 4, 5], &device));
        let mut both = Signal::default();
        both.concatenate(&signal(&a), &signal(&b));
        assert_eq!(both.dims(), [2, 5, 7]);
        let expected = Tensor::cat(vec![a, b], 1).swap_dims(1, 2);
        let found = both.to_tensor(&device);
        found.into_data().assert_eq(&expected.into_data(), true);
    }

    #[test]
    fn a_layer_gives_signals_and_tensors_the_same_bits() {
        let device = Device::flex();
        let conv = Conv1dConfig {
            channels_in: 10,
            channels_out: 24,
            kernel_size: 5,
            stride: 2,
            padding: 2,
        }
        .init(&device);
        let up = ConvTranspose1dConfig {
            channels_in: 24,
            channels_out: 20,
            kernel_size: 4,
            stride: 2,
            padding: 1,
        }
        .init(&device);
        let mut norm = GroupNormConfig {
            n_groups: 3,
            channels: 24,
            epsilon: 1e-5,
        }
        .init(&device);
        let _ = norm.pack();
        let plain = (conv, up);
        for (precision, rows, scales) in [
            (Precision::F32, 2, true),
            (Precision::F32, 1, false),
            (Precision::Bf16, 1, true),
            (Precision::Int8, 2, false),
            (Precision::INT4, 1, true),
        ] {
            let (mut conv, mut up) = plain.clone();
            let _ = conv.pack(precision) + up.pack(precision);
            // What other layers' modulations lie around.
            let all: Tensor<2> = random([rows, 60], &device);
            let features = Tokens::from(all.clone().unsqueeze::<3>());
            let (x, residual) = (random([2, 10, 9], &device), random([2, 24, 5], &device));
            let width = if scales { 48 } else { 24 };
            let expected = conv.forward_then(
                x.clone(),
                Epilogue {
                    normalization: Some(&norm),
                    activation: Activation::Mish,
                    modulation: Some(Modulation {
                        values: all.clone().narrow(1, 7, width),
                        scales,
                    }),
                    residual: Some(residual.clone()),
                },
            );
            let mut y = signal(&random([1, 2, 3], &device));
            let epilogue = SignalEpilogue {
                normalization: Some(&norm),
                activation: Activation::Mish,
                modulation: Some(SignalModulation {
                    features: &features,
                    start: 7,
                    scales,
                }),
                residual: Some(&signal(&residual)),
            };
            conv.write(&signal(&x), epilogue, &mut y);
            assert_eq!(y, signal(&expected), "{precision}");
            let mut z = Signal::default();
            up.write(&y, &mut z);
            assert_eq!(z, signal(&up.forward(expected)), "{precision}");
        }
    }
}
