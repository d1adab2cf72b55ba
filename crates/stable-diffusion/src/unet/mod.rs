//! The U-Net that predicts the noise of latents, and the ControlNet that steers it.

mod block;
mod config;
mod controlnet;
mod transformer;

pub use config::{ControlNetConfig, EncoderConfig, Mid, UnetConfig};
pub use controlnet::{ControlNet, Controlled, ControlledCondition, ControlledPrepared};

use std::collections::BTreeMap;
use std::ops::Add;
use std::sync::Arc;

use burn::module::{Module, Param};
use burn::nn::Initializer;
use burn::prelude::*;
use clearway_diffusion::{Network, Point, Stack};
use clearway_layers::activation::silu;
use clearway_layers::{
    Activation, Calibration, CalibrationError, Conv2d, Conv2dConfig, Epilogue, GroupNorm,
    GroupNormConfig, Linear, LinearConfig, Order, PackPolicy, PackReport, Packing, Prologue,
    RoundedWeight, SinusoidalEmbedding, Weights, WeightsError, WeightsWriter, count_parameters,
    in_pool,
};

use crate::attention::Keys;
use block::{DownBlock, MidBlock, UpBlock};
use controlnet::Shapes;
use transformer::Transformer;

/// The longest period of the embedded time and guidance scale, over 2π.
const MAX_PERIOD: f64 = 10_000.0;

/// What a guidance scale is multiplied by before it is embedded, so that it looks like a time.
const GUIDANCE_TIMES: f64 = 1000.0;

/// How a class's vector is drawn, as PyTorch's embeddings are.
const NORMAL: Initializer = Initializer::Normal {
    mean: 0.0,
    std: 1.0,
};

/// What stays in f32 where weights become codes: what reads the latents and what writes them, whose errors nothing evens out,
/// what makes of time what every block adds, and what reads the text once for all steps.
const KEEP: [&str; 6] = [
    "encoder.conv_in",
    "conv_out",
    "encoder.time_embedding.*",
    "*.time_emb_proj",
    "*.attn2.to_k",
    "*.attn2.to_v",
];

/// What is called with the name of a module, as diffusers has it, and what the module computed.
pub type Observe<'a> = dyn FnMut(&str, &Tensor<4>) + 'a;

/// A U-Net over latents, which reads a text by cross attention, or is told a class: diffusers' `UNet2DConditionModel`.
///
/// ```text
/// time   = W₂ silu(W₁ (sinusoidal(t) + W_g sinusoidal(1000 (scale − 1)))) + c    W_g where distilled, c where told a class
/// x      = conv_in(cat(x, channels))
/// down   : (residual block, transformer) × layers, halve                        each output is kept
/// middle : residual block, transformer, residual block
/// up     : (residual block on cat(x, kept), transformer) × (layers + 1), double
/// y      = conv_out(silu(norm(x)))
/// ```
///
/// "High-Resolution Image Synthesis with Latent Diffusion Models", Rombach et al., 2022, arXiv:2112.10752; the scale as
/// an input: "On Distillation of Guided Diffusion Models", Meng et al., 2023, arXiv:2210.03142.
#[derive(Module, Debug)]
pub struct Unet {
    encoder: Encoder,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

/// The way down and the middle.
#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    time_embedding: TimeEmbedding,
    class_embedding: Option<ClassEmbedding>,
    down_blocks: Vec<DownBlock>,
    mid_block: Option<MidBlock>,
    #[module(skip)]
    sinusoidal: SinusoidalEmbedding,
    /// The shapes that the parameters had before they were packed.
    #[module(skip)]
    shapes: Option<Arc<BTreeMap<String, Vec<usize>>>>,
}

#[derive(Module, Debug)]
struct TimeEmbedding {
    linear_1: Linear,
    linear_2: Linear,
    cond_proj: Option<Linear>,
}

/// A vector for each class: `[num_class_embeds, features]`.
#[derive(Module, Debug)]
struct ClassEmbedding {
    weight: Param<Tensor<2>>,
}

/// What a [`Unet`] is conditioned on.
#[derive(Clone, Debug, Default)]
pub struct Condition {
    /// The encoded prompts, for networks that read any: `[batch, tokens, cross_attention_dim]`.
    pub text: Option<Tensor<3>>,
    /// The number of the class of each sample, for networks that are told one.
    pub classes: Option<Vec<usize>>,
    /// What is laid beside the sample's own channels, for networks that inpaint: the mask, one where there is to be
    /// something new, and the latents of the picture without it. `[batch, in_channels - sample's, height, width]`.
    pub channels: Option<Tensor<4>>,
    /// The guidance scales, for networks that were distilled to know them: one for all samples, or one a sample. None
    /// leaves the network without.
    pub guidance: Option<Vec<f64>>,
}

