//! Where a robot touches nothing, and the proof that a motion stays there.

use nalgebra::Vector3;

use crate::body::Body;
use crate::interpolation::Interpolation;
use crate::limits::{Bound, Limits};
use crate::path::Path;
use crate::scene::{Scene, Solid};
use crate::trajectory::Trajectory;

/// Half of the motion that is left unproven when a sweep gives up: m. See [`FreeSpace::with_resolution`].
const RESOLUTION: f64 = 1e-5;

/// What rounding may do to a computed distance, relative to the coordinates: a hundred roundings.
const ROUNDING: f64 = 100.0 * f64::EPSILON;

/// The configurations in which a robot is within its limits and touches no obstacle.
///
/// ```text
/// clearance(q) = min over balls i of d(center_i(q)) − radius_i − margin          must be ≥ 0
/// lower ≤ q ≤ upper
/// ```
///
/// # A sweep is a proof
///
/// A motion is checked whole and not at samples of it. At the middle of an interval of the motion no ball is nearer to
/// an obstacle than its clearance, and none moves by more than its speed times the time; so around the middle a piece
/// of half-length `clearance / speed` is free, and only what is left on either side has to be looked at again:
///
/// ```text
/// free on [m − δ, m + δ],   δ = min over balls of clearance_i(m) / speed_i
/// ```
///
/// Distances are exact and change no faster than their point does, so that nothing thin is jumped over. What can be
/// proven neither free nor blocked before the motion in a piece falls below the resolution is refused: a gap that is
/// narrower than the resolution counts as closed.
/// Mirtich, "Impulse-based Dynamic Simulation of Rigid Body Systems", 1996, calls this conservative advancement.
///
/// ```
/// use clearway_motion::{FreeSpace, Limits, Obstacle, Scene, Translating};
///
/// let disc = Translating::disc(0.1)?;
/// let scene = Scene::new().with(Obstacle::disc([0.0, 0.0], 0.3)?);
/// let limits = Limits::unlimited(2).with_position(&[-1.0, -1.0], &[1.0, 1.0])?;
/// let free = FreeSpace::new(&disc, &scene, &limits)?;
/// assert!(free.check_segment(&[-1.0, 0.5], &[1.0, 0.5]).is_ok());
/// let blocked = free.check_segment(&[-1.0, 0.3], &[1.0, 0.3]).expect_err("0.4 is needed");
/// assert_eq!(
///     blocked.to_string(),
///     "ball 0 has a clearance of -0.10000 m from obstacle 0, a cylinder, at [0.0, 0.3]",
/// );
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, Copy)]
pub struct FreeSpace<'a> {
    body: &'a dyn Body,
    scene: &'a Scene,
    limits: &'a Limits,
    margin: f64,
    resolution: f64,
}

impl<'a> FreeSpace<'a> {
    /// What is free for `body` among the obstacles of `scene`, within the positions of `limits`.
    ///
    /// # Errors
    ///
    /// [`Blocked::Dimensions`] if the limits are of other coordinates than the body.
    pub fn new(body: &'a dyn Body, scene: &'a Scene, limits: &'a Limits) -> Result<Self, Blocked> {
        if body.dof() != limits.dof() {
            return Err(Blocked::Dimensions {
                expected: body.dof(),
                found: limits.dof(),
            });
        }
        Ok(Self {
            body,
            scene,
            limits,
            margin: 0.0,
            resolution: RESOLUTION,
        })
    }

    /// The same with a distance from every obstacle that must be kept: m, `0` by default.
    ///
    /// A NaN or an infinite margin leaves nothing free.
    #[must_use]
    pub fn with_margin(mut self, margin: f64) -> Self {
        self.margin = margin;
        self
    }

    /// The same with another shortest piece of a sweep: m, `1e-5` by default, and not less than `1e-9`.
    ///
    /// Longer ones are quicker where a motion grazes an obstacle, and close gaps of that size.
    #[must_use]
    pub fn with_resolution(mut self, resolution: f64) -> Self {
        // `max` also takes a NaN out.
        self.resolution = resolution.max(1e-9);
        self
    }

