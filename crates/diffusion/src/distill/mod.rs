//! Students that need fewer passes than their teachers, or smaller ones.
//!
//! All of them learn the same way: a [`Lesson`] is noisy samples, and the clean samples that the student shall see in them.
//! What a lesson says is what the methods differ in.
//!
//! | the student shall | lesson | sampled by |
//! |---|---|---|
//! | do one DDIM step for two of its teacher | [`Halving::lesson`] | [`Ddim`](crate::Ddim), [`Euler`](crate::Euler) on the halved grid |
//! | go from noise to data as its teacher does, in fewer steps | [`Rollout::lesson`] | [`Ddim`](crate::Ddim), [`Euler`](crate::Euler) on every k-th point of its grid |
//! | see at once where its teacher's ODE ends | [`Jumps::lesson`] | [`Consistency`](crate::Consistency), or [`Lcm`](crate::Lcm) around [`Bounded`](crate::Bounded) |
//! | answer with samples of its teacher's distribution in one pass | [`matched`] | [`Consistency`](crate::Consistency) |
//! | be guided in one pass in place of two | [`Lesson::estimate`] of a [`ClassifierFreeEach`] | any |
//! | be smaller, or compute with fewer bits | [`Lesson::estimate`], [`feature_loss`] | any |
//!
//! A teacher is a [`Denoiser`] on a plain device, with whatever wraps it; a student is one on an autodiff device. Neither is
//! known to be a network, so that students that are quantized while they learn are students like others. The rank of samples is
//! free: trajectories and pictures take the same code.
//!
//! What is drawn depends on a seed and the number of the step alone, as in [`train`](crate::train).

mod consistency;
mod course;
mod distribution;
mod guidance;
mod progressive;
mod recipe;
mod rollout;
mod structure;

pub use consistency::Jumps;
pub use course::{Lessons, Matching, Phase, Sampled};
pub use distribution::matched;
pub use guidance::{ClassifierFreeEach, scales};
pub use progressive::Halving;
pub use recipe::{DistillRecipe, EmphasisRecipe, Kind, RecipeError};
pub use rollout::Rollout;
pub use structure::{Features, feature_loss};

use burn::tensor::Tensor;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Level, Point};

/// Why a grid has no lessons.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LessonError {
    /// A step of the student's is two of the teacher's.
    #[error("a teacher of {steps} steps cannot be halved: the number must be even")]
    Odd {
        /// The teacher's steps.
        steps: usize,
    },
    /// Each of the student's steps is as many of the teacher's.
    #[error(
        "a teacher of {steps} steps cannot be followed in {among}, of which they are no multiple"
    )]
    Share {
        /// The teacher's steps.
        steps: usize,
        /// The student's.
        among: usize,
    },
    /// Whole timesteps are rounded, and not every grid is part of another.
    #[error(
        "the timesteps of {among} steps are not among those of a teacher of {steps}: take 2, 4, 8, .. times as many"
    )]
    Apart {
        /// The teacher's steps.
        steps: usize,
        /// The student's.
        among: usize,
    },
    /// A jump is at least a step, and at most all of them.
    #[error("a jump over {skip} of {steps} steps: it must be from 1 to {steps}")]
    Skip {
        /// The steps of the grid.
        steps: usize,
        /// What was asked for.
        skip: usize,
    },
}

/// Noisy samples, and the clean samples that a student shall see in them.
#[derive(Clone, Debug)]
pub struct Lesson<const D: usize> {
    /// What the student is shown: `[batch, ..]`.
    pub x: Tensor<D>,
    /// At which levels: one for all samples, or one a sample.
    pub points: Vec<Point>,
    /// What its clean estimate shall be: `[batch, ..]`.
    pub target: Tensor<D>,
}

impl<const D: usize> Lesson<D> {
    /// What a teacher estimates: for students of other networks, other parameterizations, fewer bits, or fewer passes a step
    /// where the teacher is guided.
    ///
    /// Hinton et al., "Distilling the Knowledge in a Neural Network", 2015, arXiv:1503.02531; for diffusion models Kim et al.,
    /// "BK-SDM", 2023, arXiv:2305.15798, section 3.2; of a guided teacher Meng et al., "On Distillation of Guided Diffusion
    /// Models", 2023, arXiv:2210.03142, section 3.1.
    ///
    /// # Shapes
    ///
    /// - clean, noise: `[batch, ..]`
    /// - points: one for all samples, or one a sample
    pub fn estimate<T: Denoiser<D>>(
        teacher: &T,
        sample: [Tensor<D>; 2],
        points: &[Point],
        prepared: &T::Prepared,
    ) -> Self {
        let x = noised(sample, points);
        let target = teacher.denoise(x.clone(), points, prepared).clean;
        Self {
            x,
            points: points.to_vec(),
            target,
        }
    }

