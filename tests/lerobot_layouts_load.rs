//! Every layout in which LeRobot has saved state-only diffusion policies loads, and computes what its formulas say.
//!
//! The reference is a second network, written in plain f64 loops over the tensors of the file, and tied to LeRobot by
//! the golden outputs of `models/pusht`.

mod lerobot_checkpoint;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Level, Network, Point};
use clearway_layers::Weights;
use clearway_planner::normalization::Mode;
use clearway_planner::{History, LoadError, Observation, Policy};
use lerobot_checkpoint::{
    ACTION, Checkpoint, ENVIRONMENT, Entry, LFS_POINTER, N_OBS, POST, POST_STATE, PRE, PRE_STATE,
    Random, STATE, Shape,
};
use serde_json::json;

/// A pass in f32 against one in f64, on outputs of at most a few units.
const NETWORK: f64 = 1e-5;

/// Channels, each a row of values over time.
type Signal = Vec<Vec<f64>>;

/// LeRobot's network in plain loops.
struct Reference {
    tensors: BTreeMap<String, Entry>,
    n_groups: usize,
    scales: bool,
    levels: usize,
}

fn mish(x: f64) -> f64 {
    x * x.exp().ln_1p().tanh()
}

impl Reference {
    fn new(entries: &[Entry], shape: &Shape) -> Self {
        let tensors = entries.iter().map(|e| (e.key.clone(), e.clone()));
        Self {
            tensors: tensors.collect(),
            n_groups: shape.n_groups,
            scales: shape.scales,
            levels: shape.down_dims.len(),
        }
    }

    fn get(&self, name: &str) -> Option<(&[usize], Vec<f64>)> {
        let entry = self.tensors.get(&format!("diffusion.unet.{name}"))?;
        let values = entry.values.iter().copied().map(f64::from).collect();
        Some((&entry.shape, values))
    }

    fn layer(&self, name: &str) -> (&[usize], Vec<f64>, Vec<f64>) {
        let (shape, weight) = self.get(&format!("{name}.weight")).expect("a weight");
        let (_, bias) = self.get(&format!("{name}.bias")).expect("a bias");
        (shape, weight, bias)
    }

    fn linear(&self, name: &str, x: &[f64]) -> Vec<f64> {
        let (shape, weight, bias) = self.layer(name);
        assert_eq!(shape[1], x.len());
        let rows = weight.chunks(shape[1]).zip(bias);
        rows.map(|(row, b)| b + row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>())
            .collect()
    }

    fn conv(&self, name: &str, x: &Signal, stride: usize, padding: usize) -> Signal {
        let (shape, weight, bias) = self.layer(name);
        let (k, time) = (shape[2], x[0].len());
        let outputs = (time + 2 * padding - k) / stride + 1;
        let at = |o: usize, t: usize| {
            let mut sum = bias[o];
            for (i, channel) in x.iter().enumerate() {
                for j in 0..k {
                    let from = (t * stride + j).wrapping_sub(padding);
                    sum += weight[(o * shape[1] + i) * k + j] * channel.get(from).unwrap_or(&0.0);
                }
            }
            sum
        };
        (0..shape[0])
            .map(|o| (0..outputs).map(|t| at(o, t)).collect())
            .collect()
    }

    fn upsample(&self, name: &str, x: &Signal) -> Signal {
        let (shape, weight, bias) = self.layer(name);
        let mut y: Signal = bias.iter().map(|b| vec![*b; 2 * x[0].len()]).collect();
        for (i, channel) in x.iter().enumerate() {
            for (t, value) in channel.iter().enumerate() {
                for (o, out) in y.iter_mut().enumerate() {
                    for j in 0..4 {
                        if let Some(sum) = out.get_mut((2 * t + j).wrapping_sub(1)) {
                            *sum += weight[(i * shape[1] + o) * 4 + j] * value;
                        }
                    }
                }
            }
        }
        y
    }

    fn conv_block(&self, name: &str, x: &Signal, n_groups: usize) -> Signal {
        let (shape, _, _) = self.layer(&format!("{name}.block.0"));
        let mut y = self.conv(&format!("{name}.block.0"), x, 1, shape[2] / 2);
        let (_, scale, offset) = self.layer(&format!("{name}.block.1"));
        let size = y.len() / n_groups;
        for group in 0..n_groups {
            let channels = group * size..(group + 1) * size;
            let all: Vec<f64> = y[channels.clone()].concat();
            let mean = all.iter().sum::<f64>() / all.len() as f64;
            let variance = all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64;
            for c in channels {
                for v in &mut y[c] {
                    *v = mish((*v - mean) / (variance + 1e-5).sqrt() * scale[c] + offset[c]);
                }
            }
        }
        y
    }