    /// The robot.
    pub fn body(&self) -> &'a dyn Body {
        self.body
    }

    /// The obstacles.
    pub fn scene(&self) -> &'a Scene {
        self.scene
    }

    /// The limits.
    pub fn limits(&self) -> &'a Limits {
        self.limits
    }

    /// The distance from every obstacle that must be kept: m.
    pub fn margin(&self) -> f64 {
        self.margin
    }

    /// The number of coordinates.
    pub fn dof(&self) -> usize {
        self.body.dof()
    }

    /// The least distance of a ball from an obstacle, less the margin: m. Infinite without obstacles; NaN for a
    /// configuration that is not finite or of other dimensions.
    pub fn clearance(&self, q: &[f64]) -> f64 {
        if check_numbers(self.dof(), q).is_err() {
            return f64::NAN;
        }
        let mut centers = vec![Vector3::zeros(); self.body.radii().len()];
        self.body.place(q, &mut centers);
        let clearances = centers.iter().zip(self.body.radii());
        clearances
            .map(|(center, radius)| self.scene.distance(center) - radius - self.margin)
            .fold(f64::INFINITY, least)
    }

    /// Whether one configuration is free.
    ///
    /// # Errors
    ///
    /// What [`Blocked`] says, limits first.
    pub fn check(&self, q: &[f64]) -> Result<(), Blocked> {
        self.check_position(q)?;
        self.sweep(&[0.0], |_, out| out.copy_from_slice(q), &vec![0.0; q.len()])
    }

    /// Whether a configuration is finite and within the limits; obstacles are not looked at.
    ///
    /// # Errors
    ///
    /// What [`Blocked`] says.
    pub fn check_position(&self, q: &[f64]) -> Result<(), Blocked> {
        check_numbers(self.dof(), q)?;
        for (coordinate, &value) in q.iter().enumerate() {
            let (lower, upper) = (
                self.limits.lower()[coordinate],
                self.limits.upper()[coordinate],
            );
            let (bound, limit) = if value < lower {
                (Bound::Lower, lower)
            } else if value > upper {
                (Bound::Upper, upper)
            } else {
                continue;
            };
            return Err(Blocked::Limit {
                bound,
                coordinate,
                value,
                limit,
            });
        }
        Ok(())
    }

    /// Whether the straight way between two configurations is free, both included: a proof.
    ///
    /// # Errors
    ///
    /// What [`Blocked`] says; the violation that is found first need not be the first on the way.
    pub fn check_segment(&self, from: &[f64], to: &[f64]) -> Result<(), Blocked> {
        // Limits are a box: what is between two positions within is within.
        self.check_position(from)?;
        self.check_position(to)?;
        let change: Vec<f64> = from.iter().zip(to).map(|(a, b)| (b - a).abs()).collect();
        let place = |u: f64, out: &mut [f64]| {
            for (out, (a, b)) in out.iter_mut().zip(from.iter().zip(to)) {
                *out = (1.0 - u) * a + u * b;
            }
        };
        self.sweep(&[0.0, 1.0], place, &change)
    }

    /// Whether a path of straight segments is free: a proof.
    ///
    /// # Errors
    ///
    /// What [`Blocked`] says.
    pub fn check_path(&self, path: &Path) -> Result<(), Blocked> {
        let waypoints = path.waypoints();
        let rows: Vec<Vec<f64>> = waypoints.rows().into_iter().map(|it| it.to_vec()).collect();
        if let [only] = &rows[..] {
            return self.check(only);
        }
        rows.windows(2)
            .try_for_each(|pair| self.check_segment(&pair[0], &pair[1]))
    }

    /// Whether a trajectory touches nothing, between its waypoints too: a proof, for every [`Interpolation`].
    ///
    /// The speed of a ball in a segment is bounded by the largest speed of each coordinate there, which is exact.
    /// The positions of the waypoints are compared with the limits; of the curve between them [`Limits::check`] judges.
    ///
    /// # Errors
    ///
    /// What [`Blocked`] says.
    pub fn check_trajectory(&self, trajectory: &Trajectory) -> Result<(), Blocked> {
        let dof = self.dof();
        if trajectory.dof() != dof {
            return Err(Blocked::Dimensions {
                expected: dof,
                found: trajectory.dof(),
            });
        }
        let rows: Vec<Vec<f64>> = trajectory
            .positions()
            .rows()
            .into_iter()
            .map(|it| it.to_vec())
            .collect();
        for row in &rows {
            self.check_position(row)?;
        }
        if let [only] = &rows[..] {
            return self.check(only);
        }
        for (i, pair) in rows.windows(2).enumerate() {
            match trajectory.interpolation() {
                // Whoever follows held commands goes from one to the next.
                Interpolation::Hold | Interpolation::Linear => {
                    self.check_segment(&pair[0], &pair[1])?;
                }
                Interpolation::Cubic | Interpolation::Quintic => {
                    let segments: Vec<_> = (0..dof).map(|j| trajectory.segment(i, j)).collect();
                    let step = trajectory.step(i);
                    let change: Vec<f64> = segments
                        .iter()
                        .map(|segment| {
                            let inside = segment.critical_points();
                            let speeds = inside.iter().chain([0.0, 1.0]);
                            let largest = speeds.map(|u| segment.velocity(u).abs());
                            // A little more than computed, for the rounding of the polynomial.
                            step * largest.fold(0.0, f64::max) * (1.0 + 1e-9)
                        })
                        .collect();
                    let place = |u: f64, out: &mut [f64]| {
                        for (out, segment) in out.iter_mut().zip(&segments) {
                            *out = segment.position(u);
                        }
                    };
                    self.sweep(&[0.0, 1.0], place, &change)?;
                }
            }
        }
        Ok(())
    }

    /// Proves that `place(u)` is free for all `u` between the first and the last of `ends`; `change` bounds how far each
    /// coordinate moves while `u` goes by 1.
    fn sweep(
        &self,
        ends: &[f64],
        place: impl Fn(f64, &mut [f64]),
        change: &[f64],
    ) -> Result<(), Blocked> {
        let radii = self.body.radii();
        let speeds: Vec<f64> = (0..radii.len())
            .map(|i| self.body.travel(i, change))
            .collect();
        let fastest = speeds.iter().copied().fold(0.0, f64::max);
        let mut q = vec![0.0; self.dof()];
        let mut centers = vec![Vector3::zeros(); radii.len()];
        let mut waiting = vec![(ends[0], ends[ends.len() - 1])];
        while let Some((begin, end)) = waiting.pop() {
            let middle = f64::midpoint(begin, end);
            let half = (end - begin) / 2.0;
            place(middle, &mut q);
            self.body.place(&q, &mut centers);
            let mut reach = f64::INFINITY;
            // The ball that is deepest, and the one that lacks most for its motion; a NaN is deeper than all.
            let mut deepest = Gap::default();
            let mut shortest = Gap::default();
            for (i, (center, radius)) in centers.iter().zip(radii).enumerate() {
                let clearance = self.scene.distance(center) - radius - self.margin;
                let rounding = ROUNDING * (1.0 + center.amax());
                let sure = clearance - rounding;
                let required = half * speeds[i];
                deepest.replace(sure, i, clearance, rounding);
                shortest.replace(sure - required, i, clearance, required + rounding);
                let free = if sure >= required {
                    f64::INFINITY
                } else {
                    sure / speeds[i]
                };
                reach = least(reach, free);
            }
            if reach >= half {
                continue;
            }
            // Where it is blocked whatever the piece, nothing but contact counts.
            if reach.is_nan() || reach < 0.0 {
                return Err(self.blocked(&q, &centers, &deepest));
            }
            if half * fastest <= self.resolution {
                return Err(self.blocked(&q, &centers, &shortest));
            }
            waiting.push((middle + reach, end));
            waiting.push((begin, middle - reach));
        }
        Ok(())
    }

    fn blocked(&self, q: &[f64], centers: &[Vector3<f64>], gap: &Gap) -> Blocked {
        match self.scene.nearest(&centers[gap.ball]) {
            Some(near) => Blocked::Obstacle {
                obstacle: near.obstacle,
                solid: near.solid,
                ball: gap.ball,
                position: q.to_vec(),
                clearance: gap.clearance,
                required: gap.required,
            },
            None => Blocked::NonFinite {
                coordinate: 0,
                value: centers[gap.ball].sum(),
            },
        }
    }
}

