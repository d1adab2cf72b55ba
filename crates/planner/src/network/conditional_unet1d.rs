//! The one-dimensional U-Net of Diffusion Policy, as LeRobot builds it.

mod packed;

use std::sync::Arc;

use burn::module::Module;
use burn::prelude::*;
use clearway_diffusion::{Network, Point};
use clearway_layers::activation::mish;
use clearway_layers::{
    Activation, Calibration, CalibrationError, Conv1d, Conv1dConfig, ConvTranspose1d,
    ConvTranspose1dConfig, Epilogue, GroupNorm, GroupNormConfig, Linear, LinearConfig, Modulation,
    Order, PackPolicy, PackReport, Packing, Precision, RoundedWeight, SinusoidalEmbedding, Tokens,
    Weights, WeightsError, WeightsWriter, count_parameters, in_team, rehearse,
};

use packed::Packed;

/// PyTorch's default; LeRobot does not set another.
const GROUP_NORM_EPSILON: f64 = 1e-5;

/// LeRobot's last block does not pass `n_groups` on, so that it always has the default.
const FINAL_GROUPS: usize = 8;

/// What stays in bf16 where weights become codes: what is computed once a plan or once for each timestep; and the first level
/// and the last block, which see the actions themselves. These two are a fiftieth of LeRobot's default network, and nearly
/// half of the error in codes of eight bits. In f32 all of it would be a tenth of the bytes that a pass reads.
const KEEP: [&str; 4] = [
    "diffusion_step_encoder.*",
    "*.cond_encoder",
    "down_modules.0.*",
    "final_conv.*",
];

/// Makes a [`ConditionalUnet1d`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConditionalUnet1dConfig {
    /// The size of one action.
    pub action_dim: usize,
    /// The size of the condition.
    pub condition_dim: usize,
    /// The channels of each level; time is halved from one level to the next.
    pub down_dims: Vec<usize>,
    /// The taps of the blocks' convolutions, odd.
    pub kernel_size: usize,
    /// The groups of the blocks' normalization.
    pub n_groups: usize,
    /// The size of the embedded diffusion time, even and at least 4.
    pub diffusion_step_embed_dim: usize,
    /// Whether the condition scales the features besides shifting them.
    pub use_film_scale_modulation: bool,
}

/// A U-Net over time, whose blocks are modulated by the diffusion time and the condition (FiLM).
///
/// ```text
/// s        = Linear(mish(Linear(sinusoidal(t))))               diffusion_step_encoder
/// block(x) = mish(GroupNorm(Conv1d(x)))
/// residual block(x, c): h = block₁(x)
///                       scale, shift = Linear(mish(cat(s, c)))  cond_encoder
///                       block₂(scale · h + shift) + residual_conv(x)
/// ```
///
/// Two residual blocks and a halving of time a level on the way down, two in the middle, two and a doubling a level on
/// the way up, where what the way down computed is concatenated.
///
/// "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", Chi et al., 2023, arXiv:2303.04137; FiLM:
/// "FiLM: Visual Reasoning with a General Conditioning Layer", Perez et al., 2017, arXiv:1709.07871.
#[derive(Module, Debug)]
pub struct ConditionalUnet1d {
    diffusion_step_encoder: StepEncoder,
    down_modules: Vec<DownModule>,
    mid_modules: Vec<ResidualBlock>,
    up_modules: Vec<UpModule>,
    final_conv: FinalConv,
    #[module(skip)]
    packed: Option<Packed>,
}

/// What a [`ConditionalUnet1d`] computes from the condition alone: the condition's share of the modulation of each
/// residual block.
#[derive(Clone, Debug)]
pub struct Prepared {
    modulation: Shares,
}

/// For the residual blocks in the order of use: `[batch or 1, channels or 2 · channels]`.
#[derive(Clone, Debug)]
enum Shares {
    /// One by one.
    Plain(Vec<Tensor<2>>),
    /// Side by side, for a packed network.
    Packed(Arc<Tokens>),
}

