//! What a network is asked, and how wrong its answer is.

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{
    Discrete, Network, Noise, Parameterization, Parameterized, Point, Seeded, normal,
};

use super::LossRecipe;
use super::examples::Examples;
use crate::network::ConditionalUnet1d;

/// What a network is asked.
#[derive(Debug)]
pub(super) struct Task {
    pub(super) schedule: Discrete,
    pub(super) parameterization: Parameterization,
    pub(super) examples: Examples,
    pub(super) recipe: LossRecipe,
    pub(super) device: Device,
}

impl Task {
    /// Noise for some windows: a seed and the place in the batch are what it depends on.
    pub(super) fn noise(&self, seed: u64, batch: usize) -> Tensor<3> {
        noise(seed, batch, self.examples.shape(), &self.device)
    }

    /// The loss of a network on the windows around some frames, with a level and a noise for each.
    pub(super) fn loss(
        &self,
        network: &ConditionalUnet1d,
        frames: &[usize],
        points: &[Point],
        noise: Tensor<3>,
    ) -> Tensor<1> {
        let batch = self.examples.batch(frames, &self.device);
        let denoiser = Parameterized::new(network.clone(), self.parameterization);
        let prepared = network.prepare(&batch.condition);
        let weighting = self.recipe.weighting.into();
        let errors = denoiser.errors([batch.actions, noise], points, &prepared, weighting);
        if self.recipe.do_mask_loss_for_padding {
            // As LeRobot has it: what is masked is zero, and counts in the mean.
            (errors * batch.inside).mean()
        } else {
            errors.mean()
        }
    }
}

/// Noise for `batch` windows of some actions, each of some values.
pub(super) fn noise(
    seed: u64,
    batch: usize,
    [horizon, width]: [usize; 2],
    device: &Device,
) -> Tensor<3> {
    let mut noise = Seeded::new(seed, batch);
    normal(
        &mut noise as &mut dyn Noise,
        [batch, horizon, width],
        device,
    )
}
