//! Weights as codes, chosen for what a layer reads: rounding after training.
//!
//! | function | what |
//! |---|---|
//! | [`nearest`] | every weight alone, to the nearest code |
//! | [`gptq`] | one after the other, the error of each carried by those that follow |
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
mod gram;
mod refine;
mod scale;
#[cfg(test)]
mod tests;

use std::ops::Range;

use nalgebra::DMatrix;
use rayon::prelude::*;

pub use balance::{Balance, balance};
pub use gram::Gram;
use gram::{TILE, Tiles};
pub use refine::refine;

use crate::kernel::Codes;

/// What is added to the diagonal of `H`, as a part of the mean of the diagonal. The paper's value.
const DAMPING: f64 = 0.01;
/// What is added besides, times columns and over positions: few positions say little of inputs that are not among them. Of
/// a tenth and three tenths, the first was best for unseen inputs at two positions a column, the second at half of one.
const FEW: f64 = 0.25;
/// Both together at most.
const MOST: f64 = 1.0;
/// By how much damping grows where the matrix is not positive, and how often.
const HARDER: (f64, usize) = (10.0, 3);

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

/// In which order columns are rounded. The errors of the first are carried by more of the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// That of the scheme.
    Given,
    /// Groups by the mean square of their inputs, the largest first; within a group the same.
    LargestFirst,
}

/// Rounds the columns one after the other, and lets those that follow make up for the error of each: GPTQ.
///
/// ```text
/// H + λ = (I + U) D (I + U)ᵀ                  U strictly upper triangular, D diagonal
/// λ = min(1, 0.01 + columns / (4 · positions)) · mean diagonal of H
/// qₖ = round(wₖ + Σ_{j<k} (wⱼ - qⱼ) Uⱼₖ)      so that tr(E (H + λ) Eᵀ) = Σₖ Dₖ rₖ², r what the rounding of k changes
/// ```
///
/// These are the paper's codes, but for more damping where positions are few, and without its inverse of `H`: one factorization, in tiles, and the errors of whole tiles are
/// passed on in one product. For columns `n` and rows `m` it takes `n³ / 3 + 3 m n²` operations in all.
///
/// A scale is that of the least `Σ Dₖ (wₖ - scale · code)²`. Of a group of up to 128 columns it is chosen when its first column
/// is reached, for weights that have taken up the errors before them; of a longer one, at the start.
///
/// An input that is always zero has no part in any of it; its weights are rounded to the nearest code. Where `H + λ` is not
/// positive because its numbers were rounded, `λ` becomes ten times as large, up to a thousand times.
///
/// A row for which [`nearest`] has the smaller error keeps the codes of that.
///
/// Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023,
/// arXiv:2210.17323, Algorithm 1; this form of it: Chee et al., "QuIP: 2-Bit Quantization of Large Language Models With
/// Guarantees", 2023, arXiv:2307.13304, Theorem 6.
///
/// # Errors
///
/// If a weight or a product of inputs is not finite, or no damping makes the products positive.
///
/// # Panics
///
/// If weights are not whole rows, or inputs have another number of columns.
pub fn gptq(
    weights: &[f32],
    scheme: &Scheme,
    gram: &Gram,
    order: Order,
) -> Result<Rounded, RoundingError> {
    let rows = scheme.check(weights, gram)?;
    if rows == 0 {
        return Ok(empty(scheme, 0));
    }
    let nearest = nearest(weights, scheme, gram)?;
    let plan = Plan::new(scheme, gram, order);
    let (factor, pivots) = plan.factor(gram)?;
    let blocks: Vec<_> = blocks(rows)
        .map(|rows| {
            let columns = scheme.columns;
            let weights = &weights[rows.start * columns..rows.end * columns];
            plan.round(weights, scheme, &factor, &pivots)
        })
        .collect();
    let mut rounded = empty(scheme, rows);
    (rounded.codes, rounded.scales) = (Vec::new(), Vec::new());
    for (codes, scales) in blocks {
        rounded.codes.extend(codes);
        rounded.scales.extend(scales);
    }
    rounded.measure(weights, scheme, gram);
    rounded.nearest.clone_from(&nearest.errors);
    rounded.take_better(&nearest);
    Ok(rounded)
}

/// What is added to the diagonal of `H`.
fn damping(gram: &Gram) -> f64 {
    let columns = gram.columns() as f64;
    let diagonal = (0..gram.columns()).map(|column| gram.at(column, column));
    let mean = diagonal.sum::<f64>() / columns;
    if mean > 0.0 {
        let part = DAMPING + FEW * columns / gram.positions().max(1) as f64;
        part.min(MOST) * mean
    } else {
        // Of no inputs at all any matrix is as good.
        1.0
    }
}

/// Where columns lie: the last place is rounded first, so that the factor is that of an ordinary lower triangle.
struct Plan {
    /// The column of each place.
    columns: Vec<usize>,
    /// How many places each tile has. Groups of up to `TILE` are not cut.
    widths: Vec<usize>,
    /// The group of each place, if it begins there.
    begins: Vec<Option<usize>>,
    /// The group of each place.
    group: Vec<usize>,
}

