//! A policy that LeRobot trained computes here what it computes in LeRobot.
//!
//! `models/pusht/expected.safetensors` was written by LeRobot 0.4.4 (torch 2.11, CPU) for the policy beside it. Policies
//! that see have 45 MB and more: one lies with the shared data, others are written by `golden/lerobot/record_cameras.py`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Level, Network, Point};
use clearway_layers::{Precision, Weights};
use clearway_planner::lerobot::{BetaSchedule, NoiseScheduler, Prediction};
use clearway_planner::{Budget, History, Image, Observation, Planner, Policy, Problem};
use clearway_sim::PushT;
use clearway_tests::{repository, shared};

/// One rounding of the normalization in f32, which LeRobot uses, on values of at most about 2.
const NORMALIZATION: f32 = 1e-6;
/// The sums of a pass in another order, in f32. The project's promise is 5e-5.
const NETWORK: f32 = 5e-6;
/// A sample alone and in a batch: the same sums, in blocks of another size. Relative to the largest output.
const BATCH: f32 = 1e-6;

/// The features of an image: a network of 18 layers or more, in f32, whose sums are of up to 4608 products.
const FEATURES: f32 = 1e-5;
/// A plan from its images: what the features differ by, through five or ten passes. The project's promise is 1e-4.
const SAMPLE: f32 = 5e-5;

const CASES: usize = 4;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht")
}

fn policy() -> Policy {
    Policy::load(&folder(), &Device::flex()).expect("the policy loads")
}

fn expected() -> Weights {
    Weights::open(&folder().join("expected.safetensors")).expect("the golden file opens")
}

fn values(weights: &mut Weights, key: &str) -> Vec<f32> {
    let shape = weights.shape(key).expect("is there").to_vec();
    weights.values(key, &shape).expect("can be read")
}

fn tensor<const D: usize>(values: &[f32], shape: [usize; D]) -> Tensor<D> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &Device::flex())
}

fn point(t: f64) -> Point {
    Point {
        t,
        level: Level::CLEAN,
    }
}

fn largest_difference(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    a.iter()
        .zip(b)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f32::max)
}

fn host<const D: usize>(x: Tensor<D>) -> Vec<f32> {
    x.into_data().try_to_vec().expect("f32")
}

#[test]
fn the_configuration_is_read() {
    let policy = policy();
    let config = policy.config();
    assert_eq!(policy.parameters(), 4_545_218);
    assert_eq!(
        (config.n_obs_steps, config.horizon, config.n_action_steps),
        (2, 16, 8)
    );
    assert_eq!(config.condition_dim(), 36);
    assert_eq!(config.noise_scheduler, NoiseScheduler::Ddim);
    assert_eq!(config.beta_schedule, BetaSchedule::SquaredCosine);
    assert_eq!(config.prediction, Prediction::Epsilon);
    assert_eq!(config.clip_sample_range, Some(1.0));
    assert_eq!(
        (config.num_train_timesteps, config.num_inference_steps),
        (100, 10)
    );
    assert_eq!(policy.hash().len(), 64);
}

#[test]
fn observations_condition_as_in_lerobot() {
    let policy = policy();
    let mut expected = expected();
    let mut worst = 0.0_f32;
    for case in 0..CASES {
        let mut raw = |name: &str| -> Vec<f64> {
            let values = values(&mut expected, &format!("case{case}.raw.{name}"));
            values.into_iter().map(f64::from).collect()
        };
        let state = raw("observation.state");
        let environment = raw("observation.environment_state");
        let observation = |i: usize| {
            Observation::new(Duration::from_millis(100 * (i as u64 + 1)))
                .with("observation.state", &state[2 * i..2 * (i + 1)])
                .with(
                    "observation.environment_state",
                    &environment[16 * i..16 * (i + 1)],
                )
        };
        // An observation from before the two that the policy sees must not matter.
        let older = Observation::new(Duration::ZERO);
        let history =
            History::new(vec![older, observation(0), observation(1)]).expect("times increase");
        let condition = policy.condition(&history).expect("is complete");
        worst = worst.max(largest_difference(
            &condition,
            &values(&mut expected, &format!("case{case}.global_cond")),
        ));
        let normalized = values(
            &mut expected,
            &format!("case{case}.normalized.observation.state"),
        );
        assert!(largest_difference(&condition[0..2], &normalized[0..2]) <= NORMALIZATION);
        assert!(largest_difference(&condition[18..20], &normalized[2..4]) <= NORMALIZATION);

        // At the start of an episode, the only observation is seen twice.
        let start = History::new(vec![observation(0)]).expect("one");
        let start = policy.condition(&start).expect("is complete");
        assert_eq!(start[..18], start[18..]);
        assert_eq!(start[..18], condition[..18]);
    }
    println!("normalization: at most {worst:.1e} from LeRobot's");
    assert!(worst <= NORMALIZATION, "{worst}");
}

