//! `config.json` of a diffusion policy.

use std::collections::BTreeMap;
use std::fmt;

use clearway_diffusion::{Discrete, Parameterization, ScheduleError};

use super::json::Entry;
use crate::LoadError;
use crate::network::{ConditionalUnet1dConfig, Depth};
use crate::normalization::Mode;

/// The most values in a feature, channels in a level, steps in a horizon. The largest policies have some thousands.
const MAX_SIZE: usize = 1 << 16;
/// The most numbers in a plan, and in a condition. No weight depends on the horizon, so that the size of the files does
/// not bound what a plan allocates.
const MAX_NUMBERS: usize = 1 << 20;
/// The most numbers in the windows of a block's convolution, the largest tensor of a pass.
const MAX_WINDOWS: usize = 1 << 26;
/// The most levels of the U-Net; a horizon of [`MAX_SIZE`] cannot be halved more often.
const MAX_LEVELS: usize = 16;
/// The most observation steps.
const MAX_OBSERVATIONS: usize = 1 << 10;
/// The most taps of a convolution.
const MAX_KERNEL: usize = 255;
/// The most diffusion timesteps; the field has 100 to 1000.
const MAX_TIMESTEPS: usize = 1 << 20;

/// The most cameras.
const MAX_CAMERAS: usize = 64;
/// The most rows of an image, and the most columns: those of 4K video and some more.
const MAX_SIDE: usize = 1 << 12;
/// The most pixels that a condition is made of, in all images.
const MAX_PIXELS: usize = 1 << 24;

/// LeRobot's last block always has eight groups.
const FINAL_GROUPS: usize = 8;

pub(super) const STATE: &str = "observation.state";
pub(super) const ENVIRONMENT: &str = "observation.environment_state";
pub(super) const ACTION: &str = "action";

/// What kind of thing a feature is; normalization is chosen by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FeatureKind {
    /// The robot's own state.
    State,
    /// What a camera sees.
    Visual,
    /// The state of what surrounds the robot.
    Environment,
    /// What the robot is told to do.
    Action,
}

impl FeatureKind {
    /// LeRobot's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::State => "STATE",
            Self::Visual => "VISUAL",
            Self::Environment => "ENV",
            Self::Action => "ACTION",
        }
    }
}

impl fmt::Display for FeatureKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// A named vector that a policy reads or writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feature {
    /// The policy's name for it.
    pub name: String,
    /// What it is.
    pub kind: FeatureKind,
    /// How many values it has.
    pub len: usize,
    /// How it is normalized.
    pub mode: Mode,
}

/// The cameras of a policy, and how it looks at their images.
#[derive(Clone, Debug, PartialEq)]
pub struct VisionConfig {
    /// The policy's names for the cameras, in the order of the condition, which is the file's.
    pub cameras: Vec<String>,
    /// The height and the width of every camera's images.
    pub size: [usize; 2],
    /// How they are normalized, each channel by itself.
    pub mode: Mode,
    /// The height and the width that they are resized to.
    pub resize: Option<[usize; 2]>,
    /// The height and the width that are cut from the middle after that.
    pub crop: Option<[usize; 2]>,
    /// The network that looks for features.
    pub backbone: Depth,
    /// Whether it normalizes by groups of channels, and not by the statistics of training.
    pub use_group_norm: bool,
    /// How many points it finds in an image.
    pub keypoints: usize,
    /// Whether each camera has a network of its own.
    pub separate_encoders: bool,
}

impl VisionConfig {
    /// The number of features of an image: two coordinates for each point.
    pub fn features(&self) -> usize {
        2 * self.keypoints
    }

    /// The height and the width of what the network sees, resized and cropped.
    pub fn seen(&self) -> [usize; 2] {
        self.crop.or(self.resize).unwrap_or(self.size)
    }
}

/// Which of diffusers' schedulers samples.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoiseScheduler {
    /// Ancestral sampling with the posterior's variance (`fixed_small`).
    Ddpm,
    /// Deterministic (eta 0).
    Ddim,
}

