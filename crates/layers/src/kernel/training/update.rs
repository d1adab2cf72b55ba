//! AdamW.

use rayon::prelude::*;

use super::super::Level;
use super::super::lanes::{LANES, Lanes};
use super::super::level::run_on;

/// How many parameters are worth a thread of their own: about 10 µs.
const GRAIN: usize = 1 << 14;

/// What a step of AdamW is made with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Step {
    /// How fast the averages of gradients and of their squares forget.
    pub(crate) betas: [f64; 2],
    /// Is added to the root of the average of squares.
    pub(crate) epsilon: f64,
    /// By which share of the learning rate parameters shrink.
    pub(crate) weight_decay: f64,
    /// How far parameters move.
    pub(crate) learning_rate: f64,
    /// How many steps there were, this one included.
    pub(crate) count: usize,
}

/// The averages of gradients and of their squares.
#[derive(Debug)]
pub(crate) struct Moments<'a> {
    /// Of gradients.
    pub(crate) first: &'a mut [f32],
    /// Of their squares.
    pub(crate) second: &'a mut [f32],
}

/// The numbers of a [`Step`] in f32.
#[derive(Clone, Copy)]
struct Constants {
    betas: [f32; 2],
    rests: [f32; 2],
    epsilon: f32,
    shrink: f32,
    step: f32,
    /// `1/√(1 - β₂ⁿ)`
    second: f32,
}

