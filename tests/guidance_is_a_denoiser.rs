//! What changes an estimate wraps a denoiser, keeps `x = αx̂ + σε̂` or says that it does not, and the executor never
//! learns of it.

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    ClassifierFree, Clip, ClippedNoise, Consistency, Cosine, Cost, Ddim, Ddpm, Denoiser, Discrete,
    DpmSolver2M, End, Estimate, FlowMatching, Gaussian, Grid, Guidance, Guided, Heun, Inpaint,
    Level, Network, Noise, Parameterization, Parameterized, Pins, Pndm, Point, Rescaled, Sampler,
    Schedule, SdeDpmSolver2M, Seeded, Solver, SolverError, Stage, Tcd, Threshold, normal,
    timesteps,
};

/// f32 arithmetic on values near one.
const ROUNDING: f32 = 1e-5;

/// A network whose output depends on the sample, its condition and its time.
struct Affine;

impl Network<3> for Affine {
    type Condition = Tensor<3>;
    type Prepared = Tensor<3>;

    fn prepare(&self, condition: &Tensor<3>) -> Tensor<3> {
        condition.clone()
    }

    fn forward(&self, x: Tensor<3>, points: &[Point], prepared: &Tensor<3>) -> Tensor<3> {
        let times: Vec<f32> = points.iter().map(|point| point.t as f32 / 100.0).collect();
        let count = times.len();
        let times = Tensor::<3>::from_data(TensorData::new(times, [count, 1, 1]), &x.device());
        (x * times).tanh() + prepared.clone()
    }
}

fn values<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.into_data().try_to_vec().expect("f32")
}

fn worst<const D: usize>(a: Tensor<D>, b: Tensor<D>) -> f32 {
    assert_eq!(a.dims(), b.dims());
    values((a - b).abs()).into_iter().fold(0.0, f32::max)
}

fn random(seed: u64, shape: [usize; 3]) -> Tensor<3> {
    normal(&mut Seeded::new(seed, shape[0]), shape, &Device::flex())
}

fn point(t: f64) -> Point {
    let schedule = Discrete::squared_cosine(100).expect("valid");
    Point {
        t,
        level: schedule.levels()[t as usize],
    }
}

fn plan(solver: &dyn Solver, steps: usize, end: End) -> Vec<Stage> {
    let schedule = Discrete::squared_cosine(100).expect("valid");
    let times = timesteps::leading(&schedule, steps, 0).expect("fits");
    let grid = Grid::at_times(&schedule, &times, end).expect("falls");
    solver.plan(&schedule, &grid).expect("finite")
}

fn assert_consistent(x: &Tensor<3>, Level { alpha, sigma }: Level, estimate: Estimate<3>) {
    let back = estimate.clean.mul_scalar(alpha) + estimate.noise.mul_scalar(sigma);
    assert!(worst(x.clone(), back) < ROUNDING);
}

#[test]
fn classifier_free_guidance_in_one_pass_equals_two_passes() {
    let denoiser = || Parameterized::new(Affine, Parameterization::Noise);
    let (x, positive, negative) = (
        random(1, [2, 16, 2]),
        random(2, [2, 1, 1]),
        random(3, [2, 1, 1]),
    );
    let guided = ClassifierFree {
        denoiser: denoiser(),
        scale: 3.0,
    };
    let condition = Guidance {
        positive: positive.clone(),
        negative: negative.clone(),
    };
    // One point for all, and one a sample.
    for points in [vec![point(40.0)], vec![point(40.0), point(70.0)]] {
        let one = guided.denoise(x.clone(), &points, &guided.prepare(&condition));
        let up = denoiser().denoise(x.clone(), &points, &positive);
        let down = denoiser().denoise(x.clone(), &points, &negative);
        let clean = down.clean.clone() + (up.clean - down.clean).mul_scalar(3.0);
        let noise = down.noise.clone() + (up.noise - down.noise).mul_scalar(3.0);
        assert!(worst(one.clean, clean) < ROUNDING);
        assert!(worst(one.noise, noise) < ROUNDING);
    }
}

