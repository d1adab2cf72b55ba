//! Cutting trajectories and joining them: one that runs, and one that goes on from it.

use std::time::Duration;

use ndarray::{Array2, ArrayView2, Axis, Slice};

use crate::interpolation::Interpolation;
use crate::trajectory::{Quantity, Trajectory, TrajectoryError, first_difference, seconds};

impl Trajectory {
    /// The first `n` waypoints, or all of them if there are fewer; bit for bit, with their derivatives.
    #[must_use]
    pub fn prefix(&self, n: usize) -> Self {
        self.rows(0, n.min(self.len()))
    }

    /// The waypoints without the first `n`; bit for bit, with their derivatives.
    ///
    /// `path.prefix(n)` joined to `path.after(n)` is `path`.
    #[must_use]
    pub fn after(&self, n: usize) -> Self {
        self.rows(n.min(self.len()), self.len())
    }

    /// The same curve, earlier or later: its first waypoint is at `start`.
    ///
    /// # Errors
    ///
    /// [`TrajectoryError::Late`] if the end would be beyond [`Duration::MAX`].
    pub fn starting_at(&self, start: Duration) -> Result<Self, TrajectoryError> {
        let first = self.times().first().copied().unwrap_or_default();
        let mut times = Vec::with_capacity(self.len());
        for (waypoint, time) in self.times().iter().enumerate() {
            let time = start.checked_add(time.saturating_sub(first));
            times.push(time.ok_or(TrajectoryError::Late { waypoint })?);
        }
        Self::from_parts(
            times,
            self.positions().to_owned(),
            self.velocities().to_owned(),
            self.accelerations().to_owned(),
            self.interpolation(),
        )
    }

    /// The waypoints of `self` and then those of `next`, bit for bit, with their derivatives.
    ///
    /// Between the two lies one more segment. An empty one of the two has no say in the interpolation.
    ///
    /// ```
    /// use std::time::Duration;
    /// use clearway_motion::{Interpolation, Trajectory};
    /// use ndarray::array;
    ///
    /// let period = Duration::from_millis(100);
    /// let actions = array![[0.0], [1.0], [3.0]];
    /// let chunk = Trajectory::uniform(Duration::ZERO, period, actions, Interpolation::Hold)?;
    /// assert_eq!(chunk.prefix(1).joined(&chunk.after(1))?, chunk);
    /// # Ok::<(), clearway_motion::TrajectoryError>(())
    /// ```
    ///
    /// # Errors
    ///
    /// - [`TrajectoryError::Shape`] if `next` has other coordinates.
    /// - [`TrajectoryError::Interpolation`] if something else is between its waypoints.
    /// - [`TrajectoryError::Time`] if its first waypoint is not after the last of `self`.
    pub fn joined(&self, next: &Self) -> Result<Self, TrajectoryError> {
        if self.dof() != next.dof() {
            return Err(TrajectoryError::Shape {
                quantity: Quantity::Position,
                expected: [next.len(), self.dof()],
                found: [next.len(), next.dof()],
            });
        }
        let (first, second) = (self.interpolation(), next.interpolation());
        if first != second && !self.is_empty() && !next.is_empty() {
            return Err(TrajectoryError::Interpolation { first, second });
        }
        let interpolation = if self.is_empty() { second } else { first };
        Self::from_parts(
            [self.times(), next.times()].concat(),
            stack(&self.positions(), &next.positions()),
            stack(&self.velocities(), &next.velocities()),
            stack(&self.accelerations(), &next.accelerations()),
            interpolation,
        )
    }

