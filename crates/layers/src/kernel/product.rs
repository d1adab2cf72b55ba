//! Weights times inputs, with everything that may follow, in one sweep.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::codes::{Extent, Grid, weave};
use super::elementwise::{Activation, activate};
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::panels::{Panels, Precision, bf16_pair};
use super::tile::{Tile, format};
use super::{Level, Window};

/// How many words of weights, times positions over 8, are worth a thread of their own: about 10 µs.
const GRAIN: usize = 1 << 15;
/// The most tasks a thread gets: several, so that one which is interrupted holds up the others less.
const TASKS_A_THREAD: usize = 4;
/// The most sums that a task holds at a time, in vectors: 256 KiB, which stay in the second cache.
const SUMS_AT_A_TIME: usize = 1 << 12;
/// How many words of input are worth packing on several threads.
const PACKED_TOGETHER: usize = 1 << 16;

/// The distance between neighbours, in values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// Between two samples.
    pub(crate) sample: usize,
    /// Between two channels of a sample.
    pub(crate) channel: usize,
    /// Between two positions of a channel.
    pub(crate) position: usize,
}

impl Layout {
    /// `[sample, channel, position]`, row-major.
    pub(crate) fn channels_first(channels: usize, length: usize) -> Self {
        Self {
            sample: channels * length,
            channel: length,
            position: 1,
        }
    }

    /// `[sample, position, channel]`, row-major.
    pub(crate) fn samples(length: usize, channels: usize) -> Self {
        Self {
            sample: length * channels,
            channel: 1,
            position: channels,
        }
    }

    /// `[position, channel]`, row-major: what a linear layer reads and writes.
    pub(crate) fn channels_last(channels: usize) -> Self {
        Self {
            sample: 0,
            channel: 1,
            position: channels,
        }
    }
}

/// A scale and an offset for each channel.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Affine<'a> {
    /// The scales.
    pub(crate) weight: &'a [f32],
    /// The offsets.
    pub(crate) bias: &'a [f32],
}

/// Group normalization: `(y - mean) / √(variance + epsilon) · weight + bias`, over the channels of a group and all
/// positions of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalization<'a> {
    /// How many groups the channels fall into.
    pub(crate) groups: usize,
    /// What is added to the variance.
    pub(crate) epsilon: f64,
    /// What follows for each channel.
    pub(crate) affine: Affine<'a>,
}

/// Modulation: `scale · y + shift`, with one number for each channel of a sample.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Film<'a> {
    /// The scales; one where there are none.
    pub(crate) scale: Option<&'a [f32]>,
    /// The shifts.
    pub(crate) shift: &'a [f32],
    /// The distance between two samples' scales and shifts; zero where all samples share them.
    pub(crate) sample: usize,
}

/// What follows the product, in this order.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Epilogue<'a> {
    /// Is added to each channel.
    pub(crate) bias: Option<&'a [f32]>,
    /// Normalizes.
    pub(crate) normalization: Option<Normalization<'a>>,
    /// Activates.
    pub(crate) activation: Activation,
    /// Modulates.
    pub(crate) film: Option<Film<'a>>,
    /// Is added: laid out as the output.
    pub(crate) residual: Option<&'a [f32]>,
    /// Whether what the output holds is added, too.
    pub(crate) accumulates: bool,
}

