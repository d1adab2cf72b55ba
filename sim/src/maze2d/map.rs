//! A maze as a planner sees it.

use clearway_motion::{
    Blocked, BodyError, FreeSpace, GridSearch, Limits, LimitsError, Optimizer, Path, PathError,
    Scene, SceneError, Translating,
};

use super::Layout;
use crate::clutter::Problem;
use crate::numpy::Generator;

/// What ways and problems keep from walls beyond contact: m. A ball that follows a way swerves from it by some centimetres.
const MARGIN: f64 = 0.05;

/// Start and goal of a drawn problem are farther than this from each other: m.
const SEPARATION: f64 = 1.0;

/// Waypoints of a way.
const WAYPOINTS: usize = 64;

/// The cells of the search for the shortest way: m.
const CELL: f64 = 0.1;

/// Attempts to draw an end before a map counts as full.
const DRAWS: usize = 100_000;

/// A maze as a planner sees it: walls, the ball, and what its motors can do.
///
/// ```
/// use clearway_sim::{Layout, maze2d::Map};
///
/// let map = Map::new(Layout::Large)?;
/// let problem = map.problem(5).expect("it has room");
/// let way = map.way(&problem)?;
/// assert_eq!(way.len(), 64);
/// assert!(map.free_space()?.check_path(&way).is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone)]
pub struct Map {
    scene: Scene,
    body: Translating,
    limits: Limits,
}

impl Map {
    /// The map of a maze.
    ///
    /// # Errors
    ///
    /// None of the three mazes has one; the constructors check.
    pub fn new(layout: Layout) -> Result<Self, MapError> {
        Ok(Self {
            scene: layout.scene()?,
            body: layout.body()?,
            limits: layout.limits()?,
        })
    }

    /// The same with other bounds, for plans that leave something for whoever follows them.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// The walls.
    pub fn scene(&self) -> &Scene {
        &self.scene
    }

    /// Where the ball can be.
    ///
    /// # Errors
    ///
    /// None; the ball and its limits have two coordinates.
    pub fn free_space(&self) -> Result<FreeSpace<'_>, Blocked> {
        FreeSpace::new(&self.body, &self.scene, &self.limits)
    }

    /// A start and a goal of the seed, uniform where the ball is 5 cm from the walls, and more than a metre from each other.
    /// `None` where there is no room for them.
    pub fn problem(&self, seed: u64) -> Option<Problem> {
        let free = self.free_space().ok()?.with_margin(MARGIN);
        let limits = free.limits();
        let mut draw = Generator::new(seed);
        for _ in 0..DRAWS {
            let mut drawn =
                || [0, 1].map(|j: usize| draw.uniform(limits.lower()[j], limits.upper()[j]));
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

    /// The shortest way at a tenth of a metre, smoothed: a grid search and an optimizer, 64 waypoints at about equal
    /// distances that keep 5 cm from the walls where both ends do.
    ///
    /// # Errors
    ///
    /// See [`PathError`].
    pub fn way(&self, problem: &Problem) -> Result<Path, MapError> {
        let free = self.free_space()?;
        let careful = free.with_margin(MARGIN);
        Ok(way(&careful, problem).or_else(|_| way(&free, problem))?)
    }
}

fn way(free: &FreeSpace, problem: &Problem) -> Result<Path, PathError> {
    let search = GridSearch {
        cell: CELL,
        ..GridSearch::default()
    };
    let path = search.plan(free, &problem.start, &problem.goal)?;
    let optimizer = Optimizer {
        waypoints: WAYPOINTS,
        reserve: 0.1,
        // Ways are ten times as long as those that the default is for.
        collision: 1e5,
        ..Optimizer::default()
    };
    optimizer.optimize(free, &path)
}

/// Why a map or a way is not there.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum MapError {
    /// Numbers that are no walls.
    #[error(transparent)]
    Scene(#[from] SceneError),
    /// Numbers that are no limits.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// Numbers that are no ball.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// A ball and limits that do not fit.
    #[error(transparent)]
    Blocked(#[from] Blocked),
    /// No way.
    #[error(transparent)]
    Path(#[from] PathError),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_are_found_in_every_maze_and_turn_around_the_walls() {
        for layout in Layout::ALL {
            let map = Map::new(layout).expect("published");
            let free = map.free_space().expect("two coordinates");
            for seed in 0..20 {
                let problem = map.problem(seed).expect("it has room");
                let way = map.way(&problem).expect("all cells are connected");
                assert_eq!(free.check_path(&way), Ok(()));
                let rows = way.waypoints();
                assert_eq!(rows.row(0).to_vec(), problem.start);
                assert_eq!(rows.row(63).to_vec(), problem.goal);
            }
        }
        // From the lower left of the U around to the goal: two rows and two columns, corners cut.
        let map = Map::new(Layout::U).expect("published");
        let around = Problem {
            start: [3.0, 1.0],
            goal: [1.0, 1.0],
        };
        let length = map.way(&around).expect("there is a way").length();
        assert!(length > 4.0 && length < 6.0, "{length}");
    }
}
