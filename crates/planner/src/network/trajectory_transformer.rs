//! A small diffusion transformer over the waypoints of a trajectory.

use burn::module::Module;
use burn::nn::Initializer;
use burn::prelude::*;
use clearway_diffusion::{Network, Point};
use clearway_layers::activation::{gelu, silu};
use clearway_layers::{
    LayerNorm, LayerNormConfig, Linear, LinearConfig, Order, PackReport, Precision,
    SinusoidalEmbedding, Weights, WeightsError, WeightsWriter, attention, count_parameters,
};

/// What layer norms add to variances, as in the reference.
const EPSILON: f64 = 1e-6;

/// Makes a [`TrajectoryTransformer`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrajectoryTransformerConfig {
    /// The coordinates of a waypoint.
    pub dof: usize,
    /// The size of the condition.
    pub condition_dim: usize,
    /// The features of a waypoint; a multiple of twice the heads.
    pub width: usize,
    /// How many blocks.
    pub depth: usize,
    /// How many heads attend.
    pub heads: usize,
}

/// A transformer whose blocks are modulated by the diffusion time and the condition (adaLN-Zero).
///
/// ```text
/// c      = Linear(silu(Linear(sinusoidal(t)))) + Linear(silu(Linear(condition)))
/// h      = Linear(x) + sinusoidal(waypoint)
/// block  : shift₁, scale₁, gate₁, shift₂, scale₂, gate₂ = Linear(silu(c))
///          h ← h + gate₁ · attention((1 + scale₁) LayerNorm(h) + shift₁)
///          h ← h + gate₂ · Linear(gelu(Linear((1 + scale₂) LayerNorm(h) + shift₂)))
/// output = Linear((1 + scale) LayerNorm(h) + shift),   shift, scale = Linear(silu(c))
/// ```
///
/// Each waypoint sees every other in the first block, where the U-Net's levels have to carry it. Modulations and the last layer
/// [begin at zero](Self::zeroed), so that a new network is the identity in each block and answers zero.
///
/// Peebles and Xie, "Scalable Diffusion Models with Transformers", 2022, arXiv:2212.09748, section 3.2.
#[derive(Module, Debug)]
pub struct TrajectoryTransformer {
    step_encoder: Perceptron,
    condition_encoder: Perceptron,
    input: Linear,
    blocks: Vec<Block>,
    last_norm: LayerNorm,
    last_modulation: Linear,
    output: Linear,
    #[module(skip)]
    heads: usize,
    #[module(skip)]
    precision: Option<Precision>,
}

/// The condition's share of `c`: `[batch or 1, width]`.
#[derive(Clone, Debug)]
pub struct PreparedTransformer(Tensor<2>);

#[derive(Module, Debug)]
struct Perceptron {
    expand: Linear,
    contract: Linear,
}

#[derive(Module, Debug)]
struct Block {
    modulation: Linear,
    norm1: LayerNorm,
    qkv: Linear,
    project: Linear,
    norm2: LayerNorm,
    expand: Linear,
    contract: Linear,
}

fn linear(d_input: usize, d_output: usize, device: &Device) -> Linear {
    LinearConfig {
        d_input,
        d_output,
        bias: true,
    }
    .init(device)
}

impl TrajectoryTransformerConfig {
    /// A network with random weights, which are drawn when they are first used.
    ///
    /// # Panics
    ///
    /// If a size is zero, or the width is no multiple of twice the heads, or less than 4.
    pub fn init(&self, device: &Device) -> TrajectoryTransformer {
        let Self {
            dof,
            condition_dim,
            width,
            depth,
            heads,
        } = *self;
        assert!(
            heads > 0 && width >= 4 && width.is_multiple_of(2 * heads),
            "{heads} heads do not share {width} features"
        );
        let perceptron = |d_input: usize| Perceptron {
            expand: linear(d_input, width, device),
            contract: linear(width, width, device),
        };
        let norm = || {
            LayerNormConfig {
                features: width,
                epsilon: EPSILON,
            }
            .init(device)
        };
        let block = |_| Block {
            modulation: linear(width, 6 * width, device),
            norm1: norm(),
            qkv: linear(width, 3 * width, device),
            project: linear(width, width, device),
            norm2: norm(),
            expand: linear(width, 4 * width, device),
            contract: linear(4 * width, width, device),
        };
        TrajectoryTransformer {
            step_encoder: perceptron(width),
            condition_encoder: perceptron(condition_dim),
            input: linear(dof, width, device),
            blocks: (0..depth).map(block).collect(),
            last_norm: norm(),
            last_modulation: linear(width, 2 * width, device),
            output: linear(width, dof, device),
            heads,
            precision: None,
        }
    }
}