#[test]
fn rescaled_guidance_has_the_spread_of_the_conditional_prediction() {
    let (x, positive, negative) = (
        random(1, [2, 16, 2]),
        random(2, [2, 16, 2]),
        random(3, [2, 16, 2]),
    );
    let condition = Guidance {
        positive: positive.clone(),
        negative: negative.clone(),
    };
    let rescaled = |rescale| Rescaled {
        network: Affine,
        scale: 5.0,
        rescale,
    };
    let pass = |rescale, points: &[Point]| {
        let network = rescaled(rescale);
        network.forward(x.clone(), points, &network.prepare(&condition))
    };
    // Sample by sample, in f64.
    let deviation = |x: &Tensor<3>, row: usize| {
        let x: Vec<f32> = values(x.clone().narrow(0, row, 1));
        let mean = x.iter().map(|&v| f64::from(v)).sum::<f64>() / x.len() as f64;
        let squares = x.iter().map(|&v| (f64::from(v) - mean).powi(2));
        (squares.sum::<f64>() / x.len() as f64).sqrt()
    };
    for points in [vec![point(40.0)], vec![point(40.0), point(70.0)]] {
        let up = Affine.forward(x.clone(), &points, &positive);
        let down = Affine.forward(x.clone(), &points, &negative);
        let plain = down.clone() + (up.clone() - down).mul_scalar(5.0);
        assert!(worst(pass(0.0, &points), plain.clone()) < ROUNDING);
        let whole = pass(1.0, &points);
        for row in 0..2 {
            let (wide, wanted) = (deviation(&plain, row), deviation(&up, row));
            assert!(wide > 2.0 * wanted, "guidance widens");
            assert!((deviation(&whole, row) - wanted).abs() < 1e-5);
        }
        let most = (whole.mul_scalar(0.7)) + plain.mul_scalar(0.3);
        assert!(worst(pass(0.7, &points), most) < ROUNDING);
    }
}

#[test]
fn one_point_a_sample_equals_one_sample_at_a_time() {
    let denoiser = Parameterized::new(Affine, Parameterization::Velocity);
    let (x, condition) = (random(4, [3, 16, 2]), random(5, [3, 1, 1]));
    let points = [point(5.0), point(50.0), point(95.0)];
    let together = denoiser.denoise(x.clone(), &points, &condition);
    for (i, point) in points.into_iter().enumerate() {
        let row = |tensor: &Tensor<3>| tensor.clone().narrow(0, i, 1);
        let alone = denoiser.denoise(row(&x), &[point], &row(&condition));
        assert!(worst(row(&together.clean), alone.clean.clone()) < ROUNDING);
        assert!(worst(row(&together.noise), alone.noise.clone()) < ROUNDING);
        assert_consistent(&row(&x), point.level, alone);
    }
}

#[test]
fn clipping_bounds_the_sample_and_keeps_the_noise() {
    let denoiser = || Gaussian {
        mean: 0.0,
        deviation: 4.0,
    };
    let x = random(6, [2, 16, 2]).mul_scalar(3.0);
    let plain = denoiser().denoise(x.clone(), &[point(20.0)], &());
    assert!(
        values(plain.clean.clone())
            .iter()
            .any(|value| value.abs() > 1.0)
    );
    let threshold = Threshold::Static { range: 1.0 };
    let clipped = Clip {
        denoiser: denoiser(),
        threshold,
        noise: ClippedNoise::Kept,
    }
    .denoise(x.clone(), &[point(20.0)], &());
    assert!(values(clipped.clean).iter().all(|value| value.abs() <= 1.0));
    assert_eq!(values(clipped.noise), values(plain.noise));
}

