//! Columns, rounded one after the other.

use nalgebra::DMatrix;
use rayon::prelude::*;

use super::gram::{TILE, Tiles};
use super::{
    Gram, Rounded, RoundingError, Scheme, added, blocks, empty, nearest, scale, some_rows,
};

/// What [`damping`] chooses from.
const DAMPINGS: [f64; 4] = [0.001, 0.01, 0.1, 1.0];
/// By how much damping grows where the matrix is not positive, and how often.
const HARDER: (f64, usize) = (10.0, 3);

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
/// λ = damping · mean diagonal of H
/// qₖ = round(wₖ + Σ_{j<k} (wⱼ - qⱼ) Uⱼₖ)      so that tr(E (H + λ) Eᵀ) = Σₖ Dₖ rₖ², r what the rounding of k changes
/// ```
///
/// These are the paper's codes, without its inverse of `H`: one factorization, in tiles, and the errors of whole tiles are
/// passed on in one product. For columns `n` and rows `m` it takes `n³ / 3 + 3 m n²` operations in all.
///
/// A scale is that of the least `Σ Dₖ (wₖ - scale · code)²`. Of a group of up to 128 columns it is chosen when its first column
/// is reached, for weights that have taken up the errors before them; of a longer one, at the start.
///
/// An input that is always zero has no part in any of it; its weights are rounded to the nearest code. Where `H + λ` is not
/// positive because its numbers were rounded, `λ` becomes ten times as large, up to a thousand times.
///
/// A row for which [`nearest`](super::nearest) has the smaller error keeps the codes of that.
///
/// Frantar et al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", 2023,
/// arXiv:2210.17323, Algorithm 1; this form of it: Chee et al., "QuIP: 2-Bit Quantization of Large Language Models With
/// Guarantees", 2023, arXiv:2307.13304, which shows that both are one.
///
/// # Errors
///
/// If a weight or a product of inputs is not finite, or no damping makes the products positive.
///
/// # Panics
///
/// If weights are not whole rows, inputs have another number of columns, or damping is not positive.
pub fn gptq(
    weights: &[f32],
    scheme: &Scheme,
    gram: &Gram,
    order: Order,
    damping: f64,
) -> Result<Rounded, RoundingError> {
    let rows = scheme.check(weights, gram)?;
    if rows == 0 {
        return Ok(empty(scheme, 0));
    }
    let nearest = nearest(weights, scheme, gram)?;
    let plan = Plan::new(scheme, gram, order);
    let (factor, pivots) = plan.factor(gram, damping)?;
    let parts: Vec<_> = blocks(rows)
        .map(|rows| {
            let columns = scheme.columns;
            let weights = &weights[rows.start * columns..rows.end * columns];
            plan.round(weights, scheme, &factor, &pivots)
        })
        .collect();
    let mut rounded = empty(scheme, rows);
    (rounded.codes, rounded.scales) = (Vec::new(), Vec::new());
    for (codes, scales) in parts {
        rounded.codes.extend(codes);
        rounded.scales.extend(scales);
    }
    rounded.measure(weights, scheme, gram);
    rounded.nearest.clone_from(&nearest.errors);
    rounded.take_better(&nearest);
    Ok(rounded)
}

/// The damping with which [`gptq`] is best for inputs that it has not seen: 0.001, 0.01, 0.1 or 1; nothing where
/// [`nearest`](super::nearest) is better than all.
///
/// Where positions are few, errors are carried into directions that only the calibration inputs lack. How few that is
/// depends on the inputs, so it is measured, on up to 128 rows. `unseen` are inputs of other samples, not other positions of
/// the same.
///
/// # Errors
///
/// As [`gptq`].
///
/// # Panics
///
/// As [`gptq`].
pub fn damping(
    weights: &[f32],
    scheme: &Scheme,
    gram: &Gram,
    unseen: &Gram,
    order: Order,
) -> Result<Option<f64>, RoundingError> {
    scheme.check(weights, unseen)?;
    let some = some_rows(weights, scheme.columns());
    let mut best = (nearest(&some, scheme, unseen)?.error(), None);
    for damping in DAMPINGS {
        let mut rounded = gptq(&some, scheme, gram, order, damping)?;
        rounded.measure(&some, scheme, unseen);
        if rounded.error() < best.0 {
            best = (rounded.error(), Some(damping));
        }
    }
    Ok(best.1)
}

/// Where columns lie: the last place is rounded first, so that the factor is that of an ordinary lower triangle.
pub(super) struct Plan {
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
    pub(super) fn new(scheme: &Scheme, gram: &Gram, order: Order) -> Self {
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
    pub(super) fn factor(
        &self,
        gram: &Gram,
        damping: f64,
    ) -> Result<(Tiles, Vec<f64>), RoundingError> {
        let mut added = added(gram, damping);
        let mut tries = 0;
        loop {
            let mut tiles = Tiles::new(&self.widths, |row, column| {
                let product = gram.at(self.columns[row], self.columns[column]);
                product + if row == column { added } else { 0.0 }
            });
            match tiles.factor() {
                Ok(pivots) => return Ok((tiles, pivots)),
                Err(place) if tries == HARDER.1 => {
                    let column = self.columns[place];
                    return Err(RoundingError::NotPositive { column });
                }
                Err(_) => (added, tries) = (added * HARDER.0, tries + 1),
            }
        }
    }

    /// The codes and scales of some rows.
    pub(super) fn round(
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
                    // What the group is to be rounded to, each column as if those before it were not rounded.
                    let mut ideal = targets.columns(first, size).into_owned();
                    for of in (0..size).rev() {
                        let error: Vec<f64> = (0..rows)
                            .map(|row| {
                                f64::from(weight(row, start + first + of)) - ideal[(row, of)]
                            })
                            .collect();
                        let factors = diagonal.view((first + of, first), (1, of));
                        carry(&error, factors.iter(), ideal.as_mut_slice());
                    }
                    for row in 0..rows {
                        let values: Vec<f32> = ideal.row(row).iter().map(|w| *w as f32).collect();
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
                let error = &own.as_slice()[at * rows..(at + 1) * rows];
                let factors = diagonal.view((at, 0), (1, at));
                carry(error, factors.iter(), targets.as_mut_slice());
            }
            errors.push(own);
        }
        (codes, scales)
    }
}

/// Adds to the first columns of targets what an error of a later one makes of them.
fn carry<'a>(error: &[f64], factors: impl Iterator<Item = &'a f64>, targets: &mut [f64]) {
    for (target, factor) in targets.chunks_exact_mut(error.len()).zip(factors) {
        for (target, error) in target.iter_mut().zip(error) {
            *target += error * factor;
        }
    }
}
