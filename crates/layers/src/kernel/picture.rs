//! Convolutions over pictures, with what may come before and after.
//!
//! Where weights are codes, `pixels` computes them. Here outputs are computed in quads: four neighbours, or four
//! neighbouring tiles of four by four. What the products read of the input is laid out quad by quad, for some rows of quads
//! at a time, so that memory stays bounded; the products then read weights and inputs alike from their first word to their
//! last.

use std::cell::Cell;
use std::ops::Range;

use rayon::prelude::*;

use super::Level;
use super::codes::{Extent, Grid};
use super::elementwise::{Activation, activate};
use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::memory::Words;
use super::panels::{CHUNK, Panels, Precision, chunks};
use super::product::{Epilogue, Film, Shared, lanes_of};
use super::tile::{Tile, format};
use super::{pixels, winograd};

/// How many outputs, or tiles of outputs, are computed side by side.
pub(super) const QUAD: usize = 4;
/// How many quads of inputs lie together: with as many weights as they meet, they stay in the second cache.
pub(super) const BLOCK: usize = 16;
/// How many panels of weights meet a block at a time: as many as the registers hold beside a quad.
pub(super) const PANELS: usize = 4;
/// How many blocks meet the same weights in turn, and so share the work of transforming them.
const BLOCKS: usize = 4;
/// The most words of input that are laid out at a time: 16 MiB.
const LAID_OUT: usize = 1 << 22;
/// How many words of distance keep what lies a power of two apart out of the same lines of a cache.
pub(super) const STAGGER: usize = 16;
/// The most tasks a thread gets.
const TASKS_A_THREAD: usize = 4;
/// How many channels are laid out together, so that whole lines of a cache are written. Two neighbours may share a word.
pub(super) const TOGETHER: usize = 4;
/// How many channels are worth a task of their own.
const CHANNELS_A_TASK: usize = 8;

/// What an output sees: `y[r, c] = Σ_j,k W[j, k] x[stride₀ · r + j - padding₀, stride₁ · c + k - padding₁]`, with `x` zero
/// outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// The height and the width of the input.
    pub(crate) size: [usize; 2],
    /// The rows and the columns of the kernel.
    pub(crate) taps: [usize; 2],
    /// The distance between the inputs of two outputs.
    pub(crate) stride: [usize; 2],
    /// How many zeros are added on each side.
    pub(crate) padding: [usize; 2],
    /// Whether each pixel of the input counts as two by two.
    pub(crate) doubled: bool,
}

impl Frame {
    /// The height and the width of what is convolved.
    fn seen(&self) -> [usize; 2] {
        self.size.map(|n| if self.doubled { 2 * n } else { n })
    }

    /// The height and the width of the output.
    ///
    /// # Panics
    ///
    /// If the input with its padding is smaller than the kernel.
    pub(crate) fn output(&self) -> [usize; 2] {
        let seen = self.seen();
        std::array::from_fn(|axis| {
            let padded = seen[axis] + 2 * self.padding[axis];
            assert!(
                padded >= self.taps[axis],
                "a kernel of {:?} does not fit into a picture of {seen:?} with a padding of {:?}",
                self.taps,
                self.padding
            );
            (padded - self.taps[axis]) / self.stride[axis] + 1
        })
    }
}

/// What comes before the convolution: `activation(scale · x + shift)` for each channel of each sample.
///
/// The zeros around the picture stay zeros.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prologue<'a> {
    /// `[batch, channels]`
    pub(crate) scale: &'a [f32],
    /// `[batch, channels]`
    pub(crate) shift: &'a [f32],
    /// Activates.
    pub(crate) activation: Activation,
}

