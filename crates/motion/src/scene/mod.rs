//! What stands in a robot's way: solid obstacles, and how far a point is from them.

mod error;
mod grid;
mod obstacle;
mod points;
mod tree;

use nalgebra::Vector3;

pub use error::SceneError;
pub use grid::OccupancyGrid;
pub use obstacle::{Obstacle, Solid};
pub use points::PointCloud;

/// The obstacles of a world, as one signed distance.
///
/// ```text
/// d(p) = min over the obstacles of dᵢ(p)        positive outside, negative inside; metres
/// ```
///
/// Every `dᵢ` is exact, and `|d(p) − d(q)| ≤ |p − q|`: that is what the sweep of
/// [`FreeSpace`](crate::FreeSpace) rests on.
/// Outside, `d` is the distance to the nearest obstacle. Where obstacles overlap the depth inside is that of the deepest
/// one, which is not more than the depth in their union.
///
/// There is one kind of scene. **A planar one is made of upright obstacles without end** ([`Obstacle::disc`],
/// [`Obstacle::rectangle`], [`OccupancyGrid`]), and planar robots have `z = 0`; so a mobile robot's map is a scene of an
/// arm as well.
///
/// ```
/// use clearway_motion::{Obstacle, Scene};
/// use nalgebra::Vector3;
///
/// let scene = Scene::new()
///     .with(Obstacle::disc([1.0, 0.0], 0.5)?)
///     .with(Obstacle::rectangle([-1.0, 0.0], [0.4, 0.2], 0.0)?);
/// assert!((scene.distance(&Vector3::zeros()) - 0.5).abs() < 1e-12);
/// let near = scene.nearest(&Vector3::new(-1.0, 0.35, 0.0)).expect("it has obstacles");
/// assert_eq!(near.obstacle, 1);
/// assert!((near.distance - 0.15).abs() < 1e-12 && (near.gradient.y - 1.0).abs() < 1e-12);
/// # Ok::<(), clearway_motion::SceneError>(())
/// ```
#[derive(Debug, Clone, Default)]
pub struct Scene {
    obstacles: Vec<Obstacle>,
}

/// The obstacle that is nearest to a point.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Proximity {
    /// Which one, in the order in which they were added.
    pub obstacle: usize,
    /// What it is.
    pub solid: Solid,
    /// The signed distance to its surface: m.
    pub distance: f64,
    /// The derivative of the distance by the point: a unit vector that leads away from the obstacle.
    ///
    /// Where several points of the surface are nearest it leads away from one of them.
    pub gradient: Vector3<f64>,
}

impl Scene {
    /// A world without obstacles.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same scene with one more obstacle.
    #[must_use]
    pub fn with(mut self, obstacle: Obstacle) -> Self {
        self.obstacles.push(obstacle);
        self
    }

    /// Adds an obstacle and returns its place in [`Scene::obstacles`], by which violations name it.
    pub fn push(&mut self, obstacle: Obstacle) -> usize {
        self.obstacles.push(obstacle);
        self.obstacles.len() - 1
    }

    /// All obstacles, in the order in which they were added.
    pub fn obstacles(&self) -> &[Obstacle] {
        &self.obstacles
    }

    /// The signed distance to the nearest obstacle; infinite if there is none, NaN for a point that is not finite.
    ///
    /// It does not allocate.
    pub fn distance(&self, point: &Vector3<f64>) -> f64 {
        if !point.iter().all(|x| x.is_finite()) {
            return f64::NAN;
        }
        let distances = self.obstacles.iter().map(|it| it.distance(point));
        distances.fold(f64::INFINITY, f64::min)
    }

    /// The nearest obstacle and the gradient of its distance; `None` without obstacles or for a point that is not finite.
    ///
    /// Of equally near obstacles the first counts.
    pub fn nearest(&self, point: &Vector3<f64>) -> Option<Proximity> {
        if !point.iter().all(|x| x.is_finite()) {
            return None;
        }
        let mut least: Option<(usize, f64)> = None;
        for (i, obstacle) in self.obstacles.iter().enumerate() {
            let distance = obstacle.distance(point);
            if least.is_none_or(|(_, kept)| distance < kept) {
                least = Some((i, distance));
            }
        }
        let (obstacle, _) = least?;
        let (distance, gradient) = self.obstacles[obstacle].distance_and_gradient(point);
        Some(Proximity {
            obstacle,
            solid: self.obstacles[obstacle].solid(),
            distance,
            gradient,
        })
    }
}

