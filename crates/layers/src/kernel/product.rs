//! Weights times inputs, with everything that may follow, in one sweep.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::elementwise::{Activation, activate};
use super::inputs::{Layout, Packed};
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::panels::{Panels, Precision};
use super::tile::{Tile, fetched_ahead, format};
use super::{Level, Window, team};

/// How many words of weights, times positions over 8, are worth a thread of their own that is awake: some 3 µs.
const GRAIN: usize = 1 << 13;
/// How many are worth waking a thread: some 10 µs.
const GRAIN_ASLEEP: usize = 1 << 15;
/// How many are worth a task beside others of the same thread: some 20 µs.
const LARGE_GRAIN: usize = 1 << 16;
/// The most tasks a thread gets: several, so that one which is interrupted, or slower, holds up the others less.
const TASKS_A_THREAD: usize = 16;
/// How many panels a piece of what is normalized together has at least: those of a tile.
const PIECE: usize = 4;
/// The most sums that a task holds at a time, in vectors: 256 KiB, which stay in the second cache.
const SUMS_AT_A_TIME: usize = 1 << 12;
/// The most sums that lie together where groups are cut into pieces, in vectors.
const SUMS_TOGETHER: usize = 1 << 14;

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
    let pairs = panels.precision() == Precision::Bf16 && level.multiplies_pairs();
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
    let tasks = tasks(words * columns.div_ceil(8), panels.count());
    let sweep = Sweep {
        phases,
        packed: &packed,
        batch,
        output: Shared(output.as_mut_ptr()),
        to,
        epilogue,
    };
    // Groups that are few are cut into pieces.
    let pieces = tasks.div_ceil(units).min(unit / PIECE);
    if pieces > 1
        && phases.len() == 1
        && unit * columns <= SUMS_AT_A_TIME
        && panels.count() * columns <= SUMS_TOGETHER
    {
        sweep.start_pieces(level, unit, pieces);
        return;
    }
    let tasks = tasks.min(units);
    // Whole units, so that a group is never cut.
    let cut = |index: usize| (units * index / tasks * unit).min(panels.count());
    let next = panels.read_from([0, cut(tasks - 1)]);
    team::for_each_before(next, tasks, |index| {
        sweep.start(level, &(cut(index)..cut(index + 1)));
    });
}

/// How many tasks a product is cut into, of at most `most`.
fn tasks(work: usize, most: usize) -> usize {
    let threads = rayon::current_num_threads();
    let grain = if team::leads() { GRAIN } else { GRAIN_ASLEEP };
    let few = (work / grain).min(threads);
    let many = (work / LARGE_GRAIN).min(threads * TASKS_A_THREAD);
    match threads {
        1 => 1,
        _ => few.max(many).clamp(1, most),
    }
}

/// Linear layers that read the same inputs, in one product: `y[row] = cat(W₁ x[row] + b₁, W₂ x[row] + b₂, ..)`.
///
/// `part` is the range of inputs that `input`, `[rows, part]`, holds; `output` is `[rows, Σ outputs]`.
///
/// # Panics
///
/// If slices are not as long as that, the layers differ in their inputs, or this CPU does not have the level.
pub(crate) fn side_by_side(
    level: Level,
    layers: &[(&Panels, Option<&[f32]>)],
    part: &Range<usize>,
    rows: usize,
    input: &[f32],
    output: &mut [f32],
) {
    let width: usize = layers.iter().map(|(panels, _)| panels.rows()).sum();
    assert_eq!(output.len(), rows * width, "an output for each row");
    if output.is_empty() {
        return;
    }
    let mut to = output.as_mut_ptr();
    // Inputs are read as the weights are stored.
    let alike =
        |a: &Panels, b: &Panels| a.precision() == b.precision() && a.balance() == b.balance();
    for alike in layers.chunk_by(|(a, _), (b, _)| alike(a, b)) {
        alike_side_by_side(level, alike, part, rows, input, (Shared(to), width));
        let rows: usize = alike.iter().map(|(panels, _)| panels.rows()).sum();
        to = to.wrapping_add(rows);
    }
}

