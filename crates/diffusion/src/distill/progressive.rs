use burn::tensor::Tensor;

use super::{Lesson, LessonError, arrived, drawn, mixed, noised};
use crate::{Denoiser, Grid, Point};

/// A student that does one DDIM step for two of its teacher: progressive distillation.
///
/// ```text
/// x   = α x₀ + σ ε                                       at a point of the student's grid
/// x'' = two steps of the teacher, over the point between
/// x̃   = (σ x'' − σ'' x) / (σ α'' − σ'' α)                the clean estimate with which one step arrives there too
/// ```
///
/// It holds on every line, to the clean end as to any other level. The student's grid is every second point of its teacher's;
/// from its teacher's weights it learns one halving, and is the teacher of the next. A network that predicts noise cannot be
/// brought to few steps, since at their first level a rounding of its answer is another sample: let students predict the
/// sample or the velocity.
///
/// Salimans and Ho, "Progressive Distillation for Fast Sampling of Diffusion Models", 2022, arXiv:2202.00512, algorithm 2.
#[derive(Clone, Debug, PartialEq)]
pub struct Halving {
    /// Where a step starts, its middle and its end.
    steps: Vec<[Point; 3]>,
}

impl Halving {
    /// The halving of a teacher's grid.
    ///
    /// # Errors
    ///
    /// If its number of steps is odd.
    pub fn new(teacher: &Grid) -> Result<Self, LessonError> {
        let (points, steps) = (teacher.points(), teacher.steps());
        if !steps.is_multiple_of(2) {
            return Err(LessonError::Odd { steps });
        }
        let steps = (0..steps).step_by(2);
        Ok(Self {
            steps: steps
                .map(|i| [points[i], points[i + 1], points[i + 2]])
                .collect(),
        })
    }

    /// How many steps the student has.
    pub fn steps(&self) -> usize {
        self.steps.len()
    }

    /// Which step each of `count` samples learns, in the training step `step` of a seed: each as often.
    pub fn draw(&self, seed: u64, step: u64, count: usize) -> Vec<usize> {
        drawn(seed, step, self.steps(), count)
    }

    /// What the student learns of clean samples and noise: two passes of the teacher.
    ///
    /// # Shapes
    ///
    /// - clean, noise: `[batch, ..]`
    /// - which: `batch` steps, from zero, the noisiest first
    ///
    /// # Panics
    ///
    /// If there is no such step.
    pub fn lesson<const D: usize, T: Denoiser<D>>(
        &self,
        teacher: &T,
        sample: [Tensor<D>; 2],
        which: &[usize],
        prepared: &T::Prepared,
    ) -> Lesson<D> {
        let [points, between, ends] =
            [0, 1, 2].map(|k| which.iter().map(|&i| self.steps[i][k]).collect::<Vec<_>>());
        let x = noised(sample, &points);
        let first = teacher.denoise(x.clone(), &points, prepared);
        let second = teacher.denoise(arrived(&first, &between), &between, prepared);
        let arrived = arrived(&second, &ends);
        let [of_end, of_start] = shares(&points, &ends);
        Lesson {
            target: mixed([&arrived, &x], [&of_end, &of_start]),
            x,
            points,
        }
    }
}

/// The shares of `x''` and `x` in the target; the denominator is positive, since the noise falls.
pub(super) fn shares(starts: &[Point], ends: &[Point]) -> [Vec<f64>; 2] {
    let pairs = || starts.iter().zip(ends).map(|(a, b)| (a.level, b.level));
    let whole = pairs().map(|(a, b)| a.sigma * b.alpha - b.sigma * a.alpha);
    let (of_end, of_start) = pairs()
        .zip(whole)
        .map(|((a, b), whole)| (a.sigma / whole, -b.sigma / whole))
        .unzip();
    [of_end, of_start]
}
