//! Noise schedules: how much signal and how much noise there is at a time.

mod continuous;
mod discrete;

pub use continuous::{Cosine, Edm, FlowMatching};
pub use discrete::Discrete;

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
    ///
    /// Between two entries of a table it is interpolated as diffusers does, in `ln S`, where levels are in `S`: there it
    /// is not exactly the inverse of [`level`](Schedule::level).
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
