//! Weights, laid out once in the order in which they are read.

use std::fmt;
use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use rayon::prelude::*;

use super::ahead::{Follower, Start, follow};
use super::codes::{Codes, Grid};
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
    /// Whole codes of 8 bits, with a scale for each output: that of the least squared error. What a layer reads is rounded
    /// to 256 codes, between the least and the largest number of the sample, or of the position where there is one tap.
    /// Sums are whole numbers, and exact.
    ///
    /// Where a number that is read is not finite, all outputs of its sample, or position, are NaN.
    ///
    /// Of weights and inputs that are distributed normally, an output is wrong by about a hundredth of the outputs' size.
    Int8,
    /// Codes of 4 bits, with a scale for each `group` of neighbours in depth. What a layer reads is rounded as for
    /// [`Int8`](Self::Int8); sums are exact within a group, and in f32 over them.
    ///
    /// Of weights that are distributed normally, an output is wrong by about a tenth of the outputs' size.
    Int4 {
        /// How many weights share a scale: a multiple of 8. A scale takes 32 bits.
        group: usize,
    },
}

impl Precision {
    /// Four bits, and half a bit of scales.
    pub const INT4: Self = Self::Int4 { group: 64 };

    /// How many numbers lie in a word of 32 bits.
    pub(super) fn numbers_a_word(self) -> usize {
        match self {
            Self::F32 => 1,
            Self::Bf16 => 2,
            Self::Int8 => 4,
            Self::Int4 { .. } => 8,
        }
    }

    /// Whether weights are codes, and products those of whole numbers.
    pub fn is_codes(self) -> bool {
        matches!(self, Self::Int8 | Self::Int4 { .. })
    }

    /// How many words of depth lie, and are summed, together.
    fn chunk(self) -> usize {
        match self {
            Self::Int4 { group } => group / 8,
            _ => CHUNK,
        }
    }

    /// How many scales a chunk of a row begins with.
    fn scales(self) -> usize {
        match self {
            Self::Int4 { .. } => 1,
            _ => 0,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::F32 => f.write_str("f32"),
            Self::Bf16 => f.write_str("bf16"),
            Self::Int8 => f.write_str("int8"),
            Self::Int4 { group } => write!(f, "int4/{group}"),
        }
    }
}

impl FromStr for Precision {
    type Err = String;

    /// Undoes [`Display`](fmt::Display).
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "f32" => Ok(Self::F32),
            "bf16" => Ok(Self::Bf16),
            "int8" => Ok(Self::Int8),
            "int4" => Ok(Self::INT4),
            _ => (text.strip_prefix("int4/"))
                .and_then(|group| group.parse().ok())
                .filter(|&group| group > 0 && usize::is_multiple_of(group, 8))
                .map(|group| Self::Int4 { group })
                .ok_or_else(|| format!("`{text}` is none of f32, bf16, int8, int4 and int4/GROUP, with a group of 8, 16, ..")),
        }
    }
}

/// A matrix of weights for each tap, in panels of sixteen rows.
///
/// ```text
/// [rows / 16][depth / chunk][tap][chunk][16 rows]      words; for bf16, a word is two neighbours in depth
/// ```
///
/// A word of bytes is four neighbours. One of half bytes is eight, the first four in the upper halves, and a chunk of them
/// begins with sixteen scales.
///
/// A kernel that computes sixteen rows reads one panel from its first word to its last.
#[derive(Debug)]
pub(crate) struct Panels {
    words: Words,
    precision: Precision,
    rows: usize,
    depth: usize,
    taps: usize,
    /// What is read after them.
    follower: Arc<Follower>,
    /// A scale for each row, where weights are bytes.
    scales: Vec<f32>,
    /// What inputs are multiplied by before they are rounded, one for each of depth; nothing where they are rounded as they
    /// are.
    balance: Vec<f32>,
    /// What a row sums to, where weights are codes: a whole number for bytes, an f32 for half bytes.
    totals: Vec<u32>,
}