#[derive(Module, Debug)]
struct StepEncoder {
    expand: Linear,
    contract: Linear,
}

#[derive(Module, Debug)]
struct DownModule {
    resnet: ResidualBlock,
    resnet2: ResidualBlock,
    downsample: Option<Conv1d>,
}

#[derive(Module, Debug)]
struct UpModule {
    resnet: ResidualBlock,
    resnet2: ResidualBlock,
    upsample: ConvTranspose1d,
}

#[derive(Module, Debug)]
struct FinalConv {
    block: ConvBlock,
    project: Conv1d,
}

#[derive(Module, Debug)]
struct ConvBlock {
    conv: Conv1d,
    norm: GroupNorm,
}

#[derive(Module, Debug)]
struct ResidualBlock {
    conv1: ConvBlock,
    cond_encoder: Linear,
    conv2: ConvBlock,
    residual_conv: Option<Conv1d>,
    #[module(skip)]
    scales: bool,
}

impl ConditionalUnet1dConfig {
    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If a size is zero, the groups do not divide the channels, the kernel is even, or the embedding is odd or smaller
    /// than 4.
    pub fn init(&self, device: &Device) -> ConditionalUnet1d {
        let Self {
            action_dim,
            diffusion_step_embed_dim: embed_dim,
            ..
        } = *self;
        assert!(!self.down_dims.is_empty(), "the network needs a level");
        assert!(
            !self.kernel_size.is_multiple_of(2),
            "a kernel of {} would change the length of time",
            self.kernel_size
        );
        assert!(
            embed_dim >= 4 && embed_dim.is_multiple_of(2),
            "cannot embed the diffusion time in {embed_dim} dimensions"
        );
        let levels = &self.down_dims;
        let last = levels.len() - 1;
        let bottom = levels[last];
        let down = |level: usize| DownModule {
            resnet: self.residual_block(
                if level == 0 {
                    action_dim
                } else {
                    levels[level - 1]
                },
                levels[level],
                device,
            ),
            resnet2: self.residual_block(levels[level], levels[level], device),
            downsample: (level < last)
                .then(|| conv(levels[level], levels[level], 3, 2, 1).init(device)),
        };
        // On the way up, level n arrives with its own channels, beside as many from the way down.
        let up = |level: usize| UpModule {
            resnet: self.residual_block(2 * levels[level], levels[level - 1], device),
            resnet2: self.residual_block(levels[level - 1], levels[level - 1], device),
            upsample: ConvTranspose1dConfig {
                channels_in: levels[level - 1],
                channels_out: levels[level - 1],
                kernel_size: 4,
                stride: 2,
                padding: 1,
            }
            .init(device),
        };
        ConditionalUnet1d {
            diffusion_step_encoder: StepEncoder {
                expand: linear(embed_dim, 4 * embed_dim).init(device),
                contract: linear(4 * embed_dim, embed_dim).init(device),
            },
            down_modules: (0..=last).map(down).collect(),
            mid_modules: (0..2)
                .map(|_| self.residual_block(bottom, bottom, device))
                .collect(),
            up_modules: (1..=last).rev().map(up).collect(),
            final_conv: FinalConv {
                block: self.conv_block(levels[0], levels[0], FINAL_GROUPS, device),
                project: conv(levels[0], action_dim, 1, 1, 0).init(device),
            },
            packed: None,
        }
    }

    fn conv_block(
        &self,
        channels_in: usize,
        channels: usize,
        n_groups: usize,
        device: &Device,
    ) -> ConvBlock {
        ConvBlock {
            conv: conv(
                channels_in,
                channels,
                self.kernel_size,
                1,
                self.kernel_size / 2,
            )
            .init(device),
            norm: GroupNormConfig {
                n_groups,
                channels,
                epsilon: GROUP_NORM_EPSILON,
            }
            .init(device),
        }
    }

