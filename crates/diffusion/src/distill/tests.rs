//! Students of a Gaussian: teacher, student and consistency function are affine, and known in closed form.

use burn::module::{Module, Param};
use burn::optim::{AdamWConfig, GradientsParams};
use burn::tensor::{Device, Int, TensorData};

use super::*;
use crate::train::{Decay, Ema, Levels, WarmUpCosine, Weighting};
use crate::{
    Consistency, Discrete, End, Gaussian, Grid, Guidance, Lcm, Network, Noise, Parameterization,
    Parameterized, Sampler, Schedule, Seeded, Solver, Stack, normal, timesteps,
};

/// What the data are drawn from.
const DATA: Gaussian = Gaussian {
    mean: 0.4,
    deviation: 0.3,
};

/// The timesteps of the schedule, and the most steps.
const TIMES: usize = 16;

/// How far coefficients may be from what is exact where a regression has no residual: AdamW's last steps are of a learning rate
/// that falls to zero.
const EXACT: f64 = 2e-3;
/// Where a fake score is learned from noise: some 10⁵ samples, of which the last thousands count.
const DRAWN: f64 = 0.03;

/// Answers `weight · x + bias`, with two numbers for each timestep.
#[derive(Module, Debug)]
struct Affine {
    weight: Param<Tensor<1>>,
    bias: Param<Tensor<1>>,
}

impl Affine {
    fn new() -> Self {
        let zeros = || Param::from_tensor(Tensor::zeros([TIMES], &Device::flex()));
        Self {
            weight: zeros(),
            bias: zeros(),
        }
    }

    /// The two numbers of a timestep.
    fn at(&self, t: f64) -> [f64; 2] {
        [&self.weight, &self.bias].map(|it| {
            let all: Vec<f32> = it.val().inner().into_data().try_to_vec().expect("f32");
            f64::from(all[t as usize])
        })
    }
}

impl<const D: usize> Network<D> for Affine {
    type Condition = ();
    type Prepared = ();

    fn prepare(&self, (): &()) {}

    fn forward(&self, x: Tensor<D>, points: &[Point], (): &()) -> Tensor<D> {
        let times: Vec<i64> = points.iter().map(|point| point.t as i64).collect();
        let count = times.len();
        let times = Tensor::<1, Int>::from_data(TensorData::new(times, [count]), &x.device());
        let mut shape = [1; D];
        shape[0] = count;
        let of = |numbers: &Param<Tensor<1>>| {
            let chosen: Tensor<1> = numbers.val().select(0, times.clone());
            chosen.reshape(shape)
        };
        x * of(&self.weight) + of(&self.bias)
    }
}

/// `gain · x + bias`.
#[derive(Clone, Copy, Debug)]
struct Line {
    gain: f64,
    bias: f64,
}

impl Line {
    const SAME: Self = Self {
        gain: 1.0,
        bias: 0.0,
    };

    fn after(self, first: Self) -> Self {
        Self {
            gain: self.gain * first.gain,
            bias: self.gain * first.bias + self.bias,
        }
    }

    fn of(f: impl Fn(f64) -> f64) -> Self {
        Self {
            gain: f(1.0) - f(0.0),
            bias: f(0.0),
        }
    }

    /// A DDIM step of whoever sees `clean`.
    fn step(clean: Self, at: Level, to: Level) -> Self {
        Self::of(|x| {
            let clean = clean.gain * x + clean.bias;
            to.alpha * clean + to.sigma * (x - at.alpha * clean) / at.sigma
        })
    }

    fn seen(level: Level) -> Self {
        Self::of(|x| DATA.clean(x, level))
    }

    fn assert_is(self, [gain, bias]: [f64; 2], tolerance: f64, what: &str) {
        assert!(
            (self.gain - gain).abs() < tolerance && (self.bias - bias).abs() < tolerance,
            "{what}: {gain} x + {bias}, not {self:?}"
        );
    }
}

