//! Maze2D: a ball is pushed through a maze to a target.
//!
//! A port of D4RL's `maze2d-umaze-v1`, `-medium-v1` and `-large-v1`: Fu et al., "D4RL: Datasets for Deep Data-Driven
//! Reinforcement Learning", 2020, arXiv:2004.07219. The physics is MuJoCo's, in closed form; it is compared with rollouts
//! of MuJoCo 3.17, contacts included.
//!
//! # Units and frame
//!
//! Metres, seconds, kilograms. A position is D4RL's `qpos`. Its target for the cell in row `i` and column `j` is `(i, j)`,
//! but the walls are cubes of 1 m around `(i − 0.2, j − 0.2)`: D4RL's particle starts at (1.2, 1.2) of a world whose walls
//! are centred at `(i + 1, j + 1)`. So a ball that is where it is told to be is a fifth of a metre off the middle of the way.
//!
//! # Physics
//!
//! A sphere of radius 0.1 m and 1000 kg/m³, mass `m` = 4.18879 kg, on two slides with damping 1, pushed by motors of gear
//! 100, without friction or gravity; `h` = 0.01 s. Before each step velocities are clipped to ±5 m/s.
//!
//! ```text
//! m v' = m v + h (100 u − v' + contacts),     q' = q + h v'           u clipped to [-1, 1]
//! ```
//!
//! A wall is a soft contact of MuJoCo's: it acts from 2 mm before it touches, and gives way by some tenths of a millimetre
//! under the motors' full force. With the distance `d` less the 2 mm, the normal `n`, and the impedance `ι(|d|)` that rises
//! from 0.9 to 0.95 within a millimetre, the accelerations `a` are those of the convex problem
//!
//! ```text
//! min ½ m |a − (100 u − v)/m|² + Σ ½ Dᵢ max(0, rᵢ − nᵢ·a)²
//! rᵢ = −B nᵢ·v − K ι dᵢ,   Dᵢ = m ι/(1 − ι),   B = 2/(0.95 · 0.02),   K = 1/(0.95 · 0.02)²
//! ```
//!
//! which is solved exactly: in two coordinates it has few active sets. Todorov, "Convex and Analytically-Invertible
//! Dynamics with Contacts and Constraints: Theory and Implementation in MuJoCo", 2014, ICRA, and MuJoCo's documentation,
//! "Computation", "Constraint model".

mod contact;
mod expert;
mod layout;
mod map;

use crate::{SimError, numpy::Generator};

pub use expert::{Expert, Frame, WaypointController, expert, tracking_action};
pub use layout::Layout;
pub use map::{Map, MapError};

/// The time between two actions: s.
pub const CONTROL_PERIOD: f64 = 0.01;

/// The radius of the ball: m.
pub const RADIUS: f64 = 0.1;

/// Its mass: kg, `4/3 π r³ · 1000`.
pub const MASS: f64 = 4.188_790_204_786_391;

/// The force of a motor at an action of 1: N.
pub const GEAR: f64 = 100.0;

/// The largest speed along an axis with which a step begins: m/s.
pub const MAX_SPEED: f64 = 5.0;

/// Within this distance of the target a step is rewarded: m.
pub const SUCCESS_RADIUS: f64 = 0.5;

/// Where the map's first cell begins, in x and in y: m.
pub const ORIGIN: f64 = contact::ORIGIN;

/// The damping of the slides: N s/m.
const DAMPING: f64 = 1.0;

/// The largest magnitude of a coordinate that is accepted: m or m/s. It is far outside of every maze.
pub const LIMIT: f64 = 1e6;

/// What can be seen of the world.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// `qpos`, x and y: m.
    pub position: [f64; 2],
    /// `qvel`: m/s.
    pub velocity: [f64; 2],
    /// 1 within 0.5 m of the target, else 0: D4RL's sparse reward. A reset has none and says 0.
    pub reward: f64,
}

impl Observation {
    /// x, y and their velocities: D4RL's observation.
    pub fn state(&self) -> [f64; 4] {
        let ([x, y], [u, v]) = (self.position, self.velocity);
        [x, y, u, v]
    }
}