impl Panels {
    /// Lays out `weight(row, depth, tap)`.
    ///
    /// # Panics
    ///
    /// If a group is not a multiple of eight.
    pub(crate) fn new(
        precision: Precision,
        shape: [usize; 3],
        weight: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        let mut panels = Self::empty(precision, shape);
        if precision.is_codes() {
            panels.fill_codes(|panels, row, words| {
                let weight = |depth, tap| weight(row, depth, tap);
                match precision {
                    Precision::Int8 => panels.fill_bytes(words, weight),
                    _ => (1.0, panels.fill_half_bytes(words, weight)),
                }
            });
            return panels;
        }
        let each = panels.panel_words();
        let mut words = Words::zeros(panels.count() * each);
        if each > 0 {
            let fill = |(panel, words): (usize, &mut [u32])| {
                for row in panels.rows_of(panel) {
                    panels.fill_row(&mut words[row % LANES..], |depth, tap| {
                        weight(row, depth, tap)
                    });
                }
            };
            words.par_chunks_mut(each).enumerate().for_each(fill);
        }
        panels.words = words;
        panels
    }

    /// Lays out `code(row, depth, tap)`, which stand for numbers with `scale(row, depth, tap)`: one for each row where codes
    /// are bytes, and for each group of a row where they are half bytes.
    ///
    /// # Panics
    ///
    /// If weights in this precision are no codes, or a group is not a multiple of eight.
    pub(crate) fn of_codes(
        precision: Precision,
        shape: [usize; 3],
        code: impl Fn(usize, usize, usize) -> i8 + Sync,
        scale: impl Fn(usize, usize, usize) -> f32 + Sync,
    ) -> Self {
        assert!(precision.is_codes(), "weights in {precision} are no codes");
        let mut panels = Self::empty(precision, shape);
        let [_, depth, taps] = shape;
        panels.fill_codes(|panels, row, words| {
            let code = |depth, tap| i32::from(code(row, depth, tap));
            if precision == Precision::Int8 {
                let is_empty = depth * taps == 0;
                let scale = if is_empty { 0.0 } else { scale(row, 0, 0) };
                return (scale, panels.write_bytes(words, code));
            }
            let total = panels.write_half_bytes(words, |depths, tap, codes| {
                let scale = scale(row, depths.start, tap);
                codes.extend(depths.map(|depth| code(depth, tap)));
                scale
            });
            (1.0, total)
        });
        panels
    }

    /// Without words.
    fn empty(precision: Precision, [rows, depth, taps]: [usize; 3]) -> Self {
        if let Precision::Int4 { group } = precision {
            assert!(
                group > 0 && group.is_multiple_of(8),
                "a group is a multiple of 8 weights, not {group}"
            );
        }
        Self {
            words: Words::zeros(0),
            precision,
            rows,
            depth,
            taps,
            follower: Arc::default(),
            scales: Vec::new(),
            balance: Vec::new(),
            totals: Vec::new(),
        }
    }

    /// The same, of inputs that are multiplied by these numbers first: then the weights that codes stand for are their products
    /// with the same numbers.
    ///
    /// # Panics
    ///
    /// If there is not one for each of depth, or weights are no codes.
    pub(crate) fn balanced(self, balance: &[f32]) -> Self {
        assert!(
            self.precision.is_codes(),
            "what is not rounded needs no balance"
        );
        assert_eq!(balance.len(), self.depth, "a number for each input");
        Self {
            balance: balance.to_vec(),
            ..self
        }
    }

    /// What inputs are multiplied by, if they are.
    pub(crate) fn balance(&self) -> Option<&[f32]> {
        (!self.balance.is_empty()).then_some(&self.balance)
    }

    /// The largest code of a byte, so that sums stay within 32 bits.
    pub(crate) fn largest_byte([_, depth, taps]: [usize; 3]) -> i8 {
        Codes::eight_bits(depth * taps).ends()[1] as i8
    }

    /// Which rows a panel has.
    fn rows_of(&self, panel: usize) -> Range<usize> {
        panel * LANES..self.rows.min((panel + 1) * LANES)
    }

    /// Lets `fill` write each row, `LANES` words apart, and keeps the scale and the sum that it returns.
    fn fill_codes(&mut self, fill: impl Fn(&Self, usize, &mut [u32]) -> (f32, u32) + Sync) {
        let each = self.panel_words();
        let mut words = Words::zeros(self.count() * each);
        let mut scales = vec![0.0; self.count() * LANES];
        let mut totals = vec![0; self.count() * LANES];
        // Without taps there are no words; sums are those of nothing.
        (words.par_chunks_mut(each.max(1)))
            .zip(scales.par_chunks_mut(LANES))
            .zip(totals.par_chunks_mut(LANES))
            .enumerate()
            .for_each(|(panel, ((words, scales), totals))| {
                for row in self.rows_of(panel) {
                    let lane = row % LANES;
                    (scales[lane], totals[lane]) = fill(self, row, &mut words[lane..]);
                }
            });
        self.words = words;
        self.totals = totals;
        if self.precision == Precision::Int8 {
            self.scales = scales;
        }
    }

