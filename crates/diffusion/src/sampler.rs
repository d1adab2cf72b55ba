//! The one executor of stages.

use std::collections::VecDeque;

use burn::tensor::{Device, Tensor};

use crate::noise::normal;
use crate::parameterization::scaled;
use crate::{Denoiser, Estimate, Level, Noise, Stage};

/// One step of a [`Sampler`], done.
#[derive(Clone, Debug)]
pub struct Step<'a, const D: usize> {
    /// The number of the stage, from 0.
    pub index: usize,
    /// The stage.
    pub stage: &'a Stage,
    /// What the denoiser made of the sample at `stage.at`: `estimate.clean` is a preview of the result.
    pub estimate: Estimate<D>,
    /// The sample at `stage.to`; after the last stage, the result.
    pub sample: Tensor<D>,
}

/// What a later stage may reach back to.
struct Past<const D: usize> {
    sample: Tensor<D>,
    estimate: Estimate<D>,
}

/// Runs stages, one a call of `next`.
///
/// Progress, previews, cancellation and deadlines are a `for` loop over the steps:
///
/// ```
/// use clearway_diffusion::{Ddim, Denoiser, End, Gaussian, Grid, Discrete, Sampler, Seeded, Solver, timesteps};
/// use burn::tensor::{Device, Tensor};
///
/// let schedule = Discrete::squared_cosine(100)?;
/// let grid = Grid::at_times(&schedule, &timesteps::leading(&schedule, 10, 0)?, End::Clean)?;
/// let stages = Ddim::default().plan(&schedule, &grid)?;
///
/// let device = Device::flex();
/// let denoiser = Gaussian { mean: 2.0, deviation: 0.5 };
/// let mut noise = Seeded::new(0, 4);
/// let steps = Sampler::from_noise(&denoiser, &(), &stages, [4, 16, 2], &device, &mut noise);
/// let mut result = None;
/// for step in steps {
///     println!("{} of {}", step.index + 1, stages.len());
///     result = Some(step.sample);
/// }
/// # let mean: f32 = result.unwrap().mean().into_scalar();
/// # assert!((mean - 2.0).abs() < 0.2, "{mean}");
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct Sampler<'a, const D: usize, N: Denoiser<D> + ?Sized> {
    denoiser: &'a N,
    prepared: &'a N::Prepared,
    stages: &'a [Stage],
    noise: &'a mut dyn Noise,
    history: VecDeque<Past<D>>,
    depth: usize,
    sample: Tensor<D>,
    next: usize,
}

impl<'a, const D: usize, N: Denoiser<D> + ?Sized> Sampler<'a, D, N> {
    /// Starts from a sample that already is at `stages[0].at`.
    ///
    /// # Panics
    ///
    /// If the stages are not those of a whole plan: the first reaches back to stages that are not there.
    pub fn new(
        denoiser: &'a N,
        prepared: &'a N::Prepared,
        stages: &'a [Stage],
        sample: Tensor<D>,
        noise: &'a mut dyn Noise,
    ) -> Self {
        for (index, stage) in stages.iter().enumerate() {
            assert!(
                stage.depth() <= index + 1,
                "stage {index} reaches {} stages back; plan a refinement on its own grid",
                stage.depth() - 1
            );
        }
        Self {
            denoiser,
            prepared,
            stages,
            noise,
            history: VecDeque::new(),
            depth: stages.iter().map(Stage::depth).max().unwrap_or(1),
            sample,
            next: 0,
        }
    }

    /// Starts from noise: the first draw, times the magnitude that a sample has at the first stage.
    pub fn from_noise(
        denoiser: &'a N,
        prepared: &'a N::Prepared,
        stages: &'a [Stage],
        shape: [usize; D],
        device: &Device,
        noise: &'a mut dyn Noise,
    ) -> Self {
        let start = stages
            .first()
            .map_or(1.0, |stage| stage.at.level.magnitude());
        let sample = normal(noise, shape, device).mul_scalar(start);
        Self::new(denoiser, prepared, stages, sample, noise)
    }

    /// Starts part-way from a clean sample, such as the last plan: image-to-image, and a warm start.
    ///
    /// ```text
    /// x = α · clean + σ · ε          (α, σ) of stages[0].at
    /// ```
    ///
    /// How far back is the choice of the grid: [`Grid::without_first`](crate::Grid::without_first). From the first
    /// point on it is full sampling, but for the signal that is left there.
    ///
    /// Meng et al., "SDEdit", 2021, arXiv:2108.01073, algorithm 1.
    pub fn refine(
        denoiser: &'a N,
        prepared: &'a N::Prepared,
        stages: &'a [Stage],
        clean: Tensor<D>,
        noise: &'a mut dyn Noise,
    ) -> Self {
        let Level { alpha, sigma } = stages.first().map_or(Level::CLEAN, |stage| stage.at.level);
        let fresh = normal(noise, clean.dims(), &clean.device());
        let sample = clean.mul_scalar(alpha) + fresh.mul_scalar(sigma);
        Self::new(denoiser, prepared, stages, sample, noise)
    }

    /// The sample as it is: what the next stage begins with.
    pub fn sample(&self) -> &Tensor<D> {
        &self.sample
    }

    /// Runs what is left and returns the result.
    pub fn finish(mut self) -> Tensor<D> {
        while self.next().is_some() {}
        self.sample
    }

    fn combine(&mut self, stage: &Stage) -> Tensor<D> {
        let states = stage
            .states
            .iter()
            .zip(&self.history)
            .map(|(share, past)| (share, &past.sample));
        let clean = stage
            .clean
            .iter()
            .zip(&self.history)
            .map(|(share, past)| (share, &past.estimate.clean));
        let noise = stage
            .noise
            .iter()
            .zip(&self.history)
            .map(|(share, past)| (share, &past.estimate.noise));
        let mut sum: Option<Tensor<D>> = None;
        for (&share, tensor) in states.chain(clean).chain(noise) {
            if let Some(term) = scaled(tensor, &[share]) {
                sum = Some(match sum {
                    Some(sum) => sum + term,
                    None => term,
                });
            }
        }
        let sum = sum.unwrap_or_else(|| self.sample.zeros_like());
        if stage.fresh == 0.0 {
            return sum;
        }
        sum + normal(self.noise, self.sample.dims(), &self.sample.device()).mul_scalar(stage.fresh)
    }
}

impl<'a, const D: usize, N: Denoiser<D> + ?Sized> Iterator for Sampler<'a, D, N> {
    type Item = Step<'a, D>;

    fn next(&mut self) -> Option<Self::Item> {
        let index = self.next;
        let stage = self.stages.get(index)?;
        let estimate = self
            .denoiser
            .denoise(self.sample.clone(), &[stage.at], self.prepared);
        self.history.truncate(self.depth - 1);
        self.history.push_front(Past {
            sample: self.sample.clone(),
            estimate: estimate.clone(),
        });
        self.sample = self.combine(stage);
        self.next += 1;
        if self.next == self.stages.len() {
            self.sample = self.denoiser.finish(self.sample.clone());
        }
        Some(Step {
            index,
            stage,
            estimate,
            sample: self.sample.clone(),
        })
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.stages.len() - self.next;
        (left, Some(left))
    }
}

impl<const D: usize, N: Denoiser<D> + ?Sized> ExactSizeIterator for Sampler<'_, D, N> {}

impl<const D: usize, N: Denoiser<D> + ?Sized> std::fmt::Debug for Sampler<'_, D, N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sampler")
            .field("next", &self.next)
            .field("stages", &self.stages)
            .finish_non_exhaustive()
    }
}
