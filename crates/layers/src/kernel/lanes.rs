//! Sixteen numbers at a time, in each instruction set.

// An indexed loop over sixteen is what the compiler makes vectors of.
#![allow(clippy::needless_range_loop)]

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
pub(super) use avx512::{Avx512, Avx512Bf16, Avx512Vnni};
#[cfg(target_arch = "aarch64")]
pub(super) use neon::{Neon, NeonBf16, NeonDot};
pub(super) use portable::Portable;

/// How many numbers a vector has, in every instruction set.
pub(crate) const LANES: usize = 16;

/// Whether the bytes of inputs have a sign: -128..=127 on Arm, whose oldest product of bytes takes two of a kind, and 0..=255
/// on x86, whose products take one of each.
pub(super) const SIGNED: bool = cfg!(target_arch = "aarch64");

/// Arithmetic on sixteen f32.
///
/// # Safety
///
/// Each function may be called only where the CPU has the instruction set. Pointers must be valid for sixteen words;
/// they need no alignment.
pub(super) trait Lanes {
    /// Sixteen f32.
    type Vector: Copy;
    /// Sixteen words of 32 bits: an f32, two bf16 with the first in the low half, a whole number, or four or eight codes.
    type Word: Copy;
    /// Whether [`product_of_pairs`](Self::product_of_pairs) is an instruction.
    const PAIRS: bool = false;
    /// Whether a product can take any of four words, which are read at once.
    const FOURS: bool = false;
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
    /// The bits of f32.
    #[inline(always)]
    unsafe fn as_words(x: Self::Vector) -> Self::Word {
        let mut words = [0_u32; LANES];
        // SAFETY: the caller grants the instruction set; the array is as long as a vector, and every pattern of bits is a word.
        unsafe {
            Self::store(words.as_mut_ptr().cast(), x);
            Self::load_words(words.as_ptr())
        }
    }
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
    /// `sum + w₀ x₀ + w₁ x₁ + w₂ x₂ + w₃ x₃`, of bytes: of `w` with a sign, of `x` where they are [`SIGNED`]. Exact for `w` in
    /// `-127..=127`, and for what [`upper_codes`](Self::upper_codes) and [`lower_codes`](Self::lower_codes) return.
    #[inline(always)]
    unsafe fn product_of_bytes(sum: Self::Word, w: Self::Word, x: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let (w, x) = (words_of::<Self>(w), words_of::<Self>(x));
            let mut sums = words_of::<Self>(sum);
            for i in 0..LANES {
                let (w, x) = (w[i].to_le_bytes(), x[i].to_le_bytes());
                let mut all = 0;
                for j in 0..4 {
                    let x = if SIGNED {
                        i32::from(x[j].cast_signed())
                    } else {
                        i32::from(x[j])
                    };
                    all += i32::from(w[j].cast_signed()) * x;
                }
                sums[i] = sums[i].wrapping_add(all.cast_unsigned());
            }
            Self::load_words(sums.as_ptr())
        }
    }
    /// `sum + w₀ x₀ + w₁ x₁`, of whole numbers of sixteen bits with a sign. Exact, modulo 2³².
    #[inline(always)]
    unsafe fn product_of_shorts(sum: Self::Word, w: Self::Word, x: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let (w, x) = (words_of::<Self>(w), words_of::<Self>(x));
            let mut sums = words_of::<Self>(sum);
            for i in 0..LANES {
                let lower = i32::from(w[i] as i16) * i32::from(x[i] as i16);
                let upper = (w[i].cast_signed() >> 16) * (x[i].cast_signed() >> 16);
                let all = lower.wrapping_add(upper);
                sums[i] = sums[i].wrapping_add(all.cast_unsigned());
            }
            Self::load_words(sums.as_ptr())
        }
    }
    /// The upper four bits of each byte: a code with a sign, times what [`of_codes`](Self::of_codes) knows of.
    #[inline(always)]
    unsafe fn upper_codes(words: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let mut words = words_of::<Self>(words);
            for word in &mut words {
                *word &= 0xf0f0_f0f0;
            }
            Self::load_words(words.as_ptr())
        }
    }
    /// The lower four bits of each byte, as the upper ones.
    #[inline(always)]
    unsafe fn lower_codes(words: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let mut words = words_of::<Self>(words);
            for word in &mut words {
                *word = *word << 4 & 0xf0f0_f0f0;
            }
            Self::load_words(words.as_ptr())
        }
    }
    /// The sums of whole numbers, modulo 2³².
    #[inline(always)]
    unsafe fn add_words(a: Self::Word, b: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let (mut a, b) = (words_of::<Self>(a), words_of::<Self>(b));
            for i in 0..LANES {
                a[i] = a[i].wrapping_add(b[i]);
            }
            Self::load_words(a.as_ptr())
        }
    }
    /// The products of whole numbers, modulo 2³².
    #[inline(always)]
    unsafe fn mul_words(a: Self::Word, b: Self::Word) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let (mut a, b) = (words_of::<Self>(a), words_of::<Self>(b));
            for i in 0..LANES {
                a[i] = a[i].wrapping_mul(b[i]);
            }
            Self::load_words(a.as_ptr())
        }
    }
    /// Whole numbers with a sign as the nearest f32.
    #[inline(always)]
    unsafe fn numbers(words: Self::Word) -> Self::Vector {
        // SAFETY: the caller grants the instruction set.
        unsafe {
            let words = words_of::<Self>(words);
            let mut numbers = [0.0; LANES];
            for i in 0..LANES {
                numbers[i] = words[i].cast_signed() as f32;
            }
            Self::load(numbers.as_ptr())
        }
    }
    /// Sixteen times a sum of products of codes of four bits, as f32.
    #[inline(always)]
    unsafe fn of_codes(sums: Self::Word) -> Self::Vector {
        // SAFETY: the caller grants the instruction set. Codes are sixteen times what they stand for.
        unsafe { Self::numbers(sums) }
    }
    /// Four words, for products that take one of them; the others may be any.
    #[inline(always)]
    unsafe fn load_four(from: *const u32) -> Self::Word {
        let mut words = [0; LANES];
        // SAFETY: the caller grants the instruction set and four words.
        unsafe {
            words[..4].copy_from_slice(&from.cast::<[u32; 4]>().read_unaligned());
            Self::load_words(words.as_ptr())
        }
    }
    /// [`mul_add`](Self::mul_add) with the `I`-th of four numbers.
    #[inline(always)]
    unsafe fn mul_add_one<const I: i32>(
        a: Self::Vector,
        four: Self::Word,
        c: Self::Vector,
    ) -> Self::Vector {
        // SAFETY: the caller grants the instruction set.
        unsafe { Self::mul_add(a, Self::as_f32(one_of::<Self, I>(four)), c) }
    }
    /// [`product_of_pairs`](Self::product_of_pairs) with the `I`-th of four words.
    #[inline(always)]
    unsafe fn product_of_pairs_with_one<const I: i32>(
        sum: Self::Vector,
        w: Self::Word,
        four: Self::Word,
    ) -> Self::Vector {
        // SAFETY: the caller grants the instruction set.
        unsafe { Self::product_of_pairs(sum, w, one_of::<Self, I>(four)) }
    }
    /// [`product_of_bytes`](Self::product_of_bytes) with the `I`-th of four words.
    #[inline(always)]
    unsafe fn product_of_bytes_with_one<const I: i32>(
        sum: Self::Word,
        w: Self::Word,
        four: Self::Word,
    ) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe { Self::product_of_bytes(sum, w, one_of::<Self, I>(four)) }
    }
    /// [`product_of_shorts`](Self::product_of_shorts) with the `I`-th of four words.
    #[inline(always)]
    unsafe fn product_of_shorts_with_one<const I: i32>(
        sum: Self::Word,
        w: Self::Word,
        four: Self::Word,
    ) -> Self::Word {
        // SAFETY: the caller grants the instruction set.
        unsafe { Self::product_of_shorts(sum, w, one_of::<Self, I>(four)) }
    }
    /// Writes whole numbers in `-128..=255` as bytes, those below zero with a sign.
    #[inline(always)]
    unsafe fn store_bytes(to: *mut u8, x: Self::Vector) {
        let mut numbers = [0.0; LANES];
        // SAFETY: the caller grants the instruction set, sixteen bytes, and numbers that are whole and small.
        unsafe {
            Self::store(numbers.as_mut_ptr(), x);
            let mut bytes = [0; LANES];
            for i in 0..LANES {
                bytes[i] = numbers[i].to_int_unchecked::<i32>() as u8;
            }
            to.cast::<[u8; LANES]>().write_unaligned(bytes);
        }
    }
    /// The nearest whole number; the even one of two. For `|x| < 2²²`.
    #[inline(always)]
    unsafe fn nearest(x: Self::Vector) -> Self::Word {
        let mut numbers = [0.0; LANES];
        let mut words = [0; LANES];
        // SAFETY: the caller grants the instruction set, and numbers that are small.
        unsafe {
            Self::store(numbers.as_mut_ptr(), Self::round(x));
            for i in 0..LANES {
                words[i] = numbers[i].to_int_unchecked::<i32>().cast_unsigned();
            }
            Self::load_words(words.as_ptr())
        }
    }
    /// Writes the lower halves of words.
    #[inline(always)]
    unsafe fn store_shorts(to: *mut u16, x: Self::Word) {
        let mut shorts = [0; LANES];
        // SAFETY: the caller grants the instruction set, and room for sixteen.
        unsafe {
            let words = words_of::<Self>(x);
            for i in 0..LANES {
                shorts[i] = words[i] as u16;
            }
            to.cast::<[u16; LANES]>().write_unaligned(shorts);
        }
    }
    /// Words of four whole numbers each, the first in the lowest byte: in `-128..=127` where bytes of inputs are [`SIGNED`],
    /// and in `0..=255` elsewhere.
    #[inline(always)]
    unsafe fn words_of_bytes(x: [Self::Vector; 4]) -> Self::Word {
        let mut bytes = [[0_u8; LANES]; 4];
        let mut words = [0; LANES];
        // SAFETY: the caller grants the instruction set, and numbers that are whole and small; there are sixteen bytes each.
        unsafe {
            for (bytes, x) in bytes.iter_mut().zip(x) {
                Self::store_bytes(bytes.as_mut_ptr(), x);
            }
            for i in 0..LANES {
                words[i] = u32::from_le_bytes([bytes[0][i], bytes[1][i], bytes[2][i], bytes[3][i]]);
            }
            Self::load_words(words.as_ptr())
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

/// The words of a vector.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn words_of<S: Lanes + ?Sized>(words: S::Word) -> [u32; LANES] {
    let mut out = [0; LANES];
    // SAFETY: the caller grants the instruction set; the array is as long as a vector, and every pattern of bits is a word.
    unsafe { S::store(out.as_mut_ptr().cast(), S::as_f32(words)) };
    out
}

/// The `I`-th word, in all places.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn one_of<S: Lanes + ?Sized, const I: i32>(words: S::Word) -> S::Word {
    // SAFETY: the caller grants the instruction set.
    unsafe { S::splat_word(words_of::<S>(words)[I as usize]) }
}

#[cfg(test)]
mod tests;
