//! What is between the waypoints of a trajectory.

use std::fmt;
use std::time::Duration;

use nalgebra::DVector;

use crate::segment::{Knot, Segment};
use crate::trajectory::{Trajectory, seconds};

/// What a trajectory does between two waypoints.
///
/// Within a segment from `(t₀, q₀, v₀, a₀)` to `(t₁, q₁, v₁, a₁)`, with `h = t₁ − t₀`, `u = (t − t₀) / h` and
/// `Δ = q₁ − q₀`:
///
/// ```text
/// Hold     q(t) = q₀                     until t₁, exclusive
/// Linear   q(t) = q₀ + u (q₁ − q₀)
/// Cubic    q(t) = q₀ + u h v₀ + u² (3Δ − h (2v₀ + v₁)) + u³ (h (v₀ + v₁) − 2Δ)
/// Quintic  q(t) = q₀ + u h v₀ + u² h² a₀/2
///               + u³ (10Δ − h (6v₀ + 4v₁) − h² (3a₀ − a₁)/2)
///               − u⁴ (15Δ − h (8v₀ + 7v₁) − h² (3a₀ − 2a₁)/2)
///               + u⁵ (6Δ − 3h (v₀ + v₁) − h² (a₀ − a₁)/2)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Interpolation {
    /// Zero-order hold: each waypoint is a command that stands until the next one.
    ///
    /// This is what a chunk of actions means, such as PushT's targets at 10 Hz.
    Hold,
    /// Straight lines: positions are continuous, velocities jump.
    Linear,
    /// Cubic Hermite: positions and velocities are continuous and meet the waypoints'; accelerations jump.
    ///
    /// It may leave the range of the waypoints by a little; [`Limits::check`](crate::Limits::check) sees that.
    Cubic,
    /// Quintic Hermite: positions, velocities and accelerations are continuous and meet the waypoints'; the jerk jumps.
    ///
    /// It may leave the range of the waypoints, as [`Interpolation::Cubic`] may.
    Quintic,
}

impl fmt::Display for Interpolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hold => "hold",
            Self::Linear => "linear",
            Self::Cubic => "cubic",
            Self::Quintic => "quintic",
        })
    }
}

/// A point of a trajectory at one time; each vector has `dof` entries.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// Where it is.
    pub position: DVector<f64>,
    /// The first derivative of the curve, per second.
    pub velocity: DVector<f64>,
    /// The second derivative of the curve, per second squared.
    pub acceleration: DVector<f64>,
}

impl State {
    /// The origin of `dof` coordinates, at rest.
    pub fn zeros(dof: usize) -> Self {
        Self {
            position: DVector::zeros(dof),
            velocity: DVector::zeros(dof),
            acceleration: DVector::zeros(dof),
        }
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.position.len()
    }

    /// Takes the numbers of another of the same dimensions; it does not allocate.
    ///
    /// # Panics
    ///
    /// If the other has more coordinates or fewer.
    pub fn copy_from(&mut self, other: &Self) {
        self.position.copy_from(&other.position);
        self.velocity.copy_from(&other.velocity);
        self.acceleration.copy_from(&other.acceleration);
    }

    /// Whether nothing moves: every velocity and acceleration is zero.
    pub fn is_at_rest(&self) -> bool {
        let mut rates = self.velocity.iter().chain(&self.acceleration);
        rates.all(|rate| rate.abs() <= 0.0)
    }

    fn set(&mut self, j: usize, knot: Knot) {
        self.position[j] = knot.q;
        self.velocity[j] = knot.v;
        self.acceleration[j] = knot.a;
    }
}

impl Trajectory {
    /// The curve and its derivatives at time `t`, by [`Trajectory::interpolation`]; `None` if there is no waypoint.
    ///
    /// Before the first waypoint and from the last one on it stands still there.
    /// At a waypoint where a derivative jumps, the segment that begins counts.
    pub fn sample(&self, t: Duration) -> Option<State> {
        let mut state = State::zeros(self.dof());
        self.sample_into(t, &mut state).then_some(state)
    }

