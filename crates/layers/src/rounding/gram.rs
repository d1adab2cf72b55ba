//! Symmetric matrices in tiles, of which the lower half is stored.

use nalgebra::{DMatrix, DMatrixView, Dyn, MatrixView};
use rayon::prelude::*;

use super::RoundingError;

/// How many columns a tile has at most: 128 KiB, what stays in the second cache beside two more.
pub(super) const TILE: usize = 128;
/// How many positions are added at a time.
const POSITIONS: usize = 256;

/// What a layer reads, as the products of its inputs with each other.
///
/// ```text
/// H = Σ x xᵀ      over all positions of all calibration inputs, [columns][columns]
/// ```
///
/// A column is an input of the layer: of a convolution, a channel at a tap, in the order of its weights,
/// `channel · taps + tap`. Sums are in f64, in one order on any number of threads. It takes `4 · columns²` bytes.
#[derive(Clone, Debug)]
pub struct Gram {
    pub(super) tiles: Tiles,
    columns: usize,
    positions: usize,
}

impl Gram {
    /// That of no positions.
    pub fn new(columns: usize) -> Self {
        Self {
            tiles: Tiles::new(&widths(columns), |_, _| 0.0),
            columns,
            positions: 0,
        }
    }

    /// How much memory that of so many columns takes.
    pub(crate) fn bytes(columns: usize) -> usize {
        4 * columns * columns
    }

    /// One that was summed elsewhere, from `at(row, column)` with `row ≥ column`, over so many positions.
    pub fn from_fn(
        columns: usize,
        positions: usize,
        at: impl Fn(usize, usize) -> f64 + Sync,
    ) -> Self {
        let at = |i: usize, j: usize| if i < j { at(j, i) } else { at(i, j) };
        Self {
            tiles: Tiles::new(&widths(columns), at),
            columns,
            positions,
        }
    }

    /// Adds inputs, `[positions][columns]`. Hundreds of positions at a time are fast; the matrix is read and written once for
    /// every 256 of them, and once for every call.
    ///
    /// # Panics
    ///
    /// If inputs are not whole positions.
    pub fn add(&mut self, inputs: &[f32]) {
        let columns = self.columns;
        if columns == 0 {
            return;
        }
        assert!(
            inputs.len().is_multiple_of(columns),
            "{} inputs are not positions of {columns} columns",
            inputs.len()
        );
        self.positions += inputs.len() / columns;
        for inputs in inputs.chunks(POSITIONS * columns) {
            let positions = inputs.len() / columns;
            let strips: Vec<DMatrix<f64>> = (self.tiles.starts.par_windows(2))
                .map(|ends| {
                    DMatrix::from_fn(ends[1] - ends[0], positions, |column, position| {
                        f64::from(inputs[position * columns + ends[0] + column])
                    })
                })
                .collect();
            self.tiles.add_products(0, 1.0, &strips);
        }
    }

    /// How many inputs the layer has.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Over how many positions it was summed.
    pub fn positions(&self) -> usize {
        self.positions
    }

    /// One of its numbers.
    pub fn at(&self, i: usize, j: usize) -> f64 {
        let (row, column) = (i.max(j), i.min(j));
        let tile = &self.tiles.columns[column / TILE][row / TILE - column / TILE];
        tile[(row % TILE, column % TILE)]
    }

    /// `v H vᵀ` for each row `v` of a matrix `[rows][columns]`: the sum over positions of the square of what the row makes of
    /// the inputs.
    ///
    /// # Panics
    ///
    /// If the matrix is not whole rows.
    pub fn quadratic(&self, matrix: &[f32]) -> Vec<f64> {
        if self.columns == 0 {
            return Vec::new();
        }
        assert!(
            matrix.len().is_multiple_of(self.columns),
            "{} numbers are not rows of {}",
            matrix.len(),
            self.columns
        );
        self.quadratic_of(matrix.len() / self.columns, |row, column| {
            f64::from(matrix[row * self.columns + column])
        })
    }

