//! The text encoder.

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::prelude::*;
use clearway_layers::activation::{gelu, quick_gelu};
use clearway_layers::{
    LayerNorm, LayerNormConfig, Linear, LinearConfig, PackPolicy, PackReport, Packing, Tokens,
    Weights, WeightsError, WeightsWriter, count_parameters, in_pool,
};

use crate::LoadError;
use crate::attention::{Attention, AttentionConfig, Between};
use crate::config::{Config, MAX_DEPTH, MAX_SIZE};

/// What `eos_token_id` says in configurations from before it was right; the end is the largest token then.
const WRONG_END: usize = 2;

/// The activation between the two layers of a feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `x / (1 + e^(-1.702 x))`: OpenAI's CLIP, Stable Diffusion 1.
    QuickGelu,
    /// `x Φ(x)`: OpenCLIP, Stable Diffusion 2.
    Gelu,
}

/// What a text encoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct ClipTextConfig {
    /// The number of tokens that there are.
    pub vocab_size: usize,
    /// The features of a token.
    pub hidden_size: usize,
    /// The features between the two layers of a feed-forward network.
    pub intermediate_size: usize,
    /// The number of layers.
    pub num_hidden_layers: usize,
    /// The heads of the attention.
    pub num_attention_heads: usize,
    /// The most tokens of a text.
    pub max_position_embeddings: usize,
    /// The activation of the feed-forward networks.
    pub hidden_act: Activation,
    /// What the normalization adds to the variance.
    pub layer_norm_eps: f64,
    /// The token that ends a text; none where the largest does.
    pub eos_token_id: Option<u32>,
}

/// CLIP's text encoder: transformers' `CLIPTextModel`.
///
/// ```text
/// x = token_embedding[tokens] + position_embedding
/// x ← x + attention(norm₁(x));   x ← x + W₂ act(W₁ norm₂(x))        for each layer; no token reads a later one
/// y = final_layer_norm(x)
/// ```
///
/// "Learning Transferable Visual Models From Natural Language Supervision", Radford et al., 2021, arXiv:2103.00020.
#[derive(Module, Debug)]
pub struct ClipText {
    token_embedding: Param<Tensor<2>>,
    position_embedding: Param<Tensor<2>>,
    layers: Vec<Layer>,
    final_layer_norm: LayerNorm,
    #[module(skip)]
    end: Option<u32>,
}

#[derive(Module, Debug)]
struct Layer {
    norm1: LayerNorm,
    self_attn: Attention,
    norm2: LayerNorm,
    expand: Linear,
    contract: Linear,
    #[module(skip)]
    activation: Activation,
}

/// Why a text cannot be encoded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// There are no tokens, or the texts are of different lengths.
    #[error("text {index} has {found} tokens where {expected} are needed")]
    Length {
        /// Which text.
        index: usize,
        /// The length of the first, or 1 if that has none.
        expected: usize,
        /// Its length.
        found: usize,
    },
    /// A text has more tokens than the encoder has places.
    #[error("a text has {found} tokens; the text encoder takes {limit}")]
    TooLong {
        /// How many it has.
        found: usize,
        /// The most.
        limit: usize,
    },
    /// A token is none of the encoder's: tokenizer and encoder do not belong together.
    #[error("token {token} is none of the text encoder's {limit}")]
    Token {
        /// The token.
        token: u32,
        /// How many there are.
        limit: usize,
    },
    /// More layers are to be left out than there are.
    #[error("cannot leave out the last {skip} of {layers} layers")]
    Skip {
        /// How many are to be left out.
        skip: usize,
        /// How many there are.
        layers: usize,
    },
}

