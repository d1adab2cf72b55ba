//! The network that makes a U-Net follow a picture: edges, depth, poses.

use std::collections::BTreeMap;
use std::sync::Arc;

use burn::module::{Module, ModuleVisitor, Param};
use burn::prelude::*;
use clearway_diffusion::{Network, Point, Stack};
use clearway_layers::{
    Activation, Conv2d, Conv2dConfig, Epilogue, PackPolicy, PackReport, Packing, Prologue, Weights,
    WeightsError, count_parameters, in_pool,
};

use super::{Condition, ControlNetConfig, Encoder, KEEP, Prepared, Residuals, Unet};

/// A copy of a U-Net's way down, which sees a picture and says what to add: diffusers' `ControlNetModel`.
///
/// ```text
/// x = conv_in(x) + embedding(picture)
/// residual = W r    for each kept output r of the way down, and for the middle's
/// ```
///
/// "Adding Conditional Control to Text-to-Image Diffusion Models", Zhang, Rao and Agrawala, 2023, arXiv:2302.05543.
#[derive(Module, Debug)]
pub struct ControlNet {
    encoder: Encoder,
    controlnet_cond_embedding: PictureEmbedding,
    controlnet_down_blocks: Vec<Conv2d>,
    controlnet_mid_block: Conv2d,
    #[module(skip)]
    reversed_channels: bool,
}

/// Convolutions, every other one of which halves height and width, until a picture is as small as its latents.
#[derive(Module, Debug)]
struct PictureEmbedding {
    conv_in: Conv2d,
    blocks: Vec<Conv2d>,
    conv_out: Conv2d,
}

/// What a [`ControlNet`] computes from the prompt and the picture alone.
#[derive(Clone, Debug)]
pub struct ControlPrepared {
    unet: Prepared,
    picture: Tensor<4>,
}

impl ControlNetConfig {
    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If sizes do not go together; those that [`read`](Self::read) returns do.
    pub fn init(&self, device: &Device) -> ControlNet {
        let sizes = &self.conditioning_embedding_out_channels;
        let first = self.encoder.block_out_channels[0];
        let last = self.encoder.block_out_channels[self.encoder.stages() - 1];
        let conv = |channels_in, channels_out| Conv2dConfig::same(channels_in, channels_out, 3);
        let blocks = sizes.windows(2).flat_map(|pair| {
            [
                conv(pair[0], pair[0]).init(device),
                conv(pair[0], pair[1]).with_stride(2).init(device),
            ]
        });
        let tap = |channels| Conv2dConfig::same(channels, channels, 1).init(device);
        ControlNet {
            encoder: self.encoder.init(device),
            controlnet_cond_embedding: PictureEmbedding {
                conv_in: conv(self.conditioning_channels, sizes[0]).init(device),
                blocks: blocks.collect(),
                conv_out: conv(sizes[sizes.len() - 1], first).init(device),
            },
            controlnet_down_blocks: self.encoder.skips().into_iter().map(tap).collect(),
            controlnet_mid_block: tap(last),
            reversed_channels: self.reversed_channels,
        }
    }
}