/// Computes `epilogue(Σ W · x)` for every phase into `output`.
///
/// A phase is a set of weights and the outputs that they make. A convolution and a linear layer have one, a transposed
/// convolution one for each remainder. `part` is the range of inputs that `input` holds, the whole depth but for a layer
/// that is computed in parts.
///
/// # Panics
///
/// If slices are shorter than their layout says, the phases or the epilogue do not fit, or this CPU does not have the
/// level.
#[allow(clippy::too_many_arguments)] // Two tensors, each with its layout, and what happens between them.
pub(crate) fn product(
    level: Level,
    phases: &[(&Panels, Window)],
    part: Range<usize>,
    batch: usize,
    (input, length, from): (&[f32], usize, Layout),
    (output, to): (&mut [f32], Layout),
    epilogue: &Epilogue<'_>,
) {
    let Some(&(panels, window)) = phases.first() else {
        return;
    };
    if output.is_empty() {
        return;
    }
    let (rows, stride) = (panels.rows(), window.stride);
    let pairs = panels.precision() == Precision::Bf16 && level == Level::Avx512Bf16;
    let packed = Packed::new(level, phases, &part, batch, (input, length, from), pairs);
    let reaches = |layout: Layout, channels: usize, position: usize| {
        (batch - 1) * layout.sample + (channels - 1) * layout.channel + position * layout.position
    };
    for (it, window) in phases {
        assert!(
            it.rows() == rows
                && it.depth() == panels.depth()
                && it.precision() == panels.precision()
                && window.stride == stride,
            "phases must make the same channels of the same inputs in the same way"
        );
        let last = window.first + (window.positions - 1) * window.step;
        assert!(
            reaches(to, rows, last) < output.len(),
            "the output is too short for its layout"
        );
    }
    check(epilogue, rows, batch, phases.len(), output.len());
    let unit = match &epilogue.normalization {
        Some(it) => least_common_multiple(rows / it.groups, LANES) / LANES,
        None => 1,
    };
    let units = panels.count().div_ceil(unit);
    let words: usize = phases.iter().map(|(it, _)| it.words().len()).sum();
    let columns = batch * window.positions;
    let threads = rayon::current_num_threads();
    let tasks = match threads {
        1 => 1,
        _ => (words * columns.div_ceil(8) / GRAIN).clamp(1, units.min(threads * TASKS_A_THREAD)),
    };
    let sweep = Sweep {
        phases,
        packed: &packed,
        batch,
        output: Shared(output.as_mut_ptr()),
        to,
        epilogue,
    };
    let task = |index: usize| {
        // Whole units, so that a group is never cut.
        let cut = |index: usize| (units * index / tasks * unit).min(panels.count());
        sweep.run(level, &(cut(index)..cut(index + 1)));
    };
    if tasks == 1 {
        task(0);
    } else {
        (0..tasks).into_par_iter().with_max_len(1).for_each(task);
    }
}

fn check(epilogue: &Epilogue<'_>, rows: usize, batch: usize, phases: usize, output: usize) {
    let long_enough = |slice: &[f32]| assert!(slice.len() >= rows, "one value for each channel");
    if let Some(bias) = epilogue.bias {
        long_enough(bias);
    }
    if let Some(it) = &epilogue.normalization {
        long_enough(it.affine.weight);
        long_enough(it.affine.bias);
        assert!(
            it.groups > 0 && rows.is_multiple_of(it.groups) && phases == 1,
            "{} groups cannot divide {rows} channels",
            it.groups
        );
    }
    if let Some(film) = &epilogue.film {
        for slice in film.scale.iter().chain([&film.shift]) {
            assert!(
                slice.len() >= (batch - 1) * film.sample + rows,
                "modulation for each channel of each sample"
            );
        }
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output, "the residual is like the output");
    }
}

fn least_common_multiple(a: usize, b: usize) -> usize {
    let (mut x, mut y) = (a, b);
    while y != 0 {
        (x, y) = (y, x % y);
    }
    a / x * b
}

