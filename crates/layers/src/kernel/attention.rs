//! `softmax(Q Kᵀ / √d) V`, block by block: no more scores exist at a time than stay in the second cache.

mod codes;

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::Level;
use super::elementwise::exp;
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::memory::Words;
use super::panels::CHUNK;
use super::product::Shared;
use super::tile::{Tile, format};

pub(crate) use codes::attention_in_codes;

/// The most queries of a task, a multiple of all tiles.
const QUERIES: usize = 96;
/// What the queries of all tiles divide.
const TILE: usize = 12;
/// How many keys are read at a time.
const KEYS: usize = 128;
/// How many products are worth a thread of their own, in vectors: about 10 µs.
const GRAIN: usize = 1 << 16;

/// `[batch, n, heads · d]`, row-major.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads<'a> {
    /// All numbers.
    pub(crate) values: &'a [f32],
    /// How many rows a sample has.
    pub(crate) n: usize,
    /// The features of a head.
    pub(crate) d: usize,
}

impl Heads<'_> {
    /// The features of a head, in a row of a sample.
    fn head(&self, heads: usize, sample: usize, row: usize, head: usize) -> &[f32] {
        let start = ((sample * self.n + row) * heads + head) * self.d;
        &self.values[start..start + self.d]
    }
}

/// Attention of so many heads and samples; where there is one sample of keys, all read it. Queries that are `causal` read
/// no key behind their own place.
///
/// A row of which no score is a number above -∞, or some score is NaN or +∞, is NaN.
///
/// ```text
/// m' = max(m, max S),   P = exp(S - m'),   l ← l exp(m - m') + Σ P,   O ← O exp(m - m') + P V,   m ← m'
/// ```
///
/// for each block of keys, `S = Q Kᵀ / √d`; in the end `O / l`. "Online normalizer calculation for softmax", Milakov and
/// Gimelshein, 2018, arXiv:1805.02867; "FlashAttention", Dao et al., 2022, arXiv:2205.14135, algorithm 1.
///
/// # Panics
///
/// If the slices are not of these shapes, or this CPU does not have the level.
pub(crate) fn attention(
    level: Level,
    [batch, heads]: [usize; 2],
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    causal: bool,
    output: &mut [f32],
) {
    let samples = check([batch, heads], q, k, v, output.len());
    assert!(
        !causal || q.n == k.n,
        "a query needs a key at its own place"
    );
    if output.is_empty() {
        return;
    }
    let panels = Panels::new(samples, heads, k, v);
    let blocks = q.n.div_ceil(QUERIES);
    let block = q.n.div_ceil(blocks).next_multiple_of(TILE);
    let blocks = q.n.div_ceil(block);
    let pass = Pass {
        panels: &panels,
        heads,
        q,
        v,
        causal,
        output: Shared(output.as_mut_ptr()),
    };
    // Blocks of the same head follow each other, so that a thread reads keys and values from the second cache.
    let task = |index: usize| {
        let (sample, index) = (index / (heads * blocks), index % (heads * blocks));
        let (head, start) = (index / blocks, index % blocks * block);
        let (pass, rows) = (&pass, start..q.n.min(start + block));
        run_on!(
            level,
            attend(pass: &Pass<'_>, sample: usize, head: usize, rows: Range<usize>)
        );
    };
    let tasks = batch * heads * blocks;
    let work = q.n * k.n * (q.d + v.d) / LANES * heads * batch;
    if work < 2 * GRAIN || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
    PANELS.set(panels.words);
}

/// Makes sure that shapes go together; returns how many samples of keys there are.
fn check(
    [batch, heads]: [usize; 2],
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    output: usize,
) -> usize {
    let samples = k.values.len() / (k.n * heads * k.d).max(1);
    assert!(
        heads > 0 && q.d > 0 && k.n > 0 && v.d > 0 && k.n == v.n && q.d == k.d,
        "queries, keys and values do not go together"
    );
    assert!(
        (samples == 1 || samples == batch)
            && q.values.len() == batch * q.n * heads * q.d
            && k.values.len() == samples * k.n * heads * k.d
            && v.values.len() == samples * v.n * heads * v.d
            && output == batch * q.n * heads * v.d,
        "queries, keys, values or the output are of another shape"
    );
    samples
}

thread_local! {
    /// Memory that is used again: keys and values, and what a task computes with.
    static PANELS: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static BLOCKS: Cell<Words> = const { Cell::new(Words::EMPTY) };
}

/// Keys and values of all samples and heads, in the order in which they are read; zeros behind the last key and the last
/// feature.
///
/// ```text
/// keys    [keys / 16][d][16 keys]
/// values  [d_value / 16][keys][16 features]
/// ```
struct Panels {
    words: Words,
    samples: usize,
    heads: usize,
    /// How many keys there are, and with those that fill the last panel.
    keys: usize,
    padded: usize,
    d: usize,
    /// How many panels the features of a value fill.
    features: usize,
}

impl Panels {
    fn new(samples: usize, heads: usize, k: Heads<'_>, v: Heads<'_>) -> Self {
        let mut words = PANELS.take();
        let padded = k.n.next_multiple_of(LANES);
        let features = v.d.div_ceil(LANES);
        let each = padded * (k.d + features * LANES);
        let all = words.floats(samples * heads * each);
        let fill = |(index, words): (usize, &mut [f32])| {
            let (sample, head) = (index / heads, index % heads);
            let (keys, values) = words.split_at_mut(padded * k.d);
            // What is behind the last key and the last feature.
            keys[k.n / LANES * LANES * k.d..].fill(0.0);
            if !v.d.is_multiple_of(LANES) {
                values[(features - 1) * padded * LANES..].fill(0.0);
            }
            for values in values.chunks_exact_mut(padded * LANES) {
                values[v.n * LANES..].fill(0.0);
            }
            for (panel, to) in keys.chunks_exact_mut(LANES * k.d).enumerate() {
                let first = panel * LANES;
                if first + LANES <= k.n {
                    let from: [&[f32]; LANES] =
                        std::array::from_fn(|lane| k.head(heads, sample, first + lane, head));
                    for (depth, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                        for (to, from) in to.iter_mut().zip(from) {
                            *to = from[depth];
                        }
                    }
                } else {
                    for lane in 0..k.n - first {
                        let from = k.head(heads, sample, first + lane, head);
                        for (to, x) in to[lane..].iter_mut().step_by(LANES).zip(from) {
                            *to = *x;
                        }
                    }
                }
            }
            for key in 0..v.n {
                let from = v.head(heads, sample, key, head);
                for (panel, from) in from.chunks(LANES).enumerate() {
                    values[(panel * padded + key) * LANES..][..from.len()].copy_from_slice(from);
                }
            }
        };
        all.par_chunks_exact_mut(each).enumerate().for_each(fill);
        Self {
            words,
            samples,
            heads,
            keys: k.n,
            padded,
            d: k.d,
            features,
        }
    }

    fn of(&self, sample: usize, head: usize) -> (&[u32], &[u32]) {
        let each = self.padded * (self.d + self.features * LANES);
        let sample = if self.samples == 1 { 0 } else { sample };
        self.words[(sample * self.heads + head) * each..][..each].split_at(self.padded * self.d)
    }
}

struct Pass<'a> {
    panels: &'a Panels,
    heads: usize,
    q: Heads<'a>,
    v: Heads<'a>,
    causal: bool,
    output: Shared,
}