impl Condition {
    /// A prompt and nothing else.
    pub fn text(text: Tensor<3>) -> Self {
        Self {
            text: Some(text),
            ..Self::default()
        }
    }

    /// A class for each sample and nothing else.
    pub fn classes(classes: Vec<usize>) -> Self {
        Self {
            classes: Some(classes),
            ..Self::default()
        }
    }

    /// How many samples there are; one, where nothing says it.
    fn batch(&self) -> usize {
        let text = self.text.as_ref().map(|text| text.dims()[0]);
        text.or(self.classes.as_ref().map(Vec::len)).unwrap_or(1)
    }
}

impl Stack for Condition {
    /// # Panics
    ///
    /// If some parts have a text, classes, channels or guidance scales and others have none.
    fn stack(parts: &[&Self]) -> Self {
        let texts: Vec<_> = parts.iter().filter_map(|p| p.text.clone()).collect();
        let classes: Vec<_> = parts.iter().filter_map(|p| p.classes.clone()).collect();
        let channels: Vec<_> = parts.iter().filter_map(|p| p.channels.clone()).collect();
        // One scale for all samples of a part is one a sample of the whole.
        let guidance: Vec<_> = (parts.iter())
            .filter_map(|part| {
                let scales = part.guidance.as_ref()?;
                Some(match scales[..] {
                    [scale] => vec![scale; part.batch()],
                    _ => scales.clone(),
                })
            })
            .collect();
        for given in [texts.len(), classes.len(), channels.len(), guidance.len()] {
            assert!(
                given == 0 || given == parts.len(),
                "{given} of {} conditions have a text, classes, channels or guidance scales",
                parts.len()
            );
        }
        Self {
            text: (!texts.is_empty()).then(|| Tensor::cat(texts, 0)),
            classes: (!classes.is_empty()).then(|| classes.concat()),
            channels: (!channels.is_empty()).then(|| Tensor::cat(channels, 0)),
            guidance: (!guidance.is_empty()).then(|| guidance.concat()),
        }
    }
}

/// What a [`Unet`] computes from the condition alone: what every transformer reads of the text, and the guidance scale's
/// and the class's shares of the embedded time.
#[derive(Clone, Debug)]
pub struct Prepared {
    keys: Vec<Keys>,
    guidance: Option<Tensor<2>>,
    classes: Option<Tensor<2>>,
    channels: Option<Tensor<4>>,
}

/// What a [`ControlNet`] adds to a [`Unet`]'s way down and middle.
#[derive(Clone, Debug)]
pub struct Residuals {
    down: Vec<Tensor<4>>,
    mid: Tensor<4>,
}

impl Residuals {
    /// Those of a network that is obeyed more or less.
    #[must_use]
    pub fn scale(self, scale: f64) -> Self {
        let by = |x: Tensor<4>| x.mul_scalar(scale);
        Self {
            down: self.down.into_iter().map(by).collect(),
            mid: by(self.mid),
        }
    }

    /// What is added to each kept output of the way down, in order.
    pub fn down(&self) -> &[Tensor<4>] {
        &self.down
    }

    /// What is added behind the middle.
    pub fn mid(&self) -> &Tensor<4> {
        &self.mid
    }
}

impl Add for Residuals {
    type Output = Self;

    /// Those of two networks together.
    ///
    /// # Panics
    ///
    /// If the networks are of different shapes.
    fn add(self, other: Self) -> Self {
        assert_eq!(
            self.down.len(),
            other.down.len(),
            "the networks have different numbers of layers"
        );
        let down = self.down.into_iter().zip(other.down);
        Self {
            down: down.map(|(a, b)| a + b).collect(),
            mid: self.mid + other.mid,
        }
    }
}

