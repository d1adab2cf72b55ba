//! Small LeRobot checkpoints with random weights, for tests to write, change and break.
//!
//! Keys and shapes are written down here as LeRobot's `DiffusionConditionalUnet1d` defines them, independently of the
//! network that loads them.

#![allow(dead_code)] // Each test uses a part.

use std::fs;
use std::path::Path;

use serde_json::{Map, Value, json};

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    pub fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())].clone()
    }

    /// In [-1, 1).
    pub fn signed(&mut self) -> f32 {
        (self.next() >> 40) as f32 / (1 << 23) as f32 - 1.0
    }
}

#[derive(Clone, Debug)]
pub struct Entry {
    pub key: String,
    pub shape: Vec<usize>,
    pub values: Vec<f32>,
}

impl Entry {
    pub fn new(key: impl Into<String>, shape: &[usize], values: impl Into<Vec<f32>>) -> Self {
        let (key, shape, values) = (key.into(), shape.to_vec(), values.into());
        assert_eq!(shape.iter().product::<usize>(), values.len(), "{key}");
        Self { key, shape, values }
    }
}

/// The header of a safetensors file of f32 tensors.
pub fn header(entries: &[Entry]) -> Map<String, Value> {
    let mut offset = 0;
    let mut header = Map::new();
    for entry in entries {
        let end = offset + 4 * entry.values.len();
        header.insert(
            entry.key.clone(),
            json!({ "dtype": "F32", "shape": entry.shape, "data_offsets": [offset, end] }),
        );
        offset = end;
    }
    header
}

/// A safetensors file with a header of the caller's choice.
pub fn with_header(header: &[u8], entries: &[Entry]) -> Vec<u8> {
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header);
    for entry in entries {
        bytes.extend(entry.values.iter().flat_map(|v| v.to_le_bytes()));
    }
    bytes
}

pub fn safetensors(entries: &[Entry]) -> Vec<u8> {
    with_header(
        Value::Object(header(entries)).to_string().as_bytes(),
        entries,
    )
}

pub const MODEL: &str = "model.safetensors";
pub const CONFIG: &str = "config.json";
pub const PRE: &str = "policy_preprocessor.json";
pub const POST: &str = "policy_postprocessor.json";
// Not LeRobot's names: a loader must read them in the processors.
pub const PRE_STATE: &str = "first.safetensors";
pub const POST_STATE: &str = "second.safetensors";

/// What stands in place of a file that git-lfs did not download.
pub const LFS_POINTER: &str =
    "version https://git-lfs.github.com/spec/v1\noid sha256:9f86d081884c7d65\nsize 123\n";

pub const STATE: usize = 2;
pub const ENVIRONMENT: usize = 3;
pub const ACTION: usize = 2;

/// What varies between networks.
#[derive(Clone, Debug)]
pub struct Shape {
    pub down_dims: Vec<usize>,
    pub kernel_size: usize,
    pub n_groups: usize,
    pub embed_dim: usize,
    pub horizon: usize,
    pub action: usize,
    pub scales: bool,
}

impl Shape {
    pub fn tiny() -> Self {
        Self {
            down_dims: vec![8, 16],
            kernel_size: 3,
            n_groups: 4,
            embed_dim: 8,
            horizon: 4,
            action: ACTION,
            scales: true,
        }
    }
}

/// What varies between policies that see. The network that looks is a ResNet-18: LeRobot has none that is smaller.
#[derive(Clone, Debug)]
pub struct Cameras {
    pub names: Vec<&'static str>,
    pub size: [usize; 2],
    pub crop: Option<[usize; 2]>,
    pub keypoints: usize,
    pub group_norm: bool,
    pub separate: bool,
    /// Whether the policy reads an environment state too.
    pub environment: bool,
}

impl Cameras {
    pub fn two() -> Self {
        Self {
            names: vec!["observation.images.front", "observation.images.wrist"],
            size: [40, 36],
            crop: Some([33, 34]),
            keypoints: 4,
            group_norm: true,
            separate: false,
            environment: false,
        }
    }
}

/// A policy's folder before it is written.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    pub config: Value,
    pub pre: Value,
    pub post: Value,
    pub model: Vec<Entry>,
    pub pre_state: Vec<Entry>,
    pub post_state: Vec<Entry>,
    /// Of LeRobot up to 0.3.3, which wrote no processors.
    pub legacy: bool,
}

pub const N_OBS: usize = 2;

