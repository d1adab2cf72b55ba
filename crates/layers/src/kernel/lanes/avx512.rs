//! AVX-512: one register of sixteen.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_prefetch, _mm512_add_ps, _mm512_and_si512, _mm512_castsi512_ps, _mm512_div_ps,
    _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps,
    _mm512_min_ps, _mm512_mul_ps, _mm512_reduce_add_ps, _mm512_reduce_max_ps, _mm512_roundscale_ps,
    _mm512_scalef_ps, _mm512_set1_epi32, _mm512_set1_ps, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_ps,
};

use super::Lanes;

/// AVX-512F.
pub(in super::super) struct Avx512;

/// AVX-512F with BF16.
pub(in super::super) struct Avx512Bf16;

macro_rules! avx512 {
    ($name:ty, $($more:item)*) => {
        // SAFETY of every block below: the trait's contract grants the instruction set, and pointers that are valid for
        // sixteen words.
        impl Lanes for $name {
            type Vector = __m512;
            type Word = __m512i;
            const SUMS: usize = 16;

            #[inline(always)]
            unsafe fn splat(x: f32) -> __m512 {
                unsafe { _mm512_set1_ps(x) }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> __m512 {
                unsafe { _mm512_loadu_ps(from) }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, x: __m512) {
                unsafe { _mm512_storeu_ps(to, x) }
            }

            #[inline(always)]
            unsafe fn add(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_add_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn sub(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_sub_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn mul(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_mul_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn div(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_div_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn mul_add(a: __m512, b: __m512, c: __m512) -> __m512 {
                unsafe { _mm512_fmadd_ps(a, b, c) }
            }

            #[inline(always)]
            unsafe fn min(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_min_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn max(a: __m512, b: __m512) -> __m512 {
                unsafe { _mm512_max_ps(a, b) }
            }

            #[inline(always)]
            unsafe fn largest(x: __m512) -> f32 {
                unsafe { _mm512_reduce_max_ps(x) }
            }

            #[inline(always)]
            unsafe fn total(x: __m512) -> f32 {
                unsafe { _mm512_reduce_add_ps(x) }
            }

            #[inline(always)]
            unsafe fn round(x: __m512) -> __m512 {
                unsafe {
                    _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(x)
                }
            }

            #[inline(always)]
            unsafe fn scale(x: __m512, n: __m512) -> __m512 {
                unsafe { _mm512_scalef_ps(x, n) }
            }

            #[inline(always)]
            unsafe fn load_words(from: *const u32) -> __m512i {
                unsafe { _mm512_loadu_si512(from.cast()) }
            }

            #[inline(always)]
            unsafe fn splat_word(x: u32) -> __m512i {
                unsafe { _mm512_set1_epi32(x.cast_signed()) }
            }

            #[inline(always)]
            unsafe fn as_f32(words: __m512i) -> __m512 {
                unsafe { _mm512_castsi512_ps(words) }
            }

            #[inline(always)]
            unsafe fn first(words: __m512i) -> __m512 {
                unsafe { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words)) }
            }

            #[inline(always)]
            unsafe fn second(words: __m512i) -> __m512 {
                const UPPER: i32 = 0xffff_0000_u32.cast_signed();
                unsafe {
                    _mm512_castsi512_ps(_mm512_and_si512(words, _mm512_set1_epi32(UPPER)))
                }
            }

            $($more)*

            #[inline(always)]
            unsafe fn prefetch(from: *const u32) {
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            }
        }
    };
}

avx512! { Avx512, }

avx512! {
    Avx512Bf16,
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn product_of_pairs(sum: __m512, w: __m512i, x: __m512i) -> __m512 {
        // SAFETY: besides, both types are sixteen words in which every pattern of bits is a value.
        unsafe {
            let w = std::mem::transmute::<__m512i, __m512bh>(w);
            let x = std::mem::transmute::<__m512i, __m512bh>(x);
            _mm512_dpbf16_ps(sum, w, x)
        }
    }
}
