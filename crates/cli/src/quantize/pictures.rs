//! The networks of Stable Diffusion.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Distribution, Tensor};
use clearway_diffusion::{Denoiser, Drift, Parameterized, Point, Schedule, drift};
use clearway_layers::{
    Calibration, PackPolicy, PackReport, Precision, RoundedWeight, WeightsWriter, compare_weights,
};
use clearway_stable_diffusion::{
    Autoencoder, ClipText, Component, Condition, Files, GenerateError, Request, StableDiffusion,
    Unet,
};

use super::report::{DriftRow, Layer, NetworkReport, Report};
use super::{Arguments, CALIBRATION_MEMORY, Part, copy};
use crate::error::{Error, spinner};

/// The latents that networks are compared on: those of a picture of 256 by 256.
const LATENTS: usize = 32;
/// And of how many classes, where the network is told one.
const CLASSES: usize = 16;
/// At how many levels of noise.
const LEVELS: usize = 5;
/// In how many steps the pictures are drawn that a calibration begins with: enough for what the network reads.
const STEPS: usize = 8;
/// In how many runs the network is looked at, and at how many levels of noise in each.
const RUNS: usize = 16;
const LEVELS_A_RUN: usize = 4;
/// The golden ratio, whose multiples are spread evenly.
const GOLDEN: f64 = 0.618_033_988_749_895;

/// What the networks of a model have in common here.
trait Network: Clone {
    const COMPONENT: Component;
    /// What diffusers and transformers call the file.
    const FILE: &'static str;

    fn load(files: &Files, device: &Device) -> Result<Self, clearway_stable_diffusion::LoadError>;
    fn pack(&mut self, policy: PackPolicy) -> PackReport;
    fn save(&self, writer: &mut WeightsWriter);
    fn compare(&self, packed: &Self) -> Vec<clearway_layers::PackedWeight>;
    fn layers(&self) -> Vec<String> {
        let weights = self.compare(self).into_iter();
        let layer =
            |it: clearway_layers::PackedWeight| Some(it.name.strip_suffix(".weight")?.to_owned());
        weights.filter_map(layer).collect()
    }
}

macro_rules! network {
    ($type:ty, $component:ident, $load:ident, $file:literal, $compare:expr) => {
        impl Network for $type {
            const COMPONENT: Component = Component::$component;
            const FILE: &'static str = $file;

            fn load(
                files: &Files,
                device: &Device,
            ) -> Result<Self, clearway_stable_diffusion::LoadError> {
                files.$load(device)
            }
            fn pack(&mut self, policy: PackPolicy) -> PackReport {
                Self::pack(self, policy)
            }
            fn save(&self, writer: &mut WeightsWriter) {
                Self::save(self, writer);
            }
            fn compare(&self, packed: &Self) -> Vec<clearway_layers::PackedWeight> {
                $compare(self, packed)
            }
        }
    };
}

network!(
    Unet,
    Unet,
    unet,
    "diffusion_pytorch_model.safetensors",
    compare_weights
);
network!(
    ClipText,
    TextEncoder,
    text_encoder,
    "model.safetensors",
    compare_weights
);
network!(
    Autoencoder,
    Autoencoder,
    autoencoder,
    "diffusion_pytorch_model.safetensors",
    |plain: &Self, packed: &Self| match (plain, packed) {
        (Self::Kl(plain), Self::Kl(packed)) => compare_weights(&**plain, &**packed),
        (Self::Tiny(plain), Self::Tiny(packed)) => compare_weights(&**plain, &**packed),
        _ => Vec::new(),
    }
);

/// Whether a file holds weights: of networks that are written anew, these are not copied.
fn holds_weights(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let is_index = name.ends_with(".index.json");
    is_index
        || [".safetensors", ".bin", ".ckpt", ".pt"]
            .iter()
            .any(|it| name.ends_with(it))
}

