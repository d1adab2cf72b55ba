//! Group normalization with what follows, and its gradients.

use rayon::prelude::*;

use super::super::elementwise::activate;
use super::super::lanes::{LANES, Lanes};
use super::super::level::run_on;
use super::super::product::{Film, Normalization};
use super::super::{Activation, Level};
use super::Shared;
use super::gradient::value_and_slope;

/// How many samples a task has at least: some 10 µs.
const SAMPLES: usize = 8;

/// The shape of features: `[time, sample, channel]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// How many times there are.
    pub(crate) times: usize,
    /// How many samples there are.
    pub(crate) samples: usize,
    /// How many channels there are.
    pub(crate) channels: usize,
}

/// `y = film(activation(normalization(x))) + residual`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Normalized<'a> {
    /// The shape of `x` and `y`.
    pub(crate) shape: Shape,
    /// Groups, scales and offsets.
    pub(crate) normalization: Normalization<'a>,
    /// What follows: one that has a slope here.
    pub(crate) activation: Activation,
    /// Modulation.
    pub(crate) film: Option<Film<'a>>,
}

/// What [`Normalized::backward`] computes.
#[derive(Debug)]
pub(crate) struct Gradients {
    /// Of `x`.
    pub(crate) x: Vec<f32>,
    /// Of scales and then offsets, for each sample: `[sample, 2 · channels]`.
    pub(crate) affine: Vec<f32>,
    /// Of the modulation's scales, where there are any, and shifts, for each sample: `[sample, channels or 2 · channels]`.
    pub(crate) film: Vec<f32>,
}