    /// Chooses the codes of one row of bytes and writes them, `LANES` words apart; returns the scale, and the sum of the codes.
    fn fill_bytes(&self, words: &mut [u32], weight: impl Fn(usize, usize) -> f32) -> (f32, u32) {
        let taps = 0..self.taps;
        let values: Vec<f32> = (0..self.depth)
            .flat_map(|depth| taps.clone().map(move |tap| (depth, tap)))
            .map(|(depth, tap)| weight(depth, tap))
            .collect();
        let codes = Codes::eight_bits(values.len());
        let scale = codes.scale(&values);
        let code = |depth, tap| codes.code(values[depth * self.taps + tap], scale);
        (scale, self.write_bytes(words, code))
    }

    /// Writes one row of bytes, `LANES` words apart; returns the sum of the codes.
    fn write_bytes(&self, words: &mut [u32], code: impl Fn(usize, usize) -> i32) -> u32 {
        let mut total = 0_i32;
        for depth in 0..self.depth {
            for tap in 0..self.taps {
                let code = code(depth, tap);
                total += code;
                let byte = code.cast_unsigned() & 0xff;
                words[self.place(depth / 4, tap) * LANES] |= byte << (depth % 4 * 8);
            }
        }
        total.cast_unsigned()
    }

    /// Chooses the codes and scales of one row of half bytes and writes them, `LANES` words apart; returns what the row sums
    /// to, as the bits of an f32.
    fn fill_half_bytes(&self, words: &mut [u32], weight: impl Fn(usize, usize) -> f32) -> u32 {
        let codes = Codes::FOUR_BITS;
        let mut values = Vec::new();
        self.write_half_bytes(words, |depths, tap, row| {
            values.clear();
            values.extend(depths.map(|depth| weight(depth, tap)));
            let scale = codes.scale(&values);
            row.extend(values.iter().map(|&value| codes.code(value, scale)));
            scale
        })
    }

    /// Writes one row of half bytes and its scales, `LANES` words apart; returns what the row sums to, as the bits of an f32.
    ///
    /// `group` adds the codes of neighbours in depth at a tap to a list, and returns their scale.
    fn write_half_bytes(
        &self,
        words: &mut [u32],
        mut group: impl FnMut(Range<usize>, usize, &mut Vec<i32>) -> f32,
    ) -> u32 {
        let mut total = 0.0;
        let mut codes = Vec::new();
        for chunk in self.chunks(0..self.depth_words()) {
            let depths = chunk.start * 8..self.depth.min(chunk.end * 8);
            for tap in 0..self.taps {
                codes.clear();
                // Codes are in the upper halves of bytes when they are multiplied.
                let scale = group(depths.clone(), tap, &mut codes) / 16.0;
                let at = self.place(chunk.start, tap);
                words[(at - 1) * LANES] = scale.to_bits();
                for (index, &code) in codes.iter().enumerate() {
                    total += f64::from(scale) * f64::from(16 * code);
                    let half = code.cast_unsigned() & 0xf;
                    words[(at + index / 8) * LANES] |= half << shift(index);
                }
            }
        }
        (total as f32).to_bits()
    }

    /// Where a word lies in a panel, in vectors.
    pub(super) fn place(&self, word: usize, tap: usize) -> usize {
        let (size, scales) = (self.precision.chunk(), self.precision.scales());
        let chunk = word / size;
        let start = chunk * size;
        let len = size.min(self.depth_words() - start);
        (start + chunk * scales) * self.taps + tap * (len + scales) + scales + word - start
    }

    /// The sixteen scales of the chunk of half bytes that a word lies in, from the start of the words.
    pub(super) fn scales_of(&self, panel: usize, word: usize, tap: usize) -> *const f32 {
        let start = word / self.precision.chunk() * self.precision.chunk();
        let at = self.place(start, tap) - self.precision.scales();
        self.words[panel * self.panel_words() + at * LANES..]
            .as_ptr()
            .cast()
    }

    /// What the sums of a panel begin with, so that the codes of zero add up to nothing.
    pub(super) fn start(&self, totals: &[u32; LANES], grid: &Grid) -> [f32; LANES] {
        totals.map(|total| match self.precision {
            Precision::Int8 => {
                let start = 0_u32.wrapping_sub(total.wrapping_mul(grid.zero.cast_unsigned()));
                f32::from_bits(start)
            }
            _ => -(grid.zero as f32) * f32::from_bits(total),
        })
    }

