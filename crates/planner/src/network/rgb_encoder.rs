//! Pictures as short vectors: LeRobot's `DiffusionRgbEncoder`.

use burn::module::Module;
use burn::prelude::*;
use clearway_layers::activation::relu;
use clearway_layers::{
    Linear, LinearConfig, PackPolicy, PackReport, Packing, SpatialSoftmax, SpatialSoftmaxConfig,
    Weights, WeightsError, WeightsWriter, count_parameters,
};

use super::resnet::{self, Depth, Normalization, ResNet, ResNetConfig};

/// Makes a [`RgbEncoder`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RgbEncoderConfig {
    /// How deep the backbone is.
    pub depth: Depth,
    /// How it normalizes.
    pub normalization: Normalization,
    /// The height and the width of pictures, resized and cropped.
    pub size: [usize; 2],
    /// The number of points that are looked for; twice as many features come out.
    pub keypoints: usize,
}

/// Encodes pictures by where their features are.
///
/// ```text
/// y = relu(Linear(SpatialSoftmax(ResNet(x))))
/// ```
///
/// "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", Chi et al., 2023, arXiv:2303.04137, section III.
#[derive(Module, Debug)]
pub struct RgbEncoder {
    backbone: ResNet,
    pool: SpatialSoftmax,
    out: Linear,
    #[module(skip)]
    size: [usize; 2],
}

impl RgbEncoderConfig {
    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If a size is zero.
    pub fn init(&self, device: &Device) -> RgbEncoder {
        let Self {
            depth,
            normalization,
            size,
            keypoints,
        } = *self;
        let features = 2 * keypoints;
        RgbEncoder {
            backbone: ResNetConfig {
                depth,
                normalization,
            }
            .init(device),
            pool: SpatialSoftmaxConfig {
                channels: depth.channels(),
                size: ResNet::map_size(size),
                keypoints,
            }
            .init(device),
            out: LinearConfig {
                d_input: features,
                d_output: features,
                bias: true,
            }
            .init(device),
            size,
        }
    }
}

impl RgbEncoder {
    /// Fills the network with LeRobot's weights, whose keys begin with `prefix` (`diffusion.rgb_encoder.`).
    ///
    /// # Errors
    ///
    /// As [`Weights::load`].
    pub fn load(self, weights: &mut Weights, prefix: &str) -> Result<Self, WeightsError> {
        // How many batches the statistics are of, which only training reads.
        let counts: Vec<String> = weights
            .keys()
            .filter(|key| key.starts_with(prefix) && key.ends_with(".num_batches_tracked"))
            .filter(|key| weights.shape(&statistic_beside(key)).is_some())
            .map(Into::into)
            .collect();
        for key in counts {
            weights.ignore(&key);
        }
        weights.load(self, |path| lerobot_key(path, prefix))
    }

    /// Adds the weights to a file, under LeRobot's keys behind `prefix`. Packed ones are written as they are.
    pub fn save(&self, writer: &mut WeightsWriter, prefix: &str) {
        writer.module(self, |path| lerobot_key(path, prefix));
    }

    /// Lays the weights out for the CPU's kernels; batch normalizations stay plain.
    ///
    /// Where weights become codes, all of these stay in f32, if the policy names no layers: pictures are encoded once a plan.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let to = Packing::new(&policy, &["*"]);
        self.backbone.pack(&to.at("backbone")) + self.out.pack(to.of("out"))
    }

    /// The features of pictures.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, 3, height, width]` of the encoder's size, normalized
    /// - returns: `[batch, 2 · keypoints]`
    ///
    /// # Panics
    ///
    /// If `x` has another size.
    pub fn forward(&self, x: Tensor<4>) -> Tensor<2> {
        let [height, width] = self.size;
        assert_shape!(x, [_, 3, height, width]);
        let points = self.pool.forward(self.backbone.forward(x));
        relu(self.out.forward(points.flatten::<2>(1, 2)))
    }

    /// The number of the network's parameters; what is kept beside them and not trained is not counted.
    pub fn parameters(&self) -> usize {
        let grid = self.pool.pos_grid.lazy_shape().num_elements();
        count_parameters(self) - grid - self.backbone.buffers()
    }
}

/// The running mean beside a count of batches: without it, the count belongs to nothing.
fn statistic_beside(count: &str) -> String {
    count.replace("num_batches_tracked", "running_mean")
}

/// LeRobot's key of the parameter at a path of ours.
fn lerobot_key(path: &str, prefix: &str) -> String {
    match path.strip_prefix("backbone.") {
        Some(path) => format!("{prefix}backbone.{}", resnet::lerobot_key(path)),
        None => format!("{prefix}{path}"),
    }
}
