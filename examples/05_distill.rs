//! Many steps become few: a teacher in closed form, a student that learns where its steps lead, one table.
//!
//! ```text
//! cargo run --release -p clearway-examples --example 05_distill
//! ```
//!
//! The data are the spiral of `01_toy`. The teacher goes from noise to data in 32 passes; the student is a network of some
//! thousand weights that learns to do it in one or two. `clearway distill` does the same with a robot's policy.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;

use burn::module::Module;
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Tensor, TensorData, activation::softmax};
use clearway_diffusion::distill::{Emphasis, Halving, Jumps, Metric};
use clearway_diffusion::train::{Decay, Ema, WarmUpCosine};
use clearway_diffusion::{
    Consistency, Denoiser, Discrete, End, Estimate, Euler, Grid, Level, Network, Noise,
    Parameterization, Parameterized, Point, Sampler, Seeded, Solver, normal, timesteps,
};
use clearway_layers::activation::silu;
use clearway_layers::{Linear, LinearConfig};

const SAMPLES: usize = 2000;
const BATCH: usize = 512;
const TEACHER_STEPS: usize = 32;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();
    device.seed(1);
    let (spiral, schedule) = (Mixture::spiral(&device), Discrete::squared_cosine(100)?);
    let grid = |steps| -> Result<Grid, Box<dyn Error>> {
        let times = timesteps::trailing(&schedule, steps)?;
        Ok(Grid::at_times(&schedule, &times, End::Clean)?)
    };
    let truth = spiral.draw(&mut Seeded::new(1, SAMPLES));
    let sample = |step| -> [Tensor<2>; 2] {
        let mut random = Seeded::new(step, BATCH);
        let noise = normal(&mut random as &mut dyn Noise, [BATCH, 2], &device);
        let clean = spiral.draw_some(&mut random);
        [clean, noise]
    };

    // 1. A consistency student: from any level it shall see where the teacher's ODE ends. The lesson of a step: one pass of the
    //    teacher, and what an average of the student sees from there.
    let jumps = Jumps::new(&grid(TEACHER_STEPS)?, 1)?;
    let network = Mlp::new(&device).train();
    let decay = Decay {
        most: 0.95,
        ..Decay::default()
    };
    let mut average = Ema::new(&network, decay);
    let consistent = learn(network, 3000, |network, step| {
        let which = jumps.draw(2, step, BATCH);
        let seen = student(average.network());
        let lesson = jumps.lesson((&spiral, &()), (&seen, &()), sample(step), &which);
        let loss = lesson.loss(
            &student(network),
            &(),
            Emphasis::Uniform,
            Metric::PseudoHuber { c: 0.03 },
        );
        average.update(network);
        loss
    });

    // 2. A progressive student: one step for two of its teacher, whose place it then takes. The first teacher is the formula.
    let mut halved: Vec<(usize, Mlp)> = Vec::new();
    let mut steps = TEACHER_STEPS;
    while steps > 1 {
        let halving = Halving::new(&grid(steps)?)?;
        let begin = match halved.last() {
            Some((_, teacher)) => teacher.clone(),
            None => Mlp::new(&device),
        };
        let teacher = halved.last().map(|(_, network)| network.clone());
        let network = learn(begin.train(), 600, |network, step| {
            let which = halving.draw(3, step, BATCH);
            let lesson = match &teacher {
                None => halving.lesson(&spiral, sample(step), &which, &()),
                Some(it) => halving.lesson(&student(it), sample(step), &which, &()),
            };
            let emphasis = Emphasis::TruncatedSnr;
            lesson.loss(&student(network), &(), emphasis, Metric::Squared)
        });
        steps = halving.steps();
        halved.push((steps, network));
    }

    // 3. How near the samples of each come to the data.
    println!("1000 · energy distance to the data, by passes");
    println!("                       1       2       4       8      32");
    let all = [1, 2, 4, 8, TEACHER_STEPS];
    let row = |name: &str, of: &dyn Fn(usize) -> Option<Result<f64, Box<dyn Error>>>| {
        print!("{name:16}");
        for steps in all {
            match of(steps) {
                Some(distance) => print!("{:8.1}", 1000.0 * distance?),
                None => print!("{:>8}", "-"),
            }
        }
        println!();
        Ok::<_, Box<dyn Error>>(())
    };
    let measure = |walked: Result<Vec<[f32; 2]>, Box<dyn Error>>| {
        walked.map(|samples| energy_distance(&samples, &truth))
    };
    row("teacher", &|steps| {
        Some(measure(walk(
            &spiral,
            &schedule,
            &grid(steps).ok()?,
            &Euler,
        )))
    })?;
    row("progressive", &|steps| {
        let (_, network) = halved.iter().find(|it| it.0 == steps)?;
        Some(measure(walk(
            &student(network),
            &schedule,
            &grid(steps).ok()?,
            &Euler,
        )))
    })?;
    row("consistency", &|steps| {
        let solver = Consistency::default();
        let student = student(&consistent);
        let walked = walk(&student, &schedule, &grid(steps).ok()?, &solver);
        (steps < TEACHER_STEPS).then(|| measure(walked))
    })?;
    let floor = 1000.0 * mean_distance(&truth, &truth) / SAMPLES as f64;
    println!("exact samples   {floor:8.1} on average");
    Ok(())
}

