//! Sums of matrix products over time or over pictures: convolutions, transposed ones and linear layers, and their gradients.

use rayon::prelude::*;

use super::super::lanes::{LANES, Lanes};
use super::super::level::run_on;
use super::super::{Frame, Level};
use super::Shared;

/// How many outputs a panel of weights has: two vectors.
const WIDTH: usize = 2 * LANES;
/// How many samples are multiplied with a panel at a time, where there are vectors for their sums. 128 samples are ten
/// blocks of 13 with two samples computed twice; ten of 14 would compute twelve twice.
const ROWS: usize = 13;
/// The same with half as many registers.
const FEW_ROWS: usize = 3;
/// How many channels of a panel are laid out at a time.
const DEPTH: usize = 8;
/// How many numbers are worth a task of their own when they are only moved.
const GRAIN: usize = 1 << 14;

/// Which input time meets which output time at which tap.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Links {
    /// How many times there are: outputs and inputs.
    times: [usize; 2],
    taps: usize,
    /// Output, input, tap.
    all: Vec<[usize; 3]>,
}

impl Links {
    /// Of a convolution: output `t` meets input `stride · t + tap - padding`.
    ///
    /// # Panics
    ///
    /// If the input with its padding is shorter than the kernel, or the stride is zero.
    pub(crate) fn convolution(length: usize, taps: usize, stride: usize, padding: usize) -> Self {
        assert!(
            length + 2 * padding >= taps,
            "{length} time steps padded by {padding} are shorter than {taps} taps"
        );
        let times = (length + 2 * padding - taps) / stride + 1;
        let all = (0..times)
            .flat_map(|t| (0..taps).map(move |tap| [t, stride * t + tap, tap]))
            .filter(|[_, s, _]| (padding..length + padding).contains(s))
            .map(|[t, s, tap]| [t, s - padding, tap])
            .collect();
        Self {
            times: [times, length],
            taps,
            all,
        }
    }

    /// Of a transposed convolution: output `stride · s + tap - padding` meets input `s`.
    pub(crate) fn transposed(length: usize, taps: usize, stride: usize, padding: usize) -> Self {
        let times = (stride * length.saturating_sub(1) + taps).saturating_sub(2 * padding);
        let all = (0..length)
            .flat_map(|s| (0..taps).map(move |tap| [stride * s + tap, s, tap]))
            .filter(|[t, _, _]| (padding..times + padding).contains(t))
            .map(|[t, s, tap]| [t - padding, s, tap])
            .collect();
        Self {
            times: [times, length],
            taps,
            all,
        }
    }

    /// Of a convolution over pictures: positions are numbered row by row, and taps are those of the kernel, row by row.
    ///
    /// # Panics
    ///
    /// If the input with its padding is smaller than the kernel, or a stride is zero.
    pub(crate) fn pictures(frame: &Frame) -> Self {
        let Frame {
            size: [height, width],
            taps: [rows, columns],
            stride,
            padding,
            doubled,
        } = *frame;
        let [height_out, width_out] = frame.output();
        // Where an output's tap reads along an axis; nothing in the padding.
        let reads = |axis: usize, output: usize, tap: usize, size: usize| {
            let place = (stride[axis] * output + tap).checked_sub(padding[axis])?;
            let place = if doubled { place / 2 } else { place };
            (place < size).then_some(place)
        };
        let mut all = Vec::new();
        for (r, c) in (0..height_out).flat_map(|r| (0..width_out).map(move |c| (r, c))) {
            for (j, k) in (0..rows).flat_map(|j| (0..columns).map(move |k| (j, k))) {
                if let (Some(row), Some(column)) = (reads(0, r, j, height), reads(1, c, k, width)) {
                    all.push([r * width_out + c, row * width + column, j * columns + k]);
                }
            }
        }
        Self {
            times: [height_out * width_out, height * width],
            taps: rows * columns,
            all,
        }
    }

    /// How many output times there are.
    pub(crate) fn outputs(&self) -> usize {
        self.times[0]
    }

    /// What output (`SIDE` 0) or input (1) times meet, in a fixed order: the other time, and the tap.
    fn of<const SIDE: usize>(&self) -> Vec<Vec<(usize, usize)>> {
        let mut of = vec![Vec::new(); self.times[SIDE]];
        for link in &self.all {
            of[link[SIDE]].push((link[1 - SIDE], link[2]));
        }
        of
    }
}

