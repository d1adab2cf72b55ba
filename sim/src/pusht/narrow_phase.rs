//! Where two convex shapes touch: GJK for the distance, EPA for the depth, clipped support edges for the contact points.
//!
//! Two shapes overlap where their Minkowski difference `{b − a}` contains the origin; the point of its surface that is
//! closest to the origin gives distance, normal and closest points at once.
//!
//! Gilbert, Johnson & Keerthi, "A fast procedure for computing the distance between complex objects in
//! three-dimensional space", 1988; van den Bergen, "Proximity queries and penetration depth computation on 3D game
//! objects", 2001. Orientation, tie-breaks, iteration limits and warm starts are those of Chipmunk 7.0.3, whose results
//! this module reproduces.

use super::{
    shape::{Convex, Disc, Edge, Quad, Segment, Vertex},
    vector::Vector,
};

/// Steps after which GJK and EPA return what they have. Shapes as simple as ours need a handful.
const MAX_ITERATIONS: usize = 30;

/// The Minkowski difference of a segment and a quadrilateral has at most eight vertices; EPA adds one at a time.
const MAX_HULL: usize = 10;

/// The two pairs of vertices that GJK ended with, to start from in the next step. Four indices, most significant first;
/// zero starts afresh.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Simplex(u32);

/// One point of contact: a pair of surface points, first shape's and second's.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Touch {
    pub(super) on_first: Vector,
    pub(super) on_second: Vector,
    /// Which pair of vertices made it: the same pair in the next step is the same contact.
    pub(super) feature: (u8, u8),
}

/// Up to two points of contact with one normal.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Manifold {
    /// Unit vector from the first shape to the second.
    pub(super) normal: Vector,
    touches: [Touch; 2],
    count: usize,
}

impl Manifold {
    pub(super) fn touches(&self) -> &[Touch] {
        &self.touches[..self.count]
    }

    fn push(&mut self, touch: Touch) {
        self.touches[self.count] = touch;
        self.count += 1;
    }
}

/// Contact of a disc with a box: at most one point.
pub(super) fn disc_and_quad(disc: &Disc, quad: &Quad, simplex: &mut Simplex) -> Manifold {
    let closest = closest_points(disc, quad, simplex);
    let mut manifold = Manifold {
        normal: closest.normal,
        ..Manifold::default()
    };
    if closest.distance <= disc.radius() + quad.radius() {
        manifold.push(Touch {
            on_first: closest.on_first + closest.normal * disc.radius(),
            on_second: closest.on_second + closest.normal * -quad.radius(),
            feature: (0, 0),
        });
    }
    manifold
}

/// Contact of a wall with a box: the ends of the overlap of the two edges that face each other.
pub(super) fn segment_and_quad(segment: &Segment, quad: &Quad, simplex: &mut Simplex) -> Manifold {
    let closest = closest_points(segment, quad, simplex);
    if closest.distance - segment.radius() - quad.radius() <= 0.0 {
        clip(
            closest.normal,
            segment.support_edge(closest.normal),
            quad.support_edge(-closest.normal),
        )
    } else {
        Manifold::default()
    }
}

/// The contacts of two facing edges: each edge's end is paired with the point across from it on the other edge, and
/// kept where the two surfaces overlap there.
///
/// Seen along the normal both edges are intervals, and they run in opposite directions: the start of one is across from
/// the end of the other.
fn clip(normal: Vector, first: Edge, second: Edge) -> Manifold {
    let mut manifold = Manifold {
        normal,
        ..Manifold::default()
    };
    let along = |point: Vector| point.cross(normal);
    let [first_from, first_to] = [first.from, first.to].map(|end| along(end.point));
    let [second_from, second_to] = [second.from, second.to].map(|end| along(end.point));
    // An edge seen end-on has no extent; the smallest positive number makes the quotients below huge instead of NaN.
    let first_scale = 1.0 / (first_to - first_from + f64::MIN_POSITIVE);
    let second_scale = 1.0 / (second_to - second_from + f64::MIN_POSITIVE);

    let mut pair = |first_at: f64, second_at: f64, feature: (u8, u8)| {
        let first_t = ((first_at - first_from) * first_scale).clamp(0.0, 1.0);
        let second_t = ((second_at - second_from) * second_scale).clamp(0.0, 1.0);
        let on_first = normal * first.radius + first.from.point.lerp(first.to.point, first_t);
        let on_second = normal * -second.radius + second.from.point.lerp(second.to.point, second_t);
        if (on_second - on_first).dot(normal) <= 0.0 {
            manifold.push(Touch {
                on_first,
                on_second,
                feature,
            });
        }
    };
    pair(second_to, first_from, (first.from.index, second.to.index));
    pair(second_from, first_to, (first.to.index, second.from.index));
    manifold
}

