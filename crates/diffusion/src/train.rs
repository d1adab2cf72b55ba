//! What a training loop is made of: levels, losses, learning rates, clipping and averages.
//!
//! ```text
//! Levels --seed, step--> points      Parameterized::loss(clean, noise, points) --backward--> gradients
//!                                                     |                              |
//!                                                 Weighting                        clip
//!                                                                                    |
//!                                  Ema <-- network <-- optimizer <-- WarmUpCosine <--+
//! ```
//!
//! [`Fitting`] is a step of all of these, and the recipes say with which numbers. What is drawn depends on the seed and the
//! number of the step alone, so that a run that is interrupted needs to remember
//! nothing but how far it came.

mod fitting;
mod initialize;
mod order;
mod recipe;

use std::f64::consts::PI;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::GradientsParams;
use burn::tensor::Tensor;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;
use rand_distr::{Distribution, StandardNormal, StandardUniform};

pub use fitting::{Fitting, NonFinite, Step};
pub use initialize::initialize;
pub use order::{Batches, Order};
pub use recipe::{AverageRecipe, OptimizerKind, OptimizerRecipe, WeightingRecipe, WrongValue};

use crate::parameterization::scaled;
use crate::{Level, Network, Parameterized, Point, Schedule};

/// Which levels a network is trained at.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Levels {
    /// Each whole number of the schedule's domain as often: the timesteps of a table.
    ///
    /// Ho et al., "Denoising Diffusion Probabilistic Models", 2020, arXiv:2006.11239, algorithm 1.
    Timesteps,
    /// Each time of the schedule's domain as often.
    Uniform,
    /// `ln(sigma / alpha)` is normal; EDM has a mean of -1.2 and a deviation of 1.2.
    ///
    /// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364, table 1.
    LogNormal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        deviation: f64,
    },
    /// `1 / (1 + e⁻ⁿ)` of a normal `n` is the share of the schedule's domain that lies below: the middle more often than the
    /// ends. Stable Diffusion 3 has a mean of 0 and a deviation of 1.
    ///
    /// Esser et al., "Scaling Rectified Flow Transformers for High-Resolution Image Synthesis", 2024, arXiv:2403.03206,
    /// section 3.1.
    LogitNormal {
        /// The mean.
        mean: f64,
        /// The standard deviation.
        deviation: f64,
    },
}

impl Levels {
    /// A point for each of `count` samples, in the training step `step` of a seed.
    ///
    /// The generator is ChaCha with 8 rounds: key = seed, stream = step.
    pub fn draw(self, schedule: &dyn Schedule, seed: u64, step: u64, count: usize) -> Vec<Point> {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        generator.set_stream(step);
        let (first, last) = schedule.domain().into_inner();
        let mut draw = || {
            let mut normal = |mean: f64, deviation: f64| {
                let n: f64 = StandardNormal.sample(&mut generator);
                mean + deviation * n
            };
            match self {
                Self::LogNormal { mean, deviation } => {
                    schedule.snap(schedule.time(normal(mean, deviation).exp()))
                }
                Self::LogitNormal { mean, deviation } => {
                    let share = 1.0 / (1.0 + (-normal(mean, deviation)).exp());
                    schedule.snap(first + share * (last - first))
                }
                Self::Uniform => {
                    let share: f64 = StandardUniform.sample(&mut generator);
                    first + share * (last - first)
                }
                Self::Timesteps => {
                    let share: f64 = StandardUniform.sample(&mut generator);
                    // The share is below 1; its product with a large domain may be rounded up.
                    (first + (share * (last - first + 1.0)).floor()).min(last)
                }
            }
        };
        let point = |t| Point {
            t,
            level: schedule.level(t),
        };
        (0..count).map(|_| point(draw())).collect()
    }
}