impl Normalized<'_> {
    fn check(&self, lengths: &[usize]) {
        let Shape {
            times,
            samples,
            channels,
        } = self.shape;
        let Normalization { groups, affine, .. } = self.normalization;
        let film = self.film.is_none_or(|film| {
            let reach = samples.saturating_sub(1) * film.sample + channels;
            film.shift.len() >= reach && film.scale.is_none_or(|scale| scale.len() >= reach)
        });
        assert!(
            lengths.iter().all(|n| *n == times * samples * channels)
                && [affine.weight.len(), affine.bias.len()] == [channels; 2]
                && groups > 0
                && channels.is_multiple_of(groups)
                && film,
            "features and parameters as many as their shape says"
        );
    }

    /// Computes `y` of `x`, and the mean and the reciprocal deviation of each sample's groups: `[sample, 2, group]`.
    ///
    /// # Panics
    ///
    /// If a slice has another length than its shape says, or this CPU does not have the level.
    pub(crate) fn forward(
        &self,
        level: Level,
        x: &[f32],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) -> Vec<f32> {
        self.check(&[x.len(), y.len(), residual.map_or(x.len(), <[f32]>::len)]);
        let groups = self.normalization.groups;
        let mut statistics = vec![0.0; self.shape.samples * 2 * groups];
        let output = Shared(y.as_mut_ptr());
        statistics
            .par_chunks_mut(2 * groups)
            .enumerate()
            .with_min_len(SAMPLES)
            .for_each_init(
                || Scratch::new(self.shape),
                |scratch, (sample, statistics)| {
                    let of = Forward {
                        of: self,
                        x,
                        residual,
                        output,
                    };
                    let of = &of;
                    run_on!(
                        level,
                        forward(of: &Forward<'_>, sample: usize, scratch: &mut Scratch, statistics: &mut [f32])
                    );
                },
            );
        statistics
    }

    /// Computes the gradients of `dy`, from `x` and what [`forward`](Self::forward) returned. The residual's is `dy`.
    ///
    /// # Panics
    ///
    /// As [`forward`](Self::forward).
    pub(crate) fn backward(
        &self,
        level: Level,
        x: &[f32],
        statistics: &[f32],
        dy: &[f32],
    ) -> Gradients {
        self.check(&[x.len(), dy.len()]);
        let Shape {
            samples, channels, ..
        } = self.shape;
        let groups = self.normalization.groups;
        assert_eq!(
            statistics.len(),
            samples * 2 * groups,
            "statistics of each group"
        );
        let width = match self.film {
            None => 0,
            Some(Film { scale: None, .. }) => channels,
            Some(_) => 2 * channels,
        };
        let mut dx = vec![0.0; x.len()];
        let mut affine = vec![0.0; samples * 2 * channels];
        let mut film = vec![0.0; samples * width];
        let output = Shared(dx.as_mut_ptr());
        let film_rows = Shared(film.as_mut_ptr());
        affine
            .par_chunks_mut(2 * channels)
            .zip(statistics.par_chunks(2 * groups))
            .enumerate()
            .with_min_len(SAMPLES)
            .for_each_init(
                || Scratch::new(self.shape),
                |scratch, (sample, (affine, statistics))| {
                    let of = Backward {
                        of: self,
                        x,
                        dy,
                        output,
                    };
                    // SAFETY: each sample has a row of its own.
                    let film = unsafe {
                        std::slice::from_raw_parts_mut(film_rows.get().add(sample * width), width)
                    };
                    let (of, sums) = (&of, [affine, film]);
                    run_on!(
                        level,
                        backward(of: &Backward<'_>, sample: usize, scratch: &mut Scratch, statistics: &[f32], sums: [&mut [f32]; 2])
                    );
                },
            );
        Gradients {
            x: dx,
            affine,
            film,
        }
    }
}

/// A sample's features, and numbers for each channel, padded to whole vectors.
struct Scratch {
    width: usize,
    features: [Vec<f32>; 2],
    row: Vec<f32>,
    /// Mean, reciprocal deviation, scale, offset, modulation's scale and shift.
    channels: [Vec<f32>; 6],
    /// Sums over time.
    sums: [Vec<f32>; 4],
}

impl Scratch {
    fn new(shape: Shape) -> Self {
        let width = shape.channels.next_multiple_of(LANES);
        let row = || vec![0.0; width];
        Self {
            width,
            features: [(); 2].map(|()| vec![0.0; shape.times * width]),
            row: row(),
            channels: [(); 6].map(|()| row()),
            sums: [(); 4].map(|()| row()),
        }
    }

    /// Copies the sample's rows of `from`.
    fn load(&mut self, which: usize, shape: Shape, from: &[f32], sample: usize) {
        let rows = self.features[which].chunks_exact_mut(self.width);
        for (t, row) in rows.enumerate() {
            let start = (t * shape.samples + sample) * shape.channels;
            row[..shape.channels].copy_from_slice(&from[start..start + shape.channels]);
        }
    }

    /// Copies scales, offsets and the sample's modulation.
    fn load_parameters(&mut self, of: &Normalized<'_>, sample: usize) {
        let n = of.shape.channels;
        let [_, _, weight, bias, scale, shift] = &mut self.channels;
        weight[..n].copy_from_slice(of.normalization.affine.weight);
        bias[..n].copy_from_slice(of.normalization.affine.bias);
        scale.fill(1.0);
        shift.fill(0.0);
        if let Some(film) = of.film {
            let start = sample * film.sample;
            shift[..n].copy_from_slice(&film.shift[start..start + n]);
            if let Some(values) = film.scale {
                scale[..n].copy_from_slice(&values[start..start + n]);
            }
        }
    }
}

/// Gives each channel the number of its group.
#[inline(always)]
fn spread(of_groups: &[f32], channels: &mut [f32]) {
    let each = channels.len() / of_groups.len();
    for (channels, x) in channels.chunks_exact_mut(each).zip(of_groups) {
        channels.fill(*x);
    }
}

/// The sums of the channels of each group. The groups one beside the other: a sum waits for nothing but its own.
#[inline(always)]
fn gather(channels: &[f32], of_groups: &mut [f32]) {
    let each = channels.len() / of_groups.len();
    of_groups.fill(0.0);
    for i in 0..each {
        for (sum, channels) in of_groups.iter_mut().zip(channels.chunks_exact(each)) {
            *sum += channels[i];
        }
    }
}

struct Forward<'a> {
    of: &'a Normalized<'a>,
    x: &'a [f32],
    residual: Option<&'a [f32]>,
    output: Shared,
}

