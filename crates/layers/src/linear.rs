//! The linear layer.

use std::ops::Range;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::module::linear;

use crate::calibration::observe;
use crate::kernel::{
    self, Activation, Layout, Level, Panels, Precision, Window, product, side_by_side,
};
use crate::parameter::{tensor, values};
use crate::{PackReport, Parameter, Tokens, uniform};

/// Makes a [`Linear`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearConfig {
    /// The number of input features.
    pub d_input: usize,
    /// The number of output features.
    pub d_output: usize,
    /// Whether an offset is added.
    pub bias: bool,
}

/// `y = x Wᵀ + b`.
#[derive(Module, Debug)]
pub struct Linear {
    /// `W`: `[d_output, d_input]`.
    pub weight: Parameter<2>,
    /// `b`: `[d_output]`.
    pub bias: Option<Parameter<1>>,
}

impl LinearConfig {
    /// A layer with weights drawn from `U(-k, k)`, `k = 1/√d_input`.
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn init(&self, device: &Device) -> Linear {
        let Self {
            d_input, d_output, ..
        } = *self;
        assert!(
            d_input > 0 && d_output > 0,
            "a linear layer needs features, not {d_input} -> {d_output}"
        );
        Linear {
            weight: uniform([d_output, d_input], d_input, device).into(),
            bias: self
                .bias
                .then(|| uniform([d_output], d_input, device).into()),
        }
    }
}

impl Linear {
    /// Lays the weights out for the kernels of this crate.
    pub fn pack(&mut self, precision: Precision) -> PackReport {
        let bias = self.bias.as_mut().map(Parameter::pack_values);
        PackReport {
            layers: 1,
            ..self.weight.pack_matrix(precision) + bias.unwrap_or_default()
        }
    }

    /// Whether the layer is packed, and can read tokens.
    pub fn is_packed(&self) -> bool {
        self.weight.matrix().is_some()
    }

    /// Whether the weights are packed as codes.
    pub fn is_codes(&self) -> bool {
        let matrix = self.weight.matrix();
        matrix.is_some_and(|panels| panels.precision().is_codes())
    }

    /// `y = activation(x Wᵀ + b)` for tokens.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, n, d_input]`
    /// - y: `[batch, n, d_output]`
    ///
    /// # Panics
    ///
    /// If the layer is not packed, or the shapes do not go together.
    pub fn write(&self, x: &Tokens, activation: Activation, y: &mut Tokens) {
        let epilogue = kernel::Epilogue {
            activation,
            ..kernel::Epilogue::default()
        };
        self.run(x, y, epilogue);
    }

    /// `y ← y + x Wᵀ + b` for tokens.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, n, d_input]`
    /// - y: `[batch, n, d_output]`
    ///
    /// # Panics
    ///
    /// As [`write`](Self::write).
    pub fn add(&self, x: &Tokens, y: &mut Tokens) {
        let epilogue = kernel::Epilogue {
            accumulates: true,
            ..kernel::Epilogue::default()
        };
        self.run(x, y, epilogue);
    }

    /// `b` of a packed layer.
    pub(crate) fn offsets(&self) -> Option<&[f32]> {
        self.bias.as_ref().and_then(Parameter::values)
    }