impl Checkpoint {
    /// A valid policy whose features all have the same mode.
    pub fn new(shape: &Shape, mode: &str, random: &mut Random) -> Self {
        let features = |names: &[(&str, &str, usize)]| -> Value {
            let entries = names
                .iter()
                .map(|(name, kind, len)| ((*name).into(), json!({ "type": kind, "shape": [len] })))
                .collect::<Map<_, _>>();
            entries.into()
        };
        let inputs = [
            ("observation.state", "STATE", STATE),
            ("observation.environment_state", "ENV", ENVIRONMENT),
        ];
        let outputs = [("action", "ACTION", shape.action)];
        let all = [inputs[0], inputs[1], outputs[0]];
        let map = json!({ "VISUAL": "MEAN_STD", "STATE": mode, "ENV": mode, "ACTION": mode });
        let state: Vec<Entry> = all
            .iter()
            .flat_map(|(name, _, len)| {
                // Every low end is below every high end, and all may be means and deviations.
                let statistics = [
                    ("mean", 0.5),
                    ("std", 2.0),
                    ("min", -3.0),
                    ("max", 5.0),
                    ("q01", -2.0),
                    ("q99", 4.0),
                    ("q10", -1.0),
                    ("q90", 3.0),
                ];
                statistics.map(|(statistic, at)| {
                    let values: Vec<f32> = (0..*len).map(|_| at + 0.25 * random.signed()).collect();
                    Entry::new(format!("{name}.{statistic}"), &[*len], values)
                })
            })
            .collect();
        let config = json!({
            "type": "diffusion",
            "n_obs_steps": N_OBS,
            "input_features": features(&inputs),
            "output_features": features(&outputs),
            "device": "cuda",
            "horizon": shape.horizon,
            "n_action_steps": 2,
            "normalization_mapping": map,
            "vision_backbone": "resnet18",
            "down_dims": shape.down_dims,
            "kernel_size": shape.kernel_size,
            "n_groups": shape.n_groups,
            "diffusion_step_embed_dim": shape.embed_dim,
            "use_film_scale_modulation": shape.scales,
            "noise_scheduler_type": "DDPM",
            "num_train_timesteps": 50,
            "beta_schedule": "squaredcos_cap_v2",
            "beta_start": 0.0001,
            "beta_end": 0.02,
            "prediction_type": "epsilon",
            "clip_sample": true,
            "clip_sample_range": 1.0,
            "num_inference_steps": null,
        });
        let pre = json!({ "name": "policy_preprocessor", "steps": [
            { "registry_name": "rename_observations_processor", "config": { "rename_map": {} } },
            { "registry_name": "to_batch_processor", "config": {} },
            { "registry_name": "device_processor", "config": { "device": "cuda", "float_dtype": null } },
            { "registry_name": "normalizer_processor", "state_file": PRE_STATE, "config": {
                "eps": 1e-8, "features": features(&all), "norm_map": map,
            } },
        ] });
        let post = json!({ "name": "policy_postprocessor", "steps": [
            { "registry_name": "unnormalizer_processor", "state_file": POST_STATE, "config": {
                "eps": 1e-8, "features": features(&outputs), "norm_map": map,
            } },
            { "registry_name": "device_processor", "config": { "device": "cpu", "float_dtype": null } },
        ] });
        Self {
            config,
            pre,
            post,
            model: unet(shape, STATE + ENVIRONMENT, random),
            pre_state: state.clone(),
            post_state: state,
            legacy: false,
        }
    }

    /// A valid policy with cameras, whose images are normalized by mean and deviation.
    pub fn seeing(shape: &Shape, mode: &str, cameras: &Cameras, random: &mut Random) -> Self {
        let mut this = Self::new(shape, mode, random);
        this.see(cameras);
        for name in &cameras.names {
            for (statistic, at) in [("mean", 0.45), ("std", 0.3), ("min", 0.1), ("max", 0.9)] {
                let values: Vec<f32> = (0..3).map(|_| at + 0.1 * random.signed()).collect();
                let entry = Entry::new(format!("{name}.{statistic}"), &[3, 1, 1], values);
                this.pre_state.push(entry);
            }
        }
        let environment = if cameras.environment { ENVIRONMENT } else { 0 };
        let features = 2 * cameras.keypoints * cameras.names.len();
        this.model = unet(shape, STATE + features + environment, random);
        if cameras.separate {
            for i in 0..cameras.names.len() {
                let name = format!("diffusion.rgb_encoder.{i}");
                this.model.extend(rgb_encoder(&name, cameras, random));
            }
        } else {
            let entries = rgb_encoder("diffusion.rgb_encoder", cameras, random);
            this.model.extend(entries);
        }
        this
    }