    /// Writes what [`Trajectory::sample`] returns into `state`; false, and nothing written, if there is no waypoint.
    ///
    /// A `state` of as many coordinates is written in place, without allocating or waiting: a search among the waypoints
    /// and a few operations a coordinate. One of other dimensions is replaced.
    ///
    /// ```
    /// use std::time::Duration;
    /// use clearway_motion::{Interpolation, State, Trajectory};
    /// use ndarray::array;
    ///
    /// let times = vec![Duration::ZERO, Duration::from_secs(1)];
    /// let path = Trajectory::new(times, array![[0.0], [2.0]], Interpolation::Linear)?;
    /// let mut state = State::zeros(path.dof());
    /// for millis in 0..1000 {
    ///     assert!(path.sample_into(Duration::from_millis(millis), &mut state));
    ///     assert!((state.velocity[0] - 2.0).abs() < 1e-12);
    /// }
    /// # Ok::<(), clearway_motion::TrajectoryError>(())
    /// ```
    pub fn sample_into(&self, t: Duration, state: &mut State) -> bool {
        let Some(last) = self.len().checked_sub(1) else {
            return false;
        };
        let dof = self.dof();
        let vectors = [&state.position, &state.velocity, &state.acceleration];
        if vectors.iter().any(|vector| vector.len() != dof) {
            *state = State::zeros(dof);
        }
        // The number of waypoints at or before t.
        let begun = self.times().partition_point(|&time| time <= t);
        let inside = begun > 0 && begun <= last;
        let i = begun.saturating_sub(1);
        let u = if inside {
            seconds(self.times()[i], t) / self.step(i)
        } else {
            0.0
        };
        for j in 0..dof {
            let q = self.positions()[[i, j]];
            let rest = Knot { q, v: 0.0, a: 0.0 };
            let knot = match self.interpolation() {
                _ if !inside => rest,
                Interpolation::Hold => rest,
                Interpolation::Linear => Knot {
                    // Standing is standing, to the bit.
                    q: q + u * (self.positions()[[i + 1, j]] - q),
                    v: self.slope(i, j),
                    a: 0.0,
                },
                Interpolation::Cubic | Interpolation::Quintic => {
                    let segment = self.segment(i, j);
                    Knot {
                        q: segment.position(u),
                        v: segment.velocity(u),
                        a: segment.acceleration(u),
                    }
                }
            };
            state.set(j, knot);
        }
        true
    }

    /// The state in which the last waypoint is reached; `None` if there is no waypoint.
    ///
    /// [`Trajectory::sample`] says that the curve stands still there *from then on*. This is the limit from before: what a
    /// brake has to take over.
    /// A held curve arrives at rest, a straight one with its last slope, a cubic with the waypoint's velocity and the
    /// acceleration of its last segment, a quintic with the waypoint's velocity and acceleration.
    pub fn arrival(&self) -> Option<State> {
        let last = self.len().checked_sub(1)?;
        let mut state = State::zeros(self.dof());
        for j in 0..self.dof() {
            let given = self.knot(last, j);
            let q = given.q;
            let knot = match (self.interpolation(), last.checked_sub(1)) {
                (Interpolation::Hold, _) | (Interpolation::Linear, None) => {
                    Knot { q, v: 0.0, a: 0.0 }
                }
                (Interpolation::Linear, Some(i)) => Knot {
                    q,
                    v: self.slope(i, j),
                    a: 0.0,
                },
                (Interpolation::Cubic, Some(i)) => Knot {
                    a: self.segment(i, j).acceleration(1.0),
                    ..given
                },
                (Interpolation::Cubic, None) | (Interpolation::Quintic, _) => given,
            };
            state.set(j, knot);
        }
        Some(state)
    }

    /// Seconds from waypoint `i` to the next.
    pub(crate) fn step(&self, i: usize) -> f64 {
        seconds(self.times()[i], self.times()[i + 1])
    }

    /// The slope of coordinate `j` in the segment from waypoint `i`.
    pub(crate) fn slope(&self, i: usize, j: usize) -> f64 {
        (self.positions()[[i + 1, j]] - self.positions()[[i, j]]) / self.step(i)
    }

    /// The polynomial of coordinate `j` in the segment from waypoint `i`: a quintic's, and else the cubic's.
    pub(crate) fn segment(&self, i: usize, j: usize) -> Segment {
        let (h, from, to) = (self.step(i), self.knot(i, j), self.knot(i + 1, j));
        if self.interpolation() == Interpolation::Quintic {
            Segment::quintic(h, from, to)
        } else {
            Segment::cubic(h, from, to)
        }
    }

    fn knot(&self, waypoint: usize, j: usize) -> Knot {
        Knot {
            q: self.positions()[[waypoint, j]],
            v: self.velocities()[[waypoint, j]],
            a: self.accelerations()[[waypoint, j]],
        }
    }
}

#[cfg(test)]
mod tests {
    use approx::assert_relative_eq;
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::trajectory::tests::{ms, valid, waypoints};

    /// A few operations in f64 on values of order 1e3 and steps of at least 1 ms.
    const ROUNDING: f64 = 1e-9;

    #[test]
    fn a_held_command_stands_until_the_next() {
        let actions = valid(&[100, 200], array![[1.0], [5.0]], Interpolation::Hold);
        for (t, expected) in [(0, 1.0), (100, 1.0), (199, 1.0), (200, 5.0), (900, 5.0)] {
            let state = actions.sample(ms(t)).expect("it has waypoints");
            assert_relative_eq!(state.position[0], expected);
            assert_relative_eq!(state.velocity[0], 0.0);
        }
    }

