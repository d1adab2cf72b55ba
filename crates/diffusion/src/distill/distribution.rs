use burn::tensor::Tensor;

use super::noised;
use crate::{Denoiser, Point};

/// What samples of a student should rather be, so that they come from its teacher's distribution: distribution matching.
///
/// ```text
/// x_t     = α x + σ ε
/// matched = x − (x̂_fake(x_t) − x̂_real(x_t)) / mean|x − x̂_real(x_t)|
/// ```
///
/// `real` is the teacher; `fake` is a denoiser that is trained on the student's samples as they are now, by
/// [`Parameterized::loss`](crate::Parameterized::loss). Their difference is the gradient of the divergence
/// `KL(student ‖ teacher)` of the two diffused distributions, up to a factor of the level, which the mean of each sample takes
/// away. So the gradient of `½ (x − matched)²` with a `matched` that is held fast is the descent. In contrast to the other
/// lessons nothing says which noise becomes which sample, and what the teacher rarely does, the student leaves out.
///
/// Yin et al., "One-step Diffusion with Distribution Matching Distillation", 2023, arXiv:2311.18828, equations 7 and 8; for
/// policies Wang et al., "One-Step Diffusion Policy", 2024, arXiv:2410.21257.
///
/// # Shapes
///
/// - sample, noise, returns: `[batch, ..]`; the sample on a plain device
/// - points: one for all samples, or one a sample
pub fn matched<const D: usize, R: Denoiser<D>, F: Denoiser<D>>(
    (real, of_real): (&R, &R::Prepared),
    (fake, of_fake): (&F, &F::Prepared),
    sample: &Tensor<D>,
    noise: Tensor<D>,
    points: &[Point],
) -> Tensor<D> {
    /// What no distance is below: where the teacher sees what is there already, nothing shall be divided by zero.
    const LEAST: f64 = 1e-4;
    let x = noised([sample.clone(), noise], points);
    let real = real.denoise(x.clone(), points, of_real).clean;
    let fake = fake.denoise(x, points, of_fake).clean;
    let batch = sample.dims()[0];
    let each = sample.dims()[1..].iter().product::<usize>();
    let distances = (sample.clone() - real.clone()).abs();
    let mut shape = [1; D];
    shape[0] = batch;
    let distance = distances.reshape([batch, each]).mean_dim(1);
    let distance = distance.clamp_min(LEAST).reshape(shape);
    sample.clone() - (fake - real) / distance
}
