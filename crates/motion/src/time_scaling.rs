//! How fast a curve can be followed.

use std::time::Duration;

use ndarray::Array2;

use crate::interpolation::Interpolation;
use crate::limits::{Limits, Violation};
use crate::path::{Path, RoundingError};
use crate::segment::Segment;
use crate::trajectory::{Trajectory, TrajectoryError, seconds};

/// The share of the acceleration's bound that curvature may take; the rest is left for going faster and slower. The one
/// that is quickest is taken.
const SHARES: [f64; 4] = [0.2, 0.4, 0.6, 0.8];

/// Into how many sections of bounds of its own a curve is divided at most. Finer ones stop accelerating too often.
const SECTIONS: [usize; 6] = [1, 2, 4, 8, 16, 32];

/// The longest time between two waypoints of the result: s.
const TICK: f64 = 0.02;

/// How often a result that exceeds a limit by its interpolation is slowed down: each time by twice as much.
const SLOWDOWNS: i32 = 30;

/// The first of these, as a share of the time.
const SLOWDOWN: f64 = 1e-6;

/// What is left of each limit for the interpolation between waypoints.
const MARGIN: f64 = 1e-3;

/// A motion along a C² curve from rest to rest, within limits of velocity, acceleration and jerk.
///
/// With the curve `q(s)` and the place `s(t)`, for each coordinate
///
/// ```text
/// q̇ = q′ ṡ        q̈ = q″ ṡ² + q′ s̈        q⃛ = q‴ ṡ³ + 3 q″ ṡ s̈ + q′ s⃛
/// ```
///
/// so that what the curve's own bends take of a limit is not there for going faster. The curve is divided into sections;
/// in each, from the exact extremes `Qₖ` of the curve's derivatives there, constants `V, A, J` follow with
///
/// ```text
/// Q₁ V ≤ velocity      Q₂ V² + Q₁ A ≤ acceleration      Q₃ V³ + 3 Q₂ V A + Q₁ J ≤ jerk
/// ```
///
/// and `s(t)` is the quickest motion with `|ṡ| ≤ V`, `|s̈| ≤ A`, `|s⃛| ≤ J` that crosses from section to section without
/// acceleration: seven pieces of constant jerk a section. Several divisions are tried and the quickest is kept.
///
/// The result is an [`Interpolation::Quintic`] with waypoints at most 20 ms apart and wherever the jerk changes. **It is
/// checked by [`Limits::check`]**, whose bounds are exact between waypoints too, and slowed down by as little as it takes
/// should interpolation have exceeded one. Its first and last waypoints are at rest. It follows the curve up to its
/// interpolation: sweep it with [`FreeSpace::check_trajectory`](crate::FreeSpace::check_trajectory) once more.
///
/// It is not time-optimal: crossing without acceleration and constants a section are what it pays for bounds that are
/// proven. An infinite limit is none; but a jerk without a bound is taken as one that is reached in 10 ms.
///
/// Biagiotti and Melchiorri, "Trajectory Planning for Automatic Machines and Robots", 2008, section 3.4, has the seven
/// pieces.
///
/// ```
/// use clearway_motion::{Limits, Path, scale_time};
/// use ndarray::array;
///
/// let path = Path::new(array![[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [2.0, 1.0]])?;
/// let limits = Limits::unlimited(2)
///     .with_velocity(&[1.0, 1.0])?
///     .with_acceleration(&[2.0, 2.0])?
///     .with_jerk(&[20.0, 20.0])?;
/// let motion = scale_time(&path.spline()?, &limits)?;
/// assert!(limits.check(&motion).is_ok());
/// assert!(motion.arrival().is_some_and(|end| end.is_at_rest()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// See [`ScalingError`].
pub fn scale_time(curve: &Trajectory, limits: &Limits) -> Result<Trajectory, ScalingError> {
    if curve.dof() != limits.dof() {
        return Err(ScalingError::Dimensions {
            curve: curve.dof(),
            limits: limits.dof(),
        });
    }
    if !matches!(
        curve.interpolation(),
        Interpolation::Cubic | Interpolation::Quintic
    ) {
        return Err(ScalingError::Corners {
            interpolation: curve.interpolation(),
        });
    }
    if curve.len() < 2 {
        return Err(ScalingError::Point);
    }
    check_limits(limits)?;
    check_bends(curve)?;
    let bends: Vec<Vec<[f64; 3]>> = (0..curve.len() - 1)
        .map(|i| {
            (0..curve.dof())
                .map(|j| extremes(&curve.segment(i, j)))
                .collect()
        })
        .collect();
    let mut best: Option<Law> = None;
    for sections in SECTIONS {
        if sections > bends.len() && sections > 1 {
            break;
        }
        for share in SHARES {
            let Some(law) = Law::new(curve, &bends, limits, sections, share) else {
                continue;
            };
            if best
                .as_ref()
                .is_none_or(|kept| law.duration < kept.duration)
            {
                best = Some(law);
            }
        }
    }
    let law = best.ok_or(ScalingError::Endless)?;
    let mut stretch = 1.0;
    let mut attempt = 0;
    loop {
        let motion = law.follow(curve, stretch)?;
        match limits.check(&motion) {
            Ok(()) => return Ok(motion),
            // A curve beyond the limits of the position stays there however slow it is.
            Err(violation) if attempt >= SLOWDOWNS || is_position(&violation) => {
                return Err(ScalingError::Violation(violation));
            }
            Err(_) => {
                stretch += SLOWDOWN * 2_f64.powi(attempt);
                attempt += 1;
            }
        }
    }
}

