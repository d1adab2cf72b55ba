//! What is learned when.

use clearway_diffusion::Discrete;
use clearway_diffusion::distill::Lessons;

use super::recipe::Distillation;
use crate::Sampling;
use crate::train::TrainError;

/// Some steps with lessons of one kind: an optimizer and an average that begin anew, and a learning rate that falls to zero.
#[derive(Clone, Debug)]
pub(super) struct Phase {
    pub(super) start: u64,
    pub(super) steps: u64,
    pub(super) lessons: Lessons,
    /// How its student is sampled.
    pub(super) sampling: Sampling,
}

/// What is learned when.
pub(super) fn phases(
    recipe: &Distillation,
    schedule: &Discrete,
    teacher: Sampling,
    converts: bool,
) -> Result<Vec<Phase>, TrainError> {
    let total = recipe.optimizer.steps;
    let phases = recipe.distill.phases(schedule, total, converts)?;
    let phase = |it: clearway_diffusion::distill::Phase| Phase {
        start: it.start,
        steps: it.steps,
        lessons: it.lessons,
        sampling: it.sampled.map_or(teacher, |it| {
            Sampling::new(it.method, it.steps).with_offset(it.offset)
        }),
    };
    Ok(phases.into_iter().map(phase).collect())
}
