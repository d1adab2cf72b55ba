//! Nothing invalid leaves a classical planner: a path that another library proves free, or an error that says why.
//!
//! The judge is parry, which shares no code with the planners: a disc along a straight segment is a capsule, and capsules
//! that parry finds clear of every obstacle are a proof.
//! `CLEARWAY_PROBLEMS` says how many random problems are asked; 1,000 by default.

use std::time::Duration;

use clearway_motion::{
    Blocked, FreeSpace, GridSearch, Limits, Obstacle, OccupancyGrid, Optimizer, Path, PathError,
    PointCloud, RrtConnect, ScalingError, Scene, Trajectory, Translating, shortcut,
};
use nalgebra::{Isometry3, Vector3};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

/// What parry's iterative distances may be off by, m. A path may touch; it may not enter by more.
const TOUCH: f64 = 1e-7;

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

/// A random scene of the plane, for us and for parry.
struct Plane {
    scene: Scene,
    shapes: Vec<(parry2d_f64::math::Pose, Box<dyn parry2d_f64::shape::Shape>)>,
}

impl Plane {
    fn draw(draw: &mut SmallRng) -> Self {
        use parry2d_f64::math::{Pose, Vector};
        use parry2d_f64::shape::{Ball, Cuboid};
        let mut plane = Self {
            scene: Scene::new(),
            shapes: Vec::new(),
        };
        for _ in 0..draw.random_range(0..25) {
            let at = [draw.random_range(-1.0..1.0), draw.random_range(-1.0..1.0)];
            let place = Vector::new(at[0], at[1]);
            match draw.random_range(0..8) {
                0..=2 => {
                    let radius = draw.random_range(0.02..0.25);
                    plane.scene.push(Obstacle::disc(at, radius).expect("valid"));
                    plane
                        .shapes
                        .push((Pose::from_translation(place), Box::new(Ball::new(radius))));
                }
                3..=5 => {
                    let half = [draw.random_range(0.005..0.4), draw.random_range(0.02..0.2)];
                    let angle = draw.random_range(-3.0..3.0);
                    plane
                        .scene
                        .push(Obstacle::rectangle(at, half, angle).expect("valid"));
                    let pose = Pose::new(place, angle);
                    plane
                        .shapes
                        .push((pose, Box::new(Cuboid::new(Vector::new(half[0], half[1])))));
                }
                6 => {
                    let cells: Vec<bool> = (0..12).map(|_| draw.random_range(0..3) == 0).collect();
                    for (i, _) in cells.iter().enumerate().filter(|(_, it)| **it) {
                        let middle = [(i % 4) as f64 * 0.1 + 0.05, (i / 4) as f64 * 0.1 + 0.05];
                        let pose =
                            Pose::from_translation(place + Vector::new(middle[0], middle[1]));
                        plane
                            .shapes
                            .push((pose, Box::new(Cuboid::new(Vector::splat(0.05)))));
                    }
                    let map = OccupancyGrid::new(at, 0.1, 4, cells).expect("valid");
                    plane.scene.push(Obstacle::grid(map));
                }
                _ => {
                    let points: Vec<[f64; 2]> = (0..20)
                        .map(|_| at.map(|x: f64| x + draw.random_range(-0.1..0.1)))
                        .collect();
                    for point in &points {
                        let pose = Pose::from_translation(Vector::new(point[0], point[1]));
                        plane.shapes.push((pose, Box::new(Ball::new(0.02))));
                    }
                    let points = points.iter().map(|it| Vector3::new(it[0], it[1], 0.0));
                    let cloud = PointCloud::new(points, 0.02).expect("valid");
                    plane.scene.push(Obstacle::points(cloud));
                }
            }
        }
        plane
    }

    /// Whether a disc may follow the path, by parry alone, and by the proof that its planner promised.
    fn judge(&self, free: &FreeSpace, path: &Path, radius: f64, start: &[f64], goal: &[f64]) {
        assert_eq!(free.check_path(path), Ok(()));
        let rows: Vec<Vec<f64>> = path
            .waypoints()
            .rows()
            .into_iter()
            .map(|it| it.to_vec())
            .collect();
        assert_eq!((&rows[0][..], &rows[rows.len() - 1][..]), (start, goal));
        for row in &rows {
            assert!(row.iter().all(|x| (-1.0..=1.0).contains(x)), "{row:?}");
        }
        self.judge_chords(&rows, radius - TOUCH);
    }

    /// The same of a motion: its limits by differences, its way by chords.
    fn judge_motion(&self, motion: &Trajectory, radius: f64, start: &[f64], goal: &[f64]) {
        // A chord of 4 ms under 2 m/s² in either coordinate leaves the curve by a · dt² / 8.
        const STEP: Duration = Duration::from_millis(4);
        const SAGITTA: f64 = 6e-6;
        // Differences over 4 ms are means of a derivative, but for roundings: 1e-16 / dt³ is 2e-9.
        const MEAN: f64 = 1e-6;
        let steps = motion.duration().as_micros().div_ceil(STEP.as_micros()) as u32;
        let rows: Vec<Vec<f64>> = (0..=steps)
            .map(|i| {
                motion
                    .sample(STEP * i)
                    .expect("it has waypoints")
                    .position
                    .as_slice()
                    .to_vec()
            })
            .collect();
        for (end, expected) in [(&rows[0], start), (&rows[rows.len() - 1], goal)] {
            assert_eq!(&end[..], expected);
        }
        self.judge_chords(&rows, radius - TOUCH - SAGITTA);
        let dt = STEP.as_secs_f64();
        for j in 0..2 {
            let mut values: Vec<f64> = rows.iter().map(|row| row[j]).collect();
            for limit in [1.0, 2.0, 20.0] {
                values = values.windows(2).map(|it| (it[1] - it[0]) / dt).collect();
                for value in &values {
                    assert!(value.abs() <= limit + MEAN, "{value} beyond {limit}");
                }
            }
        }
    }

    fn judge_chords(&self, rows: &[Vec<f64>], radius: f64) {
        use parry2d_f64::math::{Pose, Vector};
        for pair in rows.windows(2) {
            let ends = [0, 1].map(|i: usize| Vector::new(pair[i][0], pair[i][1]));
            let swept = parry2d_f64::shape::Capsule::new(ends[0], ends[1], radius);
            for (pose, shape) in &self.shapes {
                let meets =
                    parry2d_f64::query::intersection_test(&Pose::IDENTITY, &swept, pose, &**shape);
                assert!(
                    !meets.expect("supported").intersecting,
                    "{pair:?} meets {pose:?}"
                );
            }
        }
    }
}

/// Four kinds of ends: most are anywhere, some are wrong on purpose.
fn ends(draw: &mut SmallRng, dof: usize) -> [Vec<f64>; 2] {
    let mut ends = [0, 1].map(|_| {
        (0..dof)
            .map(|_| draw.random_range(-1.0..1.0))
            .collect::<Vec<f64>>()
    });
    let wrong = [f64::NAN, f64::INFINITY, -1.5, 1e300, 1.000_000_1];
    if draw.random_range(0..20) == 0 {
        let value = wrong[draw.random_range(0..wrong.len())];
        ends[draw.random_range(0..2)][draw.random_range(0..dof)] = value;
    }
    ends
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
