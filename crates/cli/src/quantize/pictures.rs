//! The networks of Stable Diffusion.

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Distribution, Tensor};
use clearway_diffusion::{Denoiser, Parameterized, Point, Schedule, drift};
use clearway_layers::{PackPolicy, PackReport, Precision, WeightsWriter, compare_weights};
use clearway_stable_diffusion::{
    Autoencoder, ClipText, Component, Condition, Files, StableDiffusion, Text, Unet,
};

use super::report::{DriftRow, Layer, NetworkReport, Report};
use super::{Arguments, Part, copy};
use crate::error::Error;

/// The latents that networks are compared on: those of a picture of 256 by 256.
const LATENTS: usize = 32;
/// And of how many classes, where the network is told one.
const CLASSES: usize = 16;
/// At how many levels of noise.
const LEVELS: usize = 5;

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
    let wrong = |error: clearway_stable_diffusion::GenerateError| Error::Model {
        path: path.clone(),
        error: Box::new(error),
    };
    let files = Files::open(path).map_err(|error| wrong(error.into()))?;
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
    let (text, measured_on) = texts(arguments, &files, &device)?;
    let mut networks = Vec::new();
    for part in [Part::Unet, Part::Vae, Part::Text] {
        if !parts.contains(&part) {
            continue;
        }
        networks.push(match part {
            Part::Unet => {
                let (plain, packed, mut report) = one::<Unet>(arguments, &files, out, &device)?;
                report.drift =
                    drift_of(&plain, &packed, path, &files, text.as_ref(), arguments.seed)?;
                report
            }
            Part::Vae => {
                let (plain, packed, mut report) =
                    one::<Autoencoder>(arguments, &files, out, &device)?;
                device.seed(arguments.seed);
                let normal = Distribution::Normal(0.0, 1.0);
                let channels = plain.latent_channels();
                let latents = Tensor::random([1, channels, LATENTS, LATENTS], normal, &device);
                let [expected, found] = [&plain, &packed].map(|it| it.decode(latents.clone()));
                report.output_error = Some(relative(found, expected));
                report
            }
            Part::Text => one::<ClipText>(arguments, &files, out, &device)?.2,
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

/// Packs a network, writes it, and reads what was written: as it was, packed in f32, and as it is now.
fn one<N: Network>(
    arguments: &Arguments,
    files: &Files,
    out: &Path,
    device: &Device,
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
    let mut packed = plain.clone();
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
    let mut written = N::load(&written, device).map_err(|error| wrong(out, error))?;
    let _ = written.pack(policy);
    let layers = plain.compare(&written);
    let _ = plain.pack(Precision::F32.into());
    let report = NetworkReport {
        name: component.name(),
        bytes_before,
        bytes_after: std::fs::metadata(&path).map_or(0, |it| it.len()),
        layers: layers.into_iter().map(|it| Layer::new(it, &[])).collect(),
        drift: Vec::new(),
        output_error: None,
    };
    Ok((plain, written, report))
}

/// Encoded prompts, `[batch, tokens, features]`; and where they come from.
fn texts(
    arguments: &Arguments,
    files: &Files,
    device: &Device,
) -> Result<(Option<Tensor<3>>, String), Error> {
    let latents = format!("random latents of {LATENTS} by {LATENTS}");
    let Some(path) = &arguments.calibrate else {
        return Ok((
            None,
            format!("{latents} and random texts, or classes; --calibrate FILE says more"),
        ));
    };
    let prompts = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
    let prompts: Vec<&str> = prompts
        .lines()
        .filter(|line| !line.trim().is_empty())
        .collect();
    if prompts.is_empty() {
        return Err(Error::Read {
            path: path.clone(),
            reason: "it holds no prompt".to_owned(),
        });
    }
    let wrong = |error| Error::Model {
        path: files.path().to_owned(),
        error: Box::new(error),
    };
    let model = StableDiffusion::of(files.clone(), device, Some(Precision::F32));
    let mut model = model.map_err(wrong)?;
    let texts: Vec<Text> = prompts.iter().map(|&prompt| Text::from(prompt)).collect();
    let encoded = model
        .encode(&texts.iter().collect::<Vec<_>>(), 0)
        .map_err(wrong)?;
    let words = format!(
        "{latents} and {} prompts of {}",
        prompts.len(),
        path.display()
    );
    Ok((Some(Tensor::cat(encoded, 0)), words))
}

fn drift_of(
    float: &Unet,
    quantized: &Unet,
    path: &Path,
    files: &Files,
    text: Option<&Tensor<3>>,
    seed: u64,
) -> Result<Vec<DriftRow>, Error> {
    let device = Device::flex();
    let wrong = |error: clearway_stable_diffusion::GenerateError| Error::Model {
        path: path.to_owned(),
        error: Box::new(error),
    };
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
    let features = config.encoder.cross_attention_dim.first().copied();
    let features = features.unwrap_or_default();
    device.seed(seed);
    let normal = Distribution::Normal(0.0, 1.0);
    let condition = match float.classes() {
        0 => Condition::text(
            (text.cloned()).unwrap_or_else(|| Tensor::random([1, 77, features], normal, &device)),
        ),
        classes => Condition::classes((0..classes.min(CLASSES)).collect()),
    };
    let batch = match (&condition.text, &condition.classes) {
        (Some(text), _) => text.dims()[0],
        (None, classes) => classes.as_ref().map_or(1, Vec::len),
    };
    let latents = Tensor::random(
        [batch, config.out_channels, LATENTS, LATENTS],
        normal,
        &device,
    );
    let denoiser = |network: &Unet| Parameterized::new(network.clone(), scheduler.parameterization);
    let (before, after) = (denoiser(float), denoiser(quantized));
    let prepared = (before.prepare(&condition), after.prepare(&condition));
    let found = drift(
        (&before, &after),
        (&prepared.0, &prepared.1),
        &latents,
        &points,
        seed,
    );
    Ok(found.into_iter().map(Into::into).collect())
}

/// `‖found − expected‖ / ‖expected‖`.
fn relative(found: Tensor<4>, expected: Tensor<4>) -> f64 {
    let norm = |x: Tensor<4>| f64::from(x.powi_scalar(2).sum().into_scalar::<f32>()).sqrt();
    norm(found - expected.clone()) / norm(expected)
}