impl Path {
    /// A motion along the path with rounded corners, from rest to rest: [`Path::rounded`], then [`scale_time`], and the
    /// proof that the result touches nothing.
    ///
    /// Corners are passed slowly, and the more so the smaller the radius.
    ///
    /// # Errors
    ///
    /// Those of both, and [`ScalingError::Blocked`].
    pub fn motion(&self, free: &crate::FreeSpace, radius: f64) -> Result<Trajectory, ScalingError> {
        let motion = scale_time(&self.rounded(free, radius)?, free.limits())?;
        free.check_trajectory(&motion)?;
        Ok(motion)
    }
}

fn is_position(violation: &Violation) -> bool {
    use crate::limits::Bound::{Lower, Upper};
    matches!(
        violation,
        Violation::Exceeded {
            bound: Lower | Upper,
            ..
        } | Violation::Dimensions { .. }
    )
}

fn check_limits(limits: &Limits) -> Result<(), ScalingError> {
    for (quantity, bounds) in [
        ("velocity", limits.velocity()),
        ("acceleration", limits.acceleration()),
        ("jerk", limits.jerk()),
    ] {
        for (coordinate, &limit) in bounds.iter().enumerate() {
            if limit <= 0.0 {
                return Err(ScalingError::Still {
                    quantity,
                    coordinate,
                });
            }
        }
    }
    let finite = |bounds: &[f64]| bounds.iter().all(|it| it.is_finite());
    if finite(limits.velocity()) || finite(limits.acceleration()) || finite(limits.jerk()) {
        Ok(())
    } else {
        Err(ScalingError::Unlimited)
    }
}

/// How much the second derivatives before and after a knot may differ by rounding, relative to the largest.
const BEND: f64 = 1e-6;

