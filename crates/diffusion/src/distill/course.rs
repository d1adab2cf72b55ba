//! What is learned when.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DistillRecipe, Emphasis, Halving, Jumps, Kind, RecipeError};
use crate::{Discrete, End, Grid, Method, Point, Schedule, timesteps};

/// How much of a run a student of another prediction learns what its teacher estimates, unless the recipe says it.
const CONVERTED: u64 = 8;

/// What the estimates of a teacher that predicts noise are worth where noise prevails: nothing, in the end. A student that
/// converts learns no more from them there.
const TRUSTED: Emphasis = Emphasis::MinSnr { gamma: 1.0 };

/// What is learned for some steps.
#[derive(Clone, Debug, PartialEq)]
pub enum Lessons {
    /// What the teacher estimates, at all timesteps.
    Estimates(Emphasis),
    /// One step for two of its teacher's.
    Halving(Halving),
    /// Where the teacher's ODE ends.
    Jumps(Jumps),
    /// To answer with samples of the teacher's distribution.
    Matching(Matching),
}

/// Where a student that [matches](super::matched) its teacher's distribution answers, and is looked at.
#[derive(Clone, Debug, PartialEq)]
pub struct Matching {
    made_at: Vec<Point>,
    compared_at: Vec<Point>,
}

/// Between which shares of the timesteps scores are compared: neither where nothing is left to say, nor where what predicts
/// noise says nothing of the sample. DMD's are 0.02 and 0.98 of a schedule that ends with more signal.
const COMPARED: [f64; 2] = [0.02, 0.95];

impl Matching {
    /// The points of the student's grid, at which it answers: one for each of `count` samples, each as often.
    pub fn made_at(&self, seed: u64, count: usize) -> Vec<Point> {
        chosen(&self.made_at, seed, count)
    }

    /// The points at which the two scores are compared: one for each of `count` samples, each as often.
    pub fn compared_at(&self, seed: u64, count: usize) -> Vec<Point> {
        chosen(&self.compared_at, seed, count)
    }
}

/// Some steps with lessons of one kind: an optimizer and an average that begin anew, and a learning rate that falls to zero.
#[derive(Clone, Debug, PartialEq)]
pub struct Phase {
    /// The first step.
    pub start: u64,
    /// How many.
    pub steps: u64,
    /// What is learned.
    pub lessons: Lessons,
    /// How its student is sampled, and in how many steps of the trailing grid; none where it is sampled as its teacher is.
    pub sampled: Option<(Method, usize)>,
}

impl DistillRecipe {
    /// What is learned when, in `total` steps, of a teacher on a schedule. A student that `converts` predicts something else than
    /// its teacher does.
    ///
    /// # Errors
    ///
    /// If the grids that the recipe asks for have no lessons.
    pub fn phases(
        &self,
        schedule: &Discrete,
        total: u64,
        converts: bool,
    ) -> Result<Vec<Phase>, RecipeError> {
        let grid = |steps: usize| -> Result<Grid, RecipeError> {
            let times = timesteps::trailing(schedule, steps)?;
            Ok(Grid::at_times(schedule, &times, End::Clean)?)
        };
        let last = match self.kind {
            Kind::Structure => {
                return Ok(vec![Phase {
                    start: 0,
                    steps: total,
                    lessons: Lessons::Estimates(self.emphasis.into()),
                    sampled: None,
                }]);
            }
            Kind::Progressive => {
                let mut halvings = Vec::new();
                let mut steps = self.teacher_steps();
                while steps > self.steps() {
                    let halving = Halving::new(&grid(steps)?)?;
                    steps = halving.steps();
                    halvings.push((Lessons::Halving(halving), (Method::Euler, steps)));
                }
                halvings
            }
            Kind::Consistency => vec![(
                Lessons::Jumps(Jumps::new(
                    &grid(self.teacher_steps())?,
                    self.skip.unwrap_or(1),
                )?),
                (Method::Consistency, self.steps()),
            )],
            Kind::Distribution => {
                let grid = grid(self.steps())?;
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
                    (Method::Consistency, self.steps()),
                )]
            }
        };
        let usual = if converts { total / CONVERTED } else { 0 };
        let convert = self.convert.unwrap_or(usual);
        let mut phases = Vec::new();
        if convert > 0 {
            phases.push(Phase {
                start: 0,
                steps: convert,
                lessons: Lessons::Estimates(TRUSTED),
                sampled: Some((Method::Euler, self.teacher_steps())),
            });
        }
        let count = last.len() as u64;
        let left = total - convert;
        for ((lessons, sampled), i) in last.into_iter().zip(0..) {
            let [start, end] = [i, i + 1].map(|i| convert + i * left / count);
            phases.push(Phase {
                start,
                steps: end - start,
                lessons,
                sampled: Some(sampled),
            });
        }
        Ok(phases)
    }
}

/// One of some points for each of `count` samples, each as often.
fn chosen(points: &[Point], seed: u64, count: usize) -> Vec<Point> {
    let mut generator = ChaCha8Rng::seed_from_u64(seed);
    (0..count)
        .map(|_| points[generator.random_range(0..points.len())])
        .collect()
}
