//! What a trajectory may not exceed.

use std::fmt;
use std::time::Duration;

use crate::interpolation::Interpolation;
use crate::trajectory::Trajectory;

/// Bounds on the positions, velocities, accelerations and jerks of each coordinate.
///
/// ```text
/// lower ≤ q ≤ upper,   |v| ≤ velocity,   |a| ≤ acceleration,   |da/dt| ≤ jerk
/// ```
///
/// An infinite bound, the default, is no limit.
/// Limits judge and never repair: what to do about a [`Violation`] is the planner's decision.
///
/// ```
/// use std::time::Duration;
/// use clearway_motion::{Interpolation, Limits, Trajectory};
/// use ndarray::array;
///
/// let limits = Limits::unlimited(1).with_velocity(&[2.0])?;
/// let times = vec![Duration::ZERO, Duration::from_millis(100)];
/// let leap = Trajectory::new(times, array![[0.0], [0.5]], Interpolation::Linear)?;
/// let violation = limits.check(&leap).expect_err("0.5 in 0.1 s is too fast");
/// assert_eq!(
///     violation.to_string(),
///     "velocity of coordinate 0 is 5 at 0ns (waypoint 0), beyond its limit 2",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    lower: Vec<f64>,
    upper: Vec<f64>,
    velocity: Vec<f64>,
    acceleration: Vec<f64>,
    jerk: Vec<f64>,
}

impl Limits {
    /// No limit on any of `dof` coordinates.
    pub fn unlimited(dof: usize) -> Self {
        Self {
            lower: vec![f64::NEG_INFINITY; dof],
            upper: vec![f64::INFINITY; dof],
            velocity: vec![f64::INFINITY; dof],
            acceleration: vec![f64::INFINITY; dof],
            jerk: vec![f64::INFINITY; dof],
        }
    }

    /// Bounds positions from below and above, in the unit of each coordinate.
    ///
    /// # Errors
    ///
    /// [`LimitsError`] if a slice has not `dof` entries, or an interval is empty or NaN.
    pub fn with_position(mut self, lower: &[f64], upper: &[f64]) -> Result<Self, LimitsError> {
        self.check_dof(lower)?;
        self.check_dof(upper)?;
        for (coordinate, (&lower, &upper)) in lower.iter().zip(upper).enumerate() {
            // A comparison with NaN is false.
            let ordered = lower <= upper;
            if !ordered {
                return Err(LimitsError::Interval {
                    coordinate,
                    lower,
                    upper,
                });
            }
        }
        self.lower = lower.to_vec();
        self.upper = upper.to_vec();
        Ok(self)
    }

    /// Bounds speeds, per second.
    ///
    /// # Errors
    ///
    /// [`LimitsError`] if there are not `dof` entries, or one is negative or NaN.
    pub fn with_velocity(mut self, maximum: &[f64]) -> Result<Self, LimitsError> {
        self.check_maximum(maximum)?;
        self.velocity = maximum.to_vec();
        Ok(self)
    }

    /// Bounds accelerations in both directions, per second squared.
    ///
    /// # Errors
    ///
    /// [`LimitsError`] if there are not `dof` entries, or one is negative or NaN.
    pub fn with_acceleration(mut self, maximum: &[f64]) -> Result<Self, LimitsError> {
        self.check_maximum(maximum)?;
        self.acceleration = maximum.to_vec();
        Ok(self)
    }

    /// Bounds jerks in both directions, per second cubed.
    ///
    /// # Errors
    ///
    /// [`LimitsError`] if there are not `dof` entries, or one is negative or NaN.
    pub fn with_jerk(mut self, maximum: &[f64]) -> Result<Self, LimitsError> {
        self.check_maximum(maximum)?;
        self.jerk = maximum.to_vec();
        Ok(self)
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.lower.len()
    }

    /// Lower bounds of the positions.
    pub fn lower(&self) -> &[f64] {
        &self.lower
    }

    /// Upper bounds of the positions.
    pub fn upper(&self) -> &[f64] {
        &self.upper
    }

    /// Bounds of the speeds.
    pub fn velocity(&self) -> &[f64] {
        &self.velocity
    }

    /// Bounds of the accelerations.
    pub fn acceleration(&self) -> &[f64] {
        &self.acceleration
    }

