//! Factors between what a layer reads and its weights.

use super::{Gram, RoundingError, Scheme, nearest_rows, some_rows};

/// The exponents that are tried, in parts of one.
const EXPONENTS: usize = 10;
/// Factors that do not take a twentieth from the error are not worth a product for each input.
const WORTH: f64 = 0.95;
/// The least factor, and the inverse of the largest: far more than any data ask for, and so near to one that neither a factor nor
/// its inverse, nor what is multiplied by it, leaves the normal numbers of f32.
const LEAST: f64 = 1e-6;
/// Steps between the least and the largest code of an input.
const INPUT: f64 = 255.0;

/// Factors of a layer's inputs.
#[derive(Clone, Debug, PartialEq)]
pub struct Balance {
    /// What an input channel is divided by, and its weights multiplied by. All are one where nothing is gained.
    pub factors: Vec<f32>,
    /// The exponent that they were made with.
    pub exponent: Option<f64>,
    /// The predicted error of the outputs, summed over rows and positions, with these factors.
    pub error: f64,
    /// The same without any.
    pub without: f64,
}

/// Moves what is hard to round from inputs to weights, or back: SmoothQuant.
///
/// ```text
/// W x = (W diag(s)) (diag(1/s) x),    s_c = max|x_c|^α / max|w_c|^(1-α)
/// error = tr(E H Eᵀ) + positions · mean(step²) / 12 · ‖W diag(s)‖²
/// E = W - Q(W diag(s)) diag(1/s),     step = (largest - least of x / s in a sample) / 255
/// ```
///
/// The exponent is that of the least predicted error, of 0, 0.1, .. 1. The first part of the error is exact for weights that are
/// rounded to the [nearest](super::nearest), on up to 128 rows that stand for all; the second takes the rounding of inputs to
/// eight bits, between the least and the largest number of a sample, for independent noise. Factors that do not take away a
/// twentieth of the error are dropped.
///
/// `extents` are `[samples][channels]`, the least and the largest number of each channel in each calibration sample. Factors
/// have the geometric mean one and lie within 1e-6 and 1e6; that of a channel that is always zero, or has no weights, is one.
///
/// Xiao et al., "SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language Models", 2023,
/// arXiv:2211.10438, equation 4.
///
/// # Errors
///
/// If a weight, an input or a product of inputs is not finite.
///
/// # Panics
///
/// If weights are not whole rows, columns are not those of `taps` for each channel, extents are not whole samples, or inputs
/// have another number of columns.
pub fn balance(
    weights: &[f32],
    scheme: &Scheme,
    taps: usize,
    gram: &Gram,
    extents: &[[f32; 2]],
) -> Result<Balance, RoundingError> {
    let rows = scheme.check(weights, gram)?;
    let columns = scheme.columns;
    assert!(
        taps > 0 && columns.is_multiple_of(taps),
        "{columns} columns are not channels of {taps} taps"
    );
    let channels = columns / taps;
    let none = Balance {
        factors: vec![1.0; channels],
        exponent: None,
        error: 0.0,
        without: 0.0,
    };
    if rows == 0 {
        return Ok(none);
    }
    assert!(
        extents.len().is_multiple_of(channels),
        "{} extents are not samples of {channels} channels",
        extents.len()
    );
    if let Some(at) = extents
        .iter()
        .position(|[a, b]| !(a.is_finite() && b.is_finite()))
    {
        return Err(RoundingError::Input {
            sample: at / channels,
            channel: at % channels,
            extent: extents[at],
        });
    }
    let mut inputs = vec![0.0_f64; channels];
    for sample in extents.chunks(channels) {
        for (most, [a, b]) in inputs.iter_mut().zip(sample) {
            *most = most.max(f64::from(a.abs().max(b.abs())));
        }
    }
    let mut largest = vec![0.0_f64; channels];
    for weights in weights.chunks(columns) {
        for (most, weights) in largest.iter_mut().zip(weights.chunks(taps)) {
            for w in weights {
                *most = most.max(f64::from(w.abs()));
            }
        }
    }
    let some = some_rows(weights, columns);
    let error = |factors: &[f32]| {
        let sampled = predicted(&some, scheme, taps, gram, extents, factors);
        sampled * weights.len() as f64 / some.len() as f64
    };
    let without = error(&none.factors);
    let mut best = Balance {
        error: without,
        without,
        ..none
    };
    for exponent in 0..=EXPONENTS {
        let exponent = exponent as f64 / EXPONENTS as f64;
        let factors = factors(&inputs, &largest, exponent);
        let error = error(&factors);
        if error < best.error && error < WORTH * without {
            best = Balance {
                factors,
                exponent: Some(exponent),
                error,
                without,
            };
        }
    }
    Ok(best)
}

fn factors(inputs: &[f64], weights: &[f64], exponent: f64) -> Vec<f32> {
    let logs: Vec<Option<f64>> = (inputs.iter().zip(weights))
        .map(|(x, w)| {
            let log = exponent * x.ln() - (1.0 - exponent) * w.ln();
            (*x > 0.0 && *w > 0.0).then_some(log)
        })
        .collect();
    let count = logs.iter().flatten().count().max(1) as f64;
    let mean = logs.iter().flatten().sum::<f64>() / count;
    let factor = |log: Option<f64>| {
        log.map_or(1.0, |log| {
            (log - mean).exp().clamp(LEAST, 1.0 / LEAST) as f32
        })
    };
    logs.into_iter().map(factor).collect()
}

/// The error of some rows, summed over positions.
fn predicted(
    weights: &[f32],
    scheme: &Scheme,
    taps: usize,
    gram: &Gram,
    extents: &[[f32; 2]],
    factors: &[f32],
) -> f64 {
    let columns = scheme.columns;
    let factor = |column: usize| factors[column / taps];
    let balanced: Vec<f32> = (weights.iter().enumerate())
        .map(|(at, w)| w * factor(at % columns))
        .collect();
    let rows = weights.len() / columns;
    let rounded = nearest_rows(&balanced, scheme, rows).weights(scheme);
    let errors = gram.quadratic_of(rows, |row, column| {
        let at = row * columns + column;
        f64::from(weights[at]) - f64::from(rounded[at]) / f64::from(factor(column))
    });
    let squares: f64 = balanced.iter().map(|w| f64::from(*w).powi(2)).sum();
    let samples = extents.len() / factors.len();
    let steps = extents.chunks(factors.len()).map(|sample| {
        let (mut least, mut most) = (0.0_f64, 0.0_f64);
        for ([a, b], factor) in sample.iter().zip(factors) {
            least = least.min(f64::from(*a) / f64::from(*factor));
            most = most.max(f64::from(*b) / f64::from(*factor));
        }
        ((most - least) / INPUT).powi(2)
    });
    let square = steps.sum::<f64>() / samples.max(1) as f64;
    errors.iter().sum::<f64>() + gram.positions() as f64 * square / 12.0 * squares
}
