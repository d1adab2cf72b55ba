use std::f64::consts::TAU;

use rand_mt::Mt;

use super::Noise;

/// The numbers of `torch.randn` in f32 on the CPU, for a seed.
///
/// ```text
/// n ≥ 16   d = u32 mod 2²⁴ / 2²⁴ for all n;  in blocks of 16, j = 0 .. 7:
///          r = √(−2 ln(1 − d[j])),  θ = 2π d[j+8];   d[j] = r cos θ,  d[j+8] = r sin θ
///          if 16 does not divide n, the last 16 places are drawn anew and transformed
/// n < 16   u₁, u₂ = u64 mod 2⁵³ / 2⁵³;   r = √(−2 ln(1 − u₂)),  θ = 2π u₁;   r cos θ, then r sin θ
/// ```
///
/// The generator is MT19937. The values agree with torch's to 1e-6: its vectorized logarithm and sine differ in the
/// last digits.
///
/// One generator serves a whole batch, as in torch, so that a sample depends on the batch it is in; or each sample has
/// [one of its own](Self::each), as where diffusers is given a list of generators.
///
/// torch 2.11, `aten/src/ATen/native/cpu/DistributionTemplates.h`, `normal_fill` and `normal_distribution`.
#[derive(Clone, Debug)]
pub struct Torch {
    generators: Vec<Generator>,
}

/// One of torch's generators.
#[derive(Clone, Debug)]
struct Generator {
    mersenne: Mt,
    /// The sine of the last pair of a short draw, which torch keeps for the next.
    kept: Option<f64>,
}

impl Torch {
    /// What `torch.Generator().manual_seed(seed)` gives; as there, only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        Self {
            generators: vec![Generator::new(seed)],
        }
    }

    /// A generator a sample: each sample gets what it would get alone.
    ///
    /// ```
    /// use clearway_diffusion::{Noise, Torch};
    ///
    /// let alone = Torch::new(7).draw(&[1, 4, 8, 8]);
    /// let batch = Torch::each(&[3, 7]).draw(&[2, 4, 8, 8]);
    /// assert_eq!(alone, batch[256..]);
    /// ```
    ///
    /// # Panics
    ///
    /// If there are no seeds.
    pub fn each(seeds: &[u64]) -> Self {
        assert!(!seeds.is_empty(), "a generator needs a seed");
        Self {
            generators: seeds.iter().map(|&seed| Generator::new(seed)).collect(),
        }
    }

    /// `torch.randn(n)`, of the first generator.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
        self.generators[0].randn(n)
    }
}

impl Generator {
    fn new(seed: u64) -> Self {
        Self {
            mersenne: Mt::new(seed as u32),
            kept: None,
        }
    }

    fn randn(&mut self, n: usize) -> Vec<f32> {
        if n < BLOCK {
            return (0..n).map(|_| self.pairwise() as f32).collect();
        }
        let mut values: Vec<f64> = (0..n).map(|_| self.uniform_24()).collect();
        for block in values.chunks_exact_mut(BLOCK) {
            transform(block);
        }
        if !n.is_multiple_of(BLOCK) {
            let last = &mut values[n - BLOCK..];
            for value in last.iter_mut() {
                *value = self.uniform_24();
            }
            transform(last);
        }
        values.into_iter().map(|value| value as f32).collect()
    }

    fn uniform_24(&mut self) -> f64 {
        const BITS: u32 = 24;
        f64::from(self.mersenne.next_u32() & ((1 << BITS) - 1)) / f64::from(1 << BITS)
    }

    fn uniform_53(&mut self) -> f64 {
        const BITS: u32 = 53;
        let high = u64::from(self.mersenne.next_u32());
        let bits = (high << 32 | u64::from(self.mersenne.next_u32())) & ((1 << BITS) - 1);
        bits as f64 / (1_u64 << BITS) as f64
    }

    fn pairwise(&mut self) -> f64 {
        if let Some(kept) = self.kept.take() {
            return kept;
        }
        let angle = TAU * self.uniform_53();
        let radius = (-2.0 * (-self.uniform_53()).ln_1p()).sqrt();
        self.kept = Some(radius * angle.sin());
        radius * angle.cos()
    }
}

impl Noise for Torch {
    fn draw(&mut self, shape: &[usize]) -> Vec<f32> {
        let numbers: usize = shape.iter().product();
        if let [generator] = &mut self.generators[..] {
            return generator.randn(numbers);
        }
        let count = self.generators.len();
        assert_eq!(shape.first(), Some(&count), "one generator a sample");
        let draws = self.generators.iter_mut();
        draws
            .flat_map(|generator| generator.randn(numbers / count))
            .collect()
    }
}

/// What torch transforms at once.
const BLOCK: usize = 16;

/// Box and Muller's transform of a block of uniform numbers, in place.
fn transform(block: &mut [f64]) {
    let (radii, angles) = block.split_at_mut(BLOCK / 2);
    for (first, second) in radii.iter_mut().zip(angles) {
        let radius = (-2.0 * (-*first).ln_1p()).sqrt();
        let angle = TAU * *second;
        (*first, *second) = (radius * angle.cos(), radius * angle.sin());
    }
}
