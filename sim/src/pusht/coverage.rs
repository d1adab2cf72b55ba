//! How much of the target the T covers.

use super::{tee::BOXES, tee::Pose, vector::Vector};

/// The target's origin and angle: px and rad.
pub(super) const GOAL: [f64; 3] = [256.0, 256.0, std::f64::consts::FRAC_PI_4];

/// A convex quadrilateral clipped by four half-planes has at most eight vertices.
const MAX_VERTICES: usize = 8;

/// `area(target ∩ block) / area(target)`.
///
/// Both are unions of two boxes that share no area, so that the intersection is the sum of four convex ones.
pub(super) fn coverage(block: &Pose) -> f64 {
    let [x, y, angle] = GOAL;
    // The target's body has its centre of mass at its origin.
    let rotation = Vector::from_angle(angle);
    let target =
        BOXES.map(|vertices| vertices.map(|vertex| vertex.rotated(rotation) + Vector::new(x, y)));
    let block = BOXES.map(|vertices| vertices.map(|vertex| block.world_from_body(vertex)));
    let shared: f64 = target
        .iter()
        .flat_map(|goal| block.iter().map(|part| intersection_area(part, goal)))
        .sum();
    shared / target.iter().map(|goal| area(goal)).sum::<f64>()
}

/// The area of the intersection of two convex quadrilaterals, by clipping the first with each edge of the second.
///
/// Sutherland & Hodgman, "Reentrant polygon clipping", 1974.
fn intersection_area(subject: &[Vector; 4], clip: &[Vector; 4]) -> f64 {
    let mut polygon = [Vector::ZERO; MAX_VERTICES];
    polygon[..4].copy_from_slice(subject);
    let mut count = 4;
    for (index, &from) in clip.iter().enumerate() {
        let edge = clip[(index + 1) % 4] - from;
        let height = |point: Vector| edge.cross(point - from);
        let mut clipped = [Vector::ZERO; MAX_VERTICES];
        let mut kept = 0;
        let mut keep = |point| {
            // Rounding may find a ninth vertex where two coincide; its loss costs no area.
            if kept < MAX_VERTICES {
                clipped[kept] = point;
                kept += 1;
            }
        };
        for position in 0..count {
            let (start, end) = (polygon[position], polygon[(position + 1) % count]);
            let (above, next) = (height(start), height(end));
            if above >= 0.0 {
                keep(start);
            }
            if (above > 0.0 && next < 0.0) || (above < 0.0 && next > 0.0) {
                keep(start.lerp(end, above / (above - next)));
            }
        }
        (polygon, count) = (clipped, kept);
    }
    area(&polygon[..count])
}

/// The shoelace formula, about the first vertex so that large coordinates do not cancel.
fn area(polygon: &[Vector]) -> f64 {
    let Some((&first, rest)) = polygon.split_first() else {
        return 0.0;
    };
    let twice: f64 = rest
        .windows(2)
        .map(|edge| (edge[0] - first).cross(edge[1] - first))
        .sum();
    0.5 * twice
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Areas of some thousand px², a few hundred roundings.
    const ROUNDING: f64 = 1e-10;

    fn rectangle(x: [f64; 2], y: [f64; 2]) -> [Vector; 4] {
        [
            Vector::new(x[0], y[0]),
            Vector::new(x[1], y[0]),
            Vector::new(x[1], y[1]),
            Vector::new(x[0], y[1]),
        ]
    }

    #[test]
    fn rectangles_intersect_in_rectangles() {
        let subject = rectangle([0.0, 10.0], [0.0, 4.0]);
        let cases = [
            (rectangle([5.0, 20.0], [1.0, 3.0]), 10.0), // across an edge
            (rectangle([2.0, 3.0], [1.0, 3.0]), 2.0),   // inside
            (rectangle([-9.0, 99.0], [-9.0, 99.0]), 40.0), // around
            (rectangle([10.0, 20.0], [0.0, 4.0]), 0.0), // edge on edge
            (rectangle([11.0, 20.0], [0.0, 4.0]), 0.0), // apart
            (rectangle([10.0, 20.0], [4.0, 8.0]), 0.0), // corner on corner
        ];
        for (clip, expected) in cases {
            assert!(
                (intersection_area(&subject, &clip) - expected).abs() < ROUNDING,
                "{clip:?}"
            );
            assert!(
                (intersection_area(&clip, &subject) - expected).abs() < ROUNDING,
                "{clip:?}"
            );
        }
    }

    #[test]
    fn a_square_and_its_half_turn_make_an_octagon() {
        let square = rectangle([-1.0, 1.0], [-1.0, 1.0]);
        let turned = square.map(|vertex| vertex.rotated(Vector::from_angle(GOAL[2])));
        let octagon = 8.0 * (2.0_f64.sqrt() - 1.0);
        assert!((intersection_area(&square, &turned) - octagon).abs() < ROUNDING);
    }

    #[test]
    fn the_goal_covers_itself_and_a_shift_along_the_bar_loses_a_strip() {
        let [x, y, angle] = GOAL;
        let along = Vector::from_angle(angle);
        let shifted = |by: f64| coverage(&Pose::from_origin(Vector::new(x, y) + along * by, angle));
        assert!((shifted(0.0) - 1.0).abs() < ROUNDING);
        // 6 px along the bar: it loses 6 × 30, the stem 6 × 90.
        assert!((shifted(6.0) - (6300.0 - 6.0 * 120.0) / 6300.0).abs() < ROUNDING);
        assert!(shifted(500.0).abs() < ROUNDING);
    }
}