    /// Adds cameras to the configuration and the preprocessor alone.
    pub fn see(&mut self, cameras: &Cameras) {
        self.config["vision_backbone"] = json!("resnet18");
        self.config["resize_shape"] = json!(null);
        self.config["crop_ratio"] = json!(1.0);
        self.config["crop_shape"] = json!(cameras.crop);
        self.config["use_group_norm"] = json!(cameras.group_norm);
        self.config["spatial_softmax_num_keypoints"] = json!(cameras.keypoints);
        self.config["use_separate_rgb_encoder_per_camera"] = json!(cameras.separate);
        let [height, width] = cameras.size;
        let normalizer = &mut self.pre["steps"][3]["config"]["features"];
        for features in [&mut self.config["input_features"], normalizer] {
            for name in &cameras.names {
                features[name] = json!({ "type": "VISUAL", "shape": [3, height, width] });
            }
            if !cameras.environment {
                let features = features.as_object_mut().expect("a map");
                features.remove("observation.environment_state");
            }
        }
    }

    /// A checkpoint of LeRobot 0.3.3 of one of 0.4: the statistics that a mode needs become buffers of the model.
    #[must_use]
    pub fn into_legacy(mut self, statistics: Option<[&str; 2]>) -> Self {
        let inputs = self.config["input_features"].as_object().expect("a map");
        let images: Vec<String> = inputs
            .iter()
            .filter(|(_, feature)| feature["type"] == "VISUAL")
            .map(|(name, _)| name.clone())
            .collect();
        let mut buffers: Vec<(&str, &str, &str)> = Vec::new();
        for statistic in statistics.into_iter().flatten() {
            for (layer, feature) in [
                ("normalize_inputs", "observation.state"),
                ("normalize_inputs", "observation.environment_state"),
                ("normalize_targets", "action"),
                ("unnormalize_outputs", "action"),
            ] {
                if feature == "action" || inputs.contains_key(feature) {
                    buffers.push((layer, feature, statistic));
                }
            }
        }
        for image in &images {
            for statistic in ["mean", "std"] {
                buffers.push(("normalize_inputs", image, statistic));
            }
        }
        for (layer, feature, statistic) in buffers {
            let key = format!("{feature}.{statistic}");
            let entry = self.pre_state.iter().find(|e| e.key == key);
            let mut entry = entry.expect("is there").clone();
            entry.key = format!("{layer}.buffer_{}.{statistic}", feature.replace('.', "_"));
            self.model.push(entry);
        }
        // Keys that came later.
        if let Some(config) = self.config.as_object_mut() {
            config.remove("resize_shape");
            config.remove("crop_ratio");
        }
        self.legacy = true;
        self
    }

    /// The files of the folder.
    pub fn files(&self) -> &'static [&'static str] {
        if self.legacy {
            &[CONFIG, MODEL]
        } else {
            &[CONFIG, MODEL, PRE, POST, PRE_STATE, POST_STATE]
        }
    }

    /// What is in one of them.
    pub fn bytes(&self, file: &str) -> Vec<u8> {
        match file {
            CONFIG => self.config.to_string().into_bytes(),
            MODEL => safetensors(&self.model),
            PRE => self.pre.to_string().into_bytes(),
            POST => self.post.to_string().into_bytes(),
            PRE_STATE => safetensors(&self.pre_state),
            POST_STATE => safetensors(&self.post_state),
            _ => panic!("{file} is not LeRobot's"),
        }
    }

    /// Writes the folder anew.
    pub fn write(&self, folder: &Path) {
        for file in self.files() {
            fs::write(folder.join(file), self.bytes(file)).expect("the folder can be written");
        }
    }
}

/// The tensors of LeRobot's `DiffusionRgbEncoder`, in which torchvision's layers are a list.
fn rgb_encoder(name: &str, cameras: &Cameras, random: &mut Random) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut tensor = |key: String, shape: &[usize], at: f32, scale: f32| {
        let n: usize = shape.iter().product();
        let values: Vec<f32> = (0..n).map(|_| at + scale * random.signed()).collect();
        entries.push(Entry::new(format!("{name}.{key}"), shape, values));
    };
    let mut conv_norm = |conv: &str, norm: &str, from: usize, to: usize, kernel: usize| {
        let scale = (3.0 / (from * kernel * kernel) as f32).sqrt();
        let shape = [to, from, kernel, kernel];
        tensor(format!("backbone.{conv}.weight"), &shape, 0.0, scale);
        tensor(format!("backbone.{norm}.weight"), &[to], 1.0, 0.3);
        tensor(format!("backbone.{norm}.bias"), &[to], 0.0, 0.3);
        if !cameras.group_norm {
            tensor(format!("backbone.{norm}.running_mean"), &[to], 0.0, 0.3);
            tensor(format!("backbone.{norm}.running_var"), &[to], 1.0, 0.5);
            tensor(
                format!("backbone.{norm}.num_batches_tracked"),
                &[],
                99.0,
                0.0,
            );
        }
    };
    conv_norm("0", "1", 3, 64, 7);
    let mut from = 64;
    for (stage, to) in [64, 128, 256, 512].into_iter().enumerate() {
        for block in 0..2 {
            let name = format!("{}.{block}", 4 + stage);
            let unit = |i: usize| [format!("{name}.conv{i}"), format!("{name}.bn{i}")];
            let ([conv1, bn1], [conv2, bn2]) = (unit(1), unit(2));
            conv_norm(&conv1, &bn1, from, to, 3);
            conv_norm(&conv2, &bn2, to, to, 3);
            if from != to {
                let [conv, norm] = [0, 1].map(|i| format!("{name}.downsample.{i}"));
                conv_norm(&conv, &norm, from, to, 1);
            }
            from = to;
        }
    }
    let k = cameras.keypoints;
    tensor("pool.nets.weight".into(), &[k, 512, 1, 1], 0.0, 0.3);
    tensor("pool.nets.bias".into(), &[k], 0.0, 0.3);
    // Five times halved, rounded up.
    let [rows, columns] = cameras.crop.unwrap_or(cameras.size).map(|n| n.div_ceil(32));
    tensor("pool.pos_grid".into(), &[rows * columns, 2], 0.0, 1.0);
    tensor("out.weight".into(), &[2 * k, 2 * k], 0.0, 0.5);
    tensor("out.bias".into(), &[2 * k], 0.3, 0.5);
    entries
}

