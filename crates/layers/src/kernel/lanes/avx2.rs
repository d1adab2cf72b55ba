//! AVX2 with fused multiply-add: two registers of eight.

use std::arch::x86_64::{
    __m256, __m256i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0, _mm_add_ps,
    _mm_add_ss, _mm_cvtss_f32, _mm_max_ps, _mm_max_ss, _mm_movehdup_ps, _mm_movehl_ps,
    _mm_prefetch, _mm256_add_epi32, _mm256_add_ps, _mm256_and_si256, _mm256_castps256_ps128,
    _mm256_castsi256_ps, _mm256_cvtepi32_ps, _mm256_cvtps_epi32, _mm256_div_ps,
    _mm256_extractf128_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_loadu_si256, _mm256_madd_epi16,
    _mm256_max_ps, _mm256_min_ps, _mm256_mul_ps, _mm256_mullo_epi32, _mm256_round_ps,
    _mm256_set1_epi8, _mm256_set1_epi16, _mm256_set1_epi32, _mm256_set1_ps, _mm256_slli_epi16,
    _mm256_slli_epi32, _mm256_srai_epi16, _mm256_srai_epi32, _mm256_srli_epi16, _mm256_storeu_ps,
    _mm256_sub_epi32, _mm256_sub_ps,
};

use super::Lanes;

/// AVX2 with fused multiply-add.
pub(in super::super) struct Avx2;

type Vector = [__m256; 2];
type Word = [__m256i; 2];

const UPPER: i32 = 0xffff_0000_u32.cast_signed();

/// `2ⁿ` for whole `n` in `-126..=127`.
#[inline(always)]
unsafe fn power_of_two(n: __m256i) -> __m256 {
    // SAFETY: called by the functions below, whose contract grants the instruction set.
    unsafe {
        let biased = _mm256_add_epi32(n, _mm256_set1_epi32(127));
        _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
    }
}

const UPPER_CODES: i8 = 0xf0_u8.cast_signed();

/// `sum + w₀ x₀ + w₁ x₁ + w₂ x₂ + w₃ x₃` in each word of eight.
///
/// The instruction that multiplies bytes adds two products in 16 bits, where they do not fit. So bytes are widened first:
/// every other one, which needs no other order.
#[inline(always)]
unsafe fn product_of_bytes(sum: __m256i, w: __m256i, x: __m256i) -> __m256i {
    // SAFETY: called by functions whose contract grants the instruction set.
    unsafe {
        let even_w = _mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(w));
        let odd_w = _mm256_srai_epi16::<8>(w);
        let even_x = _mm256_and_si256(x, _mm256_set1_epi16(0xff));
        let odd_x = _mm256_srli_epi16::<8>(x);
        let even = _mm256_madd_epi16(even_w, even_x);
        let odd = _mm256_madd_epi16(odd_w, odd_x);
        _mm256_add_epi32(_mm256_add_epi32(sum, even), odd)
    }
}

// SAFETY of every block below: the trait's contract grants the instruction set, and pointers that are valid for sixteen
// words.
impl Lanes for Avx2 {
    type Vector = Vector;
    type Word = Word;
    const SUMS: usize = 4;

