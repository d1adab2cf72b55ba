//! Nothing invalid leaves a classical planner: a path that another library proves free, or an error that says why.
//!
//! The judge is parry, which shares no code with the planners: a disc along a straight segment is a capsule, and capsules
//! that parry finds clear of every obstacle are a proof.
//! `CLEARWAY_PROBLEMS` says how many random problems are asked; 1,000 by default.

use clearway_motion::{
    Blocked, FreeSpace, GridSearch, Limits, Obstacle, Optimizer, Path, PathError, RrtConnect,
    ScalingError, Scene, Translating, shortcut,
};
use clearway_tests::plane::{Plane, TOUCH, ends};
use nalgebra::{Isometry3, Vector3};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

fn problems() -> u64 {
    let given = std::env::var("CLEARWAY_PROBLEMS").ok();
    given.map_or(1000, |it| it.parse().expect("a number of problems"))
}

fn limits(dof: usize) -> Limits {
    Limits::unlimited(dof)
        .with_position(&vec![-1.0; dof], &vec![1.0; dof])
        .and_then(|it| it.with_velocity(&vec![1.0; dof]))
        .and_then(|it| it.with_acceleration(&vec![2.0; dof]))
        .and_then(|it| it.with_jerk(&vec![20.0; dof]))
        .expect("positive and ordered")
}

/// A NaN is not equal to itself, but it is written alike.
fn said(checked: Result<(), Blocked>) -> String {
    format!("{checked:?}")
}

/// An error that fits the question.
fn fits(error: &PathError, free: &FreeSpace, start: &[f64], goal: &[f64]) {
    match error {
        PathError::Start(blocked) => {
            assert_eq!(said(free.check(start)), said(Err(blocked.clone())))
        }
        PathError::Goal(blocked) => {
            assert!(free.check(start).is_ok());
            assert_eq!(said(free.check(goal)), said(Err(blocked.clone())));
        }
        PathError::Infeasible { nearest, .. } | PathError::Budget { nearest, .. } => {
            assert!(free.check(start).is_ok() && free.check(goal).is_ok());
            assert!(matches!(nearest, Blocked::Obstacle { .. }), "{nearest}");
            assert!(nearest.excess() > 0.0);
        }
        other => panic!("{other}"),
    }
}

#[test]
fn in_the_plane_every_answer_is_a_free_path_or_an_error() {
    let (mut solved, mut moved, mut refused, mut unsolved) = (0, 0, 0, 0);
    for seed in 0..problems() {
        let mut draw = SmallRng::seed_from_u64(seed);
        let plane = Plane::draw(&mut draw);
        let radius = draw.random_range(1e-5..0.1);
        let body = Translating::disc(radius).expect("a disc");
        let limits = limits(2);
        let free = FreeSpace::new(&body, &plane.scene, &limits).expect("two coordinates");
        let [start, goal] = ends(&mut draw, 2);
        let trees = RrtConnect {
            iterations: 1000,
            ..RrtConnect::default()
        };
        let drawn = trees.plan(&free, &start, &goal, seed);
        let searched = GridSearch::default().plan(&free, &start, &goal);
        match &drawn {
            Ok(path) => {
                plane.judge(&free, path, radius, &start, &goal);
                let short = shortcut(&free, path, 50, seed);
                plane.judge(&free, &short, radius, &start, &goal);
                assert!(short.length() <= path.length() * (1.0 + 1e-12));
                match Optimizer::default().optimize(&free, &short) {
                    Ok(smooth) => plane.judge(&free, &smooth, radius, &start, &goal),
                    Err(error) => fits(&error, &free, &start, &goal),
                }
                match short.motion(&free, 0.1) {
                    Ok(motion) => plane.judge_motion(&motion, radius, &start, &goal),
                    // What grazes an obstacle may leave no room for a motion, which is said.
                    Err(error) => assert!(matches!(error, ScalingError::Blocked(_)), "{error}"),
                }
                moved += usize::from(short.motion(&free, 0.1).is_ok());
                solved += 1;
            }
            Err(error) => {
                fits(error, &free, &start, &goal);
                if matches!(error, PathError::Budget { .. }) {
                    unsolved += 1;
                } else {
                    refused += 1;
                }
            }
        }
        match &searched {
            Ok(path) => plane.judge(&free, path, radius, &start, &goal),
            Err(error) => fits(error, &free, &start, &goal),
        }
        // Ends are right or wrong, whoever is asked.
        let wrong = |answer: &Result<Path, PathError>| {
            matches!(answer, Err(PathError::Start(_) | PathError::Goal(_)))
        };
        assert_eq!(wrong(&drawn), wrong(&searched));
    }
    println!("{solved} solved, {moved} of them moved, {unsolved} without a way, {refused} refused");
    assert!(refused > 0 && moved * 100 >= solved * 99);
}

