//! A malformed policy is an error: never a panic, never a policy that computes something else, never much memory.
//!
//! 12,000 folders, each a valid one that was broken in one way, of a kind that cannot be valid: two thirds as LeRobot
//! writes them from 0.4 on, one third as it did before, with the statistics in the model.
//!
//! Those are policies without a camera, whose files are small. What a configuration can say wrongly of cameras is found
//! before the model is opened: those folders have none. See `lerobot_layouts_load.rs` for the models.

mod lerobot_checkpoint;

use std::fs;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_planner::{Budget, History, Observation, Outcome, Planner, Policy, Problem};
use lerobot_checkpoint::{
    ACTION, CONFIG, Cameras, Checkpoint, ENVIRONMENT, Entry, LFS_POINTER, MODEL, POST, POST_STATE,
    PRE, PRE_STATE, Random, STATE, Shape, header, with_header,
};
use serde_json::{Value, json};

const FOLDERS: usize = 12_000;

/// The largest memory that the process may have had, in MB. The valid policy has 60 KB; the largest thing that is ever
/// read is a JSON file of 1 MB.
const MAX_MEMORY: u64 = 64;

/// The files of a folder, as they are before and after a change.
struct Folder<'a> {
    path: &'a Path,
    valid: &'a Checkpoint,
}

impl Folder<'_> {
    fn read(&self, file: &str) -> Vec<u8> {
        fs::read(self.path.join(file)).expect("is there")
    }

    fn put(&self, file: &str, bytes: impl AsRef<[u8]>) {
        let path = self.path.join(file);
        // ext4 waits for the disk where a file is truncated and written again, and not where it is new.
        match fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => panic!("{error}"),
            _ => fs::write(path, bytes).expect("can be written"),
        }
    }

    fn files(&self) -> &'static [&'static str] {
        self.valid.files()
    }

    fn tensor_files(&self) -> &'static [&'static str] {
        if self.valid.legacy {
            &[MODEL]
        } else {
            &[MODEL, PRE_STATE, POST_STATE]
        }
    }

    fn entries(&self, file: &str) -> &[Entry] {
        match file {
            MODEL => &self.valid.model,
            PRE_STATE => &self.valid.pre_state,
            _ => &self.valid.post_state,
        }
    }

    /// The tensors of a file that the policy reads.
    fn used(&self, file: &str) -> Vec<usize> {
        let is_used = |key: &str| match file {
            // Only training reads these.
            MODEL => !key.starts_with("normalize_targets."),
            PRE_STATE => {
                key.starts_with("observation.") && (key.ends_with(".min") || key.ends_with(".max"))
            }
            _ => key == "action.min" || key == "action.max",
        };
        let entries = self.entries(file).iter().enumerate();
        entries
            .filter(|(_, e)| is_used(&e.key))
            .map(|(i, _)| i)
            .collect()
    }

    /// The statistics among them.
    fn statistics(&self, file: &str) -> Vec<usize> {
        let mut used = self.used(file);
        used.retain(|i| {
            let key = &self.entries(file)[*i].key;
            key.ends_with(".min") || key.ends_with(".max")
        });
        used
    }

    fn json(&self, file: &str) -> Value {
        match file {
            CONFIG => self.valid.config.clone(),
            PRE => self.valid.pre.clone(),
            _ => self.valid.post.clone(),
        }
    }
}

/// Breaks a folder in one way, and says how.
type Mutation = fn(&Folder, &mut Random) -> String;

/// How often among folders with processors, how often among those without.
const MUTATIONS: [((usize, usize), Mutation); 21] = [
    ((1, 1), file_is_missing),
    ((6, 6), file_is_truncated),
    ((2, 2), file_has_more),
    ((1, 1), file_claims_gigabytes),
    ((1, 1), file_is_an_lfs_pointer),
    ((3, 3), header_has_another_length),
    ((6, 6), header_has_an_impossible_byte),
    ((4, 4), tensor_has_another_type),
    ((6, 6), tensor_has_another_shape),
    ((6, 6), tensor_lies_elsewhere),
    ((5, 5), tensor_is_lost_or_renamed),
    ((2, 2), tensor_is_too_many),
    ((5, 5), number_is_not_finite),
    ((4, 8), statistics_cannot_be),
    ((4, 4), json_is_deep),
    ((10, 10), config_entry_is_lost_or_mistyped),
    ((10, 10), config_value_cannot_be),
    ((2, 2), sizes_are_too_large_together),
    ((8, 0), processor_cannot_be),
    ((1, 1), statistics_are_nowhere),
    ((0, 4), layouts_are_mixed),
];

fn file_is_missing(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    fs::remove_file(folder.path.join(file)).expect("is there");
    if random.below(3) == 0 {
        fs::create_dir(folder.path.join(file)).expect("can be made");
    }
    format!("{file} is missing or a folder")
}