/// How much the error at a level counts.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum Weighting {
    /// The squared error of what the network predicts, whatever that is.
    ///
    /// Of a network that predicts noise it is the simple loss of Ho et al., 2020, arXiv:2006.11239, equation 14.
    Uniform,
    /// The squared error of the clean estimate, times `min(SNR, gamma)`, with `SNR = alpha² / sigma²`; usually gamma is 5.
    ///
    /// Hang et al., "Efficient Diffusion Training via Min-SNR Weighting Strategy", 2023, arXiv:2303.09556, section 3.4.
    MinSnr {
        /// From which ratio on all levels count as much.
        gamma: f64,
    },
    /// The squared error of the clean estimate, times `(σ² + σd²) / (σ σd)²`, with σ in units of alpha: what EDM's network
    /// answers then counts as much everywhere.
    ///
    /// Karras et al., 2022, arXiv:2206.00364, table 1.
    Edm {
        /// The standard deviation of the data.
        sigma_data: f64,
    },
}

impl Weighting {
    /// The weight of the squared error of what the network answers.
    ///
    /// The clean estimate's error is `output` times that of the answer, and the noise's `noise_output = -output · α/σ` times:
    /// `SNR · output²` is `noise_output²`, which is a number where the signal or the noise is gone too.
    fn of<N>(self, network: &Parameterized<N>, level: Level) -> f64 {
        let scalings = network.scalings(level);
        let of_clean = scalings.output * scalings.output;
        let of_snr = scalings.noise_output * scalings.noise_output;
        match self {
            Self::Uniform => 1.0,
            Self::MinSnr { gamma } => of_snr.min(gamma * of_clean),
            Self::Edm { sigma_data } => of_snr + of_clean / (sigma_data * sigma_data),
        }
    }
}

/// A tensor whose samples are multiplied by a factor of their levels.
fn of_levels<const D: usize>(
    tensor: &Tensor<D>,
    points: &[Point],
    factor: &dyn Fn(Level) -> f64,
) -> Tensor<D> {
    let factors: Vec<f64> = points.iter().map(|point| factor(point.level)).collect();
    scaled(tensor, &factors).unwrap_or_else(|| tensor.zeros_like())
}

impl<N> Parameterized<N> {
    /// The weighted squared error of what the network answers, number by number: for losses of which parts are masked.
    ///
    /// The network is shown `alpha · clean + sigma · noise`, as it is when it samples.
    ///
    /// # Shapes
    ///
    /// - clean, noise, returns: `[batch, ..]`
    /// - points: one for all samples, or one a sample
    pub fn errors<const D: usize>(
        &self,
        [clean, noise]: [Tensor<D>; 2],
        points: &[Point],
        prepared: &N::Prepared,
        weighting: Weighting,
    ) -> Tensor<D>
    where
        N: Network<D>,
    {
        let input = self.shown([clean.clone(), noise.clone()], points);
        let target = of_levels(&clean, points, &|it| self.target(it).clean)
            + of_levels(&noise, points, &|it| self.target(it).noise);
        let answer = self.network().forward(input, points, prepared);
        self.weighted(&(answer - target).square(), points, weighting)
    }

    /// What the network is shown of samples with so much noise.
    ///
    /// # Shapes
    ///
    /// As [`errors`](Self::errors).
    pub fn shown<const D: usize>(
        &self,
        [clean, noise]: [Tensor<D>; 2],
        points: &[Point],
    ) -> Tensor<D> {
        of_levels(&clean, points, &|it| it.alpha * self.scalings(it).input)
            + of_levels(&noise, points, &|it| it.sigma * self.scalings(it).input)
    }

    /// Squared errors of what the network answers, as much as they count.
    ///
    /// # Shapes
    ///
    /// As [`errors`](Self::errors).
    pub fn weighted<const D: usize>(
        &self,
        squares: &Tensor<D>,
        points: &[Point],
        weighting: Weighting,
    ) -> Tensor<D> {
        of_levels(squares, points, &|it| weighting.of(self, it))
    }

