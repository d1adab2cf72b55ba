use std::fmt::Debug;
use std::ops::RangeInclusive;

use super::{Line, Schedule, ScheduleError, linspace, preserving, squared_cosine};
use crate::Level;

/// The longest table that can be asked for; the field uses 100 to 4000.
const LONGEST: usize = 1 << 20;

/// A variance-preserving table: `alpha_t = √ᾱ_t`, `ᾱ_t = Π (1 − β_i)` for `i ≤ t`, `t = 0 .. n − 1`.
///
/// Between two entries `S = sigma / alpha` is interpolated linearly, as the samplers that use fractional timesteps do.
///
/// Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, section 2.
#[derive(Clone, PartialEq)]
pub struct Discrete {
    betas: Vec<f64>,
    levels: Vec<Level>,
}

impl Discrete {
    /// `β = linspace(start, end, n)`, diffusers' `linear`.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for an empty table or a beta outside of (0, 1).
    pub fn linear(n: usize, start: f64, end: f64) -> Result<Self, ScheduleError> {
        check_length(n, 1)?;
        Self::from_betas(linspace(start, end, n).collect())
    }

    /// `β = linspace(√start, √end, n)²`, diffusers' `scaled_linear`; Stable Diffusion's.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for an empty table or a beta outside of (0, 1).
    pub fn scaled_linear(n: usize, start: f64, end: f64) -> Result<Self, ScheduleError> {
        check_length(n, 1)?;
        Self::from_betas(
            linspace(start.sqrt(), end.sqrt(), n)
                .map(|root| root * root)
                .collect(),
        )
    }

    /// The cosine table, diffusers' `squaredcos_cap_v2`; robot policies'.
    ///
    /// ```text
    /// β_i = min(1 − f((i+1)/n) / f(i/n), 0.999),   f(t) = cos²((t + 0.008) / 1.008 · π/2)
    /// ```
    ///
    /// Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672, equation 17.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for an empty table.
    pub fn squared_cosine(n: usize) -> Result<Self, ScheduleError> {
        check_length(n, 1)?;
        // The division must be in floating point: two published ports divide integers and get betas of zero.
        let f = |i: usize| squared_cosine(i as f64 / n as f64);
        Self::from_betas((0..n).map(|i| (1.0 - f(i + 1) / f(i)).min(0.999)).collect())
    }

    /// A table from its betas.
    ///
    /// # Errors
    ///
    /// [`ScheduleError`] for an empty table or a beta outside of (0, 1).
    pub fn from_betas(betas: Vec<f64>) -> Result<Self, ScheduleError> {
        check_length(betas.len(), 1)?;
        let mut cumulative = 1.0;
        let mut levels = Vec::with_capacity(betas.len());
        for (index, &value) in betas.iter().enumerate() {
            if !(value > 0.0 && value < 1.0) {
                return Err(ScheduleError::Beta { index, value });
            }
            cumulative *= 1.0 - value;
            levels.push(preserving(cumulative));
        }
        Ok(Self { betas, levels })
    }

    /// The same table stretched so that its last entry is pure noise.
    ///
    /// ```text
    /// √ᾱ ← (√ᾱ − √ᾱ_last) · √ᾱ_first / (√ᾱ_first − √ᾱ_last)
    /// ```
    ///
    /// A network that predicts noise says nothing there; use it with velocity or sample prediction.
    ///
    /// Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891,
    /// algorithm 1.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Length`] for a table of one entry, [`ScheduleError::Parameter`] for one without noise.
    pub fn with_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        check_length(self.levels.len(), 2)?;
        let first = self.levels[0].alpha;
        let last = self.levels[self.levels.len() - 1].alpha;
        if first <= last {
            return Err(ScheduleError::Parameter {
                name: "noise of the last timestep",
                expected: "above that of the first",
                value: self.levels[self.levels.len() - 1].sigma,
            });
        }
        let alphas: Vec<f64> = self
            .levels
            .iter()
            .map(|level| (level.alpha - last) * first / (first - last))
            .collect();
        let levels: Vec<Level> = alphas
            .iter()
            .map(|alpha| preserving(alpha * alpha))
            .collect();
        let betas = std::iter::once(1.0 - alphas[0].powi(2))
            .chain(
                alphas
                    .windows(2)
                    .map(|pair| 1.0 - (pair[1] / pair[0]).powi(2)),
            )
            .collect();
        Ok(Self { betas, levels })
    }

    /// The number of entries.
    #[expect(clippy::len_without_is_empty, reason = "a table is never empty")]
    pub fn len(&self) -> usize {
        self.levels.len()
    }

    /// `β_t`, the variance that step `t` adds.
    pub fn betas(&self) -> &[f64] {
        &self.betas
    }

    /// The levels of the table.
    pub fn levels(&self) -> &[Level] {
        &self.levels
    }
}

impl Debug for Discrete {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A thousand levels say less than their ends.
        f.debug_struct("Discrete")
            .field("len", &self.levels.len())
            .field("first", &self.levels[0])
            .field("last", &self.levels[self.levels.len() - 1])
            .finish_non_exhaustive()
    }
}

impl Schedule for Discrete {
    fn level(&self, t: f64) -> Level {
        let last = self.levels.len() - 1;
        let t = t.clamp(0.0, last as f64);
        let (below, fraction) = (t as usize, t.fract());
        // Not the other way round: a NaN is no place in the table.
        if fraction == 0.0 || fraction.is_nan() {
            return self.levels[below];
        }
        let (low, high) = (self.levels[below].ratio(), self.levels[below + 1].ratio());
        let ratio = if high.is_finite() {
            low + fraction * (high - low)
        } else {
            // Towards pure noise it is alpha / sigma that falls to zero linearly.
            low / (1.0 - fraction)
        };
        Line::Preserving.level(ratio)
    }

    fn time(&self, ratio: f64) -> f64 {
        let above = self.levels.partition_point(|level| level.ratio() <= ratio);
        if above == 0 {
            return 0.0;
        }
        if above == self.levels.len() {
            return (above - 1) as f64;
        }
        let (low, high) = (self.levels[above - 1].ratio(), self.levels[above].ratio());
        let fraction = if high.is_finite() {
            // Linear in ln S, as diffusers' `_sigma_to_t`.
            (ratio / low).ln() / (high / low).ln()
        } else {
            1.0 - low / ratio
        };
        (above - 1) as f64 + fraction
    }

    fn domain(&self) -> RangeInclusive<f64> {
        0.0..=(self.levels.len() - 1) as f64
    }

    fn line(&self) -> Line {
        Line::Preserving
    }

    fn snap(&self, t: f64) -> f64 {
        t.floor()
    }
}

fn check_length(found: usize, least: usize) -> Result<(), ScheduleError> {
    if found < least {
        return Err(ScheduleError::Length { least, found });
    }
    if found > LONGEST {
        return Err(ScheduleError::Parameter {
            name: "length",
            expected: "at most 1048576",
            value: found as f64,
        });
    }
    Ok(())
}