fn file_is_truncated(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    let bytes = folder.read(file);
    let length = random.below(bytes.len());
    folder.put(file, &bytes[..length]);
    format!("{file} ends after {length} of {} bytes", bytes.len())
}

fn file_has_more(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    let mut bytes = folder.read(file);
    let extra = 1 + random.below(100);
    bytes.extend(vec![b'}'; extra]);
    folder.put(file, bytes);
    format!("{file} has {extra} bytes more")
}

fn file_claims_gigabytes(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    let path = folder.path.join(file);
    let opened = fs::OpenOptions::new().write(true).open(path);
    // A sparse file: it has the size and takes no space.
    opened
        .and_then(|file| file.set_len(1 << 35))
        .expect("can be made");
    format!("{file} has 32 GB")
}

fn file_is_an_lfs_pointer(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    folder.put(file, LFS_POINTER);
    format!("{file} is a git-lfs pointer")
}

fn header_has_another_length(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.tensor_files());
    let mut bytes = folder.read(file);
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight"));
    let other = match random.below(4) {
        0 => u64::MAX - random.next() % 16,
        1 => 1 << random.below(64),
        2 => length.wrapping_add(1 + random.next() % 64),
        _ => random.next() % length,
    };
    if other == length {
        return file_is_truncated(folder, random);
    }
    bytes[..8].copy_from_slice(&other.to_le_bytes());
    folder.put(file, bytes);
    format!("the header of {file} claims {other} and not {length} bytes")
}

fn header_has_an_impossible_byte(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.tensor_files());
    let mut bytes = folder.read(file);
    let length = u64::from_le_bytes(bytes[..8].try_into().expect("eight")) as usize;
    let at = 8 + random.below(length);
    // Neither is possible anywhere in JSON.
    bytes[at] = random.pick(&[0x00, 0x01, 0xff, 0xfe, 0xc0]);
    folder.put(file, &bytes);
    format!("byte {at} of {file} is {:#x}", bytes[at])
}

/// Writes a tensor file with a changed header.
fn put_header(folder: &Folder, file: &str, header: &Value) {
    folder.put(
        file,
        with_header(header.to_string().as_bytes(), folder.entries(file)),
    );
}

fn any_used(folder: &Folder, random: &mut Random) -> (&'static str, usize) {
    let file = random.pick(folder.tensor_files());
    // Statistics are few among the weights.
    let statistics = folder.statistics(file);
    if !statistics.is_empty() && random.below(2) == 0 {
        return (file, random.pick(&statistics));
    }
    (file, random.pick(&folder.used(file)))
}

fn tensor_has_another_type(folder: &Folder, random: &mut Random) -> String {
    let (file, i) = any_used(folder, random);
    let entries = folder.entries(file);
    let key = &entries[i].key;
    let mut header = Value::Object(header(entries));
    let dtype = random.pick(&[
        json!("I32"),
        json!("U32"),
        json!("I64"),
        json!("F64"),
        json!("F16"),
        json!("BF16"),
        json!("BOOL"),
        json!("F99"),
        json!(""),
        json!(4),
        json!(null),
        json!(["F32"]),
    ]);
    header[key]["dtype"] = dtype.clone();
    put_header(folder, file, &header);
    format!("`{key}` of {file} is of type {dtype}")
}

fn tensor_has_another_shape(folder: &Folder, random: &mut Random) -> String {
    let (file, i) = any_used(folder, random);
    let entries = folder.entries(file);
    let Entry { key, shape, values } = &entries[i];
    let shape = match random.below(8) {
        // As many values.
        0 => json!([values.len(), 1]),
        1 => json!([&[1], shape.as_slice(), &[1]].concat()),
        2 => {
            let mut reversed = shape.clone();
            reversed.reverse();
            if reversed == *shape {
                json!([values.len() + 1])
            } else {
                json!(reversed)
            }
        }
        // Not as many.
        3 => json!([values.len() + 1 + random.below(9)]),
        4 => json!([0]),
        5 => json!([1_u64 << (20 + random.below(43)), shape[0]]),
        6 => json!([u64::MAX, u64::MAX]),
        _ => random.pick(&[
            json!([-1]),
            json!("3"),
            json!(null),
            json!([1.5]),
            json!([[2]]),
        ]),
    };
    let mut header = Value::Object(header(entries));
    header[key]["shape"] = shape.clone();
    put_header(folder, file, &header);
    format!("`{key}` of {file} has shape {shape}")
}

