//! A dataset is read as LeRobot reads it: values, windows, what is repeated, what begins a window, statistics. And a broken
//! one is named by file and row.
//!
//! `tests/golden/lerobot/record_dataset.py` wrote the datasets and recorded LeRobot's windows.

use std::path::{Path, PathBuf};

use clearway_layers::Weights;
use clearway_planner::dataset::{Dataset, Statistics, Version, Window};
use clearway_tests::{repository, shared};
use tempfile::TempDir;

const FEATURES: [(&str, usize); 3] = [
    ("observation.state", 2),
    ("observation.environment_state", 3),
    ("action", 2),
];
const LENGTHS: [usize; 4] = [5, 12, 9, 1];
const FRAMES: usize = 27;
/// As in the program that recorded.
const PAST: usize = 3;
const HORIZON: usize = 8;
const DROPPED: usize = 4;

/// Of numbers of about ten: LeRobot computes them in f32 and in running sums.
const STATISTIC: f64 = 1e-5;

fn golden(path: &str) -> PathBuf {
    repository("tests/golden/lerobot").join(path)
}

fn names() -> Vec<&'static str> {
    FEATURES.map(|(name, _)| name).into()
}

#[test]
fn windows_are_lerobots() {
    for (folder, version) in [("dataset_v30", Version::V30), ("dataset_v21", Version::V21)] {
        let dataset = Dataset::open(&golden(folder), &names()).expect("a dataset");
        assert_eq!(dataset.info().version, version);
        assert_eq!(dataset.len(), FRAMES);
        let lengths: Vec<usize> = dataset
            .episodes()
            .iter()
            .map(ExactSizeIterator::len)
            .collect();
        assert_eq!(lengths, LENGTHS);
        let mut recorded = Weights::open(&golden("windows.safetensors")).expect("recorded");
        let frames = recorded.integers("frames").expect("recorded");
        let found: Vec<i64> = dataset
            .frames(&[0, 1, 2, 3], DROPPED)
            .into_iter()
            .map(|frame| frame as i64)
            .collect();
        assert_eq!(found, frames);
        for (name, len) in FEATURES {
            let window = if name == "action" {
                Window::actions(PAST, HORIZON)
            } else {
                Window::observations(PAST)
            };
            let (mut values, mut repeated) = (Vec::new(), Vec::new());
            for frame in 0..FRAMES {
                for (at, is_repeated) in window.around(&dataset, frame) {
                    let row = dataset.get(name, at).expect("asked for");
                    values.extend(row.iter().map(|&x| x as f32));
                    repeated.push(if is_repeated { 1.0 } else { 0.0 });
                }
            }
            let steps = repeated.len() / FRAMES;
            let expected = recorded.values(name, &[FRAMES, steps, len]);
            assert_eq!(values, expected.expect("recorded"), "{folder}: {name}");
            if name != "observation.environment_state" {
                let expected = recorded.values(&format!("{name}_is_pad"), &[FRAMES, steps]);
                assert_eq!(repeated, expected.expect("recorded"), "{folder}: {name}");
            }
            // Of version 2.1 there is no file of statistics: they are computed.
            let statistics = dataset.statistics(name).expect("asked for");
            for statistic in ["min", "max", "mean", "std"] {
                let expected = recorded.values(&format!("{name}.{statistic}"), &[len]);
                let found = statistics.get(statistic).expect("kept or computed");
                for (expected, found) in expected.expect("recorded").into_iter().zip(found) {
                    assert!(
                        (f64::from(expected) - found).abs() < STATISTIC,
                        "{folder}: {statistic} of {name}: {found}, not {expected}"
                    );
                }
            }
        }
        recorded.finish().expect("nothing else was recorded");
    }
}

#[test]
fn human_demonstrations_are_read() {
    let Some(path) = shared("data/pusht_keypoints") else {
        return;
    };
    let dataset = Dataset::open(&path, &names()).expect("a dataset");
    assert_eq!((dataset.len(), dataset.episodes().len()), (25_650, 206));
    let all: Vec<usize> = (0..206).collect();
    // Those that LeRobot trained on, with its seven last frames dropped.
    assert_eq!(dataset.frames(&all, 7).len(), 24_208);
    for (name, len) in [
        ("observation.state", 2),
        ("observation.environment_state", 16),
        ("action", 2),
    ] {
        let computed = Statistics::of(dataset.values(name).expect("asked for"), len);
        let kept = dataset.statistics(name).expect("asked for");
        for statistic in ["min", "max", "mean", "std"] {
            let pairs = computed.get(statistic).expect("computed").iter();
            for (computed, kept) in pairs.zip(kept.get(statistic).expect("kept")) {
                let error = (computed - kept).abs();
                assert!(error < 1e-3, "{statistic} of {name}: {computed} {kept}");
            }
        }
    }
}

/// A copy of the dataset of version 3.0, to be broken.
fn copy() -> TempDir {
    copy_of("dataset_v30")
}

fn copy_of(name: &str) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).expect("a folder");
        for entry in std::fs::read_dir(from).expect("a folder") {
            let path = entry.expect("an entry").path();
            let to = to.join(path.file_name().expect("a name"));
            if path.is_dir() {
                copy(&path, &to);
            } else {
                std::fs::copy(&path, &to).expect("copied");
            }
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    copy(&golden(name), folder.path());
    folder
}