thread_local! {
    /// Memory that is used again: packed inputs, and sums.
    static INPUTS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    /// Inputs side by side, and their codes.
    static VALUES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static CODES: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Inputs as the kernels read them: zeros at the ends, neighbours in depth paired where bf16 is multiplied and four in a word
/// where codes are, and every `stride`-th value together, so that the inputs of neighbouring outputs are neighbours.
///
/// ```text
/// [sample][depth][remainder of stride][length / stride]      words
/// ```
struct Packed {
    words: Vec<u32>,
    /// Which words of depth there are.
    part: Range<usize>,
    /// The least origin of all windows: where a sample's first value lies.
    origin: isize,
    stride: usize,
    /// How many words a remainder has.
    run: usize,
    /// How many words lie between two rows, of a number or a pair in depth.
    row: usize,
    /// How many words a sample has.
    sample: usize,
    /// How many rows of inputs meet a word of weights: two where weights are pairs of bf16 and inputs are f32, or weights
    /// are half bytes.
    rows_a_word: usize,
    /// How inputs were rounded to codes: for each sample, or for each position of each.
    grids: Vec<Grid>,
    /// Whether there is a grid for each position.
    pointwise: bool,
    /// Whether these are not all inputs.
    partial: bool,
}

impl Packed {
    fn new(
        level: Level,
        phases: &[(&Panels, Window)],
        part: &Range<usize>,
        batch: usize,
        (input, length, from): (&[f32], usize, Layout),
        pairs: bool,
    ) -> Self {
        let panels = phases[0].0;
        let numbers = panels.precision().numbers_a_word();
        let whole = panels.precision().is_codes();
        let rows_a_word = match (pairs, whole) {
            (true, _) => 1,
            (_, true) => numbers / 4,
            _ => numbers,
        };
        let depth = part.len();
        assert!(
            batch > 0 && length > 0 && depth > 0 && part.end <= panels.depth(),
            "inputs {part:?} of {}",
            panels.depth()
        );
        assert!(
            (batch - 1) * from.sample + (depth - 1) * from.channel + (length - 1) * from.position
                < input.len(),
            "the input is too short for its layout"
        );
        let origins = phases.iter().map(|(_, window)| window.origin);
        let origin = origins.min().unwrap_or(0);
        let end = |(panels, window): &(&Panels, Window)| {
            let reach = window.stride * (window.positions - 1) + panels.taps();
            (window.origin - origin).cast_unsigned() + reach
        };
        let width = phases.iter().map(end).max().unwrap_or(1);
        let stride = phases[0].1.stride;
        let run = width.div_ceil(stride);
        // Rows a power of two apart would share few lines of a cache.
        let row = match run * stride {
            row if row >= 64 => row.next_multiple_of(LANES) | LANES,
            row => row,
        };
        let words_of_depth = part.start / numbers..part.end.div_ceil(numbers);
        let sample = words_of_depth.len() * rows_a_word * row;
        let mut words = INPUTS.take();
        words.clear();
        words.resize(batch * sample, 0);
        let source = Source {
            input,
            from,
            part,
            pairs,
            // Which inputs are seen at all, counted from the origin.
            first: origin.min(0).unsigned_abs(),
            skipped: origin.max(0).unsigned_abs(),
            seen: length
                .saturating_sub(origin.max(0).unsigned_abs())
                .min(width.saturating_sub(origin.min(0).unsigned_abs())),
            first_depth: words_of_depth.start * numbers,
            shape: [row, stride, run],
        };
        // With one tap, an output sees one position alone. The shape of the layer decides, and not that of the batch.
        let pointwise = whole
            && phases.len() == 1
            && panels.taps() == 1
            && phases[0].1.origin == 0
            && stride == 1;
        let mut grids = Vec::new();
        if whole {
            let each = if pointwise { length } else { 1 };
            grids = vec![Grid::new(Extent::EMPTY); batch * each];
            if batch == 1 || batch * sample < PACKED_TOGETHER {
                let samples = words.chunks_exact_mut(sample).zip(grids.chunks_mut(each));
                for (b, (words, grids)) in samples.enumerate() {
                    source.encode(level, b, words, grids);
                }
            } else {
                words
                    .par_chunks_exact_mut(sample)
                    .zip(grids.par_chunks_mut(each))
                    .enumerate()
                    .for_each(|(b, (words, grids))| source.encode(level, b, words, grids));
            }
        } else if words.len() < PACKED_TOGETHER {
            for (b, words) in words.chunks_exact_mut(sample).enumerate() {
                source.pack(b, words);
            }
        } else {
            words
                .par_chunks_exact_mut(sample)
                .enumerate()
                .for_each(|(b, words)| source.pack(b, words));
        }
        Self {
            words,
            part: words_of_depth,
            origin,
            stride,
            run,
            row,
            sample,
            rows_a_word,
            grids,
            pointwise,
            partial: part.len() < panels.depth(),
        }
    }

    /// How the input of an output was rounded.
    fn grid(&self, sample: usize, position: usize, batch: usize) -> &Grid {
        let each = self.grids.len() / batch;
        &self.grids[sample * each + if self.pointwise { position } else { 0 }]
    }

    /// Where a tap finds the input of a sample's first output, from the start of a row.
    fn offset(&self, window: &Window, sample: usize, tap: usize) -> usize {
        let u = (window.origin - self.origin).cast_unsigned() + tap;
        sample * self.sample + u % self.stride * self.run + u / self.stride
    }
}

/// What is packed, and where it goes.
struct Source<'a> {
    input: &'a [f32],
    from: Layout,
    part: &'a Range<usize>,
    /// Whether a row is two neighbours in depth, as bf16.
    pairs: bool,
    /// How many zeros come before the first input.
    first: usize,
    /// The first input that is seen.
    skipped: usize,
    /// How many inputs are seen.
    seen: usize,
    first_depth: usize,
    /// The words of a row, the stride, and the words of a remainder.
    shape: [usize; 3],
}

