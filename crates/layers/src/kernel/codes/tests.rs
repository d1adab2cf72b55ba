use proptest::prelude::*;

use super::*;
use crate::kernel::product::tests::levels;

/// As [`Grid::encode`], one number after the other.
pub(in super::super) fn code(grid: &Grid, x: f32) -> i32 {
    let code = (x * grid.inverse).round_ties_even() + grid.zero as f32;
    let least = LEAST as f32;
    if code.is_nan() {
        LEAST
    } else {
        code.clamp(least, least + 255.0) as i32
    }
}

/// As [`Extent::new`], one number after the other.
pub(in super::super) fn extent(values: &[f32]) -> Extent {
    let mut extent = Extent::EMPTY;
    for &x in values {
        extent.least = extent.least.min(x);
        extent.most = extent.most.max(x);
        extent.finite &= x.is_finite();
    }
    extent
}

/// The numbers that the codes of some numbers stand for.
pub(crate) fn rounded(values: &[f32]) -> Vec<f32> {
    let grid = Grid::new(extent(values));
    let decoded = |x: &f32| grid.step * (code(&grid, *x) - grid.zero) as f32;
    values.iter().map(decoded).collect()
}

/// Any finite number, and none.
fn numbers() -> impl Strategy<Value = f32> {
    prop_oneof![
        4 => -10.0..10.0_f32,
        2 => any::<f32>().prop_filter("finite", |x| x.is_finite()),
        1 => prop_oneof![Just(0.0), Just(-0.0), Just(f32::MAX), Just(f32::MIN), Just(1e-45), Just(-1e-38)],
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn every_level_makes_the_same_codes(values in prop::collection::vec(numbers(), 0..70)) {
        let expected = Grid::new(extent(&values));
        for level in levels() {
            let grid = Grid::new(Extent::new(level, &values));
            prop_assert_eq!(grid.step.to_bits(), expected.step.to_bits(), "{}", level);
            prop_assert_eq!(grid.zero, expected.zero, "{}", level);
            let mut codes = vec![77; values.len() + 1];
            grid.encode(level, &values, &mut codes);
            prop_assert_eq!(codes.pop(), Some(77), "{}", level);
            for (x, found) in values.iter().zip(codes) {
                let found = if SIGNED { i32::from(found.cast_signed()) } else { i32::from(found) };
                prop_assert_eq!(found, code(&expected, *x), "{}: {}", level, x);
            }
        }
    }

    /// As many codes above zero as below it, and none of them the least one, whose negative is no byte.
    #[test]
    fn a_symmetric_grid_has_the_same_codes_on_every_level(values in prop::collection::vec(numbers(), 0..70)) {
        let expected = Grid::symmetric(extent(&values));
        for level in levels() {
            let grid = Grid::symmetric(Extent::new(level, &values));
            prop_assert_eq!(grid.step.to_bits(), expected.step.to_bits(), "{}", level);
            prop_assert_eq!(grid.zero - LEAST, 128, "{}", level);
            let mut codes = vec![77; values.len()];
            grid.encode(level, &values, &mut codes);
            for (x, found) in values.iter().zip(codes) {
                let found = found.wrapping_sub(grid.zero as u8).cast_signed();
                prop_assert_eq!(i32::from(found), code(&expected, *x) - expected.zero, "{}: {}", level, x);
                prop_assert!(found != i8::MIN, "{level}: {x}");
                // Half a step, and what is rounded on the way.
                let decoded = f64::from(grid.step) * f64::from(found);
                let limit = (0.501 * f64::from(grid.step)).max(f64::from(TINY) * 128.0);
                prop_assert!((decoded - f64::from(*x)).abs() <= limit, "{level}: {x} becomes {decoded}");
            }
        }
    }

    /// Samples by themselves, and positions by themselves.
    #[test]
    fn inputs_become_what_their_codes_stand_for(
        values in prop::collection::vec(numbers(), 60), positions in prop_oneof![Just(1_usize), Just(2), Just(5), Just(10)],
        pointwise in any::<bool>(),
    ) {
        let channels = 20 / positions;
        let mut expected = vec![0.0; values.len()];
        for (sample, to) in values.chunks(20).zip(expected.chunks_mut(20)) {
            if pointwise {
                for position in 0..positions {
                    let column: Vec<f32> = sample.iter().skip(position).step_by(positions).copied().collect();
                    for (to, x) in to.iter_mut().skip(position).step_by(positions).zip(rounded(&column)) {
                        *to = x;
                    }
                }
            } else {
                to.copy_from_slice(&rounded(sample));
            }
        }
        for level in levels() {
            let mut found = values.clone();
            round_inputs(level, &mut found, [channels, positions], pointwise);
            let bits = |values: &[f32]| values.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
            prop_assert_eq!(bits(&found), bits(&expected), "{}", level);
        }
    }

    /// Half a step, and what is rounded on the way: codes up to 255 in f32.
    #[test]
    fn a_code_is_the_nearest(values in prop::collection::vec(numbers(), 1..70)) {
        let grid = Grid::new(extent(&values));
        let step = f64::from(grid.step);
        for x in values {
            let decoded = step * f64::from(code(&grid, x) - grid.zero);
            let error = (decoded - f64::from(x)).abs();
            // The step of numbers that count as zero is zero.
            let limit = (0.501 * step).max(f64::from(TINY) * 256.0);
            prop_assert!(error <= limit, "{x} becomes {decoded}, with steps of {step:e}");
        }
        prop_assert_eq!(code(&grid, 0.0), grid.zero);
    }

    #[test]
    fn what_is_not_finite_leaves_no_number(
        values in prop::collection::vec(numbers(), 1..70), at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let mut values = values;
        let at = at.index(values.len());
        values[at] = value;
        for level in levels() {
            let grid = Grid::new(Extent::new(level, &values));
            prop_assert!(grid.step.is_nan(), "{level}");
            let mut codes = vec![0; values.len()];
            grid.encode(level, &values, &mut codes);
        }
    }

    /// What is between comes out between: a hundredth of what the ends are apart, for numbers that are rounded, and for where
    /// the functions are least.
    #[test]
    fn activations_stay_in_their_extent(
        a in -20.0..20.0_f32, b in -20.0..20.0_f32, scale in -3.0..3.0_f32, shift in -3.0..3.0_f32,
        activation in prop_oneof![
            Just(Activation::Identity), Just(Activation::Mish), Just(Activation::Silu),
            Just(Activation::Sigmoid), Just(Activation::Gelu), Just(Activation::Relu),
            Just(Activation::QuickGelu),
        ],
    ) {
        let ends = extent(&[a, b]);
        let through = ends.through(activation, [scale, shift]);
        for i in 0..=1000 {
            let x = a + (b - a) * i as f32 / 1000.0;
            let y = f64::from(scale) * f64::from(x) + f64::from(shift);
            let y = crate::kernel::elementwise::tests::exact(activation, y);
            let slack = 1e-3 + 1e-5 * y.abs();
            prop_assert!(
                f64::from(through.least) - slack <= y && y <= f64::from(through.most) + slack,
                "{activation:?}: {y} of {x} is not in {through:?}"
            );
        }
    }

    /// No scale that is a little larger or smaller is better than what is stated: the error is at most that of the simplest
    /// scale, which is half a step for each number.
    #[test]
    fn a_scale_is_no_worse_than_that_of_the_farthest_weight(
        weights in prop::collection::vec(-3.0..3.0_f32, 1..200), four in any::<bool>(),
    ) {
        let codes = if four { Codes::FOUR_BITS } else { Codes::eight_bits(weights.len()) };
        let error = |scale: f32| -> f64 {
            let square = |w: &f32| (f64::from(*w) - f64::from(scale) * f64::from(codes.code(*w, scale))).powi(2);
            weights.iter().map(square).sum()
        };
        let largest = weights.iter().fold(0.0_f32, |a, b| if b.abs() > a.abs() { *b } else { a });
        let simple = largest / codes.least;
        let found = codes.scale(&weights);
        // Errors are compared in f32.
        prop_assert!(error(found) <= error(simple) * 1.001 + 1e-12, "{} {}", error(found), error(simple));
        for w in &weights {
            let code = codes.code(*w, found) as f32;
            prop_assert!((codes.least..=codes.most).contains(&code));
        }
    }
}

#[test]
fn scales_are_better_than_the_simplest() {
    let mut random = crate::kernel::product::tests::Random(5);
    let normal: Vec<f32> = (0..64)
        .map(|_| (0..12).map(|_| random.next()).sum())
        .collect();
    let codes = Codes::FOUR_BITS;
    let error = |scale: f32| codes.error(&normal, scale) * scale * scale;
    let largest = normal.iter().fold(0.0_f32, |a, b| a.max(b.abs()));
    // As rounding to -7..=7 from the farthest number is usually done.
    let (found, usual) = (error(codes.scale(&normal)), error(largest / 7.0));
    assert!(found < 0.9 * usual, "{found} {usual}");
}

#[test]
fn sums_of_any_length_stay_within_32_bits() {
    for products in [1, 1000, 66_311, 66_312, 1 << 20, 1 << 23] {
        let codes = Codes::eight_bits(products);
        let largest = codes.most as u64 * 255 * products as u64;
        assert!(i32::try_from(largest).is_ok(), "{products}: {largest}");
        assert!(products > 66_311 || codes.most.to_bits() == 127_f32.to_bits());
    }
}

#[test]
fn weights_that_are_no_numbers_have_no_scale() {
    let codes = Codes::eight_bits(3);
    for bad in [f32::NAN, f32::INFINITY] {
        let scale = codes.scale(&[1.0, bad, 0.5]);
        assert!(scale.is_nan());
        assert_eq!(codes.code(bad, scale), 0);
    }
    assert_eq!(codes.scale(&[0.0; 3]).to_bits(), 0);
}
