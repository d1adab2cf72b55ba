use std::path::PathBuf;

use burn::tensor::Device;
use clearway_planner::lerobot::{DiffusionConfig, Feature, VisionConfig};
use serde::Serialize;

use crate::error::{Error, check_writable, write_json};
use crate::output::say;
use crate::{Verdict, precision};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR")]
    policy: PathBuf,
    #[command(flatten)]
    precision: precision::Arguments,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    model: String,
    parameters: usize,
    inputs: Vec<FeatureRow>,
    vision: Option<VisionRow>,
    action: FeatureRow,
    n_obs_steps: usize,
    horizon: usize,
    n_action_steps: usize,
    down_dims: Vec<usize>,
    kernel_size: usize,
    n_groups: usize,
    use_film_scale_modulation: bool,
    prediction: String,
    beta_schedule: String,
    num_train_timesteps: usize,
    clip_sample_range: Option<f64>,
    solver: &'static str,
    steps: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    offset: Option<usize>,
    precision: String,
    level: Option<String>,
}

#[derive(Serialize)]
struct FeatureRow {
    name: String,
    kind: &'static str,
    len: usize,
    normalization: String,
}

#[derive(Serialize)]
struct VisionRow {
    cameras: Vec<String>,
    /// Height and width.
    size: [usize; 2],
    normalization: String,
    resize: Option<[usize; 2]>,
    crop: Option<[usize; 2]>,
    backbone: &'static str,
    use_group_norm: bool,
    keypoints: usize,
    separate_encoders: bool,
}

impl VisionRow {
    fn new(vision: &VisionConfig) -> Self {
        Self {
            cameras: vision.cameras.clone(),
            size: vision.size,
            normalization: vision.mode.to_string(),
            resize: vision.resize,
            crop: vision.crop,
            backbone: vision.backbone.word(),
            use_group_norm: vision.use_group_norm,
            keypoints: vision.keypoints,
            separate_encoders: vision.separate_encoders,
        }
    }
}

impl FeatureRow {
    fn new(feature: &Feature) -> Self {
        Self {
            name: feature.name.clone(),
            kind: feature.kind.word(),
            len: feature.len,
            normalization: feature.mode.to_string(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let policy = arguments
        .precision
        .load(&arguments.policy, &Device::flex())?;
    let DiffusionConfig {
        n_obs_steps,
        horizon,
        n_action_steps,
        ref inputs,
        ref vision,
        ref action,
        ref down_dims,
        kernel_size,
        n_groups,
        use_film_scale_modulation,
        num_train_timesteps,
        beta_schedule,
        prediction,
        clip_sample_range,
        ..
    } = *policy.config();
    let sampling = policy.sampling();
    let (precision, level) = precision::of(&policy);
    let report = Report {
        model: policy.hash().to_owned(),
        parameters: policy.parameters(),
        inputs: inputs.iter().map(FeatureRow::new).collect(),
        vision: vision.as_ref().map(VisionRow::new),
        action: FeatureRow::new(action),
        n_obs_steps,
        horizon,
        n_action_steps,
        down_dims: down_dims.clone(),
        kernel_size,
        n_groups,
        use_film_scale_modulation,
        prediction: prediction.to_string(),
        beta_schedule: beta_schedule.to_string(),
        num_train_timesteps,
        clip_sample_range,
        solver: sampling.method.name(),
        steps: sampling.steps,
        offset: sampling.offset,
        precision,
        level,
    };
    print(&report);
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

fn print(report: &Report) {
    say!(
        "diffusion policy, {:.1} M parameters",
        report.parameters as f64 / 1e6
    );
    say!("  sha-256      {}", report.model);
    for (word, feature) in report
        .inputs
        .iter()
        .map(|feature| ("reads ", feature))
        .chain([("writes", &report.action)])
    {
        say!(
            "  {word}       {} [{}], {}, {}",
            feature.name,
            feature.len,
            feature.kind,
            feature.normalization
        );
    }
    if let Some(vision) = &report.vision {
        print_vision(vision);
    }
    say!(
        "  time         {} observations, horizon {}, {} actions executed",
        report.n_obs_steps,
        report.horizon,
        report.n_action_steps
    );
    let film = if report.use_film_scale_modulation {
        "scale and shift"
    } else {
        "shift"
    };
    say!(
        "  network      1-D U-Net {:?}, kernel {}, {} groups, FiLM by {film}",
        report.down_dims,
        report.kernel_size,
        report.n_groups
    );
    let clip = report
        .clip_sample_range
        .map_or("not clipped".to_owned(), |range| {
            format!("clipped to ±{range}")
        });
    say!(
        "  diffusion    predicts {}, {} in {} timesteps, {clip}",
        report.prediction,
        report.beta_schedule,
        report.num_train_timesteps
    );
    say!("  sampling     {} in {} steps", report.solver, report.steps);
    match &report.level {
        Some(level) => say!("  computes     packed {} on {level}", report.precision),
        None => say!("  computes     {} f32", report.precision),
    }
}

fn print_vision(vision: &VisionRow) {
    let [height, width] = vision.size;
    for camera in &vision.cameras {
        say!(
            "  sees         {camera} [3, {height}, {width}], VISUAL, {}",
            vision.normalization
        );
    }
    let step = |name: &str, size: Option<[usize; 2]>| {
        size.map_or(String::new(), |[height, width]| {
            format!("{name} to {height} x {width}, ")
        })
    };
    say!(
        "  through      {}{}{} with {} normalization, {} keypoints, {}",
        step("resized", vision.resize),
        step("cropped", vision.crop),
        vision.backbone,
        if vision.use_group_norm {
            "group"
        } else {
            "batch"
        },
        vision.keypoints,
        if vision.separate_encoders {
            "a network for each camera"
        } else {
            "one network for all cameras"
        }
    );
}