    /// The mean of [`errors`](Self::errors): what a training step makes smaller.
    ///
    /// # Shapes
    ///
    /// As [`errors`](Self::errors).
    pub fn loss<const D: usize>(
        &self,
        sample: [Tensor<D>; 2],
        points: &[Point],
        prepared: &N::Prepared,
        weighting: Weighting,
    ) -> Tensor<1>
    where
        N: Network<D>,
    {
        self.errors(sample, points, prepared, weighting).mean()
    }
}

/// A learning rate that rises in a line and falls as a cosine to zero.
///
/// ```text
/// lr(step) = peak · step / warm_up                                    for step < warm_up
///            peak · (1 + cos(π (step - warm_up) / (steps - warm_up))) / 2   until the last step
/// ```
///
/// It is the `cosine` schedule of diffusers and LeRobot, whose steps count from zero: with a warm-up the first step's rate
/// is zero.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WarmUpCosine {
    /// The largest rate.
    pub peak: f64,
    /// How many steps rise.
    pub warm_up: u64,
    /// How many steps there are.
    pub steps: u64,
}

impl WarmUpCosine {
    /// The rate of a step, counted from zero; zero from the end on.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return self.peak * step as f64 / self.warm_up as f64;
        }
        let falling = self.steps.saturating_sub(self.warm_up).max(1);
        let share = ((step - self.warm_up) as f64 / falling as f64).min(1.0);
        self.peak * 0.5 * (1.0 + (PI * share).cos())
    }
}

/// Scales all gradients of a network down together, so that the root of the sum of their squares is at most `most`, and
/// returns what it was: PyTorch's `clip_grad_norm_`, with its `1e-6` in the denominator.
///
/// burn's own clipping is of each parameter by itself. A norm that is not finite changes nothing: it is for the caller to
/// stop or to leave the step out.
///
/// # Panics
///
/// If `most` is not positive.
pub fn clip<M: Module>(gradients: &mut GradientsParams, network: &M, most: f64) -> f64 {
    assert!(most > 0.0, "gradients cannot be clipped to {most}");
    let mut norm = SquareSum {
        gradients,
        sum: 0.0,
    };
    network.visit(&mut norm);
    let norm = norm.sum.sqrt();
    let factor = most / (norm + 1e-6);
    if norm.is_finite() && factor < 1.0 {
        network.visit(&mut Scale { gradients, factor });
    }
    norm
}

struct SquareSum<'a> {
    gradients: &'a GradientsParams,
    sum: f64,
}

impl ModuleVisitor for SquareSum<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(parameter.id) {
            let sum: f32 = gradient.square().sum().into_scalar();
            self.sum += f64::from(sum);
        }
    }
}

struct Scale<'a> {
    gradients: &'a mut GradientsParams,
    factor: f64,
}

impl ModuleVisitor for Scale<'_> {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(parameter.id) {
            let gradient = gradient.mul_scalar(self.factor);
            self.gradients.register::<D>(parameter.id, gradient);
        }
    }
}

/// How fast an average of weights forgets.
///
/// ```text
/// decay(n) = 1 - (1 + n / inverse_gamma)^-power, between 0 and `most`
/// ```
///
/// after `n` steps: young averages forget fast, because what they began with is worth nothing. It is diffusers' `EMAModel`
/// with `use_ema_warmup`, and what LeRobot's authors trained Diffusion Policy with.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Decay {
    /// What the decay never exceeds.
    pub most: f64,
    /// The scale of time, in steps.
    pub inverse_gamma: f64,
    /// How fast the decay approaches one; 2/3 for a million steps, 3/4 for fewer.
    pub power: f64,
}

impl Default for Decay {
    fn default() -> Self {
        Self {
            most: 0.9999,
            inverse_gamma: 1.0,
            power: 0.75,
        }
    }
}

impl Decay {
    /// The decay of the update that `updates` others preceded.
    pub fn after(&self, updates: u64) -> f64 {
        let decay = 1.0 - (1.0 + updates as f64 / self.inverse_gamma).powf(-self.power);
        decay.clamp(0.0, self.most)
    }
}

