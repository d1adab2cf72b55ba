//! Attention with several heads, as U-Net, autoencoder and text encoder have it.

use std::sync::Arc;

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::{
    Activation, Linear, LinearConfig, PackReport, Packing, Tokens, attend, attend_causally,
    attend_in_codes, attention, causal_attention,
};

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

/// What an [`Attention`] reads: keys and values.
#[derive(Clone, Debug)]
pub(crate) enum Keys {
    /// Of plain layers, each `[batch, heads, tokens, features / heads]`.
    Plain(Box<[Tensor<4>; 2]>),
    /// Of packed layers, each `[batch, tokens, features]`.
    Packed(Arc<[Tokens; 2]>),
}

/// What packed layers write between them: as many tokens and features as what asks.
pub(crate) struct Between {
    /// What is normalized, and then what the heads have read.
    pub(crate) h: Tokens,
    q: Tokens,
    k: Tokens,
    v: Tokens,
}

impl Between {
    pub(crate) fn like(x: &Tokens) -> Self {
        let zeros = || Tokens::zeros(x.dims());
        Self {
            h: zeros(),
            q: zeros(),
            k: zeros(),
            v: zeros(),
        }
    }
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
    /// Lays the weights out for the kernels of the layers.
    pub(crate) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let Self {
            to_q,
            to_k,
            to_v,
            to_out,
            heads: _,
        } = self;
        to_q.pack(to.of("to_q"))
            + to_k.pack(to.of("to_k"))
            + to_v.pack(to.of("to_v"))
            + to_out.pack(to.of("to_out"))
    }

    fn is_packed(&self) -> bool {
        let layers = [&self.to_q, &self.to_k, &self.to_v, &self.to_out];
        layers.into_iter().all(Linear::is_packed)
    }

    /// Keys and values of a context `[batch, tokens, context]`.
    pub(crate) fn keys(&self, context: Tensor<3>) -> Keys {
        if !self.is_packed() {
            return Keys::Plain(Box::new([
                self.split(self.to_k.forward(context.clone())),
                self.split(self.to_v.forward(context)),
            ]));
        }
        let context = Tokens::from(context);
        let keys = [&self.to_k, &self.to_v].map(|layer| {
            let [features, _] = layer.weight.dims();
            let mut y = context.with_features(features);
            layer.write(&context, Activation::Identity, &mut y);
            y
        });
        Keys::Packed(Arc::new(keys))
    }

    /// `y ← y + attention(h, keys)` of packed layers; `between.h` is what asks.
    pub(crate) fn add(&self, keys: &Keys, between: &mut Between, y: &mut Tokens) {
        let Keys::Packed(keys) = keys else {
            panic!("keys are of packed layers, as what reads them");
        };
        let Between { h, q, .. } = between;
        self.to_q.write(h, Activation::Identity, q);
        self.attend(q, &keys[0], &keys[1], h);
        self.to_out.add(h, y);
    }

    /// As [`add`](Self::add), and every token reads every token.
    pub(crate) fn add_self(&self, between: &mut Between, y: &mut Tokens) {
        self.project(between);
        let Between { h, q, k, v } = between;
        self.attend(q, k, v, h);
        self.to_out.add(h, y);
    }

    /// As [`add`](Self::add), and every token reads those up to itself.
    pub(crate) fn add_causal(&self, between: &mut Between, y: &mut Tokens) {
        self.project(between);
        let Between { h, q, k, v } = between;
        attend_causally(q, k, v, self.heads, h);
        self.to_out.add(h, y);
    }

    /// In codes where queries and keys were products of codes: what those round is as much again.
    fn attend(&self, q: &Tokens, k: &Tokens, v: &Tokens, y: &mut Tokens) {
        if self.to_q.is_codes() && self.to_k.is_codes() {
            attend_in_codes(q, k, v, self.heads, y);
        } else {
            attend(q, k, v, self.heads, y);
        }
    }

    fn project(&self, Between { h, q, k, v }: &mut Between) {
        for (layer, to) in [(&self.to_q, q), (&self.to_k, k), (&self.to_v, v)] {
            layer.write(h, Activation::Identity, to);
        }
    }

    /// `y = x + attention(h)`, every pixel a token that reads every token.
    ///
    /// Shapes: h, x, returns `[batch, features, height, width]`.
    pub(crate) fn forward_picture(&self, h: Tensor<4>, x: Tensor<4>) -> Tensor<4> {
        if self.is_packed() {
            let layers = [&self.to_q, &self.to_k, &self.to_v];
            let [q, k, v] = layers.map(|layer| layer.read_picture(h.clone()));
            let mut y = Tokens::zeros(q.dims());
            attend(&q, &k, &v, self.heads, &mut y);
            return self.to_out.add_picture(&y, x);
        }
        let [batch, channels, height, width] = x.dims();
        let tokens = h.reshape([batch, channels, height * width]).swap_dims(1, 2);
        let y = self.forward_self(tokens).swap_dims(1, 2);
        x + y.reshape([batch, channels, height, width])
    }

    /// Shapes: x, returns `[batch, n, features]`.
    pub(crate) fn forward(&self, x: Tensor<3>, keys: &Keys) -> Tensor<3> {
        let q = self.split(self.to_q.forward(x));
        let (k, v) = match keys {
            Keys::Plain(keys) => (keys[0].clone(), keys[1].clone()),
            Keys::Packed(keys) => {
                let tensor = |x: &Tokens| self.split(x.clone().into_tensor(&q.device()));
                (tensor(&keys[0]), tensor(&keys[1]))
            }
        };
        self.join(attention(q, k, v))
    }

    /// Every token reads every token.
    pub(crate) fn forward_self(&self, x: Tensor<3>) -> Tensor<3> {
        let keys = self.keys(x.clone());
        self.forward(x, &keys)
    }

    /// Every token reads those up to itself.
    pub(crate) fn forward_causal(&self, x: Tensor<3>) -> Tensor<3> {
        let [k, v] = [&self.to_k, &self.to_v].map(|layer| self.split(layer.forward(x.clone())));
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

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;
    use clearway_layers::Precision;

    use super::*;

    #[test]
    fn packed_it_is_the_same_layer() {
        let device = Device::flex();
        let normal = Distribution::Normal(0.0, 1.0);
        let config = AttentionConfig {
            features: 24,
            context: 24,
            heads: 3,
            bias: true,
        };
        let plain = config.init(&device);
        let mut packed = plain.clone();
        let report = packed.pack(&Packing::new(&Precision::F32.into(), &[]));
        assert_eq!((report.layers, report.parameters), (4, plain.num_params()));
        let x = Tensor::<3>::random([2, 40, 24], normal, &device);
        let text = Tensor::<3>::random([1, 9, 24], normal, &device);
        let add = |add: &dyn Fn(&mut Between, &mut Tokens)| {
            let h = Tokens::from(x.clone());
            let mut y = h.with_features(24);
            let mut between = Between {
                h,
                ..Between::like(&y)
            };
            add(&mut between, &mut y);
            y.into_tensor(&device)
        };
        let keys = packed.keys(text.clone());
        let read = plain.forward(x.clone(), &plain.keys(text));
        let picture = |x: &Tensor<3>| x.clone().swap_dims(1, 2).reshape([2, 24, 5, 8]);
        let zeros = picture(&x.zeros_like());
        for (what, y, expected) in [
            (
                "self",
                add(&|h, y| packed.add_self(h, y)),
                plain.forward_self(x.clone()),
            ),
            (
                "causal",
                add(&|h, y| packed.add_causal(h, y)),
                plain.forward_causal(x.clone()),
            ),
            ("text", add(&|h, y| packed.add(&keys, h, y)), read.clone()),
            ("text, as tensors", packed.forward(x.clone(), &keys), read),
            (
                "picture",
                packed
                    .forward_picture(picture(&x), zeros.clone())
                    .reshape([2, 24, 40]),
                plain
                    .forward_picture(picture(&x), zeros)
                    .reshape([2, 24, 40]),
            ),
        ] {
            let difference: f32 = (y - expected).abs().max().into_scalar();
            // Four products of f32, summed in another order.
            assert!(difference < 3e-6, "{what}: {difference:e}");
        }
    }
}
