//! Weights as codes, chosen for what a layer reads: rounding after training.
//!
//! | function | what |
//! |---|---|
//! | [`nearest`] | every weight alone, to the nearest code |
//! | [`gptq`] | one after the other, the error of each carried by those that follow |
//! | [`damping`] | how far calibration inputs are to be believed |
//! | [`refine`] | codes that are changed by one or more as long as the error falls |
//! | [`shift`] | what rounding does to the mean of the outputs |
//! | [`balance`] | factors that move what is hard to round from inputs to weights |
//!
//! What all but the first make small is the error of the outputs, over the calibration inputs `x` that a [`Gram`] was summed
//! from:
//!
//! ```text
//! Σ ‖(W - Q) x‖² = tr((W - Q) H (W - Q)ᵀ),    H = Σ x xᵀ,    Q = scale · code
//! ```
//!
//! Weights are `[rows][columns]`, a row an output of the layer and a column one of its inputs: of a convolution, the channel
//! `column / taps` at the tap `column % taps`. Everything is computed in f64 in one order, so the codes are the same on any
//! number of threads; they may differ between CPUs with and without fused multiply-adds.

mod balance;
mod gptq;
mod gram;
mod refine;
mod scale;
#[cfg(test)]
mod tests;

use std::ops::Range;

use rayon::prelude::*;

pub use balance::{Balance, balance};
pub use gptq::{Order, damping, gptq};
pub use gram::Gram;
use gram::TILE;
pub use refine::refine;

use crate::kernel::Codes;

/// What is added to the diagonal of `H`, as a part of its mean: the value of GPTQ's paper.
pub const DAMPING: f64 = 0.01;
/// How many rows stand for all where a choice is made, at most.
const ROWS: usize = 128;

/// Why weights cannot be rounded.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundingError {
    /// A weight is NaN or infinite.
    #[error("the weight of row {row}, column {column} is {value}")]
    Weight {
        /// The output.
        row: usize,
        /// The input.
        column: usize,
        /// The weight.
        value: f32,
    },
    /// A product of calibration inputs is NaN or infinite, or a square negative.
    #[error("the products of calibration inputs {row} and {column} are not those of finite inputs")]
    Gram {
        /// An input.
        row: usize,
        /// Another.
        column: usize,
    },
    /// Numbers that no inputs have these products.
    #[error(
        "the products of calibration inputs are not positive at input {column}, for all damping"
    )]
    NotPositive {
        /// The input.
        column: usize,
    },
    /// A calibration input is NaN or infinite.
    #[error("calibration input {channel} of sample {sample} reaches from {} to {}", extent[0], extent[1])]
    Input {
        /// The sample.
        sample: usize,
        /// The channel.
        channel: usize,
        /// The least and the largest number.
        extent: [f32; 2],
    },
    /// The mean of a calibration input is NaN or infinite.
    #[error("the mean of calibration input {column} is {value}")]
    Mean {
        /// The input.
        column: usize,
        /// The mean.
        value: f64,
    },
}

/// How many bits codes have, and which weights of a row share a scale.
#[derive(Clone, Debug)]
pub struct Scheme {
    codes: Codes,
    groups: Vec<Vec<usize>>,
    columns: usize,
}

impl Scheme {
    /// Eight bits, one scale for a row.
    pub fn eight_bits(columns: usize) -> Self {
        Self {
            codes: Codes::eight_bits(columns),
            groups: vec![(0..columns).collect()],
            columns,
        }
    }

    /// Four bits, a scale for each group of columns. Columns are rounded in the order of the groups, and within them.
    ///
    /// # Panics
    ///
    /// If the groups do not hold every column once.
    pub fn four_bits(groups: Vec<Vec<usize>>) -> Self {
        let columns = groups.iter().map(Vec::len).sum();
        let mut held = vec![false; columns];
        for &column in groups.iter().flatten() {
            let new = held
                .get_mut(column)
                .is_some_and(|held| !std::mem::replace(held, true));
            assert!(new, "column {column} of {columns} is not in one group");
        }
        Self {
            codes: Codes::FOUR_BITS,
            groups,
            columns,
        }
    }