#[test]
fn in_space_every_answer_is_a_free_path_or_an_error() {
    use parry3d_f64::math::{Pose, Vector};
    use parry3d_f64::shape::{Ball, Capsule, Cuboid, Cylinder, Shape};
    let mut solved = 0;
    for seed in 0..problems() / 4 {
        let mut draw = SmallRng::seed_from_u64(1 << 32 | seed);
        let mut scene = Scene::new();
        let mut shapes: Vec<(Pose, Box<dyn Shape>)> = Vec::new();
        for _ in 0..draw.random_range(0..30) {
            let mut vector =
                |size: f64| Vector3::from([(); 3].map(|()| draw.random_range(-size..size)));
            let (at, turn, end) = (vector(1.0), vector(2.0), vector(1.0));
            let isometry = Isometry3::new(at, turn);
            let place = Vector::new(at.x, at.y, at.z);
            let pose = Pose::new(place, Vector::new(turn.x, turn.y, turn.z));
            let mut length = || draw.random_range(0.05..0.3);
            let (a, b, c) = (length(), length(), length());
            let (obstacle, shape): (_, (Pose, Box<dyn Shape>)) = match draw.random_range(0..4) {
                0 => (
                    Obstacle::ball(at, a),
                    (Pose::from_translation(place), Box::new(Ball::new(a))),
                ),
                1 => (
                    Obstacle::cuboid(isometry, Vector3::new(a, b, c)),
                    (pose, Box::new(Cuboid::new(Vector::new(a, b, c)))),
                ),
                2 => {
                    // Theirs lies along y.
                    let quarter =
                        Pose::rotation(Vector::new(std::f64::consts::FRAC_PI_2, 0.0, 0.0));
                    let cylinder: Box<dyn Shape> = Box::new(Cylinder::new(b, a));
                    (
                        Obstacle::cylinder(isometry, a, b),
                        (pose * quarter, cylinder),
                    )
                }
                _ => {
                    let far = at + end * 0.3;
                    let capsule = Capsule::new(place, Vector::new(far.x, far.y, far.z), a);
                    (
                        Obstacle::capsule(at, far, a),
                        (Pose::IDENTITY, Box::new(capsule)),
                    )
                }
            };
            scene.push(obstacle.expect("valid"));
            shapes.push(shape);
        }
        let radius = draw.random_range(0.01..0.1);
        let body = Translating::ball(radius).expect("a ball");
        let limits = limits(3);
        let free = FreeSpace::new(&body, &scene, &limits).expect("three coordinates");
        let [start, goal] = ends(&mut draw, 3);
        let trees = RrtConnect {
            iterations: 1000,
            ..RrtConnect::default()
        };
        match trees.plan(&free, &start, &goal, seed) {
            Ok(path) => {
                let path = shortcut(&free, &path, 50, seed);
                let rows: Vec<_> = path
                    .waypoints()
                    .rows()
                    .into_iter()
                    .map(|it| it.to_vec())
                    .collect();
                assert_eq!((&rows[0], &rows[rows.len() - 1]), (&start, &goal));
                for pair in rows.windows(2) {
                    let ends =
                        [0, 1].map(|i: usize| Vector::new(pair[i][0], pair[i][1], pair[i][2]));
                    let swept = Capsule::new(ends[0], ends[1], radius - TOUCH);
                    for (pose, shape) in &shapes {
                        let meets = parry3d_f64::query::intersection_test(
                            &Pose::IDENTITY,
                            &swept,
                            pose,
                            &**shape,
                        );
                        assert!(
                            !meets.expect("supported").intersecting,
                            "{pair:?} meets {pose:?}"
                        );
                    }
                }
                solved += 1;
            }
            Err(error) => fits(&error, &free, &start, &goal),
        }
    }
    println!("{solved} solved");
    assert!(solved > 0);
}
