//! NEON: four registers of four.

use std::arch::aarch64::{
    float32x4_t, int16x8_t, uint32x4_t, vaddq_f32, vaddq_s32, vaddq_u32, vaddvq_f32, vandq_u32,
    vbslq_f32, vcgtq_f32, vcltq_f32, vcvtnq_s32_f32, vcvtq_f32_s32, vdivq_f32, vdupq_laneq_u32,
    vdupq_n_f32, vdupq_n_s32, vdupq_n_u32, vfmaq_f32, vfmaq_laneq_f32, vget_low_s8, vget_low_s16,
    vld1q_f32, vld1q_u32, vmaxq_f32, vmaxvq_f32, vmlal_high_lane_s16, vmlal_lane_s16,
    vmull_high_s8, vmull_high_s16, vmull_s8, vmull_s16, vmulq_f32, vmulq_u32, vpadalq_s16,
    vpaddq_s16, vpaddq_s32, vreinterpretq_f32_f64, vreinterpretq_f32_s32, vreinterpretq_f32_u32,
    vreinterpretq_f64_f32, vreinterpretq_s8_s16, vreinterpretq_s8_u32, vreinterpretq_s16_s32,
    vreinterpretq_s16_u32, vreinterpretq_s32_u32, vreinterpretq_u8_u32, vreinterpretq_u32_f32,
    vreinterpretq_u32_s8, vreinterpretq_u32_s32, vreinterpretq_u32_u8, vrndnq_f32, vshlq_n_s8,
    vshlq_n_s32, vshlq_n_u8, vshlq_n_u32, vshrq_n_s8, vshrq_n_s32, vsliq_n_u32, vst1q_f32,
    vst1q_s8, vst1q_s16, vsubq_f32, vsubq_s32, vtrn1q_f32, vtrn2q_f32, vuzp1q_s8, vuzp1q_s16,
    vuzp2q_s16, vzip1q_f64, vzip2q_f64,
};
use std::arch::asm;

use super::{LANES, Lanes};

/// Arm's vectors of four.
pub(in super::super) struct Neon;

/// NEON with products of bytes.
pub(in super::super) struct NeonDot;

/// NEON with products of bf16.
pub(in super::super) struct NeonBf16;

type Vector = [float32x4_t; 4];
type Word = [uint32x4_t; 4];

macro_rules! each {
    ($like:expr, $i:ident => $value:expr) => {{
        let mut out = $like;
        for $i in 0..4 {
            out[$i] = $value;
        }
        out
    }};
}

/// Four by four: the i-th number of the j-th vector changes place with the j-th of the i-th.
#[inline(always)]
unsafe fn transpose_four(x: [float32x4_t; 4]) -> [float32x4_t; 4] {
    // SAFETY: called by the functions below, whose contract grants the instruction set.
    unsafe {
        let low = vreinterpretq_f64_f32(vtrn1q_f32(x[0], x[1]));
        let high = vreinterpretq_f64_f32(vtrn2q_f32(x[0], x[1]));
        let lower = vreinterpretq_f64_f32(vtrn1q_f32(x[2], x[3]));
        let higher = vreinterpretq_f64_f32(vtrn2q_f32(x[2], x[3]));
        [
            vreinterpretq_f32_f64(vzip1q_f64(low, lower)),
            vreinterpretq_f32_f64(vzip1q_f64(high, higher)),
            vreinterpretq_f32_f64(vzip2q_f64(low, lower)),
            vreinterpretq_f32_f64(vzip2q_f64(high, higher)),
        ]
    }
}

/// `sum + w₀ x₀ + w₁ x₁ + w₂ x₂ + w₃ x₃` in each word of four.
///
/// Two products fit into 16 bits, since no `w` is -128: `2 · 127 · 128 < 2¹⁵`.
#[inline(always)]
unsafe fn product_of_bytes(sum: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
    // SAFETY: called by functions whose contract grants the instruction set.
    unsafe {
        let (w, x) = (vreinterpretq_s8_u32(w), vreinterpretq_s8_u32(x));
        let first = vmull_s8(vget_low_s8(w), vget_low_s8(x));
        let pairs = vpaddq_s16(first, vmull_high_s8(w, x));
        vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), pairs))
    }
}