/// Computes `epilogue(W * prologue(x))` into `output`, both `[batch, channels, height, width]`.
///
/// Kernels of three by three that do not stride are computed as Winograd's minimal filters where the picture is not tiny and
/// weights are not codes: a quarter of the products. It changes sums by a few roundings more, and spreads what is not finite
/// over the tiles of four by four outputs that see it.
///
/// # Panics
///
/// If slices are not as long as the shapes say, the epilogue normalizes, or this CPU does not have the level.
#[allow(clippy::too_many_arguments)] // Two tensors, and what happens before, between and after them.
pub(crate) fn convolve(
    level: Level,
    panels: &Panels,
    frame: &Frame,
    batch: usize,
    input: &[f32],
    prologue: Option<&Prologue<'_>>,
    output: &mut [f32],
    epilogue: &Epilogue<'_>,
) {
    // Whole codes are multiplied four times as fast as numbers: a quarter of the products gains nothing, and its transforms
    // would need more bits.
    let method = if winograd::suits(frame) && !panels.precision().is_codes() {
        Method::Winograd
    } else {
        Method::Direct
    };
    convolve_by(
        method, level, panels, frame, batch, input, prologue, output, epilogue,
    );
}

/// How a convolution is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    /// As it is defined.
    Direct,
    /// By minimal filters.
    Winograd,
}

#[allow(clippy::too_many_arguments)] // As `convolve`.
pub(super) fn convolve_by(
    method: Method,
    level: Level,
    panels: &Panels,
    frame: &Frame,
    batch: usize,
    input: &[f32],
    prologue: Option<&Prologue<'_>>,
    output: &mut [f32],
    epilogue: &Epilogue<'_>,
) {
    let (depth, rows) = (panels.depth(), panels.rows());
    let [height, width] = frame.output();
    let [taps_down, taps_across] = frame.taps;
    assert!(depth > 0, "a convolution needs inputs");
    assert_eq!(
        panels.taps(),
        taps_down * taps_across,
        "weights for each tap"
    );
    assert_eq!(
        input.len(),
        batch * depth * frame.size[0] * frame.size[1],
        "a picture for each channel of each sample"
    );
    assert_eq!(
        output.len(),
        batch * rows * height * width,
        "a picture for each channel of each sample"
    );
    check(prologue, epilogue, batch, panels, output.len());
    if output.is_empty() {
        return;
    }
    let layer = &Layer {
        panels,
        frame,
        input,
        prologue,
        epilogue,
        output: Shared(output.as_mut_ptr()),
        size: [height, width],
        grids: grids(level, panels, frame, batch, input, prologue),
    };
    if panels.precision().is_codes() {
        pixels::convolve(level, layer, batch);
        return;
    }
    let products = match method {
        Method::Winograd => winograd::PRODUCTS,
        Method::Direct => 1,
    };
    let words = match method {
        Method::Winograd => depth.next_multiple_of(TOGETHER),
        Method::Direct => {
            panels.depth_words() * panels.precision().numbers_a_word() * panels.taps()
        }
    };
    let (down, across) = match method {
        Method::Winograd => (
            height.div_ceil(winograd::TILE),
            width.div_ceil(winograd::TILE * QUAD),
        ),
        Method::Direct => (height, width.div_ceil(QUAD)),
    };
    let quad = words * QUAD + STAGGER;
    let product = BLOCK * quad + STAGGER;
    let at_a_time = (LAID_OUT / (across * products * quad)).clamp(1, batch * down);
    let mut job = Job {
        method,
        layer,
        down,
        across,
        lines: 0..0,
        laid_out: Shared(std::ptr::null_mut()),
        quad,
        product,
        block: products * product,
    };
    let mut laid_out = LAID_OUT_INPUTS.take();
    let blocks = (at_a_time * across).div_ceil(BLOCK);
    job.laid_out = Shared(laid_out.floats(blocks * job.block).as_mut_ptr());
    for first in (0..batch * down).step_by(at_a_time) {
        job.lines = first..(first + at_a_time).min(batch * down);
        job.run(level);
    }
    LAID_OUT_INPUTS.set(laid_out);
}

