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
    /// Fetches a cache line that will be read soon. Any address will do.
    unsafe fn prefetch(from: *const u32);
}
