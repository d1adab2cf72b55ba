//! PushT: an agent pushes a T-shaped block onto a T-shaped target.
//!
//! An exact port of gym-pusht 0.1.8 on pymunk 6.6.0 (Chipmunk 7.0.3): the same resets for a seed, the same physics with
//! wall contacts, the same coverage.
//! The task is that of Florence et al., "Implicit Behavioral Cloning", 2021, arXiv:2109.00137, in the version of Chi et
//! al., "Diffusion Policy: Visuomotor Policy Learning via Action Diffusion", 2023, arXiv:2303.04137.
//!
//! # Units and frame
//!
//! Pixels, with x to the right and y **down**; radians from x towards y (clockwise as drawn); seconds.
//! The world is 512 px square. The walls' inner faces are at 7 and 504 px.
//!
//! # Physics
//!
//! - The agent is a disc of radius 15 px that nothing stops, neither a wall nor the block. An action is the position it
//!   is to take, held for 0.1 s; in each of the ten substeps of 0.01 s
//!
//!   ```text
//!   velocity += (100 · (action − position) − 20 · velocity) · 0.01
//!   ```
//!
//! - The block is two boxes, in its own frame `[-60, 60] × [0, 30]` and `[-15, 15] × [30, 120]`, of mass 1 and moment of
//!   inertia 3000 about `(0, 45)`.
//! - There is no friction, no bounce, no gravity, and all velocity is lost in every substep.
//!
//! # Pictures
//!
//! [`PushT::picture`] is what a camera policy sees, gym-pusht's `pixels`: a drawing of 512 × 512 pixels, shrunk to
//! 96 × 96. It shows the target, the block, the agent, the walls, and a red stroke at each point of contact.

mod broad_phase;
mod canvas;
mod coverage;
mod narrow_phase;
mod picture;
mod shape;
mod space;
mod tee;
mod vector;

use std::f64::consts::TAU;

pub use picture::{PICTURE_SIZE, Picture};
pub use space::Contacts;

use crate::{SimError, numpy::Generator};
use coverage::{GOAL, coverage};
use space::{DT, Space};
use tee::Pose;
use vector::Vector;

/// The width and height of the world, and of the square that actions are meant to be in: px.
pub const SIZE: f64 = 512.0;

/// The published episode's limit, in actions. A [`PushT`] itself has no limit: the evaluation stops.
pub const EPISODE_STEPS: usize = 300;

/// The time between two actions: s.
pub const CONTROL_PERIOD: f64 = 0.1;

/// The target's pose: origin x and y in px, angle in rad.
pub const TARGET: [f64; 3] = GOAL;

/// The coverage beyond which the task is solved.
pub const SUCCESS_COVERAGE: f64 = 0.95;

/// The radius of the agent: px.
pub const AGENT_RADIUS: f64 = space::AGENT_RADIUS;

/// The centre lines of the four walls are at these two x and y: px.
pub const WALLS: [f64; 2] = [5.0, 506.0];

/// The outline of the T in the block's own frame, in order: px.
pub const SILHOUETTE: [[f64; 2]; 8] = [
    [-60.0, 0.0],
    [60.0, 0.0],
    [60.0, 30.0],
    [15.0, 30.0],
    [15.0, 120.0],
    [-15.0, 120.0],
    [-15.0, 30.0],
    [-60.0, 30.0],
];

/// The largest magnitude of a coordinate or angle that is accepted, px or rad. It is far outside of the task; within
/// it the physics cannot overflow.
pub const LIMIT: f64 = 1e6;

/// Substeps an action.
const SUBSTEPS: usize = 10;

/// Stiffness and damping of the agent's controller: 1/s² and 1/s.
const STIFFNESS: f64 = 100.0;
const DAMPING: f64 = 20.0;

/// What can be seen of the world, and how well it is solved.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub struct Observation {
    /// The agent's centre x, y: px.
    pub agent: [f64; 2],
    /// The block's origin x, y in px (the middle of the bar's outer edge) and its angle in rad, modulo 2π as Python
    /// reduces it: in `[0, 2π]`, because a tiny negative angle rounds up.
    pub block: [f64; 3],
    /// The block's eight vertices x, y, ..., bar first, then stem: px. gym-pusht's `environment_state`.
    pub key_points: [f64; 16],
    /// The share of the target that the block covers, in [0, 1].
    pub coverage: f64,
    /// `coverage / 0.95`, at most 1.
    pub reward: f64,
    /// Whether the coverage exceeds 0.95, which ends gym-pusht's episode. (gym-pusht's reset reports `False` whatever
    /// the coverage; this does not.)
    pub succeeded: bool,
}