fn schedule() -> Discrete {
    Discrete::squared_cosine(TIMES).expect("valid")
}

fn grid(steps: usize) -> Grid {
    let schedule = schedule();
    let times = timesteps::trailing(&schedule, steps).expect("fits");
    Grid::at_times(&schedule, &times, End::Clean).expect("falls")
}

/// Clean samples and noise, of a rank: 256 of four numbers.
fn sample<const D: usize>(step: u64) -> [Tensor<D>; 2] {
    let mut shape = [1; D];
    (shape[0], shape[D - 1]) = (256, 4);
    let mut random = Seeded::new(step, shape[0]);
    let mut draw = || normal(&mut random as &mut dyn Noise, shape, &Device::flex());
    let clean: Tensor<D> = draw();
    [
        clean.mul_scalar(DATA.deviation).add_scalar(DATA.mean),
        draw(),
    ]
}

fn student<M: Module>(network: &M) -> Parameterized<M> {
    Parameterized::new(network.clone(), Parameterization::Sample)
}

/// Makes steps with the losses that `loss` says, each after the last; `after` sees the network that comes of it.
fn learn<M: Module>(
    network: M,
    steps: u64,
    mut loss: impl FnMut(&M, u64) -> Tensor<1>,
    mut after: impl FnMut(&M),
) -> M {
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let rates = WarmUpCosine {
        peak: 0.05,
        warm_up: 10,
        steps,
    };
    let mut network = network.train();
    for step in 0..steps {
        let gradients = loss(&network, step).backward();
        let gradients = GradientsParams::from_grads(gradients, &network);
        network = optimizer.step(rates.rate(step), network, gradients);
        after(&network);
    }
    network.valid()
}

/// A learned student is a teacher too, and neither knows of which rank it is.
fn halves<const D: usize>() {
    let mut known: Vec<Line> = grid(8)
        .points()
        .iter()
        .map(|it| Line::seen(it.level))
        .collect();
    let mut teacher: Option<Affine> = None;
    let mut learned = Affine::new();
    for steps in [8, 4, 2] {
        let grid = grid(steps);
        let halving = Halving::new(&grid).expect("even");
        assert_eq!(halving.steps(), steps / 2);
        learned = learn(
            learned,
            400,
            |network, step| {
                let which = halving.draw(3, step, 256);
                let lesson = match &teacher {
                    None => halving.lesson::<D, _>(&DATA, sample(step), &which, &()),
                    Some(it) => halving.lesson(&student(it), sample(step), &which, &()),
                };
                lesson.loss(&student(network), &(), Emphasis::default(), Metric::Squared)
            },
            |_| (),
        );
        // What one step must see to arrive where two do.
        let points = grid.points();
        known = (0..steps)
            .step_by(2)
            .map(|i| {
                let [a, b, c] = [0, 1, 2].map(|k| points[i + k].level);
                let two = Line::step(known[i + 1], b, c).after(Line::step(known[i], a, b));
                let seen = Line::of(|x| {
                    (a.sigma * (two.gain * x + two.bias) - c.sigma * x)
                        / (a.sigma * c.alpha - c.sigma * a.alpha)
                });
                // One step of it is the two.
                let one = Line::step(seen, a, c);
                assert!((one.gain - two.gain).abs() + (one.bias - two.bias).abs() < 1e-9);
                seen.assert_is(learned.at(points[i].t), EXACT, "a halving");
                seen
            })
            .collect();
        teacher = Some(learned.clone());
    }
    // The last one does at once what the teacher did in eight steps.
    let grid = grid(8);
    let all = grid.points().windows(2).fold(Line::SAME, |before, pair| {
        let [a, b] = [pair[0].level, pair[1].level];
        Line::step(Line::seen(a), a, b).after(before)
    });
    all.assert_is(learned.at(grid.start().t), EXACT, "one step for eight");
}

