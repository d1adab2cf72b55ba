//! How far one denoiser is from another, by how much noise there is.

use burn::tensor::Tensor;

use crate::noise::normal;
use crate::{Denoiser, Noise, Point, Seeded};

/// How far one denoiser is from another at one level of noise, as ‖Δ‖/‖y‖ over all samples.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Drift {
    /// Where the samples were.
    pub point: Point,
    /// Of the clean estimates: `‖x̂′ − x̂‖ / ‖x̂‖`.
    pub clean: f64,
    /// Of the noise: `‖ε̂′ − ε̂‖ / ‖ε̂‖`. Of a network that predicts noise, the error of its outputs.
    pub noise: f64,
}

/// What a network became, beside what it was: at each point, both denoise the same samples,
/// `x_t = alpha · x₀ + sigma · ε`.
///
/// It is the one instrument for whatever makes a network smaller or faster: quantization and distillation alike.
///
/// # Shapes
///
/// - clean: `x₀`, `[batch, ..]`; a condition for each sample, or one for all
///
/// # Panics
///
/// If a denoiser does not take the samples or the conditions.
pub fn drift<const D: usize, A, B>(
    (before, after): (&A, &B),
    (prepared_before, prepared_after): (&A::Prepared, &B::Prepared),
    clean: &Tensor<D>,
    points: &[Point],
    seed: u64,
) -> Vec<Drift>
where
    A: Denoiser<D> + ?Sized,
    B: Denoiser<D> + ?Sized,
{
    let shape = clean.dims();
    let mut generator = Seeded::new(seed, shape[0]);
    points
        .iter()
        .map(|&point| {
            let noise = normal(&mut generator as &mut dyn Noise, shape, &clean.device());
            let x =
                clean.clone().mul_scalar(point.level.alpha) + noise.mul_scalar(point.level.sigma);
            let expected = before.denoise(x.clone(), &[point], prepared_before);
            let found = after.denoise(x, &[point], prepared_after);
            Drift {
                point,
                clean: relative(found.clean, expected.clean),
                noise: relative(found.noise, expected.noise),
            }
        })
        .collect()
}

/// `‖found − expected‖ / ‖expected‖`, in f64 on the host.
fn relative<const D: usize>(found: Tensor<D>, expected: Tensor<D>) -> f64 {
    let numbers = |x: Tensor<D>| x.into_data().iter::<f64>().collect::<Vec<_>>();
    let (found, expected) = (numbers(found), numbers(expected));
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|x| x * x).sum::<f64>().sqrt();
    norm(&mut found.iter().zip(&expected).map(|(a, b)| a - b)) / norm(&mut expected.iter().copied())
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::{Gaussian, Level};

    #[test]
    fn it_is_what_two_means_differ_by() {
        let gaussian = |mean| Gaussian {
            mean,
            deviation: 0.5,
        };
        let device = Device::flex();
        let clean = Tensor::<3>::ones([64, 4, 2], &device);
        let point = |alpha: f64| Point {
            t: 0.0,
            level: Level {
                alpha,
                sigma: (1.0 - alpha * alpha).sqrt(),
            },
        };
        let points = [0.1, 0.9].map(point);
        let (one, other) = (gaussian(1.0), gaussian(1.25));
        let same = drift((&one, &one), (&(), &()), &clean, &points, 3);
        assert!(same.iter().all(|it| it.clean == 0.0 && it.noise == 0.0));
        let found = drift((&one, &other), (&(), &()), &clean, &points, 3);
        for (drift, point) in found.iter().zip(points) {
            // x̂ moves by (1 − α · gain) of what the mean does, and is about the mean.
            let Level { alpha, sigma } = point.level;
            let moved = 0.25 * sigma * sigma / (alpha * alpha * 0.25 + sigma * sigma);
            assert!(
                (drift.clean - moved).abs() < 0.1 * moved,
                "{drift:?}, {moved}"
            );
            assert!(drift.noise > 0.0);
        }
    }
}