/// One step, parameter by parameter, as PyTorch does it.
///
/// ```text
/// p ← p - lr · decay · p
/// m ← β₁ m + (1 - β₁) g
/// v ← β₂ v + (1 - β₂) g²
/// p ← p - lr / (1 - β₁ⁿ) · m / (√v / √(1 - β₂ⁿ) + ε)
/// ```
///
/// # Panics
///
/// If the slices differ in length, or this CPU does not have the level.
pub(crate) fn adamw(
    level: Level,
    step: &Step,
    parameters: &mut [f32],
    gradients: &[f32],
    Moments { first, second }: Moments<'_>,
) {
    let n = parameters.len();
    assert!(
        [gradients.len(), first.len(), second.len()] == [n; 3],
        "a gradient and two averages for each of {n} parameters"
    );
    // In f64 until the end: 1 - β₂ of 0.999 loses three digits in f32.
    let rests = step.betas.map(|beta| 1.0 - beta);
    let corrections = step.betas.map(|beta| 1.0 - beta.powf(step.count as f64));
    let constants = &Constants {
        betas: step.betas.map(|beta| beta as f32),
        rests: rests.map(|rest| rest as f32),
        epsilon: step.epsilon as f32,
        shrink: (1.0 - step.learning_rate * step.weight_decay) as f32,
        step: (step.learning_rate / corrections[0]) as f32,
        second: (1.0 / corrections[1].sqrt()) as f32,
    };
    parameters
        .par_chunks_mut(GRAIN)
        .zip(gradients.par_chunks(GRAIN))
        .zip(first.par_chunks_mut(GRAIN))
        .zip(second.par_chunks_mut(GRAIN))
        .for_each(|(((p, g), m), v)| {
            run_on!(
                level,
                update(constants: &Constants, p: &mut [f32], g: &[f32], m: &mut [f32], v: &mut [f32])
            );
        });
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn update<S: Lanes>(
    constants: &Constants,
    p: &mut [f32],
    g: &[f32],
    m: &mut [f32],
    v: &mut [f32],
) {
    let (p, p_rest) = p.as_chunks_mut::<LANES>();
    let (g, g_rest) = g.as_chunks::<LANES>();
    let (m, m_rest) = m.as_chunks_mut::<LANES>();
    let (v, v_rest) = v.as_chunks_mut::<LANES>();
    for (((p, g), m), v) in p.iter_mut().zip(g).zip(m).zip(v) {
        // SAFETY: the caller grants the instruction set.
        unsafe { update_vector::<S>(constants, p, g, m, v) };
    }
    let padded = |rest: &[f32]| {
        let mut padded = [0.0; LANES];
        padded[..rest.len()].copy_from_slice(rest);
        padded
    };
    let n = g_rest.len();
    let (mut p, g, mut m, mut v) = (
        padded(p_rest),
        padded(g_rest),
        padded(m_rest),
        padded(v_rest),
    );
    // SAFETY: as above.
    unsafe { update_vector::<S>(constants, &mut p, &g, &mut m, &mut v) };
    p_rest.copy_from_slice(&p[..n]);
    m_rest.copy_from_slice(&m[..n]);
    v_rest.copy_from_slice(&v[..n]);
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn update_vector<S: Lanes>(
    constants: &Constants,
    p: &mut [f32; LANES],
    g: &[f32; LANES],
    m: &mut [f32; LANES],
    v: &mut [f32; LANES],
) {
    let Constants {
        betas,
        rests,
        epsilon,
        shrink,
        step,
        second,
    } = *constants;
    // SAFETY: arrays are sixteen values, and the caller grants the instruction set.
    unsafe {
        let gradient = S::load(g.as_ptr());
        let mean = S::mul(S::splat(betas[0]), S::load(m.as_ptr()));
        let mean = S::mul_add(S::splat(rests[0]), gradient, mean);
        S::store(m.as_mut_ptr(), mean);
        let square = S::mul(S::splat(betas[1]), S::load(v.as_ptr()));
        let square = S::mul_add(S::mul(S::splat(rests[1]), gradient), gradient, square);
        S::store(v.as_mut_ptr(), square);
        // The compiler makes a vector of it.
        let mut root = [0.0; LANES];
        for (root, square) in root.iter_mut().zip(&*v) {
            *root = square.sqrt();
        }
        let root = S::mul_add(S::load(root.as_ptr()), S::splat(second), S::splat(epsilon));
        let parameter = S::mul(S::load(p.as_ptr()), S::splat(shrink));
        let delta = S::div(S::mul(S::splat(step), mean), root);
        S::store(p.as_mut_ptr(), S::sub(parameter, delta));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn draw(n: usize, seed: f32) -> Vec<f32> {
        (0..n).map(|i| (i as f32 * 1.7 + seed).sin()).collect()
    }

    #[test]
    fn it_is_its_definition() {
        let n = 2 * GRAIN + 7;
        for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
            let (mut p, mut m, mut v) = (draw(n, 0.0), vec![0.0; n], vec![0.0; n]);
            let mut exact: Vec<[f64; 3]> = p.iter().map(|p| [f64::from(*p), 0.0, 0.0]).collect();
            let mut step = Step {
                betas: [0.9, 0.999],
                epsilon: 1e-8,
                weight_decay: 0.1,
                learning_rate: 1e-2,
                count: 0,
            };
            for count in 1..=4 {
                step.count = count;
                let g = draw(n, count as f32);
                let moments = Moments {
                    first: &mut m,
                    second: &mut v,
                };
                adamw(level, &step, &mut p, &g, moments);
                for ([p, m, v], g) in exact.iter_mut().zip(&g) {
                    let g = f64::from(*g);
                    *p -= 1e-2 * 0.1 * *p;
                    *m = 0.9 * *m + 0.1 * g;
                    *v = 0.999 * *v + 0.001 * g * g;
                    let n = i32::try_from(count).expect("a few steps");
                    let root = (*v / (1.0 - 0.999_f64.powi(n))).sqrt();
                    *p -= 1e-2 * *m / (1.0 - 0.9_f64.powi(n)) / (root + 1e-8);
                }
            }
            for (p, [exact, ..]) in p.iter().zip(exact) {
                // Four steps of at most 0.01 on numbers of at most 1, each rounded to 2⁻²⁴ a few times.
                assert!((f64::from(*p) - exact).abs() < 5e-7, "{level}: {p} {exact}");
            }
        }
    }
}
