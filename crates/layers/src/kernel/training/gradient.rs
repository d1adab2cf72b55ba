//! The slopes of activations, sixteen numbers at a time.

use rayon::prelude::*;

use super::super::elementwise::{activate, exp, sigmoid};
use super::super::lanes::{LANES, Lanes};
use super::super::level::run_on;
use super::super::{Activation, Level};

/// How many numbers are worth a thread of their own: about 20 µs.
const GRAIN: usize = 1 << 14;

/// Multiplies gradients `dy` in place by the activation's slope at `x`.
///
/// Against exact arithmetic, the slopes of Mish, SiLU and sigmoid are within 1e-6.
///
/// # Panics
///
/// If the slices differ in length, [`has_slope`] does not name the activation, or this CPU does not have the level.
pub(crate) fn slope(level: Level, activation: Activation, x: &[f32], dy: &mut [f32]) {
    assert_eq!(x.len(), dy.len(), "a gradient for each value");
    assert!(
        has_slope(activation),
        "no kernel for {activation:?}'s slope"
    );
    x.par_chunks(GRAIN)
        .zip(dy.par_chunks_mut(GRAIN))
        .for_each(|(x, dy)| {
            run_on!(level, multiply(activation: Activation, x: &[f32], dy: &mut [f32]));
        });
}

/// Whether there is a kernel for the activation's slope.
pub(crate) fn has_slope(activation: Activation) -> bool {
    !matches!(
        activation,
        Activation::Gelu | Activation::QuickGelu | Activation::Relu
    )
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn multiply<S: Lanes>(activation: Activation, x: &[f32], dy: &mut [f32]) {
    let (whole, rest) = x.as_chunks::<LANES>();
    let (d_whole, d_rest) = dy.as_chunks_mut::<LANES>();
    for (x, dy) in whole.iter().zip(d_whole) {
        // SAFETY: chunks are sixteen values, and the caller grants the instruction set.
        unsafe { multiply_vector::<S>(activation, x, dy) };
    }
    let (mut x, mut dy) = ([0.0; LANES], [0.0; LANES]);
    x[..rest.len()].copy_from_slice(rest);
    dy[..rest.len()].copy_from_slice(d_rest);
    // SAFETY: as above.
    unsafe { multiply_vector::<S>(activation, &x, &mut dy) };
    d_rest.copy_from_slice(&dy[..rest.len()]);
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn multiply_vector<S: Lanes>(
    activation: Activation,
    x: &[f32; LANES],
    dy: &mut [f32; LANES],
) {
    // SAFETY: both are sixteen values, and the caller grants the instruction set.
    unsafe {
        let (_, slope) = value_and_slope::<S>(activation, S::load(x.as_ptr()));
        let dy = dy.as_mut_ptr();
        S::store(dy, S::mul(S::load(dy), slope));
    }
}

/// The activation and its slope. Those that [`has_slope`] does not name have none here: callers ask it first.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn value_and_slope<S: Lanes>(
    activation: Activation,
    x: S::Vector,
) -> (S::Vector, S::Vector) {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let one = S::splat(1.0);
        match activation {
            Activation::Identity => (x, one),
            Activation::Mish => {
                // With `e = eˣ` and `n = e (e + 2)`, `mish(x) = x w`, `w = n / (n + 2)`. The slope of `tanh(ln(1 + eˣ))` is
                // `(1 - w²) e / (1 + e)`, and `1 - w² = 4 (1 + e)² / (n + 2)²`: nothing cancels.
                let e = exp::<S>(S::min(S::splat(20.0), x));
                let n = S::mul(e, S::add(e, S::splat(2.0)));
                let r = S::div(one, S::add(n, S::splat(2.0)));
                let w = S::mul(n, r);
                let rise = S::mul(
                    S::mul(S::mul(S::splat(4.0), r), S::mul(e, r)),
                    S::add(one, e),
                );
                (S::mul(x, w), S::mul_add(x, rise, w))
            }
            Activation::Silu => {
                let s = sigmoid::<S>(x);
                let rise = S::mul(s, S::sub(one, s));
                (S::mul(x, s), S::mul_add(x, rise, s))
            }
            Activation::Sigmoid => {
                let s = sigmoid::<S>(x);
                (s, S::mul(s, S::sub(one, s)))
            }
            Activation::Gelu | Activation::QuickGelu | Activation::Relu => {
                (activate::<S>(activation, x), S::splat(f32::NAN))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::elementwise::tests::exact;
    use super::*;

    #[test]
    fn slopes_are_differences() {
        let numbers: Vec<f32> = (-4_000..=4_000).map(|i| i as f32 * 0.01).collect();
        for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
            for activation in [
                Activation::Identity,
                Activation::Mish,
                Activation::Silu,
                Activation::Sigmoid,
            ] {
                let mut slopes = vec![1.0; numbers.len()];
                slope(level, activation, &numbers, &mut slopes);
                for (x, slope) in numbers.iter().zip(slopes) {
                    // In f64: the difference is wrong by h²/6 of a third derivative below 1, and by rounding over h.
                    let (x, h) = (f64::from(*x), 1e-4);
                    let rise = exact(activation, x + h) - exact(activation, x - h);
                    let error = (rise / (2.0 * h) - f64::from(slope)).abs();
                    assert!(
                        error < 1e-6,
                        "{level}: {activation:?}'s slope at {x}: {error:e}"
                    );
                }
                let mut zero = [3.0, 5.0];
                slope(level, activation, &[f32::MIN, f32::NEG_INFINITY], &mut zero);
                if activation == Activation::Sigmoid {
                    assert_eq!(zero.map(f32::to_bits), [0; 2]);
                }
            }
        }
    }

    #[test]
    fn slopes_do_not_care_about_length() {
        let numbers: Vec<f32> = (0..2 * GRAIN + 5).map(|i| (i as f32).sin() * 5.0).collect();
        for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
            let mut together = vec![1.0; numbers.len()];
            slope(level, Activation::Mish, &numbers, &mut together);
            for (x, y) in numbers.iter().zip(together).rev().step_by(97) {
                let mut alone = [1.0];
                slope(level, Activation::Mish, &[*x], &mut alone);
                assert_eq!(alone[0].to_bits(), y.to_bits(), "{level}: {x}");
            }
        }
    }
}
