//! One solid, and its signed distance.

use std::fmt;
use std::sync::Arc;

use nalgebra::{Isometry3, UnitQuaternion, Vector3};

use super::error::SceneError;
use super::grid::OccupancyGrid;
use super::points::PointCloud;

/// A solid in metres, with an exact signed distance and its gradient.
///
/// In a frame at its centre, with `q = |p| − half` entry by entry, `q⁺ = max(q, 0)`, and `ρ = √(x² + y²)`:
///
/// ```text
/// ball         |p| − radius
/// cuboid       |q⁺| + min(max(q), 0)                     rounded: of the inner cuboid, − rounding
/// cylinder     the same of q = (ρ − radius, |z| − half)
/// capsule      distance to the segment − radius
/// half space   n · p − offset,  |n| = 1
/// ```
///
/// [`OccupancyGrid`] and [`PointCloud`] say theirs.
/// Quilez, "Distance functions", lists these and shows that they are exact.
#[derive(Debug, Clone)]
pub struct Obstacle {
    kind: Kind,
}

/// What an [`Obstacle`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Solid {
    /// Of [`Obstacle::ball`].
    Ball,
    /// Of [`Obstacle::cuboid`] and [`Obstacle::rectangle`].
    Cuboid,
    /// Of [`Obstacle::cylinder`] and [`Obstacle::disc`].
    Cylinder,
    /// Of [`Obstacle::capsule`].
    Capsule,
    /// Of [`Obstacle::half_space`].
    HalfSpace,
    /// Of [`Obstacle::grid`].
    Grid,
    /// Of [`Obstacle::points`].
    Points,
}

impl fmt::Display for Solid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ball => "ball",
            Self::Cuboid => "cuboid",
            Self::Cylinder => "cylinder",
            Self::Capsule => "capsule",
            Self::HalfSpace => "half space",
            Self::Grid => "grid",
            Self::Points => "point cloud",
        })
    }
}

#[derive(Debug, Clone)]
enum Kind {
    Ball {
        center: Vector3<f64>,
        radius: f64,
    },
    Cuboid {
        frame: Frame,
        /// Of the inner cuboid, which is rounded.
        half: Vector3<f64>,
        rounding: f64,
    },
    Cylinder {
        frame: Frame,
        radius: f64,
        half: f64,
    },
    Capsule {
        start: Vector3<f64>,
        axis: Vector3<f64>,
        radius: f64,
    },
    HalfSpace {
        normal: Vector3<f64>,
        offset: f64,
    },
    Grid(Arc<OccupancyGrid>),
    Points(Arc<PointCloud>),
}

/// Where a solid is; most are not turned.
#[derive(Debug, Clone, Copy)]
struct Frame {
    center: Vector3<f64>,
    turn: Option<UnitQuaternion<f64>>,
}

impl Frame {
    fn new(pose: &Isometry3<f64>) -> Self {
        let turned = pose.rotation.imag().norm() > 0.0;
        Self {
            center: pose.translation.vector,
            turn: turned.then_some(pose.rotation),
        }
    }

    fn local(&self, point: &Vector3<f64>) -> Vector3<f64> {
        let away = point - self.center;
        match &self.turn {
            None => away,
            Some(turn) => turn.inverse_transform_vector(&away),
        }
    }

    fn world(&self, direction: Vector3<f64>) -> Vector3<f64> {
        match &self.turn {
            None => direction,
            Some(turn) => turn.transform_vector(&direction),
        }
    }
}

impl Obstacle {
    /// A ball.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if the centre is not finite or the radius not positive and finite.
    pub fn ball(center: Vector3<f64>, radius: f64) -> Result<Self, SceneError> {
        let solid = "ball";
        finite(solid, "center", center.iter())?;
        length(solid, "radius", radius)?;
        Ok(Self {
            kind: Kind::Ball { center, radius },
        })
    }

    /// A disc of the plane: an upright cylinder without end.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if the centre is not finite or the radius not positive and finite.
    pub fn disc(center: [f64; 2], radius: f64) -> Result<Self, SceneError> {
        let pose = Isometry3::translation(center[0], center[1], 0.0);
        Self::cylinder(pose, radius, f64::INFINITY)
    }

    /// A cuboid with the pose of its centre and **half** of each edge, which may be infinite (but not all of them).
    ///
    /// # Errors
    ///
    /// [`SceneError`] if the pose is not finite or a half extent not positive.
    pub fn cuboid(pose: Isometry3<f64>, half: Vector3<f64>) -> Result<Self, SceneError> {
        Self::rounded_cuboid(pose, half, 0.0)
    }

