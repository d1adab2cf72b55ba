//! Ways through a scene: what is in the way, what was drawn, and where it touches.

use clearway_motion::Path;
use rerun::{Color, LineStrips2D, Points2D, Radius};

use crate::colour;
use crate::plan::{BOLD, FINE, order, strip};
use crate::scene::polygons;

/// The corners of a disc that is drawn as a polygon.
const CORNERS: usize = 48;

/// Discs, each its centre and its radius, filled.
pub fn discs(discs: &[([f64; 2], f64)]) -> LineStrips2D {
    let outlines: Vec<Vec<[f64; 2]>> = discs
        .iter()
        .map(|&([x, y], radius)| {
            let corner = |i: usize| {
                let (sin, cos) = (std::f64::consts::TAU * i as f64 / CORNERS as f64).sin_cos();
                [x + radius * cos, y + radius * sin]
            };
            (0..CORNERS).map(corner).collect()
        })
        .collect();
    polygons(&outlines, colour::BLOCK)
}

/// Paths in the plane, all in one colour: candidates while they are denoised, in [`colour::denoising`].
///
/// # Panics
///
/// If a path has fewer than two coordinates.
pub fn ways(paths: &[Path], colour: Color) -> LineStrips2D {
    LineStrips2D::new(paths.iter().map(line))
        .with_radii([Radius::new_ui_points(FINE)])
        .with_colors([colour])
        .with_draw_order(order::CANDIDATES)
}

/// Candidates with what was found of them: those that are free faint, those that are blocked red, the chosen one bold.
///
/// # Panics
///
/// If a path has fewer than two coordinates, or there is not one finding a path.
pub fn judged(paths: &[Path], blocked: &[bool], chosen: Option<usize>) -> LineStrips2D {
    assert_eq!(paths.len(), blocked.len(), "one finding a path");
    let style = |i: usize| match (Some(i) == chosen, blocked[i]) {
        (true, _) => (BOLD, colour::PLAN),
        (false, true) => (FINE, colour::FAILED),
        (false, false) => (FINE, colour::CANDIDATE),
    };
    LineStrips2D::new(paths.iter().map(line))
        .with_radii((0..paths.len()).map(|i| Radius::new_ui_points(style(i).0)))
        .with_colors((0..paths.len()).map(|i| style(i).1))
        .with_draw_order(order::CANDIDATES)
}

/// Where something touches, or comes too near.
pub fn violations(places: &[[f64; 2]]) -> Points2D {
    Points2D::new(places.iter().map(|place| place.map(|x| x as f32)))
        .with_radii([Radius::new_ui_points(3.0)])
        .with_colors([colour::FAILED])
        .with_draw_order(order::HAND_OVER)
}

fn line(path: &Path) -> Vec<[f32; 2]> {
    assert!(
        path.dof() >= 2,
        "a path in the plane needs 2 coordinates, not {}",
        path.dof()
    );
    strip(
        path.waypoints()
            .rows()
            .into_iter()
            .map(|row| [row[0], row[1]]),
    )
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn blocked_ways_are_red_and_the_chosen_one_is_bold() {
        let path = |y: f64| Path::new(array![[0.0, y], [1.0, y]]).expect("finite");
        let paths = [path(0.0), path(1.0), path(2.0)];
        let shown = format!("{:?}", judged(&paths, &[false, true, false], Some(2)));
        assert!(!shown.is_empty());
        let again = format!("{:?}", judged(&paths, &[false, false, false], Some(2)));
        assert_ne!(shown, again);
        let none = format!("{:?}", judged(&paths, &[false, true, false], None));
        assert_ne!(shown, none);
    }
}