/// [`side_by_side`] of layers of the same precision, into the first of `width` columns.
fn alike_side_by_side(
    level: Level,
    layers: &[(&Panels, Option<&[f32]>)],
    part: &Range<usize>,
    rows: usize,
    input: &[f32],
    (Shared(mut to), width): (Shared, usize),
) {
    let first = layers[0].0;
    let window = Window::point(rows);
    let phases: Vec<_> = layers.iter().map(|&(panels, _)| (panels, window)).collect();
    for (it, _) in &phases {
        assert!(
            it.depth() == first.depth() && it.taps() == 1,
            "layers side by side must read the same inputs"
        );
    }
    let pairs = first.precision() == Precision::Bf16 && level.multiplies_pairs();
    let from = Layout::channels_last(part.len());
    // All see the same inputs.
    let packed = Packed::new(level, &phases[..1], part, 1, (input, rows, from), pairs);
    let epilogues: Vec<_> = layers
        .iter()
        .map(|&(panels, bias)| {
            let epilogue = Epilogue {
                bias,
                ..Epilogue::default()
            };
            check(&epilogue, panels.rows(), 1, 1, 0);
            epilogue
        })
        .collect();
    let sweeps: Vec<_> = phases
        .iter()
        .zip(&epilogues)
        .map(|(phase, epilogue)| {
            let output = Shared(to);
            to = to.wrapping_add(phase.0.rows());
            Sweep {
                phases: std::slice::from_ref(phase),
                packed: &packed,
                batch: 1,
                output,
                to: Layout::channels_last(width),
                epilogue,
            }
        })
        .collect();
    let panels: usize = phases.iter().map(|(it, _)| it.count()).sum();
    let words = panels * packed.part.len() * LANES;
    let tasks = tasks(words * rows.div_ceil(8), panels);
    let at_a_time = (SUMS_AT_A_TIME / rows).max(1);
    team::for_each(tasks, |index| {
        let range = panels * index / tasks..panels * (index + 1) / tasks;
        let mut start = 0;
        for sweep in &sweeps {
            let count = sweep.phases[0].0.count();
            let within = |panel: usize| panel.clamp(start, start + count) - start;
            let end = within(range.end);
            for first in (within(range.start)..end).step_by(at_a_time) {
                sweep.start(level, &(first..end.min(first + at_a_time)));
            }
            start += count;
        }
    });
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
    /// Memory for sums, which is used again: those of a task, and those of all pieces.
    static SUMS: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
    static TOGETHER: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// The output, or sums, of which each task writes other rows.
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
            turn: usize::MAX,
            jump: 0,
        };
        // SAFETY: the caller grants the instruction set; the panel has the chunk, and every word of inputs is the same one.
        unsafe { tile.add::<S, FORMAT, false, 1, 1>() };
    }
    sums.map(f32::to_bits)
}

