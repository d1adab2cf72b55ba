use proptest::prelude::*;

use super::*;
use crate::kernel::codes::tests as codes;
use crate::kernel::panels::bf16_pair;
use crate::kernel::product::tests::{all_precisions, precisions};

/// A convolution of a picture.
#[derive(Clone, Debug)]
struct Case {
    precision: Precision,
    rows: usize,
    depth: usize,
    frame: Frame,
    batch: usize,
    prologue: bool,
    film: bool,
    residual: bool,
    activation: Activation,
    seed: u64,
}

fn cases(winograd: bool) -> impl Strategy<Value = Case> {
    let precision = if winograd {
        precisions().boxed()
    } else {
        all_precisions().boxed()
    };
    let sizes = (
        1..90_usize,
        prop_oneof![4 => 1..20_usize, 1 => 120..150_usize],
    );
    let geometry = if winograd {
        (
            (1..20_usize, 1..50_usize),
            Just((3, 3)),
            Just((1, 1)),
            (0..3_usize, 0..3_usize),
        )
            .boxed()
    } else {
        (
            (1..14_usize, 1..40_usize),
            (1..5_usize, 1..8_usize),
            (1..4_usize, 1..4_usize),
            (0..4_usize, 0..4_usize),
        )
            .boxed()
    };
    let before_and_after = (
        any::<[bool; 4]>(),
        prop_oneof![Just(Activation::Identity), Just(Activation::Silu)],
    );
    (
        precision,
        sizes,
        geometry,
        1..4_usize,
        before_and_after,
        1..u64::MAX,
    )
        .prop_map(
            |(precision, (rows, depth), (size, taps, stride, padding), batch, also, seed)| {
                let ([prologue, film, residual, doubled], activation) = also;
                let (taps, padding): ((usize, usize), (usize, usize)) = (taps, padding);
                Case {
                    precision,
                    rows,
                    depth,
                    frame: Frame {
                        // The kernel fits.
                        size: [
                            size.0.max(taps.0.saturating_sub(2 * padding.0)),
                            size.1.max(taps.1.saturating_sub(2 * padding.1)),
                        ],
                        taps: [taps.0, taps.1],
                        stride: [stride.0, stride.1],
                        padding: [padding.0, padding.1],
                        doubled,
                    },
                    batch,
                    prologue,
                    film,
                    residual,
                    activation,
                    seed,
                }
            },
        )
}

fn levels() -> impl Iterator<Item = Level> {
    Level::ALL.into_iter().filter(|it| it.is_available())
}

/// Numbers in `-1..1` that a seed decides.
struct Random(u64);

impl Random {
    fn values(&mut self, n: usize) -> Vec<f32> {
        let mut next = || {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            (self.0 >> 40) as f32 / (1 << 23) as f32 - 1.0
        };
        (0..n).map(|_| next()).collect()
    }
}

/// A case with its numbers.
struct Layer {
    case: Case,
    weights: Vec<f32>,
    panels: Panels,
    bias: Vec<f32>,
    input: Vec<f32>,
    scale: Vec<f32>,
    shift: Vec<f32>,
    film: Vec<f32>,
    residual: Vec<f32>,
}

impl Layer {
    fn new(case: &Case) -> Self {
        let mut random = Random(case.seed);
        let Case {
            rows, depth, batch, ..
        } = *case;
        let [taps_down, taps_across] = case.frame.taps;
        let taps = taps_down * taps_across;
        let weights = random.values(rows * depth * taps);
        let [height, width] = case.frame.output();
        Self {
            panels: Panels::new(case.precision, [rows, depth, taps], |row, d, tap| {
                weights[(row * depth + d) * taps + tap]
            }),
            weights,
            bias: random.values(rows),
            input: random.values(batch * depth * case.frame.size[0] * case.frame.size[1]),
            scale: random.values(batch * depth),
            shift: random.values(batch * depth),
            film: random.values(2 * batch * rows),
            residual: random.values(batch * rows * height * width),
            case: case.clone(),
        }
    }