/// A vertex of the Minkowski difference and the two vertices that it is the difference of.
#[derive(Debug, Clone, Copy)]
struct Difference {
    first: Vector,
    second: Vector,
    /// `second − first`.
    point: Vector,
    /// The two indices, the first shape's in the upper byte.
    id: u16,
}

/// The closest points of two shapes' cores.
#[derive(Debug, Clone, Copy)]
struct Closest {
    on_first: Vector,
    on_second: Vector,
    /// Unit vector from the first shape to the second.
    normal: Vector,
    /// Signed: negative where the cores overlap.
    distance: f64,
}

/// Two shapes, seen as their Minkowski difference.
struct Pair<'a, A, B> {
    first: &'a A,
    second: &'a B,
}

impl<A: Convex, B: Convex> Pair<'_, A, B> {
    fn difference(first: Vertex, second: Vertex) -> Difference {
        Difference {
            first: first.point,
            second: second.point,
            point: second.point - first.point,
            id: u16::from(first.index) << 8 | u16::from(second.index),
        }
    }

    fn support(&self, direction: Vector) -> Difference {
        Self::difference(
            self.first.support(-direction),
            self.second.support(direction),
        )
    }

    fn vertex(&self, id: u16) -> Difference {
        let [first, second] = id.to_be_bytes();
        Self::difference(self.first.vertex(first), self.second.vertex(second))
    }
}

/// Distance, normal and closest points of two cores. Starts from `simplex` and leaves the last one there.
fn closest_points<A: Convex, B: Convex>(first: &A, second: &B, simplex: &mut Simplex) -> Closest {
    let pair = Pair { first, second };
    let (start, end) = if *simplex == Simplex::default() {
        let axis = (first.bounds().centre() - second.bounds().centre()).perpendicular();
        (pair.support(axis), pair.support(-axis))
    } else {
        (
            pair.vertex((simplex.0 >> 16) as u16),
            pair.vertex(simplex.0 as u16),
        )
    };
    let (start, end) = gjk(&pair, start, end);
    *simplex = Simplex(u32::from(start.id) << 16 | u32::from(end.id));
    closest_on_edge(start, end)
}

/// Walks to the edge of the Minkowski difference that is closest to the origin.
fn gjk<A: Convex, B: Convex>(
    pair: &Pair<A, B>,
    mut start: Difference,
    mut end: Difference,
) -> (Difference, Difference) {
    for _ in 0..MAX_ITERATIONS {
        if is_left(end.point, start.point, Vector::ZERO) {
            // The origin is to be on the left of start → end, the side that is explored.
            (start, end) = (end, start);
        }
        let t = closest_t(start.point, end.point);
        let direction = if -1.0 < t && t < 1.0 {
            (end.point - start.point).perpendicular()
        } else {
            -centred_lerp(start.point, end.point, t)
        };
        let new = pair.support(direction);
        if is_left(new.point, start.point, Vector::ZERO)
            && is_left(end.point, new.point, Vector::ZERO)
        {
            // The triangle holds the origin: the shapes overlap.
            return epa(pair, [start, new, end]);
        }
        let reached = f64::max(start.point.dot(direction), end.point.dot(direction));
        if new.point.dot(direction) <= reached {
            return (start, end);
        }
        if squared_distance(start.point, new.point) < squared_distance(new.point, end.point) {
            end = new;
        } else {
            start = new;
        }
    }
    (start, end)
}