/// How the betas are spread over the training timesteps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BetaSchedule {
    /// Evenly.
    Linear,
    /// Their square roots evenly.
    ScaledLinear,
    /// From a squared cosine of the signal; `beta_start` and `beta_end` are not used.
    SquaredCosine,
}

/// What the network predicts, in diffusers' words. LeRobot knows the first two, and refuses the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prediction {
    /// The noise.
    Epsilon,
    /// The clean sample.
    Sample,
    /// The velocity, see [`Parameterization::Velocity`].
    Velocity,
    /// The flow, see [`Parameterization::Flow`]; at the levels of the noise schedule, which are not those of flow matching.
    Flow,
}

impl Prediction {
    const ALL: [Self; 4] = [Self::Epsilon, Self::Sample, Self::Velocity, Self::Flow];

    /// The word for it in a configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Epsilon => "epsilon",
            Self::Sample => "sample",
            Self::Velocity => "v_prediction",
            Self::Flow => "flow_prediction",
        }
    }
}

impl From<Prediction> for Parameterization {
    fn from(prediction: Prediction) -> Self {
        match prediction {
            Prediction::Epsilon => Self::Noise,
            Prediction::Sample => Self::Sample,
            Prediction::Velocity => Self::Velocity,
            Prediction::Flow => Self::Flow,
        }
    }
}

impl fmt::Display for BetaSchedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Linear => "linear",
            Self::ScaledLinear => "scaled_linear",
            Self::SquaredCosine => "squaredcos_cap_v2",
        })
    }
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What `config.json` says, as far as it matters to planning.
#[derive(Clone, Debug, PartialEq)]
pub struct DiffusionConfig {
    /// How many observations the policy sees.
    pub n_obs_steps: usize,
    /// How many actions it generates, the first for the oldest observation.
    pub horizon: usize,
    /// How many of them are executed, the first for the newest observation.
    pub n_action_steps: usize,
    /// The vectors that it reads, in the order of the condition: state, environment state. Images come between them.
    pub inputs: Vec<Feature>,
    /// The images that it reads, where it has a camera.
    pub vision: Option<VisionConfig>,
    /// What it writes.
    pub action: Feature,
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
    /// How to sample.
    pub noise_scheduler: NoiseScheduler,
    /// The number of timesteps in training.
    pub num_train_timesteps: usize,
    /// How noise grows.
    pub beta_schedule: BetaSchedule,
    /// The first beta.
    pub beta_start: f64,
    /// The last beta.
    pub beta_end: f64,
    /// What the network predicts.
    pub prediction: Prediction,
    /// The range `[-r, r]` that the clean estimate is clipped to.
    pub clip_sample_range: Option<f64>,
    /// The number of denoising steps.
    pub num_inference_steps: usize,
}

/// How `config.json` or a processor normalizes each kind of feature.
pub(super) type NormMap = BTreeMap<FeatureKind, Mode>;

/// The mode of a kind of feature.
///
/// A kind that is not mentioned is not normalized: LeRobot's own default mapping mentions no environment state, and a
/// policy that was trained with it expects raw values.
pub(super) fn mode(map: &NormMap, kind: FeatureKind) -> Mode {
    map.get(&kind).copied().unwrap_or(Mode::Identity)
}

/// Reads a map from kinds of features to modes.
pub(super) fn norm_map(entry: &Entry) -> Result<NormMap, LoadError> {
    let mut map = NormMap::new();
    for (kind, mode) in entry.entries()? {
        let mode = mode.one_of(&[
            ("IDENTITY", Mode::Identity),
            ("MEAN_STD", Mode::MeanStd),
            ("MIN_MAX", Mode::MinMax),
            ("QUANTILES", Mode::Quantiles),
            ("QUANTILE10", Mode::Quantile10),
        ])?;
        match kind {
            "STATE" => map.insert(FeatureKind::State, mode),
            "ENV" => map.insert(FeatureKind::Environment, mode),
            "ACTION" => map.insert(FeatureKind::Action, mode),
            "VISUAL" => map.insert(FeatureKind::Visual, mode),
            // Of no use here: there are no such features.
            "REWARD" | "LANGUAGE" => None,
            _ => return Err(entry.wrong(format!("a map without the unknown kind `{kind}`"))),
        };
    }
    Ok(map)
}

