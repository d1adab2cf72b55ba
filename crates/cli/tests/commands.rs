//! The command does what its help says: results on standard output, one sentence on standard error, exit codes.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path)
}

fn clearway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clearway"));
    command.args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A file in a folder of this test binary's own.
fn scratch(name: &str) -> String {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    folder.join(name).to_str().unwrap().to_owned()
}

fn policy() -> String {
    repository("models/pusht").to_str().unwrap().to_owned()
}

fn assert_fails(arguments: &[&str], said: &[&str]) {
    let output = clearway(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(
        output.stdout.is_empty(),
        "{arguments:?} printed before it failed"
    );
    assert!(error.starts_with("error: "), "{error}");
    for word in said {
        assert!(
            error.contains(word),
            "{arguments:?} does not say `{word}`: {error}"
        );
    }
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn a_policy_that_matches_passes_and_one_that_does_not_fails() {
    let report = scratch("check.json");
    let output = clearway(&["policy", "check", "--policy", &policy(), "--json", &report]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(output.stderr.is_empty());
    let report: Value = serde_json::from_slice(&std::fs::read(report).unwrap()).unwrap();
    assert_eq!(report["cases"], 4);
    assert_eq!(report["quantities"].as_array().unwrap().len(), 6);
    assert_eq!(report["not_compared"].as_array().unwrap().len(), 0);

    // One changed number in one recorded pass.
    let recorded = std::fs::read(repository("models/pusht/expected.safetensors")).unwrap();
    let header = u64::from_le_bytes(recorded[..8].try_into().unwrap()) as usize;
    let names: Value = serde_json::from_slice(&recorded[8..8 + header]).unwrap();
    let start = names["case2.unet_out.t50"]["data_offsets"][0]
        .as_u64()
        .unwrap() as usize;
    let place = 8 + header + start;
    for change in [1e-3, f32::INFINITY, f32::NAN] {
        let mut bytes = recorded.clone();
        let value = f32::from_le_bytes(bytes[place..place + 4].try_into().unwrap()) + change;
        bytes[place..place + 4].copy_from_slice(&value.to_le_bytes());
        let changed = scratch("changed.safetensors");
        std::fs::write(&changed, bytes).unwrap();
        let arguments = [
            "policy",
            "check",
            "--policy",
            &policy(),
            "--expected",
            &changed,
        ];
        let output = clearway(&arguments);
        assert_eq!(output.status.code(), Some(1), "changed by {change}");
        let printed = text(&output.stdout);
        assert_eq!(printed.matches("ABOVE TOLERANCE").count(), 1, "{printed}");
        assert!(printed.contains("network"));
    }
}

#[test]
fn an_evaluation_writes_what_it_says() {
    let (json, states, record) = (
        scratch("sim.json"),
        scratch("sim.safetensors"),
        scratch("sim.rrd"),
    );
    let mut arguments = vec!["sim", "pusht", "--policy"];
    let policy = policy();
    arguments.extend([
        policy.as_str(),
        "--episodes",
        "3",
        "--seed",
        "7",
        "--steps",
        "2",
        "--solver",
        "dpmpp2m",
    ]);
    arguments.extend(["--json", &json, "--states", &states]);
    if cfg!(feature = "rerun") {
        arguments.extend(["--record", &record]);
    }
    let output = clearway(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        output.stderr.is_empty(),
        "no progress where output is piped"
    );
    let report: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(
        (&report["episodes"], &report["seed"]),
        (&3.into(), &7.into())
    );
    assert_eq!(
        (&report["solver"], &report["steps"]),
        (&"dpmpp2m".into(), &2.into())
    );
    let rows = report["rows"].as_array().unwrap();
    let seeds: Vec<u64> = rows
        .iter()
        .map(|row| row["seed"].as_u64().unwrap())
        .collect();
    assert_eq!(seeds, [7, 8, 9]);
    let successes = rows.iter().filter(|row| row["success"] == true).count();
    assert!((report["success_rate"].as_f64().unwrap() - successes as f64 / 3.0).abs() < 1e-12);
    for interval in ["success_interval", "mean_reward_interval"] {
        let [low, high] = [0, 1].map(|i| report[interval][i].as_f64().unwrap());
        assert!(low < high, "{interval}");
    }
    for share in ["p50", "p95", "p99"] {
        assert!(report["latency_ms"][share].as_f64().unwrap() > 0.0);
    }
    let bytes = std::fs::read(&states).unwrap();
    let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    assert_eq!(file.tensor("states").unwrap().shape(), [3, 301, 5]);
    if cfg!(feature = "rerun") {
        assert!(std::fs::metadata(&record).unwrap().len() > 10_000);
    }

    // The same again, bit for bit, and not of another draw.
    let again = scratch("again.json");
    let place = arguments
        .iter()
        .position(|argument| *argument == json)
        .unwrap();
    arguments[place] = &again;
    assert_eq!(clearway(&arguments).status.code(), Some(0));
    let second: Value = serde_json::from_slice(&std::fs::read(&again).unwrap()).unwrap();
    assert_eq!(report["rows"], second["rows"]);
    arguments.extend(["--noise-seed", "1"]);
    assert_eq!(clearway(&arguments).status.code(), Some(0));
    let other: Value = serde_json::from_slice(&std::fs::read(&again).unwrap()).unwrap();
    assert_ne!(report["rows"], other["rows"]);
}

#[test]
fn a_plan_from_a_file() {
    let observations = scratch("observations.json");
    let corners = vec![256.0; 16];
    let entries = serde_json::json!([
        {"time": 0.0, "observation.state": [200.0, 100.0], "observation.environment_state": corners},
        {"time": 0.1, "observation.state": [201.0, 101.0], "observation.environment_state": corners},
    ]);
    std::fs::write(&observations, entries.to_string()).unwrap();
    let json = scratch("plan.json");
    let policy = policy();
    let mut arguments = vec![
        "policy",
        "plan",
        "--policy",
        &policy,
        "--observations",
        &observations,
    ];
    arguments.extend(["--seed", "5", "--json", &json]);
    let output = clearway(&arguments);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let plan: Value = serde_json::from_slice(&std::fs::read(&json).unwrap()).unwrap();
    assert_eq!(plan["actions"].as_array().unwrap().len(), 8);
    assert_eq!(plan["times"][0], 0.1);

    for (entries, said) in [
        (serde_json::json!([]), "observation"),
        (
            serde_json::json!([{"time": 0.0, "observation.state": [1.0, 2.0]}]),
            "observation.environment_state",
        ),
        (serde_json::json!([{"time": -1.0}]), "time"),
        (serde_json::json!({"time": 0.0}), "observations.json"),
    ] {
        std::fs::write(&observations, entries.to_string()).unwrap();
        assert_fails(&arguments[..6], &[said]);
    }
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let policy = policy();
    let sim = ["sim", "pusht", "--policy", &policy];
    let with = |more: &[&'static str]| -> Vec<String> {
        sim.iter().chain(more).map(ToString::to_string).collect()
    };
    assert_fails(
        &["policy", "inspect", "--policy", "nowhere"],
        &["nowhere", "save_pretrained"],
    );
    let folder = env!("CARGO_MANIFEST_DIR");
    assert_fails(&["policy", "inspect", "--policy", folder], &["config.json"]);
    for (more, said) in [
        (
            ["--steps", "0"].as_slice(),
            "--steps does not fit this policy",
        ),
        (&["--steps", "101"], "101 steps"),
        (&["--solver", "ddmi"], "ddmi"),
        (&["--episodes", "0"], "--episodes"),
        (&["--candidates", "0"], "--candidates"),
        (&["--json", "nowhere/report.json"], "nowhere/report.json"),
        (&["--noise", "nowhere.safetensors"], "nowhere.safetensors"),
    ] {
        let arguments = with(more);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        assert_fails(&arguments, &[said]);
        let error = text(&clearway(&arguments).stderr);
        assert!(
            !error.contains("cannot load"),
            "the policy is not to blame: {error}"
        );
    }
    let closed_loop = repository("tests/golden/lerobot/closed_loop.safetensors");
    let noise = ["--noise", closed_loop.to_str().unwrap()];
    let ddpm: Vec<&str> = sim
        .iter()
        .copied()
        .chain(noise)
        .chain(["--solver", "ddpm"])
        .collect();
    assert_fails(&ddpm, &["--noise", "ddpm", "ddim"]);
    let many: Vec<&str> = sim
        .iter()
        .copied()
        .chain(noise)
        .chain(["--episodes", "51"])
        .collect();
    assert_fails(&many, &["50", "51"]);
}

/// A reader that goes away (`| head -1`) ends the printing, not the work.
#[cfg(unix)]
#[test]
fn a_closed_pipe_is_no_failure() {
    let json = scratch("piped.json");
    let mut child = Command::new(env!("CARGO_BIN_EXE_clearway"))
        .args(["policy", "inspect", "--policy", &policy(), "--json", &json])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(Path::new(&json).exists());
}

fn tiny_model() -> String {
    let folder = repository("tests/golden/stable_diffusion/pipeline");
    folder.to_str().unwrap().to_owned()
}

#[test]
fn pictures_say_how_they_were_made() {
    let (model, out) = (tiny_model(), scratch("made.png"));
    let output = clearway(&[
        "image",
        "generate",
        "--model",
        &model,
        "--prompt",
        "a (red:1.2) fox",
        "--negative",
        "blurry",
        "--seed",
        "5",
        "--steps",
        "3",
        "--solver",
        "euler-a",
        "--grid",
        "karras",
        "--size",
        "48x64",
        "--out",
        &out,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(
        output.stderr.is_empty(),
        "no progress where output is piped"
    );
    assert_eq!(text(&output.stdout).trim(), out);
    let output = clearway(&["image", "info", &out]);
    let said = text(&output.stdout);
    for part in [
        "a (red:1.2) fox\n",
        "Negative prompt: blurry\n",
        "Steps: 3, Sampler: euler-a, Schedule type: karras",
        "Seed: 5, Size: 48x64",
    ] {
        assert!(said.contains(part), "{said}");
    }

    // The same again is the same file; two pictures are two files, whose seeds follow each other.
    let (again, two) = (scratch("again.png"), scratch("two.png"));
    for (out, count) in [(&again, "1"), (&two, "2")] {
        let output = clearway(&[
            "image",
            "generate",
            "--model",
            &model,
            "--prompt",
            "a (red:1.2) fox",
            "--negative",
            "blurry",
            "--seed",
            "5",
            "--steps",
            "3",
            "--solver",
            "euler-a",
            "--grid",
            "karras",
            "--size",
            "48x64",
            "--out",
            out,
            "--count",
            count,
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert_eq!(std::fs::read(&again).unwrap(), std::fs::read(&out).unwrap());
    assert!(Path::new(&scratch("two-5.png")).exists() && Path::new(&scratch("two-6.png")).exists());
}

#[test]
fn pictures_are_made_of_pictures() {
    let model = tiny_model();
    let file = |name: &str| format!("{model}/{name}");
    let (source, mask, lora) = (
        file("source.png"),
        file("mask.png"),
        file("lora_kohya.safetensors:0.5"),
    );
    let (out, preview) = (scratch("changed.png"), scratch("preview.png"));
    let output = clearway(&[
        "image",
        "img2img",
        "--model",
        &model,
        "--image",
        &source,
        "--strength",
        "0.5",
        "--steps",
        "4",
        "--lora",
        &lora,
        "--out",
        &out,
        "--preview",
        &preview,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(Path::new(&preview).exists());
    let info = text(&clearway(&["image", "info", &out]).stdout);
    assert!(
        info.contains("<lora:lora_kohya:0.5>") && info.contains("Denoising strength: 0.5"),
        "{info}"
    );
    let output = clearway(&[
        "image",
        "inpaint",
        "--model",
        &model,
        "--image",
        &source,
        "--mask",
        &mask,
        "--steps",
        "4",
        "--out",
        &out,
        "--prompt",
        "a fox <lora:lora_peft:0.7>",
        "--lora-dir",
        &model,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let info = text(&clearway(&["image", "info", &out]).stdout);
    assert!(info.starts_with("a fox <lora:lora_peft:0.7>"), "{info}");
}

#[test]
fn what_makes_no_picture_is_said() {
    let model = tiny_model();
    let file = |name: &str| format!("{model}/{name}");
    let (source, mask, out) = (file("source.png"), file("mask.png"), scratch("none.png"));
    for (arguments, said) in [
        (
            vec!["generate", "--size", "60x64"],
            vec!["60 × 64", "multiples of 8"],
        ),
        (
            vec!["generate", "--prompt", "<lora:x:1>"],
            vec!["`x`", "--lora-dir"],
        ),
        (vec!["generate", "--lora", &mask], vec!["mask.png"]),
        (
            vec!["img2img", "--image", "no.png"],
            vec!["no.png", "No such file"],
        ),
        (
            vec!["img2img", "--image", "Cargo.toml"],
            vec!["Cargo.toml is neither a PNG nor a JPEG"],
        ),
        (
            vec![
                "inpaint",
                "--image",
                &source,
                "--mask",
                &source,
                "--strength",
                "0",
            ],
            vec!["strength is 0"],
        ),
    ] {
        let mut all = vec![
            "image",
            arguments[0],
            "--model",
            &model,
            "--steps",
            "2",
            "--out",
            &out,
        ];
        all.extend(&arguments[1..]);
        assert_fails(&all, &said);
    }
    assert_fails(
        &["image", "info", "no-such-file"],
        &["no-such-file", "cannot be read"],
    );
}

#[test]
fn a_model_says_what_it_holds() {
    let said = text(&clearway(&["image", "info", &tiny_model()]).stdout);
    for part in [
        "text encoder",
        "U-Net",
        "autoencoder",
        "F16",
        "1000 timesteps",
        "solver pndm",
    ] {
        assert!(said.contains(part), "{said}");
    }
    let lora = format!("{}/lora_peft.safetensors", tiny_model());
    assert_eq!(
        text(&clearway(&["image", "info", &lora]).stdout).trim(),
        "LoRA of 67 layers"
    );
}

#[test]
fn precisions_are_chosen_reported_and_compared() {
    let policy = policy();
    let reports = ["plain", "f32", "bf16", "int8", "int4"].map(|precision| {
        let report = scratch(&format!("{precision}.json"));
        let world = ["sim", "pusht", "--policy", &policy, "--episodes", "3"];
        let said = ["--precision", precision, "--json", &report];
        let output = clearway(&[&world[..], &said].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let json: Value = serde_json::from_slice(&std::fs::read(&report).unwrap()).unwrap();
        let groups = if precision == "int4" { "/64" } else { "" };
        assert_eq!(json["precision"], format!("{precision}{groups}"));
        assert_eq!(json["level"].is_null(), precision == "plain");
        report
    });
    for (precision, said) in [
        ("bf16", "bf16 on "),
        ("int8", "int8 on "),
        ("int4", "int4/64 on "),
    ] {
        let check = ["policy", "check", "--policy", &policy];
        let output = clearway(&[&check[..], &["--precision", precision]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
        assert!(text(&output.stdout).contains(said));
    }

    let [plain, f32, bf16, ..] = &reports;
    let compared = scratch("compared.json");
    let output = clearway(&["sim", "compare", f32, f32, "--json", &compared]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let json: Value = serde_json::from_slice(&std::fs::read(&compared).unwrap()).unwrap();
    assert_eq!(
        (&json["episodes"], &json["only_first"]),
        (&3.into(), &0.into())
    );
    assert_eq!(json["difference"], 0.0);
    // Three episodes say nothing within a point.
    let output = clearway(&["sim", "compare", plain, bf16, "--within", "0.01"]);
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stdout));

    // One episode less, and there is one without its pair.
    let mut less: Value = serde_json::from_slice(&std::fs::read(f32).unwrap()).unwrap();
    less["rows"].as_array_mut().unwrap().pop();
    let shorter = scratch("shorter.json");
    std::fs::write(&shorter, less.to_string()).unwrap();
    assert_fails(
        &["sim", "compare", f32, &shorter],
        &["shorter.json", "same seeds"],
    );
    assert_fails(
        &["sim", "compare", f32, bf16, "--within", "0"],
        &["--within"],
    );
}

#[test]
fn a_log_is_replayed_in_the_precision_it_was_made_in() {
    let policy = policy();
    for precision in ["bf16", "int8", "int4"] {
        let log = scratch(&format!("{precision}.mcap"));
        let world = ["sim", "replan", "--policy", &policy, "--episodes", "1"];
        let output = clearway(&[&world[..], &["--precision", precision, "--log", &log]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let output = clearway(&["log", "replay", &log, "--policy", &policy]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stdout));
    }
}

#[test]
fn a_bench_says_what_a_pass_is_measured_against() {
    let file = scratch("bench.json");
    for precision in ["f32", "bf16", "int8", "int4", "plain"] {
        let output = clearway(&[
            "bench",
            "policy",
            "--down-dims",
            "16,32",
            "--precision",
            precision,
            "--batch",
            "2",
            "--rounds",
            "1",
            "--threads",
            "2",
            "--json",
            &file,
        ]);
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let said = text(&output.stdout);
        assert!(
            said.contains("times the floor") && said.contains("ddim-10"),
            "{said}"
        );
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(report["machine"]["threads"], 2);
        for key in ["pass_ms", "cached_pass_ms", "plan_ms"] {
            let number = |name: &str| report[key][name].as_f64().unwrap();
            let (min, median, max) = (number("min"), number("median"), number("max"));
            assert!(0.0 < min && min <= median && median <= max, "{report}");
        }
        // A plan is ten passes and more.
        let median = |key: &str| report[key]["median"].as_f64().unwrap();
        assert!(
            median("plan_ms") > 2.0 * median("cached_pass_ms"),
            "{report}"
        );
        let parameters = report["parameters"].as_u64().unwrap();
        let bytes = report["weight_bytes"].as_u64().unwrap();
        match precision {
            "bf16" => assert_eq!(bytes, 2 * parameters),
            "f32" | "plain" => assert_eq!(bytes, 4 * parameters),
            // Some layers are kept in f32: most of a network as small as this one.
            _ => assert!(
                (parameters / 2..4 * parameters).contains(&bytes),
                "{report}"
            ),
        }
        for key in ["gflop_s", "gb_s", "peak_memory_mb"] {
            assert!(report[key].as_f64().unwrap() > 0.0, "{report}");
        }
    }
    let output = clearway(&[
        "bench",
        "image",
        "--model",
        &tiny_model(),
        "--size",
        "64x64",
        "--rounds",
        "1",
        "--precision",
        "bf16",
        "--json",
        &file,
    ]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
    for part in ["text", "unet", "decoder"] {
        assert!(
            report["networks"][part]["pass_ms"]["median"]
                .as_f64()
                .unwrap()
                > 0.0,
            "{report}"
        );
    }
    assert_fails(
        &["bench", "policy", "--down-dims", "5"],
        &["--down-dims must be", "found [5]"],
    );
    assert_fails(
        &[
            "bench",
            "image",
            "--model",
            &tiny_model(),
            "--size",
            "60x64",
        ],
        &["--size is 60x64", "multiples of 8"],
    );
}
