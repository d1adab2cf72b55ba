//! The tiny autoencoder.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::activation::relu;
use clearway_layers::{
    Activation, Conv2d, Conv2dConfig, Epilogue, PackPolicy, PackReport, Packing, Prologue, Weights,
    WeightsError, WeightsWriter, count_parameters,
};
use serde_json::json;

use super::Scaling;
use crate::LoadError;
use crate::config::{Config, MAX_DEPTH, MAX_SIZE};

/// Latents are bent back into this range before they are decoded: `3 tanh(z / 3)`.
const MAGNITUDE: f64 = 3.0;

/// What a tiny autoencoder is made of.
#[derive(Clone, Debug, PartialEq)]
pub struct AutoencoderTinyConfig {
    /// The channels of a picture that is encoded.
    pub in_channels: usize,
    /// The channels of a picture that is decoded.
    pub out_channels: usize,
    /// The channels of the latents.
    pub latent_channels: usize,
    /// The channels of the encoder.
    pub encoder_channels: usize,
    /// The channels of the decoder.
    pub decoder_channels: usize,
    /// The blocks of each stage of the encoder; each stage but the first halves height and width.
    pub num_encoder_blocks: Vec<usize>,
    /// The blocks of each stage of the decoder; each stage but the last doubles height and width.
    pub num_decoder_blocks: Vec<usize>,
    /// What latents are multiplied by for the U-Net.
    pub scaling_factor: f64,
    /// What is taken from latents before.
    pub shift_factor: f64,
}

/// A small autoencoder that imitates a large one in a twentieth of its time: diffusers' `AutoencoderTiny`.
///
/// ```text
/// block(x) = relu(x + conv(relu(conv(relu(conv(x))))))
/// encode   : conv;  block × n;  (halve;  block × n) × 3;  conv
/// decode   : conv(3 tanh(z / 3));  relu;  (block × n;  double;  conv) × 3;  block × n;  conv
/// ```
///
/// Bohan, "Tiny AutoEncoder for Stable Diffusion", 2023, <https://github.com/madebyollin/taesd>.
#[derive(Module, Debug)]
pub struct AutoencoderTiny {
    encoder: Encoder,
    decoder: Decoder,
    #[module(skip)]
    scaling: Scaling,
}

#[derive(Module, Debug)]
struct Encoder {
    stages: Vec<Stage>,
    conv_out: Conv2d,
}

#[derive(Module, Debug)]
struct Decoder {
    conv_in: Conv2d,
    stages: Vec<Stage>,
}

/// In the encoder the convolution comes first, in the decoder last.
#[derive(Module, Debug)]
struct Stage {
    conv: Conv2d,
    blocks: Vec<Block>,
}

#[derive(Module, Debug)]
struct Block {
    conv1: Conv2d,
    conv2: Conv2d,
    conv3: Conv2d,
}

impl AutoencoderTinyConfig {
    /// Reads what diffusers calls an `AutoencoderTiny`. Entries that are not known are passed over.
    ///
    /// # Errors
    ///
    /// If an entry has a value that cannot be, or one that is not supported.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        let size = 1..=MAX_SIZE;
        root.unsupported(&[
            ("act_fn", &[json!("relu")]),
            ("upsample_fn", &[json!("nearest")]),
            ("upsampling_scaling_factor", &[json!(2)]),
        ])?;
        // The channels of all stages are the same number: the layers do not go together otherwise.
        let stages = |channels: &str, blocks: &str, default: &[usize]| {
            let blocks = root.integers_or(blocks, default, &(1..=MAX_DEPTH))?;
            let all = root.integers_or(channels, &vec![64; blocks.len()], &size)?;
            if all != vec![all[0]; blocks.len()] {
                return Err(root
                    .get(channels)?
                    .wrong(format!("a list of {} times the same number", blocks.len())));
            }
            Ok((all[0], blocks))
        };
        let (encoder_channels, num_encoder_blocks) = stages(
            "encoder_block_out_channels",
            "num_encoder_blocks",
            &[1, 3, 3, 3],
        )?;
        let (decoder_channels, num_decoder_blocks) = stages(
            "decoder_block_out_channels",
            "num_decoder_blocks",
            &[3, 3, 3, 1],
        )?;
        Ok(Self {
            in_channels: root.integer_or("in_channels", 3, size.clone())?,
            out_channels: root.integer_or("out_channels", 3, size.clone())?,
            latent_channels: root.integer_or("latent_channels", 4, size.clone())?,
            encoder_channels,
            decoder_channels,
            num_encoder_blocks,
            num_decoder_blocks,
            scaling_factor: root.number_or(
                "scaling_factor",
                1.0,
                |v| v > 0.0,
                "a positive number",
            )?,
            shift_factor: root.number_or("shift_factor", 0.0, |_| true, "a number")?,
        })
    }

    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn init(&self, device: &Device) -> AutoencoderTiny {
        let conv = |channels_in, channels_out| Conv2dConfig::same(channels_in, channels_out, 3);
        let blocks = |count: usize, channels| -> Vec<Block> {
            let block = |_| Block {
                conv1: conv(channels, channels).init(device),
                conv2: conv(channels, channels).init(device),
                conv3: conv(channels, channels).init(device),
            };
            (0..count).map(block).collect()
        };
        let (wide, narrow) = (self.encoder_channels, self.decoder_channels);
        let encode = |(stage, &count): (usize, &usize)| Stage {
            conv: if stage == 0 {
                conv(self.in_channels, wide)
            } else {
                conv(wide, wide).with_stride(2).without_bias()
            }
            .init(device),
            blocks: blocks(count, wide),
        };
        let last = self.num_decoder_blocks.len() - 1;
        let decode = |(stage, &count): (usize, &usize)| Stage {
            conv: if stage == last {
                conv(narrow, self.out_channels)
            } else {
                conv(narrow, narrow).without_bias()
            }
            .init(device),
            blocks: blocks(count, narrow),
        };
        AutoencoderTiny {
            encoder: Encoder {
                stages: self
                    .num_encoder_blocks
                    .iter()
                    .enumerate()
                    .map(encode)
                    .collect(),
                conv_out: conv(wide, self.latent_channels).init(device),
            },
            decoder: Decoder {
                conv_in: conv(self.latent_channels, narrow).init(device),
                stages: self
                    .num_decoder_blocks
                    .iter()
                    .enumerate()
                    .map(decode)
                    .collect(),
            },
            scaling: Scaling {
                factor: self.scaling_factor,
                shift: self.shift_factor,
            },
        }
    }
}

