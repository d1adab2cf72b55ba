//! The random draws of NumPy's `default_rng(seed)`, which gymnasium's environments reset from.
//!
//! `gymnasium.utils.seeding.np_random(seed)` is `Generator(PCG64(SeedSequence(seed)))`.
//! The draws below equal NumPy's bit for bit (checked against NumPy 2.4).

use std::f64::consts::PI;

use rand_pcg::{Lcg128Xsl64, rand_core::Rng as _};

/// `numpy.random.Generator` over `PCG64`, for the two distributions that resets use.
#[derive(Debug, Clone)]
pub(crate) struct Generator {
    /// PCG XSL RR 128/64.
    bits: Lcg128Xsl64,
    /// The upper half of the last 64-bit word, where a 32-bit draw took only the lower half.
    half: Option<u32>,
}

impl Generator {
    /// `Generator(PCG64(SeedSequence(seed)))`.
    pub(crate) fn new(seed: u64) -> Self {
        let [state_high, state_low, stream_high, stream_low] = seed_sequence(seed);
        let wide = |high, low| u128::from(high) << 64 | u128::from(low);
        Self {
            bits: Lcg128Xsl64::new(wide(state_high, state_low), wide(stream_high, stream_low)),
            half: None,
        }
    }

    /// A 32-bit word: the lower half of a 64-bit one, then its upper half.
    fn next_u32(&mut self) -> u32 {
        self.half.take().unwrap_or_else(|| {
            let word = self.bits.next_u64();
            self.half = Some((word >> 32) as u32);
            word as u32
        })
    }

    /// `Generator.integers(low, low + count)`: an integer in `[low, low + count)`, by Lemire's rejection on 32 bits.
    ///
    /// Lemire, "Fast Random Integer Generation in an Interval", 2019, arXiv:1805.10941.
    pub(crate) fn integers(&mut self, low: u32, count: u32) -> u32 {
        let count = u64::from(count);
        // The 2^32 mod count smallest remainders are over-represented and rejected.
        let threshold = (1_u64 << 32) % count;
        loop {
            let product = u64::from(self.next_u32()) * count;
            if (product & 0xFFFF_FFFF) >= threshold {
                return low + (product >> 32) as u32;
            }
        }
    }