    /// A cuboid whose edges are rounded with a radius; the half extents are those before, which its faces keep.
    ///
    /// # Errors
    ///
    /// Those of [`Obstacle::cuboid`], and [`SceneError::Rounding`] for more than the smallest half extent.
    pub fn rounded_cuboid(
        pose: Isometry3<f64>,
        half: Vector3<f64>,
        rounding: f64,
    ) -> Result<Self, SceneError> {
        let solid = "cuboid";
        check_pose(solid, &pose)?;
        for &value in &half {
            let positive = value > 0.0;
            if !positive {
                return Err(SceneError::Extent {
                    solid,
                    quantity: "half extent",
                    value,
                });
            }
        }
        if half.min().is_infinite() {
            return Err(SceneError::Extent {
                solid,
                quantity: "finite half extent",
                value: f64::INFINITY,
            });
        }
        let fits = (0.0..=half.min()).contains(&rounding);
        if !fits {
            return Err(SceneError::Rounding {
                rounding,
                half: half.min(),
            });
        }
        Ok(Self {
            kind: Kind::Cuboid {
                frame: Frame::new(&pose),
                half: half.map(|it| it - rounding),
                rounding,
            },
        })
    }

    /// A rectangle of the plane by its centre, **half** of each edge and the angle of its x axis in rad: a cuboid without
    /// end in z.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if a number is not finite or a half extent not positive.
    pub fn rectangle(center: [f64; 2], half: [f64; 2], angle: f64) -> Result<Self, SceneError> {
        let solid = "cuboid";
        finite(solid, "angle", [&angle].into_iter())?;
        for value in half {
            length(solid, "half extent", value)?;
        }
        let translation = Vector3::new(center[0], center[1], 0.0);
        let pose = Isometry3::new(translation, Vector3::z() * angle);
        Self::cuboid(pose, Vector3::new(half[0], half[1], f64::INFINITY))
    }

    /// A cylinder along the z axis of its pose, with flat ends at `± half`, which may be infinite.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if the pose is not finite, the radius not positive and finite, or `half` not positive.
    pub fn cylinder(pose: Isometry3<f64>, radius: f64, half: f64) -> Result<Self, SceneError> {
        let solid = "cylinder";
        check_pose(solid, &pose)?;
        length(solid, "radius", radius)?;
        let positive = half > 0.0;
        if !positive {
            return Err(SceneError::Extent {
                solid,
                quantity: "half height",
                value: half,
            });
        }
        Ok(Self {
            kind: Kind::Cylinder {
                frame: Frame::new(&pose),
                radius,
                half,
            },
        })
    }

    /// All points within `radius` of the segment between two points, which may be one.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if an end is not finite or the radius not positive and finite.
    pub fn capsule(
        start: Vector3<f64>,
        end: Vector3<f64>,
        radius: f64,
    ) -> Result<Self, SceneError> {
        let solid = "capsule";
        finite(solid, "start", start.iter())?;
        finite(solid, "end", end.iter())?;
        length(solid, "radius", radius)?;
        Ok(Self {
            kind: Kind::Capsule {
                start,
                axis: end - start,
                radius,
            },
        })
    }

    /// All points with `normal · p ≤ offset`, both in the scale of `normal`, which need not be of length one.
    ///
    /// A floor is `half_space(Vector3::z(), 0.0)`.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if a number is not finite or the normal is zero.
    pub fn half_space(normal: Vector3<f64>, offset: f64) -> Result<Self, SceneError> {
        let solid = "half space";
        finite(solid, "normal", normal.iter())?;
        finite(solid, "offset", [&offset].into_iter())?;
        let norm = normal.norm();
        length(solid, "normal", norm)?;
        Ok(Self {
            kind: Kind::HalfSpace {
                normal: normal / norm,
                offset: offset / norm,
            },
        })
    }

    /// A map of cells.
    pub fn grid(grid: OccupancyGrid) -> Self {
        Self {
            kind: Kind::Grid(Arc::new(grid)),
        }
    }

    /// Points that a sensor saw.
    pub fn points(points: PointCloud) -> Self {
        Self {
            kind: Kind::Points(Arc::new(points)),
        }
    }

    /// What it is.
    pub fn solid(&self) -> Solid {
        match self.kind {
            Kind::Ball { .. } => Solid::Ball,
            Kind::Cuboid { .. } => Solid::Cuboid,
            Kind::Cylinder { .. } => Solid::Cylinder,
            Kind::Capsule { .. } => Solid::Capsule,
            Kind::HalfSpace { .. } => Solid::HalfSpace,
            Kind::Grid(_) => Solid::Grid,
            Kind::Points(_) => Solid::Points,
        }
    }