impl ControlNet {
    /// Fills the network with weights under diffusers' names, and makes sure that none is left over.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`] and [`Weights::finish`].
    pub fn load(self, mut weights: Weights) -> Result<Self, WeightsError> {
        let network = super::load(self, &mut weights)?;
        weights.finish()?;
        Ok(network)
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// How many times smaller than the picture the latents are.
    pub fn factor(&self) -> usize {
        1 << (self.controlnet_cond_embedding.blocks.len() / 2)
    }

    /// What of the way down and the middle is of another shape than in a U-Net: a ControlNet is a copy of its own
    /// model's. None if it fits.
    pub fn differs_from(&self, unet: &Unet) -> Option<String> {
        let (ours, theirs) = (Shapes::of(&self.encoder), Shapes::of(&unet.encoder));
        let name = ours
            .iter()
            .find(|(name, shape)| theirs.get(*name) != Some(*shape));
        let name = name.or_else(|| theirs.iter().find(|(name, _)| !ours.contains_key(*name)));
        name.map(|(name, _)| {
            let shape = |of: &BTreeMap<String, Vec<usize>>| {
                of.get(name)
                    .map_or("missing".into(), |shape| format!("of shape {shape:?}"))
            };
            format!(
                "tensor `{name}` is {}, and the U-Net's is {}",
                shape(&ours),
                shape(&theirs)
            )
        })
    }

    /// Lays the weights out for the CPU's kernels, as [`Unet::pack`].
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        // What the picture says is computed once for all steps.
        let own = [&KEEP[..], &["controlnet_cond_embedding.*"]].concat();
        let to = Packing::new(&policy, &own);
        let picture = to.at("controlnet_cond_embedding");
        let taps = to.at("controlnet_down_blocks");
        let taps_packed = self.controlnet_down_blocks.iter_mut().enumerate();
        self.encoder.pack(&to.at("encoder"))
            + self.controlnet_cond_embedding.pack(&picture)
            + (taps_packed.map(|(i, it)| it.pack(taps.of(&i.to_string())))).sum::<PackReport>()
            + self
                .controlnet_mid_block
                .pack(to.of("controlnet_mid_block"))
    }

    /// Does the work that all steps share.
    ///
    /// # Shapes
    ///
    /// - picture: `[batch or 1, conditioning_channels, height, width]`, from 0 to 1, [`factor`](Self::factor) times as high
    ///   and wide as the latents
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn prepare(&self, condition: &Condition, picture: Tensor<4>) -> ControlPrepared {
        // A ControlNet sees neither the guidance scale nor what an inpainting U-Net has beside the sample.
        let condition = Condition {
            text: condition.text.clone(),
            classes: condition.classes.clone(),
            ..Condition::default()
        };
        let picture = if self.reversed_channels {
            picture.flip([1])
        } else {
            picture
        };
        ControlPrepared {
            unet: self.encoder.prepare(&condition, std::iter::empty()),
            picture: self.controlnet_cond_embedding.forward(picture),
        }
    }

    /// What to add to the U-Net's pass at the same points.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, in_channels, height, width]`
    /// - points: one, or one a sample
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn forward(&self, x: Tensor<4>, points: &[Point], prepared: &ControlPrepared) -> Residuals {
        if self.controlnet_mid_block.is_packed() {
            in_pool(|| self.pass(x, points, prepared))
        } else {
            self.pass(x, points, prepared)
        }
    }

    fn pass(&self, x: Tensor<4>, points: &[Point], prepared: &ControlPrepared) -> Residuals {
        let (time, x) = self.encoder.begin(x, points, &prepared.unet);
        let x = x + prepared.picture.clone();
        let mut keys = prepared.unet.keys.iter();
        let (mut x, kept) = self.encoder.down(x, &time, &mut keys, &mut |_, _| {});
        if let Some(block) = &self.encoder.mid_block {
            x = block.forward(x, &time, &mut keys);
        }
        let taps = self.controlnet_down_blocks.iter().zip(kept);
        Residuals {
            down: taps.map(|(tap, kept)| tap.forward(kept)).collect(),
            mid: self.controlnet_mid_block.forward(x),
        }
    }
}

/// The shapes of an encoder's parameters, but for those that a ControlNet has otherwise: it sees neither what an
/// inpainting U-Net has beside the sample nor the guidance scale.
#[derive(Default)]
pub(super) struct Shapes {
    path: Vec<String>,
    shapes: BTreeMap<String, Vec<usize>>,
}

impl Shapes {
    pub(super) fn of(encoder: &Encoder) -> Arc<BTreeMap<String, Vec<usize>>> {
        // Packed parameters are not shown to visitors.
        if let Some(shapes) = &encoder.shapes {
            return Arc::clone(shapes);
        }
        let mut shapes = Self::default();
        encoder.visit(&mut shapes);
        shapes.shapes.into()
    }
}