/// The least of some quantity over the balls, and whose it is.
#[derive(Debug)]
struct Gap {
    least: f64,
    ball: usize,
    clearance: f64,
    required: f64,
}

impl Default for Gap {
    fn default() -> Self {
        Self {
            least: f64::INFINITY,
            ball: 0,
            clearance: f64::INFINITY,
            required: 0.0,
        }
    }
}

impl Gap {
    fn replace(&mut self, value: f64, ball: usize, clearance: f64, required: f64) {
        if !self.least.is_nan() && (value.is_nan() || value < self.least) {
            *self = Self {
                least: value,
                ball,
                clearance,
                required,
            };
        }
    }
}

/// Whether these are `dof` finite numbers.
fn check_numbers(dof: usize, q: &[f64]) -> Result<(), Blocked> {
    if q.len() != dof {
        return Err(Blocked::Dimensions {
            expected: dof,
            found: q.len(),
        });
    }
    match q.iter().enumerate().find(|(_, value)| !value.is_finite()) {
        None => Ok(()),
        Some((coordinate, &value)) => Err(Blocked::NonFinite { coordinate, value }),
    }
}

/// The smaller one; NaN if one is, unlike `f64::min`.
fn least(one: f64, other: f64) -> f64 {
    if one.is_nan() || one < other {
        one
    } else {
        other
    }
}