/// An exponential moving average of a network's weights: `average ← decay · average + (1 - decay) · weights`.
///
/// It is a network of its own, off autodiff: what is evaluated and shipped.
#[derive(Clone, Debug)]
pub struct Ema<M> {
    network: M,
    decay: Decay,
    updates: u64,
}

impl<M: Module> Ema<M> {
    /// An average that begins with the weights of a network.
    pub fn new(network: &M, decay: Decay) -> Self {
        Self::resume(network.valid(), decay, 0)
    }

    /// An average that was updated before: as it was saved.
    pub fn resume(network: M, decay: Decay, updates: u64) -> Self {
        Self {
            network,
            decay,
            updates,
        }
    }

    /// The network of averaged weights.
    pub fn network(&self) -> &M {
        &self.network
    }

    /// How often it was updated.
    pub fn updates(&self) -> u64 {
        self.updates
    }

    /// Takes the weights of a network in, which must be the one that the average began with, some steps later.
    ///
    /// # Panics
    ///
    /// If the network has other parameters.
    pub fn update(&mut self, network: &M) {
        let mut weights = Collect(GradientsParams::new());
        network.visit(&mut weights);
        let mut blend = Blend {
            weights: weights.0,
            decay: self.decay.after(self.updates),
        };
        self.network = self.network.clone().map(&mut blend);
        assert!(blend.weights.is_empty(), "an average of another network");
        self.updates += 1;
    }
}

/// Tensors of every rank by the names of their parameters; burn's map of gradients is that, whatever they are.
struct Collect(GradientsParams);

impl ModuleVisitor for Collect {
    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let weights = parameter.val().inner();
        self.0.register::<D>(parameter.id, weights);
    }
}

struct Blend {
    weights: GradientsParams,
    decay: f64,
}

impl ModuleMapper for Blend {
    fn map_float<const D: usize>(&mut self, parameter: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let weights = self.weights.remove::<D>(parameter.id);
        let weights = weights.expect("an average of another network");
        let decay = self.decay;
        parameter.map(|average| average.mul_scalar(decay) + weights.mul_scalar(1.0 - decay))
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, TensorData};

    use super::*;
    use crate::{Discrete, Edm, FlowMatching, Line, Noise, Parameterization, Seeded, normal};

    /// Answers `weight · x`.
    #[derive(Module, Debug)]
    struct Scaling {
        weight: Param<Tensor<1>>,
    }

    impl Scaling {
        fn new(weight: f32) -> Self {
            Self {
                weight: Param::from_tensor(Tensor::from_floats([weight], &Device::flex())),
            }
        }

        fn value(&self) -> f32 {
            self.weight.val().into_scalar()
        }
    }

    impl Network<2> for Scaling {
        type Condition = ();
        type Prepared = ();

        fn prepare(&self, (): &()) {}

        fn forward(&self, x: Tensor<2>, _: &[Point], (): &()) -> Tensor<2> {
            x * self.weight.val().unsqueeze()
        }
    }

    fn point(level: Level) -> Point {
        Point { t: 0.0, level }
    }

