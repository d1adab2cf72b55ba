use std::ops::RangeInclusive;

use super::{Line, Schedule, ScheduleError, preserving, squared_cosine};
use crate::Level;

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
        // The usual denominator, 1 + (shift − 1) σ, is not exact at σ = 1.
        self.shift * sigma / (self.shift * sigma + (1.0 - sigma))
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
