//! The stages of a U-Net: on the way down, in the middle, on the way up.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::{
    Conv2d, Conv2dConfig, Epilogue, PackReport, Packing, Prologue, concatenate, upsample_nearest_2x,
};

use super::transformer::{Transformer, TransformerConfig};
use super::{EncoderConfig, Observe};
use crate::attention::Keys;
use crate::resnet::{ResnetBlock, ResnetBlockConfig};

/// Residual blocks, each with a transformer behind it where there are any, then a halving of height and width.
#[derive(Module, Debug)]
pub(super) struct DownBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
    downsampler: Option<Conv2d>,
}

/// A residual block, then any number of a transformer and a residual block.
#[derive(Module, Debug)]
pub(super) struct MidBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
}

/// As [`DownBlock`], with what the way down computed beside each block's input, and a doubling at the end.
#[derive(Module, Debug)]
pub(super) struct UpBlock {
    resnets: Vec<ResnetBlock>,
    attentions: Vec<Transformer>,
    upsampler: Option<Conv2d>,
}

impl EncoderConfig {
    fn resnet(&self, channels_in: usize, channels: usize, device: &Device) -> ResnetBlock {
        ResnetBlockConfig {
            channels_in,
            channels,
            time: Some(self.time_features()),
            n_groups: self.norm_num_groups,
            epsilon: self.norm_eps,
        }
        .init(device)
    }

    fn transformer(&self, stage: usize, device: &Device) -> Transformer {
        TransformerConfig {
            channels: self.block_out_channels[stage],
            context: self.cross_attention_dim[stage],
            heads: self.heads[stage],
            layers: self.transformer_layers[stage],
            n_groups: self.norm_num_groups,
        }
        .init(device)
    }

    pub(super) fn down_block(&self, stage: usize, device: &Device) -> DownBlock {
        let channels = self.block_out_channels[stage];
        let before = self.block_out_channels[stage.saturating_sub(1)];
        let layers = self.layers_per_block[stage];
        DownBlock {
            resnets: (0..layers)
                .map(|layer| {
                    let channels_in = if layer == 0 { before } else { channels };
                    self.resnet(channels_in, channels, device)
                })
                .collect(),
            attentions: (0..if self.down_attention[stage] {
                layers
            } else {
                0
            })
                .map(|_| self.transformer(stage, device))
                .collect(),
            downsampler: (stage + 1 < self.stages()).then(|| {
                Conv2dConfig::same(channels, channels, 3)
                    .with_stride(2)
                    .init(device)
            }),
        }
    }

    pub(super) fn mid_block(&self, transformers: usize, device: &Device) -> MidBlock {
        let stage = self.stages() - 1;
        let channels = self.block_out_channels[stage];
        MidBlock {
            resnets: (0..=transformers)
                .map(|_| self.resnet(channels, channels, device))
                .collect(),
            attentions: (0..transformers)
                .map(|_| self.transformer(stage, device))
                .collect(),
        }
    }

    /// The block on the way up from a stage; `skips` are the channels of what the way down left, the newest last.
    pub(super) fn up_block(
        &self,
        stage: usize,
        attends: bool,
        skips: &mut Vec<usize>,
        device: &Device,
    ) -> UpBlock {
        let channels = self.block_out_channels[stage];
        let mut before = self.block_out_channels[(stage + 1).min(self.stages() - 1)];
        let layers = self.layers_per_block[stage] + 1;
        UpBlock {
            resnets: (0..layers)
                .map(|_| {
                    let skip = skips.pop().expect("the way down left one for each layer");
                    let resnet = self.resnet(before + skip, channels, device);
                    before = channels;
                    resnet
                })
                .collect(),
            attentions: (0..if attends { layers } else { 0 })
                .map(|_| self.transformer(stage, device))
                .collect(),
            upsampler: (stage > 0).then(|| Conv2dConfig::same(channels, channels, 3).init(device)),
        }
    }
}

/// Packs residual blocks and transformers.
fn pack(
    resnets: &mut [ResnetBlock],
    attentions: &mut [Transformer],
    to: &Packing<'_>,
) -> PackReport {
    to.each("resnets", resnets, ResnetBlock::pack)
        + to.each("attentions", attentions, Transformer::pack)
}

impl DownBlock {
    pub(super) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let downsampler = self.downsampler.as_mut();
        let downsampler = downsampler.map(|it| it.pack(to.of("downsampler")));
        pack(&mut self.resnets, &mut self.attentions, to) + downsampler.unwrap_or_default()
    }

    pub(super) fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        self.attentions.iter()
    }

    pub(super) fn forward<'a>(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        keys: &mut impl Iterator<Item = &'a Keys>,
        skips: &mut Vec<Tensor<4>>,
        observe: &mut Observe<'_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            x = resnet.forward(x, Some(time));
            observe(&format!("resnets.{j}"), &x);
            if let Some(transformer) = self.attentions.get(j) {
                x = transformer.forward(x, keys);
                observe(&format!("attentions.{j}"), &x);
            }
            skips.push(x.clone());
        }
        if let Some(downsampler) = &self.downsampler {
            x = downsampler.forward(x);
            skips.push(x.clone());
        }
        x
    }
}

impl MidBlock {
    pub(super) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        pack(&mut self.resnets, &mut self.attentions, to)
    }

    pub(super) fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        self.attentions.iter()
    }

    pub(super) fn forward<'a>(
        &self,
        x: Tensor<4>,
        time: &Tensor<2>,
        keys: &mut impl Iterator<Item = &'a Keys>,
    ) -> Tensor<4> {
        let (first, others) = self.resnets.split_first().expect("there is a first");
        let mut x = first.forward(x, Some(time));
        for (transformer, resnet) in self.attentions.iter().zip(others) {
            x = transformer.forward(x, keys);
            x = resnet.forward(x, Some(time));
        }
        x
    }
}

impl UpBlock {
    pub(super) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let upsampler = self.upsampler.as_mut();
        let upsampler = upsampler.map(|it| it.pack(to.of("upsampler")));
        pack(&mut self.resnets, &mut self.attentions, to) + upsampler.unwrap_or_default()
    }

    pub(super) fn transformers(&self) -> impl Iterator<Item = &Transformer> {
        self.attentions.iter()
    }

    pub(super) fn forward<'a>(
        &self,
        mut x: Tensor<4>,
        time: &Tensor<2>,
        keys: &mut impl Iterator<Item = &'a Keys>,
        skips: &mut Vec<Tensor<4>>,
        observe: &mut Observe<'_>,
    ) -> Tensor<4> {
        for (j, resnet) in self.resnets.iter().enumerate() {
            let skip = skips.pop().expect("the way down left one for each layer");
            x = resnet.forward(concatenate(x, skip), Some(time));
            observe(&format!("resnets.{j}"), &x);
            if let Some(transformer) = self.attentions.get(j) {
                x = transformer.forward(x, keys);
                observe(&format!("attentions.{j}"), &x);
            }
        }
        if let Some(upsampler) = &self.upsampler {
            let [_, _, height, width] = x.dims();
            x = match skips.last().map(Tensor::dims) {
                // Half of an odd size was rounded up on the way down.
                Some([_, _, rows, columns]) if [rows, columns] != [2 * height, 2 * width] => {
                    let x = upsample_nearest_2x(x).narrow(2, 0, rows);
                    upsampler.forward(x.narrow(3, 0, columns))
                }
                _ => {
                    let doubled = Prologue {
                        doubled: true,
                        ..Prologue::default()
                    };
                    upsampler.forward_between(doubled, x, Epilogue::default())
                }
            };
        }
        x
    }
}