impl FromIterator<Obstacle> for Scene {
    fn from_iter<I: IntoIterator<Item = Obstacle>>(obstacles: I) -> Self {
        Self {
            obstacles: obstacles.into_iter().collect(),
        }
    }
}

impl Extend<Obstacle> for Scene {
    fn extend<I: IntoIterator<Item = Obstacle>>(&mut self, obstacles: I) {
        self.obstacles.extend(obstacles);
    }
}

#[cfg(test)]
mod tests {
    use nalgebra::{Isometry3, UnitQuaternion};
    use parry2d_f64::query::PointQuery as _;
    use parry3d_f64::query::PointQuery as _;
    use proptest::prelude::*;

    use super::*;

    /// A few roundings of numbers of order 1: both sides are closed forms.
    const ROUNDING: f64 = 1e-12;

    fn vector(size: f64) -> impl Strategy<Value = Vector3<f64>> {
        [-size..size, -size..size, -size..size].prop_map(Vector3::from)
    }

    fn length() -> impl Strategy<Value = f64> {
        0.05..1.0_f64
    }

    fn pose() -> impl Strategy<Value = Isometry3<f64>> {
        // Half of them are not turned, which is computed by itself.
        let turn = prop_oneof![Just(Vector3::zeros()), vector(3.0)];
        (vector(0.5), turn).prop_map(|(at, turn)| Isometry3::new(at, turn))
    }

    fn solid() -> impl Strategy<Value = Obstacle> {
        let sizes = || [length(), length(), length()].prop_map(Vector3::from);
        prop_oneof![
            (vector(0.5), length()).prop_map(|(c, r)| Obstacle::ball(c, r)),
            (pose(), sizes()).prop_map(|(p, s)| Obstacle::cuboid(p, s)),
            (pose(), sizes(), 0.0..1.0_f64).prop_map(|(p, s, part)| Obstacle::rounded_cuboid(
                p,
                s,
                part * s.min()
            )),
            (pose(), length(), length()).prop_map(|(p, r, h)| Obstacle::cylinder(p, r, h)),
            (vector(0.5), vector(0.5), length()).prop_map(|(a, b, r)| Obstacle::capsule(a, b, r)),
            (vector(1.0), -0.5..0.5_f64).prop_map(|(n, o)| Obstacle::half_space(n, o)),
            ([-0.5..0.5_f64, -0.5..0.5_f64], length()).prop_map(|(c, r)| Obstacle::disc(c, r)),
            (
                [-0.5..0.5_f64, -0.5..0.5_f64],
                [length(), length()],
                -3.0..3.0_f64
            )
                .prop_map(|(c, h, a)| Obstacle::rectangle(c, h, a)),
            prop::collection::vec(any::<bool>(), 30)
                .prop_map(|cells| OccupancyGrid::new([-0.9, -0.7], 0.3, 6, cells))
                .prop_map(|grid| grid.map(Obstacle::grid)),
            (prop::collection::vec(vector(1.0), 1..60), 0.0..0.2_f64)
                .prop_map(|(points, r)| PointCloud::new(points, r).map(Obstacle::points)),
        ]
        .prop_map(|obstacle| obstacle.expect("the numbers are valid"))
    }

    fn in_space(p: Vector3<f64>) -> parry3d_f64::math::Vector {
        parry3d_f64::math::Vector::new(p.x, p.y, p.z)
    }

    fn in_plane(p: Vector3<f64>) -> parry2d_f64::math::Vector {
        parry2d_f64::math::Vector::new(p.x, p.y)
    }

