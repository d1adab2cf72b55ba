use nalgebra::{DMatrix, DVector};
use proptest::prelude::*;

use super::gptq::Plan;
use super::gram::Tiles;
use super::*;

/// Numbers between -1 and 1, the same for a seed.
fn numbers(seed: u64, count: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32 + 0.5) / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// Inputs that share a few causes: `[positions][columns]`.
fn inputs(seed: u64, positions: usize, columns: usize, causes: usize) -> Vec<f32> {
    let mix = numbers(seed + 1, columns * causes);
    let own = numbers(seed + 2, positions * columns);
    let of = numbers(seed + 3, positions * causes);
    (0..positions * columns)
        .map(|at| {
            let (position, column) = (at / columns, at % columns);
            let shared = (0..causes)
                .map(|cause| mix[column * causes + cause] * of[position * causes + cause])
                .sum::<f32>();
            shared + 0.2 * own[at]
        })
        .collect()
}

fn gram(inputs: &[f32], columns: usize) -> Gram {
    let mut gram = Gram::new(columns);
    gram.add(inputs);
    gram
}

fn schemes(channels: usize, taps: usize, group: usize) -> [Scheme; 2] {
    [
        Scheme::eight_bits(channels * taps),
        Scheme::neighbours([channels, taps], group),
    ]
}

/// `Σ ((w - q) x)²` for one row, from the inputs themselves.
fn error_over(inputs: &[f32], weights: &[f32], rounded: &[f32]) -> f64 {
    inputs
        .chunks(weights.len())
        .map(|x| {
            let error = weights.iter().zip(rounded).zip(x);
            let error: f64 = error
                .map(|((w, q), x)| (f64::from(*w) - f64::from(*q)) * f64::from(*x))
                .sum();
            error * error
        })
        .sum()
}

/// Algorithm 1 of the paper as it is written, with the inverse of `H` and its Cholesky factor, for one row.
fn textbook(
    weights: &[f32],
    scheme: &Scheme,
    gram: &Gram,
    damping: f64,
    mut scales: impl FnMut(usize, &[f64]) -> f32,
) -> Vec<i8> {
    let order: Vec<usize> = scheme.groups().concat();
    let n = order.len();
    let h = DMatrix::from_fn(n, n, |i, j| {
        gram.at(order[i], order[j]) + if i == j { damping } else { 0.0 }
    });
    let inverse = h.cholesky().expect("damped").inverse();
    let factor = inverse.cholesky().expect("damped").l().transpose();
    let mut w = DVector::from_fn(n, |i, _| f64::from(weights[order[i]]));
    let mut codes = vec![0; n];
    let mut start = 0;
    for (index, group) in scheme.groups().iter().enumerate() {
        let scale = scales(index, &w.as_slice()[start..start + group.len()]);
        for k in start..start + group.len() {
            let code = scheme.codes.code(w[k] as f32, scale);
            codes[order[k]] = code as i8;
            let error = (w[k] - f64::from(code as f32 * scale)) / factor[(k, k)];
            for j in k..n {
                w[j] -= error * factor[(k, j)];
            }
        }
        start += group.len();
    }
    codes
}

#[test]
fn codes_are_those_of_the_algorithm_as_it_is_written() {
    // Tiles are cut: more than two of 128, and groups that do not fill them.
    for (channels, taps, group) in [(7, 3, 4), (60, 5, 32), (97, 3, 24), (300, 1, 64)] {
        let columns = channels * taps;
        let gram = gram(&inputs(5, 2 * columns, columns, 8), columns);
        let weights = numbers(6, 3 * columns);
        for scheme in schemes(channels, taps, group) {
            let groups = scheme.groups().len();
            let plan = Plan::new(&scheme, &gram, Order::Given);
            let (factor, pivots) = plan.factor(&gram, DAMPING).expect("positive");
            let (codes, scales) = plan.round(&weights, &scheme, &factor, &pivots);
            let rows = weights.chunks(columns).zip(scales.chunks(groups));
            let expected: Vec<i8> = rows
                .flat_map(|(weights, scales)| {
                    textbook(
                        weights,
                        &scheme,
                        &gram,
                        added(&gram, DAMPING),
                        |group, _| scales[group],
                    )
                })
                .collect();
            assert_eq!(codes, expected);
            // Of so many columns, no row is better rounded to the nearest.
            if columns > 100 {
                let rounded =
                    gptq(&weights, &scheme, &gram, Order::Given, DAMPING).expect("finite");
                assert_eq!(rounded.codes, codes);
            }
        }
    }
}