/// What is pinned of a plan in the tests: entries of both coordinates, the rest unknown.
fn pinned(shape: [usize; 3]) -> (Vec<(usize, f32)>, Pins<3>) {
    let known = vec![(0, 0.3), (1, -0.7), (2, 0.25), (30, 0.9), (31, 1.0 / 3.0)];
    let mut mask = vec![0.0_f32; 32];
    let mut values = vec![f32::NAN; 32];
    for &(index, value) in &known {
        mask[index] = 1.0;
        values[index] = value;
    }
    let tensor = |data: Vec<f32>| {
        Tensor::from_data(
            TensorData::new(data, [1, shape[1], shape[2]]),
            &Device::flex(),
        )
    };
    (known, Pins::new(tensor(mask), tensor(values)))
}

fn exact_solvers() -> Vec<Box<dyn Solver>> {
    vec![
        Box::new(Ddim::default()),
        Box::new(Ddim { eta: 1.0 }),
        Box::new(Ddpm::default()),
        Box::new(DpmSolver2M::default()),
        Box::new(SdeDpmSolver2M::default()),
        Box::new(Heun),
        Box::new(Pndm),
        Box::new(Tcd { gamma: 0.3 }),
        Box::new(Consistency::default()),
    ]
}

#[test]
fn pins_are_exact_for_every_end_and_solver() {
    let shape = [3, 16, 2];
    let device = Device::flex();
    let (known, pins) = pinned(shape);
    let denoiser = Inpaint {
        denoiser: Gaussian {
            mean: 0.1,
            deviation: 0.5,
        },
        pins,
    };
    for solver in exact_solvers() {
        for end in [End::Clean, End::At(0.0)] {
            let stages = plan(solver.as_ref(), 5, end);
            let mut noise = Seeded::new(9, 3);
            let sample =
                Sampler::from_noise(&denoiser, &(), &stages, shape, &device, &mut noise).finish();
            for row in values(sample).chunks(32) {
                assert!(row.iter().all(|value| value.is_finite()));
                for &(index, value) in &known {
                    assert_eq!(
                        row[index].to_bits(),
                        value.to_bits(),
                        "{solver:?}, {end:?}: {index}"
                    );
                }
            }
        }
    }
}

/// Nothing is imposed in the end here: pinned entries arrive because exact solvers carry the signal.
#[test]
fn pins_arrive_by_themselves_at_a_clean_end() {
    struct Unfinished<N>(N);
    impl<N: Denoiser<3>> Denoiser<3> for Unfinished<N> {
        type Condition = N::Condition;
        type Prepared = N::Prepared;
        fn prepare(&self, condition: &N::Condition) -> N::Prepared {
            self.0.prepare(condition)
        }
        fn denoise(&self, x: Tensor<3>, points: &[Point], prepared: &N::Prepared) -> Estimate<3> {
            self.0.denoise(x, points, prepared)
        }
    }
    let shape = [3, 16, 2];
    let (known, pins) = pinned(shape);
    let denoiser = Unfinished(Inpaint {
        denoiser: Gaussian {
            mean: 0.1,
            deviation: 0.5,
        },
        pins,
    });
    for solver in exact_solvers() {
        let stages = plan(solver.as_ref(), 5, End::Clean);
        let mut noise = Seeded::new(9, 3);
        let sample =
            Sampler::from_noise(&denoiser, &(), &stages, shape, &Device::flex(), &mut noise)
                .finish();
        for row in values(sample).chunks(32) {
            for &(index, value) in &known {
                assert!(
                    (row[index] - value).abs() < ROUNDING,
                    "{solver:?}: {index} is {}",
                    row[index]
                );
            }
        }
    }
}