#[track_caller]
fn fails(folder: &Path, said: &[&str]) {
    let error = Dataset::open(folder, &names()).expect_err("a broken dataset");
    let error = error.to_string();
    for word in said {
        assert!(error.contains(word), "does not say `{word}`: {error}");
    }
}

const TABLE: &str = "data/chunk-000/file-000.parquet";

#[test]
fn a_broken_row_is_named() {
    for (name, said) in [
        ("nan", &[TABLE, "row 11", "`action`", "NaN", "index 1"][..]),
        ("null", &[TABLE, "row 11", "`action`", "lacks the value 0"]),
        ("gap", &[TABLE, "row 11", "`action`", "lacks the value 0"]),
        (
            "short",
            &[TABLE, "row 11", "`action`", "has 1 values, not 2"],
        ),
        ("text", &[TABLE, "`action`", "BYTE_ARRAY"]),
        (
            "frame",
            &[
                TABLE,
                "row 11",
                "`frame_index`",
                "is 99 where 6 is expected",
            ],
        ),
        ("rows", &[TABLE, "26 rows", "27 frames"]),
        ("column", &[TABLE, "`action`", "missing"]),
    ] {
        let folder = copy();
        let broken = golden("broken").join(format!("{name}.parquet"));
        std::fs::copy(broken, folder.path().join(TABLE)).expect("copied");
        fails(folder.path(), said);
    }
}

#[test]
fn a_broken_file_is_named() {
    let table = std::fs::read(golden("dataset_v30").join(TABLE)).expect("readable");
    for end in (0..table.len()).step_by(97) {
        let folder = copy();
        std::fs::write(folder.path().join(TABLE), &table[..end]).expect("written");
        fails(folder.path(), &[TABLE]);
    }
    let folder = copy();
    std::fs::remove_file(folder.path().join(TABLE)).expect("removed");
    fails(folder.path(), &[TABLE, "cannot be read"]);
    for (file, from, to, said) in [
        (
            "meta/info.json",
            "\"total_frames\": 27",
            "\"total_frames\": 28",
            &["28 frames", "27 together"][..],
        ),
        (
            "meta/info.json",
            "\"total_episodes\": 4",
            "\"total_episodes\": 5",
            &["5 episodes", "meta/episodes"],
        ),
        ("meta/info.json", "v3.0", "v1.6", &["v1.6"]),
        (
            "meta/info.json",
            "\"fps\": 10",
            "\"fps\": -1",
            &["meta/info.json", "`fps`", "-1"],
        ),
        ("meta/info.json", "data/chunk", "../chunk", &["`data_path`"]),
        ("meta/info.json", "{", "", &["meta/info.json", "JSON"]),
    ] {
        let folder = copy();
        let path = folder.path().join(file);
        let text = std::fs::read_to_string(&path).expect("readable");
        assert!(text.contains(from), "{file} has no `{from}`");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
        fails(folder.path(), said);
    }
    let folder = copy_of("dataset_v21");
    let lines = "{\"episode_index\": 0, \"length\": 18446744073709551615}\n".to_owned();
    let path = folder.path().join("meta/episodes.jsonl");
    std::fs::write(&path, lines.clone() + &lines).expect("written");
    fails(
        folder.path(),
        &["meta/episodes.jsonl, line 1", "18446744073709551615"],
    );
    let error = Dataset::open(&golden("dataset_v30"), &["observation.images.top"]);
    let error = error.expect_err("no such feature").to_string();
    assert!(error.contains("`observation.images.top`") && error.contains("`action`"));
}

/// A bit that is wrong somewhere is an error that names the file, or not seen; never a panic.
#[test]
fn a_broken_bit_is_no_panic() {
    let folder = copy();
    let mut errors = 0;
    for file in [TABLE, "meta/episodes/chunk-000/file-000.parquet"] {
        let path = folder.path().join(file);
        let good = std::fs::read(&path).expect("readable");
        // The footer of a Parquet file lies at its end, and is what says how to read the rest.
        let footer = good.len().saturating_sub(6000);
        for at in (0..footer)
            .step_by(97)
            .chain((footer..good.len()).step_by(13))
        {
            for bit in [0, 6] {
                let mut bad = good.clone();
                bad[at] ^= 1 << bit;
                std::fs::write(&path, bad).expect("written");
                if let Err(error) = Dataset::open(folder.path(), &names()) {
                    let error = error.to_string();
                    assert!(
                        error.contains("parquet") || error.contains("meta/"),
                        "{error}"
                    );
                    errors += 1;
                }
            }
        }
        std::fs::write(&path, good).expect("written");
    }
    assert!(errors > 100, "{errors}");
    Dataset::open(folder.path(), &names()).expect("whole again");
}

#[test]
fn pictures_are_refused() {
    let folder = copy();
    let path = folder.path().join("meta/info.json");
    let text = std::fs::read_to_string(&path).expect("readable");
    let mut info: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    info["features"]["action"]["dtype"] = "video".into();
    std::fs::write(&path, info.to_string()).expect("written");
    fails(folder.path(), &["`action`", "`video`", "not supported"]);
}
