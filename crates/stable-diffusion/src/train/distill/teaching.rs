//! Who teaches, and what a student is told.

use burn::tensor::Tensor;
use clearway_diffusion::distill::{DistillRecipe, Lesson, Lessons};
use clearway_diffusion::train::{Levels, Weighting};
use clearway_diffusion::{
    Clip, ClippedNoise, Denoiser, Discrete, Method, Network, Parameterization, Parameterized,
    Threshold,
};

use crate::train::asked::Asked;
use crate::{Condition, SchedulerConfig, Unet};

/// A network of someone's, with what it predicts and how that is clipped.
pub(super) type Sampled<'a, N> = Clip<Parameterized<&'a N>>;

/// What a network answers means this.
#[derive(Clone, Copy, Debug)]
pub(super) struct Meaning {
    parameterization: Parameterization,
    threshold: Threshold,
}

impl Meaning {
    pub(super) fn of(scheduler: &SchedulerConfig) -> Self {
        let open = Threshold::Static {
            range: f64::INFINITY,
        };
        Self {
            parameterization: scheduler.parameterization,
            threshold: scheduler.clip(Method::Ddim).unwrap_or(open),
        }
    }

    /// As it is sampled.
    pub(super) fn sampled<N>(self, network: &N) -> Sampled<'_, N> {
        Clip {
            denoiser: self.learned(network),
            threshold: self.threshold,
            noise: ClippedNoise::Kept,
        }
    }

    /// As it learns: what is clipped has no gradient.
    pub(super) fn learned<N>(self, network: &N) -> Parameterized<&N> {
        Parameterized::new(network, self.parameterization)
    }
}

/// The network that makes lessons: it does not change.
#[derive(Clone, Debug)]
pub(super) struct Teacher {
    network: Asked,
    meaning: Meaning,
}

impl Teacher {
    pub(super) fn new(plain: &Unet, meaning: Meaning) -> Self {
        let network = Asked::new(plain);
        Self { network, meaning }
    }

    pub(super) fn sampled(&self) -> Sampled<'_, Asked> {
        self.meaning.sampled(&self.network)
    }
}

/// What a network is shown: pictures, and of what they are.
#[derive(Clone, Debug)]
pub(super) struct Batch {
    /// `[batch, channels, height, width]`, as a network sees them.
    pub(super) clean: Tensor<4>,
    pub(super) condition: Condition,
}

impl Batch {
    pub(super) fn count(&self) -> usize {
        self.clean.dims()[0]
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
    pub(super) seen_by: &'a Unet,
}

impl Teaching<'_> {
    /// What is learned on some pictures, and what is drawn for it depends on a seed and a number.
    pub(super) fn lesson(
        &self,
        lessons: &Lessons,
        batch: &Batch,
        noise: Tensor<4>,
        seed: u64,
        step: u64,
    ) -> Lesson<4> {
        let count = batch.count();
        let sample = [batch.clean.clone(), noise];
        let teacher = self.teacher.sampled();
        let prepared = teacher.prepare(&batch.condition);
        match lessons {
            Lessons::Halving(halving) => {
                let which = halving.draw(seed, step, count);
                halving.lesson(&teacher, sample, &which, &prepared)
            }
            Lessons::Rollout(rollout) => {
                let which = rollout.draw(seed, step, count);
                let [_, noise] = sample;
                let lesson = rollout.lesson(&teacher, noise, &prepared);
                lesson.one_each(&which)
            }
            Lessons::Jumps(jumps) => {
                let which = jumps.draw(seed, step, count);
                let seen_by = Asked::new(self.seen_by);
                let average = self.of_student.sampled(&seen_by);
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
        network: &Unet,
        lessons: &Lessons,
        lesson: &Lesson<4>,
        batch: &Batch,
        noise: Tensor<4>,
    ) -> Tensor<4> {
        let recipe = self.recipe;
        let student = self.of_student.learned(network);
        let prepared = network.prepare(&batch.condition);
        let emphasis = match lessons {
            Lessons::Estimates(emphasis) => *emphasis,
            _ => recipe.emphasis.into(),
        };
        let errors = lesson.errors(&student, &prepared, emphasis, recipe.metric());
        match recipe.task {
            Some(task) if task > 0.0 => {
                let sample = [batch.clean.clone(), noise];
                let of_task = student.errors(sample, &lesson.points, &prepared, Weighting::Uniform);
                errors + of_task.mul_scalar(task)
            }
            _ => errors,
        }
    }
}
