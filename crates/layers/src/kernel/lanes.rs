//! Sixteen numbers at a time, in each instruction set.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;

#[cfg(target_arch = "x86_64")]
pub(super) use avx2::Avx2;
#[cfg(target_arch = "x86_64")]
pub(super) use avx512::{Avx512, Avx512Bf16};
#[cfg(target_arch = "aarch64")]
pub(super) use neon::Neon;
pub(super) use portable::Portable;

/// How many numbers a vector has, in every instruction set.
pub(crate) const LANES: usize = 16;

/// Arithmetic on sixteen f32.
///
/// # Safety
///
/// Each function may be called only where the CPU has the instruction set. Pointers must be valid for sixteen words;
/// they need no alignment.
pub(super) trait Lanes {
    /// Sixteen f32.
    type Vector: Copy;
    /// Sixteen words of 32 bits: an f32, or two bf16 with the first in the low half.
    type Word: Copy;
    /// Whether [`product_of_pairs`](Self::product_of_pairs) is an instruction.
    const PAIRS: bool = false;
    /// How many vectors of sums fit into the registers, beside weights and inputs.
    const SUMS: usize;

    unsafe fn splat(x: f32) -> Self::Vector;
    unsafe fn load(from: *const f32) -> Self::Vector;
    unsafe fn store(to: *mut f32, x: Self::Vector);
    unsafe fn add(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn sub(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn mul(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    unsafe fn div(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a · b + c`, rounded once where the instruction set can, and twice elsewhere.
    unsafe fn mul_add(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// The smaller; `b` where it is NaN.
    unsafe fn min(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger; `b` where it is NaN.
    unsafe fn max(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The largest of the sixteen; any number where one is NaN.
    unsafe fn largest(x: Self::Vector) -> f32;
    /// The sum of the sixteen, two by two.
    unsafe fn total(x: Self::Vector) -> f32;
    /// The nearest whole number; the even one of two. For `|x| < 2²²`.
    unsafe fn round(x: Self::Vector) -> Self::Vector;
    /// `x · 2ⁿ` for whole `n` in `-252..=254`.
    unsafe fn scale(x: Self::Vector, n: Self::Vector) -> Self::Vector;

    unsafe fn load_words(from: *const u32) -> Self::Word;
    unsafe fn splat_word(x: u32) -> Self::Word;
    /// The words as f32.
    unsafe fn as_f32(words: Self::Word) -> Self::Vector;
    /// The first bf16 of each word.
    unsafe fn first(words: Self::Word) -> Self::Vector;
    /// The second bf16 of each word.
    unsafe fn second(words: Self::Word) -> Self::Vector;
    /// `sum + w₀ x₀ + w₁ x₁`, of pairs of bf16, summed in f32. Subnormal numbers may count as zero.
    #[inline(always)]
    unsafe fn product_of_pairs(sum: Self::Vector, w: Self::Word, x: Self::Word) -> Self::Vector {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let second = Self::mul_add(Self::second(w), Self::second(x), sum);
            Self::mul_add(Self::first(w), Self::first(x), second)
        }
    }
    /// Sixteen vectors of sixteen: the i-th number of the j-th vector changes place with the j-th of the i-th.
    #[inline(always)]
    unsafe fn transpose(x: &mut [Self::Vector; LANES]) {
        let mut numbers = [[0.0; LANES]; LANES];
        let mut transposed = [[0.0; LANES]; LANES];
        // SAFETY: the caller grants the instruction set; a row is sixteen numbers.
        unsafe {
            for (row, x) in numbers.iter_mut().zip(x.iter()) {
                Self::store(row.as_mut_ptr(), *x);
            }
            for (i, row) in numbers.iter().enumerate() {
                for (j, number) in row.iter().enumerate() {
                    transposed[j][i] = *number;
                }
            }
            for (row, x) in transposed.iter().zip(x) {
                *x = Self::load(row.as_ptr());
            }
        }
    }
    /// Four vectors of four quads: the i-th quad of the j-th vector changes place with the j-th of the i-th.
    #[inline(always)]
    unsafe fn transpose_quads(x: &mut [Self::Vector; 4]) {
        let mut quads = [[[0.0_f32; 4]; 4]; 4];
        let mut transposed = [[[0.0_f32; 4]; 4]; 4];
        // SAFETY: the caller grants the instruction set; a row is sixteen numbers.
        unsafe {
            for (row, x) in quads.iter_mut().zip(x.iter()) {
                Self::store(row.as_mut_ptr().cast(), *x);
            }
            for (i, row) in quads.iter().enumerate() {
                for (j, quad) in row.iter().enumerate() {
                    transposed[j][i] = *quad;
                }
            }
            for (row, x) in transposed.iter().zip(x) {
                *x = Self::load(row.as_ptr().cast());
            }
        }
    }
    /// Every fourth of 64 numbers, from the first, the second, the third and the fourth on.
    #[inline(always)]
    unsafe fn every_fourth(x: [Self::Vector; 4]) -> [Self::Vector; 4] {
        let mut numbers = [[0.0_f32; 4]; LANES];
        let mut out = [[0.0_f32; LANES]; 4];
        // SAFETY: the caller grants the instruction set; four quads are sixteen numbers.
        unsafe {
            for (four, x) in numbers.chunks_exact_mut(4).zip(x) {
                Self::store(four.as_mut_ptr().cast(), x);
            }
            for (i, four) in numbers.iter().enumerate() {
                for (j, number) in four.iter().enumerate() {
                    out[j][i] = *number;
                }
            }
            let mut vectors = x;
            for (vector, numbers) in vectors.iter_mut().zip(&out) {
                *vector = Self::load(numbers.as_ptr());
            }
            vectors
        }
    }
    /// Fetches a cache line that will be read soon. Any address will do.
    unsafe fn prefetch(from: *const u32);
}