    /// What sixteen rows sum to.
    pub(super) fn totals(&self, panel: usize) -> [u32; LANES] {
        let totals = self.totals[panel * LANES..].first_chunk();
        *totals.expect("totals are those of whole panels")
    }

    /// The scales of sixteen rows, where weights are bytes; one where sums are scaled by themselves.
    pub(super) fn scales(&self, panel: usize) -> [f32; LANES] {
        match self.precision {
            Precision::Int8 => {
                let scales = self.scales[panel * LANES..].first_chunk();
                *scales.expect("scales are those of whole panels")
            }
            _ => [1.0; LANES],
        }
    }

    /// What makes numbers of the sums of a panel.
    pub(super) fn factors(&self, panel: usize, grid: &Grid) -> [f32; LANES] {
        self.scales(panel).map(|scale| scale * grid.step)
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
                        Precision::Int8 | Precision::Int4 { .. } => {
                            unreachable!("codes have rows of their own")
                        }
                    };
                }
            }
        }
    }

    /// A weight, as it was rounded.
    pub(crate) fn weight(&self, row: usize, depth: usize, tap: usize) -> f32 {
        let bits = self.word(row, depth, tap);
        match self.precision {
            Precision::F32 => f32::from_bits(bits),
            Precision::Bf16 if depth.is_multiple_of(2) => f32::from_bits(bits << 16),
            Precision::Bf16 => f32::from_bits(bits & 0xffff_0000),
            _ => {
                let weight = f32::from(self.code(row, depth, tap)) * self.scale(row, depth, tap);
                weight * self.balance().map_or(1.0, |balance| balance[depth])
            }
        }
    }

    /// The word that a weight lies in.
    fn word(&self, row: usize, depth: usize, tap: usize) -> u32 {
        let word = depth / self.precision.numbers_a_word();
        let lane = row / LANES * self.panel_words() + row % LANES;
        self.words[lane + self.place(word, tap) * LANES]
    }

    /// The code of a weight, where weights are codes.
    pub(crate) fn code(&self, row: usize, depth: usize, tap: usize) -> i8 {
        let bits = self.word(row, depth, tap);
        match self.precision {
            Precision::Int8 => bits.to_le_bytes()[depth % 4].cast_signed(),
            // The lowest four bits, with their sign.
            _ => ((bits >> shift(depth) << 4) as u8).cast_signed() >> 4,
        }
    }

    /// The scale of a weight's code.
    pub(crate) fn scale(&self, row: usize, depth: usize, tap: usize) -> f32 {
        match self.precision {
            Precision::Int4 { group } => {
                let first = self.place(depth / group * group / 8, tap) - 1;
                let lane = row / LANES * self.panel_words() + row % LANES;
                f32::from_bits(self.words[lane + first * LANES]) * 16.0
            }
            _ => self.scales[row],
        }
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
            + size_of_val(&*self.scales)
            + size_of_val(&*self.balance)
            + size_of_val(&*self.totals)
    }

    /// Says that they are read now, in tasks of which the first and the last begin with these panels; returns where what
    /// followed last time begins.
    pub(super) fn read_from(&self, [first, last]: [usize; 2]) -> Start {
        let panel = self.panel_words();
        let address = |at: usize| self.words[at * panel..].as_ptr().addr();
        let start = Start {
            first: address(first),
            last: address(last),
            panel: panel * size_of::<u32>(),
        };
        follow(start, &self.follower)
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
        let chunks = self.depth_words().div_ceil(self.precision.chunk());
        (self.depth_words() + chunks * self.precision.scales()) * self.taps * LANES
    }

    pub(super) fn words(&self) -> &[u32] {
        &self.words
    }
}

impl Panels {
    /// Cuts words of depth into chunks; into those that share a scale, where there are scales.
    pub(super) fn chunks(&self, words: Range<usize>) -> impl Iterator<Item = Range<usize>> + use<> {
        let size = self.precision.chunk();
        let before = match self.precision.scales() {
            0 => 0,
            _ => words.start % size,
        };
        (words.start - before..words.end)
            .step_by(size)
            .map(move |first| first.max(words.start)..words.end.min(first + size))
    }
}

/// How far a code of four bits lies from the lowest bit of its word.
fn shift(depth: usize) -> usize {
    let at = depth % 8;
    at % 4 * 8 + if at < 4 { 4 } else { 0 }
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
