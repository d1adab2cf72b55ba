//! Activations, sixteen numbers at a time.

use rayon::prelude::*;

use super::Level;
use super::lanes::{LANES, Lanes};
use super::level::run_on;

/// What follows a layer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Activation {
    /// `x`
    #[default]
    Identity,
    /// `x · tanh(ln(1 + eˣ))`
    Mish,
    /// `x / (1 + e⁻ˣ)`
    Silu,
    /// `1 / (1 + e⁻ˣ)`
    Sigmoid,
    /// `x/2 · (1 + erf(x/√2))`
    Gelu,
    /// `max(x, 0)`
    Relu,
    /// `x / (1 + e^(-1.702 x))`
    QuickGelu,
}

/// What quick GELU multiplies the argument of its sigmoid by.
const QUICK_GELU: f32 = 1.702;

/// How many numbers are worth a thread of their own: about 20 µs.
const GRAIN: usize = 1 << 15;

/// Applies an activation in place.
///
/// Against exact arithmetic: exp is within 2 units in the last place where it is a normal number; Mish, SiLU and sigmoid
/// are within 4e-7 of their value or, where that is less, 1e-36; GELU and quick GELU are within 4e-7 of `|x|`.
///
/// # Panics
///
/// If this CPU does not have the level.
pub(crate) fn apply(level: Level, activation: Activation, x: &mut [f32]) {
    if activation == Activation::Identity {
        return;
    }
    if x.len() < 2 * GRAIN || rayon::current_num_threads() == 1 {
        run_on!(level, in_place(activation: Activation, x: &mut [f32]));
    } else {
        x.par_chunks_mut(GRAIN)
            .for_each(|x| run_on!(level, in_place(activation: Activation, x: &mut [f32])));
    }
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn in_place<S: Lanes>(activation: Activation, x: &mut [f32]) {
    let (whole, rest) = x.as_chunks_mut::<LANES>();
    for x in whole {
        let x = x.as_mut_ptr();
        // SAFETY: a chunk is sixteen values, and the caller grants the instruction set.
        unsafe { S::store(x, activate::<S>(activation, S::load(x))) };
    }
    let mut padded = [0.0; LANES];
    padded[..rest.len()].copy_from_slice(rest);
    let x = padded.as_mut_ptr();
    // SAFETY: as above.
    unsafe { S::store(x, activate::<S>(activation, S::load(x))) };
    rest.copy_from_slice(&padded[..rest.len()]);
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn activate<S: Lanes>(activation: Activation, x: S::Vector) -> S::Vector {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        match activation {
            Activation::Identity => x,
            Activation::Mish => mish::<S>(x),
            Activation::Silu => S::mul(x, sigmoid::<S>(x)),
            Activation::Sigmoid => sigmoid::<S>(x),
            Activation::Gelu => gelu::<S>(x),
            // NaN stays: it is the second argument.
            Activation::Relu => S::max(S::splat(0.0), x),
            Activation::QuickGelu => {
                let gate = sigmoid::<S>(S::mul(x, S::splat(QUICK_GELU)));
                S::mul(x, gate)
            }
        }
    }
}

/// `eˣ = 2ⁿ eʳ` with whole `n` and `|r| ≤ ln(2)/2`, where a polynomial of the sixth degree is exact to half a unit in the
/// last place. Below the smallest subnormal number it is zero, above the largest number infinite.
///
/// The constants are those of `expf` in the Cephes library, Stephen L. Moshier, 1989.
#[inline(always)]
pub(super) unsafe fn exp<S: Lanes>(x: S::Vector) -> S::Vector {
    const COEFFICIENTS: [f32; 5] = [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ];
    /// `ln(2)` to eleven bits, so that its product with `n` is exact, and the rest.
    const LN_2: [f32; 2] = [0.693_359_4, -2.121_944_4e-4];
    // SAFETY: the caller grants the instruction set.
    unsafe {
        // NaN stays: it is the second argument.
        let x = S::max(S::splat(-104.0), S::min(S::splat(89.0), x));
        let n = S::round(S::mul(x, S::splat(std::f32::consts::LOG2_E)));
        let r = S::mul_add(n, S::splat(-LN_2[0]), x);
        let r = S::mul_add(n, S::splat(-LN_2[1]), r);
        let mut p = S::splat(1.987_569_1e-4);
        for c in COEFFICIENTS {
            p = S::mul_add(p, r, S::splat(c));
        }
        let p = S::mul_add(S::mul(r, r), p, S::add(r, S::splat(1.0)));
        S::scale(p, n)
    }
}

/// `x · n / (n + 2)` with `n = eˣ (eˣ + 2)`: `tanh(ln u) = (u² - 1) / (u² + 1)`, and `u = 1 + eˣ` gives `u² - 1 = n`.
#[inline(always)]
unsafe fn mish<S: Lanes>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        // Above 20, `mish(x) = x` in f32; below, `e²ˣ` does not overflow.
        let e = exp::<S>(S::min(S::splat(20.0), x));
        let n = S::mul(e, S::add(e, S::splat(2.0)));
        S::mul(x, S::div(n, S::add(n, S::splat(2.0))))
    }
}

