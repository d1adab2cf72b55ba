//! The files of a model: a folder of diffusers, or a single file of everything.

mod ldm;
mod shapes;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_layers::{PackPolicy, Weights, WeightsError};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::config::Config;
use crate::{
    Autoencoder, AutoencoderKlConfig, AutoencoderTinyConfig, ClipText, ClipTextConfig, ControlNet,
    ControlNetConfig, LoadError, Unet, UnetConfig,
};

const CONFIG: &str = "config.json";

/// The configuration of the noise, in its folder.
const SCHEDULER: &str = "scheduler/scheduler_config.json";

/// The names of a network's weights, the best first: in full precision, then in half of it, then as PyTorch saves.
const NAMES: [&str; 12] = [
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.fp16.safetensors",
    "model.fp16.safetensors",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
    "diffusion_pytorch_model.fp16.bin",
    "pytorch_model.fp16.bin",
];

/// A network of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// The text encoder.
    TextEncoder,
    /// The U-Net.
    Unet,
    /// The autoencoder.
    Autoencoder,
}

impl Component {
    /// Its folder in a folder of diffusers.
    pub fn folder(self) -> &'static str {
        match self {
            Self::TextEncoder => "text_encoder",
            Self::Unet => "unet",
            Self::Autoencoder => "vae",
        }
    }

    /// What an error calls it.
    pub fn name(self) -> &'static str {
        match self {
            Self::TextEncoder => "text encoder",
            Self::Unet => "U-Net",
            Self::Autoencoder => "autoencoder",
        }
    }
}

/// Where the files of a model lie.
///
/// Nothing is kept open: each network is loaded when it is asked for, so that one need not be in memory while another
/// works.
#[derive(Clone, Debug)]
pub struct Files {
    path: PathBuf,
    is_folder: bool,
    configs: Option<PathBuf>,
}