    /// The samples of a range.
    fn run(&self, method: Method, level: Level, samples: Range<usize>) -> Vec<f32> {
        let Case {
            rows,
            depth,
            batch,
            frame,
            ..
        } = &self.case;
        let [height, width] = frame.output();
        let of =
            |values: &[f32], each: usize| values[samples.start * each..samples.end * each].to_vec();
        let [scale, shift] = [&self.scale, &self.shift].map(|it| of(it, *depth));
        let residual = of(&self.residual, rows * height * width);
        let prologue = Prologue {
            scale: &scale,
            shift: &shift,
            activation: Activation::Silu,
        };
        let film = of(&self.film[..batch * rows], *rows);
        let film_shift = of(&self.film[batch * rows..], *rows);
        let mut output = vec![f32::NAN; samples.len() * rows * height * width];
        convolve_by(
            method,
            level,
            &self.panels,
            frame,
            samples.len(),
            &of(&self.input, depth * frame.size[0] * frame.size[1]),
            self.case.prologue.then_some(&prologue),
            &mut output,
            &Epilogue {
                bias: Some(&self.bias),
                normalization: None,
                activation: self.case.activation,
                film: self.case.film.then_some(Film {
                    scale: Some(&film),
                    shift: &film_shift,
                    sample: *rows,
                }),
                residual: self.case.residual.then_some(&residual),
                accumulates: false,
            },
        );
        output
    }

    /// The definition in f64, the sum of all magnitudes, and what codes of inputs may change; SiLU is at most 1.1 as steep
    /// as a line.
    fn exact(&self) -> Vec<(f64, f64, f64)> {
        let Case {
            rows,
            depth,
            batch,
            frame,
            precision,
            ..
        } = self.case;
        let silu = |x: f64| x / (1.0 + (-x).exp());
        let [height, width] = frame.output();
        let factor = if frame.doubled { 2 } else { 1 };
        let stored = |x: f32, [row, d, tap]: [usize; 3]| match precision {
            Precision::F32 => x,
            Precision::Bf16 => f32::from_bits(bf16_pair(x, 0.0) << 16),
            Precision::Int8 | Precision::Int4 { .. } => self.panels.weight(row, d, tap),
        };
        let input = |sample: usize, channel: usize, row: usize, column: usize| {
            let at = sample * depth + channel;
            let x =
                self.input[(at * frame.size[0] + row / factor) * frame.size[1] + column / factor];
            let x = f64::from(x);
            if self.case.prologue {
                silu(f64::from(self.scale[at]) * x + f64::from(self.shift[at]))
            } else {
                x
            }
        };
        let panels_taps = frame.taps[0] * frame.taps[1];
        let mut out = Vec::new();
        for sample in 0..batch {
            // Half a step of the inputs' codes, where they have codes, with what else is rounded on the way. What is said of
            // the range of an activation is within a hundredth.
            let (mut least, mut most) = (0.0_f64, 0.0_f64);
            for i in 0..depth * frame.size[0] * frame.size[1] * factor * factor {
                let (row, column) = (i / (frame.size[1] * factor), i % (frame.size[1] * factor));
                let x = input(
                    sample,
                    row / (frame.size[0] * factor),
                    row % (frame.size[0] * factor),
                    column,
                );
                (least, most) = (least.min(x), most.max(x));
            }
            let half = if precision.is_codes() {
                0.52 * ((most - least) * 1.01 + 1e-3) / 255.0
            } else {
                0.0
            };
            for o in 0..rows {
                // The codes of padding add up to nothing, but for roundings in f32 where sums are not exact.
                let weights = (0..depth * panels_taps).map(|i| {
                    let at = [o, i / panels_taps, i % panels_taps];
                    f64::from(stored(0.0, at)).abs()
                });
                let cancelled =
                    tolerance(Method::Direct) * 2.0 * 255.0 * half * weights.sum::<f64>();
                for r in 0..height {
                    for c in 0..width {
                        let mut sum = f64::from(self.bias[o]);
                        let (mut all, mut slack) = (sum.abs(), 0.0);
                        for i in 0..depth {
                            for j in 0..frame.taps[0] {
                                for k in 0..frame.taps[1] {
                                    let row =
                                        (frame.stride[0] * r + j).wrapping_sub(frame.padding[0]);
                                    let column =
                                        (frame.stride[1] * c + k).wrapping_sub(frame.padding[1]);
                                    if row < frame.size[0] * factor
                                        && column < frame.size[1] * factor
                                    {
                                        let w = ((o * depth + i) * frame.taps[0] + j)
                                            * frame.taps[1]
                                            + k;
                                        let tap = j * frame.taps[1] + k;
                                        let weight =
                                            f64::from(stored(self.weights[w], [o, i, tap]));
                                        slack += half * weight.abs();
                                        let product = weight * input(sample, i, row, column);
                                        sum += product;
                                        all += product.abs();
                                    }
                                }
                            }
                        }
                        if self.case.activation == Activation::Silu {
                            sum = silu(sum);
                        }
                        if self.case.film {
                            let at = sample * rows + o;
                            sum = f64::from(self.film[at]) * sum
                                + f64::from(self.film[batch * rows + at]);
                        }
                        if self.case.residual {
                            sum += f64::from(self.residual[out.len()]);
                        }
                        out.push((sum, all, 1.1 * (slack + cancelled)));
                    }
                }
            }
        }
        out
    }
}

