//! AVX-512: one register of sixteen.

use std::arch::x86_64::{
    __m512, __m512bh, __m512i, _MM_FROUND_NO_EXC, _MM_FROUND_TO_NEAREST_INT, _MM_HINT_T0,
    _mm_prefetch, _mm_storeu_si128, _mm256_storeu_si256, _mm512_add_epi32, _mm512_add_ps,
    _mm512_and_si512, _mm512_castpd_ps, _mm512_castps_pd, _mm512_castsi512_ps,
    _mm512_cvtepi32_epi8, _mm512_cvtepi32_epi16, _mm512_cvtepi32_ps, _mm512_cvtps_epi32,
    _mm512_div_ps, _mm512_dpbf16_ps, _mm512_dpbusd_epi32, _mm512_dpwssd_epi32, _mm512_fmadd_ps,
    _mm512_loadu_ps, _mm512_loadu_si512, _mm512_max_ps, _mm512_min_ps, _mm512_mul_ps,
    _mm512_mullo_epi32, _mm512_or_si512, _mm512_permutex2var_ps, _mm512_reduce_add_ps,
    _mm512_reduce_max_ps, _mm512_roundscale_ps, _mm512_scalef_ps, _mm512_set1_epi32,
    _mm512_set1_ps, _mm512_setr_epi32, _mm512_shuffle_f32x4, _mm512_slli_epi32, _mm512_storeu_ps,
    _mm512_sub_ps, _mm512_unpackhi_pd, _mm512_unpackhi_ps, _mm512_unpacklo_pd, _mm512_unpacklo_ps,
};

use super::{LANES, Lanes};

/// AVX-512F.
pub(in super::super) struct Avx512;

/// AVX-512F with VNNI.
pub(in super::super) struct Avx512Vnni;

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

            #[inline(always)]
            unsafe fn transpose(x: &mut [__m512; LANES]) {
                // Pairs of neighbours, then pairs of pairs, then quads twice.
                let mut a = *x;
                unsafe {
                    for i in (0..LANES).step_by(2) {
                        a[i] = _mm512_unpacklo_ps(x[i], x[i + 1]);
                        a[i + 1] = _mm512_unpackhi_ps(x[i], x[i + 1]);
                    }
                    let mut b = a;
                    for i in (0..LANES).step_by(4) {
                        for j in 0..2 {
                            let (from, to) = (_mm512_castps_pd(a[i + j]), _mm512_castps_pd(a[i + j + 2]));
                            b[i + 2 * j] = _mm512_castpd_ps(_mm512_unpacklo_pd(from, to));
                            b[i + 2 * j + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(from, to));
                        }
                    }
                    // b[4 i + j] holds number j of each quad of the vectors 4 i .. 4 i + 4.
                    for j in 0..4 {
                        let mut quads = [b[j], b[4 + j], b[8 + j], b[12 + j]];
                        Self::transpose_quads(&mut quads);
                        for (quad, y) in quads.into_iter().enumerate() {
                            x[4 * quad + j] = y;
                        }
                    }
                }
            }

            #[inline(always)]
            unsafe fn transpose_quads(x: &mut [__m512; 4]) {
                unsafe {
                    let a = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[0], x[1]);
                    let b = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[0], x[1]);
                    let c = _mm512_shuffle_f32x4::<0b01_00_01_00>(x[2], x[3]);
                    let d = _mm512_shuffle_f32x4::<0b11_10_11_10>(x[2], x[3]);
                    x[0] = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, c);
                    x[1] = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, c);
                    x[2] = _mm512_shuffle_f32x4::<0b10_00_10_00>(b, d);
                    x[3] = _mm512_shuffle_f32x4::<0b11_01_11_01>(b, d);
                }
            }

            #[inline(always)]
            unsafe fn every_fourth(x: [__m512; 4]) -> [__m512; 4] {
                unsafe {
                    let even = _mm512_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28, 1, 5, 9, 13, 17, 21, 25, 29);
                    let odd = _mm512_setr_epi32(2, 6, 10, 14, 18, 22, 26, 30, 3, 7, 11, 15, 19, 23, 27, 31);
                    let a = _mm512_permutex2var_ps(x[0], even, x[1]);
                    let b = _mm512_permutex2var_ps(x[2], even, x[3]);
                    let c = _mm512_permutex2var_ps(x[0], odd, x[1]);
                    let d = _mm512_permutex2var_ps(x[2], odd, x[3]);
                    [
                        _mm512_shuffle_f32x4::<0b01_00_01_00>(a, b),
                        _mm512_shuffle_f32x4::<0b11_10_11_10>(a, b),
                        _mm512_shuffle_f32x4::<0b01_00_01_00>(c, d),
                        _mm512_shuffle_f32x4::<0b11_10_11_10>(c, d),
                    ]
                }
            }

            #[inline(always)]
            unsafe fn upper_codes(words: __m512i) -> __m512i {
                unsafe { _mm512_and_si512(words, _mm512_set1_epi32(UPPER_CODES)) }
            }

            #[inline(always)]
            unsafe fn lower_codes(words: __m512i) -> __m512i {
                unsafe {
                    _mm512_and_si512(_mm512_slli_epi32::<4>(words), _mm512_set1_epi32(UPPER_CODES))
                }
            }

            #[inline(always)]
            unsafe fn add_words(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_add_epi32(a, b) }
            }

            #[inline(always)]
            unsafe fn mul_words(a: __m512i, b: __m512i) -> __m512i {
                unsafe { _mm512_mullo_epi32(a, b) }
            }

            #[inline(always)]
            unsafe fn numbers(words: __m512i) -> __m512 {
                unsafe { _mm512_cvtepi32_ps(words) }
            }

            #[inline(always)]
            unsafe fn store_bytes(to: *mut u8, x: __m512) {
                unsafe { _mm_storeu_si128(to.cast(), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x))) }
            }

            #[inline(always)]
            unsafe fn nearest(x: __m512) -> __m512i {
                unsafe { _mm512_cvtps_epi32(x) }
            }

            #[inline(always)]
            unsafe fn store_shorts(to: *mut u16, x: __m512i) {
                unsafe { _mm256_storeu_si256(to.cast(), _mm512_cvtepi32_epi16(x)) }
            }

            #[inline(always)]
            unsafe fn words_of_bytes(x: [__m512; 4]) -> __m512i {
                unsafe {
                    let [a, b, c, d] = x;
                    let (a, b) = (_mm512_cvtps_epi32(a), _mm512_slli_epi32::<8>(_mm512_cvtps_epi32(b)));
                    let c = _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(c));
                    let d = _mm512_slli_epi32::<24>(_mm512_cvtps_epi32(d));
                    _mm512_or_si512(_mm512_or_si512(a, b), _mm512_or_si512(c, d))
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

const UPPER_CODES: i32 = 0xf0f0_f0f0_u32.cast_signed();

avx512! {
    Avx512,
}

avx512! {
    Avx512Vnni,

    #[inline(always)]
    unsafe fn product_of_bytes(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpbusd_epi32(sum, x, w) }
    }

    #[inline(always)]
    unsafe fn product_of_shorts(sum: __m512i, w: __m512i, x: __m512i) -> __m512i {
        unsafe { _mm512_dpwssd_epi32(sum, w, x) }
    }
}

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