#[test]
fn a_halved_student_does_in_one_step_what_its_teacher_did_in_eight() {
    halves::<3>();
    halves::<4>();
}

#[test]
fn halving_holds_on_every_line_and_for_what_is_not_clean() {
    // A lesson's target is the estimate of which one DDIM step arrives where two steps of the teacher do.
    let [flow, edm] = [
        Box::new(crate::FlowMatching::new(1.0, 1.0).expect("valid")) as Box<dyn Schedule>,
        Box::new(crate::Edm::new(0.002, 80.0).expect("valid")),
    ];
    for (schedule, times) in [(flow, [0.9, 0.7, 0.3]), (edm, [1.0, 0.2, -0.5])] {
        let grid = Grid::at_times(&*schedule, &times[..2], End::At(times[2])).expect("falls");
        let halving = Halving::new(&grid).expect("even");
        let lesson = halving.lesson::<3, _>(&DATA, sample(1), &[0; 256], &());
        let [a, b, c] = [0, 1, 2].map(|k| grid.points()[k].level);
        let two = Line::step(Line::seen(b), b, c).after(Line::step(Line::seen(a), a, b));
        let values =
            |it: &Tensor<3>| -> Vec<f32> { it.clone().into_data().try_to_vec().expect("f32") };
        for (x, target) in values(&lesson.x).into_iter().zip(values(&lesson.target)) {
            let (x, target) = (f64::from(x), f64::from(target));
            let one = c.alpha * target + c.sigma * (x - a.alpha * target) / a.sigma;
            let expected = two.gain * x + two.bias;
            // f32 of samples of up to a hundred.
            assert!((one - expected).abs() < 1e-4, "{one} {expected}");
        }
    }
}

/// Each of the student's steps is two of the teacher's, from where the teacher itself arrives; the grid begins with some signal,
/// which the noise that is handed over has not.
fn follows<const D: usize>(steps: usize) {
    let schedule = schedule();
    let times = timesteps::leading(&schedule, 2 * steps, 1).expect("fits");
    let grid = Grid::at_times(&schedule, &times, End::Clean).expect("falls");
    let rollout = Rollout::new(&grid, steps).expect("a multiple");
    assert_eq!(rollout.steps(), steps);
    let learned = learn(
        Affine::new(),
        600,
        |network, step| {
            let [_, noise] = sample::<D>(step);
            let lesson = rollout.lesson(&DATA, noise, &());
            assert_eq!(lesson.x.dims()[0], 256 * steps);
            // Half of the time all steps of each, else one of each.
            let lesson = if step % 2 == 0 {
                lesson
            } else {
                lesson.one_each(&rollout.draw(5, step, 256))
            };
            lesson.loss(&student(network), &(), Emphasis::default(), Metric::Squared)
        },
        |_| (),
    );
    let points = grid.points();
    for first in (0..2 * steps).step_by(2) {
        let [a, b, c] = [0, 1, 2].map(|k| points[first + k].level);
        let two = Line::step(Line::seen(b), b, c).after(Line::step(Line::seen(a), a, b));
        let seen = Line::of(|x| {
            (a.sigma * (two.gain * x + two.bias) - c.sigma * x)
                / (a.sigma * c.alpha - c.sigma * a.alpha)
        });
        seen.assert_is(learned.at(points[first].t), EXACT, "a step for two");
    }
    // What a sampler makes of noise with the student is what it makes with the teacher in twice the steps.
    let times: Vec<f64> = times.into_iter().step_by(2).collect();
    let few = Grid::at_times(&schedule, &times, End::Clean).expect("falls");
    let run = |grid: &Grid, denoiser: &dyn Denoiser<D, Condition = (), Prepared = ()>| {
        let stages = crate::Euler.plan(&schedule, grid).expect("stages");
        let [_, noise] = sample::<D>(7);
        let device = Device::flex();
        let mut drawn = Seeded::new(9, 256);
        let shape = noise.dims();
        let sampler = Sampler::from_noise(denoiser, &(), &stages, shape, &device, &mut drawn);
        let values: Vec<f32> = sampler.finish().into_data().try_to_vec().expect("f32");
        values
    };
    let (ours, theirs) = (run(&few, &student(&learned)), run(&grid, &DATA));
    for (a, b) in ours.into_iter().zip(theirs) {
        assert!((a - b).abs() < 0.02, "{a} {b}");
    }
}

