//! Convolutions over pictures whose weights are codes.
//!
//! What is read is rounded once and laid out with all channels of a pixel side by side, four to a word, and zeros around the
//! picture. The products read it there, each tap at another pixel: nothing is laid out for each tap. Weights stay in the
//! first cache, chunk by chunk, while some rows of outputs are computed, and in the second from one block to the next.

use std::cell::Cell;
use std::ops::Range;

use super::codes::Rounding;
use super::elementwise::activate;
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::memory::Words;
use super::panels::{CHUNK, Precision};
use super::picture::{Finish, Layer, PANELS};
use super::tile::{Tile, format};
use super::{Level, team};

/// The most words that are laid out at a time, where a row of a picture does not need more: 16 MiB.
const LAID_OUT: usize = 1 << 22;
/// How many outputs of a channel a block has, about: their sums, and what they read, stay in the second cache.
const BLOCK: usize = 128;
/// The most words of weights that meet one block after the other: half a second cache.
const WEIGHTS: usize = 1 << 18;
/// How many tasks a thread gets at least, if there is work for so many.
const TASKS_A_THREAD: usize = 4;

thread_local! {
    /// Memory that is used again: inputs as they are laid out, a line on its way there, and sums.
    static LAID_OUT_INPUTS: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static LINE: Cell<Words> = const { Cell::new(Words::EMPTY) };
    static SUMS: Cell<Words> = const { Cell::new(Words::EMPTY) };
}

/// The first of the words that are laid out.
#[derive(Clone, Copy)]
struct Start(*mut u32);

// SAFETY: tasks write disjoint lines, and `convolve` holds the only reference until all are done.
unsafe impl Send for Start {}
// SAFETY: as above.
unsafe impl Sync for Start {}

/// How outputs lie to pixels, along one axis: output `n` sees with tap `t` what the pixel `(stride · n + t - padding) / factor`
/// holds, rounded down.
#[derive(Clone, Copy)]
struct Axis {
    stride: usize,
    padding: usize,
    factor: usize,
    /// How many pixels there are.
    size: usize,
}

impl Axis {
    /// The pixel, if it is not one of the zeros.
    fn pixel(self, output: usize, tap: usize) -> Option<usize> {
        let at = (self.stride * output + tap).checked_sub(self.padding)? / self.factor;
        (at < self.size).then_some(at)
    }

    /// How many zeros lie before the first pixel.
    fn before(self) -> usize {
        self.padding.div_ceil(self.factor)
    }

    /// How many neighbouring outputs lie differently to the pixels, and how many pixels as many outputs go on by.
    fn phases(self) -> (usize, usize) {
        if self.stride.is_multiple_of(self.factor) {
            (1, self.stride / self.factor)
        } else {
            (self.factor, self.stride)
        }
    }

    /// How many pixels lie between the first of the zeros and what an output sees with a tap.
    fn place(self, output: usize, tap: usize) -> usize {
        let at = self.stride * output + tap + self.before() * self.factor;
        (at - self.padding) / self.factor
    }
}

/// A convolution, and which of its rows are computed now.
struct Pass<'a> {
    layer: &'a Layer<'a>,
    down: Axis,
    across: Axis,
    samples: Range<usize>,
    /// The rows of outputs.
    rows: Range<usize>,
    /// The lines of pixels that these see.
    lines: Range<usize>,
    /// ```text
    /// [sample][line of zeros, lines][zeros, width, zeros][words]
    /// ```
    laid_out: Start,
    /// Between two pixels, lines and samples, in words.
    pixel: usize,
    line: usize,
    sample: usize,
}

/// Some neighbouring outputs of a sample, in a rectangle.
#[derive(Clone, Copy)]
struct Block {
    sample: usize,
    rows: [usize; 2],
    columns: [usize; 2],
}

/// How the outputs that are computed now are cut into blocks.
struct Cut {
    rows: usize,
    columns: usize,
    /// How many there are across and down a sample.
    across: usize,
    down: usize,
}

