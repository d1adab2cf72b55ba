//! A packed network computes what the plain one does, with the same bits for a sample alone and in a batch, on one
//! thread and several.

mod lerobot_checkpoint;
mod reference_unet;

use std::sync::Mutex;
use std::time::Duration;

use burn::tensor::{Device, Tensor};
use clearway_diffusion::{Level as NoiseLevel, Network as _, Point, Sampler, Seeded, normal};
use clearway_layers::{Level, Precision};
use clearway_planner::network::{ConditionalUnet1d, ConditionalUnet1dConfig};
use clearway_planner::{Budget, History, Observation, Planner, Policy, Problem};
use clearway_sim::PushT;
use clearway_tests::repository;
use reference_unet::Reference;

/// ‖Δ‖/‖y‖ of a pass in f32 against one in f32: both sum in their own order.
const F32: f64 = 5e-6;
/// ‖Δ‖/‖y‖ of a pass with weights in bf16, random ones: each of some forty layers is wrong by about a thousandth.
const BF16: f64 = 2e-2;
/// The same of codes: each of these layers is wrong by about a hundredth, or a tenth.
const INT8: f64 = 6e-2;
const INT4: f64 = 0.5;
/// ‖Δ‖/‖y‖ of a pass of the shipped policy against one in f64, on what its own plans in its own world see.
const F32_SHIPPED: f64 = 2e-6;
const BF16_SHIPPED: f64 = 5e-3;
const INT8_SHIPPED: f64 = 2e-2;
const INT4_SHIPPED: f64 = 0.3;
/// Of an action, in pixels: 1e-6 of a normalized unit, half of the 499 px that actions range over.
const ROUNDING: f64 = 1e-6 * 499.0 / 2.0;

const HORIZON: usize = 16;
const CONDITION: usize = 11;

fn configs() -> Vec<ConditionalUnet1dConfig> {
    let first = ConditionalUnet1dConfig {
        action_dim: 3,
        condition_dim: CONDITION,
        down_dims: vec![32, 64, 128],
        kernel_size: 5,
        n_groups: 8,
        diffusion_step_embed_dim: 32,
        use_film_scale_modulation: true,
    };
    vec![
        ConditionalUnet1dConfig {
            use_film_scale_modulation: false,
            ..first.clone()
        },
        ConditionalUnet1dConfig {
            down_dims: vec![40, 80],
            n_groups: 5,
            kernel_size: 3,
            ..first.clone()
        },
        ConditionalUnet1dConfig {
            down_dims: vec![8, 16, 24, 48],
            kernel_size: 7,
            n_groups: 4,
            diffusion_step_embed_dim: 6,
            ..first.clone()
        },
        first,
    ]
}

fn point(t: f64) -> Point {
    Point {
        t,
        level: NoiseLevel {
            alpha: 0.8,
            sigma: 0.6,
        },
    }
}

fn inputs(batch: usize, action_dim: usize) -> (Tensor<3>, Tensor<2>) {
    let device = Device::flex();
    let x = normal(
        &mut Seeded::new(3, batch),
        [batch, HORIZON, action_dim],
        &device,
    );
    let condition = normal(&mut Seeded::new(4, batch), [batch, CONDITION], &device);
    (x, condition)
}

fn pass(
    network: &ConditionalUnet1d,
    x: &Tensor<3>,
    condition: &Tensor<2>,
    times: &[f64],
) -> Vec<f32> {
    let points: Vec<Point> = times.iter().copied().map(point).collect();
    let prepared = network.prepare(condition);
    let y = network.forward(x.clone(), &points, &prepared);
    y.into_data().try_to_vec().expect("f32")
}