fn tensor_lies_elsewhere(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.tensor_files());
    let entries = folder.entries(file);
    let key = &random.pick(entries).key;
    let mut header = Value::Object(header(entries));
    let [start, end] = [0, 1].map(|i| header[key]["data_offsets"][i].as_u64().expect("a number"));
    let by = 1 + random.next() % 64;
    let offsets = match random.below(7) {
        0 => json!([end, start]),
        1 => json!([start + by, end + by]),
        2 => json!([start, end + by]),
        3 => json!([start, u64::MAX]),
        4 => json!([u64::MAX - 4, u64::MAX]),
        5 => json!([start.wrapping_sub(by) as i64, end]),
        _ => random.pick(&[
            json!([0]),
            json!(null),
            json!([0, "8"]),
            json!([-8, 0]),
            json!([0.5, 4]),
        ]),
    };
    header[key]["data_offsets"] = offsets.clone();
    put_header(folder, file, &header);
    format!("`{key}` of {file} lies at {offsets}")
}

fn tensor_is_lost_or_renamed(folder: &Folder, random: &mut Random) -> String {
    let (file, i) = any_used(folder, random);
    let mut entries = folder.entries(file).to_vec();
    let key = entries[i].key.clone();
    match random.below(3) {
        0 => {
            entries.remove(i);
        }
        1 => entries[i].key = format!("{key}x"),
        _ => entries[i].key = key.to_uppercase(),
    }
    folder.put(file, lerobot_checkpoint::safetensors(&entries));
    format!("`{key}` of {file} is missing or renamed")
}

fn tensor_is_too_many(folder: &Folder, random: &mut Random) -> String {
    let mut entries = folder.valid.model.clone();
    let one = Entry::new("", &[1], [1.0]);
    if random.below(2) == 0 {
        let key = random
            .pick(&[
                "diffusion.unet.extra",
                "diffusion.rgb_encoder.out.bias",
                "normalize_inputs.buffer_observation_image.mean",
                "unnormalize_outputs.buffer_action.mean",
                "a",
                "",
            ])
            .to_string();
        entries.push(Entry { key, ..one });
        folder.put(MODEL, lerobot_checkpoint::safetensors(&entries));
        return "the model has a tensor too many".into();
    }
    // The same key twice, with the bytes of two tensors.
    let twice = random.below(entries.len());
    let text = Value::Object(header(&entries)).to_string();
    let end = 4 * entries.iter().map(|e| e.values.len()).sum::<usize>();
    let key = &entries[twice].key;
    let text = format!(
        "{},\"{key}\":{{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[{end},{}]}}}}",
        &text[..text.len() - 1],
        end + 4
    );
    let broken = format!("the model has `{key}` twice");
    entries.push(one);
    folder.put(MODEL, with_header(text.as_bytes(), &entries));
    broken
}

fn number_is_not_finite(folder: &Folder, random: &mut Random) -> String {
    let (file, i) = any_used(folder, random);
    let mut entries = folder.entries(file).to_vec();
    let at = random.below(entries[i].values.len());
    let bad = random.pick(&[f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN]);
    entries[i].values[at] = bad;
    folder.put(file, lerobot_checkpoint::safetensors(&entries));
    format!("value {at} of `{}` of {file} is {bad}", entries[i].key)
}

fn statistics_cannot_be(folder: &Folder, random: &mut Random) -> String {
    let file = if folder.valid.legacy {
        MODEL
    } else {
        random.pick(&[PRE_STATE, POST_STATE])
    };
    let mut entries = folder.entries(file).to_vec();
    let i = random.pick(&folder.statistics(file));
    let (feature, _) = entries[i].key.rsplit_once('.').expect("a statistic");
    let feature = feature.to_owned();
    let find = |statistic: &str| {
        let key = format!("{feature}.{statistic}");
        entries.iter().position(|e| e.key == key).expect("is there")
    };
    let (low, high) = (find("min"), find("max"));
    match random.below(3) {
        // The names are exchanged, for all values or for one.
        0 => {
            let (a, b) = (entries[low].values.clone(), entries[high].values.clone());
            entries[low].values = b;
            entries[high].values = a;
        }
        1 => {
            let at = random.below(entries[low].values.len());
            entries[low].values[at] = entries[high].values[at] + 1.0;
        }
        // One value more or less.
        _ => {
            let entry = &mut entries[i];
            if random.below(2) == 0 {
                entry.values.push(0.0);
            } else {
                entry.values.pop();
            }
            entry.shape = vec![entry.values.len()];
        }
    }
    folder.put(file, lerobot_checkpoint::safetensors(&entries));
    format!("the statistics of {feature} in {file} cannot be")
}

fn json_is_deep(folder: &Folder, random: &mut Random) -> String {
    let file = random.pick(folder.files());
    let depth = 200 + random.below(20_000);
    let (open, close) = random.pick(&[("[", "]"), ("{\"steps\":", "}")]);
    let text = format!("{}0{}", open.repeat(depth), close.repeat(depth));
    if folder.tensor_files().contains(&file) {
        folder.put(file, with_header(text.as_bytes(), &[]));
    } else {
        folder.put(file, text);
    }
    format!("{file} is {depth} levels deep")
}

