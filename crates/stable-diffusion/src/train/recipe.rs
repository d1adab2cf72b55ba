//! What a training run of pictures is told.

use clearway_diffusion::train::{
    AverageRecipe, OptimizerRecipe, Order, WeightingRecipe, WrongValue,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::TrainError;
use crate::dataset::Pictures;
use crate::picture_model::Form;

/// Everything that a run is a function of, besides its dataset. `N` says what is trained: a [`ModelRecipe`] or a
/// [`ClassifierRecipe`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Recipe<N> {
    /// Of everything that is drawn: first weights, batches, levels, noise, what is held out.
    pub seed: u64,
    /// The network.
    pub network: N,
    /// What of the dataset is seen, and when.
    pub data: DataRecipe,
    /// How the loss is made smaller.
    pub optimizer: OptimizerRecipe,
    /// The average of weights that is evaluated and saved.
    pub average: AverageRecipe,
}

/// What of a dataset is seen, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DataRecipe {
    /// How pictures are chosen.
    pub order: Order,
    /// How many pictures a step sees.
    pub batch: usize,
    /// Which share of the pictures is held out, to validate on; at least one, unless it is zero.
    pub held_out: f64,
}

impl Default for DataRecipe {
    fn default() -> Self {
        Self {
            order: Order::Shuffled,
            batch: 64,
            held_out: 0.0,
        }
    }
}

/// A model that draws pictures of a class. Names are diffusers', where it has them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ModelRecipe {
    /// What each class is called; the dataset's names where it is left out.
    pub labels: Option<Vec<String>>,
    /// The height and width of the squares whose pixels are channels of the network.
    pub patch_size: usize,
    /// The channels of the U-Net's stages.
    pub block_out_channels: Vec<usize>,
    /// The residual blocks of each stage on the way down; on the way up there is one more.
    pub layers_per_block: Vec<usize>,
    /// The groups of its normalization.
    pub norm_num_groups: usize,
    /// Which share of the pictures is shown without a class, for classifier-free guidance.
    pub unconditional: f64,
    /// How much the error at a level counts.
    pub weighting: WeightingRecipe,
    /// The number of timesteps.
    pub num_train_timesteps: usize,
    /// How noise grows: `squaredcos_cap_v2`, `linear`, `scaled_linear`.
    pub beta_schedule: String,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// What the network predicts: `epsilon`, `sample`, `v_prediction`.
    pub prediction_type: String,
}

impl Default for ModelRecipe {
    fn default() -> Self {
        Self {
            labels: None,
            patch_size: 2,
            block_out_channels: vec![32, 64],
            layers_per_block: vec![1, 1],
            norm_num_groups: 8,
            unconditional: 0.1,
            weighting: WeightingRecipe::Uniform,
            num_train_timesteps: 1000,
            beta_schedule: "squaredcos_cap_v2".into(),
            beta_start: 1e-4,
            beta_end: 0.02,
            prediction_type: "v_prediction".into(),
        }
    }
}

/// A network that says of which class a picture is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClassifierRecipe {
    /// What each class is called; the dataset's names where it is left out.
    pub labels: Option<Vec<String>>,
    /// The channels at a half and at a quarter of the pictures' height and width.
    pub channels: [usize; 2],
    /// The groups of its normalization.
    pub norm_num_groups: usize,
}

impl Default for ClassifierRecipe {
    fn default() -> Self {
        Self {
            labels: None,
            channels: [32, 64],
            norm_num_groups: 8,
        }
    }
}

impl<N> Recipe<N> {
    /// Makes sure that the numbers are ones that can be trained with.
    pub(super) fn check(&self) -> Result<(), TrainError> {
        let DataRecipe {
            batch, held_out, ..
        } = self.data;
        if !(1..=1 << 16).contains(&batch) {
            return Err(wrong("data.batch", batch as f64, "from 1 to 65536"));
        }
        if !(0.0..1.0).contains(&held_out) {
            return Err(wrong("data.held_out", held_out, "at least 0 and below 1"));
        }
        self.optimizer.check()?;
        Ok(self.average.check()?)
    }
}

fn wrong(key: &'static str, found: f64, expected: &'static str) -> TrainError {
    TrainError::Value(WrongValue {
        key,
        found,
        expected,
    })
}

/// The names of the classes: the recipe's, if there are as many as the dataset has, or the dataset's.
pub(super) fn labels(
    said: Option<&Vec<String>>,
    pictures: &Pictures,
) -> Result<Vec<String>, TrainError> {
    let names = pictures.names();
    match said {
        Some(labels) if labels.len() != names.len() => Err(TrainError::Labels {
            found: labels.len(),
            expected: names.len(),
        }),
        Some(labels) => Ok(labels.clone()),
        None => Ok(names.to_vec()),
    }
}

/// Channels that groups divide.
pub(super) fn check_channels(
    key: &'static str,
    channels: &[usize],
    groups: usize,
) -> Result<(), TrainError> {
    let divides = |c: &usize| groups > 0 && *c > 0 && c.is_multiple_of(groups);
    if channels.iter().all(divides) {
        return Ok(());
    }
    Err(TrainError::Channels {
        key,
        found: channels.into(),
        expected: format!("multiples of the {groups} groups of `norm_num_groups`"),
    })
}

impl ModelRecipe {
    /// What the pictures are, and the configurations of the U-Net and of the scheduler, as diffusers has them.
    pub(super) fn model(&self, pictures: &Pictures) -> Result<(Form, [Value; 2]), TrainError> {
        let (patch, size) = (self.patch_size, pictures.size());
        if patch == 0 || size.iter().any(|side| !side.is_multiple_of(patch)) {
            return Err(TrainError::Patch { size, patch });
        }
        if !(0.0..1.0).contains(&self.unconditional) {
            let expected = "at least 0 and below 1";
            return Err(wrong(
                "pictures.unconditional",
                self.unconditional,
                expected,
            ));
        }
        self.weighting.check()?;
        let channels = &self.block_out_channels;
        check_channels(
            "pictures.block_out_channels",
            channels,
            self.norm_num_groups,
        )?;
        let form = Form {
            size,
            channels: pictures.channels(),
            patch,
            labels: labels(self.labels.as_ref(), pictures)?,
        };
        let [seen, height, _] = form.seen();
        let stages = channels.len();
        let unet = json!({
            "_class_name": "UNet2DConditionModel",
            "act_fn": "silu",
            "attention_head_dim": 8,
            "block_out_channels": channels,
            "center_input_sample": false,
            "cross_attention_dim": 1280,
            "down_block_types": vec!["DownBlock2D"; stages],
            "downsample_padding": 1,
            "flip_sin_to_cos": true,
            "freq_shift": 0,
            "in_channels": seen,
            "layers_per_block": self.layers_per_block,
            "mid_block_scale_factor": 1,
            "mid_block_type": "UNetMidBlock2D",
            "norm_eps": 1e-5,
            "norm_num_groups": self.norm_num_groups,
            "num_class_embeds": form.any() + 1,
            "out_channels": seen,
            "sample_size": height,
            "up_block_types": vec!["UpBlock2D"; stages],
        });
        let scheduler = json!({
            "_class_name": "DDIMScheduler",
            "beta_end": self.beta_end,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "clip_sample": true,
            "clip_sample_range": 1.0,
            "num_train_timesteps": self.num_train_timesteps,
            "prediction_type": self.prediction_type,
            "set_alpha_to_one": true,
            "timestep_spacing": "trailing",
        });
        Ok((form, [unet, scheduler]))
    }
}