/// Lets sixteen scores pass from the middle on back, and none from there on.
const LIMITS: [f32; 2 * LANES] = {
    let mut limits = [f32::INFINITY; 2 * LANES];
    let mut i = LANES;
    while i < 2 * LANES {
        limits[i] = f32::NEG_INFINITY;
        i += 1;
    }
    limits
};

/// What a query has seen.
struct Row {
    max: f32,
    /// The sum of the weights of each lane's keys.
    total: [f32; LANES],
}

/// # Safety
///
/// The CPU must have the instruction set of `S`, and no one else may write these rows of the head's output.
#[inline(always)]
unsafe fn attend<S: Lanes>(pass: &Pass<'_>, sample: usize, head: usize, rows: Range<usize>) {
    let Pass {
        panels,
        heads,
        q,
        v,
        ..
    } = *pass;
    let (n, d, width) = (rows.len(), q.d, panels.features * LANES);
    let (keys, values) = panels.of(sample, head);
    let mut memory = BLOCKS.take();
    let (scores, rest) = memory.floats(n * (KEYS + width + d)).split_at_mut(n * KEYS);
    let (sums, queries) = rest.split_at_mut(n * width);
    sums.fill(0.0);
    // Scaling the queries costs less than scaling the scores.
    let scale = (1.0 / (d as f64).sqrt()) as f32;
    for (to, row) in queries.chunks_exact_mut(d).zip(rows.clone()) {
        for (to, x) in to.iter_mut().zip(q.head(heads, sample, row, head)) {
            *to = scale * x;
        }
    }
    let mut seen: Vec<Row> = Vec::new();
    seen.resize_with(n, || Row {
        max: f32::NEG_INFINITY,
        total: [0.0; LANES],
    });
    let end = if pass.causal { rows.end } else { panels.keys };
    for start in (0..end).step_by(KEYS) {
        let many = KEYS.min(end - start);
        let of_keys = many.div_ceil(LANES);
        // SAFETY: the caller grants the instruction set. `of_keys` panels of keys from here have `d` vectors each, queries
        // `n` rows of `d`; scores are rows of `KEYS`. Values have `many` vectors from here in each panel of features, since
        // none is read behind the last key's panel, and sums are rows of as many.
        unsafe {
            for depth in (0..d).step_by(CHUNK) {
                let tile = Tile {
                    weights: keys[(start * d) + depth * LANES..].as_ptr(),
                    scales: std::ptr::null(),
                    panel: d * LANES,
                    depth: CHUNK.min(d - depth),
                    inputs: queries[depth..].as_ptr().cast(),
                    row: d,
                    sums: scores.as_mut_ptr(),
                    next_panel: LANES,
                    next_position: KEYS,
                    first: depth == 0,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover::<S, { format::F32 }, true>(of_keys, n);
            }
            for (index, row) in seen.iter_mut().enumerate() {
                let scores = &mut scores[index * KEYS..][..of_keys * LANES];
                let reads = if pass.causal {
                    end.min(rows.start + index + 1)
                } else {
                    end
                };
                let factor = row.weigh::<S>(scores, reads.saturating_sub(start));
                if let Some(factor) = factor {
                    let factor = S::splat(factor);
                    for y in sums[index * width..][..width].as_chunks_mut::<LANES>().0 {
                        S::store(y.as_mut_ptr(), S::mul(S::load(y.as_ptr()), factor));
                    }
                }
            }
            let tile = Tile {
                weights: values[start * LANES..].as_ptr(),
                scales: std::ptr::null(),
                panel: panels.padded * LANES,
                depth: many,
                inputs: scores.as_ptr().cast(),
                row: KEYS,
                sums: sums.as_mut_ptr(),
                next_panel: LANES,
                next_position: width,
                first: false,
                turn: usize::MAX,
                jump: 0,
            };
            tile.cover::<S, { format::F32 }, true>(panels.features, n);
        }
    }
    for (index, (row, seen)) in rows.zip(&seen).enumerate() {
        let sums = &mut sums[index * width..][..width];
        let at = ((sample * q.n + row) * heads + head) * v.d;
        // SAFETY: the caller grants the instruction set and the row, which `attention` found to be in the output.
        unsafe {
            let to = pass.output.0.add(at);
            let share = S::splat(1.0 / S::total(S::load(seen.total.as_ptr())));
            for (panel, y) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let mean = S::mul(S::load(y.as_ptr()), share);
                let (to, left) = (to.add(panel * LANES), v.d - panel * LANES);
                if left >= LANES {
                    S::store(to, mean);
                } else {
                    S::store(y.as_mut_ptr(), mean);
                    for (i, y) in y[..left].iter().enumerate() {
                        to.add(i).write(*y);
                    }
                }
            }
        }
    }
    BLOCKS.set(memory);
}