/// Students predict the sample: at the first level of few steps, a network that predicts noise says nothing.
fn student(network: &Mlp) -> Parameterized<&Mlp> {
    Parameterized::new(network, Parameterization::Sample)
}

/// Makes steps with the losses that `loss` says.
fn learn(network: Mlp, steps: u64, mut loss: impl FnMut(&Mlp, u64) -> Tensor<1>) -> Mlp {
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let rates = WarmUpCosine {
        peak: 3e-3,
        warm_up: 50,
        steps,
    };
    let mut network = network;
    for step in 0..steps {
        let gradients = loss(&network, step).backward();
        let gradients = GradientsParams::from_grads(gradients, &network);
        network = optimizer.step(rates.rate(step), network, gradients);
    }
    network.valid()
}

/// From noise to samples.
fn walk<N: Denoiser<2, Prepared = ()>>(
    denoiser: &N,
    schedule: &Discrete,
    grid: &Grid,
    solver: &dyn Solver,
) -> Result<Vec<[f32; 2]>, Box<dyn Error>> {
    let stages = solver.plan(schedule, grid)?;
    let mut noise = Seeded::new(7, SAMPLES);
    let shape = [SAMPLES, 2];
    let device = Device::flex();
    let sampler = Sampler::from_noise(denoiser, &(), &stages, shape, &device, &mut noise);
    Ok(points(sampler.finish()))
}

/// A perceptron that sees a point of the plane and the level's time.
#[derive(Module, Debug)]
struct Mlp {
    layers: Vec<Linear>,
}

impl Mlp {
    const WIDTH: usize = 96;
    /// Pairs of sine and cosine that tell the time.
    const WAVES: usize = 6;

    fn new(device: &Device) -> Self {
        let sizes = [
            2 + 2 * Self::WAVES,
            Self::WIDTH,
            Self::WIDTH,
            Self::WIDTH,
            2,
        ];
        let layer = |pair: &[usize]| {
            let config = LinearConfig {
                d_input: pair[0],
                d_output: pair[1],
                bias: true,
            };
            config.init(device)
        };
        Self {
            layers: sizes.windows(2).map(layer).collect(),
        }
    }
}

impl Network<2> for Mlp {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn forward(&self, x: Tensor<2>, points: &[Point], (): &()) -> Tensor<2> {
        let batch = x.dims()[0];
        let waves = points.iter().flat_map(|point| {
            (0..Self::WAVES).flat_map(|wave| {
                let angle = point.t / 100.0 * f64::from(1 << wave);
                [angle.sin() as f32, angle.cos() as f32]
            })
        });
        let waves = TensorData::new(waves.collect(), [points.len(), 2 * Self::WAVES]);
        let waves: Tensor<2> = Tensor::from_data(waves, &x.device());
        let mut x = Tensor::cat(vec![x, waves.expand([batch, 2 * Self::WAVES])], 1);
        let last = self.layers.len() - 1;
        for (i, layer) in self.layers.iter().enumerate() {
            x = layer.forward(x);
            if i < last {
                x = silu(x);
            }
        }
        x
    }
}

/// Data whose density is known: normal distributions of equal weight and deviation `d` around the points `m_k`; the formulas
/// are derived in `01_toy`.
struct Mixture {
    means: Tensor<2>,
    deviation: f64,
}

