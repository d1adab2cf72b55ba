//! PushT looks like gym-pusht: the pictures that a camera policy sees are the same, from starts, from poses anywhere and
//! from the middle of rollouts, and so are the drawings that they are shrunk from.
//!
//! The goldens are recorded with PyPI's gym-pusht 0.1.8, pygame 2.6.1 and OpenCV 4.14.0; see `golden/pusht/README.md`.

use std::{fs, path::Path};

use clearway_sim::{
    PushT,
    pusht::{PICTURE_SIZE, Picture, SIZE},
};
use safetensors::SafeTensors;

/// What the project promises of a picture: the mean error of a channel, of 255.
const PROMISED_ERROR: f64 = 2.0;

/// What is reached with room for another platform, whose `sin` and `cos` may take a vertex across the border between
/// two pixels. On the recorder's all pictures are equal to the bit.
/// Where a level block is drawn a pixel of the drawing off, the mean error of the picture is 0.3.
const PICTURE_ERROR: f64 = 0.5;
/// The same, over all pictures.
const OVERALL_ERROR: f64 = 0.05;
/// The pixels of a drawing that may differ, for the same reason: 1014 do where a level block is a pixel off.
const DRAWING_PIXELS: usize = 1500;
/// The recorded poses with vertices within a rounding of the border between two pixels. All other pictures and drawings
/// are to be equal to the bit: nothing but the placing of vertices depends on the platform.
const LEVEL_POSES: usize = 8;

/// The width and height of a drawing: a pixel for each px of the world.
const DRAWING_SIZE: usize = SIZE as usize;

/// A golden file of safetensors.
struct Golden(Vec<u8>);

impl Golden {
    fn read(name: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("golden/pusht")
            .join(name);
        Self(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())))
    }

    /// A tensor's values, read `N` bytes at a time.
    fn values<const N: usize, T>(&self, name: &str, decode: fn([u8; N]) -> T) -> Vec<T> {
        let file = SafeTensors::deserialize(&self.0).expect("a safetensors file");
        let tensor = file.tensor(name).expect("a tensor of this name");
        let chunks = tensor.data().chunks_exact(N);
        chunks
            .map(|chunk| decode(chunk.try_into().expect("N bytes")))
            .collect()
    }

    /// A tensor of f64 whose last axis has `W` values.
    fn rows<const W: usize>(&self, name: &str) -> Vec<[f64; W]> {
        let values = self.values(name, f64::from_le_bytes);
        let rows = values.chunks_exact(W);
        rows.map(|row| row.try_into().expect("W values")).collect()
    }

    /// Square pictures of `size` pixels, from runs of pixels in one colour: the first on white, the others on the first.
    fn pictures(&self, name: &str, size: usize) -> Vec<Vec<u8>> {
        let tensor = |part: &str| format!("{name}.{part}");
        let counts = self.values(&tensor("runs"), u32::from_le_bytes);
        let firsts = self.values(&tensor("first"), u32::from_le_bytes);
        let lengths = self.values(&tensor("length"), u16::from_le_bytes);
        let colours = self.values(&tensor("colour"), |colour: [u8; 3]| colour);
        let mut runs = firsts.iter().zip(lengths).zip(colours);
        let mut pictures: Vec<Vec<u8>> = Vec::new();
        for count in counts {
            let background = pictures.first().cloned();
            let mut picture = background.unwrap_or_else(|| vec![255; size * size * 3]);
            for ((&first, length), colour) in runs.by_ref().take(count as usize) {
                let first = first as usize;
                for pixel in picture[3 * first..]
                    .chunks_exact_mut(3)
                    .take(usize::from(length))
                {
                    pixel.copy_from_slice(&colour);
                }
            }
            pictures.push(picture);
        }
        assert!(runs.next().is_none(), "every run belongs to a picture");
        pictures
    }
}

/// The recorded worlds: as reset for a seed, placed at a pose, and in the middle of a rollout.
fn worlds() -> Vec<PushT> {
    let golden = Golden::read("pictures.safetensors");
    let rollouts = Golden::read("rollouts.safetensors");
    let starts = rollouts.rows::<5>("start");
    let actions = rollouts.rows::<2>("action");
    let steps = actions.len() / starts.len();

    let seeds = golden.values("seed", u64::from_le_bytes);
    let poses = golden.rows::<5>("pose");
    let moments = golden.values("moment", u64::from_le_bytes);
    assert!(seeds.len() >= 30 && poses.len() >= 30 && moments.len() >= 80);

    let reset = seeds.into_iter().map(PushT::reset);
    let placed = poses.into_iter().map(|[agent_x, agent_y, block @ ..]| {
        PushT::at_pose([agent_x, agent_y], block).expect("a finite pose")
    });
    let replayed = moments.chunks_exact(2).map(|moment| {
        let [rollout, taken] = [moment[0] as usize, moment[1] as usize];
        let mut world = PushT::from_state(starts[rollout]).expect("a finite start");
        for &action in &actions[rollout * steps..][..taken] {
            world.step(action).expect("a finite action");
        }
        world
    });
    reset.chain(placed).chain(replayed).collect()
}

