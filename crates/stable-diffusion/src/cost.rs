//! What a pass of each network has to do.

use clearway_layers::{
    Conv2dConfig, GegluFeedForwardConfig, GroupNormConfig, LayerNormConfig, LinearConfig, Work,
};

use crate::{AutoencoderKlConfig, ClipTextConfig, EncoderConfig, Mid, UnetConfig};

/// How many times wider a transformer's feed-forward network is.
const EXPANSION: usize = 4;

fn linear(d_input: usize, d_output: usize, rows: usize) -> Work {
    let bias = true;
    LinearConfig {
        d_input,
        d_output,
        bias,
    }
    .work(rows)
}

/// The same without an offset.
fn product(d_input: usize, d_output: usize, rows: usize) -> Work {
    let bias = false;
    LinearConfig {
        d_input,
        d_output,
        bias,
    }
    .work(rows)
}

fn conv(channels_in: usize, channels_out: usize, kernel_size: usize, outputs: [usize; 2]) -> Work {
    Conv2dConfig::same(channels_in, channels_out, kernel_size).work(outputs)
}

fn norm(channels: usize) -> Work {
    GroupNormConfig {
        n_groups: 1,
        channels,
        epsilon: 0.0,
    }
    .work()
}

fn layer_norm(features: usize) -> Work {
    LayerNormConfig {
        features,
        epsilon: 0.0,
    }
    .work()
}

/// A residual block; `time` are the features of the embedded time, where there is one.
fn resnet(channels_in: usize, channels: usize, time: Option<usize>, size: [usize; 2]) -> Work {
    let shortcut = if channels_in == channels {
        Work::default()
    } else {
        conv(channels_in, channels, 1, size)
    };
    norm(channels_in)
        + conv(channels_in, channels, 3, size)
        + time.map_or_else(Work::default, |time| linear(time, channels, 1))
        + norm(channels)
        + conv(channels, channels, 3, size)
        + shortcut
}

impl EncoderConfig {
    fn resnet_work(&self, channels_in: usize, channels: usize, size: [usize; 2]) -> Work {
        let time = 4 * self.block_out_channels[0];
        resnet(channels_in, channels, Some(time), size)
    }

    fn transformer_work(&self, stage: usize, [height, width]: [usize; 2], tokens: usize) -> Work {
        let channels = self.block_out_channels[stage];
        let context = self.cross_attention_dim[stage];
        let pixels = height * width;
        let feed_forward = GegluFeedForwardConfig {
            features: channels,
            hidden: EXPANSION * channels,
        };
        let layer = layer_norm(channels).times(3)
            + product(channels, channels, pixels).times(3)
            + Work::attention(pixels, pixels, channels)
            + linear(channels, channels, pixels)
            + product(channels, channels, pixels)
            + product(context, channels, tokens).times(2)
            + Work::attention(pixels, tokens, channels)
            + linear(channels, channels, pixels)
            + feed_forward.work(pixels);
        norm(channels)
            + linear(channels, channels, pixels).times(2)
            + layer.times(self.transformer_layers[stage])
    }

    /// The sizes of the stages, each half of the one before, rounded up.
    fn sizes(&self, latents: [usize; 2]) -> Vec<[usize; 2]> {
        let sizes = std::iter::successors(Some(latents), |size| {
            Some(size.map(|side| side.div_ceil(2)))
        });
        sizes.take(self.block_out_channels.len()).collect()
    }
}

impl UnetConfig {
    /// The work of a pass over latents of some height and width, with a text of `tokens`: what a text's keys take is
    /// included, once.
    pub fn work(&self, latents: [usize; 2], tokens: usize) -> Work {
        let encoder = &self.encoder;
        let channels = &encoder.block_out_channels;
        let (first, last) = (channels[0], channels.len() - 1);
        let sizes = encoder.sizes(latents);
        let time = 4 * first;
        let guidance = encoder.time_cond_proj_dim;
        let mut work = conv(encoder.in_channels, first, 3, latents)
            + linear(first, time, 1)
            + linear(time, time, 1)
            + guidance.map_or_else(Work::default, |dim| product(dim, first, 1));

        let mut skips = vec![first];
        let mut before = first;
        for stage in 0..=last {
            for _ in 0..encoder.layers_per_block[stage] {
                work = work + encoder.resnet_work(before, channels[stage], sizes[stage]);
                if encoder.down_attention[stage] {
                    work = work + encoder.transformer_work(stage, sizes[stage], tokens);
                }
                before = channels[stage];
                skips.push(before);
            }
            if stage < last {
                work = work + conv(before, before, 3, sizes[stage + 1]);
                skips.push(before);
            }
        }
        let middle = encoder.resnet_work(before, before, sizes[last]);
        work = work
            + match encoder.mid {
                Mid::CrossAttention => {
                    middle.times(2) + encoder.transformer_work(last, sizes[last], tokens)
                }
                Mid::Plain => middle,
                Mid::None => Work::default(),
            };
        for stage in (0..=last).rev() {
            for _ in 0..=encoder.layers_per_block[stage] {
                let skip = skips.pop().unwrap_or_default();
                work = work + encoder.resnet_work(before + skip, channels[stage], sizes[stage]);
                if self.up_attention[stage] {
                    work = work + encoder.transformer_work(stage, sizes[stage], tokens);
                }
                before = channels[stage];
            }
            if stage > 0 {
                work = work + conv(before, before, 3, sizes[stage - 1]);
            }
        }
        work + norm(first) + conv(first, self.out_channels, 3, latents)
    }
}