    #[test]
    fn losses_are_their_formulas() {
        let device = Device::flex();
        let (clean, noise) = ([0.5, -2.0], [1.5, 0.25]);
        let tensor =
            |x: [f32; 2]| Tensor::<2>::from_data(TensorData::new(x.to_vec(), [2, 1]), &device);
        let levels = [
            Level {
                alpha: 0.8,
                sigma: 0.6,
            },
            Level {
                alpha: 0.28,
                sigma: 0.96,
            },
        ];
        let snr = levels.map(|it| (it.alpha / it.sigma).powi(2));
        let points = levels.map(point);
        let of = |parameterization, weighting| {
            let network = Parameterized::new(Scaling::new(0.0), parameterization);
            let sample = [tensor(clean), tensor(noise)];
            let loss: f32 = network.loss(sample, &points, &(), weighting).into_scalar();
            f64::from(loss)
        };
        // Of a network that answers zero, the error is what it should have answered.
        let mean = |of: &dyn Fn(usize) -> f64| f64::midpoint(of(0), of(1));
        let clean = clean.map(f64::from);
        let noise = noise.map(f64::from);
        let velocity = |i: usize| levels[i].alpha * noise[i] - levels[i].sigma * clean[i];
        let gamma = 1.0;
        let min_snr = Weighting::MinSnr { gamma };
        let rows = [
            (
                of(Parameterization::Noise, Weighting::Uniform),
                mean(&|i| noise[i].powi(2)),
            ),
            (
                of(Parameterization::Velocity, Weighting::Uniform),
                mean(&|i| velocity(i).powi(2)),
            ),
            (
                of(Parameterization::Noise, min_snr),
                mean(&|i| snr[i].min(gamma) / snr[i] * noise[i].powi(2)),
            ),
            (
                of(Parameterization::Sample, min_snr),
                mean(&|i| snr[i].min(gamma) * clean[i].powi(2)),
            ),
            (
                of(Parameterization::Velocity, min_snr),
                mean(&|i| snr[i].min(gamma) / (snr[i] + 1.0) * velocity(i).powi(2)),
            ),
            (
                of(Parameterization::Sample, Weighting::Edm { sigma_data: 0.5 }),
                mean(&|i| (1.0 / snr[i] + 0.25) / (0.25 / snr[i]) * clean[i].powi(2)),
            ),
        ];
        for (i, (loss, expected)) in rows.into_iter().enumerate() {
            // f32, numbers of a few units.
            assert!(
                (loss - expected).abs() < 1e-6 * (1.0 + expected),
                "{i}: {loss} {expected}"
            );
        }
    }

    #[test]
    fn weights_are_numbers_at_both_ends() {
        let pure = Level {
            alpha: 0.0,
            sigma: 1.0,
        };
        let noise = Parameterized::new((), Parameterization::Noise);
        let sample = Parameterized::new((), Parameterization::Sample);
        let karras = Parameterized::new((), Parameterization::Karras { sigma_data: 0.5 });
        let min_snr = Weighting::MinSnr { gamma: 5.0 };
        assert!((min_snr.of(&noise, pure) - 1.0).abs() < 1e-15);
        assert!((min_snr.of(&sample, Level::CLEAN) - 5.0).abs() < 1e-15);
        // EDM's network and EDM's weighting are made for each other.
        let edm = Weighting::Edm { sigma_data: 0.5 };
        for sigma in [0.002, 0.3, 80.0] {
            let level = Level { alpha: 1.0, sigma };
            assert!((edm.of(&karras, level) - 1.0).abs() < 1e-12);
        }
    }

    /// What the network sees and is asked is what it sees and is asked when it samples on another line.
    #[test]
    fn lines_do_not_change_the_loss() {
        let device = Device::flex();
        let (clean, noise) = (0.7_f32, -1.3_f32);
        let loss = |level: Level, line| {
            let network =
                Parameterized::new(Scaling::new(0.4), Parameterization::Noise).trained_on(line);
            let sample = [clean, noise].map(|x| Tensor::<2>::from_floats([[x]], &device));
            let loss: f32 = network
                .loss(sample, &[point(level)], &(), Weighting::Uniform)
                .into_scalar();
            loss
        };
        let on_line = Line::Preserving.level(2.0);
        let elsewhere = Line::Exploding.level(2.0);
        let (a, b) = (
            loss(on_line, Line::Preserving),
            loss(elsewhere, Line::Preserving),
        );
        assert!((a - b).abs() < 1e-6, "{a} {b}");
    }

