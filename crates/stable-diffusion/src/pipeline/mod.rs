//! From a prompt to a picture.
//!
//! ```text
//! prompt --Tokenizer--> chunks --ClipText--> text --+
//! picture --Autoencoder--> latents, pins ---------- + --prepare--> what all steps share
//!                                                                      |
//! seed --Torch--> noise -> [ Controlled<Unet> -> stage ] x steps -> latents --Autoencoder--> picture
//! ```
//!
//! The steps are those of the engine's one executor; guidance, clipping and pins are its wrappers.

mod error;
mod generation;
mod request;
mod sampling;

pub use clearway_diffusion::Method;
pub use error::GenerateError;
pub use generation::{Generation, Made, PictureStep, Steps};
pub use request::{Control, Request, Source, Text};
pub use sampling::{Plan, Sampling, SchedulerConfig, Spacing, UnknownName};

use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::Parameterization;
use clearway_layers::{PackPolicy, PackReport, Precision, can_pack};

use crate::lora::LowRankUpdate;
use crate::{
    Autoencoder, Chunk, ClipText, Component, ControlNet, Files, Lora, Tokenizer, Unet, emphasize,
    weights,
};

/// What a layer of the autoencoder may lay out beside its input and output, in bytes, before it works in bands, unless
/// [another bound](StableDiffusion::with_decoding_memory) is given.
pub const DECODING_MEMORY: usize = 256 << 20;

/// The features of the text that Stable Diffusion 1 reads; a text encoder of more pads with 0.
const FEATURES: usize = 768;

/// A Stable Diffusion model that makes pictures.
///
/// ```no_run
/// # use std::path::Path;
/// # use burn::tensor::Device;
/// use clearway_stable_diffusion::{Request, StableDiffusion};
///
/// let mut model = StableDiffusion::open(Path::new("stable-diffusion-v1-5"), &Device::flex())?;
/// let request = Request {
///     prompt: "a photograph of an astronaut riding a horse".into(),
///     ..Request::default()
/// };
/// let mut generation = model.generation(&request)?;
/// for step in generation.steps() {
///     let step = step?;
///     println!("{} of {}", step.index + 1, step.steps);
/// }
/// for made in generation.finish()? {
///     made.picture.write_png(Path::new("astronaut.png"), Some(&made.parameters))?;
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct StableDiffusion {
    files: Files,
    device: Device,
    precision: Option<Precision>,
    as_stored: bool,
    scheduler: SchedulerConfig,
    updates: Vec<LowRankUpdate>,
    loras: Vec<Lora>,
    controls: Vec<ControlNet>,
    control_paths: Vec<PathBuf>,
    autoencoder_path: Option<PathBuf>,
    previewer: Option<Autoencoder>,
    decoding_memory: usize,
    one_at_a_time: bool,
    hash: Option<String>,
    tokenizer: Option<Tokenizer>,
    text_encoder: Option<ClipText>,
    unet: Option<Unet>,
    autoencoder: Option<Autoencoder>,
}

impl StableDiffusion {
    /// A folder that diffusers' `save_pretrained` wrote, or a single file in the original layout. Networks are loaded
    /// when they are first needed, and where the device is the CPU packed as they are stored, or in f32.
    ///
    /// # Errors
    ///
    /// If there is no such file, or its scheduler's configuration is malformed.
    pub fn open(path: &Path, device: &Device) -> Result<Self, GenerateError> {
        let precision = can_pack(device).then_some(Precision::F32);
        Ok(Self::of(Files::open(path)?, device, precision)?.as_stored())
    }

    /// The same of files that were opened, with weights that are packed in a precision, or plain.
    ///
    /// # Errors
    ///
    /// If the scheduler's configuration is malformed or not supported.
    pub fn of(
        files: Files,
        device: &Device,
        precision: Option<Precision>,
    ) -> Result<Self, GenerateError> {
        Ok(Self {
            scheduler: sampling::scheduler_config(files.scheduler()?)?,
            files,
            device: device.clone(),
            precision,
            as_stored: false,
            updates: Vec::new(),
            loras: Vec::new(),
            controls: Vec::new(),
            control_paths: Vec::new(),
            autoencoder_path: None,
            previewer: None,
            decoding_memory: DECODING_MEMORY,
            one_at_a_time: false,
            hash: None,
            tokenizer: None,
            text_encoder: None,
            unet: None,
            autoencoder: None,
        })
    }

    /// Leaves networks as they are whose weights are stored packed, in codes or bf16, whatever the others are packed in.
    #[must_use]
    pub fn as_stored(mut self) -> Self {
        self.as_stored = self.precision.is_some();
        self
    }

    /// Keeps one network in memory at a time, and loads each anew for every picture.
    #[must_use]
    pub fn one_at_a_time(mut self) -> Self {
        self.one_at_a_time = true;
        self
    }

    /// Adds a low-rank update, `scale` times; several add up.
    ///
    /// # Errors
    ///
    /// If the file cannot be used. That it is of another model is found when a network is loaded.
    pub fn with_lora(mut self, path: &Path, scale: f64) -> Result<Self, GenerateError> {
        self.updates.push(LowRankUpdate::open(path, scale)?);
        let name = path.file_stem().unwrap_or_default();
        self.loras.push(Lora {
            name: name.to_string_lossy().into_owned(),
            scale,
        });
        (self.text_encoder, self.unet) = (None, None);
        Ok(self)
    }