/// How each sample is rounded to codes, where weights are codes.
fn grids(
    level: Level,
    panels: &Panels,
    frame: &Frame,
    batch: usize,
    input: &[f32],
    prologue: Option<&Prologue<'_>>,
) -> Vec<Grid> {
    let size = frame.size[0] * frame.size[1];
    if !panels.precision().is_codes() || size == 0 {
        return Vec::new();
    }
    let extent = |(at, picture): (usize, &[f32])| {
        let extent = Extent::new(level, picture);
        match prologue {
            Some(it) => extent.through(it.activation, [it.scale[at], it.shift[at]]),
            None => extent,
        }
    };
    let mut extents = vec![Extent::EMPTY; batch * panels.depth()];
    (input.par_chunks_exact(size).enumerate().map(extent)).collect_into_vec(&mut extents);
    let samples = extents.chunks_exact(panels.depth());
    samples
        .map(|sample| Grid::new(sample.iter().fold(Extent::EMPTY, |all, it| all.and(*it))))
        .collect()
}

fn check(
    prologue: Option<&Prologue<'_>>,
    epilogue: &Epilogue<'_>,
    batch: usize,
    panels: &Panels,
    output: usize,
) {
    let (depth, rows) = (panels.depth(), panels.rows());
    if let Some(it) = prologue {
        assert!(
            it.scale.len() == batch * depth && it.shift.len() == batch * depth,
            "a scale and a shift for each channel of each sample"
        );
    }
    assert!(
        epilogue.normalization.is_none(),
        "a picture's normalization comes before the next convolution"
    );
    if let Some(bias) = epilogue.bias {
        assert!(bias.len() >= rows, "one value for each channel");
    }
    if let Some(film) = &epilogue.film {
        for slice in film.scale.iter().chain([&film.shift]) {
            assert!(
                batch == 0 || slice.len() >= (batch - 1) * film.sample + rows,
                "modulation for each channel of each sample"
            );
        }
    }
    if let Some(residual) = epilogue.residual {
        assert_eq!(residual.len(), output, "the residual is like the output");
    }
}

thread_local! {
    /// Memory that is used again: inputs as they are laid out, weights as they are transformed, and sums.
    static LAID_OUT_INPUTS: Cell<Words> = Cell::new(Words::zeros(0));
    static WEIGHTS: Cell<Words> = Cell::new(Words::zeros(0));
    static SUMS: Cell<Words> = Cell::new(Words::zeros(0));
}

/// A convolution: what it reads, and what it writes.
pub(super) struct Layer<'a> {
    pub(super) panels: &'a Panels,
    pub(super) frame: &'a Frame,
    /// `[batch, channels, height, width]`
    pub(super) input: &'a [f32],
    pub(super) prologue: Option<&'a Prologue<'a>>,
    epilogue: &'a Epilogue<'a>,
    output: Shared,
    /// The height and the width of the output.
    pub(super) size: [usize; 2],
    /// How each sample is rounded to codes, where it is.
    pub(super) grids: Vec<Grid>,
}

/// A convolution of numbers, and which of its lines of quads are computed now.
pub(super) struct Job<'a> {
    method: Method,
    pub(super) layer: &'a Layer<'a>,
    /// How many lines of quads a sample has.
    pub(super) down: usize,
    /// How many quads a line has.
    pub(super) across: usize,
    /// The lines of all samples that are computed now.
    pub(super) lines: Range<usize>,
    /// ```text
    /// [block][product][quad][words][4]
    /// ```
    laid_out: Shared,
    /// Between two quads.
    pub(super) quad: usize,
    /// Between two products.
    pub(super) product: usize,
    /// Between two blocks.
    block: usize,
}

