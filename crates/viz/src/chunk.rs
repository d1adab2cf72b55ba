//! A plan that takes over from another: what is committed, what is its own, and what is in hand.

use clearway_motion::Trajectory;
use rerun::{Color, LineStrips2D, Points2D, Radius, StateConfiguration};

use crate::colour;
use crate::plan::{BOLD, FINE, order, waypoints};

/// A plan in the plane, in three colours.
///
/// ```text
/// waypoint   0 ........ seam ............. until ........ end
///            committed   its own actions    in hand, should the next plan be late
/// ```
///
/// It begins with what the robot does anyway while it is made ([`colour::COMMITTED`], up to `seam`), takes over with its
/// own actions ([`colour::PLAN`]), and from `until` on is executed only if there is no newer one
/// ([`colour::CANDIDATE`]). Numbers beyond the last waypoint mean the end.
///
/// # Panics
///
/// If the trajectory has fewer than two coordinates.
pub fn chunk(trajectory: &Trajectory, seam: usize, until: usize) -> LineStrips2D {
    let points = waypoints(trajectory);
    let last = points.len().saturating_sub(1);
    let seam = seam.min(last);
    let until = until.clamp(seam, last);
    // Each part begins where the one before it ends.
    let parts = [
        (0..=seam, BOLD, colour::COMMITTED),
        (seam..=until, BOLD, colour::PLAN),
        (until..=last, FINE, colour::CANDIDATE),
    ];
    let parts =
        parts.map(|(part, width, colour)| (points.get(part).unwrap_or_default(), width, colour));
    let shown = || parts.iter().filter(|(points, ..)| points.len() > 1);
    LineStrips2D::new(shown().map(|(points, ..)| points.iter().copied()))
        .with_radii(shown().map(|(_, width, _)| Radius::new_ui_points(*width)))
        .with_colors(shown().map(|(.., colour)| *colour))
        .with_draw_order(order::PLAN)
}

/// Where a plan takes over: its first own waypoint; nothing if it has none.
///
/// # Panics
///
/// If the trajectory has fewer than two coordinates.
pub fn hand_over(trajectory: &Trajectory, seam: usize) -> Points2D {
    Points2D::new(waypoints(trajectory).get(seam).copied())
        .with_radii([Radius::new_ui_points(4.0)])
        .with_colors([colour::HAND_OVER])
        .with_draw_order(order::HAND_OVER)
}

/// The names and colours of the states that something can be in, for the lane that shows it over time.
///
/// Log it once, static, beside the [`rerun::StateChange`]s of the same path.
pub fn states<'a>(states: impl IntoIterator<Item = (&'a str, Color)>) -> StateConfiguration {
    let (names, colours): (Vec<&str>, Vec<Color>) = states.into_iter().unzip();
    StateConfiguration::new()
        .with_values(names)
        .with_colors(colours)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clearway_motion::Interpolation;
    use ndarray::Array2;

    use super::*;

    fn line(waypoints: usize) -> Trajectory {
        Trajectory::uniform(
            Duration::ZERO,
            Duration::from_millis(100),
            Array2::from_shape_fn([waypoints, 2], |(i, j)| (i * (1 - j)) as f64),
            Interpolation::Hold,
        )
        .expect("finite")
    }

    #[test]
    fn its_parts_meet() {
        let expected = LineStrips2D::new([
            vec![[0.0_f32, 0.0], [1.0, 0.0], [2.0, 0.0]],
            vec![[2.0, 0.0], [3.0, 0.0], [4.0, 0.0]],
            vec![[4.0, 0.0], [5.0, 0.0]],
        ])
        .with_radii([BOLD, BOLD, FINE].map(Radius::new_ui_points))
        .with_colors([colour::COMMITTED, colour::PLAN, colour::CANDIDATE])
        .with_draw_order(order::PLAN);
        assert_eq!(chunk(&line(6), 2, 4), expected);
    }

    #[test]
    fn a_plan_without_one_of_them_is_drawn_without() {
        let colours = |waypoints, seam, until| chunk(&line(waypoints), seam, until).colors;
        let of = |colours: &[Color]| {
            LineStrips2D::new([[[0.0, 0.0]]])
                .with_colors(colours.to_vec())
                .colors
        };
        assert_eq!(colours(6, 0, 6), of(&[colour::PLAN]));
        assert_eq!(colours(6, 0, 99), of(&[colour::PLAN]));
        assert_eq!(colours(6, 99, 3), of(&[colour::COMMITTED]));
        assert_eq!(
            colours(6, 3, 1),
            of(&[colour::COMMITTED, colour::CANDIDATE])
        );
        assert_eq!(colours(1, 0, 1), of(&[]));
        assert_eq!(colours(0, 3, 5), of(&[]));
    }

    #[test]
    fn a_plan_without_own_actions_takes_over_nowhere() {
        let nowhere = Points2D::new([[0.0_f32; 2]; 0]).positions;
        assert_eq!(hand_over(&line(3), 3).positions, nowhere);
        assert_eq!(
            hand_over(&line(3), 2).positions,
            Points2D::new([[2.0, 0.0]]).positions
        );
    }
}