    /// Bounds of the jerks.
    pub fn jerk(&self) -> &[f64] {
        &self.jerk
    }

    /// Whether `trajectory` stays within the limits, between its waypoints too.
    ///
    /// The waypoints' own positions, velocities and accelerations are judged, and then the segments. With the second
    /// difference `aᵢ = 2 (dᵢ − dᵢ₋₁) / (hᵢ₋₁ + hᵢ)` at a waypoint between two others:
    ///
    /// ```text
    /// Hold, Linear   v = (qᵢ₊₁ − qᵢ) / hᵢ                        what following it takes
    ///                a = aᵢ                                      its second difference
    ///                j = 3 (aᵢ − aᵢ₋₁) / (hᵢ₋₂ + hᵢ₋₁ + hᵢ)      its third difference
    /// Cubic          the extremes of q, v and a; j is constant
    /// Quintic        the extremes of q, v, a and j
    /// ```
    ///
    /// So for [`Interpolation::Cubic`] and [`Interpolation::Quintic`] every state that [`Trajectory::sample`] returns is
    /// covered: extremes are at the ends of a segment or where a derivative vanishes, and all roots of all derivatives
    /// are isolated, to the last bit. What is missed is not larger than the rounding of the polynomial itself.
    /// A straight or held curve has no acceleration in the strict sense (its velocity jumps); by the mean value theorem
    /// every smooth motion through the same waypoints reaches the second and the third difference somewhere.
    /// Between two segments of a cubic the *acceleration* jumps, within its bound on both sides. No finite jerk follows
    /// such a jump, and the bound of the jerk does not judge it: it would refuse every cubic but a parabola. For a robot
    /// whose jerk matters at waypoints too, plan an [`Interpolation::Quintic`].
    /// There is no tolerance: a value exactly at its limit passes, the next float beyond it does not.
    ///
    /// # Errors
    ///
    /// The [`Violation`] that comes first in time; of an extreme, the time is where it is extreme.
    pub fn check(&self, trajectory: &Trajectory) -> Result<(), Violation> {
        self.check_dimensions(trajectory)?;
        let mut found = Vec::new();
        for waypoint in 0..trajectory.len() {
            self.judge(trajectory, waypoint, &mut found);
            // The first of equals, in the order of coordinates.
            if let Some(first) = found.drain(..).min_by_key(Violation::time) {
                return Err(first);
            }
        }
        Ok(())
    }

    /// Everything in `trajectory` that [`Limits::check`] refuses, in the order of time: of each bound and coordinate the
    /// first excess.
    pub fn violations(&self, trajectory: &Trajectory) -> Vec<Violation> {
        if let Err(violation) = self.check_dimensions(trajectory) {
            return vec![violation];
        }
        let mut found = Vec::new();
        for waypoint in 0..trajectory.len() {
            self.judge(trajectory, waypoint, &mut found);
        }
        // Stable: at one time the order is that of coordinates.
        found.sort_by_key(Violation::time);
        let mut first: Vec<Violation> = Vec::new();
        for violation in found {
            if first.iter().all(|other| other.place() != violation.place()) {
                first.push(violation);
            }
        }
        first
    }

    /// What is beyond a limit at waypoint `i` and in the segment that begins there.
    fn judge(&self, trajectory: &Trajectory, i: usize, found: &mut Vec<Violation>) {
        let time = trajectory.times()[i];
        let end = trajectory.times().get(i + 1);
        for j in 0..self.dof() {
            let mut judge = Judge {
                limits: self,
                waypoint: i,
                time,
                coordinate: j,
                found,
            };
            judge.position(trajectory.positions()[[i, j]], time);
            judge.velocity(trajectory.velocities()[[i, j]], time);
            judge.acceleration(trajectory.accelerations()[[i, j]], time);
            let Some(&end) = end else { continue };
            match trajectory.interpolation() {
                Interpolation::Hold | Interpolation::Linear => judge.differences(trajectory),
                Interpolation::Cubic | Interpolation::Quintic => judge.segment(trajectory, end),
            }
        }
    }