/// How weights lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `[output, input, tap]`, as a convolution's.
    OutputFirst,
    /// `[input, output, tap]`, as a transposed convolution's.
    InputFirst,
}

/// `y[t, b, o] = bias[o] + Σ W[o, i, tap] x[s, b, i]`, over the links `(t, s, tap)` and all `i`.
///
/// Features are `[time, sample, channel]`.
#[derive(Debug)]
pub(crate) struct Correlation<'a> {
    /// How many samples there are.
    pub(crate) samples: usize,
    /// How many output channels there are.
    pub(crate) outputs: usize,
    /// How many input channels there are.
    pub(crate) inputs: usize,
    /// Which times meet.
    pub(crate) links: &'a Links,
    /// How the weights lie.
    pub(crate) order: Order,
}

impl Correlation<'_> {
    /// The distances between two output channels and between two input channels.
    fn strides(&self) -> (usize, usize) {
        let taps = self.links.taps;
        match self.order {
            Order::OutputFirst => (self.inputs * taps, taps),
            Order::InputFirst => (taps, self.outputs * taps),
        }
    }

    /// Computes `y`.
    ///
    /// # Panics
    ///
    /// If a slice has another length than its shape says, or this CPU does not have the level.
    pub(crate) fn forward(
        &self,
        level: Level,
        x: &[f32],
        weight: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) {
        assert!(
            bias.is_none_or(|it| it.len() == self.outputs),
            "a bias for each output"
        );
        let (output, input) = self.strides();
        let panels = self.panels(weight, (self.inputs, input), (self.outputs, output));
        let links = self.links.of::<0>();
        self.sweep(level, &links, (x, self.inputs), &panels, bias, y);
    }

    /// Computes `dx` of `dy`: the same sum, backwards.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn backward_input(&self, level: Level, dy: &[f32], weight: &[f32], dx: &mut [f32]) {
        let (output, input) = self.strides();
        let panels = self.panels(weight, (self.outputs, output), (self.inputs, input));
        let links = self.links.of::<1>();
        self.sweep(level, &links, (dy, self.outputs), &panels, None, dx);
    }

    /// Lays weights out as `[panel, tap, depth, WIDTH]`, with zeros where a panel has fewer outputs.
    fn panels(
        &self,
        weight: &[f32],
        (depth, depth_stride): (usize, usize),
        (rows, row_stride): (usize, usize),
    ) -> Vec<f32> {
        let taps = self.links.taps;
        assert_eq!(
            weight.len(),
            rows * depth * taps,
            "a weight for each pair of channels and each tap"
        );
        let mut panels = vec![0.0; rows.div_ceil(WIDTH) * taps * depth * WIDTH];
        panels
            .par_chunks_mut(taps * depth * WIDTH)
            .enumerate()
            .for_each(|(panel, to)| {
                let first = panel * WIDTH;
                // In blocks of depth that stay in the first cache, whichever way they are read.
                for block in (0..depth).step_by(DEPTH) {
                    let depths = block..depth.min(block + DEPTH);
                    for (lane, row) in (first..rows.min(first + WIDTH)).enumerate() {
                        for d in depths.clone() {
                            let from = &weight[row * row_stride + d * depth_stride..][..taps];
                            for (tap, x) in from.iter().enumerate() {
                                to[(tap * depth + d) * WIDTH + lane] = *x;
                            }
                        }
                    }
                }
            });
        panels
    }

    fn sweep(
        &self,
        level: Level,
        links: &[Vec<(usize, usize)>],
        (x, depth): (&[f32], usize),
        panels: &[f32],
        bias: Option<&[f32]>,
        y: &mut [f32],
    ) {
        let (samples, taps) = (self.samples, self.links.taps);
        let n_panels = panels.len() / (taps * depth * WIDTH);
        let width = y.len() / (links.len() * samples).max(1);
        let last = links.iter().flatten().map(|(s, _)| s + 1).max();
        assert!(
            y.len() == links.len() * samples * width
                && width.div_ceil(WIDTH) == n_panels
                && x.len() >= last.unwrap_or(0) * samples * depth,
            "features as many as their shape says"
        );
        let output = Shared(y.as_mut_ptr());
        // The times of a panel one after the other: the panel stays in the cache.
        (0..n_panels * links.len())
            .into_par_iter()
            .for_each(|task| {
                let (panel, time) = (task / links.len(), task % links.len());
                let sums = Sums {
                    x,
                    depth,
                    samples,
                    links: &links[time],
                    panel: &panels[panel * taps * depth * WIDTH..][..taps * depth * WIDTH],
                    bias,
                    first: panel * WIDTH,
                    width,
                    // SAFETY: the time's rows lie within `y`, as was asserted.
                    output: Shared(unsafe { output.get().add(time * samples * width) }),
                };
                let sums = &sums;
                run_on!(level, sum_up(sums: &Sums<'_>));
            });
    }

    /// Computes the weights' gradient, laid out as they are.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn backward_weight(&self, level: Level, x: &[f32], dy: &[f32], dw: &mut [f32]) {
        let (samples, taps) = (self.samples, self.links.taps);
        let [times_out, times_in] = self.links.times;
        assert!(
            dy.len() == times_out * samples * self.outputs
                && x.len() == times_in * samples * self.inputs
                && dw.len() == self.outputs * self.inputs * taps,
            "features and weights as many as their shape says"
        );
        // The channels whose weights lie together are in vectors; the others one by one.
        let swapped = self.order == Order::InputFirst;
        let (of_outputs, of_inputs) = ((dy, self.outputs), (x, self.inputs));
        let ((slow, slow_channels), (fast, fast_channels)) = if swapped {
            (of_inputs, of_outputs)
        } else {
            (of_outputs, of_inputs)
        };
        let mut links = vec![Vec::new(); taps];
        for [t, s, tap] in &self.links.all {
            links[*tap].push(if swapped { (*s, *t) } else { (*t, *s) });
        }
        let height = if level_has_many(level) {
            ROWS
        } else {
            FEW_ROWS
        };
        let slow_rows = slow.len() / slow_channels;
        let fast_rows = fast.len() / fast_channels;
        let slow_columns = columns(slow, slow_channels, height);
        let fast_columns = columns(fast, fast_channels, WIDTH);
        let blocks = slow_channels.div_ceil(height);
        let output = Shared(dw.as_mut_ptr());
        (0..blocks * fast_channels.div_ceil(WIDTH))
            .into_par_iter()
            .for_each(|task| {
                let (panel, block) = (task / blocks, task % blocks);
                let outer = Outer {
                    slow: &slow_columns[block * slow_rows * height..][..slow_rows * height],
                    fast: &fast_columns[panel * fast_rows * WIDTH..][..fast_rows * WIDTH],
                    samples,
                    links: &links,
                    first: [block * height, panel * WIDTH],
                    channels: [slow_channels, fast_channels],
                    output,
                };
                let outer = &outer;
                run_on!(level, outer_products(outer: &Outer<'_>));
            });
    }
}

/// The sums of rows of `width` numbers, in f32 by blocks of rows and in f64 over blocks.
///
/// The gradient of a bias, of which each row of `dy` has a part.
pub(crate) fn column_sums(rows: &[f32], width: usize) -> Vec<f32> {
    const BLOCK: usize = 64;
    let mut sums = vec![0.0_f64; width];
    let mut part = vec![0.0_f32; width];
    for block in rows.chunks(BLOCK * width) {
        part.fill(0.0);
        for row in block.chunks_exact(width) {
            for (sum, x) in part.iter_mut().zip(row) {
                *sum += x;
            }
        }
        for (sum, part) in sums.iter_mut().zip(&part) {
            *sum += f64::from(*part);
        }
    }
    sums.into_iter().map(|sum| sum as f32).collect()
}

/// Whether a block of [`ROWS`] by two vectors of sums fits into the registers.
fn level_has_many(level: Level) -> bool {
    level >= Level::Avx512
}

/// Lays `[row, channel]` out as `[channel / width, row, width]`, with zeros beyond the last channel.
fn columns(x: &[f32], channels: usize, width: usize) -> Vec<f32> {
    let rows = x.len() / channels;
    let mut columns = vec![0.0; channels.div_ceil(width) * rows * width];
    let lay = |(panel, to): (usize, &mut [f32])| {
        let first = panel * width;
        let n = width.min(channels - first);
        for (to, row) in to.chunks_exact_mut(width).zip(x.chunks_exact(channels)) {
            to[..n].copy_from_slice(&row[first..first + n]);
        }
    };
    if x.len() < GRAIN {
        columns.chunks_mut(rows * width).enumerate().for_each(lay);
    } else {
        columns
            .par_chunks_mut(rows * width)
            .enumerate()
            .for_each(lay);
    }
    columns
}

/// One time's outputs of a panel, for all samples.
struct Sums<'a> {
    x: &'a [f32],
    depth: usize,
    samples: usize,
    links: &'a [(usize, usize)],
    /// `[tap, depth, WIDTH]`.
    panel: &'a [f32],
    bias: Option<&'a [f32]>,
    first: usize,
    /// How many channels an output row has.
    width: usize,
    /// The time's rows.
    output: Shared,
}

/// # Safety
///
/// The CPU must have the instruction set of `S`, the features must have all times of the links, and nobody else may use
/// the panel's columns of the output's rows.
#[inline(always)]
unsafe fn sum_up<S: Lanes>(sums: &Sums<'_>) {
    // SAFETY: granted by the caller; blocks end at the last sample.
    unsafe {
        if S::SUMS >= 16 && sums.samples >= ROWS {
            sums.blocks::<S, ROWS>();
        } else if sums.samples >= FEW_ROWS {
            sums.blocks::<S, FEW_ROWS>();
        } else {
            sums.blocks::<S, 1>();
        }
    }
}

impl Sums<'_> {
    /// # Safety
    ///
    /// As [`sum_up`]; there are at least `R` samples.
    #[inline(always)]
    unsafe fn blocks<S: Lanes, const R: usize>(&self) {
        let blocks = self.samples.div_ceil(R);
        for block in 0..blocks {
            // The last block ends at the last sample, and computes some outputs once more: the same numbers.
            let first = (block * R).min(self.samples - R);
            // SAFETY: granted by the caller.
            unsafe { self.block::<S, R>(first) };
        }
    }

    /// # Safety
    ///
    /// As [`sum_up`]; samples `first..first + R` exist.
    #[inline(always)]
    unsafe fn block<S: Lanes, const R: usize>(&self, first: usize) {
        // SAFETY: samples and times exist, as the caller grants; a panel has two vectors for each tap and depth. What is
        // stored lies in the panel's columns.
        unsafe {
            let columns = WIDTH.min(self.width - self.first);
            let mut offsets = [0.0; WIDTH];
            if let Some(bias) = self.bias {
                offsets[..columns].copy_from_slice(&bias[self.first..self.first + columns]);
            }
            let offsets = [
                S::load(offsets.as_ptr()),
                S::load(offsets.as_ptr().add(LANES)),
            ];
            let mut sums = [offsets; R];
            for &(time, tap) in self.links {
                let x = self
                    .x
                    .as_ptr()
                    .add((time * self.samples + first) * self.depth);
                let w = self.panel.as_ptr().add(tap * self.depth * WIDTH);
                for d in 0..self.depth {
                    let w = w.add(d * WIDTH);
                    let weights = [S::load(w), S::load(w.add(LANES))];
                    for (r, sums) in sums.iter_mut().enumerate() {
                        let x = S::splat(*x.add(r * self.depth + d));
                        sums[0] = S::mul_add(x, weights[0], sums[0]);
                        sums[1] = S::mul_add(x, weights[1], sums[1]);
                    }
                }
            }
            for (r, sums) in sums.into_iter().enumerate() {
                let to = self.output.get().add((first + r) * self.width + self.first);
                if columns == WIDTH {
                    S::store(to, sums[0]);
                    S::store(to.add(LANES), sums[1]);
                } else {
                    let mut row = [0.0; WIDTH];
                    S::store(row.as_mut_ptr(), sums[0]);
                    S::store(row.as_mut_ptr().add(LANES), sums[1]);
                    to.copy_from_nonoverlapping(row.as_ptr(), columns);
                }
            }
        }
    }
}

