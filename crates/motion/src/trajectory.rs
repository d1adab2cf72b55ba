//! Waypoints in time: what a trajectory is made of, and what is refused.

use std::fmt;
use std::time::Duration;

use ndarray::{Array2, ArrayView1, ArrayView2};

use crate::Interpolation;

/// One of the quantities that a waypoint has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Quantity {
    /// In the unit of the coordinate.
    Position,
    /// Per second.
    Velocity,
    /// Per second squared.
    Acceleration,
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Position => "position",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
        })
    }
}

/// One waypoint, seen in place; each view has `dof` entries.
#[derive(Debug, Clone, Copy)]
pub struct Waypoint<'a> {
    /// When it is reached.
    pub time: Duration,
    /// Where that is.
    pub position: ArrayView1<'a, f64>,
    /// As given, or derived from the positions.
    pub velocity: ArrayView1<'a, f64>,
    /// As given, or derived.
    pub acceleration: ArrayView1<'a, f64>,
}

/// Positions over time, with their velocities and accelerations.
///
/// **A trajectory that exists is finite**: every position, velocity and acceleration of every waypoint, given or
/// derived. Times increase strictly. It may be empty, as what a robot has committed to before its first plan is, but it
/// always has at least one coordinate.
///
/// # Derivatives
///
/// Those that are not given are finite differences. With `hᵢ = tᵢ₊₁ − tᵢ` and the segment's slope
/// `dᵢ = (qᵢ₊₁ − qᵢ) / hᵢ`:
///
/// ```text
/// velocity      vᵢ = (hᵢ dᵢ₋₁ + hᵢ₋₁ dᵢ) / (hᵢ₋₁ + hᵢ)      v₀ = d₀,  vₙ = dₙ₋₁
/// acceleration  aᵢ = 2 (dᵢ − dᵢ₋₁) / (hᵢ₋₁ + hᵢ)            a₀ = a₁,  aₙ = aₙ₋₁
/// ```
///
/// These are exact for a parabola, the velocity at the two ends excepted. A single waypoint is at rest, and two have no
/// acceleration.
/// Accelerations that follow *given* velocities are the velocity formula, applied to them.
///
/// ```
/// use std::time::Duration;
/// use clearway_motion::{Interpolation, Trajectory};
/// use ndarray::array;
///
/// let period = Duration::from_millis(100);
/// let positions = array![[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]];
/// let path = Trajectory::uniform(Duration::ZERO, period, positions, Interpolation::Linear)?;
/// assert_eq!(path.duration(), 2 * period);
///
/// let state = path.sample(Duration::from_millis(150)).expect("it has waypoints");
/// assert!((state.position[1] - 1.0).abs() < 1e-12);
/// assert!((state.velocity[1] - 20.0).abs() < 1e-12);
/// # Ok::<(), clearway_motion::TrajectoryError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    times: Vec<Duration>,
    // All three have the shape [waypoint, dof].
    positions: Array2<f64>,
    velocities: Array2<f64>,
    accelerations: Array2<f64>,
    interpolation: Interpolation,
}

impl Trajectory {
    /// A trajectory through `positions`, of shape `[waypoint, dof]`, at `times`; its derivatives are derived.
    ///
    /// # Errors
    ///
    /// - [`TrajectoryError::NoCoordinates`] if `dof` is 0.
    /// - [`TrajectoryError::Shape`] if there are more or fewer rows than times.
    /// - [`TrajectoryError::Time`] if a time is not after the one before.
    /// - [`TrajectoryError::NonFinite`] at the first NaN or infinity, in the positions or in what is derived from them.
    pub fn new(
        times: Vec<Duration>,
        positions: Array2<f64>,
        interpolation: Interpolation,
    ) -> Result<Self, TrajectoryError> {
        if positions.ncols() == 0 {
            return Err(TrajectoryError::NoCoordinates);
        }
        check_shape(
            Quantity::Position,
            &positions,
            [times.len(), positions.ncols()],
        )?;
        check_times(&times)?;
        // Positions first, so that the error names the cause and not a derivative that it spoiled.
        check_finite(Quantity::Position, &positions)?;
        let velocities = first_difference(&times, &positions);
        check_finite(Quantity::Velocity, &velocities)?;
        let accelerations = second_difference(&times, &positions);
        check_finite(Quantity::Acceleration, &accelerations)?;
        Ok(Self {
            times,
            positions,
            velocities,
            accelerations,
            interpolation,
        })
    }

