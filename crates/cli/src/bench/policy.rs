use std::path::PathBuf;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Network as _, Point, Seeded, normal};
use clearway_layers::{PackReport, in_team};
use clearway_planner::lerobot::{
    BetaSchedule, DiffusionConfig, Feature, FeatureKind, NoiseScheduler, Prediction,
};
use clearway_planner::normalization::Mode;
use clearway_planner::{
    Budget, History, Image, Method, Observation, Planner, Policy, Problem, Sampling,
};
use serde::Serialize;

use super::machine::{self, Machine};
use super::{Figures, Spread, measure};
use crate::Verdict;
use crate::error::{Error, check_writable, load_policy, spinner, write_json};
use crate::output::say;
use crate::precision::Precision;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by LeRobot's `save_pretrained`
    #[arg(long, value_name = "DIR", required_unless_present = "down_dims")]
    policy: Option<PathBuf>,
    /// The channels of each level of a network with random weights, otherwise LeRobot's default for PushT's key points
    #[arg(
        long,
        value_name = "A,B,..",
        value_delimiter = ',',
        conflicts_with = "policy"
    )]
    down_dims: Option<Vec<usize>>,
    /// What the weights are kept in
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Plans that are made at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=4096))]
    batch: u16,
    /// How often everything is measured in turn
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Serialize)]
struct Report {
    precision: &'static str,
    batch: usize,
    machine: machine::Report,
    /// A pass that knows nothing: a condition and a timestep that the network has not met.
    #[serde(flatten)]
    pass: Figures,
    /// A pass within a plan: condition and timestep are known.
    cached_pass_ms: Spread,
    /// A whole plan, from raw observations to the checked trajectory.
    plan_ms: Spread,
    solver: String,
    /// What the weights take in memory, in bytes, where they are packed; and in their file, where there is one.
    packed_bytes: Option<usize>,
    file_bytes: Option<u64>,
}

/// How a policy that ships is sampled.
const SAMPLING: Sampling = Sampling::new(Method::Ddim, 10);

/// Between two actions; a pass does not depend on it.
const PERIOD: Duration = Duration::from_millis(100);

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let device = Device::flex();
    let storage = arguments.precision;
    let mut policy = match (&arguments.policy, &arguments.down_dims) {
        (Some(path), _) => load_policy(path, &device)?,
        (None, dims) => Policy::random(config(dims.as_deref().unwrap_or_default())?, &device),
    };
    let waiting = spinner("measuring");
    let packed = storage.packed().map(|precision| policy.pack(precision));
    let path = arguments.policy.clone().unwrap_or_default();
    let planner = Planner::new(policy, PERIOD, &device)
        .and_then(|planner| planner.with_sampling(SAMPLING))
        .map_err(|error| Error::policy(&path, error))?;
    let report = measured(&planner, packed, arguments)?;
    waiting.finish_and_clear();
    report.1.say();
    let report = report.0;
    report.pass.say("one pass");
    say!("{:14} {} ms", "within a plan", report.cached_pass_ms.say());
    say!(
        "{:14} {} ms   {}",
        "whole plan",
        report.plan_ms.say(),
        report.solver
    );
    if let Some(packed) = report.packed_bytes {
        let mb = |bytes: f64| bytes / 1e6;
        let of_file = report.file_bytes.map(|file| {
            let ratio = packed as f64 / file as f64;
            format!(", {ratio:.2} of the file's {:.2} MB", mb(file as f64))
        });
        let of_file = of_file.unwrap_or_default();
        say!(
            "{:14} {:.2} MB in memory{of_file}",
            "weights",
            mb(packed as f64)
        );
    }
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