impl Plan {
    fn new(scheme: &Scheme, gram: &Gram, order: Order) -> Self {
        let mut groups: Vec<(usize, Vec<usize>)> =
            scheme.groups.iter().cloned().enumerate().collect();
        if order == Order::LargestFirst {
            let square = |column: &usize| gram.at(*column, *column);
            let mean =
                |group: &[usize]| group.iter().map(square).sum::<f64>() / group.len().max(1) as f64;
            groups.sort_by(|(_, a), (_, b)| mean(b).total_cmp(&mean(a)));
            for (_, group) in &mut groups {
                group.sort_by(|a, b| square(b).total_cmp(&square(a)));
            }
        }
        let (mut widths, mut width) = (Vec::new(), 0);
        for (_, group) in &groups {
            if width + group.len() > TILE && width > 0 {
                widths.push(width);
                width = 0;
            }
            width += group.len();
            while width > TILE {
                widths.push(TILE);
                width -= TILE;
            }
        }
        if width > 0 {
            widths.push(width);
        }
        widths.reverse();
        let mut plan = Self {
            columns: Vec::new(),
            widths,
            begins: Vec::new(),
            group: Vec::new(),
        };
        for (index, group) in groups.iter().rev() {
            plan.columns.extend(group.iter().rev());
            plan.group.extend(group.iter().map(|_| *index));
            plan.begins.extend(group.iter().map(|_| None));
            if let Some(first) = plan.begins.last_mut().filter(|_| !group.is_empty()) {
                *first = Some(*index);
            }
        }
        plan
    }

    /// `L` and `D` of the damped matrix.
    fn factor(&self, gram: &Gram) -> Result<(Tiles, Vec<f64>), RoundingError> {
        let mut damping = damping(gram);
        let mut tries = 0;
        loop {
            let mut tiles = Tiles::new(&self.widths, |row, column| {
                let product = gram.at(self.columns[row], self.columns[column]);
                product + if row == column { damping } else { 0.0 }
            });
            match tiles.factor() {
                Ok(pivots) => return Ok((tiles, pivots)),
                Err(place) if tries == HARDER.1 => {
                    let column = self.columns[place];
                    return Err(RoundingError::NotPositive { column });
                }
                Err(_) => (damping, tries) = (damping * HARDER.0, tries + 1),
            }
        }
    }

    /// The codes and scales of some rows.
    fn round(
        &self,
        weights: &[f32],
        scheme: &Scheme,
        factor: &Tiles,
        pivots: &[f64],
    ) -> (Vec<i8>, Vec<f32>) {
        let rows = weights.len() / scheme.columns;
        let mean = pivots.iter().sum::<f64>() / pivots.len() as f64;
        let importance: Vec<f32> = pivots.iter().map(|d| (d / mean) as f32).collect();
        let weight = |row: usize, place: usize| weights[row * scheme.columns + self.columns[place]];
        let mut codes = vec![0; weights.len()];
        let mut scales = vec![0.0; rows * scheme.groups.len()];
        // A scale of more columns than a tile has is chosen before any is rounded.
        let places: Vec<usize> = (0..self.columns.len()).collect();
        for places in places.chunk_by(|a, b| self.group[*a] == self.group[*b]) {
            if places.len() > TILE {
                let importance = &importance[places[0]..places[0] + places.len()];
                for row in 0..rows {
                    let values: Vec<f32> = places.iter().map(|&place| weight(row, place)).collect();
                    scales[row * scheme.groups.len() + self.group[places[0]]] =
                        scale::scale(&scheme.codes, &values, importance);
                }
            }
        }
        // w - q of the tiles that are rounded, from the last on.
        let mut errors: Vec<DMatrix<f64>> = Vec::new();
        for tile in (0..self.widths.len()).rev() {
            let start = factor.starts[tile];
            let width = self.widths[tile];
            // Weights with the errors before them, of whole tiles; and of this one, as it goes.
            let mut targets =
                DMatrix::from_fn(rows, width, |row, at| f64::from(weight(row, start + at)));
            for (errors, factor) in errors.iter().rev().zip(&factor.columns[tile][1..]) {
                targets.gemm(1.0, errors, factor, 1.0);
            }
            let mut own = DMatrix::zeros(rows, width);
            let diagonal = &factor.columns[tile][0];
            for at in (0..width).rev() {
                let place = start + at;
                let group = self.group[place];
                let size = scheme.groups[group].len();
                if self.begins[place].is_some() && size <= TILE {
                    let first = at + 1 - size;
                    let importance = &importance[start + first..=place];
                    for row in 0..rows {
                        let values: Vec<f32> =
                            (first..=at).map(|at| targets[(row, at)] as f32).collect();
                        scales[row * scheme.groups.len() + group] =
                            scale::scale(&scheme.codes, &values, importance);
                    }
                }
                for row in 0..rows {
                    let scale = scales[row * scheme.groups.len() + group];
                    let code = scheme.codes.code(targets[(row, at)] as f32, scale) as i8;
                    codes[row * scheme.columns + self.columns[place]] = code;
                    let rounded = f64::from(f32::from(code) * scale);
                    own[(row, at)] = f64::from(weight(row, place)) - rounded;
                }
                let (before, _) = targets.as_mut_slice().split_at_mut(at * rows);
                let error = &own.as_slice()[at * rows..(at + 1) * rows];
                for (target, factor) in before.chunks_exact_mut(rows).zip(diagonal.row(at).iter()) {
                    for (target, error) in target.iter_mut().zip(error) {
                        *target += error * factor;
                    }
                }
            }
            errors.push(own);
        }
        (codes, scales)
    }
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
/// Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019, arXiv:1906.04721, section 4.2.
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