impl Files {
    /// A folder that diffusers' `save_pretrained` wrote, or a `.safetensors` or `.ckpt` file in the layout of the
    /// original code.
    ///
    /// # Errors
    ///
    /// If there is neither.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let metadata = std::fs::metadata(path).map_err(|error| LoadError::Io {
            file: path.display().to_string(),
            error,
        })?;
        Ok(Self {
            path: path.into(),
            is_folder: metadata.is_dir(),
            configs: None,
        })
    }

    /// Takes the configurations from another folder of diffusers.
    ///
    /// A single file says its own by its tensors: all but the number of heads, the groups of the normalization and the
    /// scale of the latents, which are taken to be those of Stable Diffusion 1 or 2.
    #[must_use]
    pub fn with_configs(self, folder: &Path) -> Self {
        Self {
            configs: Some(folder.into()),
            ..self
        }
    }

    /// Where the model lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The folder with a configuration and a subfolder for each network, where there is one.
    pub fn folder(&self) -> Option<&Path> {
        let own = self.is_folder.then_some(self.path.as_path());
        self.configs.as_deref().or(own)
    }

    /// How noise grows and what the network predicts, in diffusers' words, where the model says it.
    ///
    /// # Errors
    ///
    /// If the file is there and cannot be read.
    pub fn scheduler(&self) -> Result<Option<Value>, LoadError> {
        match self.folder().map(|folder| folder.join(SCHEDULER)) {
            Some(path) if path.exists() => Ok(Some(Config::open(&path)?.into_value())),
            _ => Ok(None),
        }
    }

    /// The weights of a network, under diffusers' names, a text encoder's without `text_model.` before them: where a
    /// low-rank update is [merged](Weights::merge) before the network is loaded.
    ///
    /// # Errors
    ///
    /// If there are none, or the files are malformed.
    pub fn weights(&self, component: Component) -> Result<Weights, LoadError> {
        if self.is_folder {
            let folder = self.path.join(component.folder());
            let weights = weights_in(&folder)?;
            return match component {
                Component::TextEncoder => {
                    let bare = weights.rename(|key| key.replacen("text_model.", "", 1));
                    bare.map_err(in_file(&folder))
                }
                Component::Unet | Component::Autoencoder => Ok(weights),
            };
        }
        let file = self.path.display().to_string();
        let weights = open(&self.path).map_err(in_file(&self.path))?;
        ldm::part(weights, component)
            .map_err(in_file(&self.path))?
            .map_err(|key| LoadError::NoNetwork {
                file,
                network: component.name(),
                key,
            })
    }

    /// The SHA-256 of a single file, or of the U-Net's weights in a folder, in hexadecimal: what the field's programs know a
    /// model by.
    ///
    /// # Errors
    ///
    /// If there is no such file, or it cannot be read.
    pub fn hash(&self) -> Result<String, LoadError> {
        let (path, weights) = if self.is_folder {
            let folder = self.path.join(Component::Unet.folder());
            let weights = weights_in(&folder)?;
            (folder, weights)
        } else {
            let weights = open(&self.path).map_err(in_file(&self.path))?;
            (self.path.clone(), weights)
        };
        let (mut weights, mut hash) = (weights, Sha256::new());
        weights
            .for_each_block(|block| hash.update(block))
            .map_err(in_file(&path))?;
        Ok(format!("{:x}", hash.finalize()))
    }

    /// A network's configuration, of its folder or by the shapes of its tensors.
    fn config(&self, component: Component, weights: &Weights) -> Result<Config, LoadError> {
        if let Some(folder) = self.folder() {
            return Config::open(&folder.join(component.folder()).join(CONFIG));
        }
        let said = match component {
            Component::TextEncoder => shapes::text_encoder(weights),
            Component::Unet => shapes::unet(weights),
            Component::Autoencoder => shapes::autoencoder(weights),
        };
        Config::new(format!("the shapes in {}", self.path.display()), said)
    }

    /// The text encoder's configuration.
    ///
    /// # Errors
    ///
    /// If it is missing, malformed or not supported.
    pub fn text_encoder_config(&self) -> Result<ClipTextConfig, LoadError> {
        let component = Component::TextEncoder;
        ClipTextConfig::read(&self.config(component, &self.needed(component)?)?)
    }

    /// The U-Net's configuration.
    ///
    /// # Errors
    ///
    /// If it is missing, malformed or not supported.
    pub fn unet_config(&self) -> Result<UnetConfig, LoadError> {
        let component = Component::Unet;
        UnetConfig::read(&self.config(component, &self.needed(component)?)?)
    }

    /// The autoencoder's configuration; none of a tiny one.
    ///
    /// # Errors
    ///
    /// If it is missing, malformed or not supported.
    pub fn autoencoder_config(&self) -> Result<Option<AutoencoderKlConfig>, LoadError> {
        let component = Component::Autoencoder;
        let config = self.config(component, &self.needed(component)?)?;
        if is_tiny(&config)? {
            return Ok(None);
        }
        AutoencoderKlConfig::read(&config).map(Some)
    }

    /// The weights, if the configuration depends on them.
    fn needed(&self, component: Component) -> Result<Weights, LoadError> {
        match self.folder() {
            Some(_) => Ok(Weights::default()),
            None => self.weights(component),
        }
    }

    /// Loads the text encoder.
    ///
    /// # Errors
    ///
    /// If anything that it needs is missing, malformed or not supported, or anything is left over.
    pub fn text_encoder(&self, device: &Device) -> Result<ClipText, LoadError> {
        self.text_encoder_from(self.weights(Component::TextEncoder)?, device)
    }

    /// Loads the text encoder from its [weights](Self::weights), which may have been changed.
    ///
    /// # Errors
    ///
    /// As [`text_encoder`](Self::text_encoder).
    pub fn text_encoder_from(
        &self,
        weights: Weights,
        device: &Device,
    ) -> Result<ClipText, LoadError> {
        let component = Component::TextEncoder;
        let config = ClipTextConfig::read(&self.config(component, &weights)?)?;
        let mut weights = weights;
        if !self.is_folder {
            ldm::leave_out_layers(&mut weights, config.num_hidden_layers);
        }
        let network = config.init(device).load(weights);
        network.map_err(self.in_component(component))
    }

    /// Loads the U-Net.
    ///
    /// # Errors
    ///
    /// If anything that it needs is missing, malformed or not supported, or anything is left over.
    pub fn unet(&self, device: &Device) -> Result<Unet, LoadError> {
        self.unet_from(self.weights(Component::Unet)?, device)
    }

    /// Loads the U-Net from its [weights](Self::weights), which may have been changed.
    ///
    /// # Errors
    ///
    /// As [`unet`](Self::unet).
    pub fn unet_from(&self, weights: Weights, device: &Device) -> Result<Unet, LoadError> {
        let component = Component::Unet;
        let config = UnetConfig::read(&self.config(component, &weights)?)?;
        let network = config.init(device).load(weights);
        network.map_err(self.in_component(component))
    }

    /// Loads the autoencoder.
    ///
    /// # Errors
    ///
    /// If anything that it needs is missing, malformed or not supported, or anything is left over.
    pub fn autoencoder(&self, device: &Device) -> Result<Autoencoder, LoadError> {
        let component = Component::Autoencoder;
        let weights = self.weights(component)?;
        let config = self.config(component, &weights)?;
        autoencoder_of(&config, weights, device)?.map_err(self.in_component(component))
    }

    /// How many times smaller than a picture its latents are, in height and in width.
    ///
    /// # Errors
    ///
    /// If the autoencoder's configuration is missing, malformed or not supported.
    pub fn latent_factor(&self) -> Result<usize, LoadError> {
        let component = Component::Autoencoder;
        let config = self.config(component, &self.needed(component)?)?;
        Ok(if is_tiny(&config)? {
            1 << (AutoencoderTinyConfig::read(&config)?
                .num_decoder_blocks
                .len()
                - 1)
        } else {
            1 << (AutoencoderKlConfig::read(&config)?.block_out_channels.len() - 1)
        })
    }

    fn in_component(&self, component: Component) -> impl Fn(WeightsError) -> LoadError {
        let path = if self.is_folder {
            self.path.join(component.folder())
        } else {
            self.path.clone()
        };
        in_file(&path)
    }
}

