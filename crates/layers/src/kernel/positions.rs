//! Weights times inputs at many positions: where arithmetic takes the time, and not reading the weights.
//!
//! A task has some rows and a block of positions. Its weights stay in the second cache from one block to the next, a
//! chunk of them in the first from one tile to the next, and inputs are read where they lie.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::codes::{Extent, Grid, encode, measure};
use super::elementwise::{Activation, activate};
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::memory::Words;
use super::panels::{Panels, Precision, bf16_pair};
use super::product::{Shared, lanes_of};
use super::tile::{Tile, format};
use super::{Epilogue, Layout, Level, Window, product};

/// From how many positions on it is arithmetic that counts.
pub(super) const MANY: usize = 24;
/// The most positions of a block, a multiple of all tiles: their sums and inputs stay in the second cache.
const BLOCK: usize = 96;
/// What the positions of all tiles divide.
const TILE: usize = 12;
/// How many panels are finished at a time: what a tile computes, and pairs of panels where one gates the other.
const GROUP: usize = 4;
/// The most words of weights that a task has: 512 KiB, half a second cache.
const WORDS_A_TASK: usize = 1 << 17;
/// How many tasks a thread gets at least, so that one which is interrupted holds up the others less.
const TASKS_A_THREAD: usize = 4;
/// How many products are worth a task of their own, in vectors: about 10 µs.
const GRAIN: usize = 1 << 16;
/// How many positions are paired by a task.
const PAIRED_AT_A_TIME: usize = 64;

/// Computes `epilogue(W x)` for each position, with weights of one tap: the layers of transformers.
///
/// With a `gate` of so many channels, panels go in pairs, `h` and `g`, and what is written is `h · gelu(g)`; the offsets are
/// those of all `h` and then those of all `g`.
///
/// # Panics
///
/// If slices are shorter than their layout says, the epilogue normalizes or modulates, or this CPU does not have the
/// level.
#[allow(clippy::too_many_arguments)] // Two tensors, each with its layout, and what happens between them.
pub(crate) fn linear(
    level: Level,
    panels: &Panels,
    gate: Option<usize>,
    batch: usize,
    positions: usize,
    (input, from): (&[f32], Layout),
    (output, to): (&mut [f32], Layout),
    epilogue: &Epilogue<'_>,
) {
    if batch == 0 || positions == 0 {
        return;
    }
    if gate.is_none() && batch * positions < MANY {
        product(
            level,
            &[(panels, Window::point(positions))],
            0..panels.depth(),
            batch,
            (input, positions, from),
            (output, to),
            epilogue,
        );
        return;
    }
    check(
        panels,
        gate,
        [batch, positions],
        (input.len(), from),
        (output.len(), to),
        epilogue,
    );
    let mut grids = Vec::new();
    let words = if panels.precision().is_codes() {
        grids = vec![Grid::new(Extent::EMPTY); batch * positions];
        Inputs::encoded(level, panels, [batch, positions], (input, from), &mut grids)
    } else {
        Inputs::new(level, panels, [batch, positions], (input, from))
    };
    let blocks = positions.div_ceil(BLOCK);
    let block = positions.div_ceil(blocks).next_multiple_of(TILE);
    let blocks = positions.div_ceil(block);
    let groups = panels.count().div_ceil(GROUP);
    let all = panels.words().len();
    let threads = rayon::current_num_threads();
    let least = (threads * TASKS_A_THREAD).div_ceil(blocks * batch);
    let worthwhile = all / LANES * block.min(positions) / GRAIN;
    let splits = least.min(worthwhile).max(all.div_ceil(WORDS_A_TASK));
    let splits = splits.clamp(1, groups);
    let sweep = Sweep {
        panels,
        gated: gate.is_some(),
        rows: gate.unwrap_or(panels.rows()),
        words,
        grids,
        positions,
        output: Shared(output.as_mut_ptr()),
        to,
        epilogue,
    };
    // Blocks of the same rows follow each other, so that a thread reads the weights once.
    let task = |index: usize| {
        let (split, index) = (index / (blocks * batch), index % (blocks * batch));
        let (sample, start) = (index / blocks, index % blocks * block);
        let cut = |split: usize| groups * split / splits * GROUP;
        let range = cut(split)..cut(split + 1).min(panels.count());
        let places = start..positions.min(start + block);
        sweep.run(level, range, sample, &places);
    };
    let tasks = splits * blocks * batch;
    if tasks == 1 || threads == 1 {
        (0..tasks).for_each(task);
    } else {
        (0..tasks).into_par_iter().for_each(task);
    }
    sweep.words.give_back();
}

