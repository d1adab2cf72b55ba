//! Maps of cells.

use nalgebra::Vector3;

use super::error::SceneError;
use super::tree::{Aabb, Tree};

/// A map of square cells in the plane, each of them occupied or free; upright and without end in z.
///
/// Cell `(i, j)` is the square
///
/// ```text
/// [origin.x + i · cell, origin.x + (i + 1) · cell] × [origin.y + j · cell, origin.y + (j + 1) · cell]
/// ```
///
/// and what lies outside of the map is free: bound the robot by its [`Limits`](crate::Limits).
/// The signed distance is that to the occupied squares themselves, exact, and not one of cell centres: outside to the
/// nearest occupied square, inside to the nearest free one.
///
/// ```
/// use clearway_motion::{Obstacle, OccupancyGrid, Scene};
/// use nalgebra::Vector3;
///
/// // Two rows of three cells, 0.5 m each; the middle one of the first row is occupied.
/// let cells = vec![false, true, false, false, false, false];
/// let map = OccupancyGrid::new([0.0, 0.0], 0.5, 3, cells)?;
/// assert_eq!(map.rows(), 2);
/// let scene = Scene::new().with(Obstacle::grid(map));
/// assert!((scene.distance(&Vector3::new(0.25, 0.25, 0.0)) - 0.25).abs() < 1e-12);
/// assert!((scene.distance(&Vector3::new(0.75, 0.4, 0.0)) + 0.1).abs() < 1e-12);
/// # Ok::<(), clearway_motion::SceneError>(())
/// ```
#[derive(Debug, Clone)]
pub struct OccupancyGrid {
    origin: [f64; 2],
    cell: f64,
    columns: usize,
    cells: Vec<bool>,
    /// Runs of occupied cells along x, as boxes at z = 0.
    occupied: Tree,
    /// Runs of free cells.
    free: Tree,
}

impl OccupancyGrid {
    /// A map of rows of `columns` cells, x first: `cells[j · columns + i]` is cell `(i, j)`; true is occupied.
    ///
    /// `origin` is the corner of cell (0, 0) with the smallest x and y, `cell` an edge: m.
    ///
    /// # Errors
    ///
    /// [`SceneError`] if the cells do not fill their rows, the origin is not finite or the edge not positive.
    pub fn new(
        origin: [f64; 2],
        cell: f64,
        columns: usize,
        cells: Vec<bool>,
    ) -> Result<Self, SceneError> {
        const SOLID: &str = "grid";
        if columns == 0 || cells.is_empty() || !cells.len().is_multiple_of(columns) {
            return Err(SceneError::Cells {
                cells: cells.len(),
                columns,
            });
        }
        if let Some(&value) = origin.iter().find(|x| !x.is_finite()) {
            return Err(SceneError::NonFinite {
                solid: SOLID,
                quantity: "origin",
                value,
            });
        }
        if !(cell > 0.0 && cell.is_finite()) {
            return Err(SceneError::Extent {
                solid: SOLID,
                quantity: "cell",
                value: cell,
            });
        }
        let runs = |kind: bool| Tree::new(runs(origin, cell, columns, &cells, kind));
        let (occupied, free) = (runs(true), runs(false));
        Ok(Self {
            origin,
            cell,
            columns,
            cells,
            occupied,
            free,
        })
    }

    /// The corner with the smallest x and y: m.
    pub fn origin(&self) -> [f64; 2] {
        self.origin
    }

    /// The edge of a cell: m.
    pub fn cell(&self) -> f64 {
        self.cell
    }

    /// Cells along x.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Cells along y.
    pub fn rows(&self) -> usize {
        self.cells.len() / self.columns
    }

    /// Whether cell `(column, row)` is occupied; cells outside of the map are not.
    pub fn is_occupied(&self, column: usize, row: usize) -> bool {
        column < self.columns
            && self
                .cells
                .get(row * self.columns + column)
                .is_some_and(|&it| it)
    }

    pub(super) fn distance_and_gradient(&self, point: &Vector3<f64>) -> (f64, Vector3<f64>) {
        let planar = Vector3::new(point.x, point.y, 0.0);
        let Some((nearest, squared)) = self.occupied.nearest(&planar) else {
            return (f64::INFINITY, Vector3::x());
        };
        if squared > 0.0 {
            let distance = squared.sqrt();
            return (distance, (planar - nearest) / distance);
        }
        let (depth, way) = self.way_out(&planar);
        (-depth, way)
    }

    /// The distance from an occupied point to what is free, and the direction.
    fn way_out(&self, planar: &Vector3<f64>) -> (f64, Vector3<f64>) {
        let corner = |count: usize, axis: usize| self.origin[axis] + count as f64 * self.cell;
        let mut best = (planar.x - self.origin[0], -Vector3::x());
        let edges = [
            (corner(self.columns, 0) - planar.x, Vector3::x()),
            (planar.y - self.origin[1], -Vector3::y()),
            (corner(self.rows(), 1) - planar.y, Vector3::y()),
        ];
        for edge in edges {
            if edge.0 < best.0 {
                best = edge;
            }
        }
        if let Some((nearest, squared)) = self.free.nearest(planar) {
            let distance = squared.sqrt();
            if distance < best.0 {
                let way = (nearest - planar).try_normalize(0.0);
                best = (distance, way.unwrap_or(best.1));
            }
        }
        best
    }
}

/// Neighbouring cells of one kind along x as one box: a tenth of the boxes, and the same squares.
fn runs(origin: [f64; 2], cell: f64, columns: usize, cells: &[bool], kind: bool) -> Vec<Aabb> {
    let place = |axis: usize, count: usize| origin[axis] + count as f64 * cell;
    let mut boxes = Vec::new();
    for (j, row) in cells.chunks(columns).enumerate() {
        let mut i = 0;
        while i < columns {
            let begin = i;
            while i < columns && row[i] == kind {
                i += 1;
            }
            if i > begin {
                boxes.push(Aabb {
                    lower: Vector3::new(place(0, begin), place(1, j), 0.0),
                    upper: Vector3::new(place(0, i), place(1, j + 1), 0.0),
                });
            }
            i += usize::from(i < columns && row[i] != kind);
        }
    }
    boxes
}