#[test]
fn a_student_arrives_where_its_teacher_does_from_the_same_noise() {
    follows::<3>(1);
    follows::<4>(3);
}

#[test]
fn a_rollout_has_as_many_of_the_teachers_steps_in_each_of_the_students() {
    for steps in [0, 3, 16] {
        assert_eq!(
            Rollout::new(&grid(8), steps),
            Err(LessonError::Share {
                steps: 8,
                among: steps
            })
        );
    }
}

#[test]
fn who_is_taught_on_some_levels_is_sampled_on_them() {
    let schedule = Discrete::squared_cosine(100).expect("valid");
    let (mut taught, mut apart) = (0, 0);
    for kind in [Kind::Progressive, Kind::Rollout] {
        for (teacher, steps) in (1..=100).flat_map(|n| (1..=n).map(move |k| (n, k))) {
            let stride = 100 / teacher;
            for offset in [None, Some(0), Some(stride - 1)] {
                let recipe = DistillRecipe {
                    kind,
                    steps: Some(steps),
                    teacher_steps: Some(teacher),
                    offset,
                    ..DistillRecipe::default()
                };
                if recipe.check(100, 1000).is_err() {
                    continue;
                }
                let phases = match recipe.phases(&schedule, 1000, false) {
                    Ok(phases) => phases,
                    Err(RecipeError::Lesson(LessonError::Apart { .. })) => {
                        apart += 1;
                        continue;
                    }
                    Err(error) => panic!("{error}"),
                };
                let grid = |steps: usize, offset| {
                    let times = match offset {
                        Some(offset) => timesteps::leading(&schedule, steps, offset),
                        None => timesteps::trailing(&schedule, steps),
                    };
                    Grid::at_times(&schedule, &times.expect("fits"), End::Clean).expect("falls")
                };
                for phase in phases {
                    let sampled = phase.sampled.expect("its own way");
                    let ours = grid(sampled.steps, sampled.offset);
                    let theirs = grid(teacher, offset);
                    let theirs = theirs.points().iter().step_by(teacher / sampled.steps);
                    assert!(ours.points().iter().eq(theirs), "{recipe:?}");
                }
                taught += 1;
            }
        }
    }
    assert!(taught > 300 && apart > 0, "{taught} {apart}");
}

fn sees_the_end<const D: usize>(skip: usize, boundary: Option<Lcm>) {
    let steps = 8;
    let grid = grid(steps);
    let jumps = Jumps::new(&grid, skip).expect("fits");
    let decay = Decay {
        most: 0.9,
        ..Decay::default()
    };
    let network = Affine::new().train();
    let average = std::cell::RefCell::new(Ema::new(&network, decay));
    let bounded = |network: &Affine, boundary| crate::Bounded {
        denoiser: student(network),
        boundary,
    };
    let learned = learn(
        network,
        1500,
        |network, step| {
            let which = jumps.draw(5, step, 256);
            let average = average.borrow();
            let (data, average) = (sample::<D>(step), average.network());
            let (emphasis, metric) = (Emphasis::Uniform, Metric::PseudoHuber { c: 0.1 });
            match boundary {
                None => {
                    let average = student(average);
                    let lesson = jumps.lesson((&DATA, &()), (&average, &()), data, &which);
                    lesson.loss(&student(network), &(), emphasis, metric)
                }
                Some(boundary) => {
                    let average = bounded(average, boundary);
                    let lesson = jumps.lesson((&DATA, &()), (&average, &()), data, &which);
                    lesson.loss(&bounded(network, boundary), &(), emphasis, metric)
                }
            }
        },
        |network| average.borrow_mut().update(network),
    );
    // From each point: jump, and see the end from there.
    let points = grid.points();
    let mut known = vec![Line::SAME; steps + 1];
    for i in (0..steps).rev() {
        let to = (i + skip).min(steps);
        let [a, b] = [points[i].level, points[to].level];
        known[i] = known[to].after(Line::step(Line::seen(a), a, b));
        let [gain, bias] = learned.at(points[i].t);
        let [of_x, of_seen] = boundary.map_or([0.0, 1.0], |it| it.shares(points[i].t));
        let found = [of_x + of_seen * gain, of_seen * bias];
        known[i].assert_is(found, EXACT, "a consistency function");
    }
    // A jump's step of the ODE errs by some hundredths; smaller jumps err less.
    let exact = Line::of(|x| DATA.flow(x, points[0].level, Level::CLEAN));
    exact.assert_is([known[0].gain, known[0].bias], 0.15, "the ODE's end");
}

