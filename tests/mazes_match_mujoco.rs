//! Maze2D is MuJoCo's: to 1e-12 where nothing is touched, and at the walls as far as its solver says.
//!
//! The goldens are recorded with PyPI's MuJoCo 3.17.0; see `golden/maze2d/README.md`.

use std::fs;
use std::path::Path;

use clearway_sim::{Layout, Maze2D};
use safetensors::SafeTensors;

/// A step is a few operations on numbers below 12.
const FREE_TOLERANCE: f64 = 1e-12;

/// A step in contact: MuJoCo's solver ends where an improvement of the cost is below 1e-8 of it, so that its forces of
/// some hundred newtons may be off by their millionth part; `h²/m` makes 1e-9 m and `h/m` 1e-7 m/s of a ten-thousandth.
const CONTACT_TOLERANCE: f64 = 1e-9;

/// A rollout of 3 s, walls included: errors neither grow in free space nor at a wall, which takes velocity out.
const ROLLOUT_TOLERANCE: f64 = 1e-8;

struct Golden {
    maze: Vec<Layout>,
    start: Vec<f64>,
    action: Vec<f64>,
    state: Vec<f64>,
    contacts: Vec<u8>,
    steps: usize,
}

impl Golden {
    fn read() -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden/maze2d/rollouts.safetensors");
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let file = SafeTensors::deserialize(&bytes).expect("a safetensors file");
        let tensor = |name: &str| file.tensor(name).expect("the README lists it");
        let numbers = |name: &str| -> Vec<f64> {
            let chunks = tensor(name).data().chunks_exact(8);
            let words = chunks.map(|chunk| chunk.try_into().expect("eight bytes"));
            words.map(f64::from_le_bytes).collect()
        };
        let maze = tensor("maze")
            .data()
            .iter()
            .map(|&it| Layout::ALL[usize::from(it)]);
        Self {
            maze: maze.collect(),
            start: numbers("start"),
            action: numbers("action"),
            state: numbers("state"),
            contacts: tensor("contacts").data().to_vec(),
            steps: tensor("contacts").shape()[1],
        }
    }

    fn state(&self, rollout: usize, step: usize) -> [f64; 4] {
        let at = 4 * (rollout * self.steps + step);
        self.state[at..at + 4].try_into().expect("four numbers")
    }

    /// Before a step.
    fn before(&self, rollout: usize, step: usize) -> [f64; 4] {
        match step.checked_sub(1) {
            Some(previous) => self.state(rollout, previous),
            None => self.start[4 * rollout..4 * rollout + 4]
                .try_into()
                .expect("four numbers"),
        }
    }

    fn action(&self, rollout: usize, step: usize) -> [f64; 2] {
        let at = 2 * (rollout * self.steps + step);
        self.action[at..at + 2].try_into().expect("two numbers")
    }
}

fn difference(one: [f64; 4], other: [f64; 4]) -> f64 {
    let pairs = one.iter().zip(other);
    pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f64::max)
}

#[test]
fn every_step_is_mujocos() {
    let golden = Golden::read();
    let (mut free, mut touching) = ((0, 0.0_f64), (0, 0.0_f64));
    for rollout in 0..golden.maze.len() {
        for step in 0..golden.steps {
            let before = golden.before(rollout, step);
            let mut world = Maze2D::at_state(golden.maze[rollout], before).expect("recorded");
            let touches = golden.contacts[rollout * golden.steps + step] > 0;
            assert_eq!(
                world.touches_wall(),
                touches,
                "rollout {rollout}, step {step}"
            );
            let seen = world.step(golden.action(rollout, step)).expect("recorded");
            let off = difference(seen.state(), golden.state(rollout, step));
            let kind = if touches { &mut touching } else { &mut free };
            *kind = (kind.0 + 1, kind.1.max(off));
        }
    }
    println!(
        "free: {} steps within {:.1e}; at walls: {} within {:.1e}",
        free.0, free.1, touching.0, touching.1
    );
    assert!(free.0 > 3000 && free.1 < FREE_TOLERANCE, "{free:?}");
    assert!(
        touching.0 > 3000 && touching.1 < CONTACT_TOLERANCE,
        "{touching:?}"
    );
}

#[test]
fn whole_rollouts_are_mujocos() {
    let golden = Golden::read();
    let mut worst = 0.0_f64;
    for rollout in 0..golden.maze.len() {
        let mut world =
            Maze2D::at_state(golden.maze[rollout], golden.before(rollout, 0)).expect("recorded");
        for step in 0..golden.steps {
            let seen = world.step(golden.action(rollout, step)).expect("recorded");
            worst = worst.max(difference(seen.state(), golden.state(rollout, step)));
        }
    }
    println!(
        "{} rollouts of {} steps within {worst:.1e}",
        golden.maze.len(),
        golden.steps
    );
    assert!(worst < ROLLOUT_TOLERANCE, "{worst}");
}
