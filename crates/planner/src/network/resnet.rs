//! Residual networks over pictures, as torchvision builds them.

use std::fmt;

use burn::module::Module;
use burn::prelude::*;
use burn::tensor::module::max_pool2d;
use burn::tensor::ops::MaxPoolOptions;
use clearway_layers::activation::relu;
use clearway_layers::{
    BatchNorm, BatchNormConfig, Conv2d, Conv2dConfig, GroupNorm, GroupNormConfig, PackReport,
    Packing,
};

/// PyTorch's default, which torchvision and LeRobot leave as it is.
const EPSILON: f64 = 1e-5;

/// LeRobot's groups have so many channels.
const CHANNELS_IN_GROUP: usize = 16;

/// The channels of the first layer, and the inner channels of the four stages.
const STEM: usize = 64;
const STAGES: [usize; 4] = [64, 128, 256, 512];

/// How many of a bottleneck block's output channels there are for an inner one.
const EXPANSION: usize = 4;

/// How often a [`ResNet`] halves height and width: the first layer, the pooling and all stages but the first.
const HALVINGS: usize = 5;

/// How deep a [`ResNet`] is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 18 layers.
    ResNet18,
    /// 34 layers.
    ResNet34,
    /// 50 layers, in bottleneck blocks, as the deeper ones.
    ResNet50,
    /// 101 layers.
    ResNet101,
    /// 152 layers.
    ResNet152,
}

impl Depth {
    /// All of them, the shallowest first.
    pub const ALL: [Self; 5] = [
        Self::ResNet18,
        Self::ResNet34,
        Self::ResNet50,
        Self::ResNet101,
        Self::ResNet152,
    ];

    /// torchvision's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::ResNet18 => "resnet18",
            Self::ResNet34 => "resnet34",
            Self::ResNet50 => "resnet50",
            Self::ResNet101 => "resnet101",
            Self::ResNet152 => "resnet152",
        }
    }

    /// The number of channels of the feature maps.
    pub fn channels(self) -> usize {
        let last = STAGES[STAGES.len() - 1];
        if self.has_bottlenecks() {
            EXPANSION * last
        } else {
            last
        }
    }

    /// The number of blocks in each stage.
    fn blocks(self) -> [usize; 4] {
        match self {
            Self::ResNet18 => [2, 2, 2, 2],
            Self::ResNet34 | Self::ResNet50 => [3, 4, 6, 3],
            Self::ResNet101 => [3, 4, 23, 3],
            Self::ResNet152 => [3, 8, 36, 3],
        }
    }

    fn has_bottlenecks(self) -> bool {
        !matches!(self, Self::ResNet18 | Self::ResNet34)
    }
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How a [`ResNet`] normalizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Normalization {
    /// By the statistics of training, as torchvision has it.
    Batch,
    /// By those of groups of 16 channels of the picture itself.
    Group,
}

/// Makes a [`ResNet`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResNetConfig {
    /// How deep.
    pub depth: Depth,
    /// How it normalizes.
    pub normalization: Normalization,
}

/// A residual network without its classifier: from pictures to feature maps of a thirty-second of their size.
///
/// ```text
/// ResNet(x) = stages(pool(relu(norm(conv(x)))))               conv 7 x 7, stride 2; pool 3 x 3 by maximum, stride 2
/// block(x)  = relu(f(x) + downsample(x))                      downsample: norm(conv 1 x 1), where shapes differ
/// f         = norm · conv 3 x 3 · relu · norm · conv 3 x 3                                           18, 34 layers
///           = norm · conv 1 x 1 · relu · norm · conv 3 x 3 · relu · norm · conv 1 x 1                from 50 on
/// ```
///
/// The first block of each stage but the first has stride 2: in its first 3 x 3 convolution, and in its downsampling.
///
/// "Deep Residual Learning for Image Recognition", He et al., 2015, arXiv:1512.03385. From 50 layers on the stride is
/// where torchvision has it, and not in the 1 x 1 convolution as in the paper.
#[derive(Module, Debug)]
pub struct ResNet {
    stem: ConvNorm,
    stages: Vec<Vec<Block>>,
}

#[derive(Module, Debug)]
struct Block {
    units: Vec<ConvNorm>,
    downsample: Option<ConvNorm>,
}

#[derive(Module, Debug)]
struct ConvNorm {
    conv: Conv2d,
    norm: Norm,
}

#[derive(Module, Debug)]
enum Norm {
    Batch(BatchNorm),
    Group(GroupNorm),
}

impl ResNetConfig {
    /// A network with random weights, which are drawn when they are first used.
    pub fn init(&self, device: &Device) -> ResNet {
        let mut channels = STEM;
        let stages = STAGES.iter().zip(self.depth.blocks()).enumerate();
        let stages = stages.map(|(stage, (&inner, blocks))| {
            let block = |i| {
                let stride = if stage > 0 && i == 0 { 2 } else { 1 };
                let block = self.block(channels, inner, stride, device);
                channels = self.outer(inner);
                block
            };
            (0..blocks).map(block).collect()
        });
        let stages = stages.collect();
        ResNet {
            stem: self.conv_norm(3, STEM, 7, 2, device),
            stages,
        }
    }

