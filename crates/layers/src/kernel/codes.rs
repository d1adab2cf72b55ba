//! Numbers as whole codes: those of weights are chosen once, those of inputs in every call.
//!
//! ```text
//! w ≈ scale · code            codes of eight bits, -127..=127, or of four, -8..=7
//! x ≈ step · (code - zero)    codes 0..=255, or -128..=127 where they are bytes with a sign
//! Σ w x ≈ scale · step · (Σ codes of w · codes of x - zero · Σ codes of w)
//! ```
//!
//! The sums are whole numbers, and so the same in every order and on every level.

// An indexed loop over sixteen is what the compiler makes vectors of.
#![allow(clippy::needless_range_loop)]

use rayon::prelude::*;

use super::elementwise::Activation;
use super::lanes::{LANES, Lanes, SIGNED};
use super::level::{Level, run_on};
use super::panels::{Precision, bf16_pair};

/// Numbers below it count as zero where none is larger: the inverse of a step must be finite.
const TINY: f32 = 1e-36;
/// Adding and subtracting it leaves no room for a fraction below 2²².
const NO_FRACTION: f32 = 12_582_912.0;
/// How far apart the least and the largest code of an input are.
const INPUT: u8 = 255;
/// The least code of an input.
const LEAST: i32 = if SIGNED { -128 } else { 0 };
/// How many vectors are measured at a time, so that none waits for the one before.
const IN_FLIGHT: usize = 4;
/// The largest code of an input above that of zero, where there are as many below.
const SYMMETRIC: f32 = 127.0;

/// Codes that weights may have.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Codes {
    least: f32,
    most: f32,
    /// What is tried: the number of largest magnitude becomes the least code, times the inverse of a factor.
    factors: &'static [f32],
}

impl Codes {
    /// Four bits. A factor above one spends no code on the farthest number alone.
    pub(crate) const FOUR_BITS: Self = Self {
        least: -8.0,
        most: 7.0,
        factors: &[
            1.0, 1.14, 1.07, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55,
        ],
    };

    /// Eight bits, or less where a sum of so many products could leave 32 bits.
    pub(crate) fn eight_bits(products: usize) -> Self {
        let most = i32::MAX as usize / usize::from(INPUT) / products.max(1);
        let most = most.clamp(1, 127) as f32;
        Self {
            least: -most,
            most,
            factors: &[1.0, 0.96, 0.92, 0.88, 0.84, 0.8],
        }
    }

    /// The least and the largest.
    pub(crate) fn ends(&self) -> [f32; 2] {
        [self.least, self.most]
    }

    /// The scale with the least sum of squared errors of those that are tried. It is NaN where a weight is not finite.
    pub(crate) fn scale(&self, weights: &[f32]) -> f32 {
        let mut farthest = 0.0_f32;
        for &w in weights {
            if !w.is_finite() {
                return f32::NAN;
            }
            if w.abs() > farthest.abs() {
                farthest = w;
            }
        }
        if farthest.abs() < TINY {
            return 0.0;
        }
        let whole = farthest / self.least;
        let mut best = (f32::INFINITY, whole);
        for factor in self.factors {
            let scale = whole * factor;
            let error = self.error(weights, scale) * factor * factor;
            if error < best.0 {
                best = (error, scale);
            }
        }
        // The best scale for these codes; others may suit it better, and then so much the better.
        let (mut products, mut squares) = (0.0, 0.0);
        let inverse = inverse(best.1);
        for w in weights {
            let code = self.nearest(w * inverse);
            products += f64::from(w * inverse) * f64::from(code);
            squares += f64::from(code).powi(2);
        }
        let refit = best.1 * (products / squares) as f32;
        let factor = refit / whole;
        if self.error(weights, refit) * factor * factor < best.0 {
            refit
        } else {
            best.1
        }
    }

    /// The code of a weight.
    pub(crate) fn code(&self, weight: f32, scale: f32) -> i32 {
        // NaN becomes zero; its scale is NaN.
        self.nearest(weight * inverse(scale)) as i32
    }