    fn check_dimensions(&self, trajectory: &Trajectory) -> Result<(), Violation> {
        if self.dof() == trajectory.dof() {
            Ok(())
        } else {
            Err(Violation::Dimensions {
                limits: self.dof(),
                trajectory: trajectory.dof(),
            })
        }
    }

    fn check_dof(&self, values: &[f64]) -> Result<(), LimitsError> {
        if values.len() == self.dof() {
            Ok(())
        } else {
            Err(LimitsError::Dimensions {
                expected: self.dof(),
                found: values.len(),
            })
        }
    }

    fn check_maximum(&self, maximum: &[f64]) -> Result<(), LimitsError> {
        self.check_dof(maximum)?;
        for (coordinate, &value) in maximum.iter().enumerate() {
            // NaN is not in the range.
            if !(0.0..=f64::INFINITY).contains(&value) {
                return Err(LimitsError::Maximum { coordinate, value });
            }
        }
        Ok(())
    }
}

/// Compares the values of one coordinate, at or after one waypoint.
struct Judge<'a> {
    limits: &'a Limits,
    waypoint: usize,
    time: Duration,
    coordinate: usize,
    found: &'a mut Vec<Violation>,
}

impl Judge<'_> {
    fn differences(&mut self, trajectory: &Trajectory) {
        let (i, j, time) = (self.waypoint, self.coordinate, self.time);
        let slope = |i| trajectory.slope(i, j);
        let step = |i| trajectory.step(i);
        let second = |i| 2.0 * (slope(i) - slope(i - 1)) / (step(i - 1) + step(i));
        self.velocity(slope(i), time);
        // Given accelerations do not excuse what the positions ask for.
        if i > 0 {
            self.acceleration(second(i), time);
        }
        if i > 1 {
            let span = step(i - 2) + step(i - 1) + step(i);
            self.jerk(3.0 * (second(i) - second(i - 1)) / span, time);
        }
    }

    fn segment(&mut self, trajectory: &Trajectory, end: Duration) {
        let segment = trajectory.segment(self.waypoint, self.coordinate);
        let begin = self.time;
        let step = end.saturating_sub(begin);
        for u in segment.critical_points().iter() {
            let time = begin.saturating_add(step.mul_f64(u));
            self.position(segment.position(u), time);
            self.velocity(segment.velocity(u), time);
            self.acceleration(segment.acceleration(u), time);
            self.jerk(segment.jerk(u), time);
        }
        // Positions and velocities at the ends are the waypoints', and so are a quintic's accelerations.
        for (u, time) in [(0.0, begin), (1.0, end)] {
            if trajectory.interpolation() == Interpolation::Cubic {
                self.acceleration(segment.acceleration(u), time);
            }
            self.jerk(segment.jerk(u), time);
        }
    }

    fn position(&mut self, value: f64, time: Duration) {
        let (lower, upper) = (
            self.limits.lower[self.coordinate],
            self.limits.upper[self.coordinate],
        );
        self.judge(Bound::Lower, value, lower, value >= lower, time);
        self.judge(Bound::Upper, value, upper, value <= upper, time);
    }

    fn velocity(&mut self, value: f64, time: Duration) {
        let limit = self.limits.velocity[self.coordinate];
        self.judge(Bound::Velocity, value, limit, value.abs() <= limit, time);
    }

    fn acceleration(&mut self, value: f64, time: Duration) {
        let limit = self.limits.acceleration[self.coordinate];
        let within = value.abs() <= limit;
        self.judge(Bound::Acceleration, value, limit, within, time);
    }

    fn jerk(&mut self, value: f64, time: Duration) {
        let limit = self.limits.jerk[self.coordinate];
        self.judge(Bound::Jerk, value, limit, value.abs() <= limit, time);
    }

    fn judge(&mut self, bound: Bound, value: f64, limit: f64, within: bool, time: Duration) {
        // `within` is false for a NaN, whatever the limit: that is what failing closed means here.
        if !within {
            self.found.push(Violation::Exceeded {
                bound,
                coordinate: self.coordinate,
                waypoint: self.waypoint,
                time,
                value,
                limit,
            });
        }
    }
}

