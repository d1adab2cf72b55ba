//! From motion to rest, within limits.

use std::time::Duration;

use ndarray::Array2;

use crate::interpolation::{Interpolation, State};
use crate::limits::Limits;
use crate::trajectory::{Quantity, Trajectory, TrajectoryError};

/// The shortest tick on which a brake changes its jerk.
///
/// A jerk is a third difference, so that rounding of the position `q` by `ε q` makes one of `60 ε q / h³`: 1e-5 q at
/// `h` = 1 ms. Where a limit is so small that this matters, the tick is doubled.
const TICK: Duration = Duration::from_millis(1);

/// The longest tick: a position for which it is too short is as good as infinite.
const LONGEST_TICK: Duration = Duration::from_mins(1);

/// What is left of every limit for rounding.
const MARGIN: f64 = 1e-3;

/// Roundings of a position, in units of its last bit, that the coefficients of a segment add up to.
const ROUNDINGS: f64 = 500.0;

/// Longer than this nobody waits for a robot to stop, in ticks: at 1 ms, a day.
const PATIENCE: f64 = 86.4e6;

/// The quickest way to rest from a moving state, for each coordinate by itself.
///
/// Per coordinate, with `A` and `J` the limits of acceleration and jerk, the jerk is piecewise constant:
///
/// ```text
/// a → s P     at ±J                     P = min(A, √(a²/2 − s v J))
/// a = s P     until |v| = P²/2J         s = −sign(v + a |a| / 2J)
/// a → 0       at −s J
/// ```
///
/// This is the time-optimal transfer of `(v, a)` to `(0, 0)`.
/// The jerk changes at whole ticks of 1 ms after `start` (of more, if a limit is so small that the rounding of a position
/// would reach it), and a thousandth of each limit is kept for rounding: it takes up to a few ticks longer than the
/// optimum.
/// The waypoints are the instants at which the jerk of any coordinate changes, at most some ten a coordinate. All segments are cubics in all coordinates,
/// which both [`Interpolation::Cubic`] (what is returned) and [`Interpolation::Quintic`] reproduce:
/// [`Trajectory::with_interpolation`]. The last waypoint is at rest exactly; a state at rest makes a single waypoint.
///
/// - **Without a limit of the jerk** the deceleration is constant, but for the tick at either end in which it builds up.
/// - **Without a limit of the acceleration** the jerk alone decides.
/// - **With neither** nothing says how hard a moving coordinate may brake, and that is an error.
///
/// The limits of the velocity and the position are not consulted. A brake from a velocity within its limit stays within,
/// unless the state still accelerates and has to leave it (`v + a²/2J` is beyond); how far a robot needs to stop it
/// needs. [`Limits::check`] tells of both.
///
/// ```
/// use std::time::Duration;
/// use clearway_motion::{Limits, State, brake};
///
/// let limits = Limits::unlimited(1).with_acceleration(&[2.0])?.with_jerk(&[100.0])?;
/// let mut state = State::zeros(1);
/// state.velocity[0] = 1.0;
/// let stop = brake(Duration::ZERO, &state, &limits)?;
/// // v/A + A/J = 0.52 s, and a few ticks.
/// assert!(stop.duration() >= Duration::from_millis(520));
/// assert!(stop.duration() <= Duration::from_millis(525));
/// assert!(limits.check(&stop).is_ok());
/// assert!(stop.arrival().is_some_and(|end| end.velocity[0] == 0.0));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// Berscheid and Kröger, "Jerk-limited Real-time Trajectory Generation with Arbitrary Target States", 2021,
/// arXiv:2105.04830, solve the general problem.
///
/// # Errors
///
/// See [`BrakeError`].
pub fn brake(start: Duration, state: &State, limits: &Limits) -> Result<Trajectory, BrakeError> {
    let dof = state.dof();
    for found in [limits.dof(), state.velocity.len(), state.acceleration.len()] {
        if dof != found || dof == 0 {
            return Err(BrakeError::Dimensions { state: dof, found });
        }
    }
    for (quantity, values) in [
        (Quantity::Position, &state.position),
        (Quantity::Velocity, &state.velocity),
        (Quantity::Acceleration, &state.acceleration),
    ] {
        for (coordinate, &value) in values.iter().enumerate() {
            if !value.is_finite() {
                return Err(BrakeError::NonFinite {
                    quantity,
                    coordinate,
                    value,
                });
            }
        }
    }
    let mut tick = TICK;
    let mut stops: Vec<Stop> = Vec::with_capacity(dof);
    // All coordinates share the ticks. One that needs longer ones starts them all anew.
    while stops.len() < dof {
        let j = stops.len();
        let stop = Stop::new(state, limits, j, tick.as_secs_f64())?;
        if stop.rounds_below(limits, j, tick.as_secs_f64()) {
            stops.push(stop);
        } else {
            stops.clear();
            tick *= 2;
            if tick > LONGEST_TICK {
                return Err(BrakeError::Endless { coordinate: j });
            }
        }
    }
    let mut ticks: Vec<u32> = stops.iter().flat_map(Stop::switches).collect();
    ticks.push(0);
    ticks.sort_unstable();
    ticks.dedup();
    let end = tick.saturating_mul(ticks[ticks.len() - 1]);
    if start.checked_add(end).is_none() {
        let waypoint = ticks.len() - 1;
        return Err(TrajectoryError::Late { waypoint }.into());
    }
    let times = ticks.iter().map(|&n| start + tick * n).collect();
    let states: Vec<Vec<Instant>> = ticks
        .iter()
        .map(|&n| {
            stops
                .iter()
                .map(|stop| stop.at(n, tick.as_secs_f64()))
                .collect()
        })
        .collect();
    let rows = |of: fn(&Instant) -> f64| {
        Array2::from_shape_fn((ticks.len(), dof), |(i, j)| of(&states[i][j]))
    };
    Ok(Trajectory::from_parts(
        times,
        rows(|instant| instant.q),
        rows(|instant| instant.v),
        rows(|instant| instant.a),
        Interpolation::Cubic,
    )?)
}