/// Computes the convolution of a layer whose weights are codes. What is written is the layer's own, and of the shapes that it
/// says.
pub(super) fn convolve(level: Level, layer: &Layer<'_>, batch: usize) {
    let (panels, frame, [height, width]) = (layer.panels, layer.frame, layer.size);
    let [down, across] = [0, 1].map(|axis| Axis {
        stride: frame.stride[axis],
        padding: frame.padding[axis],
        factor: if frame.doubled { 2 } else { 1 },
        size: frame.size[axis],
    });
    let words_a_word = panels.precision().numbers_a_word() / 4;
    let pixel = (panels.depth_words() * words_a_word).next_multiple_of(LANES);
    let seen = across.place(width - 1, frame.taps[1] - 1) + 1;
    let line = seen.max(across.before() + across.size) * pixel;
    // Which lines some rows see.
    let lines_of = |rows: &Range<usize>| {
        let first = (0..frame.taps[0]).find_map(|tap| down.pixel(rows.start, tap));
        let last = (0..frame.taps[0]).rev();
        let last = last.clone().find_map(|tap| down.pixel(rows.end - 1, tap));
        match (first, last) {
            (Some(first), Some(last)) => first..last + 1,
            // The first or the last row sees zeros alone.
            _ => 0..down.size,
        }
    };
    let whole = (1 + lines_of(&(0..height)).len()) * line;
    let (samples_at_a_time, rows_at_a_time) = match LAID_OUT / whole.max(1) {
        0 => {
            let lines = (LAID_OUT / line).saturating_sub(1 + frame.taps[0]);
            let rows = lines * down.factor / down.stride;
            (1, rows.clamp(1, height))
        }
        samples => (samples, height),
    };
    let mut laid_out = LAID_OUT_INPUTS.take();
    for first in (0..batch).step_by(samples_at_a_time) {
        let samples = first..batch.min(first + samples_at_a_time);
        for first in (0..height).step_by(rows_at_a_time) {
            let rows = first..height.min(first + rows_at_a_time);
            let lines = lines_of(&rows);
            let sample = (1 + lines.len()) * line;
            let words = laid_out.at_least(samples.len() * sample);
            let pass = Pass {
                layer,
                down,
                across,
                samples: samples.clone(),
                rows,
                lines,
                laid_out: Start(words.as_mut_ptr()),
                pixel,
                line,
                sample,
            };
            pass.run(level);
        }
    }
    LAID_OUT_INPUTS.set(laid_out);
}