#[test]
fn what_is_not_pinned_and_not_guided_stays_bit_for_bit() {
    let clip = || Clip {
        denoiser: Gaussian {
            mean: 0.0,
            deviation: 4.0,
        },
        threshold: Threshold::Static { range: 1.0 },
        noise: ClippedNoise::Kept,
    };
    let shape = [2, 16, 2];
    let x = random(6, shape).mul_scalar(3.0);
    let plain = clip().denoise(x.clone(), &[point(20.0)], &());
    let nothing = Inpaint {
        denoiser: clip(),
        pins: Pins::new(x.zeros_like(), x.zeros_like().add_scalar(f32::NAN)),
    };
    let unguided = Guided {
        denoiser: clip(),
        cost: Towards(2.0),
        rate: 0.0,
        steps: 3,
    };
    let (known, pins) = pinned(shape);
    let some = Inpaint {
        denoiser: clip(),
        pins,
    };
    let bits = |tensor: &Tensor<3>| -> Vec<u32> {
        values(tensor.clone()).iter().map(|v| v.to_bits()).collect()
    };
    for estimate in [
        nothing.denoise(x.clone(), &[point(20.0)], &()),
        unguided.denoise(x.clone(), &[point(20.0)], &()),
    ] {
        assert_eq!(bits(&estimate.clean), bits(&plain.clean));
        assert_eq!(bits(&estimate.noise), bits(&plain.noise));
    }
    let estimate = some.denoise(x, &[point(20.0)], &());
    for (index, (ours, theirs)) in bits(&estimate.noise)
        .iter()
        .zip(bits(&plain.noise))
        .enumerate()
    {
        let pinned = known.iter().any(|(known, _)| *known == index % 32);
        assert_eq!(*ours == theirs, !pinned, "entry {index}");
    }
}

/// One mask for all and values of each sample, and the other way round.
#[test]
fn pins_broadcast_over_the_batch() {
    let device = Device::flex();
    let sample = random(1, [3, 16, 2]);
    let each = random(2, [3, 16, 2]);
    let (one, all) = (
        Tensor::<3>::ones([1, 16, 2], &device),
        Tensor::<3>::ones([3, 16, 2], &device),
    );
    let imposed = Pins::new(one, each.clone()).impose(sample.clone());
    assert_eq!(values(imposed), values(each.clone()));
    let first = each.narrow(0, 0, 1);
    let imposed = Pins::new(all, first.clone()).impose(sample);
    assert_eq!(values(imposed), values(first.repeat_dim(0, 3)));
}

#[test]
fn a_soft_pin_mixes_once() {
    let shape = [1, 16, 2];
    let ones = Tensor::<3>::ones(shape, &Device::flex());
    let denoiser = Inpaint {
        // Data that is zero everywhere.
        denoiser: Gaussian {
            mean: 0.0,
            deviation: 1e-6,
        },
        pins: Pins::new(ones.clone().mul_scalar(0.5), ones),
    };
    let stages = plan(&Ddim::default(), 5, End::Clean);
    let mut noise = Seeded::new(1, 1);
    let sampler = Sampler::from_noise(&denoiser, &(), &stages, shape, &Device::flex(), &mut noise);
    for value in values(sampler.finish()) {
        assert!((value - 0.5).abs() < 1e-3, "{value}");
    }
}