pub(super) fn quantize(arguments: &Arguments, out: &Path) -> Result<Report, Error> {
    let device = Device::flex();
    let path = &arguments.model;
    let files = Files::open(path).map_err(|error| Error::Model {
        path: path.clone(),
        error: Box::new(error.into()),
    })?;
    let mut parts = arguments.only.clone();
    if parts.is_empty() {
        // A model of pixels has no autoencoder.
        parts = vec![Part::Unet, Part::Vae];
        parts.retain(|part| path.join(component(*part).folder()).is_dir());
    }
    let folders: Vec<PathBuf> = (parts.iter())
        .map(|part| path.join(component(*part).folder()))
        .collect();
    let mut names = Vec::new();
    for part in &parts {
        names.extend(match part {
            Part::Unet => names_of::<Unet>(&files, &device),
            Part::Vae => names_of::<Autoencoder>(&files, &device),
            Part::Text => names_of::<ClipText>(&files, &device),
        }?);
    }
    arguments.check(&names)?;
    copy(path, out, &|file| {
        holds_weights(file) && folders.iter().any(|folder| file.starts_with(folder))
    })?;
    let (samples, measured_on) = samples(arguments, &files, &device)?;
    let mut networks = Vec::new();
    for part in [Part::Unet, Part::Vae, Part::Text] {
        if !parts.contains(&part) {
            continue;
        }
        networks.push(match part {
            Part::Unet => {
                let round = |network: Unet| match samples.as_deref() {
                    Some(samples) if arguments.rounds_for_data() => {
                        calibrated(network, arguments, &files, samples)
                    }
                    _ => Ok((network, Vec::new())),
                };
                let (plain, packed, mut report) = one(arguments, &files, out, &device, round)?;
                let samples = samples.as_deref();
                report.drift = drift_of(&plain, &packed, &files, samples, arguments.seed)?;
                report
            }
            Part::Vae => {
                let (plain, packed, mut report) =
                    one::<Autoencoder>(arguments, &files, out, &device, as_it_is)?;
                device.seed(arguments.seed);
                let normal = Distribution::Normal(0.0, 1.0);
                let channels = plain.latent_channels();
                let latents = Tensor::random([1, channels, LATENTS, LATENTS], normal, &device);
                let [expected, found] = [&plain, &packed].map(|it| it.decode(latents.clone()));
                report.output_error = Some(relative(found, expected));
                report
            }
            Part::Text => one::<ClipText>(arguments, &files, out, &device, as_it_is)?.2,
        });
    }
    Ok(Report {
        model: path.display().to_string(),
        precision: arguments.policy().precision.to_string(),
        measured_on,
        networks,
    })
}

fn component(part: Part) -> Component {
    match part {
        Part::Unet => Component::Unet,
        Part::Vae => Component::Autoencoder,
        Part::Text => Component::TextEncoder,
    }
}

/// The names of a network's layers.
fn names_of<N: Network>(files: &Files, device: &Device) -> Result<Vec<String>, Error> {
    let network = N::load(files, device).map_err(|error| Error::Model {
        path: files.path().to_owned(),
        error: Box::new(error.into()),
    })?;
    Ok(network.layers())
}

/// What rounding says of a network, and the network.
type Rounded<N> = Result<(N, Vec<RoundedWeight>), Error>;

#[allow(clippy::unnecessary_wraps, reason = "what is calibrated may fail")]
fn as_it_is<N>(network: N) -> Rounded<N> {
    Ok((network, Vec::new()))
}

/// Rounds a network, packs it, writes it, and reads what was written: as it was, packed in f32, and as it is now.
fn one<N: Network>(
    arguments: &Arguments,
    files: &Files,
    out: &Path,
    device: &Device,
    round: impl FnOnce(N) -> Rounded<N>,
) -> Result<(N, N, NetworkReport), Error> {
    let wrong = |path: &Path, error: clearway_stable_diffusion::LoadError| Error::Model {
        path: path.to_owned(),
        error: Box::new(error.into()),
    };
    let in_model = |error| wrong(files.path(), error);
    let component = N::COMPONENT;
    let weights = files.weights(component).map_err(in_model)?;
    let bytes_before = weights.stored_bytes();
    if weights.packing().is_some() {
        return Err(Error::Argument {
            argument: "--model",
            reason: format!(
                "has a packed {} already: what was rounded stays rounded",
                component.name()
            ),
        });
    }
    let mut plain = N::load(files, device).map_err(in_model)?;
    let policy = arguments.policy();
    let (mut packed, rounded) = round(plain.clone())?;
    let report = packed.pack(policy.clone());
    tracing::info!(?report, "packed {}", component.name());
    let mut writer = WeightsWriter::default();
    packed.save(&mut writer);
    writer.packing(&policy);
    let path = out.join(component.folder()).join(N::FILE);
    writer
        .write(&path)
        .map_err(|error| Error::write(&path, &error))?;
    drop(packed);
    let written = Files::open(out).map_err(|error| wrong(out, error))?;
    let bytes_after = written
        .weights(component)
        .map_err(|error| wrong(out, error))?
        .stored_bytes();
    let mut written = N::load(&written, device).map_err(|error| wrong(out, error))?;
    let _ = written.pack(policy);
    let layers = plain.compare(&written);
    let _ = plain.pack(Precision::F32.into());
    let report = NetworkReport {
        name: component.name(),
        bytes_before,
        bytes_after,
        layers: (layers.into_iter())
            .map(|it| Layer::new(it, &rounded))
            .collect(),
        drift: Vec::new(),
        output_error: None,
    };
    Ok((plain, written, report))
}