    /// `Generator.uniform(low, high)`: a 53-bit fraction of the interval.
    pub(crate) fn uniform(&mut self, low: f64, high: f64) -> f64 {
        let fraction = (self.bits.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        low + (high - low) * fraction
    }

    /// A standard normal number by Marsaglia's polar method: NumPy's distribution, not its draws.
    pub(crate) fn normal(&mut self) -> f64 {
        loop {
            let (x, y) = (self.uniform(-1.0, 1.0), self.uniform(-1.0, 1.0));
            let square = x * x + y * y;
            if square > 0.0 && square < 1.0 {
                return x * (-2.0 * square.ln() / square).sqrt();
            }
        }
    }

    /// `Generator.uniform(-pi, pi)`: a 53-bit fraction of the interval. It leaves a buffered half word where it is.
    pub(crate) fn angle(&mut self) -> f64 {
        let fraction = (self.bits.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
        -PI + (PI - -PI) * fraction
    }
}

/// `SeedSequence(seed).generate_state(4, uint64)`.
///
/// O'Neill's `seed_seq` with 32-bit multiplicative hashing: the seed's words are hashed into a pool of four, every word
/// of the pool is mixed into every other, and the output words are hashes of the pool.
fn seed_sequence(seed: u64) -> [u64; 4] {
    const POOL: usize = 4;
    const SHIFT: u32 = 16;

    // The multiplier itself is multiplied on between two words, so that equal words hash differently.
    fn hash(word: u32, multiplier: &mut u32, step: u32) -> u32 {
        let word = word ^ *multiplier;
        *multiplier = multiplier.wrapping_mul(step);
        let word = word.wrapping_mul(*multiplier);
        word ^ word >> SHIFT
    }
    fn mix(into: u32, word: u32) -> u32 {
        let mixed = into
            .wrapping_mul(0xCA01_F9DD)
            .wrapping_sub(word.wrapping_mul(0x4973_F715));
        mixed ^ mixed >> SHIFT
    }

    let mut multiplier = 0x43B0_D7E5;
    let mut entropy = |word| hash(word, &mut multiplier, 0x931E_8875);
    let mut pool: [u32; POOL] = [seed as u32, (seed >> 32) as u32, 0, 0].map(&mut entropy);
    for source in 0..POOL {
        for target in (0..POOL).filter(|&target| target != source) {
            pool[target] = mix(pool[target], entropy(pool[source]));
        }
    }

    let mut multiplier = 0x8B51_F9DD;
    let mut output = |index: usize| hash(pool[index % POOL], &mut multiplier, 0x58F3_8DED);
    [0, 2, 4, 6].map(|index| {
        let low = output(index);
        u64::from(low) | u64::from(output(index + 1)) << 32
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // Every expected value below was printed by NumPy 2.4.6.

    #[test]
    fn seed_sequence_is_numpys() {
        let cases = [
            (
                0,
                [
                    0xDB2C_D7E7_B0F4_78BE,
                    0xABF4_641A_2C71_BA49,
                    0x20C6_ED6D_9D7B_8D41,
                    0x2C40_99DE_223C_39D4,
                ],
            ),
            (
                100_000,
                [
                    0x10F4_1992_2C5B_568E,
                    0xF22B_D50C_2485_CC61,
                    0x2002_DAF4_CB9C_DF69,
                    0xB33E_3259_A58E_C17A,
                ],
            ),
            (
                1 << 32,
                [
                    0x50FF_846C_EC53_F444,
                    0x7A49_18DB_E827_8562,
                    0x3BFF_9F6C_362E_2B19,
                    0xBDB1_7753_9A06_54E3,
                ],
            ),
            (
                u64::MAX,
                [
                    0xAEBC_A151_928C_AD0D,
                    0x119C_3044_8638_DC7A,
                    0x1BBB_1556_59E6_42A7,
                    0xA76B_11E3_E8C4_A8F6,
                ],
            ),
        ];
        for (seed, expected) in cases {
            assert_eq!(seed_sequence(seed), expected, "seed {seed}");
        }
    }

    #[test]
    fn words_are_pcg64s() {
        let cases = [
            (
                0,
                [
                    0xA30F_EBCF_D9C2_825F,
                    0x4510_BDF8_82D9_D721,
                    0x0A7D_3DA9_4ECD_E8B8,
                ],
            ),
            (
                12_345,
                [
                    0x3A32_B18D_B2FF_C19D,
                    0x5117_1315_C9E4_C4DE,
                    0xCC20_2482_3444_EFD9,
                ],
            ),
        ];
        for (seed, expected) in cases {
            let mut generator = Generator::new(seed);
            assert_eq!(
                [(); 3].map(|()| generator.bits.next_u64()),
                expected,
                "seed {seed}"
            );
        }
    }

    #[test]
    fn integers_then_a_float_are_numpys() {
        // An odd number of 32-bit draws before the float leaves a half word waiting: the float must not take it.
        let cases = [
            (
                0,
                [390, 304, 254, 157, 173],
                -f64::from_bits(0x4008_4D4E_03AE_870A),
            ),
            (
                1,
                [239, 254, 352, 430, 63],
                f64::from_bits(0x4006_8D34_6825_5F64),
            ),
            (
                12_345,
                [329, 140, 365, 176, 131],
                f64::from_bits(0x3FF1_B813_CCC1_4FFC),
            ),
            (
                1 << 32,
                [258, 405, 447, 272, 171],
                f64::from_bits(0x4006_F267_347D_47CA),
            ),
        ];
        for (seed, integers, float) in cases {
            let mut generator = Generator::new(seed);
            assert_eq!(
                [(); 5].map(|()| generator.integers(50, 400)),
                integers,
                "seed {seed}"
            );
            assert_eq!(generator.angle().to_bits(), float.to_bits(), "seed {seed}");
        }
    }

    #[test]
    fn rejection_is_numpys() {
        // integers(0, 3 * 2**30) rejects a quarter of the words; NumPy's draws for seed 7.
        let mut generator = Generator::new(7);
        let drawn = [(); 12].map(|()| generator.integers(0, 3 << 30));
        assert_eq!(
            drawn,
            [
                3_043_751_912,
                2_013_573_438,
                2_203_897_839,
                1_862_810_377,
                2_498_658_503,
                2_685_377_905,
                725_443_136,
                178_879_731,
                966_903_282,
                2_813_912_609,
                16_960_732,
                1_609_925_925
            ]
        );
    }
}