    fn run<'a>(&'a self, x: &Tokens, y: &mut Tokens, epilogue: kernel::Epilogue<'a>) {
        let [d_output, d_input] = self.weight.dims();
        x.assert_like(y, [d_input, d_output]);
        let [batch, n, _] = x.dims();
        self.compute(
            [1, batch * n],
            (&x.values, Layout::channels_last(d_input)),
            (&mut y.values, Layout::channels_last(d_output)),
            epilogue,
        );
    }

    /// Applies the layer to every pixel of a picture, which becomes a token.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, d_input, height, width]`
    /// - returns: `[batch, height · width, d_output]`
    ///
    /// # Panics
    ///
    /// If the layer is not packed, or `x` has not `d_input` channels.
    pub fn read_picture(&self, x: Tensor<4>) -> Tokens {
        let [d_output, d_input] = self.weight.dims();
        assert_shape!(x, [_, d_input, _, _]);
        let [batch, _, height, width] = x.dims();
        let n = height * width;
        let mut y = Tokens::zeros([batch, n, d_output]);
        self.compute(
            [batch, n],
            (&values(x), Layout::channels_first(d_input, n)),
            (&mut y.values, Layout::samples(n, d_output)),
            kernel::Epilogue::default(),
        );
        y
    }

    /// Applies the layer to tokens, which become the pixels of a picture, and adds them to `picture`.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, height · width, d_input]`
    /// - picture, returns: `[batch, d_output, height, width]`
    ///
    /// # Panics
    ///
    /// If the layer is not packed, or the shapes do not go together.
    pub fn add_picture(&self, x: &Tokens, picture: Tensor<4>) -> Tensor<4> {
        let [d_output, d_input] = self.weight.dims();
        let (shape, device) = (picture.dims(), picture.device());
        let [batch, n, features] = x.dims();
        assert!(
            features == d_input && shape[..2] == [batch, d_output] && shape[2] * shape[3] == n,
            "tokens {:?} are not the pixels of {shape:?}",
            x.dims()
        );
        let mut y = values(picture);
        self.compute(
            [batch, n],
            (&x.values, Layout::samples(n, d_input)),
            (&mut y, Layout::channels_first(d_output, n)),
            kernel::Epilogue {
                accumulates: true,
                ..kernel::Epilogue::default()
            },
        );
        tensor(y, shape, &device)
    }

    fn compute<'a>(
        &'a self,
        [batch, positions]: [usize; 2],
        input: (&[f32], Layout),
        output: (&mut [f32], Layout),
        epilogue: kernel::Epilogue<'a>,
    ) {
        let weight = (self.weight.matrix()).expect("tokens are read by packed layers");
        kernel::linear(
            Level::detected(),
            weight,
            None,
            batch,
            positions,
            input,
            output,
            &kernel::Epilogue {
                bias: self.offsets(),
                ..epilogue
            },
        );
    }

    /// Applies the layer to the last axis.
    ///
    /// # Shapes
    ///
    /// - x: `[.., d_input]`
    /// - returns: `[.., d_output]`
    ///
    /// # Panics
    ///
    /// If the last axis of `x` is not `d_input`.
    pub fn forward<const D: usize>(&self, x: Tensor<D>) -> Tensor<D> {
        let [_, d_input] = self.weight.dims();
        assert_shape!(x, [.., d_input]);
        if let Some(weight) = self.weight.matrix() {
            let (mut shape, device) = (x.dims(), x.device());
            let rows = shape[..D - 1].iter().product();
            shape[D - 1] = weight.rows();
            let mut y = vec![0.0; rows * weight.rows()];
            self.compute(
                [1, rows],
                (&values(x), Layout::channels_last(d_input)),
                (&mut y, Layout::channels_last(weight.rows())),
                kernel::Epilogue::default(),
            );
            return tensor(y, shape, &device);
        }
        let (shape, features) = (x.dims(), x.dims()[D - 1]);
        let rows = shape[..D - 1].iter().product::<usize>();
        observe(&self.weight, rows, || {
            x.clone().reshape([rows, features]).transpose()
        });
        let x = match self.weight {
            Parameter::Rehearsed(..) => {
                let x: Tensor<2> = x.reshape([rows, features]);
                self.weight.input(x, false).reshape(shape)
            }
            _ => x,
        };
        // The transpose is a view: the matrix product reads strided weights without a copy.
        let (weight, bias) = (self.weight.val(), self.bias.as_ref().map(Parameter::val));
        #[cfg(feature = "train")]
        if crate::autodiff::suits(&weight) {
            return crate::autodiff::project(x, weight, bias);
        }
        linear(x, weight.transpose(), bias)
    }

    /// Applies the columns `start..start + n` of the weight alone, without the offset, to `n` features.
    ///
    /// A layer that reads a concatenation splits into one product for each part:
    /// `W · cat(a, b) = W_a a + W_b b`. Where `b` stays and `a` changes, the second product is computed once.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, n]`
    /// - returns: `[batch, d_output]`
    pub fn forward_part(&self, x: Tensor<2>, start: usize) -> Tensor<2> {
        let [_, n] = x.dims();
        if let Some(weight) = self.weight.matrix() {
            return packed_part(weight, start..start + n, x);
        }
        let x = self.weight.input(x, false);
        // A view again: the columns are not copied.
        let weight = self.weight.val().narrow(1, start, n);
        #[cfg(feature = "train")]
        if crate::autodiff::suits(&weight) {
            return crate::autodiff::project(x, weight, None);
        }
        x.matmul(weight.transpose())
    }

    /// Applies the columns `start..start + n` of the weights of packed layers, and their offsets where `offset` says so, to
    /// `n` features that they all read: in one product, whose outputs lie side by side.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, rows, n]`
    /// - y: becomes `[batch, rows, Σ d_output]`
    ///
    /// # Panics
    ///
    /// If a layer is not packed, the layers differ in `d_input`, or `start + n` is more than that.
    pub fn write_parts(layers: &[&Self], x: &Tokens, start: usize, offset: bool, y: &mut Tokens) {
        let [batch, rows, n] = x.dims();
        let parts: Vec<_> = layers
            .iter()
            .map(|layer| {
                let weight = (layer.weight.matrix()).expect("tokens are read by packed layers");
                (weight, layer.offsets().filter(|_| offset))
            })
            .collect();
        let width = parts.iter().map(|(weight, _)| weight.rows()).sum();
        y.resize([batch, rows, width]);
        side_by_side(
            Level::detected(),
            &parts,
            &(start..start + n),
            batch * rows,
            &x.values,
            &mut y.values,
        );
    }

    /// Adds the offset, for sums of [`forward_part`](Self::forward_part)s.
    ///
    /// # Shapes
    ///
    /// - y, returns: `[batch, d_output]`
    pub fn add_bias(&self, y: Tensor<2>) -> Tensor<2> {
        match &self.bias {
            Some(bias) => y + bias.val().unsqueeze(),
            None => y,
        }
    }
}

