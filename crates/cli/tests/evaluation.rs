//! `clearway sim demonstrate` and `clearway eval policies`: an expert's episodes become a dataset, and policies stand beside each
//! other in a table that says the same twice.
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
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

/// One sentence that says all of it.
fn fails(arguments: &[&str], said: &[&str]) {
    let output = clearway(arguments);
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {error}");
    assert_eq!(error.trim_end().lines().count(), 1, "{error}");
    for word in said {
        assert!(error.contains(word), "does not say `{word}`: {error}");
    }
}

fn policy() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../models/pusht");
    path.to_str().unwrap().to_owned()
}

/// A folder of this test binary's own, empty.
fn scratch(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn an_expert_solves_what_its_policy_does_not_and_is_recorded() {
    let folder = scratch("demonstrate");
    let out = |name: &str| folder.join(name).to_str().unwrap().to_owned();
    let policy = policy();
    let demonstrate = |candidates: &str, out: &str| {
        succeeds(&[
            "sim",
            "demonstrate",
            "--policy",
            &policy,
            "--out",
            out,
            "--episodes",
            "6",
            "--candidates",
            candidates,
            "--seed",
            "100000",
        ])
    };
    // The shipped policy alone solves about six of ten starts; of these six it fails at least one.
    let (alone, expert) = (out("alone"), out("expert"));
    let said = demonstrate("1", &alone);
    assert!(!said.contains("6 of 6"), "{said}");
    let said = demonstrate("16", &expert);
    assert!(said.contains("6 of 6 episodes succeeded"), "{said}");

    let info = std::fs::read_to_string(Path::new(&expert).join("meta/info.json")).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["codebase_version"], "v3.0");
    assert_eq!(
        (&info["total_episodes"], &info["fps"]),
        (&Value::from(6), &Value::from(10))
    );
    let inspected = succeeds(&["data", "inspect", &expert]);
    for word in ["episodes     6,", "observation.environment_state", "action"] {
        assert!(
            inspected.contains(word),
            "does not say `{word}`: {inspected}"
        );
    }
    // What is there is not lost.
    let again = ["sim", "demonstrate", "--policy", &policy, "--out", &expert];
    fails(&again, &[&expert, "there already"]);
}

/// Ctrl-C keeps the episodes that have ended.
#[cfg(unix)]
#[test]
fn an_interrupt_keeps_what_was_demonstrated() {
    use std::io::{BufRead as _, BufReader, Read as _};
    use std::process::Stdio;
    let folder = scratch("interrupted");
    let out = folder.join("dataset");
    let out = out.to_str().unwrap();
    // So many that it would take an hour.
    let mut run = Command::new(env!("CARGO_BIN_EXE_clearway"))
        .args(["sim", "demonstrate", "--policy", &policy(), "--out", out])
        .args(["--episodes", "5000", "--batch", "4", "--candidates", "4"])
        .args(["--steps", "4", "--verbose"])
        .env_remove("RUST_LOG")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(run.stderr.take().unwrap()).lines();
    let succeeded = log.find(|line| line.as_ref().unwrap().contains("succeeded=true"));
    assert!(succeeded.is_some(), "it ended before an episode succeeded");
    let kill = Command::new("kill")
        .args(["-INT", &run.id().to_string()])
        .status();
    assert!(kill.unwrap().success());
    // What it still has to say must not block it.
    let rest = log.count();
    let status = run.wait().unwrap();
    assert_eq!(status.code(), Some(0), "after {rest} more lines");
    let mut said = String::new();
    let mut stdout = run.stdout.take().unwrap();
    stdout.read_to_string(&mut said).unwrap();
    assert!(said.contains("interrupted after"), "{said}");

    let info = std::fs::read_to_string(Path::new(out).join("meta/info.json")).unwrap();
    let info: Value = serde_json::from_str(&info).unwrap();
    let episodes = info["total_episodes"].as_u64().unwrap();
    assert!((1..5000).contains(&episodes), "{episodes}");
    assert!(succeeds(&["data", "inspect", out]).contains(&format!("episodes     {episodes},")));
}