    #[test]
    fn draws_depend_on_seed_and_step_alone() {
        let schedule = Discrete::squared_cosine(100).expect("a schedule");
        let draw = |seed, step, count| Levels::Timesteps.draw(&schedule, seed, step, count);
        assert_eq!(draw(3, 7, 10)[..4], draw(3, 7, 4));
        assert_ne!(draw(3, 7, 10), draw(3, 8, 10));
        assert_ne!(draw(3, 7, 10), draw(4, 7, 10));
    }

    #[test]
    fn draws_have_their_distribution() {
        let n = 40_000;
        let table = Discrete::squared_cosine(100).expect("a schedule");
        let mut counts = [0_i32; 100];
        for point in Levels::Timesteps.draw(&table, 1, 0, n) {
            assert_eq!(point.level, table.level(point.t));
            counts[point.t as usize] += 1;
        }
        // Four hundred of each; five of the twenty that are their deviation, with the odds of a hundred cells.
        assert!(
            counts.iter().all(|count| (300..500).contains(count)),
            "{counts:?}"
        );
        let flow = FlowMatching::new(1.0, 1.0).expect("a schedule");
        let edm = Edm::new(1e-9, 1e9).expect("a schedule");
        let moments = |values: Vec<f64>| {
            let mean = values.iter().sum::<f64>() / n as f64;
            let square = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, square.sqrt())
        };
        let logs = Levels::LogNormal {
            mean: -1.2,
            deviation: 1.5,
        }
        .draw(&edm, 1, 0, n);
        let (mean, deviation) = moments(logs.iter().map(|it| it.level.ratio().ln()).collect());
        // Five standard errors, 1.5/√n and 1.5/√2n.
        assert!((mean + 1.2).abs() < 0.038 && (deviation - 1.5).abs() < 0.027);
        let (first, last) = flow.domain().into_inner();
        let share = |point: &Point| (point.t - first) / (last - first);
        let shares = Levels::LogitNormal {
            mean: 0.5,
            deviation: 1.0,
        }
        .draw(&flow, 1, 0, n);
        let logit = |x: f64| (x / (1.0 - x)).ln();
        let (mean, deviation) = moments(shares.iter().map(|it| logit(share(it))).collect());
        assert!((mean - 0.5).abs() < 0.025 && (deviation - 1.0).abs() < 0.018);
        let uniform = Levels::Uniform.draw(&flow, 1, 0, n);
        let (mean, deviation) = moments(uniform.iter().map(share).collect());
        assert!((mean - 0.5).abs() < 0.008 && (deviation - 1.0 / 12.0_f64.sqrt()).abs() < 0.004);
    }

    #[test]
    fn rates_are_those_of_diffusers() {
        // `get_scheduler("cosine", .., num_warmup_steps=4, num_training_steps=12)` with a rate of 2, at each step.
        let rates = WarmUpCosine {
            peak: 2.0,
            warm_up: 4,
            steps: 12,
        };
        let expected = [
            0.0,
            0.5,
            1.0,
            1.5,
            2.0,
            1.923_879_532_511_286_7,
            1.707_106_781_186_547_6,
            1.382_683_432_365_09,
            1.0,
            0.617_316_567_634_910_2,
            0.292_893_218_813_452_4,
            0.076_120_467_488_713_26,
            0.0,
        ];
        for (step, expected) in expected.into_iter().enumerate() {
            let rate = rates.rate(step as u64);
            assert!((rate - expected).abs() < 1e-15, "step {step}: {rate}");
        }
        assert!(rates.rate(1000).abs() < 1e-15);
    }

    #[test]
    fn averages_forget_as_diffusers_has_it() {
        let decay = Decay {
            most: 0.9,
            ..Decay::default()
        };
        // min(0.9, 1 - (1 + n)^-0.75)
        for (updates, expected) in [
            (0, 0.0),
            (1, 0.405_396_442_498_639_9),
            (9, 0.822_172_058_996_107_7),
            (100, 0.9),
        ] {
            let of = decay.after(updates);
            assert!((of - expected).abs() < 1e-12, "{updates}: {of}");
        }
        let mut network = Scaling::new(3.0).train();
        let mut ema = Ema::new(&network, decay);
        let mut expected = 3.0;
        for (updates, value) in [(0, 5.0), (1, -1.0), (2, 2.0)] {
            network.weight = network
                .weight
                .map(|weight| weight.detach().zeros_like().add_scalar(value));
            ema.update(&network);
            let decay = decay.after(updates);
            expected = decay * expected + (1.0 - decay) * value;
            assert!((f64::from(ema.network().value()) - expected).abs() < 1e-6);
        }
        assert_eq!(ema.updates(), 3);
    }

    #[test]
    #[should_panic(expected = "an average of another network")]
    fn averages_are_of_one_network() {
        Ema::new(&Scaling::new(1.0), Decay::default()).update(&Scaling::new(1.0));
    }

    #[test]
    fn gradients_are_clipped_together() {
        let device = Device::flex();
        let networks = vec![Scaling::new(1.0), Scaling::new(2.0)];
        let gradients = || {
            let mut gradients = GradientsParams::new();
            for (network, value) in networks.iter().zip([3.0, -4.0]) {
                let gradient = Tensor::<1>::from_floats([value], &device);
                gradients.register::<1>(network.weight.id, gradient);
            }
            gradients
        };
        let values = |gradients: &GradientsParams| {
            [0, 1].map(|i| {
                let gradient = gradients.get::<1>(networks[i].weight.id);
                gradient.expect("registered").into_scalar::<f32>()
            })
        };
        let mut clipped = gradients();
        assert!((clip(&mut clipped, &networks, 2.0) - 5.0).abs() < 1e-12);
        let [a, b] = values(&clipped);
        assert!((a - 1.2).abs() < 1e-6 && (b + 1.6).abs() < 1e-6, "{a} {b}");
        let mut left = gradients();
        assert!((clip(&mut left, &networks, 6.0) - 5.0).abs() < 1e-12);
        assert_eq!(
            values(&left).map(f32::to_bits),
            [3.0_f32, -4.0].map(f32::to_bits)
        );
    }

    /// Data of deviation `s` are Gaussian, so that the best answer is linear: `ε̂ = σ / (α² s² + σ²) · x`.
    #[test]
    fn training_finds_the_best_linear_denoiser() {
        let (s, level) = (
            0.5,
            Level {
                alpha: 0.8,
                sigma: 0.6,
            },
        );
        let best = level.sigma / (level.alpha.powi(2) * s * s + level.sigma.powi(2));
        let (device, steps) = (Device::flex(), 300);
        let rates = WarmUpCosine {
            peak: 0.02,
            warm_up: 20,
            steps,
        };
        let train = || {
            let mut optimizer = burn::optim::AdamWConfig::new()
                .with_weight_decay(0.0)
                .init();
            let mut network = Scaling::new(0.0).train();
            let mut random = Seeded::new(5, 1);
            for step in 0..steps {
                let mut draw = || normal(&mut random as &mut dyn Noise, [1, 256], &device);
                let sample =
                    [draw().mul_scalar(s), draw()].map(|it: Tensor<2>| it.reshape([256, 1]));
                let denoiser = Parameterized::new(network.clone(), Parameterization::Noise);
                let loss = denoiser.loss(sample, &[point(level)], &(), Weighting::Uniform);
                let mut gradients = GradientsParams::from_grads(loss.backward(), &network);
                clip(&mut gradients, &network, 1.0);
                network = optimizer.step(rates.rate(step), network, gradients);
            }
            network.value()
        };
        let found = train();
        // The last hundred steps of small rates average some 25,000 samples: a standard error of about 0.006.
        assert!(
            (f64::from(found) - best).abs() < 0.03,
            "{found}, not {best}"
        );
        assert_eq!(found.to_bits(), train().to_bits());
    }
}