/// Of the sum of all magnitudes: products and sums in f32, and those of the transforms.
fn tolerance(method: Method) -> f64 {
    match method {
        Method::Direct => 2e-6,
        Method::Winograd => 2e-5,
    }
}

fn holds(case: &Case, method: Method, levels: impl Iterator<Item = Level>) {
    let layer = Layer::new(case);
    let exact = layer.exact();
    for level in levels {
        let found = layer.run(method, level, 0..case.batch);
        for (i, (y, (exact, all, slack))) in found.iter().zip(&exact).enumerate() {
            let error = (f64::from(*y) - exact).abs();
            assert!(
                error <= tolerance(method) * (1.0 + all) + slack,
                "{level}: output {i} is {y}, not {exact}"
            );
        }
        let each = found.len() / case.batch;
        for (sample, expected) in found.chunks(each.max(1)).enumerate() {
            let alone = layer.run(method, level, sample..sample + 1);
            assert_eq!(alone, expected, "{level}: sample {sample} alone");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn it_is_a_convolution(case in cases(false)) {
        holds(&case, Method::Direct, levels());
    }

    #[test]
    fn minimal_filters_are_a_convolution(case in cases(true)) {
        holds(&case, Method::Winograd, levels());
    }
}

#[test]
fn threads_do_not_change_bits() {
    for precision in [Precision::F32, Precision::Int8, Precision::INT4] {
        threads_do_not_change_bits_of(precision);
    }
}

fn threads_do_not_change_bits_of(precision: Precision) {
    let case = Case {
        precision,
        rows: 70,
        depth: 33,
        frame: Frame {
            size: [37, 41],
            taps: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            doubled: false,
        },
        batch: 2,
        prologue: true,
        film: true,
        residual: true,
        activation: Activation::Identity,
        seed: 7,
    };
    let layer = Layer::new(&case);
    for method in [Method::Direct, Method::Winograd] {
        if method == Method::Winograd && precision.is_codes() {
            continue;
        }
        let run = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads);
            let pool = pool.build().expect("threads");
            pool.install(|| layer.run(method, Level::detected(), 0..2))
        };
        let one = run(1);
        for threads in [2, 3, 5] {
            assert_eq!(run(threads), one, "{method:?} on {threads} threads");
        }
    }
}

