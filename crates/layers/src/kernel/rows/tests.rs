use proptest::prelude::*;

use super::*;
use crate::kernel::product::tests::{Random, levels};

fn run(level: Level, affine: Affine<'_>, x: &[f32]) -> Vec<f32> {
    let mut y = vec![1e30; x.len()];
    normalize_rows(level, affine, 1e-5, x, &mut y);
    y
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|x| x.to_bits()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn rows_have_mean_zero_and_variance_one(
        features in 1..400_usize, rows in 1..200_usize, offset in -50.0..50.0_f32,
        spread in prop_oneof![Just(1e-3_f32), Just(1.0), Just(1e4)], seed in 1..u64::MAX,
    ) {
        let mut random = Random(seed);
        let (weight, bias) = (random.values(features), random.values(features));
        let affine = Affine { weight: &weight, bias: &bias };
        let x = random.values(features * rows);
        let x: Vec<f32> = x.into_iter().map(|x| spread * x + offset).collect();
        for level in levels() {
            let y = run(level, affine, &x);
            for (row, (of_x, of_y)) in x.chunks(features).zip(y.chunks(features)).enumerate() {
                let wide = || of_x.iter().map(|x| f64::from(*x));
                let mean = wide().sum::<f64>() / features as f64;
                let variance = wide().map(|x| (x - mean).powi(2)).sum::<f64>() / features as f64;
                let scale = 1.0 / (variance + 1e-5).sqrt();
                for (c, (x, y)) in wide().zip(of_y).enumerate() {
                    let (w, b) = (f64::from(weight[c]), f64::from(bias[c]));
                    let exact = (x - mean) * scale * w + b;
                    // The mean is rounded, and it is a sum of 25 numbers in each lane; the rest is a few roundings of what
                    // it is added to.
                    let largest = wide().map(f64::abs).fold(0.0, f64::max) * scale;
                    let tolerance = 1e-6 * (largest + (exact - b).abs()) + 2e-7 * b.abs();
                    let error = (f64::from(*y) - exact).abs();
                    prop_assert!(
                        error <= tolerance,
                        "{level}: {y} in row {row} is not {exact}: {error:e} of {largest}"
                    );
                }
            }
            // Alone, and on any number of threads.
            let alone: Vec<f32> = x.chunks(features).flat_map(|x| run(level, affine, x)).collect();
            prop_assert_eq!(bits(&y), bits(&alone), "{}: alone", level);
            for threads in [1, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let there = pool.expect("threads start").install(|| run(level, affine, &x));
                prop_assert_eq!(bits(&y), bits(&there), "{}: {} threads", level, threads);
            }
        }
    }

    #[test]
    fn what_is_not_finite_spoils_its_row_alone(
        features in 1..70_usize, rows in 1..9_usize, at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
        seed in 1..u64::MAX,
    ) {
        let mut random = Random(seed);
        let (weight, x) = (random.values(features), random.values(features * rows));
        let affine = Affine { weight: &weight, bias: &weight };
        let mut other = x.clone();
        let at = at.index(x.len());
        other[at] = value;
        for level in levels() {
            let (before, after) = (run(level, affine, &x), run(level, affine, &other));
            let both = before.chunks(features).zip(after.chunks(features));
            for (row, (before, after)) in both.enumerate() {
                if row == at / features {
                    prop_assert!(after.iter().all(|y| y.is_nan()), "{level}: {after:?}");
                } else {
                    prop_assert_eq!(bits(before), bits(after), "{}: row {}", level, row);
                }
            }
        }
    }
}