/// Reads one feature that is a vector.
fn feature(name: &str, entry: &Entry, map: &NormMap) -> Result<Feature, LoadError> {
    let word = entry.get("type")?.string()?;
    let kind = match (name, word) {
        (STATE, "STATE") => FeatureKind::State,
        (ENVIRONMENT, "ENV") => FeatureKind::Environment,
        (ACTION, "ACTION") => FeatureKind::Action,
        _ => {
            return Err(LoadError::UnknownFeature {
                feature: name.into(),
                kind: word.into(),
            });
        }
    };
    Ok(Feature {
        name: name.into(),
        kind,
        len: len(&entry.get("shape")?)?,
        mode: mode(map, kind),
    })
}

/// The length of a feature, whose shape is a list of one number.
fn len(shape: &Entry) -> Result<usize, LoadError> {
    let dims: Vec<_> = shape.list()?.collect();
    match dims.as_slice() {
        [len] => len.integer(1..=MAX_SIZE),
        _ => Err(shape.wrong("a list of one number")),
    }
}

/// The height and the width of images, whose shape is a list of three numbers.
fn image_size(shape: &Entry) -> Result<[usize; 2], LoadError> {
    let dims: Vec<_> = shape.list()?.collect();
    match dims.as_slice() {
        [channels, height, width] => {
            channels.integer(3..=3)?;
            Ok([height.integer(1..=MAX_SIDE)?, width.integer(1..=MAX_SIDE)?])
        }
        _ => Err(shape.wrong("a list of three numbers, channels, height and width,")),
    }
}

/// A height and a width, or null for none.
fn size_or_null(entry: &Entry) -> Result<Option<[usize; 2]>, LoadError> {
    if entry.is_null() {
        return Ok(None);
    }
    let dims: Vec<_> = entry.list()?.collect();
    match dims.as_slice() {
        [height, width] => Ok(Some([
            height.integer(1..=MAX_SIDE)?,
            width.integer(1..=MAX_SIDE)?,
        ])),
        _ => Err(entry.wrong("a list of two numbers, height and width, or null")),
    }
}

/// Makes sure that sizes which are possible each are so together.
fn within(limit: usize, config: &Entry, keys: &str, factors: &[usize]) -> Result<(), LoadError> {
    let found = factors
        .iter()
        .fold(1, |product: usize, n| product.saturating_mul(*n));
    if found > limit {
        return Err(LoadError::Size {
            file: config.file().into(),
            keys: keys.into(),
            found,
            limit,
        });
    }
    Ok(())
}

/// The images among the inputs: names and entries.
type Images<'a> = Vec<(&'a str, Entry<'a>)>;

/// The sizes to which images are resized and then cropped.
struct Framing {
    resize: Option<[usize; 2]>,
    crop: Option<[usize; 2]>,
}

