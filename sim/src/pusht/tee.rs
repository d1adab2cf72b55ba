//! The T: its shape, mass and pose.

use super::{shape::Quad, vector::Vector};

/// The two boxes of the T in the body's frame, the bar first: px.
pub(super) const BOXES: [[Vector; 4]; 2] = [
    [
        Vector::new(-60.0, 0.0),
        Vector::new(60.0, 0.0),
        Vector::new(60.0, 30.0),
        Vector::new(-60.0, 30.0),
    ],
    [
        Vector::new(-15.0, 30.0),
        Vector::new(15.0, 30.0),
        Vector::new(15.0, 120.0),
        Vector::new(-15.0, 120.0),
    ],
];

/// The outward unit normals of both boxes, each of the edge that ends at the vertex with the same index.
const NORMALS: [Vector; 4] = [
    Vector::new(-1.0, 0.0),
    Vector::new(0.0, -1.0),
    Vector::new(1.0, 0.0),
    Vector::new(0.0, 1.0),
];

/// The centre of mass in the body's frame: the mean of the two boxes' centroids, not the centroid of the T (0, 40.71).
const CENTRE_OF_MASS: Vector = Vector::new(0.0, 45.0);

/// 1 / mass. The mass is 1.
pub(super) const INVERSE_MASS: f64 = 1.0;
/// 1 / moment of inertia. The moment is twice that of the bar: gym-pusht never uses the stem's.
pub(super) const INVERSE_MOMENT: f64 = 1.0 / 3000.0;

/// Where the T is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Pose {
    /// The centre of mass in the world.
    pub(super) centre: Vector,
    /// Not reduced modulo 2 pi.
    pub(super) angle: f64,
    /// `(cos angle, sin angle)`.
    rotation: Vector,
    /// The body's origin in the world.
    pub(super) origin: Vector,
}

impl Pose {
    /// The pose with this centre of mass.
    pub(super) fn from_centre(centre: Vector, angle: f64) -> Self {
        let rotation = Vector::from_angle(angle);
        Self {
            centre,
            angle,
            rotation,
            origin: centre - CENTRE_OF_MASS.rotated(rotation),
        }
    }

    /// The pose whose body origin is here.
    pub(super) fn from_origin(origin: Vector, angle: f64) -> Self {
        Self::from_centre(
            CENTRE_OF_MASS.rotated(Vector::from_angle(angle)) + origin,
            angle,
        )
    }

    /// The pose that gym-pusht makes of a drawn state: it places the upright T's origin, and turns it about its centre
    /// of mass afterwards.
    pub(super) fn turned_in_place(upright_origin: Vector, angle: f64) -> Self {
        Self::from_centre(CENTRE_OF_MASS + upright_origin, angle)
    }

    /// A vertex of the body's frame in the world.
    pub(super) fn world_from_body(&self, point: Vector) -> Vector {
        point.rotated(self.rotation) + self.origin
    }

    /// The two boxes in the world.
    pub(super) fn boxes(&self) -> [Quad; 2] {
        let normals = NORMALS.map(|normal| normal.rotated(self.rotation));
        BOXES
            .map(|vertices| Quad::new(vertices.map(|vertex| self.world_from_body(vertex)), normals))
    }

    /// The eight vertices in the world, the bar's first.
    pub(super) fn key_points(&self) -> [f64; 16] {
        let mut flat = [0.0; 16];
        for (pair, vertex) in flat.chunks_exact_mut(2).zip(BOXES.iter().flatten()) {
            pair.copy_from_slice(&<[f64; 2]>::from(self.world_from_body(*vertex)));
        }
        flat
    }
}