impl Sweep<'_> {
    /// Computes the rows of some panels, which no one else may write meanwhile.
    fn start(&self, level: Level, range: &Range<usize>) {
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
                self.sum(level, block, &mut memory);
                self.end(level, block, &mut memory);
            }
        }
        SUMS.set(memory);
    }

    /// Computes all rows of the one phase, in tasks of a part of `unit` panels. Who sums the last part of them finishes them.
    fn start_pieces(&self, level: Level, unit: usize, pieces: usize) {
        let (panels, window) = self.phases[0];
        let (count, columns) = (panels.count(), self.batch * window.positions);
        let units = count.div_ceil(unit);
        let mut memory = TOGETHER.take();
        memory.resize(count * columns * LANES, 0.0);
        let all = Shared(memory.as_mut_ptr());
        let left: Vec<_> = (0..units).map(|_| AtomicUsize::new(pieces)).collect();
        // The block of some panels, and its sums.
        let part = |range: Range<usize>| {
            let all = &all;
            let block = Block {
                panels,
                window: &window,
                range: range.clone(),
                samples: 0..self.batch,
            };
            let len = range.len() * columns * LANES;
            // SAFETY: the panels are some of all, whose sums this function holds. Pieces do not overlap; the sums of a whole
            // unit are asked for once, when those of its pieces are no longer used.
            let sums = unsafe {
                std::slice::from_raw_parts_mut(all.0.add(range.start * columns * LANES), len)
            };
            (block, sums)
        };
        let of_unit = |at: usize| at * unit..count.min((at + 1) * unit);
        let of_piece = |index: usize| {
            let (of_unit, piece) = (of_unit(index / pieces), index % pieces);
            let cut = |piece: usize| of_unit.start + of_unit.len() * piece / pieces;
            cut(piece)..cut(piece + 1)
        };
        let tasks = units * pieces;
        let next = panels.read_from([0, of_piece(tasks - 1).start]);
        team::for_each_before(next, tasks, |index| {
            let (block, sums) = part(of_piece(index));
            self.sum(level, &block, sums);
            let at = index / pieces;
            if left[at].fetch_sub(1, Ordering::AcqRel) == 1 {
                let (block, sums) = part(of_unit(at));
                self.end(level, &block, sums);
            }
        });
        TOGETHER.set(memory);
    }

    /// Sums the products of a block.
    fn sum(&self, level: Level, block: &Block<'_>, sums: &mut [f32]) {
        let sweep = self;
        let Block { panels, range, .. } = block;
        if range.is_empty() {
            return;
        }
        if !panels.precision().is_codes() {
            let each = sums.len() / range.len();
            for (panel, sums) in range.clone().zip(sums.chunks_exact_mut(each)) {
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
    }

    /// What follows the products of a block, up to the output.
    fn end(&self, level: Level, block: &Block<'_>, sums: &mut [f32]) {
        let sweep = self;
        run_on!(
            level,
            conclude(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32])
        );
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
        // Between the inputs of two outputs.
        let row = window.stride * packed.row;
        let widest = largest_tile(window.positions, S::SUMS);
        // Four vectors of four registers leave none for the weights of four panels.
        let together = (S::SUMS / widest).clamp(1, if S::FOURS { 2 } else { 4 });
        // Where a panel begins and ends, in vectors.
        let (start, end) = if packed.partial {
            let last = packed.part.end - 1;
            (
                panels.place(packed.part.start, 0),
                panels.place(last, 0) + 1,
            )
        } else {
            (0, panels.panel_words() / LANES)
        };
        let mut panel = range.start;
        while panel < range.end {
            let left = range.end - panel;
            let m = match together.min(left) {
                0 | 1 => 1,
                2 | 3 => 2,
                _ => 4,
            };
            let weights = &panels.words()[panel * panels.panel_words()..];
            let sums = &mut sums[(panel - range.start) * columns * LANES..];
            // Behind the end of a panel lies another one that is read at the same time; what is read next begins elsewhere.
            let next = if panel + m == range.end && team::takes_last() {
                range.start.saturating_sub(range.len())
            } else {
                panel + m
            };
            let jump = (next * panels.panel_words()).cast_signed()
                - (panel * panels.panel_words() + (end - start) * LANES).cast_signed();
            // What is not the whole depth is one tap: its words follow each other, whatever the chunks.
            for chunk in panels.chunks(packed.part.clone()) {
                for tap in 0..taps {
                    let at = if packed.partial {
                        panels.place(chunk.start, 0)
                    } else {
                        panels.place(chunk.start, tap)
                    };
                    let scales = panels.scales_of(panel, chunk.start, tap);
                    let turn = (end - at).saturating_sub(fetched_ahead(m));
                    let inputs = (chunk.start - packed.part.start) * packed.inputs_a_word;
                    for (sample, from) in samples.clone().enumerate() {
                        let offset = packed.offset(window, from, tap) + inputs;
                        let mut position = 0;
                        while position < window.positions {
                            let n = largest_tile(window.positions - position, S::SUMS);
                            let tile = Tile {
                                weights: weights[at * LANES..].as_ptr(),
                                scales,
                                panel: panels.panel_words(),
                                depth: chunk.len(),
                                inputs: packed.words[offset + position * row..].as_ptr(),
                                row,
                                sums: sums[(sample * window.positions + position) * LANES..]
                                    .as_mut_ptr(),
                                next_panel: columns * LANES,
                                next_position: LANES,
                                first: false,
                                turn,
                                jump,
                            };
                            // SAFETY: the caller grants the instruction set. Of `m` panels from this one, each has
                            // `depth` vectors at `at`; of the inputs, `n` positions hold `depth` words from here, since
                            // there are as many positions as the windows reach; `m` panels have `n` sums from here.
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
            let place =
                |position: usize| (window.first + position * window.step) * self.to.position;
            if self.to.channel == 1 && lanes == LANES {
                for (position, y) in sums.as_chunks::<LANES>().0.iter().enumerate() {
                    let at = start + place(position);
                    // SAFETY: the caller grants the instruction set. `product` checked that the layout ends within the output,
                    // and that the residual is as long; rows of other tasks lie elsewhere.
                    unsafe {
                        let (to, mut y) = (self.output.0.add(at), S::load(y.as_ptr()));
                        if let Some(residual) = residual {
                            y = S::add(y, S::load(residual.as_ptr().add(at)));
                        }
                        if accumulates {
                            y = S::add(y, S::load(to));
                        }
                        S::store(to, y);
                    }
                }
                continue;
            }
            let write = |lane: usize, position: usize| {
                let at = start + lane * self.to.channel + place(position);
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
                (1, 16) => tile.add::<S, FORMAT, true, 1, 16>(),
                (1, 8) => tile.add::<S, FORMAT, true, 1, 8>(),
                (1, 4) => tile.add::<S, FORMAT, true, 1, 4>(),
                (1, 2) => tile.add::<S, FORMAT, true, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, true, 1, 1>(),
                (2, 8) => tile.add::<S, FORMAT, true, 2, 8>(),
                (2, 4) => tile.add::<S, FORMAT, true, 2, 4>(),
                (2, 2) => tile.add::<S, FORMAT, true, 2, 2>(),
                (2, _) => tile.add::<S, FORMAT, true, 2, 1>(),
                (_, 4) => tile.add::<S, FORMAT, true, 4, 4>(),
                (_, 2) => tile.add::<S, FORMAT, true, 4, 2>(),
                (_, _) => tile.add::<S, FORMAT, true, 4, 1>(),
            }
        } else if const { S::FOURS } {
            match (m, n) {
                (1, 4) => tile.add::<S, FORMAT, true, 1, 4>(),
                (1, 2) => tile.add::<S, FORMAT, true, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, true, 1, 1>(),
                (_, 2) => tile.add::<S, FORMAT, true, 2, 2>(),
                (_, _) => tile.add::<S, FORMAT, true, 2, 1>(),
            }
        } else if const { S::SUMS >= 4 } {
            match (m, n) {
                (1, 4) => tile.add::<S, FORMAT, true, 1, 4>(),
                (1, 2) => tile.add::<S, FORMAT, true, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, true, 1, 1>(),
                (2, 2) => tile.add::<S, FORMAT, true, 2, 2>(),
                (2, _) => tile.add::<S, FORMAT, true, 2, 1>(),
                (_, _) => tile.add::<S, FORMAT, true, 4, 1>(),
            }
        } else {
            match (m, n) {
                (1, 2) => tile.add::<S, FORMAT, true, 1, 2>(),
                (1, _) => tile.add::<S, FORMAT, true, 1, 1>(),
                (_, _) => tile.add::<S, FORMAT, true, 2, 1>(),
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
            // Lane by lane first, so that no sum waits for the one before.
            let mut sum = [0.0; LANES];
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
                add_some(&mut sum, &total, within(panel));
            }
            let mean = (sum.iter().sum::<f64>() / count) as f32;
            sum = [0.0; LANES];
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
                add_some(&mut sum, &total, within(panel));
            }
            let variance = sum.iter().sum::<f64>();
            let scale = (1.0 / (variance / count + normalization.epsilon).sqrt()) as f32;
            for panel in of_group {
                let channel = first_row + panel * LANES;
                let mut means = [mean; LANES];
                let mut scales = lanes_of(Some(normalization.affine.weight), channel, 1.0);
                let mut offsets = lanes_of(Some(normalization.affine.bias), channel, 0.0);
                for it in &mut scales {
                    *it *= scale;
                }
                let within = within(panel);
                if within.len() < LANES {
                    // Other lanes stay: they are another group's.
                    for lane in (0..LANES).filter(|lane| !within.contains(lane)) {
                        (means[lane], scales[lane], offsets[lane]) = (0.0, 1.0, 0.0);
                    }
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

/// Adds some of sixteen numbers to sums.
#[inline(always)]
fn add_some(sums: &mut [f64; LANES], numbers: &[f32; LANES], some: Range<usize>) {
    if some.len() == LANES {
        // A loop of known length becomes vectors.
        for (sum, number) in sums.iter_mut().zip(numbers) {
            *sum += f64::from(*number);
        }
    } else {
        for lane in some {
            sums[lane] += f64::from(numbers[lane]);
        }
    }
}

/// Sixteen values from `start`; `default` where there are no more.
#[inline(always)]
pub(super) fn lanes_of(values: Option<&[f32]>, start: usize, default: f32) -> [f32; LANES] {
    let values = values.unwrap_or_default();
    let values = &values[start.min(values.len())..];
    if let Some(whole) = values.first_chunk() {
        return *whole;
    }
    let mut out = [default; LANES];
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