impl ModuleVisitor for Shapes {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let path = self.path.join(".");
        if path != "conv_in.weight" && !path.contains("cond_proj") {
            self.shapes.insert(path, param.lazy_shape().to_vec());
        }
    }
}

impl PictureEmbedding {
    fn forward(&self, picture: Tensor<4>) -> Tensor<4> {
        let activated = |conv: &Conv2d, x| {
            let silu = Epilogue {
                activation: Activation::Silu,
                ..Epilogue::default()
            };
            conv.forward_between(Prologue::default(), x, silu)
        };
        let mut x = activated(&self.conv_in, picture);
        for conv in &self.blocks {
            x = activated(conv, x);
        }
        self.conv_out.forward(x)
    }

    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let place = to.at("blocks");
        let blocks = self.blocks.iter_mut().enumerate();
        let blocks = blocks.map(|(i, it)| it.pack(place.of(&i.to_string())));
        self.conv_in.pack(to.of("conv_in"))
            + blocks.sum::<PackReport>()
            + self.conv_out.pack(to.of("conv_out"))
    }
}

/// A [`Unet`] that follows ControlNets, each obeyed by its own scale.
#[derive(Clone, Debug)]
pub struct Controlled {
    /// What is steered.
    pub unet: Unet,
    /// What steers, and how much: 1 is what it was trained for.
    pub controls: Vec<(ControlNet, f64)>,
}

/// What a [`Controlled`] network is conditioned on.
#[derive(Clone, Debug)]
pub struct ControlledCondition {
    /// What the U-Net is conditioned on.
    pub unet: Condition,
    /// A picture for each ControlNet, as [`ControlNet::prepare`] takes it.
    pub pictures: Vec<Tensor<4>>,
}

impl Stack for ControlledCondition {
    fn stack(parts: &[&Self]) -> Self {
        let conditions: Vec<_> = parts.iter().map(|part| &part.unet).collect();
        let count = parts.first().map_or(0, |part| part.pictures.len());
        let pictures = (0..count).map(|i| {
            // One picture for all samples of a part is one a sample of the whole.
            let each = parts.iter().map(|part| {
                let picture = part.pictures[i].clone();
                let batch = part.unet.batch();
                match picture.dims()[0] {
                    1 => picture.repeat_dim(0, batch),
                    _ => picture,
                }
            });
            Tensor::cat(each.collect(), 0)
        });
        Self {
            unet: Stack::stack(&conditions),
            pictures: pictures.collect(),
        }
    }
}

/// What a [`Controlled`] network computes from its condition alone.
#[derive(Clone, Debug)]
pub struct ControlledPrepared {
    unet: Prepared,
    controls: Vec<ControlPrepared>,
}

impl Network<4> for Controlled {
    type Condition = ControlledCondition;
    type Prepared = ControlledPrepared;

    /// Does the work that all steps share.
    ///
    /// # Panics
    ///
    /// If there is not one picture for each ControlNet.
    fn prepare(&self, condition: &ControlledCondition) -> ControlledPrepared {
        assert_eq!(
            condition.pictures.len(),
            self.controls.len(),
            "each ControlNet needs a picture"
        );
        let pairs = self.controls.iter().zip(&condition.pictures);
        ControlledPrepared {
            unet: self.unet.prepare(&condition.unet),
            controls: pairs
                .map(|((network, _), picture)| network.prepare(&condition.unet, picture.clone()))
                .collect(),
        }
    }

    fn forward(&self, x: Tensor<4>, points: &[Point], prepared: &ControlledPrepared) -> Tensor<4> {
        let pairs = self.controls.iter().zip(&prepared.controls);
        let residuals = pairs
            .map(|((network, scale), prepared)| {
                network.forward(x.clone(), points, prepared).scale(*scale)
            })
            .reduce(|all, more| all + more);
        let unet = &prepared.unet;
        self.unet.pass(x, points, unet, residuals)
    }
}
