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
    match precision {
        Precision::F32 => run_on!(level, numbers()),
        Precision::Bf16 if level == Level::Avx512Bf16 => {
            run_on!(level, pairs: pairs());
            return 2 * products();
        }
        // Without products of bf16, weights are widened, and the products are those of f32.
        Precision::Bf16 => run_on!(level, numbers()),
        Precision::Int8 | Precision::Int4 { .. } => {
            run_on!(level, bytes: bytes());
            return 4 * products();
        }
    }
    products()
}

/// Sums in flight: more than a unit's latency times its rate, and no more than all instruction sets keep in registers.
const SUMS: usize = 10;

fn products() -> u64 {
    (ADDITIONS * SUMS * LANES) as u64
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn numbers<S: Lanes>() {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let factor = S::splat(black_box(0.999));
        let mut sums = [S::splat(black_box(1.0)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in &mut sums {
                *sum = S::mul_add(*sum, factor, factor);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn pairs<S: Lanes>() {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let pair = S::splat_word(black_box(0x3f80_3f80));
        let mut sums = [S::splat(black_box(1.0)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in &mut sums {
                *sum = S::product_of_pairs(*sum, pair, pair);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), sum);
            black_box(&out);
        }
    }
}

/// # Safety
///
/// The CPU must have the instruction set.
#[inline(always)]
unsafe fn bytes<S: Lanes>() {
    // SAFETY: the caller grants the instruction set; the array is as long as a vector.
    unsafe {
        let four = S::splat_word(black_box(0x0102_0304));
        let mut sums = [S::splat_word(black_box(1)); SUMS];
        for _ in 0..ADDITIONS {
            for sum in &mut sums {
                *sum = S::product_of_bytes(*sum, four, four);
            }
        }
        let mut out = [0.0; LANES];
        for sum in sums {
            S::store(out.as_mut_ptr(), S::as_f32(sum));
            black_box(&out);
        }
    }
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
        for precision in [Precision::F32, Precision::Bf16, Precision::Int8] {
            let done = multiply_adds(precision);
            assert!([1, 2, 4].map(|it| it * products()).contains(&done));
        }
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