impl Observation {
    /// Agent x, y, block x, y and angle: gym-pusht's `state` observation.
    pub fn state(&self) -> [f64; 5] {
        let ([agent_x, agent_y], [x, y, angle]) = (self.agent, self.block);
        [agent_x, agent_y, x, y, angle]
    }
}

/// The PushT world.
///
/// A value: cloning it forks the simulation, contacts and all, and a clone replays to the same bits. No call allocates
/// but those that draw.
///
/// ```
/// use clearway_sim::PushT;
///
/// // Place the block, push it from the left.
/// let mut world = PushT::at_pose([150.0, 300.0], [256.0, 256.0, 0.0])?;
/// for _ in 0..20 {
///     world.step([250.0, 300.0])?;
/// }
/// assert!(world.observation().block[0] > 256.0);
///
/// let error = world.step([f64::NAN, 0.0]).unwrap_err();
/// assert_eq!(error.to_string(), "action x must be finite and within ±1000000, but is NaN");
/// # Ok::<(), clearway_sim::SimError>(())
/// ```
#[derive(Debug, Clone)]
pub struct PushT {
    space: Space,
    steps: usize,
}

impl PushT {
    /// The start that gym-pusht 0.1.8 draws for `seed`.
    ///
    /// ```text
    /// agent x, y ∈ {50, ..., 449},   block x, y ∈ {100, ..., 399},   angle ∈ [-π, π)
    /// ```
    ///
    /// The draws are those of `numpy.random.Generator(PCG64(SeedSequence(seed)))`; then as [`PushT::from_state`].
    pub fn reset(seed: u64) -> Self {
        let mut draw = Generator::new(seed);
        let agent = [(); 2].map(|()| f64::from(draw.integers(50, 400)));
        let block = [(); 2].map(|()| f64::from(draw.integers(100, 300)));
        Self::turned_in_place(agent, block, draw.angle())
    }

    /// The world that gym-pusht's `reset(options={"reset_to_state": state})` makes of agent x, y, block x, y and angle.
    ///
    /// It is not the state that was given: gym-pusht sets the position of the upright block first and turns it about
    /// its centre of mass afterwards, which moves its origin, and then takes one physics step.
    /// To place a block where it is to be, use [`PushT::at_pose`].
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for a number that is not finite or exceeds [`LIMIT`].
    pub fn from_state(state: [f64; 5]) -> Result<Self, SimError> {
        let [agent_x, agent_y, x, y, angle] = check_state(state)?;
        Ok(Self::turned_in_place([agent_x, agent_y], [x, y], angle))
    }

    /// The agent at rest at `agent`, the block's origin and angle exactly at `block`, and no physics step: for replaying
    /// a recorded episode from one of its frames.
    ///
    /// What a frame does not hold is taken to be nothing: the agent's velocity and the impulses of contacts.
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for a number that is not finite or exceeds [`LIMIT`].
    pub fn at_pose(agent: [f64; 2], block: [f64; 3]) -> Result<Self, SimError> {
        let [agent_x, agent_y, x, y, angle] =
            check_state([agent[0], agent[1], block[0], block[1], block[2]])?;
        let pose = Pose::from_origin(Vector::new(x, y), angle);
        Ok(Self {
            space: Space::new(Vector::new(agent_x, agent_y), pose),
            steps: 0,
        })
    }

    fn turned_in_place(agent: [f64; 2], block: [f64; 2], angle: f64) -> Self {
        let pose = Pose::turned_in_place(block.into(), angle);
        let mut space = Space::new(agent.into(), pose);
        space.step();
        Self { space, steps: 0 }
    }

