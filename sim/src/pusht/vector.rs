//! Vectors of the plane, in pixels: x to the right, y down.

use std::ops::{Add, AddAssign, Mul, Neg, Sub};

#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Vector {
    pub(super) x: f64,
    pub(super) y: f64,
}

impl Vector {
    pub(super) const ZERO: Self = Self::new(0.0, 0.0);

    pub(super) const fn new(x: f64, y: f64) -> Self {
        Self { x, y }
    }

    /// `(cos a, sin a)`: the vector that rotates by `a`.
    pub(super) fn from_angle(angle: f64) -> Self {
        Self::new(angle.cos(), angle.sin())
    }

    pub(super) fn dot(self, other: Self) -> f64 {
        self.x * other.x + self.y * other.y
    }

    /// The third component of the cross product.
    pub(super) fn cross(self, other: Self) -> f64 {
        self.x * other.y - self.y * other.x
    }

    /// A quarter turn from x towards y.
    pub(super) fn perpendicular(self) -> Self {
        Self::new(-self.y, self.x)
    }

    pub(super) fn length(self) -> f64 {
        self.dot(self).sqrt()
    }

    /// The unit vector of this direction, and zero for zero: the smallest positive number keeps 1/0 away.
    pub(super) fn normalized(self) -> Self {
        self * (1.0 / (self.length() + f64::MIN_POSITIVE))
    }

    /// Multiplication of complex numbers: turns `self` by the angle of the unit vector `rotation`.
    pub(super) fn rotated(self, rotation: Self) -> Self {
        Self::new(
            rotation.x * self.x - rotation.y * self.y,
            rotation.y * self.x + rotation.x * self.y,
        )
    }

    /// `self` at 0, `other` at 1; exact at both ends.
    pub(super) fn lerp(self, other: Self, t: f64) -> Self {
        self * (1.0 - t) + other * t
    }
}

impl From<[f64; 2]> for Vector {
    fn from([x, y]: [f64; 2]) -> Self {
        Self::new(x, y)
    }
}

impl From<Vector> for [f64; 2] {
    fn from(vector: Vector) -> Self {
        [vector.x, vector.y]
    }
}

impl Add for Vector {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self::new(self.x + other.x, self.y + other.y)
    }
}

impl AddAssign for Vector {
    fn add_assign(&mut self, other: Self) {
        *self = *self + other;
    }
}

impl Sub for Vector {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self::new(self.x - other.x, self.y - other.y)
    }
}

impl Neg for Vector {
    type Output = Self;
    fn neg(self) -> Self {
        Self::new(-self.x, -self.y)
    }
}

impl Mul<f64> for Vector {
    type Output = Self;
    fn mul(self, scale: f64) -> Self {
        Self::new(self.x * scale, self.y * scale)
    }
}
