//! The transformer of a U-Net's stages.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::{
    GegluFeedForward, GegluFeedForwardConfig, GroupNorm, GroupNormConfig, LayerNorm,
    LayerNormConfig, Linear, LinearConfig, PackReport, Precision, Tokens, in_pool,
};

use crate::attention::{Attention, AttentionConfig, Between, Keys};

/// Of the norm before the transformer; the other norms of a U-Net have 1e-5.
const GROUP_NORM_EPSILON: f64 = 1e-6;
const LAYER_NORM_EPSILON: f64 = 1e-5;
/// How many times wider the feed-forward network is.
const EXPANSION: usize = 4;

/// Makes a [`Transformer`].
#[derive(Clone, Copy, Debug)]
pub(super) struct TransformerConfig {
    pub(super) channels: usize,
    pub(super) context: usize,
    pub(super) heads: usize,
    pub(super) layers: usize,
    pub(super) n_groups: usize,
}

/// ```text
/// h = proj_in(norm(x)), every pixel a token;   h = layer(h) for each layer;   y = x + proj_out(h)
/// ```
///
/// Some networks have convolutions of one tap in place of the projections. That is the same matrix.
#[derive(Module, Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    proj_in: Linear,
    layers: Vec<Layer>,
    proj_out: Linear,
}

/// ```text
/// x ← x + attn₁(norm₁(x));   x ← x + attn₂(norm₂(x), text);   x ← x + ff(norm₃(x))
/// ```
#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    attn1: Attention,
    norm2: LayerNorm,
    attn2: Attention,
    norm3: LayerNorm,
    ff: GegluFeedForward,
}

impl TransformerConfig {
    pub(super) fn init(&self, device: &Device) -> Transformer {
        let Self {
            channels,
            context,
            heads,
            layers,
            n_groups,
        } = *self;
        let norm = || {
            LayerNormConfig {
                features: channels,
                epsilon: LAYER_NORM_EPSILON,
            }
            .init(device)
        };
        let attention = |context| {
            AttentionConfig {
                features: channels,
                context,
                heads,
                bias: false,
            }
            .init(device)
        };
        let project = || {
            LinearConfig {
                d_input: channels,
                d_output: channels,
                bias: true,
            }
            .init(device)
        };
        Transformer {
            norm: GroupNormConfig {
                n_groups,
                channels,
                epsilon: GROUP_NORM_EPSILON,
            }
            .init(device),
            proj_in: project(),
            layers: (0..layers)
                .map(|_| Layer {
                    norm1: norm(),
                    attn1: attention(channels),
                    norm2: norm(),
                    attn2: attention(context),
                    norm3: norm(),
                    ff: GegluFeedForwardConfig {
                        features: channels,
                        hidden: EXPANSION * channels,
                    }
                    .init(device),
                })
                .collect(),
            proj_out: project(),
        }
    }
}

impl Transformer {
    /// Lays the weights out for the kernels of the layers.
    pub(super) fn pack(&mut self, precision: Precision) -> PackReport {
        let Self {
            norm,
            proj_in,
            layers,
            proj_out,
        } = self;
        let layers: PackReport = layers.iter_mut().map(|layer| layer.pack(precision)).sum();
        norm.pack() + proj_in.pack(precision) + layers + proj_out.pack(precision)
    }

    /// What each block reads of a text `[batch, tokens, context]`, which stays for all steps.
    pub(super) fn keys(&self, text: &Tensor<3>) -> impl Iterator<Item = Keys> {
        self.layers
            .iter()
            .map(|block| block.attn2.keys(text.clone()))
    }

