//! The autoencoder of latent diffusion.

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::ops::PadMode;
use clearway_layers::{
    Conv2d, Conv2dConfig, Epilogue, GroupNorm, GroupNormConfig, PackPolicy, PackReport, Packing,
    Prologue, Weights, WeightsError, WeightsWriter, count_parameters, in_pool,
};
use serde_json::json;

use super::Scaling;
use crate::LoadError;
use crate::attention::{Attention, AttentionConfig};
use crate::bands::{double_and_convolve, normalize_and_convolve};
use crate::config::{Config, MAX_DEPTH, MAX_SIZE};
use crate::resnet::{ResnetBlock, ResnetBlockConfig, normalized};

/// Of all norms of the autoencoder, where the U-Net's have 1e-5.
const EPSILON: f64 = 1e-6;

/// Logarithms of variances beyond this are cut off.
const LOG_VARIANCE: (f64, f64) = (-30.0, 20.0);

/// What stays in f32 where weights become codes: what reads and writes pictures and latents.
const KEEP: [&str; 4] = ["*.conv_in", "*.conv_out", "quant_conv", "post_quant_conv"];

/// What an autoencoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderKlConfig {
    /// The channels of a picture that is encoded.
    pub in_channels: usize,
    /// The channels of a picture that is decoded.
    pub out_channels: usize,
    /// The channels of each stage, from the finest.
    pub block_out_channels: Vec<usize>,
    /// The residual blocks of each stage of the encoder; the decoder has one more.
    pub layers_per_block: usize,
    /// The channels of the latents.
    pub latent_channels: usize,
    /// The groups of the normalization.
    pub norm_num_groups: usize,
    /// Whether there is attention in the middle.
    pub mid_block_add_attention: bool,
    /// Whether there is a convolution of one tap behind the encoder.
    pub use_quant_conv: bool,
    /// Whether there is one before the decoder.
    pub use_post_quant_conv: bool,
    /// What latents are multiplied by for the U-Net.
    pub scaling_factor: f64,
    /// What is taken from latents before.
    pub shift_factor: f64,
}

/// A convolutional autoencoder whose encoder says a mean and a variance: diffusers' `AutoencoderKL`.
///
/// ```text
/// encode : conv_in;  (residual block) × layers, halve;  middle;  conv_out(silu(norm));  quant_conv
/// decode : post_quant_conv;  conv_in;  middle;  (residual block) × (layers + 1), double;  conv_out(silu(norm))
/// middle : residual block, attention over all pixels with one head, residual block
/// ```
///
/// "High-Resolution Image Synthesis with Latent Diffusion Models", Rombach et al., 2022, arXiv:2112.10752.
#[derive(Module, Debug)]
pub struct AutoencoderKl {
    encoder: Encoder,
    decoder: Decoder,
    quant_conv: Option<Conv2d>,
    post_quant_conv: Option<Conv2d>,
    #[module(skip)]
    scaling: Scaling,
}

/// The normal distribution over latents that the encoder says, not scaled for the U-Net.
#[derive(Clone, Debug)]
pub struct Moments {
    /// The mean: `[batch, latent_channels, height, width]`.
    pub mean: Tensor<4>,
    /// The logarithm of the variance of each number.
    pub log_variance: Tensor<4>,
}

impl Moments {
    /// The standard deviation of each number.
    pub fn deviation(&self) -> Tensor<4> {
        let (least, most) = LOG_VARIANCE;
        let log_variance = self.log_variance.clone().clamp(least, most);
        log_variance.mul_scalar(0.5).exp()
    }
}