impl Job<'_> {
    fn run(&self, level: Level) {
        let depth = self.layer.panels.depth();
        let threads = rayon::current_num_threads();
        let channels = CHANNELS_A_TASK
            .max(depth.div_ceil(threads * TASKS_A_THREAD))
            .next_multiple_of(TOGETHER);
        let job = self;
        let lay_out = |task: usize| {
            let range = task * channels..depth.min((task + 1) * channels);
            run_on!(level, lay_out(job: &Job<'_>, range: Range<usize>));
        };
        let quads = self.lines.len() * self.across;
        let units = quads.div_ceil(BLOCK) * self.layer.panels.count().div_ceil(PANELS);
        let tasks = units.min(threads * TASKS_A_THREAD);
        let compute = |task: usize| {
            job.compute(level, units * task / tasks..units * (task + 1) / tasks);
        };
        let parts = depth.div_ceil(channels);
        if threads == 1 {
            (0..parts).for_each(lay_out);
            (0..tasks).for_each(compute);
        } else {
            (0..parts).into_par_iter().with_max_len(1).for_each(lay_out);
            (0..tasks).into_par_iter().with_max_len(1).for_each(compute);
        }
    }

    /// Where a quad's words begin: `line` counts from the first that is computed now.
    ///
    /// # Safety
    ///
    /// The quad must be one of those that are computed now.
    pub(super) unsafe fn place(&self, line: usize, quad: usize) -> *mut u32 {
        let index = line * self.across + quad;
        let at = index / BLOCK * self.block + index % BLOCK * self.quad;
        // SAFETY: there is room for all quads that are computed now.
        unsafe { self.laid_out.0.add(at).cast() }
    }
}

impl Layer<'_> {
    /// Reads a row of what is convolved, with its zeros, into `line`: `row` counts from the first row of zeros. The zeros
    /// before and behind a row must be there.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    pub(super) unsafe fn read<S: Lanes>(
        &self,
        sample: usize,
        channel: usize,
        row: usize,
        line: &mut [f32],
    ) {
        let [height, width] = self.frame.size;
        let [seen_height, seen_width] = self.frame.seen();
        let line = &mut line[self.frame.padding[1]..][..seen_width];
        let Some(row) = row
            .checked_sub(self.frame.padding[0])
            .filter(|&row| row < seen_height)
        else {
            line.fill(0.0);
            return;
        };
        let at = sample * self.panels.depth() + channel;
        let row = if self.frame.doubled { row / 2 } else { row };
        let from = &self.input[(at * height + row) * width..][..width];
        let to = &mut line[..width];
        match self.prologue {
            None => to.copy_from_slice(from),
            // SAFETY: the caller grants the instruction set, and both are as wide as the picture.
            Some(it) => unsafe {
                let affine_of = [it.scale[at], it.shift[at]];
                affine::<S>(
                    it.activation,
                    affine_of,
                    from.as_ptr(),
                    to.as_mut_ptr(),
                    width,
                );
            },
        }
        if self.frame.doubled {
            for i in (0..width).rev() {
                (line[2 * i], line[2 * i + 1]) = (line[i], line[i]);
            }
        }
    }

    /// Finishes up to sixteen neighbouring outputs of the channels of a panel, and writes them.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`, and no one else may write these outputs, which must exist.
    #[inline(always)]
    pub(super) unsafe fn finish<S: Lanes>(
        &self,
        finish: &Finish<S>,
        mut values: [S::Vector; LANES],
        [row, column]: [usize; 2],
        count: usize,
    ) {
        let [height, width] = self.size;
        let activation = self.epilogue.activation;
        // SAFETY: the caller grants the instruction set.
        unsafe {
            for y in &mut values {
                *y = activate::<S>(activation, S::add(*y, finish.bias));
            }
            if self.epilogue.film.is_some() {
                for y in &mut values {
                    *y = S::mul_add(*y, finish.scale, finish.shift);
                }
            }
            S::transpose(&mut values);
        }
        let first = (finish.first * height + row) * width + column;
        for (channel, y) in values.iter().take(finish.channels).enumerate() {
            let at = first + channel * height * width;
            // SAFETY: the caller grants the instruction set and `count` outputs from here; the residual is as long as the
            // output.
            unsafe {
                let to = self.output.0.add(at);
                let residual = self.epilogue.residual.map(|it| it.as_ptr().add(at));
                if count == LANES {
                    let y = match residual {
                        Some(residual) => S::add(*y, S::load(residual)),
                        None => *y,
                    };
                    S::store(to, y);
                } else {
                    let mut y_of = [0.0; LANES];
                    S::store(y_of.as_mut_ptr(), *y);
                    for (i, y) in y_of.iter().enumerate().take(count) {
                        let residual = residual.map_or(0.0, |it| *it.add(i));
                        to.add(i).write(y + residual);
                    }
                }
            }
        }
    }
}