    proptest! {
        #[test]
        fn distances_in_space_are_parrys(
            p in vector(2.0), pose in pose(), a in vector(0.5), b in vector(0.5),
            half in [length(), length(), length()], radius in length(), part in 0.0..1.0_f64,
            normal in vector(1.0), offset in -0.5..0.5_f64,
        ) {
            use parry3d_f64::shape::{Ball, Capsule, Cuboid, Cylinder, HalfSpace};
            let local = pose.inverse_transform_point(&p.into()).coords;
            let half = Vector3::from(half);
            let ours = |obstacle: Result<Obstacle, SceneError>| obstacle.expect("it is valid").distance(&p);
            let close = |one: f64, other: f64| (one - other).abs() < ROUNDING;

            let theirs = Ball::new(radius).distance_to_local_point(in_space(p - a), false);
            prop_assert!(close(ours(Obstacle::ball(a, radius)), theirs));
            let theirs = Cuboid::new(in_space(half)).distance_to_local_point(in_space(local), false);
            prop_assert!(close(ours(Obstacle::cuboid(pose, half)), theirs));
            // Theirs lies along y.
            let upright = Vector3::new(local.x, local.z, local.y);
            let theirs = Cylinder::new(half.z, radius).distance_to_local_point(in_space(upright), false);
            prop_assert!(close(ours(Obstacle::cylinder(pose, radius, half.z)), theirs));
            let theirs = Capsule::new(in_space(a), in_space(b), radius).distance_to_local_point(in_space(p), false);
            prop_assert!(close(ours(Obstacle::capsule(a, b, radius)), theirs));
            // A rounded cuboid is what lies within its rounding of a smaller one.
            let rounding = part * half.min();
            let inner = Cuboid::new(in_space(half.map(|h| h - rounding)));
            let theirs = inner.distance_to_local_point(in_space(local), false) - rounding;
            prop_assert!(close(ours(Obstacle::rounded_cuboid(pose, half, rounding)), theirs));
            let unit = normal.normalize();
            let theirs = HalfSpace::new(in_space(unit))
                .distance_to_local_point(in_space(p - unit * (offset / normal.norm())), false);
            prop_assert!(close(ours(Obstacle::half_space(normal, offset)), theirs));
        }

        #[test]
        fn distances_in_the_plane_are_parrys(
            p in vector(2.0), center in [-0.5..0.5_f64, -0.5..0.5_f64], angle in -3.0..3.0_f64,
            half in [length(), length()],
        ) {
            use parry2d_f64::shape::{Ball, Cuboid};
            // Upright obstacles have no end: the height does not matter.
            let away = Vector3::new(p.x - center[0], p.y - center[1], 0.0);
            let local = UnitQuaternion::from_scaled_axis(Vector3::z() * -angle) * away;
            let disc = Obstacle::disc(center, half[0]).expect("it is valid");
            let theirs = Ball::new(half[0]).distance_to_local_point(in_plane(away), false);
            prop_assert!((disc.distance(&p) - theirs).abs() < ROUNDING);
            let rectangle = Obstacle::rectangle(center, half, angle).expect("it is valid");
            let sides = parry2d_f64::math::Vector::new(half[0], half[1]);
            let theirs = Cuboid::new(sides).distance_to_local_point(in_plane(local), false);
            prop_assert!((rectangle.distance(&p) - theirs).abs() < ROUNDING);
        }

        #[test]
        fn a_gradient_is_a_unit_vector_and_the_derivative(obstacle in solid(), p in vector(2.0)) {
            const STEP: f64 = 1e-6;
            let (distance, gradient) = obstacle.distance_and_gradient(&p);
            // Two ways to compute it.
            let same = (distance - obstacle.distance(&p)).abs() < ROUNDING;
            prop_assert!(same || distance.is_infinite(), "{distance}");
            prop_assert!((gradient.norm() - 1.0).abs() < ROUNDING);
            prop_assume!(distance.is_finite());
            // Where the nearest point jumps there is no derivative: a gradient nearby says so.
            let smooth = (0..3).all(|axis| {
                [-STEP, STEP].iter().all(|step| {
                    let mut near = p;
                    near[axis] += step;
                    (obstacle.distance_and_gradient(&near).1 - gradient).norm() < 1e-3
                })
            });
            prop_assume!(smooth);
            for axis in 0..3 {
                let at = |step: f64| {
                    let mut near = p;
                    near[axis] += step;
                    obstacle.distance(&near)
                };
                let slope = (at(STEP) - at(-STEP)) / (2.0 * STEP);
                // Second differences are below 1e-3, roundings of 1e-15 are divided by 1e-6.
                prop_assert!((slope - gradient[axis]).abs() < 2e-3, "{slope} {gradient}");
            }
        }

        #[test]
        fn a_distance_changes_no_faster_than_its_point(
            obstacles in prop::collection::vec(solid(), 1..6), p in vector(2.0), q in vector(2.0),
        ) {
            let scene: Scene = obstacles.into_iter().collect();
            let (one, other) = (scene.distance(&p), scene.distance(&q));
            prop_assume!(one.is_finite());
            prop_assert!((one - other).abs() <= (p - q).norm() + ROUNDING);
            let near = scene.nearest(&p).expect("it has obstacles");
            prop_assert!((near.distance - one).abs() < ROUNDING);
        }

        #[test]
        fn a_map_is_its_cells(cells in prop::collection::vec(any::<bool>(), 42), p in vector(1.5)) {
            use parry2d_f64::shape::Cuboid;
            let (origin, cell, columns) = ([-0.8, -1.0], 0.3, 7);
            let map = OccupancyGrid::new(origin, cell, columns, cells.clone()).expect("it is valid");
            let to = |kind: bool| {
                let squares = cells.iter().enumerate().filter(move |(_, it)| **it == kind);
                squares.map(move |(i, _)| {
                    let (i, j) = (i % columns, i / columns);
                    let center = Vector3::new(
                        origin[0] + (i as f64 + 0.5) * cell,
                        origin[1] + (j as f64 + 0.5) * cell,
                        p.z,
                    );
                    Cuboid::new(parry2d_f64::math::Vector::splat(cell / 2.0))
                        .distance_to_local_point(in_plane(p - center), true)
                }).fold(f64::INFINITY, f64::min)
            };
            let outside = [
                p.x - origin[0], origin[0] + 7.0 * cell - p.x,
                p.y - origin[1], origin[1] + 6.0 * cell - p.y,
            ];
            let rim = outside.iter().copied().fold(f64::INFINITY, f64::min).max(0.0);
            let expected = if to(true) > 0.0 { to(true) } else { -to(false).min(rim) };
            let found = Obstacle::grid(map).distance(&p);
            prop_assert!((found > 1e9 && expected > 1e9) || (found - expected).abs() < ROUNDING, "{found} {expected}");
        }

        #[test]
        fn a_cloud_is_its_points(points in prop::collection::vec(vector(1.0), 1..200), p in vector(1.5)) {
            let nearest = points.iter().map(|it| (it - p).norm()).fold(f64::INFINITY, f64::min);
            let cloud = Obstacle::points(PointCloud::new(points, 0.03).expect("it is valid"));
            prop_assert!((cloud.distance(&p) - (nearest - 0.03)).abs() < ROUNDING);
        }
    }