#[test]
fn a_consistency_student_sees_where_the_ode_ends() {
    sees_the_end::<3>(1, None);
    sees_the_end::<4>(3, None);
    let boundary = Lcm {
        sigma_data: 0.5,
        timestep_scaling: 0.3,
    };
    sees_the_end::<3>(2, Some(boundary));
}

#[test]
fn the_boundary_is_that_of_the_solver() {
    let boundary = Lcm {
        sigma_data: 0.5,
        timestep_scaling: 0.2,
    };
    let (schedule, grid) = (schedule(), grid(4));
    let [start, _] = sample::<3>(7);
    let run = |solver: &dyn Solver, denoiser: &dyn Denoiser<3, Condition = (), Prepared = ()>| {
        let stages = solver.plan(&schedule, &grid).expect("plans");
        let mut noise = Seeded::new(9, 256);
        let sample = Sampler::new(denoiser, &(), &stages, start.clone(), &mut noise).finish();
        let values: Vec<f32> = sample.into_data().try_to_vec().expect("f32");
        values
    };
    let plain = run(&boundary, &DATA);
    let bounded = crate::Bounded {
        denoiser: DATA,
        boundary,
    };
    let bounded = run(&Consistency::default(), &bounded);
    for (a, b) in plain.into_iter().zip(bounded) {
        // f32, four steps.
        assert!((a - b).abs() < 1e-5, "{a} {b}");
    }
}

fn matches<const D: usize>() {
    let schedule = schedule();
    let top = grid(1).start();
    let mut fake = Affine::new().train();
    let mut optimizer = AdamWConfig::new().with_weight_decay(0.0).init();
    let generated = |network: &Affine, step| {
        let [_, z] = sample::<D>(step);
        student(network).denoise(z, &[top], &()).clean
    };
    let steps = 1500;
    let rates = WarmUpCosine {
        peak: 0.05,
        warm_up: 0,
        steps,
    };
    // A student that is wrong in both numbers, on the side of zero where it began.
    let mut network = Affine::new();
    network.weight = network.weight.map(|it| it.add_scalar(1.0));
    let learned = learn(
        network,
        steps,
        |network, step| {
            // What the student makes now is what the fake score learns.
            for _ in 0..2 {
                let clean = generated(&network.valid(), 2 * step);
                let [_, noise] = sample::<D>(2 * step + 1);
                let points = Levels::Timesteps.draw(&schedule, 11, step, 256);
                let loss = student(&fake).loss([clean, noise], &points, &(), Weighting::Uniform);
                let gradients = GradientsParams::from_grads(loss.backward(), &fake);
                fake = optimizer.step(rates.rate(step), fake.clone(), gradients);
            }
            let sample_now = generated(network, 3 * step + 17);
            let points = Levels::Timesteps.draw(&schedule, 13, step, 256);
            let [_, noise] = sample::<D>(5 * step + 3);
            let target = matched(
                (&DATA, &()),
                (&student(&fake.valid()), &()),
                &sample_now.clone().inner(),
                noise,
                &points,
            );
            (sample_now - target).square().mean()
        },
        |_| (),
    );
    let expected = Line {
        gain: DATA.deviation,
        bias: DATA.mean,
    };
    expected.assert_is(learned.at(top.t), DRAWN, "a matched distribution");
}