/// What `config.json` must have, and of which JSON type it is.
const REQUIRED: [(&str, &str); 21] = [
    ("type", "string"),
    ("n_obs_steps", "number"),
    ("horizon", "number"),
    ("n_action_steps", "number"),
    ("input_features", "object"),
    ("output_features", "object"),
    ("normalization_mapping", "object"),
    ("down_dims", "list"),
    ("kernel_size", "number"),
    ("n_groups", "number"),
    ("diffusion_step_embed_dim", "number"),
    ("use_film_scale_modulation", "boolean"),
    ("noise_scheduler_type", "string"),
    ("num_train_timesteps", "number"),
    ("beta_schedule", "string"),
    ("beta_start", "number"),
    ("beta_end", "number"),
    ("prediction_type", "string"),
    ("clip_sample", "boolean"),
    ("clip_sample_range", "number"),
    ("num_inference_steps", "number"),
];

fn config_entry_is_lost_or_mistyped(folder: &Folder, random: &mut Random) -> String {
    let mut config = folder.json(CONFIG);
    let (key, kind) = random.pick(&REQUIRED);
    let wrong = match random.below(3) {
        0 => {
            config.as_object_mut().expect("an object").remove(key);
            folder.put(CONFIG, config.to_string());
            return format!("config.json lacks {key}");
        }
        // Not a number of JSON, though Python writes the first three.
        1 => {
            let token = random.pick(&["NaN", "Infinity", "-Infinity", "1e999", "0x10", "'a'", ""]);
            config[key] = json!("TOKEN");
            let text = config.to_string().replace("\"TOKEN\"", token);
            folder.put(CONFIG, text);
            return format!("{key} of config.json is {token}");
        }
        _ => loop {
            let (other, value) = random.pick(&[
                ("string", json!("16")),
                ("string", json!("")),
                ("boolean", json!(false)),
                ("object", json!({})),
                ("object", json!({ "a": 1 })),
                ("list", json!([])),
                ("list", json!([[8, 16]])),
                ("list", json!(["a"])),
                ("number", json!(-3)),
                ("number", json!(1e300)),
                ("null", json!(null)),
            ]);
            // A string is never the right string here, nor any other value the right one of its type, but for a
            // boolean, and for null, which is a number of inference steps.
            let may_be_right = (other, kind) == ("boolean", "boolean")
                || (key, other) == ("num_inference_steps", "null")
                || (key, value.as_f64()) == ("clip_sample_range", Some(1e300));
            if !may_be_right {
                break value;
            }
        },
    };
    config[key] = wrong.clone();
    folder.put(CONFIG, config.to_string());
    format!("{key} of config.json is {wrong}")
}

