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

use super::elementwise::Activation;
use super::lanes::{LANES, Lanes, SIGNED};
use super::level::{Level, run_on};

/// Numbers below it count as zero where none is larger: the inverse of a step must be finite.
const TINY: f32 = 1e-36;
/// Adding and subtracting it leaves no room for a fraction below 2²².
const NO_FRACTION: f32 = 12_582_912.0;
/// How far apart the least and the largest code of an input are.
const INPUT: u8 = 255;
/// The least code of an input.
const LEAST: i32 = if SIGNED { -128 } else { 0 };

/// Codes that weights may have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Codes {
    least: f32,
    most: f32,
    /// What is tried: the number of largest magnitude becomes the least code, times the inverse of a factor.
    factors: &'static [f32],
}

impl Codes {
    /// Four bits. A factor above one spends no code on the farthest number alone.
    pub(super) const FOUR_BITS: Self = Self {
        least: -8.0,
        most: 7.0,
        factors: &[
            1.0, 1.14, 1.07, 0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55,
        ],
    };

    /// Eight bits, or less where a sum of so many products could leave 32 bits.
    pub(super) fn eight_bits(products: usize) -> Self {
        let most = i32::MAX as usize / usize::from(INPUT) / products.max(1);
        let most = most.clamp(1, 127) as f32;
        Self {
            least: -most,
            most,
            factors: &[1.0, 0.96, 0.92, 0.88, 0.84, 0.8],
        }
    }

    /// The scale with the least sum of squared errors of those that are tried. It is NaN where a weight is not finite.
    pub(super) fn scale(&self, weights: &[f32]) -> f32 {
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
    pub(super) fn code(&self, weight: f32, scale: f32) -> i32 {
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

    fn nearest(&self, w: f32) -> f32 {
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

#[inline(always)]
unsafe fn measure<S: Lanes>(values: &[f32], to: &mut Extent) {
    let (whole, rest) = values.as_chunks::<LANES>();
    let Some(&last) = values.last() else {
        return;
    };
    // SAFETY: the caller grants the instruction set; a chunk is sixteen values.
    unsafe {
        let mut least = S::splat(f32::INFINITY);
        let mut most = S::splat(f32::NEG_INFINITY);
        // Zero as long as all are finite, and NaN from then on.
        let mut nothing = S::splat(0.0);
        let mut padded = [last; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        for x in whole.iter().chain([&padded]) {
            let x = S::load(x.as_ptr());
            // NaN is passed over.
            least = S::min(x, least);
            most = S::max(x, most);
            nothing = S::mul_add(x, S::splat(0.0), nothing);
        }
        *to = Extent {
            least: -S::largest(S::sub(S::splat(0.0), least)),
            most: S::largest(most),
            finite: S::total(nothing) == 0.0,
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

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn encode<S: Lanes>(grid: Grid, from: &[f32], to: &mut [u8]) {
    let (whole, rest) = from.as_chunks::<LANES>();
    let (codes, codes_rest) = to.as_chunks_mut::<LANES>();
    // SAFETY: the caller grants the instruction set; a chunk is sixteen values, and sixteen bytes.
    unsafe {
        let (inverse, zero) = (S::splat(grid.inverse), S::splat(grid.zero as f32));
        let least = S::splat(LEAST as f32);
        let most = S::splat(LEAST as f32 + f32::from(INPUT));
        // Product and sum are rounded apart, so that every level makes the same codes.
        for (x, to) in whole.iter().zip(codes) {
            let x = S::round(S::mul(S::load(x.as_ptr()), inverse));
            let x = S::min(S::max(S::add(x, zero), least), most);
            S::store_bytes(to.as_mut_ptr(), x);
        }
        if !rest.is_empty() {
            let mut padded = [0.0; LANES];
            let mut bytes = [0; LANES];
            padded[..rest.len()].copy_from_slice(rest);
            let x = S::round(S::mul(S::load(padded.as_ptr()), inverse));
            let x = S::min(S::max(S::add(x, zero), least), most);
            S::store_bytes(bytes.as_mut_ptr(), x);
            codes_rest.copy_from_slice(&bytes[..rest.len()]);
        }
    }
}

/// Codes of four rows, side by side in words.
#[inline(always)]
pub(super) fn weave(rows: [&[u8]; 4], to: &mut [u32]) {
    let n = to.len();
    let [a, b, c, d] = rows.map(|row| &row[..n]);
    for i in 0..n {
        to[i] = u32::from_le_bytes([a[i], b[i], c[i], d[i]]);
    }
}

#[cfg(test)]
pub(in crate::kernel) mod tests;