#[test]
fn a_scale_of_a_group_suits_weights_that_carry_errors() {
    let (channels, taps, group, rows) = (50, 2, 16, 10);
    let columns = channels * taps;
    let gram = gram(&inputs(8, 3000, columns, 6), columns);
    let weights = numbers(9, rows * columns);
    let scheme = Scheme::neighbours([channels, taps], group);
    let plan = Plan::new(&scheme, &gram, Order::Given);
    let (factor, pivots) = plan.factor(&gram, DAMPING).expect("positive");
    let (codes, scales) = plan.round(&weights, &scheme, &factor, &pivots);
    let pivots: Vec<f64> = pivots.into_iter().rev().collect();
    let (mut ours, mut plain, mut too_early, mut searched) = (0.0, 0.0, 0.0, 0.0);
    let mut expected = Vec::new();
    for (weights, scales) in weights
        .chunks(columns)
        .zip(scales.chunks(scheme.groups().len()))
    {
        let mut start = 0;
        let scale_of = |index: usize, targets: &[f64]| {
            let pivots = &pivots[start..start + targets.len()];
            let error = |scale: f32| -> f64 {
                (targets.iter().zip(pivots))
                    .map(|(w, pivot)| {
                        let q = scheme.codes.code(*w as f32, scale) as f32 * scale;
                        pivot * (w - f64::from(q)).powi(2)
                    })
                    .sum()
            };
            let scale = scales[index];
            // The least of many errors, of scales of both signs.
            let best = (1..1000)
                .map(|step| step as f32 / 500.0 * scale)
                .flat_map(|scale| [error(scale), error(-scale)])
                .fold(f64::INFINITY, f64::min);
            searched += error(scale) - best;
            let before: Vec<f32> = (scheme.groups()[index].iter())
                .map(|column| weights[*column])
                .collect();
            let targets: Vec<f32> = targets.iter().map(|w| *w as f32).collect();
            ours += error(scale);
            plain += error(scheme.codes.scale(&targets));
            too_early += error(scheme.codes.scale(&before));
            start += targets.len();
            scale
        };
        expected.extend(textbook(
            weights,
            &scheme,
            &gram,
            added(&gram, DAMPING),
            scale_of,
        ));
    }
    assert_eq!(codes, expected);
    assert!(
        ours < 0.98 * plain && plain < too_early,
        "{ours} {plain} {too_early}"
    );
}

#[test]
fn errors_are_those_of_the_outputs() {
    let (columns, rows) = (150, 5);
    let x = inputs(11, 90, columns, 4);
    let gram = gram(&x, columns);
    let weights = numbers(12, rows * columns);
    for scheme in schemes(50, 3, 16) {
        let nearest = nearest(&weights, &scheme, &gram).expect("finite");
        assert_eq!(nearest.errors, nearest.nearest);
        let of_gptq = gptq(&weights, &scheme, &gram, Order::LargestFirst, DAMPING).expect("finite");
        assert_eq!(of_gptq.nearest, nearest.errors);
        let refined = refine(&weights, &scheme, &gram, &of_gptq, DAMPING, 2).expect("finite");
        for rounded in [nearest, of_gptq, refined] {
            let values = rounded.weights(&scheme);
            for row in 0..rows {
                let of = row * columns..(row + 1) * columns;
                let expected = error_over(&x, &weights[of.clone()], &values[of]);
                // Both are sums in f64; the quadratic form cancels more.
                assert!((rounded.errors[row] - expected).abs() < 1e-9 * expected);
            }
        }
    }
}