/// The gradients of the weights between two sets of channels.
struct Outer<'a> {
    /// `[row, height]`
    slow: &'a [f32],
    /// `[row, WIDTH]`
    fast: &'a [f32],
    samples: usize,
    /// For each tap, which times meet.
    links: &'a [Vec<(usize, usize)>],
    first: [usize; 2],
    channels: [usize; 2],
    /// `[slow, fast, tap]`
    output: Shared,
}

/// # Safety
///
/// The CPU must have the instruction set of `S`, the columns must have all times of the links, and nobody else may use the
/// block's weights.
#[inline(always)]
unsafe fn outer_products<S: Lanes>(outer: &Outer<'_>) {
    // SAFETY: granted by the caller.
    unsafe {
        if S::SUMS >= 16 {
            outer.block::<S, ROWS>();
        } else {
            outer.block::<S, FEW_ROWS>();
        }
    }
}

impl Outer<'_> {
    /// # Safety
    ///
    /// As [`outer_products`]; the slow columns are of height `R`.
    #[inline(always)]
    unsafe fn block<S: Lanes, const R: usize>(&self) {
        let taps = self.links.len();
        let n = [
            R.min(self.channels[0] - self.first[0]),
            WIDTH.min(self.channels[1] - self.first[1]),
        ];
        let mut tile = vec![0.0_f32; R * WIDTH];
        for (tap, links) in self.links.iter().enumerate() {
            // SAFETY: the columns have `samples` rows for each time, as the caller grants; the tile has `R` rows.
            unsafe {
                let mut sums = [[S::splat(0.0); 2]; R];
                for &(slow, fast) in links {
                    let slow = self.slow.as_ptr().add(slow * self.samples * R);
                    let fast = self.fast.as_ptr().add(fast * self.samples * WIDTH);
                    for b in 0..self.samples {
                        let fast = fast.add(b * WIDTH);
                        let vectors = [S::load(fast), S::load(fast.add(LANES))];
                        for (r, sums) in sums.iter_mut().enumerate() {
                            let x = S::splat(*slow.add(b * R + r));
                            sums[0] = S::mul_add(x, vectors[0], sums[0]);
                            sums[1] = S::mul_add(x, vectors[1], sums[1]);
                        }
                    }
                }
                for (r, sums) in sums.into_iter().enumerate() {
                    let to = tile.as_mut_ptr().add(r * WIDTH);
                    S::store(to, sums[0]);
                    S::store(to.add(LANES), sums[1]);
                }
            }
            for (r, tile) in tile.chunks_exact(WIDTH).take(n[0]).enumerate() {
                let row = (self.first[0] + r) * self.channels[1] + self.first[1];
                for (c, x) in tile.iter().take(n[1]).enumerate() {
                    // SAFETY: one of the block's weights, which are this task's.
                    unsafe { *self.output.get().add((row + c) * taps + tap) = *x };
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn levels() -> impl Iterator<Item = Level> {
        Level::ALL.into_iter().filter(|it| it.is_available())
    }

    fn draw(n: usize, seed: f64) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f64 * 12.989 + seed).sin() * 43_758.545).fract() as f32)
            .collect()
    }

    /// The three sums in f64, by their definition.
    fn exact(of: &Correlation<'_>, x: &[f32], w: &[f32], dy: &[f32]) -> [Vec<f64>; 3] {
        let (output, input) = of.strides();
        let mut y = vec![0.0; dy.len()];
        let mut dx = vec![0.0; x.len()];
        let mut dw = vec![0.0; w.len()];
        for &[t, s, tap] in &of.links.all {
            for b in 0..of.samples {
                for o in 0..of.outputs {
                    for i in 0..of.inputs {
                        let at_y = (t * of.samples + b) * of.outputs + o;
                        let at_x = (s * of.samples + b) * of.inputs + i;
                        let at_w = o * output + i * input + tap;
                        y[at_y] += f64::from(w[at_w]) * f64::from(x[at_x]);
                        dx[at_x] += f64::from(w[at_w]) * f64::from(dy[at_y]);
                        dw[at_w] += f64::from(x[at_x]) * f64::from(dy[at_y]);
                    }
                }
            }
        }
        [y, dx, dw]
    }

    /// Each product and each sum is rounded to 2⁻²⁴, mostly not in the same direction: thirty of these, of the sum of all
    /// magnitudes and a bias of at most 1, are more than any sum of some hundred terms is wrong by.
    fn assert_close(what: &str, y: &[f32], exact: &[f64], magnitudes: &[f64]) {
        for (i, ((y, exact), magnitude)) in y.iter().zip(exact).zip(magnitudes).enumerate() {
            let error = (f64::from(*y) - exact).abs();
            let tolerance = 2e-6 * (1.0 + magnitude);
            assert!(error <= tolerance, "{what}[{i}] is {exact}, not {y}");
        }
    }

    fn check(of: &Correlation<'_>, lengths: [usize; 2]) {
        let [times, length] = lengths;
        let taps = of.links.taps;
        let x = draw(length * of.samples * of.inputs, 0.1);
        let w = draw(of.outputs * of.inputs * taps, 0.2);
        let dy = draw(times * of.samples * of.outputs, 0.3);
        let [exact_y, exact_dx, exact_dw] = exact(of, &x, &w, &dy);
        let [large_x, large_w, large_dy] =
            [&x, &w, &dy].map(|it| it.iter().map(|x| x.abs()).collect::<Vec<_>>());
        let [large_y, large_dx, large_dw] = exact(of, &large_x, &large_w, &large_dy);
        for level in levels() {
            // NaN would stay where nothing is written.
            let [mut y, mut dx, mut dw] =
                [&exact_y, &exact_dx, &exact_dw].map(|it| vec![f32::NAN; it.len()]);
            let bias = draw(of.outputs, 0.4);
            of.forward(level, &x, &w, Some(&bias), &mut y);
            for row in y.chunks_exact_mut(of.outputs) {
                for (y, bias) in row.iter_mut().zip(&bias) {
                    *y -= bias;
                }
            }
            assert_close(&format!("{level}: y"), &y, &exact_y, &large_y);
            of.backward_input(level, &dy, &w, &mut dx);
            assert_close(&format!("{level}: dx"), &dx, &exact_dx, &large_dx);
            of.backward_weight(level, &x, &dy, &mut dw);
            assert_close(&format!("{level}: dw"), &dw, &exact_dw, &large_dw);
        }
    }

    #[test]
    fn links_are_those_of_a_convolution() {
        // Three taps at every second place of five, padded by one: windows -1..=1, 1..=3 and 3..=5.
        let links = Links::convolution(5, 3, 2, 1);
        let expected = [
            [0, 0, 1],
            [0, 1, 2],
            [1, 1, 0],
            [1, 2, 1],
            [1, 3, 2],
            [2, 3, 0],
            [2, 4, 1],
        ];
        assert_eq!((links.times, links.all), ([3, 5], expected.to_vec()));
        // The transposed convolution goes the other way.
        let mut back = Links::transposed(3, 3, 2, 1);
        for link in &mut back.all {
            link.swap(0, 1);
        }
        back.all.sort_unstable();
        assert_eq!((back.times, back.all), ([5, 3], expected.to_vec()));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]

        #[test]
        fn sums_are_their_definition(
            samples in 1_usize..30,
            outputs in 1_usize..70,
            inputs in 1_usize..70,
            length in 1_usize..7,
            taps in 1_usize..6,
            stride in 1_usize..4,
            padding in 0_usize..3,
            transposed in any::<bool>(),
        ) {
            let links = if transposed {
                prop_assume!(stride * (length - 1) + taps > 2 * padding);
                Links::transposed(length, taps, stride, padding)
            } else {
                prop_assume!(length + 2 * padding >= taps);
                Links::convolution(length, taps, stride, padding)
            };
            let order = if transposed { Order::InputFirst } else { Order::OutputFirst };
            let of = Correlation { samples, outputs, inputs, links: &links, order };
            check(&of, links.times);
        }
    }

    #[test]
    fn threads_do_not_change_bits() {
        let links = Links::convolution(8, 5, 1, 2);
        let of = Correlation {
            samples: 37,
            outputs: 70,
            inputs: 65,
            links: &links,
            order: Order::OutputFirst,
        };
        let (x, w) = (draw(8 * 37 * 65, 0.1), draw(70 * 65 * 5, 0.2));
        let dy = draw(8 * 37 * 70, 0.3);
        let all = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a pool").install(|| {
                let level = Level::detected();
                let mut of_three = [dy.clone(), x.clone(), w.clone()];
                let [y, dx, dw] = &mut of_three;
                of.forward(level, &x, &w, None, y);
                of.backward_input(level, &dy, &w, dx);
                of.backward_weight(level, &x, &dy, dw);
                of_three.map(|it| it.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            })
        };
        assert_eq!(all(1), all(3));
    }

    #[test]
    fn column_sums_are_sums() {
        let rows = draw(200 * 5, 0.7);
        for (c, sum) in column_sums(&rows, 5).into_iter().enumerate() {
            let exact: f64 = rows.iter().skip(c).step_by(5).map(|x| f64::from(*x)).sum();
            // 64 numbers at a time in f32.
            assert!((f64::from(sum) - exact).abs() < 4e-6, "{sum} {exact}");
        }
    }
}
