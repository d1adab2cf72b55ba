//! Minimal filters: four by four outputs of a kernel of three by three from 36 products instead of 144.
//!
//! ```text
//! y = Aᵀ [ (G g Gᵀ) ⊙ (Bᵀ d B) ] A
//! ```
//!
//! for a tile d of six by six inputs and the taps g, summed over the depth before A. Its error is a few times that of the
//! definition, since the transforms multiply by up to 8 and divide again: below 1e-5 of the output's norm.
//!
//! "Fast Algorithms for Convolutional Neural Networks", Andrew Lavin and Scott Gray, 2015, arXiv:1509.09308, section 4.3:
//! F(4×4, 3×3), from the points 0, ±1, ±2 and infinity.

use std::ops::Range;

use super::lanes::{LANES, Lanes};
use super::panels::{CHUNK, Panels, Precision};
use super::picture::{BLOCK, Finish, Frame, Job, PANELS, PRODUCT_SUMS, QUAD, STAGGER, TOGETHER};

/// How many outputs a tile has in each direction.
pub(super) const TILE: usize = 4;
/// How many taps a kernel has in each direction.
const TAPS: usize = 3;
/// How many inputs a tile sees in each direction.
const INPUTS: usize = 6;
/// How many products a tile has.
pub(super) const PRODUCTS: usize = INPUTS * INPUTS;
/// From how many outputs in each direction on the tiles are worth the transforms.
const LEAST: usize = 9;

/// Whether a convolution is computed with minimal filters.
///
/// It depends on the shape of the picture alone, so that a sample has the same bits in every batch.
pub(super) fn suits(frame: &Frame) -> bool {
    frame.taps == [3, 3] && frame.stride == [1, 1] && frame.output().iter().all(|&n| n >= LEAST)
}

/// How many words of depth are transformed at a time: with the inputs and sums that they meet, they stay in the second
/// cache.
const DEPTH: usize = 64;
/// The transformed weights of a panel: `[depth][16 rows]`.
pub(super) const PANEL_WORDS: usize = DEPTH * LANES;
/// The transformed weights of one product: `[panel][depth][16 rows]`.
pub(super) const PRODUCT_WORDS: usize = PANELS * PANEL_WORDS + STAGGER;

/// Cuts the depth into what is transformed at a time.
pub(super) fn chunks(depth: usize) -> impl Iterator<Item = Range<usize>> {
    (0..depth)
        .step_by(DEPTH)
        .map(move |start| start..depth.min(start + DEPTH))
}

/// `Bᵀ d`.
#[inline(always)]
unsafe fn inputs<S: Lanes>(d: [S::Vector; INPUTS]) -> [S::Vector; INPUTS] {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let (two, four, five) = (S::splat(2.0), S::splat(-4.0), S::splat(-5.0));
        let a = S::mul_add(d[2], four, d[4]);
        let b = S::mul_add(d[1], four, d[3]);
        let c = S::sub(d[4], d[2]);
        let e = S::mul(two, S::sub(d[3], d[1]));
        let minus_four = four;
        let first = S::mul_add(d[2], five, d[4]);
        let last = S::mul_add(d[3], five, d[5]);
        [
            S::sub(first, S::mul(minus_four, d[0])),
            S::add(a, b),
            S::sub(a, b),
            S::add(c, e),
            S::sub(c, e),
            S::sub(last, S::mul(minus_four, d[1])),
        ]
    }
}

/// `G g`.
#[inline(always)]
unsafe fn taps<S: Lanes>(g: [S::Vector; 3]) -> [S::Vector; INPUTS] {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let sixth = S::splat(-1.0 / 6.0);
        let a = S::mul(S::add(g[0], g[2]), sixth);
        let b = S::mul(g[1], sixth);
        let c = S::mul_add(
            g[0],
            S::splat(1.0 / 24.0),
            S::mul(g[2], S::splat(1.0 / 6.0)),
        );
        let d = S::mul(g[1], S::splat(1.0 / 12.0));
        [
            S::mul(g[0], S::splat(0.25)),
            S::add(a, b),
            S::sub(a, b),
            S::add(c, d),
            S::sub(c, d),
            g[2],
        ]
    }
}

/// `Aᵀ m`.
#[inline(always)]
unsafe fn outputs<S: Lanes>(m: [S::Vector; INPUTS]) -> [S::Vector; TILE] {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let (a, b) = (S::add(m[1], m[2]), S::sub(m[1], m[2]));
        let (c, d) = (S::add(m[3], m[4]), S::sub(m[3], m[4]));
        [
            S::add(m[0], S::add(a, c)),
            S::mul_add(d, S::splat(2.0), b),
            S::mul_add(c, S::splat(4.0), a),
            S::add(S::mul_add(d, S::splat(8.0), b), m[5]),
        ]
    }
}

/// What a word is: an f32, or one of two bf16.
const ALL: u8 = 0;
const FIRST: u8 = 1;
const SECOND: u8 = 2;

