//! What every training run is told: how much a level counts, how the loss is made smaller, and what is averaged.

use serde::{Deserialize, Serialize};

use super::{Decay, WarmUpCosine, Weighting};

/// A number of a recipe that cannot be trained with.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("`{key}` is {found}; it must be {expected}")]
pub struct WrongValue {
    /// The key.
    pub key: &'static str,
    /// The number.
    pub found: f64,
    /// What it must be.
    pub expected: &'static str,
}

/// The first of some rows that does not hold.
fn check<const N: usize>(
    rows: [(&'static str, f64, bool, &'static str); N],
) -> Result<(), WrongValue> {
    match rows.into_iter().find(|(_, _, holds, _)| !holds) {
        Some((key, found, _, expected)) => Err(WrongValue {
            key,
            found,
            expected,
        }),
        None => Ok(()),
    }
}

fn is_positive(x: f64) -> bool {
    x.is_finite() && x > 0.0
}

fn is_share(x: f64) -> bool {
    (0.0..1.0).contains(&x)
}

/// How much the error at a level counts, see [`Weighting`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightingRecipe {
    /// As much everywhere.
    #[default]
    Uniform,
    /// By the ratio of signal to noise, up to gamma.
    MinSnr(f64),
    /// EDM's, for data of this standard deviation. It is for networks that predict the sample, the velocity or the flow:
    /// where hardly any signal is left, the error of a network that predicts noise would count a million times as much.
    Edm(f64),
}

impl From<WeightingRecipe> for Weighting {
    fn from(recipe: WeightingRecipe) -> Self {
        match recipe {
            WeightingRecipe::Uniform => Self::Uniform,
            WeightingRecipe::MinSnr(gamma) => Self::MinSnr { gamma },
            WeightingRecipe::Edm(sigma_data) => Self::Edm { sigma_data },
        }
    }
}

/// Who makes steps of gradients.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OptimizerKind {
    /// AdamW for all weights.
    #[default]
    #[serde(rename = "adamw")]
    AdamW,
    /// Muon for the matrices between hidden channels, AdamW for what is left, with one learning rate and one decay for both.
    Muon,
}

impl OptimizerKind {
    // serde hands over a reference.
    #[allow(clippy::trivially_copy_pass_by_ref)]
    fn is_adamw(&self) -> bool {
        *self == Self::AdamW
    }
}

/// How the loss is made smaller: AdamW or Muon, a learning rate that warms up and falls as a cosine, gradients that are
/// clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerRecipe {
    /// AdamW or Muon.
    #[serde(skip_serializing_if = "OptimizerKind::is_adamw")]
    pub kind: OptimizerKind,
    /// How many steps the learning rate takes to fall to zero; what comes after does not learn.
    pub steps: u64,
    /// The largest learning rate.
    pub rate: f64,
    /// How many steps it rises.
    pub warm_up: u64,
    /// How fast the averages of gradients and of their squares forget.
    pub betas: [f64; 2],
    /// Is added to the root of the average of squares.
    pub epsilon: f64,
    /// Muon: how slowly the average of gradients forgets; 0.95 where it is left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub momentum: Option<f64>,
    /// By which share of the learning rate weights shrink in a step.
    pub weight_decay: f64,
    /// The most that the norm of all gradients may be.
    pub clip: f64,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            kind: OptimizerKind::AdamW,
            steps: 100_000,
            rate: 1e-4,
            warm_up: 500,
            betas: [0.95, 0.999],
            epsilon: 1e-8,
            momentum: None,
            weight_decay: 1e-6,
            clip: 10.0,
        }
    }
}

/// How fast the average of weights forgets, see [`Decay`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AverageRecipe {
    /// What the decay never exceeds.
    pub most: f64,
    /// The scale of time, in steps.
    pub inverse_gamma: f64,
    /// How fast the decay approaches one.
    pub power: f64,
}

impl Default for AverageRecipe {
    fn default() -> Self {
        let Decay {
            most,
            inverse_gamma,
            power,
        } = Decay::default();
        Self {
            most,
            inverse_gamma,
            power,
        }
    }
}

impl From<AverageRecipe> for Decay {
    fn from(recipe: AverageRecipe) -> Self {
        Self {
            most: recipe.most,
            inverse_gamma: recipe.inverse_gamma,
            power: recipe.power,
        }
    }
}

impl WeightingRecipe {
    /// Makes sure that the numbers are ones that can be trained with.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn check(self) -> Result<(), WrongValue> {
        let weighting = match self {
            Self::Uniform => 1.0,
            Self::MinSnr(x) | Self::Edm(x) => x,
        };
        check([(
            "loss.weighting",
            weighting,
            is_positive(weighting),
            "positive",
        )])
    }
}

impl OptimizerRecipe {
    /// The learning rates.
    pub fn rates(&self) -> WarmUpCosine {
        WarmUpCosine {
            peak: self.rate,
            warm_up: self.warm_up,
            steps: self.steps,
        }
    }

    /// Makes sure that the numbers are ones that can be trained with.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn check(&self) -> Result<(), WrongValue> {
        const SHARE: &str = "at least 0 and below 1";
        let Self {
            steps,
            rate,
            betas,
            epsilon,
            momentum,
            weight_decay,
            clip,
            ..
        } = *self;
        check([
            ("optimizer.steps", steps as f64, steps > 0, "at least 1"),
            ("optimizer.rate", rate, is_positive(rate), "positive"),
            ("optimizer.betas", betas[0], is_share(betas[0]), SHARE),
            ("optimizer.betas", betas[1], is_share(betas[1]), SHARE),
            (
                "optimizer.epsilon",
                epsilon,
                is_positive(epsilon),
                "positive",
            ),
            (
                "optimizer.momentum",
                momentum.unwrap_or(0.0),
                momentum.is_none_or(|it| is_share(it) && !self.kind.is_adamw()),
                "at least 0 and below 1, and left out where `optimizer.kind` is not \"muon\"",
            ),
            (
                "optimizer.weight_decay",
                weight_decay,
                weight_decay.is_finite() && weight_decay >= 0.0,
                "at least 0",
            ),
            ("optimizer.clip", clip, is_positive(clip), "positive"),
        ])
    }
}

impl AverageRecipe {
    /// Makes sure that the numbers are ones that can be trained with.
    ///
    /// # Errors
    ///
    /// If one is not.
    pub fn check(&self) -> Result<(), WrongValue> {
        let Self {
            most,
            inverse_gamma,
            power,
        } = *self;
        check([
            (
                "average.most",
                most,
                is_share(most),
                "at least 0 and below 1",
            ),
            (
                "average.inverse_gamma",
                inverse_gamma,
                is_positive(inverse_gamma),
                "positive",
            ),
            ("average.power", power, is_positive(power), "positive"),
        ])
    }
}
