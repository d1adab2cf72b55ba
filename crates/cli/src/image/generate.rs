use std::path::{Path, PathBuf};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clearway_diffusion::Parameterization;
use clearway_stable_diffusion::{
    Control, GenerateError, Lora, Method, Picture, Request, Source, Spacing, StableDiffusion, Text,
};

use super::ModelArguments;
use crate::Verdict;
use crate::error::{Error, check_writable, spinner, write_whole};
use crate::output::say;

#[derive(Debug, clap::Args)]
pub(crate) struct Generate {
    /// Width and height in pixels [default: what the model was trained on]
    #[arg(long, value_name = "WxH", value_parser = size)]
    size: Option<[u32; 2]>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct FromPicture {
    /// A PNG or JPEG to begin with; its sides are multiples of 8
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// How far the result may go from it, above 0 and up to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.75)]
    strength: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Inpaint {
    /// A PNG or JPEG, part of which is painted anew; its sides are multiples of 8
    #[arg(long, value_name = "FILE")]
    image: PathBuf,
    /// A picture of the same size: white is painted, black stays
    #[arg(long, value_name = "FILE")]
    mask: PathBuf,
    /// How far the result may go from what is there, above 0 and up to 1
    #[arg(long, value_name = "SHARE", default_value_t = 1.0)]
    strength: f64,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, clap::Args)]
struct Common {
    #[command(flatten)]
    model: ModelArguments,
    /// What to show; `(word:1.2)` weighs, `<lora:name:0.8>` is looked for in --lora-dir
    #[arg(long, value_name = "TEXT", default_value = "")]
    prompt: String,
    /// What not to show
    #[arg(long, value_name = "TEXT", default_value = "")]
    negative: String,
    /// Take brackets in prompts for what they are
    #[arg(long)]
    literal: bool,
    /// Seed of the first picture; each further one has the next
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// Pictures that are made at once
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    count: u64,
    /// Where the picture goes; of several, the seed is put before the ending
    #[arg(long, short, value_name = "FILE", default_value = "picture.png")]
    out: PathBuf,
    /// Denoising steps
    #[arg(long, value_name = "K", default_value_t = 20)]
    steps: usize,
    /// Solver [default: the model's own]
    #[arg(long, value_name = "NAME", value_parser = method())]
    solver: Option<Method>,
    /// How the levels of noise are spaced [default: as the model and the solver say]
    #[arg(long, value_name = "NAME", value_parser = spacing())]
    grid: Option<Spacing>,
    /// How much the prompt counts; 1 is without guidance
    #[arg(long, value_name = "SCALE", default_value_t = 7.5)]
    scale: f64,
    /// How far guidance's spread is brought back, from 0 to 1
    #[arg(long, value_name = "SHARE", default_value_t = 0.0)]
    rescale: f64,
    /// How many of the text encoder's last layers are left out
    #[arg(long, value_name = "N", default_value_t = 0)]
    clip_skip: usize,
    /// A LoRA, and how much of it; may be given several times
    #[arg(long, value_name = "FILE[:SCALE]")]
    lora: Vec<String>,
    /// Where the LoRAs lie that a prompt names
    #[arg(long, value_name = "DIR")]
    lora_dir: Option<PathBuf>,
    /// A ControlNet; may be given several times, each with a --control
    #[arg(long, value_name = "PATH")]
    controlnet: Vec<PathBuf>,
    /// The picture that a ControlNet sees, and how much it is obeyed, in the order of the networks
    #[arg(long, value_name = "FILE[:SCALE]")]
    control: Vec<String>,
    /// Another autoencoder, large or tiny
    #[arg(long, value_name = "PATH")]
    vae: Option<PathBuf>,
    /// What the U-Net predicts, where the files do not say
    #[arg(long, value_name = "WHAT", value_parser = prediction())]
    prediction: Option<Parameterization>,
    /// Write what the first picture would be after every step
    #[arg(long, value_name = "FILE")]
    preview: Option<PathBuf>,
    /// A tiny autoencoder for the previews
    #[arg(long, value_name = "PATH", requires = "preview")]
    preview_vae: Option<PathBuf>,
}

impl Generate {
    pub(crate) fn run(&self) -> Result<Verdict, Error> {
        self.common.run(self.size, None)
    }
}

impl FromPicture {
    pub(crate) fn run(&self) -> Result<Verdict, Error> {
        let source = Source {
            picture: read(&self.image)?,
            mask: None,
            strength: self.strength,
        };
        self.common.run(None, Some(source))
    }
}

impl Inpaint {
    pub(crate) fn run(&self) -> Result<Verdict, Error> {
        let source = Source {
            picture: read(&self.image)?,
            mask: Some(read(&self.mask)?),
            strength: self.strength,
        };
        self.common.run(None, Some(source))
    }
}

impl Common {
    fn run(&self, size: Option<[u32; 2]>, source: Option<Source>) -> Result<Verdict, Error> {
        check_writable(Some(&self.out))?;
        check_writable(self.preview.as_deref())?;
        let (prompt, named) = Lora::of_prompt(&self.prompt);
        let mut model = self.model(&named)?;
        let text = |text: &str| {
            if self.literal {
                Text::Literal(text.to_owned())
            } else {
                Text::from(text)
            }
        };
        let controls = self.control.iter().map(|said| {
            let (path, scale) = with_scale(said);
            Ok(Control {
                picture: read(&path)?,
                scale,
            })
        });
        let request = Request {
            prompt: text(&prompt),
            negative: text(&self.negative),
            seeds: (0..self.count).map(|i| self.seed.wrapping_add(i)).collect(),
            size,
            steps: self.steps,
            method: self.solver,
            spacing: self.grid,
            scale: self.scale,
            rescale: self.rescale,
            clip_skip: self.clip_skip,
            source,
            controls: controls.collect::<Result<_, Error>>()?,
        };
        let waiting = spinner("reading the model");
        let generation = model.generation(&request);
        waiting.finish_and_clear();
        let mut generation = generation?;
        let bar = progress(generation.plan().stages.len() as u64);
        for step in generation.steps() {
            let step = step?;
            bar.inc(1);
            if let Some(path) = &self.preview
                && let Some(preview) = step.preview()?
            {
                write(path, &preview[0], None)?;
            }
        }
        bar.finish_and_clear();
        let waiting = spinner("decoding");
        let made = generation.finish();
        waiting.finish_and_clear();
        for made in made? {
            let path = self.place(made.parameters.seed);
            write(&path, &made.picture, Some(&made.parameters))?;
            say!("{}", path.display());
        }
        Ok(Verdict::Passed)
    }

