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
/// last digits. As in torch one generator serves a whole batch, so a sample depends on the batch it is in; a
/// [`Seeded`](super::Seeded) sample does not.
///
/// torch 2.11, `aten/src/ATen/native/cpu/DistributionTemplates.h`, `normal_fill` and `normal_distribution`.
#[derive(Clone, Debug)]
pub struct Torch {
    generator: Mt,
    /// The sine of the last pair of a short draw, which torch keeps for the next.
    kept: Option<f64>,
}

impl Torch {
    /// What `torch.Generator().manual_seed(seed)` gives; as there, only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        Self {
            generator: Mt::new(seed as u32),
            kept: None,
        }
    }

    /// `torch.randn(n)`.
    pub fn randn(&mut self, n: usize) -> Vec<f32> {
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
        f64::from(self.generator.next_u32() & ((1 << BITS) - 1)) / f64::from(1 << BITS)
    }

    fn uniform_53(&mut self) -> f64 {
        const BITS: u32 = 53;
        let high = u64::from(self.generator.next_u32());
        let bits = (high << 32 | u64::from(self.generator.next_u32())) & ((1 << BITS) - 1);
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
        self.randn(shape.iter().product())
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