impl AutoencoderTiny {
    /// Fills the network with weights under diffusers' names, and makes sure that none is left over.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load(self, mut weights: Weights) -> Result<Self, WeightsError> {
        let [encoder, decoder] = self.blocks();
        let network = weights.load(self, |path| diffusers_key(path, &encoder, &decoder))?;
        weights.finish()?;
        Ok(network)
    }

    /// Adds the weights to a file, under the names that [`load`](Self::load) reads. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter) {
        let [encoder, decoder] = self.blocks();
        writer.module(self, |path| diffusers_key(path, &encoder, &decoder));
    }

    /// How many blocks the stages of the encoder have, and of the decoder.
    fn blocks(&self) -> [Vec<usize>; 2] {
        [
            self.encoder.stages.iter().map(|s| s.blocks.len()).collect(),
            self.decoder.stages.iter().map(|s| s.blocks.len()).collect(),
        ]
    }

    /// Fills the network from the two files that the model is published as, in which the decoder's layers are counted
    /// from the bending of its latents on.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load_pair(self, encoder: Weights, decoder: Weights) -> Result<Self, WeightsError> {
        let encoder = encoder.rename(|key| format!("encoder.layers.{key}"))?;
        let decoder = decoder.rename(|key| {
            let (layer, rest) = key.split_once('.').unwrap_or((key, ""));
            match layer.parse::<usize>() {
                Ok(layer @ 1..) => format!("decoder.layers.{}.{rest}", layer - 1),
                _ => key.into(),
            }
        })?;
        self.load(encoder.join(decoder)?)
    }

    /// Lays the weights out for the CPU's kernels, as [`AutoencoderKl::pack`](super::AutoencoderKl::pack).
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let last = format!("decoder.stages.{}.conv", self.decoder.stages.len() - 1);
        let own = [
            "encoder.stages.0.conv",
            "encoder.conv_out",
            "decoder.conv_in",
            &last,
        ];
        let to = Packing::new(&policy, &own);
        let (encoder, decoder) = (to.at("encoder"), to.at("decoder"));
        encoder.each("stages", &mut self.encoder.stages, Stage::pack)
            + self.encoder.conv_out.pack(encoder.of("conv_out"))
            + self.decoder.conv_in.pack(decoder.of("conv_in"))
            + decoder.each("stages", &mut self.decoder.stages, Stage::pack)
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// How many times smaller than the picture the latents are, in height and in width.
    pub fn factor(&self) -> usize {
        1 << (self.decoder.stages.len() - 1)
    }

    /// The channels of a picture that is encoded, and of one that is decoded.
    pub fn picture_channels(&self) -> [usize; 2] {
        let [_, encoded, _, _] = self.encoder.stages[0].conv.weight.dims();
        let last = self.decoder.stages.len() - 1;
        let [decoded, _, _, _] = self.decoder.stages[last].conv.weight.dims();
        [encoded, decoded]
    }

    /// The channels of the latents.
    pub fn latent_channels(&self) -> usize {
        let [_, channels, _, _] = self.decoder.conv_in.weight.dims();
        channels
    }

    /// The U-Net's latents of the encoder's: `(z - shift) · factor`.
    pub fn scaled(&self, z: Tensor<4>) -> Tensor<4> {
        self.scaling.apply(z)
    }

    /// The decoder's latents of the U-Net's: `latents / factor + shift`.
    pub fn unscaled(&self, latents: Tensor<4>) -> Tensor<4> {
        self.scaling.undo(latents)
    }

    /// The latents of a picture, not scaled.
    ///
    /// # Shapes
    ///
    /// - picture: `[batch, in_channels, height, width]`, in -1 to 1
    /// - returns: `[batch, latent_channels, height / factor, width / factor]`
    ///
    /// # Panics
    ///
    /// If the picture has another number of channels.
    pub fn encode(&self, picture: Tensor<4>) -> Tensor<4> {
        // The network was trained on pictures in 0 to 1.
        let mut x = picture.add_scalar(1.0).mul_scalar(0.5);
        for stage in &self.encoder.stages {
            x = stage.conv.forward(x);
            for block in &stage.blocks {
                x = block.forward(x);
            }
        }
        self.encoder.conv_out.forward(x)
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
        let z = z.div_scalar(MAGNITUDE).tanh().mul_scalar(MAGNITUDE);
        let mut x = relu(self.decoder.conv_in.forward(z));
        let last = self.decoder.stages.len() - 1;
        for (i, stage) in self.decoder.stages.iter().enumerate() {
            for block in &stage.blocks {
                x = block.forward(x);
            }
            let before = Prologue {
                doubled: i < last,
                ..Prologue::default()
            };
            x = stage.conv.forward_between(before, x, Epilogue::default());
        }
        x.mul_scalar(2.0).sub_scalar(1.0)
    }
}