    /// The sum of squared errors, in squares of the scale.
    fn error(&self, weights: &[f32], scale: f32) -> f32 {
        let inverse = inverse(scale);
        let mut lanes = [0.0; LANES];
        let square = |w: f32| {
            let w = w * inverse;
            let error = w - self.nearest(w);
            error * error
        };
        let (whole, rest) = weights.as_chunks::<LANES>();
        for w in whole {
            for i in 0..LANES {
                lanes[i] += square(w[i]);
            }
        }
        for (lane, w) in lanes.iter_mut().zip(rest) {
            *lane += square(*w);
        }
        lanes.iter().sum()
    }

    /// The code nearest to a weight in units of the scale.
    pub(crate) fn nearest(&self, w: f32) -> f32 {
        ((w + NO_FRACTION) - NO_FRACTION).clamp(self.least, self.most)
    }
}

fn inverse(scale: f32) -> f32 {
    if scale == 0.0 { 0.0 } else { 1.0 / scale }
}

/// Between which numbers some lie.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    least: f32,
    most: f32,
    finite: bool,
}

impl Extent {
    /// That of no numbers.
    pub(super) const EMPTY: Self = Self {
        least: f32::INFINITY,
        most: f32::NEG_INFINITY,
        finite: true,
    };

    /// That of some numbers.
    ///
    /// # Panics
    ///
    /// If this CPU does not have the level.
    pub(super) fn new(level: Level, values: &[f32]) -> Self {
        let mut extent = Self::EMPTY;
        let to = &mut extent;
        run_on!(level, measure(values: &[f32], to: &mut Extent));
        extent
    }

