//! Inputs of a product, laid out as it reads them.

use std::cell::Cell;
use std::ops::Range;

use super::codes::{Extent, Grid};
use super::lanes::LANES;
use super::panels::{Panels, bf16_pair};
use super::{Level, Window, team};

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

thread_local! {
    /// Memory that is used again: packed inputs, and inputs side by side.
    static INPUTS: Cell<Vec<u32>> = const { Cell::new(Vec::new()) };
    static VALUES: Cell<Vec<f32>> = const { Cell::new(Vec::new()) };
}

/// Inputs as the kernels read them: zeros at the ends, and the channels of a position side by side; neighbours in depth
/// are paired where bf16 is multiplied, and four in a word where codes are.
///
/// ```text
/// [sample][position][depth]      words
/// ```
pub(super) struct Packed {
    pub(super) words: Vec<u32>,
    /// Which words of depth there are.
    pub(super) part: Range<usize>,
    /// The least origin of all windows: where a sample's first position lies.
    origin: isize,
    /// How many positions a sample has.
    width: usize,
    /// How many words lie between two positions.
    pub(super) row: usize,
    /// How many words of inputs meet a word of weights: two where weights are pairs of bf16 and inputs are f32, or weights
    /// are half bytes.
    pub(super) inputs_a_word: usize,
    /// How inputs were rounded to codes: for each sample, or for each position of each.
    grids: Vec<Grid>,
    /// Whether there is a grid for each position.
    pub(super) pointwise: bool,
    /// Whether these are not all inputs.
    pub(super) partial: bool,
}

impl Packed {
    pub(super) fn new(
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
        let inputs_a_word = match (pairs, whole) {
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
        let (before, skipped) = (origin.min(0).unsigned_abs(), origin.max(0).unsigned_abs());
        let reach = phases.iter().map(end).max().unwrap_or(1);
        // Windows may end before the first input, which none of them sees then.
        let width = reach.max(before + 1);
        let words_of_depth = part.start / numbers..part.end.div_ceil(numbers);
        // Rows a power of two apart would share few lines of a cache.
        let row = match words_of_depth.len() * inputs_a_word {
            row if row >= 64 => row.next_multiple_of(LANES) | LANES,
            row => row,
        };
        let source = Source {
            input,
            from,
            depth,
            // A first word may begin before the part.
            lead: part.start - words_of_depth.start * numbers,
            pairs,
            skipped,
            seen: length
                .saturating_sub(skipped)
                .min(reach.saturating_sub(before)),
            before,
            row,
            balance: panels.balance().map(|balance| &balance[part.clone()]),
        };
        let sample = width * row;
        let mut words = INPUTS.take();
        if !whole {
            words.clear();
        }
        words.resize(batch * sample, 0);
        // With one tap, an output sees one position alone. The shape of the layer decides, and not that of the batch.
        let pointwise = whole
            && phases.len() == 1
            && panels.taps() == 1
            && phases[0].1.origin == 0
            && phases[0].1.stride == 1;
        let mut grids = Vec::new();
        if whole {
            let each = if pointwise { length } else { 1 };
            grids = vec![Grid::new(Extent::EMPTY); batch * each];
            let encode = |b: usize, grids: &mut [Grid], words: &mut [u32]| {
                source.encode(level, b, words, grids, pointwise);
            };
            let mut samples: Vec<_> = (words.chunks_exact_mut(sample))
                .zip(grids.chunks_exact_mut(each))
                .collect();
            if batch * sample < PACKED_TOGETHER {
                for (b, (words, grids)) in samples.iter_mut().enumerate() {
                    encode(b, grids, words);
                }
            } else {
                team::for_each_chunk(&mut samples, 1, |b, one| {
                    let (words, grids) = &mut one[0];
                    encode(b, grids, words);
                });
            }
        } else if words.len() < PACKED_TOGETHER {
            let samples = words.chunks_exact_mut(sample).enumerate();
            samples.for_each(|(b, words)| source.pack(b, words));
        } else {
            team::for_each_chunk(&mut words, sample, |b, words| source.pack(b, words));
        }
        Self {
            words,
            part: words_of_depth,
            origin,
            width,
            row,
            inputs_a_word,
            grids,
            pointwise,
            partial: part.len() < panels.depth(),
        }
    }

    /// How the input of an output was rounded.
    pub(super) fn grid(&self, sample: usize, position: usize, batch: usize) -> &Grid {
        let each = self.grids.len() / batch;
        &self.grids[sample * each + if self.pointwise { position } else { 0 }]
    }

    /// Where a tap finds the input of a sample's first output.
    pub(super) fn offset(&self, window: &Window, sample: usize, tap: usize) -> usize {
        let position = (window.origin - self.origin).cast_unsigned() + tap;
        (sample * self.width + position) * self.row
    }
}

impl Drop for Packed {
    fn drop(&mut self) {
        INPUTS.set(std::mem::take(&mut self.words));
    }
}

/// What is packed, and where it goes.
struct Source<'a> {
    input: &'a [f32],
    from: Layout,
    /// How many channels there are.
    depth: usize,
    /// How many of the first word's numbers lie before the first channel; they count as zero.
    lead: usize,
    /// Whether a word is two neighbours in depth, as bf16.
    pairs: bool,
    /// The first position that is seen.
    skipped: usize,
    /// How many positions are seen.
    seen: usize,
    /// How many positions of zeros come before them.
    before: usize,
    row: usize,
    /// What each channel is multiplied by before it is rounded.
    balance: Option<&'a [f32]>,
}