    #[inline(always)]
    unsafe fn splat(x: f32) -> Vector {
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    unsafe fn load(from: *const f32) -> Vector {
        unsafe { [_mm256_loadu_ps(from), _mm256_loadu_ps(from.add(8))] }
    }

    #[inline(always)]
    unsafe fn store(to: *mut f32, x: Vector) {
        unsafe {
            _mm256_storeu_ps(to, x[0]);
            _mm256_storeu_ps(to.add(8), x[1]);
        }
    }

    #[inline(always)]
    unsafe fn add(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn sub(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn div(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_add(a: Vector, b: Vector, c: Vector) -> Vector {
        unsafe {
            [
                _mm256_fmadd_ps(a[0], b[0], c[0]),
                _mm256_fmadd_ps(a[1], b[1], c[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn min(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn max(a: Vector, b: Vector) -> Vector {
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn largest(x: Vector) -> f32 {
        unsafe {
            let eight = _mm256_max_ps(x[0], x[1]);
            let four = _mm_max_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn total(x: Vector) -> f32 {
        unsafe {
            let eight = _mm256_add_ps(x[0], x[1]);
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    unsafe fn round(x: Vector) -> Vector {
        const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        unsafe {
            [
                _mm256_round_ps::<NEAREST>(x[0]),
                _mm256_round_ps::<NEAREST>(x[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn scale(x: Vector, n: Vector) -> Vector {
        let mut out = x;
        for i in 0..2 {
            // In two halves: neither 2¹²⁸ nor 2⁻¹⁴⁹ is a normal number.
            out[i] = unsafe {
                let n = _mm256_cvtps_epi32(n[i]);
                let half = _mm256_srai_epi32::<1>(n);
                let rest = _mm256_sub_epi32(n, half);
                _mm256_mul_ps(_mm256_mul_ps(x[i], power_of_two(half)), power_of_two(rest))
            };
        }
        out
    }

    #[inline(always)]
    unsafe fn load_words(from: *const u32) -> Word {
        unsafe {
            [
                _mm256_loadu_si256(from.cast()),
                _mm256_loadu_si256(from.add(8).cast()),
            ]
        }
    }

    #[inline(always)]
    unsafe fn splat_word(x: u32) -> Word {
        unsafe { [_mm256_set1_epi32(x.cast_signed()); 2] }
    }

    #[inline(always)]
    unsafe fn as_f32(words: Word) -> Vector {
        unsafe { [_mm256_castsi256_ps(words[0]), _mm256_castsi256_ps(words[1])] }
    }

    #[inline(always)]
    unsafe fn first(words: Word) -> Vector {
        unsafe {
            Self::as_f32([
                _mm256_slli_epi32::<16>(words[0]),
                _mm256_slli_epi32::<16>(words[1]),
            ])
        }
    }

    #[inline(always)]
    unsafe fn second(words: Word) -> Vector {
        unsafe {
            let upper = _mm256_set1_epi32(UPPER);
            Self::as_f32([
                _mm256_and_si256(words[0], upper),
                _mm256_and_si256(words[1], upper),
            ])
        }
    }

    #[inline(always)]
    unsafe fn product_of_bytes(sum: Word, w: Word, x: Word) -> Word {
        unsafe {
            [
                product_of_bytes(sum[0], w[0], x[0]),
                product_of_bytes(sum[1], w[1], x[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn product_of_shorts(sum: Word, w: Word, x: Word) -> Word {
        unsafe {
            [
                _mm256_add_epi32(sum[0], _mm256_madd_epi16(w[0], x[0])),
                _mm256_add_epi32(sum[1], _mm256_madd_epi16(w[1], x[1])),
            ]
        }
    }

    #[inline(always)]
    unsafe fn upper_codes(words: Word) -> Word {
        unsafe {
            let upper = _mm256_set1_epi8(UPPER_CODES);
            [
                _mm256_and_si256(words[0], upper),
                _mm256_and_si256(words[1], upper),
            ]
        }
    }

    #[inline(always)]
    unsafe fn lower_codes(words: Word) -> Word {
        unsafe {
            let upper = _mm256_set1_epi8(UPPER_CODES);
            [
                _mm256_and_si256(_mm256_slli_epi32::<4>(words[0]), upper),
                _mm256_and_si256(_mm256_slli_epi32::<4>(words[1]), upper),
            ]
        }
    }

    #[inline(always)]
    unsafe fn add_words(a: Word, b: Word) -> Word {
        unsafe { [_mm256_add_epi32(a[0], b[0]), _mm256_add_epi32(a[1], b[1])] }
    }

    #[inline(always)]
    unsafe fn mul_words(a: Word, b: Word) -> Word {
        unsafe {
            [
                _mm256_mullo_epi32(a[0], b[0]),
                _mm256_mullo_epi32(a[1], b[1]),
            ]
        }
    }

    #[inline(always)]
    unsafe fn nearest(x: Vector) -> Word {
        unsafe { [_mm256_cvtps_epi32(x[0]), _mm256_cvtps_epi32(x[1])] }
    }

    #[inline(always)]
    unsafe fn numbers(words: Word) -> Vector {
        unsafe { [_mm256_cvtepi32_ps(words[0]), _mm256_cvtepi32_ps(words[1])] }
    }

    #[inline(always)]
    unsafe fn prefetch(from: *const u32) {
        unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
    }
}