/// `sum + w₀ x₀ + w₁ x₁`, of shorts, in each word of four.
#[inline(always)]
unsafe fn product_of_shorts(sum: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
    // SAFETY: called by functions whose contract grants the instruction set.
    unsafe {
        let (w, x) = (vreinterpretq_s16_u32(w), vreinterpretq_s16_u32(x));
        let first = vmull_s16(vget_low_s16(w), vget_low_s16(x));
        let pairs = vpaddq_s32(first, vmull_high_s16(w, x));
        vaddq_u32(sum, vreinterpretq_u32_s32(pairs))
    }
}

/// [`product_of_shorts`] in two registers, with the first two of `x`. Weights that meet several inputs are sorted once.
#[inline(always)]
unsafe fn products_of_shorts(
    sums: [uint32x4_t; 2],
    w: [uint32x4_t; 2],
    x: int16x8_t,
) -> [uint32x4_t; 2] {
    // SAFETY: as above.
    unsafe {
        let w = w.map(|it| vreinterpretq_s16_u32(it));
        let (first, second) = (vuzp1q_s16(w[0], w[1]), vuzp2q_s16(w[0], w[1]));
        let x = vget_low_s16(x);
        let [low, high] = sums.map(|it| vreinterpretq_s32_u32(it));
        let low = vmlal_lane_s16::<0>(low, vget_low_s16(first), x);
        let low = vmlal_lane_s16::<1>(low, vget_low_s16(second), x);
        let high = vmlal_high_lane_s16::<0>(high, first, x);
        let high = vmlal_high_lane_s16::<1>(high, second, x);
        [vreinterpretq_u32_s32(low), vreinterpretq_u32_s32(high)]
    }
}

// The compiler has no stable functions for products of bytes and of bf16 yet.