impl Source<'_> {
    /// Rounds a sample to codes, four neighbours in depth to a word.
    fn encode(&self, level: Level, sample: usize, words: &mut [u32], grids: &mut [Grid]) {
        let [row, stride, run] = self.shape;
        let (from, depth, seen) = (self.from, self.part.len(), self.seen);
        let start = sample * from.sample + self.skipped * from.position;
        let pointwise = grids.len() > 1;
        // [depth][seen], or [seen][depth] where each position has a grid.
        let (mut values, mut codes) = (VALUES.take(), CODES.take());
        let count = depth * seen;
        let together = match pointwise {
            false => from.position == 1 && from.channel == seen,
            true => from.channel == 1 && from.position == depth,
        };
        let inputs = if together || count == 0 {
            &self.input[start..][..count]
        } else {
            values.clear();
            values.resize(count, 0.0);
            let [next_depth, next_position] = if pointwise { [1, depth] } else { [seen, 1] };
            for d in 0..depth {
                let input = &self.input[start + d * from.channel..];
                for i in 0..seen {
                    values[d * next_depth + i * next_position] = input[i * from.position];
                }
            }
            &values[..]
        };
        codes.clear();
        codes.resize(count + seen, 0);
        let (codes_of, nothing) = codes.split_at_mut(count);
        if pointwise {
            let positions = inputs.chunks(depth).zip(codes_of.chunks_mut(depth));
            for ((x, codes), grid) in positions.zip(&mut *grids) {
                *grid = Grid::new(Extent::new(level, x));
                grid.encode(level, x, codes);
            }
        } else {
            grids[0] = Grid::new(Extent::new(level, inputs));
            grids[0].encode(level, inputs, codes_of);
            nothing.fill(grids[0].zero as u8);
        }
        for (index, to) in words.chunks_exact_mut(row).enumerate() {
            let first = self.first_depth + 4 * index;
            // Neighbours in depth that are not part of the input count as zero.
            let at = |j: usize| {
                let depth = (first + j).checked_sub(self.part.start);
                depth.filter(|at| *at < self.part.len())
            };
            if pointwise {
                for (i, to) in to[..seen].iter_mut().enumerate() {
                    let codes = &codes_of[i * depth..][..depth];
                    *to = match (at(0), at(3)) {
                        (Some(first), Some(_)) => {
                            let four = codes[first..].first_chunk();
                            u32::from_le_bytes(*four.expect("the last is there"))
                        }
                        _ => {
                            let zero = grids[i].zero as u8;
                            let code = |j| at(j).map_or(zero, |at| codes[at]);
                            u32::from_le_bytes(std::array::from_fn(code))
                        }
                    };
                }
                continue;
            }
            to.fill(grids[0].nothing());
            let rows: [&[u8]; 4] = std::array::from_fn(|j| match at(j) {
                Some(depth) => &codes_of[depth * seen..][..seen],
                None => &*nothing,
            });
            if stride == 1 {
                weave(rows, &mut to[self.first..][..seen]);
            } else {
                let (mut remainder, mut quotient) = (self.first % stride, self.first / stride);
                for i in 0..seen {
                    to[remainder * run + quotient] = u32::from_le_bytes(rows.map(|row| row[i]));
                    remainder += 1;
                    if remainder == stride {
                        (remainder, quotient) = (0, quotient + 1);
                    }
                }
            }
        }
        VALUES.set(values);
        CODES.set(codes);
    }

    fn pack(&self, sample: usize, words: &mut [u32]) {
        let [row, stride, run] = self.shape;
        let (from, zeros) = (self.from, [0.0]);
        for (index, to) in words.chunks_exact_mut(row).enumerate() {
            let depth = self.first_depth + index * if self.pairs { 2 } else { 1 };
            // A neighbour in depth that is not part of the input counts as zero.
            let channel = |depth: usize| match depth.checked_sub(self.part.start) {
                Some(depth) if depth < self.part.len() => {
                    let start = sample * from.sample + depth * from.channel;
                    (
                        &self.input[start + self.skipped * from.position..],
                        from.position,
                    )
                }
                _ => (&zeros[..], 0),
            };
            let (first, step) = channel(depth);
            let (second, second_step) = if self.pairs {
                channel(depth + 1)
            } else {
                (&zeros[..], 0)
            };
            let word = |i: usize| {
                if self.pairs {
                    bf16_pair(first[i * step], second[i * second_step])
                } else {
                    first[i * step].to_bits()
                }
            };
            if stride == 1 {
                let to = &mut to[self.first..self.first + self.seen];
                match (self.pairs, step, second_step) {
                    (false, 1, _) => {
                        for (to, x) in to.iter_mut().zip(first) {
                            *to = x.to_bits();
                        }
                    }
                    (true, 1, 1) => {
                        for (to, (x, y)) in to.iter_mut().zip(first.iter().zip(second)) {
                            *to = bf16_pair(*x, *y);
                        }
                    }
                    _ => {
                        for (i, to) in to.iter_mut().enumerate() {
                            *to = word(i);
                        }
                    }
                }
            } else {
                let (mut remainder, mut quotient) = (self.first % stride, self.first / stride);
                for i in 0..self.seen {
                    to[remainder * run + quotient] = word(i);
                    remainder += 1;
                    if remainder == stride {
                        (remainder, quotient) = (0, quotient + 1);
                    }
                }
            }
        }
    }
}

/// The output, of which each task writes other rows.
#[derive(Clone, Copy)]
pub(super) struct Shared(pub(super) *mut f32);