    /// The signed distance from its surface: m, negative inside. It does not allocate.
    pub fn distance(&self, point: &Vector3<f64>) -> f64 {
        match &self.kind {
            Kind::Ball { center, radius } => (point - center).norm() - radius,
            Kind::Cuboid {
                frame,
                half,
                rounding,
            } => {
                let q = frame.local(point).abs() - half;
                q.sup(&Vector3::zeros()).norm() + q.max().min(0.0) - rounding
            }
            Kind::Cylinder {
                frame,
                radius,
                half,
            } => {
                let local = frame.local(point);
                let (side, end) = (local.xy().norm() - radius, local.z.abs() - half);
                if side > 0.0 && end > 0.0 {
                    (side * side + end * end).sqrt()
                } else {
                    side.max(end)
                }
            }
            Kind::HalfSpace { normal, offset } => normal.dot(point) - offset,
            Kind::Capsule { .. } | Kind::Grid(_) | Kind::Points(_) => {
                self.distance_and_gradient(point).0
            }
        }
    }

    /// The signed distance and its derivative by the point, a unit vector. It does not allocate.
    pub fn distance_and_gradient(&self, point: &Vector3<f64>) -> (f64, Vector3<f64>) {
        match &self.kind {
            Kind::Ball { center, radius } => {
                let away = point - center;
                let gradient = away.try_normalize(0.0).unwrap_or_else(Vector3::x);
                (away.norm() - radius, gradient)
            }
            Kind::Cuboid {
                frame,
                half,
                rounding,
            } => {
                let local = frame.local(point);
                let (distance, gradient) = cuboid(&local, half);
                (distance - rounding, frame.world(gradient))
            }
            Kind::Cylinder {
                frame,
                radius,
                half,
            } => {
                let local = frame.local(point);
                let (distance, gradient) = cylinder(&local, *radius, *half);
                (distance, frame.world(gradient))
            }
            Kind::Capsule {
                start,
                axis,
                radius,
            } => {
                let away = point - start;
                let squared = axis.norm_squared();
                let along = if squared > 0.0 {
                    (away.dot(axis) / squared).clamp(0.0, 1.0)
                } else {
                    0.0
                };
                let from = away - axis * along;
                let gradient = from.try_normalize(0.0);
                (
                    from.norm() - radius,
                    gradient.unwrap_or_else(|| across(axis)),
                )
            }
            Kind::HalfSpace { normal, offset } => (normal.dot(point) - offset, *normal),
            Kind::Grid(grid) => grid.distance_and_gradient(point),
            Kind::Points(points) => points.distance_and_gradient(point),
        }
    }
}

fn cuboid(local: &Vector3<f64>, half: &Vector3<f64>) -> (f64, Vector3<f64>) {
    let q = local.abs() - half;
    let outside = q.sup(&Vector3::zeros());
    let distance = outside.norm();
    if distance > 0.0 {
        let gradient = outside.zip_map(local, f64::copysign) / distance;
        return (distance, gradient);
    }
    // The nearest face.
    let axis = q.imax();
    let mut gradient = Vector3::zeros();
    gradient[axis] = 1.0_f64.copysign(local[axis]);
    (q[axis], gradient)
}

fn cylinder(local: &Vector3<f64>, radius: f64, half: f64) -> (f64, Vector3<f64>) {
    let across = Vector3::new(local.x, local.y, 0.0);
    let radial = across.try_normalize(0.0).unwrap_or_else(Vector3::x);
    let axial = Vector3::z() * 1.0_f64.copysign(local.z);
    let (side, end) = (across.norm() - radius, local.z.abs() - half);
    if side > 0.0 && end > 0.0 {
        let distance = side.hypot(end);
        (distance, (radial * side + axial * end) / distance)
    } else if side >= end {
        (side, radial)
    } else {
        (end, axial)
    }
}

/// A unit vector at a right angle to `axis`.
fn across(axis: &Vector3<f64>) -> Vector3<f64> {
    let other = if axis.x.abs() > axis.y.abs() {
        Vector3::y()
    } else {
        Vector3::x()
    };
    let normal = axis.cross(&other).try_normalize(0.0);
    normal.unwrap_or_else(Vector3::x)
}

fn check_pose(solid: &'static str, pose: &Isometry3<f64>) -> Result<(), SceneError> {
    finite(solid, "center", pose.translation.vector.iter())?;
    finite(solid, "orientation", pose.rotation.coords.iter())
}

fn finite<'a>(
    solid: &'static str,
    quantity: &'static str,
    mut values: impl Iterator<Item = &'a f64>,
) -> Result<(), SceneError> {
    match values.find(|value| !value.is_finite()) {
        None => Ok(()),
        Some(&value) => Err(SceneError::NonFinite {
            solid,
            quantity,
            value,
        }),
    }
}

fn length(solid: &'static str, quantity: &'static str, value: f64) -> Result<(), SceneError> {
    if value > 0.0 && value.is_finite() {
        Ok(())
    } else {
        Err(SceneError::Extent {
            solid,
            quantity,
            value,
        })
    }
}
