//! The sinusoidal embedding of diffusion times.

use burn::tensor::{Device, Tensor, TensorData};

use crate::Tokens;

/// Which half comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// `cat(sin, cos)`: LeRobot, Diffusion Policy.
    SinCos,
    /// `cat(cos, sin)`: Stable Diffusion.
    CosSin,
}

/// A time as a vector of sines and cosines, of frequencies `fᵢ = max_period^(-i / (dim/2 - frequency_shift))`.
///
/// | network | order | frequency_shift |
/// |---|---|---|
/// | LeRobot, Diffusion Policy | [`Order::SinCos`] | 1 |
/// | Stable Diffusion | [`Order::CosSin`] | 0 |
///
/// "Attention Is All You Need", Vaswani et al., 2017, arXiv:1706.03762.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SinusoidalEmbedding {
    /// The size of the vector, even.
    pub dim: usize,
    /// Which half comes first.
    pub order: Order,
    /// What is subtracted from `dim / 2` in the exponent (diffusers: `downscale_freq_shift`); less than `dim / 2`.
    pub frequency_shift: usize,
    /// The longest period over 2π, usually 10,000.
    pub max_period: f64,
}

impl SinusoidalEmbedding {
    /// Embeds times.
    ///
    /// The arithmetic is in f32, operation for operation what PyTorch does: the networks learned these numbers, and at
    /// a time of 1000 exact frequencies would differ from them by 1e-4.
    ///
    /// # Shapes
    ///
    /// - times: `[n]`
    /// - returns: `[n, dim]`
    ///
    /// # Panics
    ///
    /// If `dim` is odd, or `frequency_shift` is not less than `dim / 2`.
    pub fn forward(&self, times: &[f64], device: &Device) -> Tensor<2> {
        let values = self.values(times);
        Tensor::from_data(TensorData::new(values, [times.len(), self.dim]), device)
    }

    /// [`forward`](Self::forward) as tokens, `[1, n, dim]`.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub fn tokens(&self, times: &[f64]) -> Tokens {
        Tokens::new(self.values(times), [1, times.len(), self.dim])
    }

    fn values(&self, times: &[f64]) -> Vec<f32> {
        let half = self.dim / 2;
        assert!(
            self.dim.is_multiple_of(2) && self.frequency_shift < half,
            "cannot embed in {} dimensions with a shift of {}",
            self.dim,
            self.frequency_shift
        );
        let exponent = (self.max_period.ln() / (half - self.frequency_shift) as f64) as f32;
        let mut values = Vec::with_capacity(times.len() * self.dim);
        for &t in times {
            let angle = |i: usize| t as f32 * (i as f32 * -exponent).exp();
            let sines = (0..half).map(|i| angle(i).sin());
            let cosines = (0..half).map(|i| angle(i).cos());
            match self.order {
                Order::SinCos => values.extend(sines.chain(cosines)),
                Order::CosSin => values.extend(cosines.chain(sines)),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_and_cosines_have_the_fields_frequencies() {
        let embed = |order, frequency_shift| -> Vec<f32> {
            let embedding = SinusoidalEmbedding {
                dim: 4,
                order,
                frequency_shift,
                max_period: 10_000.0,
            };
            let embedded = embedding.forward(&[3.0], &Device::flex());
            embedded.into_data().try_to_vec().expect("f32")
        };
        // Two frequencies: 1, and 1e4 to the power of -1 / (2 - shift).
        for (shift, slow) in [(1, 3e-4_f64), (0, 3e-2)] {
            let expected = [3_f64.sin(), slow.sin(), 3_f64.cos(), slow.cos()];
            let sin_first = embed(Order::SinCos, shift);
            for (found, expected) in sin_first.iter().zip(expected) {
                // f32, and a frequency that went through a logarithm.
                assert!((f64::from(*found) - expected).abs() < 1e-6);
            }
            let cos_first = embed(Order::CosSin, shift);
            assert_eq!(cos_first[..2], sin_first[2..]);
            assert_eq!(cos_first[2..], sin_first[..2]);
        }
    }
}