/// Pictures that are laid out in parts.
#[test]
fn what_does_not_fit_at_once_goes_in_parts() {
    let case = Case {
        precision: Precision::F32,
        rows: 3,
        depth: 130,
        frame: Frame {
            size: [150, 131],
            taps: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            doubled: false,
        },
        batch: 1,
        prologue: false,
        film: false,
        residual: false,
        activation: Activation::Identity,
        seed: 9,
    };
    for method in [Method::Winograd, Method::Direct] {
        holds(&case, method, std::iter::once(Level::detected()));
    }
}

/// As wide as pictures of codes are that are laid out in parts.
#[test]
fn codes_that_do_not_fit_at_once_go_in_parts() {
    for (doubled, stride) in [(false, [1, 1]), (false, [2, 1]), (true, [1, 1])] {
        let case = Case {
            precision: Precision::Int8,
            rows: 3,
            depth: 4,
            frame: Frame {
                size: [530, 540],
                taps: [3, 3],
                stride,
                padding: [1, 1],
                doubled,
            },
            batch: 1,
            prologue: false,
            film: false,
            residual: false,
            activation: Activation::Identity,
            seed: 11,
        };
        holds(&case, Method::Direct, std::iter::once(Level::detected()));
    }
}

/// The error that the documentation states, as the norm of the difference over the norm of the output.
#[test]
fn minimal_filters_are_exact_enough() {
    for depth in [16, 320] {
        let case = Case {
            precision: Precision::F32,
            rows: 32,
            depth,
            frame: Frame {
                size: [24, 24],
                taps: [3, 3],
                stride: [1, 1],
                padding: [1, 1],
                doubled: false,
            },
            batch: 1,
            prologue: false,
            film: false,
            residual: false,
            activation: Activation::Identity,
            seed: 3,
        };
        let layer = Layer::new(&case);
        let exact = layer.exact();
        for level in levels() {
            let error = |method| {
                let found = layer.run(method, level, 0..1);
                let pairs = found.iter().zip(&exact);
                let (difference, norm) = pairs.fold((0.0, 0.0), |(d, n), (y, (exact, _, _))| {
                    (d + (f64::from(*y) - exact).powi(2), n + exact * exact)
                });
                (difference / norm).sqrt()
            };
            let (direct, winograd) = (error(Method::Direct), error(Method::Winograd));
            assert!(direct <= 1e-6, "{level}, depth {depth}: {direct:.1e}");
            assert!(winograd <= 1e-5, "{level}, depth {depth}: {winograd:.1e}");
        }
    }
}

/// Whole numbers, summed one after the other: the same bits on every level.
#[test]
fn sums_of_bytes_are_exact() {
    for (taps, stride, size, padding) in [
        ([3, 3], [1, 1], [11, 13], [1, 1]),
        ([2, 5], [2, 3], [9, 31], [0, 2]),
    ] {
        let case = Case {
            precision: Precision::Int8,
            rows: 37,
            depth: 131,
            frame: Frame {
                size,
                taps,
                stride,
                padding,
                doubled: false,
            },
            batch: 2,
            prologue: false,
            film: false,
            residual: false,
            activation: Activation::Identity,
            seed: 21,
        };
        let mut layer = Layer::new(&case);
        layer.bias.fill(0.0);
        let [height, width] = case.frame.output();
        let each = case.depth * size[0] * size[1];
        let mut expected = Vec::new();
        for sample in 0..2 {
            let x = &layer.input[sample * each..][..each];
            let grid = Grid::new(codes::extent(x));
            let x: Vec<i32> = x
                .iter()
                .map(|x| codes::code(&grid, *x) - grid.zero)
                .collect();
            for o in 0..case.rows {
                let factor = layer.panels.factors(o / LANES, &grid)[o % LANES];
                let scale = factor / grid.step;
                for at in 0..height * width {
                    let mut sum = 0;
                    for i in 0..case.depth {
                        for tap in 0..taps[0] * taps[1] {
                            let row =
                                (stride[0] * (at / width) + tap / taps[1]).wrapping_sub(padding[0]);
                            let column =
                                (stride[1] * (at % width) + tap % taps[1]).wrapping_sub(padding[1]);
                            if row < size[0] && column < size[1] {
                                let code = (layer.panels.weight(o, i, tap) / scale).round() as i32;
                                sum += code * x[(i * size[0] + row) * size[1] + column];
                            }
                        }
                    }
                    expected.push(sum as f32 * factor + 0.0);
                }
            }
        }
        for level in levels() {
            assert_eq!(layer.run(Method::Direct, level, 0..2), expected, "{level}");
        }
    }
}