/// What the channels of a panel have in common, for one sample.
pub(super) struct Finish<S: Lanes> {
    /// The first output picture.
    first: usize,
    /// How many channels there are.
    channels: usize,
    bias: S::Vector,
    scale: S::Vector,
    shift: S::Vector,
    /// What sums of codes begin with, and what makes numbers of them.
    start: [f32; LANES],
    factor: S::Vector,
}

impl<S: Lanes> Finish<S> {
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`.
    #[inline(always)]
    pub(super) unsafe fn new(layer: &Layer<'_>, panel: usize, sample: usize) -> Self {
        let (row, rows) = (panel * LANES, layer.panels.rows());
        let bias = lanes_of(layer.epilogue.bias, row, 0.0);
        let (scale, shift) = match &layer.epilogue.film {
            Some(Film {
                scale,
                shift,
                sample: distance,
            }) => (
                lanes_of(*scale, sample * distance + row, 1.0),
                lanes_of(Some(shift), sample * distance + row, 0.0),
            ),
            None => ([1.0; LANES], [0.0; LANES]),
        };
        let (start, factor) = match layer.grids.get(sample) {
            Some(grid) => (
                layer.panels.start(&layer.panels.totals(panel), grid),
                layer.panels.factors(panel, grid),
            ),
            None => ([0.0; LANES], [1.0; LANES]),
        };
        // SAFETY: the caller grants the instruction set.
        unsafe {
            Self {
                first: sample * rows + row,
                channels: LANES.min(rows - row),
                bias: S::load(bias.as_ptr()),
                scale: S::load(scale.as_ptr()),
                shift: S::load(shift.as_ptr()),
                start,
                factor: S::load(factor.as_ptr()),
            }
        }
    }

    /// A number of a sum.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`, and there must be sixteen sums.
    #[inline(always)]
    pub(super) unsafe fn decode(&self, precision: Precision, sum: *const f32) -> S::Vector {
        // SAFETY: the caller grants the instruction set and the sums.
        unsafe {
            match precision {
                Precision::F32 | Precision::Bf16 => S::load(sum),
                Precision::Int8 => {
                    let start = S::load_words(self.start.as_ptr().cast());
                    let sum = S::add_words(S::load_words(sum.cast()), start);
                    S::mul(S::numbers(sum), self.factor)
                }
                Precision::Int4 { .. } => {
                    let sum = S::add(S::load(sum), S::load(self.start.as_ptr()));
                    S::mul(sum, self.factor)
                }
            }
        }
    }
}

/// `to = activation(scale · from + shift)`.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`. So many numbers can be read and written; both may be the same.
#[inline(always)]
pub(super) unsafe fn affine<S: Lanes>(
    activation: Activation,
    [scale, shift]: [f32; 2],
    from: *const f32,
    to: *mut f32,
    count: usize,
) {
    // No closure: it would not be compiled for the instruction set.
    // SAFETY: the caller grants the instruction set, and so many numbers.
    unsafe {
        let (scale, shift) = (S::splat(scale), S::splat(shift));
        let whole = count / LANES * LANES;
        for at in (0..whole).step_by(LANES) {
            let x = S::mul_add(S::load(from.add(at)), scale, shift);
            S::store(to.add(at), activate::<S>(activation, x));
        }
        if whole < count {
            let mut padded = [0.0; LANES];
            padded
                .as_mut_ptr()
                .copy_from(from.add(whole), count - whole);
            let x = S::mul_add(S::load(padded.as_ptr()), scale, shift);
            S::store(padded.as_mut_ptr(), activate::<S>(activation, x));
            to.add(whole).copy_from(padded.as_ptr(), count - whole);
        }
    }
}

/// Lays out some channels of the lines that are computed now.
#[inline(always)]
unsafe fn lay_out<S: Lanes>(job: &Job<'_>, channels: Range<usize>) {
    // SAFETY: the caller grants the instruction set and these channels.
    unsafe {
        match job.method {
            Method::Winograd => winograd::lay_out::<S>(job, channels),
            Method::Direct => lay_out_directly::<S>(job, channels),
        }
    }
}

