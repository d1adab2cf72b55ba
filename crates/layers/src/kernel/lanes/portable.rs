//! Plain Rust, which the compiler turns into the vectors that every CPU of an architecture has.

// An indexed loop over sixteen is what the compiler makes vectors of, here and where two arrays are read.
#![allow(clippy::needless_range_loop)]

use super::{LANES, Lanes};

/// What every CPU has.
pub(in super::super) struct Portable;

/// Adding and subtracting it leaves no room for a fraction below 2²³.
const NO_FRACTION: f32 = 12_582_912.0;

type Vector = [f32; LANES];

#[inline(always)]
fn each(f: impl Fn(usize) -> f32) -> Vector {
    let mut out = [0.0; LANES];
    for i in 0..LANES {
        out[i] = f(i);
    }
    out
}

/// `2ⁿ` for whole `n` in `-126..=127`.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits(((n + 127) as u32) << 23)
}

// SAFETY of every function below: references to memory are read and written within the sixteen words that the trait's
// contract grants; everything else is safe code.
impl Lanes for Portable {
    type Vector = Vector;
    type Word = [u32; LANES];
    const SUMS: usize = 2;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Vector {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Vector {
        // SAFETY: the caller grants sixteen values.
        unsafe { from.cast::<Vector>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Vector) {
        // SAFETY: the caller grants sixteen values.
        unsafe { to.cast::<Vector>().write_unaligned(x) }
    }

    #[inline(always)]
    unsafe fn add(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] + b[i])
    }

    #[inline(always)]
    unsafe fn sub(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] - b[i])
    }

    #[inline(always)]
    unsafe fn mul(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] * b[i])
    }

    #[inline(always)]
    unsafe fn div(a: Vector, b: Vector) -> Vector {
        each(|i| a[i] / b[i])
    }

    #[inline(always)]
    unsafe fn mul_add(a: Vector, b: Vector, c: Vector) -> Vector {
        // Without the instruction, a fused operation would be a call.
        each(|i| a[i] * b[i] + c[i])
    }

    #[inline(always)]
    unsafe fn min(a: Vector, b: Vector) -> Vector {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn max(a: Vector, b: Vector) -> Vector {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    unsafe fn largest(x: Vector) -> f32 {
        // Four by four, so that few wait for each other.
        let four: [f32; 4] = std::array::from_fn(|i| {
            let of = |a: f32, b: f32| if a > b { a } else { b };
            of(of(x[i], x[i + 4]), of(x[i + 8], x[i + 12]))
        });
        let of = |a: f32, b: f32| if a > b { a } else { b };
        of(of(four[0], four[1]), of(four[2], four[3]))
    }

    #[inline(always)]
    unsafe fn total(x: Vector) -> f32 {
        let four: [f32; 4] = std::array::from_fn(|i| (x[i] + x[i + 8]) + (x[i + 4] + x[i + 12]));
        (four[0] + four[2]) + (four[1] + four[3])
    }

    #[inline(always)]
    unsafe fn round(x: Vector) -> Vector {
        each(|i| (x[i] + NO_FRACTION) - NO_FRACTION)
    }

    #[inline(always)]
    unsafe fn scale(x: Vector, n: Vector) -> Vector {
        each(|i| {
            let n = n[i] as i32;
            let half = n >> 1;
            x[i] * power_of_two(half) * power_of_two(n - half)
        })
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> [u32; LANES] {
        // SAFETY: the caller grants sixteen words.
        unsafe { from.cast::<[u32; LANES]>().read_unaligned() }
    }

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> [u32; LANES] {
        [x; LANES]
    }

    #[inline(always)]
    unsafe fn as_f32(words: [u32; LANES]) -> Vector {
        each(|i| f32::from_bits(words[i]))
    }

    #[inline(always)]
    unsafe fn first(words: [u32; LANES]) -> Vector {
        each(|i| f32::from_bits(words[i] << 16))
    }

    #[inline(always)]
    unsafe fn second(words: [u32; LANES]) -> Vector {
        each(|i| f32::from_bits(words[i] & 0xffff_0000))
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}
}
