//! What the arithmetic units and the memory do at most.

use std::hint::black_box;

use rayon::prelude::*;

use super::lanes::{LANES, Lanes};
use super::level::{Level, run_on};
use super::memory::Words;
use super::panels::Precision;

/// How many times each sum is added to between two looks at the clock.
const ADDITIONS: usize = 1 << 14;

/// Multiplies and adds in registers alone, on the calling thread, with the instructions that layers of a precision use at
/// this [level](Level::detected); returns how many multiply-adds that was.
pub fn multiply_adds(precision: Precision) -> u64 {
    let level = Level::detected();
    let mut done = 0;
    let to = &mut done;
    match precision {
        Precision::Bf16 if level.multiplies_pairs() => run_on!(level, pairs: pairs(to: &mut u64)),
        // Without products of bf16, weights are widened, and the products are those of f32.
        Precision::F32 | Precision::Bf16 => run_on!(level, numbers(to: &mut u64)),
        Precision::Int8 | Precision::Int4 { .. } => run_on!(level, bytes: bytes(to: &mut u64)),
    }
    done
}

/// The most sums in flight: more than a unit's latency times its rate.
const SUMS: usize = 10;

/// How many sums are in flight: no more than an instruction set keeps in registers.
const fn in_flight<S: Lanes>() -> usize {
    // A vector of NEON is four registers of 32.
    if S::FOURS { 5 } else { SUMS }
}

/// How many products of words there are.
fn products<S: Lanes>() -> u64 {
    (ADDITIONS * in_flight::<S>() * LANES) as u64
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn numbers<S: Lanes>(done: &mut u64) {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let factor = S::splat(black_box(0.999));
        let mut sums = [S::splat(black_box(1.0)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in sums.iter_mut().take(in_flight::<S>()) {
                // What is added to stays where it is on Arm; elsewhere, both factors alike would be multiplied once for all.
                *sum = if const { S::FOURS } {
                    S::mul_add(factor, factor, *sum)
                } else {
                    S::mul_add(*sum, factor, factor)
                };
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
    *done = products::<S>();
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn pairs<S: Lanes>(done: &mut u64) {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let pair = S::splat_word(black_box(0x3f80_3f80));
        let mut sums = [S::splat(black_box(1.0)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in sums.iter_mut().take(in_flight::<S>()) {
                *sum = S::product_of_pairs(*sum, pair, pair);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
    *done = 2 * products::<S>();
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn bytes<S: Lanes>(done: &mut u64) {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let four = S::splat_word(black_box(0x0102_0304));
        let mut sums = [S::splat_word(black_box(1)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in sums.iter_mut().take(in_flight::<S>()) {
                *sum = S::product_of_bytes(*sum, four, four);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), S::as_f32(sum));
            black_box(&out);
        }
    }
    *done = 4 * products::<S>();
}

/// Memory to read, laid out as weights are.
#[derive(Debug)]
pub struct Memory(Words);

/// What a thread reads before it takes its next part, in words.
const BLOCK: usize = (1 << 20) / size_of::<u32>();
/// How far ahead a line is fetched, in words.
const AHEAD: usize = 1024;
/// Vectors of a step: more loads in flight than one sum would let there be.
const STREAMS: usize = 8;

impl Memory {
    /// So many bytes, rounded down to whole words.
    pub fn new(bytes: usize) -> Self {
        let mut words = Words::zeros(bytes / size_of::<u32>());
        // What was never written is one page of zeros, whatever its size.
        words
            .par_chunks_mut(BLOCK)
            .for_each(|block| block.fill(1.0_f32.to_bits()));
        Self(words)
    }

    /// Reads the first so many bytes once, on all threads, as kernels read weights.
    ///
    /// # Panics
    ///
    /// If there are not as many.
    pub fn read(&self, bytes: usize) {
        let level = Level::detected();
        black_box(&self.0[..bytes / size_of::<u32>()])
            .par_chunks(BLOCK)
            .for_each(|words| run_on!(level, sum(words: &[u32])));
    }
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn sum<S: Lanes>(words: &[u32]) {
    let steps = words.chunks_exact(STREAMS * LANES);
    // SAFETY: the caller grants the instruction set; a step has as many words as are read of it, and any address may be
    // fetched.
    unsafe {
        let mut sums = [S::splat(0.0); STREAMS];
        for step in steps {
            for (stream, sum) in sums.iter_mut().enumerate() {
                let from = step.as_ptr().add(stream * LANES);
                S::prefetch(from.wrapping_add(AHEAD));
                *sum = S::add(*sum, S::as_f32(S::load_words(from)));
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_counts_the_same_products() {
        let numbers = multiply_adds(Precision::F32);
        assert!(numbers > 0 && numbers.is_multiple_of((ADDITIONS * LANES) as u64));
        assert_eq!(multiply_adds(Precision::Int8), 4 * numbers);
        assert!([numbers, 2 * numbers].contains(&multiply_adds(Precision::Bf16)));
    }

    #[test]
    fn any_number_of_bytes_can_be_read() {
        let memory = Memory::new(3 << 20);
        for bytes in [0, 4, 1000, (1 << 20) + 12, 3 << 20] {
            memory.read(bytes);
        }
        assert!(memory.0.iter().all(|word| *word == 1.0_f32.to_bits()));
    }
}
