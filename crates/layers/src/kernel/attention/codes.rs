//! Attention whose products are those of whole codes; what is between them, the softmax, is in f32.
//!
//! ```text
//! scores   codes of eight bits, with a step for each query and for each key
//! means    weights of twelve bits, 0..=4095 times the largest, and values of thirteen, with a step for each feature
//! ```
//!
//! Weights of eight bits would not do: of many small ones beside a large one nothing would be left. What a row of weights
//! sums to is the sum of its codes, so that an output is a mean whatever was rounded.

// An indexed loop over sixteen is what the compiler makes vectors of.
#![allow(clippy::needless_range_loop)]

use std::cell::Cell;
use std::f64::consts::LOG2_E;
use std::ops::Range;

use rayon::prelude::*;

use super::{GRAIN, Heads, KEYS, LIMITS, TILE, check};
use crate::kernel::Level;
use crate::kernel::codes::{Extent, Grid, encode, measure};
use crate::kernel::lanes::{LANES, Lanes};
use crate::kernel::level::run_on;
use crate::kernel::memory::Words;
use crate::kernel::panels::CHUNK;
use crate::kernel::product::Shared;
use crate::kernel::tile::{Tile, format};

/// The most queries of a task, a multiple of all tiles.
const QUERIES: usize = 48;
/// How many scores of a query there are at a time: with those of the other queries they stay in the second cache.
const SCORES: usize = 4 * KEYS;
/// Between the scores of two queries; not a power of two, which would push lines out of the first cache.
const ROW: usize = SCORES + LANES;
/// The largest code of a weight, and of a value: `KEYS` products of both add up to less than 2³¹.
const MOST: f32 = 4095.0;
const _: () = assert!((MOST as u64 + 1) * MOST as u64 * (KEYS as u64) < 1 << 31);

