//! Every layout in which LeRobot has saved diffusion policies loads, and computes what its formulas say.
//!
//! The reference is a second network, written in plain f64 loops over the tensors of the file, and tied to LeRobot by
//! the golden outputs of `models/pusht`. What cameras see is tied to LeRobot in `lerobot_policies_match.rs`.

mod lerobot_checkpoint;
mod reference_unet;

use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Level, Network, Point};
use clearway_layers::Precision;
use clearway_planner::normalization::Mode;
use clearway_planner::{History, Image, LoadError, Observation, Policy};
use lerobot_checkpoint::{
    ACTION, CONFIG, Cameras, Checkpoint, ENVIRONMENT, Entry, LFS_POINTER, N_OBS, POST, POST_STATE,
    PRE, PRE_STATE, Random, STATE, Shape,
};
use reference_unet::{Reference, entries};
use serde_json::json;

/// A pass in f32 against one in f64, on outputs of at most a few units.
const NETWORK: f64 = 1e-5;

fn ours(policy: &Policy, x: &[f32], t: f64, condition: &[f32]) -> Vec<f32> {
    let device = Device::flex();
    let condition = TensorData::new(condition.to_vec(), [1, condition.len()]);
    let x = TensorData::new(x.to_vec(), [1, x.len() / ACTION, ACTION]);
    let prepared = policy
        .network()
        .prepare(&Tensor::from_data(condition, &device));
    let point = Point {
        t,
        level: Level::CLEAN,
    };
    policy
        .network()
        .forward(Tensor::from_data(x, &device), &[point], &prepared)
        .into_data()
        .try_to_vec()
        .expect("f32")
}

/// The largest difference between our network and the reference.
fn difference(policy: &Policy, reference: &Reference, random: &mut Random) -> f64 {
    let mut draw = |n: usize| -> Vec<f32> { (0..n).map(|_| random.signed()).collect() };
    let x = draw(policy.config().horizon * ACTION);
    let condition = draw(policy.config().condition_dim());
    let mut worst = 0.0_f64;
    for t in [0.0, 7.0, 99.0] {
        let found = ours(policy, &x, t, &condition);
        let expected = reference.forward(&x, t, &condition);
        for (a, b) in found.iter().zip(&expected) {
            worst = worst.max((f64::from(*a) - b).abs());
        }
        assert_eq!(found.len(), expected.len());
    }
    worst
}

fn load(checkpoint: &Checkpoint) -> Result<Policy, LoadError> {
    let folder = tempfile::tempdir().expect("a folder");
    checkpoint.write(folder.path());
    Policy::load(folder.path(), &Device::flex())
}

fn observation(seconds: u64, state: &[f64], environment: &[f64]) -> Observation {
    Observation::new(Duration::from_secs(seconds))
        .with("observation.state", state)
        .with("observation.environment_state", environment)
}

#[test]
fn the_reference_is_lerobot() {
    let reference = Reference::shipped();
    let expected = entries("expected.safetensors");
    let get = |key: &str| {
        &expected
            .iter()
            .find(|e| e.key == key)
            .expect("is there")
            .values
    };
    let output = reference.forward(get("case0.noise"), 50.0, get("case0.global_cond"));
    for (found, lerobot) in output.iter().zip(get("case0.unet_out.t50")) {
        assert!((found - f64::from(*lerobot)).abs() < NETWORK);
    }
}

