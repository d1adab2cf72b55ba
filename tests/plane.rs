//! Random worlds of the plane, and a judge of what goes through them that shares no code with the planners.
//!
//! The judge is parry: a disc along a straight segment is a capsule, and capsules that parry finds clear of every obstacle
//! are a proof.

use std::time::Duration;

use clearway_motion::{FreeSpace, Obstacle, OccupancyGrid, Path, PointCloud, Scene, Trajectory};
use nalgebra::Vector3;
use rand::{RngExt as _, rngs::SmallRng};

/// What parry's iterative distances may be off by, m. A path may touch; it may not enter by more.
pub const TOUCH: f64 = 1e-7;

/// A random scene of the plane, for us and for parry.
pub struct Plane {
    /// For us.
    pub scene: Scene,
    shapes: Vec<(parry2d_f64::math::Pose, Box<dyn parry2d_f64::shape::Shape>)>,
}

impl Plane {
    /// Up to 25 obstacles: discs, rectangles that are turned, maps, clouds of points.
    pub fn draw(draw: &mut SmallRng) -> Self {
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

    /// A wall across the plane from side to side, along y and then turned by a quarter or not, with a gap in it, or none.
    ///
    /// The two ends are on its two sides: whatever goes from one to the other goes through the gap.
    pub fn walled(draw: &mut SmallRng, gap: Option<f64>) -> (Self, [Vec<f64>; 2]) {
        use parry2d_f64::math::{Pose, Vector};
        use parry2d_f64::shape::Cuboid;
        /// How far the wall goes beyond the plane, m.
        const BEYOND: f64 = 0.2;
        let mut plane = Self {
            scene: Scene::new(),
            shapes: Vec::new(),
        };
        let (at, half) = (draw.random_range(-0.3..0.3), draw.random_range(0.005..0.1));
        let middle = draw.random_range(-0.6..0.6);
        let reach = 1.0 + BEYOND;
        let pieces = match gap {
            Some(gap) => vec![[-reach, middle - gap / 2.0], [middle + gap / 2.0, reach]],
            None => vec![[-reach, reach]],
        };
        let is_turned = draw.random_range(0..2) == 0;
        let turned = |it: [f64; 2]| if is_turned { [it[1], it[0]] } else { it };
        for [from, to] in pieces {
            let center = turned([at, f64::midpoint(from, to)]);
            let halves = turned([half, (to - from) / 2.0]);
            let wall = Obstacle::rectangle(center, halves, 0.0).expect("valid");
            plane.scene.push(wall);
            plane.shapes.push((
                Pose::from_translation(Vector::new(center[0], center[1])),
                Box::new(Cuboid::new(Vector::new(halves[0], halves[1]))),
            ));
        }
        let mut ends = [-1.0, 1.0].map(|side| {
            let x = side * draw.random_range(0.55..0.95);
            turned([x, draw.random_range(-0.9..0.9)]).to_vec()
        });
        if draw.random_range(0..2) == 0 {
            ends.reverse();
        }
        (plane, ends)
    }

    /// Whether a disc may follow the path, by parry alone, and by the proof that its planner promised.
    pub fn judge(&self, free: &FreeSpace, path: &Path, radius: f64, start: &[f64], goal: &[f64]) {
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
    pub fn judge_motion(&self, motion: &Trajectory, radius: f64, start: &[f64], goal: &[f64]) {
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

    /// The same of straight segments alone.
    pub fn judge_chords(&self, rows: &[Vec<f64>], radius: f64) {
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
pub fn ends(draw: &mut SmallRng, dof: usize) -> [Vec<f64>; 2] {
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