/// Values that are of the right type and cannot be, for the policy that [`Shape::tiny`] describes.
fn impossible_values() -> Vec<(&'static str, Value)> {
    let input = "input_features";
    let features = |state: Value, environment: Value| json!({ "observation.state": state, "observation.environment_state": environment });
    let state = json!({ "type": "STATE", "shape": [2] });
    let environment = json!({ "type": "ENV", "shape": [3] });
    let mut values = vec![
        ("type", json!("act")),
        ("n_obs_steps", json!(0)),
        ("n_obs_steps", json!(1)),
        ("n_obs_steps", json!(3)),
        ("n_obs_steps", json!(5)),
        ("n_obs_steps", json!(1_u64 << 40)),
        ("n_obs_steps", json!(2.5)),
        ("horizon", json!(0)),
        ("horizon", json!(6)),
        ("horizon", json!(u64::MAX)),
        ("n_action_steps", json!(0)),
        ("n_action_steps", json!(4)),
        ("down_dims", json!([])),
        ("down_dims", json!([8])),
        ("down_dims", json!([16, 8])),
        ("down_dims", json!([8, 16, 16])),
        ("down_dims", json!([8, 0])),
        ("down_dims", json!([8, -16])),
        ("down_dims", json!([8, 16.5])),
        ("down_dims", json!([8, 1 << 16])),
        ("down_dims", json!([1 << 16, 1 << 16])),
        ("down_dims", json!([1_u64 << 40, 1_u64 << 40])),
        ("down_dims", json!(vec![8; 64])),
        ("down_dims", json!(vec![8; 100_000])),
        ("kernel_size", json!(0)),
        ("kernel_size", json!(1)),
        ("kernel_size", json!(4)),
        ("kernel_size", json!(5)),
        ("kernel_size", json!(1_u64 << 33)),
        ("n_groups", json!(0)),
        ("n_groups", json!(3)),
        ("n_groups", json!(16)),
        ("diffusion_step_embed_dim", json!(2)),
        ("diffusion_step_embed_dim", json!(7)),
        ("diffusion_step_embed_dim", json!(10)),
        ("diffusion_step_embed_dim", json!(1_u64 << 50)),
        ("use_film_scale_modulation", json!(false)),
        ("noise_scheduler_type", json!("EULER")),
        ("num_train_timesteps", json!(0)),
        ("num_train_timesteps", json!(1_u64 << 60)),
        ("beta_schedule", json!("sigmoid")),
        ("beta_start", json!(0)),
        ("beta_start", json!(0.5)),
        ("beta_end", json!(1.0)),
        ("beta_end", json!(0.00001)),
        ("prediction_type", json!("velocity")),
        ("clip_sample_range", json!(0)),
        ("num_inference_steps", json!(0)),
        ("num_inference_steps", json!(51)),
        ("normalization_mapping", json!({})),
        ("normalization_mapping", json!({ "STATE": "MIN_MAX" })),
        ("normalization_mapping", json!({ "STATE": "MAX_MIN" })),
        ("normalization_mapping", json!({ "SMELL": "MIN_MAX" })),
        ("output_features", json!({})),
        (
            "output_features",
            json!({ "action": { "type": "ACTION", "shape": [3] } }),
        ),
        (
            "output_features",
            json!({ "action": { "type": "STATE", "shape": [2] } }),
        ),
        (
            "output_features",
            json!({ "go": { "type": "ACTION", "shape": [2] } }),
        ),
        (input, json!({ "observation.state": state })),
        (
            input,
            json!({ "observation.environment_state": environment }),
        ),
        (
            input,
            features(
                json!({ "type": "STATE", "shape": [3] }),
                environment.clone(),
            ),
        ),
        (
            input,
            features(state.clone(), json!({ "type": "ENV", "shape": [2] })),
        ),
        (input, features(environment.clone(), state.clone())),
    ];
    for shape in [
        json!([]),
        json!([2, 1]),
        json!([0]),
        json!([-2]),
        json!(2),
        json!([1_u64 << 40]),
        json!(null),
    ] {
        let state = json!({ "type": "STATE", "shape": shape });
        values.push((input, features(state, environment.clone())));
    }
    for (name, kind) in [
        ("observation.image", "VISUAL"),
        ("observation.other", "STATE"),
        ("observation.smell", "SMELL"),
        ("task", "LANGUAGE"),
        ("action", "ACTION"),
    ] {
        let mut all = features(state.clone(), environment.clone());
        all[name] = json!({ "type": kind, "shape": [2] });
        values.push((input, all));
    }
    values
}

fn config_value_cannot_be(folder: &Folder, random: &mut Random) -> String {
    let mut config = folder.json(CONFIG);
    let values = impossible_values();
    let (key, value) = random.pick(&values);
    config[key] = value.clone();
    folder.put(CONFIG, config.to_string());
    let mut value = value.to_string();
    value.truncate(100);
    format!("{key} of config.json is {value}")
}

/// A policy that is whole and consistent, and whose plans would take gigabytes.
fn sizes_are_too_large_together(folder: &Folder, random: &mut Random) -> String {
    let shape = Shape {
        horizon: 1 << 16,
        action: 17 + random.below(100),
        ..Shape::tiny()
    };
    let mut large = Checkpoint::new(&shape, "MIN_MAX", random);
    if folder.valid.legacy {
        large = large.into_legacy(MIN_MAX);
    }
    for file in large.files() {
        folder.put(file, large.bytes(file));
    }
    format!(
        "a plan has {} times {} numbers",
        shape.horizon, shape.action
    )
}

fn statistics_are_nowhere(folder: &Folder, random: &mut Random) -> String {
    if folder.valid.legacy {
        let mut entries = folder.valid.model.clone();
        entries.retain(|e| !e.key.contains("normalize_"));
        folder.put(MODEL, lerobot_checkpoint::safetensors(&entries));
        return "no buffers".into();
    }
    for file in [PRE, POST] {
        fs::remove_file(folder.path.join(file)).expect("is there");
    }
    if random.below(2) == 0 {
        for file in [PRE_STATE, POST_STATE] {
            fs::remove_file(folder.path.join(file)).expect("is there");
        }
    }
    "no processors".into()
}

/// Statistics in the model, and some or all of the files that took their place.
fn layouts_are_mixed(folder: &Folder, random: &mut Random) -> String {
    let files = [PRE, POST, PRE_STATE, POST_STATE];
    let processor = random.pick(&[PRE, POST]);
    let mut written = Vec::new();
    for file in files {
        if file == processor || random.below(2) == 0 {
            folder.put(file, folder.valid.bytes(file));
            written.push(file);
        }
    }
    format!("buffers in the model beside {written:?}")
}

