//! From noise to data in the plane: a schedule, a denoiser in closed form, three solvers, one picture.
//!
//! ```text
//! cargo run --release -p clearway-examples --example 01_toy [PICTURE.png]
//! ```
//!
//! The data are points near a spiral. Everything here is what a robot's planner or Stable Diffusion does, with two
//! numbers a sample in place of a trajectory or an image, and a formula in place of the network.

#![allow(clippy::print_stdout, reason = "an example talks to its reader")]

use std::error::Error;
use std::path::{Path, PathBuf};

use burn::tensor::{Device, Tensor, TensorData, activation::softmax};
use clearway_diffusion::{
    Ddim, Ddpm, Denoiser, Discrete, DpmSolver2M, End, Estimate, Grid, Inpaint, Level, Noise, Pins,
    Point, Sampler, Schedule, Seeded, Solver, normal, timesteps,
};
use plotters::prelude::*;

const SAMPLES: usize = 2000;

fn main() -> Result<(), Box<dyn Error>> {
    let device = Device::flex();

    // 1. The data, and with them the denoiser: what a network learns from examples, here is a formula.
    let spiral = Mixture::spiral(&device);

    // 2. The schedule says how much signal and how much noise a sample has at a time: x_t = alpha · x₀ + sigma · ε.
    //    This is the table of most robot policies; at its last time, 99, almost no signal is left.
    let schedule = Discrete::squared_cosine(100)?;
    for t in [99.0, 49.0, 24.0, 11.0, 0.0] {
        let Level { alpha, sigma } = schedule.level(t);
        println!("t = {t:2}   alpha {alpha:.3}   sigma {sigma:.3}");
    }

    // 3. A solver says how to walk from noise to data; a step is a pass through the network. How near the samples come
    //    to the data is their energy distance, which falls with the steps to that of exact samples.
    let solvers: [(&str, &dyn Solver, usize); 3] = [
        ("DDPM", &Ddpm::default(), 100),
        ("DDIM", &Ddim::default(), 8),
        ("DPM-Solver++(2M)", &DpmSolver2M::default(), 8),
    ];
    let truth = spiral.draw(&mut Seeded::new(1, SAMPLES));
    println!("\n1000 · energy distance to the data, by steps");
    println!("                       2       4       8      16      32     100");
    for (name, solver, _) in solvers {
        print!("{name:16}");
        for steps in [2, 4, 8, 16, 32, 100] {
            let walk = Walk::new(&spiral, &schedule, solver, steps)?;
            print!("{:8.1}", 1000.0 * energy_distance(walk.result(), &truth));
        }
        println!();
    }
    let floor = 1000.0 * mean_distance(&truth, &truth) / SAMPLES as f64;
    println!("exact samples   {floor:8.1} on average");

    // 4. What changes the samples wraps the denoiser; the solver never learns of it. A pin fixes what is known: here
    //    the second number of each sample, in a plan its start and goal, in a picture the part that stays. What is
    //    pinned is exact; the rest gathers where the spiral crosses the line.
    let row = |values: [f32; 2]| Tensor::from_data(TensorData::from([values]), &device);
    let pinned = Inpaint {
        denoiser: spiral.clone(),
        pins: Pins::new(row([0.0, 1.0]), row([0.0, 0.0])),
    };
    let pinned = Walk::new(&pinned, &schedule, &DpmSolver2M::default(), 32)?;
    let off = pinned.result().iter().map(|x| x[1].abs());
    println!(
        "\npinned to y = 0: the largest |y| is {}",
        off.fold(0.0, f32::max)
    );

    // 5. The picture.
    let path = std::env::args_os().nth(1);
    let path = path.map_or_else(|| PathBuf::from("target/01_toy.png"), PathBuf::from);
    let mut walks = vec![];
    for (_, solver, steps) in solvers {
        walks.push(Walk::new(&spiral, &schedule, solver, steps)?);
    }
    walks.push(pinned);
    draw(&path, &spiral, &walks)?;
    println!("\n{}", path.display());
    println!("down:   DDPM in 100 steps, DDIM in 8, DPM-Solver++(2M) in 8, and pinned");
    println!("across: t = 99, 49, 24, 11, the samples, and the ways of some of them");
    println!("A sample keeps the colour of where it arrives. DDIM and DPM-Solver++ follow a flow,");
    println!("so the noise is cut into regions; DDPM forgets where it came from.");
    Ok(())
}