#[test]
fn a_table_of_policies_says_the_same_twice_and_makes_nothing_again() {
    let folder = scratch("eval-policies");
    let config = folder.join("table.toml");
    let text = format!(
        "episodes = 4\nseed = 100000\n\
         [[contender]]\nname = \"teacher\"\npolicy = {policy:?}\nsteps = [10, 2]\nprecision = [\"f32\", \"int4\"]\n\
         [[contender]]\nname = \"other \\\"solver\\\"\"\npolicy = {policy:?}\nsolver = \"ddpm\"\nsteps = [10]\n",
        policy = policy(),
    );
    std::fs::write(&config, text).unwrap();
    let config = config.to_str().unwrap();
    let out = folder.join("out");
    let out_word = out.to_str().unwrap();
    let said = succeeds(&[
        "eval", "policies", config, "--out", out_word, "--rounds", "1",
    ]);
    let table: Value =
        serde_json::from_str(&std::fs::read_to_string(out.join("table.json")).unwrap()).unwrap();
    let rows = table.as_array().unwrap();
    assert_eq!(rows.len(), 5);
    assert_eq!(
        said.lines()
            .filter(|line| line.starts_with("| teacher"))
            .count(),
        4
    );
    // Nothing differs from itself, and every rate lies in its interval.
    assert_eq!(rows[0]["difference"], 0.0);
    for row in rows {
        let of = |key: &str, i: usize| row[key][i].as_f64().unwrap();
        let success = row["success"].as_f64().unwrap();
        assert!(of("success_interval", 0) <= success && success <= of("success_interval", 1));
        assert!(row["difference_bound"].as_f64().unwrap() >= of("difference_interval", 0));
        assert!(of("plan_ms", 0) > 0.0);
    }
    // Ten steps take longer than two, and codes are smaller than numbers.
    let time = |row: usize| rows[row]["plan_ms"][0].as_f64().unwrap();
    assert!(time(0) > time(1));
    assert!(rows[2]["bytes"].as_u64() < rows[0]["bytes"].as_u64());
    for file in ["success_by_steps.svg", "success_by_latency.svg"] {
        let drawn = std::fs::read_to_string(out.join(file)).unwrap();
        assert!(
            drawn.starts_with("<svg") && drawn.contains("teacher, ddim, int4"),
            "{file}"
        );
    }
    let csv = std::fs::read_to_string(out.join("table.csv")).unwrap();
    assert!(csv.contains("\"other \"\"solver\"\"\",ddpm,10,"), "{csv}");
    let columns: Vec<usize> = csv.lines().map(|line| line.matches(',').count()).collect();
    assert!(columns.iter().all(|it| *it == columns[0]), "{csv}");

    // Again: the same cells, untouched, and the times as they were.
    let cells = || {
        let mut files: Vec<_> = std::fs::read_dir(out.join("cells"))
            .unwrap()
            .map(|it| it.unwrap().path())
            .collect();
        files.sort();
        files
            .into_iter()
            .map(|path| std::fs::read(path).unwrap())
            .collect::<Vec<_>>()
    };
    let before = cells();
    succeeds(&[
        "eval", "policies", config, "--out", out_word, "--rounds", "0",
    ]);
    assert_eq!(cells(), before);
    // Evaluated anew, they are the same.
    let anew = folder.join("anew");
    succeeds(&[
        "eval",
        "policies",
        config,
        "--out",
        anew.to_str().unwrap(),
        "--rounds",
        "0",
    ]);
    let table_again: Value =
        serde_json::from_str(&std::fs::read_to_string(anew.join("table.json")).unwrap()).unwrap();
    for (a, b) in rows.iter().zip(table_again.as_array().unwrap()) {
        assert_eq!((&a["success"], &a["reward"]), (&b["success"], &b["reward"]));
    }
}

#[test]
fn a_table_that_cannot_be_made_is_an_error_that_names_the_key() {
    let folder = scratch("eval-errors");
    let config = folder.join("table.toml");
    let config_word = config.to_str().unwrap().to_owned();
    let out = folder.join("out");
    let policy = policy();
    let one = format!("[[contender]]\nname = \"a\"\npolicy = {policy:?}\n");
    let cases = [
        ("seed = 1\nepisodes = 0\n".to_owned() + &one, "`episodes`"),
        (
            "seed = 1\nepisodes = 2\ncontender = []\n".to_owned(),
            "`contender`",
        ),
        (
            format!("seed = 1\nepisodes = 2\n{one}{one}"),
            "`contender.name`",
        ),
        (
            format!("seed = 1\nepisodes = 2\n{one}solver = \"rk45\"\n"),
            "rk45",
        ),
        (
            format!("seed = 1\nepisodes = 2\n{one}precision = [\"int3\"]\n"),
            "int3",
        ),
        (format!("seed = 1\nepisodes = 2\n{one}steps = [0]\n"), "0"),
    ];
    for (text, said) in cases {
        std::fs::write(&config, text).unwrap();
        fails(
            &[
                "eval",
                "policies",
                &config_word,
                "--out",
                out.to_str().unwrap(),
            ],
            &[said],
        );
    }
}