impl ClipTextConfig {
    /// Reads what transformers calls a `CLIPTextModel`. Entries that are not known are passed over.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        let size = 1..=MAX_SIZE;
        let hidden_size = root.integer_or("hidden_size", 512, size.clone())?;
        let heads = root.integer_or("num_attention_heads", 8, size.clone())?;
        if !hidden_size.is_multiple_of(heads) {
            return Err(root
                .get("num_attention_heads")?
                .wrong(format!("a number of heads that divides {hidden_size}")));
        }
        let end = root.integer_or("eos_token_id", 49_407, 0..=MAX_SIZE)?;
        Ok(Self {
            vocab_size: root.integer_or("vocab_size", 49_408, size.clone())?,
            hidden_size,
            intermediate_size: root.integer_or("intermediate_size", 2048, size.clone())?,
            num_hidden_layers: root.integer_or("num_hidden_layers", 12, 1..=MAX_DEPTH)?,
            num_attention_heads: heads,
            max_position_embeddings: root.integer_or("max_position_embeddings", 77, size)?,
            hidden_act: root.one_of(
                "hidden_act",
                &[
                    ("quick_gelu", Activation::QuickGelu),
                    ("gelu", Activation::Gelu),
                ],
            )?,
            layer_norm_eps: root.epsilon_or("layer_norm_eps", 1e-5)?,
            eos_token_id: (end != WRONG_END).then_some(end as u32),
        })
    }

    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If sizes do not go together; those that [`read`](Self::read) returns do.
    pub fn init(&self, device: &Device) -> ClipText {
        let features = self.hidden_size;
        let norm = || {
            LayerNormConfig {
                features,
                epsilon: self.layer_norm_eps,
            }
            .init(device)
        };
        let linear = |d_input, d_output| {
            LinearConfig {
                d_input,
                d_output,
                bias: true,
            }
            .init(device)
        };
        let normal = Initializer::Normal {
            mean: 0.0,
            std: 0.02,
        };
        let layer = |_| Layer {
            norm1: norm(),
            self_attn: AttentionConfig {
                features,
                context: features,
                heads: self.num_attention_heads,
                bias: true,
            }
            .init(device),
            norm2: norm(),
            expand: linear(features, self.intermediate_size),
            contract: linear(self.intermediate_size, features),
            activation: self.hidden_act,
        };
        ClipText {
            token_embedding: normal.init([self.vocab_size, features], device),
            position_embedding: normal.init([self.max_position_embeddings, features], device),
            layers: (0..self.num_hidden_layers).map(layer).collect(),
            final_layer_norm: norm(),
            end: self.eos_token_id,
        }
    }
}