    /// How wrong a student's clean estimate is, number by number: for losses of which parts are masked.
    ///
    /// # Shapes
    ///
    /// - returns: `[batch, ..]`
    pub fn errors<S: Denoiser<D>>(
        &self,
        student: &S,
        prepared: &S::Prepared,
        emphasis: Emphasis,
        metric: Metric,
    ) -> Tensor<D> {
        let answer = student.denoise(self.x.clone(), &self.points, prepared);
        let errors = metric.of(answer.clean - self.target.clone());
        let weights = of_levels(&self.points, |level| emphasis.of(level));
        scaled(&errors, &weights).unwrap_or_else(|| errors.zeros_like())
    }

    /// The mean of [`errors`](Self::errors): what a training step makes smaller.
    pub fn loss<S: Denoiser<D>>(
        &self,
        student: &S,
        prepared: &S::Prepared,
        emphasis: Emphasis,
        metric: Metric,
    ) -> Tensor<1> {
        self.errors(student, prepared, emphasis, metric).mean()
    }
}

/// How much the error of a clean estimate counts at a level, with `SNR = alpha² / sigma²`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Emphasis {
    /// As much everywhere.
    #[default]
    Uniform,
    /// `max(SNR, 1)`.
    ///
    /// Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv:2202.00512, section 4.
    TruncatedSnr,
    /// `SNR + 1`: the squared error of the velocity.
    ///
    /// Salimans and Ho, 2022, arXiv:2202.00512, section 4.
    SnrPlusOne,
    /// `min(SNR, gamma)`: what a teacher that predicts noise says least exactly counts least.
    ///
    /// Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023, arXiv:2303.09556, section 3.4.
    MinSnr {
        /// From which ratio on all levels count as much.
        gamma: f64,
    },
}

impl Emphasis {
    fn of(self, level: Level) -> f64 {
        let snr = level.ratio().powi(-2);
        match self {
            Self::Uniform => 1.0,
            Self::TruncatedSnr => snr.max(1.0),
            Self::SnrPlusOne => snr + 1.0,
            Self::MinSnr { gamma } => snr.min(gamma),
        }
    }
}

/// How far two numbers are apart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Metric {
    /// `d²`.
    #[default]
    Squared,
    /// `√(d² + c²) − c`: as `d² / 2c` near zero, as `|d|` far from it, so that what cannot be learned pulls less.
    ///
    /// Song and Dhariwal, "Improved Techniques for Training Consistency Models", 2023, arXiv:2310.14189, section 3.3, there of
    /// a whole sample; number by number as diffusers trains latent consistency models.
    PseudoHuber {
        /// Where one becomes the other.
        c: f64,
    },
}

impl Metric {
    fn of<const D: usize>(self, difference: Tensor<D>) -> Tensor<D> {
        let squares = difference.square();
        match self {
            Self::Squared => squares,
            Self::PseudoHuber { c } => squares.add_scalar(c * c).sqrt().sub_scalar(c),
        }
    }
}

/// `alpha · clean + sigma · noise`, as a network is shown it.
///
/// # Shapes
///
/// - clean, noise, returns: `[batch, ..]`
/// - points: one for all samples, or one a sample
pub fn noised<const D: usize>([clean, noise]: [Tensor<D>; 2], points: &[Point]) -> Tensor<D> {
    mixed(
        [&clean, &noise],
        [
            &of_levels(points, |level| level.alpha),
            &of_levels(points, |level| level.sigma),
        ],
    )
}

/// Where a step of DDIM arrives, one of Euler's method on the probability-flow ODE: `alpha · x̂ + sigma · ε̂`.
fn arrived<const D: usize>(estimate: &Estimate<D>, to: &[Point]) -> Tensor<D> {
    mixed(
        [&estimate.clean, &estimate.noise],
        [
            &of_levels(to, |level| level.alpha),
            &of_levels(to, |level| level.sigma),
        ],
    )
}

/// `a · x + b · y`, each with one factor for all samples or one a sample.
fn mixed<const D: usize>([x, y]: [&Tensor<D>; 2], [a, b]: [&[f64]; 2]) -> Tensor<D> {
    match (scaled(x, a), scaled(y, b)) {
        (Some(x), Some(y)) => x + y,
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => x.zeros_like(),
    }
}

fn of_levels(points: &[Point], of: impl Fn(Level) -> f64) -> Vec<f64> {
    points.iter().map(|point| of(point.level)).collect()
}

/// Which of `among` steps each of `count` samples learns, in the training step `step` of a seed.
///
/// The generator is ChaCha with 8 rounds: key = seed, stream = step.
fn drawn(seed: u64, step: u64, among: usize, count: usize) -> Vec<usize> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    generator.set_stream(step);
    (0..count)
        .map(|_| generator.random_range(0..among))
        .collect()
}

#[cfg(test)]
mod tests;