/// `x` times the columns `part` of the weight.
fn packed_part(weight: &Panels, part: Range<usize>, x: Tensor<2>) -> Tensor<2> {
    let ([rows, n], device) = (x.dims(), x.device());
    let mut y = vec![0.0; rows * weight.rows()];
    product(
        Level::detected(),
        &[(weight, Window::point(rows))],
        part,
        1,
        (&values(x), rows, Layout::channels_last(n)),
        (&mut y, Layout::channels_last(weight.rows())),
        &kernel::Epilogue::default(),
    );
    tensor(y, [rows, weight.rows()], &device)
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn packed_it_is_the_same_layer() {
        let device = Device::flex();
        // Of outputs of about 0.6: weights and inputs are each rounded to 2⁻⁸, at random.
        for (precision, tolerance) in [(Precision::F32, 2e-6), (Precision::Bf16, 2e-2)] {
            let plain = LinearConfig {
                d_input: 77,
                d_output: 50,
                bias: true,
            }
            .init(&device);
            let mut packed = plain.clone();
            assert_eq!(packed.pack(precision).parameters, plain.num_params());
            let normal = Distribution::Normal(0.0, 1.0);
            let x = Tensor::<3>::random([2, 5, 77], normal, &device);
            let expected = plain.forward(x.clone());
            let whole: f32 = (packed.forward(x.clone()) - expected.clone())
                .abs()
                .max()
                .into_scalar();
            assert!(whole < tolerance, "{precision}: {whole:e}");
            let rows: Tensor<2> = x.reshape([10, 77]);
            let parts = packed.forward_part(rows.clone().narrow(1, 0, 31), 0)
                + packed.forward_part(rows.narrow(1, 31, 46), 31);
            let sum: f32 = (packed.add_bias(parts) - expected.reshape([10, 50]))
                .abs()
                .max()
                .into_scalar();
            assert!(sum < tolerance, "{precision}, in parts: {sum:e}");
        }
    }

    #[test]
    fn layers_side_by_side_are_the_same_layers() {
        let device = Device::flex();
        let mut layers = [50, 3, 16].map(|d_output| {
            LinearConfig {
                d_input: 77,
                d_output,
                bias: d_output != 16,
            }
            .init(&device)
        });
        let normal = Distribution::Normal(0.0, 1.0);
        let x = Tensor::<2>::random([5, 77], normal, &device);
        let plain = layers.clone();
        // The last one: each layer another, and a third like the first.
        let codes = [Precision::F32, Precision::Int8, Precision::F32];
        for precisions in [
            [Precision::F32; 3],
            [Precision::Bf16; 3],
            [Precision::Int8; 3],
            codes,
        ] {
            layers = plain.clone();
            for (layer, precision) in layers.iter_mut().zip(precisions) {
                let _ = layer.pack(precision);
            }
            for (part, offset) in [(0..31, false), (31..77, true)] {
                let x = x.clone().narrow(1, part.start, part.len());
                let each = layers.each_ref().map(|layer| {
                    let y = layer.forward_part(x.clone(), part.start);
                    if offset { layer.add_bias(y) } else { y }
                });
                let mut y = Tokens::zeros([0; 3]);
                let tokens = Tokens::from(x.unsqueeze::<3>());
                Linear::write_parts(&layers.each_ref(), &tokens, part.start, offset, &mut y);
                assert_eq!(y.dims(), [1, 5, 69]);
                let expected: Tensor<2> = Tensor::cat(each.into(), 1);
                let difference = y.into_tensor(&device).squeeze_dim(0) - expected;
                let difference: f32 = difference.abs().max().into_scalar();
                // The offset comes first in the sum.
                assert!(difference < 1e-6, "{precisions:?}: {difference:e}");
            }
        }
    }

    #[test]
    fn pictures_become_tokens_and_tokens_pictures() {
        let device = Device::flex();
        let mut layer = LinearConfig {
            d_input: 30,
            d_output: 21,
            bias: true,
        }
        .init(&device);
        let normal = Distribution::Normal(0.0, 1.0);
        let picture = Tensor::<4>::random([2, 30, 5, 7], normal, &device);
        let tokens = picture.clone().reshape([2, 30, 35]).swap_dims(1, 2);
        let expected = layer.forward(tokens.clone());
        let _ = layer.pack(Precision::F32);
        let read = layer.read_picture(picture).into_tensor(&device);
        let other = Tensor::<4>::random([2, 21, 5, 7], normal, &device);
        let added = layer.add_picture(&Tokens::from(tokens.clone()), other.clone());
        let written = (added - other).reshape([2, 21, 35]).swap_dims(1, 2);
        let mut activated = Tokens::zeros([2, 35, 21]);
        layer.write(&Tokens::from(tokens), Activation::Silu, &mut activated);
        let silu = crate::activation::silu(expected.clone());
        for (what, y, expected) in [
            ("read", read, expected.clone()),
            ("written", written, expected),
            ("activated", activated.into_tensor(&device), silu),
        ] {
            let difference: f32 = (y - expected).abs().max().into_scalar();
            // Sums of thirty numbers of order a tenth, and what they are added to.
            assert!(difference < 2e-6, "{what}: {difference:e}");
        }
    }
}
