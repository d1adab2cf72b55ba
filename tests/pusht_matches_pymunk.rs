//! PushT is gym-pusht's: the same starts for a seed, the same rollouts, wall contacts included, and the same coverage.
//!
//! The goldens are recorded with PyPI's gym-pusht 0.1.8 on pymunk 6.6.0; see `golden/pusht/README.md`.

use std::{collections::HashMap, fs, path::Path};

use clearway_sim::{
    PushT,
    pusht::{Contacts, Observation, SUCCESS_COVERAGE},
};
use safetensors::{Dtype, SafeTensors};

/// A start is drawn, turned and moved by one substep: a few roundings of numbers below 512. It is equal to the bit where
/// the platform's `sin` and `cos` are the recorder's.
const START_TOLERANCE: f64 = 1e-9;

/// What the project promises of a rollout, px and rad: far below what a policy or a reader of a score could notice.
const PROMISED_TOLERANCE: f64 = 1e-2;

/// What is reached with room for another platform: on the recorder's the error is 0, because the same sums are made in
/// the same order; with every cosine off by one unit in the last place it is 5.4e-8 px.
const ROLLOUT_TOLERANCE: f64 = 1e-6;

/// GEOS and our clipping round differently, on areas of 6300 px².
const COVERAGE_TOLERANCE: f64 = 1e-9;

/// The columns of a golden file, as f64.
struct Golden {
    columns: HashMap<String, (Vec<usize>, Vec<f64>)>,
    /// The seeds, which f64 cannot hold.
    seeds: Vec<u64>,
}

impl Golden {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden/pusht")
            .join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let mut golden = Self {
            columns: HashMap::new(),
            seeds: Vec::new(),
        };
        for (name, view) in file.tensors() {
            let words = |bytes: &[u8]| -> [u8; 8] { bytes.try_into().expect("eight bytes") };
            let chunks = view.data().chunks_exact(8);
            let values = match view.dtype() {
                Dtype::F64 => chunks
                    .map(|chunk| f64::from_le_bytes(words(chunk)))
                    .collect(),
                Dtype::U8 => view.data().iter().map(|&byte| f64::from(byte)).collect(),
                Dtype::U64 => {
                    golden.seeds = chunks
                        .map(|chunk| u64::from_le_bytes(words(chunk)))
                        .collect();
                    continue;
                }
                other => panic!("{name}: unexpected {other:?}"),
            };
            golden.columns.insert(name, (view.shape().to_vec(), values));
        }
        golden
    }

    /// Row `index` of the column, where all axes but the last are rows.
    fn row(&self, name: &str, index: usize) -> &[f64] {
        let (shape, values) = &self.columns[name];
        let width = *shape.last().expect("an axis");
        &values[index * width..(index + 1) * width]
    }

    /// Value `index` of the column, flattened.
    fn value(&self, name: &str, index: usize) -> f64 {
        self.columns[name].1[index]
    }

    fn shape(&self, name: &str) -> &[usize] {
        &self.columns[name].0
    }
}

fn array<const N: usize>(row: &[f64]) -> [f64; N] {
    row.try_into().expect("a row of this width")
}