/// [`attention`](super::attention) with products of codes, every query reading every key.
///
/// A query with a number that is not finite makes its row NaN, a key all rows of its head, and a value its feature in all
/// rows of its head.
///
/// Of numbers that are distributed normally, an output is wrong by less than a hundredth of the outputs' size.
///
/// # Panics
///
/// If the slices are not of these shapes, or this CPU does not have the level.
pub(crate) fn attention_in_codes(
    level: Level,
    [batch, heads]: [usize; 2],
    q: Heads<'_>,
    k: Heads<'_>,
    v: Heads<'_>,
    output: &mut [f32],
) {
    let samples = check([batch, heads], q, k, v, output.len());
    if output.is_empty() {
        return;
    }
    let mut words = PANELS.take();
    let panels = &Panels::new(k, v);
    let all = words.at_least(samples * heads * panels.each);
    let pack = |(index, words): (usize, &mut [u32])| {
        let at = [index / heads, index % heads, heads];
        run_on!(
            level,
            pack(panels: &Panels, k: Heads<'_>, v: Heads<'_>, at: [usize; 3], words: &mut [u32])
        );
    };
    all.par_chunks_exact_mut(panels.each)
        .enumerate()
        .for_each(pack);
    let blocks = q.n.div_ceil(QUERIES);
    let block = q.n.div_ceil(blocks).next_multiple_of(TILE);
    let blocks = q.n.div_ceil(block);
    let pass = &Pass {
        panels,
        words: all,
        samples,
        heads,
        q,
        output: Shared(output.as_mut_ptr()),
    };
    // Blocks of the same head follow each other, so that a thread reads keys and values from the second cache.
    let task = |index: usize| {
        let (sample, index) = (index / (heads * blocks), index % (heads * blocks));
        let (head, start) = (index / blocks, index % blocks * block);
        let rows = start..q.n.min(start + block);
        run_on!(
            level,
            bytes: attend(pass: &Pass<'_>, sample: usize, head: usize, rows: Range<usize>)
        );
    };
    let tasks = batch * heads * blocks;
    let work = q.n * k.n * (q.d + v.d) / LANES * heads * batch;
    if work < 2 * GRAIN || rayon::current_num_threads() == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
    PANELS.set(words);
}

thread_local! {
    /// Memory that is used again: keys and values, and what a task computes with.
    static PANELS: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static BLOCKS: Cell<Words> = const { Cell::new(Words::EMPTY) };
}

/// How keys and values of a sample's head lie, in the order in which they are read; zeros behind the last key and the last
/// feature.
///
/// ```text
/// keys    [keys / 16][d / 4][16 keys]                 words of four codes
/// starts  [keys]                                      what the sums begin with, so that the codes of zero add up to nothing
/// steps   [keys]                                      with what scores are scaled by
/// values  [d_value / 16][keys / 2][16 features]       words of two codes
/// steps   [d_value]
/// ```
struct Panels {
    /// How many keys there are, and with those that fill the last panel.
    keys: usize,
    padded: usize,
    /// How many words a key has.
    words: usize,
    /// How many panels the features of a value fill.
    features: usize,
    d: usize,
    d_value: usize,
    /// The words of a sample's head.
    each: usize,
}

impl Panels {
    fn new(k: Heads<'_>, v: Heads<'_>) -> Self {
        let (padded, words) = (k.n.next_multiple_of(LANES), k.d.div_ceil(4));
        let features = v.d.div_ceil(LANES);
        Self {
            keys: k.n,
            padded,
            words,
            features,
            d: k.d,
            d_value: v.d,
            each: padded * (words + 2 + features * LANES / 2) + features * LANES,
        }
    }

    /// Cuts the words of a sample's head where its parts begin, behind the keys.
    fn cuts(&self) -> [usize; 4] {
        let starts = self.padded * self.words;
        let steps = starts + self.padded;
        let values = steps + self.padded;
        [
            starts,
            steps,
            values,
            values + self.padded * self.features * LANES / 2,
        ]
    }
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn pack<S: Lanes>(
    panels: &Panels,
    k: Heads<'_>,
    v: Heads<'_>,
    [sample, head, heads]: [usize; 3],
    words: &mut [u32],
) {
    let [_, _, first_value, first_step] = panels.cuts();
    let (keys, rest) = words.split_at_mut(panels.padded * panels.words);
    let (starts, rest) = rest.split_at_mut(panels.padded);
    let (steps, rest) = rest.split_at_mut(panels.padded);
    let (values, value_steps) = rest.split_at_mut(first_step - first_value);
    // What is behind the last key, and behind the last number of a key.
    keys.fill(0);
    starts.fill(0);
    steps.fill(0);
    // Of scores, in powers of two.
    let scale = (LOG2_E / (panels.d as f64).sqrt()) as f32;
    let mut codes = vec![0; 4 * panels.words];
    // Zero as long as all keys are finite, and NaN from then on.
    let mut nothing = 0.0;
    for key in 0..k.n {
        let x = k.head(heads, sample, key, head);
        let mut extent = Extent::EMPTY;
        // SAFETY: the caller grants the instruction set.
        let grid = unsafe {
            measure::<S>(x, &mut extent);
            let grid = Grid::symmetric(extent);
            encode::<S>(grid, x, &mut codes[..panels.d]);
            grid
        };
        codes[panels.d..].fill(grid.zero as u8);
        steps[key] = (scale * grid.step).to_bits();
        nothing += 0.0 * grid.step;
        let mut total = 0_i32;
        let (panel, lane) = (key / LANES, key % LANES);
        let to = &mut keys[panel * panels.words * LANES + lane..];
        for (to, four) in to.iter_mut().step_by(LANES).zip(codes.as_chunks().0) {
            let four = four.map(|code: u8| code.wrapping_sub(grid.zero as u8));
            total += four
                .map(|code| i32::from(code.cast_signed()))
                .iter()
                .sum::<i32>();
            *to = u32::from_le_bytes(four);
        }
        starts[key] = (-grid.zero * total).cast_unsigned();
    }
    for (panel, steps) in value_steps
        .as_chunks_mut::<LANES>()
        .0
        .iter_mut()
        .enumerate()
    {
        let first = panel * LANES;
        let lanes = LANES.min(v.d - first);
        let row = |key: usize| {
            let mut row = [0.0_f32; LANES];
            if key < v.n {
                row[..lanes].copy_from_slice(&v.head(heads, sample, key, head)[first..][..lanes]);
            }
            row
        };
        let (mut most, mut no_value) = ([0.0_f32; LANES], [nothing; LANES]);
        for key in 0..v.n {
            let row = row(key);
            for i in 0..LANES {
                most[i] = most[i].max(row[i].abs());
                no_value[i] += 0.0 * row[i];
            }
        }
        let mut inverse = [0.0; LANES];
        for i in 0..LANES {
            // A step whose inverse is infinite is none.
            if (most[i] / MOST).is_normal() {
                inverse[i] = MOST / most[i];
            }
            steps[i] = (most[i] / MOST + no_value[i]).to_bits();
        }
        let to = &mut values[first * panels.padded / 2..][..panels.padded / 2 * LANES];
        for (pair, to) in to.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let [a, b] = [row(2 * pair), row(2 * pair + 1)];
            for i in 0..LANES {
                // Adding and subtracting it leaves no fraction.
                const NO_FRACTION: f32 = 12_582_912.0;
                let code = |x: f32| {
                    let x = (x * inverse[i] + NO_FRACTION) - NO_FRACTION;
                    // What is not finite makes its feature NaN by its step.
                    (x.clamp(-MOST, MOST) as i16).cast_unsigned()
                };
                to[i] = u32::from(code(a[i])) | u32::from(code(b[i])) << 16;
            }
        }
    }
}

struct Pass<'a> {
    panels: &'a Panels,
    words: &'a [u32],
    /// How many samples of keys there are.
    samples: usize,
    heads: usize,
    q: Heads<'a>,
    output: Shared,
}

