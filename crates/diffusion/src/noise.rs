//! Standard normal noise, drawn on the host.
//!
//! A device's own generator is global to its process and differs between devices, so a plan drawn from it cannot be
//! drawn again.

mod torch;

pub use torch::Torch;

use burn::tensor::{Device, Tensor, TensorData};
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal};

/// A source of standard normal noise.
pub trait Noise {
    /// The next draw for a batch of that shape, in C order; the first number of the shape is the batch.
    fn draw(&mut self, shape: &[usize]) -> Vec<f32>;
}

/// The next draw of a source, as a tensor.
pub fn normal<const D: usize>(
    noise: &mut dyn Noise,
    shape: [usize; D],
    device: &Device,
) -> Tensor<D> {
    Tensor::from_data(TensorData::new(noise.draw(&shape), shape), device)
}

/// Noise from a seed a sample: what a sample gets depends on its own seed and the number of the draw, and on nothing
/// else; not on the batch it is in, on threads, or on the device.
///
/// The generator is ChaCha with 8 rounds, a counter-based one: key = (seed, index), stream = draw.
///
/// ```
/// use clearway_diffusion::{Noise, Seeded};
///
/// let alone = Seeded::new(7, 1).draw(&[1, 16, 2]);
/// let batch = Seeded::from_seeds(&[3, 7]).draw(&[2, 16, 2]);
/// assert_eq!(alone, batch[32..]);
/// ```
#[derive(Clone, Debug)]
pub struct Seeded {
    samples: Vec<(u64, u64)>,
    draws: u64,
}

impl Seeded {
    /// `count` samples of one seed, told apart by their index.
    pub fn new(seed: u64, count: usize) -> Self {
        Self::from_seeds_with(&[seed], count)
    }

    /// One sample a seed; each gets what [`new`](Seeded::new) gives the first sample of that seed.
    pub fn from_seeds(seeds: &[u64]) -> Self {
        Self::from_seeds_with(seeds, 1)
    }

    /// `count` samples a seed, seed by seed: for each what [`new`](Seeded::new) gives.
    pub fn from_seeds_with(seeds: &[u64], count: usize) -> Self {
        let of = |&seed: &u64| (0..count as u64).map(move |index| (seed, index));
        Self {
            samples: seeds.iter().flat_map(of).collect(),
            draws: 0,
        }
    }
}

impl Noise for Seeded {
    fn draw(&mut self, shape: &[usize]) -> Vec<f32> {
        let (&batch, rest) = shape.split_first().expect("a sample has a batch axis");
        assert_eq!(batch, self.samples.len(), "one seed a sample");
        let each: usize = rest.iter().product();
        let mut values = Vec::with_capacity(batch * each);
        for &(seed, index) in &self.samples {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8..16].copy_from_slice(&index.to_le_bytes());
            let mut generator = ChaCha8Rng::from_seed(key);
            generator.set_stream(self.draws);
            // In f64, then rounded: the ziggurat of f32 would be another sequence for nothing.
            values.extend((0..each).map(|_| {
                let value: f64 = StandardNormal.sample(&mut generator);
                value as f32
            }));
        }
        self.draws += 1;
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_depends_on_seed_index_and_number_alone() {
        let mut batch = Seeded::from_seeds(&[1, 2]);
        let mut alone = Seeded::from_seeds(&[2]);
        for _ in 0..3 {
            assert_eq!(batch.draw(&[2, 5])[5..], alone.draw(&[1, 5]));
        }
        let mut candidates = Seeded::new(2, 2);
        let drawn = candidates.draw(&[2, 5]);
        assert_eq!(drawn[..5], Seeded::from_seeds(&[2]).draw(&[1, 5]));
        assert_ne!(drawn[..5], drawn[5..]);
        assert_ne!(drawn[..5], candidates.draw(&[2, 5])[..5]);
    }

    #[test]
    fn a_seed_means_the_same_numbers_for_ever() {
        // These four values are part of the interface: a logged seed must replay with later versions.
        let drawn = Seeded::new(7, 1).draw(&[1, 4]);
        assert_eq!(
            drawn,
            [0.858_154, -0.117_478_54, -1.211_161_4, -0.435_431_2]
        );
    }

    #[test]
    fn noise_is_standard_normal() {
        let drawn = Seeded::new(11, 1).draw(&[1, 200_000]);
        let count = drawn.len() as f64;
        let moment = |power: i32| {
            drawn
                .iter()
                .map(|&value| f64::from(value).powi(power))
                .sum::<f64>()
                / count
        };
        // Five standard errors of each moment.
        assert!(moment(1).abs() < 5.0 * (1.0 / count).sqrt());
        assert!((moment(2) - 1.0).abs() < 5.0 * (2.0 / count).sqrt());
        assert!((moment(4) - 3.0).abs() < 5.0 * (96.0 / count).sqrt());
    }
}
