//! What of a robot can touch something.

use std::fmt;

use nalgebra::Vector3;

/// The balls that a robot is covered with, as a function of its coordinates.
///
/// Whatever a robot is, a check for collisions needs no more of it: where its balls are, and how far each of them can
/// move when the coordinates do. [`Translating`] is a disc, a drone or anything else that does not turn, [`Planar`] a
/// mobile robot with a heading; an arm is a chain of links with some balls each.
///
/// A type that implements it promises two things of every configuration and every change of the coordinates:
///
/// ```text
/// |center_i(q + Δ) − center_i(q)| ≤ travel_i(|Δ|)           the bound of every sweep
/// pull(q, i, f) = J_iᵀ f,  J_i = ∂ center_i / ∂q              what a distance's gradient does to the coordinates
/// ```
///
/// `travel_i` is monotone in each entry and `travel_i(c |Δ|) = c travel_i(|Δ|)`.
pub trait Body: fmt::Debug + Send + Sync {
    /// The number of coordinates.
    fn dof(&self) -> usize;

    /// The radius of each ball, not negative: m.
    fn radii(&self) -> &[f64];

    /// Writes the centre of each ball, m, at the coordinates `q`.
    fn place(&self, q: &[f64], centers: &mut [Vector3<f64>]);

    /// At most how far ball `i` moves if no coordinate changes by more than `change`, m.
    fn travel(&self, i: usize, change: &[f64]) -> f64;

    /// Adds `J_iᵀ force` to `out`, one entry a coordinate.
    fn pull(&self, q: &[f64], i: usize, force: &Vector3<f64>, out: &mut [f64]);
}

/// Balls that move along with two or three coordinates, x, y and z, and do not turn.
///
/// ```
/// use clearway_motion::{Body, BodyError, Translating};
///
/// let disc = Translating::disc(0.1)?;
/// assert_eq!(disc.dof(), 2);
/// assert!((disc.travel(0, &[0.3, 0.4]) - 0.5).abs() < 1e-12);
/// # Ok::<(), BodyError>(())
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Translating {
    dof: usize,
    offsets: Vec<Vector3<f64>>,
    radii: Vec<f64>,
}

impl Translating {
    /// A disc of the plane with coordinates x and y; radius 0 is a point.
    ///
    /// # Errors
    ///
    /// [`BodyError`] if the radius is negative or not finite.
    pub fn disc(radius: f64) -> Result<Self, BodyError> {
        Self::new(2, [(Vector3::zeros(), radius)])
    }

    /// A ball in space with coordinates x, y and z; radius 0 is a point.
    ///
    /// # Errors
    ///
    /// [`BodyError`] if the radius is negative or not finite.
    pub fn ball(radius: f64) -> Result<Self, BodyError> {
        Self::new(3, [(Vector3::zeros(), radius)])
    }

    /// Balls with centres relative to the position, m, in `dof` = 2 or 3 coordinates.
    ///
    /// # Errors
    ///
    /// [`BodyError`] for other numbers of coordinates, no ball, or a number that is not finite or a negative radius.
    pub fn new(
        dof: usize,
        balls: impl IntoIterator<Item = (Vector3<f64>, f64)>,
    ) -> Result<Self, BodyError> {
        if dof != 2 && dof != 3 {
            return Err(BodyError::Coordinates { dof });
        }
        let (offsets, radii) = check_balls(balls)?;
        Ok(Self {
            dof,
            offsets,
            radii,
        })
    }
}

impl Body for Translating {
    fn dof(&self) -> usize {
        self.dof
    }

    fn radii(&self) -> &[f64] {
        &self.radii
    }

    fn place(&self, q: &[f64], centers: &mut [Vector3<f64>]) {
        let z = q.get(2).copied().unwrap_or_default();
        let position = Vector3::new(q[0], q[1], z);
        for (center, offset) in centers.iter_mut().zip(&self.offsets) {
            *center = position + offset;
        }
    }

    fn travel(&self, _: usize, change: &[f64]) -> f64 {
        change.iter().map(|it| it * it).sum::<f64>().sqrt()
    }

    fn pull(&self, _: &[f64], _: usize, force: &Vector3<f64>, out: &mut [f64]) {
        for (out, force) in out.iter_mut().zip(force) {
            *out += force;
        }
    }
}

/// Balls that move and turn in the plane with three coordinates: x, y in m and the heading θ in rad.
///
/// ```text
/// center_i = (x, y, 0) + R(θ) offset_i,       travel_i = √(Δx² + Δy²) + ρ_i Δθ,   ρ_i = √(offset.x² + offset.y²)
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct Planar {
    offsets: Vec<Vector3<f64>>,
    radii: Vec<f64>,
}

impl Planar {
    /// Balls with centres in the robot's own frame, x forward: m.
    ///
    /// # Errors
    ///
    /// [`BodyError`] for no ball, a number that is not finite or a negative radius.
    pub fn new(balls: impl IntoIterator<Item = (Vector3<f64>, f64)>) -> Result<Self, BodyError> {
        let (offsets, radii) = check_balls(balls)?;
        Ok(Self { offsets, radii })
    }
}

impl Body for Planar {
    fn dof(&self) -> usize {
        3
    }

    fn radii(&self) -> &[f64] {
        &self.radii
    }

    fn place(&self, q: &[f64], centers: &mut [Vector3<f64>]) {
        let (sin, cos) = q[2].sin_cos();
        for (center, at) in centers.iter_mut().zip(&self.offsets) {
            let turned = [cos * at.x - sin * at.y, sin * at.x + cos * at.y];
            *center = Vector3::new(q[0] + turned[0], q[1] + turned[1], at.z);
        }
    }

    fn travel(&self, i: usize, change: &[f64]) -> f64 {
        change[0].hypot(change[1]) + self.offsets[i].xy().norm() * change[2]
    }

    fn pull(&self, q: &[f64], i: usize, force: &Vector3<f64>, out: &mut [f64]) {
        let (sin, cos) = q[2].sin_cos();
        let at = &self.offsets[i];
        let slope = [-sin * at.x - cos * at.y, cos * at.x - sin * at.y];
        out[0] += force.x;
        out[1] += force.y;
        out[2] += slope[0] * force.x + slope[1] * force.y;
    }
}

fn check_balls(
    balls: impl IntoIterator<Item = (Vector3<f64>, f64)>,
) -> Result<(Vec<Vector3<f64>>, Vec<f64>), BodyError> {
    let (offsets, radii): (Vec<_>, Vec<f64>) = balls.into_iter().unzip();
    if offsets.is_empty() {
        return Err(BodyError::NoBalls);
    }
    for (i, (offset, &radius)) in offsets.iter().zip(&radii).enumerate() {
        let fits = (0.0..f64::INFINITY).contains(&radius);
        if !fits {
            return Err(BodyError::Ball {
                ball: i,
                value: radius,
            });
        }
        if let Some(&value) = offset.iter().find(|x: &&f64| !x.is_finite()) {
            return Err(BodyError::Ball { ball: i, value });
        }
    }
    Ok((offsets, radii))
}

/// Why balls do not make a [`Body`].
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// A position has two or three coordinates.
    #[error("a body translates in 2 or 3 coordinates, not in {dof}")]
    Coordinates {
        /// How many were asked for.
        dof: usize,
    },
    /// Nothing that could touch anything.
    #[error("a body needs at least one ball")]
    NoBalls,
    /// A centre that is not finite, or a radius that is negative or not finite.
    #[error("ball {ball} cannot have the number {value}")]
    Ball {
        /// Which one.
        ball: usize,
        /// The number.
        value: f64,
    },
}
