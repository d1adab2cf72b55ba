//! A network that knows what paths look like.

use std::path::Path as FilePath;

use burn::module::Module;
use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Network, Point};
use clearway_layers::{
    PackPolicy, PackReport, Precision, Weights, WeightsWriter, count_parameters,
};
use clearway_motion::Scene;
use sha2::{Digest, Sha256};

use super::config::{FILE, NetworkConfig, PathConfig};
use crate::LoadError;
use crate::lerobot::json;
use crate::network::{
    ConditionalUnet1d, ConditionalUnet1dConfig, Prepared, PreparedTransformer,
    TrajectoryTransformer, TrajectoryTransformerConfig,
};

/// The weights, in a prior's folder.
const MODEL: &str = "model.safetensors";

/// Before each key in that file.
const PREFIX: &str = "network.";

/// One of the networks that a prior can have.
#[allow(clippy::large_enum_variant, reason = "a planner has one of them")]
#[derive(Module, Debug)]
pub enum PathNetwork {
    /// A U-Net over waypoints: Janner's temporal one, with a condition.
    Unet(ConditionalUnet1d),
    /// A transformer over waypoints.
    Transformer(TrajectoryTransformer),
}

/// What a [`PathNetwork`] computes from the condition alone.
#[allow(clippy::large_enum_variant, reason = "a planner has one of them")]
#[derive(Clone, Debug)]
pub enum PreparedPath {
    /// The U-Net's.
    Unet(Prepared),
    /// The transformer's.
    Transformer(PreparedTransformer),
}

impl PathNetwork {
    /// With weights that are drawn when they are first used.
    pub(super) fn new(config: &PathConfig, device: &Device) -> Self {
        match config.prior.network.clone() {
            NetworkConfig::ConditionalUnet1d {
                down_dims,
                kernel_size,
                n_groups,
                diffusion_step_embed_dim,
            } => {
                let unet = ConditionalUnet1dConfig {
                    action_dim: config.dof(),
                    condition_dim: config.condition_dim(),
                    down_dims,
                    kernel_size,
                    n_groups,
                    diffusion_step_embed_dim,
                    use_film_scale_modulation: true,
                };
                Self::Unet(unet.init(device))
            }
            NetworkConfig::TrajectoryTransformer {
                width,
                depth,
                heads,
            } => {
                let transformer = TrajectoryTransformerConfig {
                    dof: config.dof(),
                    condition_dim: config.condition_dim(),
                    width,
                    depth,
                    heads,
                };
                Self::Transformer(transformer.init(device))
            }
        }
    }

    /// What begins at zero when it is trained, at zero.
    #[cfg(feature = "train")]
    pub(super) fn zeroed(self, device: &Device) -> Self {
        match self {
            Self::Unet(network) => Self::Unet(network),
            Self::Transformer(network) => Self::Transformer(network.zeroed(device)),
        }
    }

    fn load(self, weights: &mut Weights) -> Result<Self, clearway_layers::WeightsError> {
        match self {
            Self::Unet(network) => network.load(weights, PREFIX).map(Self::Unet),
            Self::Transformer(network) => network.load(weights, PREFIX).map(Self::Transformer),
        }
    }

    fn save(&self, writer: &mut WeightsWriter) {
        match self {
            Self::Unet(network) => network.save(writer, PREFIX),
            Self::Transformer(network) => network.save(writer, PREFIX),
        }
    }

    /// Lays the weights out for the CPU's kernels; there is no gradient then. Which layers are kept is the U-Net's matter; the
    /// transformer keeps its first and its last.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        match self {
            Self::Unet(network) => network.pack(policy),
            Self::Transformer(network) => network.pack(policy.precision),
        }
    }

    /// What the weights are packed in; nothing where they are plain.
    pub fn precision(&self) -> Option<Precision> {
        match self {
            Self::Unet(network) => network.precision(),
            Self::Transformer(network) => network.precision(),
        }
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }
}

impl Network<3> for PathNetwork {
    /// `[batch or 1, condition_dim]`.
    type Condition = Tensor<2>;
    type Prepared = PreparedPath;

