//! A network that says of which class a picture is.

use std::path::Path;

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::activation::silu;
use clearway_layers::{
    Activation, Conv2d, Conv2dConfig, Epilogue, GroupNorm, GroupNormConfig, Linear, LinearConfig,
    PackPolicy, PackReport, Packing, Prologue, Weights, WeightsWriter, in_pool,
};
use serde_json::{Value, json};

use crate::LoadError;
use crate::config::{Config, MAX_SIZE};

/// The files of a classifier's folder.
const CONFIG: &str = "config.json";
const WEIGHTS: &str = "model.safetensors";

/// The word in a configuration that says what it is of.
const CLASS: &str = "ClearwayClassifier";

/// What stays in f32 where weights become codes: what reads the picture, and what writes the answer.
const KEEP: [&str; 2] = ["conv_in", "linear"];

/// What the normalizations add to the variance.
const EPSILON: f64 = 1e-5;

/// Makes a [`Classifier`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassifierConfig {
    /// The channels of a picture.
    pub in_channels: usize,
    /// The channels at a half and at a quarter of the picture's height and width. The second is the number of features.
    pub channels: [usize; 2],
    /// The groups of the normalizations.
    pub norm_num_groups: usize,
    /// What each class is called.
    pub labels: Vec<String>,
}

/// ```text
/// x = conv_in(picture)                              half of the height and width
/// x = conv₁(silu(norm₁(x)))                         a quarter
/// x = x + conv₃(silu(norm₃(conv₂(silu(norm₂(x))))))
/// features = mean of silu(norm_out(x))              over the picture
/// answers  = W features + b                         the logarithms of odds
/// ```
#[derive(Module, Debug)]
pub struct Classifier {
    conv_in: Conv2d,
    norm1: GroupNorm,
    conv1: Conv2d,
    norm2: GroupNorm,
    conv2: Conv2d,
    norm3: GroupNorm,
    conv3: Conv2d,
    norm_out: GroupNorm,
    linear: Linear,
}

impl ClassifierConfig {
    /// Reads a configuration.
    ///
    /// # Errors
    ///
    /// If an entry is missing or has a value that cannot be.
    pub fn read(config: &Config) -> Result<Self, LoadError> {
        let root = config.root();
        root.get("_class_name")?.word(&[(CLASS, ())])?;
        let size = 1..=MAX_SIZE;
        let integer = |name: &str| root.get(name)?.integer(size.clone());
        let norm_num_groups = integer("norm_num_groups")?;
        let entry = root.get("channels")?;
        let channels: Result<Vec<usize>, LoadError> = (entry.list()?.iter())
            .map(|entry| entry.integer(size.clone()))
            .collect();
        let channels = <[usize; 2]>::try_from(channels?)
            .ok()
            .filter(|it| it.iter().all(|c| c.is_multiple_of(norm_num_groups)))
            .ok_or_else(|| {
                entry.wrong(format!(
                    "a list of two multiples of the {norm_num_groups} groups"
                ))
            })?;
        let labels = root.get("labels")?;
        let names: Result<Vec<String>, LoadError> = (labels.list()?.iter())
            .map(|entry| entry.string().map(str::to_owned))
            .collect();
        let names = names?;
        if names.is_empty() {
            return Err(labels.wrong("a list of names"));
        }
        Ok(Self {
            in_channels: integer("in_channels")?,
            channels,
            norm_num_groups,
            labels: names,
        })
    }