    /// The same for `matrix(row, column)`.
    pub(super) fn quadratic_of(
        &self,
        rows: usize,
        matrix: impl Fn(usize, usize) -> f64 + Sync,
    ) -> Vec<f64> {
        super::blocks(rows)
            .flat_map_iter(|rows| {
                let strips = self
                    .tiles
                    .strips(rows.len(), |row, column| matrix(rows.start + row, column));
                self.tiles.quadratic(&strips)
            })
            .collect()
    }

    /// An error if a number is not finite, or an input's square is negative.
    pub(super) fn check(&self) -> Result<(), RoundingError> {
        // Sums of squares are finite where all inputs are; a matrix from elsewhere is looked at whole.
        for column in 0..self.columns {
            if self.at(column, column) < 0.0 {
                return Err(RoundingError::Gram {
                    row: column,
                    column,
                });
            }
        }
        let wrong = |(j, tiles): (usize, &Vec<DMatrix<f64>>)| {
            tiles.iter().enumerate().find_map(|(i, tile)| {
                let at = tile.iter().position(|x| !x.is_finite())?;
                let (row, column) = (at % tile.nrows(), at / tile.nrows());
                Some(((i + j) * TILE + row, j * TILE + column))
            })
        };
        let columns = self.tiles.columns.par_iter().enumerate();
        match columns.find_map_first(wrong) {
            Some((row, column)) => Err(RoundingError::Gram { row, column }),
            None => Ok(()),
        }
    }
}

fn widths(columns: usize) -> Vec<usize> {
    (0..columns)
        .step_by(TILE)
        .map(|start| TILE.min(columns - start))
        .collect()
}

/// Tiles on the diagonal and below it.
#[derive(Clone, Debug)]
pub(super) struct Tiles {
    /// Where each tile begins, and where the last one ends.
    pub(super) starts: Vec<usize>,
    /// Those of a column of tiles from the diagonal down.
    pub(super) columns: Vec<Vec<DMatrix<f64>>>,
}

impl Tiles {
    pub(super) fn new(widths: &[usize], at: impl Fn(usize, usize) -> f64 + Sync) -> Self {
        let mut starts = vec![0];
        for width in widths {
            starts.push(starts[starts.len() - 1] + width);
        }
        let tile = |i: usize, j: usize| {
            DMatrix::from_fn(widths[i], widths[j], |row, column| {
                at(starts[i] + row, starts[j] + column)
            })
        };
        let columns = (0..widths.len())
            .into_par_iter()
            .map(|j| (j..widths.len()).map(|i| tile(i, j)).collect())
            .collect();
        Self { starts, columns }
    }

    /// A matrix of so many rows, cut into the columns of tiles.
    pub(super) fn strips(
        &self,
        rows: usize,
        at: impl Fn(usize, usize) -> f64,
    ) -> Vec<DMatrix<f64>> {
        (self.starts.windows(2))
            .map(|ends| {
                DMatrix::from_fn(rows, ends[1] - ends[0], |row, column| {
                    at(row, ends[0] + column)
                })
            })
            .collect()
    }

    /// Adds `factor · strips[i] · strips[j]ᵀ` to every tile from a column on; the first strip is that of the column.
    fn add_products(&mut self, from: usize, factor: f64, strips: &[DMatrix<f64>]) {
        let columns = self.columns[from..].par_iter_mut().enumerate();
        columns.for_each(|(j, column)| {
            column.par_iter_mut().enumerate().for_each(|(i, tile)| {
                tile.gemm(factor, &strips[i + j], &transposed(&strips[j]), 1.0);
            });
        });
    }

