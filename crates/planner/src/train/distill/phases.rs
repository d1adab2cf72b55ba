//! What is learned when.

use clearway_diffusion::distill::{Emphasis, Halving, Jumps, Rollout};
use clearway_diffusion::{Discrete, Point, Schedule};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::recipe::{Distillation, Kind};
use crate::train::TrainError;
use crate::{Method, Sampling};

/// How much of a run a student of another prediction learns what its teacher estimates, unless the recipe says it.
pub(super) const CONVERTED: u64 = 8;

/// What the estimates of a teacher that predicts noise are worth where noise prevails: nothing, in the end. A student that
/// converts learns no more from them there.
pub(super) const TRUSTED: Emphasis = Emphasis::MinSnr { gamma: 1.0 };

/// What is learned for some steps.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Lessons {
    /// What the teacher estimates, at all timesteps.
    Estimates(Emphasis),
    Halving(Halving),
    Rollout(Rollout),
    Jumps(Jumps),
    Matching(Matching),
}

/// To answer with samples of the teacher's distribution.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Matching {
    /// The points of the student's grid, at which it answers.
    pub(super) made_at: Vec<Point>,
    /// The points at which the two scores are compared: neither where nothing is left to say, nor where what predicts noise
    /// says nothing of the sample.
    pub(super) compared_at: Vec<Point>,
}

/// Between which shares of the timesteps scores are compared. DMD's are 0.02 and 0.98 of a schedule that ends with more signal.
pub(super) const COMPARED: [f64; 2] = [0.02, 0.95];

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
    let it = &recipe.distill;
    let total = recipe.optimizer.steps;
    // Euler's method is DDIM, and its own grid the trailing one.
    let euler = |steps, offset| Sampling::new(Method::Euler, steps).with_offset(offset);
    let trailing = |steps| euler(steps, None).grid(schedule);
    // The grid of every k-th step, the first included: its last step is k - 1 steps earlier than the teacher's.
    let later = |steps: usize, k: usize| {
        it.offset
            .map(|offset| offset + (k - 1) * (schedule.len() / steps))
    };
    let last = match it.kind {
        Kind::Structure => {
            return Ok(vec![Phase {
                start: 0,
                steps: total,
                lessons: Lessons::Estimates(it.emphasis.into()),
                sampling: teacher,
            }]);
        }
        Kind::Progressive => {
            let most = it.teacher_steps();
            let mut halvings = Vec::new();
            let mut steps = most;
            while steps > it.steps() {
                let before = euler(steps, later(most, most / steps));
                let halving = Halving::new(&before.grid(schedule)?)?;
                steps = halving.steps();
                let after = euler(steps, later(most, most / steps));
                halvings.push((Lessons::Halving(halving), after));
            }
            halvings
        }
        Kind::Rollout => {
            let (most, steps) = (it.teacher_steps(), it.steps());
            let rollout = Rollout::new(&euler(most, it.offset).grid(schedule)?, steps)?;
            let sampling = euler(steps, later(most, most / steps));
            vec![(Lessons::Rollout(rollout), sampling)]
        }
        Kind::Consistency => vec![(
            Lessons::Jumps(Jumps::new(
                &trailing(it.teacher_steps())?,
                it.skip.unwrap_or(1),
            )?),
            Sampling::new(Method::Consistency, it.steps()),
        )],
        Kind::Distribution => {
            let grid = trailing(it.steps())?;
            let made_at = grid.points()[..grid.steps()].to_vec();
            let last = (schedule.len() - 1) as f64;
            let [low, high] = COMPARED.map(|share| (share * last).round() as usize);
            let at = |t| Point {
                t,
                level: schedule.level(t),
            };
            let compared_at = (low..=high).map(|t| at(t as f64)).collect();
            vec![(
                Lessons::Matching(Matching {
                    made_at,
                    compared_at,
                }),
                Sampling::new(Method::Consistency, it.steps()),
            )]
        }
    };
    let usual = if converts { total / CONVERTED } else { 0 };
    let convert = it.convert.unwrap_or(usual);
    let mut phases = Vec::new();
    if convert > 0 {
        phases.push(Phase {
            start: 0,
            steps: convert,
            lessons: Lessons::Estimates(TRUSTED),
            sampling: euler(it.teacher_steps(), it.offset),
        });
    }
    let count = last.len() as u64;
    let left = total - convert;
    for ((lessons, sampling), i) in last.into_iter().zip(0..) {
        let [start, end] = [i, i + 1].map(|i| convert + i * left / count);
        phases.push(Phase {
            start,
            steps: end - start,
            lessons,
            sampling,
        });
    }
    Ok(phases)
}

/// One of some points for each of `count` samples, each as often.
pub(super) fn chosen(points: &[Point], seed: u64, count: usize) -> Vec<Point> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| points[generator.random_range(0..points.len())])
        .collect()
}
