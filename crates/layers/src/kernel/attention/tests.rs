use proptest::prelude::*;

use super::*;
use crate::kernel::product::tests::{Random, levels};

/// Queries, keys and values.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    /// Of keys: as many, or one.
    pub(super) samples: usize,
    pub(super) heads: usize,
    pub(super) queries: usize,
    pub(super) keys: usize,
    pub(super) d: usize,
    pub(super) d_value: usize,
    pub(super) causal: bool,
    pub(super) q: Vec<f32>,
    pub(super) k: Vec<f32>,
    pub(super) v: Vec<f32>,
}

pub(super) fn cases() -> impl Strategy<Value = Case> {
    let lengths = || prop_oneof![1..40_usize, 90..300_usize];
    let features = || prop_oneof![1..20_usize, 30..50_usize, 120..140_usize];
    (
        (1..3_usize, 1..4_usize, lengths(), lengths()),
        (features(), features()),
        any::<[bool; 2]>(),
        // From all weights alike to one that has it all.
        prop_oneof![Just(0.1_f32), Just(2.0), Just(30.0)],
        1..u64::MAX,
    )
        .prop_map(|(sizes, (d, d_value), [causal, shared], scale, seed)| {
            let (batch, heads, queries, keys) = sizes;
            let keys = if causal { queries } else { keys };
            let samples = if shared { 1 } else { batch };
            let mut random = Random(seed);
            let q = random.values(batch * queries * heads * d);
            Case {
                batch,
                samples,
                heads,
                queries,
                keys,
                d,
                d_value,
                causal,
                q: q.into_iter().map(|x| scale * x).collect(),
                k: random.values(samples * keys * heads * d),
                v: random.values(samples * keys * heads * d_value),
            }
        })
}

impl Case {
    fn run(&self, level: Level) -> Vec<f32> {
        self.run_with(level, self.batch, &self.q, &self.k, &self.v)
    }

    fn run_with(&self, level: Level, batch: usize, q: &[f32], k: &[f32], v: &[f32]) -> Vec<f32> {
        let of = |values, n, d| Heads { values, n, d };
        // What is not written stays another number than all that is.
        let mut y = vec![1e30; batch * self.queries * self.heads * self.d_value];
        attention(
            level,
            [batch, self.heads],
            of(q, self.queries, self.d),
            of(k, self.keys, self.d),
            of(v, self.keys, self.d_value),
            self.causal,
            &mut y,
        );
        y
    }