#[inline(always)]
pub(super) unsafe fn sigmoid<S: Lanes>(x: S::Vector) -> S::Vector {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let one = S::splat(1.0);
        let e = exp::<S>(S::sub(S::splat(0.0), x));
        S::div(one, S::add(one, e))
    }
}

/// With erf as a quotient of polynomials on `|x| ≤ 4`, where it becomes one in f32: the approximation that Eigen and XLA
/// use.
#[inline(always)]
unsafe fn gelu<S: Lanes>(x: S::Vector) -> S::Vector {
    const ALPHA: [f32; 6] = [
        2.770_681_4e-8,
        -2.101_024e-6,
        -5.692_506_4e-5,
        -7.349_906_3e-4,
        -2.954_6e-3,
        -1.609_603_3e-2,
    ];
    const BETA: [f32; 4] = [
        -2.133_740_6e-4,
        -1.682_827e-3,
        -7.373_329e-3,
        -1.426_473_9e-2,
    ];
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let z = S::mul(x, S::splat(std::f32::consts::FRAC_1_SQRT_2));
        let z = S::max(S::splat(-4.0), S::min(S::splat(4.0), z));
        let square = S::mul(z, z);
        let mut p = S::splat(-2.726_142_3e-10);
        for c in ALPHA {
            p = S::mul_add(p, square, S::splat(c));
        }
        let mut q = S::splat(-1.456_607_2e-5);
        for c in BETA {
            q = S::mul_add(q, square, S::splat(c));
        }
        let erf = S::div(S::mul(z, p), q);
        let half = S::mul(x, S::splat(0.5));
        S::mul_add(half, erf, half)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn exact(activation: Activation, x: f64) -> f64 {
        let sigmoid = 1.0 / (1.0 + (-x).exp());
        match activation {
            Activation::Identity => x,
            Activation::Mish => x * x.exp().ln_1p().tanh(),
            Activation::Silu => x * sigmoid,
            Activation::Sigmoid => sigmoid,
            Activation::Gelu => x / 2.0 * erfc(-x / std::f64::consts::SQRT_2),
            Activation::Relu => x.max(0.0),
            Activation::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        }
    }

    /// By the series of erf, and the continued fraction of erfc from 3 on; wrong by less than 1e-12.
    fn erfc(x: f64) -> f64 {
        let gauss = (-x * x).exp();
        if x < 0.0 {
            2.0 - erfc(-x)
        } else if x < 3.0 {
            let (mut term, mut sum) = (x, x);
            for n in 1..120 {
                term *= 2.0 * x * x / f64::from(2 * n + 1);
                sum += term;
            }
            1.0 - 2.0 / std::f64::consts::PI.sqrt() * gauss * sum
        } else {
            let tail = (1..120)
                .rev()
                .fold(0.0, |tail, n| f64::from(n) / 2.0 / (x + tail));
            gauss / std::f64::consts::PI.sqrt() / (x + tail)
        }
    }

    fn numbers() -> Vec<f32> {
        let even = (-30_000..=30_000).map(|i| i as f32 * 4e-3);
        let tiny = (-40..=38).flat_map(|e| [1.0, -1.7].map(|m| m * 10_f32.powi(e)));
        even.chain(tiny).chain([0.0, -0.0]).collect()
    }

    #[inline(always)]
    unsafe fn exp_in_place<S: Lanes>(x: &mut [f32]) {
        for x in x.as_chunks_mut::<LANES>().0 {
            // SAFETY: a chunk is sixteen values, and the caller grants the instruction set.
            unsafe { S::store(x.as_mut_ptr(), exp::<S>(S::load(x.as_ptr()))) };
        }
    }

    fn levels() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|it| it.is_available())
    }

    #[test]
    fn exp_is_exact_to_two_units() {
        let mut numbers = numbers();
        numbers.retain(|x| (-87.0..88.7).contains(x));
        numbers.resize(numbers.len().next_multiple_of(LANES), 0.0);
        for level in levels() {
            let mut y = numbers.clone();
            let values = y.as_mut_slice();
            run_on!(level, exp_in_place(values: &mut [f32]));
            for (x, y) in numbers.iter().zip(y) {
                let exact = f64::from(*x).exp();
                let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
                let error = (f64::from(y) - exact).abs() / unit;
                assert!(
                    error <= 2.0,
                    "{level}: exp({x}) is {exact}, not {y}: {error} units"
                );
            }
            let mut ends = [0.0; LANES];
            ends[..6].copy_from_slice(&[
                f32::NEG_INFINITY,
                f32::MIN,
                -150.0,
                90.0,
                f32::INFINITY,
                f32::NAN,
            ]);
            let values = ends.as_mut_slice();
            run_on!(level, exp_in_place(values: &mut [f32]));
            assert_eq!(ends[..5], [0.0, 0.0, 0.0, f32::INFINITY, f32::INFINITY]);
            assert!(ends[5].is_nan());
        }
    }

    #[test]
    fn activations_are_their_definitions() {
        let numbers = numbers();
        for level in levels() {
            for activation in [
                Activation::Mish,
                Activation::Silu,
                Activation::Sigmoid,
                Activation::Gelu,
                Activation::Relu,
                Activation::QuickGelu,
            ] {
                let mut y = numbers.clone();
                apply(level, activation, &mut y);
                for (x, y) in numbers.iter().zip(y) {
                    let exact = exact(activation, f64::from(*x));
                    // As the documentation of `apply` says.
                    let scale = match activation {
                        Activation::Gelu | Activation::QuickGelu => f64::from(x.abs()),
                        _ => exact.abs(),
                    };
                    let tolerance = (4e-7 * scale).max(1e-36);
                    assert!(
                        (exact - f64::from(y)).abs() <= tolerance,
                        "{level}: {activation:?}({x}) is {exact}, not {y}"
                    );
                }
                let mut nan = [f32::NAN];
                apply(level, activation, &mut nan);
                assert!(nan[0].is_nan(), "{level}: {activation:?}");
            }
        }
    }

    #[test]
    fn activations_do_not_care_about_length_or_threads() {
        let numbers: Vec<f32> = numbers().into_iter().cycle().take(3 * GRAIN + 5).collect();
        for level in levels() {
            let mut together = numbers.clone();
            apply(level, Activation::Mish, &mut together);
            for (x, y) in numbers.iter().zip(together).step_by(97) {
                let mut alone = [*x];
                apply(level, Activation::Mish, &mut alone);
                assert_eq!(alone[0].to_bits(), y.to_bits(), "{level}: {x}");
            }
        }
    }
}
