//! A way without times: straight segments through configurations.

use std::time::Duration;

use ndarray::{Array2, ArrayView2};

use crate::free_space::FreeSpace;
use crate::interpolation::Interpolation;
use crate::trajectory::{Trajectory, TrajectoryError};

/// How often a corner that does not fit is cut shorter before it is given up: to a 2⁻³⁰th.
const HALVINGS: usize = 30;

/// Configurations, joined by straight segments; it has at least one, and all are finite.
///
/// [`Path::rounded`] and [`Path::spline`] make a smooth curve of it, and
/// [`scale_time`](crate::scale_time) a motion of that.
#[derive(Debug, Clone, PartialEq)]
pub struct Path {
    waypoints: Array2<f64>,
}

impl Path {
    /// A path through `waypoints`, of shape `[waypoint, dof]`.
    ///
    /// # Errors
    ///
    /// [`TrajectoryError`] if there is no waypoint or coordinate, or a number is not finite.
    pub fn new(waypoints: Array2<f64>) -> Result<Self, TrajectoryError> {
        if waypoints.nrows() == 0 {
            return Err(TrajectoryError::Shape {
                quantity: crate::Quantity::Position,
                expected: [1, waypoints.ncols()],
                found: [0, waypoints.ncols()],
            });
        }
        // A trajectory's constructor knows what is finite.
        let second = Duration::from_secs(1);
        let waypoints =
            Trajectory::uniform(Duration::ZERO, second, waypoints, Interpolation::Hold)?;
        Ok(Self {
            waypoints: waypoints.positions().to_owned(),
        })
    }

    /// Of rows that are known to be finite and of one length.
    pub(crate) fn from_rows(rows: &[Vec<f64>]) -> Self {
        let dof = rows.first().map_or(0, Vec::len);
        Self {
            waypoints: Array2::from_shape_fn((rows.len(), dof), |(i, j)| rows[i][j]),
        }
    }

    pub(crate) fn rows(&self) -> Vec<Vec<f64>> {
        let rows = self.waypoints.rows().into_iter();
        rows.map(|row| row.to_vec()).collect()
    }