    fn residual_block(
        &self,
        channels_in: usize,
        channels: usize,
        device: &Device,
    ) -> ResidualBlock {
        let scales = self.use_film_scale_modulation;
        ResidualBlock {
            conv1: self.conv_block(channels_in, channels, self.n_groups, device),
            cond_encoder: linear(
                self.diffusion_step_embed_dim + self.condition_dim,
                if scales { 2 * channels } else { channels },
            )
            .init(device),
            conv2: self.conv_block(channels, channels, self.n_groups, device),
            residual_conv: (channels_in != channels)
                .then(|| conv(channels_in, channels, 1, 1, 0).init(device)),
            scales,
        }
    }
}

fn linear(d_input: usize, d_output: usize) -> LinearConfig {
    LinearConfig {
        d_input,
        d_output,
        bias: true,
    }
}

fn conv(
    channels_in: usize,
    channels_out: usize,
    kernel_size: usize,
    stride: usize,
    padding: usize,
) -> Conv1dConfig {
    Conv1dConfig {
        channels_in,
        channels_out,
        kernel_size,
        stride,
        padding,
    }
}

impl ConditionalUnet1d {
    /// Fills the network with LeRobot's weights, whose keys begin with `prefix` (`diffusion.unet.`).
    ///
    /// # Errors
    ///
    /// As [`Weights::load`].
    pub fn load(self, weights: &mut Weights, prefix: &str) -> Result<Self, WeightsError> {
        weights.load(self, |path| format!("{prefix}{}", lerobot_key(path)))
    }

    /// Adds the weights to a file, under LeRobot's keys behind `prefix`: what [`load`](Self::load) reads. Packed ones are
    /// written as they are.
    pub fn save(&self, writer: &mut WeightsWriter, prefix: &str) {
        writer.module(self, |path| format!("{prefix}{}", lerobot_key(path)));
    }

    /// Lays the weights out for the CPU's kernels. The network then computes on the CPU alone and has no gradient; a
    /// pass takes about the time of reading the weights.
    ///
    /// Where weights become codes, the first level, the last block, what encodes time and what encodes the condition stay in
    /// bf16, if the policy names no layers.
    ///
    /// A packed network can be packed again, with another precision; what was rounded stays rounded.
    pub fn pack(&mut self, policy: impl Into<PackPolicy>) -> PackReport {
        let policy = policy.into();
        let to = packing(&policy);
        let StepEncoder { expand, contract } = &mut self.diffusion_step_encoder;
        let encoder = to.at("diffusion_step_encoder");
        let encoder = expand.pack(encoder.of("expand")) + contract.pack(encoder.of("contract"));
        let down = to.each("down_modules", &mut self.down_modules, |level, to| {
            let downsample = (level.downsample.as_mut()).map(|it| it.pack(to.of("downsample")));
            level.resnet.pack(&to.at("resnet"))
                + level.resnet2.pack(&to.at("resnet2"))
                + downsample.unwrap_or_default()
        });
        let mid = to.each("mid_modules", &mut self.mid_modules, ResidualBlock::pack);
        let up = to.each("up_modules", &mut self.up_modules, |level, to| {
            level.resnet.pack(&to.at("resnet"))
                + level.resnet2.pack(&to.at("resnet2"))
                + level.upsample.pack(to.of("upsample"))
        });
        let FinalConv { block, project } = &mut self.final_conv;
        let last = to.at("final_conv");
        let last = block.pack(&last.at("block")) + project.pack(last.of("project"));
        let report = encoder + down + mid + up + last;
        self.packed = Some(Packed::new(policy.precision));
        report
    }

    /// Makes codes of weights for what the layers read in a calibration; [packing](Self::pack) by the same policy then lays them
    /// out.
    ///
    /// # Errors
    ///
    /// As [`Calibration::round`].
    pub fn round(
        self,
        calibration: &Calibration,
        policy: &PackPolicy,
    ) -> Result<(Self, Vec<RoundedWeight>), CalibrationError> {
        calibration.round(self, &packing(policy))
    }

    /// The network as it is trained for codes, see [`rehearse`].
    #[must_use]
    pub fn rehearse(self, policy: &PackPolicy) -> Self {
        rehearse(self, &packing(policy))
    }