fn distance(found: &[f64], expected: &[f64]) -> f64 {
    assert_eq!(found.len(), expected.len());
    found
        .iter()
        .zip(expected)
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

#[test]
fn starts_are_gym_pushts() {
    let golden = Golden::read("starts.safetensors");
    assert!(golden.seeds.len() >= 40);
    assert!(golden.seeds.contains(&u64::MAX));
    let mut largest: f64 = 0.0;
    for (index, &seed) in golden.seeds.iter().enumerate() {
        let world = PushT::reset(seed);
        let observation = world.observation();
        let error = f64::max(
            distance(&observation.state(), golden.row("observation", index)),
            distance(&observation.key_points, golden.row("key_points", index)),
        );
        assert!(error < START_TOLERANCE, "seed {seed}: {error:e} px");
        assert_eq!(world.steps(), 0);
        largest = largest.max(error);
    }
    println!(
        "{} starts, largest error {largest:e} px",
        golden.seeds.len()
    );
}

#[test]
fn rollouts_are_pymunks_with_and_without_walls() {
    const { assert!(ROLLOUT_TOLERANCE <= PROMISED_TOLERANCE) };
    let golden = Golden::read("rollouts.safetensors");
    let [rollouts, steps, _] = *golden.shape("action") else {
        panic!("rollouts × steps × 2")
    };
    assert!(rollouts >= 60 && steps >= 150);

    // Errors and steps before any wall was touched, and from then on.
    let mut largest = [0.0_f64; 2];
    let mut counted = [0; 2];
    let mut with_walls = 0;
    let mut most_contacts = 0;
    for rollout in 0..rollouts {
        let start = array(golden.row("start", rollout));
        let mut world = PushT::from_state(start).expect("a finite start");
        let recorded = |step| golden.row("state", rollout * (steps + 1) + step);
        let error = distance(&world.state(), recorded(0));
        assert!(
            error < START_TOLERANCE,
            "rollout {rollout}, start: {error:e} px"
        );
        let mut touched = false;
        for step in 0..steps {
            let row = rollout * steps + step;
            let observation = world
                .step(array(golden.row("action", row)))
                .expect("a finite action");
            let error = distance(&world.state(), recorded(step + 1));
            assert!(
                error < ROLLOUT_TOLERANCE,
                "rollout {rollout}, step {step}: {error:e} px"
            );

            let Contacts { walls, .. } = world.contacts();
            let expected = golden.value("wall_contacts", row) as usize;
            assert_eq!(
                walls, expected,
                "rollout {rollout}, step {step}: contacts with walls"
            );
            touched |= walls > 0;
            most_contacts = most_contacts.max(walls);
            largest[usize::from(touched)] = largest[usize::from(touched)].max(error);
            counted[usize::from(touched)] += 1;

            let Observation {
                coverage,
                reward,
                succeeded,
                ..
            } = observation;
            let expected = golden.value("coverage", row);
            assert!(
                (coverage - expected).abs() < COVERAGE_TOLERANCE,
                "rollout {rollout}, step {step}"
            );
            assert!(
                (reward - golden.value("reward", row)).abs()
                    < COVERAGE_TOLERANCE / SUCCESS_COVERAGE
            );
            assert_eq!(succeeded, expected > SUCCESS_COVERAGE);
        }
        with_walls += usize::from(touched);
    }
    println!(
        "{rollouts} rollouts: {:e} px over {} steps before any wall, {:e} px over {} steps from the first wall on \
         ({with_walls} rollouts, up to {most_contacts} contacts with walls at once)",
        largest[0], counted[0], largest[1], counted[1],
    );
    // What the file has to show for the sentence to mean something.
    assert!(with_walls >= 30 && counted[0] >= 2_000 && counted[1] >= 4_000);
    assert!(most_contacts >= 5, "corners and both boxes at a time");
}

#[test]
fn coverage_is_shapelys() {
    let golden = Golden::read("coverage.safetensors");
    let count = golden.shape("pose")[0];
    assert!(count >= 400);
    let mut largest: f64 = 0.0;
    let mut partial = 0;
    for index in 0..count {
        // The recorder sets the angle first, so that the pose is the block's own.
        let world = PushT::at_pose([0.0, 0.0], array(golden.row("pose", index))).expect("finite");
        let expected = golden.value("coverage", index);
        let error = (world.coverage() - expected).abs();
        assert!(error < COVERAGE_TOLERANCE, "pose {index}: {error:e}");
        largest = largest.max(error);
        partial += usize::from(expected > 0.01 && expected < 0.99);
    }
    assert!(partial >= 150, "poses that overlap in part: {partial}");
    println!("{count} poses, largest error {largest:e}");
}
