//! Guidance by the cost of a path: obstacles, limits, length and bends.

use burn::tensor::{Tensor, TensorData};
use clearway_diffusion::{Cost, Point};
use clearway_motion::{FreeSpace, Optimizer};
use ndarray::Array2;
use rayon::prelude::*;

use super::config::PathConfig;

/// How candidates are guided while they are denoised.
///
/// What pushes is the cost of the [`Optimizer`], and how far is its covariant [step](Optimizer::step): the clean estimate gives
/// way as the smoothest path would that clears the obstacles, and not one waypoint by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Guidance {
    /// The cost: how near obstacles may come before they push, what bends cost, how much collisions count.
    pub cost: Optimizer,
    /// How much of length and bends is followed, besides measuring what a push costs; from 0 to 1.
    pub pull: f64,
    /// The anchor of a first step that takes the tremor out of a path, see [`Optimizer::step`]: what is drawn in few steps has
    /// some of the noise left. The smaller, the smoother; nothing leaves that step out.
    pub smoothing: Option<f64>,
    /// How much each step is damped; the larger, the smaller the steps.
    pub damping: f64,
    /// Steps a pass.
    pub steps: usize,
    /// The signal from which on there is guidance: `α` of the level, from 0, always, to 1, never. In pure noise the estimate is
    /// the mean of all ways, and pushing that out of an obstacle chooses one for no reason.
    pub from: f64,
}

impl Default for Guidance {
    fn default() -> Self {
        Self {
            cost: Optimizer {
                reserve: 0.04,
                ..Optimizer::default()
            },
            pull: 0.0,
            smoothing: Some(30.0),
            damping: 1.0,
            steps: 1,
            from: 0.3,
        }
    }
}

/// The cost of candidates of one problem, as the engine asks for it.
#[derive(Debug)]
pub(super) struct PathCost<'a> {
    pub(super) config: &'a PathConfig,
    pub(super) guidance: &'a Guidance,
    pub(super) free: FreeSpace<'a>,
    pub(super) start: &'a [f64],
    pub(super) goal: &'a [f64],
}

impl Cost<3> for PathCost<'_> {
    /// The negative of the covariant step, in the network's terms; the gradient is through the cost and not through the
    /// network.
    fn gradient(&self, clean: &Tensor<3>, points: &[Point]) -> Tensor<3> {
        let guided = points.iter().any(|it| it.level.alpha >= self.guidance.from);
        let shape @ [_, horizon, dof] = clean.dims();
        let Some(values) = guided
            .then(|| clean.to_data().try_to_vec::<f32>().ok())
            .flatten()
        else {
            return clean.zeros_like();
        };
        let Guidance {
            cost,
            pull,
            smoothing,
            damping,
            ..
        } = self.guidance;
        let steps = values.par_chunks(horizon * dof).flat_map_iter(|sample| {
            let rows: Vec<f64> = sample
                .chunks(dof)
                .flat_map(|row| self.config.physical(row))
                .collect();
            let mut path = Array2::from_shape_fn((horizon, dof), |(i, j)| rows[i * dof + j]);
            for j in 0..dof {
                path[[0, j]] = self.start[j];
                path[[horizon - 1, j]] = self.goal[j];
            }
            let mut step = Array2::zeros((horizon, dof));
            if let Some(anchor) = smoothing {
                step = cost.step(&self.free, path.view(), 1.0, 0.0, *anchor);
                path += &step;
            }
            step += &cost.step(&self.free, path.view(), *pull, *damping, 0.0);
            let scales = self
                .config
                .coordinates
                .iter()
                .map(|it| 2.0 / (it.upper - it.lower));
            let scales: Vec<f64> = scales.collect();
            let steps = step.into_iter().enumerate();
            steps.map(move |(i, it)| (-it * scales[i % dof]) as f32)
        });
        let steps: Vec<f32> = steps.collect();
        Tensor::from_data(TensorData::new(steps, shape), &clean.device())
    }
}
