use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Level, Network, Point, Torch};
use clearway_layers::{Level as CpuLevel, Precision};
use clearway_stable_diffusion::{
    Autoencoder, Component, Condition, Method, Request, StableDiffusion, Text,
};
use safetensors::{Dtype, SafeTensors};
use serde::Serialize;

use super::ModelArguments;
use crate::Verdict;
use crate::error::{Error, check_writable, spinner, write_json};
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    model: ModelArguments,
    /// What was recorded [default: expected.safetensors in the model's folder]
    #[arg(long, value_name = "FILE")]
    expected: Option<PathBuf>,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

// Tolerances are relative to the largest number of the recorded tensor, or absolute where that is below one.

/// Sums of up to some thousand f32 products, in another order, one network deep.
const NETWORK: f64 = 5e-5;
/// torch's vectorized logarithm and sine differ in the last digits.
const NOISE: f64 = 1e-6;
/// Networks after networks, and guidance that multiplies what differs.
const PIPELINE: f64 = 2e-4;

/// Each weight in bf16 is wrong by up to 2⁻⁸ of itself, through networks that are some dozens of layers deep.
const BF16: f64 = 0.1;
/// The same of weights and inputs in codes of 8 bits, and of weights in codes of 4.
const INT8: f64 = 0.3;
const INT4: f64 = 1.0;

/// The seed and the guidance of a recorded pipeline.
const SEED: u64 = 42;
const SCALE: f64 = 7.5;

#[derive(Debug, Serialize)]
struct Quantity {
    name: String,
    /// Absolute.
    largest_error: f64,
    tolerance: f64,
    /// In decibels; none where nothing differs.
    psnr: Option<f64>,
    passed: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    passed: bool,
    /// What the U-Net's weights are packed in.
    precision: String,
    level: Option<String>,
    quantities: Vec<Quantity>,
    not_compared: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let mut model = arguments.model.open()?.one_at_a_time();
    let path = match &arguments.expected {
        Some(path) => path.clone(),
        None => arguments.model.model.join("expected.safetensors"),
    };
    let bytes = std::fs::read(&path).map_err(|error| Error::read(&path, &error))?;
    let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::read(&path, &error))?;
    let components = [
        Component::TextEncoder,
        Component::Unet,
        Component::Autoencoder,
    ];
    let mut precisions = [None; 3];
    for (precision, component) in precisions.iter_mut().zip(components) {
        *precision = model.precision_of(component)?;
    }
    let [text, unet, autoencoder] = precisions.map(|it| tolerance(it, NETWORK));
    let pipeline = precisions.map(|it| tolerance(it, PIPELINE));
    let pipeline = pipeline.into_iter().fold(0.0, f64::max);
    let precision = precisions[1].map(|it| it.to_string());
    let mut check = Check {
        text,
        unet,
        autoencoder,
        pipeline,
        path: &path,
        file,
        quantities: Vec::new(),
        known: BTreeSet::new(),
    };
    let bar = spinner("replaying the networks");
    check.text(&mut model)?;
    check.unet(&mut model)?;
    check.autoencoder(&mut model)?;
    bar.set_message("replaying the pipeline");
    check.pipeline(&mut model)?;
    bar.finish_and_clear();
    let Check {
        file,
        quantities,
        known,
        ..
    } = check;
    if quantities.is_empty() {
        return Err(Error::Missing {
            path,
            key: "clip_last_hidden".to_owned(),
            expected: "a recorded pipeline with something to compare",
        });
    }
    let mut not_compared: Vec<String> = (file.names().into_iter())
        .filter(|key| !known.contains(*key))
        .map(str::to_owned)
        .collect();
    not_compared.sort();
    let report = Report {
        level: precision
            .is_some()
            .then(|| CpuLevel::detected().to_string()),
        precision: precision.unwrap_or_else(|| "plain".to_owned()),
        passed: quantities.iter().all(|quantity| quantity.passed),
        quantities,
        not_compared,
    };
    say!(
        "  {:<30} {:>13}  {:>9}  {:>9}",
        "",
        "largest error",
        "tolerance",
        "PSNR"
    );
    for quantity in &report.quantities {
        say!(
            "  {:<30} {:>13.2e}  {:>9.1e}  {:>9}  {}",
            quantity.name,
            quantity.largest_error,
            quantity.tolerance,
            quantity
                .psnr
                .map_or_else(|| "exact".to_owned(), |psnr| format!("{psnr:.1} dB")),
            if quantity.passed {
                "ok"
            } else {
                "ABOVE TOLERANCE"
            }
        );
    }
    for key in &report.not_compared {
        say!("  not compared: {key}");
    }
    if let Some(path) = &arguments.json {
        write_json(path, &report)?;
    }
    Ok(if report.passed {
        Verdict::Passed
    } else {
        Verdict::Failed
    })
}