impl EncoderConfig {
    fn init(&self, device: &Device) -> Encoder {
        let first = self.block_out_channels[0];
        let features = self.time_features();
        let linear = |d_input, d_output, bias| {
            LinearConfig {
                d_input,
                d_output,
                bias,
            }
            .init(device)
        };
        Encoder {
            conv_in: Conv2dConfig::same(self.in_channels, first, 3).init(device),
            time_embedding: TimeEmbedding {
                linear_1: linear(first, features, true),
                linear_2: linear(features, features, true),
                cond_proj: (self.time_cond_proj_dim).map(|dim| linear(dim, first, false)),
            },
            class_embedding: self.num_class_embeds.map(|classes| ClassEmbedding {
                weight: NORMAL.init([classes, features], device),
            }),
            down_blocks: (0..self.stages())
                .map(|stage| self.down_block(stage, device))
                .collect(),
            mid_block: match self.mid {
                Mid::CrossAttention => Some(self.mid_block(1, device)),
                Mid::Plain => Some(self.mid_block(0, device)),
                Mid::None => None,
            },
            shapes: None,
            sinusoidal: SinusoidalEmbedding {
                dim: first,
                order: if self.flip_sin_to_cos {
                    Order::CosSin
                } else {
                    Order::SinCos
                },
                frequency_shift: self.freq_shift,
                max_period: MAX_PERIOD,
            },
        }
    }

    /// The channels of each output of the way down that is kept, in order.
    fn skips(&self) -> Vec<usize> {
        let mut skips = vec![self.block_out_channels[0]];
        for (stage, &channels) in self.block_out_channels.iter().enumerate() {
            let halved = usize::from(stage + 1 < self.stages());
            skips.extend(vec![channels; self.layers_per_block[stage] + halved]);
        }
        skips
    }
}

impl UnetConfig {
    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If sizes do not go together; those that [`read`](Self::read) returns do.
    pub fn init(&self, device: &Device) -> Unet {
        let mut skips = self.encoder.skips();
        let first = self.encoder.block_out_channels[0];
        Unet {
            encoder: self.encoder.init(device),
            up_blocks: (0..self.encoder.stages())
                .rev()
                .map(|stage| {
                    let attends = self.up_attention[stage];
                    self.encoder.up_block(stage, attends, &mut skips, device)
                })
                .collect(),
            conv_norm_out: GroupNormConfig {
                n_groups: self.encoder.norm_num_groups,
                channels: first,
                epsilon: self.encoder.norm_eps,
            }
            .init(device),
            conv_out: Conv2dConfig::same(first, self.out_channels, 3).init(device),
        }
    }
}