// SAFETY: tasks write disjoint rows, and `product` holds the only reference until all are done.
unsafe impl Send for Shared {}
// SAFETY: as above.
unsafe impl Sync for Shared {}

struct Sweep<'a> {
    phases: &'a [(&'a Panels, Window)],
    packed: &'a Packed,
    batch: usize,
    output: Shared,
    to: Layout,
    epilogue: &'a Epilogue<'a>,
}

/// What is computed at a time: some panels of a phase, of some samples.
struct Block<'a> {
    panels: &'a Panels,
    window: &'a Window,
    range: Range<usize>,
    samples: Range<usize>,
}

#[inline(always)]
unsafe fn multiply_f32<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set.
    unsafe { sweep.multiply::<S, { format::F32 }>(block, sums) }
}

#[inline(always)]
unsafe fn multiply_bf16<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        if const { S::PAIRS } {
            sweep.multiply::<S, { format::PAIRS }>(block, sums);
        } else {
            sweep.multiply::<S, { format::WIDENED }>(block, sums);
        }
    }
}

#[inline(always)]
unsafe fn multiply_bytes<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        sweep.begin_codes::<S, { format::BYTES }>(block, sums);
        sweep.multiply::<S, { format::BYTES }>(block, sums);
    }
}

#[inline(always)]
unsafe fn multiply_half_bytes<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        sweep.begin_codes::<S, { format::HALF_BYTES }>(block, sums);
        sweep.multiply::<S, { format::HALF_BYTES }>(block, sums);
    }
}

/// What follows the products. It is the same for all formats, and compiled apart from them.
#[inline(always)]
unsafe fn conclude<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set and the rows; the sums are as long as the block says.
    unsafe {
        if block.panels.precision().is_codes() {
            sweep.end_codes::<S>(block, sums);
        }
        if let Some(normalization) = &sweep.epilogue.normalization {
            normalize::<S>(normalization, block, sums);
        }
        sweep.finish::<S>(block, sums);
    }
}

/// What sixteen rows sum to over a part of the depth, for weights of one tap: their products with ones.
#[inline(always)]
unsafe fn totals_of<S: Lanes, const FORMAT: u8>(
    panels: &Panels,
    panel: usize,
    part: &Range<usize>,
) -> [u32; LANES] {
    let ones = 0x0101_0101_u32;
    let mut sums = [0.0_f32; LANES];
    for chunk in panels.chunks(part.clone()) {
        let at = panel * panels.panel_words() + panels.place(chunk.start, 0) * LANES;
        let tile = Tile {
            weights: panels.words()[at..].as_ptr(),
            scales: panels.scales_of(panel, chunk.start, 0),
            panel: 0,
            depth: chunk.len(),
            inputs: &raw const ones,
            row: 0,
            sums: sums.as_mut_ptr(),
            next_panel: 0,
            next_position: 0,
            first: false,
        };
        // SAFETY: the caller grants the instruction set; the panel has the chunk, and every word of inputs is the same one.
        unsafe { tile.add::<S, FORMAT, false, 1, 1>() };
    }
    sums.map(f32::to_bits)
}

