//! What a training run is told.

use std::collections::BTreeMap;

use clearway_diffusion::train::{Decay, Weighting};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TrainError;
use crate::dataset::{Dataset, Order};
use crate::lerobot::json::Entry;
use crate::lerobot::{DiffusionConfig, FeatureKind};

/// Everything that a run is a function of, besides its dataset.
///
/// What is left out is LeRobot's default, version 0.4.4, where LeRobot has it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe {
    /// Of everything that is drawn: first weights, batches, levels, noise, which episodes are held out.
    pub seed: u64,
    /// The policy.
    pub policy: PolicyRecipe,
    /// What of the dataset is seen, and when.
    pub data: DataRecipe,
    /// What is made smaller.
    pub loss: LossRecipe,
    /// How.
    pub optimizer: OptimizerRecipe,
    /// The average of weights that is evaluated and saved.
    pub average: AverageRecipe,
}

/// LeRobot's `config.json`, as far as it can be chosen; the names are LeRobot's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PolicyRecipe {
    /// The features that the policy reads: `observation.state` and `observation.environment_state`.
    pub inputs: Vec<String>,
    /// How many observations it sees.
    pub n_obs_steps: usize,
    /// How many actions it generates.
    pub horizon: usize,
    /// How many of them are executed.
    pub n_action_steps: usize,
    /// How each kind of feature is normalized: `STATE`, `ENV`, `ACTION` to `MIN_MAX`, `MEAN_STD` and so on.
    pub normalization_mapping: BTreeMap<String, String>,
    /// The channels of the U-Net's levels.
    pub down_dims: Vec<usize>,
    /// The taps of its convolutions.
    pub kernel_size: usize,
    /// The groups of its normalization.
    pub n_groups: usize,
    /// The size of the embedded diffusion time.
    pub diffusion_step_embed_dim: usize,
    /// Whether the condition scales besides shifting.
    pub use_film_scale_modulation: bool,
    /// How it is sampled: `DDPM` or `DDIM`.
    pub noise_scheduler_type: String,
    /// The number of timesteps in training.
    pub num_train_timesteps: usize,
    /// How noise grows: `squaredcos_cap_v2`, `linear`, `scaled_linear`.
    pub beta_schedule: String,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// What the network predicts: `epsilon`, `sample`, and what LeRobot does not load, `v_prediction` and
    /// `flow_prediction`.
    pub prediction_type: String,
    /// Whether the clean estimate is clipped when it samples.
    pub clip_sample: bool,
    /// To which range.
    pub clip_sample_range: f64,
    /// In how many steps it samples; all timesteps where it is left out.
    pub num_inference_steps: Option<usize>,
}

impl Default for PolicyRecipe {
    fn default() -> Self {
        let word = |(kind, mode): (&str, &str)| (kind.to_owned(), mode.to_owned());
        Self {
            inputs: vec![
                "observation.state".into(),
                "observation.environment_state".into(),
            ],
            n_obs_steps: 2,
            horizon: 16,
            n_action_steps: 8,
            // LeRobot's own map mentions no environment, whose values are then in units of nothing.
            normalization_mapping: [
                ("VISUAL", "MEAN_STD"),
                ("STATE", "MIN_MAX"),
                ("ENV", "MIN_MAX"),
                ("ACTION", "MIN_MAX"),
            ]
            .map(word)
            .into(),
            down_dims: vec![512, 1024, 2048],
            kernel_size: 5,
            n_groups: 8,
            diffusion_step_embed_dim: 128,
            use_film_scale_modulation: true,
            noise_scheduler_type: "DDPM".into(),
            num_train_timesteps: 100,
            beta_schedule: "squaredcos_cap_v2".into(),
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction_type: "epsilon".into(),
            clip_sample: true,
            clip_sample_range: 1.0,
            num_inference_steps: None,
        }
    }
}

/// What of a dataset is seen, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataRecipe {
    /// How windows are chosen.
    pub order: Order,
    /// How many windows a step sees.
    pub batch: usize,
    /// How many frames at the end of an episode begin no window; LeRobot's number where it is left out.
    pub drop_n_last_frames: Option<usize>,
    /// Which share of the episodes is held out, to validate on; at least one episode, unless it is zero.
    pub held_out: f64,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            order: Order::Shuffled,
            batch: 64,
            drop_n_last_frames: None,
            held_out: 0.0,
        }
    }
}

/// What training makes smaller.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LossRecipe {
    /// How much the error at a level counts.
    pub weighting: WeightingRecipe,
    /// Whether errors of actions behind the end of an episode count as none.
    pub do_mask_loss_for_padding: bool,
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

/// How the loss is made smaller: AdamW, a learning rate that warms up and falls as a cosine, gradients that are clipped.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct OptimizerRecipe {
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
    /// By which share of the learning rate weights shrink in a step.
    pub weight_decay: f64,
    /// The most that the norm of all gradients may be.
    pub clip: f64,
}