    /// A trajectory of given values, all of which are checked.
    pub(crate) fn from_parts(
        times: Vec<Duration>,
        positions: Array2<f64>,
        velocities: Array2<f64>,
        accelerations: Array2<f64>,
        interpolation: Interpolation,
    ) -> Result<Self, TrajectoryError> {
        check_times(&times)?;
        let shape = [times.len(), positions.ncols()];
        for (quantity, values) in [
            (Quantity::Position, &positions),
            (Quantity::Velocity, &velocities),
            (Quantity::Acceleration, &accelerations),
        ] {
            check_shape(quantity, values, shape)?;
            check_finite(quantity, values)?;
        }
        Ok(Self {
            times,
            positions,
            velocities,
            accelerations,
            interpolation,
        })
    }

    /// Some of the waypoints of `self`, which need no check.
    pub(crate) fn copied(
        &self,
        times: Vec<Duration>,
        positions: Array2<f64>,
        velocities: Array2<f64>,
        accelerations: Array2<f64>,
    ) -> Self {
        Self {
            times,
            positions,
            velocities,
            accelerations,
            interpolation: self.interpolation,
        }
    }

    /// A trajectory whose waypoint `i` is at `start + i · period`, as the actions of a policy are.
    ///
    /// # Errors
    ///
    /// Those of [`Trajectory::new`]; a period of zero is a [`TrajectoryError::Time`], and an end beyond
    /// [`Duration::MAX`] a [`TrajectoryError::Late`].
    pub fn uniform(
        start: Duration,
        period: Duration,
        positions: Array2<f64>,
        interpolation: Interpolation,
    ) -> Result<Self, TrajectoryError> {
        let mut times = Vec::with_capacity(positions.nrows());
        let mut time = start;
        for waypoint in 0..positions.nrows() {
            if waypoint > 0 {
                let next = time.checked_add(period);
                time = next.ok_or(TrajectoryError::Late { waypoint })?;
            }
            times.push(time);
        }
        Self::new(times, positions, interpolation)
    }

    /// A trajectory of `dof` coordinates without waypoints.
    ///
    /// # Errors
    ///
    /// [`TrajectoryError::NoCoordinates`] if `dof` is 0.
    pub fn empty(dof: usize) -> Result<Self, TrajectoryError> {
        Self::new(Vec::new(), Array2::zeros((0, dof)), Interpolation::Hold)
    }

    /// The same waypoints with these velocities, of shape `[waypoint, dof]`; accelerations are derived from them.
    ///
    /// # Errors
    ///
    /// [`TrajectoryError::Shape`] and [`TrajectoryError::NonFinite`], as in [`Trajectory::new`].
    pub fn with_velocities(mut self, velocities: Array2<f64>) -> Result<Self, TrajectoryError> {
        check_shape(Quantity::Velocity, &velocities, self.shape())?;
        check_finite(Quantity::Velocity, &velocities)?;
        self.accelerations = first_difference(&self.times, &velocities);
        check_finite(Quantity::Acceleration, &self.accelerations)?;
        self.velocities = velocities;
        Ok(self)
    }

    /// The same waypoints with these accelerations, of shape `[waypoint, dof]`.
    ///
    /// Give velocities first: [`Trajectory::with_velocities`] derives the accelerations anew.
    ///
    /// # Errors
    ///
    /// [`TrajectoryError::Shape`] and [`TrajectoryError::NonFinite`], as in [`Trajectory::new`].
    pub fn with_accelerations(
        mut self,
        accelerations: Array2<f64>,
    ) -> Result<Self, TrajectoryError> {
        check_shape(Quantity::Acceleration, &accelerations, self.shape())?;
        check_finite(Quantity::Acceleration, &accelerations)?;
        self.accelerations = accelerations;
        Ok(self)
    }