impl Sweep<'_> {
    /// Computes the rows of some panels, which no one else may write meanwhile.
    fn run(&self, level: Level, range: &Range<usize>) {
        let sweep = self;
        let mut memory = SUMS.take();
        for (panels, window) in self.phases {
            let each = range.len() * window.positions;
            let samples_at_a_time = (SUMS_AT_A_TIME / each.max(1)).clamp(1, self.batch);
            for first in (0..self.batch).step_by(samples_at_a_time) {
                let block = &Block {
                    panels,
                    window,
                    range: range.clone(),
                    samples: first..self.batch.min(first + samples_at_a_time),
                };
                let columns = block.samples.len() * window.positions;
                // [panel][sample][position][16 rows]
                memory.resize(range.len() * columns * LANES, 0.0);
                let sums = &mut memory[..];
                if !panels.precision().is_codes() {
                    for (panel, sums) in range.clone().zip(sums.chunks_exact_mut(columns * LANES)) {
                        let bias = lanes_of(self.epilogue.bias, panel * LANES, 0.0);
                        sums.as_chunks_mut().0.fill(bias);
                    }
                }
                match panels.precision() {
                    Precision::F32 => run_on!(
                        level,
                        multiply_f32(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
                    ),
                    Precision::Bf16 => run_on!(
                        level,
                        pairs: multiply_bf16(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
                    ),
                    Precision::Int8 => run_on!(
                        level,
                        bytes: multiply_bytes(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
                    ),
                    Precision::Int4 { .. } => run_on!(
                        level,
                        bytes: multiply_half_bytes(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
                    ),
                }
                run_on!(
                    level,
                    conclude(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
                );
            }
        }
        SUMS.set(memory);
    }

    /// Fills the sums, so that the codes of zero add up to nothing.
    #[inline(always)]
    unsafe fn begin_codes<S: Lanes, const FORMAT: u8>(&self, block: &Block<'_>, sums: &mut [f32]) {
        let (panels, packed) = (block.panels, self.packed);
        let positions = block.window.positions;
        let columns = block.samples.len() * positions;
        for (panel, sums) in (block.range.clone()).zip(sums.chunks_exact_mut(columns * LANES)) {
            let totals = if packed.partial {
                // SAFETY: the caller grants the instruction set.
                unsafe { totals_of::<S, FORMAT>(panels, panel, &packed.part) }
            } else {
                panels.totals(panel)
            };
            let samples = sums.chunks_exact_mut(positions * LANES);
            for (sample, sums) in block.samples.clone().zip(samples) {
                let sums = sums.as_chunks_mut().0;
                if packed.pointwise {
                    for (position, sum) in sums.iter_mut().enumerate() {
                        let grid = packed.grid(sample, position, self.batch);
                        *sum = panels.start(&totals, grid);
                    }
                } else {
                    sums.fill(panels.start(&totals, packed.grid(sample, 0, self.batch)));
                }
            }
        }
    }

    /// Makes numbers of the sums, and adds the offsets.
    #[inline(always)]
    unsafe fn end_codes<S: Lanes>(&self, block: &Block<'_>, sums: &mut [f32]) {
        let (positions, samples) = (block.window.positions, block.samples.len());
        for (index, sums) in sums.chunks_exact_mut(positions * LANES).enumerate() {
            let panel = block.range.start + index / samples;
            let sample = block.samples.start + index % samples;
            let bias = lanes_of(self.epilogue.bias, panel * LANES, 0.0);
            let factors_at = |position| {
                let grid = self.packed.grid(sample, position, self.batch);
                block.panels.factors(panel, grid)
            };
            let mut factors = factors_at(0);
            for (position, sum) in sums.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
                if self.packed.pointwise && position > 0 {
                    factors = factors_at(position);
                }
                // SAFETY: the caller grants the instruction set; a position is sixteen sums.
                unsafe { decode::<S>(block.panels.precision(), sum, &factors, &bias) };
            }
        }
    }

    /// Adds the products to the sums.
    #[inline(always)]
    unsafe fn multiply<S: Lanes, const FORMAT: u8>(&self, block: &Block<'_>, sums: &mut [f32]) {
        let Block {
            panels,
            window,
            range,
            samples,
        } = block;
        let columns = samples.len() * window.positions;
        let (taps, packed) = (panels.taps(), self.packed);
        let widest = largest_tile(window.positions, S::SUMS);
        let side_by_side = (S::SUMS / widest).clamp(1, 4);
        let mut panel = range.start;
        while panel < range.end {
            let left = range.end - panel;
            let m = match side_by_side.min(left) {
                0 | 1 => 1,
                2 | 3 => 2,
                _ => 4,
            };
            let weights = &panels.words()[panel * panels.panel_words()..];
            let sums = &mut sums[(panel - range.start) * columns * LANES..];
            // What is not the whole depth is one tap: its words follow each other, whatever the chunks.
            for chunk in panels.chunks(packed.part.clone()) {
                for tap in 0..taps {
                    let at = if packed.partial {
                        panels.place(chunk.start, 0)
                    } else {
                        panels.place(chunk.start, tap)
                    };
                    let scales = panels.scales_of(panel, chunk.start, tap);
                    let inputs =
                        (chunk.start - packed.part.start) * packed.rows_a_word * packed.row;
                    for (sample, from) in samples.clone().enumerate() {
                        let offset = inputs + packed.offset(window, from, tap);
                        let mut position = 0;
                        while position < window.positions {
                            let n = largest_tile(window.positions - position, S::SUMS);
                            let tile = Tile {
                                weights: weights[at * LANES..].as_ptr(),
                                scales,
                                panel: panels.panel_words(),
                                depth: chunk.len(),
                                inputs: packed.words[offset + position..].as_ptr(),
                                row: packed.row,
                                sums: sums[(sample * window.positions + position) * LANES..]
                                    .as_mut_ptr(),
                                next_panel: columns * LANES,
                                next_position: LANES,
                                first: false,
                            };
                            // SAFETY: the caller grants the instruction set. Of `m` panels from this one, each has
                            // `depth` vectors at `at`; of the inputs, `depth` rows hold `n` words from here, since the
                            // packed rows are as wide as the windows reach; `m` panels have `n` sums from here.
                            unsafe { add::<S, FORMAT>(&tile, m, n) };
                            position += n;
                        }
                    }
                }
            }
            panel += m;
        }
    }

    /// Activates, modulates, and writes the sums to the output.
    #[inline(always)]
    unsafe fn finish<S: Lanes>(&self, block: &Block<'_>, sums: &mut [f32]) {
        let Block {
            window,
            range,
            samples,
            ..
        } = block;
        let rows = block.panels.rows();
        let Epilogue {
            activation,
            film,
            residual,
            accumulates,
            ..
        } = *self.epilogue;
        let positions = window.positions;
        let each = positions * LANES;
        for (index, sums) in sums.chunks_exact_mut(each).enumerate() {
            let panel = range.start + index / samples.len();
            let sample = samples.start + index % samples.len();
            let row = panel * LANES;
            let (scale, shift) = match &film {
                Some(film) => (
                    lanes_of(film.scale, sample * film.sample + row, 1.0),
                    lanes_of(Some(film.shift), sample * film.sample + row, 0.0),
                ),
                None => ([1.0; LANES], [0.0; LANES]),
            };
            if film.is_some() || activation != Activation::Identity {
                // SAFETY: the caller grants the instruction set; a position is sixteen sums.
                unsafe {
                    let (scale, shift) = (S::load(scale.as_ptr()), S::load(shift.as_ptr()));
                    for y in sums.as_chunks_mut::<LANES>().0 {
                        let mut x = activate::<S>(activation, S::load(y.as_ptr()));
                        if film.is_some() {
                            x = S::mul_add(x, scale, shift);
                        }
                        S::store(y.as_mut_ptr(), x);
                    }
                }
            }
            let start = sample * self.to.sample + row * self.to.channel;
            let lanes = LANES.min(rows - row);
            let write = |lane: usize, position: usize| {
                let at = start
                    + lane * self.to.channel
                    + (window.first + position * window.step) * self.to.position;
                let mut y = sums[position * LANES + lane];
                if let Some(residual) = residual {
                    y += residual[at];
                }
                // SAFETY: `product` checked that the layout ends within the output; rows of other tasks lie elsewhere.
                unsafe {
                    let to = self.output.0.add(at);
                    to.write(if accumulates { y + to.read() } else { y });
                }
            };
            if self.to.channel == 1 {
                for position in 0..positions {
                    for lane in 0..lanes {
                        write(lane, position);
                    }
                }
            } else {
                for lane in 0..lanes {
                    for position in 0..positions {
                        write(lane, position);
                    }
                }
            }
        }
    }
}

/// [`Tile::add`] of so many panels and positions.
///
/// # Safety
///
/// As there.
#[inline(always)]
unsafe fn add<S: Lanes, const FORMAT: u8>(tile: &Tile, m: usize, n: usize) {
    // SAFETY: as the caller grants. What is known when it is compiled: shapes that an instruction set does not use are not
    // compiled for it.
    unsafe {
        if const { S::SUMS >= 16 } {
            match (m, n) {
                (1, 16) => tile.add::<S, FORMAT, false, 1, 16>(),
                (1, 8) => tile.add::<S, FORMAT, false, 1, 8>(),
                (1, 4) => tile.add::<S, FORMAT, false, 1, 4>(),
                (1, 2) => tile.add::<S, FORMAT, false, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, false, 1, 1>(),
                (2, 8) => tile.add::<S, FORMAT, false, 2, 8>(),
                (2, 4) => tile.add::<S, FORMAT, false, 2, 4>(),
                (2, 2) => tile.add::<S, FORMAT, false, 2, 2>(),
                (2, _) => tile.add::<S, FORMAT, false, 2, 1>(),
                (_, 4) => tile.add::<S, FORMAT, false, 4, 4>(),
                (_, 2) => tile.add::<S, FORMAT, false, 4, 2>(),
                (_, _) => tile.add::<S, FORMAT, false, 4, 1>(),
            }
        } else if const { S::SUMS >= 4 } {
            match (m, n) {
                (1, 4) => tile.add::<S, FORMAT, false, 1, 4>(),
                (1, 2) => tile.add::<S, FORMAT, false, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, false, 1, 1>(),
                (2, 2) => tile.add::<S, FORMAT, false, 2, 2>(),
                (2, _) => tile.add::<S, FORMAT, false, 2, 1>(),
                (_, _) => tile.add::<S, FORMAT, false, 4, 1>(),
            }
        } else {
            match (m, n) {
                (1, 2) => tile.add::<S, FORMAT, false, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, false, 1, 1>(),
                (_, _) => tile.add::<S, FORMAT, false, 2, 1>(),
            }
        }
    }
}

/// Makes numbers of the sums of codes: `y = factor · sum + bias`.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn decode<S: Lanes>(
    precision: Precision,
    sums: &mut [f32; LANES],
    factors: &[f32; LANES],
    bias: &[f32; LANES],
) {
    // SAFETY: the caller grants the instruction set, and all are sixteen numbers.
    unsafe {
        let sum = if precision == Precision::Int8 {
            S::numbers(S::load_words(sums.as_ptr().cast()))
        } else {
            S::load(sums.as_ptr())
        };
        let (factors, bias) = (S::load(factors.as_ptr()), S::load(bias.as_ptr()));
        S::store(sums.as_mut_ptr(), S::mul_add(sum, factors, bias));
    }
}

/// Normalizes the sums of whole groups. Two passes: the variance of what is left when the mean is gone does not
/// cancel.
#[inline(always)]
unsafe fn normalize<S: Lanes>(
    normalization: &Normalization<'_>,
    block: &Block<'_>,
    sums: &mut [f32],
) {
    let (rows, range) = (block.panels.rows(), &block.range);
    let (positions, batch) = (block.window.positions, block.samples.len());
    let channels = rows / normalization.groups;
    let first_row = range.start * LANES;
    let count = (channels * positions) as f64;
    for sample in 0..batch {
        // The sums of one sample in one panel, [position][16 rows].
        let at = |panel: usize| (panel * batch + sample) * positions * LANES;
        let mut row = first_row;
        while row < rows.min(range.end * LANES) {
            let (from, to) = (row - first_row, row - first_row + channels);
            let of_group = from / LANES..to.div_ceil(LANES);
            // Lanes of a panel that are in the group.
            let within = |panel: usize| {
                let start = from.saturating_sub(panel * LANES);
                start..(to - panel * LANES).min(LANES)
            };
            let mut mean = 0.0;
            for panel in of_group.clone() {
                let mut total = [0.0_f32; LANES];
                // SAFETY: the caller grants the instruction set; a position is sixteen sums.
                unsafe {
                    let mut all = S::splat(0.0);
                    for y in sums[at(panel)..][..positions * LANES]
                        .as_chunks::<LANES>()
                        .0
                    {
                        all = S::add(all, S::load(y.as_ptr()));
                    }
                    S::store(total.as_mut_ptr(), all);
                }
                mean += total[within(panel)]
                    .iter()
                    .copied()
                    .map(f64::from)
                    .sum::<f64>();
            }
            let mean = (mean / count) as f32;
            let mut variance = 0.0;
            for panel in of_group.clone() {
                let mut total = [0.0_f32; LANES];
                // SAFETY: as above.
                unsafe {
                    let (mut all, mean) = (S::splat(0.0), S::splat(mean));
                    for y in sums[at(panel)..][..positions * LANES]
                        .as_chunks::<LANES>()
                        .0
                    {
                        let y = S::sub(S::load(y.as_ptr()), mean);
                        all = S::mul_add(y, y, all);
                    }
                    S::store(total.as_mut_ptr(), all);
                }
                variance += total[within(panel)]
                    .iter()
                    .copied()
                    .map(f64::from)
                    .sum::<f64>();
            }
            let scale = (1.0 / (variance / count + normalization.epsilon).sqrt()) as f32;
            for panel in of_group {
                // Other lanes stay: they are another group's.
                let (mut means, mut scales) = ([0.0; LANES], [1.0; LANES]);
                let mut offsets = [0.0; LANES];
                for lane in within(panel) {
                    let channel = first_row + panel * LANES + lane;
                    means[lane] = mean;
                    scales[lane] = scale * normalization.affine.weight[channel];
                    offsets[lane] = normalization.affine.bias[channel];
                }
                // SAFETY: as above.
                unsafe {
                    let mean = S::load(means.as_ptr());
                    let scale = S::load(scales.as_ptr());
                    let offset = S::load(offsets.as_ptr());
                    let sums = &mut sums[at(panel)..][..positions * LANES];
                    for y in sums.as_chunks_mut::<LANES>().0 {
                        let x = S::sub(S::load(y.as_ptr()), mean);
                        S::store(y.as_mut_ptr(), S::mul_add(x, scale, offset));
                    }
                }
            }
            row += channels;
        }
    }
}

/// Sixteen values from `start`; `default` where there are no more.
pub(super) fn lanes_of(values: Option<&[f32]>, start: usize, default: f32) -> [f32; LANES] {
    let mut out = [default; LANES];
    let values = values.unwrap_or_default();
    let values = &values[start.min(values.len())..];
    let n = values.len().min(LANES);
    out[..n].copy_from_slice(&values[..n]);
    out
}

/// The largest power of two that neither is larger than what is left nor needs more sums than there are registers.
#[inline(always)]
fn largest_tile(left: usize, sums: usize) -> usize {
    let most = left.min(sums).min(16);
    1 << most.ilog2()
}

#[cfg(test)]
pub(super) mod tests;
