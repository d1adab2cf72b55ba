//! How much a layer computes and reads: what the time of a pass is measured against.

use std::iter::Sum;
use std::ops::Add;

use crate::{
    Conv1dConfig, Conv2dConfig, ConvTranspose1dConfig, GegluFeedForwardConfig, GroupNormConfig,
    LayerNormConfig, LinearConfig,
};

/// What a pass has to do, whoever does it.
///
/// Products alone are counted: norms and activations are a few operations a number, where a layer with weights has
/// hundreds. Taps that see zeros beyond an end count as the others do, which is the field's convention.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Multiplications, each with an addition; a convolution counts as it is written, whatever the algorithm.
    pub multiply_adds: u64,
    /// The parameters that are read, each once.
    pub weights: u64,
}

impl Work {
    /// Attention: the products of queries with keys, and of weights with values. It has no parameters.
    ///
    /// # Arguments
    ///
    /// - features: those of all heads together
    pub fn attention(queries: usize, keys: usize, features: usize) -> Self {
        Self {
            multiply_adds: 2 * product(&[queries, keys, features]),
            weights: 0,
        }
    }

    /// The work of several samples: as many times the products, and the same weights.
    #[must_use]
    pub fn for_samples(self, batch: usize) -> Self {
        Self {
            multiply_adds: self.multiply_adds * batch as u64,
            ..self
        }
    }

    /// So many layers of the same kind, each with weights of its own.
    #[must_use]
    pub fn times(self, layers: usize) -> Self {
        Self {
            multiply_adds: self.multiply_adds * layers as u64,
            weights: self.weights * layers as u64,
        }
    }

    /// A matrix that meets so many columns.
    fn matrix(weights: u64, bias: u64, columns: u64) -> Self {
        Self {
            multiply_adds: weights * columns,
            weights: weights + bias,
        }
    }
}

impl Add for Work {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            multiply_adds: self.multiply_adds + other.multiply_adds,
            weights: self.weights + other.weights,
        }
    }
}

impl Sum for Work {
    fn sum<I: Iterator<Item = Self>>(work: I) -> Self {
        work.fold(Self::default(), Add::add)
    }
}

fn product(sizes: &[usize]) -> u64 {
    sizes.iter().map(|&size| size as u64).product()
}

impl LinearConfig {
    /// The work for so many vectors.
    pub fn work(&self, rows: usize) -> Work {
        let bias = if self.bias { self.d_output as u64 } else { 0 };
        Work::matrix(product(&[self.d_input, self.d_output]), bias, rows as u64)
    }
}

impl Conv1dConfig {
    /// The work for so many outputs.
    pub fn work(&self, positions: usize) -> Work {
        let weights = product(&[self.channels_in, self.channels_out, self.kernel_size]);
        Work::matrix(weights, self.channels_out as u64, positions as u64)
    }
}

impl ConvTranspose1dConfig {
    /// The work for so many inputs.
    pub fn work(&self, positions: usize) -> Work {
        let weights = product(&[self.channels_in, self.channels_out, self.kernel_size]);
        Work::matrix(weights, self.channels_out as u64, positions as u64)
    }
}

impl Conv2dConfig {
    /// The work for so many outputs, down and across.
    pub fn work(&self, outputs: [usize; 2]) -> Work {
        let weights = product(&[self.channels_in, self.channels_out]) * product(&self.kernel_size);
        let bias = if self.bias {
            self.channels_out as u64
        } else {
            0
        };
        Work::matrix(weights, bias, product(&outputs))
    }
}

impl GroupNormConfig {
    /// The weights; its operations are not counted.
    pub fn work(&self) -> Work {
        Work::matrix(0, 2 * self.channels as u64, 0)
    }
}

impl LayerNormConfig {
    /// The weights; its operations are not counted.
    pub fn work(&self) -> Work {
        Work::matrix(0, 2 * self.features as u64, 0)
    }
}

impl GegluFeedForwardConfig {
    /// The work for so many vectors.
    pub fn work(&self, rows: usize) -> Work {
        let linear = |d_input, d_output| LinearConfig {
            d_input,
            d_output,
            bias: true,
        };
        linear(self.features, 2 * self.hidden).work(rows)
            + linear(self.hidden, self.features).work(rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layer_counts_what_it_holds() {
        use burn::module::Module;
        use burn::tensor::Device;

        let device = Device::flex();
        let linear = LinearConfig {
            d_input: 3,
            d_output: 5,
            bias: true,
        };
        let conv = Conv2dConfig::same(3, 5, 3).without_bias();
        let geglu = GegluFeedForwardConfig {
            features: 4,
            hidden: 6,
        };
        let counted = [linear.work(7), conv.work([2, 3]), geglu.work(2)];
        let held = [
            linear.init(&device).num_params(),
            conv.init(&device).num_params(),
            geglu.init(&device).num_params(),
        ];
        assert_eq!(counted.map(|work| work.weights), held.map(|n| n as u64));
        let products = counted.map(|work| work.multiply_adds);
        assert_eq!(products, [3 * 5 * 7, 3 * 5 * 9 * 6, 2 * (4 * 12 + 6 * 4)]);
        assert_eq!(linear.work(1).for_samples(7), linear.work(7));
    }
}
