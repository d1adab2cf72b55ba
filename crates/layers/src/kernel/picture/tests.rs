use proptest::prelude::*;

use super::*;
use crate::kernel::panels::bf16_pair;

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
    let precision = prop_oneof![Just(Precision::F32), Just(Precision::Bf16)];
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

    /// The definition in f64, and the sum of all magnitudes.
    fn exact(&self) -> Vec<(f64, f64)> {
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
        let stored = |x: f32| match precision {
            Precision::F32 => x,
            Precision::Bf16 => f32::from_bits(bf16_pair(x, 0.0) << 16),
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
        let mut out = Vec::new();
        for sample in 0..batch {
            for o in 0..rows {
                for r in 0..height {
                    for c in 0..width {
                        let mut sum = f64::from(self.bias[o]);
                        let mut all = sum.abs();
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
                                        let product = f64::from(stored(self.weights[w]))
                                            * input(sample, i, row, column);
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
                        out.push((sum, all));
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
        for (i, (y, (exact, all))) in found.iter().zip(&exact).enumerate() {
            let error = (f64::from(*y) - exact).abs();
            assert!(
                error <= tolerance(method) * (1.0 + all),
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
    let case = Case {
        precision: Precision::F32,
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
                let (difference, norm) = pairs.fold((0.0, 0.0), |(d, n), (y, (exact, _))| {
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
