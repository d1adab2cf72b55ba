//! Who teaches, and what a student is told.

use burn::tensor::{Device, Tensor};
use clearway_diffusion::distill::{DistillRecipe, Lesson, Lessons};
use clearway_diffusion::train::{Levels, Weighting};
use clearway_diffusion::{
    Clip, ClippedNoise, Denoiser, Discrete, Network, Parameterization, Parameterized, Threshold,
};
use clearway_layers::{Precision, can_pack};

use crate::lerobot::DiffusionConfig;
use crate::network::ConditionalUnet1d;
use crate::train::examples::Batch;

/// A network of someone's, with what it predicts and how that is clipped.
pub(super) type Sampled<'a> = Clip<Parameterized<&'a ConditionalUnet1d>>;

/// What a network answers means this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meaning {
    pub(super) parameterization: Parameterization,
    pub(super) range: f64,
}

impl Meaning {
    pub(super) fn of(config: &DiffusionConfig) -> Self {
        Self {
            parameterization: config.prediction.into(),
            range: config.clip_sample_range.unwrap_or(f64::INFINITY),
        }
    }

    /// As it is sampled.
    pub(super) fn sampled(self, network: &ConditionalUnet1d) -> Sampled<'_> {
        Clip {
            denoiser: self.learned(network),
            threshold: Threshold::Static { range: self.range },
            noise: ClippedNoise::Kept,
        }
    }

    /// As it learns: what is clipped has no gradient.
    pub(super) fn learned(self, network: &ConditionalUnet1d) -> Parameterized<&ConditionalUnet1d> {
        Parameterized::new(network, self.parameterization)
    }
}

/// The network that makes lessons, laid out for the CPU's kernels where they can be had: it does not change.
#[derive(Clone, Debug)]
pub(super) struct Teacher {
    pub(super) network: ConditionalUnet1d,
    pub(super) meaning: Meaning,
}

impl Teacher {
    pub(super) fn new(plain: &ConditionalUnet1d, meaning: Meaning, device: &Device) -> Self {
        let mut network = plain.clone();
        if can_pack(device) {
            let _ = network.pack(Precision::F32);
        }
        Self { network, meaning }
    }

    pub(super) fn sampled(&self) -> Sampled<'_> {
        self.meaning.sampled(&self.network)
    }
}

/// What lessons are made with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Teaching<'a> {
    pub(super) recipe: &'a DistillRecipe,
    pub(super) schedule: &'a Discrete,
    pub(super) teacher: &'a Teacher,
    pub(super) of_student: Meaning,
    /// Says what the student shall see, where it learns jumps.
    pub(super) seen_by: &'a ConditionalUnet1d,
}

impl Teaching<'_> {
    /// What is learned on some windows, and what is drawn for it depends on a seed and a number.
    pub(super) fn lesson(
        &self,
        lessons: &Lessons,
        batch: &Batch,
        noise: Tensor<3>,
        seed: u64,
        step: u64,
    ) -> Lesson<3> {
        let count = noise.dims()[0];
        let sample = [batch.actions.clone(), noise];
        let teacher = self.teacher.sampled();
        let prepared = teacher.prepare(&batch.condition);
        match lessons {
            Lessons::Halving(halving) => {
                let which = halving.draw(seed, step, count);
                halving.lesson(&teacher, sample, &which, &prepared)
            }
            Lessons::Rollout(rollout) => {
                let [_, noise] = sample;
                rollout.lesson(&teacher, noise, &prepared)
            }
            Lessons::Jumps(jumps) => {
                let which = jumps.draw(seed, step, count);
                let average = self.of_student.sampled(self.seen_by);
                let of_average = average.prepare(&batch.condition);
                jumps.lesson(
                    (&teacher, &prepared),
                    (&average, &of_average),
                    sample,
                    &which,
                )
            }
            Lessons::Estimates(_) | Lessons::Matching(_) => {
                let points = Levels::Timesteps.draw(self.schedule, seed, step, count);
                let own = self.teacher.meaning;
                // A student that answers what its teacher does shall err nowhere: it is not clipped when it learns.
                if own.parameterization == self.of_student.parameterization {
                    let teacher = own.learned(&self.teacher.network);
                    Lesson::estimate(&teacher, sample, &points, &prepared)
                } else {
                    Lesson::estimate(&teacher, sample, &points, &prepared)
                }
            }
        }
    }

    /// How wrong a student is, number by number.
    pub(super) fn errors(
        &self,
        network: &ConditionalUnet1d,
        lessons: &Lessons,
        lesson: &Lesson<3>,
        batch: &Batch,
        noise: Tensor<3>,
    ) -> Tensor<3> {
        let recipe = self.recipe;
        let student = self.of_student.learned(network);
        // A lesson may have several samples of each window.
        let samples = lesson.x.dims()[0] / noise.dims()[0];
        let prepared = match samples {
            1 => network.prepare(&batch.condition),
            _ => network.prepare(&Tensor::cat(vec![batch.condition.clone(); samples], 0)),
        };
        let emphasis = match lessons {
            Lessons::Estimates(emphasis) => *emphasis,
            _ => recipe.emphasis.into(),
        };
        let errors = lesson.errors(&student, &prepared, emphasis, recipe.metric());
        match recipe.task {
            Some(task) if task > 0.0 => {
                let sample = [batch.actions.clone(), noise];
                let of_task = student.errors(sample, &lesson.points, &prepared, Weighting::Uniform);
                errors + of_task.mul_scalar(task)
            }
            _ => errors,
        }
    }
}