    fn block(&self, name: &str, x: &Signal, condition: &[f64]) -> Signal {
        let mut h = self.conv_block(&format!("{name}.conv1"), x, self.n_groups);
        let condition: Vec<f64> = condition.iter().copied().map(mish).collect();
        let film = self.linear(&format!("{name}.cond_encoder.1"), &condition);
        let n = h.len();
        for (c, channel) in h.iter_mut().enumerate() {
            for v in channel {
                *v = if self.scales {
                    *v * film[c] + film[n + c]
                } else {
                    *v + film[c]
                };
            }
        }
        let mut h = self.conv_block(&format!("{name}.conv2"), &h, self.n_groups);
        let residual = format!("{name}.residual_conv");
        let x = match self.get(&format!("{residual}.weight")) {
            Some(_) => self.conv(&residual, x, 1, 0),
            None => x.clone(),
        };
        for (h, x) in h.iter_mut().flatten().zip(x.iter().flatten()) {
            *h += x;
        }
        h
    }

    /// Shapes: x and result `[horizon, action]`.
    fn forward(&self, x: &[f32], t: f64, condition: &[f32]) -> Vec<f64> {
        let (shape, _, _) = self.layer("diffusion_step_encoder.1");
        let half = shape[1] / 2;
        let angle = |i: usize| t * (-(10_000_f64.ln()) * i as f64 / (half - 1) as f64).exp();
        let sines = (0..half).map(|i| angle(i).sin());
        let embedding: Vec<f64> = sines.chain((0..half).map(|i| angle(i).cos())).collect();
        let hidden = self.linear("diffusion_step_encoder.1", &embedding);
        let hidden: Vec<f64> = hidden.into_iter().map(mish).collect();
        let mut c = self.linear("diffusion_step_encoder.3", &hidden);
        c.extend(condition.iter().copied().map(f64::from));

        let mut x: Signal = (0..ACTION)
            .map(|a| {
                x.iter()
                    .skip(a)
                    .step_by(ACTION)
                    .copied()
                    .map(f64::from)
                    .collect()
            })
            .collect();
        let mut skips = Vec::new();
        for level in 0..self.levels {
            x = self.block(&format!("down_modules.{level}.0"), &x, &c);
            x = self.block(&format!("down_modules.{level}.1"), &x, &c);
            skips.push(x.clone());
            if level + 1 < self.levels {
                x = self.conv(&format!("down_modules.{level}.2"), &x, 2, 1);
            }
        }
        for i in 0..2 {
            x = self.block(&format!("mid_modules.{i}"), &x, &c);
        }
        for i in 0..self.levels - 1 {
            x.extend(skips.pop().expect("one a level"));
            x = self.block(&format!("up_modules.{i}.0"), &x, &c);
            x = self.block(&format!("up_modules.{i}.1"), &x, &c);
            x = self.upsample(&format!("up_modules.{i}.2"), &x);
        }
        // Always eight groups.
        x = self.conv_block("final_conv.0", &x, 8);
        x = self.conv("final_conv.1", &x, 1, 0);
        (0..x[0].len())
            .flat_map(|t| x.iter().map(move |channel| channel[t]))
            .collect()
    }
}

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
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let read = |file: &str| -> Vec<Entry> {
        let mut weights = Weights::open(&folder.join(file)).expect("opens");
        let keys: Vec<String> = weights.keys().map(Into::into).collect();
        keys.into_iter()
            .map(|key| {
                let shape = weights.shape(&key).expect("is there").to_vec();
                let values = weights.values(&key, &shape).expect("can be read");
                Entry::new(key, &shape, values)
            })
            .collect()
    };
    let shape = Shape {
        down_dims: vec![64, 128, 256],
        kernel_size: 5,
        n_groups: 8,
        embed_dim: 128,
        horizon: 16,
        action: ACTION,
        scales: true,
    };
    let reference = Reference::new(&read("model.safetensors"), &shape);
    let expected = read("expected.safetensors");
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
        let policy = load(&checkpoint).expect("is valid");
        let count: usize = checkpoint.model.iter().map(|e| e.values.len()).sum();
        assert_eq!(policy.parameters(), count);
        let reference = Reference::new(&checkpoint.model, &shape);
        let worst = difference(&policy, &reference, &mut random);
        println!("{shape:?}: at most {worst:.1e} from the reference");
        assert!(worst < NETWORK, "{shape:?}: {worst}");
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

#[test]
fn camera_policies_are_refused_by_name() {
    let mut checkpoint = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut Random(7));
    checkpoint.config["input_features"]["observation.images.wrist"] =
        json!({ "type": "VISUAL", "shape": [3, 96, 96] });
    let error = load(&checkpoint).expect_err("has a camera");
    assert_eq!(
        error.to_string(),
        "the policy sees through the camera `observation.images.wrist`; camera policies are not supported yet"
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
