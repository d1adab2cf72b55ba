//! The innermost loop: a few panels of weights by a few positions, with all sums in registers.

use super::lanes::{LANES, Lanes};

/// How far ahead the weights of one of so many panels are fetched, in words of depth: 8 KiB of all of them. A page of the memory's
/// own prefetcher ends every 4 KiB.
pub(super) const fn fetched_ahead(panels: usize) -> usize {
    128 / panels
}

/// How weights meet inputs.
pub(super) mod format {
    /// An f32 and an f32.
    pub(in super::super) const F32: u8 = 0;
    /// Two bf16 and two f32.
    pub(in super::super) const WIDENED: u8 = 1;
    /// Two bf16 and two bf16.
    pub(in super::super) const PAIRS: u8 = 2;
    /// Four codes of a byte and four of a byte: sums are whole numbers, in the same memory.
    pub(in super::super) const BYTES: u8 = 3;
    /// Two codes of a short and two of a short: sums as for bytes.
    pub(in super::super) const SHORTS: u8 = 5;
    /// Eight codes of four bits and twice four of a byte, with a scale of weights for a chunk of depth.
    pub(in super::super) const HALF_BYTES: u8 = 4;
}

/// `m` panels of sixteen rows by `n` positions, over a chunk of depth.
///
/// Either positions are neighbours in memory (`LAST` is false), or words of depth are (`LAST` is true: channels last).
#[derive(Clone, Copy)]
pub(super) struct Tile {
    pub(super) weights: *const u32,
    /// The first panel's sixteen scales, where a chunk has scales.
    pub(super) scales: *const f32,
    /// Between two panels.
    pub(super) panel: usize,
    /// How many words of depth there are, in words of weights.
    pub(super) depth: usize,
    pub(super) inputs: *const u32,
    /// Between two words of depth, or between two positions where channels are last.
    pub(super) row: usize,
    pub(super) sums: *mut f32,
    /// Between two panels' sums.
    pub(super) next_panel: usize,
    /// Between two positions' sums.
    pub(super) next_position: usize,
    /// Whether the sums are written over what is there, and not added to it.
    pub(super) first: bool,
    /// From which word of depth on what is fetched lies behind the panels.
    pub(super) turn: usize,
    /// How far from there, in words, the weights lie that are read next.
    pub(super) jump: isize,
}