#[derive(Module, Debug)]
struct Encoder {
    conv_in: Conv2d,
    down_blocks: Vec<DownBlock>,
    mid_block: MidBlock,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    mid_block: MidBlock,
    up_blocks: Vec<UpBlock>,
    conv_norm_out: GroupNorm,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct DownBlock {
    resnets: Vec<ResnetBlock>,
    downsampler: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct UpBlock {
    resnets: Vec<ResnetBlock>,
    upsampler: Option<Conv2d>,
}

#[derive(Module, Debug)]
struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<PixelAttention>,
}

/// `y = x + attention(norm(x))`, every pixel a token.
#[derive(Module, Debug)]
struct PixelAttention {
    group_norm: GroupNorm,
    attention: Attention,
}

impl AutoencoderKlConfig {
    /// Reads what diffusers calls an `AutoencoderKL`. Entries that are not known are passed over.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        let size = 1..=MAX_SIZE;
        root.unsupported(&[
            ("act_fn", &[json!("silu"), json!("swish")]),
            ("down_block_types", &[json!("DownEncoderBlock2D")]),
            ("up_block_types", &[json!("UpDecoderBlock2D")]),
            ("latents_mean", &[]),
            ("latents_std", &[]),
        ])?;
        let channels = root.integers_or("block_out_channels", &[64], &size)?;
        for name in ["down_block_types", "up_block_types"] {
            if let Some(entry) = root.find(name)?
                && entry.list()?.len() != channels.len()
            {
                return Err(entry.wrong(format!(
                    "a list of {}, as `block_out_channels`",
                    channels.len()
                )));
            }
        }
        let norm_num_groups = root.integer_or("norm_num_groups", 32, size.clone())?;
        if channels.iter().any(|c| !c.is_multiple_of(norm_num_groups)) {
            return Err(root.get("block_out_channels")?.wrong(format!(
                "a list of multiples of the {norm_num_groups} groups"
            )));
        }
        Ok(Self {
            in_channels: root.integer_or("in_channels", 3, size.clone())?,
            out_channels: root.integer_or("out_channels", 3, size.clone())?,
            block_out_channels: channels,
            layers_per_block: root.integer_or("layers_per_block", 1, 1..=MAX_DEPTH)?,
            latent_channels: root.integer_or("latent_channels", 4, size)?,
            norm_num_groups,
            mid_block_add_attention: root.boolean_or("mid_block_add_attention", true)?,
            use_quant_conv: root.boolean_or("use_quant_conv", true)?,
            use_post_quant_conv: root.boolean_or("use_post_quant_conv", true)?,
            scaling_factor: root.number_or(
                "scaling_factor",
                0.18215,
                |v| v > 0.0,
                "a positive number",
            )?,
            shift_factor: root.number_or("shift_factor", 0.0, |_| true, "a number")?,
        })
    }

    fn resnet(&self, channels_in: usize, channels: usize, device: &Device) -> ResnetBlock {
        ResnetBlockConfig {
            channels_in,
            channels,
            time: None,
            n_groups: self.norm_num_groups,
            epsilon: EPSILON,
        }
        .init(device)
    }

    fn resnets(
        &self,
        layers: usize,
        before: usize,
        channels: usize,
        device: &Device,
    ) -> Vec<ResnetBlock> {
        (0..layers)
            .map(|layer| {
                let channels_in = if layer == 0 { before } else { channels };
                self.resnet(channels_in, channels, device)
            })
            .collect()
    }

    fn norm(&self, channels: usize, device: &Device) -> GroupNorm {
        GroupNormConfig {
            n_groups: self.norm_num_groups,
            channels,
            epsilon: EPSILON,
        }
        .init(device)
    }