#[test]
fn networks_of_every_shape_compute_their_formulas() {
    let mut random = Random(1);
    let tiny = Shape::tiny();
    let shapes = [
        tiny.clone(),
        Shape {
            scales: false,
            ..tiny.clone()
        },
        Shape {
            down_dims: vec![8],
            ..tiny.clone()
        },
        Shape {
            down_dims: vec![16, 8, 32],
            horizon: 8,
            ..tiny.clone()
        },
        Shape {
            down_dims: vec![8, 16, 16, 24],
            horizon: 32,
            scales: false,
            ..tiny.clone()
        },
        Shape {
            kernel_size: 7,
            n_groups: 2,
            ..tiny.clone()
        },
        Shape {
            kernel_size: 1,
            embed_dim: 4,
            ..tiny.clone()
        },
        Shape {
            down_dims: vec![40, 80],
            horizon: 12,
            n_groups: 5,
            embed_dim: 20,
            ..tiny
        },
    ];
    for shape in shapes {
        let checkpoint = Checkpoint::new(&shape, "MIN_MAX", &mut random);
        let mut policy = load(&checkpoint).expect("is valid");
        let count: usize = checkpoint.model.iter().map(|e| e.values.len()).sum();
        let reference = Reference::new(&checkpoint.model, &shape);
        // Plain, and packed.
        for _ in 0..2 {
            assert_eq!(policy.parameters(), count);
            let worst = difference(&policy, &reference, &mut random);
            println!("{shape:?}: at most {worst:.1e} from the reference");
            assert!(worst < NETWORK, "{shape:?}: {worst}");
            assert_eq!(policy.pack(Precision::F32).parameters, count);
        }
    }
}

#[test]
fn policies_are_shared_between_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Policy>();
    shared::<LoadError>();
}

#[test]
fn a_compiled_network_loads() {
    let mut random = Random(2);
    let mut checkpoint = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut random);
    let reference = Reference::new(&checkpoint.model, &Shape::tiny());
    for entry in &mut checkpoint.model {
        entry.key = entry
            .key
            .replace("diffusion.unet.", "diffusion.unet._orig_mod.");
    }
    let policy = load(&checkpoint).expect("is valid");
    assert!(difference(&policy, &reference, &mut random) < NETWORK);
}

/// By how much a value may differ that LeRobot computes in f32.
const F32: f64 = 1e-6;

#[test]
fn every_normalization_is_lerobots() {
    let mut random = Random(3);
    let modes = [
        ("IDENTITY", Mode::Identity, None),
        ("MEAN_STD", Mode::MeanStd, Some(["mean", "std"])),
        ("MIN_MAX", Mode::MinMax, Some(["min", "max"])),
        ("QUANTILES", Mode::Quantiles, Some(["q01", "q99"])),
        ("QUANTILE10", Mode::Quantile10, Some(["q10", "q90"])),
    ];
    for (word, mode, statistics) in modes {
        for legacy in [false, true] {
            let mut checkpoint = Checkpoint::new(&Shape::tiny(), word, &mut random);
            if legacy {
                checkpoint = checkpoint.into_legacy(statistics);
                if let Mode::Quantiles | Mode::Quantile10 = mode {
                    // LeRobot did not know these then.
                    assert!(matches!(load(&checkpoint), Err(LoadError::Value { .. })));
                    continue;
                }
            }
            let policy = load(&checkpoint).expect("is valid");
            let of = |feature: &str, i: usize| -> [f64; 2] {
                let value = |statistic: &str| {
                    let key = format!("{feature}.{statistic}");
                    let entry = checkpoint.pre_state.iter().find(|e| e.key == key);
                    f64::from(entry.expect("is there").values[i])
                };
                statistics.map_or([0.0; 2], |names| names.map(value))
            };
            let state = [0.7, -1.3];
            let environment = [2.5, 0.0, -0.4];
            let history = History::new(vec![observation(0, &state, &environment)]).expect("one");
            let condition = policy.condition(&history).expect("is complete");
            assert_eq!(condition.len(), N_OBS * (STATE + ENVIRONMENT));
            for (i, x) in state.iter().chain(&environment).enumerate() {
                let [a, b] = if i < STATE {
                    of("observation.state", i)
                } else {
                    of("observation.environment_state", i - STATE)
                };
                let expected = match mode {
                    Mode::Identity => *x,
                    Mode::MeanStd => (x - a) / (b + 1e-8),
                    _ => 2.0 * (x - a) / (b - a) - 1.0,
                };
                assert!((f64::from(condition[i]) - expected).abs() < F32, "{word}");
            }
            let normalized = [0.25, -0.75, 0.0, 1.0];
            let actions = policy.actions(&normalized);
            for (i, y) in normalized.iter().copied().map(f64::from).enumerate() {
                let [a, b] = of("action", i % ACTION);
                let expected = match mode {
                    Mode::Identity => y,
                    Mode::MeanStd => y * b + a,
                    _ => (y + 1.0) / 2.0 * (b - a) + a,
                };
                assert!((actions[i] - expected).abs() < F32, "{word}");
            }
        }
    }
}