/// Whether the second derivative of a cubic has no jumps; a quintic's has none.
fn check_bends(curve: &Trajectory) -> Result<(), ScalingError> {
    if curve.interpolation() != Interpolation::Cubic {
        return Ok(());
    }
    for j in 0..curve.dof() {
        let segments: Vec<Segment> = (0..curve.len() - 1).map(|i| curve.segment(i, j)).collect();
        let sizes = segments
            .iter()
            .flat_map(|it| [0.0, 1.0].map(|u| it.acceleration(u).abs()));
        let largest = sizes.fold(0.0, f64::max);
        for (i, pair) in segments.windows(2).enumerate() {
            let jump = (pair[1].acceleration(0.0) - pair[0].acceleration(1.0)).abs();
            if jump > BEND * largest {
                return Err(ScalingError::Bend {
                    waypoint: i + 1,
                    coordinate: j,
                });
            }
        }
    }
    Ok(())
}

/// The largest magnitudes of the first three derivatives of a segment.
fn extremes(segment: &Segment) -> [f64; 3] {
    let mut largest = [0.0_f64; 3];
    for u in segment.critical_points().iter().chain([0.0, 1.0]) {
        largest[0] = largest[0].max(segment.velocity(u).abs());
        largest[1] = largest[1].max(segment.acceleration(u).abs());
        largest[2] = largest[2].max(segment.jerk(u).abs());
    }
    largest
}

/// Bounds of `ṡ`, `s̈` and `s⃛`.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    speed: f64,
    acceleration: f64,
    jerk: f64,
}

impl Bounds {
    /// What a section with these extremes allows.
    fn new(bends: &[[f64; 3]], limits: &Limits, share: f64) -> Self {
        let keep = 1.0 - MARGIN;
        let limit = |bounds: &[f64], j: usize| keep * bounds[j];
        let over = |value: f64, bend: f64| {
            if bend > 0.0 {
                value / bend
            } else {
                f64::INFINITY
            }
        };
        let mut bounds = Self {
            speed: f64::INFINITY,
            acceleration: f64::INFINITY,
            jerk: f64::INFINITY,
        };
        for (j, &[q1, q2, q3]) in bends.iter().enumerate() {
            let by_velocity = over(limit(limits.velocity(), j), q1);
            let by_bend = over(share * limit(limits.acceleration(), j), q2).sqrt();
            let by_twist = over(limit(limits.jerk(), j) / 4.0, q3).cbrt();
            bounds.speed = bounds.speed.min(by_velocity).min(by_bend).min(by_twist);
        }
        let v = bounds.speed;
        // An infinite speed has met no bend: 0 · ∞ would be no number.
        let times = |bend: f64, factor: f64| if bend > 0.0 { bend * factor } else { 0.0 };
        for (j, &[q1, q2, _]) in bends.iter().enumerate() {
            let left = limit(limits.acceleration(), j) - times(q2, v * v);
            let by_twist = over(limit(limits.jerk(), j) / 4.0, times(3.0 * q2, v));
            bounds.acceleration = bounds.acceleration.min(over(left, q1)).min(by_twist);
        }
        let a = bounds.acceleration;
        for (j, &[q1, q2, q3]) in bends.iter().enumerate() {
            let taken = times(q3, v * v * v) + times(3.0 * q2, v * a);
            let left = limit(limits.jerk(), j) - taken;
            bounds.jerk = bounds.jerk.min(over(left, q1));
        }
        bounds.close()
    }

    /// Numbers in place of infinities, which limit nothing but cannot be computed with.
    fn close(mut self) -> Self {
        const QUICK: f64 = 0.01;
        if self.acceleration.is_infinite() {
            self.acceleration = if self.speed.is_finite() {
                self.speed / QUICK
            } else {
                self.jerk * QUICK
            };
        }
        if self.jerk.is_infinite() {
            self.jerk = self.acceleration / QUICK;
        }
        if self.speed.is_infinite() {
            // More than any distance allows.
            self.speed = f64::MAX.sqrt();
        }
        self
    }

    /// Seconds and distance from one speed to another, without acceleration at either end.
    fn ramp(&self, from: f64, to: f64) -> (f64, f64) {
        let change = (to - from).abs();
        let time = if change * self.jerk >= self.acceleration * self.acceleration {
            change / self.acceleration + self.acceleration / self.jerk
        } else {
            2.0 * (change / self.jerk).sqrt()
        };
        (time, time * f64::midpoint(from, to))
    }

