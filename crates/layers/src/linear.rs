//! The linear layer.

use burn::module::{Module, Param};
use burn::prelude::*;
use burn::tensor::module::linear;

use crate::uniform;

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
    pub weight: Param<Tensor<2>>,
    /// `b`: `[d_output]`.
    pub bias: Option<Param<Tensor<1>>>,
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
            weight: uniform([d_output, d_input], d_input, device),
            bias: self.bias.then(|| uniform([d_output], d_input, device)),
        }
    }
}

impl Linear {
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
        let weight = self.weight.val();
        let [_, d_input] = weight.dims();
        assert_shape!(x, [.., d_input]);
        // The transpose is a view: the matrix product reads strided weights without a copy.
        linear(x, weight.transpose(), self.bias.as_ref().map(Param::val))
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
        // A view again: the columns are not copied.
        let weight = self.weight.val().narrow(1, start, n);
        x.matmul(weight.transpose())
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