/// # Safety
///
/// The CPU must have the instruction set of `S`, and nobody else may use the sample's outputs.
#[inline(always)]
unsafe fn forward<S: Lanes>(
    of: &Forward<'_>,
    sample: usize,
    scratch: &mut Scratch,
    statistics: &mut [f32],
) {
    let Forward {
        of,
        x,
        residual,
        output,
    } = *of;
    let (shape, groups) = (of.shape, of.normalization.groups);
    let n = shape.channels;
    scratch.load(0, shape, x, sample);
    scratch.load_parameters(of, sample);
    let Scratch {
        width,
        features: [features, _],
        row: added,
        channels: [mean, deviation, weight, bias, scale, shift],
        sums: [sum, ..],
    } = scratch;
    let width = *width;
    let share = 1.0 / (shape.times * (n / groups)) as f32;
    let (means, deviations) = statistics.split_at_mut(groups);
    // SAFETY: all rows of the scratch have `width` values, whole vectors, and the sample's outputs are this task's.
    unsafe {
        for v in (0..width).step_by(LANES) {
            let mut total = S::splat(0.0);
            for t in 0..shape.times {
                total = S::add(total, S::load(features.as_ptr().add(t * width + v)));
            }
            S::store(sum.as_mut_ptr().add(v), total);
        }
        gather(&sum[..n], means);
        for mean in means.iter_mut() {
            *mean *= share;
        }
        spread(means, &mut mean[..n]);
        // The variance of what is left when the mean is gone does not cancel.
        for v in (0..width).step_by(LANES) {
            let center = S::load(mean.as_ptr().add(v));
            let mut total = S::splat(0.0);
            for t in 0..shape.times {
                let x = features.as_mut_ptr().add(t * width + v);
                let centered = S::sub(S::load(x), center);
                S::store(x, centered);
                total = S::mul_add(centered, centered, total);
            }
            S::store(sum.as_mut_ptr().add(v), total);
        }
        gather(&sum[..n], deviations);
        for deviation in &mut *deviations {
            let variance = f64::from(*deviation * share);
            *deviation = (1.0 / (variance + of.normalization.epsilon).sqrt()) as f32;
        }
        spread(deviations, &mut deviation[..n]);
        for t in 0..shape.times {
            let start = (t * shape.samples + sample) * n;
            if let Some(residual) = residual {
                added[..n].copy_from_slice(&residual[start..start + n]);
            }
            let features = &mut features[t * width..][..width];
            for v in (0..width).step_by(LANES) {
                let of_channel = |x: &[f32]| S::load(x.as_ptr().add(v));
                let x = features.as_mut_ptr().add(v);
                let z = S::mul(S::load(x), of_channel(deviation));
                let z = S::mul_add(z, of_channel(weight), of_channel(bias));
                let a = activate::<S>(of.activation, z);
                let y = S::mul_add(a, of_channel(scale), of_channel(shift));
                S::store(x, S::add(y, of_channel(added)));
            }
            let to = output.get().add(start);
            to.copy_from_nonoverlapping(features.as_ptr(), n);
        }
    }
}

struct Backward<'a> {
    of: &'a Normalized<'a>,
    x: &'a [f32],
    dy: &'a [f32],
    output: Shared,
}