impl Block {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let mut x = x;
        let activated = || Epilogue {
            activation: Activation::Relu,
            ..Epilogue::default()
        };
        let before = Prologue::default();
        let h = self.conv1.forward_keeping(before, &mut x, activated());
        let h = self.conv2.forward_between(before, h, activated());
        let epilogue = Epilogue {
            residual: Some(x),
            ..Epilogue::default()
        };
        relu(self.conv3.forward_between(before, h, epilogue))
    }

    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        self.conv1.pack(to.of("conv1"))
            + self.conv2.pack(to.of("conv2"))
            + self.conv3.pack(to.of("conv3"))
    }
}

impl Stage {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        self.conv.pack(to.of("conv")) + to.each("blocks", &mut self.blocks, Block::pack)
    }
}

/// diffusers' key of the parameter at a path of ours.
///
/// Its encoder and its decoder are one list each, in which activations and doublings count.
fn diffusers_key(path: &str, encoder: &[usize], decoder: &[usize]) -> String {
    let names: Vec<&str> = path.split('.').collect();
    let number = |name: &str| {
        name.parse::<usize>()
            .expect("a list's members are numbered")
    };
    // The stages before take a convolution and their blocks; in the decoder a doubling too.
    let encoder_at = |stage: usize| encoder[..stage].iter().map(|n| n + 1).sum::<usize>();
    let decoder_at = |stage: usize| 2 + decoder[..stage].iter().map(|n| n + 2).sum::<usize>();
    let conv = |name: &str| match name {
        "conv1" => "conv.0",
        "conv2" => "conv.2",
        _ => "conv.4",
    };
    match names[..] {
        ["encoder", "conv_out", leaf] => {
            format!("encoder.layers.{}.{leaf}", encoder_at(encoder.len()))
        }
        ["encoder", "stages", i, "conv", leaf] => {
            format!("encoder.layers.{}.{leaf}", encoder_at(number(i)))
        }
        ["encoder", "stages", i, "blocks", j, name, leaf] => {
            let layer = encoder_at(number(i)) + 1 + number(j);
            format!("encoder.layers.{layer}.{}.{leaf}", conv(name))
        }
        ["decoder", "conv_in", leaf] => format!("decoder.layers.0.{leaf}"),
        ["decoder", "stages", i, "conv", leaf] => {
            let i = number(i);
            let doubling = usize::from(i + 1 < decoder.len());
            let layer = decoder_at(i) + decoder[i] + doubling;
            format!("decoder.layers.{layer}.{leaf}")
        }
        ["decoder", "stages", i, "blocks", j, name, leaf] => {
            let layer = decoder_at(number(i)) + number(j);
            format!("decoder.layers.{layer}.{}.{leaf}", conv(name))
        }
        _ => path.into(),
    }
}
