//! What a trajectory may not exceed.

use std::fmt;
use std::time::Duration;

use crate::interpolation::Interpolation;
use crate::trajectory::Trajectory;

/// Bounds on the positions, velocities and accelerations of each coordinate.
///
/// ```text
/// lower ≤ q ≤ upper,   |v| ≤ velocity,   |a| ≤ acceleration
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
}

impl Limits {
    /// No limit on any of `dof` coordinates.
    pub fn unlimited(dof: usize) -> Self {
        Self {
            lower: vec![f64::NEG_INFINITY; dof],
            upper: vec![f64::INFINITY; dof],
            velocity: vec![f64::INFINITY; dof],
            acceleration: vec![f64::INFINITY; dof],
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

    /// Whether `trajectory` stays within the limits, between its waypoints too.
    ///
    /// The waypoints' own positions, velocities and accelerations are judged, and then the segments:
    ///
    /// ```text
    /// Hold, Linear   v = (qᵢ₊₁ − qᵢ) / hᵢ                      what following it takes
    ///                a = 2 (dᵢ − dᵢ₋₁) / (hᵢ₋₁ + hᵢ)           its second difference
    /// Cubic          the extremes of q, v and a, in closed form
    /// ```
    ///
    /// So for [`Interpolation::Cubic`] every state that [`Trajectory::sample`] returns is covered.
    /// A straight or held curve has no acceleration in the strict sense (its velocity jumps); by the mean value theorem
    /// every smooth motion through the same waypoints reaches the second difference somewhere.
    /// There is no tolerance: a value exactly at its limit passes, the next float beyond it does not.
    ///
    /// # Errors
    ///
    /// The [`Violation`] that comes first in time.
    pub fn check(&self, trajectory: &Trajectory) -> Result<(), Violation> {
        if self.dof() != trajectory.dof() {
            return Err(Violation::Dimensions {
                limits: self.dof(),
                trajectory: trajectory.dof(),
            });
        }
        for (i, waypoint) in trajectory.waypoints().enumerate() {
            let segment = i + 1 < trajectory.len();
            for j in 0..self.dof() {
                let judge = Judge {
                    limits: self,
                    waypoint: i,
                    time: waypoint.time,
                    coordinate: j,
                };
                judge.position(waypoint.position[j], Duration::ZERO)?;
                judge.velocity(waypoint.velocity[j], Duration::ZERO)?;
                judge.acceleration(waypoint.acceleration[j], Duration::ZERO)?;
                match trajectory.interpolation() {
                    Interpolation::Hold | Interpolation::Linear => {
                        if segment {
                            judge.velocity(trajectory.slope(i, j), Duration::ZERO)?;
                        }
                        // Given accelerations do not excuse what the positions ask for.
                        if segment && i > 0 {
                            let jump = trajectory.slope(i, j) - trajectory.slope(i - 1, j);
                            let span = trajectory.step(i - 1) + trajectory.step(i);
                            judge.acceleration(2.0 * jump / span, Duration::ZERO)?;
                        }
                    }
                    Interpolation::Cubic => {
                        if segment {
                            judge.cubic(trajectory)?;
                        }
                    }
                }
            }
        }
        Ok(())
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
}

impl Judge<'_> {
    fn cubic(&self, trajectory: &Trajectory) -> Result<(), Violation> {
        let cubic = trajectory.cubic(self.waypoint, self.coordinate);
        let step = trajectory.times()[self.waypoint + 1].saturating_sub(self.time);
        let at = |u: f64| step.mul_f64(u);
        for u in cubic.turning_points() {
            self.position(cubic.position(u), at(u))?;
        }
        for u in cubic.inflection() {
            self.velocity(cubic.velocity(u), at(u))?;
        }
        // The acceleration is linear in u: its extremes are at the ends.
        for u in [0.0, 1.0] {
            self.acceleration(cubic.acceleration(u), at(u))?;
        }
        Ok(())
    }

    fn position(&self, value: f64, after: Duration) -> Result<(), Violation> {
        let (lower, upper) = (
            self.limits.lower[self.coordinate],
            self.limits.upper[self.coordinate],
        );
        self.judge(Bound::Lower, value, lower, value >= lower, after)?;
        self.judge(Bound::Upper, value, upper, value <= upper, after)
    }

    fn velocity(&self, value: f64, after: Duration) -> Result<(), Violation> {
        let limit = self.limits.velocity[self.coordinate];
        self.judge(Bound::Velocity, value, limit, value.abs() <= limit, after)
    }

    fn acceleration(&self, value: f64, after: Duration) -> Result<(), Violation> {
        let limit = self.limits.acceleration[self.coordinate];
        let within = value.abs() <= limit;
        self.judge(Bound::Acceleration, value, limit, within, after)
    }

    fn judge(
        &self,
        bound: Bound,
        value: f64,
        limit: f64,
        within: bool,
        after: Duration,
    ) -> Result<(), Violation> {
        // `within` is false for a NaN, whatever the limit: that is what failing closed means here.
        if within {
            return Ok(());
        }
        Err(Violation::Exceeded {
            bound,
            coordinate: self.coordinate,
            waypoint: self.waypoint,
            time: self.time + after,
            value,
            limit,
        })
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
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lower | Self::Upper => "position",
            Self::Velocity => "velocity",
            Self::Acceleration => "acceleration",
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
        /// When; for a slope or second difference, the waypoint's time.
        time: Duration,
        /// The value, with its sign.
        value: f64,
        /// The bound that it is beyond; speeds and accelerations are bounded in both directions.
        limit: f64,
    },
}

impl Violation {
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
                Bound::Velocity | Bound::Acceleration => value.abs() - limit,
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
    fn limits_are_numbers() {
        let limits = || Limits::unlimited(1);
        assert!(limits().with_position(&[1.0], &[0.0]).is_err());
        assert!(limits().with_position(&[f64::NAN], &[0.0]).is_err());
        assert!(limits().with_velocity(&[-1.0]).is_err());
        assert!(limits().with_acceleration(&[f64::NAN]).is_err());
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

        /// The claim of `check` for cubics: if it passes, no sample is beyond; if not, the place that it names is.
        #[test]
        fn what_passes_stays_within_at_every_time(
            positions in prop::collection::vec(-1.0..1.0_f64, 2..8),
            reach in 0.5..1.5_f64,
            speed in 5.0..40.0_f64,
            force in 100.0..2000.0_f64,
        ) {
            // Closed-form extremes and Horner's rule round differently.
            let tolerance = 1e-9;
            let positions = Array2::from_shape_vec((positions.len(), 1), positions).expect("a column");
            let path = every_100_ms(positions, Interpolation::Cubic);
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
                Err(violation) => prop_assert!(violation.excess() > 0.0),
            }
        }
    }
}