#[test]
fn a_matched_student_has_its_teachers_distribution_in_one_pass() {
    matches::<3>();
    matches::<4>();
}

/// The data with the condition for a mean, and a deviation that it does not know.
#[derive(Clone, Debug)]
struct Conditioned;

#[derive(Clone, Debug)]
struct Means(Vec<f64>);

impl Stack for Means {
    fn stack(parts: &[&Self]) -> Self {
        Self(parts.iter().flat_map(|it| it.0.clone()).collect())
    }
}

impl<const D: usize> Denoiser<D> for Conditioned {
    type Condition = Means;
    type Prepared = Vec<f64>;

    fn prepare(&self, condition: &Means) -> Vec<f64> {
        condition.0.clone()
    }

    fn denoise(&self, x: Tensor<D>, points: &[Point], means: &Vec<f64>) -> Estimate<D> {
        // Both of one level's Gaussians, moved to their means.
        let alpha = points[0].level.alpha;
        let shift = |scale: f64| {
            let shifts: Vec<f64> = means
                .iter()
                .map(|mean| scale * (mean - DATA.mean))
                .collect();
            crate::parameterization::per_sample(&shifts, &x)
        };
        let Estimate { clean, noise } = DATA.denoise(x.clone() - shift(alpha), points, &());
        Estimate {
            clean: clean + shift(1.0),
            noise,
        }
    }
}

/// Answers `weight · x + bias + emphasis · scale`, with the scale for a condition.
#[derive(Module, Debug)]
struct Emphasized {
    inner: Affine,
    emphasis: Param<Tensor<1>>,
}

impl<const D: usize> Network<D> for Emphasized {
    type Condition = Vec<f64>;
    type Prepared = Vec<f64>;

    fn prepare(&self, scales: &Vec<f64>) -> Vec<f64> {
        scales.clone()
    }

    fn forward(&self, x: Tensor<D>, points: &[Point], scales: &Vec<f64>) -> Tensor<D> {
        let scales = crate::parameterization::per_sample(scales, &x);
        let emphasis = self.emphasis.val().reshape([1; D]);
        self.inner.forward(x, points, &()) + scales * emphasis
    }
}

fn knows_its_scale<const D: usize>() {
    let (positive, negative) = (0.9, -0.2);
    let point = grid(4).points()[2];
    let network = Emphasized {
        inner: Affine::new(),
        emphasis: Param::from_tensor(Tensor::zeros([1], &Device::flex())),
    };
    let learned = learn(
        network,
        600,
        |network, step| {
            // On both sides of zero: the two numbers of a line are then learned apart.
            let scales = scales(&(-2.0..=2.0), 1, step, 256);
            let teacher = ClassifierFreeEach {
                denoiser: Conditioned,
                scales: scales.clone(),
            };
            let condition = Guidance {
                positive: Means(vec![positive; 256]),
                negative: Means(vec![negative; 256]),
            };
            let prepared = Denoiser::<D>::prepare(&teacher, &condition);
            let lesson = Lesson::<D>::estimate(&teacher, sample(step), &[point], &prepared);
            lesson.loss(
                &student(network),
                &scales,
                Emphasis::Uniform,
                Metric::Squared,
            )
        },
        |_| (),
    );
    // x̂ = x̂₋ + s (x̂₊ − x̂₋); the two differ by their means and not in x.
    let seen = |mean: f64, x: f64| Gaussian { mean, ..DATA }.clean(x, point.level);
    let without = Line::of(|x| seen(negative, x));
    without.assert_is(learned.inner.at(point.t), EXACT, "a scale of zero");
    let emphasis: f32 = learned.emphasis.val().into_scalar();
    let expected = seen(positive, 0.3) - seen(negative, 0.3);
    assert!((f64::from(emphasis) - expected).abs() < EXACT, "{emphasis}");
}