/// The Maze2D world.
///
/// A value: cloning it forks the simulation. A step does not allocate.
///
/// ```
/// use clearway_sim::{Layout, Maze2D};
///
/// let mut world = Maze2D::reset(Layout::U, 7);
/// let mut total = 0.0;
/// for _ in 0..Layout::U.episode_steps() {
///     total += world.step([-1.0, 0.0])?.reward;
/// }
/// assert!(Layout::U.normalized_score(total).is_finite());
/// # Ok::<(), clearway_sim::SimError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Maze2D {
    layout: Layout,
    position: [f64; 2],
    velocity: [f64; 2],
    target: [f64; 2],
    reward: f64,
    steps: usize,
}

impl Maze2D {
    /// A start as D4RL draws it, with the target at the maze's own goal.
    ///
    /// ```text
    /// position = a free cell + U(−0.1, 0.1),   velocity = 0.1 · N(0, 1)
    /// ```
    ///
    /// The distribution is D4RL's, the draws are not: its generator is that of an old gym.
    pub fn reset(layout: Layout, seed: u64) -> Self {
        let mut draw = Generator::new(seed);
        Self::drawn(layout, &mut draw)
    }

    /// A start as [`Maze2D::reset`], with a target that is drawn from the free cells too, + U(−0.1, 0.1): the multi-task
    /// setting of Diffuser.
    ///
    /// Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis", 2022, arXiv:2205.09991, section 5.1.
    pub fn reset_with_random_target(layout: Layout, seed: u64) -> Self {
        let mut draw = Generator::new(seed);
        let mut world = Self::drawn(layout, &mut draw);
        world.target = layout.draw_cell(&mut draw);
        world
    }

    fn drawn(layout: Layout, draw: &mut Generator) -> Self {
        let position = layout.draw_cell(draw);
        let velocity = [(); 2].map(|()| 0.1 * draw.normal());
        Self {
            layout,
            position,
            velocity,
            target: layout.goal(),
            reward: 0.0,
            steps: 0,
        }
    }

    /// The world at a state x, y and their velocities, with the maze's own target.
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for a number that is not finite or exceeds [`LIMIT`].
    pub fn at_state(layout: Layout, state: [f64; 4]) -> Result<Self, SimError> {
        let [x, y, u, v] = check(["x", "y", "velocity in x", "velocity in y"], state)?;
        Ok(Self {
            layout,
            position: [x, y],
            velocity: [u, v],
            target: layout.goal(),
            reward: 0.0,
            steps: 0,
        })
    }

    /// The same world with another target.
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for a number that is not finite or exceeds [`LIMIT`].
    pub fn with_target(mut self, target: [f64; 2]) -> Result<Self, SimError> {
        self.target = check(["target x", "target y"], target)?;
        Ok(self)
    }

    /// Pushes for 0.01 s with an action in [-1, 1]² (what is beyond is clipped), and returns what is seen then.
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for an action that is not finite or exceeds [`LIMIT`]; the world is unchanged.
    pub fn step(&mut self, action: [f64; 2]) -> Result<Observation, SimError> {
        let action = check(["action x", "action y"], action)?;
        let velocity = self.velocity.map(|v| v.clamp(-MAX_SPEED, MAX_SPEED));
        let mut force = [0.0; 2];
        for j in 0..2 {
            force[j] = GEAR * action[j].clamp(-1.0, 1.0) - DAMPING * velocity[j];
        }
        let pushed = contact::force(self.layout, self.position, velocity, force);
        for j in 0..2 {
            let acceleration = (force[j] + pushed[j]) / (MASS + CONTROL_PERIOD * DAMPING);
            self.velocity[j] = velocity[j] + CONTROL_PERIOD * acceleration;
            self.position[j] += CONTROL_PERIOD * self.velocity[j];
        }
        self.steps += 1;
        self.reward = f64::from(u8::from(self.succeeded()));
        Ok(self.observation())
    }

    /// What is seen now.
    pub fn observation(&self) -> Observation {
        Observation {
            position: self.position,
            velocity: self.velocity,
            reward: self.reward,
        }
    }

    /// Whether the ball is within 0.5 m of the target. D4RL's episode does not end there.
    pub fn succeeded(&self) -> bool {
        let [x, y] = [0, 1].map(|j: usize| self.position[j] - self.target[j]);
        (x * x + y * y).sqrt() <= SUCCESS_RADIUS
    }