impl Tile {
    /// Adds the products to the sums: `sums += Σ w x`, the new sum from zero, in the order of depth.
    ///
    /// # Safety
    ///
    /// The CPU must have the instruction set of `S`. There must be `M` panels of `depth` vectors, `depth` rows of `N`
    /// inputs (twice as many where weights are widened), and `M` times `N` vectors of sums.
    // Indices that are known when it is compiled keep the sums in registers.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    pub(super) unsafe fn add<
        S: Lanes,
        const FORMAT: u8,
        const LAST: bool,
        const M: usize,
        const N: usize,
    >(
        &self,
    ) {
        if const { FORMAT >= format::BYTES } {
            // SAFETY: as the caller grants.
            unsafe { self.add_codes::<S, FORMAT, LAST, M, N>(&[0]) };
            return;
        }
        // SAFETY: the caller grants all that is read and written; a prefetch may go anywhere.
        unsafe {
            let mut sums = [[S::splat(0.0); N]; M];
            // Rows are those of f32, or of pairs.
            let rows = match FORMAT {
                format::WIDENED => 2,
                _ => 1,
            };
            let (next_depth, next_position) = if LAST { (1, self.row) } else { (self.row, 1) };
            let mut done = 0;
            if const { S::FOURS && (LAST || N == 4) } {
                done = self.fours::<LAST>(rows);
                let from = [self.weights, self.inputs];
                self.add_fours::<S, FORMAT, LAST, M, N>(from, rows, done, &mut sums);
            }
            let mut weights = self.weights.add(done * LANES);
            let mut inputs = self.inputs.wrapping_add(done * rows * next_depth);
            let mut ahead = const { fetched_ahead(M) * LANES }.cast_signed();
            for word in done..self.depth {
                if word == self.turn {
                    ahead += self.jump;
                }
                let mut w = [S::splat_word(0); M];
                for (m, w) in w.iter_mut().enumerate() {
                    let from = weights.add(m * self.panel);
                    S::prefetch(from.wrapping_offset(ahead));
                    *w = S::load_words(from);
                }
                for n in 0..N {
                    let x = inputs.add(n * next_position);
                    match FORMAT {
                        format::F32 => {
                            let x = S::as_f32(S::splat_word(*x));
                            for m in 0..M {
                                sums[m][n] = S::mul_add(S::as_f32(w[m]), x, sums[m][n]);
                            }
                        }
                        format::WIDENED => {
                            let y = S::as_f32(S::splat_word(*x.add(next_depth)));
                            let x = S::as_f32(S::splat_word(*x));
                            for m in 0..M {
                                sums[m][n] = S::mul_add(S::first(w[m]), x, sums[m][n]);
                                sums[m][n] = S::mul_add(S::second(w[m]), y, sums[m][n]);
                            }
                        }
                        _ => {
                            let x = S::splat_word(*x);
                            for m in 0..M {
                                sums[m][n] = S::product_of_pairs(sums[m][n], w[m], x);
                            }
                        }
                    }
                }
                weights = weights.add(LANES);
                inputs = inputs.wrapping_add(rows * next_depth);
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, sum) in sums.iter().enumerate() {
                    let to = self.sums.add(m * self.next_panel + n * self.next_position);
                    let sum = if self.first {
                        *sum
                    } else {
                        S::add(S::load(to), *sum)
                    };
                    S::store(to, sum);
                }
            }
        }
    }

    /// [`add`](Self::add) for codes, at some taps, which see their inputs from so many words on.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn add_codes<
        S: Lanes,
        const FORMAT: u8,
        const LAST: bool,
        const M: usize,
        const N: usize,
    >(
        &self,
        taps: &[usize],
    ) {
        // SAFETY: the caller grants all that is read and written; a prefetch may go anywhere.
        unsafe {
            let mut sums = [[S::splat_word(0); N]; M];
            let mut weights = self.weights;
            let rows = if FORMAT == format::HALF_BYTES { 2 } else { 1 };
            let (next_depth, next_position) = if LAST { (1, self.row) } else { (self.row, 1) };
            let mut ahead = const { fetched_ahead(M) * LANES }.cast_signed();
            for tap in taps {
                let mut inputs = self.inputs.wrapping_add(*tap);
                let mut done = 0;
                if const { S::FOURS && (LAST || N == 4) } {
                    done = self.fours::<LAST>(rows);
                    let from = [weights, inputs];
                    let mut bits = sums.map(|sums| sums.map(|sum| S::as_f32(sum)));
                    self.add_fours::<S, FORMAT, LAST, M, N>(from, rows, done, &mut bits);
                    sums = bits.map(|sums| sums.map(|sum| S::as_words(sum)));
                    weights = weights.add(done * LANES);
                    inputs = inputs.wrapping_add(done * rows * next_depth);
                }
                for word in done..self.depth {
                    if word == self.turn {
                        ahead += self.jump;
                    }
                    let mut w = [S::splat_word(0); M];
                    for (m, w) in w.iter_mut().enumerate() {
                        let from = weights.add(m * self.panel);
                        S::prefetch(from.wrapping_offset(ahead));
                        *w = S::load_words(from);
                    }
                    if FORMAT == format::BYTES {
                        for n in 0..N {
                            let x = S::splat_word(*inputs.add(n * next_position));
                            for m in 0..M {
                                sums[m][n] = S::product_of_bytes(sums[m][n], w[m], x);
                            }
                        }
                    } else if FORMAT == format::SHORTS {
                        for n in 0..N {
                            let x = S::splat_word(*inputs.add(n * next_position));
                            for m in 0..M {
                                sums[m][n] = S::product_of_shorts(sums[m][n], w[m], x);
                            }
                        }
                    } else {
                        let mut codes = w;
                        for m in 0..M {
                            codes[m] = S::upper_codes(w[m]);
                        }
                        for n in 0..N {
                            let x = S::splat_word(*inputs.add(n * next_position));
                            for m in 0..M {
                                sums[m][n] = S::product_of_bytes(sums[m][n], codes[m], x);
                            }
                        }
                        for m in 0..M {
                            codes[m] = S::lower_codes(w[m]);
                        }
                        for n in 0..N {
                            let x = S::splat_word(*inputs.add(n * next_position + next_depth));
                            for m in 0..M {
                                sums[m][n] = S::product_of_bytes(sums[m][n], codes[m], x);
                            }
                        }
                    }
                    weights = weights.add(LANES);
                    inputs = inputs.wrapping_add(rows * next_depth);
                }
            }
            for (m, sums) in sums.iter().enumerate() {
                for (n, sum) in sums.iter().enumerate() {
                    let to = self.sums.add(m * self.next_panel + n * self.next_position);
                    if FORMAT == format::HALF_BYTES {
                        let scale = S::load(self.scales.add(m * self.panel));
                        let sum = S::of_codes(*sum);
                        let sum = if self.first {
                            S::mul(sum, scale)
                        } else {
                            S::mul_add(sum, scale, S::load(to))
                        };
                        S::store(to, sum);
                    } else {
                        let sum = if self.first {
                            *sum
                        } else {
                            S::add_words(S::load_words(to.cast()), *sum)
                        };
                        S::store(to, S::as_f32(sum));
                    }
                }
            }
        }
    }

    /// How many words of depth go in fours of inputs.
    #[inline(always)]
    fn fours<const LAST: bool>(&self, rows: usize) -> usize {
        if LAST {
            // Four neighbours are those of a position.
            self.depth / (4 / rows) * (4 / rows)
        } else {
            // Four neighbours are four positions.
            self.depth
        }
    }

    /// Adds so many words of depth to the sums, the first of weights and of inputs being these, with inputs that are read in
    /// fours: in the order of [`add`](Self::add), and so to the same bits.
    ///
    /// # Safety
    ///
    /// As there, with as many words of depth as [`fours`](Self::fours) says.
    #[allow(clippy::needless_range_loop)]
    #[inline(always)]
    unsafe fn add_fours<
        S: Lanes,
        const FORMAT: u8,
        const LAST: bool,
        const M: usize,
        const N: usize,
    >(
        &self,
        [mut weights, mut inputs]: [*const u32; 2],
        rows: usize,
        depth: usize,
        sums: &mut [[S::Vector; N]; M],
    ) {
        // Which of four it is must be known when it is compiled.
        macro_rules! for_each_of_four {
            ($i:ident => $body:expr) => {
                for_each_of_four!($i => $body, 0);
                for_each_of_four!($i => $body, 1);
                for_each_of_four!($i => $body, 2);
                for_each_of_four!($i => $body, 3);
            };
            ($i:ident => $body:expr, $value:literal) => {{
                const $i: i32 = $value;
                $body
            }};
        }
        // SAFETY: the caller grants all that is read: four words of each position, or four positions of each word.
        unsafe {
            if LAST {
                let words = 4 / rows;
                let mut four = [S::splat_word(0); N];
                for _ in 0..depth / words {
                    for n in 0..N {
                        four[n] = S::load_four(inputs.add(n * self.row));
                    }
                    for_each_of_four!(I => for m in 0..M {
                        let w = S::load_words(weights.add(m * self.panel + I as usize / rows * LANES));
                        for n in 0..N {
                            sums[m][n] = multiply_one::<S, FORMAT, I, { I % 2 }>(sums[m][n], w, four[n]);
                        }
                    });
                    weights = weights.add(words * LANES);
                    inputs = inputs.wrapping_add(4);
                }
            } else {
                let mut four = [S::splat_word(0); 2];
                for _ in 0..depth {
                    for row in 0..rows {
                        four[row] = S::load_four(inputs.add(row * self.row));
                    }
                    for m in 0..M {
                        let w = S::load_words(weights.add(m * self.panel));
                        for_each_of_four!(I => {
                            let n = I as usize % N;
                            sums[m][n] = multiply_one::<S, FORMAT, I, 0>(sums[m][n], w, four[0]);
                            if rows == 2 {
                                sums[m][n] = multiply_one::<S, FORMAT, I, 1>(sums[m][n], w, four[1]);
                            }
                        });
                    }
                    weights = weights.add(LANES);
                    inputs = inputs.wrapping_add(rows * self.row);
                }
            }
        }
    }

    /// Adds the products of so many panels and positions, tile by tile.
    ///
    /// Registers hold 24 vectors of sums where there are 32 of them, and their shape is what fits: four panels by six
    /// positions read the least, and few panels want more positions, since a sum waits for the one before.
    ///
    /// # Safety
    ///
    /// As [`add`](Self::add), with `panels` and `positions` for `M` and `N`.
    #[inline(always)]
    pub(super) unsafe fn cover<S: Lanes, const FORMAT: u8, const LAST: bool>(
        &self,
        panels: usize,
        positions: usize,
    ) {
        let mut panel = 0;
        while panel < panels {
            let (m, widest) = shape::<S>(panels - panel);
            let mut position = 0;
            while position < positions {
                let n = match widest.min(positions - position) {
                    n if n == widest => n,
                    6.. => 6,
                    4.. => 4,
                    n => n.min(2),
                };
                // SAFETY: the caller grants the instruction set and all tiles that are within panels and positions.
                unsafe {
                    let tile = Self {
                        weights: self.weights.add(panel * self.panel),
                        scales: self.scales.wrapping_add(panel * self.panel),
                        inputs: self.inputs.add(position * if LAST { self.row } else { 1 }),
                        sums: self
                            .sums
                            .add(panel * self.next_panel + position * self.next_position),
                        ..*self
                    };
                    // Known when it is compiled: shapes that an instruction set does not use are not compiled for it.
                    if const { S::SUMS >= 16 } {
                        match (m, n) {
                            (4, 6) => tile.add::<S, FORMAT, LAST, 4, 6>(),
                            (4, 4) => tile.add::<S, FORMAT, LAST, 4, 4>(),
                            (4, 2) => tile.add::<S, FORMAT, LAST, 4, 2>(),
                            (4, _) => tile.add::<S, FORMAT, LAST, 4, 1>(),
                            (3, 8) => tile.add::<S, FORMAT, LAST, 3, 8>(),
                            (3, 6) => tile.add::<S, FORMAT, LAST, 3, 6>(),
                            (3, 4) => tile.add::<S, FORMAT, LAST, 3, 4>(),
                            (3, 2) => tile.add::<S, FORMAT, LAST, 3, 2>(),
                            (3, _) => tile.add::<S, FORMAT, LAST, 3, 1>(),
                            (2, 12) => tile.add::<S, FORMAT, LAST, 2, 12>(),
                            (2, 6) => tile.add::<S, FORMAT, LAST, 2, 6>(),
                            (2, 4) => tile.add::<S, FORMAT, LAST, 2, 4>(),
                            (2, 2) => tile.add::<S, FORMAT, LAST, 2, 2>(),
                            (2, _) => tile.add::<S, FORMAT, LAST, 2, 1>(),
                            (_, 12) => tile.add::<S, FORMAT, LAST, 1, 12>(),
                            (_, 6) => tile.add::<S, FORMAT, LAST, 1, 6>(),
                            (_, 4) => tile.add::<S, FORMAT, LAST, 1, 4>(),
                            (_, 2) => tile.add::<S, FORMAT, LAST, 1, 2>(),
                            (_, _) => tile.add::<S, FORMAT, LAST, 1, 1>(),
                        }
                    } else if const { S::FOURS } {
                        match n {
                            4 => tile.add::<S, FORMAT, LAST, 1, 4>(),
                            2 => tile.add::<S, FORMAT, LAST, 1, 2>(),
                            _ => tile.add::<S, FORMAT, LAST, 1, 1>(),
                        }
                    } else if const { S::SUMS >= 4 } {
                        match n {
                            6 => tile.add::<S, FORMAT, LAST, 1, 6>(),
                            4 => tile.add::<S, FORMAT, LAST, 1, 4>(),
                            2 => tile.add::<S, FORMAT, LAST, 1, 2>(),
                            _ => tile.add::<S, FORMAT, LAST, 1, 1>(),
                        }
                    } else {
                        match n {
                            2 => tile.add::<S, FORMAT, LAST, 1, 2>(),
                            _ => tile.add::<S, FORMAT, LAST, 1, 1>(),
                        }
                    }
                }
                position += n;
            }
            panel += m;
        }
    }

    /// Adds the products of codes at some taps, whose weights follow each other: each sees its inputs from another word on,
    /// and positions lie apart, as where channels are last.
    ///
    /// # Safety
    ///
    /// As [`add`](Self::add), with `panels` and `positions` for `M` and `N`, and inputs and weights for each tap.
    #[inline(always)]
    pub(super) unsafe fn cover_taps<S: Lanes, const FORMAT: u8>(
        &self,
        taps: &[usize],
        panels: usize,
        positions: usize,
    ) {
        let mut panel = 0;
        while panel < panels {
            let (m, widest) = shape::<S>(panels - panel);
            let mut position = 0;
            while position < positions {
                let n = match positions - position {
                    // Four and four are faster than six and two.
                    8 if widest == 6 => 4,
                    left if left >= widest => widest,
                    6.. => 6,
                    4.. => 4,
                    left => left.min(2),
                };
                // SAFETY: the caller grants the instruction set and all tiles that are within panels and positions.
                unsafe {
                    let tile = Self {
                        weights: self.weights.add(panel * self.panel),
                        scales: self.scales.wrapping_add(panel * self.panel),
                        inputs: self.inputs.add(position * self.row),
                        sums: self
                            .sums
                            .add(panel * self.next_panel + position * self.next_position),
                        ..*self
                    };
                    if const { S::SUMS >= 16 } {
                        match (m, n) {
                            (4, 6) => tile.add_codes::<S, FORMAT, true, 4, 6>(taps),
                            (4, 4) => tile.add_codes::<S, FORMAT, true, 4, 4>(taps),
                            (4, 2) => tile.add_codes::<S, FORMAT, true, 4, 2>(taps),
                            (4, _) => tile.add_codes::<S, FORMAT, true, 4, 1>(taps),
                            (3, 8) => tile.add_codes::<S, FORMAT, true, 3, 8>(taps),
                            (3, 6) => tile.add_codes::<S, FORMAT, true, 3, 6>(taps),
                            (3, 4) => tile.add_codes::<S, FORMAT, true, 3, 4>(taps),
                            (3, 2) => tile.add_codes::<S, FORMAT, true, 3, 2>(taps),
                            (3, _) => tile.add_codes::<S, FORMAT, true, 3, 1>(taps),
                            (2, 12) => tile.add_codes::<S, FORMAT, true, 2, 12>(taps),
                            (2, 6) => tile.add_codes::<S, FORMAT, true, 2, 6>(taps),
                            (2, 4) => tile.add_codes::<S, FORMAT, true, 2, 4>(taps),
                            (2, 2) => tile.add_codes::<S, FORMAT, true, 2, 2>(taps),
                            (2, _) => tile.add_codes::<S, FORMAT, true, 2, 1>(taps),
                            (_, 12) => tile.add_codes::<S, FORMAT, true, 1, 12>(taps),
                            (_, 6) => tile.add_codes::<S, FORMAT, true, 1, 6>(taps),
                            (_, 4) => tile.add_codes::<S, FORMAT, true, 1, 4>(taps),
                            (_, 2) => tile.add_codes::<S, FORMAT, true, 1, 2>(taps),
                            (_, _) => tile.add_codes::<S, FORMAT, true, 1, 1>(taps),
                        }
                    } else if const { S::FOURS } {
                        match n {
                            4 => tile.add_codes::<S, FORMAT, true, 1, 4>(taps),
                            2 => tile.add_codes::<S, FORMAT, true, 1, 2>(taps),
                            _ => tile.add_codes::<S, FORMAT, true, 1, 1>(taps),
                        }
                    } else if const { S::SUMS >= 4 } {
                        match n {
                            6 => tile.add_codes::<S, FORMAT, true, 1, 6>(taps),
                            4 => tile.add_codes::<S, FORMAT, true, 1, 4>(taps),
                            2 => tile.add_codes::<S, FORMAT, true, 1, 2>(taps),
                            _ => tile.add_codes::<S, FORMAT, true, 1, 1>(taps),
                        }
                    } else {
                        match n {
                            2 => tile.add_codes::<S, FORMAT, true, 1, 2>(taps),
                            _ => tile.add_codes::<S, FORMAT, true, 1, 1>(taps),
                        }
                    }
                }
                position += n;
            }
            panel += m;
        }
    }

    /// [`cover`](Self::cover) of four positions.
    ///
    /// # Safety
    ///
    /// As [`add`](Self::add), with `panels` and four positions for `M` and `N`.
    #[inline(always)]
    pub(super) unsafe fn cover_quad<S: Lanes, const FORMAT: u8>(&self, panels: usize) {
        let mut panel = 0;
        while panel < panels {
            let (m, _) = shape::<S>(panels - panel);
            // SAFETY: the caller grants the instruction set and all tiles that are within the panels.
            unsafe {
                let tile = Self {
                    weights: self.weights.add(panel * self.panel),
                    scales: self.scales.wrapping_add(panel * self.panel),
                    sums: self.sums.add(panel * self.next_panel),
                    ..*self
                };
                if const { S::SUMS >= 16 } {
                    match m {
                        4 => tile.add::<S, FORMAT, false, 4, 4>(),
                        3 => tile.add::<S, FORMAT, false, 3, 4>(),
                        2 => tile.add::<S, FORMAT, false, 2, 4>(),
                        _ => tile.add::<S, FORMAT, false, 1, 4>(),
                    }
                } else if const { S::SUMS >= 4 } {
                    tile.add::<S, FORMAT, false, 1, 4>();
                } else {
                    tile.add::<S, FORMAT, false, 1, 2>();
                    let rest = Self {
                        inputs: tile.inputs.add(2),
                        sums: tile.sums.add(2 * tile.next_position),
                        ..tile
                    };
                    rest.add::<S, FORMAT, false, 1, 2>();
                }
            }
            panel += m;
        }
    }
}