impl DiffusionConfig {
    /// Reads `config.json`.
    ///
    /// The keys that are required here are in every version of LeRobot from the first of 2025 on. `resize_shape` and
    /// `crop_ratio` are not in 0.3.3, which does not resize. What describes the cameras is asked for where there is one.
    /// Not asked for, since they matter in training alone: `crop_is_random`, `pretrained_backbone_weights`,
    /// `drop_n_last_frames`, `do_mask_loss_for_padding`, everything of the optimizer, and, which 0.3.3 lacks,
    /// `compile_model`, `compile_mode` and `use_peft`.
    ///
    /// `names` are those of `input_features` in the file's order, which is that of the cameras.
    pub(crate) fn read(config: &Entry, names: &[String]) -> Result<Self, LoadError> {
        let kind = config.get("type")?.string()?;
        if kind != "diffusion" {
            return Err(LoadError::PolicyType { found: kind.into() });
        }
        let map = norm_map(&config.get("normalization_mapping")?)?;
        let (inputs, images) = Self::read_inputs(config, &map, names)?;
        let action = Self::read_action(config, &map)?;

        let n_obs_steps = config.get("n_obs_steps")?.integer(1..=MAX_OBSERVATIONS)?;
        let horizon_entry = config.get("horizon")?;
        let horizon = horizon_entry.integer(1..=MAX_SIZE)?;
        if n_obs_steps > horizon {
            return Err(horizon_entry.wrong(format!("at least n_obs_steps, {n_obs_steps},")));
        }
        within(
            MAX_NUMBERS,
            config,
            "`horizon` times `output_features.action.shape`",
            &[horizon, action.len],
        )?;
        within(
            MAX_NUMBERS,
            config,
            "`n_obs_steps` times the sum of the shapes of `input_features`",
            &[n_obs_steps, inputs.iter().map(|input| input.len).sum()],
        )?;
        let vision = if images.is_empty() {
            None
        } else {
            let mode = mode(&map, FeatureKind::Visual);
            Some(Self::read_vision(config, &images, mode, n_obs_steps)?)
        };
        // The first actions are for observations of the past.
        let n_action_steps = config
            .get("n_action_steps")?
            .integer(1..=horizon - n_obs_steps + 1)?;

        let num_train_timesteps = config
            .get("num_train_timesteps")?
            .integer(1..=MAX_TIMESTEPS)?;
        let num_inference_steps = config.get("num_inference_steps")?;
        let num_inference_steps = if num_inference_steps.is_null() {
            num_train_timesteps
        } else {
            num_inference_steps.integer(1..=num_train_timesteps)?
        };
        let beta_start = config
            .get("beta_start")?
            .number(|b| 0.0 < b && b < 1.0, "a number between 0 and 1")?;
        let clip_sample_range = config
            .get("clip_sample_range")?
            .number(|r| r > 0.0, "a positive number")?;

        let this = Self {
            n_obs_steps,
            horizon,
            n_action_steps,
            inputs,
            vision,
            action,
            down_dims: Vec::new(),
            kernel_size: 0,
            n_groups: 0,
            diffusion_step_embed_dim: 0,
            use_film_scale_modulation: config.get("use_film_scale_modulation")?.boolean()?,
            noise_scheduler: config.get("noise_scheduler_type")?.one_of(&[
                ("DDPM", NoiseScheduler::Ddpm),
                ("DDIM", NoiseScheduler::Ddim),
            ])?,
            num_train_timesteps,
            beta_schedule: config.get("beta_schedule")?.one_of(&[
                ("linear", BetaSchedule::Linear),
                ("scaled_linear", BetaSchedule::ScaledLinear),
                ("squaredcos_cap_v2", BetaSchedule::SquaredCosine),
            ])?,
            beta_start,
            beta_end: config.get("beta_end")?.number(
                |b| beta_start <= b && b < 1.0,
                "a number from beta_start to less than 1",
            )?,
            prediction: config
                .get("prediction_type")?
                .one_of(&Prediction::ALL.map(|it| (it.word(), it)))?,
            clip_sample_range: config
                .get("clip_sample")?
                .boolean()?
                .then_some(clip_sample_range),
            num_inference_steps,
        };
        this.with_network(config)
    }

