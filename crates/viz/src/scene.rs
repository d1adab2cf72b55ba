//! What is there: shapes in the plane, in the unit of the caller, y down as on a screen.

use rerun::{Color, LineStrips2D, Points2D, Radius, RotationAxisAngle, Transform3D};

use crate::colour;
use crate::plan::{order, strip};

/// The width of the lines that fill a polygon, as a part of its longer side: 3 px for the bar of PushT's T.
///
/// Finer lines would fall below the pixels of a screen and flicker, coarser ones would round the corners off.
const FILL: f64 = 1.0 / 40.0;

/// Simple polygons, filled with an opaque colour.
///
/// Rerun has no filled polygon in the plane, so each one is filled with horizontal lines, by the even-odd rule.
/// Corners are rounded off by about a hundredth of the longer side.
/// Vertices are in any unit; a polygon of fewer than three is left out.
///
/// A body that moves is best drawn once, in its own frame, and moved by its [`pose`]:
///
/// ```no_run
/// # use clearway_viz::{self as viz, rerun};
/// # fn log(rec: &rerun::RecordingStream) -> rerun::RecordingStreamResult<()> {
/// let bar = [[-60.0, 0.0], [60.0, 0.0], [60.0, 30.0], [-60.0, 30.0]];
/// rec.log_static("world/bar", &viz::polygons(&[bar], viz::colour::BLOCK))?;
/// rec.log("world/bar", &viz::pose([256.0, 256.0], 0.3))?;
/// # Ok(())
/// # }
/// ```
pub fn polygons<P: AsRef<[[f64; 2]]>>(polygons: &[P], colour: Color) -> LineStrips2D {
    let mut lines = Vec::new();
    let mut radii = Vec::new();
    for polygon in polygons {
        fill(polygon.as_ref(), &mut lines, &mut radii);
    }
    LineStrips2D::new(lines)
        .with_radii(radii)
        .with_colors([colour])
        .with_draw_order(order::GROUND)
}

/// The edges of closed polygons.
pub fn outline<P: AsRef<[[f64; 2]]>>(polygons: &[P], colour: Color) -> LineStrips2D {
    let strips = polygons.iter().map(|polygon| {
        let polygon = polygon.as_ref();
        strip(polygon.iter().chain(polygon.first()).copied())
    });
    LineStrips2D::new(strips)
        .with_radii([Radius::new_ui_points(1.0)])
        .with_colors([colour])
        .with_draw_order(order::OUTLINE)
}

/// The block that is pushed, as filled polygons in its own frame; move it by its [`pose`].
pub fn block<P: AsRef<[[f64; 2]]>>(polygons: &[P]) -> LineStrips2D {
    self::polygons(polygons, colour::BLOCK).with_draw_order(order::BLOCK)
}

/// Where the block should be, as filled polygons in the block's frame; move it by the goal's [`pose`].
pub fn goal<P: AsRef<[[f64; 2]]>>(polygons: &[P]) -> LineStrips2D {
    self::polygons(polygons, colour::GOAL)
}

/// The edge of the goal, drawn over the block: what is left to do stays visible when the two nearly meet.
///
/// It takes the silhouette, which for a T of two boxes is one polygon of eight vertices. ([`block`] and [`goal`] take
/// the boxes as well, but then a fine seam shows between them.)
pub fn goal_outline(silhouette: &[[f64; 2]]) -> LineStrips2D {
    outline(&[silhouette], colour::COVERAGE)
}

/// The walls around a world, as the rectangle between two corners.
pub fn walls(lower: [f64; 2], upper: [f64; 2]) -> LineStrips2D {
    let ([x0, y0], [x1, y1]) = (lower, upper);
    outline(
        &[[[x0, y0], [x1, y0], [x1, y1], [x0, y1]]],
        colour::REFERENCE,
    )
}

/// The agent, a disc.
pub fn agent(centre: [f64; 2], radius: f64) -> Points2D {
    Points2D::new([centre.map(|x| x as f32)])
        .with_radii([Radius::new_scene_units(radius as f32)])
        .with_colors([colour::AGENT])
        .with_draw_order(order::AGENT)
}

/// Where the agent has been, oldest first.
pub fn trail(positions: &[[f64; 2]]) -> LineStrips2D {
    LineStrips2D::new([strip(positions.iter().copied())])
        .with_radii([Radius::new_ui_points(1.0)])
        .with_colors([colour::TRAIL])
        .with_draw_order(order::TRAIL)
}