#[test]
fn the_best_of_all_codes_is_not_far() {
    // Two codes above and below each weight, for six weights: all 4⁶ of them.
    let columns = 6;
    let scheme = Scheme::four_bits(vec![(0..columns).collect()]);
    let (mut of_gptq, mut of_refined, mut of_nearest, mut of_best) = (0.0, 0.0, 0.0, 0.0);
    for seed in 0..40 {
        let gram = gram(&inputs(100 + seed, 30, columns, 2), columns);
        let weights = numbers(200 + seed, columns);
        let rounded = gptq(&weights, &scheme, &gram, Order::LargestFirst, DAMPING).expect("finite");
        let refined = refine(&weights, &scheme, &gram, &rounded, DAMPING, 5).expect("finite");
        let scale = rounded.scales[0];
        let mut best = f64::INFINITY;
        let mut of_same_scale = f64::INFINITY;
        for choice in 0..4_usize.pow(6) {
            let error: Vec<f64> = (0..columns)
                .map(|k| {
                    let below = (weights[k] / scale).floor() as i32;
                    let code = (below - 1 + i32::from((choice >> (2 * k) & 3) as u8)).clamp(-8, 7);
                    f64::from(weights[k]) - f64::from(code as f32 * scale)
                })
                .collect();
            let form: f64 = (0..columns)
                .flat_map(|i| (0..columns).map(move |j| (i, j)))
                .map(|(i, j)| error[i] * gram.at(i, j) * error[j])
                .sum();
            best = best.min(form);
            if (0..columns).all(|k| (error[k].abs() - f64::from(scale.abs()) / 2.0) < 1e-9) {
                of_same_scale = of_same_scale.min(form);
            }
        }
        // Nothing is better than the best of all, but codes that lie further away.
        of_best += best;
        of_gptq += rounded.error();
        of_refined += refined.error();
        of_nearest += of_same_scale.min(rounded.error_of_nearest());
        assert!(refined.error() <= rounded.error());
    }
    assert!(of_best <= of_refined && of_refined <= of_gptq);
    assert!(of_gptq < 1.6 * of_best, "{of_gptq} of {of_best}");
    assert!(of_refined < 1.4 * of_best, "{of_refined} of {of_best}");
    assert!(of_nearest > 2.0 * of_best, "{of_nearest} of {of_best}");
}

#[test]
fn correlated_inputs_are_rounded_much_better() {
    // Ten causes of 160 inputs: errors in all other directions cost a twentieth.
    let columns = 160;
    let all = inputs(21, 2000, columns, 10);
    let (x, unseen) = all.split_at(1000 * columns);
    let (gram, unseen) = (gram(x, columns), gram(unseen, columns));
    let weights = numbers(22, 30 * columns);
    for (scheme, factor) in schemes(32, 5, 32).into_iter().zip([8.0, 6.0]) {
        let rounded = gptq(&weights, &scheme, &gram, Order::LargestFirst, DAMPING).expect("finite");
        assert!(
            factor * rounded.error() < rounded.error_of_nearest(),
            "{} {}",
            rounded.error(),
            rounded.error_of_nearest()
        );
        // It is no property of these inputs alone.
        let errors = |values: &[f32]| -> f64 {
            let errors: Vec<f32> = weights.iter().zip(values).map(|(w, q)| w - q).collect();
            unseen.quadratic(&errors).iter().sum()
        };
        let of_nearest = nearest(&weights, &scheme, &gram).expect("finite");
        let (ours, plain) = (
            errors(&rounded.weights(&scheme)),
            errors(&of_nearest.weights(&scheme)),
        );
        assert!(0.8 * factor * ours < plain, "{ours} {plain}");
    }
}

#[test]
fn damping_is_that_of_unseen_inputs() {
    let columns = 240;
    // Half a position for each input. Few causes are all seen; of many, half of the directions are not.
    let mut found = Vec::new();
    for causes in [10, 100, 400, 2000] {
        let all = inputs(25, 1120, columns, causes);
        let (x, unseen) = all.split_at(120 * columns);
        let (gram, unseen) = (gram(x, columns), gram(unseen, columns));
        let weights = numbers(26, 30 * columns);
        for scheme in schemes(80, 3, 40) {
            let order = Order::LargestFirst;
            let best = damping(&weights, &scheme, &gram, &unseen, order).expect("finite");
            let errors = [0.001, 0.01, 0.1, 1.0].map(|damping| {
                let rounded = gptq(&weights, &scheme, &gram, order, damping).expect("finite");
                let values = rounded.weights(&scheme);
                let errors: Vec<f32> = weights.iter().zip(values).map(|(w, q)| w - q).collect();
                (unseen.quadratic(&errors).iter().sum::<f64>(), damping)
            });
            let least = errors
                .into_iter()
                .min_by(|a, b| a.0.total_cmp(&b.0))
                .expect("four");
            let of_nearest = nearest(&weights, &scheme, &unseen).expect("finite").error();
            let expected = (least.0 < of_nearest).then_some(least.1);
            assert_eq!(best, expected);
            found.push((best, of_nearest / least.0));
        }
    }
    // Of ten causes, 35 and 27 times as good as the nearest; of more causes than inputs, worse.
    let gains = |at: usize| found[2 * at..2 * at + 2].iter().map(|(_, gain)| *gain);
    assert!(
        gains(0).all(|gain| gain > 15.0) && gains(1).all(|gain| gain > 2.0),
        "{found:?}"
    );
    assert!(
        found[..4].iter().all(|(best, _)| *best < Some(0.1)),
        "{found:?}"
    );
    assert!(
        found[4..6].iter().all(|(best, _)| *best > Some(0.1)),
        "{found:?}"
    );
    assert!(
        found[6..].iter().all(|(best, _)| best.is_none()),
        "{found:?}"
    );
}