/// Data whose density is known: normal distributions of equal weight and deviation `d` around the points `m_k`.
#[derive(Clone)]
struct Mixture {
    means: Tensor<2>,
    deviation: f64,
}

/// `x̂ = E[x₀ | x]`, the mean of the data that could have become `x`.
///
/// A sample of component `k` is normal at every level, with mean `α m_k` and variance `v = α² d² + σ²`. So
///
/// ```text
/// r_k = softmax_k(−|x − α m_k|² / 2v)            how probably x comes from component k
/// m   = Σ r_k m_k
/// x̂   = m + α d² / v · (x − α m)
/// ε̂   = (x − α x̂) / σ  =  σ / v · (x − α m)
/// ```
impl Denoiser<2> for Mixture {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn denoise(&self, x: Tensor<2>, points: &[Point], (): &()) -> Estimate<2> {
        let Level { alpha, sigma } = points[0].level;
        let variance = (alpha * self.deviation).powi(2) + sigma * sigma;
        // |x|² is the same for all components and falls out of the softmax.
        let centres = self.means.clone().mul_scalar(alpha);
        let squares = centres.clone().powf_scalar(2.0).sum_dim(1).transpose();
        let closeness = x.clone().matmul(centres.transpose()) - squares.div_scalar(2.0);
        let mean = softmax(closeness.div_scalar(variance), 1).matmul(self.means.clone());

        let residual = x - mean.clone().mul_scalar(alpha);
        let gain = alpha * self.deviation.powi(2) / variance;
        Estimate {
            clean: mean + residual.clone().mul_scalar(gain),
            noise: residual.mul_scalar(sigma / variance),
        }
    }
}

impl Mixture {
    const COMPONENTS: usize = 100;