fn measured(
    planner: &Planner,
    packed: Option<PackReport>,
    arguments: &Arguments,
) -> Result<(Report, Machine), Error> {
    let (storage, batch) = (arguments.precision, usize::from(arguments.batch));
    let policy = planner.policy();
    let (config, network) = (policy.config(), policy.network());
    let device = Device::flex();
    let history = history(planner)?;
    let problems = vec![Problem::new(&history); batch];
    let seeds: Vec<u64> = (0..batch as u64).collect();
    let condition = policy
        .condition(&history)
        .map_err(clearway_planner::PlanError::from)?;
    let condition = Tensor::<1>::from_floats(condition.as_slice(), &device)
        .unsqueeze::<2>()
        .repeat_dim(0, batch);
    let shape = [batch, config.horizon, config.action.len];
    let x = normal(&mut Seeded::new(0, batch), shape, &device);
    let known = planner.stages()[0].at;
    let prepared = network.prepare(&condition);

    let plan = || {
        for plan in planner.plan_batch(&problems, Budget::default(), &seeds) {
            plan?;
        }
        Ok(())
    };
    let mut passes = 0_u32;
    // Moved a little each time: a packed network remembers what it has computed of a timestep.
    let mut pass = || {
        passes += 1;
        let new = Point {
            t: known.t + f64::from(passes) * 1e-6,
            ..known
        };
        in_team(|| {
            let prepared = network.prepare(&condition);
            drop(network.forward(x.clone(), &[new], &prepared));
        });
        Ok(())
    };
    // The plan first, so that what it needs is remembered.
    plan()?;
    pass()?;
    let peak_memory_mb = crate::image::peak_memory();

    let mut machine = Machine::new(storage);
    let work = config.network().work(config.horizon).for_samples(batch);
    let bytes = storage.bytes(work.weights, packed);
    let [mut pass_ms, mut cached_ms, mut plan_ms, mut weights_ms] = [const { Vec::new() }; 4];
    for _ in 0..arguments.rounds {
        machine.measure();
        measure(&mut weights_ms, || {
            machine.read_bytes(bytes);
            Ok(())
        })?;
        measure(&mut pass_ms, &mut pass)?;
        // As a plan calls it: its passes follow each other, and the threads stay awake.
        in_team(|| {
            measure(&mut cached_ms, || {
                drop(network.forward(x.clone(), &[known], &prepared));
                Ok(())
            })
        })?;
        measure(&mut plan_ms, plan)?;
    }
    let parameters = network.parameters();
    let pass = Figures::new(parameters, work, bytes, &pass_ms, &weights_ms, &machine);
    let report = Report {
        precision: storage.name(),
        batch,
        machine: machine.report(),
        pass: Figures {
            peak_memory_mb,
            ..pass
        },
        cached_pass_ms: Spread::of(&cached_ms),
        plan_ms: Spread::of(&plan_ms),
        solver: planner.sampling().to_string(),
        packed_bytes: packed.map(|it| it.bytes),
        file_bytes: (arguments.policy.as_ref())
            .and_then(|folder| std::fs::metadata(folder.join("model.safetensors")).ok())
            .map(|it| it.len()),
    };
    Ok((report, machine))
}

/// LeRobot's default network on PushT's key points, but for its channels.
fn config(down_dims: &[usize]) -> Result<DiffusionConfig, Error> {
    const GROUPS: usize = 8;
    /// Three times those of LeRobot's default.
    const MOST: usize = 1 << 13;
    let fits = |dim: &usize| dim.is_multiple_of(GROUPS) && (1..=MOST).contains(dim);
    // Time, 16 actions, is halved between levels.
    if !(1..=5).contains(&down_dims.len()) || !down_dims.iter().all(fits) {
        return Err(Error::Argument {
            argument: "--down-dims",
            reason: format!(
                "must be 1 to 5 multiples of {GROUPS} up to {MOST}, found {down_dims:?}"
            ),
        });
    }
    let feature = |name: &str, kind, len| Feature {
        name: name.to_owned(),
        kind,
        len,
        mode: Mode::Identity,
    };
    Ok(DiffusionConfig {
        n_obs_steps: 2,
        horizon: 16,
        n_action_steps: 8,
        inputs: vec![
            feature("observation.state", FeatureKind::State, 2),
            feature(
                "observation.environment_state",
                FeatureKind::Environment,
                16,
            ),
        ],
        vision: None,
        action: feature("action", FeatureKind::Action, 2),
        down_dims: down_dims.to_vec(),
        kernel_size: 5,
        n_groups: GROUPS,
        diffusion_step_embed_dim: 128,
        use_film_scale_modulation: true,
        noise_scheduler: NoiseScheduler::Ddim,
        num_train_timesteps: 100,
        beta_schedule: BetaSchedule::SquaredCosine,
        beta_start: 1e-4,
        beta_end: 0.02,
        prediction: Prediction::Epsilon,
        clip_sample_range: Some(1.0),
        num_inference_steps: SAMPLING.steps,
    })
}

/// As many observations as the policy wants: numbers between 0 and 1, grey images.
fn history(planner: &Planner) -> Result<History, Error> {
    let (policy, config) = (planner.policy(), planner.policy().config());
    let mut history = History::default();
    for step in 0..config.n_obs_steps {
        let mut observation = Observation::new(PERIOD * step as u32);
        for (feature, name) in config.inputs.iter().zip(policy.observed_names()) {
            let values: Vec<f64> = (0..feature.len)
                .map(|i| i as f64 / feature.len as f64)
                .collect();
            observation = observation.with(name.clone(), values);
        }
        if let Some(vision) = policy.vision() {
            let [height, width] = vision.config().size;
            for name in vision.observed_names() {
                let image = Image::from_rgb8(height, width, vec![128; 3 * height * width])
                    .map_err(|error| Error::Argument {
                        argument: "--policy",
                        reason: format!("wants images that cannot be: {error}"),
                    })?;
                observation = observation.with_image(name.clone(), image);
            }
        }
        history.push(observation)?;
    }
    Ok(history)
}