/// `G g Gᵀ`, one vector for each product.
#[inline(always)]
unsafe fn transform<S: Lanes, const HALF: u8>(words: [&[u32]; TAPS * TAPS], to: *mut f32) {
    // SAFETY: the caller grants the instruction set, sixteen words each, and room for all products.
    unsafe {
        let mut g = [S::splat(0.0); TAPS * TAPS];
        for (g, words) in g.iter_mut().zip(words) {
            let word = S::load_words(words.as_ptr());
            *g = match HALF {
                FIRST => S::first(word),
                SECOND => S::second(word),
                _ => S::as_f32(word),
            };
        }
        let mut rows = [[S::splat(0.0); TAPS]; INPUTS];
        for j in 0..TAPS {
            let column = taps::<S>([g[j], g[TAPS + j], g[2 * TAPS + j]]);
            for (row, value) in rows.iter_mut().zip(column) {
                row[j] = value;
            }
        }
        for (i, row) in rows.into_iter().enumerate() {
            let row = taps::<S>(row);
            for (j, u) in row.into_iter().enumerate() {
                S::store(to.add((i * INPUTS + j) * PRODUCT_WORDS), u);
            }
        }
    }
}

/// Transforms a range of depth of the weights of some panels: `[product][panel][depth][16 rows]`.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
pub(super) unsafe fn transform_weights<S: Lanes>(
    panels: &Panels,
    range: Range<usize>,
    depth: Range<usize>,
    to: &mut [f32],
) {
    let numbers = panels.precision().numbers_a_word();
    let depth_words = panels.depth_words();
    assert!(
        to.len() >= PRODUCTS * PRODUCT_WORDS
            && range.len() <= PANELS
            && depth.len() <= DEPTH
            && depth.start.is_multiple_of(numbers)
            && panels.taps() == TAPS * TAPS,
        "room for the transformed weights"
    );
    let to = to.as_mut_ptr();
    for (index, panel) in range.enumerate() {
        let words = &panels.words()[panel * panels.panel_words()..][..panels.panel_words()];
        for word in depth.start / numbers..depth.end.div_ceil(numbers) {
            let chunk = word / CHUNK * CHUNK;
            let len = CHUNK.min(depth_words - chunk);
            let first = (chunk * TAPS * TAPS + word - chunk) * LANES;
            let mut nine = [&words[..0]; TAPS * TAPS];
            for (tap, words_of) in nine.iter_mut().enumerate() {
                *words_of = &words[first + tap * len * LANES..][..LANES];
            }
            // SAFETY: a product has room for each depth of each panel. The caller grants the instruction set.
            unsafe {
                let to = to.add((index * DEPTH + word * numbers - depth.start) * LANES);
                match panels.precision() {
                    Precision::F32 => transform::<S, ALL>(nine, to),
                    Precision::Bf16 => {
                        transform::<S, FIRST>(nine, to);
                        if 2 * word + 1 < depth.end {
                            transform::<S, SECOND>(nine, to.add(LANES));
                        }
                    }
                    Precision::Int8 | Precision::Int4 { .. } => {
                        unreachable!("codes are multiplied as they are")
                    }
                }
            }
        }
    }
}