#[test]
fn a_guided_student_knows_its_scale() {
    knows_its_scale::<3>();
    knows_its_scale::<4>();
}

fn learns_estimates<const D: usize>() {
    let schedule = schedule();
    let learned = learn(
        Affine::new(),
        600,
        |network, step| {
            let points = Levels::Timesteps.draw(&schedule, 2, step, 256);
            let lesson = Lesson::<D>::estimate(&DATA, sample(step), &points, &());
            // A student that predicts the noise, of a teacher that predicts nothing.
            let student = Parameterized::new(network.clone(), Parameterization::Noise);
            lesson.loss(
                &student,
                &(),
                Emphasis::MinSnr { gamma: 5.0 },
                Metric::Squared,
            )
        },
        |_| (),
    );
    for t in [2.0, 7.0, 12.0] {
        let level = schedule.level(t);
        let noise = Line::of(|x| (x - level.alpha * DATA.clean(x, level)) / level.sigma);
        noise.assert_is(learned.at(t), EXACT, "an estimate");
    }
}

#[test]
fn a_student_of_another_kind_learns_what_its_teacher_sees() {
    learns_estimates::<3>();
    learns_estimates::<4>();
}

#[test]
fn features_are_compared_block_by_block() {
    let tensor = |x: [f32; 2]| {
        Tensor::<3>::from_data(TensorData::new(x.to_vec(), [1, 1, 2]), &Device::flex())
    };
    let student = [tensor([1.0, 2.0]), tensor([0.0, 0.0])];
    let teacher = [tensor([2.0, 4.0]), tensor([0.0, 3.0])];
    let loss: f32 = feature_loss(&student, &teacher).into_scalar();
    // (1 + 4)/2 + 9/2
    assert!((loss - 7.0).abs() < 1e-6, "{loss}");
}

#[test]
fn weights_and_distances_are_their_formulas() {
    let level = Level {
        alpha: 0.8,
        sigma: 0.6,
    };
    let snr: f64 = 16.0 / 9.0;
    let quiet = Level {
        alpha: 0.6,
        sigma: 0.8,
    };
    for (emphasis, expected, of_quiet) in [
        (Emphasis::Uniform, 1.0, 1.0),
        (Emphasis::TruncatedSnr, snr, 1.0),
        (Emphasis::SnrPlusOne, snr + 1.0, 1.0 / snr + 1.0),
        (Emphasis::MinSnr { gamma: 1.5 }, 1.5, 1.0 / snr),
    ] {
        assert!((emphasis.of(level) - expected).abs() < 1e-12);
        assert!((emphasis.of(quiet) - of_quiet).abs() < 1e-12);
    }
    let difference = || Tensor::<1>::from_floats([3.0], &Device::flex());
    let squared: f32 = Metric::Squared.of(difference()).into_scalar();
    let huber: f32 = Metric::PseudoHuber { c: 4.0 }
        .of(difference())
        .into_scalar();
    assert!((squared - 9.0).abs() < 1e-6 && (huber - 1.0).abs() < 1e-6);
}

#[test]
fn grids_without_lessons_are_refused() {
    let error = Halving::new(&grid(5)).expect_err("odd");
    assert!(error.to_string().contains("5 steps"), "{error}");
    for skip in [0, 9] {
        let error = Jumps::new(&grid(8), skip).expect_err("no jump");
        assert!(error.to_string().contains("from 1 to 8"), "{error}");
    }
}