fn relative(y: &[f32], expected: &[f64]) -> f64 {
    assert_eq!(y.len(), expected.len());
    let norm = |values: &mut dyn Iterator<Item = f64>| values.map(|v| v * v).sum::<f64>().sqrt();
    let pairs = y.iter().zip(expected);
    norm(&mut pairs.map(|(a, b)| f64::from(*a) - b)) / norm(&mut expected.iter().copied())
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

/// The level is the process's: while a test changes it, no other may run.
static LEVEL: Mutex<()> = Mutex::new(());

#[test]
fn networks_of_every_shape_on_every_level() {
    let _alone = LEVEL.lock();
    let fastest = Level::detected();
    Device::flex().seed(11);
    for config in configs() {
        let plain = config.init(&Device::flex());
        for batch in [1, 3] {
            let (x, condition) = inputs(batch, config.action_dim);
            let times: Vec<f64> = (0..batch).map(|i| 7.0 + 31.0 * i as f64).collect();
            let expected = pass(&plain, &x, &condition, &times);
            let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
            for (precision, tolerance) in [
                (Precision::F32, F32),
                (Precision::Bf16, BF16),
                (Precision::Int8, INT8),
                (Precision::INT4, INT4),
            ] {
                let mut packed = plain.clone();
                let report = packed.pack(precision);
                assert_eq!(report.parameters, plain.parameters());
                assert_eq!(packed.parameters(), plain.parameters());
                for level in Level::ALL.into_iter().filter(|it| it.is_available()) {
                    // What was remembered on another level is not used on this one: bits differ.
                    level.limit();
                    let once = pass(&packed, &x, &condition, &times);
                    let error = relative(&once, &expected);
                    println!(
                        "{precision}, {level}, batch {batch}: {error:.1e} from the plain network"
                    );
                    assert!(
                        error < tolerance,
                        "{config:?} {precision} {level}: {error:e}"
                    );
                    // The timesteps' share is remembered now.
                    assert_eq!(
                        bits(&once),
                        bits(&pass(&packed, &x, &condition, &times)),
                        "again"
                    );
                    for threads in [1, 2, 3] {
                        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
                        let pool = pool.expect("threads start");
                        let there = pool.install(|| pass(&packed, &x, &condition, &times));
                        assert_eq!(bits(&once), bits(&there), "{threads} threads");
                    }
                    let each = once.len() / batch;
                    for (i, together) in once.chunks(each).enumerate() {
                        let (x, c) = (x.clone().narrow(0, i, 1), condition.clone().narrow(0, i, 1));
                        let alone = pass(&packed, &x, &c, &times[i..=i]);
                        assert_eq!(bits(&alone), bits(together), "sample {i} alone");
                    }
                }
                fastest.limit();
            }
        }
    }
}

fn policy() -> Policy {
    Policy::load(&repository("models/pusht"), &Device::flex()).expect("the shipped policy loads")
}

fn packed(precision: Precision) -> Policy {
    let mut policy = policy();
    let report = policy.pack(precision);
    // Of a number; in codes a sixth of the policy is kept in f32.
    let stored = match precision {
        Precision::F32 => 4.0,
        Precision::Bf16 => 2.0,
        Precision::Int8 => (5.0 + 4.0) / 6.0,
        _ => (5.0 * 9.0 / 16.0 + 4.0) / 6.0,
    } * policy.parameters() as f64;
    println!("{precision}: {} bytes for {stored}", report.bytes);
    assert!(
        report.bytes as f64 <= 1.15 * stored,
        "{precision}: {} bytes for {stored}",
        report.bytes
    );
    policy
}

fn planner(policy: Policy) -> Planner {
    Planner::new(policy, Duration::from_millis(100), &Device::flex()).expect("can be sampled")
}

fn history(seed: u64) -> History {
    let mut world = PushT::reset(seed);
    let mut observations = Vec::new();
    for step in 0..2 {
        let seen = world.observation();
        observations.push(
            Observation::new(Duration::from_millis(100 * step))
                .with("observation.state", seen.agent)
                .with("observation.environment_state", seen.key_points),
        );
        world.step([256.0, 256.0]).expect("a finite action");
    }
    History::new(observations).expect("times increase")
}

#[test]
fn plans_are_the_same_up_to_rounding_and_a_batch_changes_no_bit() {
    let _alone = LEVEL.lock();
    let (plain, packed) = (planner(policy()), planner(packed(Precision::F32)));
    let histories: Vec<History> = (0..5).map(history).collect();
    let problems: Vec<Problem<'_>> = histories.iter().map(Problem::new).collect();
    let seeds: Vec<u64> = (20..25).collect();
    let together = packed.plan_batch(&problems, Budget::default(), &seeds);
    for ((problem, seed), together) in problems.iter().zip(seeds).zip(together) {
        let positions = |planner: &Planner| {
            let plan = planner
                .plan(problem, Budget::default(), seed)
                .expect("a plan");
            plan.trajectory.positions().to_owned()
        };
        let (expected, alone) = (positions(&plain), positions(&packed));
        let worst = (&alone - &expected)
            .iter()
            .fold(0.0_f64, |worst, d| worst.max(d.abs()));
        assert!(worst <= ROUNDING, "seed {seed}: {worst:e} px");
        assert_eq!(
            alone,
            together.expect("a plan").trajectory.positions(),
            "seed {seed}"
        );
    }
}

#[test]
fn a_pass_of_the_shipped_policy_is_as_exact_as_its_precision() {
    let _alone = LEVEL.lock();
    let device = Device::flex();
    let planner = planner(policy());
    let reference = Reference::shipped();
    let packed = [
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::INT4,
    ]
    .map(packed);
    let mut worst = [0.0_f64; 4];
    for seed in 0..3 {
        let observed = planner.policy().condition(&history(seed));
        let observed = observed.expect("observations fit");
        let condition = Tensor::<1>::from_floats(observed.as_slice(), &device).unsqueeze();
        let prepared = planner.denoiser().prepare(&condition);
        let mut noise = Seeded::new(seed, 1);
        let x = normal(&mut noise, [1, HORIZON, 2], &device);
        let (denoiser, stages) = (planner.denoiser(), planner.stages());
        let mut sample = x.clone();
        for step in Sampler::new(denoiser, &prepared, stages, x, &mut noise) {
            // What the pass of this step saw.
            let x = std::mem::replace(&mut sample, step.sample);
            let values: Vec<f32> = x.to_data().try_to_vec().expect("f32");
            let expected = reference.forward(&values, step.stage.at.t, &observed);
            for (policy, worst) in packed.iter().zip(&mut worst) {
                let y = pass(policy.network(), &x, &condition, &[step.stage.at.t]);
                *worst = worst.max(relative(&y, &expected));
            }
        }
    }
    let [f32, bf16, int8, int4] = worst;
    println!(
        "at most {f32:.1e} in f32, {bf16:.1e} in bf16, {int8:.1e} in int8 and {int4:.1e} in int4 from f64"
    );
    assert!(f32 < F32_SHIPPED, "{f32:e}");
    assert!(bf16 < BF16_SHIPPED, "{bf16:e}");
    assert!(int8 < INT8_SHIPPED, "{int8:e}");
    assert!(int4 < INT4_SHIPPED, "{int4:e}");
}
