//! Clutter: a point robot among discs and boxes in the plane.
//!
//! The planar worlds of Motion Planning Diffusion: Carvalho, Le, Baierl, Koert and Peters, "Motion Planning Diffusion:
//! Learning and Planning of Robot Motions with Diffusion Models", 2023, arXiv:2308.01557. Obstacles, added obstacles, the
//! sampling of problems, and its metrics.
//!
//! # Units and frame
//!
//! Metres in [-1, 1]², seconds. The robot is a disc of 0.02 m whose positions are within [-1, 1]² and whose speed is at
//! most 5 m/s in each coordinate. Boxes have their corners rounded by 0.15 of their shorter edge, as there.

mod metrics;
mod obstacles;

use std::time::Duration;

use clearway_motion::{
    Blocked, FreeSpace, Interpolation, Limits, LimitsError, Optimizer, Path, PathError, RrtConnect,
    Scene, SceneError, Trajectory, Translating, shortcut,
};

use crate::numpy::Generator;

pub use metrics::Metrics;
pub use obstacles::{Environment, Outline};

/// The radius of the robot: m.
pub const RADIUS: f64 = 0.02;

/// The largest speed in each coordinate: m/s.
pub const MAX_SPEED: f64 = 5.0;

/// Start and goal are farther than this from each other: m.
pub const SEPARATION: f64 = 1.0;

/// Waypoints of a demonstration.
pub const WAYPOINTS: usize = 64;

/// The time that a demonstration takes: s.
pub const DURATION: Duration = Duration::from_secs(5);

/// What demonstrations and problems keep from obstacles beyond contact: m.
pub const MARGIN: f64 = 0.02;

/// Attempts to draw an end before a world counts as full.
const DRAWS: usize = 100_000;

/// A world to plan in: obstacles, and the robot among them.
///
/// ```
/// use clearway_sim::{Clutter, Environment};
///
/// let world = Clutter::new(Environment::Dense)?;
/// let problem = world.problem(3).expect("it has room");
/// let path = world.expert(&problem, 3)?;
/// assert_eq!(path.len(), 64);
/// assert!(world.free_space()?.check_trajectory(&path).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Clutter {
    scene: Scene,
    outlines: Vec<Outline>,
    body: Translating,
    limits: Limits,
}

/// Where to go from where, x and y: m.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Problem {
    /// The start.
    pub start: [f64; 2],
    /// The goal.
    pub goal: [f64; 2],
}

impl Clutter {
    /// A published world.
    ///
    /// # Errors
    ///
    /// None for the published numbers; the constructors check.
    pub fn new(environment: Environment) -> Result<Self, ClutterError> {
        Self::with_outlines(environment.outlines())
    }

    /// A published world with the obstacles that its authors add to show what was never seen in training.
    ///
    /// # Errors
    ///
    /// None for the published numbers; the constructors check.
    pub fn with_published_additions(environment: Environment) -> Result<Self, ClutterError> {
        let mut outlines = environment.outlines();
        outlines.extend(environment.additions());
        Self::with_outlines(outlines)
    }

    /// A published world with `count` obstacles more, drawn from the seed: never seen in training.
    ///
    /// Each is a disc with a radius of U(0.05, 0.1) or a box with edges of U(0.1, 0.2), at U(−0.9, 0.9)².
    ///
    /// # Errors
    ///
    /// None; the constructors check.
    pub fn with_random_additions(
        environment: Environment,
        count: usize,
        seed: u64,
    ) -> Result<Self, ClutterError> {
        let mut draw = Generator::new(seed);
        let mut outlines = environment.outlines();
        outlines.extend((0..count).map(|_| obstacles::drawn(&mut draw)));
        Self::with_outlines(outlines)
    }

    /// The robot among obstacles of one's own.
    ///
    /// # Errors
    ///
    /// If an outline's numbers are no obstacle.
    pub fn with_outlines(outlines: Vec<Outline>) -> Result<Self, ClutterError> {
        let limits = Limits::unlimited(2)
            .with_position(&[-1.0; 2], &[1.0; 2])?
            .with_velocity(&[MAX_SPEED; 2])?;
        let obstacles = outlines.iter().map(|it| it.obstacle());
        Ok(Self {
            scene: obstacles.collect::<Result<_, _>>()?,
            outlines,
            body: Translating::disc(RADIUS)?,
            limits,
        })
    }

    /// The obstacles by their numbers, in the order of the scene.
    pub fn outlines(&self) -> &[Outline] {
        &self.outlines
    }