impl Pass<'_> {
    fn run(&self, level: Level) {
        let pass = self;
        let tasks = rayon::current_num_threads() * TASKS_A_THREAD;
        let lines = self.samples.len() * (1 + self.lines.len());
        let parts = lines.min(tasks);
        team::for_each(parts, |part| {
            let range = lines * part / parts..lines * (part + 1) / parts;
            run_on!(level, lay_out(pass: &Pass<'_>, range: Range<usize>));
        });
        let [_, width] = self.layer.size;
        let columns = width
            .div_ceil(width.div_ceil(BLOCK))
            .next_multiple_of(LANES);
        let rows = (BLOCK / columns).clamp(1, self.rows.len());
        let cut = Cut {
            rows,
            columns,
            across: width.div_ceil(columns),
            down: self.rows.len().div_ceil(rows),
        };
        let blocks = self.samples.len() * cut.across * cut.down;
        // As many panels in a task as stay in the cache, and as leave enough tasks.
        let panels = self.layer.panels;
        let groups = panels.count().div_ceil(PANELS);
        let most = WEIGHTS / (PANELS * panels.panel_words()).max(1);
        let together = (groups * blocks / tasks).min(most).clamp(1, groups);
        let parts = groups.div_ceil(together);
        let splits = tasks.div_ceil(parts).min(blocks);
        team::for_each(parts * splits, |task| {
            let (part, split) = (task / splits, task % splits);
            let groups = groups * part / parts..groups * (part + 1) / parts;
            let mut sums = SUMS.take();
            let mut taps = Vec::new();
            for index in blocks * split / splits..blocks * (split + 1) / splits {
                let block = self.block(&cut, index);
                self.see(&block, &mut taps);
                for group in groups.clone() {
                    let first = group * PANELS;
                    self.compute(
                        level,
                        &block,
                        first..panels.count().min(first + PANELS),
                        &taps,
                        &mut sums,
                    );
                }
            }
            SUMS.set(sums);
        });
    }

    fn block(&self, cut: &Cut, index: usize) -> Block {
        let (index, across) = (index / cut.across, index % cut.across);
        let (sample, down) = (index / cut.down, index % cut.down);
        let row = self.rows.start + down * cut.rows;
        let column = across * cut.columns;
        Block {
            sample: self.samples.start + sample,
            rows: [row, self.rows.end.min(row + cut.rows)],
            columns: [column, self.layer.size[1].min(column + cut.columns)],
        }
    }

    /// Where each tap of each row of a block sees its first output, and those that lie otherwise: `[row][phase][tap]`.
    fn see(&self, block: &Block, places: &mut Vec<usize>) {
        let [taps_down, taps_across] = self.layer.frame.taps;
        let (phases, _) = self.across.phases();
        let start = (block.sample - self.samples.start) * self.sample;
        places.clear();
        for row in block.rows[0]..block.rows[1] {
            for phase in 0..phases {
                for tap in 0..taps_down {
                    let line = match self.down.pixel(row, tap) {
                        Some(line) => 1 + line - self.lines.start,
                        None => 0,
                    };
                    for tap in 0..taps_across {
                        let pixel = self.across.place(block.columns[0] + phase, tap);
                        places.push(start + line * self.line + pixel * self.pixel);
                    }
                }
            }
        }
    }

    /// Computes some panels of a block, which no one else may write meanwhile.
    fn compute(
        &self,
        level: Level,
        block: &Block,
        panels: Range<usize>,
        taps: &[usize],
        sums: &mut Words,
    ) {
        let [rows, columns] = [block.rows, block.columns].map(|[first, end]| end - first);
        let part = &Part {
            pass: self,
            block,
            panels,
            taps,
            next_panel: rows * columns * LANES,
        };
        let sums = sums.floats(part.panels.len() * part.next_panel);
        if self.layer.panels.precision() == Precision::Int8 {
            run_on!(level, bytes: multiply_bytes(part: &Part<'_>, sums: &mut [f32]));
        } else {
            run_on!(level, bytes: multiply_half_bytes(part: &Part<'_>, sums: &mut [f32]));
        }
        run_on!(level, finish(part: &Part<'_>, sums: &mut [f32]));
    }
}

/// Some panels of a block.
struct Part<'a> {
    pass: &'a Pass<'a>,
    block: &'a Block,
    panels: Range<usize>,
    /// As [`Pass::see`] says.
    taps: &'a [usize],
    /// Between two panels' sums, `[panel][row][column][16 channels]`.
    next_panel: usize,
}

/// Rounds some lines to codes: those of all samples in a row, the one of zeros before each sample's others.
#[inline(always)]
unsafe fn lay_out<S: Lanes>(pass: &Pass<'_>, lines: Range<usize>) {
    let mut buffer = LINE.take();
    let across = pass.across;
    let width = across.size.next_multiple_of(LANES);
    // [sixteen words][width]
    let words = buffer.at_least(LANES * width);
    for index in lines {
        let (sample, line) = (
            index / (1 + pass.lines.len()),
            index % (1 + pass.lines.len()),
        );
        let grid = &pass.layer.grids[pass.samples.start + sample];
        // SAFETY: there is room for all lines, and this one is the task's.
        let to = unsafe {
            let start = pass.laid_out.0.add(sample * pass.sample + line * pass.line);
            std::slice::from_raw_parts_mut(start, pass.line)
        };
        if line == 0 {
            to.fill(grid.nothing());
            continue;
        }
        let (before, rest) = to.split_at_mut(across.before() * pass.pixel);
        let (pixels, after) = rest.split_at_mut(across.size * pass.pixel);
        before.fill(grid.nothing());
        after.fill(grid.nothing());
        for first in (0..pass.pixel).step_by(LANES) {
            // SAFETY: the caller grants the instruction set, and sixteen words of each pixel begin there.
            unsafe {
                for (word, to) in words.chunks_exact_mut(width).enumerate() {
                    let row = [sample + pass.samples.start, pass.lines.start + line - 1];
                    round::<S>(pass.layer, row, (first + word) * 4, to);
                }
                for column in (0..across.size).step_by(LANES) {
                    let mut vectors = [S::splat(0.0); LANES];
                    for (word, vector) in vectors.iter_mut().enumerate() {
                        *vector = S::load(words.as_ptr().add(word * width + column).cast());
                    }
                    S::transpose(&mut vectors);
                    let count = LANES.min(across.size - column);
                    for (i, vector) in vectors.iter().enumerate().take(count) {
                        let to = pixels.as_mut_ptr().add((column + i) * pass.pixel + first);
                        S::store(to.cast(), *vector);
                    }
                }
            }
        }
    }
    LINE.set(buffer);
}

/// Rounds a row of four channels to codes, from `channel` on. What lies behind the last has no weights, and may be any code.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`, and there must be a word for each pixel of the row, in whole vectors.
#[inline(always)]
unsafe fn round<S: Lanes>(
    layer: &Layer<'_>,
    [sample, row]: [usize; 2],
    channel: usize,
    to: &mut [u32],
) {
    let [height, width] = layer.frame.size;
    let depth = layer.panels.depth();
    let count = depth.saturating_sub(channel).min(4);
    if count == 0 {
        to.fill(0);
        return;
    }
    let at = sample * depth + channel;
    let from = layer.input[(at * height + row) * width..].as_ptr();
    // SAFETY: the caller grants the instruction set and the room; so many channels are read, each a row.
    unsafe {
        let rounding = Rounding::<S>::new(&layer.grids[sample]);
        let mut affine = [[S::splat(1.0), S::splat(0.0)]; 4];
        if let Some(it) = layer.prologue {
            for (i, affine) in affine.iter_mut().enumerate().take(count) {
                *affine = [S::splat(it.scale[at + i]), S::splat(it.shift[at + i])];
            }
        }
        for column in (0..width).step_by(LANES) {
            let mut codes = [S::splat(0.0); 4];
            for (i, code) in codes.iter_mut().enumerate().take(count) {
                let from = from.add(i * height * width + column);
                let mut x = if column + LANES <= width {
                    S::load(from)
                } else {
                    let mut padded = [0.0; LANES];
                    padded.as_mut_ptr().copy_from(from, width - column);
                    S::load(padded.as_ptr())
                };
                if let Some(it) = layer.prologue {
                    x = activate::<S>(it.activation, S::mul_add(x, affine[i][0], affine[i][1]));
                }
                *code = rounding.codes(x);
            }
            let words = S::words_of_bytes(codes);
            S::store(to.as_mut_ptr().add(column).cast(), S::as_f32(words));
        }
    }
}

#[inline(always)]
unsafe fn multiply_bytes<S: Lanes>(part: &Part<'_>, sums: &mut [f32]) {
    let panels = part.pass.layer.panels;
    let taps = panels.taps();
    for chunk in panels.chunks(0..panels.depth_words()) {
        // Taps of few words go together: weights that stay in the first cache, too.
        let together = (CHUNK / chunk.len()).clamp(1, taps);
        for tap in (0..taps).step_by(together) {
            let end = taps.min(tap + together);
            // SAFETY: the caller grants the instruction set.
            unsafe { part.multiply::<S, { format::BYTES }>(&chunk, tap..end, sums) };
        }
    }
}

#[inline(always)]
unsafe fn multiply_half_bytes<S: Lanes>(part: &Part<'_>, sums: &mut [f32]) {
    let panels = part.pass.layer.panels;
    for chunk in panels.chunks(0..panels.depth_words()) {
        for tap in 0..panels.taps() {
            // SAFETY: the caller grants the instruction set.
            unsafe { part.multiply::<S, { format::HALF_BYTES }>(&chunk, tap..tap + 1, sums) };
        }
    }
}

impl Part<'_> {
    /// Adds the products of a chunk of depth, at some taps whose weights lie in a row; the first write over what is there.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    unsafe fn multiply<S: Lanes, const FORMAT: u8>(
        &self,
        chunk: &Range<usize>,
        taps: Range<usize>,
        sums: &mut [f32],
    ) {
        let (pass, panels) = (self.pass, self.pass.layer.panels);
        let (phases, step) = pass.across.phases();
        let [first, end] = self.block.columns;
        let words_a_word = if FORMAT == format::HALF_BYTES { 2 } else { 1 };
        let at = self.panels.start * panels.panel_words()
            + panels.place(chunk.start, taps.start) * LANES;
        let weights = panels.words()[at..].as_ptr();
        let scales = if FORMAT == format::HALF_BYTES {
            panels.scales_of(self.panels.start, chunk.start, taps.start)
        } else {
            std::ptr::null()
        };
        for (index, places) in self.taps.chunks_exact(panels.taps()).enumerate() {
            let (row, phase) = (index / phases, index % phases);
            let columns = (end - first).saturating_sub(phase).div_ceil(phases);
            let sum = (row * (end - first) + phase) * LANES;
            // SAFETY: the caller grants the instruction set. The panels have these weights; what the taps see is laid out;
            // and each panel has sums for all outputs of the block.
            unsafe {
                let tile = Tile {
                    weights,
                    scales,
                    panel: panels.panel_words(),
                    depth: chunk.len(),
                    inputs: pass.laid_out.0.add(chunk.start * words_a_word),
                    row: step * pass.pixel,
                    sums: sums.as_mut_ptr().wrapping_add(sum),
                    next_panel: self.next_panel,
                    next_position: phases * LANES,
                    first: chunk.start == 0 && taps.start == 0,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover_taps::<S, FORMAT>(&places[taps.clone()], self.panels.len(), columns);
            }
        }
    }
}

/// Makes outputs of the sums, and writes them.
#[inline(always)]
unsafe fn finish<S: Lanes>(part: &Part<'_>, sums: &mut [f32]) {
    let (block, layer) = (part.block, part.pass.layer);
    let [first, end] = block.columns;
    let precision = layer.panels.precision();
    for (panel, sums) in part.panels.clone().zip(sums.chunks_exact(part.next_panel)) {
        // SAFETY: the caller grants the instruction set and the outputs of the block.
        unsafe {
            let finish = Finish::<S>::new(layer, panel, block.sample);
            let mut from = sums.as_ptr();
            for row in block.rows[0]..block.rows[1] {
                for column in (first..end).step_by(LANES) {
                    let count = LANES.min(end - column);
                    let mut values = [S::splat(0.0); LANES];
                    for value in values.iter_mut().take(count) {
                        *value = finish.decode(precision, from);
                        from = from.add(LANES);
                    }
                    layer.finish::<S>(&finish, values, [row, column], count);
                }
            }
        }
    }
}