/// The tensors of LeRobot's network, for a condition of so many values an observation.
fn unet(shape: &Shape, observed: usize, random: &mut Random) -> Vec<Entry> {
    let mut tensors = Tensors {
        entries: Vec::new(),
        random,
    };
    let condition = shape.embed_dim + N_OBS * observed;
    let dims = &shape.down_dims;
    let n = dims.len();
    let e = shape.embed_dim;
    tensors.layer("diffusion_step_encoder.1", &[4 * e, e], 4 * e);
    tensors.layer("diffusion_step_encoder.3", &[e, 4 * e], e);
    for level in 0..n {
        let before = if level == 0 {
            shape.action
        } else {
            dims[level - 1]
        };
        let name = format!("down_modules.{level}");
        tensors.block(&format!("{name}.0"), before, dims[level], condition, shape);
        tensors.block(
            &format!("{name}.1"),
            dims[level],
            dims[level],
            condition,
            shape,
        );
        if level + 1 < n {
            tensors.layer(
                &format!("{name}.2"),
                &[dims[level], dims[level], 3],
                dims[level],
            );
        }
    }
    for i in 0..2 {
        let bottom = dims[n - 1];
        tensors.block(
            &format!("mid_modules.{i}"),
            bottom,
            bottom,
            condition,
            shape,
        );
    }
    for i in 0..n - 1 {
        let (from, to) = (dims[n - 1 - i], dims[n - 2 - i]);
        let name = format!("up_modules.{i}");
        tensors.block(&format!("{name}.0"), 2 * from, to, condition, shape);
        tensors.block(&format!("{name}.1"), to, to, condition, shape);
        tensors.layer(&format!("{name}.2"), &[to, to, 4], to);
    }
    tensors.conv_block("final_conv.0", dims[0], dims[0], shape);
    tensors.layer("final_conv.1", &[shape.action, dims[0], 1], shape.action);
    tensors.entries
}

struct Tensors<'a> {
    entries: Vec<Entry>,
    random: &'a mut Random,
}

impl Tensors<'_> {
    fn layer(&mut self, name: &str, weight: &[usize], bias: usize) {
        let n: usize = weight.iter().product();
        let scale = (bias as f32 / n as f32).sqrt();
        for (part, shape, scale) in [("weight", weight, scale), ("bias", &[bias], 0.3)] {
            let n: usize = shape.iter().product();
            let values: Vec<f32> = (0..n).map(|_| 1.7 * scale * self.random.signed()).collect();
            let key = format!("diffusion.unet.{name}.{part}");
            self.entries.push(Entry::new(key, shape, values));
        }
    }

    fn conv_block(&mut self, name: &str, from: usize, to: usize, shape: &Shape) {
        self.layer(
            &format!("{name}.block.0"),
            &[to, from, shape.kernel_size],
            to,
        );
        self.layer(&format!("{name}.block.1"), &[to], to);
    }

    fn block(&mut self, name: &str, from: usize, to: usize, condition: usize, shape: &Shape) {
        let outputs = if shape.scales { 2 * to } else { to };
        self.conv_block(&format!("{name}.conv1"), from, to, shape);
        self.layer(
            &format!("{name}.cond_encoder.1"),
            &[outputs, condition],
            outputs,
        );
        self.conv_block(&format!("{name}.conv2"), to, to, shape);
        if from != to {
            self.layer(&format!("{name}.residual_conv"), &[to, from, 1], to);
        }
    }
}
