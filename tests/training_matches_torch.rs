//! A training step is PyTorch's: the loss, the gradient of every parameter, and the parameters after three steps of AdamW.
//!
//! `tests/golden/torch/record_training.py` recorded LeRobot's network of 19 thousand parameters.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param, ParamId};
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Discrete, Network, Point, Schedule};
use clearway_layers::{AdamW, Weights};
use clearway_planner::network::{ConditionalUnet1d, ConditionalUnet1dConfig};

/// Losses of about 1, means of 80 squares in f32.
const LOSS: f64 = 2e-6;
/// Gradients below it are rounding: a bias before the normalization of a single channel has none. Others are far above.
const NO_GRADIENT: f64 = 1e-6;
/// Of the largest gradient of a parameter tensor: sums of some hundred products in f32, in another order, through eight
/// blocks.
const GRADIENT: f64 = 2e-5;
/// Of the learning rate: the first steps of Adam are as long, whatever the gradient, so that a gradient near zero moves its
/// parameter by what rounding makes of it.
const PARAMETER: f64 = 0.02;
const RATE: f64 = 1e-3;

/// The values of all parameters, in the order in which the network has them.
#[derive(Default)]
struct Values(Vec<(ParamId, Vec<f32>)>);

impl ModuleVisitor for Values {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let values = parameter.val().into_data().try_to_vec().expect("f32");
        self.0.push((parameter.id, values));
    }
}

fn values(network: &ConditionalUnet1d) -> Vec<(ParamId, Vec<f32>)> {
    let mut values = Values::default();
    network.visit(&mut values);
    values.0
}

/// The gradients of all parameters, in the same order.
struct Gradients<'a>(&'a GradientsParams, Vec<Vec<f32>>);

impl ModuleVisitor for Gradients<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let gradient = self.0.get::<D>(parameter.id).expect("a gradient for each");
        assert_eq!(gradient.dims(), parameter.dims());
        self.1.push(gradient.into_data().try_to_vec().expect("f32"));
    }
}

fn largest(values: &[f32]) -> f64 {
    values
        .iter()
        .fold(0.0, |most, x| most.max(f64::from(x.abs())))
}

fn distance(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let differences = a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs()));
    differences.fold(0.0, f64::max)
}

#[test]
fn three_steps_are_those_of_torch() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/torch/training.safetensors");
    let mut golden = Weights::open(&path).expect("the golden file opens");
    let device = Device::flex();
    let config = ConditionalUnet1dConfig {
        action_dim: 2,
        condition_dim: 3,
        down_dims: vec![8, 16],
        kernel_size: 5,
        n_groups: 4,
        diffusion_step_embed_dim: 12,
        use_film_scale_modulation: true,
    };
    // A network of gradients is a network: the keys are the same.
    let mut load = |prefix: &str| {
        let network = config.init(&device).load(&mut golden, prefix);
        network.expect("a network of that shape")
    };
    let (before, gradients, after) = (load("before."), load("gradient."), load("after."));
    let (steps, batch, horizon) = (3, 5, 8);
    let mut read = |name: &str, shape: &[usize]| golden.values(name, shape).expect("recorded");
    let x = read("x", &[steps, batch, horizon, 2]);
    let noise = read("noise", &[steps, batch, horizon, 2]);
    let condition = read("condition", &[steps, batch, 3]);
    let t = read("t", &[steps, batch]);
    let losses = read("losses", &[steps]);
    golden.finish().expect("nothing else is in the file");

    let schedule = Discrete::squared_cosine(100).expect("a schedule");
    let mut network = before.clone().train();
    let mut optimizer = AdamW {
        betas: [0.95, 0.999],
        epsilon: 1e-8,
        weight_decay: 1e-2,
    }
    .init();
    for step in 0..steps {
        let part = |values: &[f32], shape: [usize; 3]| {
            let n: usize = shape.iter().product();
            let data = TensorData::new(values[step * n..][..n].to_vec(), shape);
            Tensor::<3>::from_data(data, &device)
        };
        let points: Vec<Point> = t[step * batch..][..batch]
            .iter()
            .map(|t| Point {
                t: f64::from(*t),
                level: schedule.level(f64::from(*t)),
            })
            .collect();
        let condition = part(&condition, [batch, 3, 1]).reshape([batch, 3]);
        let prepared = network.prepare(&condition);
        let estimate = network.forward(part(&x, [batch, horizon, 2]), &points, &prepared);
        let loss = (estimate - part(&noise, [batch, horizon, 2]))
            .square()
            .mean();
        let value: f32 = loss.clone().into_scalar();
        let error = f64::from(value - losses[step]).abs();
        assert!(
            error < LOSS,
            "step {step}: a loss of {}, not {value}",
            losses[step]
        );
        let computed = GradientsParams::from_grads(loss.backward(), &network);
        if step == 0 {
            let mut of = Gradients(&computed, Vec::new());
            network.visit(&mut of);
            let expected = values(&gradients);
            assert_eq!(of.1.len(), expected.len());
            for (i, ((_, expected), computed)) in expected.iter().zip(&of.1).enumerate() {
                let error = distance(expected, computed);
                let tolerance = (GRADIENT * largest(expected)).max(NO_GRADIENT);
                assert!(error < tolerance, "gradient {i}: {error:e}");
            }
        }
        network = optimizer.step(RATE, network, computed);
    }
    let trained: Vec<bool> = values(&gradients)
        .iter()
        .map(|(_, gradient)| largest(gradient) > NO_GRADIENT)
        .collect();
    assert_eq!(trained.iter().filter(|it| !**it).count(), 1);
    let pairs = values(&after).into_iter().zip(values(&network));
    for (i, ((_, expected), (_, computed))) in pairs.enumerate().filter(|(i, _)| trained[*i]) {
        let error = distance(&expected, &computed);
        assert!(error < PARAMETER * RATE, "parameter {i}: {error:e}");
    }
    // The steps went somewhere: each of them by about the learning rate.
    let moved = values(&before).into_iter().zip(values(&network));
    for (i, ((_, before), (_, after))) in moved.enumerate() {
        assert!(distance(&before, &after) > RATE, "parameter {i} stayed");
    }
}