impl TrajectoryTransformer {
    /// The same with zeros where training begins at zero: the modulations and the last layer.
    #[must_use]
    pub fn zeroed(mut self, device: &Device) -> Self {
        let zero = |layer: &mut Linear| {
            let [d_output, d_input] = layer.weight.dims();
            layer.weight = Initializer::Zeros.init([d_output, d_input], device).into();
            layer.bias = Some(Initializer::Zeros.init([d_output], device).into());
        };
        for block in &mut self.blocks {
            zero(&mut block.modulation);
        }
        zero(&mut self.last_modulation);
        zero(&mut self.output);
        self
    }

    /// Fills the network with weights whose keys begin with `prefix`.
    ///
    /// # Errors
    ///
    /// As [`Weights::load`].
    pub fn load(self, weights: &mut Weights, prefix: &str) -> Result<Self, WeightsError> {
        weights.load(self, |path| format!("{prefix}{path}"))
    }

    /// Adds the weights to a file: what [`load`](Self::load) reads.
    pub fn save(&self, writer: &mut WeightsWriter, prefix: &str) {
        writer.module(self, |path| format!("{prefix}{path}"));
    }

    /// Lays the linear layers out for the CPU's kernels; there is no gradient then.
    pub fn pack(&mut self, precision: Precision) -> PackReport {
        let Self {
            step_encoder,
            condition_encoder,
            input,
            blocks,
            last_norm,
            last_modulation,
            output,
            ..
        } = self;
        let mut report = last_norm.pack();
        for block in blocks {
            let Block {
                modulation,
                norm1,
                qkv,
                project,
                norm2,
                expand,
                contract,
            } = block;
            report = report + norm1.pack() + norm2.pack();
            for layer in [modulation, qkv, project, expand, contract] {
                report = report + layer.pack(precision);
            }
        }
        for layer in [
            &mut step_encoder.expand,
            &mut step_encoder.contract,
            &mut condition_encoder.expand,
            &mut condition_encoder.contract,
            last_modulation,
        ] {
            report = report + layer.pack(precision);
        }
        // What meets the waypoints themselves stays as exact as it is.
        report = report + input.pack(Precision::F32) + output.pack(Precision::F32);
        self.precision = Some(precision);
        report
    }

    /// What the weights are packed in; nothing where they are plain.
    pub fn precision(&self) -> Option<Precision> {
        self.precision
    }

    /// The number of parameters.
    pub fn parameters(&self) -> usize {
        count_parameters(self)
    }

    fn width(&self) -> usize {
        self.input.weight.dims()[0]
    }

    fn embed(&self, at: &[f64], device: &Device) -> Tensor<2> {
        SinusoidalEmbedding {
            dim: self.width(),
            order: Order::SinCos,
            frequency_shift: 1,
            max_period: 10_000.0,
        }
        .forward(at, device)
    }
}

impl Network<3> for TrajectoryTransformer {
    /// `[batch, condition_dim]`, or one row for all samples.
    type Condition = Tensor<2>;
    type Prepared = PreparedTransformer;

    fn prepare(&self, condition: &Tensor<2>) -> PreparedTransformer {
        PreparedTransformer(self.condition_encoder.forward(condition.clone()))
    }

    /// # Shapes
    ///
    /// - x, returns: `[batch, horizon, dof]`
    /// - points: one, or one a sample
    fn forward(&self, x: Tensor<3>, points: &[Point], prepared: &PreparedTransformer) -> Tensor<3> {
        let [batch, horizon, _] = x.dims();
        let (width, device) = (self.width(), x.device());
        let times: Vec<f64> = points.iter().map(|point| point.t).collect();
        let step = self.step_encoder.forward(self.embed(&times, &device));
        let c = silu((step + prepared.0.clone()).expand([batch, width]));
        let places: Vec<f64> = (0..horizon).map(|i| i as f64).collect();
        let mut h = self.input.forward(x) + self.embed(&places, &device).unsqueeze::<3>();
        for block in &self.blocks {
            h = block.forward(h, c.clone(), self.heads);
        }
        let [shift, scale] = parts(self.last_modulation.forward(c));
        self.output
            .forward(modulated(self.last_norm.forward(h), shift, scale))
    }
}