    /// Moves the agent towards `action`, x and y in px, for 0.1 s.
    ///
    /// Actions outside of the `[0, 512]` square are taken as they are, as gym-pusht takes them; clip them if the policy
    /// is to be held to its action space.
    ///
    /// # Errors
    ///
    /// [`SimError::OutOfRange`] for a number that is not finite or exceeds [`LIMIT`]: a policy that has diverged is to
    /// be noticed, not to be followed. The world is unchanged.
    pub fn step(&mut self, action: [f64; 2]) -> Result<Observation, SimError> {
        check("action x", action[0])?;
        check("action y", action[1])?;
        let target = Vector::from(action);
        for _ in 0..SUBSTEPS {
            let space = &mut self.space;
            let acceleration = (target - space.agent) * STIFFNESS
                + (Vector::ZERO - space.agent_velocity) * DAMPING;
            space.agent_velocity += acceleration * DT;
            space.step();
        }
        self.steps += 1;
        Ok(self.observation())
    }

    /// What can be seen now.
    pub fn observation(&self) -> Observation {
        let coverage = self.coverage();
        let Pose { origin, angle, .. } = self.space.block;
        Observation {
            agent: self.space.agent.into(),
            block: [origin.x, origin.y, angle.rem_euclid(TAU)],
            key_points: self.space.block.key_points(),
            coverage,
            reward: (coverage / SUCCESS_COVERAGE).clamp(0.0, 1.0),
            succeeded: coverage > SUCCESS_COVERAGE,
        }
    }

    /// What a camera policy sees now, gym-pusht's `pixels` observation: RGB of 96 × 96 pixels.
    ///
    /// ```
    /// use clearway_sim::PushT;
    ///
    /// let picture = PushT::reset(100_000).picture();
    /// assert_eq!((picture.width(), picture.height()), (96, 96));
    /// // Height × width × channels, as a policy's preprocessing takes it.
    /// assert_eq!(picture.bytes().len(), 96 * 96 * 3);
    /// assert_eq!(picture.bytes()[..3], [255, 255, 255]);
    /// ```
    pub fn picture(&self) -> Picture {
        self.drawing().shrunk()
    }

    /// The drawing that [`PushT::picture`] is shrunk from: RGB of 512 × 512 pixels, one for each px of the world.
    pub fn drawing(&self) -> Picture {
        picture::drawing(&self.space)
    }

    /// Agent x, y, block x, y and the angle as the physics holds it, which counts turns: px and rad.
    pub fn state(&self) -> [f64; 5] {
        let Space { agent, block, .. } = &self.space;
        [
            agent.x,
            agent.y,
            block.origin.x,
            block.origin.y,
            block.angle,
        ]
    }

    /// `area(target ∩ block) / area(target)`, in [0, 1].
    pub fn coverage(&self) -> f64 {
        coverage(&self.space.block)
    }

    /// Whether the coverage exceeds [`SUCCESS_COVERAGE`] now.
    pub fn succeeded(&self) -> bool {
        self.coverage() > SUCCESS_COVERAGE
    }

    /// The actions taken since the start.
    pub fn steps(&self) -> usize {
        self.steps
    }

    /// The points at which the block was touched in the last substep.
    pub fn contacts(&self) -> Contacts {
        self.space.contacts()
    }
}

fn check_state(state: [f64; 5]) -> Result<[f64; 5], SimError> {
    let names = ["agent x", "agent y", "block x", "block y", "block angle"];
    for (quantity, value) in names.into_iter().zip(state) {
        check(quantity, value)?;
    }
    Ok(state)
}