fn processor_cannot_be(folder: &Folder, random: &mut Random) -> String {
    let (file, normalizer) = random.pick(&[(PRE, 3), (POST, 0)]);
    let mut json = folder.json(file);
    let feature = if file == PRE {
        random.pick(&["observation.state", "observation.environment_state"])
    } else {
        "action"
    };
    let step = &mut json["steps"][normalizer];
    let what = match random.below(14) {
        0 => {
            let name = random.pick(&[
                json!("../first.safetensors"),
                json!("/etc/passwd"),
                json!("./../config.json"),
                json!(".."),
                json!("."),
                json!(""),
                json!("first.safetensors/"),
                json!("a/../first.safetensors"),
                json!("absent.safetensors"),
                json!("config.json"),
                json!("model.safetensors"),
                json!("nul\u{0}.safetensors"),
                json!(7),
                json!(null),
            ]);
            step["state_file"] = name.clone();
            format!("a state file {name}")
        }
        1 => {
            step.as_object_mut().expect("a step").remove("state_file");
            "no state file".into()
        }
        2 => {
            let eps = random.pick(&[
                json!(0),
                json!(-1e-8),
                json!("1e-8"),
                json!(null),
                json!(1e300),
            ]);
            step["config"]["eps"] = eps.clone();
            format!("eps {eps}")
        }
        3 => {
            let key = random.pick(&["eps", "features", "norm_map"]);
            step["config"]
                .as_object_mut()
                .expect("a config")
                .remove(key);
            format!("no {key}")
        }
        4 => {
            let features = &mut step["config"]["features"];
            features.as_object_mut().expect("features").remove(feature);
            format!("no feature {feature}")
        }
        5 => {
            let shape = random.pick(&[
                json!([]),
                json!([7]),
                json!([2, 3]),
                json!([-1]),
                json!("2"),
            ]);
            step["config"]["features"][feature]["shape"] = shape.clone();
            format!("{feature} of shape {shape}")
        }
        6 => {
            let kind = random.pick(&[json!("VISUAL"), json!("REWARD"), json!(1), json!(null)]);
            step["config"]["features"][feature]["type"] = kind.clone();
            format!("{feature} of type {kind}")
        }
        // The configuration says MIN_MAX.
        7 => {
            let mode = random.pick(&["MEAN_STD", "IDENTITY", "QUANTILES", "QUANTILE10", "NONE"]);
            let kind = match feature {
                "observation.state" => "STATE",
                "action" => "ACTION",
                _ => "ENV",
            };
            step["config"]["norm_map"][kind] = json!(mode);
            format!("{kind} by {mode}")
        }
        8 => {
            let name = random.pick(&[
                "tokenizer_processor",
                "my_processor",
                "",
                "NORMALIZER_PROCESSOR",
            ]);
            let steps = json["steps"].as_array_mut().expect("steps");
            let at = random.below(steps.len() + 1);
            steps.insert(at, json!({ "registry_name": name, "config": {} }));
            format!("a step {name}")
        }
        9 => {
            let steps = json["steps"].as_array_mut().expect("steps");
            steps.remove(normalizer);
            "no normalizer".into()
        }
        10 => {
            let steps = json["steps"].as_array_mut().expect("steps");
            let twice = steps[normalizer].clone();
            steps.push(twice);
            "two normalizers".into()
        }
        11 => {
            let steps = random.pick(&[
                json!(null),
                json!({}),
                json!([]),
                json!("steps"),
                json!([1]),
            ]);
            json["steps"] = steps.clone();
            format!("steps {steps}")
        }
        12 => {
            let steps = json["steps"].as_array_mut().expect("steps");
            let device = steps
                .iter_mut()
                .find(|s| s["registry_name"] == "device_processor")
                .expect("a device");
            let dtype = random.pick(&[
                json!("float16"),
                json!("bfloat16"),
                json!("int8"),
                json!(16),
            ]);
            device["config"]["float_dtype"] = dtype.clone();
            format!("values of type {dtype}")
        }
        _ => {
            // Another policy's processor.
            json = folder.json(if file == PRE { POST } else { PRE });
            "the other's content".into()
        }
    };
    folder.put(file, json.to_string());
    format!("{file} has {what}")
}

/// What `MIN_MAX` needs.
const MIN_MAX: Option<[&str; 2]> = Some(["min", "max"]);

/// The largest memory of this process so far, in MB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace()
        .nth(1)?
        .parse::<u64>()
        .ok()
        .map(|kb| kb / 1024)
}