    /// The same waypoints, with something else between them.
    #[must_use]
    pub fn with_interpolation(mut self, interpolation: Interpolation) -> Self {
        self.interpolation = interpolation;
        self
    }

    /// The number of waypoints.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is no waypoint.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The number of coordinates, at least 1.
    pub fn dof(&self) -> usize {
        self.positions.ncols()
    }

    /// The time from the first waypoint to the last; zero if there are fewer than two.
    pub fn duration(&self) -> Duration {
        match self.times[..] {
            [first, .., last] => last.saturating_sub(first),
            _ => Duration::ZERO,
        }
    }

    /// When the waypoints are reached, strictly increasing.
    pub fn times(&self) -> &[Duration] {
        &self.times
    }

    /// Positions, `[waypoint, dof]`.
    pub fn positions(&self) -> ArrayView2<'_, f64> {
        self.positions.view()
    }

    /// Velocities at the waypoints, `[waypoint, dof]`.
    pub fn velocities(&self) -> ArrayView2<'_, f64> {
        self.velocities.view()
    }

    /// Accelerations at the waypoints, `[waypoint, dof]`.
    pub fn accelerations(&self) -> ArrayView2<'_, f64> {
        self.accelerations.view()
    }

    /// What happens between two waypoints.
    pub fn interpolation(&self) -> Interpolation {
        self.interpolation
    }

    /// The waypoints in the order of time.
    pub fn waypoints(&self) -> impl ExactSizeIterator<Item = Waypoint<'_>> {
        self.times.iter().enumerate().map(|(i, &time)| Waypoint {
            time,
            position: self.positions.row(i),
            velocity: self.velocities.row(i),
            acceleration: self.accelerations.row(i),
        })
    }

    fn shape(&self) -> [usize; 2] {
        [self.len(), self.dof()]
    }
}

/// Seconds between two times in order.
pub(crate) fn seconds(from: Duration, to: Duration) -> f64 {
    to.saturating_sub(from).as_secs_f64()
}

/// The velocity formula of [`Trajectory`], applied to each column of `values`, `[waypoint, dof]`.
pub(crate) fn first_difference(times: &[Duration], values: &Array2<f64>) -> Array2<f64> {
    let last = times.len().saturating_sub(1);
    let step = |i: usize| seconds(times[i], times[i + 1]);
    let slope = |i: usize, j: usize| (values[[i + 1, j]] - values[[i, j]]) / step(i);
    Array2::from_shape_fn(values.raw_dim(), |(i, j)| {
        if last == 0 {
            0.0
        } else if i == 0 {
            slope(0, j)
        } else if i == last {
            slope(last - 1, j)
        } else {
            let (before, after) = (step(i - 1), step(i));
            (after * slope(i - 1, j) + before * slope(i, j)) / (before + after)
        }
    })
}

/// The acceleration formula of [`Trajectory`].
fn second_difference(times: &[Duration], positions: &Array2<f64>) -> Array2<f64> {
    let last = times.len().saturating_sub(1);
    let step = |i: usize| seconds(times[i], times[i + 1]);
    let slope = |i: usize, j: usize| (positions[[i + 1, j]] - positions[[i, j]]) / step(i);
    Array2::from_shape_fn(positions.raw_dim(), |(i, j)| {
        if last < 2 {
            return 0.0;
        }
        let i = i.clamp(1, last - 1);
        2.0 * (slope(i, j) - slope(i - 1, j)) / (step(i - 1) + step(i))
    })
}

fn check_times(times: &[Duration]) -> Result<(), TrajectoryError> {
    for (i, pair) in times.windows(2).enumerate() {
        let (previous, time) = (pair[0], pair[1]);
        if time <= previous {
            return Err(TrajectoryError::Time {
                waypoint: i + 1,
                time,
                previous,
            });
        }
    }
    Ok(())
}

fn check_shape(
    quantity: Quantity,
    values: &Array2<f64>,
    expected: [usize; 2],
) -> Result<(), TrajectoryError> {
    let found = [values.nrows(), values.ncols()];
    if found == expected {
        Ok(())
    } else {
        Err(TrajectoryError::Shape {
            quantity,
            expected,
            found,
        })
    }
}