impl Trajectory {
    /// The same plan, and after it the [`brake`] from the state in which it arrives.
    ///
    /// ```text
    /// Hold             nothing is added: the last command stands
    /// Linear           the brake, in 16 straight pieces
    /// Cubic, Quintic   the brake; position, velocity and acceleration are continuous where it begins
    /// ```
    ///
    /// Waypoints of the plan are kept bit for bit. A plan that arrives at rest, and one without waypoints, is returned as
    /// it is. A coordinate of a cubic rests if its velocity is zero: its acceleration jumps there as at any waypoint, and
    /// taking it over would set in motion what has stopped.
    /// The velocity of a straight curve jumps, so that it has no last acceleration to go on from: its brake begins with
    /// none, and keeps the limits in the sense in which [`Limits::check`] judges a straight curve.
    ///
    /// # Errors
    ///
    /// Those of [`brake`].
    pub fn with_braking(self, limits: &Limits) -> Result<Self, BrakeError> {
        let (Some(mut arrival), Some(&end)) = (self.arrival(), self.times().last()) else {
            return Ok(self);
        };
        if self.interpolation() == Interpolation::Cubic {
            for j in 0..self.dof() {
                if arrival.velocity[j].abs() <= 0.0 {
                    arrival.acceleration[j] = 0.0;
                }
            }
        }
        if arrival.is_at_rest() {
            return Ok(self);
        }
        let stop = brake(end, &arrival, limits)?;
        let stop = if self.interpolation() == Interpolation::Linear {
            stop.in_pieces(16)?
        } else {
            stop
        };
        let tail = stop.after(1).with_interpolation(self.interpolation());
        Ok(self.joined(&tail)?)
    }

    /// Waypoints on the same curve, `pieces` equal times apart.
    fn in_pieces(&self, pieces: u32) -> Result<Self, TrajectoryError> {
        let (Some(&first), duration) = (self.times().first(), self.duration()) else {
            return Ok(self.clone());
        };
        let times: Vec<Duration> = (0..=pieces)
            .map(|i| first + duration * i / pieces)
            .collect();
        let states: Vec<State> = times.iter().filter_map(|&t| self.sample(t)).collect();
        let rows = |of: fn(&State) -> &nalgebra::DVector<f64>| {
            Array2::from_shape_fn((times.len(), self.dof()), |(i, j)| of(&states[i])[j])
        };
        let [q, v, a] = [
            rows(|state| &state.position),
            rows(|state| &state.velocity),
            rows(|state| &state.acceleration),
        ];
        Self::from_parts(times, q, v, a, Interpolation::Linear)
    }
}

