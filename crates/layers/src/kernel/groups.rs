//! The statistics of groups of channels.

use rayon::prelude::*;

use super::lanes::{LANES, Lanes};
use super::level::run_on;
use super::picture::affine;
use super::{Activation, Level, Normalization};

/// How many numbers are summed in f32 before the sum is added to the others in f64: short sums round less.
const SUMMED: usize = 64 * LANES;
/// How many numbers are worth a thread of their own.
const GRAIN: usize = 1 << 14;

/// What a normalization multiplies each channel of each sample by, and what it adds then: each `[batch, channels]`.
///
/// `x` is `[batch, channels, each]`.
///
/// # Panics
///
/// If slices are not as long as that, or this CPU does not have the level.
pub(crate) fn statistics(
    level: Level,
    normalization: &Normalization<'_>,
    x: &[f32],
    [batch, channels, each]: [usize; 3],
) -> [Vec<f32>; 2] {
    assert_eq!(x.len(), batch * channels * each, "[batch, channels, each]");
    let Normalization { groups, affine, .. } = normalization;
    assert!(
        affine.weight.len() == channels
            && affine.bias.len() == channels
            && *groups > 0
            && channels.is_multiple_of(*groups),
        "{groups} groups of {channels} channels"
    );
    let together = channels / groups;
    let [mut scale, mut shift] = [(); 2].map(|()| vec![0.0; batch * channels]);
    if batch * channels == 0 {
        return [scale, shift];
    }
    let one = |(group, (scale, shift)): (usize, (&mut [f32], &mut [f32]))| {
        let x = &x[group * together * each..][..together * each];
        let mut moments = [0.0; 2];
        let to = &mut moments;
        run_on!(level, moments_of(x: &[f32], to: &mut [f64; 2]));
        let [mean, variance] = moments;
        let deviation = (variance + normalization.epsilon).sqrt();
        let first = group % groups * together;
        for i in 0..together {
            let weight = f64::from(affine.weight[first + i]) / deviation;
            scale[i] = weight as f32;
            shift[i] = (f64::from(affine.bias[first + i]) - mean * weight) as f32;
        }
    };
    if x.len() < 2 * GRAIN || rayon::current_num_threads() == 1 {
        let of_groups = scale
            .chunks_exact_mut(together)
            .zip(shift.chunks_exact_mut(together));
        of_groups.enumerate().for_each(one);
    } else {
        let of_groups = scale
            .par_chunks_exact_mut(together)
            .zip(shift.par_chunks_exact_mut(together));
        of_groups.enumerate().for_each(one);
    }
    [scale, shift]
}

/// The mean and the variance. Two passes: the variance of what is left when the mean is gone does not cancel.
#[inline(always)]
unsafe fn moments_of<S: Lanes>(x: &[f32], to: &mut [f64; 2]) {
    let count = x.len().max(1) as f64;
    // SAFETY: the caller grants the instruction set.
    unsafe {
        let mean = total::<S, false>(x, 0.0) / count;
        *to = [mean, total::<S, true>(x, mean as f32) / count];
        // What rounding the mean left.
        let rounded = mean - f64::from(mean as f32);
        to[1] -= rounded * rounded;
    }
}

/// The sum of the numbers, or of the squares of what they are more than `mean`.
#[inline(always)]
unsafe fn total<S: Lanes, const SQUARES: bool>(x: &[f32], mean: f32) -> f64 {
    let mut total = 0.0;
    // SAFETY: the caller grants the instruction set; a chunk is sixteen numbers.
    unsafe {
        let mean = S::splat(mean);
        for x in x.chunks(SUMMED) {
            let (whole, rest) = x.as_chunks::<LANES>();
            let mut sums = [S::splat(0.0); 4];
            for (i, x) in whole.iter().enumerate() {
                let x = S::load(x.as_ptr());
                let sum = &mut sums[i % 4];
                *sum = if SQUARES {
                    let x = S::sub(x, mean);
                    S::mul_add(x, x, *sum)
                } else {
                    S::add(*sum, x)
                };
            }
            let mut lanes = [0.0_f32; LANES];
            for sum in sums {
                S::store(lanes.as_mut_ptr(), sum);
                total += lanes.iter().copied().map(f64::from).sum::<f64>();
            }
            S::store(lanes.as_mut_ptr(), mean);
            for x in rest {
                let x = f64::from(*x);
                total += if SQUARES {
                    (x - f64::from(lanes[0])).powi(2)
                } else {
                    x
                };
            }
        }
    }
    total
}