    /// That of the numbers of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            least: self.least.min(other.least),
            most: self.most.max(other.most),
            finite: self.finite && other.finite,
        }
    }

    /// That of `activation(scale · x + shift)`: what it is at both ends, and where it is least in between.
    pub(super) fn through(self, activation: Activation, [scale, shift]: [f32; 2]) -> Self {
        if self.least > self.most {
            return self;
        }
        let end = |x: f32| f64::from(scale) * f64::from(x) + f64::from(shift);
        let (a, b) = (end(self.least), end(self.most));
        let (least, most) = (a.min(b), a.max(b));
        let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
        let silu = |x: f64| x * sigmoid(x);
        let mish = |x: f64| x * x.exp().ln_1p().tanh();
        let between = |f: &dyn Fn(f64) -> f64, lowest_at: f64| {
            let (first, last) = (f(least), f(most));
            let lowest = f(lowest_at.clamp(least, most));
            (first.min(last).min(lowest), first.max(last))
        };
        let finite = self.finite && a.is_finite() && b.is_finite();
        if !finite {
            return Self { finite, ..self };
        }
        let (least, most) = match activation {
            Activation::Identity => (least, most),
            Activation::Mish => between(&mish, -1.192),
            Activation::Silu => between(&silu, -1.278),
            Activation::Sigmoid => (sigmoid(least), sigmoid(most)),
            Activation::Relu => (least.max(0.0), most.max(0.0)),
            // They are least at -0.170 and -0.164, and at most `x` or zero.
            Activation::Gelu | Activation::QuickGelu => (least.clamp(-0.17, 0.0), most.max(0.0)),
        };
        Self {
            least: least as f32,
            most: most as f32,
            finite,
        }
    }
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn measure<S: Lanes>(values: &[f32], to: &mut Extent) {
    let (whole, rest) = values.as_chunks::<LANES>();
    let Some(&last) = values.last() else {
        return;
    };
    // SAFETY: the caller grants the instruction set; a chunk is sixteen values.
    unsafe {
        let mut least = [S::splat(f32::INFINITY); IN_FLIGHT];
        let mut most = [S::splat(f32::NEG_INFINITY); IN_FLIGHT];
        // Zero as long as all are finite, and NaN from then on.
        let mut nothing = [S::splat(0.0); IN_FLIGHT];
        let mut padded = [last; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        let (several, few) = whole.as_chunks::<IN_FLIGHT>();
        for x in several {
            for i in 0..IN_FLIGHT {
                let x = S::load(x[i].as_ptr());
                // NaN is passed over.
                least[i] = S::min(x, least[i]);
                most[i] = S::max(x, most[i]);
                nothing[i] = S::mul_add(x, S::splat(0.0), nothing[i]);
            }
        }
        for x in few.iter().chain([&padded]) {
            let x = S::load(x.as_ptr());
            least[0] = S::min(x, least[0]);
            most[0] = S::max(x, most[0]);
            nothing[0] = S::mul_add(x, S::splat(0.0), nothing[0]);
        }
        for i in 1..IN_FLIGHT {
            least[0] = S::min(least[i], least[0]);
            most[0] = S::max(most[i], most[0]);
            nothing[0] = S::add(nothing[i], nothing[0]);
        }
        *to = Extent {
            least: -S::largest(S::sub(S::splat(0.0), least[0])),
            most: S::largest(most[0]),
            finite: S::total(nothing[0]) == 0.0,
        };
    }
}

/// How inputs are rounded: `x ≈ step · (code - zero)`. Zero is exact.
#[derive(Clone, Copy, Debug)]
pub(super) struct Grid {
    /// NaN where an input is not finite: no output is a number then.
    pub(super) step: f32,
    /// The code of zero.
    pub(super) zero: i32,
    inverse: f32,
}

impl Grid {
    /// 256 codes from the least number, or zero, to the largest, or zero.
    pub(super) fn new(extent: Extent) -> Self {
        let (least, most) = (extent.least.min(0.0), extent.most.max(0.0));
        if !extent.finite || !least.is_finite() || !most.is_finite() {
            return Self {
                step: f32::NAN,
                zero: 0,
                inverse: 0.0,
            };
        }
        // Two numbers may lie further apart than f32 reaches.
        let step = (f64::from(most) - f64::from(least)) / f64::from(INPUT);
        if step < f64::from(TINY) {
            return Self {
                step: 0.0,
                zero: 0,
                inverse: 0.0,
            };
        }
        let inverse = (1.0 / step) as f32;
        let zero = (-least * inverse)
            .round_ties_even()
            .clamp(0.0, f32::from(INPUT));
        Self {
            step: step as f32,
            zero: zero as i32 + LEAST,
            inverse,
        }
    }

    /// 255 codes, as many below zero as above: the code of zero is the 129th, whatever the numbers.
    pub(super) fn symmetric(extent: Extent) -> Self {
        let most = extent.most.max(-extent.least).max(0.0);
        let (step, inverse) = if !extent.finite {
            (f32::NAN, 0.0)
        } else if most < TINY * SYMMETRIC {
            (TINY, 0.0)
        } else {
            (most / SYMMETRIC, SYMMETRIC / most)
        };
        Self {
            step,
            zero: 128 + LEAST,
            inverse,
        }
    }

    /// What a code stands for.
    fn number(&self, code: u8) -> f32 {
        let code = if SIGNED {
            i32::from(code.cast_signed())
        } else {
            i32::from(code)
        };
        self.step * (code - self.zero) as f32
    }

    /// A word of four zeros.
    pub(super) fn nothing(&self) -> u32 {
        u32::from(self.zero as u8) * 0x0101_0101
    }

    /// Writes the codes of some numbers.
    ///
    /// # Panics
    ///
    /// If there are fewer codes than numbers, or this CPU does not have the level.
    pub(super) fn encode(&self, level: Level, from: &[f32], to: &mut [u8]) {
        let (grid, to) = (*self, &mut to[..from.len()]);
        run_on!(level, encode(grid: Grid, from: &[f32], to: &mut [u8]));
    }
}

/// A [`Grid`] in vectors.
pub(super) struct Rounding<S: Lanes> {
    inverse: S::Vector,
    zero: S::Vector,
}

impl<S: Lanes> Rounding<S> {
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    pub(super) unsafe fn new(grid: &Grid) -> Self {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            Self {
                inverse: S::splat(grid.inverse),
                zero: S::splat(grid.zero as f32),
            }
        }
    }

    /// The codes of sixteen numbers, as numbers.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    pub(super) unsafe fn codes(&self, x: S::Vector) -> S::Vector {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            // Product and sum are rounded apart, so that every level makes the same codes.
            let x = S::add(S::round(S::mul(x, self.inverse)), self.zero);
            let most = LEAST as f32 + f32::from(INPUT);
            S::min(S::max(x, S::splat(LEAST as f32)), S::splat(most))
        }
    }
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn encode<S: Lanes>(grid: Grid, from: &[f32], to: &mut [u8]) {
    let (whole, rest) = from.as_chunks::<LANES>();
    let (codes, codes_rest) = to.as_chunks_mut::<LANES>();
    // SAFETY: the caller grants the instruction set; a chunk is sixteen values, and sixteen bytes.
    unsafe {
        let rounding = Rounding::<S>::new(&grid);
        for (x, to) in whole.iter().zip(codes) {
            S::store_bytes(to.as_mut_ptr(), rounding.codes(S::load(x.as_ptr())));
        }
        if !rest.is_empty() {
            let mut padded = [0.0; LANES];
            let mut bytes = [0; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            let x = rounding.codes(S::load(padded.as_ptr()));
            S::store_bytes(bytes.as_mut_ptr(), x);
            codes_rest.copy_from_slice(&bytes[..rest.len()]);
        }
    }
}

/// Rounds numbers to what their codes stand for: those of a sample together, or, where layers have one tap, those of each
/// position by themselves. Where one is not finite, all that are rounded with it are NaN.
///
/// Shapes: `[sample][channels][positions]`.
pub(crate) fn round_inputs(
    level: Level,
    values: &mut [f32],
    [channels, positions]: [usize; 2],
    pointwise: bool,
) {
    let round = |values: &mut [f32], codes: &mut Vec<u8>| {
        let grid = Grid::new(Extent::new(level, values));
        codes.resize(values.len(), 0);
        grid.encode(level, values, codes);
        for (value, code) in values.iter_mut().zip(codes) {
            *value = grid.number(*code);
        }
    };
    values
        .par_chunks_mut((channels * positions).max(1))
        .for_each(|sample| {
            let mut codes = Vec::new();
            if !pointwise || positions == 1 {
                return round(sample, &mut codes);
            }
            let mut column = vec![0.0; channels];
            for position in 0..positions {
                let places = || (position..channels * positions).step_by(positions);
                for (to, at) in column.iter_mut().zip(places()) {
                    *to = sample[at];
                }
                round(&mut column, &mut codes);
                for (from, at) in column.iter().zip(places()) {
                    sample[at] = *from;
                }
            }
        });
}

/// Rounds weights to what their codes stand for, as [`Panels`](super::Panels) do.
///
/// Shapes: `[row][depth][tap]`.
pub(crate) fn round_weights(precision: Precision, values: &mut [f32], [depth, taps]: [usize; 2]) {
    let nearest = |codes: Codes, row: &mut [f32], places: &[usize], part: &mut Vec<f32>| {
        part.clear();
        part.extend(places.iter().map(|&at| row[at]));
        let scale = codes.scale(part);
        for &at in places {
            row[at] = codes.code(row[at], scale) as f32 * scale;
        }
    };
    let rows = values.par_chunks_mut((depth * taps).max(1));
    match precision {
        Precision::Int4 { group } => rows.for_each(|row| {
            let mut part = Vec::new();
            for first in (0..depth).step_by(group) {
                for tap in 0..taps {
                    let depths = first..depth.min(first + group);
                    let places: Vec<usize> = depths.map(|at| at * taps + tap).collect();
                    nearest(Codes::FOUR_BITS, row, &places, &mut part);
                }
            }
        }),
        Precision::Int8 => {
            let (codes, places) = (Codes::eight_bits(depth * taps), 0..depth * taps);
            let places: Vec<usize> = places.collect();
            rows.for_each(|row| nearest(codes, row, &places, &mut Vec::new()));
        }
        Precision::Bf16 => rows.for_each(|row| {
            for value in row {
                *value = f32::from_bits(bf16_pair(*value, 0.0) << 16);
            }
        }),
        Precision::F32 => {}
    }
}

#[cfg(test)]
pub(in crate::kernel) mod tests;
