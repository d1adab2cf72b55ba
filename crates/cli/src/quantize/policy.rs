//! A policy.

use std::path::Path;

use burn::tensor::{Device, Distribution, Tensor, TensorData};
use clearway_diffusion::{
    Denoiser, Discrete, Level, Network, Noise, Parameterized, Point, Schedule, Seeded, drift,
    normal,
};
use clearway_layers::{Calibration, Precision, compare_weights, layer_names};
use clearway_planner::dataset::{Demonstrations, DemonstrationsError};
use clearway_planner::lerobot::Vision;
use clearway_planner::{LoadError, Policy};

use super::report::{Layer, NetworkReport, Report};
use super::{Arguments, CALIBRATION_MEMORY, copy};
use crate::error::{Error, load_policy, spinner};

const MODEL: &str = "model.safetensors";

/// At how many levels of noise the networks are compared.
const LEVELS: usize = 10;
/// On how many samples at each.
const COMPARED: usize = 64;
/// In how many runs samples are looked at, at least.
const LEAST_RUNS: usize = 8;

pub(super) fn quantize(arguments: &Arguments, out: &Path) -> Result<Report, Error> {
    let device = Device::flex();
    let from = &arguments.model;
    let plain = load_policy(from, &device)?;
    if plain.stored().is_some() {
        return Err(Error::Argument {
            argument: "--model",
            reason: "is packed already: what was rounded stays rounded".to_owned(),
        });
    }
    let policy = arguments.policy();
    let encoders = plain.vision().map_or(&[][..], Vision::encoders);
    let names = encoders.iter().flat_map(layer_names);
    arguments.check(
        &layer_names(plain.network())
            .into_iter()
            .chain(names)
            .collect::<Vec<_>>(),
    )?;
    let (samples, measured_on) = samples(arguments, &plain, &device)?;
    let mut quantized = plain.clone();
    let mut rounded = Vec::new();
    if arguments.rounds_for_data() {
        let waiting = spinner("looking at what the layers read");
        let mut next = Some(Calibration::within(CALIBRATION_MEMORY));
        while let Some(mut calibration) = next {
            calibrate(&plain, &samples, arguments.seed, &mut calibration)?;
            waiting.set_message(format!("rounding {} layers", calibration.layers()));
            let (now, more) =
                (quantized.round(&calibration, &policy)).map_err(|error| Error::Argument {
                    argument: "--calibrate",
                    reason: error.to_string(),
                })?;
            quantized = now;
            rounded.extend(more);
            next = calibration.rest();
        }
        waiting.finish_and_clear();
    }
    let packed = quantized.pack(policy.clone());
    tracing::info!(?packed, "packed");
    // A folder in the folder is another policy.
    copy(from, out, &|path| path == from.join(MODEL) || path.is_dir())?;
    quantized
        .save_weights(from, out, &policy)
        .map_err(|error: LoadError| Error::write(&out.join(MODEL), &error))?;

    // What was written is what is measured.
    let mut written = load_policy(out, &device)?;
    let _ = written.pack(policy.clone());
    let layers = compare_weights(plain.network(), written.network());
    let mut float = plain.clone();
    let _ = float.pack(Precision::F32);
    let size = |folder: &Path| {
        let path = folder.join(MODEL);
        let metadata = std::fs::metadata(&path).map_err(|error| Error::read(&path, &error))?;
        Ok::<u64, Error>(metadata.len())
    };
    let network = NetworkReport {
        name: "policy",
        bytes_before: size(from)?,
        bytes_after: size(out)?,
        layers: layers
            .into_iter()
            .map(|it| Layer::new(it, &rounded))
            .collect(),
        drift: drift_of(&float, &written, &samples, arguments.seed)?,
        output_error: None,
    };
    let mut networks = vec![network];
    let after = written.vision().map_or(&[][..], Vision::encoders);
    for (before, after) in encoders.iter().zip(after) {
        let layers = compare_weights(before, after);
        networks.push(NetworkReport {
            name: "encoder of pictures",
            bytes_before: layers
                .iter()
                .map(|it| it.numbers() * size_of::<f32>())
                .sum::<usize>() as u64,
            bytes_after: layers.iter().map(|it| it.bytes).sum::<usize>() as u64,
            layers: layers.into_iter().map(|it| Layer::new(it, &[])).collect(),
            drift: Vec::new(),
            output_error: None,
        });
    }
    Ok(Report {
        model: from.display().to_string(),
        precision: policy.precision.to_string(),
        measured_on,
        networks,
    })
}