    /// What the weights are packed in, but for layers that are kept in f32; nothing where they are plain.
    pub fn precision(&self) -> Option<Precision> {
        self.packed.as_ref().map(|packed| packed.precision)
    }

    /// The number of the network's parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    /// The residual blocks in the order of use.
    fn residual_blocks(&self) -> impl Iterator<Item = &ResidualBlock> {
        let down = self
            .down_modules
            .iter()
            .flat_map(|m| [&m.resnet, &m.resnet2]);
        let up = self.up_modules.iter().flat_map(|m| [&m.resnet, &m.resnet2]);
        down.chain(&self.mid_modules).chain(up)
    }
}

/// In which precision each layer is packed.
fn packing(policy: &PackPolicy) -> Packing<'_> {
    Packing::new(policy, &KEEP).keeping_in(Precision::Bf16)
}

/// LeRobot's key of the parameter at a path of ours.
///
/// LeRobot's modules are lists (`nn.Sequential`, `nn.ModuleList`), whose members have numbers where ours have names.
fn lerobot_key(path: &str) -> String {
    let names = path.split('.').map(|name| match name {
        "resnet" | "block" => "0",
        "expand" | "resnet2" | "project" => "1",
        "downsample" | "upsample" => "2",
        "contract" => "3",
        "conv" => "block.0",
        "norm" => "block.1",
        "cond_encoder" => "cond_encoder.1",
        other => other,
    });
    names.collect::<Vec<_>>().join(".")
}

impl Network<3> for ConditionalUnet1d {
    /// `[batch, condition_dim]`, or one row for all samples.
    type Condition = Tensor<2>;
    type Prepared = Prepared;

    /// Computes the condition's share of every block's modulation.
    ///
    /// `cond_encoder` reads `mish(cat(s, c))`, and Mish works element by element, so that the layer is the sum of a
    /// product with `mish(s)`, which changes with the step, and one with `mish(c)`, which does not.
    fn prepare(&self, condition: &Tensor<2>) -> Prepared {
        if self.packed.is_some() {
            let shares = in_team(|| self.prepare_packed(condition.clone()));
            return Prepared {
                modulation: Shares::Packed(Arc::new(shares)),
            };
        }
        let condition = mish(condition.clone());
        let [embed_dim, _] = self.diffusion_step_encoder.contract.weight.dims();
        let shares = self.residual_blocks().map(|block| {
            let layer = &block.cond_encoder;
            layer.add_bias(layer.forward_part(condition.clone(), embed_dim))
        });
        Prepared {
            modulation: Shares::Plain(shares.collect()),
        }
    }

    /// One pass; a point's `t` is the timestep.
    ///
    /// # Shapes
    ///
    /// - x: `[batch, horizon, action_dim]`; the horizon is a multiple of 2 to the number of levels less one
    /// - points: one, or one a sample
    /// - returns: `[batch, horizon, action_dim]`
    ///
    /// # Panics
    ///
    /// If the shapes are others, or the network was plain when it prepared the condition and is packed now. What was prepared
    /// before the network was loaded, or packed anew, is stale.
    fn forward(&self, x: Tensor<3>, points: &[Point], prepared: &Prepared) -> Tensor<3> {
        let [batch, _, _] = x.dims();
        let [_, expected_dim, _] = self.down_modules[0].resnet.conv1.conv.weight.dims();
        assert_shape!(x, [_, _, expected_dim]);
        assert!(
            points.len() == 1 || points.len() == batch,
            "{} points for {batch} samples",
            points.len()
        );
        match (&self.packed, &prepared.modulation) {
            (Some(packed), Shares::Packed(condition)) => {
                in_team(|| self.packed_pass(packed, x, points, condition))
            }
            (None, Shares::Plain(shares)) => self.plain_pass(x, points, shares),
            _ => panic!("the condition was prepared before the network was packed"),
        }
    }
}