#[test]
fn a_kind_without_a_mode_is_not_normalized() {
    // LeRobot's own default mapping has no ENV.
    let mut checkpoint = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut Random(4));
    for map in [
        &mut checkpoint.config["normalization_mapping"],
        &mut checkpoint.pre["steps"][3]["config"]["norm_map"],
        &mut checkpoint.post["steps"][0]["config"]["norm_map"],
    ] {
        map.as_object_mut().expect("a map").remove("ENV");
    }
    let policy = load(&checkpoint).expect("is valid");
    let history = History::new(vec![observation(0, &[0.0, 0.0], &[9.0, 8.0, 7.0])]).expect("one");
    let condition = policy.condition(&history).expect("is complete");
    assert_eq!(condition[STATE..STATE + ENVIRONMENT], [9.0, 8.0, 7.0]);
    assert_eq!(policy.config().inputs[1].mode, Mode::Identity);
}

#[test]
fn observations_are_renamed_as_the_policy_says() {
    let mut checkpoint = Checkpoint::new(&Shape::tiny(), "IDENTITY", &mut Random(5));
    checkpoint.pre["steps"][0]["config"]["rename_map"] =
        json!({ "joints": "observation.state", "unused": "other" });
    let policy = load(&checkpoint).expect("is valid");
    assert_eq!(
        policy.observed_names(),
        ["joints", "observation.environment_state"]
    );
    let environment = [0.0; ENVIRONMENT];
    let renamed = Observation::new(Duration::ZERO)
        .with("joints", [1.0, 2.0])
        .with("observation.environment_state", environment);
    let history = History::new(vec![renamed]).expect("one");
    let condition = policy.condition(&history).expect("is complete");
    assert_eq!(condition[..STATE], [1.0, 2.0]);
    let history = History::new(vec![observation(0, &[1.0, 2.0], &environment)]).expect("one");
    let error = policy.condition(&history).expect_err("has the old name");
    assert_eq!(error.to_string(), "the observation lacks `joints`");
}

#[test]
fn wrong_observations_are_errors_that_name_them() {
    let checkpoint = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut Random(6));
    let policy = load(&checkpoint).expect("is valid");
    let message = |observations: Vec<Observation>| {
        let history = History::new(observations).expect("times increase");
        policy
            .condition(&history)
            .expect_err("is wrong")
            .to_string()
    };
    assert_eq!(message(vec![]), "there is no observation");
    let environment = [0.0; ENVIRONMENT];
    assert_eq!(
        message(vec![observation(0, &[1.0], &environment)]),
        "`observation.state` has 1 values where 2 are needed"
    );
    for value in [f64::NAN, f64::INFINITY, 1e300] {
        let message = message(vec![
            observation(0, &[0.0, 0.0], &environment),
            observation(1, &[0.0, value], &environment),
        ]);
        assert_eq!(
            message,
            format!(
                "value 1 of `observation.state` is {value:e}, which cannot be normalized to a finite number"
            )
        );
    }
}

/// A picture of random bytes, of the size of [`Cameras::two`].
fn picture(random: &mut Random) -> Image {
    let [height, width] = Cameras::two().size;
    let bytes: Vec<u8> = (0..3 * height * width)
        .map(|_| random.below(256) as u8)
        .collect();
    Image::from_rgb8(height, width, bytes).expect("has the size")
}

