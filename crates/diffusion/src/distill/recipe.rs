//! What a distillation is told, whatever is distilled.

use serde::{Deserialize, Serialize};

use super::{Emphasis, LessonError, Metric};
use crate::GridError;
use crate::train::WrongValue;

/// Why a recipe cannot be followed.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum RecipeError {
    /// A number is not one to learn with.
    #[error(transparent)]
    Value(#[from] WrongValue),
    /// A key that other kinds of distillation have.
    #[error("`{key}` is for {}, and not for {kind}", of.join(" and "))]
    Foreign {
        /// The key.
        key: &'static str,
        /// Who has it.
        of: Vec<&'static str>,
        /// Who was asked for.
        kind: &'static str,
    },
    /// The teacher cannot be sampled in so many steps.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// Its steps make no lessons.
    #[error(transparent)]
    Lesson(#[from] LessonError),
}

/// How a student learns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One step for two of its teacher's, again and again, see
    /// [`Halving`](super::Halving).
    Progressive,
    /// To go from noise to data as its teacher does, see [`Rollout`](super::Rollout).
    Rollout,
    /// To see where its teacher's ODE ends, see [`Jumps`](super::Jumps).
    #[default]
    Consistency,
    /// To sample from its teacher's distribution, see [`matched`](super::matched).
    Distribution,
    /// What its teacher estimates, with fewer channels or other layers; it is sampled as its teacher is.
    Structure,
}

impl Kind {
    /// Its name in files.
    pub fn word(self) -> &'static str {
        match self {
            Self::Progressive => "progressive",
            Self::Rollout => "rollout",
            Self::Consistency => "consistency",
            Self::Distribution => "distribution",
            Self::Structure => "structure",
        }
    }
}

/// What is learned, and how wrong counts how much.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DistillRecipe {
    /// How the student learns.
    pub kind: Kind,
    /// In how many steps it samples at the end; those of a structure are its teacher's.
    pub steps: Option<usize>,
    /// Progressive, rollout and consistency: in how many steps the teacher goes from noise to data; 16 times as many as the
    /// student's, 4 times, and 32, where it is left out.
    pub teacher_steps: Option<usize>,
    /// Progressive and rollout: the timestep of the teacher's last step, where its grid is the leading one with diffusers'
    /// `steps_offset`; where it is left out the grid is the trailing one.
    pub offset: Option<usize>,
    /// How many of the first steps the student learns what its teacher estimates; an eighth where it predicts something else
    /// than it did, else none.
    pub convert: Option<u64>,
    /// How much the error at a level counts.
    pub emphasis: EmphasisRecipe,
    /// Where squares become lines, see [`Metric::PseudoHuber`]; squares everywhere where it is left out.
    pub huber: Option<f64>,
    /// Consistency: over how many steps of the teacher's grid a jump is; 1 where it is left out.
    pub skip: Option<usize>,
    /// Consistency: how slowly the average moves that says what the student shall see; 0.95 where it is left out.
    pub target_decay: Option<f64>,
    /// Distribution: how many steps the fake score makes for one of the student's; 2 where it is left out.
    pub critic_steps: Option<usize>,
    /// Distribution: the largest learning rate of the fake score; that of the student where it is left out.
    pub critic_rate: Option<f64>,
    /// Structure: how much the loss of training counts besides; 0 where it is left out.
    pub task: Option<f64>,
}

/// How much the error at a level counts, see [`Emphasis`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EmphasisRecipe {
    /// As much everywhere.
    #[default]
    Uniform,
    /// By the ratio of signal to noise, at least as one.
    TruncatedSnr,
    /// By the ratio of signal to noise, and one.
    SnrPlusOne,
    /// By the ratio of signal to noise, up to gamma.
    MinSnr(f64),
}

impl From<EmphasisRecipe> for Emphasis {
    fn from(recipe: EmphasisRecipe) -> Self {
        match recipe {
            EmphasisRecipe::Uniform => Self::Uniform,
            EmphasisRecipe::TruncatedSnr => Self::TruncatedSnr,
            EmphasisRecipe::SnrPlusOne => Self::SnrPlusOne,
            EmphasisRecipe::MinSnr(gamma) => Self::MinSnr { gamma },
        }
    }
}

impl DistillRecipe {
    /// In how many steps the student samples.
    pub fn steps(&self) -> usize {
        self.steps.unwrap_or(1)
    }

    /// The steps of the teacher's grid.
    pub fn teacher_steps(&self) -> usize {
        self.teacher_steps.unwrap_or(match self.kind {
            Kind::Progressive => self.steps().saturating_mul(16),
            Kind::Rollout => self.steps().saturating_mul(4),
            Kind::Consistency => 32,
            Kind::Distribution | Kind::Structure => self.steps(),
        })
    }

    /// How far two numbers are apart.
    pub fn metric(&self) -> Metric {
        match self.huber {
            Some(c) => Metric::PseudoHuber { c },
            None => Metric::Squared,
        }
    }