    /// Whether the ball feels a wall: it is nearer than 2 mm.
    pub fn touches_wall(&self) -> bool {
        contact::contacts(self.layout, self.position)
            .next()
            .is_some()
    }

    /// Where the ball is to go: m.
    pub fn target(&self) -> [f64; 2] {
        self.target
    }

    /// The maze.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// How many actions it took.
    pub fn steps(&self) -> usize {
        self.steps
    }
}

fn check<const N: usize>(
    quantities: [&'static str; N],
    values: [f64; N],
) -> Result<[f64; N], SimError> {
    for (quantity, value) in quantities.into_iter().zip(values) {
        if !(value.is_finite() && value.abs() <= LIMIT) {
            return Err(SimError::OutOfRange {
                quantity,
                value,
                limit: LIMIT,
            });
        }
    }
    Ok(values)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_step_from_rest_is_the_one_on_paper() {
        let mut world = Maze2D::at_state(Layout::U, [3.0, 2.0, 0.0, 0.0]).expect("finite");
        let seen = world.step([0.0, 1.0]).expect("finite");
        // v' = h 100 / (m + h), q' = q + h v'.
        let expected = 1.0 / (MASS + 0.01);
        assert!((seen.velocity[1] - expected).abs() < 1e-15);
        assert!((seen.velocity[1] - 0.238_163_84).abs() < 1e-8);
        assert!((seen.position[1] - 2.0 - 0.002_381_638_4).abs() < 1e-10);
    }

    #[test]
    fn what_is_no_number_is_refused_and_changes_nothing() {
        let mut world = Maze2D::reset(Layout::Large, 3);
        let before = world.clone();
        let error = world.step([0.0, f64::NAN]).expect_err("no number");
        assert_eq!(
            error.to_string(),
            "action y must be finite and within ±1000000, but is NaN"
        );
        assert_eq!(world, before);
        assert!(Maze2D::at_state(Layout::U, [0.0, 0.0, 2e6, 0.0]).is_err());
        assert!(world.with_target([f64::INFINITY, 0.0]).is_err());
    }

    #[test]
    fn classical_planners_find_every_way() {
        use clearway_motion::{FreeSpace, GridSearch, RrtConnect, shortcut};
        for layout in Layout::ALL {
            let (scene, limits) = (
                layout.scene().expect("a map"),
                layout.limits().expect("valid"),
            );
            let body = layout.body().expect("a disc");
            let free = FreeSpace::new(&body, &scene, &limits).expect("two coordinates");
            for seed in 0..20 {
                let world = Maze2D::reset_with_random_target(layout, seed);
                let trees = RrtConnect {
                    step: 0.5,
                    ..RrtConnect::default()
                };
                let path = trees.plan(&free, &world.position, &world.target, seed);
                let path = shortcut(&free, &path.expect("there is a way"), 100, seed);
                let search = GridSearch {
                    cell: 0.1,
                    ..GridSearch::default()
                };
                let searched = search.plan(&free, &world.position, &world.target);
                let searched = searched.expect("there is a way");
                for path in [&path, &searched] {
                    assert_eq!(free.check_path(path), Ok(()));
                }
                // In these mazes ways around a block differ, and trees find either.
                assert!(searched.length() < 1.1 * path.length(), "{layout:?} {seed}");
            }
        }
    }

    #[test]
    fn resets_are_free_and_spread_over_the_cells() {
        for layout in Layout::ALL {
            let mut seen = std::collections::BTreeSet::new();
            for seed in 0..2000 {
                let world = Maze2D::reset_with_random_target(layout, seed);
                for [x, y] in [world.position, world.target] {
                    let cell = [x.round(), y.round()];
                    assert!((x - cell[0]).abs() <= 0.1 && (y - cell[1]).abs() <= 0.1);
                    assert!(!layout.is_wall(cell[0] as usize, cell[1] as usize));
                    seen.insert(cell.map(|it| it as usize));
                }
                assert!(!world.touches_wall());
            }
            assert_eq!(seen.len(), layout.free_cells().len());
        }
    }
}