    /// One and three quarters turns, from the middle outwards, about as wide as a standard normal.
    fn spiral(device: &Device) -> Self {
        let means: Vec<f32> = (0..Self::COMPONENTS)
            .flat_map(|k| {
                // Equal lengths of the spiral get equal weights.
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
}

/// The states of all samples, noise first, and the levels at which they are.
struct Walk {
    levels: Vec<Level>,
    states: Vec<Vec<[f32; 2]>>,
}

impl Walk {
    fn new<N: Denoiser<2, Prepared = ()>>(
        denoiser: &N,
        schedule: &Discrete,
        solver: &dyn Solver,
        steps: usize,
    ) -> Result<Self, Box<dyn Error>> {
        // The grid says which levels are visited, the solver makes it a list of stages: numbers, before any network.
        let grid = Grid::at_times(schedule, &timesteps::trailing(schedule, steps)?, End::Clean)?;
        let stages = solver.plan(schedule, &grid)?;

        // The noise comes from a seed: the same seed, the same samples. The sampler is an iterator over steps.
        let mut noise = Seeded::new(7, SAMPLES);
        let start = normal(&mut noise, [SAMPLES, 2], &Device::flex());
        let sampler = Sampler::new(denoiser, &(), &stages, start.clone(), &mut noise);
        let states = std::iter::once(start).chain(sampler.map(|step| step.sample));
        Ok(Self {
            levels: grid.points().iter().map(|point| point.level).collect(),
            states: states.map(points).collect(),
        })
    }

    fn result(&self) -> &[[f32; 2]] {
        &self.states[self.states.len() - 1]
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
/// Since samples are finitely many, `n` exact ones are still `E|a − a'| / n` from their distribution, on average.
///
/// Székely and Rizzo, "Energy statistics: A class of statistics based on distances", 2013.
fn energy_distance(a: &[[f32; 2]], b: &[[f32; 2]]) -> f64 {
    2.0 * mean_distance(a, b) - mean_distance(a, a) - mean_distance(b, b)
}

fn mean_distance(a: &[[f32; 2]], b: &[[f32; 2]]) -> f64 {
    let from = |&p: &[f32; 2]| -> f64 { b.iter().map(|&q| f64::from(distance(p, q))).sum() };
    a.iter().map(from).sum::<f64>() / (a.len() * b.len()) as f64
}

fn distance(p: [f32; 2], q: [f32; 2]) -> f32 {
    (p[0] - q[0]).hypot(p[1] - q[1])
}

/// A row a walk: the samples at five levels, then the ways of some of them.
fn draw(path: &Path, spiral: &Mixture, walks: &[Walk]) -> Result<(), Box<dyn Error>> {
    const PANEL: u32 = 340;
    const PAPER: RGBColor = RGBColor(252, 251, 248);
    const GREY: RGBColor = RGBColor(208, 206, 200);
    let size = (6 * PANEL, walks.len() as u32 * PANEL);
    let root = BitMapBackend::new(path, size).into_drawing_area();
    root.fill(&PAPER)?;
    let panels = root.split_evenly((walks.len(), 6));
    let means = points(spiral.means.clone());

    for (walk, row) in walks.iter().zip(panels.chunks(6)) {
        // A sample keeps one colour on its way: that of the place on the spiral where it arrives.
        let colours: Vec<RGBColor> = walk.result().iter().map(|&x| colour(x, &means)).collect();
        let steps = walk.states.len() - 1;
        for (column, area) in row.iter().enumerate() {
            let index = (steps * [0, 4, 6, 7, 8, 8][column]).div_ceil(8);
            let mut chart =
                ChartBuilder::on(area).build_cartesian_2d(-3.2f32..3.2, -3.2f32..3.2)?;
            // In grey what is left of the signal: the spiral, times alpha.
            let alpha = walk.levels[index].alpha as f32;
            let signal = means.iter().map(|mean| (alpha * mean[0], alpha * mean[1]));
            chart.draw_series(LineSeries::new(signal, GREY.stroke_width(2)))?;
            let (mut shown, mut radius) = (SAMPLES, 1);
            if column == 5 {
                // Whole ways, and few of them where a way is long.
                (shown, radius) = (50.min(1000 / steps), 3);
                for (sample, colour) in colours.iter().enumerate().take(shown) {
                    let way = walk.states.iter().map(|state| state[sample].into());
                    chart.draw_series(LineSeries::new(way, colour.mix(0.6)))?;
                }
            }
            let dots = walk.states[index].iter().zip(&colours).take(shown);
            let dot = |(&x, colour): (&[f32; 2], &RGBColor)| {
                Circle::new(x.into(), radius, colour.filled())
            };
            chart.draw_series(dots.map(dot))?;
        }
    }
    root.present()?;
    Ok(())
}

/// The colour of the nearest component: from blue in the middle of the spiral to red at its end.
fn colour(x: [f32; 2], means: &[[f32; 2]]) -> RGBColor {
    const STOPS: [[f32; 3]; 4] = [
        [38.0, 60.0, 120.0],
        [42.0, 140.0, 140.0],
        [226.0, 160.0, 60.0],
        [190.0, 60.0, 50.0],
    ];
    let nearest = |&i: &usize, &j: &usize| distance(x, means[i]).total_cmp(&distance(x, means[j]));
    let nearest = (0..means.len()).min_by(nearest).unwrap_or_default();
    let place = 3.0 * nearest as f32 / means.len() as f32;
    let (stop, share) = (place as usize, place.fract());
    let mixed = |i: usize| STOPS[stop][i] + share * (STOPS[stop + 1][i] - STOPS[stop][i]);
    RGBColor(mixed(0) as u8, mixed(1) as u8, mixed(2) as u8)
}