/// Grows a triangle around the origin to the hull's edge that is closest to the origin.
fn epa<A: Convex, B: Convex>(
    pair: &Pair<A, B>,
    triangle: [Difference; 3],
) -> (Difference, Difference) {
    let mut hull = [triangle[0]; MAX_HULL];
    hull[..3].copy_from_slice(&triangle);
    let mut count = 3;
    for iteration in 1.. {
        let mut nearest = 0;
        let mut least = f64::INFINITY;
        for end in 0..count {
            let start = (end + count - 1) % count;
            let distance = squared_distance(hull[start].point, hull[end].point);
            if distance < least {
                (nearest, least) = (start, distance);
            }
        }
        let start = hull[nearest];
        let end = hull[(nearest + 1) % count];
        let new = pair.support((end.point - start.point).perpendicular());
        let known = new.id == start.id || new.id == end.id;
        if known
            || !is_left(start.point, end.point, new.point)
            || iteration >= MAX_ITERATIONS
            || count == MAX_HULL
        {
            return (start, end);
        }

        // Insert the new vertex, and drop the vertices that it hides.
        let mut grown = [new; MAX_HULL];
        let mut kept = 1;
        for step in 0..count {
            let candidate = hull[(nearest + 1 + step) % count];
            let after = if step + 1 < count {
                hull[(nearest + 2 + step) % count]
            } else {
                new
            };
            if is_left(grown[kept - 1].point, after.point, candidate.point) {
                grown[kept] = candidate;
                kept += 1;
            }
        }
        (hull, count) = (grown, kept);
    }
    (triangle[0], triangle[2])
}

/// The closest points on the edge `start → end` of the Minkowski difference.
fn closest_on_edge(start: Difference, end: Difference) -> Closest {
    let t = closest_t(start.point, end.point);
    let point = centred_lerp(start.point, end.point, t);
    let on_first = centred_lerp(start.first, end.first, t);
    let on_second = centred_lerp(start.second, end.second, t);
    // The edge's own normal is accurate where the surfaces are close or overlap.
    let normal = (-(end.point - start.point).perpendicular()).normalized();
    let distance = normal.dot(point);
    if distance <= 0.0 || (-1.0 < t && t < 1.0) {
        Closest {
            on_first,
            on_second,
            normal,
            distance,
        }
    } else {
        // Vertex against vertex: the axis is no edge's normal.
        let distance = point.length();
        let normal = point * (1.0 / (distance + f64::MIN_POSITIVE));
        Closest {
            on_first,
            on_second,
            normal,
            distance,
        }
    }
}

/// Whether `point` lies to the left of `from → to`, with "left" as in a frame whose y points up; on the line is not.
fn is_left(from: Vector, to: Vector, point: Vector) -> bool {
    (to.y - from.y) * (from.x + to.x - 2.0 * point.x)
        > (to.x - from.x) * (from.y + to.y - 2.0 * point.y)
}

/// The parameter in [-1, 1] of the point on the segment that is closest to the origin. The interval is symmetric so
/// that swapping the ends changes nothing but the sign.
fn closest_t(start: Vector, end: Vector) -> f64 {
    let delta = end - start;
    let squared = delta.dot(delta);
    if squared == 0.0 {
        0.0
    } else {
        -(delta.dot(start + end) / squared).clamp(-1.0, 1.0)
    }
}

/// `start` at -1, `end` at 1.
fn centred_lerp(start: Vector, end: Vector, t: f64) -> Vector {
    let half = 0.5 * t;
    start * (0.5 - half) + end * (0.5 + half)
}

