use burn::tensor::Tensor;

use super::{Lesson, LessonError, arrived, drawn, mixed, noised};
use crate::{Denoiser, Grid, Point};

/// A student that sees at once where its teacher's probability-flow ODE ends: consistency distillation.
///
/// ```text
/// x  = α x₀ + σ ε                          at a point of the grid
/// x' = α' x̂ + σ' ε̂                         one DDIM step of the teacher, over `skip` steps of the grid
/// target = f⁻(x')                          what an average of the student sees there;  x' itself at the clean end
/// ```
///
/// What is exact at the end spreads over the grid, jump by jump. The boundary `f(x) = x` holds where `x'` is the end; a
/// student that shall keep it elsewhere too is [`Bounded`](crate::Bounded), or predicts EDM's F
/// ([`Karras`](crate::Parameterization::Karras)). `f⁻` moves slowly after the student ([`Ema`](crate::train::Ema)), or is the
/// student of the step before.
///
/// Song et al., "Consistency Models", 2023, arXiv:2303.01469, algorithm 2; skipping and DDIM as the solver of the ODE: Luo et
/// al., "Latent Consistency Models", 2023, arXiv:2310.04378, section 4.3 and algorithm 1. Their guided ODE is that of a teacher
/// in [`ClassifierFree`](crate::ClassifierFree).
#[derive(Clone, Debug, PartialEq)]
pub struct Jumps {
    /// From where to where.
    jumps: Vec<[Point; 2]>,
}

impl Jumps {
    /// Jumps over `skip` steps of a grid, from each of its points, the last ones to its end.
    ///
    /// # Errors
    ///
    /// If a jump is over no step, or over more than there are.
    pub fn new(grid: &Grid, skip: usize) -> Result<Self, LessonError> {
        let (points, steps) = (grid.points(), grid.steps());
        if !(1..=steps).contains(&skip) {
            return Err(LessonError::Skip { steps, skip });
        }
        let to = |i: usize| points[(i + skip).min(steps)];
        Ok(Self {
            jumps: (0..steps).map(|i| [points[i], to(i)]).collect(),
        })
    }

    /// How many there are: the steps of the grid.
    pub fn count(&self) -> usize {
        self.jumps.len()
    }

    /// Which jump each of `count` samples learns, in the training step `step` of a seed: each as often.
    pub fn draw(&self, seed: u64, step: u64, count: usize) -> Vec<usize> {
        drawn(seed, step, self.count(), count)
    }

    /// What the student learns of clean samples and noise: a pass of the teacher and one of the average of the student.
    ///
    /// # Shapes
    ///
    /// - clean, noise: `[batch, ..]`
    /// - which: `batch` jumps, from zero, the noisiest first
    ///
    /// # Panics
    ///
    /// If there is no such jump.
    pub fn lesson<const D: usize, T: Denoiser<D>, S: Denoiser<D>>(
        &self,
        (teacher, of_teacher): (&T, &T::Prepared),
        (average, of_average): (&S, &S::Prepared),
        sample: [Tensor<D>; 2],
        which: &[usize],
    ) -> Lesson<D> {
        let [points, ends] =
            [0, 1].map(|k| which.iter().map(|&i| self.jumps[i][k]).collect::<Vec<_>>());
        let x = noised(sample, &points);
        let arrived = arrived(&teacher.denoise(x.clone(), &points, of_teacher), &ends);
        // No network is asked where there is no noise. Those samples are asked about where they start, which is thrown away.
        let is_end = |end: &Point| end.level.sigma == 0.0;
        let asked = (ends.iter().zip(&points))
            .map(|(end, start)| if is_end(end) { *start } else { *end })
            .collect::<Vec<_>>();
        let ended: Vec<f64> = ends.iter().map(|it| f64::from(is_end(it))).collect();
        let going: Vec<f64> = ended.iter().map(|it| 1.0 - it).collect();
        let target = if going.iter().all(|&it| it == 0.0) {
            arrived
        } else {
            let seen = average.denoise(arrived.clone(), &asked, of_average).clean;
            mixed([&arrived, &seen], [&ended, &going])
        };
        Lesson { x, points, target }
    }
}
