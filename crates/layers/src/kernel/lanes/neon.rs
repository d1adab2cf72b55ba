//! NEON: four registers of four.

use std::arch::aarch64::{
    float32x4_t, uint32x4_t, vaddq_f32, vaddq_s32, vaddvq_f32, vandq_u32, vbslq_f32, vcgtq_f32,
    vcltq_f32, vcvtnq_s32_f32, vdivq_f32, vdupq_n_f32, vdupq_n_s32, vdupq_n_u32, vfmaq_f32,
    vld1q_f32, vld1q_u32, vmaxq_f32, vmaxvq_f32, vmulq_f32, vreinterpretq_f32_s32,
    vreinterpretq_f32_u32, vrndnq_f32, vshlq_n_s32, vshlq_n_u32, vshrq_n_s32, vst1q_f32, vsubq_f32,
    vsubq_s32,
};

use super::Lanes;

/// Arm's vectors of four.
pub(in super::super) struct Neon;

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

// SAFETY of every block below: the trait's contract grants the instruction set, and pointers that are valid for sixteen
// words.
impl Lanes for Neon {
    type Vector = Vector;
    type Word = Word;
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
    unsafe fn first(words: Word) -> Vector {
        unsafe { Self::as_f32(each!(words, i => vshlq_n_u32::<16>(words[i]))) }
    }

    #[inline(always)]
    unsafe fn second(words: Word) -> Vector {
        unsafe { Self::as_f32(each!(words, i => vandq_u32(words[i], vdupq_n_u32(0xffff_0000)))) }
    }

    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}
}