    /// The largest speed that is reached from `from` within a distance, at most `most`.
    fn fastest(&self, from: f64, distance: f64, most: f64) -> f64 {
        if most <= from || self.ramp(from, most).1 <= distance {
            return most;
        }
        let enough = |to: f64| self.ramp(from, to).1 <= distance;
        // The way grows with the speed that is reached. A speed without a bound is found from below first.
        let mut low = from;
        let mut high = most.min(from.max(1e-9) * 2.0);
        while high < most && enough(high) {
            low = high;
            high = (high * 2.0).min(most);
        }
        largest(low, high, enough)
    }

    /// The largest speed in between on a way from one speed to another.
    fn peak(&self, from: f64, to: f64, distance: f64) -> f64 {
        let low = from.max(to);
        let enough = |v: f64| self.ramp(from, v).1 + self.ramp(v, to).1 <= distance;
        if low >= self.speed || enough(self.speed) {
            return self.speed.max(low);
        }
        let mut high = self.speed.min(low.max(1e-9) * 2.0);
        let mut low = low;
        while high < self.speed && enough(high) {
            low = high;
            high = (high * 2.0).min(self.speed);
        }
        largest(low, high, enough)
    }
}

/// The largest number in an interval for which `holds`, which it does up to some number, to the last bit.
fn largest(mut low: f64, mut high: f64, holds: impl Fn(f64) -> bool) -> f64 {
    loop {
        let middle = f64::midpoint(low, high);
        if middle <= low || middle >= high {
            return low;
        }
        if holds(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
}

/// A piece of constant jerk of `s(t)`.
#[derive(Debug, Clone, Copy)]
struct Piece {
    /// When it begins: s.
    time: f64,
    place: f64,
    speed: f64,
    acceleration: f64,
    jerk: f64,
}

impl Piece {
    /// `s`, `ṡ` and `s̈` after some time.
    fn after(&self, t: f64) -> [f64; 3] {
        let speed = self.speed + t * (self.acceleration + t * self.jerk / 2.0);
        let place =
            self.place + t * (self.speed + t * (self.acceleration / 2.0 + t * self.jerk / 6.0));
        [place, speed, self.acceleration + t * self.jerk]
    }
}

/// The place along a curve as a function of time.
#[derive(Debug, Clone)]
struct Law {
    pieces: Vec<Piece>,
    duration: f64,
    /// Where the curve's segments begin and it ends.
    knots: Vec<f64>,
}

impl Law {
    /// The quickest law with so many sections; `None` if it takes for ever.
    fn new(
        curve: &Trajectory,
        bends: &[Vec<[f64; 3]>],
        limits: &Limits,
        sections: usize,
        share: f64,
    ) -> Option<Self> {
        let first = curve.times()[0];
        let knots: Vec<f64> = curve.times().iter().map(|&it| seconds(first, it)).collect();
        let borders: Vec<usize> = (0..=sections).map(|k| k * bends.len() / sections).collect();
        let bounds: Vec<Bounds> = borders
            .windows(2)
            .map(|pair| {
                let mut all = vec![[0.0_f64; 3]; curve.dof()];
                for segment in &bends[pair[0]..pair[1]] {
                    for (all, bend) in all.iter_mut().zip(segment) {
                        for (all, bend) in all.iter_mut().zip(bend) {
                            *all = all.max(*bend);
                        }
                    }
                }
                Bounds::new(&all, limits, share)
            })
            .collect();
        let length = |k: usize| knots[borders[k + 1]] - knots[borders[k]];
        // The speed at each border: within the bounds of both sides, and reachable from both ends.
        let mut speeds = vec![0.0; sections + 1];
        for k in 1..sections {
            let most = bounds[k - 1].speed.min(bounds[k].speed);
            speeds[k] = bounds[k - 1].fastest(speeds[k - 1], length(k - 1), most);
        }
        for k in (1..sections).rev() {
            speeds[k] = bounds[k].fastest(speeds[k + 1], length(k), speeds[k]);
        }
        let mut law = Self {
            pieces: Vec::new(),
            duration: 0.0,
            knots: knots.clone(),
        };
        for k in 0..sections {
            let (from, to) = (speeds[k], speeds[k + 1]);
            let peak = bounds[k].peak(from, to, length(k));
            let way = bounds[k].ramp(from, peak).1 + bounds[k].ramp(peak, to).1;
            let cruise = (length(k) - way).max(0.0) / peak;
            law.ramp(&bounds[k], knots[borders[k]], from, peak);
            law.push(cruise, 0.0, 0.0);
            // From the end of the section, so that rounding does not add up over the sections.
            let begin = knots[borders[k + 1]] - bounds[k].ramp(peak, to).1;
            law.ramp(&bounds[k], begin, peak, to);
        }
        law.duration.is_finite().then_some(law)
    }

    /// The pieces that lead from one speed to another, from a place on.
    fn ramp(&mut self, bounds: &Bounds, place: f64, from: f64, to: f64) {
        let change = (to - from).abs();
        let sign = if to < from { -1.0 } else { 1.0 };
        let steep = bounds.acceleration * bounds.acceleration / bounds.jerk;
        let (bend, straight) = if change >= steep {
            let bend = bounds.acceleration / bounds.jerk;
            (bend, change / bounds.acceleration - bend)
        } else {
            ((change / bounds.jerk).sqrt(), 0.0)
        };
        let jerk = sign * bounds.jerk;
        self.begin(place, from);
        self.push(bend, jerk, jerk * bend);
        self.push(straight, 0.0, jerk * bend);
        self.push(bend, -jerk, 0.0);
        self.begin(place + bounds.ramp(from, to).1, to);
    }

    /// The state from which the next piece goes on.
    fn begin(&mut self, place: f64, speed: f64) {
        let time = self.duration;
        // A piece without a duration is a place to begin at.
        self.pieces.retain(|piece| piece.time < time);
        self.pieces.push(Piece {
            time,
            place,
            speed,
            acceleration: 0.0,
            jerk: 0.0,
        });
    }

    /// Some seconds of a jerk, with which the acceleration becomes `reached`.
    fn push(&mut self, time: f64, jerk: f64, reached: f64) {
        let Some(last) = self.pieces.last_mut() else {
            return;
        };
        if time.is_nan() || time <= 0.0 {
            return;
        }
        last.jerk = jerk;
        let [place, speed, _] = last.after(time);
        self.duration += time;
        self.pieces.push(Piece {
            time: self.duration,
            place,
            speed,
            acceleration: reached,
            jerk: 0.0,
        });
    }

    /// The state at a time.
    fn at(&self, t: f64) -> [f64; 3] {
        let begun = self.pieces.partition_point(|piece| piece.time <= t);
        let piece = &self.pieces[begun.saturating_sub(1)];
        piece.after(t - piece.time)
    }

    /// When a place is reached, by bisection.
    fn when(&self, place: f64) -> f64 {
        let begun = self.pieces.partition_point(|piece| piece.place <= place);
        let index = begun.saturating_sub(1);
        let end = self
            .pieces
            .get(index + 1)
            .map_or(self.duration, |it| it.time);
        let piece = &self.pieces[index];
        piece.time + largest(0.0, end - piece.time, |t| piece.after(t)[0] <= place)
    }

    /// The motion along the curve, with all times `stretch` times as long.
    fn follow(&self, curve: &Trajectory, stretch: f64) -> Result<Trajectory, ScalingError> {
        let mut moments: Vec<f64> = self.pieces.iter().map(|piece| piece.time).collect();
        let inner = &self.knots[1..self.knots.len() - 1];
        moments.extend(inner.iter().map(|&place| self.when(place)));
        moments.push(self.duration);
        moments.sort_unstable_by(f64::total_cmp);
        // Waypoints nearer than this to each other would make jerks of rounding.
        let nearest = 1e-4_f64.min(self.duration / 8.0);
        let mut times: Vec<f64> = Vec::new();
        for &moment in &moments {
            let Some(&last) = times.last() else {
                times.push(moment);
                continue;
            };
            if moment - last < nearest {
                continue;
            }
            let ticks = ((moment - last) / TICK).ceil().max(1.0);
            for tick in 1..ticks as usize {
                times.push(last + (moment - last) * tick as f64 / ticks);
            }
            times.push(moment);
        }
        if let Some(last) = times.last_mut() {
            *last = self.duration;
        }
        // What a waypoint is at is evaluated at the nanosecond that its time is rounded to: a jerk is a third difference.
        let times = times
            .iter()
            .map(|t| Duration::try_from_secs_f64(t * stretch).map_err(|_| ScalingError::Endless))
            .collect::<Result<Vec<_>, _>>()?;
        let count = times.len();
        let end = self.knots[self.knots.len() - 1];
        let mut values = [(); 3].map(|()| Array2::zeros((count, curve.dof())));
        for (i, time) in times.iter().enumerate() {
            let t = time.as_secs_f64() / stretch;
            let [place, speed, acceleration] = if i == 0 {
                [0.0; 3]
            } else if i == count - 1 {
                [end, 0.0, 0.0]
            } else {
                self.at(t)
            };
            let place = place.clamp(0.0, end);
            let begun = self.knots.partition_point(|&knot| knot <= place);
            let segment = begun.saturating_sub(1).min(self.knots.len() - 2);
            let u = (place - self.knots[segment]) / (self.knots[segment + 1] - self.knots[segment]);
            for j in 0..curve.dof() {
                let polynomial = curve.segment(segment, j);
                let (q1, q2) = (polynomial.velocity(u), polynomial.acceleration(u));
                values[0][[i, j]] = polynomial.position(u);
                values[1][[i, j]] = q1 * speed / stretch;
                values[2][[i, j]] = (q2 * speed * speed + q1 * acceleration) / (stretch * stretch);
            }
        }
        // The ends are the curve's own, to the bit.
        for j in 0..curve.dof() {
            values[0][[0, j]] = curve.positions()[[0, j]];
            values[0][[count - 1, j]] = curve.positions()[[curve.len() - 1, j]];
        }
        let [positions, velocities, accelerations] = values;
        let motion = Trajectory::new(times, positions, Interpolation::Quintic)?
            .with_velocities(velocities)?
            .with_accelerations(accelerations)?;
        Ok(motion)
    }
}

/// Why a curve does not become a motion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ScalingError {
    /// Limits of other coordinates.
    #[error("the curve has {curve} coordinates, the limits {limits}")]
    Dimensions {
        /// Coordinates of the curve.
        curve: usize,
        /// Coordinates of the limits.
        limits: usize,
    },
    /// A curve with corners: no speed but zero takes them.
    #[error("a {interpolation} curve has corners; round them first")]
    Corners {
        /// What it is.
        interpolation: Interpolation,
    },
    /// A cubic whose second derivative jumps: no finite jerk follows it.
    #[error("the second derivative of coordinate {coordinate} jumps at waypoint {waypoint}")]
    Bend {
        /// Where.
        waypoint: usize,
        /// Of what.
        coordinate: usize,
    },
    /// Fewer than two waypoints: there is no curve.
    #[error("a curve needs at least two waypoints")]
    Point,
    /// A limit of zero.
    #[error("coordinate {coordinate} may not move: the limit of its {quantity} is 0")]
    Still {
        /// Which limit.
        quantity: &'static str,
        /// Of which coordinate.
        coordinate: usize,
    },
    /// No quantity is limited in all coordinates: it would take no time at all.
    #[error("neither velocity, acceleration nor jerk is limited in all coordinates")]
    Unlimited,
    /// Longer than a [`Duration`] can say, or than numbers can.
    #[error("the motion would take for ever")]
    Endless,
    /// A limit that the motion exceeds at any speed: of a position.
    #[error(transparent)]
    Violation(#[from] Violation),
    /// A motion that leaves a curve which only just fits.
    #[error(transparent)]
    Blocked(#[from] crate::free_space::Blocked),
    /// A path that does not become a curve.
    #[error(transparent)]
    Rounding(#[from] RoundingError),
    /// Numbers that are no trajectory.
    #[error(transparent)]
    Trajectory(#[from] TrajectoryError),
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::body::Translating;
    use crate::free_space::FreeSpace;
    use crate::scene::Scene;

    fn limits(velocity: f64, acceleration: f64, jerk: f64) -> Limits {
        Limits::unlimited(2)
            .with_velocity(&[velocity; 2])
            .and_then(|it| it.with_acceleration(&[acceleration; 2]))
            .and_then(|it| it.with_jerk(&[jerk; 2]))
            .expect("they are positive")
    }

    fn path(values: &[f64]) -> Path {
        let rows = Array2::from_shape_vec((values.len() / 2, 2), values.to_vec());
        Path::new(rows.expect("two columns")).expect("they are finite")
    }

    #[test]
    fn a_straight_way_takes_as_long_as_on_paper() {
        let straight = path(&[0.0, 0.0, 3.0, 0.0]);
        let curve = straight.spline().expect("it has a length");
        let keep = 1.0 - MARGIN;
        for (v, a, j) in [(1.0, 2.0, 20.0), (10.0, 2.0, 20.0), (10.0, 50.0, 20.0)] {
            let motion = scale_time(&curve, &limits(v, a, j)).expect("it moves");
            let (v, a, j) = (keep * v, keep * a, keep * j);
            // Seven pieces, five without a cruise, three without a constant acceleration.
            let ramp = |v: f64| {
                if v * j >= a * a {
                    v / a + a / j
                } else {
                    2.0 * (v / j).sqrt()
                }
            };
            let expected = if v * ramp(v) <= 3.0 {
                2.0 * ramp(v) + (3.0 - v * ramp(v)) / v
            } else {
                let peak = a * (-a / j + (a * a / (j * j) + 4.0 * 3.0 / a).sqrt()) / 2.0;
                let peak = if peak * j >= a * a {
                    peak
                } else {
                    (1.5 * 1.5 * j).cbrt()
                };
                2.0 * ramp(peak)
            };
            let found = motion.duration().as_secs_f64();
            assert!(
                (found - expected).abs() < 1e-6 * expected,
                "{found} {expected}"
            );
        }
    }

    proptest! {
        #[test]
        fn motions_keep_their_limits_and_their_curve(
            values in prop::collection::vec(-1.0..1.0_f64, 4..24),
            scales in (-1..2_i32, -1..2_i32, -1..2_i32),
            rounded in any::<bool>(),
        ) {
            let values = &values[..values.len() / 2 * 2];
            let path = path(values);
            let power = |scale: i32| 5_f64.powi(scale);
            let limits = limits(power(scales.0), 2.0 * power(scales.1), 20.0 * power(scales.2));
            let body = Translating::disc(0.0).expect("a point");
            let scene = Scene::new();
            let free = FreeSpace::new(&body, &scene, &limits).expect("the dimensions agree");
            let curve = if rounded { path.rounded(&free, 0.2) } else { path.spline() };
            let curve = curve.expect("random points differ");
            let motion = scale_time(&curve, &limits).expect("it moves");
            prop_assert_eq!(limits.check(&motion), Ok(()));
            let end = motion.arrival().expect("it has waypoints");
            prop_assert!(end.is_at_rest());
            let goal = [values[values.len() - 2], values[values.len() - 1]];
            prop_assert!((end.position[0] - goal[0]).abs() <= 1e-12);
            prop_assert!((end.position[1] - goal[1]).abs() <= 1e-12);
            // On the curve: nearer than 1e-3 to a chord of it, which are a five-thousandth of it long.
            let span = curve.duration().as_secs_f64();
            let samples: Vec<_> = (0..=5000).map(|i| {
                let at = Duration::from_secs_f64(span * f64::from(i) / 5000.0);
                curve.sample(at).expect("it has waypoints").position
            }).collect();
            let mut from = 0;
            for i in 0..=200_u32 {
                let at = motion.sample(motion.duration() * i / 200).expect("it has waypoints").position;
                // Forwards, since a curve may cross itself.
                let chords = samples[from..].windows(2).take(1000).enumerate();
                let near = chords.map(|(k, chord)| {
                    let along = &chord[1] - &chord[0];
                    let share = (&at - &chord[0]).dot(&along) / along.norm_squared();
                    ((&chord[0] + along * share.clamp(0.0, 1.0) - &at).norm(), k)
                });
                let Some((distance, k)) = near.min_by(|a, b| a.0.total_cmp(&b.0)) else {
                    continue;
                };
                prop_assert!(distance < 1e-3, "{distance}");
                from += k.saturating_sub(2);
            }
        }
    }

    #[test]
    fn a_curve_that_bends_little_is_followed_nearly_as_fast_as_a_straight_one() {
        let bow: Vec<f64> = (0..=20)
            .flat_map(|i| {
                let x = f64::from(i) / 5.0;
                [x, 0.02 * (x * 1.5).sin()]
            })
            .collect();
        let bounds = limits(1.0, 2.0, 20.0);
        let time = |path: &Path| {
            let curve = path.spline().expect("it has a length");
            scale_time(&curve, &bounds)
                .expect("it moves")
                .duration()
                .as_secs_f64()
        };
        let (bent, straight) = (time(&path(&bow)), time(&path(&[0.0, 0.0, 4.0, 0.0])));
        assert!(bent < 1.1 * straight, "{bent} {straight}");
    }

    #[test]
    fn what_is_no_curve_or_has_no_limits_is_refused() {
        let curve = path(&[0.0, 0.0, 1.0, 0.0, 1.0, 1.0])
            .spline()
            .expect("it has a length");
        let message = |curve: &Trajectory, limits: &Limits| {
            scale_time(curve, limits)
                .expect_err("it is refused")
                .to_string()
        };
        let bounds = limits(1.0, 1.0, 1.0);
        assert_eq!(
            message(
                &curve.clone().with_interpolation(Interpolation::Linear),
                &bounds
            ),
            "a linear curve has corners; round them first"
        );
        assert_eq!(
            message(&curve, &limits(1.0, 0.0, 1.0)),
            "coordinate 0 may not move: the limit of its acceleration is 0"
        );
        assert_eq!(
            message(&curve, &Limits::unlimited(2)),
            "neither velocity, acceleration nor jerk is limited in all coordinates"
        );
        let slopes = curve.velocities().mapv(|it| it + 0.3);
        let kinked = curve
            .clone()
            .with_velocities(slopes)
            .expect("they are finite");
        assert_eq!(
            message(&kinked, &bounds),
            "the second derivative of coordinate 0 jumps at waypoint 1"
        );
        let narrow = bounds
            .with_position(&[0.0, 0.0], &[0.5, 1.0])
            .expect("they are ordered");
        assert!(message(&curve, &narrow).starts_with("position of coordinate"));
        assert!(matches!(
            path(&[0.0, 0.0, 0.0, 0.0]).spline(),
            Err(RoundingError::Point)
        ));
    }
}