/// Adds the products of sixteen weights, or of one of two rows of their parts, with one of four inputs. Sums of codes are whole
/// numbers in the same bits.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`.
#[inline(always)]
unsafe fn multiply_one<S: Lanes, const FORMAT: u8, const I: i32, const ROW: i32>(
    sum: S::Vector,
    w: S::Word,
    four: S::Word,
) -> S::Vector {
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let whole = |w| S::as_f32(S::product_of_bytes_with_one::<I>(S::as_words(sum), w, four));
        match (FORMAT, ROW) {
            (format::F32, _) => S::mul_add_one::<I>(S::as_f32(w), four, sum),
            (format::WIDENED, 0) => S::mul_add_one::<I>(S::first(w), four, sum),
            (format::WIDENED, _) => S::mul_add_one::<I>(S::second(w), four, sum),
            (format::BYTES, _) => whole(w),
            (format::SHORTS, _) => S::as_f32(S::product_of_shorts_with_one::<I>(
                S::as_words(sum),
                w,
                four,
            )),
            (format::HALF_BYTES, 0) => whole(S::upper_codes(w)),
            (format::HALF_BYTES, _) => whole(S::lower_codes(w)),
            _ => S::product_of_pairs_with_one::<I>(sum, w, four),
        }
    }
}

/// How many panels go next, and the most positions at a time.
#[inline(always)]
fn shape<S: Lanes>(panels: usize) -> (usize, usize) {
    match (S::SUMS, panels) {
        (16.., 1) => (1, 12),
        (16.., 2) => (2, 12),
        // Five are better three and two than four and one.
        (16.., 3 | 5) => (3, 8),
        (16.., _) => (4, 6),
        (4.., _) if S::FOURS => (1, 4),
        (4.., _) => (1, 6),
        _ => (1, 2),
    }
}
