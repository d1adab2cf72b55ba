//! What is between the waypoints of a trajectory.

use std::time::Duration;

use nalgebra::DVector;

use crate::trajectory::{Trajectory, seconds};

/// What a trajectory does between two waypoints.
///
/// Within a segment from `(t₀, q₀, v₀)` to `(t₁, q₁, v₁)`, with `h = t₁ − t₀` and `u = (t − t₀) / h`:
///
/// ```text
/// Hold     q(t) = q₀                     until t₁, exclusive
/// Linear   q(t) = (1 − u) q₀ + u q₁
/// Cubic    q(t) = q₀ + u h v₀ + u² (3Δ − h (2v₀ + v₁)) + u³ (h (v₀ + v₁) − 2Δ),   Δ = q₁ − q₀
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

impl Trajectory {
    /// The curve and its derivatives at time `t`, by [`Trajectory::interpolation`]; `None` if there is no waypoint.
    ///
    /// Before the first waypoint and from the last one on it stands still there.
    /// At a waypoint where a derivative jumps, the segment that begins counts.
    pub fn sample(&self, t: Duration) -> Option<State> {
        let last = self.len().checked_sub(1)?;
        // The number of waypoints at or before t.
        let begun = self.times().partition_point(|&time| time <= t);
        if begun == 0 || begun > last {
            return Some(self.rest(if begun == 0 { 0 } else { last }));
        }
        let i = begun - 1;
        let u = seconds(self.times()[i], t) / self.step(i);
        let dof = self.dof();
        Some(match self.interpolation() {
            Interpolation::Hold => self.rest(i),
            Interpolation::Linear => State {
                position: DVector::from_fn(dof, |j, _| {
                    (1.0 - u) * self.positions()[[i, j]] + u * self.positions()[[i + 1, j]]
                }),
                velocity: DVector::from_fn(dof, |j, _| self.slope(i, j)),
                acceleration: DVector::zeros(dof),
            },
            Interpolation::Cubic => {
                let cubics: Vec<Cubic> = (0..dof).map(|j| self.cubic(i, j)).collect();
                State {
                    position: DVector::from_fn(dof, |j, _| cubics[j].position(u)),
                    velocity: DVector::from_fn(dof, |j, _| cubics[j].velocity(u)),
                    acceleration: DVector::from_fn(dof, |j, _| cubics[j].acceleration(u)),
                }
            }
        })
    }

    /// As sample; placeholder until motion lands.
    pub fn sample_into(&self, t: Duration, state: &mut State) -> bool {
        self.sample(t).is_some_and(|now| {
            *state = now;
            true
        })
    }

    /// Seconds from waypoint `i` to the next.
    pub(crate) fn step(&self, i: usize) -> f64 {
        seconds(self.times()[i], self.times()[i + 1])
    }

    /// The slope of coordinate `j` in the segment from waypoint `i`.
    pub(crate) fn slope(&self, i: usize, j: usize) -> f64 {
        (self.positions()[[i + 1, j]] - self.positions()[[i, j]]) / self.step(i)
    }

    /// The cubic of coordinate `j` in the segment from waypoint `i`.
    pub(crate) fn cubic(&self, i: usize, j: usize) -> Cubic {
        let h = self.step(i);
        let (q0, q1) = (self.positions()[[i, j]], self.positions()[[i + 1, j]]);
        let (m0, m1) = (
            h * self.velocities()[[i, j]],
            h * self.velocities()[[i + 1, j]],
        );
        let delta = q1 - q0;
        Cubic {
            h,
            c: [
                q0,
                m0,
                3.0 * delta - (2.0 * m0 + m1),
                (m0 + m1) - 2.0 * delta,
            ],
        }
    }

    fn rest(&self, waypoint: usize) -> State {
        let dof = self.dof();
        State {
            position: DVector::from_fn(dof, |j, _| self.positions()[[waypoint, j]]),
            velocity: DVector::zeros(dof),
            acceleration: DVector::zeros(dof),
        }
    }
}

/// One coordinate of one segment: `q(u) = c₀ + c₁ u + c₂ u² + c₃ u³`, `u ∈ [0, 1]`, `dt = h du`.
pub(crate) struct Cubic {
    h: f64,
    c: [f64; 4],
}

impl Cubic {
    pub(crate) fn position(&self, u: f64) -> f64 {
        let [c0, c1, c2, c3] = self.c;
        c0 + u * (c1 + u * (c2 + u * c3))
    }

    pub(crate) fn velocity(&self, u: f64) -> f64 {
        let [_, c1, c2, c3] = self.c;
        (c1 + u * (2.0 * c2 + u * 3.0 * c3)) / self.h
    }

    pub(crate) fn acceleration(&self, u: f64) -> f64 {
        let [_, _, c2, c3] = self.c;
        (2.0 * c2 + u * 6.0 * c3) / (self.h * self.h)
    }

    /// Where inside the segment the velocity vanishes, hence where the position may be extreme.
    pub(crate) fn turning_points(&self) -> impl Iterator<Item = f64> {
        let [_, c1, c2, c3] = self.c;
        // c₁ + 2 c₂ u + 3 c₃ u² = 0, in the form that keeps its digits when c₃ is small: both terms of s have one sign.
        let root = (c2 * c2 - 3.0 * c1 * c3).sqrt();
        let s = -(c2 + root.copysign(c2));
        // No root is NaN, and a vanishing denominator infinity or NaN: the range refuses all of them.
        [s / (3.0 * c3), c1 / s]
            .into_iter()
            .filter(|u| 0.0 < *u && *u < 1.0)
    }

    /// Where inside the segment the acceleration vanishes, hence where the velocity may be extreme.
    pub(crate) fn inflection(&self) -> impl Iterator<Item = f64> {
        let [_, _, c2, c3] = self.c;
        [-c2 / (3.0 * c3)]
            .into_iter()
            .filter(|u| 0.0 < *u && *u < 1.0)
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
        fn a_cubic_is_smooth_at_its_waypoints((times, positions) in waypoints()) {
            let path = Trajectory::new(times, positions, Interpolation::Cubic).expect("finite");
            for i in 1..path.len().saturating_sub(1) {
                let (before, after) = (path.cubic(i - 1, 0), path.cubic(i, 0));
                // Velocities reach 1e6 here: 2000 px in 1 ms.
                prop_assert!((before.position(1.0) - after.position(0.0)).abs() < ROUNDING);
                prop_assert!((before.velocity(1.0) - after.velocity(0.0)).abs() < 1e3 * ROUNDING);
            }
        }
    }
}
