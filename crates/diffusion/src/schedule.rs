//! Noise schedules: how much signal and how much noise there is at a time.

use std::fmt::Debug;
use std::ops::RangeInclusive;

use crate::Level;

/// The curve in the plane of (alpha, sigma) on which a schedule runs.
///
/// A noise-to-signal ratio `S` is one level on each line, and the three are the same process seen in three units:
/// dividing `x_t` by [`norm`](Line::norm) moves it onto the line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Line {
    /// `alpha² + sigma² = 1`: DDPM and Stable Diffusion.
    Preserving,
    /// `alpha = 1`: EDM, and the σ-space in which Euler and Heun are usually written.
    Exploding,
    /// `alpha + sigma = 1`: flow matching.
    Straight,
}

impl Line {
    /// The level on this line at the noise-to-signal ratio `S = sigma / alpha`.
    pub fn level(self, ratio: f64) -> Level {
        if ratio.is_infinite() && self != Self::Exploding {
            return Level {
                alpha: 0.0,
                sigma: 1.0,
            };
        }
        let unscaled = Level {
            alpha: 1.0,
            sigma: ratio,
        };
        let norm = self.norm(unscaled);
        Level {
            alpha: 1.0 / norm,
            sigma: ratio / norm,
        }
    }

    /// What a sample at `level` must be divided by to lie on this line: `√(α² + σ²)`, `α` or `α + σ`.
    pub fn norm(self, level: Level) -> f64 {
        match self {
            Self::Preserving => level.magnitude(),
            Self::Exploding => level.alpha,
            Self::Straight => level.alpha + level.sigma,
        }
    }
}

/// A noise schedule: a level for every time.
///
/// Noise grows with time, whatever the unit of time: an index, a fraction, a logarithm.
pub trait Schedule: Debug + Send + Sync {
    /// The level at time `t`; outside of [`domain`](Schedule::domain), that of the nearest end.
    fn level(&self, t: f64) -> Level;

    /// The time at which `sigma / alpha` is `ratio`; outside of the schedule, the nearest end.
    fn time(&self, ratio: f64) -> f64;

    /// The times that the schedule knows.
    fn domain(&self) -> RangeInclusive<f64>;

    /// The line on which the levels lie.
    fn line(&self) -> Line;

    /// The time nearest below `t` that a network was trained on: `t` itself, or a whole number for a table.
    fn snap(&self, t: f64) -> f64 {
        t
    }
}