/// Position, velocity and acceleration of one coordinate.
#[derive(Debug, Clone, Copy)]
struct Instant {
    q: f64,
    v: f64,
    a: f64,
}

impl Instant {
    /// `t` seconds later, under a constant jerk.
    fn later(self, t: f64, jerk: f64) -> Self {
        Self {
            q: self.q + t * (self.v + t * (self.a / 2.0 + t * jerk / 6.0)),
            v: self.v + t * (self.a + t * jerk / 2.0),
            a: self.a + t * jerk,
        }
    }
}

/// How one coordinate comes to rest: from each tick, a state and a jerk. The last has no jerk and does not move.
struct Stop {
    phases: Vec<(u32, Instant, f64)>,
}

impl Stop {
    fn new(state: &State, limits: &Limits, j: usize, tick: f64) -> Result<Self, BrakeError> {
        let instant = Instant {
            q: state.position[j],
            v: state.velocity[j],
            a: state.acceleration[j],
        };
        if instant.v.abs() <= 0.0 && instant.a.abs() <= 0.0 {
            return Ok(Self {
                phases: vec![(0, instant, 0.0)],
            });
        }
        let (acceleration, jerk) = (limits.acceleration()[j], limits.jerk()[j]);
        if acceleration.is_infinite() && jerk.is_infinite() {
            return Err(BrakeError::Unlimited { coordinate: j });
        }
        let acceleration = (1.0 - MARGIN) * acceleration;
        // From full acceleration to full deceleration within a tick, if nothing says slower.
        let jerk = (1.0 - MARGIN) * jerk.min(2.0 * acceleration / tick);
        Self::within(instant, acceleration, jerk, tick).ok_or(BrakeError::Endless { coordinate: j })
    }

    /// First whole ticks of the optimum's first jerk, then the quickest of what can be had in whole ticks.
    ///
    /// In `n` ticks the acceleration can at most follow [`Envelope::at`] upwards, or downwards. Both extremes start and
    /// end as they have to and keep the limits, and so does every mean of the two; the velocity that they take away is
    /// the mean's, too. So the least `n` whose extremes have the velocity between them makes a stop.
    fn within(start: Instant, acceleration: f64, jerk: f64, tick: f64) -> Option<Self> {
        let ([first, hold, last], peak) = optimum(start, acceleration, jerk);
        // NaN and infinity, from a limit of zero, are not within it either.
        let bounded = (first + hold + last) / tick <= PATIENCE;
        if !bounded {
            return None;
        }
        let mut phases = Vec::new();
        let (mut n, mut now) = (0, start);
        // The two ticks less leave room to round.
        let whole = (first / tick).floor() - 2.0;
        if whole > 0.0 {
            let jerk = jerk.copysign(peak - start.a);
            phases.push((n, now, jerk));
            n += whole as u32;
            now = now.later(whole * tick, jerk);
        }
        let rest = first + hold + last - whole.max(0.0) * tick;
        let mut ticks = (rest.max(now.a.abs() / jerk) / tick).ceil().max(1.0) as u32;
        let (places, extremes, share) = loop {
            let envelope = Envelope {
                a: now.a,
                acceleration,
                jerk,
                duration: f64::from(ticks) * tick,
            };
            let places = envelope.places(tick, ticks);
            let profile = |sign: f64| -> Vec<f64> {
                let at = |&place: &u32| envelope.at(sign, f64::from(place) * tick);
                places.iter().map(at).collect()
            };
            let extremes = [profile(1.0), profile(-1.0)];
            let [most, least] = [0, 1].map(|i| area(&places, &extremes[i], tick));
            let share = (-now.v - least) / (most - least);
            if (0.0..=1.0).contains(&share) {
                break (places, extremes, share);
            }
            // The areas of longer ones grow beyond all bounds.
            ticks += 1;
            if f64::from(ticks) > 2.0 * PATIENCE {
                return None;
            }
        };
        for (k, pair) in places.windows(2).enumerate() {
            let time = f64::from(pair[1] - pair[0]) * tick;
            let end = share * extremes[0][k + 1] + (1.0 - share) * extremes[1][k + 1];
            let jerk = (end - now.a) / time;
            phases.push((n + pair[0], now, jerk));
            now = now.later(time, jerk);
            now.a = end;
        }
        // Rounding aside it is.
        now.v = 0.0;
        phases.push((n + ticks, now, 0.0));
        Some(Self { phases })
    }

