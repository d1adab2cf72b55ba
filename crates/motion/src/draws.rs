//! Random numbers from a seed, the same on every machine.

use rand_pcg::{Pcg64Mcg, rand_core::Rng as _};

/// Draws of one seed.
#[derive(Debug, Clone)]
pub(crate) struct Draws {
    bits: Pcg64Mcg,
}

impl Draws {
    pub(crate) fn new(seed: u64) -> Self {
        // SplitMix64's finalizer: neighbouring seeds have nothing in common. The generator needs an odd state and makes
        // it so itself.
        let mix = |mut z: u64| {
            z = (z ^ z >> 30).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            z = (z ^ z >> 27).wrapping_mul(0x94D0_49BB_1331_11EB);
            z ^ z >> 31
        };
        let high = mix(seed.wrapping_add(0x9E37_79B9_7F4A_7C15));
        let low = mix(seed.wrapping_add(0x3C6E_F372_FE94_F82A));
        Self {
            bits: Pcg64Mcg::new(u128::from(high) << 64 | u128::from(low)),
        }
    }

    /// In [0, 1), of 53 bits.
    pub(crate) fn fraction(&mut self) -> f64 {
        (self.bits.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// In [low, high].
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        (low + (high - low) * self.fraction()).clamp(low, high)
    }
}