impl Unet {
    /// Fills the network with weights under diffusers' names, and makes sure that none is left over.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load(self, mut weights: Weights) -> Result<Self, WeightsError> {
        let network = load(self, &mut weights)?;
        weights.finish()?;
        Ok(network)
    }

    /// Adds the weights to a file, under the names that [`load`](Self::load) reads. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter) {
        writer.module(self, diffusers_key);
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// Lays the weights out for the CPU's kernels. The network then computes on the CPU alone and has no gradient.
    ///
    /// Where weights become codes, the first and the last convolution and what encodes time stay in f32, if the policy names no
    /// layers. Where those of queries and keys do, attention multiplies codes as well
    /// ([`attend_in_codes`](clearway_layers::attend_in_codes)).
    ///
    /// A packed network can be packed again, with another precision; what was rounded stays rounded.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let to = Packing::new(&policy, &KEEP);
        self.encoder.pack(&to.at("encoder"))
            + to.each("up_blocks", &mut self.up_blocks, UpBlock::pack)
            + self.conv_norm_out.pack()
            + self.conv_out.pack(to.of("conv_out"))
    }

    /// Makes codes of weights for what the layers read in a calibration; [packing](Self::pack) by the same policy then lays them
    /// out.
    ///
    /// # Errors
    ///
    /// As [`Calibration::round`].
    pub fn round(
        self,
        calibration: &Calibration,
        policy: &PackPolicy,
    ) -> Result<(Self, Vec<RoundedWeight>), CalibrationError> {
        calibration.round(self, &Packing::new(policy, &KEEP))
    }

    /// How many classes the network can be told.
    pub fn classes(&self) -> usize {
        let classes = self.encoder.class_embedding.as_ref();
        classes.map_or(0, |it| it.weight.dims()[0])
    }

    /// Whether the network was distilled to know the guidance scale.
    pub fn knows_guidance(&self) -> bool {
        self.encoder.time_embedding.cond_proj.is_some()
    }

    /// The embedded time.
    ///
    /// # Shapes
    ///
    /// - returns: `[points, 4 · block_out_channels[0]]`
    pub fn embed(&self, points: &[Point], prepared: &Prepared) -> Tensor<2> {
        let device = self.conv_out.weight.device();
        self.encoder.embed(points, prepared, &device)
    }

    /// One pass, with what ControlNets add to it, where packed layers share their work out.
    fn pass(
        &self,
        x: Tensor<4>,
        points: &[Point],
        prepared: &Prepared,
        residuals: Option<Residuals>,
    ) -> Tensor<4> {
        let pass = || self.forward_observed(x, points, prepared, residuals, &mut |_, _| {});
        if self.conv_out.is_packed() {
            in_pool(pass)
        } else {
            pass()
        }
    }

    /// One pass, with what ControlNets add to it; `observe` is shown what the modules compute.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, in_channels less the condition's, height, width]`
    /// - points: one, or one a sample; `t` is the timestep
    /// - returns: `[batch, out_channels, height, width]`
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn forward_observed(
        &self,
        x: Tensor<4>,
        points: &[Point],
        prepared: &Prepared,
        residuals: Option<Residuals>,
        observe: &mut Observe<'_>,
    ) -> Tensor<4> {
        let (time, x) = self.encoder.begin(x, points, prepared);
        observe("conv_in", &x);
        let mut keys = prepared.keys.iter();
        let (mut x, mut skips) = self.encoder.down(x, &time, &mut keys, observe);
        if let Some(block) = &self.encoder.mid_block {
            x = block.forward(x, &time, &mut keys);
            observe("mid_block", &x);
        }
        if let Some(residuals) = residuals {
            assert_eq!(
                residuals.down.len(),
                skips.len(),
                "the ControlNet has another number of layers than the U-Net"
            );
            let sums = skips.into_iter().zip(residuals.down);
            skips = sums.map(|(skip, residual)| skip + residual).collect();
            x = x + residuals.mid;
        }
        for (i, block) in self.up_blocks.iter().enumerate() {
            let name = format!("up_blocks.{i}");
            x = block.forward(x, &time, &mut keys, &mut skips, &mut |inner, x| {
                observe(&format!("{name}.{inner}"), x);
            });
            observe(&name, &x);
        }
        x = self.conv_norm_out.forward(x);
        observe("conv_norm_out", &x);
        let silu = Prologue {
            activation: Activation::Silu,
            ..Prologue::default()
        };
        self.conv_out.forward_between(silu, x, Epilogue::default())
    }
}

impl Network<4> for Unet {
    type Condition = Condition;
    type Prepared = Prepared;

    /// Computes what every transformer reads of the text, and embeds the guidance scale and the classes.
    ///
    /// # Panics
    ///
    /// If there is a guidance scale, and the network was not distilled to know it; or if the network reads a text or is told
    /// classes, and there are none, or there is no such class.
    fn prepare(&self, condition: &Condition) -> Prepared {
        let up = self.up_blocks.iter().flat_map(UpBlock::transformers);
        self.encoder.prepare(condition, up)
    }

    /// One pass; a point's `t` is the timestep.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, in_channels less the condition's, height, width]`, of any height and width
    /// - points: one, or one a sample
    /// - returns: `[batch, out_channels, height, width]`
    fn forward(&self, x: Tensor<4>, points: &[Point], prepared: &Prepared) -> Tensor<4> {
        self.pass(x, points, prepared, None)
    }
}