    /// The configurations, `[waypoint, dof]`.
    pub fn waypoints(&self) -> ArrayView2<'_, f64> {
        self.waypoints.view()
    }

    /// The number of waypoints, at least 1.
    pub fn len(&self) -> usize {
        self.waypoints.nrows()
    }

    /// Never: a path has a waypoint.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.waypoints.ncols()
    }

    /// `Σ |qᵢ₊₁ − qᵢ|`, Euclidean over all coordinates.
    pub fn length(&self) -> f64 {
        self.rows().windows(2).map(|it| apart(&it[0], &it[1])).sum()
    }

    /// `count` waypoints at equal distances along it, the two ends among them; at least 2.
    ///
    /// Corners between them are cut: check the result.
    #[must_use]
    pub fn resampled(&self, count: usize) -> Self {
        let rows = self.rows();
        let count = count.max(2);
        let total = self.length();
        let mut resampled = Vec::with_capacity(count);
        let mut passed = 0.0;
        let mut segment = 0;
        for i in 0..count {
            let place = total * i as f64 / (count - 1) as f64;
            while segment + 2 < rows.len() {
                let length = apart(&rows[segment], &rows[segment + 1]);
                if passed + length >= place {
                    break;
                }
                passed += length;
                segment += 1;
            }
            let from = &rows[segment];
            let to = &rows[(segment + 1).min(rows.len() - 1)];
            let length = apart(from, to);
            let u = if length > 0.0 {
                ((place - passed) / length).clamp(0.0, 1.0)
            } else {
                0.0
            };
            resampled.push(between(from, to, u));
        }
        resampled[count - 1].clone_from(&rows[rows.len() - 1]);
        Self::from_rows(&resampled)
    }

    /// The same path without the waypoints at which nothing moves.
    fn distinct(&self) -> Vec<Vec<f64>> {
        let mut rows = self.rows();
        rows.dedup_by(|later, earlier| apart(later, earlier) <= 0.0);
        rows
    }

    /// A C² curve along the path that is free: its corners are rounded, its segments stay straight.
    ///
    /// Each corner is replaced by the quintic that leaves the segment before at a distance `r` from it and enters the
    /// one after at that distance, with the direction of both and no curvature there. With `h = 2r` it stays in the
    /// triangle of its ends and the corner (its Bézier points are on two sides). `r` is `radius`, or half of the shorter
    /// segment, halved until the sweep proves the corner free.
    ///
    /// The curve's "time" is a path's own parameter, one second a unit of length: it is no motion yet, but what
    /// [`scale_time`](crate::scale_time) takes.
    ///
    /// # Errors
    ///
    /// [`RoundingError`] if the radius is not positive, or a corner does not become free however small it is made,
    /// which cannot be for a path that [`FreeSpace::check_path`] accepts; or if it has no two different waypoints.
    pub fn rounded(&self, free: &FreeSpace, radius: f64) -> Result<Trajectory, RoundingError> {
        if !(radius > 0.0 && radius.is_finite()) {
            return Err(RoundingError::Radius { radius });
        }
        let rows = self.distinct();
        if rows.len() < 2 {
            return Err(RoundingError::Point);
        }
        let length = |i: usize| apart(&rows[i], &rows[i + 1]);
        let direction = |i: usize| -> Vec<f64> {
            let pair = rows[i].iter().zip(&rows[i + 1]);
            pair.map(|(a, b)| (b - a) / length(i)).collect()
        };
        let mut curve = Curve::new(self.dof());
        curve.push(&rows[0], &direction(0), 0.0);
        for i in 1..rows.len() - 1 {
            let (before, after) = (direction(i - 1), direction(i));
            let mut r = radius.min(length(i - 1) / 2.0).min(length(i) / 2.0);
            let mut halvings = 0;
            let corner = loop {
                let enter = between(&rows[i], &rows[i - 1], r / length(i - 1));
                let leave = between(&rows[i], &rows[i + 1], r / length(i));
                let mut corner = Curve::new(self.dof());
                corner.push(&enter, &before, 0.0);
                corner.push(&leave, &after, 2.0 * r);
                match free.check_trajectory(&corner.trajectory()?) {
                    Ok(()) => break corner,
                    Err(_) if halvings < HALVINGS => {
                        halvings += 1;
                        r /= 2.0;
                    }
                    Err(blocked) => {
                        return Err(RoundingError::Corner {
                            waypoint: i,
                            blocked,
                        });
                    }
                }
            };
            curve.append(&corner);
        }
        let last = rows.len() - 1;
        curve.push_after(&rows[last], &direction(last - 1));
        Ok(curve.trajectory()?)
    }

    /// The C² cubic spline through the waypoints, which ends without curvature.
    ///
    /// With `hᵢ = |qᵢ₊₁ − qᵢ|`, the chord, and the slopes `vᵢ` from the tridiagonal system of continuous second
    /// derivatives
    ///
    /// ```text
    /// vᵢ₋₁/hᵢ₋₁ + 2 (1/hᵢ₋₁ + 1/hᵢ) vᵢ + vᵢ₊₁/hᵢ = 3 (dᵢ₋₁/hᵢ₋₁ + dᵢ/hᵢ),    2v₀ + v₁ = 3d₀,  vₙ₋₁ + 2vₙ = 3dₙ₋₁
    /// ```
    ///
    /// It leaves the segments between the waypoints: check it with [`FreeSpace::check_trajectory`].
    /// Its "time" is the length of the chords, one second a unit; it is for [`scale_time`](crate::scale_time).
    ///
    /// # Errors
    ///
    /// [`RoundingError`] if it has no two different waypoints.
    pub fn spline(&self) -> Result<Trajectory, RoundingError> {
        let rows = self.distinct();
        if rows.len() < 2 {
            return Err(RoundingError::Point);
        }
        let n = rows.len();
        let mut places = vec![0.0];
        for pair in rows.windows(2) {
            places.push(places[places.len() - 1] + apart(&pair[0], &pair[1]));
        }
        let times = knots(&places)?;
        let step = |i: usize| crate::trajectory::seconds(times[i], times[i + 1]);
        let mut slopes = Array2::zeros((n, self.dof()));
        for j in 0..self.dof() {
            let slope = |i: usize| (rows[i + 1][j] - rows[i][j]) / step(i);
            // Thomas' algorithm: the system is diagonally dominant.
            let (mut upper, mut right) = (vec![0.0; n], vec![0.0; n]);
            upper[0] = 0.5;
            right[0] = 1.5 * slope(0);
            for i in 1..n {
                let (low, diagonal, high, value) = if i == n - 1 {
                    (1.0, 2.0, 0.0, 3.0 * slope(i - 1))
                } else {
                    let (a, b) = (1.0 / step(i - 1), 1.0 / step(i));
                    (a, 2.0 * (a + b), b, 3.0 * (a * slope(i - 1) + b * slope(i)))
                };
                let pivot = diagonal - low * upper[i - 1];
                upper[i] = high / pivot;
                right[i] = (value - low * right[i - 1]) / pivot;
            }
            for i in (0..n - 1).rev() {
                right[i] -= upper[i] * right[i + 1];
            }
            for (i, value) in right.into_iter().enumerate() {
                slopes[[i, j]] = value;
            }
        }
        let positions = Array2::from_shape_fn((n, self.dof()), |(i, j)| rows[i][j]);
        let path = Trajectory::new(times, positions, Interpolation::Cubic)?;
        Ok(path.with_velocities(slopes)?)
    }
}