/// Which bound of [`Limits`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Bound {
    /// The lower bound of a position.
    Lower,
    /// The upper bound of a position.
    Upper,
    /// The bound of a speed.
    Velocity,
    /// The bound of an acceleration's magnitude.
    Acceleration,
    /// The bound of a jerk's magnitude.
    Jerk,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lower | Self::Upper => "position",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
            Self::Jerk => "jerk",
        })
    }
}

/// What a trajectory does that its [`Limits`] forbid.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// Limits for another number of coordinates: nothing was judged, so nothing is allowed.
    #[error("the limits are for {limits} coordinates, the trajectory has {trajectory}")]
    Dimensions {
        /// Coordinates of the limits.
        limits: usize,
        /// Coordinates of the trajectory.
        trajectory: usize,
    },
    /// A value beyond its limit.
    #[error(
        "{bound} of coordinate {coordinate} is {value} at {time:?} (waypoint {waypoint}), beyond its limit {limit}"
    )]
    Exceeded {
        /// Which bound.
        bound: Bound,
        /// The column.
        coordinate: usize,
        /// The waypoint at or before it.
        waypoint: usize,
        /// When; for a slope or another difference, the waypoint's time.
        time: Duration,
        /// The value, with its sign.
        value: f64,
        /// The bound that it is beyond; speeds and accelerations are bounded in both directions.
        limit: f64,
    },
}

impl Violation {
    /// When it happens; zero for [`Violation::Dimensions`].
    pub fn time(&self) -> Duration {
        match *self {
            Self::Dimensions { .. } => Duration::ZERO,
            Self::Exceeded { time, .. } => time,
        }
    }

    /// Which bound of which coordinate.
    fn place(&self) -> Option<(Bound, usize)> {
        match *self {
            Self::Dimensions { .. } => None,
            Self::Exceeded {
                bound, coordinate, ..
            } => Some((bound, coordinate)),
        }
    }

    /// By how much the value is beyond its limit, in its own unit; infinite for [`Violation::Dimensions`].
    pub fn excess(&self) -> f64 {
        match *self {
            Self::Dimensions { .. } => f64::INFINITY,
            Self::Exceeded {
                bound,
                value,
                limit,
                ..
            } => match bound {
                Bound::Lower => limit - value,
                Bound::Upper => value - limit,
                Bound::Velocity | Bound::Acceleration | Bound::Jerk => value.abs() - limit,
            },
        }
    }
}

/// Why numbers do not make [`Limits`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum LimitsError {
    /// Not one entry a coordinate.
    #[error("limits need {expected} entries, one a coordinate, found {found}")]
    Dimensions {
        /// The number of coordinates.
        expected: usize,
        /// The number of entries.
        found: usize,
    },
    /// No position is within.
    #[error("the position of coordinate {coordinate} cannot be between {lower} and {upper}")]
    Interval {
        /// The column.
        coordinate: usize,
        /// The lower bound.
        lower: f64,
        /// The upper bound.
        upper: f64,
    },
    /// A maximum that is negative or NaN.
    #[error("the maximum of coordinate {coordinate} is {value}, not a number from 0 up")]
    Maximum {
        /// The column.
        coordinate: usize,
        /// The maximum.
        value: f64,
    },
}

#[cfg(test)]
mod tests {
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    use super::*;

    fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn every_100_ms(positions: Array2<f64>, interpolation: Interpolation) -> Trajectory {
        Trajectory::uniform(Duration::ZERO, ms(100), positions, interpolation)
            .expect("the waypoints are valid")
    }

    #[test]
    fn a_violation_says_what_where_and_by_how_much() {
        let path = every_100_ms(
            array![[0.0, 0.0], [0.0, 0.5], [0.0, 0.9]],
            Interpolation::Linear,
        );
        let limits = Limits::unlimited(2)
            .with_position(&[-1.0, -1.0], &[1.0, 0.75])
            .expect("intervals");
        let violation = limits.check(&path).expect_err("0.9 is above 0.75");
        assert_eq!(
            violation,
            Violation::Exceeded {
                bound: Bound::Upper,
                coordinate: 1,
                waypoint: 2,
                time: ms(200),
                value: 0.9,
                limit: 0.75,
            }
        );
        approx::assert_relative_eq!(violation.excess(), 0.15);
    }

