use burn::tensor::{Int, Tensor, TensorData};

use super::progressive::shares;
use super::{Lesson, LessonError, arrived, drawn, mixed};
use crate::{Denoiser, Grid, Point};

/// A student that goes from noise to data as its teacher does, in fewer steps: distillation along the teacher's own samples.
///
/// ```text
/// x   = √(α² + σ²) ε                  noise, as a sampler begins
/// x₁, x₂, .. xₙ                       DDIM steps of the teacher, to the end of its grid
/// x̃   = (σ x'' − σ'' x) / (σ α'' − σ'' α)      the clean estimate with which one step leads from x = xᵢ to x'' = xᵢ₊ₖ
/// ```
///
/// [`Halving`](super::Halving) shows the student noised data, which a sampler that begins in noise never meets where the grid
/// begins with some signal; here it is shown what it will meet, and no error is handed on from one halving to the next. All
/// steps are learned of each sample, so that nothing the teacher computed is thrown away.
///
/// Luhman and Luhman, "Knowledge Distillation in Iterative Generative Models for Improved Sampling Speed", 2021,
/// arXiv:2101.02388, section 3, where the student has one step; the estimate of a step is that of Salimans and Ho, 2022,
/// arXiv:2202.00512, algorithm 2.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    points: Vec<Point>,
    /// Of the teacher, for one of the student's.
    together: usize,
}

impl Rollout {
    /// A teacher's grid in `steps` steps of the student's.
    ///
    /// # Errors
    ///
    /// If the teacher's steps are no multiple of the student's.
    pub fn new(teacher: &Grid, steps: usize) -> Result<Self, LessonError> {
        let of = teacher.steps();
        if steps == 0 || !of.is_multiple_of(steps) {
            return Err(LessonError::Share {
                steps: of,
                among: steps,
            });
        }
        Ok(Self {
            points: teacher.points().to_vec(),
            together: of / steps,
        })
    }

    /// How many steps the student has.
    pub fn steps(&self) -> usize {
        (self.points.len() - 1) / self.together
    }

    /// Which step each of `count` samples learns, in the training step `step` of a seed, where not all are: each as often.
    pub fn draw(&self, seed: u64, step: u64, count: usize) -> Vec<usize> {
        drawn(seed, step, self.steps(), count)
    }

    /// What the student learns of some noise: a pass for each of the teacher's steps, a sample for each of the student's.
    ///
    /// # Shapes
    ///
    /// - noise: `[batch, ..]`
    /// - the lesson: `[steps * batch, ..]`, all samples of the noisiest step first
    pub fn lesson<const D: usize, T: Denoiser<D>>(
        &self,
        teacher: &T,
        noise: Tensor<D>,
        prepared: &T::Prepared,
    ) -> Lesson<D> {
        let count = noise.dims()[0];
        let mut x = noise.mul_scalar(self.points[0].level.magnitude());
        let (mut shown, mut points, mut targets) = (Vec::new(), Vec::new(), Vec::new());
        for first in (0..self.points.len() - 1).step_by(self.together) {
            let last = first + self.together;
            let begun = x.clone();
            for step in first..last {
                let estimate = teacher.denoise(x, &self.points[step..=step], prepared);
                x = arrived(&estimate, &self.points[step + 1..step + 2]);
            }
            let (at, end) = (self.points[first], self.points[last]);
            let [of_end, of_start] = shares(&[at], &[end]);
            targets.push(mixed([&x, &begun], [&of_end, &of_start]));
            points.extend(std::iter::repeat_n(at, count));
            shown.push(begun);
        }
        Lesson {
            x: Tensor::cat(shown, 0),
            points,
            target: Tensor::cat(targets, 0),
        }
    }
}

impl<const D: usize> Lesson<D> {
    /// Of a rollout's lesson one step for each of the `which.len()` samples of noise.
    ///
    /// # Panics
    ///
    /// If there is no such step.
    #[must_use]
    pub fn one_each(self, which: &[usize]) -> Self {
        let count = which.len();
        let rows: Vec<usize> = (which.iter().zip(0..))
            .map(|(step, i)| step * count + i)
            .collect();
        // A tensor has fewer rows than an i64 counts.
        let indices = rows
            .iter()
            .map(|&row| i64::try_from(row).unwrap_or(i64::MAX));
        let indices: Vec<i64> = indices.collect();
        let indices = TensorData::new(indices, [count]);
        let indices = Tensor::<1, Int>::from_data(indices, &self.x.device());
        Self {
            x: self.x.select(0, indices.clone()),
            points: rows.iter().map(|&row| self.points[row]).collect(),
            target: self.target.select(0, indices),
        }
    }
}