    /// Shapes: x, returns `[batch, channels, height, width]`; takes one of `keys` a block.
    pub(super) fn forward<'a>(
        &self,
        x: Tensor<4>,
        keys: &mut impl Iterator<Item = &'a Keys>,
    ) -> Tensor<4> {
        let keys: Vec<&Keys> = keys.take(self.layers.len()).collect();
        assert_eq!(
            keys.len(),
            self.layers.len(),
            "`prepare` computed keys for each block"
        );
        if self.proj_in.is_packed() {
            return in_pool(|| self.packed(x, &keys));
        }
        let [batch, channels, height, width] = x.dims();
        let tokens = self
            .norm
            .forward(x.clone())
            .reshape([batch, channels, height * width])
            .swap_dims(1, 2);
        let mut h = self.proj_in.forward(tokens);
        for (block, keys) in self.layers.iter().zip(keys) {
            h = block.forward(h, keys);
        }
        let h = self.proj_out.forward(h).swap_dims(1, 2);
        x + h.reshape([batch, channels, height, width])
    }

    fn packed(&self, x: Tensor<4>, keys: &[&Keys]) -> Tensor<4> {
        let mut h = self.proj_in.read_picture(self.norm.forward(x.clone()));
        let mut between = Between::like(&h);
        for (block, keys) in self.layers.iter().zip(keys) {
            block.packed(&mut h, keys, &mut between);
        }
        self.proj_out.add_picture(&h, x)
    }
}

impl Layer {
    fn pack(&mut self, precision: Precision) -> PackReport {
        let Self {
            norm1,
            attn1,
            norm2,
            attn2,
            norm3,
            ff,
        } = self;
        let norms: PackReport = [norm1, norm2, norm3].map(LayerNorm::pack).into_iter().sum();
        norms + attn1.pack(precision) + attn2.pack(precision) + ff.pack(precision)
    }

    fn packed(&self, x: &mut Tokens, keys: &Keys, between: &mut Between) {
        self.norm1.write(x, &mut between.h);
        self.attn1.add_self(between, x);
        self.norm2.write(x, &mut between.h);
        self.attn2.add(keys, between, x);
        self.norm3.write(x, &mut between.h);
        self.ff.add(&between.h, x);
    }

    fn forward(&self, x: Tensor<3>, keys: &Keys) -> Tensor<3> {
        let x = self.attn1.forward_self(self.norm1.forward(x.clone())) + x;
        let x = self.attn2.forward(self.norm2.forward(x.clone()), keys) + x;
        self.ff.forward(self.norm3.forward(x.clone())) + x
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Distribution;

    use super::*;

    #[test]
    fn packed_it_is_the_same_network_alone_and_in_a_batch() {
        let device = Device::flex();
        let normal = Distribution::Normal(0.0, 1.0);
        let plain = TransformerConfig {
            channels: 32,
            context: 12,
            heads: 2,
            layers: 2,
            n_groups: 4,
        }
        .init(&device);
        let x = Tensor::<4>::random([2, 32, 6, 9], normal, &device);
        let text = Tensor::<3>::random([2, 7, 12], normal, &device);
        let forward = |network: &Transformer, x: &Tensor<4>, text: &Tensor<3>| {
            let keys: Vec<Keys> = network.keys(text).collect();
            network.forward(x.clone(), &mut keys.iter())
        };
        let expected = forward(&plain, &x, &text);
        // Of outputs of order one, through two layers; bf16 rounds each weight to 2⁻⁸.
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 5e-2)] {
            let mut packed = plain.clone();
            assert_eq!(packed.pack(precision).parameters, plain.num_params());
            let together = forward(&packed, &x, &text);
            let difference: f32 = (together.clone() - expected.clone())
                .abs()
                .max()
                .into_scalar();
            assert!(difference < tolerance, "{precision}: {difference:e}");
            for sample in 0..2 {
                let one = |x: &Tensor<4>| x.clone().narrow(0, sample, 1);
                let alone = forward(&packed, &one(&x), &text.clone().narrow(0, sample, 1));
                assert_eq!(
                    alone.into_data(),
                    one(&together).into_data(),
                    "{precision}: sample {sample}"
                );
            }
        }
    }
}