impl AutoencoderKlConfig {
    /// The work of decoding latents of some height and width.
    pub fn decoding_work(&self, latents: [usize; 2]) -> Work {
        let channels = &self.block_out_channels;
        let last = channels.len() - 1;
        let bottom = channels[last];
        let mut size = latents;
        let mut work = if self.use_post_quant_conv {
            conv(self.latent_channels, self.latent_channels, 1, size)
        } else {
            Work::default()
        };
        work = work
            + conv(self.latent_channels, bottom, 3, size)
            + resnet(bottom, bottom, None, size).times(2);
        if self.mid_block_add_attention {
            let pixels = size[0] * size[1];
            work = work
                + norm(bottom)
                + linear(bottom, bottom, pixels).times(4)
                + Work::attention(pixels, pixels, bottom);
        }
        let mut before = bottom;
        for stage in (0..=last).rev() {
            for _ in 0..=self.layers_per_block {
                work = work + resnet(before, channels[stage], None, size);
                before = channels[stage];
            }
            if stage > 0 {
                size = size.map(|side| 2 * side);
                work = work + conv(before, before, 3, size);
            }
        }
        work + norm(channels[0]) + conv(channels[0], self.out_channels, 3, size)
    }
}

impl ClipTextConfig {
    /// The work of encoding a text of `tokens`. Of the tokens' embeddings, those of the text alone are read.
    pub fn work(&self, tokens: usize) -> Work {
        let features = self.hidden_size;
        let layer = layer_norm(features).times(2)
            + linear(features, features, tokens).times(4)
            + Work::attention(tokens, tokens, features)
            + linear(features, self.intermediate_size, tokens)
            + linear(self.intermediate_size, features, tokens);
        let embeddings = Work {
            multiply_adds: 0,
            weights: 2 * (tokens * features) as u64,
        };
        embeddings + layer.times(self.num_hidden_layers) + layer_norm(features)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use serde_json::{Value, json};

    use super::*;
    use crate::Config;

    fn config(value: Value) -> Config {
        Config::new("config.json", value).expect("an object")
    }

    fn unet(value: Value) -> UnetConfig {
        UnetConfig::read(&config(value)).expect("it is supported")
    }

    /// A multiply-add is a `MAC` of the field's tables.
    fn billions(work: Work) -> u64 {
        (work.multiply_adds + 500_000_000) / 1_000_000_000
    }

    #[test]
    fn stable_diffusion_1_does_what_the_field_says() {
        let unet = unet(json!({"cross_attention_dim": 768}));
        let work = unet.work([64, 64], 77);
        assert_eq!(work.weights, 859_520_964);
        assert_eq!(billions(work), 402);
        let vae = json!({"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2});
        let vae = AutoencoderKlConfig::read(&config(vae)).expect("it is supported");
        assert_eq!(billions(vae.decoding_work([64, 64])), 1257);
        let text =
            json!({"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12});
        let text = ClipTextConfig::read(&config(text)).expect("it is supported");
        let table = 49_408 * 768;
        let parameters = text.init(&Device::flex()).parameters() as u64;
        assert_eq!(text.work(77).weights, parameters - table + 77 * 768);
    }

    #[test]
    fn every_weight_of_a_unet_is_read_once() {
        for value in [
            json!({"cross_attention_dim": 768}),
            json!({"in_channels": 9, "time_cond_proj_dim": 256}),
            json!({
                "block_out_channels": [32, 64, 96],
                "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
                "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D", "CrossAttnUpBlock2D"],
                "layers_per_block": [1, 2, 1],
                "transformer_layers_per_block": [1, 2, 3],
                "mid_block_type": null,
                "attention_head_dim": 2,
            }),
            json!({"mid_block_type": "UNetMidBlock2D"}),
        ] {
            let unet = unet(value);
            // Parameters are lazy: none is drawn.
            let network = unet.init(&Device::flex());
            let counted = unet.work([10, 7], 5).weights;
            assert_eq!(counted, network.parameters() as u64);
        }
    }
}
