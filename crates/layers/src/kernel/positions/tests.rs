use proptest::prelude::*;

use super::*;
use crate::kernel::apply;
use crate::kernel::product::tests::{Random, all_precisions, levels};

/// A layer, its input, and what follows.
#[derive(Clone, Debug)]
struct Case {
    precision: Precision,
    rows: usize,
    depth: usize,
    batch: usize,
    positions: usize,
    /// Whether the positions of the input and of the output are neighbours.
    first: [bool; 2],
    activation: Activation,
    has_residual: bool,
    accumulates: bool,
    seed: u64,
}

fn cases() -> impl Strategy<Value = Case> {
    let activations = prop_oneof![
        Just(Activation::Identity),
        Just(Activation::Silu),
        Just(Activation::Gelu),
        Just(Activation::QuickGelu),
    ];
    let sizes = (
        1..200_usize,
        prop_oneof![1..20_usize, 120..300_usize],
        1..3_usize,
        // Enough for the kernel of many positions; blocks that are whole and not.
        prop_oneof![MANY..140, 250..300_usize],
    );
    (
        all_precisions(),
        sizes,
        activations,
        any::<[bool; 4]>(),
        1..u64::MAX,
    )
        .prop_map(|(precision, sizes, activation, flags, seed)| {
            let (rows, depth, batch, positions) = sizes;
            let [input_first, output_first, has_residual, accumulates] = flags;
            Case {
                precision,
                rows,
                depth,
                batch,
                positions,
                first: [input_first, output_first],
                activation,
                has_residual,
                accumulates,
                seed,
            }
        })
}

/// A case with its numbers.
struct Layer {
    case: Case,
    panels: Panels,
    bias: Vec<f32>,
    residual: Vec<f32>,
    before: Vec<f32>,
    input: Vec<f32>,
}

impl Layer {
    fn new(case: &Case) -> Self {
        let Case {
            rows,
            depth,
            batch,
            positions,
            ..
        } = *case;
        let mut random = Random(case.seed);
        let weights = random.values(rows * depth);
        Self {
            panels: Panels::new(case.precision, [rows, depth, 1], |row, d, _| {
                weights[row * depth + d]
            }),
            bias: random.values(rows),
            residual: random.values(batch * positions * rows),
            before: random.values(batch * positions * rows),
            input: random.values(batch * positions * depth),
            case: case.clone(),
        }
    }

    fn layouts(&self) -> [Layout; 2] {
        let Case {
            rows,
            depth,
            positions,
            first,
            ..
        } = self.case;
        [(first[0], depth), (first[1], rows)].map(|(first, channels)| {
            if first {
                Layout::channels_first(channels, positions)
            } else {
                Layout::samples(positions, channels)
            }
        })
    }

    fn epilogue(&self) -> Epilogue<'_> {
        Epilogue {
            bias: Some(&self.bias),
            activation: self.case.activation,
            residual: self.case.has_residual.then_some(&self.residual),
            accumulates: self.case.accumulates,
            ..Epilogue::default()
        }
    }

    fn many(&self, level: Level) -> Vec<f32> {
        let mut y = self.before.clone();
        let [from, to] = self.layouts();
        linear(
            level,
            &self.panels,
            None,
            self.case.batch,
            self.case.positions,
            (&self.input, from),
            (&mut y, to),
            &self.epilogue(),
        );
        y
    }

    fn few(&self, level: Level) -> Vec<f32> {
        let mut y = self.before.clone();
        let [from, to] = self.layouts();
        product(
            level,
            &[(&self.panels, Window::point(self.case.positions))],
            0..self.case.depth,
            self.case.batch,
            (&self.input, self.case.positions, from),
            (&mut y, to),
            &self.epilogue(),
        );
        y
    }
}

/// The bits, of which those of all NaN are the same.
fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { f32::NAN } else { *x }.to_bits();
    values.iter().map(bits).collect()
}

fn on(threads: usize, run: impl FnOnce() -> Vec<f32> + Send) -> Vec<f32> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    pool.expect("threads start").install(run)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// So a layer does not care how many tokens there are; and [`product`] is tested against f64.
    #[test]
    fn many_positions_have_the_bits_of_few(case in cases()) {
        let layer = Layer::new(&case);
        for level in levels() {
            prop_assert_eq!(bits(&layer.many(level)), bits(&layer.few(level)), "{}", level);
        }
    }

    #[test]
    fn what_is_not_finite_stays_where_it_is(
        case in cases(),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![
            Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY), Just(f32::MAX), Just(1e-40),
        ],
    ) {
        let mut layer = Layer::new(&case);
        let at = at.index(layer.input.len());
        layer.input[at] = value;
        for level in levels() {
            prop_assert_eq!(bits(&layer.many(level)), bits(&layer.few(level)), "{}", level);
        }
    }

    #[test]
    fn threads_change_no_bits(case in cases()) {
        let layer = Layer::new(&case);
        for level in levels() {
            let here = bits(&layer.many(level));
            for threads in [1, 2, 3] {
                let there = bits(&on(threads, || layer.many(level)));
                prop_assert_eq!(&here, &there, "{}: {} threads", level, threads);
            }
        }
    }

    #[test]
    fn a_gate_lets_pass_what_it_says(
        precision in all_precisions(), hidden in 1..100_usize, depth in 1..300_usize,
        positions in 1..150_usize, seed in 1..u64::MAX,
    ) {
        let mut random = Random(seed);
        let (h, g) = (random.values(hidden * depth), random.values(hidden * depth));
        let (input, bias) = (random.values(positions * depth), random.values(2 * hidden));
        let rows = hidden.next_multiple_of(LANES);
        let of = |from: &[f32], row: usize, d: usize| {
            if row < hidden { from[row * depth + d] } else { 0.0 }
        };
        let both = Panels::new(precision, [2 * rows, depth, 1], |row, d, _| {
            let (panel, lane) = (row / LANES, row % LANES);
            of(if panel % 2 == 0 { &h } else { &g }, panel / 2 * LANES + lane, d)
        });
        let half = |from: &[f32]| {
            Panels::new(precision, [hidden, depth, 1], |row, d, _| of(from, row, d))
        };
        let (h, g) = (half(&h), half(&g));
        for level in levels() {
            let run = |panels: &Panels, gate: Option<usize>, bias: &[f32]| {
                let mut y = vec![f32::NAN; positions * hidden];
                linear(
                    level,
                    panels,
                    gate,
                    1,
                    positions,
                    (&input, Layout::channels_last(depth)),
                    (&mut y, Layout::channels_last(hidden)),
                    &Epilogue { bias: Some(bias), ..Epilogue::default() },
                );
                y
            };
            let (h, mut g) = (run(&h, None, &bias[..hidden]), run(&g, None, &bias[hidden..]));
            apply(level, Activation::Gelu, &mut g);
            let apart: Vec<f32> = h.iter().zip(&g).map(|(h, g)| h * g).collect();
            prop_assert_eq!(bits(&apart), bits(&run(&both, Some(hidden), &bias)), "{}", level);
        }
    }
}