#[test]
fn inputs_without_correlation_leave_the_nearest_codes() {
    // Squares of one size: whatever the scale, every column is rounded alone.
    let columns = 40;
    let gram = Gram::from_fn(columns, 1, |i, j| if i == j { 2.0 } else { 0.0 });
    let weights = numbers(31, 2 * columns);
    for scheme in schemes(20, 2, 8) {
        let rounded = gptq(&weights, &scheme, &gram, Order::LargestFirst, DAMPING).expect("finite");
        for (at, group) in (0..2)
            .flat_map(|row| scheme.groups().iter().enumerate().map(move |g| (row, g)))
            .map(|(row, (index, group))| (row * scheme.groups().len() + index, (row, group)))
        {
            for column in group.1 {
                let at_weight = group.0 * columns + column;
                let code = scheme.codes.code(weights[at_weight], rounded.scales[at]);
                assert_eq!(i32::from(rounded.codes[at_weight]), code);
            }
        }
        let again = refine(&weights, &scheme, &gram, &rounded, DAMPING, 3).expect("finite");
        assert_eq!(again, rounded);
    }
}

#[test]
fn inputs_that_are_always_zero_round_to_the_nearest() {
    let columns = 200;
    let mut x = inputs(41, 300, columns, 5);
    for (at, x) in x.iter_mut().enumerate() {
        if at % columns % 7 == 3 {
            *x = 0.0;
        }
    }
    let weights = numbers(42, columns);
    for scheme in schemes(100, 2, 32) {
        for order in [Order::Given, Order::LargestFirst] {
            let rounded =
                gptq(&weights, &scheme, &gram(&x, columns), order, DAMPING).expect("finite");
            for (group, scale) in scheme.groups().iter().zip(&rounded.scales) {
                for &column in group.iter().filter(|column| *column % 7 == 3) {
                    let code = scheme.codes.code(weights[column], *scale);
                    assert_eq!(i32::from(rounded.codes[column]), code);
                }
            }
        }
        // Nothing was read at all.
        let nothing = Gram::new(columns);
        let rounded = gptq(&weights, &scheme, &nothing, Order::Given, DAMPING).expect("finite");
        assert_eq!((rounded.error(), rounded.error_of_nearest()), (0.0, 0.0));
        let values = rounded.weights(&scheme);
        assert!(weights.iter().zip(values).all(|(w, q)| (w - q).abs() < 0.3));
    }
}

