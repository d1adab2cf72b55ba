//! An episode logged with these functions can be read back: every path on every timeline, and no socket was opened.

use std::collections::{BTreeMap, BTreeSet};
use std::f64::consts::{FRAC_PI_4, TAU};
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clearway_motion::{Interpolation, Trajectory};
use clearway_viz::rerun::external::re_log_encoding::DecoderApp;
use clearway_viz::rerun::log::{Chunk, LogMsg};
use clearway_viz::rerun::{RecordingStream, RecordingStreamResult, Scalars, StoreKind};
use clearway_viz::{self as viz, colour, timeline};
use ndarray::Array2;

/// The silhouette of PushT's T, in pixels in its own frame.
const SILHOUETTE: [[f64; 2]; 8] = [
    [-60.0, 0.0],
    [60.0, 0.0],
    [60.0, 30.0],
    [15.0, 30.0],
    [15.0, 120.0],
    [-15.0, 120.0],
    [-15.0, 30.0],
    [-60.0, 30.0],
];

const PERIOD: Duration = Duration::from_millis(100);
const STEPS: usize = 62;
const STEPS_A_PLAN: usize = 8;
const HORIZON: usize = 16;
const CANDIDATES: usize = 12;
const DENOISING_STEPS: usize = 10;

/// Where the agent is after `step` control steps: a sweep around the block.
fn agent(step: f64) -> [f64; 2] {
    let u = step / STEPS as f64;
    let angle = TAU * (0.62 * u - 0.12);
    let radius = 165.0 - 60.0 * u;
    [270.0 + radius * angle.cos(), 255.0 + radius * angle.sin()]
}

/// The `i`-th number of a sequence that looks random, in (−1, 1).
fn noise(i: usize) -> f64 {
    // Weyl's sequence of the golden ratio, bent by its own square.
    let x = i as f64 * 0.618_033_988_75;
    2.0 * (x * x * 0.1 + x).fract() - 1.0
}

/// A smooth deviation that starts at zero, and noise on top.
fn plan(step: usize, bend: f64, roughness: f64, seed: usize) -> Trajectory {
    let positions = Array2::from_shape_fn((HORIZON, 2), |(i, axis)| {
        let ahead = i as f64 / HORIZON as f64;
        let along = agent((step + i) as f64)[axis];
        let sideways = bend * ahead * ahead * [1.0, -0.6][axis];
        along + sideways + roughness * noise(7919 * seed + 2 * i + axis)
    });
    Trajectory::uniform(PERIOD * step as u32, PERIOD, positions, Interpolation::Hold)
        .expect("its positions are finite")
}

/// The first `steps` control steps.
fn log_episode(rec: &RecordingStream, steps: usize) -> RecordingStreamResult<()> {
    rec.log_static("world/walls", &viz::walls([5.0, 5.0], [506.0, 506.0]))?;
    rec.log_static("world/goal", &viz::goal(&[SILHOUETTE]))?;
    rec.log_static("world/goal", &viz::pose([256.0, 256.0], FRAC_PI_4))?;
    rec.log_static("world/goal/outline", &viz::goal_outline(&SILHOUETTE))?;
    rec.log_static("world/block", &viz::block(&[SILHOUETTE]))?;
    let coverage = viz::series("coverage", colour::COVERAGE);
    let threshold = viz::series("success", colour::REFERENCE);
    let latency = viz::events("latency", colour::PLAN);
    let deadline = viz::series("deadline", colour::REFERENCE);
    rec.log_static("metrics/score/coverage", &coverage)?;
    rec.log_static("metrics/score/threshold", &threshold)?;
    rec.log_static("metrics/latency/plan", &latency)?;
    rec.log_static("metrics/latency/deadline", &deadline)?;

    rec.set_time_sequence(timeline::DENOISING, 0);
    let mut denoised = 0_i64;
    let mut trail = Vec::new();
    for step in 0..steps {
        rec.set_duration_secs(timeline::CONTROL, (PERIOD * step as u32).as_secs_f64());
        rec.set_time_sequence(timeline::STEP, i64::try_from(step).expect("a few steps"));

        let done = step as f64 / STEPS as f64;
        let left = (1.0 - done).powi(2);
        let position = [256.0 + 110.0 * left, 256.0 - 95.0 * left];
        rec.log("world/block", &viz::pose(position, FRAC_PI_4 + 1.9 * left))?;
        let position = agent(step as f64);
        trail.push(position);
        rec.log("world/agent", &viz::agent(position, 15.0))?;
        rec.log("world/trail", &viz::trail(&trail))?;
        let coverage = 0.97 - 0.9 * left.sqrt() - 0.02 * (step as f64).sin();
        rec.log(
            "metrics/score/coverage",
            &Scalars::single(coverage.max(0.0)),
        )?;
        rec.log("metrics/score/threshold", &Scalars::single(0.95))?;
        rec.log("metrics/latency/deadline", &Scalars::single(100.0))?;

        if step % STEPS_A_PLAN == 0 {
            let estimates: Vec<Trajectory> = (0..DENOISING_STEPS)
                .map(|k| {
                    let left = 1.0 - k as f64 / (DENOISING_STEPS - 1) as f64;
                    plan(step, 90.0 * left, 90.0 * left * left, 1)
                })
                .collect();
            for (k, estimate) in estimates.iter().enumerate() {
                rec.set_time_sequence(timeline::DENOISING, denoised);
                denoised += 1;
                rec.log(
                    "denoising/estimate",
                    &viz::denoised(estimate, k, DENOISING_STEPS),
                )?;
            }
            rec.log("denoising/steps", &viz::denoising(&estimates))?;

            let spread = |i: usize| 22.0 * (i as f64 - (CANDIDATES - 1) as f64 / 2.0);
            let plans: Vec<Trajectory> = (0..CANDIDATES)
                .map(|i| plan(step, spread(i), 1.0, i))
                .collect();
            let chosen = CANDIDATES / 2;
            rec.log("plan/candidates", &viz::candidates(&plans, Some(chosen)))?;
            let latency = 61.0 + 14.0 * noise(step);
            rec.log("metrics/latency/plan", &Scalars::single(latency))?;
            let title = format!(
                "plan {}: candidate {chosen} of {CANDIDATES}",
                step / STEPS_A_PLAN
            );
            let record = viz::decision(
                &title,
                &[
                    ("outcome", "complete"),
                    ("steps", "10 of 10"),
                    ("latency", &format!("{latency:.1} ms")),
                    ("limits", "kept"),
                ],
            );
            rec.log("decision", &record)?;
        }
    }
    Ok(())
}