/// Waypoints with their directions on a path's own parameter.
struct Curve {
    dof: usize,
    places: Vec<f64>,
    positions: Vec<Vec<f64>>,
    directions: Vec<Vec<f64>>,
}

impl Curve {
    fn new(dof: usize) -> Self {
        Self {
            dof,
            places: Vec::new(),
            positions: Vec::new(),
            directions: Vec::new(),
        }
    }

    /// One more waypoint, `step` after the last.
    fn push(&mut self, position: &[f64], direction: &[f64], step: f64) {
        let last = self.places.last().copied().unwrap_or_default();
        self.places.push(last + step);
        self.positions.push(position.to_vec());
        self.directions.push(direction.to_vec());
    }

    /// One more waypoint at the end of a straight line; none if it is where the last one is.
    fn push_after(&mut self, position: &[f64], direction: &[f64]) {
        let last = self.positions.last().map(|it| apart(it, position));
        match last {
            Some(step) if step > 1e-9 => self.push(position, direction, step),
            // Two corners that meet: the ends agree but for rounding.
            Some(_) => {
                let last = self.positions.len() - 1;
                self.positions[last] = position.to_vec();
            }
            None => self.push(position, direction, 0.0),
        }
    }

    fn append(&mut self, corner: &Self) {
        self.push_after(&corner.positions[0], &corner.directions[0]);
        self.push(
            &corner.positions[1],
            &corner.directions[1],
            corner.places[1],
        );
    }

    fn trajectory(&self) -> Result<Trajectory, TrajectoryError> {
        let shape = (self.places.len(), self.dof);
        let times = knots(&self.places)?;
        let positions = Array2::from_shape_fn(shape, |(i, j)| self.positions[i][j]);
        let directions = Array2::from_shape_fn(shape, |(i, j)| self.directions[i][j]);
        Trajectory::new(times, positions, Interpolation::Quintic)?
            .with_velocities(directions)?
            .with_accelerations(Array2::zeros(shape))
    }
}

/// A path's parameter as times, one second a unit of length.
fn knots(places: &[f64]) -> Result<Vec<Duration>, TrajectoryError> {
    let late = |waypoint| TrajectoryError::Late { waypoint };
    let times = places
        .iter()
        .enumerate()
        .map(|(i, &place)| Duration::try_from_secs_f64(place).map_err(|_| late(i)));
    times.collect()
}

/// The Euclidean distance of two configurations.
pub(crate) fn apart(one: &[f64], other: &[f64]) -> f64 {
    let squares = one.iter().zip(other).map(|(a, b)| (a - b) * (a - b));
    squares.sum::<f64>().sqrt()
}

/// `(1 − u) a + u b`.
pub(crate) fn between(from: &[f64], to: &[f64], u: f64) -> Vec<f64> {
    let pairs = from.iter().zip(to);
    pairs.map(|(a, b)| (1.0 - u) * a + u * b).collect()
}

/// Why a [`Path`] does not become a smooth curve.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum RoundingError {
    /// A radius that is not positive and finite.
    #[error("corners cannot be rounded by {radius}")]
    Radius {
        /// The radius.
        radius: f64,
    },
    /// All waypoints are one: there is no curve.
    #[error("a path without length is no curve")]
    Point,
    /// A corner that is not free.
    #[error("the corner at waypoint {waypoint} is blocked: {blocked}")]
    Corner {
        /// Which one, of those that differ from the one before.
        waypoint: usize,
        /// By what.
        blocked: crate::free_space::Blocked,
    },
    /// A curve that is no trajectory, such as one too long for a [`Duration`].
    #[error(transparent)]
    Trajectory(#[from] TrajectoryError),
}