    /// Adds a ControlNet; each picture that is asked for then needs one for it to see.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn with_controlnet(mut self, path: &Path) -> Result<Self, GenerateError> {
        let (mut network, stored) = weights::controlnet_and_packing(path, &self.device)?;
        self.pack(stored, |policy| network.pack(policy));
        self.controls.push(network);
        self.control_paths.push(path.to_owned());
        Ok(self)
    }

    /// Decodes and encodes with another autoencoder, large or tiny: a folder, or a single file.
    #[must_use]
    pub fn with_autoencoder(mut self, path: &Path) -> Self {
        self.autoencoder_path = Some(path.to_owned());
        self.autoencoder = None;
        self
    }

    /// Shows previews with a tiny autoencoder, and not by a formula.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn with_previewer(mut self, path: &Path) -> Result<Self, GenerateError> {
        let (mut network, stored) = weights::autoencoder_and_packing(path, &self.device)?;
        self.pack(stored, |policy| network.pack(policy));
        self.previewer = Some(network);
        Ok(self)
    }

    /// Says what the U-Net predicts, where the files do not or are wrong: `v` models that come as a single file.
    #[must_use]
    pub fn with_parameterization(mut self, parameterization: Parameterization) -> Self {
        self.scheduler.parameterization = parameterization;
        self
    }

    /// Bounds what a layer lays out while it decodes, in bytes, beside its input and output.
    #[must_use]
    pub fn with_decoding_memory(mut self, bytes: usize) -> Self {
        self.decoding_memory = bytes;
        self
    }

    /// What the weights of a network are packed in, but for layers that it keeps; none where they are plain.
    ///
    /// # Errors
    ///
    /// If the file cannot be read that says how they are stored.
    pub fn precision_of(&self, component: Component) -> Result<Option<Precision>, GenerateError> {
        if self.precision.is_none() {
            return Ok(None);
        }
        let policy = self.policy(self.stored(component)?);
        Ok(policy.map(|it| it.precision))
    }

    /// The model's files.
    pub fn files(&self) -> &Files {
        &self.files
    }

    /// What the model says about noise.
    pub fn scheduler(&self) -> &SchedulerConfig {
        &self.scheduler
    }

    /// The SHA-256 of the model, in hexadecimal, see [`Files::hash`]; computed once, when it is first asked for.
    ///
    /// # Errors
    ///
    /// If the file cannot be read.
    pub fn hash(&mut self) -> Result<&str, GenerateError> {
        let hash = match self.hash.take() {
            Some(hash) => hash,
            None => self.files.hash()?,
        };
        Ok(self.hash.insert(hash))
    }

    /// Prepares pictures: encodes the text and the source, and does the work that all steps share.
    ///
    /// # Errors
    ///
    /// If the request cannot be fulfilled, or the model not be loaded.
    pub fn generation(&mut self, request: &Request) -> Result<Generation<'_>, GenerateError> {
        Generation::new(self, request)
    }

    /// Makes pictures, one a seed.
    ///
    /// # Errors
    ///
    /// As [`generation`](Self::generation), and if a network gives what is not finite.
    pub fn generate(&mut self, request: &Request) -> Result<Vec<Made>, GenerateError> {
        let mut generation = self.generation(request)?;
        for step in generation.steps() {
            step?;
        }
        generation.finish()
    }

    /// The model's tokenizer, or CLIP's where it brings none.
    ///
    /// # Errors
    ///
    /// If the files of one are there and cannot be read.
    pub fn tokenizer(&mut self) -> Result<&Tokenizer, GenerateError> {
        let tokenizer = match self.tokenizer.take() {
            Some(tokenizer) => tokenizer,
            None => self.load_tokenizer()?,
        };
        Ok(self.tokenizer.insert(tokenizer))
    }

    fn load_tokenizer(&self) -> Result<Tokenizer, GenerateError> {
        let folder = self.files.folder().map(|folder| folder.join("tokenizer"));
        Ok(match folder.filter(|folder| folder.is_dir()) {
            Some(folder) => Tokenizer::load(&folder)?,
            None if self.files.text_encoder_config()?.hidden_size > FEATURES => {
                Tokenizer::clip().with_padding(0)
            }
            None => Tokenizer::clip(),
        })
    }

    /// The text encoder.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn text_encoder(&mut self) -> Result<ClipText, GenerateError> {
        if let Some(network) = &self.text_encoder {
            return Ok(network.clone());
        }
        let component = Component::TextEncoder;
        let mut weights = self.files.weights(component)?;
        for update in &self.updates {
            update.merge(component, &mut weights)?;
        }
        let stored = weights.packing().cloned();
        let mut network = self.files.text_encoder_from(weights, &self.device)?;
        self.pack(stored, |policy| network.pack(policy));
        self.text_encoder = (!self.one_at_a_time).then(|| network.clone());
        Ok(network)
    }

    /// The U-Net.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded.
    pub fn unet(&mut self) -> Result<Unet, GenerateError> {
        if let Some(network) = &self.unet {
            return Ok(network.clone());
        }
        let component = Component::Unet;
        let mut weights = self.files.weights(component)?;
        for update in &self.updates {
            update.merge(component, &mut weights)?;
        }
        let stored = weights.packing().cloned();
        let mut network = self.files.unet_from(weights, &self.device)?;
        self.pack(stored, |policy| network.pack(policy));
        self.unet = (!self.one_at_a_time).then(|| network.clone());
        Ok(network)
    }

    /// The autoencoder.
    ///
    /// # Errors
    ///
    /// If it cannot be loaded, or is not one of pictures of three colours.
    pub fn autoencoder(&mut self) -> Result<Autoencoder, GenerateError> {
        if let Some(network) = &self.autoencoder {
            return Ok(network.clone());
        }
        let (mut network, stored) = if let Some(path) = &self.autoencoder_path {
            weights::autoencoder_and_packing(path, &self.device)?
        } else {
            let stored = self.stored(Component::Autoencoder)?;
            (self.files.autoencoder(&self.device)?, stored)
        };
        for found in network.picture_channels() {
            if found != 3 {
                return Err(GenerateError::Mismatch {
                    what: "the colours of the autoencoder's pictures must be",
                    expected: 3,
                    found,
                });
            }
        }
        self.pack(stored, |policy| network.pack(policy));
        self.autoencoder = (!self.one_at_a_time).then(|| network.clone());
        Ok(network)
    }

    /// How the weights of a network are stored packed, if they are.
    fn stored(&self, component: Component) -> Result<Option<PackPolicy>, GenerateError> {
        match (&self.autoencoder_path, component) {
            (Some(path), Component::Autoencoder) => Ok(weights::autoencoder_packing(path)?),
            _ => Ok(self.files.weights(component)?.packing().cloned()),
        }
    }

    /// How weights are packed that are stored so; not at all where they stay plain.
    fn policy(&self, stored: Option<PackPolicy>) -> Option<PackPolicy> {
        let precision = self.precision?;
        let stored = stored.filter(|it| self.as_stored || it.precision == precision);
        Some(stored.unwrap_or_else(|| precision.into()))
    }

    /// Packs a network that was loaded from weights that are stored so.
    fn pack(&self, stored: Option<PackPolicy>, pack: impl FnOnce(PackPolicy) -> PackReport) {
        if let Some(policy) = self.policy(stored) {
            let _: PackReport = pack(policy);
        }
    }

    /// How many times smaller than a picture its latents are.
    fn latent_factor(&self) -> Result<usize, GenerateError> {
        Ok(match &self.autoencoder_path {
            Some(path) => weights::autoencoder(path, &self.device)?.factor(),
            None => self.files.latent_factor()?,
        })
    }

    /// Encodes texts, in equally many chunks each: `[1, chunks · context, features]`.
    ///
    /// # Errors
    ///
    /// If a text cannot become tokens, or be encoded.
    pub fn encode(
        &mut self,
        texts: &[&Text],
        clip_skip: usize,
    ) -> Result<Vec<Tensor<3>>, GenerateError> {
        let mut chunks = Vec::new();
        for text in texts {
            chunks.push(match (text, text.prompt()) {
                (Text::Tokens(tokens), _) => tokens
                    .iter()
                    .map(|tokens| Chunk {
                        weights: vec![1.0; tokens.len()],
                        tokens: tokens.clone(),
                    })
                    .collect(),
                (_, prompt) => self.tokenizer()?.chunks(&prompt.unwrap_or_default())?,
            });
        }
        let most = chunks.iter().map(Vec::len).max().unwrap_or(0).max(1);
        for chunks in &mut chunks {
            while chunks.len() < most {
                chunks.push(self.tokenizer()?.empty_chunk());
            }
        }
        let network = self.text_encoder()?;
        let mut encoded = Vec::new();
        for chunks in chunks {
            let tokens: Vec<Vec<u32>> = chunks.iter().map(|chunk| chunk.tokens.clone()).collect();
            let text = network.encode(&tokens, clip_skip)?;
            let [count, length, features] = text.dims();
            let mut values = finite(&text, Component::TextEncoder, None)?;
            for (values, chunk) in values.chunks_mut(length * features).zip(&chunks) {
                emphasize(values, &chunk.weights);
            }
            let shape = [1, count * length, features];
            encoded.push(Tensor::from_data(
                TensorData::new(values, shape),
                &self.device,
            ));
        }
        Ok(encoded)
    }
}

/// The numbers of a tensor, if they are numbers.
fn finite<const D: usize>(
    tensor: &Tensor<D>,
    component: Component,
    step: Option<(usize, usize)>,
) -> Result<Vec<f32>, GenerateError> {
    let values = tensor.clone().into_data().try_to_vec::<f32>();
    let values = values.expect("networks compute in f32");
    if values.iter().all(|value| value.is_finite()) {
        Ok(values)
    } else {
        Err(GenerateError::NonFinite { component, step })
    }
}