fn condition(policy: &Policy, observation: Observation) -> Vec<f32> {
    let history = History::new(vec![observation]).expect("one");
    policy.condition(&history).expect("is complete")
}

/// The same pictures, normalized with statistics whose formulas differ by 1e-8, or in other batches.
const SEEN: f32 = 1e-5;

fn near(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < SEEN)
}

#[test]
fn policies_that_see_load_in_every_layout() {
    let mut random = Random(7);
    let pictures = [picture(&mut random), picture(&mut random)];
    for (group_norm, separate, environment) in [
        (true, false, false),
        (true, true, true),
        (false, false, true),
        (false, true, false),
    ] {
        let cameras = Cameras {
            group_norm,
            separate,
            environment,
            ..Cameras::two()
        };
        let modern = Checkpoint::seeing(&Shape::tiny(), "MIN_MAX", &cameras, &mut random);
        let policy = load(&modern).expect("is valid");
        let trained = modern.model.iter().filter(|entry| {
            let kept = [
                "running_mean",
                "running_var",
                "num_batches_tracked",
                "pos_grid",
            ];
            !kept.iter().any(|buffer| entry.key.ends_with(buffer))
        });
        let count: usize = trained.map(|entry| entry.values.len()).sum();
        assert_eq!(policy.parameters(), count);

        let observed = |first: &Image, second: &Image| {
            let seen = Observation::new(Duration::ZERO)
                .with("observation.state", [0.5, -0.5])
                .with_image(cameras.names[0], first.clone())
                .with_image(cameras.names[1], second.clone());
            if environment {
                seen.with("observation.environment_state", [1.0; ENVIRONMENT])
            } else {
                seen
            }
        };
        let found = condition(&policy, observed(&pictures[0], &pictures[1]));
        let features = 2 * cameras.keypoints;
        let rest = if environment { ENVIRONMENT } else { 0 };
        assert_eq!(found.len(), N_OBS * (STATE + 2 * features + rest));
        assert_eq!(policy.config().condition_dim(), found.len());
        // The only observation is seen twice.
        assert!(near(&found[..found.len() / 2], &found[found.len() / 2..]));
        let [first, second] = [STATE, STATE + features].map(|at| &found[at..at + features]);
        assert!(first.iter().chain(second).any(|value| *value > 0.0));
        assert!(!near(first, second));

        // A camera's features are of its own image alone.
        let other = condition(&policy, observed(&pictures[1], &pictures[1]));
        assert!(!near(first, &other[STATE..STATE + features]));
        assert!(near(&found[..STATE], &other[..STATE]));
        let after = STATE + features..found.len() / 2;
        assert!(near(&found[after.clone()], &other[after]));

        // As LeRobot 0.3.3 saved it.
        let legacy = load(&modern.into_legacy(Some(["min", "max"]))).expect("is valid");
        let again = condition(&legacy, observed(&pictures[0], &pictures[1]));
        assert!(near(&found, &again));
    }
}

