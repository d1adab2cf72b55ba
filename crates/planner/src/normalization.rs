//! Between physical values and what a network was trained on. On the host, in f64; images in f32.

use std::fmt;

/// How the values of a feature are normalized.
///
/// | mode | normalize | unnormalize |
/// |---|---|---|
/// | `Identity` | y = x | x = y |
/// | `MeanStd` | y = (x - mean) / (std + eps) | x = y · std + mean |
/// | `MinMax`, `Quantiles`, `Quantile10` | y = 2 (x - low) / (high - low) - 1 | x = (y + 1)/2 · (high - low) + low |
///
/// `low` and `high` are minimum and maximum, or the quantiles 1 % and 99 %, or 10 % and 90 %. How a range of zero is
/// treated depends on the [`Edition`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Values are passed on.
    Identity,
    /// To mean zero and standard deviation one.
    MeanStd,
    /// The range of the data to [-1, 1].
    MinMax,
    /// The range between the quantiles of 1 % and 99 % to [-1, 1].
    Quantiles,
    /// The range between the quantiles of 10 % and 90 % to [-1, 1].
    Quantile10,
}

impl Mode {
    /// The statistics that the mode needs, named as LeRobot names them: an offset and a scale, or a low and a high end.
    pub fn statistics(self) -> Option<[&'static str; 2]> {
        match self {
            Self::Identity => None,
            Self::MeanStd => Some(["mean", "std"]),
            Self::MinMax => Some(["min", "max"]),
            Self::Quantiles => Some(["q01", "q99"]),
            Self::Quantile10 => Some(["q10", "q90"]),
        }
    }
}

impl fmt::Display for Mode {
    /// LeRobot's word.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "IDENTITY",
            Self::MeanStd => "MEAN_STD",
            Self::MinMax => "MIN_MAX",
            Self::Quantiles => "QUANTILES",
            Self::Quantile10 => "QUANTILE10",
        })
    }
}

/// Where LeRobot's formulas for ranges differ between versions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Edition {
    /// Up to version 0.3.3, in the policy itself: `1e-8` is added to every range that is divided by.
    Legacy,
    /// From version 0.4 on, in a processor: a range of exactly zero becomes `eps`, others stay.
    Processor {
        /// What a range of zero becomes, and what is added to a standard deviation.
        eps: f64,
    },
}

/// What the older edition adds.
const LEGACY_EPS: f64 = 1e-8;

/// Normalizes one value: `y = (x - offset) / divisor · gain - bias`, and back `x = (y + bias) / gain · factor + offset`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Affine {
    offset: f64,
    divisor: f64,
    factor: f64,
    gain: f64,
    bias: f64,
}

/// Why statistics cannot normalize.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum StatisticsError {
    /// A statistic is not a finite number.
    #[error("`{statistic}` of value {index} is {found}, not a finite number")]
    NonFinite {
        /// Its name.
        statistic: &'static str,
        /// Which of the feature's values.
        index: usize,
        /// What it is.
        found: f64,
    },
    /// A low end is above the high end.
    #[error("`{low}` of value {index} is {low_found}, above `{high}` with {high_found}")]
    Reversed {
        /// The name of the low end.
        low: &'static str,
        /// The name of the high end.
        high: &'static str,
        /// Which of the feature's values.
        index: usize,
        /// The low end.
        low_found: f64,
        /// The high end.
        high_found: f64,
    },
    /// A value of an image is normalized to what f32 cannot hold.
    #[error("values of channel {index} are normalized to {found:e}, which is not finite in f32")]
    Unbounded {
        /// Which channel.
        index: usize,
        /// What a value becomes.
        found: f32,
    },
    /// A standard deviation is negative.
    #[error("`std` of value {index} is {found}, which is negative")]
    NegativeDeviation {
        /// Which of the feature's values.
        index: usize,
        /// What it is.
        found: f64,
    },
}

/// Normalizes the values of one feature.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalizer {
    mode: Mode,
    values: Vec<Affine>,
}

impl Normalizer {
    /// Passes `len` values on as they are.
    pub fn identity(len: usize) -> Self {
        let affine = Affine {
            offset: 0.0,
            divisor: 1.0,
            factor: 1.0,
            gain: 1.0,
            bias: 0.0,
        };
        Self {
            mode: Mode::Identity,
            values: vec![affine; len],
        }
    }

    /// Normalizes with the two statistics that [`Mode::statistics`] names, one of each for a value.
    ///
    /// # Errors
    ///
    /// If a statistic is not finite, a range is negative or a standard deviation is.
    ///
    /// # Panics
    ///
    /// If there are more of one statistic than of the other.
    pub fn new(
        mode: Mode,
        edition: Edition,
        first: &[f64],
        second: &[f64],
    ) -> Result<Self, StatisticsError> {
        assert_eq!(first.len(), second.len(), "statistics come in pairs");
        let Some([first_name, second_name]) = mode.statistics() else {
            return Ok(Self::identity(first.len()));
        };
        let mut values = Vec::with_capacity(first.len());
        for (index, (&a, &b)) in first.iter().zip(second).enumerate() {
            for (statistic, found) in [(first_name, a), (second_name, b)] {
                if !found.is_finite() {
                    return Err(StatisticsError::NonFinite {
                        statistic,
                        index,
                        found,
                    });
                }
            }
            values.push(if mode == Mode::MeanStd {
                if b < 0.0 {
                    return Err(StatisticsError::NegativeDeviation { index, found: b });
                }
                let eps = match edition {
                    Edition::Legacy => LEGACY_EPS,
                    Edition::Processor { eps } => eps,
                };
                Affine {
                    offset: a,
                    divisor: b + eps,
                    factor: b,
                    gain: 1.0,
                    bias: 0.0,
                }
            } else {
                if b < a {
                    return Err(StatisticsError::Reversed {
                        low: first_name,
                        high: second_name,
                        index,
                        low_found: a,
                        high_found: b,
                    });
                }
                let range = b - a;
                let (divisor, factor) = match edition {
                    Edition::Legacy => (range + LEGACY_EPS, range),
                    Edition::Processor { .. } if range > 0.0 => (range, range),
                    Edition::Processor { eps } => (eps, eps),
                };
                Affine {
                    offset: a,
                    divisor,
                    factor,
                    gain: 2.0,
                    bias: 1.0,
                }
            });
        }
        Ok(Self { mode, values })
    }