    /// The obstacles.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Where the robot can be.
    ///
    /// # Errors
    ///
    /// None; its body and its limits have two coordinates.
    pub fn free_space(&self) -> Result<FreeSpace<'_>, Blocked> {
        FreeSpace::new(&self.body, &self.scene, &self.limits)
    }

    /// A start and a goal of the seed, uniform where it is free with [`MARGIN`], and more than [`SEPARATION`] from each
    /// other. `None` where there is no room for them.
    ///
    /// There may be no way between the two.
    pub fn problem(&self, seed: u64) -> Option<Problem> {
        let free = self.free_space().ok()?.with_margin(MARGIN);
        let mut draw = Generator::new(seed);
        for _ in 0..DRAWS {
            let mut drawn = || [(); 2].map(|()| draw.uniform(-1.0, 1.0));
            let problem = Problem {
                start: drawn(),
                goal: drawn(),
            };
            let [x, y] = [0, 1].map(|j: usize| problem.goal[j] - problem.start[j]);
            let apart = (x * x + y * y).sqrt() > SEPARATION;
            if apart && free.check(&problem.start).is_ok() && free.check(&problem.goal).is_ok() {
                return Some(problem);
            }
        }
        None
    }

    /// A demonstration: RRT-Connect, shortcuts, and an optimizer, at [`WAYPOINTS`] equal times over [`DURATION`].
    ///
    /// It keeps [`MARGIN`] where there is a way that does, and its straight segments are proven free in any case. One seed
    /// of a problem is one demonstration; other seeds may go other ways. Where the optimizer does not get free, the
    /// shortened path itself is the demonstration, at [`WAYPOINTS`] places that keep its corners as nearly as it takes.
    ///
    /// # Errors
    ///
    /// See [`PathError`].
    pub fn expert(&self, problem: &Problem, seed: u64) -> Result<Trajectory, ClutterError> {
        let free = self.free_space()?;
        let careful = free.with_margin(MARGIN);
        let planned = plan(&careful, problem, seed).or_else(|_| plan(&free, problem, seed))?;
        let period = DURATION / (WAYPOINTS as u32 - 1);
        let rows = planned.waypoints().to_owned();
        let path = Trajectory::uniform(Duration::ZERO, period, rows, Interpolation::Linear)?;
        Ok(path)
    }

    /// The way of the classical planner alone: RRT-Connect with shortcuts.
    ///
    /// # Errors
    ///
    /// See [`PathError`].
    pub fn classical(&self, problem: &Problem, seed: u64) -> Result<Path, ClutterError> {
        let free = self.free_space()?;
        let path = RrtConnect::default().plan(&free, &problem.start, &problem.goal, seed)?;
        Ok(shortcut(&free, &path, SHORTCUTS, seed))
    }
}

/// Attempts to shorten a way.
const SHORTCUTS: usize = 100;

fn plan(free: &FreeSpace, problem: &Problem, seed: u64) -> Result<Path, PathError> {
    let path = RrtConnect::default().plan(free, &problem.start, &problem.goal, seed)?;
    let short = shortcut(free, &path, SHORTCUTS, seed);
    let optimizer = Optimizer {
        waypoints: WAYPOINTS,
        ..Optimizer::default()
    };
    optimizer.optimize(free, &short).or_else(|error| {
        // Evenly spaced waypoints cut corners; more reserve does not help where there is no room.
        let even = short.resampled(WAYPOINTS);
        free.check_path(&even).map(|()| even).map_err(|_| error)
    })
}

/// Why a world or a demonstration is not there.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ClutterError {
    /// Numbers that are no obstacle.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// Numbers that are no limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Numbers that are no robot.
    #[error(transparent)]
    Body(#[from] clearway_motion::BodyError),
    /// A robot and limits that do not fit.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No way.
    #[error(transparent)]
    Path(#[from] PathError),
    /// Numbers that are no trajectory.
    #[error(transparent)]
    Trajectory(#[from] clearway_motion::TrajectoryError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worlds_have_the_published_obstacles() {
        let count = |environment: Environment| {
            let additions = environment.additions().len();
            (environment.outlines().len(), additions)
        };
        assert_eq!(count(Environment::Simple), (15, 12));
        assert_eq!(count(Environment::Dense), (16 + 14, 7));
        assert_eq!(count(Environment::NarrowPassage), (8 + 9 + 2, 14));
        // In the middle of the passage, 0.0625 from either wall: they end at ±(0.55 − 0.4875).
        let world = Clutter::new(Environment::NarrowPassage).expect("published");
        let free = world.free_space().expect("two coordinates");
        assert!((free.clearance(&[0.0, 0.0]) - (0.0625 - RADIUS)).abs() < 1e-12);
    }

    #[test]
    fn experts_solve_what_is_drawn() {
        for environment in Environment::ALL {
            let mut solved = 0;
            for seed in 0..50 {
                let world = Clutter::with_random_additions(environment, 5, seed).expect("drawn");
                let problem = world.problem(seed).expect("it has room");
                let free = world.free_space().expect("two coordinates");
                match world.expert(&problem, seed) {
                    Ok(path) => {
                        assert_eq!(free.check_trajectory(&path), Ok(()));
                        assert_eq!(path.duration(), (DURATION / 63) * 63);
                        let ends = [0, WAYPOINTS - 1].map(|i| path.positions().row(i).to_vec());
                        assert_eq!(ends, [problem.start.to_vec(), problem.goal.to_vec()]);
                        solved += 1;
                    }
                    Err(ClutterError::Path(error)) => assert!(error.blocked().is_some()),
                    Err(error) => panic!("{error}"),
                }
            }
            // Added obstacles close some ways.
            assert!(solved >= 40, "{environment:?}: {solved}");
        }
    }

    #[test]
    fn the_same_seed_is_the_same_problem_and_way() {
        let world = Clutter::new(Environment::Dense).expect("published");
        let problem = world.problem(11).expect("it has room");
        assert_eq!(world.problem(11), Some(problem));
        assert_ne!(world.problem(12), Some(problem));
        assert_eq!(world.expert(&problem, 1), world.expert(&problem, 1));
    }
}