impl Row {
    /// Turns scores into weights, of which the first `reads` are not zero, and returns what earlier weights are multiplied
    /// by, if they are.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn weigh<S: Lanes>(&mut self, scores: &mut [f32], reads: usize) -> Option<f32> {
        let scores = scores.as_chunks_mut::<LANES>().0;
        // SAFETY: the caller grants the instruction set; a chunk is sixteen scores, and so many limits begin at any of the
        // first sixteen.
        unsafe {
            let whole = reads / LANES;
            for (index, s) in scores.iter_mut().enumerate().skip(whole) {
                let passed = reads.saturating_sub(index * LANES).min(LANES);
                let limit = S::load(LIMITS[LANES - passed..].as_ptr());
                // What is not a number and may be read becomes infinite: the row is NaN as well.
                S::store(s.as_mut_ptr(), S::min(S::load(s.as_ptr()), limit));
            }
            let mut most = S::splat(self.max);
            for s in &*scores {
                most = S::max(S::load(s.as_ptr()), most);
            }
            let max = S::largest(most);
            // No score that is NaN is the largest. Where nothing was seen but -∞, all weights are zero.
            let from = S::splat(if max == f32::NEG_INFINITY { 0.0 } else { max });
            let mut sum = S::splat(0.0);
            for s in &mut *scores {
                let p = exp::<S>(S::sub(S::load(s.as_ptr()), from));
                S::store(s.as_mut_ptr(), p);
                sum = S::add(sum, p);
            }
            let total = S::load(self.total.as_ptr());
            if max <= self.max || self.max == f32::NEG_INFINITY {
                self.max = max;
                S::store(self.total.as_mut_ptr(), S::add(total, sum));
                return None;
            }
            let mut factor = [0.0; LANES];
            let before = S::splat(self.max - max);
            S::store(factor.as_mut_ptr(), exp::<S>(before));
            let total = S::mul_add(total, S::splat(factor[0]), sum);
            S::store(self.total.as_mut_ptr(), total);
            self.max = max;
            Some(factor[0])
        }
    }
}

#[cfg(test)]
mod tests;