/// Between the sums of two panels of a block.
const PANEL_SUMS: usize = BLOCK * QUAD * LANES;
/// Between the sums of two products of a block.
pub(super) const PRODUCT_SUMS: usize = PANELS * PANEL_SUMS + STAGGER;

/// A few panels of some blocks, which are computed together.
struct Together {
    panels: Range<usize>,
    blocks: Range<usize>,
    /// Room for transformed weights.
    weights: *mut f32,
    /// `[block][product][panel][quad][4][16 rows]`
    sums: *mut f32,
    /// Between the sums of two blocks.
    block_sums: usize,
}

impl Together {
    /// The sums of a block's product.
    ///
    /// # Safety
    ///
    /// The block must be one of these.
    #[inline(always)]
    unsafe fn sums(&self, block: usize, product: usize) -> *mut f32 {
        let at = (block - self.blocks.start) * self.block_sums + product * PRODUCT_SUMS;
        // SAFETY: there is room for the sums of all blocks.
        unsafe { self.sums.add(at) }
    }
}

impl Job<'_> {
    /// Computes some units, a block of quads and a few panels each: all blocks for the first panels first. No one else may
    /// write these outputs meanwhile.
    fn compute(&self, level: Level, units: Range<usize>) {
        let job = self;
        let blocks = (self.lines.len() * self.across).div_ceil(BLOCK);
        let products = match self.method {
            Method::Winograd => winograd::PRODUCTS,
            Method::Direct => 1,
        };
        let block_sums = products * PRODUCT_SUMS;
        let (mut weights, mut sums) = (WEIGHTS.take(), SUMS.take());
        let mut unit = units.start;
        while unit < units.end {
            let (first, block) = (unit / blocks * PANELS, unit % blocks);
            let many = (units.end - unit).min(blocks - block).min(BLOCKS);
            let room = match self.method {
                Method::Winograd => winograd::PRODUCTS * winograd::PRODUCT_WORDS,
                Method::Direct => 0,
            };
            let together = &Together {
                panels: first..self.layer.panels.count().min(first + PANELS),
                blocks: block..block + many,
                weights: weights.floats(room).as_mut_ptr(),
                sums: sums.floats(many * block_sums).as_mut_ptr(),
                block_sums,
            };
            run_on!(level, multiply_numbers(job: &Job<'_>, together: &Together));
            run_on!(level, finish(job: &Job<'_>, together: &Together));
            unit += many;
        }
        WEIGHTS.set(weights);
        SUMS.set(sums);
    }

    /// Which quads a block has.
    fn quads_of(&self, block: usize) -> Range<usize> {
        let quads = self.lines.len() * self.across;
        block * BLOCK..quads.min((block + 1) * BLOCK)
    }

    /// The inputs of a block's product.
    ///
    /// # Safety
    ///
    /// The block must be one of those that are computed now.
    #[inline(always)]
    unsafe fn inputs_of(&self, block: usize, product: usize) -> *const u32 {
        let at = block * self.block + product * self.product;
        // SAFETY: there is room for the inputs of all blocks.
        unsafe { self.laid_out.0.add(at).cast_const().cast() }
    }
}

#[inline(always)]
unsafe fn multiply_numbers<S: Lanes>(job: &Job<'_>, together: &Together) {
    let Together {
        panels,
        blocks,
        weights,
        ..
    } = together;
    match job.method {
        Method::Winograd => {
            let room = winograd::PRODUCTS * winograd::PRODUCT_WORDS;
            // SAFETY: there is so much room, and no one else has it.
            let weights = unsafe { std::slice::from_raw_parts_mut(*weights, room) };
            for chunk in winograd::chunks(job.layer.panels.depth()) {
                // SAFETY: the caller grants the instruction set.
                unsafe {
                    winograd::transform_weights::<S>(
                        job.layer.panels,
                        panels.clone(),
                        chunk.clone(),
                        weights,
                    );
                }
                for block in blocks.clone() {
                    for product in 0..winograd::PRODUCTS {
                        // SAFETY: the caller grants the instruction set; weights, inputs and sums are those of the product.
                        unsafe {
                            let weights = weights.as_ptr().add(product * winograd::PRODUCT_WORDS);
                            let weights = weights.cast::<u32>();
                            let inputs = job.inputs_of(block, product).add(chunk.start * QUAD);
                            multiply::<S, { format::F32 }>(
                                job,
                                weights,
                                [panels.len(), winograd::PANEL_WORDS, chunk.len()],
                                (inputs, job.quads_of(block).len()),
                                together.sums(block, product),
                                chunk.start == 0,
                            );
                        }
                    }
                }
            }
        }
        Method::Direct => {
            let panel = job.layer.panels.panel_words();
            let weights = &job.layer.panels.words()[panels.start * panel..];
            let (weights, size) = (weights.as_ptr(), [panels.len(), panel, panel / LANES]);
            for block in blocks.clone() {
                // SAFETY: as above.
                unsafe {
                    let inputs = (job.inputs_of(block, 0), job.quads_of(block).len());
                    let sums = together.sums(block, 0);
                    if job.layer.panels.precision() == Precision::Bf16 {
                        multiply::<S, { format::WIDENED }>(job, weights, size, inputs, sums, true);
                    } else {
                        multiply::<S, { format::F32 }>(job, weights, size, inputs, sums, true);
                    }
                }
            }
        }
    }
}

/// What follows the products. It is the same for all formats, and compiled apart from them.
#[inline(always)]
unsafe fn finish<S: Lanes>(job: &Job<'_>, together: &Together) {
    for block in together.blocks.clone() {
        for (index, panel) in together.panels.clone().enumerate() {
            // SAFETY: the caller grants the instruction set and the outputs of the panels and blocks.
            unsafe {
                let sums = together.sums(block, 0).add(index * PANEL_SUMS);
                let (quads, sums) = (job.quads_of(block), sums.cast_const());
                match job.method {
                    Method::Winograd => winograd::finish::<S>(job, panel, quads, sums),
                    Method::Direct => finish_directly::<S>(job, panel, quads, sums),
                }
            }
        }
    }
}

/// Adds the products of some panels with some quads to the sums, `[panel][quad][4][16 rows]`; the first write over what is
/// there.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`; there must be as many panels of so many words, quads, and sums.
#[inline(always)]
unsafe fn multiply<S: Lanes, const FORMAT: u8>(
    job: &Job<'_>,
    weights: *const u32,
    [panels, panel, words]: [usize; 3],
    (inputs, quads): (*const u32, usize),
    sums: *mut f32,
    first: bool,
) {
    let rows_a_word = if FORMAT == format::WIDENED { 2 } else { 1 };
    for chunk in chunks(0..words) {
        for quad in 0..quads {
            // SAFETY: the caller grants all of it: the panels have this chunk, a quad has `rows_a_word` rows of four for each
            // word, and each panel has four vectors of sums a quad.
            unsafe {
                let tile = Tile {
                    weights: weights.add(chunk.start * LANES),
                    scales: std::ptr::null(),
                    panel,
                    depth: chunk.len(),
                    inputs: inputs.add(quad * job.quad + chunk.start * rows_a_word * QUAD),
                    row: QUAD,
                    sums: sums.add(quad * QUAD * LANES),
                    next_panel: PANEL_SUMS,
                    next_position: LANES,
                    first: first && chunk.start == 0,
                    turn: usize::MAX,
                    jump: 0,
                };
                tile.cover_quad::<S, FORMAT>(panels);
            }
        }
    }
}

/// The words of a quad are the panels': for each word of weights the inputs that they meet.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`, and no one else may write these channels.
#[inline(always)]
unsafe fn lay_out_directly<S: Lanes>(job: &Job<'_>, channels: Range<usize>) {
    let [taps_down, taps_across] = job.layer.frame.taps;
    let [stride_down, stride_across] = job.layer.frame.stride;
    let taps = taps_down * taps_across;
    let numbers = job.layer.panels.precision().numbers_a_word();
    let depth_words = job.layer.panels.depth_words();
    let length = (job.across * QUAD - 1) * stride_across + taps_across;
    let length = length.max(job.layer.frame.padding[1] + job.layer.frame.seen()[1]);
    // [channel][row], the rows going round
    let mut rows = vec![0.0; TOGETHER * taps_down * length];
    // The second half of the last word, where the depth is odd, is zero.
    let end = if channels.end == job.layer.panels.depth() {
        depth_words * numbers
    } else {
        channels.end
    };
    for first_channel in (channels.start..end).step_by(TOGETHER) {
        let together = TOGETHER.min(end - first_channel);
        // Which row each place holds; none yet.
        let mut held = vec![(usize::MAX, 0); taps_down];
        for (line, index) in job.lines.clone().enumerate() {
            let (sample, first) = (index / job.down, index % job.down * stride_down);
            for row in first..first + taps_down {
                let place = row % taps_down;
                if held[place] == (sample, row) {
                    continue;
                }
                held[place] = (sample, row);
                for channel in 0..together {
                    let to = &mut rows[(channel * taps_down + place) * length..][..length];
                    if first_channel + channel < job.layer.panels.depth() {
                        let channel = first_channel + channel;
                        // SAFETY: the caller grants the instruction set.
                        unsafe { job.layer.read::<S>(sample, channel, row, to) };
                    } else {
                        to.fill(0.0);
                    }
                }
            }
            for quad in 0..job.across {
                // SAFETY: the quad is computed now.
                let place = unsafe { job.place(line, quad) };
                for tap in 0..taps {
                    let row = (first + tap / taps_across) % taps_down;
                    let start = quad * QUAD * stride_across + tap % taps_across;
                    for channel in 0..together {
                        let from = &rows[(channel * taps_down + row) * length..][..length];
                        let mut four = [0.0; QUAD];
                        for (n, x) in four.iter_mut().enumerate() {
                            *x = from[start + n * stride_across];
                        }
                        let channel = first_channel + channel;
                        let word = channel / numbers;
                        let chunk = word / CHUNK * CHUNK;
                        let chunk_words = CHUNK.min(depth_words - chunk);
                        let at = chunk * taps + tap * chunk_words + word - chunk;
                        let at = at * numbers + channel % numbers;
                        // SAFETY: a quad has room for four inputs of each number of each word, and this channel's are
                        // this task's.
                        unsafe {
                            let place = place.add(at * QUAD).cast::<[f32; QUAD]>();
                            place.write_unaligned(four);
                        }
                    }
                }
            }
        }
    }
}

/// Writes the outputs of some quads.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`; there must be four vectors of sums a quad, and no one else may write these
/// outputs.
#[inline(always)]
unsafe fn finish_directly<S: Lanes>(
    job: &Job<'_>,
    panel: usize,
    quads: Range<usize>,
    sums: *const f32,
) {
    let [_, width] = job.layer.size;
    let mut quad = quads.start;
    while quad < quads.end {
        let (line, column) = (quad / job.across, quad % job.across);
        let (sample, row) = {
            let line = job.lines.start + line;
            (line / job.down, line % job.down)
        };
        // As many quads of the same line as a vector holds.
        let together = (job.across - column)
            .min(quads.end - quad)
            .min(LANES / QUAD);
        let count = (together * QUAD).min(width - column * QUAD);
        // SAFETY: the caller grants the instruction set, the sums, and the outputs, of which `count` lie in the row.
        unsafe {
            let from = sums.add((quad - quads.start) * QUAD * LANES);
            let finish = Finish::<S>::new(job.layer, panel, sample);
            let mut values = [S::splat(0.0); LANES];
            for (i, value) in values.iter_mut().enumerate().take(together * QUAD) {
                *value = finish.decode(job.layer.panels.precision(), from.add(i * LANES));
            }
            job.layer
                .finish::<S>(&finish, values, [row, column * QUAD], count);
        }
        quad += together;
    }
}

#[cfg(test)]
mod tests;