    /// The output channels of a block.
    fn outer(self, inner: usize) -> usize {
        if self.depth.has_bottlenecks() {
            EXPANSION * inner
        } else {
            inner
        }
    }

    fn block(self, channels: usize, inner: usize, stride: usize, device: &Device) -> Block {
        let outer = self.outer(inner);
        let unit = |from, to, kernel, stride| self.conv_norm(from, to, kernel, stride, device);
        Block {
            units: if self.depth.has_bottlenecks() {
                vec![
                    unit(channels, inner, 1, 1),
                    unit(inner, inner, 3, stride),
                    unit(inner, outer, 1, 1),
                ]
            } else {
                vec![unit(channels, inner, 3, stride), unit(inner, outer, 3, 1)]
            },
            downsample: (stride != 1 || channels != outer)
                .then(|| unit(channels, outer, 1, stride)),
        }
    }

    fn conv_norm(
        self,
        from: usize,
        to: usize,
        kernel: usize,
        stride: usize,
        device: &Device,
    ) -> ConvNorm {
        let conv = Conv2dConfig::same(from, to, kernel)
            .with_stride(stride)
            .without_bias();
        ConvNorm {
            conv: conv.init(device),
            norm: match self.normalization {
                Normalization::Batch => Norm::Batch(
                    BatchNormConfig {
                        channels: to,
                        epsilon: EPSILON,
                    }
                    .init(device),
                ),
                Normalization::Group => Norm::Group(
                    GroupNormConfig {
                        n_groups: to / CHANNELS_IN_GROUP,
                        channels: to,
                        epsilon: EPSILON,
                    }
                    .init(device),
                ),
            },
        }
    }
}

/// LeRobot's key of the parameter at a path of ours.
///
/// LeRobot keeps torchvision's layers as a list: 0 and 1 are the first convolution and its normalization, 2 and 3 have no
/// weights, 4 to 7 are the stages.
pub(super) fn lerobot_key(path: &str) -> String {
    let number = |name: &str| -> usize { name.parse().expect("members of lists have numbers") };
    // The two kinds of normalization have the same keys.
    let names: Vec<&str> = path
        .split('.')
        .filter(|name| !matches!(*name, "Batch" | "Group"))
        .collect();
    let listed = |layer| if layer == "conv" { "0" } else { "1" };
    let named = |layer| if layer == "conv" { "conv" } else { "bn" };
    match names[..] {
        ["stem", layer, part] => format!("{}.{part}", listed(layer)),
        ["stages", stage, block, "units", unit, layer, part] => {
            let (stage, unit) = (4 + number(stage), 1 + number(unit));
            format!("{stage}.{block}.{}{unit}.{part}", named(layer))
        }
        ["stages", stage, block, "downsample", layer, part] => {
            let stage = 4 + number(stage);
            format!("{stage}.{block}.downsample.{}.{part}", listed(layer))
        }
        _ => path.to_owned(),
    }
}

impl ResNet {
    /// The feature maps of pictures.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, 3, height, width]`, normalized
    /// - returns: `[batch, channels, height / 32, width / 32]`, rounded up; see [`map_size`](Self::map_size)
    pub fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = relu(self.stem.forward(x));
        let mut pool = MaxPoolOptions::new([3; 2]);
        pool.stride = [2; 2];
        pool.padding = [(1, 1); 2];
        let mut x = max_pool2d(x, pool);
        for block in self.stages.iter().flatten() {
            x = block.forward(x);
        }
        x
    }

    /// The height and the width of the feature maps of pictures of a size.
    pub fn map_size(size: [usize; 2]) -> [usize; 2] {
        // Each halving rounds up.
        size.map(|n| (0..HALVINGS).fold(n, |n, _| n.div_ceil(2)))
    }

    /// Lays the weights of the convolutions out for the CPU's kernels, and of group normalizations.
    pub(super) fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let stages = to.each("stages", &mut self.stages, |stage, to| {
            let blocks = stage.iter_mut().enumerate();
            blocks.map(|(i, block)| block.pack(&to.at(i))).sum()
        });
        self.stem.pack(&to.at("stem")) + stages
    }

    /// The number of values that are kept and not trained: the statistics of batch normalization.
    pub(super) fn buffers(&self) -> usize {
        let blocks = self.stages.iter().flatten();
        let units = blocks.flat_map(|block| block.units.iter().chain(&block.downsample));
        let norms = units.chain([&self.stem]).map(|unit| match &unit.norm {
            Norm::Batch(norm) => {
                norm.running_mean.lazy_shape().num_elements()
                    + norm.running_var.lazy_shape().num_elements()
            }
            Norm::Group(_) => 0,
        });
        norms.sum()
    }
}