#[test]
fn numbers_that_are_not_finite_are_errors() {
    let scheme = Scheme::eight_bits(3);
    let fine = gram(&[1.0, 2.0, 3.0, -1.0, 0.0, 1.0], 3);
    for value in [f32::NAN, f32::INFINITY] {
        let weights = [1.0, 2.0, 3.0, 4.0, value, 6.0];
        let at = |error| {
            matches!(
                error,
                RoundingError::Weight {
                    row: 1,
                    column: 1,
                    ..
                }
            )
        };
        assert!(at(nearest(&weights, &scheme, &fine).expect_err("a weight")));
        assert!(at(
            gptq(&weights, &scheme, &fine, Order::Given, DAMPING).expect_err("a weight")
        ));
        let weights = [1.0, 2.0, 3.0];
        let wrong = gram(&[1.0, 0.0, value], 3);
        let error = gptq(&weights, &scheme, &wrong, Order::Given, DAMPING).expect_err("an input");
        assert!(
            matches!(error, RoundingError::Gram { row: 2, .. }),
            "{error}"
        );
        let rounded = nearest(&weights, &scheme, &fine).expect("finite");
        let error = shift(&weights, &scheme, &rounded, &[0.0, value.into(), 0.0]);
        assert!(matches!(error, Err(RoundingError::Mean { column: 1, .. })));
        let error = balance(
            &weights,
            &scheme,
            1,
            &fine,
            &[[0.0, 1.0], [value, 1.0], [0.0, 0.0]],
        );
        assert!(matches!(
            error,
            Err(RoundingError::Input {
                sample: 0,
                channel: 1,
                ..
            })
        ));
    }
    let negative = Gram::from_fn(3, 1, |i, j| if i == j { 1.0 } else { -5.0 });
    // The least eigenvalue is -9: a thousand times the damping is ten, and enough.
    assert!(gptq(&[1.0, 2.0, 3.0], &scheme, &negative, Order::Given, DAMPING).is_ok());
    let negative = Gram::from_fn(3, 1, |i, j| if i == j { 1.0 } else { -5000.0 });
    let error =
        gptq(&[1.0, 2.0, 3.0], &scheme, &negative, Order::Given, DAMPING).expect_err("no inputs");
    assert!(
        matches!(error, RoundingError::NotPositive { .. }),
        "{error}"
    );
}

#[test]
fn nothing_and_zeros_are_rounded() {
    for scheme in [Scheme::eight_bits(4), Scheme::neighbours([2, 2], 8)] {
        let gram = gram(&[1.0, 2.0, 3.0, 4.0], 4);
        for order in [Order::Given, Order::LargestFirst] {
            let rounded = gptq(&[0.0; 8], &scheme, &gram, order, DAMPING).expect("finite");
            assert_eq!((rounded.codes, rounded.errors), (vec![0; 8], vec![0.0; 2]));
            assert!(
                gptq(&[], &scheme, &gram, order, DAMPING)
                    .expect("nothing")
                    .codes
                    .is_empty()
            );
        }
    }
    let scheme = Scheme::eight_bits(0);
    assert!(
        gptq(&[], &scheme, &Gram::new(0), Order::Given, DAMPING)
            .expect("nothing")
            .codes
            .is_empty()
    );
}

#[test]
fn threads_do_not_change_a_bit() {
    let (channels, taps) = (90, 3);
    let columns = channels * taps;
    let x = inputs(51, 700, columns, 9);
    let weights = numbers(52, 300 * columns);
    let extents: Vec<[f32; 2]> = numbers(53, 6 * channels)
        .iter()
        .map(|x| [-x.abs(), 1.0])
        .collect();
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("threads").install(|| {
            let gram = gram(&x, columns);
            schemes(channels, taps, 32).map(|scheme| {
                let rounded =
                    gptq(&weights, &scheme, &gram, Order::LargestFirst, DAMPING).expect("finite");
                let refined =
                    refine(&weights, &scheme, &gram, &rounded, DAMPING, 2).expect("finite");
                let balance = balance(&weights, &scheme, taps, &gram, &extents).expect("finite");
                (rounded, refined, balance)
            })
        })
    };
    let alone = run(1);
    assert_eq!(alone, run(2));
    assert_eq!(alone, run(5));
}

#[test]
fn inputs_add_up_in_any_portions() {
    let columns = 140;
    let x = inputs(61, 600, columns, 3);
    let whole = gram(&x, columns);
    let mut portions = Gram::new(columns);
    for x in x.chunks(77 * columns) {
        portions.add(x);
    }
    assert_eq!((whole.positions(), portions.positions()), (600, 600));
    for (i, j) in [(0, 0), (3, 139), (139, 3), (130, 7), (128, 127), (139, 139)] {
        let expected: f64 = x
            .chunks(columns)
            .map(|x| f64::from(x[i]) * f64::from(x[j]))
            .sum();
        // f64, 600 products.
        assert!((whole.at(i, j) - expected).abs() < 1e-10 * whole.at(i, i).max(1.0));
        assert!((portions.at(i, j) - expected).abs() < 1e-10 * whole.at(i, i).max(1.0));
    }
    let same = Gram::from_fn(columns, 600, |i, j| whole.at(i, j));
    assert_eq!(
        same.quadratic(&x[..2 * columns]),
        whole.quadratic(&x[..2 * columns])
    );
}