    /// The vectors in the order of the condition, and the images in that of the file.
    fn read_inputs<'a>(
        config: &Entry<'a>,
        map: &NormMap,
        names: &[String],
    ) -> Result<(Vec<Feature>, Images<'a>), LoadError> {
        let entry = config.get("input_features")?;
        let mut inputs = Vec::new();
        let mut images = Vec::new();
        for (name, value) in entry.entries()? {
            if value.get("type")?.string()? == FeatureKind::Visual.word() {
                images.push((name, value));
                continue;
            }
            let input = feature(name, &value, map)?;
            if input.kind == FeatureKind::Action {
                return Err(LoadError::UnknownFeature {
                    feature: name.into(),
                    kind: "ACTION among the inputs".into(),
                });
            }
            inputs.push(input);
        }
        // LeRobot cannot do without the robot's state, and, where there is no camera, without the environment's.
        entry.get(STATE)?;
        if images.is_empty() {
            entry.get(ENVIRONMENT)?;
        }
        // The order of the condition is LeRobot's and not the file's, but among cameras.
        inputs.sort_by_key(|input| input.kind);
        images.sort_by_key(|(image, _)| names.iter().position(|name| name == image));
        Ok((inputs, images))
    }

    /// Reads what describes the cameras.
    fn read_vision(
        config: &Entry,
        images: &[(&str, Entry)],
        mode: Mode,
        n_obs_steps: usize,
    ) -> Result<VisionConfig, LoadError> {
        let cameras: Vec<String> = images.iter().map(|(name, _)| (*name).into()).collect();
        if cameras.len() > MAX_CAMERAS {
            return Err(LoadError::Size {
                file: config.file().into(),
                keys: "the number of cameras in `input_features`".into(),
                found: cameras.len(),
                limit: MAX_CAMERAS,
            });
        }
        let mut size = None;
        for (_, image) in images {
            let shape = image.get("shape")?;
            let found = image_size(&shape)?;
            // LeRobot stacks the images of all cameras.
            let [height, width] = *size.get_or_insert(found);
            if found != [height, width] {
                return Err(shape.wrong(format!(
                    "[3, {height}, {width}], the shape of the other cameras,"
                )));
            }
        }
        let size = size.unwrap_or_default();
        let Framing { resize, crop } = Self::read_framing(config, size)?;
        for (which, [height, width]) in [("", Some(size)), (", resized", resize)]
            .into_iter()
            .filter_map(|(which, size)| Some((which, size?)))
        {
            within(
                MAX_PIXELS,
                config,
                &format!("`n_obs_steps` times the pixels of all cameras{which},"),
                &[n_obs_steps, cameras.len(), height, width],
            )?;
        }
        let keypoints = config
            .get("spatial_softmax_num_keypoints")?
            .integer(1..=MAX_SIZE)?;
        within(
            MAX_NUMBERS,
            config,
            "`n_obs_steps` times the number of cameras times `spatial_softmax_num_keypoints` times two",
            &[n_obs_steps, cameras.len(), keypoints, 2],
        )?;
        Ok(VisionConfig {
            cameras,
            size,
            mode,
            resize,
            crop,
            backbone: config
                .get("vision_backbone")?
                .one_of(&Depth::ALL.map(|depth| (depth.word(), depth)))?,
            use_group_norm: config.get("use_group_norm")?.boolean()?,
            keypoints,
            separate_encoders: config
                .get("use_separate_rgb_encoder_per_camera")?
                .boolean()?,
        })
    }

    /// The sizes to which images are resized and then cropped.
    fn read_framing(config: &Entry, size: [usize; 2]) -> Result<Framing, LoadError> {
        let resize = match config.find("resize_shape")? {
            Some(entry) => size_or_null(&entry)?,
            None => None,
        };
        let Some(resize) = resize else {
            let entry = config.get("crop_shape")?;
            let crop = size_or_null(&entry)?;
            if crop.is_some_and(|[height, width]| height > size[0] || width > size[1]) {
                let [height, width] = size;
                return Err(entry.wrong(format!("at most the images' {height} x {width}")));
            }
            return Ok(Framing { resize: None, crop });
        };
        // Where images are resized, `crop_shape` is what LeRobot computed from the ratio, or is not used.
        let entry = config.get("crop_ratio")?;
        let ratio = entry.number(
            |ratio| 0.0 < ratio && ratio <= 1.0,
            "a number above 0 and at most 1",
        )?;
        if ratio >= 1.0 {
            return Ok(Framing {
                resize: Some(resize),
                crop: None,
            });
        }
        let crop = resize.map(|n| (n as f64 * ratio) as usize);
        if crop.contains(&0) {
            return Err(entry.wrong("a ratio that leaves a pixel of resize_shape"));
        }
        Ok(Framing {
            resize: Some(resize),
            crop: Some(crop),
        })
    }

    fn read_action(config: &Entry, map: &NormMap) -> Result<Feature, LoadError> {
        let entry = config.get("output_features")?;
        for (name, value) in entry.entries()? {
            if name != ACTION {
                return Err(LoadError::UnknownFeature {
                    feature: name.into(),
                    kind: value.get("type")?.string()?.into(),
                });
            }
        }
        feature(ACTION, &entry.get(ACTION)?, map)
    }

    /// Reads what describes the network.
    fn with_network(mut self, config: &Entry) -> Result<Self, LoadError> {
        let groups = config.get("n_groups")?;
        self.n_groups = groups.integer(1..=MAX_SIZE)?;
        let dims = config.get("down_dims")?;
        for (level, dim) in dims.list()?.enumerate() {
            if level == MAX_LEVELS {
                return Err(dims.wrong(format!("a list of at most {MAX_LEVELS} numbers")));
            }
            let channels = dim.integer(1..=MAX_SIZE)?;
            if !channels.is_multiple_of(self.n_groups) {
                return Err(dim.wrong(format!("a multiple of n_groups, {},", self.n_groups)));
            }
            if level == 0 && !channels.is_multiple_of(FINAL_GROUPS) {
                return Err(dim.wrong(format!(
                    "a multiple of {FINAL_GROUPS}, the groups of the last block,"
                )));
            }
            self.down_dims.push(channels);
        }
        if self.down_dims.is_empty() {
            return Err(dims.wrong("a list of at least one number"));
        }
        let factor = 1 << self.down_dims.len();
        if !self.horizon.is_multiple_of(factor) {
            // Half of that would do for the network; LeRobot asks for as much.
            return Err(config.get("horizon")?.wrong(format!(
                "a multiple of {factor}, which is 2 to the number of down_dims,"
            )));
        }
        let kernel = config.get("kernel_size")?;
        self.kernel_size = kernel.integer(1..=MAX_KERNEL)?;
        if self.kernel_size.is_multiple_of(2) {
            return Err(kernel.wrong("an odd number, which keeps the length of time,"));
        }
        let channels = self.down_dims.iter().copied().chain([self.action.len]);
        within(
            MAX_WINDOWS,
            config,
            "`horizon` times `kernel_size` times the largest of `down_dims` and `output_features.action.shape`",
            &[self.horizon, self.kernel_size, channels.max().unwrap_or(0)],
        )?;
        let embed = config.get("diffusion_step_embed_dim")?;
        self.diffusion_step_embed_dim = embed.integer(4..=MAX_SIZE)?;
        if !self.diffusion_step_embed_dim.is_multiple_of(2) {
            return Err(embed.wrong("an even number"));
        }
        Ok(self)
    }

    /// The number of values that condition a plan: those of all inputs and the features of all images, of `n_obs_steps`
    /// observations.
    pub fn condition_dim(&self) -> usize {
        let values: usize = self.inputs.iter().map(|input| input.len).sum();
        let vision = self.vision.as_ref();
        let features = vision.map_or(0, |vision| vision.cameras.len() * vision.features());
        self.n_obs_steps * (values + features)
    }

    /// The noise schedule that this configuration describes.
    ///
    /// # Errors
    ///
    /// If its betas are none.
    pub fn schedule(&self) -> Result<Discrete, ScheduleError> {
        let (timesteps, start, end) = (self.num_train_timesteps, self.beta_start, self.beta_end);
        match self.beta_schedule {
            BetaSchedule::Linear => Discrete::linear(timesteps, start, end),
            BetaSchedule::ScaledLinear => Discrete::scaled_linear(timesteps, start, end),
            BetaSchedule::SquaredCosine => Discrete::squared_cosine(timesteps),
        }
    }

    /// The network that this configuration describes.
    pub fn network(&self) -> ConditionalUnet1dConfig {
        ConditionalUnet1dConfig {
            action_dim: self.action.len,
            condition_dim: self.condition_dim(),
            down_dims: self.down_dims.clone(),
            kernel_size: self.kernel_size,
            n_groups: self.n_groups,
            diffusion_step_embed_dim: self.diffusion_step_embed_dim,
            use_film_scale_modulation: self.use_film_scale_modulation,
        }
    }
}