fn check(
    panels: &Panels,
    gate: Option<usize>,
    [batch, positions]: [usize; 2],
    (input, from): (usize, Layout),
    (output, to): (usize, Layout),
    epilogue: &Epilogue<'_>,
) {
    let rows = gate.unwrap_or(panels.rows());
    let last = |layout: Layout, channels: usize| {
        (batch - 1) * layout.sample
            + (channels - 1) * layout.channel
            + (positions - 1) * layout.position
    };
    assert!(batch <= 1 || to.sample > 0, "samples lie apart");
    assert!(
        panels.taps() == 1 && panels.depth() > 0 && rows > 0,
        "a linear layer has one tap"
    );
    assert!(
        gate.is_none_or(|gate| 2 * gate.next_multiple_of(LANES) == panels.rows()),
        "gated panels go in pairs"
    );
    assert!(
        last(from, panels.depth()) < input,
        "the input is too short for its layout"
    );
    assert!(
        last(to, rows) < output,
        "the output is too short for its layout"
    );
    assert!(
        epilogue.normalization.is_none() && epilogue.film.is_none(),
        "many positions are neither normalized nor modulated"
    );
    if let Some(bias) = epilogue.bias {
        let offsets = gate.map_or(rows, |gate| 2 * gate);
        assert_eq!(bias.len(), offsets, "one offset for each channel");
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output, "the residual is like the output");
    }
}

thread_local! {
    /// Memory that is used again: inputs that could not be read where they lie, a block's inputs, and its sums.
    static INPUTS: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static BLOCKS: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static SUMS: Cell<Words> = const { Cell::new(Words::EMPTY) };
}