    #[test]
    fn other_dimensions_are_a_violation() {
        let path = every_100_ms(array![[0.0], [0.0]], Interpolation::Hold);
        let violation = Limits::unlimited(2).check(&path).expect_err("2 is not 1");
        assert_eq!(
            violation,
            Violation::Dimensions {
                limits: 2,
                trajectory: 1
            }
        );
    }

    #[test]
    fn a_zigzag_does_not_hide_between_its_waypoints() {
        // Central differences call every inner waypoint of it at rest.
        let zigzag = array![[0.0], [1.0], [0.0], [1.0], [0.0]];
        let slow = Limits::unlimited(1)
            .with_velocity(&[9.0])
            .expect("a maximum");
        let gentle = Limits::unlimited(1)
            .with_acceleration(&[199.0])
            .expect("a maximum");
        for interpolation in [
            Interpolation::Hold,
            Interpolation::Linear,
            Interpolation::Cubic,
            Interpolation::Quintic,
        ] {
            let path = every_100_ms(zigzag.clone(), interpolation);
            assert!(slow.check(&path).is_err());
            assert!(gentle.check(&path).is_err());
        }
    }

    #[test]
    fn a_cubic_may_not_overshoot() {
        let path = every_100_ms(array![[0.0], [0.0], [1.0], [1.0]], Interpolation::Cubic);
        let limits = Limits::unlimited(1)
            .with_position(&[0.0], &[1.0])
            .expect("an interval");
        let violation = limits
            .check(&path)
            .expect_err("it undershoots before it rises");
        assert!(matches!(
            violation,
            Violation::Exceeded {
                bound: Bound::Lower,
                waypoint: 0,
                ..
            }
        ));
    }

    #[test]
    fn the_jerk_of_a_curve_is_its_third_derivative() {
        // q = t³ has the jerk 6, and so has every third difference of it.
        let positions = Array2::from_shape_fn((6, 1), |(i, _)| (0.1 * i as f64).powi(3));
        let slopes = Array2::from_shape_fn((6, 1), |(i, _)| 3.0 * (0.1 * i as f64).powi(2));
        let bends = Array2::from_shape_fn((6, 1), |(i, _)| 0.6 * i as f64);
        let limits = |jerk| {
            let limits = Limits::unlimited(1).with_jerk(&[jerk]);
            limits.expect("a maximum")
        };
        for interpolation in [
            Interpolation::Hold,
            Interpolation::Linear,
            Interpolation::Cubic,
            Interpolation::Quintic,
        ] {
            let path = every_100_ms(positions.clone(), interpolation)
                .with_velocities(slopes.clone())
                .and_then(|path| path.with_accelerations(bends.clone()))
                .expect("one row a waypoint");
            assert_eq!(limits(6.0 + 1e-9).check(&path), Ok(()), "{interpolation}");
            let violation = limits(6.0 - 1e-9).check(&path).expect_err("6 is more");
            assert!(matches!(
                violation,
                Violation::Exceeded {
                    bound: Bound::Jerk,
                    ..
                }
            ));
            assert!(violation.excess() < 1e-6);
        }
    }

    #[test]
    fn the_jerk_of_a_quintic_is_judged_between_its_waypoints() {
        // From rest to rest: j = 60 (1 − 6u + 6u²), 60 at the ends and −30 in the middle; v is largest there, 15/8.
        let path = Trajectory::uniform(
            Duration::ZERO,
            Duration::from_secs(1),
            array![[0.0], [1.0]],
            Interpolation::Quintic,
        )
        .and_then(|path| path.with_velocities(array![[0.0], [0.0]]))
        .and_then(|path| path.with_accelerations(array![[0.0], [0.0]]))
        .expect("one row a waypoint");
        let jerk = |maximum| {
            Limits::unlimited(1)
                .with_jerk(&[maximum])
                .expect("a number")
        };
        assert_eq!(jerk(60.0).check(&path), Ok(()));
        assert!(jerk(59.99).check(&path).is_err());
        let fast = Limits::unlimited(1)
            .with_velocity(&[1.8])
            .expect("a number");
        let violation = fast.check(&path).expect_err("15/8 is more than 1.8");
        assert_eq!(violation.time(), ms(500));
        approx::assert_relative_eq!(violation.excess(), 0.075, epsilon = 1e-12);
    }

