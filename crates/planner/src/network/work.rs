//! What a pass of the U-Net has to do.

use clearway_layers::{Conv1dConfig, ConvTranspose1dConfig, GroupNormConfig, LinearConfig, Work};

use super::ConditionalUnet1dConfig;

impl ConditionalUnet1dConfig {
    /// The work of a pass over one sample of `horizon` actions, the condition's share included.
    pub fn work(&self, horizon: usize) -> Work {
        let levels = &self.down_dims;
        let last = levels.len() - 1;
        // Time is halved from one level to the next.
        let length = |level: usize| horizon >> level;
        let block = |channels_in, channels, level| self.block(channels_in, channels, length(level));
        let embed = self.diffusion_step_embed_dim;
        let mut work = linear(embed, 4 * embed) + linear(4 * embed, embed);
        let mut before = self.action_dim;
        for (level, &channels) in levels.iter().enumerate() {
            work = work + block(before, channels, level) + block(channels, channels, level);
            if level < last {
                work = work + conv(channels, channels, 3, length(level + 1));
            }
            before = channels;
        }
        work = work + block(before, before, last).times(2);
        for level in (1..=last).rev() {
            let (wide, narrow) = (levels[level], levels[level - 1]);
            let upsample = ConvTranspose1dConfig {
                channels_in: narrow,
                channels_out: narrow,
                kernel_size: 4,
                stride: 2,
                padding: 1,
            };
            work = work
                + block(2 * wide, narrow, level)
                + block(narrow, narrow, level)
                + upsample.work(length(level));
        }
        let first = levels[0];
        work + conv(first, first, self.kernel_size, horizon)
            + norm(first)
            + conv(first, self.action_dim, 1, horizon)
    }

    fn block(&self, channels_in: usize, channels: usize, length: usize) -> Work {
        let modulation = if self.use_film_scale_modulation {
            2 * channels
        } else {
            channels
        };
        let residual = if channels_in == channels {
            Work::default()
        } else {
            conv(channels_in, channels, 1, length)
        };
        conv(channels_in, channels, self.kernel_size, length)
            + conv(channels, channels, self.kernel_size, length)
            + norm(channels).times(2)
            + linear(
                self.diffusion_step_embed_dim + self.condition_dim,
                modulation,
            )
            + residual
    }
}

fn linear(d_input: usize, d_output: usize) -> Work {
    let bias = true;
    LinearConfig {
        d_input,
        d_output,
        bias,
    }
    .work(1)
}

/// A convolution with so many outputs.
fn conv(channels_in: usize, channels_out: usize, kernel_size: usize, positions: usize) -> Work {
    Conv1dConfig {
        channels_in,
        channels_out,
        kernel_size,
        stride: 1,
        padding: kernel_size / 2,
    }
    .work(positions)
}

fn norm(channels: usize) -> Work {
    GroupNormConfig {
        n_groups: 1,
        channels,
        epsilon: 0.0,
    }
    .work()
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    /// LeRobot's default network on PushT's key points.
    fn default() -> ConditionalUnet1dConfig {
        ConditionalUnet1dConfig {
            action_dim: 2,
            condition_dim: 36,
            down_dims: vec![512, 1024, 2048],
            kernel_size: 5,
            n_groups: 8,
            diffusion_step_embed_dim: 128,
            use_film_scale_modulation: true,
        }
    }

    #[test]
    fn every_weight_is_read_once() {
        let small = ConditionalUnet1dConfig {
            down_dims: vec![8, 16, 24, 48],
            use_film_scale_modulation: false,
            ..default()
        };
        for config in [default(), small] {
            // Parameters are lazy: none is drawn.
            let network = config.init(&Device::flex());
            assert_eq!(config.work(16).weights, network.parameters() as u64);
        }
        // LeRobot's default has 248.8 million.
        assert_eq!((default().work(16).weights + 50_000) / 100_000, 2488);
    }

    #[test]
    fn twice_the_horizon_is_twice_the_work_of_the_convolutions() {
        let work = |horizon| default().work(horizon).multiply_adds;
        assert_eq!(work(64) - work(32), 2 * (work(32) - work(16)));
    }
}