/// What stands in the way of a configuration or a motion.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Blocked {
    /// A configuration of another number of coordinates: nothing was checked, so nothing is allowed.
    #[error("the body has {expected} coordinates, not {found}")]
    Dimensions {
        /// Coordinates of the body.
        expected: usize,
        /// Coordinates of the configuration.
        found: usize,
    },
    /// A NaN or an infinity.
    #[error("coordinate {coordinate} is {value}")]
    NonFinite {
        /// Which one.
        coordinate: usize,
        /// What it is.
        value: f64,
    },
    /// A position outside of its limits.
    #[error("coordinate {coordinate} is {value}, beyond its {bound} limit {limit}")]
    Limit {
        /// Which of the two.
        bound: Bound,
        /// Which one.
        coordinate: usize,
        /// What it is.
        value: f64,
        /// What it may be.
        limit: f64,
    },
    /// A ball that touches an obstacle, or passes too near to tell.
    #[error(
        "ball {ball} has a clearance of {clearance:.5} m from obstacle {obstacle}, a {solid}, at {position:?}{}",
        if *clearance >= 0.0 { format!(", below {required:.1e}") } else { String::new() }
    )]
    Obstacle {
        /// Its place in [`Scene::obstacles`].
        obstacle: usize,
        /// What it is.
        solid: Solid,
        /// The place of the ball in [`Body::radii`].
        ball: usize,
        /// The configuration.
        position: Vec<f64>,
        /// The distance between the two, less the margin: m, negative inside.
        clearance: f64,
        /// What the motion nearby would need: m, at most the resolution.
        required: f64,
    },
}