/// A path below cargo's folder for the files of tests, so that the recording can be looked at afterwards.
fn recording(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// The timelines of each entity path of the recording, without the blueprint; static data have none.
fn read(path: &Path) -> BTreeMap<String, BTreeSet<String>> {
    let file = BufReader::new(File::open(path).expect("the recording was written"));
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for message in DecoderApp::decode_lazy(file) {
        let LogMsg::ArrowMsg(store, message) = message.expect("the recording is complete") else {
            continue;
        };
        if store.kind() != StoreKind::Recording {
            continue;
        }
        let chunk = Chunk::from_arrow_msg(&message).expect("it is a chunk");
        let timelines = chunk.timelines().keys().map(ToString::to_string);
        found
            .entry(chunk.entity_path().to_string())
            .or_default()
            .extend(timelines);
    }
    found
}

#[test]
fn every_path_is_on_every_timeline() {
    let path = recording("episode.rrd");
    let rec = viz::save("clearway_pusht", &path, viz::pusht_blueprint()).expect("it is writable");
    log_episode(&rec, STEPS).expect("it is logged");
    drop(rec);

    let found = read(&path);
    let all = [timeline::CONTROL, timeline::DENOISING, timeline::STEP].map(String::from);
    for path in [
        "/world/block",
        "/world/agent",
        "/world/trail",
        "/plan/candidates",
        "/denoising/estimate",
        "/denoising/steps",
        "/metrics/score/coverage",
        "/metrics/score/threshold",
        "/metrics/latency/plan",
        "/metrics/latency/deadline",
        "/decision",
    ] {
        // No wall clock among them: `log_time` is off.
        assert_eq!(found.get(path), Some(&all.clone().into()), "{path}");
    }
    for path in ["/world/walls", "/world/goal", "/world/goal/outline"] {
        assert_eq!(found.get(path), Some(&BTreeSet::new()), "{path}");
    }
}

#[test]
fn the_layout_travels_with_the_recording() {
    let path = recording("layout.rrd");
    let rec = viz::save("clearway_pusht", &path, viz::pusht_blueprint()).expect("it is writable");
    log_episode(&rec, STEPS / 2).expect("it is logged");
    drop(rec);

    let file = BufReader::new(File::open(&path).expect("the recording was written"));
    let activated = DecoderApp::decode_lazy(file).any(|message| {
        let message = message.expect("the recording is complete");
        matches!(message, LogMsg::BlueprintActivationCommand(command) if command.make_active)
    });
    assert!(activated);
}

/// Linux lists the open files of a process, its sockets among them.
#[cfg(target_os = "linux")]
#[test]
fn saving_opens_no_socket() {
    let sockets = || -> BTreeSet<PathBuf> {
        std::fs::read_dir("/proc/self/fd")
            .expect("proc is mounted")
            .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok())
            .filter(|target| target.to_string_lossy().starts_with("socket:"))
            .collect()
    };
    let before = sockets();
    let rec = viz::save(
        "clearway_pusht",
        recording("quiet.rrd"),
        viz::pusht_blueprint(),
    )
    .expect("it is writable");
    log_episode(&rec, STEPS).expect("it is logged");
    rec.flush_blocking().expect("it is written");
    assert_eq!(sockets(), before);
}
