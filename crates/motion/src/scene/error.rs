//! Which numbers do not make an obstacle.

/// Why numbers do not make an obstacle of a [`Scene`](crate::Scene).
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SceneError {
    /// A coordinate, a normal or an angle that is not finite.
    #[error("the {quantity} of a {solid} must be finite, but is {value}")]
    NonFinite {
        /// Of what.
        solid: &'static str,
        /// Which number.
        quantity: &'static str,
        /// What it was.
        value: f64,
    },
    /// A length that is not positive, or none where there must be one.
    #[error("the {quantity} of a {solid} must be positive, but is {value}")]
    Extent {
        /// Of what.
        solid: &'static str,
        /// Which length.
        quantity: &'static str,
        /// What it was.
        value: f64,
    },
    /// A cuboid that is rounded by more than half of an edge.
    #[error("a cuboid cannot be rounded by {rounding}, more than its half extent {half}")]
    Rounding {
        /// The radius of its edges: m.
        rounding: f64,
        /// The smallest half extent: m.
        half: f64,
    },
    /// Cells that do not fill a rectangle.
    #[error("{cells} cells do not fill rows of {columns}")]
    Cells {
        /// The number of cells.
        cells: usize,
        /// Cells in a row.
        columns: usize,
    },
    /// A point cloud without points.
    #[error("a point cloud needs at least one point")]
    NoPoints,
}