impl Source<'_> {
    /// Rounds a sample to codes, four neighbours in depth to a word.
    fn encode(
        &self,
        level: Level,
        sample: usize,
        words: &mut [u32],
        grids: &mut [Grid],
        pointwise: bool,
    ) {
        let Self {
            from,
            depth,
            lead,
            seen,
            row,
            ..
        } = *self;
        let start = sample * from.sample + self.skipped * from.position;
        let mut values = VALUES.take();
        // [seen][depth]
        let inputs = if seen == 0 {
            &[][..]
        } else if let Some(balance) = self.balance {
            values.resize(depth * seen, 0.0);
            for (channel, factor) in balance.iter().enumerate() {
                let input = &self.input[start + channel * from.channel..];
                for position in 0..seen {
                    values[position * depth + channel] = input[position * from.position] * factor;
                }
            }
            &values[..]
        } else if from.channel == 1 && (from.position == depth || seen == 1) {
            &self.input[start..][..depth * seen]
        } else {
            values.resize(depth * seen, 0.0);
            for channel in 0..depth {
                let input = &self.input[start + channel * from.channel..];
                for position in 0..seen {
                    values[position * depth + channel] = input[position * from.position];
                }
            }
            &values[..]
        };
        if !pointwise {
            grids[0] = Grid::new(Extent::new(level, inputs));
            // What lies around the input counts as zero.
            let (before, after) = words.split_at_mut(self.before * row);
            before.fill(grids[0].nothing());
            after[seen * row..].fill(grids[0].nothing());
        }
        let words = words[self.before * row..].chunks_exact_mut(row);
        for (position, (x, words)) in inputs.chunks_exact(depth).zip(words).enumerate() {
            if pointwise {
                grids[position] = Grid::new(Extent::new(level, x));
            }
            let grid = grids[if pointwise { position } else { 0 }];
            // So does what is not part of it.
            let (first, last) = (lead / 4, (lead + depth).div_ceil(4) - 1);
            words[..=first].fill(grid.nothing());
            words[last..].fill(grid.nothing());
            grid.encode(level, x, &mut bytes_of(words)[lead..][..depth]);
            for word in &mut words[first..=last] {
                *word = u32::from_le(*word);
            }
        }
        VALUES.set(values);
    }

    /// Packs a sample into words that are zero.
    fn pack(&self, sample: usize, words: &mut [u32]) {
        let Self {
            from, depth, lead, ..
        } = *self;
        let start = sample * from.sample + self.skipped * from.position;
        let words = &mut words[self.before * self.row..];
        let rows = words.chunks_exact_mut(self.row).take(self.seen);
        if self.pairs {
            for (position, to) in rows.enumerate() {
                let input = &self.input[start + position * from.position..];
                let channel = |at: usize| match at.checked_sub(lead) {
                    Some(at) if at < depth => input[at * from.channel],
                    _ => 0.0,
                };
                let (mut first, count) = (0, (lead + depth).div_ceil(2));
                if from.channel == 1 && lead == 0 {
                    let (pairs, _) = input[..depth].as_chunks();
                    first = pairs.len();
                    for (to, &[x, y]) in to.iter_mut().zip(pairs) {
                        *to = bf16_pair(x, y);
                    }
                }
                for (index, to) in to[..count].iter_mut().enumerate().skip(first) {
                    *to = bf16_pair(channel(2 * index), channel(2 * index + 1));
                }
            }
        } else if from.channel == 1 {
            for (position, to) in rows.enumerate() {
                let input = &self.input[start + position * from.position..][..depth];
                for (to, x) in to[lead..][..depth].iter_mut().zip(input) {
                    *to = x.to_bits();
                }
            }
        } else {
            // Channels first: each is read in order.
            for channel in 0..depth {
                let input = &self.input[start + channel * from.channel..];
                for position in 0..self.seen {
                    words[position * self.row + lead + channel] =
                        input[position * from.position].to_bits();
                }
            }
        }
    }
}

/// The bytes of some words, as they lie in memory.
fn bytes_of(words: &mut [u32]) -> &mut [u8] {
    // SAFETY: bytes have no alignment, every pattern of bits is a word, and the only reference is lent on.
    unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), size_of_val(words)) }
}