impl Perceptron {
    fn forward(&self, x: Tensor<2>) -> Tensor<2> {
        self.contract.forward(silu(self.expand.forward(x)))
    }
}

impl Block {
    fn forward(&self, h: Tensor<3>, c: Tensor<2>, heads: usize) -> Tensor<3> {
        let [shift1, scale1, gate1, shift2, scale2, gate2] = parts(self.modulation.forward(c));
        let [batch, horizon, width] = h.dims();
        let read = modulated(self.norm1.forward(h.clone()), shift1, scale1);
        let qkv = self.qkv.forward(read);
        let head = |i: usize| {
            let part = qkv.clone().narrow(2, i * width, width);
            part.reshape([batch, horizon, heads, width / heads])
                .swap_dims(1, 2)
        };
        let mixed = attention(head(0), head(1), head(2));
        let mixed = mixed.swap_dims(1, 2).reshape([batch, horizon, width]);
        let h = h + gate1 * self.project.forward(mixed);
        let read = modulated(self.norm2.forward(h.clone()), shift2, scale2);
        h + gate2 * self.contract.forward(gelu(self.expand.forward(read)))
    }
}

/// `N` equal parts of the last axis, `[batch, 1, width]` each.
#[allow(clippy::needless_pass_by_value, reason = "tensors are passed by value")]
fn parts<const N: usize>(x: Tensor<2>) -> [Tensor<3>; N] {
    let [_, all] = x.dims();
    let width = all / N;
    std::array::from_fn(|i| x.clone().narrow(1, i * width, width).unsqueeze_dim(1))
}

fn modulated(x: Tensor<3>, shift: Tensor<3>, scale: Tensor<3>) -> Tensor<3> {
    x * scale.add_scalar(1.0) + shift
}

#[cfg(test)]
mod tests {
    use clearway_diffusion::Level;

    use super::*;

    fn pass(network: &TrajectoryTransformer, x: Tensor<3>) -> Vec<f32> {
        let point = Point {
            t: 3.0,
            level: Level::CLEAN,
        };
        let condition = Tensor::<2>::ones([1, 4], &x.device());
        let y = network.forward(x, &[point], &network.prepare(&condition));
        y.into_data().try_into_vec().expect("f32")
    }

    fn network() -> TrajectoryTransformer {
        TrajectoryTransformerConfig {
            dof: 2,
            condition_dim: 4,
            width: 32,
            depth: 2,
            heads: 2,
        }
        .init(&Device::flex())
    }

    fn waypoints(batch: usize) -> Tensor<3> {
        let device = Device::flex();
        let values = Tensor::arange(0..16 * i64::try_from(batch).expect("few"), &device).float();
        (values / 7.0).sin().reshape([batch, 8, 2])
    }

    #[test]
    fn a_new_network_answers_zero_and_one_with_weights_does_not() {
        let network = network();
        assert!(pass(&network, waypoints(3)).iter().any(|it| *it != 0.0));
        let zeroed = network.zeroed(&Device::flex());
        assert_eq!(pass(&zeroed, waypoints(3)), [0.0; 48]);
    }

    #[test]
    fn a_packed_network_answers_the_same_and_alone_as_in_a_batch() {
        let plain = network();
        let mut packed = plain.clone();
        let report = packed.pack(Precision::F32);
        assert_eq!(report.parameters, plain.parameters());
        let [a, b] = [&plain, &packed].map(|it| pass(it, waypoints(3)));
        for (a, b) in a.iter().zip(&b) {
            // Sums of some tens of products of order one, in another order.
            assert!((a - b).abs() < 1e-4, "{a} {b}");
        }
        let first = waypoints(3).narrow(0, 0, 1);
        for (alone, among) in pass(&plain, first).iter().zip(&a) {
            assert!((alone - among).abs() < 1e-5);
        }
    }
}