/// What a network may be wrong by whose weights are in a precision, or, in f32, `exact`.
fn tolerance(precision: Option<Precision>, exact: f64) -> f64 {
    match precision {
        Some(Precision::Bf16) => BF16,
        Some(Precision::Int8) => INT8,
        Some(Precision::Int4 { .. }) => INT4,
        _ => exact,
    }
}

struct Check<'a> {
    /// What each network may be wrong by, and what all together.
    text: f64,
    unet: f64,
    autoencoder: f64,
    pipeline: f64,
    path: &'a Path,
    file: SafeTensors<'a>,
    quantities: Vec<Quantity>,
    known: BTreeSet<String>,
}

impl Check<'_> {
    fn has(&self, key: &str) -> bool {
        self.file.tensor(key).is_ok()
    }

    /// The bytes of a tensor of four-byte numbers, and its shape of `D` axes.
    fn bytes<const D: usize>(
        &self,
        key: &str,
        dtype: Dtype,
    ) -> Result<(Vec<[u8; 4]>, [usize; D]), Error> {
        let tensor = self.file.tensor(key).map_err(|_| Error::Missing {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: "a tensor of a recorded pipeline",
        })?;
        let shape = <[usize; D]>::try_from(tensor.shape()).ok();
        let shape = shape.filter(|shape| tensor.dtype() == dtype && !shape.contains(&0));
        let shape = shape.ok_or_else(|| Error::Shape {
            path: self.path.to_owned(),
            key: key.to_owned(),
            expected: format!("{dtype:?} with {D} axes, none of them empty"),
            found: format!("{:?} in {:?}", tensor.shape(), tensor.dtype()),
        })?;
        Ok((tensor.data().as_chunks::<4>().0.to_vec(), shape))
    }

    fn take<const D: usize>(&mut self, key: &str) -> Result<Tensor<D>, Error> {
        let (bytes, shape) = self.bytes::<D>(key, Dtype::F32)?;
        self.known.insert(key.to_owned());
        let values: Vec<f32> = bytes.into_iter().map(f32::from_le_bytes).collect();
        Ok(Tensor::from_data(
            TensorData::new(values, shape),
            &Device::flex(),
        ))
    }

    /// The recorded tokens, a text a row.
    fn tokens(&mut self) -> Result<Vec<Vec<u32>>, Error> {
        const KEY: &str = "input_ids";
        let (bytes, [_, length]) = self.bytes::<2>(KEY, Dtype::I32)?;
        self.known.insert(KEY.to_owned());
        let tokens: Vec<u32> = bytes.into_iter().map(u32::from_le_bytes).collect();
        Ok(tokens.chunks(length).map(<[u32]>::to_vec).collect())
    }

    /// Compares with a recorded tensor, if there is one.
    fn compare<const D: usize>(
        &mut self,
        key: &str,
        ours: Tensor<D>,
        tolerance: f64,
    ) -> Result<(), Error> {
        if !self.has(key) {
            return Ok(());
        }
        let theirs: Tensor<D> = self.take(key)?;
        if theirs.dims() != ours.dims() {
            return Err(Error::Shape {
                path: self.path.to_owned(),
                key: key.to_owned(),
                expected: format!("{:?}", ours.dims()),
                found: format!("{:?}", theirs.dims()),
            });
        }
        let (ours, theirs) = (download(ours), download(theirs));
        let largest = theirs.iter().map(|v| f64::from(v.abs()));
        // An infinity must not make a tolerance that everything keeps.
        let largest = largest.filter(|v| v.is_finite()).fold(0.0, f64::max);
        let tolerance = tolerance * largest.max(1.0);
        let (mut error, mut squares) = (0.0_f64, 0.0_f64);
        for (a, b) in ours.iter().zip(&theirs) {
            let difference = (f64::from(*a) - f64::from(*b)).abs();
            // A NaN on either side is the largest error there is; `max` would drop it.
            error = if difference.is_nan() {
                f64::INFINITY
            } else {
                error.max(difference)
            };
            squares += difference * difference;
        }
        let psnr = 10.0 * (largest * largest * ours.len() as f64 / squares).log10();
        self.quantities.push(Quantity {
            name: key.to_owned(),
            largest_error: error,
            tolerance,
            psnr: psnr.is_finite().then_some(psnr),
            passed: error <= tolerance,
        });
        Ok(())
    }

    fn text(&mut self, model: &mut StableDiffusion) -> Result<(), Error> {
        if !self.has("clip_last_hidden") && !self.has("clip_hidden_penultimate") {
            return Ok(());
        }
        let tokens = self.tokens()?;
        let network = model.text_encoder()?;
        let wrong = clearway_stable_diffusion::GenerateError::from;
        let last = network.encode(&tokens, 0).map_err(wrong)?;
        self.compare("clip_last_hidden", last, self.text)?;
        let embedded = network.embed(&tokens).map_err(wrong)?;
        let before = network.hidden(embedded, 1).map_err(wrong)?;
        self.compare("clip_hidden_penultimate", before, self.text)
    }

    fn unet(&mut self, model: &mut StableDiffusion) -> Result<(), Error> {
        if !self.has("unet_in") {
            return Ok(());
        }
        let network = model.unet()?;
        let x: Tensor<4> = self.take("unet_in")?;
        let text: Tensor<3> = self.take("clip_last_hidden")?;
        let prepared = network.prepare(&Condition::text(text));
        let point = |t| Point {
            t,
            level: Level::CLEAN,
        };
        let names = self.file.names();
        let mut passes: Vec<(String, Vec<f64>)> = (names.into_iter())
            .filter_map(|key| {
                let times = key.strip_prefix("unet_out_t")?;
                let times = times.split('_').filter(|time| !time.is_empty());
                let times: Result<_, _> = times.map(str::parse).collect();
                Some((key.to_owned(), times.ok()?))
            })
            .collect();
        passes.sort_by(|a, b| a.0.cmp(&b.0));
        for (key, times) in passes {
            let points: Vec<Point> = times.into_iter().map(point).collect();
            if points.len() != 1 && points.len() != x.dims()[0] {
                continue;
            }
            let out = network.forward(x.clone(), &points, &prepared);
            self.compare(&key, out, self.unet)?;
        }
        // What the modules say is recorded at this time.
        let at = [point(500.0)];
        let mut seen = Vec::new();
        network.forward_observed(x.clone(), &at, &prepared, None, &mut |name, x| {
            seen.push((format!("act.{name}"), x.clone()));
        });
        let time = network.embed(&at, &prepared).repeat_dim(0, x.dims()[0]);
        self.compare("act.time_embedding", time, self.unet)?;
        for (key, x) in seen {
            self.compare(&key, x, self.unet)?;
        }
        Ok(())
    }

    fn autoencoder(&mut self, model: &mut StableDiffusion) -> Result<(), Error> {
        if !self.has("vae_in") && !self.has("vae_z") {
            return Ok(());
        }
        let Autoencoder::Kl(network) = model.autoencoder()? else {
            return Ok(());
        };
        if self.has("vae_in") {
            let moments = network.encode(self.take("vae_in")?);
            self.compare("vae_mean", moments.mean, self.autoencoder)?;
            self.compare("vae_logvar", moments.log_variance, self.autoencoder)?;
        }
        if self.has("vae_z") {
            let decoded = network.decode(self.take("vae_z")?);
            self.compare("vae_dec", decoded, self.autoencoder)?;
        }
        Ok(())
    }

    /// The whole, as `fixtures` record it: DDIM, two texts, the second of which is the prompt.
    fn pipeline(&mut self, model: &mut StableDiffusion) -> Result<(), Error> {
        let latents = |step: usize| format!("e2e_latents_{step}");
        let steps = (0..self.file.len())
            .take_while(|&step| self.has(&latents(step)))
            .count();
        if steps == 0 {
            return Ok(());
        }
        let mut tokens = self.tokens()?;
        let (Some(prompt), Some(negative)) = (tokens.pop(), tokens.pop()) else {
            return Err(Error::Missing {
                path: self.path.to_owned(),
                key: "input_ids".to_owned(),
                expected: "two texts",
            });
        };
        let (_, [_, channels, rows, columns]) = self.bytes::<4>(&latents(0), Dtype::F32)?;
        let noise = Torch::new(SEED).randn(channels * rows * columns);
        let noise = TensorData::new(noise, [1, channels, rows, columns]);
        let noise = Tensor::<4>::from_data(noise, &Device::flex());
        self.compare("e2e_latents_init", noise, NOISE)?;
        let factor = model.autoencoder()?.factor();
        let request = Request {
            prompt: Text::Tokens(vec![prompt]),
            negative: Text::Tokens(vec![negative]),
            seeds: vec![SEED],
            size: Some([(columns * factor) as u32, (rows * factor) as u32]),
            steps,
            method: Some(Method::Ddim),
            scale: SCALE,
            ..Request::default()
        };
        let mut generation = model.generation(&request)?;
        for step in generation.steps() {
            let step = step?;
            self.compare(&latents(step.index), step.latents, self.pipeline)?;
        }
        let picture = generation.decode()?.div_scalar(2.0).add_scalar(0.5);
        self.compare("e2e_image", picture.clamp(0.0, 1.0), self.pipeline)
    }
}

fn download<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor
        .into_data()
        .try_to_vec()
        .expect("networks compute in f32")
}
