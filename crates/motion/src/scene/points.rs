//! Points that a sensor saw.

use nalgebra::Vector3;

use super::error::SceneError;
use super::tree::{Aabb, Tree};

/// Points in space, each with the same ball around it: what a depth camera or a laser saw.
///
/// ```text
/// d(p) = min over the points of |p − pᵢ| − radius
/// ```
///
/// The nearest point is found in a tree, exactly.
#[derive(Debug, Clone)]
pub struct PointCloud {
    tree: Tree,
    radius: f64,
    count: usize,
}

impl PointCloud {
    /// Points in metres with balls of `radius`, at least the resolution of what saw them.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if there is no point, one is not finite, or the radius is negative or not finite.
    pub fn new(
        points: impl IntoIterator<Item = Vector3<f64>>,
        radius: f64,
    ) -> Result<Self, SceneError> {
        let valid = (0.0..f64::INFINITY).contains(&radius);
        if !valid {
            return Err(SceneError::Extent {
                solid: "point cloud",
                quantity: "radius",
                value: radius,
            });
        }
        let points: Vec<Vector3<f64>> = points.into_iter().collect();
        if points.is_empty() {
            return Err(SceneError::NoPoints);
        }
        if let Some(&value) = points.iter().flatten().find(|x| !x.is_finite()) {
            return Err(SceneError::NonFinite {
                solid: "point cloud",
                quantity: "point",
                value,
            });
        }
        let count = points.len();
        let boxes = points.into_iter().map(|point| Aabb {
            lower: point,
            upper: point,
        });
        Ok(Self {
            tree: Tree::new(boxes.collect()),
            radius,
            count,
        })
    }

    /// The number of points, at least 1.
    pub fn points(&self) -> usize {
        self.count
    }

    /// The radius of the ball around each point: m.
    pub fn radius(&self) -> f64 {
        self.radius
    }

    pub(super) fn distance_and_gradient(&self, point: &Vector3<f64>) -> (f64, Vector3<f64>) {
        let Some((nearest, squared)) = self.tree.nearest(point) else {
            return (f64::INFINITY, Vector3::x());
        };
        let distance = squared.sqrt();
        let away = point - nearest;
        let gradient = away.try_normalize(0.0).unwrap_or_else(Vector3::x);
        (distance - self.radius, gradient)
    }
}