/// Transforms the inputs of some channels: a multiple of [`TOGETHER`], or the last.
///
/// Every fourth pixel of a row lies together, so that the tiles of a line are the lanes of a vector.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`, and no one else may write these channels.
#[inline(always)]
pub(super) unsafe fn lay_out<S: Lanes>(job: &Job<'_>, channels: Range<usize>) {
    // A tile sees two pixels of the next one.
    let tiles = (job.across * QUAD).next_multiple_of(LANES) + LANES;
    let row = TILE * tiles;
    let channel_words = INPUTS * row;
    let mut line = vec![0.0; row];
    // [channel][row][remainder of four][tile], before and after the transform over rows
    let mut rows = vec![0.0; TOGETHER * channel_words];
    let mut transformed = vec![0.0; TOGETHER * channel_words];
    for first_channel in channels.clone().step_by(TOGETHER) {
        let together = TOGETHER.min(channels.end - first_channel);
        // Channels that are not there are zero.
        transformed[together * channel_words..].fill(0.0);
        let mut held = (usize::MAX, 0);
        for (index, here) in job.lines.clone().enumerate() {
            let (sample, down) = (here / job.down, here % job.down);
            let first = down * TILE;
            // Two rows are left from the line above.
            let from = match held {
                (of, until) if of == sample && until == first + 2 => until,
                _ => first,
            };
            held = (sample, first + INPUTS);
            for channel in 0..together {
                let rows = &mut rows[channel * channel_words..][..channel_words];
                let transformed = &mut transformed[channel * channel_words..][..channel_words];
                // SAFETY: the caller grants the instruction set.
                unsafe {
                    for at in from..first + INPUTS {
                        job.layer
                            .read::<S>(sample, first_channel + channel, at, &mut line);
                        part::<S>(&line, &mut rows[at % INPUTS * row..][..row]);
                    }
                    transform_rows::<S>(rows, first % INPUTS, transformed);
                }
            }
            for tile in (0..job.across * QUAD).step_by(LANES) {
                let quads = tile / QUAD..job.across.min((tile + LANES) / QUAD);
                for i in 0..INPUTS {
                    // SAFETY: a remainder has sixteen values more than there are tiles, of which the last two inputs of a
                    // tile see one more. A quad has room for four inputs of each channel and product, and for four more
                    // channels.
                    unsafe {
                        let mut v = [[S::splat(0.0); TOGETHER]; INPUTS];
                        for channel in 0..TOGETHER {
                            let mut d = [S::splat(0.0); INPUTS];
                            for (j, d) in d.iter_mut().enumerate() {
                                let at = channel * channel_words + i * row;
                                let at = at + j % TILE * tiles + tile + j / TILE;
                                *d = S::load(transformed.as_ptr().add(at));
                            }
                            let d = inputs::<S>(d);
                            for (j, v) in v.iter_mut().enumerate() {
                                v[channel] = d[j];
                            }
                        }
                        for (j, mut v) in v.into_iter().enumerate() {
                            S::transpose_quads(&mut v);
                            let at = (i * INPUTS + j) * job.product + first_channel * QUAD;
                            for (quad, v) in quads.clone().zip(v) {
                                S::store(job.place(index, quad).add(at).cast(), v);
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Puts every fourth number together: `[remainder of four][number / four]`.
#[inline(always)]
unsafe fn part<S: Lanes>(line: &[f32], to: &mut [f32]) {
    let each = to.len() / TILE;
    for (at, numbers) in line.chunks_exact(TILE * LANES).enumerate() {
        // SAFETY: the caller grants the instruction set; these are 64 numbers, and as many are written in four places.
        unsafe {
            let mut x = [S::splat(0.0); TILE];
            for (i, x) in x.iter_mut().enumerate() {
                *x = S::load(numbers.as_ptr().add(i * LANES));
            }
            for (i, y) in S::every_fourth(x).into_iter().enumerate() {
                S::store(to[i * each + at * LANES..][..LANES].as_mut_ptr(), y);
            }
        }
    }
}

/// `Bᵀ d` over six rows, the first of which is row `first`; they go round.
#[inline(always)]
unsafe fn transform_rows<S: Lanes>(rows: &[f32], first: usize, to: &mut [f32]) {
    let row = rows.len() / INPUTS;
    assert!(
        row.is_multiple_of(LANES) && to.len() == rows.len() && first < INPUTS,
        "six rows of whole vectors"
    );
    for at in (0..row).step_by(LANES) {
        // SAFETY: six rows have whole vectors here. The caller grants the instruction set.
        unsafe {
            let mut d = [S::splat(0.0); INPUTS];
            for (i, d) in d.iter_mut().enumerate() {
                *d = S::load(rows.as_ptr().add((first + i) % INPUTS * row + at));
            }
            for (i, w) in inputs::<S>(d).into_iter().enumerate() {
                S::store(to.as_mut_ptr().add(i * row + at), w);
            }
        }
    }
}

/// Transforms the sums of some quads, and writes the outputs.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`; there must be four vectors of sums a quad and product, and no one else may
/// write these outputs.
#[inline(always)]
pub(super) unsafe fn finish<S: Lanes>(
    job: &Job<'_>,
    panel: usize,
    quads: Range<usize>,
    sums: *const f32,
) {
    debug_assert!(quads.len() <= BLOCK);
    let [height, width] = job.layer.size;
    for (index, quad) in quads.enumerate() {
        let (line, across) = (quad / job.across, quad % job.across);
        let line = job.lines.start + line;
        let (sample, down) = (line / job.down, line % job.down);
        let (row, column) = (down * TILE, across * TILE * QUAD);
        let rows = TILE.min(height - row);
        let count = LANES.min(width - column);
        // SAFETY: the caller grants the instruction set, the sums, and the outputs, of which so many rows and columns exist.
        unsafe {
            let finish = Finish::<S>::new(job.layer, panel, sample);
            let mut out = [[S::splat(0.0); LANES]; TILE];
            for tile in 0..QUAD {
                let from = sums.add((index * QUAD + tile) * LANES);
                let mut columns = [[S::splat(0.0); TILE]; INPUTS];
                for (j, column) in columns.iter_mut().enumerate() {
                    let mut m = [S::splat(0.0); INPUTS];
                    for (i, m) in m.iter_mut().enumerate() {
                        *m = S::load(from.add((i * INPUTS + j) * PRODUCT_SUMS));
                    }
                    *column = outputs::<S>(m);
                }
                for (i, out) in out.iter_mut().enumerate() {
                    let mut m = [S::splat(0.0); INPUTS];
                    for (m, column) in m.iter_mut().zip(&columns) {
                        *m = column[i];
                    }
                    let y = outputs::<S>(m);
                    out[tile * TILE..][..TILE].copy_from_slice(&y);
                }
            }
            for (i, values) in out.into_iter().enumerate().take(rows) {
                job.layer
                    .finish::<S>(&finish, values, [row + i, column], count);
            }
        }
    }
}
