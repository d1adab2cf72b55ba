use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Level, Network as _, Point, Torch, normal};
use clearway_layers::{PackReport, Work};
use clearway_stable_diffusion::{
    Autoencoder, AutoencoderKlConfig, ClipTextConfig, Condition, Config, DECODING_MEMORY, Files,
    GenerateError, LoadError, UnetConfig,
};
use serde::Serialize;
use serde_json::json;

use super::machine::{self, Machine};
use super::{Figures, measure, reset_peak_memory};
use crate::Verdict;
use crate::error::{Error, check_writable, spinner, write_json};
use crate::image::generate::size;
use crate::image::peak_memory;
use crate::precision::Precision;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// A folder written by diffusers' `save_pretrained`, or a single .safetensors or .ckpt file
    #[arg(long, value_name = "PATH", required_unless_present = "geometry")]
    model: Option<PathBuf>,
    /// Networks of a known shape, with random weights
    #[arg(long, value_enum, conflicts_with = "model")]
    geometry: Option<Geometry>,
    /// What the weights are kept in
    #[arg(long, value_enum, default_value = "f32")]
    precision: Precision,
    /// Width and height in pixels, multiples of what the autoencoder divides by
    #[arg(long, value_name = "WxH", default_value = "512x512", value_parser = size)]
    size: [u32; 2],
    /// Pictures that are made at once; guidance makes two of one
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    batch: u16,
    /// How often everything is measured
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// The networks that are measured [default: all]
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Part>,
    /// Write the same as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Geometry {
    /// Stable Diffusion 1.5
    Sd15,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
enum Part {
    /// The text encoder, one prompt
    Text,
    /// A pass of the U-Net
    Unet,
    /// The autoencoder's decoder, one picture
    Decoder,
}

impl Part {
    const ALL: [Self; 3] = [Self::Text, Self::Unet, Self::Decoder];

    fn name(self) -> &'static str {
        match self {
            Self::Text => "text encoder",
            Self::Unet => "U-Net",
            Self::Decoder => "decoder",
        }
    }
}

#[derive(Serialize)]
struct Report {
    precision: &'static str,
    width: u32,
    height: u32,
    batch: usize,
    machine: machine::Report,
    networks: BTreeMap<Part, Figures>,
}

/// Where networks come from.
enum Networks {
    Files(Files),
    Random,
}

/// A network that can be asked once.
struct Runner {
    parameters: usize,
    packed: Option<PackReport>,
    work: Work,
    pass: Box<dyn FnMut() -> Result<(), Error>>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<Verdict, Error> {
    check_writable(arguments.json.as_deref())?;
    let networks = match &arguments.model {
        Some(path) => Networks::Files(Files::open(path).map_err(wrong(path))?),
        None => Networks::Random,
    };
    let mut parts = arguments.only.clone();
    if parts.is_empty() {
        parts = Part::ALL.to_vec();
    }
    let mut passes = BTreeMap::new();
    let mut machine = Machine::new(arguments.precision);
    for part in parts {
        let waiting = spinner(part.name());
        reset_peak_memory();
        let mut runner = networks.runner(part, arguments)?;
        (runner.pass)()?;
        let peak_memory_mb = peak_memory();
        let bytes = arguments
            .precision
            .bytes(runner.work.weights, runner.packed);
        let [mut pass_ms, mut weights_ms] = [const { Vec::new() }; 2];
        for _ in 0..arguments.rounds {
            machine.measure();
            measure(&mut weights_ms, || {
                machine.read_bytes(bytes);
                Ok(())
            })?;
            measure(&mut pass_ms, &mut runner.pass)?;
        }
        let pass = Figures::new(
            runner.parameters,
            runner.work,
            bytes,
            &pass_ms,
            &weights_ms,
            &machine,
        );
        // What it reads is none of the next network's memory.
        machine.release();
        waiting.finish_and_clear();
        passes.insert(
            part,
            Figures {
                peak_memory_mb,
                ..pass
            },
        );
    }
    machine.say();
    for (part, pass) in &passes {
        pass.say(part.name());
    }
    if let Some(path) = &arguments.json {
        let [width, height] = arguments.size;
        let report = Report {
            precision: arguments.precision.name(),
            width,
            height,
            batch: arguments.batch.into(),
            machine: machine.report(),
            networks: passes,
        };
        write_json(path, &report)?;
    }
    Ok(Verdict::Passed)
}

impl Networks {
    fn runner(&self, part: Part, arguments: &Arguments) -> Result<Runner, Error> {
        let device = Device::flex();
        match part {
            Part::Text => self.text_encoder(arguments, &device),
            Part::Unet => self.unet(arguments, &device),
            Part::Decoder => self.decoder(arguments, &device),
        }
    }