impl Denoiser<2> for Mixture {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn denoise(&self, x: Tensor<2>, points: &[Point], (): &()) -> Estimate<2> {
        let column = |of: &dyn Fn(Level) -> f64| -> Tensor<2> {
            let values: Vec<f32> = points.iter().map(|point| of(point.level) as f32).collect();
            Tensor::from_data(TensorData::new(values, [points.len(), 1]), &x.device())
        };
        let variance = |level: Level| (level.alpha * self.deviation).powi(2) + level.sigma.powi(2);
        let (alpha, own) = (column(&|it| it.alpha), column(&variance));
        // −|x − α m|²/2v, without |x|², which is the same for all components.
        let squares = self.means.clone().square().sum_dim(1).transpose();
        let closeness = x.clone().matmul(self.means.clone().transpose()) * alpha.clone()
            - squares * alpha.clone().square().div_scalar(2.0);
        let mean = softmax(closeness / own, 1).matmul(self.means.clone());
        let residual = x.clone() - mean.clone() * alpha;
        let gain = column(&|it| it.alpha * self.deviation.powi(2) / variance(it));
        let share = column(&|it| it.sigma / variance(it));
        Estimate {
            clean: mean + residual.clone() * gain,
            noise: residual * share,
        }
    }
}

impl Mixture {
    const COMPONENTS: usize = 100;

    /// One and three quarters turns, from the middle outwards, about as wide as a standard normal.
    fn spiral(device: &Device) -> Self {
        let means: Vec<f32> = (0..Self::COMPONENTS)
            .flat_map(|k| {
                let along = ((k as f32 + 0.5) / Self::COMPONENTS as f32).sqrt();
                let (sin, cos) = (along * 3.5 * std::f32::consts::PI).sin_cos();
                [2.2 * along * cos, 2.2 * along * sin]
            })
            .collect();
        let means = TensorData::new(means, [Self::COMPONENTS, 2]);
        Self {
            means: Tensor::from_data(means, device),
            deviation: 0.06,
        }
    }

    /// Samples of the data themselves, as many of each component.
    fn draw(&self, noise: &mut Seeded) -> Vec<[f32; 2]> {
        let means = points(self.means.clone());
        let noise = noise.draw(&[SAMPLES, 2]);
        let sample = |(mean, noise): (&[f32; 2], &[f32])| {
            [0, 1].map(|i| mean[i] + self.deviation as f32 * noise[i])
        };
        means
            .iter()
            .cycle()
            .zip(noise.chunks_exact(2))
            .map(sample)
            .collect()
    }

    /// A batch of samples, of components that follow one another.
    fn draw_some(&self, noise: &mut Seeded) -> Tensor<2> {
        let device = self.means.device();
        let rows: Vec<i32> = (0..).take(Self::COMPONENTS).cycle().take(BATCH).collect();
        let rows = Tensor::from_data(TensorData::new(rows, [BATCH]), &device);
        let spread: Tensor<2> = normal(noise as &mut dyn Noise, [BATCH, 2], &device);
        self.means.clone().select(0, rows) + spread.mul_scalar(self.deviation)
    }
}

fn points(tensor: Tensor<2>) -> Vec<[f32; 2]> {
    let values: Vec<f32> = tensor.into_data().try_to_vec().expect("f32");
    values
        .chunks_exact(2)
        .map(|pair| [pair[0], pair[1]])
        .collect()
}

/// `2 E|a − b| − E|a − a'| − E|b − b'|`, zero where two distributions are the same.
///
/// Székely and Rizzo, "Energy statistics: A class of statistics based on distances", 2013.
fn energy_distance(a: &[[f32; 2]], b: &[[f32; 2]]) -> f64 {
    2.0 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)
}

fn mean_distance(a: &[[f32; 2]], b: &[[f32; 2]]) -> f64 {
    let distance = |p: [f32; 2], q: [f32; 2]| f64::from((p[0] - q[0]).hypot(p[1] - q[1]));
    let from = |&p: &[f32; 2]| -> f64 { b.iter().map(|&q| distance(p, q)).sum() };
    a.iter().map(from).sum::<f64>() / (a.len() * b.len()) as f64
}