    /// What runs until `at`, and from there goes on through `positions`, of shape `[waypoint, dof]`, at `times`.
    ///
    /// Waypoints up to `at` are kept bit for bit. If none of them is at `at` itself, one is put there with the position,
    /// velocity and acceleration that `self` has then; it cuts one segment of `self` in two, whose first part is the same
    /// polynomial up to rounding. Where every bit counts, hand over at a waypoint.
    ///
    /// What is continuous at `at` is what [`Trajectory::interpolation`] makes continuous anywhere:
    ///
    /// ```text
    /// Hold     nothing: the command at `at` stands until the first new one, and no waypoint is added
    /// Linear   the position
    /// Cubic    the position and the velocity
    /// Quintic  the position, the velocity and the acceleration
    /// ```
    ///
    /// The new waypoints have derived derivatives, which see the seam: their velocities are the differences of positions
    /// that [`Trajectory`] documents, the seam's position being the first; their accelerations are the velocity formula,
    /// applied to velocities of which the first is the seam's own.
    ///
    /// # Errors
    ///
    /// - [`TrajectoryError::HandOver`] if there is no waypoint yet at `at`, or if the last one was passed in motion.
    /// - [`TrajectoryError::Time`] if the new times do not increase from `at` on, `at` excluded.
    /// - [`TrajectoryError::Shape`] and [`TrajectoryError::NonFinite`] as in [`Trajectory::new`].
    pub fn hand_over(
        &self,
        at: Duration,
        times: &[Duration],
        positions: &Array2<f64>,
    ) -> Result<Self, TrajectoryError> {
        let expected = [times.len(), self.dof()];
        let found = [positions.nrows(), positions.ncols()];
        if expected != found {
            return Err(TrajectoryError::Shape {
                quantity: Quantity::Position,
                expected,
                found,
            });
        }
        let kept = self.with_seam(at)?;
        let seam = kept.len() - 1;
        if let Some(&time) = times.first().filter(|&&time| time <= at) {
            return Err(TrajectoryError::Time {
                waypoint: seam + 1,
                time,
                previous: at,
            });
        }
        // The seam and what is new. A held seam may be earlier than `at`.
        let times = [&kept.times()[seam..], times].concat();
        let positions = stack(&kept.after(seam).positions(), &positions.view());
        let mut velocities = first_difference(&times, &positions);
        velocities.row_mut(0).assign(&kept.velocities().row(seam));
        let mut accelerations = first_difference(&times, &velocities);
        let given = kept.accelerations();
        accelerations.row_mut(0).assign(&given.row(seam));
        let interpolation = self.interpolation();
        let next = Self::from_parts(times, positions, velocities, accelerations, interpolation)?;
        kept.joined(&next.after(1))
    }

    /// The waypoints up to `at`, and one at `at` unless the curve is a held one.
    fn with_seam(&self, at: Duration) -> Result<Self, TrajectoryError> {
        let refuse = |reason| TrajectoryError::HandOver { at, reason };
        let begun = self.times().partition_point(|&time| time <= at);
        let kept = self.prefix(begun);
        let Some(&last) = kept.times().last() else {
            return Err(refuse("no waypoint has been reached"));
        };
        if self.interpolation() == Interpolation::Hold || seconds(last, at) <= 0.0 {
            return Ok(kept);
        }
        let moves = |rates: ArrayView2<'_, f64>| {
            let end = rates.row(begun - 1);
            end.iter().any(|rate| rate.abs() > 0.0)
        };
        let passed = begun == self.len();
        let moving = match self.interpolation() {
            Interpolation::Hold | Interpolation::Linear => false,
            Interpolation::Cubic => moves(self.velocities()),
            Interpolation::Quintic => moves(self.velocities()) || moves(self.accelerations()),
        };
        if passed && moving {
            return Err(refuse("the last waypoint was passed in motion"));
        }
        let state = self
            .sample(at)
            .ok_or_else(|| refuse("there is no waypoint"))?;
        let row = |values: &nalgebra::DVector<f64>| {
            Array2::from_shape_fn((1, self.dof()), |(_, j)| values[j])
        };
        let seam = Self::from_parts(
            vec![at],
            row(&state.position),
            row(&state.velocity),
            row(&state.acceleration),
            self.interpolation(),
        )?;
        kept.joined(&seam)
    }

    /// Waypoints `from..to`, which must be in order and in range.
    fn rows(&self, from: usize, to: usize) -> Self {
        let cut = |values: ArrayView2<'_, f64>| {
            values.slice_axis(Axis(0), Slice::from(from..to)).to_owned()
        };
        self.copied(
            self.times()[from..to].to_vec(),
            cut(self.positions()),
            cut(self.velocities()),
            cut(self.accelerations()),
        )
    }
}

/// The rows of one above those of the other; both have the same columns.
fn stack(above: &ArrayView2<'_, f64>, below: &ArrayView2<'_, f64>) -> Array2<f64> {
    let n = above.nrows();
    Array2::from_shape_fn((n + below.nrows(), above.ncols()), |(i, j)| {
        if i < n {
            above[[i, j]]
        } else {
            below[[i - n, j]]
        }
    })
}