/// Loads a ControlNet: from a folder that diffusers' `save_pretrained` wrote, or from a single file in the layout of the
/// original code.
///
/// # Errors
///
/// If anything that it needs is missing, malformed or not supported, or anything is left over.
pub fn controlnet(path: &Path, device: &Device) -> Result<ControlNet, LoadError> {
    Ok(controlnet_and_packing(path, device)?.0)
}

/// [`controlnet`], and how it is stored packed, if it is.
pub(crate) fn controlnet_and_packing(
    path: &Path,
    device: &Device,
) -> Result<(ControlNet, Option<PackPolicy>), LoadError> {
    let (config, weights) = if path.is_dir() {
        (Config::open(&path.join(CONFIG))?, weights_in(path)?)
    } else {
        let weights = open(path).map_err(in_file(path))?;
        let weights = ldm::controlnet(weights)
            .map_err(in_file(path))?
            .map_err(|key| LoadError::NoNetwork {
                file: path.display().to_string(),
                network: "ControlNet",
                key,
            })?;
        let name = format!("the shapes in {}", path.display());
        (Config::new(name, shapes::controlnet(&weights))?, weights)
    };
    let packing = weights.packing().cloned();
    let network = ControlNetConfig::read(&config)?.init(device).load(weights);
    Ok((network.map_err(in_file(path))?, packing))
}

/// Loads an autoencoder alone, large or tiny: from a folder that diffusers' `save_pretrained` wrote, or from a single
/// file in the layout of the original code.
///
/// # Errors
///
/// If anything that it needs is missing, malformed or not supported, or anything is left over.
pub fn autoencoder(path: &Path, device: &Device) -> Result<Autoencoder, LoadError> {
    Ok(autoencoder_and_packing(path, device)?.0)
}

/// [`autoencoder`], and how it is stored packed, if it is.
pub(crate) fn autoencoder_and_packing(
    path: &Path,
    device: &Device,
) -> Result<(Autoencoder, Option<PackPolicy>), LoadError> {
    let files = Files::open(path)?;
    if !files.is_folder {
        let weights = files.weights(Component::Autoencoder)?;
        return Ok((files.autoencoder(device)?, weights.packing().cloned()));
    }
    let config = Config::open(&path.join(CONFIG))?;
    let weights = weights_in(path)?;
    let packing = weights.packing().cloned();
    let network = autoencoder_of(&config, weights, device)?.map_err(in_file(path))?;
    Ok((network, packing))
}

/// How an autoencoder alone is stored packed, if it is; nothing of it is loaded.
pub(crate) fn autoencoder_packing(path: &Path) -> Result<Option<PackPolicy>, LoadError> {
    let files = Files::open(path)?;
    let weights = if files.is_folder {
        weights_in(path)?
    } else {
        files.weights(Component::Autoencoder)?
    };
    Ok(weights.packing().cloned())
}

/// Loads a tiny autoencoder from the two files that it is published as, `taesd_encoder` and `taesd_decoder`.
///
/// # Errors
///
/// If a file is malformed, or does not hold Stable Diffusion 1's and 2's tiny autoencoder.
pub fn tiny_autoencoder(
    encoder: &Path,
    decoder: &Path,
    device: &Device,
) -> Result<Autoencoder, LoadError> {
    let nothing_said = Config::new(CONFIG, Value::Object(serde_json::Map::new()))?;
    let network = AutoencoderTinyConfig::read(&nothing_said)?.init(device);
    let network = network.load_pair(
        open(encoder).map_err(in_file(encoder))?,
        open(decoder).map_err(in_file(decoder))?,
    );
    let network = network.map_err(in_file(decoder))?;
    Ok(Autoencoder::Tiny(Box::new(network)))
}

