use proptest::prelude::*;

use super::*;
use crate::kernel::codes::{Extent, Grid, tests as codes};
use crate::kernel::panels::{CHUNK, bf16_pair};

/// Of the sum of all magnitudes: a sum in f32 of chunks, and of their sums, each product rounded apart.
fn rounding(products: usize) -> f64 {
    f64::from(f32::EPSILON) * (CHUNK + products / CHUNK + 4) as f64
}

/// Of the largest value that an epilogue computes with: some roundings, and those of the activation.
const EPILOGUE: f64 = 4e-6;

/// Numbers in `-1..1` that a seed decides.
pub(in super::super) struct Random(pub(in super::super) u64);

impl Random {
    pub(in super::super) fn next(&mut self) -> f32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
    }

    pub(in super::super) fn values(&mut self, n: usize) -> Vec<f32> {
        (0..n).map(|_| self.next()).collect()
    }
}

/// A convolution and its input.
#[derive(Clone, Debug)]
struct Case {
    precision: Precision,
    rows: usize,
    depth: usize,
    taps: usize,
    stride: usize,
    padding: usize,
    length: usize,
    batch: usize,
    seed: u64,
}

pub(in super::super) fn precisions() -> impl Strategy<Value = Precision> {
    prop_oneof![Just(Precision::F32), Just(Precision::Bf16)]
}

/// Those of whole codes, with short groups and long ones.
pub(in super::super) fn whole() -> impl Strategy<Value = Precision> {
    prop_oneof![
        2 => Just(Precision::Int8),
        1 => prop_oneof![Just(8), Just(32), Just(64), Just(128)].prop_map(|group| Precision::Int4 { group }),
    ]
}

pub(in super::super) fn all_precisions() -> impl Strategy<Value = Precision> {
    prop_oneof![precisions(), whole()]
}

fn cases() -> impl Strategy<Value = Case> {
    cases_of(precisions())
}

fn all_cases() -> impl Strategy<Value = Case> {
    cases_of(all_precisions())
}

fn cases_of(precisions: impl Strategy<Value = Precision>) -> impl Strategy<Value = Case> {
    let sizes = (
        1..80_usize,
        prop_oneof![1..20_usize, 120..300_usize],
        1..8_usize,
    );
    let geometry = (1..5_usize, 0..5_usize, 1..40_usize, 1..4_usize);
    (precisions, sizes, geometry, 1..u64::MAX).prop_map(
        |(precision, (rows, depth, taps), (stride, padding, length, batch), seed)| Case {
            precision,
            rows,
            depth,
            taps,
            stride,
            padding,
            // The kernel fits.
            length: length.max(taps.saturating_sub(2 * padding)),
            batch,
            seed,
        },
    )
}

pub(in super::super) fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|it| it.is_available())
}

fn widened(x: f32, precision: Precision) -> f64 {
    f64::from(match precision {
        Precision::F32 => x,
        Precision::Bf16 => f32::from_bits(bf16_pair(x, 0.0) << 16),
        Precision::Int8 | Precision::Int4 { .. } => {
            unreachable!("codes have a reference of their own")
        }
    })
}

/// A case with its numbers.
struct Layer {
    case: Case,
    weights: Vec<f32>,
    bias: Vec<f32>,
    input: Vec<f32>,
    panels: Panels,
    window: Window,
}

impl Layer {
    fn new(case: &Case) -> Self {
        let mut random = Random(case.seed);
        let (rows, depth, taps) = (case.rows, case.depth, case.taps);
        let weights = random.values(rows * depth * taps);
        Self {
            panels: Panels::new(case.precision, [rows, depth, taps], |row, d, tap| {
                weights[(row * depth + d) * taps + tap]
            }),
            window: Window::convolution(case.length, taps, case.stride, case.padding),
            weights,
            bias: random.values(rows),
            input: random.values(case.batch * depth * case.length),
            case: case.clone(),
        }
    }

    fn run(&self, level: Level, epilogue: &Epilogue<'_>) -> Vec<f32> {
        self.run_on(level, epilogue, &self.input, self.case.batch)
    }

    fn run_on(
        &self,
        level: Level,
        epilogue: &Epilogue<'_>,
        input: &[f32],
        batch: usize,
    ) -> Vec<f32> {
        let Case {
            rows,
            depth,
            length,
            ..
        } = self.case;
        // What is not written stays NaN.
        let mut output = vec![f32::NAN; batch * rows * self.window.positions];
        product(
            level,
            &[(&self.panels, self.window)],
            0..depth,
            batch,
            (input, length, Layout::channels_first(depth, length)),
            (
                &mut output,
                Layout::channels_first(rows, self.window.positions),
            ),
            epilogue,
        );
        output
    }