fn check_finite(quantity: Quantity, values: &Array2<f64>) -> Result<(), TrajectoryError> {
    match values.indexed_iter().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some(((waypoint, coordinate), &value)) => Err(TrajectoryError::NonFinite {
            quantity,
            waypoint,
            coordinate,
            value,
        }),
    }
}

/// Why numbers do not make a [`Trajectory`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrajectoryError {
    /// The positions have no column.
    #[error("a trajectory needs at least one coordinate")]
    NoCoordinates,
    /// Times and values disagree on the number of waypoints or coordinates.
    #[error("{quantity} must have the shape [waypoint, dof] = {expected:?}, found {found:?}")]
    Shape {
        /// Which values.
        quantity: Quantity,
        /// `[waypoint, dof]` of the trajectory.
        expected: [usize; 2],
        /// `[waypoint, dof]` of the values.
        found: [usize; 2],
    },
    /// A time that is not after the one before.
    #[error("waypoint {waypoint} is at {time:?}, not after waypoint {} at {previous:?}", waypoint - 1)]
    Time {
        /// The later waypoint of the two.
        waypoint: usize,
        /// Its time.
        time: Duration,
        /// The time of the waypoint before.
        previous: Duration,
    },
    /// A time beyond [`Duration::MAX`].
    #[error("waypoint {waypoint} would be later than a duration can say")]
    Late {
        /// The first waypoint that is too late.
        waypoint: usize,
    },
    /// Two trajectories that are to be one differ in what lies between their waypoints.
    #[error("a {first} trajectory cannot go on as a {second} one")]
    Interpolation {
        /// The earlier one's.
        first: Interpolation,
        /// The later one's.
        second: Interpolation,
    },
    /// A time at which there is no state of motion to take over.
    #[error("nothing can be taken over at {at:?}: {reason}")]
    HandOver {
        /// The time.
        at: Duration,
        /// Why there is none.
        reason: &'static str,
    },
    /// A NaN or an infinity.
    #[error("{quantity} of waypoint {waypoint}, coordinate {coordinate}, is {value}")]
    NonFinite {
        /// Which values; a derived quantity if the positions are finite, but too far apart for an `f64`.
        quantity: Quantity,
        /// The row.
        waypoint: usize,
        /// The column.
        coordinate: usize,
        /// NaN, or an infinity.
        value: f64,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    pub(crate) fn valid(
        times: &[u64],
        positions: Array2<f64>,
        interpolation: Interpolation,
    ) -> Trajectory {
        let times = times.iter().copied().map(ms).collect();
        Trajectory::new(times, positions, interpolation).expect("the waypoints are valid")
    }

    #[test]
    fn errors_say_where() {
        let new = |times: &[u64], positions| {
            let times = times.iter().copied().map(ms).collect();
            Trajectory::new(times, positions, Interpolation::Linear)
                .expect_err("the waypoints are not valid")
                .to_string()
        };
        assert_eq!(
            new(&[0, 1, 2], array![[0.0], [1.0]]),
            "position must have the shape [waypoint, dof] = [3, 1], found [2, 1]"
        );
        assert_eq!(
            new(&[0, 7, 7], array![[0.0], [1.0], [2.0]]),
            "waypoint 2 is at 7ms, not after waypoint 1 at 7ms"
        );
        assert_eq!(
            new(&[0, 1], array![[0.0, 1.0], [1.0, f64::NAN]]),
            "position of waypoint 1, coordinate 1, is NaN"
        );
        assert_eq!(
            new(&[0, 1], array![[-1e308], [1e308]]),
            "velocity of waypoint 0, coordinate 0, is inf"
        );
        assert_eq!(
            new(&[0], Array2::zeros((1, 0))),
            "a trajectory needs at least one coordinate"
        );
        let line = valid(&[0, 1], array![[0.0], [1.0]], Interpolation::Linear);
        assert_eq!(
            line.with_velocities(array![[0.0]])
                .expect_err("one row is missing")
                .to_string(),
            "velocity must have the shape [waypoint, dof] = [2, 1], found [1, 1]"
        );
    }

    #[test]
    fn a_period_must_pass() {
        let uniform = |period| {
            Trajectory::uniform(
                Duration::ZERO,
                period,
                array![[0.0], [1.0], [2.0]],
                Interpolation::Hold,
            )
        };
        assert!(matches!(
            uniform(Duration::ZERO),
            Err(TrajectoryError::Time { waypoint: 1, .. })
        ));
        assert!(matches!(
            uniform(Duration::MAX),
            Err(TrajectoryError::Late { waypoint: 2 })
        ));
        assert_eq!(
            uniform(ms(100)).expect("100 ms pass").times(),
            [ms(0), ms(100), ms(200)]
        );
    }

    #[test]
    fn an_empty_trajectory_has_no_state() {
        let empty = Trajectory::empty(3).expect("3 coordinates");
        assert!(empty.is_empty());
        assert_eq!(empty.dof(), 3);
        assert_eq!(empty.duration(), Duration::ZERO);
        assert_eq!(empty.sample(Duration::ZERO), None);
        assert_eq!(Trajectory::empty(0), Err(TrajectoryError::NoCoordinates));
    }

    #[test]
    fn a_single_waypoint_is_at_rest() {
        let point = valid(&[5], array![[2.0, 3.0]], Interpolation::Cubic);
        assert_eq!(point.velocities(), array![[0.0, 0.0]]);
        let state = point.sample(ms(77)).expect("it has a waypoint");
        assert_eq!(state.position.as_slice(), [2.0, 3.0]);
    }

    /// Strictly increasing times and as many positions, of two coordinates.
    pub(crate) fn waypoints() -> impl Strategy<Value = (Vec<Duration>, Array2<f64>)> {
        prop::collection::vec((1_u64..500, -1e3..1e3_f64, -1e3..1e3_f64), 1..12).prop_map(|rows| {
            let mut now = 0;
            let times = rows
                .iter()
                .map(|row| {
                    now += row.0;
                    ms(now)
                })
                .collect();
            let positions = rows.iter().flat_map(|row| [row.1, row.2]).collect();
            let positions = Array2::from_shape_vec((rows.len(), 2), positions);
            (times, positions.expect("two coordinates a row"))
        })
    }

    proptest! {

        #[test]
        fn a_trajectory_is_finite_or_refused(
            (times, mut positions) in waypoints(),
            row in 0_usize..12,
            value in prop::num::f64::ANY,
        ) {
            let row = row % times.len();
            positions[[row, 1]] = value;
            match Trajectory::new(times, positions, Interpolation::Cubic) {
                Ok(path) => {
                    let all = [path.positions(), path.velocities(), path.accelerations()];
                    prop_assert!(all.iter().all(|values| values.iter().all(|v| v.is_finite())));
                }
                Err(TrajectoryError::NonFinite { quantity: Quantity::Position, waypoint, coordinate, .. }) => {
                    prop_assert_eq!((waypoint, coordinate), (row, 1));
                    prop_assert!(!value.is_finite());
                }
                Err(error) => {
                    // Finite, but so large that a difference is not.
                    let refused = matches!(error, TrajectoryError::NonFinite { .. });
                    prop_assert!(refused, "{}", error);
                    prop_assert!(value.abs() > 1e300);
                }
            }
        }

        #[test]
        fn a_parabola_has_its_derivatives(
            (times, _) in waypoints(),
            a in -10.0..10.0_f64,
            v in -10.0..10.0_f64,
        ) {
            let seconds = times.iter().map(Duration::as_secs_f64);
            let positions = seconds.map(|t| v * t + a * t * t / 2.0).collect();
            let positions = Array2::from_shape_vec((times.len(), 1), positions).expect("one column");
            let path = Trajectory::new(times, positions, Interpolation::Cubic).expect("finite");
            let inner = path.len().saturating_sub(2);
            for waypoint in path.waypoints().skip(1).take(inner) {
                let t = waypoint.time.as_secs_f64();
                // Differences divide rounding of 1e-14 by steps of 1e-3 s, the second ones twice.
                prop_assert!((waypoint.velocity[0] - (v + a * t)).abs() < 1e-7);
                prop_assert!((waypoint.acceleration[0] - a).abs() < 1e-4);
            }
        }
    }
}
