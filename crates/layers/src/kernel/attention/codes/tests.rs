use proptest::prelude::*;

use super::*;
use crate::kernel::attention::tests::{Case, bits, cases, part};
use crate::kernel::product::tests::{Random, levels};

fn run(case: &Case, level: Level, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let of = |values, n, d| Heads { values, n, d };
    let batch = q.len() / (case.queries * case.heads * case.d);
    // What is not written stays another number than all that is.
    let mut y = vec![1e30; batch * case.queries * case.heads * case.d_value];
    attention_in_codes(
        level,
        [batch, case.heads],
        of(q, case.queries, case.d),
        of(k, case.keys, case.d),
        of(v, case.keys, case.d_value),
        &mut y,
    );
    y
}

fn all(case: &Case, level: Level) -> Vec<f32> {
    run(case, level, [&case.q, &case.k, &case.v])
}

/// The largest magnitude.
fn largest(values: &[f32]) -> f64 {
    values
        .iter()
        .map(|x| f64::from(x.abs()))
        .fold(0.0, f64::max)
}

/// How far the codes of a query and of its keys may move a score.
fn moved(case: &Case, [sample, query, head]: [usize; 3]) -> f64 {
    let of_keys = if case.samples == 1 { 0 } else { sample };
    let row =
        |row: usize| (row * case.heads + head) * case.d..(row * case.heads + head + 1) * case.d;
    let q = &case.q[row(sample * case.queries + query)];
    // Half a step, and what else is rounded on the way.
    let half = |values: &[f32]| 0.5001 * largest(values) / 127.0;
    let of_q = half(q);
    let moved = (0..case.keys).map(|key| {
        let k = &case.k[row(of_keys * case.keys + key)];
        let of_k = half(k);
        let each = q
            .iter()
            .zip(k)
            .map(|(q, k)| f64::from(q.abs()) * of_k + f64::from(k.abs()) * of_q + of_q * of_k);
        each.sum::<f64>() / (case.d as f64).sqrt()
    });
    moved.fold(0.0, f64::max)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn it_is_a_mean_weighted_by_fit(case in cases()) {
        let case = Case { causal: false, ..case };
        let exact = case.exact();
        let rows = 0..case.batch * case.queries * case.heads;
        let moved: Vec<f64> = rows
            .map(|row| {
                let at = row / case.heads;
                moved(&case, [at / case.queries, at % case.queries, row % case.heads])
            })
            .collect();
        for level in levels() {
            let y = all(&case, level);
            prop_assert_eq!(y.len(), exact.len());
            for (index, (y, [exact, largest, wrong])) in y.iter().zip(&exact).enumerate() {
                let error = (f64::from(*y) - exact).abs();
                // Two weights are wrong against each other by twice what each score is. Half a code of each weight is lost at
                // most, beside one that has all; and half a code of the value.
                let scores = (2.0 * (moved[index / case.d_value] + wrong)).exp_m1();
                let codes = (2.0 * 0.51 * case.keys as f64 + 0.51) / f64::from(MOST);
                let tolerance = scores + codes + 1e-5;
                prop_assert!(
                    error <= tolerance * largest,
                    "{level}: {y} at {index} is not {exact}: {error:e} of {largest}, {tolerance:e}"
                );
            }
        }
    }

    #[test]
    fn the_same_bits_alone_and_in_a_batch_and_on_any_number_of_threads(case in cases()) {
        for level in levels() {
            let together = bits(&all(&case, level));
            let mut alone = Vec::new();
            for sample in 0..case.batch {
                let of_keys = sample.min(case.samples - 1);
                alone.extend(run(&case, level, [
                    part(&case.q, case.batch, sample),
                    part(&case.k, case.samples, of_keys),
                    part(&case.v, case.samples, of_keys),
                ]));
            }
            prop_assert_eq!(&together, &bits(&alone), "{}: alone", level);
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let there = pool.expect("threads start").install(|| all(&case, level));
                prop_assert_eq!(&together, &bits(&there), "{}: {} threads", level, threads);
            }
        }
    }

    /// What is not finite is seen where the documentation says so, and nowhere else.
    #[test]
    fn what_is_not_finite_is_seen(
        case in cases(),
        which in 0..3_usize,
        at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let mut other = case.clone();
        let values = [&mut other.q, &mut other.k, &mut other.v];
        let width = [case.d, case.d, case.d_value][which];
        let at = at.index(values[which].len());
        other_value(values, which, at, value);
        let (row, head) = (at / width / case.heads, at / width % case.heads);
        for level in levels() {
            let (before, after) = (all(&case, level), all(&other, level));
            for (index, (before, after)) in before.iter().zip(&after).enumerate() {
                let (place, feature) = (index / case.d_value, index % case.d_value);
                let (of_row, of_head) = (place / case.heads, place % case.heads);
                let reads = case.samples == 1 || of_row / case.queries == row / case.keys;
                let spoilt = of_head == head && match which {
                    0 => of_row == row,
                    1 => reads,
                    _ => reads && feature == at % width,
                };
                if spoilt {
                    prop_assert!(after.is_nan(), "{level}: {after} at {index}");
                } else {
                    prop_assert_eq!(before.to_bits(), after.to_bits(), "{}: {}", level, index);
                }
            }
        }
    }
}