    /// How the values are normalized.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// How many values the feature has.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the feature has no values.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Normalizes rows of values.
    ///
    /// # Shapes
    ///
    /// - x: `[rows, len]`, row-major, in physical units
    /// - returns: as many, normalized
    ///
    /// # Panics
    ///
    /// If `x` is not made of whole rows.
    pub fn normalize<'a>(&'a self, x: &'a [f64]) -> impl Iterator<Item = f64> + 'a {
        self.in_rows(x.len());
        x.iter()
            .zip(self.values.iter().cycle())
            .map(|(x, v)| (x - v.offset) / v.divisor * v.gain - v.bias)
    }

    /// Normalizes one value of the feature, or one channel of an image, in f32.
    ///
    /// That is how LeRobot computes; here it is for images alone, whose values are f32 from the start.
    ///
    /// # Panics
    ///
    /// If the feature has no such value.
    pub fn in_f32(&self, index: usize) -> impl Fn(f32) -> f32 + use<> {
        let Affine {
            offset,
            divisor,
            gain,
            bias,
            ..
        } = self.values[index];
        let (offset, divisor) = (offset as f32, divisor as f32);
        let (gain, bias) = (gain as f32, bias as f32);
        move |x| (x - offset) / divisor * gain - bias
    }

    /// Undoes [`normalize`](Self::normalize), but for what `eps` changes in a range of zero.
    ///
    /// # Shapes
    ///
    /// - y: `[rows, len]`, row-major, normalized
    /// - returns: as many, in physical units
    ///
    /// # Panics
    ///
    /// If `y` is not made of whole rows.
    pub fn unnormalize<'a>(&'a self, y: &'a [f32]) -> impl Iterator<Item = f64> + 'a {
        self.in_rows(y.len());
        y.iter()
            .zip(self.values.iter().cycle())
            .map(|(&y, v)| (f64::from(y) + v.bias) / v.gain * v.factor + v.offset)
    }

    fn in_rows(&self, n: usize) {
        let len = self.values.len();
        assert!(
            n == 0 || (len > 0 && n.is_multiple_of(len)),
            "{n} values are not made of rows of {len}"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// By hand: x = 3 between 1 and 5, and so on.
    #[test]
    fn formulas_are_lerobots() {
        let processor = Edition::Processor { eps: 1e-8 };
        let table = [
            (
                Mode::MeanStd,
                processor,
                [1.0, 4.0],
                3.0,
                2.0 / (4.0 + 1e-8),
            ),
            (
                Mode::MeanStd,
                Edition::Legacy,
                [1.0, 4.0],
                3.0,
                2.0 / (4.0 + 1e-8),
            ),
            (Mode::MinMax, processor, [1.0, 5.0], 4.0, 0.5),
            (
                Mode::MinMax,
                Edition::Legacy,
                [1.0, 5.0],
                4.0,
                3.0 / (4.0 + 1e-8) * 2.0 - 1.0,
            ),
            (Mode::Quantiles, processor, [1.0, 5.0], 6.0, 1.5),
            (Mode::Quantile10, processor, [1.0, 5.0], 1.0, -1.0),
            // A range of zero: the value itself is -1 in both editions.
            (Mode::MinMax, processor, [2.0, 2.0], 2.0, -1.0),
            (Mode::MinMax, Edition::Legacy, [2.0, 2.0], 2.0, -1.0),
            (Mode::Identity, processor, [1.0, 5.0], 6.0, 6.0),
        ];
        for (mode, edition, [a, b], x, y) in table {
            let normalizer = Normalizer::new(mode, edition, &[a], &[b]).expect("fit");
            let found = normalizer.normalize(&[x]).next().expect("one");
            assert!(
                (found - y).abs() < 1e-15,
                "{mode:?} {edition:?}: {found} is not {y}"
            );
            let back = normalizer.unnormalize(&[found as f32]).next().expect("one");
            assert!(
                (back - x).abs() < 1e-6,
                "{mode:?} {edition:?}: {back} is not {x}"
            );
        }
    }

    #[test]
    fn statistics_that_cannot_be_are_refused() {
        let processor = Edition::Processor { eps: 1e-8 };
        for (mode, a, b) in [
            (Mode::MinMax, 1.0, 0.0),
            (Mode::MinMax, f64::NAN, 0.0),
            (Mode::Quantiles, 0.0, f64::INFINITY),
            (Mode::MeanStd, 0.0, -1.0),
        ] {
            assert!(Normalizer::new(mode, processor, &[a], &[b]).is_err());
        }
    }
}