/// How two pictures differ.
#[derive(Debug, Clone, Copy, Default)]
struct Difference {
    /// Of a channel, of 255.
    mean: f64,
    largest: u8,
    pixels: usize,
}

fn difference(found: &Picture, expected: &[u8]) -> Difference {
    let found = found.bytes();
    assert_eq!(found.len(), expected.len());
    let errors = found.iter().zip(expected).map(|(a, b)| a.abs_diff(*b));
    let pixels = found.chunks_exact(3).zip(expected.chunks_exact(3));
    Difference {
        mean: errors.clone().map(f64::from).sum::<f64>() / expected.len() as f64,
        largest: errors.max().unwrap_or(0),
        pixels: pixels.filter(|(a, b)| a != b).count(),
    }
}

#[test]
fn pictures_are_gym_pushts() {
    const { assert!(PICTURE_ERROR <= PROMISED_ERROR) };
    let worlds = worlds();
    let golden = Golden::read("pictures.safetensors").pictures("picture", PICTURE_SIZE);
    let [background, expected @ ..] = golden.as_slice() else {
        panic!("the background is the first picture");
    };
    assert_eq!(worlds.len(), expected.len());
    assert!(worlds.len() >= 100);

    let mut equal = 0;
    let mut sum = 0.0;
    let mut largest = Difference::default();
    for (index, (world, expected)) in worlds.iter().zip(expected).enumerate() {
        let difference = difference(&world.picture(), expected);
        let state = world.state();
        assert!(
            difference.mean <= PICTURE_ERROR,
            "picture {index}, {state:?}: {difference:?}"
        );
        equal += usize::from(difference.largest == 0);
        sum += difference.mean;
        if difference.mean > largest.mean {
            largest = difference;
        }
    }
    let mean = sum / worlds.len() as f64;
    println!(
        "{} pictures, {equal} equal to the bit, mean error {mean:e}, worst {largest:?}",
        worlds.len()
    );
    assert!(mean <= OVERALL_ERROR, "{mean}");
    assert!(equal + LEVEL_POSES >= worlds.len(), "{equal}");

    // What the file has to show for the sentence to mean something.
    let touching = |at: fn(&PushT) -> usize| worlds.iter().filter(|world| at(world) > 0).count();
    let [by_agent, by_walls] = [
        touching(|world| world.contacts().agent),
        touching(|world| world.contacts().walls),
    ];
    assert!(by_agent >= 10 && by_walls >= 15, "{by_agent}, {by_walls}");
    assert!(expected.iter().all(|picture| picture != background));
}

#[test]
fn drawings_are_gym_pushts() {
    let worlds = worlds();
    let golden = Golden::read("pictures.safetensors");
    let drawn = golden.values("drawn", u64::from_le_bytes);
    let expected = golden.pictures("drawing", DRAWING_SIZE);
    assert_eq!(drawn.len() + 1, expected.len());
    assert!(drawn.len() >= 30);

    let mut equal = 0;
    let mut largest = Difference::default();
    for (&index, expected) in drawn.iter().zip(&expected[1..]) {
        let world = &worlds[index as usize];
        let difference = difference(&world.drawing(), expected);
        let state = world.state();
        assert!(
            difference.pixels <= DRAWING_PIXELS,
            "drawing {index}, {state:?}: {difference:?}"
        );
        equal += usize::from(difference.pixels == 0);
        if difference.pixels > largest.pixels {
            largest = difference;
        }
    }
    println!(
        "{} drawings, {equal} equal to the bit, worst {largest:?}",
        drawn.len()
    );
    assert!(equal + LEVEL_POSES >= drawn.len(), "{equal}");
}

#[test]
fn what_is_out_of_view_is_not_drawn() {
    let golden = Golden::read("pictures.safetensors");
    let far = -10_000.0;
    let world = PushT::at_pose([far, far], [far, far, 0.0]).expect("a finite pose");
    assert_eq!(
        world.picture().bytes(),
        golden.pictures("picture", PICTURE_SIZE)[0]
    );
    assert_eq!(
        world.drawing().bytes(),
        golden.pictures("drawing", DRAWING_SIZE)[0]
    );
}