/// With `z` the normalized features, `n = weight · z + bias` and `a = activation(n)`:
///
/// ```text
/// dscale = Σ dy a     dshift = Σ dy     dn = dy · scale · activation'(n)
/// dweight = Σ dn z    dbias = Σ dn      dz = dn · weight
/// dx = (dz - mean(dz) - z · mean(dz z)) / deviation
/// ```
///
/// Sums are over time, means over a group.
///
/// # Safety
///
/// The CPU must have the instruction set of `S`, and nobody else may use the sample's outputs.
#[inline(always)]
unsafe fn backward<S: Lanes>(
    of: &Backward<'_>,
    sample: usize,
    scratch: &mut Scratch,
    statistics: &[f32],
    sums: [&mut [f32]; 2],
) {
    let Backward { of, x, dy, output } = *of;
    let (shape, groups) = (of.shape, of.normalization.groups);
    let n = shape.channels;
    scratch.load(0, shape, x, sample);
    scratch.load(1, shape, dy, sample);
    scratch.load_parameters(of, sample);
    let Scratch {
        width,
        features: [x, dy],
        row,
        channels: [mean, deviation, weight, bias, scale, shift],
        sums: [dweight, dbias, dscale, dshift],
    } = scratch;
    let width = *width;
    let (means, deviations) = statistics.split_at(groups);
    spread(means, &mut mean[..n]);
    spread(deviations, &mut deviation[..n]);
    // SAFETY: all rows of the scratch have `width` values, whole vectors, and the sample's outputs are this task's.
    unsafe {
        for v in (0..width).step_by(LANES) {
            let of_channel = |x: &[f32]| S::load(x.as_ptr().add(v));
            let (mean, deviation) = (of_channel(mean), of_channel(deviation));
            let (weight, bias) = (of_channel(weight), of_channel(bias));
            let scale = of_channel(scale);
            let mut totals = [S::splat(0.0); 4];
            for t in 0..shape.times {
                let x = x.as_mut_ptr().add(t * width + v);
                let dy = dy.as_mut_ptr().add(t * width + v);
                let z = S::mul(S::sub(S::load(x), mean), deviation);
                let (a, slope) = value_and_slope::<S>(of.activation, S::mul_add(z, weight, bias));
                let d = S::load(dy);
                let dn = S::mul(S::mul(d, scale), slope);
                totals[0] = S::mul_add(dn, z, totals[0]);
                totals[1] = S::add(totals[1], dn);
                totals[2] = S::mul_add(d, a, totals[2]);
                totals[3] = S::add(totals[3], d);
                S::store(x, z);
                S::store(dy, S::mul(dn, weight));
            }
            let [dw, db, dc, ds] = totals;
            S::store(dweight.as_mut_ptr().add(v), dw);
            S::store(dbias.as_mut_ptr().add(v), db);
            S::store(dscale.as_mut_ptr().add(v), dc);
            S::store(dshift.as_mut_ptr().add(v), ds);
        }
        let [affine, film] = sums;
        affine[..n].copy_from_slice(&dweight[..n]);
        affine[n..].copy_from_slice(&dbias[..n]);
        if film.len() > n {
            film[..n].copy_from_slice(&dscale[..n]);
        }
        if !film.is_empty() {
            let start = film.len() - n;
            film[start..].copy_from_slice(&dshift[..n]);
        }
        // The means of `dz` and of `dz · z` over each group, from the sums over time.
        let share = 1.0 / (shape.times * (n / groups)) as f32;
        let means = [(dbias, mean), (dweight, shift)].map(|(sums, to)| {
            for (sum, weight) in sums.iter_mut().zip(&*weight) {
                *sum *= weight * share;
            }
            let of_groups = &mut row[..groups];
            gather(&sums[..n], of_groups);
            spread(of_groups, &mut to[..n]);
            to
        });
        for t in 0..shape.times {
            for v in (0..width).step_by(LANES) {
                let of_channel = |x: &[f32]| S::load(x.as_ptr().add(v));
                let z = S::load(x.as_ptr().add(t * width + v));
                let dz = dy.as_mut_ptr().add(t * width + v);
                let rest = S::sub(S::load(dz), of_channel(means[0]));
                let rest = S::sub(rest, S::mul(z, of_channel(means[1])));
                S::store(dz, S::mul(rest, of_channel(deviation)));
            }
            let to = output.get().add((t * shape.samples + sample) * n);
            to.copy_from_nonoverlapping(dy.as_ptr().add(t * width), n);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::super::elementwise::tests::exact as activated;
    use super::super::super::product::Affine;
    use super::*;

    fn draw(n: usize, seed: f64) -> Vec<f32> {
        (0..n)
            .map(|i| ((i as f64 * 12.989 + seed).sin() * 43_758.545).fract() as f32)
            .collect()
    }

    fn wide(x: &[f32]) -> Vec<f64> {
        x.iter().map(|x| f64::from(*x)).collect()
    }

    /// What there is to differentiate by: x, scales, offsets, modulation, residual.
    type Arguments = [Vec<f64>; 5];

    /// The definition, in f64.
    fn exact(
        shape: Shape,
        groups: usize,
        activation: Activation,
        rows: usize,
        [x, weight, bias, film, residual]: &Arguments,
    ) -> Vec<f64> {
        let Shape {
            times,
            samples,
            channels,
        } = shape;
        let each = channels / groups;
        let at = |t: usize, b: usize, c: usize| (t * samples + b) * channels + c;
        let mut y = vec![0.0; x.len()];
        for b in 0..samples {
            for c in 0..channels {
                let group = c / each * each..(c / each + 1) * each;
                let of_group = (0..times).flat_map(|t| group.clone().map(move |c| x[at(t, b, c)]));
                let n = (times * each) as f64;
                let mean = of_group.clone().sum::<f64>() / n;
                let variance = of_group.map(|x| (x - mean).powi(2)).sum::<f64>() / n;
                for t in 0..times {
                    let z = (x[at(t, b, c)] - mean) / (variance + 1e-5).sqrt();
                    let mut a = activated(activation, z * weight[c] + bias[c]);
                    if let Some(width) = film.len().checked_div(rows) {
                        let film = &film[b.min(rows - 1) * width..][..width];
                        let scale = if width > channels { film[c] } else { 1.0 };
                        a = a * scale + film[width - channels + c];
                    }
                    y[at(t, b, c)] = a + residual.get(at(t, b, c)).unwrap_or(&0.0);
                }
            }
        }
        y
    }

    #[derive(Clone, Copy, Debug)]
    struct Case {
        shape: Shape,
        groups: usize,
        activation: Activation,
        /// Rows of the modulation: none, one for all samples, or one each.
        rows: usize,
        scales: bool,
        residual: bool,
    }

    fn check(case: Case, level: Level) {
        let Case { shape, groups, .. } = case;
        let Shape {
            times,
            samples,
            channels,
        } = shape;
        let n = times * samples * channels;
        let width = channels * (1 + usize::from(case.scales));
        let (x, dy) = (draw(n, 0.1), draw(n, 0.2));
        let (weight, bias) = (draw(channels, 0.3), draw(channels, 0.4));
        let film = draw(case.rows * width, 0.5);
        let residual = case.residual.then(|| draw(n, 0.6));
        let normalized = Normalized {
            shape,
            normalization: Normalization {
                groups,
                epsilon: 1e-5,
                affine: Affine {
                    weight: &weight,
                    bias: &bias,
                },
            },
            activation: case.activation,
            film: (case.rows > 0).then(|| Film {
                scale: case.scales.then_some(&film[..]),
                shift: &film[width - channels..],
                sample: if case.rows == 1 { 0 } else { width },
            }),
        };
        let mut y = vec![f32::NAN; n];
        let statistics = normalized.forward(level, &x, residual.as_deref(), &mut y);
        let gradients = normalized.backward(level, &x, &statistics, &dy);
        let arguments = [
            wide(&x),
            wide(&weight),
            wide(&bias),
            wide(&film),
            residual.as_deref().map_or_else(Vec::new, wide),
        ];
        let of =
            |arguments: &Arguments| exact(shape, groups, case.activation, case.rows, arguments);
        // What is rounded to 2⁻²⁴ is then divided by the deviation, which is as small as √1e-5 where a group has few numbers;
        // besides that, numbers are of a few units.
        let steepest = statistics.iter().copied().fold(1.0, f32::max);
        let rounding = 1e-6 * f64::from(steepest);
        for (i, (y, exact)) in y.iter().zip(of(&arguments)).enumerate() {
            let error = (f64::from(*y) - exact).abs();
            assert!(
                error < 3e-6 + rounding,
                "{case:?}, {level}: y[{i}] is {exact}, not {y}"
            );
        }
        let affine = super::super::column_sums(&gradients.affine, 2 * channels);
        let modulation = if case.rows == 1 {
            super::super::column_sums(&gradients.film, width)
        } else {
            gradients.film
        };
        let computed = [
            gradients.x,
            affine[..channels].to_vec(),
            affine[channels..].to_vec(),
            modulation,
        ];
        for (which, computed) in computed.iter().enumerate() {
            assert_eq!(computed.len(), arguments[which].len());
            // Of many, some: each costs two passes in f64.
            for i in (0..computed.len()).step_by(1 + computed.len() / 17) {
                let step = 1e-6;
                let moved = |by: f64| {
                    let mut arguments = arguments.clone();
                    arguments[which][i] += by;
                    let y = of(&arguments);
                    y.iter()
                        .zip(&dy)
                        .map(|(y, dy)| y * f64::from(*dy))
                        .sum::<f64>()
                };
                let slope = (moved(step) - moved(-step)) / (2.0 * step);
                let error = (slope - f64::from(computed[i])).abs();
                // Rounding of sums of some hundred numbers, and what the difference is wrong by.
                let tolerance = 2e-5 * (1.0 + slope.abs()) + rounding;
                assert!(
                    error < tolerance,
                    "{case:?}, {level}: gradient {which}[{i}] is {slope}, not {}",
                    computed[i]
                );
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn gradients_are_differences(
            (times, samples, groups, each) in (2_usize..6, 1_usize..5, 1_usize..4, 1_usize..13),
            activation in prop::sample::select(vec![
                Activation::Identity, Activation::Mish, Activation::Silu, Activation::Sigmoid,
            ]),
            rows in 0_usize..3,
            scales in any::<bool>(),
            residual in any::<bool>(),
        ) {
            // Two numbers become ±1 whatever they are: what is left of their gradient is rounding.
            prop_assume!(times * each >= 4);
            let shape = Shape { times, samples, channels: groups * each };
            let rows = [0, 1, samples][rows];
            let case = Case { shape, groups, activation, rows, scales, residual };
            for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
                check(case, level);
            }
        }
    }

    #[test]
    fn samples_do_not_care_about_others_or_threads() {
        let (times, channels) = (4, 24);
        let (weight, bias) = (draw(channels, 0.3), draw(channels, 0.4));
        let bits = |samples: usize, x: &[f32], threads: usize| {
            let normalized = Normalized {
                shape: Shape {
                    times,
                    samples,
                    channels,
                },
                normalization: Normalization {
                    groups: 8,
                    epsilon: 1e-5,
                    affine: Affine {
                        weight: &weight,
                        bias: &bias,
                    },
                },
                activation: Activation::Mish,
                film: None,
            };
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
            pool.expect("a pool").install(|| {
                let level = Level::detected();
                let mut y = vec![0.0; x.len()];
                let statistics = normalized.forward(level, x, None, &mut y);
                let dx = normalized.backward(level, x, &statistics, x).x;
                [y, dx].map(|it| it.into_iter().map(f32::to_bits).collect::<Vec<_>>())
            })
        };
        let samples = 33;
        let x = draw(times * samples * channels, 0.9);
        let together = bits(samples, &x, 3);
        assert_eq!(together, bits(samples, &x, 1));
        let of_sample = |b: usize| {
            (0..times)
                .flat_map(move |t| (t * samples + b) * channels..(t * samples + b + 1) * channels)
        };
        let alone: Vec<f32> = of_sample(17).map(|i| x[i]).collect();
        let alone = bits(1, &alone, 1);
        for (alone, together) in alone.iter().zip(&together) {
            assert!(of_sample(17).map(|i| &together[i]).eq(alone));
        }
    }
}