    #[test]
    fn violations_are_all_that_is_wrong_in_the_order_of_time() {
        let path = every_100_ms(
            array![[0.0, 0.0], [0.0, 0.1], [0.9, 0.1], [0.9, 0.1]],
            Interpolation::Linear,
        );
        let limits = Limits::unlimited(2)
            .with_position(&[-1.0, -1.0], &[0.8, 1.0])
            .and_then(|limits| limits.with_velocity(&[8.0, 0.5]))
            .expect("they are numbers");
        let found = limits.violations(&path);
        let places: Vec<_> = found.iter().map(|v| (v.time(), v.place())).collect();
        assert_eq!(
            places,
            [
                (ms(0), Some((Bound::Velocity, 1))),
                (ms(100), Some((Bound::Velocity, 0))),
                (ms(200), Some((Bound::Upper, 0))),
            ]
        );
        assert_eq!(limits.check(&path).as_ref(), Err(&found[0]));
    }

    #[test]
    fn limits_are_numbers() {
        let limits = || Limits::unlimited(1);
        assert!(limits().with_position(&[1.0], &[0.0]).is_err());
        assert!(limits().with_position(&[f64::NAN], &[0.0]).is_err());
        assert!(limits().with_velocity(&[-1.0]).is_err());
        assert!(limits().with_acceleration(&[f64::NAN]).is_err());
        assert!(limits().with_jerk(&[-0.1]).is_err());
        assert!(limits().with_velocity(&[1.0, 1.0]).is_err());
        assert!(limits().with_velocity(&[f64::INFINITY]).is_ok());
    }

    proptest! {
        #[test]
        fn unlimited_allows_everything(
            positions in prop::collection::vec(-1e3..1e3_f64, 1..12),
        ) {
            let positions = Array2::from_shape_vec((positions.len(), 1), positions).expect("a column");
            let path = every_100_ms(positions, Interpolation::Cubic);
            prop_assert_eq!(Limits::unlimited(1).check(&path), Ok(()));
        }

        /// The claim of `check` for curves: if it passes, no sample is beyond; if not, a sample is, at the place named.
        #[test]
        fn what_passes_stays_within_at_every_time(
            positions in prop::collection::vec(-1.0..1.0_f64, 2..8),
            interpolation in prop::sample::select(vec![Interpolation::Cubic, Interpolation::Quintic]),
            reach in 0.5..1.5_f64,
            speed in 5.0..40.0_f64,
            force in 100.0..2000.0_f64,
        ) {
            // Closed-form extremes and Horner's rule round differently.
            let tolerance = 1e-9;
            let positions = Array2::from_shape_vec((positions.len(), 1), positions).expect("a column");
            let path = every_100_ms(positions, interpolation);
            let limits = Limits::unlimited(1)
                .with_position(&[-reach], &[reach])
                .and_then(|limits| limits.with_velocity(&[speed]))
                .and_then(|limits| limits.with_acceleration(&[force]))
                .expect("they are numbers");
            match limits.check(&path) {
                Ok(()) => for millis in 0..=100 * path.len() as u64 {
                    let state = path.sample(ms(millis)).expect("it has waypoints");
                    prop_assert!(state.position[0].abs() <= reach + tolerance);
                    prop_assert!(state.velocity[0].abs() <= speed * (1.0 + tolerance));
                    prop_assert!(state.acceleration[0].abs() <= force * (1.0 + tolerance));
                },
                Err(violation) => {
                    prop_assert!(violation.excess() > 0.0);
                    let Violation::Exceeded { bound, value, time, .. } = violation else {
                        panic!("the dimensions agree");
                    };
                    let last = path.times()[path.len() - 1];
                    let state = path.sample(time).expect("it has waypoints");
                    let found = match bound {
                        Bound::Lower | Bound::Upper => state.position[0],
                        Bound::Velocity => state.velocity[0],
                        _ => state.acceleration[0],
                    };
                    // Times are whole nanoseconds: rates change by 1e7 in a second. Accelerations of cubics jump at
                    // waypoints, and at its end the curve stops.
                    let inside = !path.times().contains(&time) && time < last;
                    prop_assert!(!inside || (found - value).abs() < 0.1, "{found} for {value}");
                }
            }
        }
    }
}