#[test]
fn what_is_not_finite_is_seen_in_its_sample() {
    for precision in [Precision::Int8, Precision::INT4] {
        for (prologue, value) in [
            (false, f32::NAN),
            (true, f32::NAN),
            (false, f32::INFINITY),
            (true, f32::NEG_INFINITY),
        ] {
            let case = Case {
                precision,
                rows: 5,
                depth: 9,
                frame: Frame {
                    size: [6, 7],
                    taps: [3, 3],
                    stride: [1, 1],
                    padding: [1, 1],
                    doubled: false,
                },
                batch: 2,
                prologue,
                film: false,
                residual: false,
                activation: Activation::Silu,
                seed: 23,
            };
            let mut layer = Layer::new(&case);
            for level in levels() {
                let before = layer.run(Method::Direct, level, 0..2);
                let kept = std::mem::replace(&mut layer.input[100], value);
                let after = layer.run(Method::Direct, level, 0..2);
                layer.input[100] = kept;
                let (first, second) = after.split_at(after.len() / 2);
                assert!(
                    first.iter().all(|y| y.is_nan()),
                    "{precision} on {level}: {value} is lost"
                );
                assert_eq!(
                    second,
                    &before[before.len() / 2..],
                    "{precision} on {level}"
                );
            }
        }
    }
}

/// What is not finite is seen: by every output whose window holds it, and by no tile that none of them is in.
#[test]
fn what_is_not_finite_stays_visible() {
    let case = Case {
        precision: Precision::F32,
        rows: 17,
        depth: 5,
        frame: Frame {
            size: [21, 35],
            taps: [3, 3],
            stride: [1, 1],
            padding: [1, 1],
            doubled: false,
        },
        batch: 2,
        prologue: false,
        film: false,
        residual: false,
        activation: Activation::Silu,
        seed: 5,
    };
    let (row, column) = (8, 12);
    for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut layer = Layer::new(&case);
        let [height, width] = case.frame.size;
        layer.input[(2 * height + row) * width + column] = value;
        for level in levels() {
            for method in [Method::Direct, Method::Winograd] {
                let found = layer.run(method, level, 0..case.batch);
                for (at, y) in found.iter().enumerate() {
                    let [r, c] = [at / width % height, at % width];
                    let sees = r.abs_diff(row) <= 1 && c.abs_diff(column) <= 1;
                    let first = at < case.rows * height * width;
                    // Silu of minus infinity is NaN, as its definition says.
                    if first && sees {
                        assert!(
                            !y.is_finite(),
                            "{level}, {method:?}: {value} hides at {r}, {c}"
                        );
                    }
                    // The tiles of four by four that the pixel's neighbours lie in.
                    let tile = |n: usize, of: usize| n / 4 >= (of - 1) / 4 && n / 4 <= (of + 1) / 4;
                    if !(first && tile(r, row) && tile(c, column)) {
                        assert!(
                            y.is_finite(),
                            "{level}, {method:?}: {value} spreads to {r}, {c}"
                        );
                    }
                }
            }
        }
    }
}