    /// Each output in f64, and the sum of the magnitudes of what it sums.
    fn exact(&self, level: Level) -> Vec<(f64, f64)> {
        let Case {
            rows,
            depth,
            taps,
            stride,
            padding,
            length,
            batch,
            precision,
            ..
        } = self.case;
        // Inputs are rounded only where the CPU multiplies bf16.
        let of_inputs = if level.multiplies_pairs() {
            precision
        } else {
            Precision::F32
        };
        let mut outputs = Vec::new();
        for sample in 0..batch {
            for row in 0..rows {
                for t in 0..self.window.positions {
                    let (mut y, mut magnitude) = (f64::from(self.bias[row]), 0.0);
                    for d in 0..depth {
                        for tap in 0..taps {
                            let at = (stride * t + tap).checked_sub(padding);
                            if let Some(at) = at.filter(|at| *at < length) {
                                let x = self.input[(sample * depth + d) * length + at];
                                let w = self.weights[(row * depth + d) * taps + tap];
                                let product = widened(w, precision) * widened(x, of_inputs);
                                y += product;
                                magnitude += product.abs();
                            }
                        }
                    }
                    outputs.push((y, magnitude + f64::from(self.bias[row]).abs()));
                }
            }
        }
        outputs
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn it_is_a_convolution(case in cases()) {
        let layer = Layer::new(&case);
        let epilogue = Epilogue { bias: Some(&layer.bias), ..Epilogue::default() };
        let tolerance = rounding(case.depth * case.taps);
        for level in levels() {
            let output = layer.run(level, &epilogue);
            for (index, (y, (exact, magnitude))) in output.iter().zip(layer.exact(level)).enumerate() {
                let error = (f64::from(*y) - exact).abs();
                prop_assert!(
                    error <= tolerance * magnitude,
                    "{level}: {y} at {index} is not {exact}: {error:e} of {magnitude}"
                );
            }
        }
    }

    #[test]
    fn what_follows_is_what_was_asked_for(
        case in all_cases(),
        groups in 1..9_usize,
        activation in prop_oneof![
            Just(Activation::Identity), Just(Activation::Mish), Just(Activation::Silu),
            Just(Activation::Sigmoid), Just(Activation::Gelu),
        ],
        [normalizes, scales, shared, adds] in any::<[bool; 4]>(),
    ) {
        let case = Case { rows: case.rows.next_multiple_of(groups), ..case };
        let layer = Layer::new(&case);
        let (rows, positions) = (case.rows, layer.window.positions);
        let mut random = Random(case.seed ^ 1);
        let (weight, bias) = (random.values(rows), random.values(rows));
        let modulation = random.values(case.batch * 2 * rows);
        let residual = random.values(case.batch * rows * positions);
        let product = Epilogue { bias: Some(&layer.bias), ..Epilogue::default() };
        let normalization = Normalization {
            groups,
            epsilon: 1e-5,
            affine: Affine { weight: &weight, bias: &bias },
        };
        let sample = if shared { 0 } else { 2 * rows };
        let epilogue = Epilogue {
            normalization: normalizes.then_some(normalization),
            activation,
            film: Some(Film {
                scale: scales.then_some(&modulation),
                shift: &modulation[rows..],
                sample,
            }),
            residual: adds.then_some(&residual),
            ..product
        };
        for level in levels() {
            let before: Vec<f64> = layer.run(level, &product).into_iter().map(f64::from).collect();
            let after = layer.run(level, &epilogue);
            let each = rows / groups * positions;
            for (group, (before, after)) in before.chunks(each).zip(after.chunks(each)).enumerate() {
                let mean = before.iter().sum::<f64>() / each as f64;
                let variance = before.iter().map(|y| (y - mean).powi(2)).sum::<f64>() / each as f64;
                let deviation = (variance + 1e-5).sqrt();
                for (index, (y, after)) in before.iter().zip(after).enumerate() {
                    let index = group * each + index;
                    let (sample_at, row) = (index / positions / rows, index / positions % rows);
                    let (mut y, mut largest) = (*y, y.abs());
                    if normalizes {
                        let scale = f64::from(weight[row]) / deviation;
                        // The mean is subtracted in f32.
                        largest = (y.abs() + mean.abs()) * scale.abs() + 1.0;
                        y = (y - mean) * scale + f64::from(bias[row]);
                    }
                    y = crate::kernel::elementwise::tests::exact(activation, y);
                    let film = |at: usize| f64::from(modulation[sample_at * sample + at]);
                    y = y * if scales { film(row) } else { 1.0 } + film(rows + row);
                    if adds {
                        y += f64::from(residual[index]);
                    }
                    let error = (f64::from(*after) - y).abs();
                    prop_assert!(
                        error <= EPILOGUE * (largest + 2.0),
                        "{level}: {after} at {index} is not {y}: {error:e} of {largest}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_same_bits_alone_and_in_a_batch_and_on_any_number_of_threads(case in all_cases()) {
        let case = Case { batch: 5, rows: case.rows.next_multiple_of(4), ..case };
        let layer = Layer::new(&case);
        let ones = vec![1.0; case.rows];
        let epilogue = Epilogue {
            bias: Some(&layer.bias),
            normalization: Some(Normalization {
                groups: 4,
                epsilon: 1e-5,
                affine: Affine { weight: &ones, bias: &layer.bias },
            }),
            activation: Activation::Mish,
            ..Epilogue::default()
        };
        let bits = |values: Vec<f32>| -> Vec<u32> { values.into_iter().map(f32::to_bits).collect() };
        for level in levels() {
            let together = bits(layer.run(level, &epilogue));
            let each = case.depth * case.length;
            let alone = layer.input.chunks(each).flat_map(|x| layer.run_on(level, &epilogue, x, 1));
            prop_assert_eq!(&together, &bits(alone.collect()), "{}: alone", level);
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("threads start");
                let there = pool.install(|| layer.run(level, &epilogue));
                prop_assert_eq!(&together, &bits(there), "{}: {} threads", level, threads);
            }
        }
    }

    /// What no output of a window sees does not matter, whatever it is; what it sees does.
    #[test]
    fn nothing_leaks(
        case in cases(),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let layer = Layer::new(&case);
        let mut input = layer.input.clone();
        let at = at.index(input.len());
        input[at] = value;
        let (sample, position) = (at / case.length / case.depth, at % case.length);
        let each = case.rows * layer.window.positions;
        for level in levels() {
            let before = layer.run(level, &Epilogue::default());
            let after = layer.run_on(level, &Epilogue::default(), &input, case.batch);
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                let start = index % layer.window.positions * case.stride;
                let window = start..start + case.taps;
                if index / each == sample && window.contains(&(position + case.padding)) {
                    prop_assert!(!after.is_finite(), "{level}: {value} at {at} is lost in {index}");
                } else {
                    prop_assert_eq!(before.to_bits(), after.to_bits(), "{} at {}", level, index);
                }
            }
        }
    }

    /// `⟨conv(x), y⟩ = ⟨x, convᵀ(y)⟩`, phase by phase.
    #[test]
    fn a_transposed_convolution_is_the_adjoint(case in cases()) {
        let Case { rows, depth, taps, stride, batch, precision, .. } = case;
        let padding = case.padding.min((taps - 1) / 2);
        let mut random = Random(case.seed);
        // Of the adjoint: `depth` channels of `short` become `rows` channels of `long`.
        let short = case.length;
        let long = stride * (short - 1) + taps - 2 * padding;
        let weights = random.values(depth * rows * taps);
        let (x, y) = (random.values(batch * rows * long), random.values(batch * depth * short));
        let rounded: Vec<f64> = weights.iter().map(|w| widened(*w, precision)).collect();
        let meeting: Vec<Vec<usize>> =
            (0..stride).map(|phase| Window::taps_of_phase(taps, stride, phase)).collect();
        let panels: Vec<Panels> = meeting
            .iter()
            .map(|meeting| {
                Panels::new(precision, [rows, depth, meeting.len()], |row, d, tap| {
                    weights[(d * rows + row) * taps + meeting[tap]]
                })
            })
            .collect();
        let phases: Vec<(&Panels, Window)> = panels
            .iter()
            .enumerate()
            .filter_map(|(phase, panels)| {
                Some((panels, Window::phase(short, taps, stride, padding, phase)?))
            })
            .collect();
        for level in levels().filter(|level| !level.multiplies_pairs()) {
            let mut output = vec![f32::NAN; batch * rows * long];
            product(
                level,
                &phases,
                0..depth,
                batch,
                (&y, short, Layout::channels_first(depth, short)),
                (&mut output, Layout::channels_first(rows, long)),
                &Epilogue::default(),
            );
            let right: f64 = output.iter().zip(&x).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
            let (mut left, mut magnitude) = (0.0, 0.0);
            for sample in 0..batch {
                for d in 0..depth {
                    for t in 0..short {
                        for row in 0..rows {
                            for tap in 0..taps {
                                let at = (stride * t + tap).checked_sub(padding);
                                if let Some(at) = at.filter(|at| *at < long) {
                                    let product = rounded[(d * rows + row) * taps + tap]
                                        * f64::from(x[(sample * rows + row) * long + at])
                                        * f64::from(y[(sample * depth + d) * short + t]);
                                    left += product;
                                    magnitude += product.abs();
                                }
                            }
                        }
                    }
                }
            }
            let error = (left - right).abs();
            prop_assert!(
                error <= rounding(depth * taps) * magnitude,
                "{level}: {left} and {right}"
            );
        }
    }

    #[test]
    fn a_layer_in_parts_is_the_layer(
        precision in precisions(), rows in 1..40_usize, depth in 2..300_usize, batch in 1..40_usize,
        cut in any::<prop::sample::Index>(), seed in 1..u64::MAX,
    ) {
        let mut random = Random(seed);
        let cut = 1 + cut.index(depth - 1);
        let (weights, x) = (random.values(rows * depth), random.values(batch * depth));
        let panels = Panels::new(precision, [rows, depth, 1], |row, d, _| weights[row * depth + d]);
        for level in levels() {
            let of_inputs = if level.multiplies_pairs() { precision } else { Precision::F32 };
            let part = |part: Range<usize>| {
                let x: Vec<f32> = x.chunks(depth).flat_map(|x| &x[part.clone()]).copied().collect();
                let mut output = vec![f32::NAN; batch * rows];
                let from = Layout::channels_last(part.len());
                let to = Layout::channels_last(rows);
                let phases = [(&panels, Window::point(batch))];
                product(
                    level, &phases, part, 1, (&x, batch, from), (&mut output, to), &Epilogue::default(),
                );
                output
            };
            let sums = part(0..cut).into_iter().zip(part(cut..depth));
            for (index, (first, second)) in sums.enumerate() {
                let (sample, row) = (index / rows, index % rows);
                let products: Vec<f64> = (0..depth)
                    .map(|d| {
                        widened(weights[row * depth + d], precision)
                            * widened(x[sample * depth + d], of_inputs)
                    })
                    .collect();
                let exact: f64 = products.iter().sum();
                let magnitude: f64 = products.iter().map(|product| product.abs()).sum();
                let error = (f64::from(first) + f64::from(second) - exact).abs();
                prop_assert!(error <= rounding(depth) * magnitude, "{level}: {error:e} at {index}");
            }
        }
    }

    #[test]
    fn packed_weights_can_be_read_again(case in cases()) {
        let layer = Layer::new(&case);
        for row in 0..case.rows {
            for d in 0..case.depth {
                for tap in 0..case.taps {
                    let w = layer.weights[(row * case.depth + d) * case.taps + tap];
                    let read = f64::from(layer.panels.weight(row, d, tap));
                    prop_assert_eq!(read.to_bits(), widened(w, case.precision).to_bits());
                }
            }
        }
    }
}

/// The error of a whole layer as large as LeRobot's largest: ‖Δ‖/‖y‖ against f64.
#[test]
fn a_large_layer_is_exact_to_a_millionth() {
    let case = Case {
        precision: Precision::F32,
        rows: 24,
        depth: 4096,
        taps: 5,
        stride: 1,
        padding: 2,
        length: 4,
        batch: 1,
        seed: 7,
    };
    let layer = Layer::new(&case);
    let epilogue = Epilogue {
        bias: Some(&layer.bias),
        ..Epilogue::default()
    };
    for level in levels() {
        let (mut error, mut norm) = (0.0, 0.0);
        for (y, (exact, _)) in layer.run(level, &epilogue).iter().zip(layer.exact(level)) {
            error += (f64::from(*y) - exact).powi(2);
            norm += exact.powi(2);
        }
        let relative = (error / norm).sqrt();
        assert!(relative < 1e-6, "{level}: {relative:e}");
    }
}

/// Few groups of many channels are summed by several threads, and finished by one of them.
#[test]
fn groups_that_are_cut_into_pieces_have_the_bits_of_whole_ones() {
    for (precision, groups) in [
        (Precision::F32, 1),
        (Precision::Bf16, 2),
        (Precision::Int8, 1),
        (Precision::INT4, 2),
    ] {
        let case = Case {
            precision,
            rows: 400,
            depth: 200,
            taps: 3,
            stride: 1,
            padding: 1,
            length: 9,
            batch: 3,
            seed: 11,
        };
        let layer = Layer::new(&case);
        let ones = vec![1.0; case.rows];
        let epilogue = Epilogue {
            bias: Some(&layer.bias),
            normalization: Some(Normalization {
                groups,
                epsilon: 1e-5,
                affine: Affine {
                    weight: &ones,
                    bias: &layer.bias,
                },
            }),
            activation: Activation::Mish,
            ..Epilogue::default()
        };
        for level in levels() {
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let pool = pool.expect("threads start");
                let run = || layer.run(level, &epilogue);
                // Awake, the second time beside what is fetched before.
                let awake = pool.install(|| team::in_team(|| [run(), run()]));
                [vec![pool.install(run)], awake.to_vec()].concat()
            };
            let bits = |y: Vec<f32>| y.into_iter().map(f32::to_bits).collect::<Vec<_>>();
            let whole = bits(layer.run_on(level, &epilogue, &layer.input, case.batch));
            for threads in [1, 2, 3, 8] {
                for found in on(threads) {
                    assert_eq!(
                        bits(found),
                        whole,
                        "{precision}, {level}, {threads} threads"
                    );
                }
            }
        }
    }
}

#[test]
fn bf16_rounds_to_the_nearest_and_keeps_what_is_not_a_number() {
    let bf16 = |x: f32| bf16_pair(x, 0.0);
    let bits = |x: f32| x.to_bits() >> 16;
    // Eight bits of precision: 1 + 2⁻⁸ lies in the middle between two, and goes to the even one.
    assert_eq!(bf16(1.0 + 1.0 / 256.0), bits(1.0));
    assert_eq!(bf16(1.0 + 3.0 / 256.0), bits(1.0 + 4.0 / 256.0));
    assert_eq!(bf16(-1.0 - 1.01 / 256.0), bits(-1.0 - 2.0 / 256.0));
    assert_eq!(bf16(f32::INFINITY), bits(f32::INFINITY));
    assert_eq!(bf16(f32::MAX), bits(f32::INFINITY));
    for nan in [f32::NAN, f32::from_bits(0x7f80_0001)] {
        assert!(f32::from_bits(bf16(nan) << 16).is_nan());
    }
    assert_eq!(bf16_pair(1.0, -2.0), 0xc000_3f80);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Neighbours may lie apart, and in the midst of something else: nothing else is read or written.
    #[test]
    fn layouts_leave_alone_what_lies_between(
        case in all_cases(),
        [apart_in, apart_out] in any::<[[bool; 3]; 2]>().prop_map(|it| it.map(|it| it.map(usize::from))),
        channels_last in any::<[bool; 2]>(),
        accumulates in any::<bool>(),
        start in 0..3_usize,
    ) {
        let layer = Layer::new(&case);
        let Case { rows, depth, length, batch, .. } = case;
        let positions = layer.window.positions;
        let layout = |channels: usize, length: usize, [sample, channel, position]: [usize; 3], last: bool| {
            if last {
                let position = channels + 3 * position;
                return Layout { sample: length * position + sample, channel: 1, position };
            }
            let position = 1 + position;
            let channel = length * position + channel;
            Layout { sample: channels * channel + sample, channel, position }
        };
        let at = |layout: Layout, channels: usize, length: usize, index: usize| {
            let (sample, rest) = (index / (channels * length), index % (channels * length));
            start + sample * layout.sample + rest / length * layout.channel + rest % length * layout.position
        };
        let from = layout(depth, length, apart_in, channels_last[0]);
        let to = layout(rows, positions, apart_out, channels_last[1]);
        let mut input = vec![f32::NAN; start + batch * from.sample];
        for (index, x) in layer.input.iter().enumerate() {
            input[at(from, depth, length, index)] = *x;
        }
        let nothing = 12_345.0;
        let residual = Random(case.seed ^ 2).values(start + batch * to.sample);
        let epilogue = Epilogue { bias: Some(&layer.bias), ..Epilogue::default() };
        for level in levels() {
            let expected = layer.run(level, &epilogue);
            let mut output = vec![nothing; start + batch * to.sample];
            product(
                level,
                &[(&layer.panels, layer.window)],
                0..depth,
                batch,
                (&input[start..], length, from),
                (&mut output[start..], to),
                &Epilogue { residual: Some(&residual[start..]), accumulates, ..epilogue },
            );
            for (index, expected) in expected.into_iter().enumerate() {
                let at = at(to, rows, positions, index);
                let found = std::mem::replace(&mut output[at], nothing);
                let mut expected = expected + residual[at];
                if accumulates {
                    expected += nothing;
                }
                prop_assert_eq!(found.to_bits(), expected.to_bits(), "{} at {}", level, index);
            }
            prop_assert!(output.iter().all(|y| y.to_bits() == nothing.to_bits()), "{}", level);
        }
    }

    /// Inputs and weights a power of two as large make outputs as much larger, to the bit: nothing is lost on the way, far
    /// from one or near to it.
    #[test]
    fn sizes_do_not_matter(case in all_cases(), of_inputs in -50..50_i32, of_weights in -50..50_i32) {
        let layer = Layer::new(&case);
        let mut large = Layer::new(&case);
        let Case { precision, rows, depth, taps, .. } = case;
        let scale = |power: i32| 2_f32.powi(power);
        large.panels = Panels::new(precision, [rows, depth, taps], |row, d, tap| {
            scale(of_weights) * layer.weights[(row * depth + d) * taps + tap]
        });
        for x in &mut large.input {
            *x *= scale(of_inputs);
        }
        for level in levels() {
            let expected = layer.run(level, &Epilogue::default());
            let found = large.run(level, &Epilogue::default());
            for (expected, found) in expected.into_iter().zip(found) {
                let expected = expected * scale(of_inputs) * scale(of_weights);
                prop_assert_eq!(expected.to_bits(), found.to_bits(), "{}: {} {}", level, expected, found);
            }
        }
    }
}

#[test]
fn nothing_times_anything_is_nothing() {
    let panels = Panels::new(Precision::F32, [3, 5, 1], |_, _, _| 1.0);
    for level in levels() {
        let phases = [(&panels, Window::point(0))];
        let (from, to) = (Layout::channels_last(5), Layout::channels_last(3));
        let epilogue = Epilogue::default();
        product(
            level,
            &phases,
            0..5,
            1,
            (&[], 0, from),
            (&mut [], to),
            &epilogue,
        );
    }
}

impl Layer {
    /// Each output: what the codes sum to, what makes a number of it, and the sum of all magnitudes.
    fn sums(&self) -> Vec<(f64, f32, f64)> {
        let Case {
            precision,
            rows,
            depth,
            taps,
            stride,
            padding,
            length,
            batch,
            ..
        } = self.case;
        let mut unit = Grid::new(Extent::EMPTY);
        unit.step = 1.0;
        let scale = |row: usize| self.panels.factors(row / LANES, &unit)[row % LANES];
        // The codes of bytes, or what half bytes stand for.
        let weight = |i: usize| {
            let row = i / (depth * taps);
            let weight = self.panels.weight(row, i / taps % depth, i % taps);
            match (precision, scale(row)) {
                (Precision::Int8, 0.0) => 0.0,
                (Precision::Int8, scale) => (f64::from(weight) / f64::from(scale)).round(),
                _ => f64::from(weight),
            }
        };
        let weights: Vec<f64> = (0..rows * depth * taps).map(weight).collect();
        let pointwise = taps == 1 && stride == 1 && padding == 0;
        // What no output sees does not matter.
        let reach = stride * (self.window.positions - 1) + taps;
        let seen = length.min(reach.saturating_sub(padding));
        let mut out = Vec::new();
        for sample in 0..batch {
            let x = &self.input[sample * depth * length..][..depth * length];
            let grid_of = |range: Range<usize>| {
                let of = |d: usize| &x[d * length..][range.clone()];
                let seen: Vec<f32> = (0..depth).flat_map(of).copied().collect();
                Grid::new(codes::extent(&seen))
            };
            let grids: Vec<Grid> = if pointwise {
                (0..length).map(|t| grid_of(t..t + 1)).collect()
            } else {
                vec![grid_of(0..seen); length]
            };
            let code = |at: usize| {
                let grid = &grids[at % length];
                f64::from(codes::code(grid, x[at]) - grid.zero)
            };
            let x: Vec<f64> = (0..depth * length).map(code).collect();
            for row in 0..rows {
                let weights = &weights[row * depth * taps..][..depth * taps];
                // Padding too is a code, that of zero, whose products cancel.
                let all: f64 = weights.iter().map(|w| 255.0 * w.abs()).sum();
                for t in 0..self.window.positions {
                    let mut sum = 0.0;
                    for d in 0..depth {
                        for tap in 0..taps {
                            let at = (stride * t + tap).checked_sub(padding);
                            if let Some(at) = at.filter(|at| *at < length) {
                                sum += weights[d * taps + tap] * x[d * length + at];
                            }
                        }
                    }
                    let grid = &grids[if pointwise { t } else { 0 }];
                    let factor = self.panels.factors(row / LANES, grid)[row % LANES];
                    out.push((sum, factor, all * f64::from(factor).abs()));
                }
            }
        }
        out
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Codes of bytes: the same bits as whole numbers summed one after the other, on every level.
    #[test]
    fn sums_of_bytes_are_exact(case in cases_of(Just(Precision::Int8))) {
        let layer = Layer::new(&case);
        let sums = layer.sums();
        for level in levels() {
            let output = layer.run(level, &Epilogue::default());
            for (index, (y, (sum, factor, _))) in output.iter().zip(&sums).enumerate() {
                // A whole number of 32 bits, rounded once to f32, and multiplied.
                let expected = (*sum as i32) as f32 * factor + 0.0;
                prop_assert_eq!(y.to_bits(), expected.to_bits(), "{} at {}: {} {}", level, index, y, expected);
            }
        }
    }

    #[test]
    fn sums_of_half_bytes_are_exact_in_a_group(case in cases_of(whole())) {
        let layer = Layer::new(&case);
        let sums = layer.sums();
        // A sum for each group, and some for the first.
        let tolerance = f64::from(f32::EPSILON) * (case.depth * case.taps / 8 + case.taps + 4) as f64;
        for level in levels() {
            let output = layer.run(level, &Epilogue::default());
            for (index, (y, (sum, factor, magnitude))) in output.iter().zip(&sums).enumerate() {
                let exact = sum * f64::from(*factor);
                let error = (f64::from(*y) - exact).abs();
                prop_assert!(error <= tolerance * magnitude, "{level} at {index}: {y} is not {exact}");
            }
        }
    }

    /// Half a step of the weights and half a step of the inputs, for each product.
    #[test]
    fn codes_are_near_to_numbers(case in cases_of(whole())) {
        let layer = Layer::new(&case);
        let numbers = Layer::new(&Case { precision: Precision::F32, ..case.clone() });
        let epilogue = Epilogue { bias: Some(&layer.bias), ..Epilogue::default() };
        let exact = numbers.exact(Level::Portable);
        let products = (case.depth * case.taps) as f64;
        for level in levels() {
            for (y, (exact, magnitude)) in layer.run(level, &epilogue).into_iter().zip(&exact) {
                let error = (f64::from(y) - exact).abs();
                // Inputs lie within -1..1, and so do weights: a step is 2/255 for inputs, and at most 1/127 or 1.14/7 for
                // weights, which may be clipped by as much as the farthest of them is lowered.
                let of_weights = if case.precision == Precision::Int8 { 0.2 } else { 0.5 };
                let limit = products * (of_weights + 1.0 / 255.0) + 1e-5 * magnitude;
                prop_assert!(error <= limit, "{level}: {y} is not {exact}");
            }
        }
    }

    #[test]
    fn a_layer_of_codes_in_parts_reads_its_part(
        precision in whole(), rows in 1..40_usize, depth in 2..300_usize, batch in 1..40_usize,
        ends in any::<[prop::sample::Index; 2]>(), seed in 1..u64::MAX,
    ) {
        let mut random = Random(seed);
        let [a, b] = ends.map(|it| it.index(depth));
        let part = a.min(b)..a.max(b) + 1;
        let (weights, x) = (random.values(rows * depth), random.values(batch * part.len()));
        let panels = Panels::new(precision, [rows, depth, 1], |row, d, _| weights[row * depth + d]);
        for level in levels() {
            let mut output = vec![f32::NAN; batch * rows];
            let (from, to) = (Layout::channels_last(part.len()), Layout::channels_last(rows));
            let phases = [(&panels, Window::point(batch))];
            product(
                level, &phases, part.clone(), 1, (&x, batch, from), (&mut output, to), &Epilogue::default(),
            );
            for (index, y) in output.into_iter().enumerate() {
                let (position, row) = (index / rows, index % rows);
                let x = &x[position * part.len()..][..part.len()];
                let grid = Grid::new(codes::extent(x));
                let (mut exact, mut magnitude) = (0.0, 0.0);
                for (d, x) in part.clone().zip(x) {
                    let weight = f64::from(panels.weight(row, d, 0)) * f64::from(grid.step);
                    exact += weight * f64::from(codes::code(&grid, *x) - grid.zero);
                }
                // With the neighbours of the part in its first and last word.
                for d in part.start / 8 * 8..depth.min(part.end.next_multiple_of(8)) {
                    magnitude += 255.0 * f64::from(panels.weight(row, d, 0) * grid.step).abs();
                }
                let error = (f64::from(y) - exact).abs();
                prop_assert!(error <= rounding(depth) * magnitude + 1e-30, "{level}: {y} is not {exact}");
            }
        }
    }

    /// What a sample sees that is not finite leaves no number of it, and others alone.
    #[test]
    fn what_is_not_finite_is_seen_in_its_sample(
        case in cases_of(whole()), at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let layer = Layer::new(&case);
        let mut input = layer.input.clone();
        let at = at.index(input.len());
        input[at] = value;
        let (sample, position) = (at / case.length / case.depth, at % case.length);
        let each = case.rows * layer.window.positions;
        for level in levels() {
            let before = layer.run(level, &Epilogue::default());
            let after = layer.run_on(level, &Epilogue::default(), &input, case.batch);
            for (index, (before, after)) in before.iter().zip(after).enumerate() {
                let start = index % layer.window.positions * case.stride;
                let window = start..start + case.taps;
                if index / each != sample {
                    prop_assert_eq!(before.to_bits(), after.to_bits(), "{} at {}", level, index);
                } else if window.contains(&(position + case.padding)) {
                    prop_assert!(after.is_nan(), "{level}: {value} at {at} is lost in {index}");
                } else {
                    prop_assert!(after.is_nan() || after.to_bits() == before.to_bits(), "{level}");
                }
            }
        }
    }

    /// Of the phases of a transposed convolution: outputs of the same weights as of a convolution's.
    #[test]
    fn packed_codes_can_be_read_again(case in cases_of(whole())) {
        let layer = Layer::new(&case);
        let Case { precision, rows, depth, taps, .. } = case;
        let again = Panels::new(precision, [rows, depth, taps], |row, d, tap| layer.panels.weight(row, d, tap));
        for row in 0..rows {
            for d in 0..depth {
                for tap in 0..taps {
                    let w = layer.weights[(row * depth + d) * taps + tap];
                    let read = layer.panels.weight(row, d, tap);
                    // Clipped by a fifth, or by 45 of 100, at most; half a step at most else.
                    let limit = if precision == Precision::Int8 { 0.21 } else { 0.5 };
                    prop_assert!((w - read).abs() <= limit, "{w} {read}");
                    // What was rounded stays where it is, but for the choice of another scale.
                    prop_assert!((again.weight(row, d, tap) - read).abs() <= limit);
                }
            }
        }
    }
}

/// Numbers as large as there are: no sum overflows.
#[test]
fn the_largest_codes_do_not_overflow() {
    let (depth, taps) = (9000, 7);
    for precision in [Precision::Int8, Precision::INT4] {
        for (x, w) in [
            (1.0, 1.0),
            (1.0, -1.0),
            (-1.0, 1.0),
            (1e30, 1e-30),
            (3e38, 1e-3),
        ] {
            let panels = Panels::new(precision, [2, depth, taps], |_, _, _| w);
            let input = vec![x; depth * taps];
            for level in levels() {
                let mut y = [f32::NAN; 2];
                let window = Window::convolution(taps, taps, 1, 0);
                product(
                    level,
                    &[(&panels, window)],
                    0..depth,
                    1,
                    (&input, taps, Layout::channels_first(depth, taps)),
                    (&mut y, Layout::channels_first(2, 1)),
                    &Epilogue::default(),
                );
                let exact = f64::from(x) * f64::from(w) * (depth * taps) as f64;
                // Equal numbers are the ends of both grids, and exact but for roundings in f32; sums beyond f32 are infinite.
                for y in y {
                    let exact = if exact.abs() > f64::from(f32::MAX) {
                        f64::from(exact as f32)
                    } else {
                        exact
                    };
                    #[allow(clippy::float_cmp)] // Both may be infinite, and zero has two signs.
                    let same = f64::from(y) == exact;
                    assert!(
                        same || (f64::from(y) / exact - 1.0).abs() < 1e-4,
                        "{precision} on {level}: {y} is not {exact}"
                    );
                }
            }
        }
    }
}

/// The bytes that are stated: one for a weight and eight for a row; half of one, four for each group of a row and four for a
/// row.
#[test]
fn codes_take_the_bytes_that_are_stated() {
    let bytes = |precision| Panels::new(precision, [32, 128, 5], |_, _, _| 1.0).bytes();
    assert_eq!(bytes(Precision::Int8), 32 * (128 * 5 + 8));
    assert_eq!(bytes(Precision::INT4), 32 * (64 * 5 + 4 * 2 * 5 + 4));
    assert_eq!(
        bytes(Precision::Int4 { group: 128 }),
        32 * (64 * 5 + 4 * 5 + 4)
    );
}

/// The error of a whole layer as large as LeRobot's largest, of weights and inputs as they usually are: ‖Δ‖/‖y‖ against f64.
#[test]
fn a_large_layer_of_codes_is_as_exact_as_is_stated() {
    let case = Case {
        precision: Precision::F32,
        rows: 24,
        depth: 2048,
        taps: 5,
        stride: 1,
        padding: 2,
        length: 4,
        batch: 1,
        seed: 7,
    };
    let mut numbers = Layer::new(&case);
    let mut random = Random(11);
    let mut normal = || (0..12).map(|_| random.next()).sum::<f32>() / 2.0;
    for w in &mut numbers.weights {
        *w = normal();
    }
    for x in &mut numbers.input {
        // SiLU of normal numbers.
        let it = normal();
        *x = it / (1.0 + (-it).exp());
    }
    let exact = numbers.exact(Level::Portable);
    for (precision, limit) in [(Precision::Int8, 1.2e-2), (Precision::INT4, 1.2e-1)] {
        let mut layer = Layer::new(&Case {
            precision,
            ..case.clone()
        });
        layer.panels = Panels::new(precision, [24, 2048, 5], |row, d, tap| {
            numbers.weights[(row * 2048 + d) * 5 + tap]
        });
        layer.input.clone_from(&numbers.input);
        for level in levels() {
            let epilogue = Epilogue {
                bias: Some(&numbers.bias),
                ..Epilogue::default()
            };
            let (mut error, mut norm) = (0.0, 0.0);
            for (y, (exact, _)) in layer.run(level, &epilogue).iter().zip(&exact) {
                error += (f64::from(*y) - exact).powi(2);
                norm += exact.powi(2);
            }
            let relative = (error / norm).sqrt();
            assert!(relative < limit, "{precision} on {level}: {relative:e}");
        }
    }
}

/// A transposed convolution that strides farther than its kernel reaches has phases without taps.
#[test]
fn a_phase_without_taps_is_its_offsets() {
    let bias = [0.5; 20];
    for precision in [Precision::F32, Precision::Int8, Precision::INT4] {
        let panels = Panels::new(precision, [20, 70, 0], |_, _, _| 1.0);
        let window = Window::point(3);
        for level in levels() {
            let mut output = vec![f32::NAN; 60];
            product(
                level,
                &[(&panels, window)],
                0..70,
                1,
                (&[1.0; 210], 3, Layout::channels_first(70, 3)),
                (&mut output, Layout::channels_first(20, 3)),
                &Epilogue {
                    bias: Some(&bias),
                    ..Epilogue::default()
                },
            );
            assert!(
                output.iter().all(|y| y.to_bits() == 0.5_f32.to_bits()),
                "{precision}, {level}"
            );
        }
    }
}

#[test]
fn a_window_may_see_nothing_but_padding() {
    // One output, whose tap lies before the only input.
    let window = Window::convolution(1, 1, 5, 2);
    assert_eq!((window.positions, window.origin), (1, -2));
    let precisions = [
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::INT4,
    ];
    for (level, precision) in levels().flat_map(|it| precisions.map(|precision| (it, precision))) {
        let panels = Panels::new(precision, [3, 5, 1], |row, d, _| 0.3 * (row + d) as f32);
        let (from, to) = (Layout::channels_first(5, 1), Layout::channels_first(3, 1));
        let mut output = [f32::NAN; 3];
        let bias = [1.0, 2.0, 3.0];
        let epilogue = Epilogue {
            bias: Some(&bias),
            ..Epilogue::default()
        };
        let input = (&[7.0; 5][..], 1, from);
        product(
            level,
            &[(&panels, window)],
            0..5,
            1,
            input,
            (&mut output, to),
            &epilogue,
        );
        assert_eq!(output.map(f32::to_bits), bias.map(f32::to_bits));
    }
}
