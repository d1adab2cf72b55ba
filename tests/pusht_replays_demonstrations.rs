//! PushT replays the human demonstrations, and starts where gym-pusht starts its published evaluation.
//!
//! The data is a third party's and not part of the repository: `CLEARWAY_SHARED` names the folder that holds
//! `data/pusht_keypoints` and `data/pusht_eval_starts.json`; without it, `shared` beside the repository is tried.

use std::{
    fs::File,
    path::{Path, PathBuf},
};

use clearway_sim::PushT;
use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::{Field, Row},
};

/// An episode is replayed if it stays this close from the first frame to the last: px. The data is f32, and a state is
/// known to 3e-5 px.
const REPLAYED: f64 = 1e-3;

/// At least so many of the 206 episodes: the others start with the block in contact, and the impulse that it carried at
/// their first frame was not recorded.
const REPLAYED_EPISODES: usize = 180;

/// One rounding of a coordinate in f64, several times over.
const START_TOLERANCE: f64 = 1e-9;

/// The shared data, or nothing and a line that says so.
fn shared(file: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("CLEARWAY_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
        PathBuf::from,
    );
    let path = folder.join("data").join(file);
    if path.exists() {
        Some(path)
    } else {
        eprintln!(
            "skipped: {} is not there; set CLEARWAY_SHARED to the folder that holds data/",
            path.display()
        );
        None
    }
}

struct Frame {
    episode: i64,
    agent: [f64; 2],
    block: [f64; 3],
    action: [f64; 2],
}

fn numbers<const N: usize>(row: &Row, name: &str) -> [f64; N] {
    let field = row
        .get_column_iter()
        .find(|(column, _)| *column == name)
        .map(|(_, field)| field);
    let Some(Field::ListInternal(list)) = field else {
        panic!("{name}: a list, found {field:?}")
    };
    let values: Vec<f64> = list
        .elements()
        .iter()
        .map(|element| match element {
            Field::Float(value) => f64::from(*value),
            other => panic!("{name}: f32, found {other:?}"),
        })
        .collect();
    values.try_into().expect("a list of this length")
}

fn frames(path: &Path) -> Vec<Frame> {
    let file = SerializedFileReader::new(File::open(path).expect("readable")).expect("parquet");
    let rows = file.get_row_iter(None).expect("rows");
    rows.map(|row| {
        let row = row.expect("a row");
        let episode = row
            .get_column_iter()
            .find(|(name, _)| *name == "episode_index");
        let Some((_, Field::Long(episode))) = episode else {
            panic!("episode_index: i64")
        };
        Frame {
            episode: *episode,
            agent: numbers(&row, "observation.state"),
            block: numbers(&row, "observation.block_pose"),
            action: numbers(&row, "action"),
        }
    })
    .collect()
}

/// The largest distance of the agent or of a vertex of the block from where it was recorded: px. The vertices stand for
/// position and angle in one unit, and know nothing of 2π.
fn error(world: &PushT, frame: &Frame) -> f64 {
    let observation = world.observation();
    let recorded = PushT::at_pose(frame.agent, frame.block)
        .expect("finite")
        .observation();
    let points = observation.key_points.iter().zip(&recorded.key_points);
    let agents = observation.agent.iter().zip(&recorded.agent);
    points
        .chain(agents)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn demonstrations_replay_open_loop() {
    let Some(path) = shared("pusht_keypoints/data/chunk-000/file-000.parquet") else {
        return;
    };
    let frames = frames(&path);
    let episodes: Vec<&[Frame]> = frames.chunk_by(|a, b| a.episode == b.episode).collect();
    assert_eq!((frames.len(), episodes.len()), (25_650, 206));

    let mut errors: Vec<f64> = episodes
        .iter()
        .map(|episode| {
            let mut world = PushT::at_pose(episode[0].agent, episode[0].block).expect("finite");
            let mut largest: f64 = 0.0;
            for (now, next) in episode.iter().zip(&episode[1..]) {
                world.step(now.action).expect("finite");
                largest = largest.max(error(&world, next));
            }
            largest
        })
        .collect();
    errors.sort_by(f64::total_cmp);

    let within = |bound: f64| errors.iter().filter(|&&error| error < bound).count();
    println!(
        "{} of {} episodes within {REPLAYED} px, {} within 1 px; median {:.2e} px, largest {:.2e} px",
        within(REPLAYED),
        errors.len(),
        within(1.0),
        errors[errors.len() / 2],
        errors[errors.len() - 1],
    );
    assert!(
        within(REPLAYED) >= REPLAYED_EPISODES,
        "{} episodes",
        within(REPLAYED)
    );
}

#[test]
fn evaluation_starts_are_gym_pushts() {
    let Some(path) = shared("pusht_eval_starts.json") else {
        return;
    };
    let file = File::open(path).expect("readable");
    let starts: serde_json::Value = serde_json::from_reader(file).expect("JSON");
    let episodes = starts["episodes"].as_array().expect("episodes");
    assert_eq!(episodes.len(), 500);
    let mut largest: f64 = 0.0;
    for episode in episodes {
        let seed = episode["seed"].as_u64().expect("a seed");
        let five = |name: &str| -> [f64; 5] {
            serde_json::from_value(episode[name].clone()).expect("five numbers")
        };
        let drawn = PushT::reset(seed).observation().state();
        let placed = PushT::from_state(five("raw"))
            .expect("finite")
            .observation()
            .state();
        for (index, expected) in five("obs").into_iter().enumerate() {
            for found in [drawn[index], placed[index]] {
                let error = (found - expected).abs();
                assert!(
                    error < START_TOLERANCE,
                    "seed {seed}, number {index}: {found} for {expected}"
                );
                largest = largest.max(error);
            }
        }
    }
    println!("500 starts, largest error {largest:e}");
}
