//! Weights, laid out once in the order in which they are read.

use std::fmt;
use std::ops::Range;

use rayon::prelude::*;

use super::lanes::LANES;
use super::memory::Words;

/// How many words of depth are summed before the sum is added to the others. Short sums round less: the error of one
/// grows with the root of its length. It is also what stays in the fastest cache while all outputs are computed: four
/// panels take 32 KiB.
pub(super) const CHUNK: usize = 128;

/// What packed weights are stored in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Precision {
    /// 32 bits.
    F32,
    /// The upper 16 bits of an f32, rounded to the nearest: wrong by up to 2⁻⁸ of itself. Where the CPU multiplies bf16,
    /// what layers over time and linear layers read is rounded too; convolutions over pictures and attention compute in f32.
    /// Sums are in f32.
    Bf16,
}

impl Precision {
    /// How many numbers lie in a word of 32 bits.
    pub(super) fn numbers_a_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        })
    }
}

/// A matrix of weights for each tap, in panels of sixteen rows.
///
/// ```text
/// [rows / 16][depth / chunk][tap][chunk][16 rows]      words; for bf16, a word is two neighbours in depth
/// ```
///
/// A kernel that computes sixteen rows reads one panel from its first word to its last.
#[derive(Debug)]
pub(crate) struct Panels {
    words: Words,
    precision: Precision,
    rows: usize,
    depth: usize,
    taps: usize,
}

impl Panels {
    /// Lays out `weight(row, depth, tap)`.
    pub(crate) fn new(
        precision: Precision,
        [rows, depth, taps]: [usize; 3],
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let mut panels = Self {
            words: Words::zeros(0),
            precision,
            rows,
            depth,
            taps,
        };
        let each = panels.panel_words();
        let mut words = Words::zeros(panels.count() * each);
        if each > 0 {
            let fill = |(panel, words): (usize, &mut [u32])| {
                let rows = rows.min((panel + 1) * LANES) - panel * LANES;
                for lane in 0..rows {
                    let weight = |depth, tap| weight(panel * LANES + lane, depth, tap);
                    panels.fill_row(&mut words[lane..], weight);
                }
            };
            words.par_chunks_mut(each).enumerate().for_each(fill);
        }
        panels.words = words;
        panels
    }

    /// Writes one row, `LANES` words apart.
    fn fill_row(&self, words: &mut [u32], weight: impl Fn(usize, usize) -> f32) {
        for chunk in chunks(0..self.depth_words()) {
            let start = chunk.start * self.taps;
            for word in chunk.clone() {
                for tap in 0..self.taps {
                    let at = start + tap * chunk.len() + word - chunk.start;
                    words[at * LANES] = match self.precision {
                        Precision::F32 => weight(word, tap).to_bits(),
                        Precision::Bf16 => {
                            let second = if 2 * word + 1 < self.depth {
                                weight(2 * word + 1, tap)
                            } else {
                                0.0
                            };
                            bf16_pair(weight(2 * word, tap), second)
                        }
                    };
                }
            }
        }
    }

    /// A weight, as it was rounded.
    pub(crate) fn weight(&self, row: usize, depth: usize, tap: usize) -> f32 {
        let numbers = self.precision.numbers_a_word();
        let word = depth / numbers;
        let start = word / CHUNK * CHUNK;
        let chunk = CHUNK.min(self.depth_words() - start);
        let at = start * self.taps + tap * chunk + word - start;
        let panel = row / LANES * self.panel_words();
        let bits = self.words[panel + at * LANES + row % LANES];
        f32::from_bits(match self.precision {
            Precision::F32 => bits,
            Precision::Bf16 if depth.is_multiple_of(2) => bits << 16,
            Precision::Bf16 => bits & 0xffff_0000,
        })
    }

    /// What the weights are stored in.
    pub(crate) fn precision(&self) -> Precision {
        self.precision
    }

    /// How many outputs the weights have.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// How many inputs the weights have at each tap.
    pub(crate) fn depth(&self) -> usize {
        self.depth
    }

    /// How many taps the weights have.
    pub(crate) fn taps(&self) -> usize {
        self.taps
    }

    /// The memory that the weights take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        size_of_val(&*self.words)
    }

    /// How many panels there are.
    pub(super) fn count(&self) -> usize {
        self.rows.div_ceil(LANES)
    }

    /// How many words a row has at each tap.
    pub(super) fn depth_words(&self) -> usize {
        self.depth.div_ceil(self.precision.numbers_a_word())
    }

    /// How many words a panel has.
    pub(super) fn panel_words(&self) -> usize {
        self.depth_words() * self.taps * LANES
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}

/// Cuts words of depth into chunks.
pub(super) fn chunks(words: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = words.end;
    words
        .step_by(CHUNK)
        .map(move |start| start..end.min(start + CHUNK))
}

/// The nearest bf16; the even one of two. NaN stays NaN.
#[inline(always)]
fn bf16(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    // Rounding could turn a NaN into an infinity.
    let quiet = (bits >> 16) | 0x40;
    if bits & 0x7fff_ffff > 0x7f80_0000 {
        quiet
    } else {
        rounded
    }
}

/// Two bf16 in a word, the first in the low half.
#[inline(always)]
pub(super) fn bf16_pair(first: f32, second: f32) -> u32 {
    bf16(first) | bf16(second) << 16
}