    #[test]
    fn a_cubic_through_given_velocities_is_the_cubic() {
        // q = t³ − t, sampled with its own velocities, is a Hermite cubic.
        let q = |t: f64| t * t * t - t;
        let v = |t: f64| 3.0 * t * t - 1.0;
        let curve = valid(
            &[0, 1000, 3000],
            array![[q(0.0)], [q(1.0)], [q(3.0)]],
            Interpolation::Cubic,
        )
        .with_velocities(array![[v(0.0)], [v(1.0)], [v(3.0)]])
        .expect("one velocity a waypoint");
        for millis in [0, 250, 1000, 1700, 2999] {
            let t = ms(millis).as_secs_f64();
            let state = curve.sample(ms(millis)).expect("it has waypoints");
            assert_relative_eq!(state.position[0], q(t), epsilon = ROUNDING);
            assert_relative_eq!(state.velocity[0], v(t), epsilon = ROUNDING);
            assert_relative_eq!(state.acceleration[0], 6.0 * t, epsilon = ROUNDING);
        }
    }

    fn interpolation() -> impl Strategy<Value = Interpolation> {
        prop::sample::select(vec![
            Interpolation::Hold,
            Interpolation::Linear,
            Interpolation::Cubic,
            Interpolation::Quintic,
        ])
    }

    proptest! {
        #[test]
        fn a_trajectory_meets_its_waypoints(
            (times, positions) in waypoints(),
            interpolation in interpolation(),
        ) {
            let path = Trajectory::new(times, positions, interpolation).expect("finite");
            for waypoint in path.waypoints() {
                let state = path.sample(waypoint.time).expect("it has waypoints");
                for (found, expected) in state.position.iter().zip(waypoint.position) {
                    // To the bit, save the sign of zero.
                    prop_assert!((found - expected).abs() <= 0.0);
                }
            }
        }

        #[test]
        fn a_curve_is_as_smooth_at_its_waypoints_as_it_says((times, positions) in waypoints()) {
            let path = Trajectory::new(times, positions, Interpolation::Cubic).expect("finite");
            for path in [path.clone(), path.with_interpolation(Interpolation::Quintic)] {
                for i in 1..path.len().saturating_sub(1) {
                    let (before, after) = (path.segment(i - 1, 0), path.segment(i, 0));
                    // Velocities reach 1e6 here, 2000 px in 1 ms, and accelerations 1e9.
                    prop_assert!((before.position(1.0) - after.position(0.0)).abs() < 10.0 * ROUNDING);
                    prop_assert!((before.velocity(1.0) - after.velocity(0.0)).abs() < 1e4 * ROUNDING);
                    if path.interpolation() == Interpolation::Quintic {
                        let jump = before.acceleration(1.0) - after.acceleration(0.0);
                        prop_assert!(jump.abs() < 1e7 * ROUNDING);
                    }
                }
            }
        }

        #[test]
        fn sampling_in_place_is_sampling(
            (times, positions) in waypoints(),
            interpolation in interpolation(),
            millis in 0..6000_u64,
        ) {
            let path = Trajectory::new(times, positions, interpolation).expect("finite");
            let mut state = State::zeros(1);
            prop_assert!(path.sample_into(ms(millis), &mut state));
            prop_assert_eq!(Some(state), path.sample(ms(millis)));
        }

        #[test]
        fn a_curve_arrives_as_it_was_before_its_end(
            (times, positions) in waypoints(),
            interpolation in interpolation(),
        ) {
            let path = Trajectory::new(times, positions, interpolation).expect("finite");
            let Some(&end) = path.times().last().filter(|_| path.len() > 1) else {
                return Ok(());
            };
            let arrival = path.arrival().expect("it has waypoints");
            let before = path.sample(end.saturating_sub(Duration::from_nanos(1))).expect("it has waypoints");
            for j in 0..2 {
                // What 1e-9 s can change: velocities reach 1e6, accelerations 1e10, jerks 1e14.
                if interpolation != Interpolation::Hold {
                    prop_assert!((arrival.position[j] - before.position[j]).abs() < 1e-2);
                }
                prop_assert!((arrival.velocity[j] - before.velocity[j]).abs() < 1e2);
                prop_assert!((arrival.acceleration[j] - before.acceleration[j]).abs() < 1e6);
            }
        }
    }

    #[test]
    fn a_quintic_through_given_derivatives_is_the_quintic() {
        let q = |t: f64| t.powi(5) - 2.0 * t.powi(3) + t;
        let v = |t: f64| 5.0 * t.powi(4) - 6.0 * t.powi(2) + 1.0;
        let a = |t: f64| 20.0 * t.powi(3) - 12.0 * t;
        let column = |f: &dyn Fn(f64) -> f64| array![[f(0.0)], [f(0.5)], [f(2.0)]];
        let curve = valid(&[0, 500, 2000], column(&q), Interpolation::Quintic)
            .with_velocities(column(&v))
            .and_then(|curve| curve.with_accelerations(column(&a)))
            .expect("one row a waypoint");
        for millis in [0, 250, 500, 1700, 1999] {
            let t = ms(millis).as_secs_f64();
            let state = curve.sample(ms(millis)).expect("it has waypoints");
            assert_relative_eq!(state.position[0], q(t), epsilon = ROUNDING);
            assert_relative_eq!(state.velocity[0], v(t), epsilon = ROUNDING);
            assert_relative_eq!(state.acceleration[0], a(t), epsilon = ROUNDING);
        }
    }
}