    fn mid_block(&self, device: &Device) -> MidBlock {
        let channels = self.block_out_channels[self.block_out_channels.len() - 1];
        MidBlock {
            resnets: self.resnets(2, channels, channels, device),
            attentions: (0..usize::from(self.mid_block_add_attention))
                .map(|_| PixelAttention {
                    group_norm: self.norm(channels, device),
                    attention: AttentionConfig {
                        features: channels,
                        context: channels,
                        heads: 1,
                        bias: true,
                    }
                    .init(device),
                })
                .collect(),
        }
    }

    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If sizes do not go together; those that [`read`](Self::read) returns do.
    pub fn init(&self, device: &Device) -> AutoencoderKl {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let latent = self.latent_channels;
        let conv = |channels_in, channels_out| Conv2dConfig::same(channels_in, channels_out, 3);
        let tap = |channels| Conv2dConfig::same(channels, channels, 1).init(device);
        let down = |stage: usize| DownBlock {
            resnets: self.resnets(
                self.layers_per_block,
                channels[stage.saturating_sub(1)],
                channels[stage],
                device,
            ),
            downsampler: (stage < last).then(|| {
                Conv2dConfig {
                    padding: [0; 2],
                    ..conv(channels[stage], channels[stage])
                }
                .with_stride(2)
                .init(device)
            }),
        };
        let up = |stage: usize| UpBlock {
            resnets: self.resnets(
                self.layers_per_block + 1,
                channels[(stage + 1).min(last)],
                channels[stage],
                device,
            ),
            upsampler: (stage > 0).then(|| conv(channels[stage], channels[stage]).init(device)),
        };
        AutoencoderKl {
            encoder: Encoder {
                conv_in: conv(self.in_channels, channels[0]).init(device),
                down_blocks: (0..=last).map(down).collect(),
                mid_block: self.mid_block(device),
                conv_norm_out: self.norm(channels[last], device),
                conv_out: conv(channels[last], 2 * latent).init(device),
            },
            decoder: Decoder {
                conv_in: conv(latent, channels[last]).init(device),
                mid_block: self.mid_block(device),
                up_blocks: (0..=last).rev().map(up).collect(),
                conv_norm_out: self.norm(channels[0], device),
                conv_out: conv(channels[0], self.out_channels).init(device),
            },
            quant_conv: self.use_quant_conv.then(|| tap(2 * latent)),
            post_quant_conv: self.use_post_quant_conv.then(|| tap(latent)),
            scaling: Scaling {
                factor: self.scaling_factor,
                shift: self.shift_factor,
            },
        }
    }
}

