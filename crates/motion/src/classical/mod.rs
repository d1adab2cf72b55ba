//! Planners without learning: the baseline, the expert and the fallback of those that learn.
//!
//! | planner | what it finds | when it cannot |
//! |---|---|---|
//! | [`RrtConnect`] | any way, quickly, in many coordinates | it runs out of iterations |
//! | [`GridSearch`] | the shortest way on a lattice of the plane | it says that there is none at that resolution |
//! | [`Optimizer`] | a smooth way near a given one | it says where that is blocked |
//!
//! **Every path that is returned is proven free** by [`FreeSpace::check_path`], and every answer is a path or a
//! [`PathError`] with what stands in the way.

mod grid_search;
mod optimizer;
mod rrt_connect;
mod shortcut;

use crate::free_space::{Blocked, FreeSpace};

pub use grid_search::GridSearch;
pub use optimizer::Optimizer;
pub use rrt_connect::RrtConnect;
pub use shortcut::shortcut;

/// Why there is no path.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PathError {
    /// The start is no configuration, beyond a limit or in an obstacle.
    #[error("the start is not free: {0}")]
    Start(Blocked),
    /// The goal is no configuration, beyond a limit or in an obstacle.
    #[error("the goal is not free: {0}")]
    Goal(Blocked),
    /// A planner that draws or enumerates configurations needs finite limits of all positions.
    #[error("coordinate {coordinate} has no finite limits to search between")]
    Unbounded {
        /// The first without.
        coordinate: usize,
    },
    /// A planner for the plane was asked for something else.
    #[error("a grid search is for 2 coordinates, not for {dof}")]
    Plane {
        /// The coordinates of the body.
        dof: usize,
    },
    /// A number of the planner's own settings that it cannot work with.
    #[error("{setting} must be positive and finite, but is {value}")]
    Setting {
        /// Which one.
        setting: &'static str,
        /// What it was.
        value: f64,
    },
    /// There is no way at the resolution of the search: all that can be reached was looked at.
    #[error("no way at this resolution after {explored} places; nearest to the goal, {nearest}")]
    Infeasible {
        /// How many places can be reached.
        explored: usize,
        /// What blocks the way from the place that is nearest to the goal.
        nearest: Blocked,
    },
    /// The search ended before it found a way; there may be one.
    #[error("no way found in {iterations} iterations; where the two sides are nearest, {nearest}")]
    Budget {
        /// How many were allowed.
        iterations: usize,
        /// What blocks the way between what start and goal can reach.
        nearest: Blocked,
    },
}

impl PathError {
    /// What stands in the way; `None` where the question was not one.
    pub fn blocked(&self) -> Option<&Blocked> {
        match self {
            Self::Start(blocked)
            | Self::Goal(blocked)
            | Self::Infeasible {
                nearest: blocked, ..
            }
            | Self::Budget {
                nearest: blocked, ..
            } => Some(blocked),
            Self::Unbounded { .. } | Self::Plane { .. } | Self::Setting { .. } => None,
        }
    }
}

/// Whether both ends are free, the start first.
fn check_ends(free: &FreeSpace, start: &[f64], goal: &[f64]) -> Result<(), PathError> {
    free.check(start).map_err(PathError::Start)?;
    free.check(goal).map_err(PathError::Goal)
}

fn check_setting(setting: &'static str, value: f64) -> Result<(), PathError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(PathError::Setting { setting, value })
    }
}

