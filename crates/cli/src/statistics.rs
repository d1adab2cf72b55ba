//! Rates, means and their intervals.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// 97.5 % of a standard normal lie below.
const Z: f64 = 1.959_963_985;

/// 95 % of a standard normal lie below.
#[cfg(feature = "train")]
const Z_ONE_SIDED: f64 = 1.644_853_627;

/// Wilson's 95 % interval of a rate.
///
/// ```text
/// (p + z²/2n ± z √(p (1 − p)/n + z²/4n²)) / (1 + z²/n)
/// ```
///
/// Wilson, "Probable Inference, the Law of Succession, and Statistical Inference", 1927.
pub(crate) fn wilson(successes: usize, n: usize) -> [f64; 2] {
    if n == 0 {
        return [0.0, 1.0];
    }
    let (count, p) = (n as f64, successes as f64 / n as f64);
    let scale = 1.0 + Z * Z / count;
    let centre = (p + Z * Z / (2.0 * count)) / scale;
    let half = Z * (p * (1.0 - p) / count + Z * Z / (4.0 * count * count)).sqrt() / scale;
    [(centre - half).max(0.0), (centre + half).min(1.0)]
}

/// The 95 % interval of the difference of two rates over the same `n` cases, of which `first` succeeded in the first alone
/// and `second` in the second alone: the second rate less the first.
///
/// ```text
/// (c - b)/m ± z √(b + c - (c - b)²/m) / m      b = first + 1/2,  c = second + 1/2,  m = n + 2
/// ```
///
/// Agresti and Min, "Simple improved confidence intervals for comparing matched proportions", 2005.
pub(crate) fn paired(first: usize, second: usize, n: usize) -> [f64; 2] {
    let (centre, deviation) = difference(first, second, n);
    let half = Z * deviation;
    [(centre - half).max(-1.0), (centre + half).min(1.0)]
}

/// What the same difference exceeds with 95 %: the one-sided bound.
#[cfg(feature = "train")]
pub(crate) fn paired_bound(first: usize, second: usize, n: usize) -> f64 {
    let (centre, deviation) = difference(first, second, n);
    (centre - Z_ONE_SIDED * deviation).max(-1.0)
}

/// The middle of [`paired`]'s interval, and the deviation that it is made of.
fn difference(first: usize, second: usize, n: usize) -> (f64, f64) {
    let (b, c) = (first as f64 + 0.5, second as f64 + 0.5);
    let m = n as f64 + 2.0;
    let deviation = (b + c - (c - b).powi(2) / m).sqrt() / m;
    ((c - b) / m, deviation)
}

/// The 95 % percentile-bootstrap interval of a mean, from 2,000 resamples of a fixed seed.
///
/// Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
pub(crate) fn bootstrap(values: &[f64]) -> [f64; 2] {
    const RESAMPLES: usize = 2000;
    if values.is_empty() {
        return [f64::NEG_INFINITY, f64::INFINITY];
    }
    let mut generator = ChaCha8Rng::seed_from_u64(0);
    let means: Vec<f64> = (0..RESAMPLES)
        .map(|_| {
            let sum: f64 = values
                .iter()
                .map(|_| values[generator.random_range(0..values.len())])
                .sum();
            sum / values.len() as f64
        })
        .collect();
    [percentile(&means, 0.025), percentile(&means, 0.975)]
}

pub(crate) fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

/// The `share`-quantile, linear between two values; NaN of nothing.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let place = share * last as f64;
    let (low, high) = (
        sorted[place.floor() as usize],
        sorted[place.ceil() as usize],
    );
    low + (high - low) * place.fract()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_those_of_the_reference() {
        // reference.json of the shipped policy: 1,114 of 2,000, [0.5351, 0.5786].
        let [low, high] = wilson(1114, 2000);
        assert!(
            (low - 0.5351).abs() < 1e-4 && (high - 0.5786).abs() < 1e-4,
            "{low} {high}"
        );
        assert!(wilson(0, 10)[0] <= 0.0);
        assert!(wilson(0, 10)[1] > 0.2);
    }

    #[test]
    fn paired_intervals_cover_the_difference() {
        // Of 200 cases, of which each alone succeeds in a share: how often the interval covers the true difference.
        let mut generator = ChaCha8Rng::seed_from_u64(1);
        for shares in [[0.05, 0.05], [0.02, 0.06], [0.2, 0.1]] {
            let [b, c] = shares;
            let covered = (0..2000).filter(|_| {
                let [mut first, mut second] = [0, 0];
                for _ in 0..200 {
                    let draw: f64 = generator.random();
                    first += usize::from(draw < b);
                    second += usize::from((b..b + c).contains(&draw));
                }
                let [low, high] = paired(first, second, 200);
                (low..=high).contains(&(c - b))
            });
            // 95 %, and five standard errors of a rate over 2,000 draws.
            let covered = covered.count() as f64 / 2000.0;
            assert!((0.926..=0.985).contains(&covered), "{shares:?}: {covered}");
        }
        let [low, high] = paired(0, 0, 2000);
        assert!(low < 0.0 && high > 0.0 && high < 2e-3, "{low} {high}");
    }

    #[test]
    fn percentiles_are_linear_between_values() {
        assert!((percentile(&[4.0, 1.0, 2.0, 3.0, 5.0], 0.5) - 3.0).abs() < 1e-12);
        assert!((percentile(&[0.0, 1.0], 0.95) - 0.95).abs() < 1e-12);
        assert!(percentile(&[], 0.5).is_nan());
    }

    #[test]
    fn the_bootstrap_covers_the_standard_error() {
        let values: Vec<f64> = (0..1000).map(|i| f64::from(i % 2)).collect();
        let [low, high] = bootstrap(&values);
        let half = 1.96 * (0.25_f64 / 1000.0).sqrt();
        assert!((low - (0.5 - half)).abs() < 0.005 && (high - (0.5 + half)).abs() < 0.005);
    }
}