#[test]
fn a_shift_takes_the_mean_of_the_error() {
    let (columns, rows) = (60, 4);
    // Inputs that are not negative: rounding has a mean.
    let x: Vec<f32> = inputs(71, 200, columns, 3)
        .iter()
        .map(|x| x.abs())
        .collect();
    let weights = numbers(72, rows * columns);
    let scheme = Scheme::neighbours([30, 2], 16);
    let rounded = nearest(&weights, &scheme, &gram(&x, columns)).expect("finite");
    let values = rounded.weights(&scheme);
    let means: Vec<f64> = (0..columns)
        .map(|column| x.chunks(columns).map(|x| f64::from(x[column])).sum::<f64>() / 200.0)
        .collect();
    let shifts = shift(&weights, &scheme, &rounded, &means).expect("finite");
    for (row, shift) in shifts.iter().enumerate() {
        let of = row * columns..(row + 1) * columns;
        let lost: f64 = x
            .chunks(columns)
            .map(|x| {
                let terms = weights[of.clone()].iter().zip(&values[of.clone()]).zip(x);
                terms
                    .map(|((w, q), x)| (f64::from(*w) - f64::from(*q)) * f64::from(*x))
                    .sum::<f64>()
            })
            .sum();
        assert!(shift.abs() > 1e-3);
        // The shift is f32.
        assert!((f64::from(*shift) - lost / 200.0).abs() < 1e-6);
    }
}

/// What the error of some rows is when inputs are rounded to 256 codes in each sample of so many positions.
fn error_with_inputs(
    x: &[f32],
    sample: usize,
    channels: usize,
    taps: usize,
    weights: &[f32],
    factors: &[f32],
    scheme: &Scheme,
) -> f64 {
    let columns = channels * taps;
    let balanced: Vec<f32> = weights
        .iter()
        .enumerate()
        .map(|(at, w)| w * factors[at % columns / taps])
        .collect();
    let rows = weights.len() / columns;
    let rounded = nearest_rows(&balanced, scheme, rows).weights(scheme);
    let mut sum = 0.0;
    for x in x.chunks(sample * columns) {
        let inputs: Vec<f64> = x
            .iter()
            .enumerate()
            .map(|(at, x)| f64::from(*x) / f64::from(factors[at % columns / taps]))
            .collect();
        let (least, most) = inputs
            .iter()
            .fold((0.0_f64, 0.0_f64), |(a, b), x| (a.min(*x), b.max(*x)));
        let step = (most - least) / 255.0;
        for (position, plain) in inputs.chunks(columns).zip(x.chunks(columns)) {
            for row in 0..rows {
                let of = row * columns..(row + 1) * columns;
                let coded: f64 = rounded[of.clone()]
                    .iter()
                    .zip(position)
                    .map(|(q, x)| f64::from(*q) * (x / step).round() * step)
                    .sum();
                let exact: f64 = weights[of]
                    .iter()
                    .zip(plain)
                    .map(|(w, x)| f64::from(*w) * f64::from(*x))
                    .sum();
                sum += (coded - exact).powi(2);
            }
        }
    }
    sum
}

#[test]
fn balancing_pays_where_few_channels_are_large() {
    let (channels, taps, rows) = (40, 2, 12);
    let columns = channels * taps;
    let mut x = inputs(81, 640, columns, 5);
    for (at, x) in x.iter_mut().enumerate() {
        // Two channels are forty times as large as the others.
        if matches!(at % columns / taps, 7 | 22) {
            *x *= 40.0;
        }
    }
    let weights = numbers(82, rows * columns);
    let scheme = Scheme::eight_bits(columns);
    let extents: Vec<[f32; 2]> = x
        .chunks(16 * columns)
        .flat_map(|sample| {
            (0..channels).map(|channel| {
                let values = || {
                    sample
                        .chunks(columns)
                        .flat_map(|x| &x[channel * taps..(channel + 1) * taps])
                };
                [
                    values().copied().fold(f32::INFINITY, f32::min),
                    values().copied().fold(f32::NEG_INFINITY, f32::max),
                ]
            })
        })
        .collect();
    let found = balance(&weights, &scheme, taps, &gram(&x, columns), &extents).expect("finite");
    assert!(found.exponent.is_some());
    assert!(found.error < 0.2 * found.without, "{found:?}");
    // What was predicted is what is measured: noise is nearly independent, and a mean over 640 positions.
    for (factors, predicted) in [
        (&found.factors, found.error),
        (&vec![1.0; channels], found.without),
    ] {
        let measured = error_with_inputs(&x, 16, channels, taps, &weights, factors, &scheme);
        assert!(
            (measured / predicted - 1.0).abs() < 0.15,
            "{measured} {predicted}"
        );
    }
    let log: f32 = found.factors.iter().map(|factor| factor.ln()).sum();
    assert!(log.abs() < 1e-3 && found.factors[7] > found.factors[8]);
}

