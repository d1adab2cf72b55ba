//! The scale with the least error, where some weights matter more than others.

use crate::kernel::Codes;

/// Weights below it count as zero where none is larger: the inverse of a scale must be finite.
const TINY: f32 = 1e-36;
/// How many sums a loop keeps, so that the compiler makes vectors of them.
const LANES: usize = 16;
/// The step between scales that are tried, as a part of the largest.
const STEP: f32 = 1.0 / 100.0;
/// How often the best scale is fitted to the codes that it makes.
const FITS: usize = 3;

/// The scale of the least `Σ importance · (w - scale · code)²` of those that are tried: a grid, and then the least-squares
/// scale of the codes that the best of it makes.
///
/// Where codes are not symmetric both signs are tried.
pub(super) fn scale(codes: &Codes, weights: &[f32], importance: &[f32]) -> f32 {
    let farthest = weights.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
    let [least, most] = codes.ends();
    if farthest < TINY {
        return 0.0;
    }
    let whole = farthest / -least;
    let first = (-least / most).max(1.0);
    let signs: &[f32] = if -least > most { &[1.0, -1.0] } else { &[1.0] };
    let mut best = (f32::INFINITY, whole);
    for sign in signs {
        for step in 0..=(0.6 / STEP) as usize {
            let factor = sign * (first - STEP * step as f32);
            let error = error(codes, weights, importance, whole * factor) * factor * factor;
            if error < best.0 {
                best = (error, whole * factor);
            }
        }
    }
    for _ in 0..FITS {
        let fitted = fitted(codes, weights, importance, best.1);
        let factor = fitted / whole;
        let error = error(codes, weights, importance, fitted) * factor * factor;
        if error >= best.0 || error.is_nan() {
            break;
        }
        best = (error, fitted);
    }
    best.1
}

/// The sum of weighted squared errors, in squares of the scale.
fn error(codes: &Codes, weights: &[f32], importance: &[f32], scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    let mut lanes = [0.0; LANES];
    let square = |w: f32, importance: f32| {
        let w = w * inverse;
        let error = w - codes.nearest(w);
        importance * error * error
    };
    let (whole, rest) = weights.as_chunks::<LANES>();
    let (of_whole, of_rest) = importance.as_chunks::<LANES>();
    for (w, importance) in whole.iter().zip(of_whole) {
        for (lane, (w, importance)) in lanes.iter_mut().zip(w.iter().zip(importance)) {
            *lane += square(*w, *importance);
        }
    }
    for (lane, (w, importance)) in lanes.iter_mut().zip(rest.iter().zip(of_rest)) {
        *lane += square(*w, *importance);
    }
    lanes.iter().sum()
}

/// The scale that suits the codes of another one best.
fn fitted(codes: &Codes, weights: &[f32], importance: &[f32], scale: f32) -> f32 {
    let inverse = 1.0 / scale;
    let (mut products, mut squares) = (0.0, 0.0);
    for (w, importance) in weights.iter().zip(importance) {
        let code = f64::from(codes.nearest(w * inverse));
        products += f64::from(*importance) * f64::from(w * inverse) * code;
        squares += f64::from(*importance) * code * code;
    }
    scale * (products / squares) as f32
}