#[cfg(test)]
mod tests {
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::trajectory::tests::{ms, valid, waypoints};

    const ALL: [Interpolation; 4] = [
        Interpolation::Hold,
        Interpolation::Linear,
        Interpolation::Cubic,
        Interpolation::Quintic,
    ];

    #[test]
    fn what_does_not_fit_is_refused() {
        let one = valid(&[0, 100], array![[0.0], [1.0]], Interpolation::Cubic);
        let two = valid(&[200], array![[0.0, 0.0]], Interpolation::Cubic);
        let held = valid(&[200], array![[0.0]], Interpolation::Hold);
        let message =
            |next: &Trajectory| one.joined(next).expect_err("it does not fit").to_string();
        assert_eq!(
            message(&two),
            "position must have the shape [waypoint, dof] = [1, 1], found [1, 2]"
        );
        assert_eq!(
            message(&held),
            "a cubic trajectory cannot go on as a hold one"
        );
        assert_eq!(
            message(&one),
            "waypoint 2 is at 0ns, not after waypoint 1 at 100ms"
        );
        let empty = Trajectory::empty(1).expect("a coordinate");
        assert_eq!(empty.joined(&one).as_ref(), Ok(&one));
        assert_eq!(one.joined(&empty).as_ref(), Ok(&one));
    }

    #[test]
    fn a_hand_over_needs_a_state_and_later_times() {
        let path = valid(&[100, 200], array![[0.0], [1.0]], Interpolation::Quintic);
        let hand_over = |at, time| path.hand_over(ms(at), &[ms(time)], &array![[2.0]]);
        assert!(hand_over(150, 300).is_ok());
        assert!(hand_over(200, 300).is_ok());
        let early = hand_over(50, 300).expect_err("it has not begun");
        let late = hand_over(250, 300).expect_err("its end moves");
        assert_eq!(
            [early.to_string(), late.to_string()],
            [
                "nothing can be taken over at 50ms: no waypoint has been reached",
                "nothing can be taken over at 250ms: the last waypoint was passed in motion",
            ]
        );
        assert!(matches!(
            hand_over(150, 150),
            Err(TrajectoryError::Time { waypoint: 2, .. })
        ));
        assert!(matches!(
            path.hand_over(ms(150), &[ms(300)], &array![[2.0, 2.0]]),
            Err(TrajectoryError::Shape { .. })
        ));
    }

    #[test]
    fn a_time_that_cannot_be_said_is_refused() {
        let path = valid(&[0, 10], array![[0.0], [1.0]], Interpolation::Linear);
        let late = path.starting_at(Duration::MAX.saturating_sub(ms(5)));
        assert_eq!(late, Err(TrajectoryError::Late { waypoint: 1 }));
    }

    #[test]
    fn what_stands_still_can_be_taken_over_later() {
        let still = valid(&[0, 100], array![[3.0], [3.0]], Interpolation::Quintic);
        let path = still
            .hand_over(ms(500), &[ms(600)], &array![[4.0]])
            .expect("it stands at 500 ms");
        let waited = path.sample(ms(300)).expect("it has waypoints");
        assert_eq!(waited.position.as_slice(), [3.0]);
        assert!(waited.is_at_rest());
    }

    #[test]
    fn a_held_command_is_replaced_and_not_blended() {
        let old = valid(
            &[0, 100, 200],
            array![[1.0], [2.0], [3.0]],
            Interpolation::Hold,
        );
        let path = old
            .hand_over(ms(150), &[ms(160), ms(260)], &array![[7.0], [8.0]])
            .expect("a command stands at 150 ms");
        assert_eq!(path.times(), [ms(0), ms(100), ms(160), ms(260)]);
        assert_eq!(path.positions(), array![[1.0], [2.0], [7.0], [8.0]]);
    }