/// All of them at once, in the order that the wrappers' table gives, around a network that is only borrowed.
#[test]
fn wrappers_compose() {
    let shape = [2, 16, 2];
    let network = Parameterized::new(Affine, Parameterization::Noise);
    let (known, pins) = pinned(shape);
    let clipped = Clip {
        denoiser: ClassifierFree {
            denoiser: &network,
            scale: 2.0,
        },
        threshold: Threshold::Static { range: 1.0 },
        noise: ClippedNoise::Kept,
    };
    let denoiser = Inpaint {
        denoiser: Guided {
            denoiser: clipped,
            cost: Towards(0.2),
            rate: 0.1,
            steps: 2,
        },
        pins,
    };
    let condition = Guidance {
        positive: random(2, [2, 1, 1]),
        negative: random(3, [2, 1, 1]),
    };
    let stages = plan(&Ddim::default(), 10, End::Clean);
    let prepared = denoiser.prepare(&condition);
    let mut noise = Seeded::new(5, 2);
    let sample = Sampler::from_noise(
        &denoiser,
        &prepared,
        &stages,
        shape,
        &Device::flex(),
        &mut noise,
    )
    .finish();
    for row in values(sample).chunks(32) {
        for (index, value) in row.iter().enumerate() {
            assert!(value.abs() <= 1.0 + ROUNDING);
            if let Some((_, known)) = known.iter().find(|(known, _)| *known == index) {
                assert_eq!(value.to_bits(), known.to_bits());
            }
        }
    }
    // One point a sample, alone and together.
    let x = random(8, shape);
    let points = [point(30.0), point(80.0)];
    let together = denoiser.denoise(x.clone(), &points, &prepared);
    for i in 0..2 {
        let row = |tensor: &Tensor<3>| tensor.clone().narrow(0, i, 1);
        let condition = Guidance {
            positive: row(&condition.positive),
            negative: row(&condition.negative),
        };
        let alone = denoiser.denoise(row(&x), &points[i..=i], &denoiser.prepare(&condition));
        assert!(worst(row(&together.clean), alone.clean) < ROUNDING);
        assert!(worst(row(&together.noise), alone.noise) < ROUNDING);
    }
}

#[test]
fn noise_prediction_in_pure_noise_is_refused() {
    let zero = Discrete::scaled_linear(1000, 0.00085, 0.012)
        .and_then(|table| table.with_zero_terminal_snr());
    let zero = zero.expect("valid");
    let flow = FlowMatching::new(1.0, 1.0).expect("valid");
    for (schedule, t) in [
        (&zero as &dyn Schedule, 999.0),
        (&Cosine, 1.0),
        (&flow, 1.0),
    ] {
        let middle = t / 2.0;
        let grid = Grid::at_times(schedule, &[t, middle], End::Clean).expect("falls");
        let stages = Ddim::default().plan(schedule, &grid).expect("finite");
        let check = |parameterization| Parameterized::new(Affine, parameterization).check(&stages);
        let error = check(Parameterization::Noise).expect_err("it says nothing there");
        assert!(error.to_string().contains("alpha 0"), "{error}");
        for other in [
            Parameterization::Sample,
            Parameterization::Velocity,
            Parameterization::Flow,
        ] {
            assert_eq!(check(other), Ok(()));
        }
        // PNDM divides by the signal that is not there.
        let error = Pndm.plan(schedule, &grid).expect_err("a singular step");
        assert!(
            matches!(
                error,
                SolverError::Singular {
                    solver: "PNDM",
                    step: 0,
                    ..
                }
            ),
            "{error}"
        );
    }
    for eta in [-0.1, 1.1, f64::NAN] {
        let grid = Grid::at_times(&Cosine, &[0.9, 0.5], End::Clean).expect("falls");
        for solver in [
            Box::new(Ddim { eta }) as Box<dyn Solver>,
            Box::new(Tcd { gamma: eta }),
        ] {
            assert!(matches!(
                solver.plan(&Cosine, &grid),
                Err(SolverError::Parameter { .. })
            ));
        }
    }
}

/// `‖x̂ − target‖² / 2`.
#[derive(Debug)]
struct Towards(f64);

impl Cost<3> for Towards {
    fn gradient(&self, clean: &Tensor<3>, _: &[Point]) -> Tensor<3> {
        clean.clone().sub_scalar(self.0)
    }
}

#[test]
fn a_cost_is_descended_and_the_noise_follows() {
    let plain = Gaussian {
        mean: 0.0,
        deviation: 0.5,
    };
    let x = random(7, [2, 16, 2]);
    let at = point(60.0);
    let guided = Guided {
        denoiser: plain,
        cost: Towards(2.0),
        rate: 0.5,
        steps: 3,
    };
    let before = plain.denoise(x.clone(), &[at], &());
    let after = guided.denoise(x.clone(), &[at], &());
    // Three steps of rate 1/2 leave an eighth of the way.
    let expected = before
        .clean
        .sub_scalar(2.0)
        .mul_scalar(0.125)
        .add_scalar(2.0);
    assert!(worst(after.clean.clone(), expected) < ROUNDING);
    assert_consistent(&x, at.level, after);
}

