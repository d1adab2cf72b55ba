//! What is learned when.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{DistillRecipe, Emphasis, Halving, Jumps, Kind, LessonError, RecipeError, Rollout};
use crate::{Discrete, End, Grid, GridError, Method, Point, Schedule, timesteps};

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
    /// What the teacher makes of noise, step by step.
    Rollout(Rollout),
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
    /// How its student is sampled; none where it is sampled as its teacher is.
    pub sampled: Option<Sampled>,
}

/// How a student is sampled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampled {
    /// With which solver.
    pub method: Method,
    /// In how many steps.
    pub steps: usize,
    /// The timestep of the last one, on the leading grid; nothing where the grid is the trailing one.
    pub offset: Option<usize>,
}

impl Sampled {
    fn new(method: Method, steps: usize) -> Self {
        Self {
            method,
            steps,
            offset: None,
        }
    }

    fn grid(self, schedule: &Discrete) -> Result<Grid, GridError> {
        let times = match self.offset {
            Some(offset) => timesteps::leading(schedule, self.steps, offset)?,
            None => timesteps::trailing(schedule, self.steps)?,
        };
        Grid::at_times(schedule, &times, End::Clean)
    }
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
        let (most, fewest) = (self.teacher_steps(), self.steps());
        // Euler's method is DDIM. A grid of every k-th step, the first included, ends k - 1 steps before the teacher's.
        let euler = |steps: usize| Sampled {
            offset: self.offset.map(|it| {
                let before = (most / steps.max(1)).saturating_sub(1);
                it + before * (schedule.len() / most.max(1))
            }),
            ..Sampled::new(Method::Euler, steps)
        };
        let consistent = Sampled::new(Method::Consistency, fewest);
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
                let mut steps = most;
                while steps > fewest {
                    let halving = Halving::new(&euler(steps).grid(schedule)?)?;
                    steps = halving.steps();
                    halvings.push((Lessons::Halving(halving), euler(steps)));
                }
                halvings
            }
            Kind::Rollout => {
                let teacher = euler(most).grid(schedule)?;
                let rollout = Rollout::new(&teacher, fewest)?;
                // Grids of whole timesteps are rounded: a student must not be asked where nobody taught it.
                let taught = teacher.points().iter().step_by(most / fewest.max(1));
                if !euler(fewest).grid(schedule)?.points().iter().eq(taught) {
                    return Err(LessonError::Apart {
                        steps: most,
                        among: fewest,
                    }
                    .into());
                }
                vec![(Lessons::Rollout(rollout), euler(fewest))]
            }
            Kind::Consistency => {
                let grid = Sampled::new(Method::Consistency, most).grid(schedule)?;
                let jumps = Jumps::new(&grid, self.skip.unwrap_or(1))?;
                vec![(Lessons::Jumps(jumps), consistent)]
            }
            Kind::Distribution => {
                let grid = consistent.grid(schedule)?;
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
                    consistent,
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
                sampled: Some(euler(most)),
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
