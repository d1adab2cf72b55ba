//! What a training run is told.

use std::collections::BTreeMap;

use clearway_diffusion::train::{AverageRecipe, OptimizerRecipe, WeightingRecipe};
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

impl Recipe {
    /// Makes sure that the numbers are ones that can be trained with; those of the policy are checked with its features.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let DataRecipe {
            batch, held_out, ..
        } = self.data;
        if !(1..=1 << 16).contains(&batch) {
            return Err(TrainError::Value {
                key: "data.batch",
                found: batch as f64,
                expected: "from 1 to 65536",
            });
        }
        if !(0.0..1.0).contains(&held_out) {
            return Err(TrainError::Value {
                key: "data.held_out",
                found: held_out,
                expected: "at least 0 and below 1",
            });
        }
        self.loss.weighting.check()?;
        self.optimizer.check()?;
        Ok(self.average.check()?)
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