/// Why a schedule cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScheduleError {
    /// A table needs entries.
    #[error("a noise schedule needs at least {least} timesteps, found {found}")]
    Length {
        /// The smallest length that works.
        least: usize,
        /// What was asked for.
        found: usize,
    },
    /// A beta is a variance that a step adds to a sample of variance one.
    #[error("beta {index} of the noise schedule must be above 0 and below 1, found {value}")]
    Beta {
        /// Where.
        index: usize,
        /// What.
        value: f64,
    },
    /// A parameter makes no sense.
    #[error("{name} of the noise schedule must be {expected}, found {value}")]
    Parameter {
        /// Which.
        name: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it was.
        value: f64,
    },
}

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
    /// [`ScheduleError::Length`] for a table of one entry.
    pub fn with_zero_terminal_snr(&self) -> Result<Self, ScheduleError> {
        check_length(self.levels.len(), 2)?;
        let first = self.levels[0].alpha;
        let last = self.levels[self.levels.len() - 1].alpha;
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
        if fraction == 0.0 {
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

/// The continuous cosine schedule, `t` in [0, 1].
///
/// ```text
/// ᾱ(t) = f(t) / f(0),   f(t) = cos²((t + 0.008) / 1.008 · π/2)
/// ```
///
/// Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, arXiv:2102.09672, equation 17.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Cosine;

impl Schedule for Cosine {
    fn level(&self, t: f64) -> Level {
        let t = t.clamp(0.0, 1.0);
        // At the end the cosine is 6e-17 for want of digits of pi; pure noise is meant.
        let cumulative = if t >= 1.0 {
            0.0
        } else {
            (squared_cosine(t) / squared_cosine(0.0)).min(1.0)
        };
        preserving(cumulative)
    }

    fn time(&self, ratio: f64) -> f64 {
        let alpha = Line::Preserving.level(ratio).alpha;
        let angle = (alpha * squared_cosine(0.0).sqrt()).acos();
        (angle / std::f64::consts::FRAC_PI_2 * 1.008 - 0.008).clamp(0.0, 1.0)
    }

    fn domain(&self) -> RangeInclusive<f64> {
        0.0..=1.0
    }

    fn line(&self) -> Line {
        Line::Preserving
    }
}

/// Flow matching on straight lines: `x_t = (1 − σ) x₀ + σ ε`, with `t = timesteps · σ`.
///
/// The shift moves where a grid spends its steps (see [`shifted`](FlowMatching::shifted) and
/// [`Grid::flow`](crate::Grid::flow)); the line itself is the same.
///
/// Lipman et al., "Flow Matching for Generative Modeling", 2022, arXiv:2210.02747; Esser et al., "Scaling Rectified
/// Flow Transformers for High-Resolution Image Synthesis", 2024, arXiv:2403.03206, section 5.3.2 for the shift.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FlowMatching {
    timesteps: f64,
    shift: f64,
}

impl FlowMatching {
    /// A flow whose network is told `t = timesteps · σ`: 1 for most robot policies, 1000 for most image models.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Parameter`] unless both numbers are positive and finite.
    pub fn new(timesteps: f64, shift: f64) -> Result<Self, ScheduleError> {
        check_positive("timesteps", timesteps)?;
        check_positive("shift", shift)?;
        Ok(Self { timesteps, shift })
    }

    /// `σ ← shift · σ / (1 + (shift − 1) · σ)`: above one it spends more steps on noisy samples.
    pub fn shifted(&self, sigma: f64) -> f64 {
        self.shift * sigma / (1.0 + (self.shift - 1.0) * sigma)
    }
}

impl Schedule for FlowMatching {
    fn level(&self, t: f64) -> Level {
        let sigma = (t / self.timesteps).clamp(0.0, 1.0);
        Level {
            alpha: 1.0 - sigma,
            sigma,
        }
    }

    fn time(&self, ratio: f64) -> f64 {
        self.timesteps * Line::Straight.level(ratio.max(0.0)).sigma
    }

    fn domain(&self) -> RangeInclusive<f64> {
        0.0..=self.timesteps
    }

    fn line(&self) -> Line {
        Line::Straight
    }
}

/// EDM: `x_t = x₀ + σ ε`, with `t = ln(σ) / 4`.
///
/// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364,
/// table 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Edm {
    sigma_min: f64,
    sigma_max: f64,
}

impl Edm {
    /// A schedule between two noise levels; the paper's are 0.002 and 80.
    ///
    /// # Errors
    ///
    /// [`ScheduleError::Parameter`] unless `0 < sigma_min < sigma_max`, both finite.
    pub fn new(sigma_min: f64, sigma_max: f64) -> Result<Self, ScheduleError> {
        check_positive("sigma_min", sigma_min)?;
        check_positive("sigma_max", sigma_max)?;
        if sigma_min >= sigma_max {
            return Err(ScheduleError::Parameter {
                name: "sigma_min",
                expected: "below sigma_max",
                value: sigma_min,
            });
        }
        Ok(Self {
            sigma_min,
            sigma_max,
        })
    }
}

impl Schedule for Edm {
    fn level(&self, t: f64) -> Level {
        Level {
            alpha: 1.0,
            sigma: (4.0 * t).exp().clamp(self.sigma_min, self.sigma_max),
        }
    }

    fn time(&self, ratio: f64) -> f64 {
        ratio.clamp(self.sigma_min, self.sigma_max).ln() / 4.0
    }

    fn domain(&self) -> RangeInclusive<f64> {
        self.sigma_min.ln() / 4.0..=self.sigma_max.ln() / 4.0
    }

    fn line(&self) -> Line {
        Line::Exploding
    }
}