/// Inputs as the tiles read them.
enum Inputs<'a> {
    /// As they are, with words of depth side by side.
    InPlace(&'a [f32], Layout),
    /// As they are, with positions side by side. Rows of depth lie so far apart that their lines push each other out of the
    /// cache; a task copies those of its block.
    Apart(&'a [f32], Layout),
    /// Laid out anew, `[sample][position][row]`: paired bf16, four codes to a word, or with a zero behind an odd depth.
    Anew {
        words: Words,
        row: usize,
        positions: usize,
    },
}

impl<'a> Inputs<'a> {
    fn new(
        level: Level,
        panels: &Panels,
        [batch, positions]: [usize; 2],
        (input, from): (&'a [f32], Layout),
    ) -> Self {
        let bf16 = panels.precision() == Precision::Bf16;
        let depth = panels.depth();
        let pairs = bf16 && level.multiplies_pairs();
        let odd = bf16 && !depth.is_multiple_of(2);
        if !(pairs || odd) {
            if from.channel == 1 {
                return Self::InPlace(input, from);
            }
            if from.position == 1 {
                return Self::Apart(input, from);
            }
        }
        let row = match (bf16, pairs) {
            (_, true) => depth.div_ceil(2),
            (true, false) => depth.next_multiple_of(2),
            (false, false) => depth,
        };
        let mut words = INPUTS.take();
        let all = words.at_least(batch * positions * row);
        let fill = |(index, to): (usize, &mut [u32])| {
            for (at, to) in to.chunks_exact_mut(row).enumerate() {
                let at = index * PAIRED_AT_A_TIME + at;
                let start = at / positions * from.sample + at % positions * from.position;
                let x = |depth: usize| input[start + depth * from.channel];
                if pairs {
                    for (d, to) in to.iter_mut().enumerate() {
                        let second = if 2 * d + 1 < depth { x(2 * d + 1) } else { 0.0 };
                        *to = bf16_pair(x(2 * d), second);
                    }
                } else {
                    to[depth..].fill(0);
                    for (d, to) in to[..depth].iter_mut().enumerate() {
                        *to = x(d).to_bits();
                    }
                }
            }
        };
        all.par_chunks_mut(PAIRED_AT_A_TIME * row)
            .enumerate()
            .for_each(fill);
        Self::Anew {
            words,
            row,
            positions,
        }
    }

    /// Rounded to codes, each position by itself.
    fn encoded(
        level: Level,
        panels: &Panels,
        [batch, positions]: [usize; 2],
        (input, from): (&'a [f32], Layout),
        grids: &mut [Grid],
    ) -> Self {
        let depth = panels.depth();
        let row = panels.depth_words() * panels.precision().numbers_a_word() / 4;
        let mut words = INPUTS.take();
        let all = words.at_least(batch * positions * row);
        let fill = |(index, (to, grids)): (usize, (&mut [u32], &mut [Grid]))| {
            let rows = &mut Rows {
                input,
                from,
                positions,
                first: index * PAIRED_AT_A_TIME,
                depth,
                to,
                grids,
            };
            run_on!(level, encode_rows(rows: &mut Rows<'_>));
        };
        all.par_chunks_mut(PAIRED_AT_A_TIME * row)
            .zip(grids.par_chunks_mut(PAIRED_AT_A_TIME))
            .enumerate()
            .for_each(fill);
        Self::Anew {
            words,
            row,
            positions,
        }
    }

    fn give_back(self) {
        if let Self::Anew { words, .. } = self {
            INPUTS.set(words);
        }
    }
}

/// Some rows of words, which become the codes of as many positions.
struct Rows<'a> {
    input: &'a [f32],
    from: Layout,
    /// How many positions a sample has.
    positions: usize,
    /// The first position, counted over all samples.
    first: usize,
    depth: usize,
    to: &'a mut [u32],
    grids: &'a mut [Grid],
}

/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn encode_rows<S: Lanes>(rows: &mut Rows<'_>) {
    let Rows {
        input,
        from,
        positions,
        first,
        depth,
        ..
    } = *rows;
    let row = rows.to.len() / rows.grids.len();
    let mut values = Vec::new();
    let mut codes = vec![0; 4 * row];
    let rows = rows.to.chunks_exact_mut(row).zip(&mut *rows.grids);
    for (at, (to, grid)) in rows.enumerate() {
        let at = first + at;
        let start = at / positions * from.sample + at % positions * from.position;
        let x = if from.channel == 1 {
            &input[start..start + depth]
        } else {
            values.clear();
            values.extend((0..depth).map(|d| input[start + d * from.channel]));
            &values[..]
        };
        let mut extent = Extent::EMPTY;
        // SAFETY: the caller grants the instruction set.
        unsafe {
            measure::<S>(x, &mut extent);
            *grid = Grid::new(extent);
            encode::<S>(*grid, x, &mut codes[..depth]);
        }
        codes[depth..].fill(grid.zero as u8);
        for (to, four) in to.iter_mut().zip(codes.as_chunks().0) {
            *to = u32::from_le_bytes(*four);
        }
    }
}

struct Sweep<'a> {
    panels: &'a Panels,
    gated: bool,
    /// How many channels are written.
    rows: usize,
    words: Inputs<'a>,
    /// How the inputs of each position were rounded to codes, where they were.
    grids: Vec<Grid>,
    /// How many positions a sample has.
    positions: usize,
    output: Shared,
    to: Layout,
    epilogue: &'a Epilogue<'a>,
}

/// Some panels of weights at some places of a sample.
struct Block<'a> {
    panels: Range<usize>,
    places: &'a Range<usize>,
    sample: usize,
    /// The first word of the inputs, and the distance between its rows.
    inputs: *const u32,
    row: usize,
    /// Whether words of depth are side by side, and not positions.
    last: bool,
    /// How the inputs were rounded to codes.
    grids: &'a [Grid],
}

#[inline(always)]
unsafe fn multiply_f32<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set and the inputs.
    unsafe {
        if block.last {
            sweep.multiply::<S, { format::F32 }, true>(block, sums);
        } else {
            sweep.multiply::<S, { format::F32 }, false>(block, sums);
        }
    }
}

#[inline(always)]
unsafe fn multiply_bf16<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: as above; pairs always lie anew, with words of depth side by side.
    unsafe {
        if const { S::PAIRS } {
            sweep.multiply::<S, { format::PAIRS }, true>(block, sums);
        } else if block.last {
            sweep.multiply::<S, { format::WIDENED }, true>(block, sums);
        } else {
            sweep.multiply::<S, { format::WIDENED }, false>(block, sums);
        }
    }
}

#[inline(always)]
unsafe fn multiply_bytes<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: as above; so do codes.
    unsafe { sweep.multiply::<S, { format::BYTES }, true>(block, sums) }
}

#[inline(always)]
unsafe fn multiply_half_bytes<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: as above.
    unsafe { sweep.multiply::<S, { format::HALF_BYTES }, true>(block, sums) }
}

