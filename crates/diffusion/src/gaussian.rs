use burn::tensor::Tensor;

use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Level, Point};

/// The exact denoiser of data that is normal in every entry, `x₀ ~ N(mean, deviation²)`.
///
/// ```text
/// E[x₀ | x] = mean + α d² / (α² d² + σ²) · (x − α · mean)
/// ```
///
/// Solvers can be measured on it without a network, since its probability-flow ODE has a closed solution:
/// `(x − α · mean) / √(α² d² + σ²)` is constant.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Gaussian {
    /// The mean of the data.
    pub mean: f64,
    /// The standard deviation of the data.
    pub deviation: f64,
}

impl Gaussian {
    /// `E[x₀ | x]` for one number.
    pub fn clean(&self, x: f64, level: Level) -> f64 {
        self.mean + self.gain(level) * (x - level.alpha * self.mean)
    }

    /// Where the probability-flow ODE takes `x` from one level to another.
    pub fn flow(&self, x: f64, from: Level, to: Level) -> f64 {
        let spread = |level: Level| (level.alpha * self.deviation).hypot(level.sigma);
        to.alpha * self.mean + (x - from.alpha * self.mean) * spread(to) / spread(from)
    }

    fn gain(&self, level: Level) -> f64 {
        let variance = self.deviation * self.deviation;
        level.alpha * variance / (level.alpha.powi(2) * variance + level.sigma.powi(2))
    }
}

impl<const D: usize> Denoiser<D> for Gaussian {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn denoise(&self, x: Tensor<D>, points: &[Point], (): &()) -> Estimate<D> {
        let factors = |of: &dyn Fn(Level) -> f64| -> Vec<f64> {
            points.iter().map(|point| of(point.level)).collect()
        };
        let zero = || x.zeros_like();
        let mean = x.ones_like().mul_scalar(self.mean);
        let residual =
            x.clone() - scaled(&mean, &factors(&|level| level.alpha)).unwrap_or_else(zero);
        // x − α x̂ = σ² / (α² d² + σ²) · residual, in a form that does not cancel.
        let noise = factors(&|level| {
            let spread = (level.alpha * self.deviation).hypot(level.sigma);
            level.sigma / (spread * spread)
        });
        let gain = factors(&|level| self.gain(level));
        Estimate {
            clean: mean + scaled(&residual, &gain).unwrap_or_else(zero),
            noise: scaled(&residual, &noise).unwrap_or_else(zero),
        }
    }
}