/// What a U-Net is told, and what it denoises: `[1, channels, height, width]` without noise.
struct Sample {
    text: Tensor<3>,
    clean: Tensor<4>,
}

/// What the model itself makes of the prompts of a file, in a few steps; and in words. Nothing where there is no file.
fn samples(
    arguments: &Arguments,
    files: &Files,
    device: &Device,
) -> Result<(Option<Vec<Sample>>, String), Error> {
    let Some(path) = &arguments.calibrate else {
        let words = format!(
            "random latents of {LATENTS} by {LATENTS} and random texts, or classes; --calibrate FILE says more"
        );
        return Ok((None, words));
    };
    let prompts = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
    let prompts: Vec<&str> = (prompts.lines())
        .filter(|line| !line.trim().is_empty())
        .collect();
    if prompts.is_empty() {
        return Err(Error::Read {
            path: path.clone(),
            reason: "it holds no prompt".to_owned(),
        });
    }
    let wrong = |error| wrong_model(files, error);
    let model = StableDiffusion::of(files.clone(), device, Some(Precision::F32));
    let mut model = model.map_err(wrong)?;
    let side = LATENTS as u32 * files.latent_factor().map_err(|error| wrong(error.into()))? as u32;
    let waiting = spinner("drawing what the prompts say");
    let mut samples = Vec::new();
    for (i, &prompt) in prompts.iter().enumerate() {
        let request = Request {
            prompt: prompt.into(),
            seeds: vec![arguments.seed.wrapping_add(i as u64)],
            size: Some([side; 2]),
            steps: STEPS,
            ..Request::default()
        };
        // Guidance asks for both texts.
        let texts = [&request.prompt, &request.negative];
        let mut encoded = model.encode(&texts, request.clip_skip).map_err(wrong)?;
        let mut generation = model.generation(&request).map_err(wrong)?;
        let mut clean = None;
        for step in generation.steps() {
            clean = Some(step.map_err(wrong)?.clean);
        }
        let without = encoded.pop();
        let texts = encoded.into_iter().chain(without.filter(|_| i == 0));
        for text in texts {
            let clean = clean.clone();
            samples.extend(clean.map(|clean| Sample { text, clean }));
        }
    }
    waiting.finish_and_clear();
    let words = format!(
        "what the model makes of {} prompts of {} in {STEPS} steps, of {side} by {side}",
        prompts.len(),
        path.display()
    );
    Ok((Some(samples), words))
}

fn wrong_model(files: &Files, error: GenerateError) -> Error {
    Error::Model {
        path: files.path().to_owned(),
        error: Box::new(error),
    }
}

/// The codes of a U-Net, for what its layers read of the samples at all levels of noise.
fn calibrated(
    mut network: Unet,
    arguments: &Arguments,
    files: &Files,
    samples: &[Sample],
) -> Rounded<Unet> {
    let device = Device::flex();
    let wrong = |error| wrong_model(files, error);
    let plain = network.clone();
    let model = StableDiffusion::of(files.clone(), &device, None).map_err(wrong)?;
    let scheduler = model.scheduler();
    let denoiser = Parameterized::new(plain, scheduler.parameterization);
    let schedule = &scheduler.schedule;
    let policy = arguments.policy();
    let waiting = spinner("looking at what the layers read");
    let mut rounded = Vec::new();
    let mut next = Some(Calibration::within(CALIBRATION_MEMORY));
    while let Some(mut calibration) = next {
        device.seed(arguments.seed);
        for run in 0..RUNS {
            // Each run meets all parts of the schedule, in the middle once and elsewhere then: some are kept aside.
            let within = (run as f64 * GOLDEN).fract();
            let points: Vec<Point> = (0..LEVELS_A_RUN)
                .map(|i| {
                    let part = (i as f64 + within) / LEVELS_A_RUN as f64;
                    let t = (part * (schedule.len() - 1) as f64).round();
                    let level = schedule.level(t);
                    Point { t, level }
                })
                .collect();
            let which = |i: usize| &samples[(run * LEVELS_A_RUN + i) % samples.len()];
            let all = || (0..LEVELS_A_RUN).map(which);
            let text = Tensor::cat(all().map(|it| it.text.clone()).collect(), 0);
            let x = points.iter().zip(all()).map(|(point, sample)| {
                let normal = Distribution::Normal(0.0, point.level.sigma);
                let noise = Tensor::random(sample.clean.dims(), normal, &device);
                sample.clean.clone() * point.level.alpha + noise
            });
            let x = Tensor::cat(x.collect(), 0);
            let prepared = denoiser.prepare(&Condition::text(text));
            let _ = calibration.observe(|| denoiser.denoise(x, &points, &prepared));
        }
        waiting.set_message(format!("rounding {} layers", calibration.layers()));
        let (now, more) =
            (network.round(&calibration, &policy)).map_err(|error| Error::Argument {
                argument: "--calibrate",
                reason: error.to_string(),
            })?;
        network = now;
        rounded.extend(more);
        next = calibration.rest();
    }
    waiting.finish_and_clear();
    Ok((network, rounded))
}