impl ConditionalUnet1d {
    fn plain_pass(&self, x: Tensor<3>, points: &[Point], shares: &[Tensor<2>]) -> Tensor<3> {
        let [batch, horizon, action_dim] = x.dims();
        let step = mish(self.diffusion_step_encoder.forward(points, &x.device()));
        let mut modulation = shares
            .iter()
            .zip(self.residual_blocks())
            .map(|(share, block)| block.cond_encoder.forward_part(step.clone(), 0) + share.clone());
        let mut modulate = || {
            modulation
                .next()
                .expect("`prepare` computed one modulation for each block")
        };

        let mut x = x.swap_dims(1, 2);
        let mut skips = Vec::with_capacity(self.down_modules.len());
        for level in &self.down_modules {
            x = level.resnet.forward(x, modulate());
            x = level.resnet2.forward(x, modulate());
            skips.push(x.clone());
            if let Some(downsample) = &level.downsample {
                x = downsample.forward(x);
            }
        }
        for block in &self.mid_modules {
            x = block.forward(x, modulate());
        }
        // The first level's features are not used again: the last level up has no block of its own.
        for (level, skip) in self.up_modules.iter().zip(skips.into_iter().rev()) {
            x = Tensor::cat(vec![x, skip], 1);
            x = level.resnet.forward(x, modulate());
            x = level.resnet2.forward(x, modulate());
            x = level.upsample.forward(x);
        }
        x = self.final_conv.block.forward(x, None, None);
        x = self.final_conv.project.forward(x);
        assert_shape!(x, [batch, action_dim, horizon]);
        x.swap_dims(1, 2)
    }
}

impl StepEncoder {
    /// Shapes: returns `[points, embed_dim]`.
    fn forward(&self, points: &[Point], device: &Device) -> Tensor<2> {
        let times: Vec<f64> = points.iter().map(|point| point.t).collect();
        let embedding = self.embedding().forward(&times, device);
        self.contract.forward(mish(self.expand.forward(embedding)))
    }

    fn embedding(&self) -> SinusoidalEmbedding {
        let [_, dim] = self.expand.weight.dims();
        SinusoidalEmbedding {
            dim,
            order: Order::SinCos,
            frequency_shift: 1,
            max_period: 10_000.0,
        }
    }
}

impl ConvBlock {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        self.conv.pack(to.of("conv")) + self.norm.pack()
    }

    fn forward(
        &self,
        x: Tensor<3>,
        modulation: Option<Modulation>,
        residual: Option<Tensor<3>>,
    ) -> Tensor<3> {
        let epilogue = Epilogue {
            normalization: Some(&self.norm),
            activation: Activation::Mish,
            modulation,
            residual,
        };
        self.conv.forward_then(x, epilogue)
    }
}

impl ResidualBlock {
    fn pack(&mut self, to: &Packing<'_>) -> PackReport {
        let residual = self.residual_conv.as_mut();
        let residual = residual.map(|it| it.pack(to.of("residual_conv")));
        self.conv1.pack(&to.at("conv1"))
            + self.cond_encoder.pack(to.of("cond_encoder"))
            + self.conv2.pack(&to.at("conv2"))
            + residual.unwrap_or_default()
    }

    /// Shapes: x `[batch, channels_in, time]`, modulation `[batch or 1, channels or 2 · channels]`, returns
    /// `[batch, channels, time]`.
    fn forward(&self, x: Tensor<3>, modulation: Tensor<2>) -> Tensor<3> {
        let modulation = Modulation {
            values: modulation,
            scales: self.scales,
        };
        let h = self.conv1.forward(x.clone(), Some(modulation), None);
        let residual = match &self.residual_conv {
            Some(residual) => residual.forward(x),
            None => x,
        };
        self.conv2.forward(h, None, Some(residual))
    }
}

#[cfg(test)]
mod tests {
    use clearway_layers::Parameter;

    use super::*;

    fn network() -> ConditionalUnet1d {
        ConditionalUnet1dConfig {
            action_dim: 2,
            condition_dim: 5,
            down_dims: vec![16, 32, 48],
            kernel_size: 5,
            n_groups: 4,
            diffusion_step_embed_dim: 8,
            use_film_scale_modulation: true,
        }
        .init(&Device::flex())
    }