#[test]
fn malformed_checkpoints_are_errors() {
    let mut random = Random(20_260_101);
    let with_processors = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut random);
    let with_buffers = with_processors.clone().into_legacy(MIN_MAX);
    let device = Device::flex();
    let root = tempfile::tempdir().expect("a folder");
    let path = root.path().join("policy");

    let written = [&with_processors, &with_buffers].map(|valid| {
        let files = valid.files().iter();
        files
            .map(|file| (*file, valid.bytes(file)))
            .collect::<Vec<_>>()
    });
    let start = Instant::now();
    let mut wrong = Vec::new();
    for i in 0..FOLDERS {
        let valid = if i % 3 == 0 {
            &with_buffers
        } else {
            &with_processors
        };
        let weights =
            MUTATIONS.map(|((modern, legacy), _)| if valid.legacy { legacy } else { modern });
        let total: usize = weights.iter().sum();
        fs::create_dir(&path).expect("can be made");
        for (file, bytes) in &written[usize::from(valid.legacy)] {
            fs::write(path.join(file), bytes).expect("can be written");
        }
        let mut at = random.below(total);
        let chosen = weights.iter().position(|weight| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let (_, mutation) = MUTATIONS[chosen.expect("weights add up")];
        let folder = Folder { path: &path, valid };
        let what = mutation(&folder, &mut random);
        match catch_unwind(AssertUnwindSafe(|| Policy::load(&path, &device))) {
            Ok(Err(error)) => {
                let message = error.to_string();
                assert!(
                    !message.is_empty() && message.len() < 2000,
                    "{what}: {message}"
                );
            }
            Ok(Ok(_)) => wrong.push(format!("{what}: loaded")),
            Err(_) => wrong.push(format!("{what}: panicked")),
        }
        fs::remove_dir_all(&path).expect("can be removed");
    }
    wrong.sort();
    wrong.dedup();
    assert!(wrong.is_empty(), "{} kinds: {wrong:#?}", wrong.len());
    println!(
        "{FOLDERS} folders in {:.1} s, at most {:?} MB",
        start.elapsed().as_secs_f64(),
        peak_memory()
    );
    if let Some(memory) = peak_memory() {
        assert!(memory < MAX_MEMORY, "{memory} MB");
    }
}

#[test]
fn before_they_are_broken_they_plan() {
    let device = Device::flex();
    let mut history = History::default();
    history
        .push(
            Observation::new(Duration::ZERO)
                .with("observation.state", [0.5; STATE])
                .with("observation.environment_state", [0.5; ENVIRONMENT]),
        )
        .expect("is the first");
    for (mode, statistics) in [
        ("IDENTITY", None),
        ("MEAN_STD", Some(["mean", "std"])),
        ("MIN_MAX", MIN_MAX),
    ] {
        let checkpoint = Checkpoint::new(&Shape::tiny(), mode, &mut Random(20_260_101));
        let plans = [checkpoint.clone(), checkpoint.into_legacy(statistics)].map(|checkpoint| {
            let folder = tempfile::tempdir().expect("a folder");
            checkpoint.write(folder.path());
            let planner = Planner::load(folder.path(), Duration::from_millis(100), &device);
            let planner = planner.expect("is valid, and samples");
            let config = planner.policy().config().clone();
            let plan = planner
                .plan(&Problem::new(&history), Budget::default(), 1)
                .expect("plans");
            assert_eq!(plan.outcome, Outcome::Complete);
            let actions: Vec<Vec<f64>> = plan
                .trajectory
                .waypoints()
                .map(|waypoint| waypoint.position.to_vec())
                .collect();
            assert_eq!(actions.len(), config.n_action_steps);
            assert!(actions.iter().all(|action| action.len() == ACTION));
            actions
        });
        // The formulas of the two layouts differ by 1e-8 of a range.
        for (a, b) in plans[0].iter().flatten().zip(plans[1].iter().flatten()) {
            assert!((a - b).abs() < 1e-4, "{mode}: {a} and {b}");
        }
    }
}

