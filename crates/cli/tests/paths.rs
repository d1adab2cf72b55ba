//! `clearway plan`: what it measures and writes, what it makes of questions without an answer, and how it fails.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

fn repository(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    path.to_str().unwrap().to_owned()
}

fn clearway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_clearway"));
    command.args(arguments).env_remove("RUST_LOG");
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// A folder of this test binary's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

fn read(path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// Runs `clearway plan`, which exits with `code` and writes what it says; its standard output with that.
fn plan(folder: &Path, code: i32, arguments: &[&str]) -> (String, Value) {
    let json = folder.join("report.json");
    let json = json.to_str().unwrap();
    let all: Vec<&str> = ["plan"]
        .iter()
        .chain(arguments)
        .chain(&["--json", json])
        .copied()
        .collect();
    let output = clearway(&all);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{arguments:?}: {error}");
    assert!(error.is_empty(), "no progress where output is piped");
    (text(&output.stdout), read(json))
}

fn fails(arguments: &[&str], said: &[&str]) {
    let output = clearway(arguments);
    let error = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert!(output.stdout.is_empty(), "{arguments:?} printed");
    assert!(error.starts_with("error: "), "{error}");
    for word in said {
        assert!(error.contains(word), "does not say `{word}`: {error}");
    }
    assert!(!error.contains("panicked"), "{error}");
}

/// What a report says, but for how long it took.
fn without_times(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("latency_ms");
    report
}

/// A room of 2 m with a wall across it, which has a gap of so many metres or none.
fn walled(gap: Option<f64>) -> Value {
    let piece = |from: f64, to: f64| {
        let (center, edge) = (f64::midpoint(from, to), to - from);
        json!({ "box": { "center": [0.0, center], "edges": [0.2, edge] } })
    };
    let half = gap.map(|it| it / 2.0);
    let obstacles = match half {
        Some(half) => vec![piece(-1.1, -half), piece(half, 1.1)],
        None => vec![piece(-1.1, 1.1)],
    };
    json!({
        "radius": 0.05,
        "limits": {
            "lower": [-1.0, -1.0],
            "upper": [1.0, 1.0],
            "velocity": [1.0, 1.0],
            "acceleration": [2.0, 2.0],
            "jerk": null
        },
        "obstacles": obstacles,
        "start": [-0.7, 0.1],
        "goal": [0.7, 0.0]
    })
}

fn write(folder: &Path, name: &str, value: &Value) -> String {
    let path = folder.join(name);
    std::fs::write(&path, serde_json::to_string_pretty(value).unwrap()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn clutter_is_measured_written_and_recorded() {
    let folder = scratch("clutter");
    let file = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let (prior, problems, record) = (
        repository("models/clutter"),
        file("problems.json"),
        file("plans.rrd"),
    );
    let arguments = [
        "clutter",
        "--prior",
        &prior,
        "--episodes",
        "3",
        "--seed",
        "5",
        "--candidates",
        "6",
    ];
    let with = |more: &[&'static str]| [arguments.as_slice(), more].concat();
    let mut first = [arguments.as_slice(), &["--problems-out", &problems]].concat();
    if cfg!(feature = "rerun") {
        first.extend(["--record", &record]);
    }
    let (said, report) = plan(&folder, 0, &first);
    assert!(said.contains("3 problems from seed 5, diffusion, 6 samples each"));
    for (key, expected) in [
        ("planner", json!("diffusion")),
        ("guidance", json!(true)),
        ("projection", json!(true)),
        ("fallback", json!(false)),
        ("episodes", json!(3)),
        ("candidates", json!(6)),
        ("solver", json!("ddim")),
        ("steps", json!(8)),
        ("seed", json!(5)),
        ("solvable", json!(3)),
    ] {
        assert_eq!(report[key], expected, "{key}");
    }
    for share in [
        "success_rate",
        "success_rate_of_solvable",
        "some_sample_valid",
        "valid_fraction",
        "collision_intensity",
    ] {
        let value = report[share].as_f64().unwrap();
        assert!((0.0..=1.0).contains(&value), "{share}: {value}");
    }
    for measure in ["path_length", "smoothness", "diversity", "duration"] {
        assert!(report[measure].as_f64().unwrap() > 0.0, "{measure}");
    }
    for share in ["p50", "p95", "p99"] {
        assert!(report["latency_ms"][share].as_f64().unwrap() > 0.0);
    }
    let [low, high] = [0, 1].map(|i| report["success_interval"][i].as_f64().unwrap());
    let rate = report["success_rate"].as_f64().unwrap();
    assert!(low < high && low <= rate && rate <= high);
    let outcomes = report["outcomes"]["complete"].as_u64().unwrap();
    let failures = report["failures"].as_array().unwrap().len() as u64;
    assert_eq!(outcomes + failures, 3);
    assert_eq!(report["model"].as_str().unwrap().len(), 64);
    if cfg!(feature = "rerun") {
        assert!(std::fs::metadata(&record).unwrap().len() > 1000);
    }

    // The same problems from their file are the same plans; other steps and settings are others.
    let asked = [
        "clutter",
        "--prior",
        &prior,
        "--problem",
        &problems,
        "--seed",
        "5",
        "--candidates",
        "6",
    ];
    let (_, again) = plan(&folder, 0, &asked);
    let mut again = without_times(again);
    assert_eq!(again["world"], json!(problems));
    again["world"] = report["world"].clone();
    assert_eq!(again, without_times(report.clone()));
    let (_, other) = plan(
        &folder,
        0,
        &with(&["--steps", "3", "--guidance", "off", "--projection", "off"]),
    );
    assert_eq!(
        [&other["steps"], &other["guidance"], &other["projection"]],
        [&json!(3), &json!(false), &json!(false)]
    );
    assert_ne!(other["path_length"], report["path_length"]);
}

#[test]
fn classical_planners_are_measured_alike() {
    let folder = scratch("classical");
    for (planner, runs) in [("rrt-connect", 3), ("grid", 1)] {
        let arguments = [
            "clutter",
            "--planner",
            planner,
            "--episodes",
            "2",
            "--candidates",
            "3",
            "--added",
            "2",
        ];
        let (_, report) = plan(&folder, 0, &arguments);
        assert_eq!(report["planner"], planner);
        assert_eq!(report["world"], "Dense with 2 added obstacles");
        assert_eq!(report["success_rate"], 1.0);
        assert_eq!(report["steps"], Value::Null);
        let diversity = report["diversity"].as_f64().unwrap();
        assert!((1.0..=f64::from(runs)).contains(&diversity), "{diversity}");
    }
}

#[test]
fn mazes_have_scores() {
    let folder = scratch("maze");
    let prior = repository("models/maze");
    let record = folder.join("maze.rrd");
    let record = record.to_str().unwrap();
    let mut arguments = vec![
        "maze",
        "--prior",
        &prior,
        "--maze",
        "u",
        "--task",
        "multi",
        "--episodes",
        "2",
    ];
    arguments.extend(["--candidates", "8"]);
    if cfg!(feature = "rerun") {
        arguments.extend(["--record", record]);
    }
    let (said, reports) = plan(&folder, 0, &arguments);
    assert!(said.contains("U maze: 2 problems from seed 0"), "{said}");
    let reports = reports.as_array().unwrap();
    assert_eq!(reports.len(), 1);
    let score = &reports[0]["normalised_score"];
    let [low, high] = [0, 1].map(|i| score["interval"][i].as_f64().unwrap());
    let mean = score["mean"].as_f64().unwrap();
    assert!(low <= mean && mean <= high && mean > 0.0, "{score}");
    assert!(score["reference"].as_str().unwrap().contains("D4RL"));
    if cfg!(feature = "rerun") {
        assert!(Path::new(record).is_file());
    }
}

/// What the prior alone does not solve, RRT-Connect does, if it is asked.
#[test]
fn a_fallback_solves_what_the_prior_does_not() {
    let folder = scratch("fallback");
    let prior = repository("models/clutter");
    let arguments = [
        "clutter",
        "--prior",
        &prior,
        "--episodes",
        "6",
        "--added",
        "5",
        "--candidates",
        "1",
        "--guidance",
        "off",
        "--projection",
        "off",
    ];
    let (said, alone) = plan(&folder, 0, &arguments);
    let failures = alone["failures"].as_array().unwrap();
    assert!(!failures.is_empty(), "one sample is not valid everywhere");
    assert_eq!(alone["outcomes"]["complete"], 6 - failures.len());
    for failure in failures {
        let line = format!("seed {}: none of 1 candidates is free", failure["seed"]);
        assert!(said.contains(&line), "{said}");
    }
    let (_, helped) = plan(&folder, 0, &[&arguments[..], &["--fallback"]].concat());
    assert_eq!(helped["success_rate"], 1.0);
    assert_eq!(helped["success_rate_of_solvable"], 1.0);
    assert_eq!(helped["outcomes"]["complete"], 6 - failures.len());
    assert_eq!(helped["outcomes"]["fallback"], failures.len());
}

#[test]
fn who_asks_what_cannot_be_is_told_why() {
    let folder = scratch("impossible");
    let prior = repository("models/clutter");
    let mut inside = walled(None);
    inside["start"] = json!([0.1, 0.0]);
    let mut outside = walled(None);
    outside["goal"] = json!([0.7, 1.5]);
    for (name, problem, reason) in [
        ("wall", walled(None), "none of 4 candidates is free"),
        // Narrower than the robot.
        ("slit", walled(Some(0.09)), "none of 4 candidates is free"),
        ("inside", inside, "the start is not free"),
        ("outside", outside, "the goal is not free"),
    ] {
        let file = write(&folder, name, &problem);
        let arguments = [
            "clutter",
            "--prior",
            &prior,
            "--problem",
            &file,
            "--candidates",
            "4",
        ];
        let (said, report) = plan(&folder, 1, &arguments);
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(report["success_rate"], 0.0);
        assert_eq!(
            [&report["solvable"], &report["success_rate_of_solvable"]],
            [&json!(0), &Value::Null]
        );
        let failure = report["failures"][0]["reason"].as_str().unwrap();
        assert!(failure.contains(reason), "{failure}");
        // Nor does the fallback find a way that is none.
        let (_, report) = plan(&folder, 1, &[&arguments[..], &["--fallback"]].concat());
        assert_eq!(report["success_rate"], 0.0);
    }
    // With a gap there is one.
    let file = write(&folder, "gap", &walled(Some(0.4)));
    let arguments = [
        "clutter",
        "--prior",
        &prior,
        "--problem",
        &file,
        "--candidates",
        "4",
        "--fallback",
    ];
    let (said, report) = plan(&folder, 0, &arguments);
    assert_eq!(report["success_rate"], 1.0, "{said}");
    assert!(!said.contains("no plan"), "{said}");
}

#[test]
fn paths_of_others_are_judged() {
    let folder = scratch("others");
    let problems = write(
        &folder,
        "problems",
        &json!([walled(Some(0.4)), walled(Some(0.4))]),
    );
    let straight = json!([[-0.7, 0.1], [0.7, 0.0]]);
    let blocked = json!([[-0.7, 0.1], [0.0, 0.5], [0.7, 0.0]]);
    let judge = |code: i32, second: &Value| {
        let answers = json!({
            "planner": "by hand",
            "answers": [
                { "paths": [straight, blocked, null, straight], "milliseconds": [1.0, 1.0, 1.0, 1.0] },
                second
            ]
        });
        let paths = write(&folder, "paths", &answers);
        let arguments = ["clutter", "--problem", &problems, "--paths", &paths];
        plan(&folder, code, &arguments).1
    };
    let report = judge(0, &json!({ "paths": [straight], "milliseconds": [3000.0] }));
    assert_eq!(report["planner"], "by hand");
    assert_eq!(report["candidates"], 4);
    assert_eq!(report["success_rate"], 1.0);
    // A half of the first, where one is blocked and one was not found, and all of the second.
    assert_eq!(report["valid_fraction"], 0.75);
    assert_eq!(report["diversity"], 1.0);
    assert!(report["latency_ms"]["p99"].as_f64().unwrap() > 2000.0);
    // Whose first path is blocked has no plan.
    let report = judge(1, &json!({ "paths": [blocked], "milliseconds": [1.0] }));
    assert_eq!(report["success_rate"], 0.5);
    assert_eq!(report["valid_fraction"], 0.25);

    for (answers, said) in [
        (json!([]), "0 answers to 2 problems"),
        (
            json!([{ "paths": [straight], "milliseconds": [] }, { "paths": [], "milliseconds": [] }]),
            "problem 0 has 1 runs and 0 times",
        ),
        (
            json!([
                { "paths": [straight], "milliseconds": [1.0] },
                { "paths": [straight, [[-0.7, 0.1], [0.6, 0.0]]], "milliseconds": [1.0, 1.0] }
            ]),
            "path 1 of problem 1",
        ),
    ] {
        let paths = write(
            &folder,
            "paths",
            &json!({ "planner": "wrong", "answers": answers }),
        );
        let arguments = ["plan", "clutter", "--problem", &problems, "--paths", &paths];
        fails(&arguments, &[&paths, said]);
    }
}

#[test]
fn what_is_wrong_is_one_sentence() {
    let folder = scratch("wrong");
    let prior = repository("models/clutter");
    for world in ["clutter", "maze"] {
        fails(
            &["plan", world, "--prior", "nowhere"],
            &["there is no prior in nowhere", "--prior"],
        );
        // A folder with something else in it.
        let policy = repository("models/pusht");
        fails(
            &["plan", world, "--prior", &policy],
            &["cannot use the prior", "config.json"],
        );
    }
    fails(
        &["plan", "clutter", "--prior", &prior, "--steps", "101"],
        &["101"],
    );
    fails(
        &[
            "plan",
            "clutter",
            "--prior",
            &prior,
            "--json",
            "nowhere/x.json",
        ],
        &["nowhere/x.json"],
    );
    fails(
        &[
            "plan",
            "clutter",
            "--prior",
            &prior,
            "--record",
            "nowhere/x.rrd",
        ],
        &[
            "cannot",
            if cfg!(feature = "rerun") {
                "nowhere"
            } else {
                "rerun"
            },
        ],
    );
    fails(
        &[
            "plan",
            "clutter",
            "--prior",
            &prior,
            "--problem",
            "nothing.json",
        ],
        &["nothing.json"],
    );

    let good = serde_json::to_string_pretty(&walled(Some(0.4))).unwrap();
    let line = |of: &str| {
        let at = good.find(of).unwrap();
        format!("line {}", good[..at].matches('\n').count() + 1)
    };
    let file = folder.join("problem.json");
    let name = file.to_str().unwrap();
    for (from, to, said) in [
        (
            "\"radius\"",
            "\"radios\"",
            &["radios", line("\"radius\"").as_str()][..],
        ),
        ("\"box\"", "\"boks\"", &["boks", &line("\"box\"")]),
        ("\"goal\"", "\"gaol\"", &["gaol", &line("\"goal\"")]),
        ("\"goal\"", "\"start\"", &["start", &line("\"start\"")]),
        ("-0.7,", "", &["start and goal of problem 0"]),
        ("-0.7", "-1e999", &["out of range", &line("-0.7")]),
        ("0.05", "-0.05", &["-0.05"]),
        ("\"start\"", "start", &[&line("\"start\"")]),
    ] {
        assert!(good.contains(from), "{from}");
        std::fs::write(&file, good.replacen(from, to, 1)).unwrap();
        fails(
            &["plan", "clutter", "--prior", &prior, "--problem", name],
            said,
        );
    }
    std::fs::write(&file, "[]").unwrap();
    fails(
        &["plan", "clutter", "--prior", &prior, "--problem", name],
        &[name, "no problem"],
    );
    // What excludes each other.
    fails(
        &["plan", "clutter", "--problem", name, "--added", "3"],
        &["--added"],
    );
    fails(&["plan", "clutter", "--paths", name], &["--problem"]);
}