/// The finite limits of all positions.
fn check_bounds(free: &FreeSpace) -> Result<(), PathError> {
    let limits = free.limits();
    let bounds = limits.lower().iter().zip(limits.upper());
    let unbounded = bounds
        .enumerate()
        .find(|(_, (lower, upper))| !(lower.is_finite() && upper.is_finite()));
    match unbounded {
        None => Ok(()),
        Some((coordinate, _)) => Err(PathError::Unbounded { coordinate }),
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::Vector3;

    use super::*;
    use crate::body::{Planar, Translating};
    use crate::limits::Limits;
    use crate::path::{Path, apart};
    use crate::scene::{Obstacle, Scene};

    fn bounded(dof: usize) -> Limits {
        let limits = Limits::unlimited(dof);
        limits
            .with_position(&vec![-1.0; dof], &vec![1.0; dof])
            .expect("they are ordered")
    }

    /// Two walls with a gap each, at opposite ends.
    fn slalom() -> Scene {
        let walls = [
            Obstacle::rectangle([-0.3, -0.2], [0.05, 0.8], 0.0),
            Obstacle::rectangle([0.3, 0.2], [0.05, 0.8], 0.0),
        ];
        walls
            .map(|it| it.expect("it is valid"))
            .into_iter()
            .collect()
    }

    fn ends(path: &Path) -> (Vec<f64>, Vec<f64>) {
        let rows = path.rows();
        (rows[0].clone(), rows[rows.len() - 1].clone())
    }

    #[test]
    fn every_planner_finds_its_way_through_a_slalom() {
        let (scene, limits) = (slalom(), bounded(2));
        let disc = Translating::disc(0.05).expect("a disc");
        let free = FreeSpace::new(&disc, &scene, &limits).expect("the dimensions agree");
        let (start, goal) = ([-0.8, -0.5], [0.8, 0.5]);
        let drawn = RrtConnect::default()
            .plan(&free, &start, &goal, 3)
            .expect("there is a way");
        let short = shortcut(&free, &drawn, 200, 3);
        let searched = GridSearch::default()
            .plan(&free, &start, &goal)
            .expect("there is a way");
        let lattice = GridSearch {
            any_angle: false,
            ..GridSearch::default()
        };
        let lattice = lattice.plan(&free, &start, &goal).expect("there is a way");
        let smooth = Optimizer::default()
            .optimize(&free, &short)
            .expect("there is room");
        for path in [&drawn, &short, &searched, &lattice, &smooth] {
            assert_eq!(free.check_path(path), Ok(()));
            assert_eq!(ends(path), (start.to_vec(), goal.to_vec()));
        }
        assert!(short.length() < drawn.length());
        // Around the outer corners of the two walls, 0.05 from them, on paper:
        // (−0.8, −0.5) → (−0.35, 0.65) → (−0.25, 0.65) → (0.25, −0.65) → (0.35, −0.65) → (0.8, 0.5),
        // if the corners were square; round ones are shorter.
        let around = 2.0 * 0.45_f64.hypot(1.15) + 0.2 + 0.5_f64.hypot(1.3);
        // Places of the lattice are up to a cell from the corners.
        for (path, factor) in [(&short, 1.1), (&searched, 1.1), (&lattice, 1.2)] {
            assert!(path.length() < factor * around, "{}", path.length());
            assert!(path.length() > 0.97 * around, "{}", path.length());
        }
    }

    #[test]
    fn the_same_seed_draws_the_same_path() {
        let (scene, limits) = (slalom(), bounded(2));
        let disc = Translating::disc(0.05).expect("a disc");
        let free = FreeSpace::new(&disc, &scene, &limits).expect("the dimensions agree");
        let plan = |seed| {
            let path = RrtConnect::default().plan(&free, &[-0.8, -0.5], &[0.8, 0.5], seed);
            shortcut(&free, &path.expect("there is a way"), 50, seed)
        };
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
    }

    #[test]
    fn a_body_that_turns_and_one_that_flies_find_their_way() {
        let (scene, limits) = (slalom(), bounded(3));
        let balls = [-0.1, 0.0, 0.1].map(|x| (Vector3::new(x, 0.0, 0.0), 0.05));
        let truck = Planar::new(balls).expect("they are balls");
        let free = FreeSpace::new(&truck, &scene, &limits).expect("the dimensions agree");
        let path = RrtConnect::default()
            .plan(&free, &[-0.8, -0.5, 0.0], &[0.8, 0.5, 0.5], 5)
            .expect("there is a way");
        assert_eq!(free.check_path(&path), Ok(()));
        let smooth = Optimizer::default().optimize(&free, &shortcut(&free, &path, 200, 5));
        assert_eq!(free.check_path(&smooth.expect("there is room")), Ok(()));

        let drone = Translating::ball(0.05).expect("a ball");
        let shelf = Obstacle::cuboid(
            nalgebra::Isometry3::translation(0.0, 0.0, -0.3),
            Vector3::new(0.1, 2.0, 0.9),
        );
        let scene = Scene::new().with(shelf.expect("it is valid"));
        let free = FreeSpace::new(&drone, &scene, &limits).expect("the dimensions agree");
        let path = RrtConnect::default()
            .plan(&free, &[-0.8, 0.0, 0.0], &[0.8, 0.0, 0.0], 5)
            .expect("there is a way");
        let over = path.rows().iter().map(|row| row[2]).fold(-1.0, f64::max);
        assert!(over > 0.6 && free.check_path(&path).is_ok());
    }

    #[test]
    fn an_optimizer_bends_a_straight_line_around_a_disc() {
        let disc = Obstacle::disc([0.0, 0.05], 0.3).expect("it is valid");
        let (scene, limits) = (Scene::new().with(disc), bounded(2));
        let body = Translating::disc(0.05).expect("a disc");
        let free = FreeSpace::new(&body, &scene, &limits).expect("the dimensions agree");
        let straight = Path::from_rows(&[vec![-0.8, 0.0], vec![0.8, 0.0]]);
        assert!(free.check_path(&straight).is_err());
        let bent = Optimizer::default()
            .optimize(&free, &straight)
            .expect("there is room");
        // On the side that is nearer.
        let lowest = bent.rows().iter().map(|row| row[1]).fold(0.0, f64::min);
        assert!(lowest < -0.29 && lowest > -0.4, "{lowest}");
        // Smooth: no step turns by more than a few hundredths of the length.
        let rows = bent.rows();
        let bends = rows.windows(3).map(|it| {
            let bend = |j: usize| it[0][j] - 2.0 * it[1][j] + it[2][j];
            bend(0).hypot(bend(1))
        });
        let steps = rows.windows(2).map(|it| apart(&it[0], &it[1]));
        let step = steps.fold(0.0, f64::max);
        assert!(bends.fold(0.0, f64::max) < 0.3 * step);
    }

    #[test]
    fn what_has_no_way_is_an_error_that_says_where() {
        let ring = [
            Obstacle::rectangle([0.5, 0.2], [0.3, 0.05], 0.0),
            Obstacle::rectangle([0.5, -0.2], [0.3, 0.05], 0.0),
            Obstacle::rectangle([0.25, 0.0], [0.05, 0.25], 0.0),
            Obstacle::rectangle([0.75, 0.0], [0.05, 0.25], 0.0),
        ];
        let scene: Scene = ring
            .map(|it| it.expect("it is valid"))
            .into_iter()
            .collect();
        let limits = bounded(2);
        let disc = Translating::disc(0.05).expect("a disc");
        let free = FreeSpace::new(&disc, &scene, &limits).expect("the dimensions agree");
        let (outside, inside) = ([-0.5, 0.0], [0.5, 0.0]);
        let search = GridSearch::default();
        let error = search.plan(&free, &outside, &inside).expect_err("a ring");
        let PathError::Infeasible { explored, nearest } = &error else {
            panic!("{error}");
        };
        assert!(*explored > 500);
        assert!(matches!(nearest, Blocked::Obstacle { .. }), "{nearest}");
        let trees = RrtConnect {
            iterations: 300,
            ..RrtConnect::default()
        };
        let error = trees.plan(&free, &outside, &inside, 1).expect_err("a ring");
        assert!(
            matches!(
                error,
                PathError::Budget {
                    iterations: 300,
                    ..
                }
            ),
            "{error}"
        );
        assert!(error.blocked().is_some());

        let error = |start: &[f64], goal: &[f64]| {
            let drawn = trees.plan(&free, start, goal, 1).expect_err("no question");
            let searched = search.plan(&free, start, goal).expect_err("no question");
            assert_eq!(drawn.to_string(), searched.to_string());
            drawn.to_string()
        };
        assert_eq!(
            error(&[0.5, 0.2], &inside),
            "the start is not free: ball 0 has a clearance of -0.10000 m from obstacle 0, a cuboid, at [0.5, 0.2]"
        );
        assert_eq!(
            error(&outside, &[2.0, 0.0]),
            "the goal is not free: coordinate 0 is 2, beyond its position limit 1"
        );
        assert_eq!(
            error(&[f64::NAN, 0.0], &inside),
            "the start is not free: coordinate 0 is NaN"
        );
        let unlimited = Limits::unlimited(2);
        let free = FreeSpace::new(&disc, &scene, &unlimited).expect("the dimensions agree");
        let unbounded = Err(PathError::Unbounded { coordinate: 0 });
        assert_eq!(trees.plan(&free, &outside, &inside, 1), unbounded);
        assert_eq!(search.plan(&free, &outside, &inside), unbounded);
    }
}