#[test]
fn refinement_from_the_start_is_sampling_and_from_the_end_keeps_the_plan() {
    let schedule = Discrete::squared_cosine(100).expect("valid");
    let times = timesteps::trailing(&schedule, 20).expect("fits");
    let grid = Grid::at_times(&schedule, &times, End::Clean).expect("falls");
    let device = Device::flex();
    let denoiser = Gaussian {
        mean: 0.2,
        deviation: 0.3,
    };
    let last = random(8, [4, 16, 2]).mul_scalar(0.3).add_scalar(0.2);
    let refine = |skipped: usize| {
        let grid = grid.without_first(skipped).expect("steps are left");
        let stages = DpmSolver2M::default()
            .plan(&schedule, &grid)
            .expect("finite");
        Sampler::refine(
            &denoiser,
            &(),
            &stages,
            last.clone(),
            &mut Seeded::new(10, 4),
        )
        .finish()
    };
    let stages = DpmSolver2M::default()
        .plan(&schedule, &grid)
        .expect("finite");
    let full = Sampler::from_noise(
        &denoiser,
        &(),
        &stages,
        [4, 16, 2],
        &device,
        &mut Seeded::new(10, 4),
    )
    .finish();
    // 5e-4 of the signal is left at the first point.
    assert!(worst(refine(0), full.clone()) < 2e-3);
    let late = worst(refine(19), last.clone());
    let early = worst(refine(5), last.clone());
    // The last step starts at sigma 0.08; five sigmas of the largest of 128 draws are far.
    assert!(late < 0.4 * early && late < 0.4, "{late} {early}");
    assert!(grid.without_first(20).is_err());
}

#[test]
fn a_sample_does_not_depend_on_its_batch() {
    let device = Device::flex();
    let denoiser = Parameterized::new(Affine, Parameterization::Noise);
    let stages = plan(&Ddim { eta: 1.0 }, 20, End::Clean);
    let condition = random(11, [5, 1, 1]);
    let seeds = [4, 8, 15, 16, 23];
    let run = |seeds: &[u64], condition: Tensor<3>| {
        let mut noise = Seeded::from_seeds(seeds);
        let shape = [seeds.len(), 16, 2];
        values(
            Sampler::from_noise(&denoiser, &condition, &stages, shape, &device, &mut noise)
                .finish(),
        )
    };
    let batch = run(&seeds, condition.clone());
    for (i, seed) in seeds.iter().enumerate() {
        let alone = run(&[*seed], condition.clone().narrow(0, i, 1));
        assert_eq!(
            batch[i * 32..(i + 1) * 32],
            alone,
            "bit for bit: this network has no sums"
        );
    }
}

/// Whatever the source, what is drawn is what the executor uses: one draw at the start, one a stage that asks for it.
#[test]
fn noise_is_drawn_once_a_stage_that_asks_for_it() {
    struct Counting(usize);
    impl Noise for Counting {
        fn draw(&mut self, shape: &[usize]) -> Vec<f32> {
            self.0 += 1;
            vec![0.5; shape.iter().product()]
        }
    }
    let denoiser = Gaussian {
        mean: 0.0,
        deviation: 1.0,
    };
    let device = Device::flex();
    for (eta, draws) in [(0.0, 1), (1.0, 10)] {
        // DDIM's last step arrives at the data and asks for none.
        let stages = plan(&Ddim { eta }, 10, End::Clean);
        let mut noise = Counting(0);
        Sampler::from_noise(&denoiser, &(), &stages, [1, 16, 2], &device, &mut noise).finish();
        assert_eq!(noise.0, draws);
    }
}