    /// What [`read`](Self::read) reads.
    fn json(&self) -> Value {
        json!({
            "_class_name": CLASS,
            "in_channels": self.in_channels,
            "channels": self.channels,
            "norm_num_groups": self.norm_num_groups,
            "labels": self.labels,
        })
    }

    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If a size is zero, or the groups do not divide the channels.
    pub fn init(&self, device: &Device) -> Classifier {
        let [first, second] = self.channels;
        let norm = |channels| {
            GroupNormConfig {
                n_groups: self.norm_num_groups,
                channels,
                epsilon: EPSILON,
            }
            .init(device)
        };
        let conv = Conv2dConfig::same;
        Classifier {
            conv_in: conv(self.in_channels, first, 3).with_stride(2).init(device),
            norm1: norm(first),
            conv1: conv(first, second, 3).with_stride(2).init(device),
            norm2: norm(second),
            conv2: conv(second, second, 3).init(device),
            norm3: norm(second),
            conv3: conv(second, second, 3).init(device),
            norm_out: norm(second),
            linear: LinearConfig {
                d_input: second,
                d_output: self.labels.len(),
                bias: true,
            }
            .init(device),
        }
    }

    /// Reads a folder that [`Classifier::save`] wrote.
    ///
    /// # Errors
    ///
    /// If a file is missing or malformed.
    pub fn open(folder: &Path, device: &Device) -> Result<(Self, Classifier), LoadError> {
        let config = Self::read(&Config::open(&folder.join(CONFIG))?)?;
        let file = folder.join(WEIGHTS);
        let unreadable = |error| LoadError::Weights {
            file: file.display().to_string(),
            error,
        };
        let mut weights = Weights::open(&file).map_err(unreadable)?;
        let network = weights
            .load(config.init(device), str::to_owned)
            .map_err(unreadable)?;
        weights.finish().map_err(unreadable)?;
        Ok((config, network))
    }
}

impl Classifier {
    /// Writes a folder that [`ClassifierConfig::open`] reads.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    ///
    /// # Panics
    ///
    /// If the network is packed.
    pub fn save(&self, config: &ClassifierConfig, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        crate::picture_model::write_json(&folder.join(CONFIG), &config.json())?;
        let mut writer = WeightsWriter::default();
        writer.module(self, str::to_owned);
        writer.write(&folder.join(WEIGHTS))
    }

    /// Lays the weights out for the CPU's kernels. The network then computes on the CPU alone and has no gradient.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let to = Packing::new(&policy, &KEEP);
        self.conv_in.pack(to.of("conv_in"))
            + self.norm1.pack()
            + self.conv1.pack(to.of("conv1"))
            + self.norm2.pack()
            + self.conv2.pack(to.of("conv2"))
            + self.norm3.pack()
            + self.conv3.pack(to.of("conv3"))
            + self.norm_out.pack()
            + self.linear.pack(to.of("linear"))
    }

    /// What the last layer reads.
    ///
    /// # Shapes
    ///
    /// - pictures: `[batch, in_channels, height, width]`, from -1 to 1
    /// - returns: `[batch, channels₁]`
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn features(&self, pictures: Tensor<4>) -> Tensor<2> {
        let pass = || {
            let after = |norm| Prologue {
                normalization: Some(norm),
                activation: Activation::Silu,
                ..Prologue::default()
            };
            let x = self.conv_in.forward(pictures);
            let mut x = (self.conv1).forward_between(after(&self.norm1), x, Epilogue::default());
            let h = (self.conv2).forward_keeping(after(&self.norm2), &mut x, Epilogue::default());
            let residual = Epilogue {
                residual: Some(x),
                ..Epilogue::default()
            };
            let x = (self.conv3).forward_between(after(&self.norm3), h, residual);
            let x = silu(self.norm_out.forward(x));
            let [batch, features, ..] = x.dims();
            x.mean_dim(3).mean_dim(2).reshape([batch, features])
        };
        if self.linear.is_packed() {
            in_pool(pass)
        } else {
            pass()
        }
    }

    /// How much speaks for each class: the logarithms of odds, up to a number for all.
    ///
    /// # Shapes
    ///
    /// - features: `[batch, channels₁]`
    /// - returns: `[batch, classes]`
    ///
    /// # Panics
    ///
    /// If the shapes do not go together.
    pub fn answers(&self, features: Tensor<2>) -> Tensor<2> {
        self.linear.forward(features)
    }
}