    fn text_encoder(&self, arguments: &Arguments, device: &Device) -> Result<Runner, Error> {
        let (config, mut network) = match self {
            Self::Files(files) => (
                files.text_encoder_config().map_err(wrong(files.path()))?,
                files.text_encoder(device).map_err(wrong(files.path()))?,
            ),
            Self::Random => {
                let config = ClipTextConfig::read(&said(json!({
                    "hidden_size": 768,
                    "intermediate_size": 3072,
                    "num_attention_heads": 12,
                }))?)
                .map_err(wrong(Path::new("")))?;
                let network = config.init(device);
                (config, network)
            }
        };
        let parameters = network.parameters();
        let packed = arguments.precision.packed();
        let packed = packed.map(|precision| network.pack(precision));
        let tokens = vec![vec![0; network.max_tokens()]];
        Ok(Runner {
            parameters,
            packed,
            work: config.work(network.max_tokens()),
            pass: Box::new(move || {
                let text = network.encode(&tokens, 0).map_err(GenerateError::from)?;
                drop(text);
                Ok(())
            }),
        })
    }

    fn unet(&self, arguments: &Arguments, device: &Device) -> Result<Runner, Error> {
        let (config, mut network, factor) = match self {
            Self::Files(files) => (
                files.unet_config().map_err(wrong(files.path()))?,
                files.unet(device).map_err(wrong(files.path()))?,
                files.latent_factor().map_err(wrong(files.path()))?,
            ),
            Self::Random => {
                let config = UnetConfig::read(&said(json!({"cross_attention_dim": 768}))?)
                    .map_err(wrong(Path::new("")))?;
                let network = config.init(device);
                (config, network, SD15_FACTOR)
            }
        };
        let parameters = network.parameters();
        let packed = arguments.precision.packed();
        let packed = packed.map(|precision| network.pack(precision));
        let batch = usize::from(arguments.batch);
        let [height, width] = latents(arguments.size, factor)?;
        let channels = config.out_channels;
        let mut noise = Torch::new(0);
        let x = normal(&mut noise, [batch, channels, height, width], device);
        let encoder = &config.encoder;
        let beside = encoder.in_channels.saturating_sub(channels);
        let features = encoder.cross_attention_dim[0];
        let text = normal(&mut noise, [batch, TOKENS, features], device);
        let condition = Condition {
            text: Some(text),
            classes: (network.classes() > 0).then(|| vec![0; batch]),
            channels: (beside > 0).then(|| Tensor::zeros([batch, beside, height, width], device)),
            guidance: network.knows_guidance().then(|| vec![7.5]),
        };
        let prepared = network.prepare(&condition);
        let half = 0.5_f64.sqrt();
        let point = Point {
            t: 500.0,
            level: Level {
                alpha: half,
                sigma: half,
            },
        };
        Ok(Runner {
            parameters,
            packed,
            work: config.work([height, width], TOKENS).for_samples(batch),
            pass: Box::new(move || {
                drop(network.forward(x.clone(), &[point], &prepared));
                Ok(())
            }),
        })
    }

    fn decoder(&self, arguments: &Arguments, device: &Device) -> Result<Runner, Error> {
        let (config, mut network) = match self {
            Self::Files(files) => (
                files.autoencoder_config().map_err(wrong(files.path()))?,
                files.autoencoder(device).map_err(wrong(files.path()))?,
            ),
            Self::Random => {
                let config = AutoencoderKlConfig::read(&said(json!({
                    "block_out_channels": [128, 256, 512, 512],
                    "layers_per_block": 2,
                }))?)
                .map_err(wrong(Path::new("")))?;
                let network = Autoencoder::Kl(Box::new(config.init(device)));
                (Some(config), network)
            }
        };
        let config = config.ok_or_else(|| Error::Argument {
            argument: "--model",
            reason: "has a tiny autoencoder, whose work is not counted: give --only text,unet"
                .into(),
        })?;
        let parameters = network.parameters();
        let packed = arguments.precision.packed();
        let packed = packed.map(|precision| network.pack(precision));
        let [height, width] = latents(arguments.size, network.factor())?;
        let shape = [1, network.latent_channels(), height, width];
        let z = normal(&mut Torch::new(0), shape, device);
        Ok(Runner {
            parameters,
            packed,
            work: config.decoding_work([height, width]),
            pass: Box::new(move || {
                drop(network.decode_within(z.clone(), DECODING_MEMORY));
                Ok(())
            }),
        })
    }
}

/// The tokens of a prompt.
const TOKENS: usize = 77;
/// How many times smaller than a picture Stable Diffusion 1's latents are.
const SD15_FACTOR: usize = 8;

/// The height and the width of the latents.
fn latents([width, height]: [u32; 2], factor: usize) -> Result<[usize; 2], Error> {
    let sides = [height, width].map(|side| side as usize);
    if sides
        .iter()
        .any(|side| *side == 0 || !side.is_multiple_of(factor))
    {
        return Err(Error::Argument {
            argument: "--size",
            reason: format!("is {width}x{height}, which are not multiples of {factor}"),
        });
    }
    Ok(sides.map(|side| side / factor))
}

fn said(json: serde_json::Value) -> Result<Config, Error> {
    Config::new("Stable Diffusion 1.5", json).map_err(wrong(Path::new("")))
}

fn wrong(path: &Path) -> impl Fn(LoadError) -> Error + use<> {
    let path = path.to_owned();
    move |error| Error::Model {
        path: path.clone(),
        error: Box::new(error.into()),
    }
}