#[test]
fn cameras_come_in_the_order_of_the_file_and_under_their_names() {
    let mut random = Random(8);
    let cameras = Cameras::two();
    let mut checkpoint = Checkpoint::seeing(&Shape::tiny(), "MIN_MAX", &cameras, &mut random);
    checkpoint.pre["steps"][0]["config"]["rename_map"] = json!({ "cam0": cameras.names[1] });
    let folder = tempfile::tempdir().expect("a folder");
    checkpoint.write(folder.path());
    let sorted = Policy::load(folder.path(), &Device::flex()).expect("is valid");
    // Two names that are as long change places.
    let text = checkpoint.config.to_string();
    let [front, wrist] = [cameras.names[0], cameras.names[1]];
    let text = text
        .replace(front, "-")
        .replace(wrist, front)
        .replace('-', wrist);
    assert!(text.find(wrist) < text.find(front));
    std::fs::write(folder.path().join(CONFIG), text).expect("can be written");
    let reversed = Policy::load(folder.path(), &Device::flex()).expect("is valid");
    let names = |policy: &Policy| policy.vision().expect("sees").config().cameras.clone();
    assert_eq!(names(&sorted), [front, wrist]);
    assert_eq!(names(&reversed), [wrist, front]);
    let vision = reversed.vision().expect("sees");
    assert_eq!(vision.observed_names(), ["cam0", front]);

    let seen = Observation::new(Duration::ZERO)
        .with("observation.state", [0.5, -0.5])
        .with_image(front, picture(&mut random))
        .with_image("cam0", picture(&mut random));
    let [a, b] = [&sorted, &reversed].map(|policy| condition(policy, seen.clone()));
    let features = 2 * cameras.keypoints;
    let [first, second] = [STATE, STATE + features].map(|at| at..at + features);
    assert!(near(&a[first.clone()], &b[second.clone()]));
    assert!(near(&a[second], &b[first]));
    assert!(!near(&a, &b));
}

#[test]
fn wrong_images_are_errors_that_name_them() {
    let mut random = Random(9);
    let cameras = Cameras::two();
    let checkpoint = Checkpoint::seeing(&Shape::tiny(), "MIN_MAX", &cameras, &mut random);
    let policy = load(&checkpoint).expect("is valid");
    let seen = Observation::new(Duration::ZERO)
        .with("observation.state", [0.5, -0.5])
        .with_image(cameras.names[0], picture(&mut random));
    let message = |observation: &Observation| {
        let history = History::new(vec![observation.clone()]).expect("one");
        policy
            .condition(&history)
            .expect_err("is wrong")
            .to_string()
    };
    // A vector under the camera's name is no image.
    for seen in [seen.clone(), seen.clone().with(cameras.names[1], [0.0; 3])] {
        assert_eq!(
            message(&seen),
            "the observation lacks the image `observation.images.wrist`"
        );
    }
    let small = Image::from_rgb8(36, 40, [0; 3 * 36 * 40]).expect("has the size");
    assert_eq!(
        message(&seen.with_image(cameras.names[1], small)),
        "the image `observation.images.wrist` has 36 x 40 pixels where 40 x 36 are needed (height x width)"
    );
}

#[test]
fn features_that_are_not_finite_name_their_camera() {
    let mut random = Random(10);
    let cameras = Cameras {
        group_norm: false,
        separate: true,
        ..Cameras::two()
    };
    let mut checkpoint = Checkpoint::seeing(&Shape::tiny(), "MIN_MAX", &cameras, &mut random);
    // A variance cannot be negative; its root is none.
    let key = "diffusion.rgb_encoder.1.backbone.7.1.bn2.running_var";
    let entry = checkpoint.model.iter_mut().find(|entry| entry.key == key);
    entry.expect("is there").values[3] = -1.0;
    let policy = load(&checkpoint).expect("has finite numbers");
    let seen = Observation::new(Duration::ZERO)
        .with("observation.state", [0.5, -0.5])
        .with_image(cameras.names[0], picture(&mut random))
        .with_image(cameras.names[1], picture(&mut random));
    let history = History::new(vec![seen]).expect("one");
    assert_eq!(
        policy
            .condition(&history)
            .expect_err("has no root")
            .to_string(),
        "the features of the image `observation.images.wrist` are not finite: the policy's weights are broken"
    );
}