    /// The model with all that was asked for. Each network is used once, so that one is in memory at a time.
    fn model(&self, named: &[Lora]) -> Result<StableDiffusion, Error> {
        let mut model = self.model.open()?.one_at_a_time();
        for said in &self.lora {
            let (path, scale) = with_scale(said);
            model = model.with_lora(&path, scale)?;
        }
        for Lora { name, scale } in named {
            let folder = self.lora_dir.as_ref().ok_or_else(|| Error::Argument {
                argument: "--prompt",
                reason: format!("names the LoRA `{name}`: say with --lora-dir where it lies"),
            })?;
            if Path::new(name).components().count() != 1 {
                return Err(Error::Argument {
                    argument: "--prompt",
                    reason: format!("names the LoRA `{name}`, which is not a name in a folder"),
                });
            }
            model = model.with_lora(&folder.join(format!("{name}.safetensors")), *scale)?;
        }
        for path in &self.controlnet {
            model = model.with_controlnet(path)?;
        }
        if let Some(path) = &self.vae {
            model = model.with_autoencoder(path);
        }
        if let Some(path) = &self.preview_vae {
            model = model.with_previewer(path)?;
        }
        Ok(match self.prediction {
            Some(prediction) => model.with_parameterization(prediction),
            None => model,
        })
    }

    fn place(&self, seed: u64) -> PathBuf {
        if self.count == 1 {
            return self.out.clone();
        }
        let stem = self.out.file_stem().unwrap_or_default().to_string_lossy();
        let ending = self.out.extension().unwrap_or_default().to_string_lossy();
        let dot = if ending.is_empty() { "" } else { "." };
        self.out
            .with_file_name(format!("{stem}-{seed}{dot}{ending}"))
    }
}

fn progress(steps: u64) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new(steps);
    let style = indicatif::ProgressStyle::with_template(
        "{bar:32} step {pos} of {len}, {per_sec}, {eta} to go",
    );
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

fn read(path: &Path) -> Result<Picture, Error> {
    Picture::read(path).map_err(|error| Error::Picture {
        path: path.to_owned(),
        error,
    })
}

fn write(
    path: &Path,
    picture: &Picture,
    parameters: Option<&clearway_stable_diffusion::Parameters>,
) -> Result<(), Error> {
    let png = picture.png(parameters).map_err(GenerateError::from)?;
    write_whole(path, |beside| std::fs::write(beside, &png))
        .map_err(|error| Error::write(path, &error))
}

/// `FILE:SCALE`, or a file alone, which counts once.
fn with_scale(said: &str) -> (PathBuf, f64) {
    if let Some((path, scale)) = said.rsplit_once(':')
        && let Ok(scale) = scale.parse()
    {
        return (path.into(), scale);
    }
    (said.into(), 1.0)
}

pub(crate) fn size(said: &str) -> Result<[u32; 2], String> {
    let sides = said.split_once('x').and_then(|(width, height)| {
        Some([width.trim().parse().ok()?, height.trim().parse().ok()?])
    });
    sides.ok_or_else(|| "a size is written as 512x768, width before height".to_owned())
}

fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name)).try_map(|name| name.parse::<Method>())
}

fn spacing() -> impl TypedValueParser<Value = Spacing> {
    PossibleValuesParser::new(Spacing::ALL.map(Spacing::name))
        .try_map(|name| name.parse::<Spacing>())
}

fn prediction() -> impl TypedValueParser<Value = Parameterization> {
    PossibleValuesParser::new(["noise", "velocity", "sample"]).map(|word| match word.as_str() {
        "velocity" => Parameterization::Velocity,
        "sample" => Parameterization::Sample,
        _ => Parameterization::Noise,
    })
}