impl ClipText {
    /// Fills the network with weights under transformers' names, with or without `text_model.` before them, and makes
    /// sure that none is left over but those that pictures need.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load(self, weights: Weights) -> Result<Self, WeightsError> {
        let mut weights = weights.rename(|key| key.replacen("text_model.", "", 1))?;
        // Counted numbers, and what CLIP compares texts with pictures by.
        for key in [
            "embeddings.position_ids",
            "text_projection.weight",
            "text_projection",
            "logit_scale",
        ] {
            weights.ignore(key);
        }
        let network = weights.load(self, transformers_key)?;
        weights.finish()?;
        Ok(network)
    }

    /// Adds the weights to a file, under the names that [`load`](Self::load) reads. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter) {
        writer.module(self, |path| {
            format!("text_model.{}", transformers_key(path))
        });
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// The number of layers.
    pub fn layers(&self) -> usize {
        self.layers.len()
    }

    /// The most tokens of a text.
    pub fn max_tokens(&self) -> usize {
        self.position_embedding.dims()[0]
    }

    /// The features of a token.
    pub fn features(&self) -> usize {
        self.position_embedding.dims()[1]
    }

    /// Lays the weights out for the kernels of the layers: the network computes on the CPU then, at a precision. What the
    /// tokens are before the first layer stays.
    ///
    /// Where weights become codes, all of these stay in f32, if the policy names no layers: a text is encoded once a picture.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let Self {
            token_embedding: _,
            position_embedding: _,
            layers,
            final_layer_norm,
            end: _,
        } = self;
        Packing::new(&policy, &["*"]).each("layers", layers, Layer::pack) + final_layer_norm.pack()
    }

    /// Encodes texts: what the U-Net reads.
    ///
    /// `skip` leaves out as many of the last layers, as some networks were trained; the final norm is applied still.
    ///
    /// # Shapes
    ///
    /// - tokens: `batch` texts of the same length
    /// - returns: `[batch, length, features]`
    ///
    /// # Errors
    ///
    /// If the texts are of different lengths or too long, a token is unknown, or there are not that many layers.
    pub fn encode(&self, tokens: &[Vec<u32>], skip: usize) -> Result<Tensor<3>, EncodeError> {
        let hidden = self.hidden(self.embed(tokens)?, skip)?;
        Ok(self.final_layer_norm.forward(hidden))
    }

    /// The vectors of the tokens, without their places: the input of [`hidden`](Self::hidden), which may be changed
    /// before.
    ///
    /// # Shapes
    ///
    /// - tokens: `batch` texts of the same length
    /// - returns: `[batch, length, features]`
    ///
    /// # Errors
    ///
    /// If the texts are of different lengths or too long, or a token is unknown.
    pub fn embed(&self, tokens: &[Vec<u32>]) -> Result<Tensor<3>, EncodeError> {
        let expected = tokens.first().map_or(1, |text| text.len().max(1));
        for (index, text) in tokens.iter().enumerate() {
            if text.len() != expected {
                return Err(EncodeError::Length {
                    index,
                    expected,
                    found: text.len(),
                });
            }
        }
        if expected > self.max_tokens() {
            return Err(EncodeError::TooLong {
                found: expected,
                limit: self.max_tokens(),
            });
        }
        let [limit, features] = self.token_embedding.dims();
        let all = tokens.concat();
        if let Some(&token) = all.iter().find(|&&token| token as usize >= limit) {
            return Err(EncodeError::Token { token, limit });
        }
        let vectors = self.token_embedding.val();
        let indices: Vec<i32> = all.iter().map(|&token| token.cast_signed()).collect();
        let indices =
            Tensor::<1, Int>::from_data(TensorData::new(indices, [all.len()]), &vectors.device());
        let chosen = vectors.select(0, indices);
        Ok(chosen.reshape([tokens.len(), expected, features]))
    }

    /// What the layers but the last `skip` make of embedded tokens, before the final norm.
    ///
    /// # Shapes
    ///
    /// - embedded, returns: `[batch, length, features]`
    ///
    /// # Errors
    ///
    /// If the texts are too long, or there are not that many layers.
    pub fn hidden(&self, embedded: Tensor<3>, skip: usize) -> Result<Tensor<3>, EncodeError> {
        let [_, length, _] = embedded.dims();
        let limit = self.max_tokens();
        if length > limit {
            return Err(EncodeError::TooLong {
                found: length,
                limit,
            });
        }
        let layers = self.layers.len();
        let used = (layers.checked_sub(skip)).ok_or(EncodeError::Skip { skip, layers })?;
        let places = self.position_embedding.val().narrow(0, 0, length);
        let mut x = embedded + places.unsqueeze();
        let layers = &self.layers[..used];
        if layers.first().is_some_and(Layer::is_packed) {
            let device = x.device();
            let x = in_pool(|| {
                let mut x = Tokens::from(x);
                let mut between = Between::like(&x);
                let [hidden, _] = layers[0].expand.weight.dims();
                let mut wide = x.with_features(hidden);
                for layer in layers {
                    layer.packed(&mut x, &mut between, &mut wide);
                }
                x
            });
            return Ok(x.into_tensor(&device));
        }
        for layer in layers {
            x = layer.forward(x);
        }
        Ok(x)
    }

    /// The final norm.
    ///
    /// # Shapes
    ///
    /// - hidden, returns: `[batch, length, features]`
    pub fn normalize(&self, hidden: Tensor<3>) -> Tensor<3> {
        self.final_layer_norm.forward(hidden)
    }

    /// The vectors at the texts' first ends, which stand for the texts as wholes.
    ///
    /// # Shapes
    ///
    /// - encoded: `[batch, length, features]`, of these tokens
    /// - returns: `[batch, features]`
    ///
    /// # Panics
    ///
    /// If `encoded` is of another shape than the tokens.
    pub fn pooled(&self, encoded: &Tensor<3>, tokens: &[Vec<u32>]) -> Tensor<2> {
        let [batch, _, features] = encoded.dims();
        assert_eq!(batch, tokens.len(), "each text has its tokens");
        let rows = tokens.iter().enumerate().map(|(i, text)| {
            let end = match self.end {
                Some(end) => Some(end),
                None => text.iter().max().copied(),
            };
            let place = text.iter().position(|&token| Some(token) == end);
            let row = encoded.clone().narrow(0, i, 1);
            row.narrow(1, place.unwrap_or(0), 1).reshape([1, features])
        });
        Tensor::cat(rows.collect(), 0)
    }
}

impl Layer {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let Self {
            norm1,
            self_attn,
            norm2,
            expand,
            contract,
            activation: _,
        } = self;
        norm1.pack()
            + self_attn.pack(&to.at("self_attn"))
            + norm2.pack()
            + expand.pack(to.of("expand"))
            + contract.pack(to.of("contract"))
    }

    fn is_packed(&self) -> bool {
        self.expand.is_packed()
    }

    fn packed(&self, x: &mut Tokens, between: &mut Between, wide: &mut Tokens) {
        self.norm1.write(x, &mut between.h);
        self.self_attn.add_causal(between, x);
        self.norm2.write(x, &mut between.h);
        let activation = match self.activation {
            Activation::QuickGelu => clearway_layers::Activation::QuickGelu,
            Activation::Gelu => clearway_layers::Activation::Gelu,
        };
        self.expand.write(&between.h, activation, wide);
        self.contract.add(wide, x);
    }

    fn forward(&self, x: Tensor<3>) -> Tensor<3> {
        let x = self.self_attn.forward_causal(self.norm1.forward(x.clone())) + x;
        let h = self.expand.forward(self.norm2.forward(x.clone()));
        let h = match self.activation {
            Activation::QuickGelu => quick_gelu(h),
            Activation::Gelu => gelu(h),
        };
        self.contract.forward(h) + x
    }
}