impl AutoencoderKl {
    /// Fills the network with weights under diffusers' names, of today or of before 2023, and makes sure that none is
    /// left over.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load(self, weights: Weights) -> Result<Self, WeightsError> {
        let mut weights = weights.rename(today)?;
        crate::weights::without_taps(&mut weights, |key| key.contains(".attentions."))?;
        let network = weights.load(self, diffusers_key)?;
        weights.finish()?;
        Ok(network)
    }

    /// Adds the weights to a file, under the names that [`load`](Self::load) reads. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter) {
        writer.module(self, diffusers_key);
    }

    /// Lays the weights out for the CPU's kernels. The network then computes on the CPU alone and has no gradient.
    ///
    /// Where weights become codes, the first and the last convolutions of the encoder and the decoder, and what is between the
    /// latents and these, stay in f32, if the policy names no layers.
    ///
    /// A packed network can be packed again, with another precision; what was rounded stays rounded.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let to = Packing::new(&policy, &KEEP);
        let encoder = to.at("encoder");
        let decoder = to.at("decoder");
        let Encoder {
            conv_in,
            down_blocks,
            mid_block,
            conv_norm_out,
            conv_out,
        } = &mut self.encoder;
        let mut report = conv_in.pack(encoder.of("conv_in"))
            + encoder.each("down_blocks", down_blocks, |block, to| {
                let downsampler = block.downsampler.as_mut();
                let downsampler = downsampler.map(|it| it.pack(to.of("downsampler")));
                to.each("resnets", &mut block.resnets, ResnetBlock::pack)
                    + downsampler.unwrap_or_default()
            })
            + mid_block.pack(&encoder.at("mid_block"))
            + conv_norm_out.pack()
            + conv_out.pack(encoder.of("conv_out"));
        let Decoder {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
        } = &mut self.decoder;
        report = report
            + conv_in.pack(decoder.of("conv_in"))
            + mid_block.pack(&decoder.at("mid_block"))
            + decoder.each("up_blocks", up_blocks, |block, to| {
                let upsampler = block.upsampler.as_mut();
                let upsampler = upsampler.map(|it| it.pack(to.of("upsampler")));
                to.each("resnets", &mut block.resnets, ResnetBlock::pack)
                    + upsampler.unwrap_or_default()
            })
            + conv_norm_out.pack()
            + conv_out.pack(decoder.of("conv_out"));
        for (name, conv) in [
            ("quant_conv", &mut self.quant_conv),
            ("post_quant_conv", &mut self.post_quant_conv),
        ] {
            let conv = conv.as_mut().map(|it| it.pack(to.of(name)));
            report = report + conv.unwrap_or_default();
        }
        report
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// Computes where packed layers share their work out.
    fn in_pool<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        if self.decoder.conv_out.is_packed() {
            in_pool(f)
        } else {
            f()
        }
    }

    /// How many times smaller than the picture the latents are, in height and in width.
    pub fn factor(&self) -> usize {
        1 << (self.decoder.up_blocks.len() - 1)
    }

    /// The channels of a picture that is encoded, and of one that is decoded.
    pub fn picture_channels(&self) -> [usize; 2] {
        let [_, encoded, _, _] = self.encoder.conv_in.weight.dims();
        let [decoded, _, _, _] = self.decoder.conv_out.weight.dims();
        [encoded, decoded]
    }

    /// The channels of the latents.
    pub fn latent_channels(&self) -> usize {
        let [_, channels, _, _] = self.decoder.conv_in.weight.dims();
        channels
    }

    /// What latents are multiplied by for the U-Net.
    pub fn scaling_factor(&self) -> f64 {
        self.scaling.factor
    }

    /// The U-Net's latents of the encoder's: `(z - shift) · factor`.
    pub fn scaled(&self, z: Tensor<4>) -> Tensor<4> {
        self.scaling.apply(z)
    }

    /// The decoder's latents of the U-Net's: `latents / factor + shift`.
    pub fn unscaled(&self, latents: Tensor<4>) -> Tensor<4> {
        self.scaling.undo(latents)
    }

    /// The distribution over latents of a picture, not scaled.
    ///
    /// # Shapes
    ///
    /// - picture: `[batch, in_channels, height, width]`, in -1 to 1
    /// - returns: `[batch, latent_channels, height / factor, width / factor]`
    ///
    /// # Panics
    ///
    /// If the picture has another number of channels.
    pub fn encode(&self, picture: Tensor<4>) -> Moments {
        self.in_pool(|| self.encode_here(picture))
    }

    fn encode_here(&self, picture: Tensor<4>) -> Moments {
        let Encoder {
            conv_in,
            down_blocks,
            mid_block,
            conv_norm_out,
            conv_out,
        } = &self.encoder;
        let mut x = conv_in.forward(picture);
        for block in down_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, None);
            }
            if let Some(downsampler) = &block.downsampler {
                // Zeros below and to the right alone: the encoder was trained so.
                let padding = [(0, 0), (0, 0), (0, 1), (0, 1)];
                x = downsampler.forward(x.pad(padding, PadMode::Constant(0.0)));
            }
        }
        x = mid_block.forward(x);
        x = conv_out.forward_between(normalized(conv_norm_out), x, Epilogue::default());
        if let Some(conv) = &self.quant_conv {
            x = conv.forward(x);
        }
        let latent = x.dims()[1] / 2;
        Moments {
            mean: x.clone().narrow(1, 0, latent),
            log_variance: x.narrow(1, latent, latent),
        }
    }

    /// The picture of latents that are not scaled.
    ///
    /// # Shapes
    ///
    /// - z: `[batch, latent_channels, height, width]`
    /// - returns: `[batch, out_channels, factor · height, factor · width]`, in about -1 to 1
    ///
    /// # Panics
    ///
    /// If the latents have another number of channels.
    pub fn decode(&self, z: Tensor<4>) -> Tensor<4> {
        self.in_pool(|| self.decode_here(z))
    }

    fn decode_here(&self, z: Tensor<4>) -> Tensor<4> {
        let Decoder {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
        } = &self.decoder;
        let z = match &self.post_quant_conv {
            Some(conv) => conv.forward(z),
            None => z,
        };
        let mut x = mid_block.forward(conv_in.forward(z));
        for block in up_blocks {
            for resnet in &block.resnets {
                x = resnet.forward(x, None);
            }
            if let Some(upsampler) = &block.upsampler {
                let doubled = Prologue {
                    doubled: true,
                    ..Prologue::default()
                };
                x = upsampler.forward_between(doubled, x, Epilogue::default());
            }
        }
        conv_out.forward_between(normalized(conv_norm_out), x, Epilogue::default())
    }

    /// [`decode`](Self::decode), with no more laid out at a time beside a layer's input and output than `memory` bytes,
    /// as far as that can be: the way up is done in bands of rows.
    ///
    /// The result is that of the whole, up to the rounding of sums: there are no seams.
    ///
    /// # Shapes
    ///
    /// As [`decode`](Self::decode).
    ///
    /// # Panics
    ///
    /// If the latents have another number of channels.
    pub fn decode_within(&self, z: Tensor<4>, memory: usize) -> Tensor<4> {
        self.in_pool(|| self.decode_in_bands(z, memory))
    }

    fn decode_in_bands(&self, z: Tensor<4>, memory: usize) -> Tensor<4> {
        let Decoder {
            conv_in,
            mid_block,
            up_blocks,
            conv_norm_out,
            conv_out,
        } = &self.decoder;
        let z = match &self.post_quant_conv {
            Some(conv) => conv.forward(z),
            None => z,
        };
        // The middle is as small as the latents, and its attention reads all of them.
        let mut x = mid_block.forward(conv_in.forward(z));
        for block in up_blocks {
            for resnet in &block.resnets {
                let rows = rows_within(&x, 1, memory);
                x = resnet.forward_in_bands(x, rows);
            }
            if let Some(upsampler) = &block.upsampler {
                let rows = rows_within(&x, 2, memory);
                x = double_and_convolve(x, rows, upsampler);
            }
        }
        let rows = rows_within(&x, 1, memory);
        normalize_and_convolve(x, rows, conv_norm_out, conv_out, |band, _| band)
    }
}