    /// Each output in f64; the largest magnitude of a value; and how wrong a score may be.
    pub(super) fn exact(&self) -> Vec<[f64; 3]> {
        let mut out = Vec::new();
        for sample in 0..self.batch {
            let of_keys = if self.samples == 1 { 0 } else { sample };
            for query in 0..self.queries {
                for head in 0..self.heads {
                    let row = |values: &'_ [f32], row: usize, d: usize| -> Vec<f64> {
                        let start = (row * self.heads + head) * d;
                        values[start..start + d]
                            .iter()
                            .map(|x| f64::from(*x))
                            .collect()
                    };
                    let q = row(&self.q, sample * self.queries + query, self.d);
                    let end = if self.causal { query + 1 } else { self.keys };
                    let mut most: f64 = 0.0;
                    let scores: Vec<f64> = (0..end)
                        .map(|key| {
                            let k = row(&self.k, of_keys * self.keys + key, self.d);
                            let products = q.iter().zip(&k).map(|(q, k)| q * k);
                            let root = (self.d as f64).sqrt();
                            most = most.max(products.clone().map(f64::abs).sum::<f64>() / root);
                            products.sum::<f64>() / root
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    let values: Vec<Vec<f64>> = (0..end)
                        .map(|key| row(&self.v, of_keys * self.keys + key, self.d_value))
                        .collect();
                    for c in 0..self.d_value {
                        let products = weights.iter().zip(&values).map(|(w, v)| w * v[c]);
                        let y = products.sum::<f64>() / total;
                        let largest = values.iter().map(|v| v[c].abs()).fold(0.0, f64::max);
                        // As many roundings as a chunk has products, at worst.
                        let wrong = most * f64::from(f32::EPSILON) * CHUNK.min(self.d) as f64;
                        out.push([y, largest, wrong]);
                    }
                }
            }
        }
        out
    }
}

/// The numbers of one of so many samples.
pub(super) fn part(values: &[f32], samples: usize, sample: usize) -> &[f32] {
    let each = values.len() / samples;
    &values[sample * each..][..each]
}

/// The bits, of which those of all NaN are the same.
pub(super) fn bits(values: &[f32]) -> Vec<u32> {
    let bits = |x: &f32| if x.is_nan() { f32::NAN } else { *x }.to_bits();
    values.iter().map(bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_is_a_mean_weighted_by_fit(case in cases()) {
        let exact = case.exact();
        for level in levels() {
            let y = case.run(level);
            prop_assert_eq!(y.len(), exact.len());
            for (index, (y, [exact, largest, wrong])) in y.iter().zip(&exact).enumerate() {
                let error = (f64::from(*y) - exact).abs();
                // Two weights by which a wrong score is wrong, and sums of weights and of values: some dozens of roundings
                // of numbers of one sign, of which few add up.
                let tolerance = 2.0 * wrong + 4e-6;
                prop_assert!(
                    error <= tolerance * largest,
                    "{level}: {y} at {index} is not {exact}: {error:e} of {largest}"
                );
            }
        }
    }

    #[test]
    fn the_same_bits_alone_and_in_a_batch_and_on_any_number_of_threads(case in cases()) {
        for level in levels() {
            let together = bits(&case.run(level));
            let mut alone = Vec::new();
            for sample in 0..case.batch {
                let of_keys = sample.min(case.samples - 1);
                alone.extend(case.run_with(
                    level,
                    1,
                    part(&case.q, case.batch, sample),
                    part(&case.k, case.samples, of_keys),
                    part(&case.v, case.samples, of_keys),
                ));
            }
            prop_assert_eq!(&together, &bits(&alone), "{}: alone", level);
            for threads in [1, 2, 3] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                let there = pool.expect("threads start").install(|| case.run(level));
                prop_assert_eq!(&together, &bits(&there), "{}: {} threads", level, threads);
            }
        }
    }

    /// A query that is not finite has no mean, and the others have the one that they had.
    #[test]
    fn a_query_that_is_no_number_is_alone(
        case in cases(),
        at in any::<prop::sample::Index>(),
        value in prop_oneof![Just(f32::NAN), Just(f32::INFINITY), Just(f32::NEG_INFINITY)],
    ) {
        let at = at.index(case.q.len());
        let mut other = case.clone();
        other.q[at] = value;
        for level in levels() {
            let (before, after) = (case.run(level), other.run(level));
            let rows = before.chunks(case.d_value).zip(after.chunks(case.d_value));
            for (row, (before, after)) in rows.enumerate() {
                if row == at / case.d {
                    prop_assert!(after.iter().all(|y| y.is_nan()), "{level}: {after:?}");
                } else {
                    prop_assert_eq!(bits(before), bits(after), "{}: row {}", level, row);
                }
            }
        }
    }

    /// Who reads a key that is NaN has no mean; who comes before it has.
    #[test]
    fn a_key_that_is_no_number_spoils_who_reads_it(
        case in cases(), at in any::<prop::sample::Index>(),
    ) {
        let at = at.index(case.k.len());
        let mut other = case.clone();
        other.k[at] = f32::NAN;
        let (row, head) = (at / case.d / case.heads, at / case.d % case.heads);
        let (sample, key) = (row / case.keys, row % case.keys);
        for level in levels() {
            let (before, after) = (case.run(level), other.run(level));
            let rows = before.chunks(case.d_value).zip(after.chunks(case.d_value));
            for (index, (before, after)) in rows.enumerate() {
                let (row, of_head) = (index / case.heads, index % case.heads);
                let (of_sample, query) = (row / case.queries, row % case.queries);
                let reads = of_head == head
                    && (case.samples == 1 || of_sample == sample)
                    && (!case.causal || key <= query);
                if reads {
                    prop_assert!(after.iter().all(|y| y.is_nan()), "{level}: {after:?}");
                } else {
                    prop_assert_eq!(bits(before), bits(after), "{}: row {}", level, index);
                }
            }
        }
    }
}

/// One head of one feature: scores are what one likes.
fn of_scores(level: Level, scores: &[f32], values: &[f32]) -> f32 {
    let of = |values, n| Heads { values, n, d: 1 };
    let mut y = [f32::MAX];
    let n = scores.len();
    attention(
        level,
        [1, 1],
        of(&[1.0], 1),
        of(scores, n),
        of(values, n),
        false,
        &mut y,
    );
    y[0]
}

#[test]
fn scores_without_bounds_are_weighted_as_they_should() {
    let infinity = f32::INFINITY;
    for level in levels() {
        // More than two blocks of keys, none of which counts but the last.
        let mut scores = vec![-infinity; 2 * KEYS + 3];
        let values: Vec<f32> = (0..scores.len()).map(|i| i as f32).collect();
        assert!(
            of_scores(level, &scores, &values).is_nan(),
            "{level}: nothing is read"
        );
        scores[2 * KEYS + 2] = -1e30;
        let last = of_scores(level, &scores, &values);
        assert_eq!(last.to_bits(), ((2 * KEYS + 2) as f32).to_bits(), "{level}");
        scores[3] = f32::MAX;
        assert_eq!(
            of_scores(level, &scores, &values).to_bits(),
            3.0_f32.to_bits(),
            "{level}"
        );
        scores[5] = infinity;
        assert!(
            of_scores(level, &scores, &values).is_nan(),
            "{level}: two infinities"
        );
        // Ever larger from block to block, so that every block weighs anew: e^-100 is nothing.
        let scores: Vec<f32> = (0..5 * KEYS).map(|i| (i / KEYS) as f32 * 100.0).collect();
        let values: Vec<f32> = (0..5 * KEYS).map(|i| (i / KEYS) as f32).collect();
        let mean = of_scores(level, &scores, &values);
        assert!((mean - 4.0).abs() < 1e-6, "{level}: {mean}");
    }
}

/// The error of a whole layer as large as Stable Diffusion's: ‖Δ‖/‖y‖ against f64.
#[test]
fn a_large_layer_is_exact_to_a_millionth() {
    let mut random = Random(5);
    let (n, d) = (1500, 40);
    let mut normal = |n: usize| -> Vec<f32> {
        // The sum of twelve, each of a variance of a third.
        let of = |_| (0..12).map(|_| random.next()).sum::<f32>() / 2.0;
        (0..n).map(of).collect()
    };
    let case = Case {
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
    let exact = case.exact();
    for level in levels() {
        let (mut error, mut norm) = (0.0, 0.0);
        for (y, [exact, ..]) in case.run(level).iter().zip(&exact) {
            error += (f64::from(*y) - exact).powi(2);
            norm += exact.powi(2);
        }
        let relative = (error / norm).sqrt();
        assert!(relative < 1e-6, "{level}: {relative:e}");
    }
}