fn check(quantity: &'static str, value: f64) -> Result<(), SimError> {
    if value.abs() <= LIMIT {
        Ok(())
    } else {
        Err(SimError::OutOfRange {
            quantity,
            value,
            limit: LIMIT,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A few roundings of a coordinate.
    const ROUNDING: f64 = 1e-12;

    #[test]
    fn the_target_pose_is_success() {
        let mut world = PushT::at_pose([100.0, 400.0], TARGET).expect("finite");
        assert!((world.coverage() - 1.0).abs() < ROUNDING && world.succeeded());
        let observation = world.step([100.0, 400.0]).expect("finite");
        assert!(observation.succeeded);
        assert!((observation.reward - 1.0).abs() < ROUNDING);
        assert_eq!(world.steps(), 1);
    }

    #[test]
    fn a_pose_is_kept_and_a_state_is_turned_about_the_centre_of_mass() {
        let block = [200.0, 180.0, 1.0];
        let placed = PushT::at_pose([450.0, 450.0], block)
            .expect("finite")
            .observation();
        for (found, expected) in placed.block.into_iter().zip(block) {
            assert!(
                (found - expected).abs() < ROUNDING,
                "{found} for {expected}"
            );
        }
        // gym-pusht's own documentation: this state is observed as 57.866196, 50.686398.
        let turned = PushT::from_state([0.0, 10.0, 20.0, 30.0, 1.0]).expect("finite");
        let [_, _, x, y, _] = turned.state();
        assert!(
            (x - 57.866_196).abs() < 1e-4 && (y - 50.686_398).abs() < 1e-4,
            "{x}, {y}"
        );
    }

    #[test]
    fn the_key_points_are_the_tee() {
        let world =
            PushT::at_pose([0.0, 0.0], [100.0, 50.0, std::f64::consts::FRAC_PI_2]).expect("finite");
        // A quarter turn takes (x, y) to (-y, x).
        let expected = [
            100.0, -10.0, 100.0, 110.0, 70.0, 110.0, 70.0, -10.0, //
            70.0, 35.0, 70.0, 65.0, -20.0, 65.0, -20.0, 35.0,
        ];
        for (found, expected) in world.observation().key_points.into_iter().zip(expected) {
            assert!(
                (found - expected).abs() < ROUNDING,
                "{found} for {expected}"
            );
        }
    }

    #[test]
    fn a_clone_goes_on_to_the_same_bits() {
        let mut world = PushT::reset(5);
        let push = |world: &mut PushT, step: usize| {
            let [_, _, x, y, _] = world.state();
            let offset = if step % 20 < 10 { 40.0 } else { -40.0 };
            world.step([x + offset, y + 45.0]).expect("finite")
        };
        for step in 0..40 {
            push(&mut world, step);
        }
        assert_ne!(
            world.contacts(),
            Contacts::default(),
            "the fork is to carry impulses"
        );
        let mut fork = world.clone();
        for step in 40..80 {
            assert_eq!(push(&mut world, step), push(&mut fork, step));
        }
        // Placing the same pose is another start: the impulses and the agent's velocity are gone.
        let Observation { agent, block, .. } = world.observation();
        let mut placed = PushT::at_pose(agent, block).expect("finite");
        assert_ne!(push(&mut placed, 80), push(&mut world, 80));
    }

    #[test]
    fn what_is_not_a_number_or_far_out_is_refused_and_changes_nothing() {
        let mut world = PushT::reset(0);
        let before = world.state();
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 2.0 * LIMIT] {
            for (place, action) in [[bad, 0.0], [0.0, bad]].into_iter().enumerate() {
                let Err(SimError::OutOfRange {
                    quantity, limit, ..
                }) = world.step(action)
                else {
                    panic!("{action:?} was taken");
                };
                assert_eq!((quantity, limit), (["action x", "action y"][place], LIMIT));
            }
            for place in 0..5 {
                let mut state = [0.0; 5];
                state[place] = bad;
                let [agent_x, agent_y, block @ ..] = state;
                assert!(PushT::from_state(state).is_err());
                assert!(PushT::at_pose([agent_x, agent_y], block).is_err());
            }
        }
        assert_eq!((world.state(), world.steps()), (before, 0));
    }

    #[test]
    fn the_wildest_accepted_numbers_stay_finite() {
        for corner in 0..32_u8 {
            let sign = |bit: u8| {
                if corner >> bit & 1 == 1 {
                    LIMIT
                } else {
                    -LIMIT
                }
            };
            let starts = [
                [sign(0), sign(1), sign(2), sign(3), sign(4)],
                [sign(0), sign(1), 256.0, 256.0, sign(4)],
                [256.0, 300.0, 256.0, 256.0, sign(4)],
            ];
            for start in starts {
                let mut world = PushT::from_state(start).expect("within the limit");
                for step in 0..100 {
                    let [_, _, x, y, _] = world.state();
                    let chase = [x, y].map(|value| value.clamp(-LIMIT, LIMIT));
                    let action = if step % 3 == 0 {
                        [sign(2), sign(3)]
                    } else {
                        chase
                    };
                    let observation = world.step(action).expect("within the limit");
                    let numbers = observation
                        .key_points
                        .into_iter()
                        .chain(observation.state());
                    assert!(
                        numbers.chain([observation.coverage]).all(f64::is_finite),
                        "{start:?}"
                    );
                }
            }
        }
    }
}