#[test]
fn actions_are_unnormalized_as_in_lerobot() {
    let policy = policy();
    let mut expected = expected();
    for case in 0..CASES {
        let normalized = values(&mut expected, &format!("case{case}.actions_normalized"));
        let actions = values(&mut expected, &format!("case{case}.actions"));
        let found = policy.actions(&normalized);
        for (found, expected) in found.iter().zip(&actions) {
            // A pixel of 512 in f32 is 3e-5 wide.
            assert!((found - f64::from(*expected)).abs() < 1e-4);
        }
        let back = policy.normalized_actions(&found);
        assert!(largest_difference(&back, &normalized) <= NORMALIZATION);
    }
}

#[test]
fn the_network_predicts_as_in_lerobot() {
    predicts_as_in_lerobot(&policy());
    let mut packed = policy();
    assert_eq!(packed.pack(Precision::F32).parameters, packed.parameters());
    predicts_as_in_lerobot(&packed);
}

fn predicts_as_in_lerobot(policy: &Policy) {
    let network = policy.network();
    let mut expected = expected();
    let mut worst = 0.0_f32;
    let mut noises = Vec::new();
    let mut conditions = Vec::new();
    let mut alone = Vec::new();
    for case in 0..CASES {
        let noise = values(&mut expected, &format!("case{case}.noise"));
        let condition = values(&mut expected, &format!("case{case}.global_cond"));
        let prepared = network.prepare(&tensor(&condition, [1, 36]));
        for t in [0, 50, 90] {
            let output = host(network.forward(
                tensor(&noise, [1, 16, 2]),
                &[point(f64::from(t))],
                &prepared,
            ));
            let difference = largest_difference(
                &output,
                &values(&mut expected, &format!("case{case}.unet_out.t{t}")),
            );
            worst = worst.max(difference);
            if t == 50 {
                alone.extend(output);
            }
        }
        noises.extend(noise);
        conditions.extend(condition);
    }
    println!("network: at most {worst:.1e} from LeRobot's");
    assert!(worst <= NETWORK, "{worst}");

    // All cases in one batch, with one point for all and with one for each.
    let prepared = network.prepare(&tensor(&conditions, [CASES, 36]));
    for points in [vec![point(50.0)], vec![point(50.0); CASES]] {
        let batch = host(network.forward(tensor(&noises, [CASES, 16, 2]), &points, &prepared));
        let scale = alone.iter().fold(0.0_f32, |scale, y| scale.max(y.abs()));
        let difference = largest_difference(&batch, &alone) / scale;
        println!("in a batch: at most {difference:.1e} from alone, relative to {scale:.1}");
        assert!(difference <= BATCH, "{difference}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let policy = policy();
    let network = policy.network();
    let mut expected = expected();
    let noise = values(&mut expected, "case0.noise").repeat(64);
    let condition = values(&mut expected, "case0.global_cond").repeat(64);
    let run = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
        pool.expect("a pool").install(|| {
            let prepared = network.prepare(&tensor(&condition, [64, 36]));
            host(network.forward(tensor(&noise, [64, 16, 2]), &[point(30.0)], &prepared))
        })
    };
    let one = run(1);
    assert!(
        run(2)
            .iter()
            .zip(&one)
            .all(|(a, b)| a.to_bits() == b.to_bits())
    );
}

/// Replays the two cases that lie beside a policy that sees.
fn sees_as_in_lerobot(folder: &Path) {
    let device = Device::flex();
    let policy = Policy::load(folder, &device).expect("the policy loads");
    sees(folder, policy.clone());
    let mut packed = policy.clone();
    let parameters = policy.parameters();
    let _ = packed.pack(Precision::F32);
    assert_eq!(packed.parameters(), parameters);
    sees(folder, packed);
}

fn sees(folder: &Path, policy: Policy) {
    let device = Device::flex();
    let planner = Planner::new(policy, Duration::from_secs(1), &device).expect("samples");
    let (policy, config) = (planner.policy(), planner.policy().config());
    let vision = policy.vision().expect("has a camera");
    let mut file = Weights::open(&folder.join("expected.safetensors")).expect("the cases open");
    let mut worst = [0.0_f32; 2];
    let mut milliseconds = f64::INFINITY;
    for case in 0..2 {
        let mut observations: Vec<Observation> = (0..config.n_obs_steps)
            .map(|step| Observation::new(Duration::from_secs(step as u64)))
            .collect();
        for name in policy.observed_names() {
            let raw = values(&mut file, &format!("case{case}.raw.{name}"));
            let rows = raw.chunks(raw.len() / config.n_obs_steps);
            for (observation, row) in observations.iter_mut().zip(rows) {
                let row: Vec<f64> = row.iter().copied().map(f64::from).collect();
                *observation = observation.clone().with(name, row);
            }
        }
        let [height, width] = vision.config().size;
        for name in vision.observed_names() {
            let raw = values(&mut file, &format!("case{case}.raw.{name}"));
            let images = raw.chunks(raw.len() / config.n_obs_steps);
            for (observation, image) in observations.iter_mut().zip(images) {
                let image = Image::from_chw(height, width, image).expect("is an image");
                *observation = observation.clone().with_image(name, image);
            }
        }
        let history = History::new(observations).expect("times increase");
        for _ in 0..4 {
            let begun = Instant::now();
            policy.condition(&history).expect("is complete");
            milliseconds = milliseconds.min(1e3 * begun.elapsed().as_secs_f64());
        }
        let condition = policy.condition(&history).expect("is complete");
        let expected = values(&mut file, &format!("case{case}.global_cond"));
        worst[0] = worst[0].max(largest_difference(&condition, &expected));

        // From images to normalized actions, by the planner.
        let noise = values(&mut file, &format!("case{case}.noise"));
        let problem = Problem::new(&history).with_noise(&noise);
        let plan = planner.plan(&problem, Budget::default(), 0).expect("plans");
        let actions: Vec<f64> = plan.trajectory.positions().iter().copied().collect();
        let expected = values(&mut file, &format!("case{case}.actions_normalized"));
        let found = policy.normalized_actions(&actions);
        worst[1] = worst[1].max(largest_difference(&found, &expected));
    }
    let [features, sample] = worst;
    println!(
        "{}: features at most {features:.1e}, actions at most {sample:.1e} from LeRobot's; conditioning {milliseconds:.1} ms",
        folder.display()
    );
    assert!(features <= FEATURES, "{features}");
    assert!(sample <= SAMPLE, "{sample}");
}

#[test]
fn a_policy_sees_as_in_lerobot() {
    if let Some(folder) = shared("fixtures/lerobot/image_groupnorm") {
        sees_as_in_lerobot(&folder);
    }
}

/// The picture that `PushT` shows conditions a policy that sees, the same as bytes and as numbers, and moves with the world.
#[test]
fn pusht_feeds_a_policy_that_sees() {
    let Some(folder) = shared("fixtures/lerobot/image_groupnorm") else {
        return;
    };
    let period = Duration::from_millis(100);
    let planner = Planner::load(&folder, period, &Device::flex()).expect("it loads");
    let mut world = PushT::reset(3);
    let mut plan = |as_bytes: bool| {
        let picture = world.picture();
        let (height, width) = (picture.height(), picture.width());
        let bytes = picture.into_bytes();
        let image = if as_bytes {
            Image::from_rgb8(height, width, bytes)
        } else {
            let plane = height * width;
            let values: Vec<f32> = (0..3 * plane)
                .map(|at| f32::from(bytes[at % plane * 3 + at / plane]) / 255.0)
                .collect();
            Image::from_chw(height, width, values)
        };
        let seen = Observation::new(period)
            .with("observation.state", world.observation().agent)
            .with_image("observation.image", image.expect("a picture"));
        let history = History::new(vec![seen]).expect("one");
        let condition = planner.policy().condition(&history).expect("it is seen");
        let plan = planner.plan(&Problem::new(&history), Budget::default(), 1);
        assert_eq!(plan.expect("a plan").trajectory.len(), 8);
        if !as_bytes {
            world.step([500.0, 500.0]).expect("a finite action");
        }
        condition
    };
    let (bytes, numbers, later) = (plan(true), plan(false), plan(true));
    assert_eq!(bytes, numbers);
    // Beyond the agent's own two numbers the features of the picture have changed.
    let state = 2;
    assert_ne!(bytes[state..bytes.len() / 2], later[state..bytes.len() / 2]);
}

/// Each layout that LeRobot 0.4.4 writes and one of 0.3.3: see the script.
#[test]
fn policies_of_every_kind_see_as_in_lerobot() {
    let root = repository("tests/golden/lerobot/cameras");
    let Ok(folders) = std::fs::read_dir(&root) else {
        eprintln!(
            "skipped: {} is not at hand; tests/golden/lerobot/record_cameras.py writes it",
            root.display()
        );
        return;
    };
    let mut folders: Vec<PathBuf> = folders
        .map(|entry| entry.expect("is listed").path())
        .collect();
    folders.sort();
    assert!(!folders.is_empty(), "{} is empty", root.display());
    for folder in folders {
        sees_as_in_lerobot(&folder);
    }
}