impl Encoder {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        self.shapes = Some(Shapes::of(self));
        let TimeEmbedding {
            linear_1,
            linear_2,
            cond_proj,
        } = &mut self.time_embedding;
        let time = to.at("time_embedding");
        let guidance = cond_proj.as_mut().map(|it| it.pack(time.of("cond_proj")));
        let mid = self.mid_block.as_mut();
        let mid = mid.map(|it| it.pack(&to.at("mid_block")));
        self.conv_in.pack(to.of("conv_in"))
            + linear_1.pack(time.of("linear_1"))
            + linear_2.pack(time.of("linear_2"))
            + guidance.unwrap_or_default()
            + to.each("down_blocks", &mut self.down_blocks, DownBlock::pack)
            + mid.unwrap_or_default()
    }

    fn prepare<'a>(
        &'a self,
        condition: &Condition,
        more: impl Iterator<Item = &'a Transformer>,
    ) -> Prepared {
        let device = self.conv_in.weight.device();
        let down = self.down_blocks.iter().flat_map(DownBlock::transformers);
        let mid = self.mid_block.iter().flat_map(MidBlock::transformers);
        let keys = down.chain(mid).chain(more);
        let guidance = condition.guidance.as_ref().map(|scales| {
            let project = (self.time_embedding.cond_proj.as_ref())
                .expect("the network was not distilled to know a guidance scale");
            let [_, dim] = project.weight.dims();
            let embedding = SinusoidalEmbedding {
                dim,
                order: Order::SinCos,
                frequency_shift: 1,
                max_period: MAX_PERIOD,
            };
            let times: Vec<_> = (scales.iter())
                .map(|scale| (scale - 1.0) * GUIDANCE_TIMES)
                .collect();
            project.forward(embedding.forward(&times, &device))
        });
        let classes = self.class_embedding.as_ref().map(|embedding| {
            let classes = condition.classes.as_ref();
            let classes = classes.expect("the network is to be told a class");
            let [count, _] = embedding.weight.dims();
            let number = |&class: &usize| {
                assert!(class < count, "class {class} of {count}");
                i32::try_from(class).expect("an embedding of fewer rows")
            };
            let numbers: Vec<i32> = classes.iter().map(number).collect();
            let numbers = TensorData::new(numbers, [classes.len()]);
            let numbers = Tensor::<1, Int>::from_data(numbers, &device);
            embedding.weight.val().select(0, numbers)
        });
        let text = condition.text.as_ref();
        Prepared {
            keys: keys
                .flat_map(|transformer| {
                    transformer.keys(text.expect("the network is to read a text"))
                })
                .collect(),
            guidance,
            classes,
            channels: condition.channels.clone(),
        }
    }

    /// The embedded time: `[points or batch, features]`.
    fn embed(&self, points: &[Point], prepared: &Prepared, device: &Device) -> Tensor<2> {
        let times: Vec<f64> = points.iter().map(|point| point.t).collect();
        let mut time = self.sinusoidal.forward(&times, device);
        if let Some(guidance) = &prepared.guidance {
            time = time + guidance.clone();
        }
        let layers = &self.time_embedding;
        let time = layers.linear_2.forward(silu(layers.linear_1.forward(time)));
        match &prepared.classes {
            Some(classes) => time + classes.clone(),
            None => time,
        }
    }

    /// `silu` of the embedded time, and the first convolution's output.
    fn begin(&self, x: Tensor<4>, points: &[Point], prepared: &Prepared) -> (Tensor<2>, Tensor<4>) {
        let [batch, ..] = x.dims();
        assert!(
            points.len() == 1 || points.len() == batch,
            "{} points for {batch} samples",
            points.len()
        );
        let time = silu(self.embed(points, prepared, &x.device()));
        let x = match &prepared.channels {
            Some(channels) => Tensor::cat(vec![x, channels.clone()], 1),
            None => x,
        };
        (time, self.conv_in.forward(x))
    }

    /// Returns the last stage's output, and all that is kept.
    fn down<'a>(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        keys: &mut impl Iterator<Item = &'a Keys>,
        observe: &mut Observe<'_>,
    ) -> (Tensor<4>, Vec<Tensor<4>>) {
        let mut skips = vec![x.clone()];
        for (i, block) in self.down_blocks.iter().enumerate() {
            let name = format!("down_blocks.{i}");
            x = block.forward(x, time, keys, &mut skips, &mut |inner, x| {
                observe(&format!("{name}.{inner}"), x);
            });
            observe(&name, &x);
        }
        (x, skips)
    }
}

/// Fills a network, whichever way its file has the transformers' projections.
fn load<M: Module>(network: M, weights: &mut Weights) -> Result<M, WeightsError> {
    crate::weights::without_taps(weights, |key| {
        key.ends_with(".proj_in.weight") || key.ends_with(".proj_out.weight")
    })?;
    weights.load(network, diffusers_key)
}

/// diffusers' key of the parameter at a path of ours.
fn diffusers_key(path: &str) -> String {
    let names = path.split('.').filter_map(|name| match name {
        "encoder" => None,
        "to_out" => Some("to_out.0"),
        "layers" => Some("transformer_blocks"),
        "expand" => Some("net.0.proj"),
        "contract" => Some("net.2"),
        "downsampler" => Some("downsamplers.0.conv"),
        "upsampler" => Some("upsamplers.0.conv"),
        other => Some(other),
    });
    names.collect::<Vec<_>>().join(".")
}
