//! Codes, changed one after the other.

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::gram::transposed;
use super::{Gram, Rounded, RoundingError, Scheme, added, blocks};

/// Changes codes as long as the error of the outputs falls: coordinate descent on the quadratic form, scales as they are.
///
/// ```text
/// codeₖ <- round((qₖ + ((w - q) (H + λ))ₖ / (Hₖₖ + λ)) / scale)        for one column after the other, in each sweep
/// ```
///
/// The damping `λ` is that of [`gptq`](super::gptq). No step makes the damped error larger; a row whose error without damping
/// would be keeps its codes. A sweep of `m` rows and `n` columns takes `2 m n²` operations, and so does the start.
///
/// Behdin et al., "QuantEase: Optimization-based Quantization for Language Models", 2023, arXiv:2309.01885.
///
/// # Errors
///
/// If a weight or a product of inputs is not finite.
///
/// # Panics
///
/// If weights, codes and inputs do not have the columns of the scheme, or damping is not positive.
pub fn refine(
    weights: &[f32],
    scheme: &Scheme,
    gram: &Gram,
    rounded: &Rounded,
    damping: f64,
    sweeps: usize,
) -> Result<Rounded, RoundingError> {
    let rows = scheme.check(weights, gram)?;
    assert_eq!(weights.len(), rounded.codes.len(), "weights, and codes");
    let (columns, groups) = (scheme.columns, scheme.groups.len());
    let mut group = vec![0; columns];
    for (index, members) in scheme.groups.iter().enumerate() {
        for &column in members {
            group[column] = index;
        }
    }
    let values = rounded.weights(scheme);
    let added = added(gram, damping);
    let codes: Vec<Vec<i8>> = blocks(rows)
        .map(|rows| {
            let mut codes = rounded.codes[rows.start * columns..rows.end * columns].to_vec();
            let scales = &rounded.scales[rows.start * groups..rows.end * groups];
            let error = |row: usize, column: usize| {
                let at = (rows.start + row) * columns + column;
                f64::from(weights[at]) - f64::from(values[at])
            };
            // (w - q) (H + λ), a strip for each tile.
            let errors = gram.tiles.strips(rows.len(), error);
            let mut gradients = gram.tiles.strips(rows.len(), |_, _| 0.0);
            for (tile, errors) in errors.iter().enumerate() {
                spread(gram, tile, errors, &mut gradients, true);
                gradients[tile] += errors * added;
            }
            for _ in 0..sweeps {
                let mut changed = false;
                for tile in 0..gradients.len() {
                    let start = gram.tiles.starts[tile];
                    let own = &gram.tiles.columns[tile][0];
                    let strip = &mut gradients[tile];
                    let mut changes = DMatrix::zeros(rows.len(), strip.ncols());
                    let mut gradient = vec![0.0; strip.ncols()];
                    for row in 0..rows.len() {
                        for (to, from) in gradient.iter_mut().zip(strip.row(row).iter()) {
                            *to = *from;
                        }
                        for at in 0..gradient.len() {
                            let square = own[(at, at)] + added;
                            let column = start + at;
                            let scale = scales[row * groups + group[column]];
                            if scale == 0.0 {
                                continue;
                            }
                            let code = &mut codes[row * columns + column];
                            let old = f64::from(f32::from(*code) * scale);
                            let target = old + gradient[at] / square;
                            let new = scheme.codes.code(target as f32, scale) as i8;
                            let change = f64::from(f32::from(new) * scale) - old;
                            // What f32 rounds the target by must not make an error larger.
                            if change * (change * square - 2.0 * gradient[at]) < 0.0 {
                                *code = new;
                                changes[(row, at)] = -change;
                                for (gradient, h) in gradient.iter_mut().zip(own.column(at).iter())
                                {
                                    *gradient -= change * h;
                                }
                                gradient[at] -= change * added;
                                changed = true;
                            }
                        }
                        for (to, from) in strip.row_mut(row).iter_mut().zip(&gradient) {
                            *to = *from;
                        }
                    }
                    spread(gram, tile, &changes, &mut gradients, false);
                }
                if !changed {
                    break;
                }
            }
            codes
        })
        .collect();
    let mut refined = rounded.clone();
    refined.codes = codes.concat();
    refined.measure(weights, scheme, gram);
    refined.take_better(rounded);
    Ok(refined)
}

/// Adds to all strips, of this tile only if asked to, what errors in the columns of a tile make of them.
fn spread(gram: &Gram, tile: usize, errors: &DMatrix<f64>, strips: &mut [DMatrix<f64>], own: bool) {
    for (other, strip) in strips.iter_mut().enumerate() {
        if other < tile {
            strip.gemm(1.0, errors, &gram.tiles.columns[other][tile - other], 1.0);
        } else if other > tile || own {
            let below = &gram.tiles.columns[tile][other - tile];
            strip.gemm(1.0, errors, &transposed(below), 1.0);
        }
    }
}