    /// Makes sure that no key is of another kind.
    fn check_keys(&self) -> Result<(), RecipeError> {
        let few = [
            Kind::Progressive,
            Kind::Rollout,
            Kind::Consistency,
            Kind::Distribution,
        ];
        let rows = [
            ("distill.steps", self.steps.is_some(), &few[..]),
            (
                "distill.teacher_steps",
                self.teacher_steps.is_some(),
                &few[..3],
            ),
            ("distill.offset", self.offset.is_some(), &few[..2]),
            ("distill.convert", self.convert.is_some(), &few),
            ("distill.skip", self.skip.is_some(), &[Kind::Consistency]),
            (
                "distill.target_decay",
                self.target_decay.is_some(),
                &[Kind::Consistency],
            ),
            (
                "distill.critic_steps",
                self.critic_steps.is_some(),
                &[Kind::Distribution],
            ),
            (
                "distill.critic_rate",
                self.critic_rate.is_some(),
                &[Kind::Distribution],
            ),
            ("distill.task", self.task.is_some(), &[Kind::Structure]),
        ];
        let foreign = |(_, given, of): &(_, bool, &[Kind])| *given && !of.contains(&self.kind);
        match rows.into_iter().find(foreign) {
            Some((key, _, of)) => Err(RecipeError::Foreign {
                key,
                of: of.iter().map(|kind| kind.word()).collect(),
                kind: self.kind.word(),
            }),
            None => Ok(()),
        }
    }

    /// Makes sure that the numbers are ones that can be learned with in `total` steps, by a teacher of some timesteps.
    ///
    /// # Errors
    ///
    /// If one is not, or is of another kind.
    pub fn check(&self, timesteps: usize, total: u64) -> Result<(), RecipeError> {
        self.check_keys()?;
        let it = self;
        let kind = it.kind;
        let (steps, teacher) = (it.steps(), it.teacher_steps());
        let ratio = teacher / steps.max(1);
        let fits = teacher == ratio * steps;
        let is_positive = |x: f64| x.is_finite() && x > 0.0;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let gamma = match it.emphasis {
            EmphasisRecipe::MinSnr(gamma) => gamma,
            _ => 1.0,
        };
        let phases = match kind {
            Kind::Progressive => u64::from(ratio.max(1).ilog2()),
            _ => 1,
        };
        let convert = it.convert.unwrap_or(0);
        let [huber, rate] = [it.huber, it.critic_rate].map(|it| it.unwrap_or(1.0));
        let decay = it.target_decay.unwrap_or(0.0);
        let (skip, critic) = (it.skip.unwrap_or(1), it.critic_steps.unwrap_or(1));
        let task = it.task.unwrap_or(0.0);
        let rows = [
            (
                "distill.steps",
                steps as f64,
                (1..=timesteps).contains(&steps),
                "at least 1, and at most the teacher's timesteps",
            ),
            (
                "distill.teacher_steps",
                teacher as f64,
                (1..=timesteps).contains(&teacher),
                "at least 1, and at most the teacher's timesteps",
            ),
            (
                "distill.teacher_steps",
                teacher as f64,
                kind != Kind::Progressive || (fits && ratio > 1 && ratio.is_power_of_two()),
                "2, 4, 8, .. times `distill.steps`",
            ),
            (
                "distill.teacher_steps",
                teacher as f64,
                !matches!(kind, Kind::Rollout | Kind::Consistency) || fits,
                "a multiple of `distill.steps`",
            ),
            (
                "distill.convert",
                convert as f64,
                convert.saturating_add(phases) <= total,
                "so few that `optimizer.steps` leaves some to learn in",
            ),
            ("distill.emphasis", gamma, is_positive(gamma), "positive"),
            ("distill.huber", huber, is_positive(huber), "positive"),
            (
                "distill.skip",
                skip as f64,
                (1..=teacher).contains(&skip),
                "at least 1, and at most `distill.teacher_steps`",
            ),
            (
                "distill.target_decay",
                decay,
                share(decay),
                "at least 0 and below 1",
            ),
            (
                "distill.critic_steps",
                critic as f64,
                (1..=100).contains(&critic),
                "from 1 to 100",
            ),
            ("distill.critic_rate", rate, is_positive(rate), "positive"),
            (
                "distill.task",
                task,
                task.is_finite() && task >= 0.0,
                "at least 0",
            ),
        ];
        first_wrong(rows)?;
        self.check_offset(timesteps)
    }

    /// Whole strides, so that every k-th of the teacher's steps is the student's own grid.
    fn check_offset(&self, timesteps: usize) -> Result<(), RecipeError> {
        let Some(offset) = self.offset else {
            return Ok(());
        };
        let teacher = self.teacher_steps();
        first_wrong([
            (
                "distill.teacher_steps",
                teacher as f64,
                timesteps.is_multiple_of(teacher),
                "a divisor of the teacher's timesteps, where there is `distill.offset`",
            ),
            (
                "distill.offset",
                offset as f64,
                offset < timesteps / teacher.max(1),
                "below the timesteps between two of the teacher's steps",
            ),
        ])
    }
}

/// The first of some rows that does not hold: a key, what was found, whether it can be learned with, and what could be.
fn first_wrong<const N: usize>(
    rows: [(&'static str, f64, bool, &'static str); N],
) -> Result<(), RecipeError> {
    match rows.into_iter().find(|(_, _, holds, _)| !holds) {
        Some((key, found, _, expected)) => Err(WrongValue {
            key,
            found,
            expected,
        }
        .into()),
        None => Ok(()),
    }
}