    #[test]
    fn obstacles_are_numbers_of_their_kind() {
        let message = |obstacle: Result<Obstacle, SceneError>| {
            obstacle.expect_err("it is no obstacle").to_string()
        };
        let still = Isometry3::identity();
        assert_eq!(
            message(Obstacle::ball(Vector3::new(0.0, f64::NAN, 0.0), 1.0)),
            "the center of a ball must be finite, but is NaN"
        );
        assert_eq!(
            message(Obstacle::disc([0.0, 0.0], 0.0)),
            "the radius of a cylinder must be positive, but is 0"
        );
        assert_eq!(
            message(Obstacle::cuboid(still, Vector3::repeat(f64::INFINITY))),
            "the finite half extent of a cuboid must be positive, but is inf"
        );
        assert_eq!(
            message(Obstacle::rounded_cuboid(still, Vector3::repeat(0.1), 0.2)),
            "a cuboid cannot be rounded by 0.2, more than its half extent 0.1"
        );
        assert_eq!(
            message(Obstacle::half_space(Vector3::zeros(), 1.0)),
            "the normal of a half space must be positive, but is 0"
        );
        assert_eq!(
            OccupancyGrid::new([0.0; 2], 1.0, 2, vec![true; 3]).map(|_| ()),
            Err(SceneError::Cells {
                cells: 3,
                columns: 2
            })
        );
        assert_eq!(
            PointCloud::new([], 0.1).map(|_| ()),
            Err(SceneError::NoPoints)
        );
        assert!(PointCloud::new([Vector3::repeat(f64::INFINITY)], 0.1).is_err());
        assert!(PointCloud::new([Vector3::zeros()], -0.1).is_err());
    }

    #[test]
    fn nothing_is_infinitely_far_and_nan_is_nowhere() {
        let empty = Scene::new();
        assert!(empty.distance(&Vector3::zeros()).is_infinite());
        assert!(empty.nearest(&Vector3::zeros()).is_none());
        let scene = Scene::new().with(Obstacle::disc([0.0; 2], 1.0).expect("it is valid"));
        let nowhere = Vector3::new(0.0, 0.0, f64::NAN);
        assert!(scene.distance(&nowhere).is_nan());
        assert!(scene.nearest(&nowhere).is_none());
    }
}