/// What follows the products. It is the same for all formats, and compiled apart from them.
#[inline(always)]
unsafe fn conclude<S: Lanes>(sweep: &Sweep<'_>, block: &Block<'_>, sums: &mut [f32]) {
    // SAFETY: the caller grants the instruction set, the rows and the places.
    unsafe {
        let codes = sweep.panels.precision().is_codes();
        if codes && sweep.to.channel == 1 && sweep.rows.is_multiple_of(LANES) {
            sweep.finish_codes::<S>(block, sums);
            return;
        }
        if codes {
            sweep.end_codes::<S>(&block.panels, sums, block.grids);
        }
        sweep.finish::<S>(&block.panels, block.sample, block.places, sums);
    }
}

/// What makes numbers of the sums of the codes of sixteen rows: `y = (sum - zero · total) · (scale · step) + bias`.
struct Decoding<S: Lanes> {
    /// Whether sums are whole numbers that began with nothing.
    bytes: bool,
    /// With the other sign.
    totals: S::Word,
    scales: S::Vector,
    bias: S::Vector,
}

impl<S: Lanes> Clone for Decoding<S> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<S: Lanes> Copy for Decoding<S> {}

impl<S: Lanes> Decoding<S> {
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`, and there must be sixteen sums.
    #[inline(always)]
    unsafe fn number(&self, sums: *const f32, grid: &Grid) -> S::Vector {
        // SAFETY: the caller grants the instruction set and the sums.
        unsafe {
            let sum = if self.bytes {
                let zero = S::splat_word(grid.zero.cast_unsigned());
                let start = S::mul_words(self.totals, zero);
                S::numbers(S::add_words(S::load_words(sums.cast()), start))
            } else {
                S::load(sums)
            };
            let factor = S::mul(self.scales, S::splat(grid.step));
            S::mul_add(sum, factor, self.bias)
        }
    }
}

impl Sweep<'_> {
    /// Computes some rows at some places of a sample, which no one else may write meanwhile.
    fn run(&self, level: Level, panels: Range<usize>, sample: usize, places: &Range<usize>) {
        let sweep = self;
        let mut copied = BLOCKS.take();
        let mut memory = SUMS.take();
        let sums = memory.floats(GROUP * places.len() * LANES);
        let precision = self.panels.precision();
        let grids = if precision.is_codes() {
            &self.grids[sample * self.positions..][places.clone()]
        } else {
            &[]
        };
        // The inputs hold the whole depth of all places from their first word, as `check` made sure or as they were laid
        // out.
        let (inputs, row, last) = match &self.words {
            Inputs::InPlace(input, from) => {
                let start = sample * from.sample + places.start * from.position;
                (input[start..].as_ptr().cast::<u32>(), from.position, true)
            }
            Inputs::Apart(input, from) => {
                let row = places.len();
                let words = copied.at_least(self.panels.depth() * row);
                for (depth, to) in words.chunks_exact_mut(row).enumerate() {
                    let start = sample * from.sample + depth * from.channel + places.start;
                    for (to, x) in to.iter_mut().zip(&input[start..start + row]) {
                        *to = x.to_bits();
                    }
                }
                (copied.as_ptr(), row, false)
            }
            Inputs::Anew {
                words,
                row,
                positions,
            } => {
                let start = (sample * positions + places.start) * row;
                (words[start..].as_ptr(), *row, true)
            }
        };
        for first in panels.clone().step_by(GROUP) {
            let block = &Block {
                panels: first..panels.end.min(first + GROUP),
                places,
                sample,
                inputs,
                row,
                last,
                grids,
            };
            let sums = &mut sums[..block.panels.len() * places.len() * LANES];
            match precision {
                // What the codes of zero add up to is taken off in the end.
                Precision::Int8 => {}
                Precision::Int4 { .. } => self.begin_codes(&block.panels, sums, grids),
                _ => self.begin(&block.panels, sums, places.len()),
            }
            match precision {
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
        BLOCKS.set(copied);
        SUMS.set(memory);
    }

    /// Fills the sums, `[panel][position][16 rows]`, with the offsets.
    fn begin(&self, group: &Range<usize>, sums: &mut [f32], positions: usize) {
        for (panel, sums) in group.clone().zip(sums.chunks_exact_mut(positions * LANES)) {
            sums.as_chunks_mut().0.fill(self.bias(panel));
        }
    }

    /// The offsets of a panel.
    fn bias(&self, panel: usize) -> [f32; LANES] {
        match (self.gated, self.epilogue.bias) {
            (true, Some(bias)) => {
                let half = bias.len() / 2;
                let bias = if panel.is_multiple_of(2) {
                    &bias[..half]
                } else {
                    &bias[half..]
                };
                lanes_of(Some(bias), panel / 2 * LANES, 0.0)
            }
            (_, bias) => lanes_of(bias, panel * LANES, 0.0),
        }
    }

    /// Fills the sums, so that the codes of zero add up to nothing.
    fn begin_codes(&self, group: &Range<usize>, sums: &mut [f32], grids: &[Grid]) {
        let panels = sums.chunks_exact_mut(grids.len() * LANES);
        for (panel, sums) in group.clone().zip(panels) {
            let totals = self.panels.totals(panel);
            for (sum, grid) in sums.as_chunks_mut().0.iter_mut().zip(grids) {
                *sum = self.panels.start(&totals, grid);
            }
        }
    }

    /// What makes numbers of the sums of a panel.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn decoding<S: Lanes>(&self, panel: usize) -> Decoding<S> {
        let bytes = self.panels.precision() == Precision::Int8;
        let (scales, bias) = (self.panels.scales(panel), self.bias(panel));
        let mut totals = [0; LANES];
        if bytes {
            totals = self.panels.totals(panel).map(|it| 0_u32.wrapping_sub(it));
        }
        // SAFETY: the caller grants the instruction set, and all are sixteen.
        unsafe {
            Decoding {
                bytes,
                totals: S::load_words(totals.as_ptr()),
                scales: S::load(scales.as_ptr()),
                bias: S::load(bias.as_ptr()),
            }
        }
    }

    /// Makes numbers of the sums, and adds the offsets.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn end_codes<S: Lanes>(&self, group: &Range<usize>, sums: &mut [f32], grids: &[Grid]) {
        let panels = sums.chunks_exact_mut(grids.len() * LANES);
        for (panel, sums) in group.clone().zip(panels) {
            // SAFETY: the caller grants the instruction set, and a position has sixteen sums.
            unsafe {
                let decoding = self.decoding::<S>(panel);
                for (sum, grid) in sums.as_chunks_mut::<LANES>().0.iter_mut().zip(grids) {
                    let y = decoding.number(sum.as_ptr(), grid);
                    S::store(sum.as_mut_ptr(), y);
                }
            }
        }
    }

    /// [`end_codes`](Self::end_codes) and [`finish`](Self::finish) at once, where all rows of a panel are neighbours: what a
    /// position gets of all panels is written in a row.
    ///
    /// # Safety
    ///
    /// As for [`finish`](Self::finish).
    #[inline(always)]
    unsafe fn finish_codes<S: Lanes>(&self, block: &Block<'_>, sums: &[f32]) {
        let Epilogue {
            activation,
            residual,
            accumulates,
            ..
        } = *self.epilogue;
        let (group, each) = (&block.panels, block.places.len() * LANES);
        let panels = if self.gated { 2 } else { 1 };
        let start = block.sample * self.to.sample + group.start / panels * LANES;
        // SAFETY: the caller grants the instruction set, and sums of each panel at each place. `check` made sure that the
        // layout ends within the output; what other tasks write lies elsewhere.
        unsafe {
            let mut decodings = [self.decoding::<S>(group.start); GROUP];
            for (index, panel) in group.clone().enumerate() {
                decodings[index] = self.decoding::<S>(panel);
            }
            let places = block.places.clone().zip(block.grids);
            for (index, (place, grid)) in places.enumerate() {
                let sums = &sums[index * LANES..];
                for first in (0..group.len()).step_by(panels) {
                    let mut y = decodings[first].number(sums[first * each..].as_ptr(), grid);
                    if self.gated {
                        let g = &sums[(first + 1) * each..];
                        let g = decodings[first + 1].number(g.as_ptr(), grid);
                        y = S::mul(y, activate::<S>(Activation::Gelu, g));
                    }
                    y = activate::<S>(activation, y);
                    let at = start + place * self.to.position + first / panels * LANES;
                    let to = self.output.0.add(at);
                    if let Some(residual) = residual {
                        y = S::add(y, S::load(residual[at..at + LANES].as_ptr()));
                    }
                    if accumulates {
                        y = S::add(y, S::load(to));
                    }
                    S::store(to, y);
                }
            }
        }
    }

    /// Adds the products, in chunks of depth as [`product`] does: to the same bits.
    #[inline(always)]
    unsafe fn multiply<S: Lanes, const FORMAT: u8, const LAST: bool>(
        &self,
        block: &Block<'_>,
        sums: &mut [f32],
    ) {
        let Block {
            panels: group,
            places,
            inputs,
            row,
            ..
        } = block;
        let (row, positions) = (*row, places.len());
        let panels = self.panels;
        let weights = &panels.words()[group.start * panels.panel_words()..];
        let step = match FORMAT {
            format::WIDENED | format::HALF_BYTES => 2,
            _ => 1,
        };
        for chunk in panels.chunks(0..panels.depth_words()) {
            // SAFETY: the caller grants the instruction set and the inputs; a panel has all of its chunks.
            unsafe {
                let tile = Tile {
                    weights: weights[panels.place(chunk.start, 0) * LANES..].as_ptr(),
                    scales: panels.scales_of(group.start, chunk.start, 0),
                    panel: panels.panel_words(),
                    depth: chunk.len(),
                    inputs: inputs.add(step * chunk.start * if LAST { 1 } else { row }),
                    row,
                    sums: sums.as_mut_ptr(),
                    next_panel: positions * LANES,
                    next_position: LANES,
                    first: FORMAT == format::BYTES && chunk.start == 0,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover::<S, FORMAT, LAST>(group.len(), positions);
            }
        }
    }

    /// Activates, adds, and writes the sums to the output.
    #[inline(always)]
    unsafe fn finish<S: Lanes>(
        &self,
        group: &Range<usize>,
        sample: usize,
        places: &Range<usize>,
        sums: &mut [f32],
    ) {
        let Epilogue {
            activation,
            residual,
            accumulates,
            ..
        } = *self.epilogue;
        let each = places.len() * LANES;
        let start = sample * self.to.sample;
        let mut rest = sums;
        let mut panel = group.start;
        while panel < group.end {
            let (h, after) = rest.split_at_mut(each);
            // The first row that is written.
            let row;
            if self.gated {
                let (g, after) = after.split_at_mut(each);
                for (h, g) in h
                    .as_chunks_mut::<LANES>()
                    .0
                    .iter_mut()
                    .zip(g.as_chunks::<LANES>().0)
                {
                    // SAFETY: the caller grants the instruction set; a position is sixteen sums.
                    unsafe {
                        let gate = activate::<S>(Activation::Gelu, S::load(g.as_ptr()));
                        S::store(h.as_mut_ptr(), S::mul(S::load(h.as_ptr()), gate));
                    }
                }
                row = panel / 2 * LANES;
                rest = after;
                panel += 2;
            } else {
                row = panel * LANES;
                rest = after;
                panel += 1;
            }
            let lanes = LANES.min(self.rows - row);
            let whole = self.to.channel == 1 && lanes == LANES;
            if !whole && activation != Activation::Identity {
                for y in h.as_chunks_mut::<LANES>().0 {
                    // SAFETY: as above.
                    unsafe {
                        let x = S::load(y.as_ptr());
                        S::store(y.as_mut_ptr(), activate::<S>(activation, x));
                    }
                }
            }
            let at = |lane: usize, place: usize| {
                start + (row + lane) * self.to.channel + place * self.to.position
            };
            let write = |lane: usize, index: usize| {
                let at = at(lane, places.start + index);
                let mut y = h[index * LANES + lane];
                if let Some(residual) = residual {
                    y += residual[at];
                }
                // SAFETY: `check` made sure that the layout ends within the output; what other tasks write lies elsewhere.
                unsafe {
                    let to = self.output.0.add(at);
                    to.write(if accumulates { y + to.read() } else { y });
                }
            };
            if whole {
                for (place, y) in places.clone().zip(h.as_chunks::<LANES>().0) {
                    let at = at(0, place);
                    // SAFETY: as above, and sixteen rows are neighbours.
                    unsafe {
                        let to = self.output.0.add(at);
                        let mut y = activate::<S>(activation, S::load(y.as_ptr()));
                        if let Some(residual) = residual {
                            y = S::add(y, S::load(residual[at..at + LANES].as_ptr()));
                        }
                        if accumulates {
                            y = S::add(y, S::load(to));
                        }
                        S::store(to, y);
                    }
                }
            } else if self.to.channel == 1 {
                for index in 0..places.len() {
                    for lane in 0..lanes {
                        write(lane, index);
                    }
                }
            } else {
                for lane in 0..lanes {
                    for index in 0..places.len() {
                        write(lane, index);
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