/// What a query has seen.
struct Row {
    /// The step of its codes; NaN where a number is not finite.
    step: f32,
    max: f32,
    /// The sum of the weights of each lane's keys.
    total: [f32; LANES],
}

/// # Safety
///
/// The CPU must have the instruction set of `S`, and no one else may write these rows of the head's output.
#[inline(always)]
unsafe fn attend<S: Lanes>(pass: &Pass<'_>, sample: usize, head: usize, rows: Range<usize>) {
    let (panels, heads) = (pass.panels, pass.heads);
    let of_keys = if pass.samples == 1 { 0 } else { sample };
    let words = &pass.words[(of_keys * heads + head) * panels.each..][..panels.each];
    let cuts @ [_, _, values, _] = panels.cuts();
    let [starts, steps, _, value_steps] = cuts.map(|cut| &words[cut..]);
    let (n, width, row) = (rows.len(), panels.features * LANES, panels.words);
    let mut memory = BLOCKS.take();
    let all = memory.floats(n * (ROW + 2 * width));
    let (scores, rest) = all.split_at_mut(n * ROW);
    let (sums, products) = rest.split_at_mut(n * width);
    sums.fill(0.0);
    // SAFETY: the caller grants the instruction set.
    let (queries, mut seen) = unsafe { pass.queries::<S>(sample, head, rows.clone()) };
    for start in (0..panels.keys).step_by(SCORES) {
        let many = SCORES.min(panels.keys - start);
        let of_keys = many.div_ceil(LANES);
        // SAFETY: the caller grants the instruction set. `of_keys` panels of keys from here have `row` vectors each, queries
        // `n` rows of `row` words; scores are rows of `ROW`, of which weights take the first half. Values have eight vectors
        // for each of these panels in each panel of features, and products are rows of as many.
        unsafe {
            for depth in (0..row).step_by(CHUNK) {
                let tile = Tile {
                    weights: words[start * row + depth * LANES..].as_ptr(),
                    scales: std::ptr::null(),
                    panel: row * LANES,
                    depth: CHUNK.min(row - depth),
                    inputs: queries[depth..].as_ptr(),
                    row,
                    sums: scores.as_mut_ptr(),
                    next_panel: LANES,
                    next_position: ROW,
                    first: depth == 0,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover::<S, { format::BYTES }, true>(of_keys, n);
            }
            let mut factors = [1.0; QUERIES];
            for (index, row) in seen.iter_mut().enumerate() {
                let scores = &mut scores[index * ROW..][..of_keys * LANES];
                factors[index] = row.weigh::<S>(scores, &starts[start..], &steps[start..], many);
            }
            // No more products are summed than 32 bits hold.
            for first in (0..of_keys * LANES).step_by(KEYS) {
                let tile = Tile {
                    weights: words[values + (start / 2 + first / 2) * LANES..].as_ptr(),
                    scales: std::ptr::null(),
                    panel: panels.padded / 2 * LANES,
                    depth: KEYS.min(of_keys * LANES - first) / 2,
                    inputs: scores[first / 2..].as_ptr().cast(),
                    row: ROW,
                    sums: products.as_mut_ptr(),
                    next_panel: LANES,
                    next_position: width,
                    first: true,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover::<S, { format::SHORTS }, true>(panels.features, n);
                let rows = sums
                    .chunks_exact_mut(width)
                    .zip(products.chunks_exact(width));
                for ((sums, products), factor) in rows.zip(&mut factors) {
                    let before = S::splat(std::mem::replace(factor, 1.0));
                    let sums = sums.as_chunks_mut::<LANES>().0.iter_mut();
                    for (sum, product) in sums.zip(products.as_chunks::<LANES>().0) {
                        let product = S::numbers(S::load_words(product.as_ptr().cast()));
                        let y = S::mul_add(S::load(sum.as_ptr()), before, product);
                        S::store(sum.as_mut_ptr(), y);
                    }
                }
            }
        }
    }
    for (index, (row, seen)) in rows.zip(&seen).enumerate() {
        let sums = &mut sums[index * width..][..width];
        // SAFETY: the caller grants the instruction set and the row.
        unsafe { pass.write::<S>([sample, row, head], seen, sums, value_steps) };
    }
    BLOCKS.set(memory);
}

impl Pass<'_> {
    /// The codes of some queries, and what these have seen before the first key.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn queries<S: Lanes>(
        &self,
        sample: usize,
        head: usize,
        rows: Range<usize>,
    ) -> (Vec<u32>, Vec<Row>) {
        let (d, words) = (self.q.d, self.panels.words);
        let mut all = Vec::with_capacity(rows.len() * words);
        let mut seen = Vec::with_capacity(rows.len());
        let mut codes = vec![0; 4 * words];
        for query in rows {
            let x = self.q.head(self.heads, sample, query, head);
            let mut extent = Extent::EMPTY;
            // SAFETY: the caller grants the instruction set.
            let grid = unsafe {
                measure::<S>(x, &mut extent);
                let grid = Grid::symmetric(extent);
                encode::<S>(grid, x, &mut codes[..d]);
                grid
            };
            all.extend(
                codes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|four| u32::from_le_bytes(*four)),
            );
            seen.push(Row {
                step: grid.step,
                max: f32::NEG_INFINITY,
                total: [0.0; LANES],
            });
        }
        (all, seen)
    }

    /// Writes a row of a head, the mean that is in its sums.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`, and no one else may write this row of the head's output.
    #[inline(always)]
    unsafe fn write<S: Lanes>(
        &self,
        [sample, row, head]: [usize; 3],
        seen: &Row,
        sums: &mut [f32],
        steps: &[u32],
    ) {
        let width = self.panels.d_value;
        let at = ((sample * self.q.n + row) * self.heads + head) * width;
        // SAFETY: the caller grants the instruction set and the row, which `check` found to be in the output.
        unsafe {
            let to = self.output.0.add(at);
            let total = S::total(S::load(seen.total.as_ptr()));
            // NaN where the query is not finite.
            let share = S::splat(1.0 / total + 0.0 * seen.step);
            for (panel, y) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                let step = S::as_f32(S::load_words(steps[panel * LANES..].as_ptr()));
                let mean = S::mul(S::mul(S::load(y.as_ptr()), share), step);
                let (to, left) = (to.add(panel * LANES), width - panel * LANES);
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
}

impl Row {
    /// Turns sums of codes into scores, and these into weights of so many keys, two to a word; returns what earlier weights
    /// are multiplied by.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`; there must be a start and a step for each score.
    #[inline(always)]
    unsafe fn weigh<S: Lanes>(
        &mut self,
        scores: &mut [f32],
        starts: &[u32],
        steps: &[u32],
        keys: usize,
    ) -> f32 {
        let of_keys = scores.len() / LANES;
        let to = scores.as_mut_ptr();
        // SAFETY: the caller grants the instruction set. A weight takes half as much as a score, so that none is written over
        // before it is read.
        unsafe {
            let mut most = S::splat(f32::NEG_INFINITY);
            for i in 0..of_keys {
                let at = to.add(i * LANES);
                let start = S::load_words(starts.as_ptr().add(i * LANES));
                let step = S::as_f32(S::load_words(steps.as_ptr().add(i * LANES)));
                let sum = S::add_words(S::load_words(at.cast()), start);
                let mut score = S::mul(S::numbers(sum), step);
                if keys < (i + 1) * LANES {
                    let limit = LIMITS[LANES - (keys - i * LANES)..].as_ptr();
                    score = S::min(score, S::load(limit));
                }
                S::store(at, score);
                most = S::max(score, most);
            }
            let before = self.max;
            self.max = before.max(S::largest(most) * self.step);
            let (step, max) = (S::splat(self.step), S::splat(0.0 - self.max));
            let mut total = S::splat_word(0);
            for i in 0..of_keys {
                let score = S::load(to.add(i * LANES));
                let code = S::nearest(weight::<S>(S::mul_add(score, step, max)));
                total = S::add_words(total, code);
                S::store_shorts(to.add(i * LANES / 2).cast(), code);
            }
            let mut factor = [1.0; LANES];
            if before < self.max {
                let less = weight::<S>(S::splat(before - self.max));
                S::store(factor.as_mut_ptr(), S::mul(less, S::splat(1.0 / MOST)));
            }
            let before = S::load(self.total.as_ptr());
            let total = S::mul_add(before, S::splat(factor[0]), S::numbers(total));
            S::store(self.total.as_mut_ptr(), total);
            factor[0]
        }
    }
}

/// `4095 · 2ˣ` for `x ≤ 0`, within 3e-6 of itself down to `x = -30`, and that below; 4095 for what is above, or NaN.
///
/// The polynomial has the least relative error on `|x| ≤ 1/2` of all of the fourth degree.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn weight<S: Lanes>(x: S::Vector) -> S::Vector {
    const COEFFICIENTS: [f32; 5] = [
        MOST * 0.009_570_101,
        MOST * 0.055_917_86,
        MOST * 0.240_247_44,
        MOST * 0.693_121_8,
        MOST * 0.999_999_3,
    ];
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let x = S::max(S::min(x, S::splat(0.0)), S::splat(-30.0));
        let n = S::round(x);
        let r = S::sub(x, n);
        let mut p = S::splat(COEFFICIENTS[0]);
        for c in &COEFFICIENTS[1..] {
            p = S::mul_add(p, r, S::splat(*c));
        }
        S::scale(p, n)
    }
}

#[cfg(test)]
mod tests;
