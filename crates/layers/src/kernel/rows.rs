//! Layer normalization, row by row.

use rayon::prelude::*;

use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::product::lanes_of;
use super::{Affine, Level};

/// How many values are worth a task of their own: about 10 µs.
const GRAIN: usize = 1 << 15;

/// `y = (x - mean) / √(variance + epsilon) · weight + bias` for each row of as many values as there are weights.
///
/// # Panics
///
/// If slices are of different lengths, a row is not whole, or this CPU does not have the level.
pub(crate) fn normalize_rows(
    level: Level,
    affine: Affine<'_>,
    epsilon: f64,
    x: &[f32],
    y: &mut [f32],
) {
    let features = affine.weight.len();
    assert!(
        features > 0 && affine.bias.len() == features && x.len().is_multiple_of(features),
        "rows of {features} features"
    );
    assert_eq!(x.len(), y.len(), "a row becomes a row");
    let many = (GRAIN / features).max(1) * features;
    let task = |(x, y): (&[f32], &mut [f32])| {
        run_on!(
            level,
            normalize(affine: Affine<'_>, epsilon: f64, x: &[f32], y: &mut [f32])
        );
    };
    if x.len() <= many || rayon::current_num_threads() == 1 {
        task((x, y));
    } else {
        x.par_chunks(many)
            .zip(y.par_chunks_mut(many))
            .for_each(task);
    }
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn normalize<S: Lanes>(affine: Affine<'_>, epsilon: f64, x: &[f32], y: &mut [f32]) {
    let features = affine.weight.len();
    for (x, y) in x.chunks_exact(features).zip(y.chunks_exact_mut(features)) {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let mean = (total::<S, false>(x, 0.0) / features as f64) as f32;
            // Two passes: the variance of what is left when the mean is gone does not cancel.
            let variance = total::<S, true>(x, mean) / features as f64;
            let scale = (1.0 / (variance + epsilon).sqrt()) as f32;
            let (mean, scale) = (S::splat(mean), S::splat(scale));
            let (whole, rest) = x.as_chunks::<LANES>();
            let (to, to_rest) = y.as_chunks_mut::<LANES>();
            let apply = |x: S::Vector, weight: *const f32, bias: *const f32| {
                let x = S::mul(S::sub(x, mean), scale);
                S::mul_add(x, S::load(weight), S::load(bias))
            };
            for (index, (x, y)) in whole.iter().zip(to).enumerate() {
                let at = index * LANES;
                let weight = affine.weight[at..at + LANES].as_ptr();
                let bias = affine.bias[at..at + LANES].as_ptr();
                S::store(y.as_mut_ptr(), apply(S::load(x.as_ptr()), weight, bias));
            }
            if !rest.is_empty() {
                let at = features - rest.len();
                let x = lanes_of(Some(rest), 0, 0.0);
                let weight = lanes_of(Some(affine.weight), at, 0.0);
                let bias = lanes_of(Some(affine.bias), at, 0.0);
                let mut y = [0.0; LANES];
                let row = apply(S::load(x.as_ptr()), weight.as_ptr(), bias.as_ptr());
                S::store(y.as_mut_ptr(), row);
                to_rest.copy_from_slice(&y[..rest.len()]);
            }
        }
    }
}

/// `Σ x`, or `Σ (x - mean)²`: in each lane by itself, and then over the lanes in f64.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn total<S: Lanes, const SQUARES: bool>(x: &[f32], mean: f32) -> f64 {
    let (whole, rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    // SAFETY: the caller grants the instruction set; a chunk is sixteen values.
    unsafe {
        let mut sum = S::splat(0.0);
        let mean = S::splat(mean);
        for x in whole {
            let x = S::load(x.as_ptr());
            sum = if SQUARES {
                let x = S::sub(x, mean);
                S::mul_add(x, x, sum)
            } else {
                S::add(sum, x)
            };
        }
        S::store(lanes.as_mut_ptr(), sum);
    }
    let rest = rest.iter().map(|&x| {
        let x = f64::from(x);
        if SQUARES {
            (x - f64::from(mean)).powi(2)
        } else {
            x
        }
    });
    lanes.iter().copied().map(f64::from).sum::<f64>() + rest.sum::<f64>()
}

#[cfg(test)]
mod tests;