    /// The ticks at which the jerk changes.
    fn switches(&self) -> impl Iterator<Item = u32> + '_ {
        self.phases.iter().map(|&(n, ..)| n)
    }

    fn at(&self, n: u32, tick: f64) -> Instant {
        let phase = self.phases.partition_point(|&(begin, ..)| begin <= n) - 1;
        let (begin, instant, jerk) = self.phases[phase];
        instant.later(f64::from(n - begin) * tick, jerk)
    }

    /// Whether rounded positions, a tick apart, make up accelerations and jerks within the margin.
    fn rounds_below(&self, limits: &Limits, j: usize, tick: f64) -> bool {
        let reach = self.phases.iter().map(|(_, instant, _)| instant.q.abs());
        let rounding = ROUNDINGS * f64::EPSILON * reach.fold(0.0, f64::max);
        // A coordinate that does not move has segments without any difference.
        self.phases.len() == 1
            || (rounding / tick.powi(2) <= MARGIN * limits.acceleration()[j]
                && rounding / tick.powi(3) <= MARGIN * limits.jerk()[j])
    }
}

/// How far the acceleration can go from `a` on, if it has to be zero after `duration` seconds.
struct Envelope {
    a: f64,
    acceleration: f64,
    jerk: f64,
    duration: f64,
}

impl Envelope {
    /// The acceleration that is farthest in the direction of `sign`, after `t` seconds.
    fn at(&self, sign: f64, t: f64) -> f64 {
        if t <= 0.0 {
            return self.a;
        }
        // What is beyond the limit already comes back to it.
        let limit = self.acceleration.max(self.a.abs() - self.jerk * t);
        let rising = sign * self.a + self.jerk * t;
        let falling = self.jerk * (self.duration - t);
        sign * rising.min(falling).min(limit)
    }

    /// The ticks around its corners in both directions, with those of its ends: between them it is straight.
    fn places(&self, tick: f64, ticks: u32) -> Vec<u32> {
        let (acceleration, jerk) = (self.acceleration, self.jerk);
        let mut places = vec![0, ticks];
        for sign in [1.0, -1.0] {
            let a = sign * self.a;
            for corner in [
                (acceleration - a) / jerk,
                (a - acceleration) / jerk,
                self.duration - acceleration / jerk,
                (self.duration - a / jerk) / 2.0,
            ] {
                let place = corner / tick;
                if place > 0.0 && place < f64::from(ticks) {
                    places.extend([place.floor() as u32, place.ceil() as u32]);
                }
            }
        }
        places.sort_unstable();
        places.dedup();
        places
    }
}

/// The integral of straight lines between values at these ticks.
fn area(places: &[u32], values: &[f64], tick: f64) -> f64 {
    let ends = places.windows(2).zip(values.windows(2));
    ends.map(|(n, a)| f64::from(n[1] - n[0]) * tick * (a[0] + a[1]) / 2.0)
        .sum()
}

/// The lengths of the three phases of the quickest stop, in seconds, and the acceleration of the second.
fn optimum(start: Instant, acceleration: f64, jerk: f64) -> ([f64; 3], f64) {
    let Instant { v, a, .. } = start;
    // The velocity that would be left if the acceleration went to zero at once decides the direction.
    let left = v + a * a.abs() / (2.0 * jerk);
    let s = -left.signum();
    let free = (a * a / 2.0 - s * v * jerk).max(0.0).sqrt();
    let peak = free.min(acceleration);
    let first = (s * peak - a).abs() / jerk;
    let hold = if free > acceleration {
        let before = s * v + s * (a + s * peak) / 2.0 * first;
        (-before - peak * peak / (2.0 * jerk)).max(0.0) / peak
    } else {
        0.0
    };
    ([first, hold, peak / jerk], s * peak)
}