fn other_value(values: [&mut Vec<f32>; 3], which: usize, at: usize, value: f32) {
    for (index, values) in values.into_iter().enumerate() {
        if index == which {
            values[at] = value;
        }
    }
}

/// One head of one feature.
fn of(values: &[f32], n: usize) -> Heads<'_> {
    Heads { values, n, d: 1 }
}

/// Many small weights beside a large one keep their share, and no query weighs all keys alike.
#[test]
fn small_weights_count() {
    let keys = 1000;
    // One key is `e⁵` times as much as each other, all of which together weigh almost seven times as much.
    let mut k = vec![0.0; keys];
    k[17] = 5.0;
    let v: Vec<f32> = (0..keys)
        .map(|key| if key == 17 { 1.0 } else { 0.0 })
        .collect();
    let share = 5_f64.exp() / (5_f64.exp() + (keys - 1) as f64);
    for level in levels() {
        for (query, expected) in [(1.0, share), (0.0, 1.0 / keys as f64)] {
            let mut y = [f32::NAN];
            attention_in_codes(
                level,
                [1, 1],
                of(&[query], 1),
                of(&k, keys),
                of(&v, keys),
                &mut y,
            );
            // A weight of 28 codes of 4095 is wrong by half a code.
            let error = (f64::from(y[0]) / expected - 1.0).abs();
            assert!(error < 0.02, "{level}: {} is not {expected}", y[0]);
        }
    }
}

/// The error that the documentation states, as ‖Δ‖/‖y‖ against f64, of a layer as large as Stable Diffusion's.
#[test]
fn a_large_layer_is_exact_to_a_hundredth() {
    let mut random = Random(5);
    let (n, d) = (1500, 40);
    let mut normal = |n: usize| -> Vec<f32> {
        // The sum of twelve, each of a variance of a third.
        let of = |_| (0..12).map(|_| random.next()).sum::<f32>() / 2.0;
        (0..n).map(of).collect()
    };
    let mut case = Case {
        batch: 1,
        samples: 1,
        heads: 1,
        queries: 100,
        keys: n,
        d,
        d_value: d,
        causal: false,
        q: normal(100 * d),
        k: normal(n * d),
        v: normal(n * d),
    };
    // Scores of a deviation of one and of three.
    for sharper in [1.0, 3.0] {
        case.q.iter_mut().for_each(|x| *x *= sharper);
        let exact = case.exact();
        for level in levels() {
            let (mut error, mut norm) = (0.0, 0.0);
            for (y, [exact, ..]) in all(&case, level).iter().zip(&exact) {
                error += (f64::from(*y) - exact).powi(2);
                norm += exact.powi(2);
            }
            let relative = (error / norm).sqrt();
            let bound = if sharper > 1.0 { 3e-2 } else { 1e-2 };
            assert!(relative < bound, "{level}: {relative:e} at {sharper}");
        }
    }
}