    /// `v H vᵀ` for each row of a matrix in strips.
    pub(super) fn quadratic(&self, strips: &[DMatrix<f64>]) -> Vec<f64> {
        let rows = strips.first().map_or(0, DMatrix::nrows);
        let mut sums = vec![0.0; rows];
        for (j, column) in self.columns.iter().enumerate() {
            let mut products = DMatrix::zeros(rows, strips[j].ncols());
            for (i, tile) in column.iter().enumerate() {
                // What lies above the diagonal is the same again.
                let factor = if i == 0 { 1.0 } else { 2.0 };
                products.gemm(factor, &strips[i + j], tile, 1.0);
            }
            for (product, strip) in products.column_iter().zip(strips[j].column_iter()) {
                for (sum, (p, v)) in sums.iter_mut().zip(product.iter().zip(strip.iter())) {
                    *sum += p * v;
                }
            }
        }
        // A tiny sum may round to below zero.
        sums.into_iter().map(|sum| sum.max(0.0)).collect()
    }

    /// Makes of the matrix `H = L D Lᵀ` the factor `L`, whose diagonal is one; returns the diagonal of `D`, or where it is not
    /// positive.
    ///
    /// A right-looking Cholesky factorization in tiles, and then the division of its columns.
    pub(super) fn factor(&mut self) -> Result<Vec<f64>, usize> {
        let mut pivots = Vec::new();
        for k in 0..self.columns.len() {
            let (diagonal, below) = self.columns[k].split_at_mut(1);
            let diagonal = &mut diagonal[0];
            let start = self.starts[k];
            factor_tile(diagonal).map_err(|at| start + at)?;
            below
                .par_iter_mut()
                .for_each(|tile| solve(tile.as_mut_slice(), diagonal));
            let strips = std::mem::take(&mut self.columns[k]);
            self.add_products(k + 1, -1.0, &strips[1..]);
            self.columns[k] = strips;
        }
        for column in &mut self.columns {
            let roots = column[0].diagonal();
            column.par_iter_mut().for_each(|tile| {
                for (mut column, root) in tile.column_iter_mut().zip(roots.iter()) {
                    column /= *root;
                }
            });
            pivots.extend(roots.iter().map(|root| root * root));
        }
        Ok(pivots)
    }
}

/// The Cholesky factor of a tile, in its lower half; the upper half becomes zero.
fn factor_tile(tile: &mut DMatrix<f64>) -> Result<(), usize> {
    let n = tile.nrows();
    let values = tile.as_mut_slice();
    for k in 0..n {
        let (done, rest) = values.split_at_mut((k + 1) * n);
        let column = &mut done[k * n..];
        let pivot = column[k];
        if !(pivot > 0.0 && pivot.is_finite()) {
            return Err(k);
        }
        let root = pivot.sqrt();
        column[..k].fill(0.0);
        for x in &mut column[k..] {
            *x /= root;
        }
        for (j, later) in rest.chunks_exact_mut(n).enumerate() {
            let j = j + k + 1;
            let factor = column[j];
            for (x, l) in later[j..].iter_mut().zip(&column[j..]) {
                *x -= factor * l;
            }
        }
    }
    Ok(())
}

/// `X` of `X Lᵀ = P`, in the place of `P`, column after column.
fn solve(values: &mut [f64], factor: &DMatrix<f64>) {
    let n = factor.nrows();
    let rows = values.len() / n;
    for k in 0..n {
        let (done, rest) = values.split_at_mut((k + 1) * rows);
        let column = &mut done[k * rows..];
        let root = factor[(k, k)];
        for x in column.iter_mut() {
            *x /= root;
        }
        for (later, l) in rest
            .chunks_exact_mut(rows)
            .zip(factor.column(k).iter().skip(k + 1))
        {
            for (x, y) in later.iter_mut().zip(column.iter()) {
                *x -= l * y;
            }
        }
    }
}

/// A matrix, read by columns instead of rows.
pub(super) fn transposed(matrix: &DMatrix<f64>) -> MatrixView<'_, f64, Dyn, Dyn, Dyn, Dyn> {
    let (rows, columns) = matrix.shape();
    DMatrixView::from_slice_with_strides_generic(
        matrix.as_slice(),
        Dyn(columns),
        Dyn(rows),
        Dyn(rows),
        Dyn(1),
    )
}
