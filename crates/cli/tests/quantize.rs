//! `clearway quantize`: what it writes loads, computes what was packed, and says what it lost.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn clearway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clearway"));
    command.args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

fn succeeds(arguments: &[&str]) -> String {
    let output = clearway(arguments);
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{arguments:?}: {said}");
    assert!(said.is_empty(), "{said}");
    String::from_utf8(output.stdout).unwrap()
}

fn fails(arguments: &[&str], words: &[&str]) {
    let output = clearway(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    for word in words {
        assert!(error.contains(word), "does not say `{word}`: {error}");
    }
}

fn here(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.join(path).to_str().unwrap().to_owned()
}

/// A folder of this test binary's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn json(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The actions of a plan that a policy makes.
fn plan(policy: &str, folder: &Path, more: &[&str]) -> Value {
    let observations = folder.join("observations.json");
    let numbers: Vec<String> = (0..16).map(|i| (100 + 20 * i).to_string()).collect();
    let observation = format!(
        r#"{{"time": 0.0, "observation.state": [222.0, 97.0], "observation.environment_state": [{}]}}"#,
        numbers.join(", ")
    );
    std::fs::write(&observations, format!("[{observation}]")).unwrap();
    let report = folder.join("plan.json");
    let [observations, report] = [&observations, &report].map(|path| path.to_str().unwrap());
    let mut arguments = vec!["policy", "plan", "--policy", policy, "--seed", "3"];
    arguments.extend(["--observations", observations, "--json", report]);
    arguments.extend(more);
    succeeds(&arguments);
    json(report)
}

#[test]
fn codes_in_a_file_plan_as_codes_in_memory_do() {
    let folder = scratch("codes_in_a_file");
    let policy = here("models/pusht");
    let size = |folder: &str| {
        let file = Path::new(folder).join("model.safetensors");
        std::fs::metadata(file).unwrap().len()
    };
    for (precision, most) in [("bf16", 0.51), ("int8", 0.41), ("int4", 0.32)] {
        let out = folder.join(precision);
        let out = out.to_str().unwrap();
        let report = format!("{out}.json");
        let mut arguments = vec!["quantize", "--model", &policy, "--out", out];
        arguments.extend(["--precision", precision, "--json", &report]);
        succeeds(&arguments);
        let found = plan(out, &folder, &[]);
        let expected = plan(&policy, &folder, &["--precision", precision]);
        assert_eq!(found["actions"], expected["actions"], "{precision}");
        assert_eq!(found["precision"], expected["precision"]);
        // By its own name, it is the same; in f32, other numbers of the same codes.
        let named = plan(out, &folder, &["--precision", precision]);
        assert_eq!(named["actions"], expected["actions"], "{precision}");
        let decoded = plan(out, &folder, &["--precision", "f32"]);
        assert_eq!(decoded["precision"], "f32");
        if precision != "bf16" {
            assert_ne!(decoded["actions"], expected["actions"], "{precision}");
        }
        plan(out, &folder, &["--precision", "plain"]);

        assert!(
            size(out) as f64 <= most * size(&policy) as f64,
            "{}",
            size(out)
        );
        let report = json(&report);
        let network = &report["networks"][0];
        assert_eq!(network["bytes_after"], size(out));
        let layers = network["layers"].as_array().unwrap();
        let (mut kept, mut others) = (0, 0);
        for layer in layers {
            let name = layer["name"].as_str().unwrap();
            let is_kept = name.starts_with("diffusion_step_encoder.")
                || name.ends_with(".cond_encoder.weight")
                || name.starts_with("down_modules.0.")
                || name.starts_with("final_conv.");
            let stored = if is_kept { "bf16" } else { precision };
            let stored = if stored == "int4" { "int4/64" } else { stored };
            assert_eq!(layer["precision"], stored, "{name}");
            let error = layer["weight_error"].as_f64().unwrap();
            if stored == "bf16" {
                // Half a unit of eight bits, √3 less on average.
                assert!(error > 0.0 && error < 2.5e-3, "{name}: {error}");
            } else {
                assert!(error > 2.5e-3, "{name}: {error}");
            }
            *if is_kept { &mut kept } else { &mut others } += 1;
        }
        // Two that encode time, ten more that encode the condition, eight of the first level and two of the last block.
        assert_eq!((kept, others), (22, 27), "{precision}");
        let drift = network["drift"].as_array().unwrap();
        assert_eq!(drift.len(), 10);
        let bar = if precision == "int4" { 0.2 } else { 0.05 };
        for row in drift {
            let noise = row["noise"].as_f64().unwrap();
            assert!(noise > 0.0 && noise < bar, "{precision}: {row}");
        }
        fails(&arguments, &["--out", "is there already"]);
        let again = folder.join("again");
        let again = again.to_str().unwrap();
        let arguments = [
            "quantize",
            "--model",
            out,
            "--out",
            again,
            "--precision",
            "int8",
        ];
        fails(&arguments, &["packed already"]);
        assert!(!Path::new(again).exists());
    }
}

#[test]
fn calibration_lowers_what_layers_lose() {
    let folder = scratch("calibration");
    let data = here("tests/golden/lerobot/dataset_v30");
    let run = folder.join("run");
    let config = folder.join("train.toml");
    let text = format!(
        "[run]\noutput = {run:?}\n[data]\nfolder = {data:?}\nbatch = 4\n\
         [policy]\ndown_dims = [16, 32]\nhorizon = 8\nn_action_steps = 4\nn_groups = 4\n\
         diffusion_step_embed_dim = 16\nnum_train_timesteps = 10\n[optimizer]\nsteps = 3\n"
    );
    std::fs::write(&config, text).unwrap();
    succeeds(&["train", config.to_str().unwrap()]);
    let policy = run.join("policy");
    let policy = policy.to_str().unwrap();
    let quantize = |out: &str, more: &[&str]| {
        let out = folder.join(out);
        let report = out.with_extension("json");
        let [out, report] = [&out, &report].map(|path| path.to_str().unwrap());
        let mut arguments = vec!["quantize", "--model", policy, "--out", out];
        arguments.extend(["--precision", "int4", "--group", "8", "--json", report]);
        arguments.extend(more);
        succeeds(&arguments);
        succeeds(&["policy", "inspect", "--policy", out]);
        json(report)
    };
    let calibrated = quantize("calibrated", &["--calibrate", &data, "--samples", "64"]);
    let layers = calibrated["networks"][0]["layers"].as_array().unwrap();
    let number = |layer: &Value, key: &str| layer[key].as_f64();
    let errors: Vec<[f64; 2]> = (layers.iter())
        .filter_map(|layer| {
            let error = number(layer, "output_error")?;
            Some([error, number(layer, "output_error_of_nearest")?])
        })
        .collect();
    assert!(errors.len() > 5, "{errors:?}");
    assert!(
        errors.iter().all(|[found, nearest]| found <= nearest),
        "{errors:?}"
    );
    let sum = |which: usize| errors.iter().map(|it| it[which]).sum::<f64>();
    assert!(sum(0) < 0.9 * sum(1), "{errors:?}");
    // The same run twice is the same file.
    let file = |out: &str| std::fs::read(folder.join(out).join("model.safetensors")).unwrap();
    quantize("twice", &["--calibrate", &data, "--samples", "64"]);
    assert_eq!(file("calibrated"), file("twice"));
    // What is kept is as it was.
    let kept = quantize("kept", &["--keep", "up_modules.*", "--keep", "mid*"]);
    let mut count = 0;
    for layer in kept["networks"][0]["layers"].as_array().unwrap() {
        let name = layer["name"].as_str().unwrap();
        if name.starts_with("up_modules") || name.starts_with("mid_modules") {
            assert_eq!(layer["precision"], "f32", "{name}");
            assert_eq!(layer["weight_error"], 0.0, "{name}");
            count += 1;
        }
    }
    // Two blocks of three in the middle, and up there two, one with a residual convolution, and one that lengthens time.
    assert_eq!(count, 14);
    let all = quantize("all", &["--keep-only"]);
    for layer in all["networks"][0]["layers"].as_array().unwrap() {
        assert_eq!(layer["precision"], "int4/8", "{layer}");
    }
}

#[test]
fn networks_of_pictures_are_stored_in_codes() {
    let folder = scratch("pictures");
    let model = here("tests/golden/stable_diffusion/pipeline");
    for precision in ["int8", "int4"] {
        let out = folder.join(precision);
        let out = out.to_str().unwrap();
        let report = format!("{out}.json");
        let mut arguments = vec!["quantize", "--model", &model, "--out", out];
        let plot = format!("{out}.svg");
        arguments.extend(["--precision", precision, "--group", "8", "--json", &report]);
        arguments.extend(["--plot", &plot]);
        succeeds(&arguments);
        let report = json(&report);
        // Two lines of the U-Net, over its five levels each; the autoencoder knows no levels.
        let plot = std::fs::read_to_string(&plot).unwrap();
        assert_eq!(plot.matches("<circle").count(), 10);
        assert!(plot.contains("U-Net: the noise it sees") && !plot.contains("autoencoder:"));
        let networks = report["networks"].as_array().unwrap();
        let names: Vec<&str> = networks
            .iter()
            .map(|it| it["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, ["U-Net", "autoencoder"]);
        for network in networks {
            let bytes = |key: &str| network[key].as_u64().unwrap();
            assert!(bytes("bytes_after") < bytes("bytes_before"), "{network}");
        }
        assert_eq!(networks[0]["drift"].as_array().unwrap().len(), 5);
        assert!(networks[1]["output_error"].as_f64().unwrap() < 0.5);
        // The codes in the file make the picture that codes in memory do.
        let picture = |model: &str, more: &[&str]| {
            let path = folder.join("picture.png");
            let path = path.to_str().unwrap();
            let mut arguments = vec!["image", "generate", "--model", model, "--prompt", "a cat"];
            arguments.extend(["--steps", "2", "--out", path]);
            arguments.extend(more);
            succeeds(&arguments);
            image::open(path).unwrap().into_rgb8()
        };
        let found = picture(out, &[]);
        if precision == "int8" {
            assert_eq!(found, picture(&model, &["--precision", "int8"]));
        }
        assert_ne!(found, picture(&model, &[]));
    }
}

#[test]
fn networks_of_pictures_are_calibrated_with_prompts() {
    let folder = scratch("prompts");
    let model = here("tests/golden/stable_diffusion/pipeline");
    let prompts = folder.join("prompts.txt");
    std::fs::write(&prompts, "a cat\n\na dog on a hill\n").unwrap();
    let quantize = |out: &str, more: &[&str]| {
        let out = folder.join(out);
        let report = out.with_extension("json");
        let [out, report] = [&out, &report].map(|path| path.to_str().unwrap());
        let mut arguments = vec![
            "quantize", "--model", &model, "--out", out, "--only", "unet",
        ];
        arguments.extend(["--precision", "int4", "--group", "8", "--json", report]);
        arguments.extend(["--calibrate", prompts.to_str().unwrap()]);
        arguments.extend(more);
        succeeds(&arguments);
        json(report)
    };
    let [calibrated, nearest] = [("calibrated", &[][..]), ("nearest", &["--nearest"])]
        .map(|(out, more)| quantize(out, more)["networks"][0].take());
    let errors: Vec<[f64; 2]> = (calibrated["layers"].as_array().unwrap().iter())
        .filter_map(|layer| {
            let number = |key: &str| layer[key].as_f64();
            Some([number("output_error")?, number("output_error_of_nearest")?])
        })
        .collect();
    assert!(errors.len() > 20, "{errors:?}");
    assert!(errors.iter().all(|[found, nearest]| found <= nearest));
    let sum = |which: usize| errors.iter().map(|it| it[which]).sum::<f64>();
    assert!(sum(0) < 0.95 * sum(1), "{} of {}", sum(0), sum(1));
    let noise = |network: &Value| -> f64 {
        let rows = network["drift"].as_array().unwrap();
        assert_eq!(rows.len(), 5);
        rows.iter().map(|row| row["noise"].as_f64().unwrap()).sum()
    };
    let [calibrated, nearest] = [calibrated, nearest].map(|it| noise(&it));
    assert!(calibrated < nearest, "{calibrated} of {nearest}");
    let picture = folder.join("picture.png");
    let out = folder.join("calibrated");
    let [picture, out] = [&picture, &out].map(|path| path.to_str().unwrap());
    let arguments = [
        "image", "generate", "--model", out, "--prompt", "a cat", "--steps", "2",
    ];
    succeeds(&[&arguments[..], &["--out", picture]].concat());
    // What the picture says of itself is what the U-Net is stored in.
    assert!(succeeds(&["image", "info", picture]).contains("int4/8"));
}

#[test]
fn wrong_arguments_are_errors() {
    let folder = scratch("wrong");
    let (out, policy) = (folder.join("out"), here("models/pusht"));
    let out = out.to_str().unwrap();
    let quantize = |model: &str, more: &[&str], words: &[&str]| {
        let mut arguments = vec!["quantize", "--model", model, "--out", out];
        arguments.extend(["--precision", "int8"]);
        arguments.extend(more);
        fails(&arguments, words);
        assert!(!Path::new(out).exists());
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
    };
    quantize("nothing", &[], &["--model", "nothing"]);
    let empty = here("tests/golden");
    quantize(&empty, &[], &["config.json"]);
    quantize(&policy, &["--calibrate", "nothing"], &["nothing"]);
    let inside = Path::new(&policy).join("inside");
    let inside = inside.to_str().unwrap();
    let arguments = [
        "quantize",
        "--model",
        &policy,
        "--out",
        inside,
        "--precision",
        "int8",
    ];
    fails(&arguments, &["--out", "own folder"]);
    assert!(!Path::new(inside).exists());
    quantize(&policy, &["--group", "12"], &["--group"]);
    quantize(&policy, &["--samples", "7"], &["--samples"]);
    // A name that is misspelt would keep nothing.
    quantize(
        &policy,
        &["--keep", "*conv", "--keep", "up_module.*"],
        &["--keep", "`up_module.*`"],
    );
    let pictures = here("tests/golden/stable_diffusion/pipeline");
    quantize(
        &pictures,
        &["--keep", "decoders.*"],
        &["--keep", "`decoders.*`"],
    );
    // Demonstrations of another robot.
    let data = here("tests/golden/lerobot/dataset_v30");
    quantize(&policy, &["--calibrate", &data], &["observation"]);
}