/// What a configuration cannot say of the cameras of [`Cameras::two`].
fn impossible_cameras() -> Vec<(&'static str, Value)> {
    let image = |shape: Value| json!({ "type": "VISUAL", "shape": shape });
    let two = |first: Value, second: Value| {
        let state = json!({ "type": "STATE", "shape": [STATE] });
        json!({ "observation.state": state, "a": image(first), "b": image(second) })
    };
    let valid = json!([3, 40, 36]);
    let cameras = |n: usize| {
        let mut features = two(valid.clone(), valid.clone());
        for i in 2..n {
            features[format!("camera {i}")] = image(valid.clone());
        }
        features
    };
    let mut values = vec![
        ("vision_backbone", json!("resnet")),
        ("vision_backbone", json!("resnet20")),
        ("vision_backbone", json!("ResNet18")),
        ("vision_backbone", json!("wide_resnet50_2")),
        ("vision_backbone", json!("vit_b_16")),
        ("vision_backbone", json!("../resnet18")),
        ("crop_shape", json!([41, 34])),
        ("crop_shape", json!([33, 37])),
        ("spatial_softmax_num_keypoints", json!((1 << 16) + 1)),
        ("resize_shape", json!([1 << 12, 1 << 12])),
        ("n_obs_steps", json!(0)),
        ("normalization_mapping", json!({ "VISUAL": "MAX_MIN" })),
        // More cameras than anyone has.
        ("input_features", cameras(65)),
        ("input_features", cameras(10_000)),
        // Small enough each, and not together.
        (
            "input_features",
            two(json!([3, 2100, 2100]), json!([3, 2100, 2100])),
        ),
        // Another size than the first camera's.
        ("input_features", two(valid.clone(), json!([3, 40, 37]))),
        ("input_features", two(json!([3, 39, 36]), valid.clone())),
        // No state.
        ("input_features", json!({ "a": image(valid.clone()) })),
    ];
    for wrong in [
        json!(null),
        json!(1),
        json!("true"),
        json!([true]),
        json!({}),
    ] {
        for key in [
            "use_group_norm",
            "use_separate_rgb_encoder_per_camera",
            "vision_backbone",
        ] {
            values.push((key, wrong.clone()));
        }
    }
    for wrong in [
        json!(0),
        json!(-1),
        json!(1.5),
        json!(null),
        json!("4"),
        json!([4]),
    ] {
        values.push(("spatial_softmax_num_keypoints", wrong));
    }
    for wrong in [
        json!([]),
        json!([33]),
        json!([33, 34, 1]),
        json!([0, 34]),
        json!([33, -1]),
        json!([33.5, 34]),
        json!([1_u64 << 40, 34]),
        json!(33),
        json!("33"),
        json!(false),
        json!({ "height": 33 }),
    ] {
        values.push(("crop_shape", wrong.clone()));
        values.push(("resize_shape", wrong));
    }
    for wrong in [
        json!([]),
        json!([40, 36]),
        json!([1, 40, 36]),
        json!([4, 40, 36]),
        json!([40, 36, 3]),
        json!([3, 0, 36]),
        json!([3, 40, -36]),
        json!([3, 40, 5000]),
        json!([3, 1_u64 << 40, 1_u64 << 40]),
        json!([3, 40, 36, 1]),
        json!(["3", 40, 36]),
        json!(null),
    ] {
        values.push(("input_features", two(wrong.clone(), wrong)));
    }
    values
}

#[test]
fn configurations_whose_cameras_cannot_be_are_errors() {
    let mut valid = Checkpoint::new(&Shape::tiny(), "MIN_MAX", &mut Random(1));
    valid.see(&Cameras::two());
    let folder = tempfile::tempdir().expect("a folder");
    let message = |config: &Value| {
        fs::write(folder.path().join(CONFIG), config.to_string()).expect("can be written");
        let load = || Policy::load(folder.path(), &Device::flex());
        let loaded = catch_unwind(AssertUnwindSafe(load)).expect("no panic");
        loaded.expect_err("has no model").to_string()
    };
    // Before it is broken, what it lacks is the model.
    let found = message(&valid.config);
    assert!(found.starts_with("model.safetensors"), "{found}");
    let refused = |what: &str, config: &Value| {
        let found = message(config);
        assert!(found.starts_with("config.json"), "{what}: {found}");
        assert!(found.len() < 500, "{what}: {found}");
    };
    for (key, value) in impossible_cameras() {
        let mut config = valid.config.clone();
        config[key] = value.clone();
        refused(&format!("{key} is {value:.100}"), &config);
    }
    for key in [
        "vision_backbone",
        "crop_shape",
        "use_group_norm",
        "spatial_softmax_num_keypoints",
        "use_separate_rgb_encoder_per_camera",
    ] {
        let mut config = valid.config.clone();
        config.as_object_mut().expect("an object").remove(key);
        refused(&format!("no {key}"), &config);
    }
    // A policy that resizes needs the ratio.
    let mut resizes = valid.config.clone();
    resizes["resize_shape"] = json!([50, 60]);
    for ratio in [0.01, 0.5, 1.0] {
        resizes["crop_ratio"] = json!(ratio);
        let found = message(&resizes);
        assert_eq!(
            found.starts_with("model.safetensors"),
            ratio > 0.1,
            "{found}"
        );
    }
    for ratio in [
        json!(0),
        json!(-0.5),
        json!(1.1),
        json!("1"),
        json!(null),
        json!(1e300),
    ] {
        resizes["crop_ratio"] = ratio.clone();
        refused(&format!("a ratio of {ratio}"), &resizes);
    }
    resizes
        .as_object_mut()
        .expect("an object")
        .remove("crop_ratio");
    refused("no ratio", &resizes);
    // Many points of many cameras.
    let mut points = valid.config.clone();
    for i in 0..8 {
        points["input_features"][format!("camera {i}")] =
            json!({ "type": "VISUAL", "shape": [3, 40, 36] });
    }
    points["spatial_softmax_num_keypoints"] = json!(1 << 16);
    refused("many points", &points);
}