    #[test]
    fn a_velocity_after_the_seam_is_the_documented_difference() {
        let old = valid(&[0, 100], array![[0.0], [1.0]], Interpolation::Quintic)
            .with_velocities(array![[10.0], [10.0]])
            .expect("one row a waypoint");
        let path = old
            .hand_over(ms(100), &[ms(200), ms(400)], &array![[2.0], [6.0]])
            .expect("later times");
        // Slopes 10 and 20 over 0.1 s and 0.2 s: (0.2 · 10 + 0.1 · 20) / 0.3, and at the end the last slope.
        approx::assert_relative_eq!(path.velocities()[[2, 0]], 40.0 / 3.0, epsilon = 1e-9);
        approx::assert_relative_eq!(path.velocities()[[3, 0]], 20.0, epsilon = 1e-9);
        // Velocities 10, 40/3, 20: slopes 100/3 and 100/3.
        approx::assert_relative_eq!(path.accelerations()[[2, 0]], 100.0 / 3.0, epsilon = 1e-9);
    }

    fn bits(values: &ArrayView2<'_, f64>) -> Vec<u64> {
        values.iter().map(|value| value.to_bits()).collect()
    }

    proptest! {
        #[test]
        fn what_is_cut_can_be_joined((times, positions) in waypoints(), n in 0_usize..14) {
            for interpolation in ALL {
                let path = Trajectory::new(times.clone(), positions.clone(), interpolation).expect("finite");
                let (before, after) = (path.prefix(n), path.after(n));
                prop_assert_eq!(before.len() + after.len(), path.len());
                prop_assert_eq!(before.joined(&after).expect("they belong together"), path.clone());
                let moved = path.starting_at(ms(7)).and_then(|moved| moved.starting_at(path.times()[0]));
                prop_assert_eq!(moved.expect("there is time"), path);
            }
        }

        #[test]
        fn the_past_is_kept_and_the_future_goes_on_from_it(
            (times, positions) in waypoints(),
            (gaps, new) in waypoints(),
            at in 0_u64..3000,
        ) {
            for interpolation in ALL {
                let old = Trajectory::new(times.clone(), positions.clone(), interpolation).expect("finite");
                // Within its span, since its end moves.
                let (first, last) = (old.times()[0], old.times()[old.len() - 1]);
                let at = ms(at).clamp(first, last);
                let later: Vec<Duration> = gaps.iter().map(|gap| at + *gap).collect();
                let path = old.hand_over(at, &later, &new).expect("later times");
                let kept = old.times().partition_point(|&time| time <= at);
                prop_assert_eq!(&path.times()[..kept], &old.times()[..kept]);
                let (ours, theirs) = (path.prefix(kept), old.prefix(kept));
                prop_assert_eq!(bits(&ours.positions()), bits(&theirs.positions()));
                prop_assert_eq!(bits(&ours.velocities()), bits(&theirs.velocities()));
                prop_assert_eq!(bits(&ours.accelerations()), bits(&theirs.accelerations()));
                // Up to `at` it is the old curve: to the bit in whole segments, to rounding in the one that is cut.
                let whole = old.times()[kept - 1];
                for i in 0..=50 {
                    let t = first + at.saturating_sub(first) * i / 50;
                    let (ours, theirs) = (path.sample(t).expect("waypoints"), old.sample(t).expect("waypoints"));
                    if t < whole {
                        prop_assert_eq!(ours, theirs);
                    } else if t < at {
                        // Coefficients reach 1e7 where a step of 1 ms meets one of 500 ms.
                        prop_assert!((ours.position[0] - theirs.position[0]).abs() < 1e-6);
                    }
                }
                // At the seam both sides agree.
                if matches!(interpolation, Interpolation::Cubic | Interpolation::Quintic) {
                    let seam = path.times().partition_point(|&time| time <= at) - 1;
                    prop_assert_eq!(path.times()[seam], at);
                    let state = if at == last { old.arrival() } else { old.sample(at) };
                    let state = state.expect("it has waypoints");
                    // The waypoint's own bits, or Horner's rule at its place.
                    let near = |x: f64, y: f64| (x - y).abs() <= 1e-9 * (1.0 + x.abs());
                    prop_assert!(near(path.positions()[[seam, 1]], state.position[1]));
                    prop_assert!(near(path.velocities()[[seam, 1]], state.velocity[1]));
                    if interpolation == Interpolation::Quintic {
                        prop_assert!(near(path.accelerations()[[seam, 1]], state.acceleration[1]));
                    }
                }
            }
        }
    }
}