impl ConvNorm {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let norm = match &mut self.norm {
            Norm::Batch(_) => PackReport::default(),
            Norm::Group(norm) => norm.pack(),
        };
        self.conv.pack(to.of("conv")) + norm
    }
}

impl Block {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let downsample = self.downsample.as_mut();
        let downsample = downsample.map(|it| it.pack(&to.at("downsample")));
        to.each("units", &mut self.units, ConvNorm::pack) + downsample.unwrap_or_default()
    }

    /// Shapes: x `[batch, channels, height, width]`, returns `[batch, outer channels, height / stride, width / stride]`,
    /// rounded up.
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let last = self.units.len() - 1;
        let mut h = x.clone();
        for unit in &self.units[..last] {
            h = relu(unit.forward(h));
        }
        let h = self.units[last].forward(h);
        let x = match &self.downsample {
            Some(downsample) => downsample.forward(x),
            None => x,
        };
        relu(h + x)
    }
}

impl ConvNorm {
    fn forward(&self, x: Tensor<4>) -> Tensor<4> {
        let x = self.conv.forward(x);
        match &self.norm {
            Norm::Batch(norm) => norm.forward(x),
            Norm::Group(norm) => norm.forward(x),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use burn::tensor::TensorData;
    use clearway_layers::Weights;

    use super::*;

    /// Three convolutions of up to 288 products each, in f32, of outputs of some units.
    const ROUNDING: f32 = 1e-5;

    #[test]
    fn blocks_are_torchvisions() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut file = Weights::open(&path.join("../../tests/golden/torch/vision.safetensors"))
            .expect("is recorded");
        let device = Device::flex();
        // What is recorded, and the block's channels, inner channels and stride.
        for (name, depth, normalization, [channels, inner, stride]) in [
            (
                "basic.batch",
                Depth::ResNet18,
                Normalization::Batch,
                [4, 8, 2],
            ),
            (
                "basic.plain",
                Depth::ResNet34,
                Normalization::Batch,
                [4, 4, 1],
            ),
            (
                "basic.group",
                Depth::ResNet18,
                Normalization::Group,
                [4, 32, 2],
            ),
            (
                "bottleneck.batch",
                Depth::ResNet50,
                Normalization::Batch,
                [6, 4, 2],
            ),
        ] {
            let config = ResNetConfig {
                depth,
                normalization,
            };
            let block = config.block(channels, inner, stride, &device);
            assert_eq!(block.downsample.is_some(), name != "basic.plain");
            let block = file
                .load(block, |path| {
                    let key = lerobot_key(&format!("stages.0.0.{path}"));
                    format!("{name}.{}", key.strip_prefix("4.0.").expect("the first"))
                })
                .expect("is recorded");
            let mut values = |part: &str| {
                let key = format!("{name}.{part}");
                let shape = file.shape(&key).expect("is recorded").to_vec();
                (file.values(&key, &shape).expect("can be read"), shape)
            };
            let ((x, shape), (expected, expected_shape)) = (values("x"), values("y"));
            let y = block.forward(Tensor::from_data(TensorData::new(x, shape), &device));
            assert_eq!(y.dims().as_slice(), expected_shape, "{name}");
            let y: Vec<f32> = y.into_data().try_to_vec().expect("f32");
            for (found, expected) in y.iter().zip(&expected) {
                assert!(
                    (found - expected).abs() <= ROUNDING,
                    "{name}: {found} is not {expected}"
                );
            }
        }
    }

    #[test]
    fn maps_have_a_thirty_second_of_the_size() {
        for size in [[84, 84], [96, 128], [33, 65], [1, 32]] {
            let network = ResNetConfig {
                depth: Depth::ResNet18,
                normalization: Normalization::Batch,
            }
            .init(&Device::flex());
            let [height, width] = size;
            let maps = network.forward(Tensor::zeros([1, 3, height, width], &Device::flex()));
            let [rows, columns] = ResNet::map_size(size);
            assert_eq!(maps.dims(), [1, 512, rows, columns]);
        }
    }

    #[test]
    fn depths_have_torchvisions_numbers_of_parameters() {
        // torchvision's documentation, less the classifier's 1000 rows.
        for (depth, documented) in [
            (Depth::ResNet18, 11_689_512),
            (Depth::ResNet34, 21_797_672),
            (Depth::ResNet50, 25_557_032),
            (Depth::ResNet101, 44_549_160),
            (Depth::ResNet152, 60_192_808),
        ] {
            for normalization in [Normalization::Batch, Normalization::Group] {
                let config = ResNetConfig {
                    depth,
                    normalization,
                };
                // Nothing is drawn: parameters are lazy.
                let network = config.init(&Device::flex());
                let trained = network.num_params() - network.buffers();
                assert_eq!(trained, documented - 1000 * (depth.channels() + 1));
            }
        }
    }
}