#[test]
fn balancing_leaves_alike_channels_alone() {
    let columns = 64;
    let x = numbers(91, 400 * columns);
    let weights = numbers(92, 10 * columns);
    let extents = vec![[-1.0, 1.0]; 25 * columns];
    let scheme = Scheme::eight_bits(columns);
    let found = balance(&weights, &scheme, 1, &gram(&x, columns), &extents).expect("finite");
    assert_eq!((found.exponent, found.error), (None, found.without));
    assert!(
        found
            .factors
            .iter()
            .all(|factor| (factor - 1.0).abs() < f32::EPSILON)
    );
    assert!(found.error > 0.0);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn no_row_is_worse_than_the_nearest(
        channels in 1..70_usize,
        taps in 1..5_usize,
        rows in 1..5_usize,
        positions in 0..40_usize,
        group in 1..80_usize,
        largest_first: bool,
        exponent in -12..12_i32,
        seed in 0..1000_u64,
    ) {
        let columns = channels * taps;
        let mut x = inputs(seed, positions, columns, 3);
        for x in &mut x {
            *x *= 10.0_f32.powi(exponent);
        }
        let gram = gram(&x, columns);
        let weights: Vec<f32> = numbers(seed + 9, rows * columns).iter().map(|w| w * 10.0_f32.powi(-exponent)).collect();
        let order = if largest_first { Order::LargestFirst } else { Order::Given };
        for scheme in schemes(channels, taps, group) {
            let of_nearest = nearest(&weights, &scheme, &gram).expect("finite");
            let rounded = gptq(&weights, &scheme, &gram, order, DAMPING).expect("finite");
            let refined = refine(&weights, &scheme, &gram, &rounded, DAMPING, 2).expect("finite");
            let [least, most] = scheme.codes.ends();
            for row in 0..rows {
                prop_assert!(rounded.errors[row] <= of_nearest.errors[row]);
                prop_assert!(refined.errors[row] <= rounded.errors[row]);
            }
            for rounded in [of_nearest, rounded, refined] {
                prop_assert_eq!(rounded.codes.len(), rows * columns);
                prop_assert_eq!(rounded.scales.len(), rows * scheme.groups().len());
                prop_assert!(rounded.codes.iter().all(|code| (least..=most).contains(&f32::from(*code))));
                prop_assert!(rounded.scales.iter().all(|scale| scale.is_finite()));
            }
        }
    }

    #[test]
    fn a_factor_is_that_of_its_matrix(columns in 1..300_usize, width in 1..64_usize, seed in 0..1000_u64) {
        let gram = gram(&inputs(seed, 2 * columns, columns, 4), columns);
        let widths: Vec<usize> = (0..columns).step_by(width).map(|start| width.min(columns - start)).collect();
        let mut tiles = Tiles::new(&widths, |i, j| gram.at(i, j));
        let pivots = tiles.factor().expect("positive");
        let factor = DMatrix::from_fn(columns, columns, |i, j| {
            let (tile, of) = (i / width, j / width);
            if tile < of { 0.0 } else { tiles.columns[of][tile - of][(i % width, j % width)] }
        });
        let product = &factor * DMatrix::from_diagonal(&DVector::from_vec(pivots)) * factor.transpose();
        for i in 0..columns {
            prop_assert!((factor[(i, i)] - 1.0).abs() < f64::EPSILON);
            for j in 0..columns {
                // f64, sums of up to 300.
                prop_assert!((product[(i, j)] - gram.at(i, j)).abs() < 1e-10 * gram.at(i, i).max(gram.at(j, j)));
            }
        }
    }
}
