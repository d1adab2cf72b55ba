//! The convex shapes that collide: the agent's disc, the walls' segments, the boxes of the T.

use super::vector::Vector;

/// An axis-aligned bounding box.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bounds {
    pub(super) min: Vector,
    pub(super) max: Vector,
}

impl Bounds {
    /// The bounds of a disc.
    pub(super) fn around(centre: Vector, radius: f64) -> Self {
        let reach = Vector::new(radius, radius);
        Self {
            min: centre - reach,
            max: centre + reach,
        }
    }

    pub(super) fn merged(self, other: Self) -> Self {
        Self {
            min: Vector::new(self.min.x.min(other.min.x), self.min.y.min(other.min.y)),
            max: Vector::new(self.max.x.max(other.max.x), self.max.y.max(other.max.y)),
        }
    }

    /// Whether the two share a point; touching counts.
    pub(super) fn intersects(self, other: Self) -> bool {
        self.min.x <= other.max.x
            && other.min.x <= self.max.x
            && self.min.y <= other.max.y
            && other.min.y <= self.max.y
    }

    pub(super) fn contains(self, other: Self) -> bool {
        self.min.x <= other.min.x
            && self.max.x >= other.max.x
            && self.min.y <= other.min.y
            && self.max.y >= other.max.y
    }

    pub(super) fn area(self) -> f64 {
        (self.max.x - self.min.x) * (self.max.y - self.min.y)
    }

    pub(super) fn centre(self) -> Vector {
        self.min.lerp(self.max, 0.5)
    }

    /// Twice the taxicab distance between the centres.
    pub(super) fn proximity(self, other: Self) -> f64 {
        (self.min.x + self.max.x - other.min.x - other.max.x).abs()
            + (self.min.y + self.max.y - other.min.y - other.max.y).abs()
    }
}

/// A vertex of a shape, by its place among the shape's vertices.
#[derive(Debug, Clone, Copy)]
pub(super) struct Vertex {
    pub(super) point: Vector,
    pub(super) index: u8,
}

/// A directed edge of a shape's core, with the core's radius.
#[derive(Debug, Clone, Copy)]
pub(super) struct Edge {
    pub(super) from: Vertex,
    pub(super) to: Vertex,
    pub(super) radius: f64,
}

/// What the narrow phase asks of a shape: a convex core, swept by a radius.
///
/// Which of several equally far vertices is chosen is part of the contract: with a box flush against a wall it is the
/// rule, not the exception.
pub(super) trait Convex {
    fn bounds(&self) -> Bounds;
    fn radius(&self) -> f64;
    /// The core's vertex at `index`, for a start from the last step's result.
    fn vertex(&self, index: u8) -> Vertex;
    /// The core's vertex that lies farthest along `direction`.
    fn support(&self, direction: Vector) -> Vertex;
}

/// The agent: a point, swept by a radius.
#[derive(Debug, Clone, Copy)]
pub(super) struct Disc {
    pub(super) centre: Vector,
    pub(super) radius: f64,
}

impl Convex for Disc {
    fn bounds(&self) -> Bounds {
        Bounds::around(self.centre, self.radius)
    }

    fn radius(&self) -> f64 {
        self.radius
    }

    fn vertex(&self, _index: u8) -> Vertex {
        Vertex {
            point: self.centre,
            index: 0,
        }
    }

    fn support(&self, _direction: Vector) -> Vertex {
        self.vertex(0)
    }
}

/// A wall: a segment, swept by a radius.
#[derive(Debug, Clone, Copy)]
pub(super) struct Segment {
    pub(super) ends: [Vector; 2],
    pub(super) radius: f64,
}

impl Segment {
    /// The side of the segment that faces `direction`, as an edge.
    pub(super) fn support_edge(&self, direction: Vector) -> Edge {
        let [start, end] = self.ends;
        let normal = -(end - start).normalized().perpendicular();
        let (from, to) = if normal.dot(direction) > 0.0 {
            (0, 1)
        } else {
            (1, 0)
        };
        Edge {
            from: self.vertex(from),
            to: self.vertex(to),
            radius: self.radius,
        }
    }
}

impl Convex for Segment {
    fn bounds(&self) -> Bounds {
        let [start, end] = self.ends.map(|end| Bounds::around(end, self.radius));
        start.merged(end)
    }

    fn radius(&self) -> f64 {
        self.radius
    }

    fn vertex(&self, index: u8) -> Vertex {
        Vertex {
            point: self.ends[usize::from(index != 0)],
            index,
        }
    }

    /// Of two equally far ends, the second.
    fn support(&self, direction: Vector) -> Vertex {
        let [start, end] = self.ends;
        self.vertex(u8::from(start.dot(direction) <= end.dot(direction)))
    }
}

/// A box of the T: a convex quadrilateral with vertices in order of rising angle, and no radius.
#[derive(Debug, Clone, Copy)]
pub(super) struct Quad {
    vertices: [Vector; 4],
    /// `normals[i]` is the outward unit normal of the edge that ends at `vertices[i]`.
    normals: [Vector; 4],
    bounds: Bounds,
}

impl Quad {
    /// The quadrilateral with these vertices and outward normals.
    pub(super) fn new(vertices: [Vector; 4], normals: [Vector; 4]) -> Self {
        let [a, b, c, d] = vertices.map(|vertex| Bounds::around(vertex, 0.0));
        Self {
            vertices,
            normals,
            bounds: a.merged(b).merged(c).merged(d),
        }
    }

    pub(super) fn vertices(&self) -> &[Vector; 4] {
        &self.vertices
    }

    /// Of the two edges at the vertex farthest along `direction`, the one that faces it more; of two equal ones, the
    /// second.
    pub(super) fn support_edge(&self, direction: Vector) -> Edge {
        let at = self.support(direction).index;
        let next = (at + 1) % 4;
        let facing = |index: u8| direction.dot(self.normals[usize::from(index)]);
        let (from, to) = if facing(at) > facing(next) {
            ((at + 3) % 4, at)
        } else {
            (at, next)
        };
        Edge {
            from: self.vertex(from),
            to: self.vertex(to),
            radius: 0.0,
        }
    }
}

impl Convex for Quad {
    fn bounds(&self) -> Bounds {
        self.bounds
    }

    fn radius(&self) -> f64 {
        0.0
    }

    fn vertex(&self, index: u8) -> Vertex {
        Vertex {
            point: self.vertices[usize::from(index) % 4],
            index,
        }
    }

    /// Of equally far vertices, the first.
    fn support(&self, direction: Vector) -> Vertex {
        let mut farthest = 0;
        let mut reach = self.vertices[0].dot(direction);
        for index in 1..4 {
            let distance = self.vertices[usize::from(index)].dot(direction);
            if distance > reach {
                (farthest, reach) = (index, distance);
            }
        }
        self.vertex(farthest)
    }
}