/// [`product_of_bytes`] as an instruction.
#[inline(always)]
unsafe fn dot_of_bytes(mut sum: uint32x4_t, w: uint32x4_t, x: uint32x4_t) -> uint32x4_t {
    // SAFETY: called by functions whose contract grants the instruction, which changes the one register.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.16b",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// [`dot_of_bytes`] with the `I`-th word of `x`.
#[inline(always)]
unsafe fn dot_of_bytes_with_one<const I: i32>(
    mut sum: uint32x4_t,
    w: uint32x4_t,
    x: uint32x4_t,
) -> uint32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {w:v}.16b, {x:v}.4b[{i}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, i = const I,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// `sum + w₀ x₀ + w₁ x₁` in each word of four.
#[inline(always)]
unsafe fn dot_of_pairs(mut sum: float32x4_t, w: uint32x4_t, x: uint32x4_t) -> float32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {w:v}.8h, {x:v}.8h",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// [`dot_of_pairs`] with the `I`-th word of `x`.
#[inline(always)]
unsafe fn dot_of_pairs_with_one<const I: i32>(
    mut sum: float32x4_t,
    w: uint32x4_t,
    x: uint32x4_t,
) -> float32x4_t {
    // SAFETY: as above.
    unsafe {
        asm!(
            "bfdot {sum:v}.4s, {w:v}.8h, {x:v}.2h[{i}]",
            sum = inout(vreg) sum, w = in(vreg) w, x = in(vreg) x, i = const I,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

macro_rules! neon {
    ($name:ty, $($more:item)*) => {
        // SAFETY of every block below: the trait's contract grants the instruction set, and pointers that are valid for
        // sixteen words.
        impl Lanes for $name {
            type Vector = Vector;
            type Word = Word;
            const FOURS: bool = true;
            const SUMS: usize = 4;

            #[inline(always)]
            unsafe fn splat(x: f32) -> Vector {
                unsafe { [vdupq_n_f32(x); 4] }
            }

            #[inline(always)]
            unsafe fn load(from: *const f32) -> Vector {
                unsafe { each!([vdupq_n_f32(0.0); 4], i => vld1q_f32(from.add(4 * i))) }
            }

            #[inline(always)]
            unsafe fn store(to: *mut f32, x: Vector) {
                for i in 0..4 {
                    unsafe { vst1q_f32(to.add(4 * i), x[i]) };
                }
            }

            #[inline(always)]
            unsafe fn add(a: Vector, b: Vector) -> Vector {
                unsafe { each!(a, i => vaddq_f32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn sub(a: Vector, b: Vector) -> Vector {
                unsafe { each!(a, i => vsubq_f32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn mul(a: Vector, b: Vector) -> Vector {
                unsafe { each!(a, i => vmulq_f32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn div(a: Vector, b: Vector) -> Vector {
                unsafe { each!(a, i => vdivq_f32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn mul_add(a: Vector, b: Vector, c: Vector) -> Vector {
                unsafe { each!(c, i => vfmaq_f32(c[i], a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn min(a: Vector, b: Vector) -> Vector {
                // Arm's minimum is NaN where either is.
                unsafe { each!(a, i => vbslq_f32(vcltq_f32(a[i], b[i]), a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn max(a: Vector, b: Vector) -> Vector {
                unsafe { each!(a, i => vbslq_f32(vcgtq_f32(a[i], b[i]), a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn largest(x: Vector) -> f32 {
                unsafe { vmaxvq_f32(vmaxq_f32(vmaxq_f32(x[0], x[1]), vmaxq_f32(x[2], x[3]))) }
            }

            #[inline(always)]
            unsafe fn total(x: Vector) -> f32 {
                unsafe { vaddvq_f32(vaddq_f32(vaddq_f32(x[0], x[2]), vaddq_f32(x[1], x[3]))) }
            }

            #[inline(always)]
            unsafe fn round(x: Vector) -> Vector {
                unsafe { each!(x, i => vrndnq_f32(x[i])) }
            }

            #[inline(always)]
            unsafe fn scale(x: Vector, n: Vector) -> Vector {
                unsafe {
                    each!(x, i => {
                        // In two halves: neither 2¹²⁸ nor 2⁻¹⁴⁹ is a normal number.
                        let n = vcvtnq_s32_f32(n[i]);
                        let half = vshrq_n_s32::<1>(n);
                        let rest = vsubq_s32(n, half);
                        let bias = vdupq_n_s32(127);
                        let half = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
                        let rest = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(rest, bias)));
                        vmulq_f32(vmulq_f32(x[i], half), rest)
                    })
                }
            }

            #[inline(always)]
            unsafe fn load_words(from: *const u32) -> Word {
                unsafe { each!([vdupq_n_u32(0); 4], i => vld1q_u32(from.add(4 * i))) }
            }

            #[inline(always)]
            unsafe fn splat_word(x: u32) -> Word {
                unsafe { [vdupq_n_u32(x); 4] }
            }

            #[inline(always)]
            unsafe fn as_f32(words: Word) -> Vector {
                unsafe { each!([vdupq_n_f32(0.0); 4], i => vreinterpretq_f32_u32(words[i])) }
            }

            #[inline(always)]
            unsafe fn as_words(x: Vector) -> Word {
                unsafe { each!([vdupq_n_u32(0); 4], i => vreinterpretq_u32_f32(x[i])) }
            }

            #[inline(always)]
            unsafe fn first(words: Word) -> Vector {
                unsafe { Self::as_f32(each!(words, i => vshlq_n_u32::<16>(words[i]))) }
            }

            #[inline(always)]
            unsafe fn second(words: Word) -> Vector {
                unsafe {
                    Self::as_f32(each!(words, i => vandq_u32(words[i], vdupq_n_u32(0xffff_0000))))
                }
            }

            #[inline(always)]
            unsafe fn add_words(a: Word, b: Word) -> Word {
                unsafe { each!(a, i => vaddq_u32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn mul_words(a: Word, b: Word) -> Word {
                unsafe { each!(a, i => vmulq_u32(a[i], b[i])) }
            }

            #[inline(always)]
            unsafe fn product_of_shorts(sum: Word, w: Word, x: Word) -> Word {
                unsafe { each!(sum, i => product_of_shorts(sum[i], w[i], x[i])) }
            }

            #[inline(always)]
            unsafe fn product_of_shorts_with_one<const I: i32>(
                sum: Word,
                w: Word,
                four: Word,
            ) -> Word {
                unsafe {
                    let x = vreinterpretq_s16_u32(vdupq_laneq_u32::<I>(four[0]));
                    let [a, b] = products_of_shorts([sum[0], sum[1]], [w[0], w[1]], x);
                    let [c, d] = products_of_shorts([sum[2], sum[3]], [w[2], w[3]], x);
                    [a, b, c, d]
                }
            }

            #[inline(always)]
            unsafe fn nearest(x: Vector) -> Word {
                unsafe {
                    each!([vdupq_n_u32(0); 4], i => vreinterpretq_u32_s32(vcvtnq_s32_f32(x[i])))
                }
            }

            #[inline(always)]
            unsafe fn store_shorts(to: *mut u16, x: Word) {
                unsafe {
                    let halves = x.map(|it| vreinterpretq_s16_u32(it));
                    vst1q_s16(to.cast(), vuzp1q_s16(halves[0], halves[1]));
                    vst1q_s16(to.add(8).cast(), vuzp1q_s16(halves[2], halves[3]));
                }
            }

            #[inline(always)]
            unsafe fn words_of_bytes(x: [Vector; 4]) -> Word {
                unsafe {
                    let [mut words, b, c, d] = x.map(|it| Self::nearest(it));
                    for i in 0..4 {
                        // What is above the byte is written over by the next one.
                        words[i] = vsliq_n_u32::<8>(words[i], b[i]);
                        words[i] = vsliq_n_u32::<16>(words[i], c[i]);
                        words[i] = vsliq_n_u32::<24>(words[i], d[i]);
                    }
                    words
                }
            }

            #[inline(always)]
            unsafe fn numbers(words: Word) -> Vector {
                unsafe {
                    each!([vdupq_n_f32(0.0); 4], i => vcvtq_f32_s32(vreinterpretq_s32_u32(words[i])))
                }
            }

            #[inline(always)]
            unsafe fn load_four(from: *const u32) -> Word {
                unsafe { [vld1q_u32(from); 4] }
            }

            #[inline(always)]
            unsafe fn mul_add_one<const I: i32>(a: Vector, four: Word, c: Vector) -> Vector {
                unsafe {
                    let b = vreinterpretq_f32_u32(four[0]);
                    each!(c, i => vfmaq_laneq_f32::<I>(c[i], a[i], b))
                }
            }

            #[inline(always)]
            unsafe fn store_bytes(to: *mut u8, x: Vector) {
                unsafe {
                    let words = each!([vdupq_n_s32(0); 4], i => vcvtnq_s32_f32(x[i]))
                        .map(|it| vreinterpretq_s16_s32(it));
                    // The lower halves, twice.
                    let first = vreinterpretq_s8_s16(vuzp1q_s16(words[0], words[1]));
                    let second = vreinterpretq_s8_s16(vuzp1q_s16(words[2], words[3]));
                    vst1q_s8(to.cast(), vuzp1q_s8(first, second));
                }
            }

            #[inline(always)]
            unsafe fn transpose(x: &mut [Vector; LANES]) {
                let from = *x;
                for i in 0..4 {
                    for j in 0..4 {
                        let rows = std::array::from_fn(|row| from[4 * i + row][j]);
                        let columns = unsafe { transpose_four(rows) };
                        for column in 0..4 {
                            x[4 * j + column][i] = columns[column];
                        }
                    }
                }
            }

            #[inline(always)]
            unsafe fn transpose_quads(x: &mut [Vector; 4]) {
                let from = *x;
                for i in 0..4 {
                    for j in 0..4 {
                        x[j][i] = from[i][j];
                    }
                }
            }

            #[inline(always)]
            unsafe fn every_fourth(x: [Vector; 4]) -> [Vector; 4] {
                let mut out = x;
                for i in 0..4 {
                    let fourths = unsafe { transpose_four(x[i]) };
                    for j in 0..4 {
                        out[j][i] = fourths[j];
                    }
                }
                out
            }

            $($more)*

            // Weights follow each other, which these CPUs notice themselves.
            #[inline(always)]
            unsafe fn prefetch(_: *const u32) {}
        }
    };
}

neon! {
    Neon,

    #[inline(always)]
    unsafe fn product_of_bytes(sum: Word, w: Word, x: Word) -> Word {
        unsafe { each!(sum, i => product_of_bytes(sum[i], w[i], x[i])) }
    }

    #[inline(always)]
    unsafe fn product_of_bytes_with_one<const I: i32>(sum: Word, w: Word, four: Word) -> Word {
        unsafe {
            let x = vdupq_laneq_u32::<I>(four[0]);
            each!(sum, i => product_of_bytes(sum[i], w[i], x))
        }
    }

    // Codes as they are: two products of sixteen times a code do not fit into 16 bits.
    #[inline(always)]
    unsafe fn upper_codes(words: Word) -> Word {
        unsafe {
            each!(words, i => {
                vreinterpretq_u32_s8(vshrq_n_s8::<4>(vreinterpretq_s8_u32(words[i])))
            })
        }
    }

    #[inline(always)]
    unsafe fn lower_codes(words: Word) -> Word {
        unsafe {
            each!(words, i => {
                let upper = vshlq_n_s8::<4>(vreinterpretq_s8_u32(words[i]));
                vreinterpretq_u32_s8(vshrq_n_s8::<4>(upper))
            })
        }
    }

    #[inline(always)]
    unsafe fn of_codes(sums: Word) -> Vector {
        unsafe { Self::numbers(each!(sums, i => vshlq_n_u32::<4>(sums[i]))) }
    }
}

neon! {
    NeonDot,

    #[inline(always)]
    unsafe fn product_of_bytes(sum: Word, w: Word, x: Word) -> Word {
        unsafe { each!(sum, i => dot_of_bytes(sum[i], w[i], x[i])) }
    }

    #[inline(always)]
    unsafe fn product_of_bytes_with_one<const I: i32>(sum: Word, w: Word, four: Word) -> Word {
        unsafe { each!(sum, i => dot_of_bytes_with_one::<I>(sum[i], w[i], four[0])) }
    }

    #[inline(always)]
    unsafe fn upper_codes(words: Word) -> Word {
        unsafe { each!(words, i => vandq_u32(words[i], vdupq_n_u32(0xf0f0_f0f0))) }
    }

    #[inline(always)]
    unsafe fn lower_codes(words: Word) -> Word {
        unsafe {
            each!(words, i => {
                vreinterpretq_u32_u8(vshlq_n_u8::<4>(vreinterpretq_u8_u32(words[i])))
            })
        }
    }
}

neon! {
    NeonBf16,
    const PAIRS: bool = true;

    #[inline(always)]
    unsafe fn product_of_pairs(sum: Vector, w: Word, x: Word) -> Vector {
        unsafe { each!(sum, i => dot_of_pairs(sum[i], w[i], x[i])) }
    }

    #[inline(always)]
    unsafe fn product_of_pairs_with_one<const I: i32>(sum: Vector, w: Word, four: Word) -> Vector {
        unsafe { each!(sum, i => dot_of_pairs_with_one::<I>(sum[i], w[i], four[0])) }
    }
}