/// Why a state cannot be brought to rest.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BrakeError {
    /// State and limits are not of one number of coordinates, from 1 up.
    #[error(
        "a state of {state} coordinates cannot brake with velocities, accelerations or limits of {found}"
    )]
    Dimensions {
        /// Coordinates of the position.
        state: usize,
        /// Coordinates of what differs.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("cannot brake: the {quantity} of coordinate {coordinate} is {value}")]
    NonFinite {
        /// Which values.
        quantity: Quantity,
        /// Which coordinate.
        coordinate: usize,
        /// NaN, or an infinity.
        value: f64,
    },
    /// Nothing says how hard a coordinate may brake.
    #[error("coordinate {coordinate} moves, and neither its acceleration nor its jerk is limited")]
    Unlimited {
        /// Which one.
        coordinate: usize,
    },
    /// The limits are zero, so small that a stop would take more than a day, or below what a position so large can
    /// resolve.
    #[error("coordinate {coordinate} moves, and its limits do not let it stop")]
    Endless {
        /// Which one.
        coordinate: usize,
    },
    /// The way to rest is no trajectory.
    #[error(transparent)]
    Trajectory(#[from] TrajectoryError),
}

#[cfg(test)]
mod tests {
    use nalgebra::DVector;
    use ndarray::array;
    use proptest::prelude::*;

    use super::*;
    use crate::trajectory::tests::{ms, valid};

    fn moving(q: &[f64], v: &[f64], a: &[f64]) -> State {
        State {
            position: DVector::from_column_slice(q),
            velocity: DVector::from_column_slice(v),
            acceleration: DVector::from_column_slice(a),
        }
    }

    fn limits(acceleration: f64, jerk: f64) -> Limits {
        Limits::unlimited(1)
            .with_acceleration(&[acceleration])
            .and_then(|limits| limits.with_jerk(&[jerk]))
            .expect("they are numbers")
    }

    const NONE: f64 = f64::INFINITY;

    #[test]
    fn a_stop_takes_as_long_as_the_textbook_says() {
        // (v, a, A, J) and the optimum in seconds.
        for (v, a, acceleration, jerk, expected) in [
            (1.0, 0.0, 2.0, 100.0, 1.0 / 2.0 + 2.0 / 100.0),
            (1.0, 0.0, 2.0, NONE, 1.0 / 2.0),
            (-1.0, 0.0, NONE, 100.0, 2.0 * (1.0_f64 / 100.0).sqrt()),
            // Half of it is over already: v = a² / 2J.
            (0.02, -2.0, 10.0, 100.0, 0.02),
            // It accelerates still: from 2 to −2, which takes as much as it adds, and then on to rest.
            (1.0, 2.0, 2.0, 100.0, 0.04 + (1.0 - 0.02) / 2.0 + 0.02),
            // Too hard: it has to turn round.
            (0.0, -2.0, 10.0, 100.0, 0.02 * (1.0 + 2.0_f64.sqrt())),
        ] {
            let state = moving(&[0.3], &[v], &[a]);
            let stop = brake(ms(5), &state, &limits(acceleration, jerk)).expect("it can stop");
            let took = stop.duration().as_secs_f64();
            // A thousandth of the limits, and four ticks.
            assert!(took >= expected - 1e-9, "{took} s for {expected} s");
            assert!(
                took <= 1.001 * expected + 0.004,
                "{took} s for {expected} s"
            );
            assert_eq!(stop.times()[0], ms(5));
        }
    }

    #[test]
    fn what_cannot_stop_is_an_error() {
        let message = |state: &State, limits: &Limits| {
            brake(Duration::ZERO, state, limits)
                .expect_err("it cannot stop")
                .to_string()
        };
        let moves = moving(&[0.0], &[1.0], &[0.0]);
        let unlimited = Limits::unlimited(1);
        assert_eq!(
            message(&moves, &unlimited),
            "coordinate 0 moves, and neither its acceleration nor its jerk is limited"
        );
        for zero in [
            limits(0.0, NONE),
            limits(NONE, 0.0),
            limits(0.0, 1.0),
            limits(1e-9, 1.0),
        ] {
            assert_eq!(
                message(&moves, &zero),
                "coordinate 0 moves, and its limits do not let it stop"
            );
        }
        let far = moving(&[1e300], &[1.0], &[0.0]);
        assert_eq!(
            message(&far, &limits(1.0, NONE)),
            "coordinate 0 moves, and its limits do not let it stop"
        );
        let nan = moving(&[0.0], &[f64::NAN], &[0.0]);
        assert_eq!(
            message(&nan, &limits(1.0, 1.0)),
            "cannot brake: the velocity of coordinate 0 is NaN"
        );
        assert_eq!(
            message(&moves, &Limits::unlimited(2)),
            "a state of 1 coordinates cannot brake with velocities, accelerations or limits of 2"
        );
        let late = brake(Duration::MAX, &moves, &limits(1.0, 1.0));
        assert!(matches!(late, Err(BrakeError::Trajectory(_))));
        // What rests needs no limits.
        let rests = moving(&[2.0], &[0.0], &[0.0]);
        let stop = brake(ms(3), &rests, &unlimited).expect("it stands");
        assert_eq!((stop.len(), stop.times()[0]), (1, ms(3)));
    }

    #[test]
    fn a_held_plan_and_one_at_rest_need_no_brake() {
        let held = valid(&[0, 100], array![[0.0], [1.0]], Interpolation::Hold);
        assert_eq!(held.clone().with_braking(&Limits::unlimited(1)), Ok(held));
        let rests = valid(&[0, 100], array![[1.0], [1.0]], Interpolation::Quintic);
        assert_eq!(rests.clone().with_braking(&Limits::unlimited(1)), Ok(rests));
        let empty = Trajectory::empty(1).expect("a coordinate");
        assert_eq!(empty.clone().with_braking(&Limits::unlimited(1)), Ok(empty));
    }

    #[test]
    fn tiny_limits_brake_on_longer_ticks() {
        // At 1 ms a position of 500 px rounds to jerks of 0.05 px/s³ and more.
        let state = moving(&[500.0], &[1.0], &[0.0]);
        let limits = limits(0.5, 0.2);
        let stop = brake(Duration::ZERO, &state, &limits).expect("it can stop");
        assert_eq!(limits.check(&stop), Ok(()));
        let quintic = stop.with_interpolation(Interpolation::Quintic);
        assert_eq!(limits.check(&quintic), Ok(()));
    }

    /// One coordinate: its state and its limits of acceleration and jerk.
    fn coordinate() -> impl Strategy<Value = (f64, f64, f64, f64, f64)> {
        let scale = |low: f64, high: f64| (low.ln()..high.ln()).prop_map(f64::exp);
        // Full acceleration takes from 1 ms to 0.2 s: then all brake on ticks of 1 ms.
        let jerk = prop_oneof![4 => scale(5.0, 1e3), 1 => Just(NONE)];
        (
            -3.0..3.0_f64,
            prop_oneof![3 => -2.0..2.0_f64, 1 => -1e-3..1e-3_f64, 1 => Just(0.0)],
            // As a part of its limit.
            prop_oneof![3 => -1.0..1.0_f64, 1 => Just(0.0), 1 => Just(1.0)],
            scale(0.5, 50.0),
            jerk,
        )
            .prop_map(|(q, v, part, acceleration, jerk)| {
                let a = part * (1.0 - 2.0 * MARGIN) * acceleration;
                (q, v, a, acceleration, jerk * acceleration)
            })
    }

    proptest! {
        #[test]
        fn a_brake_ends_at_rest_within_the_limits(
            coordinates in prop::collection::vec(coordinate(), 1..5),
        ) {
            let column = |of: fn(&(f64, f64, f64, f64, f64)) -> f64| -> Vec<f64> {
                coordinates.iter().map(of).collect()
            };
            let state = moving(&column(|c| c.0), &column(|c| c.1), &column(|c| c.2));
            // The fastest that a state which still accelerates has to become, on ticks and with the margin.
            let speed: Vec<f64> = coordinates
                .iter()
                .map(|&(_, v, a, acceleration, jerk)| {
                    let jerk = (1.0 - MARGIN) * jerk.min(2.0 * (1.0 - MARGIN) * acceleration / 1e-3);
                    // And what a few ticks of the jerk add.
                    let ticks = 8.0 * jerk * 1e-6;
                    v.abs().max((v + a * a.abs() / (2.0 * jerk)).abs()) + ticks
                })
                .collect();
            let limits = Limits::unlimited(coordinates.len())
                .with_velocity(&speed)
                .and_then(|limits| limits.with_acceleration(&column(|c| c.3)))
                .and_then(|limits| limits.with_jerk(&column(|c| c.4)))
                .expect("they are numbers");
            let stop = brake(ms(40), &state, &limits);
            prop_assert!(stop.is_ok(), "{:?}", stop);
            let stop = stop.expect("it can stop");
            prop_assert_eq!(limits.check(&stop), Ok(()));
            let quintic = stop.clone().with_interpolation(Interpolation::Quintic);
            prop_assert_eq!(limits.check(&quintic), Ok(()));
            prop_assert!(stop.arrival().is_some());
            // At rest exactly, and it began as the state was.
            let end = quintic.arrival().expect("it has waypoints");
            prop_assert!(end.is_at_rest());
            let begin = stop.waypoints().next().expect("it has waypoints");
            for j in 0..coordinates.len() {
                prop_assert_eq!(begin.position[j].to_bits(), state.position[j].to_bits());
                prop_assert_eq!(begin.velocity[j].to_bits(), state.velocity[j].to_bits());
                prop_assert_eq!(begin.acceleration[j].to_bits(), state.acceleration[j].to_bits());
            }
            // Cubic and quintic are one curve, so that the jerk is constant in each segment.
            let duration = stop.duration();
            for i in 0..=100 {
                let t = ms(40) + duration * i / 100;
                let (one, other) = (stop.sample(t).expect("waypoints"), quintic.sample(t).expect("waypoints"));
                for (j, coordinate) in coordinates.iter().enumerate() {
                    // Rounding of the position, and twice divided by 1 ms.
                    let rounding = 1e-14 * (1.0 + one.position[j].abs());
                    prop_assert!((one.position[j] - other.position[j]).abs() < 1e2 * rounding);
                    prop_assert!((one.velocity[j] - other.velocity[j]).abs() < 1e5 * rounding);
                    let bound = 1e8 * rounding + 1e-9 * coordinate.3;
                    prop_assert!((one.acceleration[j] - other.acceleration[j]).abs() < bound);
                }
            }
            // As fast as the optimum of the slowest coordinate, the margin and a few ticks aside.
            let optimal = coordinates.iter().map(|&(q, v, a, acceleration, jerk)| {
                let jerk = jerk.min(2.0 * acceleration / 1e-3);
                optimum(Instant { q, v, a }, acceleration, jerk).0.iter().sum::<f64>()
            });
            let optimal = optimal.fold(0.0, f64::max);
            let took = duration.as_secs_f64();
            prop_assert!(took <= 1.003 * optimal + 0.006, "{took} s for {optimal} s");
            prop_assert!(took >= optimal - 1e-9, "{took} s for {optimal} s");
        }

        #[test]
        fn a_plan_that_moves_gets_a_tail(
            positions in prop::collection::vec(-0.01..0.01_f64, 1..8),
            velocity in -1.0..1.0_f64,
        ) {
            let rows = positions.len();
            let positions = Array2::from_shape_vec((rows, 1), positions).expect("a column");
            for interpolation in [Interpolation::Linear, Interpolation::Cubic, Interpolation::Quintic] {
                let plan = Trajectory::uniform(ms(10), ms(100), positions.clone(), interpolation).expect("finite");
                let mut velocities = plan.velocities().to_owned();
                velocities[[rows - 1, 0]] = velocity;
                let plan = plan.with_velocities(velocities).expect("one row a waypoint");
                let limits = limits(100.0, 1e5);
                prop_assert_eq!(limits.check(&plan), Ok(()));
                let stopped = plan.clone().with_braking(&limits).expect("it can stop");
                prop_assert_eq!(stopped.prefix(rows), plan.clone());
                prop_assert_eq!(limits.check(&stopped), Ok(()));
                let arrival = stopped.arrival().expect("waypoints");
                if interpolation == Interpolation::Linear {
                    // The last of 16 pieces: no more than 1/8 of what it had.
                    let before = plan.arrival().expect("waypoints").velocity[0].abs();
                    prop_assert!(arrival.velocity[0].abs() <= before / 8.0);
                } else {
                    prop_assert!(arrival.velocity[0].abs() <= 0.0);
                    prop_assert_eq!(stopped.clone().with_braking(&limits), Ok(stopped.clone()));
                    if rows > 1 && stopped.len() > rows {
                        // Both sides of the joint.
                        let (before, after) = (stopped.segment(rows - 2, 0), stopped.segment(rows - 1, 0));
                        prop_assert!((before.position(1.0) - after.position(0.0)).abs() < 1e-12);
                        prop_assert!((before.velocity(1.0) - after.velocity(0.0)).abs() < 1e-9);
                        prop_assert!((before.acceleration(1.0) - after.acceleration(0.0)).abs() < 1e-5);
                    }
                }
            }
        }
    }
}