impl Blocked {
    /// By how much: in the unit of the coordinate, or the clearance that lacks in m; infinite for what is no number.
    pub fn excess(&self) -> f64 {
        match *self {
            Self::Dimensions { .. } | Self::NonFinite { .. } => f64::INFINITY,
            Self::Limit { value, limit, .. } => (value - limit).abs(),
            Self::Obstacle {
                clearance,
                required,
                ..
            } => required - clearance,
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::Array2;
    use proptest::prelude::*;

    use super::*;
    use crate::body::{Planar, Translating};
    use crate::scene::Obstacle;
    use crate::trajectory::tests::valid;

    fn room() -> Scene {
        let obstacles = [
            Obstacle::disc([0.3, 0.2], 0.2),
            Obstacle::rectangle([-0.4, -0.1], [0.15, 0.3], 0.4),
            Obstacle::disc([0.1, -0.7], 0.1),
        ];
        obstacles
            .map(|it| it.expect("it is valid"))
            .into_iter()
            .collect()
    }

    fn bounded(dof: usize) -> Limits {
        let limits = Limits::unlimited(dof);
        limits
            .with_position(&vec![-1.0; dof], &vec![1.0; dof])
            .expect("they are ordered")
    }

    proptest! {
        #[test]
        fn what_is_proven_free_has_no_sample_in_an_obstacle(
            from in prop::collection::vec(-1.0..1.0_f64, 3),
            to in prop::collection::vec(-1.0..1.0_f64, 3),
            reach in 0.0..0.2_f64,
        ) {
            let (scene, limits) = (room(), bounded(3));
            let balls = [(Vector3::zeros(), 0.05), (Vector3::new(reach, 0.03, 0.0), 0.02)];
            let body = Planar::new(balls).expect("they are balls");
            let free = FreeSpace::new(&body, &scene, &limits).expect("the dimensions agree");
            let samples = (0..=1000).map(|i| {
                let u = f64::from(i) / 1000.0;
                let q: Vec<f64> = from.iter().zip(&to).map(|(a, b)| (1.0 - u) * a + u * b).collect();
                free.clearance(&q)
            });
            let least = samples.fold(f64::INFINITY, f64::min);
            match free.check_segment(&from, &to) {
                Ok(()) => prop_assert!(least >= 0.0, "{least}"),
                Err(blocked) => {
                    // Between samples the balls move by at most 2e-3 · √8 + 0.2 · 2e-3.
                    prop_assert!(least < 7e-3, "{blocked}");
                    let Blocked::Obstacle { position, clearance, required, .. } = &blocked else {
                        panic!("all else agrees");
                    };
                    // Another ball may be nearer; this one lacks most of what it needs.
                    prop_assert!(free.clearance(position) <= clearance + 1e-12);
                    prop_assert!(*clearance < *required && *required <= RESOLUTION + 1e-12, "{blocked}");
                }
            }
        }

        #[test]
        fn a_curve_that_is_proven_free_has_no_sample_in_an_obstacle(
            positions in prop::collection::vec(-0.95..0.95_f64, 8),
            interpolation in prop::sample::select(vec![
                Interpolation::Linear, Interpolation::Cubic, Interpolation::Quintic,
            ]),
        ) {
            let (scene, limits) = (room(), bounded(2));
            let body = Translating::disc(0.05).expect("a disc");
            let free = FreeSpace::new(&body, &scene, &limits).expect("the dimensions agree");
            let positions = Array2::from_shape_vec((4, 2), positions).expect("two columns");
            let curve = valid(&[0, 300, 500, 900], positions, interpolation);
            let least = (0..=9000).map(|i| {
                let state = curve.sample(std::time::Duration::from_micros(100 * i)).expect("it has waypoints");
                free.clearance(state.position.as_slice())
            }).fold(f64::INFINITY, f64::min);
            match free.check_trajectory(&curve) {
                Ok(()) => prop_assert!(least >= 0.0, "{least}"),
                // Speeds are below 1e2: 0.1 ms of them.
                Err(blocked) => prop_assert!(least < 1e-2, "{blocked}"),
            }
        }
    }

    #[test]
    fn a_thread_between_two_samples_is_seen() {
        // A disc of a tenth of a millimetre, in the way of a metre.
        let thread = Obstacle::disc([0.123_456, 0.0], 1e-4).expect("it is valid");
        let (scene, limits) = (Scene::new().with(thread), bounded(2));
        let point = Translating::disc(0.0).expect("a point");
        let free = FreeSpace::new(&point, &scene, &limits).expect("the dimensions agree");
        let blocked = free.check_segment(&[-0.5, 0.0], &[0.5, 0.0]);
        assert!(matches!(
            blocked,
            Err(Blocked::Obstacle {
                obstacle: 0,
                solid: Solid::Cylinder,
                ..
            })
        ));
        assert!(free.check_segment(&[-0.5, 1.2e-4], &[0.5, 1.2e-4]).is_ok());
        // A gap below the resolution counts as closed.
        assert!(
            free.check_segment(&[-0.5, 1.0e-4 + 1e-9], &[0.5, 1.0e-4 + 1e-9])
                .is_err()
        );
    }

    #[test]
    fn what_is_no_configuration_is_refused() {
        let (scene, limits) = (room(), bounded(2));
        let point = Translating::disc(0.0).expect("a point");
        let free = FreeSpace::new(&point, &scene, &limits).expect("the dimensions agree");
        let message = |q: &[f64]| free.check(q).expect_err("it is not free").to_string();
        assert_eq!(message(&[0.0]), "the body has 2 coordinates, not 1");
        assert_eq!(message(&[0.0, f64::NAN]), "coordinate 1 is NaN");
        assert_eq!(
            message(&[0.0, 1.5]),
            "coordinate 1 is 1.5, beyond its position limit 1"
        );
        assert_eq!(
            message(&[0.3, 0.2]),
            "ball 0 has a clearance of -0.20000 m from obstacle 0, a cylinder, at [0.3, 0.2]"
        );
        assert!(free.clearance(&[0.0]).is_nan() && free.clearance(&[0.0, f64::NAN]).is_nan());
        for margin in [f64::NAN, f64::INFINITY] {
            assert!(free.with_margin(margin).check(&[0.9, 0.9]).is_err());
        }
        let other = Limits::unlimited(3);
        assert!(FreeSpace::new(&point, &scene, &other).is_err());
    }

    #[test]
    fn a_pull_is_the_derivative_of_the_centers() {
        let balls = [
            (Vector3::new(0.3, -0.2, 0.1), 0.1),
            (Vector3::new(-0.1, 0.4, 0.0), 0.1),
        ];
        let planar = Planar::new(balls).expect("they are balls");
        let flying = Translating::new(3, balls).expect("they are balls");
        let bodies: [&dyn Body; 2] = [&planar, &flying];
        let (q, force, step) = ([0.4, -0.3, 0.9], Vector3::new(0.2, -0.7, 0.5), 1e-6);
        for body in bodies {
            for i in 0..2 {
                let mut pulled = vec![0.0; 3];
                body.pull(&q, i, &force, &mut pulled);
                for j in 0..3 {
                    let along = |step: f64| {
                        let mut q = q;
                        q[j] += step;
                        let mut centers = [Vector3::zeros(); 2];
                        body.place(&q, &mut centers);
                        centers[i].dot(&force)
                    };
                    let slope = (along(step) - along(-step)) / (2.0 * step);
                    // The third derivative times 1e-12, and roundings divided by 1e-6.
                    approx::assert_relative_eq!(pulled[j], slope, epsilon = 1e-9);
                }
            }
        }
    }
}