/// transformers' key of the parameter at a path of ours.
fn transformers_key(path: &str) -> String {
    let names: Vec<_> = path
        .split('.')
        .map(|name| match name {
            "token_embedding" => "embeddings.token_embedding.weight",
            "position_embedding" => "embeddings.position_embedding.weight",
            "layers" => "encoder.layers",
            "to_q" => "q_proj",
            "to_k" => "k_proj",
            "to_v" => "v_proj",
            "to_out" => "out_proj",
            "norm1" => "layer_norm1",
            "norm2" => "layer_norm2",
            "expand" => "mlp.fc1",
            "contract" => "mlp.fc2",
            other => other,
        })
        .collect();
    names.join(".")
}

#[cfg(test)]
mod tests {
    use clearway_layers::Precision;

    use super::*;

    fn network(end: Option<u32>) -> ClipText {
        ClipTextConfig {
            vocab_size: 10,
            hidden_size: 8,
            intermediate_size: 16,
            num_hidden_layers: 2,
            num_attention_heads: 2,
            max_position_embeddings: 5,
            hidden_act: Activation::Gelu,
            layer_norm_eps: 1e-5,
            eos_token_id: end,
        }
        .init(&Device::flex())
    }

    #[test]
    fn wrong_tokens_are_errors() {
        let network = network(Some(9));
        for (tokens, skip, message) in [
            (
                vec![vec![1, 10]],
                0,
                "token 10 is none of the text encoder's 10",
            ),
            (
                vec![vec![1; 6]],
                0,
                "a text has 6 tokens; the text encoder takes 5",
            ),
            (
                vec![vec![1, 2], vec![1]],
                0,
                "text 1 has 1 tokens where 2 are needed",
            ),
            (vec![vec![]], 0, "text 0 has 0 tokens where 1 are needed"),
            (vec![vec![1]], 3, "cannot leave out the last 3 of 2 layers"),
        ] {
            let error = network.encode(&tokens, skip).expect_err("is wrong");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn a_text_as_a_whole_is_its_first_end() {
        let encoded = Tensor::<3>::from_data([[[0.0], [1.0], [2.0], [3.0]]], &Device::flex());
        let at = |network: &ClipText, tokens: [u32; 4]| -> f32 {
            let pooled = network.pooled(&encoded, &[tokens.to_vec()]);
            pooled.into_scalar()
        };
        let (known, largest) = (network(Some(7)), network(None));
        assert!((at(&known, [1, 7, 9, 7]) - 1.0).abs() < f32::EPSILON);
        assert!((at(&largest, [1, 7, 9, 9]) - 2.0).abs() < f32::EPSILON);
    }

    #[test]
    fn later_tokens_change_nothing_before_them() {
        let network = network(Some(9));
        let encode = |last| -> Vec<f32> {
            let tokens = [vec![8, 3, 4, last]];
            let encoded = network.encode(&tokens, 0).expect("known tokens");
            encoded.into_data().try_to_vec().expect("f32")
        };
        let (a, b) = (encode(1), encode(2));
        assert_eq!(a[..24], b[..24]);
        assert_ne!(a[24..], b[24..]);
    }

    #[test]
    fn packed_it_is_the_same_encoder() {
        let plain = network(Some(9));
        let tokens = [vec![8, 3, 4, 1], vec![8, 2, 9, 9]];
        let expected = plain.encode(&tokens, 0).expect("known tokens");
        // Of outputs of order one, through two layers; bf16 rounds each weight to 2⁻⁸.
        for (precision, tolerance) in [(Precision::F32, 2e-5), (Precision::Bf16, 5e-2)] {
            let mut packed = plain.clone();
            assert_eq!(packed.pack(precision).layers, 2 * 8 + 1);
            let encoded = packed.encode(&tokens, 0).expect("known tokens");
            let difference: f32 = (encoded - expected.clone()).abs().max().into_scalar();
            assert!(difference < tolerance, "{precision}: {difference:e}");
        }
    }
}