/// Another schedule seen in σ-space: the same times and ratios, with `alpha = 1` and `sigma = S`.
///
/// Euler, Heun and their kin are usually written there. A network that was trained on the other schedule must be told
/// so: [`Parameterized::trained_on`](crate::Parameterized::trained_on).
#[derive(Clone, Debug, PartialEq)]
pub struct Exploding<S>(pub S);

impl<S: Schedule> Schedule for Exploding<S> {
    fn level(&self, t: f64) -> Level {
        Line::Exploding.level(self.0.level(t).ratio())
    }

    fn time(&self, ratio: f64) -> f64 {
        self.0.time(ratio)
    }

    fn domain(&self) -> RangeInclusive<f64> {
        self.0.domain()
    }

    fn line(&self) -> Line {
        Line::Exploding
    }

    fn snap(&self, t: f64) -> f64 {
        self.0.snap(t)
    }
}

/// `f(t) = cos²((t + 0.008) / 1.008 · π/2)`.
fn squared_cosine(t: f64) -> f64 {
    ((t + 0.008) / 1.008 * std::f64::consts::FRAC_PI_2)
        .cos()
        .powi(2)
}

/// The variance-preserving level of a cumulative product `ᾱ`.
fn preserving(cumulative: f64) -> Level {
    Level {
        alpha: cumulative.sqrt(),
        sigma: (1.0 - cumulative).sqrt(),
    }
}

/// `n` equally spaced numbers from `start` to `end`, both included.
pub(crate) fn linspace(start: f64, end: f64, n: usize) -> impl Iterator<Item = f64> {
    let width = n.saturating_sub(1).max(1) as f64;
    (0..n).map(move |i| start + (end - start) * (i as f64 / width))
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

fn check_positive(name: &'static str, value: f64) -> Result<(), ScheduleError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(ScheduleError::Parameter {
            name,
            expected: "positive and finite",
            value,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn squared_cosine_has_the_betas_of_the_paper() {
        let table = Discrete::squared_cosine(100).expect("a hundred timesteps");
        assert!((table.betas()[0] - 0.000_631_28).abs() < 1e-8);
        assert!((table.betas()[99] - 0.999).abs() < 1e-12);
        assert!(
            (table.levels()[50].alpha.powi(2) - 0.478_264_57).abs() < 1e-6,
            "diffusers' value, which is f32"
        );
    }

    #[test]
    fn time_inverts_level() {
        let flow = FlowMatching::new(1000.0, 3.0).expect("valid");
        let edm = Edm::new(0.002, 80.0).expect("valid");
        for (schedule, t) in [
            (&Cosine as &dyn Schedule, 0.3),
            (&flow, 421.5),
            (&edm, 0.25),
            (&Exploding(Cosine), 0.7),
        ] {
            let back = schedule.time(schedule.level(t).ratio());
            assert!((back - t).abs() < 1e-9, "{schedule:?}: {t} became {back}");
        }
        let table = Discrete::scaled_linear(1000, 0.00085, 0.012).expect("valid");
        for t in [0.0, 1.0, 500.0, 999.0] {
            assert!((table.time(table.level(t).ratio()) - t).abs() < 1e-9);
        }
    }

    #[test]
    fn zero_terminal_snr_ends_in_pure_noise_and_keeps_the_start() {
        let table = Discrete::scaled_linear(1000, 0.00085, 0.012).expect("valid");
        let stretched = table.with_zero_terminal_snr().expect("long enough");
        assert_eq!(
            stretched.level(999.0),
            Level {
                alpha: 0.0,
                sigma: 1.0
            }
        );
        assert!((stretched.level(0.0).alpha - table.level(0.0).alpha).abs() < 1e-12);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        assert_eq!(
            Discrete::linear(3, -0.1, 0.2)
                .expect_err("a negative beta")
                .to_string(),
            "beta 0 of the noise schedule must be above 0 and below 1, found -0.1"
        );
        assert!(Discrete::squared_cosine(0).is_err());
        assert!(Discrete::linear(2, 0.1, f64::NAN).is_err());
        assert!(FlowMatching::new(0.0, 1.0).is_err());
        assert!(Edm::new(80.0, 0.002).is_err());
    }
}