/// `activation(scale · x + shift)`, in place, with a scale and a shift for each of the slices of `each` numbers.
///
/// # Panics
///
/// If this CPU does not have the level.
pub(crate) fn modulate(
    level: Level,
    activation: Activation,
    [scale, shift]: [&[f32]; 2],
    each: usize,
    x: &mut [f32],
) {
    if each == 0 {
        return;
    }
    assert_eq!(x.len(), scale.len() * each, "a scale for each slice");
    assert_eq!(scale.len(), shift.len(), "a shift for each scale");
    let one = |(index, x): (usize, &mut [f32])| {
        let (scale, shift) = (scale[index], shift[index]);
        run_on!(level, modulate_one(activation: Activation, scale: f32, shift: f32, x: &mut [f32]));
    };
    if x.len() < 2 * GRAIN || rayon::current_num_threads() == 1 {
        x.chunks_exact_mut(each).enumerate().for_each(one);
    } else {
        x.par_chunks_exact_mut(each)
            .with_min_len((GRAIN / each).max(1))
            .enumerate()
            .for_each(one);
    }
}

#[inline(always)]
unsafe fn modulate_one<S: Lanes>(activation: Activation, scale: f32, shift: f32, x: &mut [f32]) {
    let to = x.as_mut_ptr();
    // SAFETY: the caller grants the instruction set; the slice is read and written.
    unsafe { affine::<S>(activation, [scale, shift], to, to, x.len()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::Affine;

    #[test]
    fn statistics_are_those_of_f64() {
        // Lengths that are no multiple of anything, and a mean that is large beside the deviation.
        for (batch, groups, together, each) in [(2, 3, 2, 1), (1, 2, 5, 37), (2, 1, 3, 5003)] {
            let channels = groups * together;
            let x: Vec<f32> = (0..batch * channels * each)
                .map(|i| 40.0 + ((i * 7919) % 1013) as f32 / 500.0)
                .collect();
            let weight: Vec<f32> = (0..channels).map(|i| 0.5 + i as f32).collect();
            let bias: Vec<f32> = (0..channels).map(|i| i as f32 - 2.0).collect();
            let normalization = Normalization {
                groups,
                epsilon: 1e-5,
                affine: Affine {
                    weight: &weight,
                    bias: &bias,
                },
            };
            for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
                let [scale, shift] = statistics(level, &normalization, &x, [batch, channels, each]);
                let mut y = x.clone();
                modulate(level, Activation::Identity, [&scale, &shift], each, &mut y);
                let size = together * each;
                let groups = x.chunks(size).zip(y.chunks(size));
                for (group, (x, y)) in groups.enumerate() {
                    let count = size as f64;
                    let mean = x.iter().copied().map(f64::from).sum::<f64>() / count;
                    let variance = x.iter().map(|&x| (f64::from(x) - mean).powi(2));
                    let deviation = (variance.sum::<f64>() / count + 1e-5).sqrt();
                    for (i, (x, y)) in x.iter().zip(y).enumerate() {
                        let channel = group * together % channels + i / each;
                        let x = (f64::from(*x) - mean) / deviation;
                        let exact = x * f64::from(weight[channel]) + f64::from(bias[channel]);
                        // 40 deviations cancel, each rounded to f32.
                        let tolerance = 2e-5 * f64::from(weight[channel]);
                        assert!(
                            (f64::from(*y) - exact).abs() <= tolerance,
                            "{level}: channel {channel} has {y}, not {exact}"
                        );
                    }
                }
            }
        }
    }
}