/// A broken copy of a policy that sees, and a word of what its error must say.
type Broken = (fn(&mut Checkpoint), &'static str);

#[test]
fn models_and_statistics_of_cameras_are_checked() {
    fn entry<'a>(entries: &'a mut [Entry], key: &str) -> &'a mut Entry {
        let found = entries.iter_mut().find(|entry| entry.key == key);
        found.expect("is there")
    }
    fn without(entries: &mut Vec<Entry>, key: &str) {
        let before = entries.len();
        entries.retain(|entry| entry.key != key);
        assert_eq!(entries.len() + 1, before, "{key}");
    }
    let cameras = Cameras {
        group_norm: false,
        ..Cameras::two()
    };
    let valid = Checkpoint::seeing(&Shape::tiny(), "MIN_MAX", &cameras, &mut Random(13));
    load(&valid).expect("is valid");
    let table: [Broken; 22] = [
        // The configuration says another network than the model holds.
        (|c| c.config["use_group_norm"] = json!(true), "running_mean"),
        (
            |c| c.config["use_separate_rgb_encoder_per_camera"] = json!(true),
            "rgb_encoder.0.",
        ),
        (
            |c| c.config["vision_backbone"] = json!("resnet34"),
            "backbone.4.2.conv1.weight",
        ),
        (
            |c| c.config["vision_backbone"] = json!("resnet50"),
            "backbone.4.0.conv1.weight",
        ),
        (
            |c| c.config["spatial_softmax_num_keypoints"] = json!(5),
            "cond_encoder",
        ),
        (
            |c| c.config["crop_shape"] = json!([32, 32]),
            "pool.pos_grid",
        ),
        // Tensors.
        (
            |c| {
                without(
                    &mut c.model,
                    "diffusion.rgb_encoder.backbone.7.1.conv2.weight",
                )
            },
            "7.1.conv2.weight` is missing",
        ),
        (
            |c| without(&mut c.model, "diffusion.rgb_encoder.backbone.1.running_var"),
            "1.running_var` is missing",
        ),
        (
            |c| without(&mut c.model, "diffusion.rgb_encoder.pool.pos_grid"),
            "pos_grid` is missing",
        ),
        (
            |c| {
                c.model
                    .push(Entry::new("diffusion.rgb_encoder.fc.weight", &[1], [0.0]))
            },
            "fc.weight",
        ),
        (
            |c| {
                c.model.push(Entry::new(
                    "diffusion.rgb_encoder.backbone.2.num_batches_tracked",
                    &[],
                    [0.0],
                ))
            },
            "backbone.2.num",
        ),
        (
            |c| entry(&mut c.model, "diffusion.rgb_encoder.out.bias").values[3] = f32::NAN,
            "not finite",
        ),
        (
            |c| {
                entry(&mut c.model, "diffusion.rgb_encoder.backbone.0.weight").shape =
                    vec![64, 3, 49]
            },
            "[64, 3, 49]",
        ),
        // Statistics.
        (
            |c| without(&mut c.pre_state, "observation.images.wrist.std"),
            "wrist.std` is missing",
        ),
        (
            |c| entry(&mut c.pre_state, "observation.images.wrist.mean").shape = vec![3],
            "[3, 1, 1]",
        ),
        (
            |c| entry(&mut c.pre_state, "observation.images.front.std").values[2] = -0.1,
            "negative",
        ),
        (
            |c| {
                entry(&mut c.pre_state, "observation.images.front.std").values[1] = 0.0;
                c.pre["steps"][3]["config"]["eps"] = json!(1e-300);
            },
            "not finite in f32",
        ),
        // The preprocessor says something else than the configuration.
        (
            |c| c.pre["steps"][3]["config"]["norm_map"]["VISUAL"] = json!("MIN_MAX"),
            "VISUAL",
        ),
        (
            |c| {
                c.pre["steps"][3]["config"]["features"]["observation.images.front"]["shape"] =
                    json!([3, 40, 35])
            },
            "[3, 40, 36]",
        ),
        (
            |c| {
                c.pre["steps"][3]["config"]["features"]["observation.images.front"]["type"] =
                    json!("STATE")
            },
            "VISUAL",
        ),
        (
            |c| {
                let features = &mut c.pre["steps"][3]["config"]["features"];
                features
                    .as_object_mut()
                    .expect("a map")
                    .remove("observation.images.front");
            },
            "lacks",
        ),
        (
            |c| {
                c.pre["steps"][0]["config"]["rename_map"] =
                    json!({ "observation.images.front": "other" })
            },
            "rename_map",
        ),
    ];
    for (i, (breaks, word)) in table.into_iter().enumerate() {
        let mut broken = valid.clone();
        breaks(&mut broken);
        let message = load(&broken).expect_err("is broken").to_string();
        assert!(message.contains(word), "{i}: {message}");
    }
    // The statistics of cameras are in neither place.
    let mut legacy = valid.into_legacy(Some(["min", "max"]));
    without(
        &mut legacy.model,
        "normalize_inputs.buffer_observation_images_wrist.std",
    );
    let message = load(&legacy).expect_err("is broken").to_string();
    assert!(
        message.contains("images_wrist.std` is missing"),
        "{message}"
    );
}