    /// Four bits, a scale for each tap of `group` channels that follow each other: what packed layers hold.
    ///
    /// # Panics
    ///
    /// If a group is empty.
    pub fn neighbours([channels, taps]: [usize; 2], group: usize) -> Self {
        assert!(group > 0, "a group of channels is empty");
        let groups = (0..channels)
            .step_by(group)
            .flat_map(|first| {
                let of = first..channels.min(first + group);
                (0..taps).map(move |tap| of.clone().map(|channel| channel * taps + tap).collect())
            })
            .collect();
        Self::four_bits(groups)
    }

    /// How many columns there are.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// The columns that share a scale, for each scale of a row.
    pub fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }

    fn rows(&self, weights: &[f32]) -> Result<usize, RoundingError> {
        if self.columns == 0 {
            return Ok(0);
        }
        assert!(
            weights.len().is_multiple_of(self.columns),
            "{} weights are not rows of {}",
            weights.len(),
            self.columns
        );
        match weights.iter().position(|w| !w.is_finite()) {
            Some(at) => Err(RoundingError::Weight {
                row: at / self.columns,
                column: at % self.columns,
                value: weights[at],
            }),
            None => Ok(weights.len() / self.columns),
        }
    }

    fn check(&self, weights: &[f32], gram: &Gram) -> Result<usize, RoundingError> {
        assert_eq!(
            gram.columns(),
            self.columns,
            "columns of calibration inputs and of weights"
        );
        gram.check()?;
        self.rows(weights)
    }
}

/// Weights as codes.
#[derive(Clone, Debug, PartialEq)]
pub struct Rounded {
    /// `[rows][columns]`, -127..=127 or -8..=7.
    pub codes: Vec<i8>,
    /// `[rows][groups]`. A scale may be negative, or zero where all weights of its group are.
    pub scales: Vec<f32>,
    /// The error of each row, `(w - q) H (w - q)ᵀ`.
    pub errors: Vec<f64>,
    /// The error of each row if it is rounded to the nearest.
    pub nearest: Vec<f64>,
}

impl Rounded {
    /// The error of the outputs, summed over rows and positions.
    pub fn error(&self) -> f64 {
        self.errors.iter().sum()
    }

    /// The same if all weights were rounded to the nearest.
    pub fn error_of_nearest(&self) -> f64 {
        self.nearest.iter().sum()
    }

    /// What the codes stand for, `scale · code`, `[rows][columns]`.
    pub fn weights(&self, scheme: &Scheme) -> Vec<f32> {
        let mut weights = vec![0.0; self.codes.len()];
        let rows = (weights.chunks_mut(scheme.columns.max(1)))
            .zip(self.codes.chunks(scheme.columns.max(1)))
            .zip(self.scales.chunks(scheme.groups.len().max(1)));
        for ((weights, codes), scales) in rows {
            for (group, scale) in scheme.groups.iter().zip(scales) {
                for &column in group {
                    weights[column] = f32::from(codes[column]) * scale;
                }
            }
        }
        weights
    }

    /// Takes rows of another one where they are better.
    fn take_better(&mut self, other: &Self) {
        let count = self.errors.len().max(1);
        let (columns, groups) = (self.codes.len() / count, self.scales.len() / count);
        for row in 0..self.errors.len() {
            if other.errors[row] < self.errors[row] {
                let (codes, scales) = (row * columns, row * groups);
                self.codes[codes..codes + columns]
                    .copy_from_slice(&other.codes[codes..codes + columns]);
                self.scales[scales..scales + groups]
                    .copy_from_slice(&other.scales[scales..scales + groups]);
                self.errors[row] = other.errors[row];
            }
        }
    }

    /// Writes the errors of the codes.
    fn measure(&mut self, weights: &[f32], scheme: &Scheme, gram: &Gram) {
        let (rounded, columns) = (self.weights(scheme), scheme.columns);
        let rows = self.errors.len();
        self.errors = gram.quadratic_of(rows, |row, column| {
            let at = row * columns + column;
            f64::from(weights[at]) - f64::from(rounded[at])
        });
    }
}

