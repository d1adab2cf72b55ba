//! Students that sample from their teacher's distribution: what they make, and the score of it.

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use clearway_diffusion::distill::{Matching, matched, noised};
use clearway_diffusion::train::{Levels, NonFinite, Weighting, clip};
use clearway_diffusion::{Denoiser, Network, Point};
use clearway_layers::ResumableOptimizer;

use super::teaching::Batch;
use super::{Distiller, drawn};
use crate::train::TrainError;
use crate::train::asked::Asked;
use crate::{Condition, Unet};

/// The score of what the student makes, which follows it.
#[derive(Debug)]
pub(super) struct Critic {
    pub(super) network: Unet,
    pub(super) optimizer: ResumableOptimizer,
}

impl Distiller {
    /// What a network of the student's makes at some points of its grid.
    fn made<N: Network<4, Condition = Condition>>(
        &self,
        network: &N,
        points: &[Point],
        batch: &Batch,
        noise: Tensor<4>,
    ) -> Tensor<4> {
        let student = self.of_student.learned(network);
        let prepared = network.prepare(&batch.condition);
        let x = noised([batch.clean.clone(), noise], points);
        student.denoise(x, points, &prepared).clean
    }

    /// Lets the fake score follow what the student makes now.
    pub(super) fn follow(
        &mut self,
        matching: &Matching,
        batch: &Batch,
        rate: f64,
    ) -> Result<(), TrainError> {
        let Some(mut critic) = self.critic.take() else {
            return Ok(());
        };
        let count = batch.count();
        let steps = self.recipe.distill.critic_steps.unwrap_or(2) as u64;
        let student = Asked::new(&self.network.valid());
        for i in 0..steps {
            let number = self.step * steps + i;
            let seed = self.seeds.critic ^ (2 * number);
            let at = matching.made_at(seed, count);
            let [from, added] = [seed, seed ^ 1].map(|it| drawn(it, batch));
            let made = self.made(&student, &at, batch, from);
            let levels = Levels::Timesteps.draw(self.schedule(), self.seeds.critic, number, count);
            let denoiser = self.meaning.learned(&critic.network);
            let prepared = critic.network.prepare(&batch.condition);
            let sample = [made, added];
            let loss = denoiser.loss(sample, &levels, &prepared, Weighting::Uniform);
            let value: f32 = loss.clone().into_scalar();
            let mut gradients = GradientsParams::from_grads(loss.backward(), &critic.network);
            let norm = clip(&mut gradients, &critic.network, self.recipe.optimizer.clip);
            let loss = f64::from(value);
            if !(loss.is_finite() && norm.is_finite()) {
                let step = self.step;
                return Err(NonFinite { step, loss, norm }.into());
            }
            critic.network = critic.optimizer.step(rate, critic.network, gradients);
        }
        self.critic = Some(critic);
        Ok(())
    }

    /// Half the squares between what the student makes and what it should rather be.
    pub(super) fn mismatch(
        &self,
        matching: &Matching,
        batch: &Batch,
        noise: Tensor<4>,
    ) -> Tensor<4> {
        let count = batch.count();
        let (step, seeds) = (self.step, &self.seeds);
        let at = matching.made_at(seeds.lessons ^ step, count);
        let made = self.made(&self.network, &at, batch, noise);
        let Some(critic) = &self.critic else {
            return made.zeros_like();
        };
        let fake = Asked::new(&critic.network.valid());
        let fake = self.meaning.sampled(&fake);
        let of_fake = fake.prepare(&batch.condition);
        let real = self.teacher.sampled();
        let of_real = real.prepare(&batch.condition);
        let levels = matching.compared_at(seeds.lessons ^ !step, count);
        let added = drawn(seeds.lessons ^ !step, batch);
        let sample = made.clone().inner();
        let target = matched(
            (&real, &of_real),
            (&fake, &of_fake),
            &sample,
            added,
            &levels,
        );
        (made - target).square().mul_scalar(0.5)
    }
}