    fn prepare(&self, condition: &Tensor<2>) -> PreparedPath {
        match self {
            Self::Unet(network) => PreparedPath::Unet(network.prepare(condition)),
            Self::Transformer(network) => PreparedPath::Transformer(network.prepare(condition)),
        }
    }

    /// # Shapes
    ///
    /// - x, returns: `[batch, horizon, dof]`
    ///
    /// # Panics
    ///
    /// If the shapes are others, or another kind of network prepared the condition.
    fn forward(&self, x: Tensor<3>, points: &[Point], prepared: &PreparedPath) -> Tensor<3> {
        match (self, prepared) {
            (Self::Unet(network), PreparedPath::Unet(prepared)) => {
                network.forward(x, points, prepared)
            }
            (Self::Transformer(network), PreparedPath::Transformer(prepared)) => {
                network.forward(x, points, prepared)
            }
            _ => panic!("the condition was prepared by another kind of network"),
        }
    }
}

/// A network that knows what paths look like, with what its numbers mean.
///
/// It is a folder of two files: `config.json`, see [`PathConfig`], and `model.safetensors`.
#[derive(Clone, Debug)]
pub struct PathPrior {
    config: PathConfig,
    network: PathNetwork,
    hash: String,
}

impl PathPrior {
    /// Reads a folder.
    ///
    /// # Errors
    ///
    /// If a file is missing or malformed, a number is none of a prior's, or the weights are not those of its network: one that
    /// is missing, of another shape, not finite, or left over.
    pub fn load(folder: &FilePath, device: &Device) -> Result<Self, LoadError> {
        let config: PathConfig = json::parse(FILE, &json::text(folder, FILE)?)?;
        config.check()?;
        let wrong = |error| LoadError::Weights {
            file: MODEL.into(),
            error,
        };
        let mut weights = Weights::open(&folder.join(MODEL)).map_err(wrong)?;
        let mut hash = Sha256::new();
        weights
            .for_each_block(|block| hash.update(block))
            .map_err(wrong)?;
        let network = PathNetwork::new(&config, device);
        let network = network.load(&mut weights).map_err(wrong)?;
        weights.finish().map_err(wrong)?;
        Ok(Self {
            config,
            network,
            hash: format!("{:x}", hash.finalize()),
        })
    }

    /// A network that is there already.
    ///
    /// # Errors
    ///
    /// As [`PathConfig::check`].
    pub fn new(config: PathConfig, network: PathNetwork) -> Result<Self, LoadError> {
        config.check()?;
        Ok(Self {
            config,
            network,
            hash: String::new(),
        })
    }

    /// Random weights, for tests and measurements of time.
    ///
    /// # Errors
    ///
    /// As [`PathConfig::check`].
    pub fn random(config: PathConfig, device: &Device) -> Result<Self, LoadError> {
        config.check()?;
        let network = PathNetwork::new(&config, device);
        Self::new(config, network)
    }

    /// Writes the folder; what stood there is gone only when what comes is whole.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, folder: &FilePath) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        let mut writer = WeightsWriter::default();
        self.network.save(&mut writer);
        writer.write(&folder.join(MODEL))?;
        let mut text = serde_json::to_string_pretty(&self.config)?;
        text.push('\n');
        std::fs::write(folder.join(FILE), text)
    }

    /// What it is.
    pub fn config(&self) -> &PathConfig {
        &self.config
    }

    /// The network.
    pub fn network(&self) -> &PathNetwork {
        &self.network
    }

    /// The same with packed weights, see [`PathNetwork::pack`].
    #[must_use]
    pub fn packed(mut self, policy: impl Into<PackPolicy>) -> Self {
        let _ = self.network.pack(policy);
        self
    }

    /// The SHA-256 of the weights' file; empty for what was never one.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// What conditions the network on a problem: `[condition_dim]`.
    pub fn condition(&self, start: &[f64], goal: &[f64], scene: &Scene) -> Vec<f32> {
        let config = &self.config;
        let ends = config.normalized(start).chain(config.normalized(goal));
        let code = config.prior.scene.as_ref().map(|it| it.of(scene));
        ends.chain(code.unwrap_or_default()).collect()
    }
}