/// The rows whose windows of three by three fit into some bytes; `factor` is how much wider than `x` they are.
fn rows_within(x: &Tensor<4>, factor: usize, memory: usize) -> usize {
    let [batch, channels, _, width] = x.dims();
    let row = batch * channels * 9 * factor * width * size_of::<f32>();
    (memory / row.max(1)).max(1)
}

impl MidBlock {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        to.each("resnets", &mut self.resnets, ResnetBlock::pack)
            + to.each("attentions", &mut self.attentions, |it, to| {
                it.group_norm.pack() + it.attention.pack(&to.at("attention"))
            })
    }

    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let (first, others) = self.resnets.split_first().expect("there are two");
        let mut x = first.forward(x, None);
        for attention in &self.attentions {
            x = attention.forward(x);
        }
        for resnet in others {
            x = resnet.forward(x, None);
        }
        x
    }
}

impl PixelAttention {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let normalized = self.group_norm.forward(x.clone());
        self.attention.forward_picture(normalized, x)
    }
}

/// The names of today for those that attention had in the published files.
fn today(key: &str) -> String {
    let mut key = key.to_owned();
    if key.contains(".attentions.") {
        for (before, now) in [
            (".query.", ".to_q."),
            (".key.", ".to_k."),
            (".value.", ".to_v."),
            (".proj_attn.", ".to_out.0."),
        ] {
            key = key.replace(before, now);
        }
    }
    key
}

/// diffusers' key of the parameter at a path of ours.
fn diffusers_key(path: &str) -> String {
    let names = path.split('.').filter_map(|name| match name {
        "attention" => None,
        "to_out" => Some("to_out.0"),
        "downsampler" => Some("downsamplers.0.conv"),
        "upsampler" => Some("upsamplers.0.conv"),
        other => Some(other),
    });
    names.collect::<Vec<_>>().join(".")
}
