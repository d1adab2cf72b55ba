//! Attention with several heads, as U-Net, autoencoder and text encoder have it.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::{Linear, LinearConfig, PackReport, Precision, attention, causal_attention};

/// Makes an [`Attention`].
#[derive(Clone, Copy, Debug)]
pub(crate) struct AttentionConfig {
    /// The features of what asks.
    pub(crate) features: usize,
    /// The features of what is read.
    pub(crate) context: usize,
    /// The number of heads; it divides the features.
    pub(crate) heads: usize,
    /// Whether queries, keys and values have an offset.
    pub(crate) bias: bool,
}

/// `y = W_o · cat over heads (softmax(Q Kᵀ / √d) V) + b_o` with `Q = W_q x`, `K = W_k c`, `V = W_v c`.
#[derive(Module, Debug)]
pub(crate) struct Attention {
    to_q: Linear,
    to_k: Linear,
    to_v: Linear,
    to_out: Linear,
    #[module(skip)]
    heads: usize,
}

/// What an [`Attention`] reads: keys and values, each `[batch, heads, tokens, features / heads]`.
#[derive(Clone, Debug)]
pub(crate) struct Keys {
    k: Tensor<4>,
    v: Tensor<4>,
}

impl AttentionConfig {
    pub(crate) fn init(&self, device: &Device) -> Attention {
        let Self {
            features,
            context,
            heads,
            bias,
        } = *self;
        let linear = |d_input, bias| {
            LinearConfig {
                d_input,
                d_output: features,
                bias,
            }
            .init(device)
        };
        Attention {
            to_q: linear(features, bias),
            to_k: linear(context, bias),
            to_v: linear(context, bias),
            to_out: linear(features, true),
            heads,
        }
    }
}

impl Attention {
    pub(crate) fn pack(&mut self, precision: Precision) -> PackReport {
        let Self {
            to_q,
            to_k,
            to_v,
            to_out,
            ..
        } = self;
        to_q.pack(precision) + to_k.pack(precision) + to_v.pack(precision) + to_out.pack(precision)
    }

    /// Keys and values of a context `[batch, tokens, context]`.
    pub(crate) fn keys(&self, context: Tensor<3>) -> Keys {
        Keys {
            k: self.split(self.to_k.forward(context.clone())),
            v: self.split(self.to_v.forward(context)),
        }
    }

    /// Shapes: x, returns `[batch, n, features]`.
    pub(crate) fn forward(&self, x: Tensor<3>, keys: &Keys) -> Tensor<3> {
        let q = self.split(self.to_q.forward(x));
        self.join(attention(q, keys.k.clone(), keys.v.clone()))
    }

    /// Every token reads every token.
    pub(crate) fn forward_self(&self, x: Tensor<3>) -> Tensor<3> {
        let keys = self.keys(x.clone());
        self.forward(x, &keys)
    }

    /// Every token reads those up to itself.
    pub(crate) fn forward_causal(&self, x: Tensor<3>) -> Tensor<3> {
        let Keys { k, v } = self.keys(x.clone());
        let q = self.split(self.to_q.forward(x));
        self.join(causal_attention(q, k, v))
    }

    /// `[batch, n, features]` to `[batch, heads, n, features / heads]`.
    fn split(&self, x: Tensor<3>) -> Tensor<4> {
        let [batch, n, features] = x.dims();
        x.reshape([batch, n, self.heads, features / self.heads])
            .swap_dims(1, 2)
    }

    fn join(&self, x: Tensor<4>) -> Tensor<3> {
        let [batch, heads, n, d] = x.dims();
        let x = x.swap_dims(1, 2).reshape([batch, n, heads * d]);
        self.to_out.forward(x)
    }
}