fn autoencoder_of(
    config: &Config,
    weights: Weights,
    device: &Device,
) -> Result<Result<Autoencoder, WeightsError>, LoadError> {
    Ok(if is_tiny(config)? {
        let network = AutoencoderTinyConfig::read(config)?.init(device);
        network
            .load(weights)
            .map(|network| Autoencoder::Tiny(Box::new(network)))
    } else {
        let network = AutoencoderKlConfig::read(config)?.init(device);
        network
            .load(weights)
            .map(|network| Autoencoder::Kl(Box::new(network)))
    })
}

fn is_tiny(config: &Config) -> Result<bool, LoadError> {
    config.root().one_of(
        "_class_name",
        &[("AutoencoderKL", false), ("AutoencoderTiny", true)],
    )
}

fn in_file(path: &Path) -> impl Fn(WeightsError) -> LoadError + use<> {
    let file = path.display().to_string();
    move |error| LoadError::Weights {
        file: file.clone(),
        error,
    }
}

/// The weights of a network's folder.
fn weights_in(folder: &Path) -> Result<Weights, LoadError> {
    let found = NAMES
        .iter()
        .map(|name| folder.join(name))
        .find(|path| path.exists());
    let Some(path) = found else {
        return Err(LoadError::NoWeights {
            folder: folder.display().to_string(),
            names: NAMES.join(", "),
        });
    };
    if path
        .extension()
        .is_some_and(|extension| extension == "json")
    {
        return shards(folder, &path);
    }
    open(&path).map_err(in_file(&path))
}

/// The weights that an index says lie in several files.
fn shards(folder: &Path, index: &Path) -> Result<Weights, LoadError> {
    let config = Config::open(index)?;
    let mut names = Vec::new();
    for (_, entry) in config.root().get("weight_map")?.entries()? {
        names.push(entry.string()?);
    }
    names.sort_unstable();
    names.dedup();
    let mut all = Weights::default();
    for name in names {
        let is_plain = Path::new(name)
            .file_name()
            .is_some_and(|plain| plain == name);
        if !is_plain {
            return Err(LoadError::Shard {
                file: index.display().to_string(),
                name: name.into(),
            });
        }
        let path = folder.join(name);
        let shard = open(&path).map_err(in_file(&path))?;
        all = all.join(shard).map_err(in_file(&path))?;
    }
    Ok(all)
}

/// Opens a file of weights, whatever wrote it: that is told by how it begins, and not by its name.
pub(crate) fn open(path: &Path) -> Result<Weights, WeightsError> {
    let mut begin = Vec::new();
    if std::fs::metadata(path)?.is_file() {
        File::open(path)?.take(9).read_to_end(&mut begin)?;
    }
    // A safetensors file is a length in eight bytes and a JSON object; a PyTorch file is a zip archive or a pickle.
    let is_safetensors = begin.get(8) == Some(&b'{');
    if !is_safetensors && (begin.starts_with(b"PK") || begin.first() == Some(&0x80)) {
        Weights::open_pytorch(path)
    } else {
        Weights::open(path)
    }
}

/// Sees convolutions of one tap as the matrices that they are, where `is_matrix` says of a key that one is wanted.
pub(crate) fn without_taps(
    weights: &mut Weights,
    is_matrix: impl Fn(&str) -> bool,
) -> Result<(), WeightsError> {
    let keys: Vec<String> = weights
        .keys()
        .filter(|key| is_matrix(key))
        .map(str::to_owned)
        .collect();
    for key in keys {
        if let Some(&[rows, columns, 1, 1]) = weights.shape(&key) {
            weights.reshape(&key, &[rows, columns])?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Weights of these shapes, all zero.
    pub(super) fn weights(shapes: &[(&str, &[usize])]) -> Weights {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let mut header = serde_json::Map::new();
        let mut at = 0;
        for (key, shape) in shapes {
            let end = at + 2 * shape.iter().product::<usize>();
            let entry = json!({"dtype": "F16", "shape": shape, "data_offsets": [at, end]});
            header.insert((*key).into(), entry);
            at = end;
        }
        let header = Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.resize(bytes.len() + at, 0);
        std::fs::write(&path, bytes).expect("can be written");
        Weights::open(&path).expect("is valid")
    }
}