/// The error of a network by how much noise there is, on samples or on what is drawn at random.
fn drift_of(
    float: &Unet,
    quantized: &Unet,
    files: &Files,
    samples: Option<&[Sample]>,
    seed: u64,
) -> Result<Vec<DriftRow>, Error> {
    let device = Device::flex();
    let wrong = |error| wrong_model(files, error);
    let config = files.unet_config().map_err(|error| wrong(error.into()))?;
    let model = StableDiffusion::of(files.clone(), &device, None).map_err(wrong)?;
    let scheduler = model.scheduler();
    let schedule = &scheduler.schedule;
    let steps = schedule.len();
    let points: Vec<Point> = (0..LEVELS)
        .map(|i| {
            let t = ((steps - 1) * (LEVELS - 1 - i) / (LEVELS - 1)) as f64;
            let level = schedule.level(t);
            Point { t, level }
        })
        .collect();
    // What inpaints also reads a mask, which is nothing to draw at random.
    if config.encoder.in_channels != config.out_channels {
        return Ok(Vec::new());
    }
    device.seed(seed);
    let normal = Distribution::Normal(0.0, 1.0);
    let latents = |batch| {
        Tensor::random(
            [batch, config.out_channels, LATENTS, LATENTS],
            normal,
            &device,
        )
    };
    let parts: Vec<(Condition, Tensor<4>)> = match (float.classes(), samples) {
        (0, Some(samples)) => (samples.iter())
            .map(|it| (Condition::text(it.text.clone()), it.clean.clone()))
            .collect(),
        (0, None) => {
            let features = config.encoder.cross_attention_dim.first().copied();
            let shape = [1, 77, features.unwrap_or_default()];
            let text = Tensor::random(shape, normal, &device);
            vec![(Condition::text(text), latents(1))]
        }
        (classes, _) => {
            let classes = classes.min(CLASSES);
            vec![(Condition::classes((0..classes).collect()), latents(classes))]
        }
    };
    let denoiser = |network: &Unet| Parameterized::new(network.clone(), scheduler.parameterization);
    let (before, after) = (denoiser(float), denoiser(quantized));
    // One after the other: many prompts at once would not fit into memory.
    let mut all: Vec<Drift> = Vec::new();
    let count = parts.len() as f64;
    for (i, (condition, latents)) in parts.into_iter().enumerate() {
        let prepared = (before.prepare(&condition), after.prepare(&condition));
        let prepared = (&prepared.0, &prepared.1);
        let seed = seed.wrapping_add(i as u64);
        let found = drift((&before, &after), prepared, &latents, &points, seed);
        if all.is_empty() {
            all = (found.iter())
                .map(|it| Drift {
                    clean: 0.0,
                    noise: 0.0,
                    ..*it
                })
                .collect();
        }
        for (sum, found) in all.iter_mut().zip(found) {
            sum.clean += found.clean.powi(2) / count;
            sum.noise += found.noise.powi(2) / count;
        }
    }
    let root = |it: Drift| Drift {
        clean: it.clean.sqrt(),
        noise: it.noise.sqrt(),
        ..it
    };
    Ok(all.into_iter().map(root).map(Into::into).collect())
}

/// `‖found − expected‖ / ‖expected‖`.
fn relative(found: Tensor<4>, expected: Tensor<4>) -> f64 {
    let norm = |x: Tensor<4>| f64::from(x.powi_scalar(2).sum().into_scalar::<f32>()).sqrt();
    norm(found - expected.clone()) / norm(expected)
}