/// A pose in the plane: where the origin of a body is, and by what angle in radians it is turned from x to y.
///
/// ```text
/// p_in_world = position + R(angle) · p_in_body,   R = [cos −sin; sin cos]
/// ```
///
/// With y down, as in pixels, a positive angle turns clockwise on the screen.
pub fn pose(position: [f64; 2], angle: f64) -> Transform3D {
    let [x, y] = position.map(|x| x as f32);
    Transform3D::from_translation_rotation(
        [x, y, 0.0],
        RotationAxisAngle::new([0.0, 0.0, 1.0], rerun::Angle::from_radians(angle as f32)),
    )
}

/// Appends the lines that fill `polygon`, and their radii.
fn fill(polygon: &[[f64; 2]], lines: &mut Vec<Vec<[f32; 2]>>, radii: &mut Vec<Radius>) {
    if polygon.len() < 3 {
        return;
    }
    let range = |axis: usize| {
        let values = polygon.iter().map(move |p| p[axis]);
        values.fold([f64::INFINITY, f64::NEG_INFINITY], |[low, high], x| {
            [low.min(x), high.max(x)]
        })
    };
    let ([left, right], [top, bottom]) = (range(0), range(1));
    let height = bottom - top;
    // Each line reaches to the middle of its neighbours: every point but the outermost is covered twice, so that the
    // soft edges of the lines leave no seam. A width that is NaN makes no line.
    let width = FILL * height.max(right - left);
    let count = (2.0 * height / width).ceil() - 1.0;
    let radius = height / (count + 1.0);
    for k in 1..=count as usize {
        let y = top + k as f64 * radius;
        let mut crossings: Vec<f64> = edges(polygon)
            .filter(|([_, y0], [_, y1])| (*y0 <= y) != (*y1 <= y))
            .map(|([x0, y0], [x1, y1])| x0 + (y - y0) / (y1 - y0) * (x1 - x0))
            .collect();
        crossings.sort_by(f64::total_cmp);
        for span in crossings.chunks_exact(2) {
            // Rerun rounds the ends of a line off by its radius.
            let (x0, x1) = (span[0] + radius, span[1] - radius);
            if x0 <= x1 {
                lines.push(strip([[x0, y], [x1, y]]));
                radii.push(Radius::new_scene_units(radius as f32));
            }
        }
    }
}

/// The edges of a closed polygon.
fn edges(polygon: &[[f64; 2]]) -> impl Iterator<Item = ([f64; 2], [f64; 2])> {
    let next = polygon.iter().cycle().skip(1);
    polygon.iter().copied().zip(next.copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The silhouette of PushT's T.
    const T: [[f64; 2]; 8] = [
        [-60.0, 0.0],
        [60.0, 0.0],
        [60.0, 30.0],
        [15.0, 30.0],
        [15.0, 120.0],
        [-15.0, 120.0],
        [-15.0, 30.0],
        [-60.0, 30.0],
    ];

    fn filled(polygon: &[[f64; 2]]) -> (Vec<Vec<[f32; 2]>>, Vec<Radius>) {
        let (mut lines, mut radii) = (Vec::new(), Vec::new());
        fill(polygon, &mut lines, &mut radii);
        (lines, radii)
    }

    #[test]
    fn a_filled_polygon_has_its_area() {
        let (lines, radii) = filled(&T);
        let radius = radii[0].scene_units().expect("it scales with the scene");
        let lengths = lines
            .iter()
            .map(|line| line[1][0] - line[0][0] + 2.0 * radius);
        // Lines are one radius apart. Half a line is missing at the top and the bottom, and where the bar meets the
        // stem one line may be short.
        let (area, missing) = (radius * lengths.sum::<f32>(), radius * (75.0 + 90.0));
        assert!((6300.0 - missing..=6300.0 + 1.0).contains(&area), "{area}");
    }

    #[test]
    fn a_filling_stays_inside() {
        let triangle = [[0.0, 0.0], [100.0, 0.0], [50.0, 80.0]];
        let (lines, _) = filled(&triangle);
        assert!(!lines.is_empty());
        for end in lines.iter().flatten() {
            let [x, y] = end.map(f64::from);
            assert!((0.0..=80.0).contains(&y));
            assert!(x >= 50.0 * y / 80.0 && x <= 100.0 - 50.0 * y / 80.0);
        }
    }

    #[test]
    fn what_has_no_area_has_no_lines() {
        for polygon in [&[][..], &T[..2], &[[1.0, 1.0]; 3]] {
            assert!(filled(polygon).0.is_empty());
        }
        assert!(filled(&[[f64::NAN; 2]; 4]).0.is_empty());
    }
}