/// Rounds every weight to the nearest code, as packing does. Nothing but the errors depends on the inputs.
///
/// # Errors
///
/// If a weight or a product of inputs is not finite.
///
/// # Panics
///
/// If weights are not whole rows, or inputs have another number of columns.
pub fn nearest(weights: &[f32], scheme: &Scheme, gram: &Gram) -> Result<Rounded, RoundingError> {
    let rows = scheme.check(weights, gram)?;
    let mut rounded = nearest_rows(weights, scheme, rows);
    rounded.measure(weights, scheme, gram);
    rounded.nearest.clone_from(&rounded.errors);
    Ok(rounded)
}

/// Codes and scales of the nearest, without errors.
fn nearest_rows(weights: &[f32], scheme: &Scheme, rows: usize) -> Rounded {
    let mut rounded = empty(scheme, rows);
    (rounded.codes.par_chunks_mut(scheme.columns.max(1)))
        .zip(rounded.scales.par_chunks_mut(scheme.groups.len().max(1)))
        .zip(weights.par_chunks(scheme.columns.max(1)))
        .for_each(|((codes, scales), weights)| {
            let mut values = Vec::new();
            for (group, scale) in scheme.groups.iter().zip(scales) {
                values.clear();
                values.extend(group.iter().map(|&column| weights[column]));
                *scale = scheme.codes.scale(&values);
                for (&column, value) in group.iter().zip(&values) {
                    codes[column] = scheme.codes.code(*value, *scale) as i8;
                }
            }
        });
    rounded
}

fn empty(scheme: &Scheme, rows: usize) -> Rounded {
    Rounded {
        codes: vec![0; rows * scheme.columns],
        scales: vec![0.0; rows * scheme.groups.len()],
        errors: vec![0.0; rows],
        nearest: vec![0.0; rows],
    }
}

/// What is added to the diagonal of `H`.
fn added(gram: &Gram, damping: f64) -> f64 {
    assert!(
        damping > 0.0 && damping.is_finite(),
        "damping is a positive number, not {damping}"
    );
    let diagonal = (0..gram.columns()).map(|column| gram.at(column, column));
    let mean = diagonal.sum::<f64>() / gram.columns() as f64;
    // Of no inputs at all any matrix is as good.
    if mean > 0.0 { damping * mean } else { 1.0 }
}

/// Some rows, spread over all.
fn some_rows(weights: &[f32], columns: usize) -> Vec<f32> {
    let rows = weights.len() / columns.max(1);
    let count = rows.min(ROWS);
    (0..count)
        .map(|row| row * rows / count)
        .flat_map(|row| &weights[row * columns..(row + 1) * columns])
        .copied()
        .collect()
}

/// What rounding takes from the mean of each output: to be added to the bias.
///
/// ```text
/// shift = (W - Q) E[x]        [rows], in units of the outputs
/// ```
///
/// The means of inputs, `[columns]`, are those of each column: of a convolution, of a channel where a tap sees it, and zero
/// where it sees the padding.
///
/// Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721.
///
/// # Errors
///
/// If a weight or a mean is not finite.
///
/// # Panics
///
/// If weights, codes and means do not have the columns of the scheme.
pub fn shift(
    weights: &[f32],
    scheme: &Scheme,
    rounded: &Rounded,
    means: &[f64],
) -> Result<Vec<f32>, RoundingError> {
    scheme.rows(weights)?;
    assert_eq!(means.len(), scheme.columns, "means of inputs, and columns");
    assert_eq!(weights.len(), rounded.codes.len(), "weights, and codes");
    if let Some(column) = means.iter().position(|mean| !mean.is_finite()) {
        let value = means[column];
        return Err(RoundingError::Mean { column, value });
    }
    let columns = scheme.columns.max(1);
    let values = rounded.weights(scheme);
    let rows = weights.chunks(columns).zip(values.chunks(columns));
    Ok(rows
        .map(|(weights, rounded)| {
            let errors = weights.iter().zip(rounded);
            let errors = errors.map(|(w, q)| f64::from(*w) - f64::from(*q));
            errors.zip(means).map(|(e, mean)| e * mean).sum::<f64>() as f32
        })
        .collect())
}

/// Blocks of rows.
fn blocks(rows: usize) -> impl IndexedParallelIterator<Item = Range<usize>> {
    (0..rows.div_ceil(TILE))
        .into_par_iter()
        .map(move |block| block * TILE..rows.min((block + 1) * TILE))
}