    fn values<const D: usize>(parameter: &Parameter<D>) -> Vec<f32> {
        let values = parameter.val().into_data();
        values.try_into_vec().expect("f32")
    }

    /// The weights of what is kept by default, and of all other layers.
    fn kept_and_others(network: &ConditionalUnet1d) -> [Vec<Vec<f32>>; 2] {
        let StepEncoder { expand, contract } = &network.diffusion_step_encoder;
        let FinalConv { block, project } = &network.final_conv;
        let mut kept = vec![
            values(&expand.weight),
            values(&contract.weight),
            values(&block.conv.weight),
            values(&project.weight),
        ];
        let mut others = Vec::new();
        // The first two blocks are those of the first level.
        for (i, block) in network.residual_blocks().enumerate() {
            kept.push(values(&block.cond_encoder.weight));
            let first = if i < 2 { &mut kept } else { &mut others };
            first.push(values(&block.conv1.conv.weight));
            first.push(values(&block.conv2.conv.weight));
            first.extend(block.residual_conv.as_ref().map(|it| values(&it.weight)));
        }
        for (i, level) in network.down_modules.iter().enumerate() {
            let first = if i == 0 { &mut kept } else { &mut others };
            first.extend(level.downsample.as_ref().map(|it| values(&it.weight)));
        }
        others.extend((network.up_modules.iter()).map(|it| values(&it.upsample.weight)));
        [kept, others]
    }

    #[test]
    fn sensitive_layers_keep_their_weights() {
        let plain = network();
        let before = kept_and_others(&plain);
        let mut halves = plain.clone();
        let _ = halves.pack(Precision::Bf16);
        let [halves, _] = kept_and_others(&halves);
        assert_ne!(halves, before[0]);
        for precision in [Precision::Int8, Precision::INT4] {
            let mut packed = plain.clone();
            assert_eq!(packed.pack(precision).parameters, plain.num_params());
            assert_eq!(packed.precision(), Some(precision));
            let [kept, others] = kept_and_others(&packed);
            assert_eq!(kept, halves, "{precision}");
            for (i, (found, before)) in others.iter().zip(&before[1]).enumerate() {
                assert_ne!(found, before, "{precision}: layer {i} is as it was");
            }
        }
        // In codes are all that a policy does not name.
        let mut packed = plain.clone();
        let _ = packed.pack(PackPolicy {
            precision: Precision::Int8,
            keep: Some(Vec::new()),
            keep_also: Vec::new(),
        });
        let [kept, _] = kept_and_others(&packed);
        for (i, (found, halves)) in kept.iter().zip(&halves).enumerate() {
            assert_ne!(found, halves, "layer {i} is kept");
        }
        let mut packed = plain.clone();
        let _ = packed.pack(PackPolicy {
            precision: Precision::Int8,
            keep: Some(vec!["*".into()]),
            keep_also: Vec::new(),
        });
        assert_eq!(kept_and_others(&packed), before);
    }

    #[test]
    fn a_horizon_that_does_not_fit_is_no_result() {
        let device = Device::flex();
        let plain = network();
        let mut packed = plain.clone();
        let _ = packed.pack(Precision::F32);
        for network in [plain, packed] {
            let prepared = network.prepare(&Tensor::zeros([1, 5], &device));
            let pass = |horizon: usize| {
                let x = Tensor::<3>::zeros([1, horizon, 2], &device);
                let point = Point {
                    t: 3.0,
                    level: clearway_diffusion::Level::CLEAN,
                };
                network.forward(x, &[point], &prepared)
            };
            assert_eq!(pass(8).dims(), [1, 8, 2]);
            for horizon in [1, 7] {
                let pass = std::panic::AssertUnwindSafe(|| pass(horizon));
                assert!(std::panic::catch_unwind(pass).is_err(), "{horizon}");
            }
        }
    }
}