/// What the networks are compared on, and in words.
fn samples(
    arguments: &Arguments,
    policy: &Policy,
    device: &Device,
) -> Result<(Demonstrations, String), Error> {
    let count = arguments.samples as usize;
    if let Some(folder) = &arguments.calibrate {
        let drawn = Demonstrations::draw(policy, folder, count, arguments.seed, device);
        let samples = drawn.map_err(|error: DemonstrationsError| Error::Read {
            path: folder.clone(),
            reason: error.to_string(),
        })?;
        return Ok((samples, format!("{count} windows of {}", folder.display())));
    }
    let config = policy.config();
    // Numbers that are normalized to -1..1 are anywhere in there.
    device.seed(arguments.seed);
    let even = Distribution::Uniform(-1.0, 1.0);
    let samples = Demonstrations {
        condition: Tensor::random([count, config.condition_dim()], even, device),
        actions: Tensor::random([count, config.horizon, config.action.len], even, device),
    };
    let words = format!("{count} random observations and actions; --calibrate DATA says more");
    Ok((samples, words))
}

/// Some levels of noise, from the most to the least.
fn levels(schedule: &dyn Schedule, timesteps: usize) -> Vec<Point> {
    let point = |i: usize| {
        let t = ((timesteps - 1) * (LEVELS - 1 - i)) as f64 / (LEVELS - 1) as f64;
        let t = t.round();
        Point {
            t,
            level: schedule.level(t),
        }
    };
    (0..LEVELS).map(point).collect()
}

/// Runs the network on samples at all levels of noise, and looks at what its layers read.
fn calibrate(
    policy: &Policy,
    samples: &Demonstrations,
    seed: u64,
    calibration: &mut Calibration,
) -> Result<(), Error> {
    let config = policy.config();
    let schedule = schedule(policy)?;
    let [count, horizon, width] = samples.actions.dims();
    let device = samples.actions.device();
    let mut noise = Seeded::new(seed, count);
    let noise = normal(
        &mut noise as &mut dyn Noise,
        [count, horizon, width],
        &device,
    );
    let batch = count.div_ceil(LEAST_RUNS).min(COMPARED);
    let runs = count.div_ceil(batch);
    let points: Vec<Point> = (0..count)
        .map(|i| {
            // Each run meets all levels: some of the runs are kept aside.
            let at = i % batch * runs + i / batch;
            let t = (at * config.num_train_timesteps / (batch * runs)) as f64;
            let level = schedule.level(t);
            Point { t, level }
        })
        .collect();
    let network = policy.network();
    for (run, points) in points.chunks(batch).enumerate() {
        let part = |x: &Tensor<3>| x.clone().narrow(0, run * batch, points.len());
        let factor = |of: &dyn Fn(Level) -> f64| {
            let factors: Vec<f32> = points.iter().map(|point| of(point.level) as f32).collect();
            Tensor::<3>::from_data(TensorData::new(factors, [points.len(), 1, 1]), &device)
        };
        let x = part(&samples.actions) * factor(&|level| level.alpha)
            + part(&noise) * factor(&|level| level.sigma);
        let condition = samples.condition.clone();
        let prepared = network.prepare(&condition.narrow(0, run * batch, points.len()));
        let _ = calibration.observe(|| network.forward(x, points, &prepared));
    }
    Ok(())
}

fn schedule(policy: &Policy) -> Result<Discrete, Error> {
    (policy.config().schedule()).map_err(|error| Error::Argument {
        argument: "--model",
        reason: error.to_string(),
    })
}

fn drift_of(
    float: &Policy,
    quantized: &Policy,
    samples: &Demonstrations,
    seed: u64,
) -> Result<Vec<super::report::DriftRow>, Error> {
    let config = float.config();
    let schedule = schedule(float)?;
    let points = levels(&schedule, config.num_train_timesteps);
    let [count, ..] = samples.actions.dims();
    let count = count.min(COMPARED);
    let condition = samples.condition.clone().narrow(0, 0, count);
    let actions = samples.actions.clone().narrow(0, 0, count);
    let denoiser =
        |policy: &Policy| Parameterized::new(policy.network().clone(), config.prediction.into());
    let (before, after) = (denoiser(float), denoiser(quantized));
    let prepared = (before.prepare(&condition), after.prepare(&condition));
    let found = drift(
        (&before, &after),
        (&prepared.0, &prepared.1),
        &actions,
        &points,
        seed,
    );
    Ok(found.into_iter().map(Into::into).collect())
}