impl Default for OptimizerRecipe {
    fn default() -> Self {
        Self {
            steps: 100_000,
            rate: 1e-4,
            warm_up: 500,
            betas: [0.95, 0.999],
            epsilon: 1e-8,
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

impl Recipe {
    /// Makes sure that the numbers are ones that can be trained with; those of the policy are checked with its features.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let wrong = |key: &'static str, found: f64, expected: &'static str| TrainError::Value {
            key,
            found,
            expected,
        };
        let is_positive = |x: f64| x.is_finite() && x > 0.0;
        let OptimizerRecipe {
            steps,
            rate,
            betas,
            epsilon,
            weight_decay,
            clip,
            ..
        } = self.optimizer;
        let AverageRecipe {
            most,
            inverse_gamma,
            power,
        } = self.average;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let weighting = match self.loss.weighting {
            WeightingRecipe::Uniform => 1.0,
            WeightingRecipe::MinSnr(x) | WeightingRecipe::Edm(x) => x,
        };
        let batch = self.data.batch;
        let rows = [
            (
                "data.batch",
                batch as f64,
                (1..=1 << 16).contains(&batch),
                "from 1 to 65536",
            ),
            (
                "data.held_out",
                self.data.held_out,
                share(self.data.held_out),
                "at least 0 and below 1",
            ),
            (
                "loss.weighting",
                weighting,
                is_positive(weighting),
                "positive",
            ),
            ("optimizer.steps", steps as f64, steps > 0, "at least 1"),
            ("optimizer.rate", rate, is_positive(rate), "positive"),
            (
                "optimizer.betas",
                betas[0],
                share(betas[0]),
                "at least 0 and below 1",
            ),
            (
                "optimizer.betas",
                betas[1],
                share(betas[1]),
                "at least 0 and below 1",
            ),
            (
                "optimizer.epsilon",
                epsilon,
                is_positive(epsilon),
                "positive",
            ),
            (
                "optimizer.weight_decay",
                weight_decay,
                weight_decay.is_finite() && weight_decay >= 0.0,
                "at least 0",
            ),
            ("optimizer.clip", clip, is_positive(clip), "positive"),
            ("average.most", most, share(most), "at least 0 and below 1"),
            (
                "average.inverse_gamma",
                inverse_gamma,
                is_positive(inverse_gamma),
                "positive",
            ),
            ("average.power", power, is_positive(power), "positive"),
        ];
        match rows.into_iter().find(|(_, _, holds, _)| !holds) {
            Some((key, found, _, expected)) => Err(wrong(key, found, expected)),
            None => Ok(()),
        }
    }

    /// LeRobot's `config.json` of a policy for the features of a dataset, and what it means.
    pub(super) fn config(&self, dataset: &Dataset) -> Result<(Value, DiffusionConfig), TrainError> {
        let PolicyRecipe { inputs, .. } = &self.policy;
        let feature = |name: &str, kind: FeatureKind| {
            json!({
                "type": kind.word(),
                "shape": dataset.info().features[name].shape,
            })
        };
        let kind = |name: &str| match name {
            "observation.state" => FeatureKind::State,
            _ => FeatureKind::Environment,
        };
        let input_features: BTreeMap<&str, Value> = inputs
            .iter()
            .map(|name| (name.as_str(), feature(name, kind(name))))
            .collect();
        let mut json =
            serde_json::to_value(&self.policy).expect("numbers, words, and maps of words");
        let optimizer = &self.optimizer;
        let rest = json!({
            "type": "diffusion",
            "input_features": input_features,
            "output_features": { "action": feature("action", FeatureKind::Action) },
            "device": "cpu",
            "use_amp": false,
            "push_to_hub": false,
            "drop_n_last_frames": self.dropped(),
            "vision_backbone": "resnet18",
            "resize_shape": null,
            "crop_ratio": 1.0,
            "crop_shape": null,
            "crop_is_random": true,
            "pretrained_backbone_weights": null,
            "use_group_norm": true,
            "spatial_softmax_num_keypoints": 32,
            "use_separate_rgb_encoder_per_camera": false,
            "compile_model": false,
            "compile_mode": "reduce-overhead",
            "do_mask_loss_for_padding": self.loss.do_mask_loss_for_padding,
            "optimizer_lr": optimizer.rate,
            "optimizer_betas": optimizer.betas,
            "optimizer_eps": optimizer.epsilon,
            "optimizer_weight_decay": optimizer.weight_decay,
            "scheduler_name": "cosine",
            "scheduler_warmup_steps": optimizer.warm_up,
        });
        if let (Value::Object(policy), Value::Object(rest)) = (&mut json, rest) {
            policy.remove("inputs");
            policy.extend(rest);
        }
        let config =
            DiffusionConfig::read(&Entry::root("the policy's config.json", &json), inputs)?;
        Ok((json, config))
    }

    /// How many frames at the end of an episode begin no window.
    pub(super) fn dropped(&self) -> usize {
        let PolicyRecipe {
            n_obs_steps,
            horizon,
            n_action_steps,
            ..
        } = self.policy;
        let lerobots = (horizon + 1).saturating_sub(n_action_steps + n_obs_steps);
        self.data.drop_n_last_frames.unwrap_or(lerobots)
    }
}