/// The squared distance of a segment from the origin.
fn squared_distance(start: Vector, end: Vector) -> f64 {
    let closest = centred_lerp(start, end, closest_t(start, end));
    closest.dot(closest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{numpy::Generator, pusht::tee::Pose};

    /// Distances of some hundred px after a few dozen roundings.
    const ROUNDING: f64 = 1e-10;

    fn uniform(draw: &mut Generator, reach: f64) -> f64 {
        draw.angle() / std::f64::consts::PI * reach
    }

    /// The signed distance of a point from a quadrilateral, from its definition.
    fn signed_distance(quad: &Quad, point: Vector) -> f64 {
        let vertices = [0, 1, 2, 3].map(|index| quad.vertex(index).point);
        let mut outside = f64::INFINITY;
        let mut height = f64::NEG_INFINITY;
        for index in 0..4 {
            let (from, to) = (vertices[index], vertices[(index + 1) % 4]);
            let edge = to - from;
            let t = ((point - from).dot(edge) / edge.dot(edge)).clamp(0.0, 1.0);
            outside = outside.min((point - from.lerp(to, t)).length());
            height = height.max(-edge.normalized().perpendicular().dot(point - from));
        }
        if height <= 0.0 { height } else { outside }
    }

    #[test]
    fn a_disc_touches_where_its_centre_is_closest() {
        let mut draw = Generator::new(1);
        let (mut outside, mut inside) = (0, 0);
        for _ in 0..20_000 {
            let quad = Pose::from_centre(Vector::ZERO, draw.angle()).boxes()[1];
            let centre = Vector::new(uniform(&mut draw, 80.0), uniform(&mut draw, 80.0));
            let disc = Disc {
                centre,
                radius: 15.0,
            };
            let expected = signed_distance(&quad, centre);
            let manifold = disc_and_quad(&disc, &quad, &mut Simplex::default());
            let [touch] = manifold.touches() else {
                assert!(expected > 15.0 - ROUNDING, "no contact at {expected} px");
                continue;
            };
            let found = (touch.on_second - touch.on_first).dot(manifold.normal) + 15.0;
            assert!(
                (found - expected).abs() < ROUNDING,
                "{found} for {expected}"
            );
            assert!((manifold.normal.length() - 1.0).abs() < ROUNDING);
            // The point on the box lies on its surface, at that distance along the normal.
            assert!(signed_distance(&quad, touch.on_second).abs() < ROUNDING);
            let along = centre + manifold.normal * expected - touch.on_second;
            assert!(along.length() < ROUNDING, "{along:?}");
            *(if expected > 0.0 {
                &mut outside
            } else {
                &mut inside
            }) += 1;
        }
        assert!(outside > 1_000 && inside > 1_000, "{outside}, {inside}");
    }

    #[test]
    fn a_box_flush_against_a_wall_touches_at_its_two_corners() {
        let wall = Segment {
            ends: [Vector::new(5.0, 5.0), Vector::new(506.0, 5.0)],
            radius: 2.0,
        };
        // The bar's outer edge 0.5 px inside of the wall's face at 7.
        let quad = Pose::from_origin(Vector::new(200.0, 6.5), 0.0).boxes()[0];
        let manifold = segment_and_quad(&wall, &quad, &mut Simplex::default());
        assert_eq!(manifold.normal, Vector::new(0.0, 1.0));
        let mut corners: Vec<f64> = manifold
            .touches()
            .iter()
            .map(|touch| {
                assert!(
                    ((touch.on_second - touch.on_first).dot(manifold.normal) + 0.5).abs()
                        < ROUNDING
                );
                assert!((touch.on_second.y - 6.5).abs() < ROUNDING);
                touch.on_second.x
            })
            .collect();
        corners.sort_by(f64::total_cmp);
        assert_eq!(corners.len(), 2);
        assert!((corners[0] - 140.0).abs() < ROUNDING && (corners[1] - 260.0).abs() < ROUNDING);
        let [first, second] = manifold.touches() else {
            unreachable!("two contacts")
        };
        assert_ne!(first.feature, second.feature);

        // Turned by more than slides the far corner off: one contact is left.
        let turned = Pose::from_origin(Vector::new(200.0, 6.5), 0.02).boxes()[0];
        let manifold = segment_and_quad(&wall, &turned, &mut Simplex::default());
        assert_eq!(manifold.touches().len(), 1);
    }

    #[test]
    fn a_start_from_the_last_simplex_finds_the_same_contact() {
        let wall = Segment {
            ends: [Vector::new(5.0, 506.0), Vector::new(5.0, 5.0)],
            radius: 2.0,
        };
        let mut draw = Generator::new(2);
        let mut simplex = Simplex::default();
        let mut touching = 0;
        for _ in 0..20_000 {
            let pose = Pose::from_centre(
                Vector::new(uniform(&mut draw, 90.0), 250.0 + uniform(&mut draw, 300.0)),
                draw.angle(),
            );
            let quad = pose.boxes()[0];
            let warm = segment_and_quad(&wall, &quad, &mut simplex);
            let cold = segment_and_quad(&wall, &quad, &mut Simplex::default());
            assert_eq!(warm.touches().len(), cold.touches().len(), "{pose:?}");
            touching += usize::from(!cold.touches().is_empty());
            for (a, b) in warm.touches().iter().zip(cold.touches()) {
                assert_eq!(a.feature, b.feature, "{pose:?}");
                assert!((a.on_second - b.on_second).length() < ROUNDING, "{pose:?}");
            }
        }
        assert!(touching > 1_000, "{touching}");
    }
}