#[test]
fn sizes_that_are_possible_each_are_refused_where_they_are_not_together() {
    let tiny = Shape::tiny();
    let message = |checkpoint: &Checkpoint| load(checkpoint).expect_err("is too large").to_string();
    // No weight depends on the horizon: everything else of these policies is valid.
    let shape = Shape {
        horizon: 1 << 16,
        action: 17,
        ..tiny.clone()
    };
    assert_eq!(
        message(&Checkpoint::new(&shape, "MIN_MAX", &mut Random(8))),
        "config.json: `horizon` times `output_features.action.shape` comes to 1114112; the limit is 1048576"
    );
    let shape = Shape {
        horizon: 1 << 16,
        kernel_size: 65,
        ..tiny.clone()
    };
    assert_eq!(
        message(&Checkpoint::new(&shape, "MIN_MAX", &mut Random(9))),
        "config.json: `horizon` times `kernel_size` times the largest of `down_dims` and \
         `output_features.action.shape` comes to 68157440; the limit is 67108864"
    );
    let mut checkpoint = Checkpoint::new(&tiny, "MIN_MAX", &mut Random(10));
    checkpoint.config["n_obs_steps"] = json!(1024);
    checkpoint.config["horizon"] = json!(1024);
    checkpoint.config["input_features"]["observation.state"]["shape"] = json!([1022]);
    assert_eq!(
        message(&checkpoint),
        "config.json: `n_obs_steps` times the sum of the shapes of `input_features` comes to 1049600; \
         the limit is 1048576"
    );
    // Half as much loads.
    let shape = Shape {
        horizon: 1 << 15,
        action: 17,
        ..tiny
    };
    load(&Checkpoint::new(&shape, "MIN_MAX", &mut Random(11))).expect("is valid");
}

#[test]
fn files_that_were_not_downloaded_or_not_saved_say_so() {
    let checkpoint = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut Random(12));
    let folder = tempfile::tempdir().expect("a folder");
    let message = || {
        Policy::load(folder.path(), &Device::flex())
            .expect_err("is not whole")
            .to_string()
    };
    for file in checkpoint.files() {
        checkpoint.write(folder.path());
        std::fs::write(folder.path().join(file), LFS_POINTER).expect("can be written");
        assert!(
            message().starts_with(file) && message().ends_with("run git lfs pull"),
            "{}",
            message()
        );
    }
    checkpoint.write(folder.path());
    for file in [PRE, POST, PRE_STATE, POST_STATE] {
        std::fs::remove_file(folder.path().join(file)).expect("is there");
    }
    assert_eq!(
        message(),
        "the statistics of the normalization are in neither place, processor files (policy_preprocessor.json, \
         policy_postprocessor.json) or buffers in model.safetensors: save the policy again with its processors \
         (`save_pretrained` of the pre- and the postprocessor in LeRobot 0.4, or its script \
         `migrate_policy_normalization` on an older policy)"
    );
}
