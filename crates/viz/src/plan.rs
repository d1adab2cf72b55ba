//! What is planned: paths, their alternatives, and how they come out of noise.

use clearway_motion::Trajectory;
use rerun::{Color, LineStrips2D, LineStrips3D, Radius};

use crate::colour;

/// What is drawn over what, from back to front.
pub(crate) mod order {
    pub(crate) const GROUND: f32 = 1.0;
    pub(crate) const BLOCK: f32 = 2.0;
    pub(crate) const OUTLINE: f32 = 3.0;
    pub(crate) const TRAIL: f32 = 4.0;
    pub(crate) const CANDIDATES: f32 = 5.0;
    pub(crate) const AGENT: f32 = 6.0;
    pub(crate) const PLAN: f32 = 7.0;
    pub(crate) const HAND_OVER: f32 = 8.0;
}

/// Half the width of a line on the screen, in points.
pub(crate) const FINE: f32 = 0.75;
pub(crate) const BOLD: f32 = 2.0;

/// A trajectory in the plane: its waypoints, joined by straight lines.
///
/// The first two coordinates are x and y; further ones are not shown.
///
/// # Panics
///
/// If the trajectory has fewer than two coordinates.
pub fn path(trajectory: &Trajectory, colour: Color) -> LineStrips2D {
    LineStrips2D::new([waypoints(trajectory)])
        .with_radii([Radius::new_ui_points(BOLD)])
        .with_colors([colour])
        .with_draw_order(order::PLAN)
}

/// A trajectory in space: its waypoints, joined by straight lines.
///
/// The first three coordinates are x, y and z; further ones are not shown.
///
/// # Panics
///
/// If the trajectory has fewer than three coordinates.
pub fn path_3d(trajectory: &Trajectory, colour: Color) -> LineStrips3D {
    assert!(
        trajectory.dof() >= 3,
        "a path in space needs 3 coordinates, not {}",
        trajectory.dof()
    );
    let points = trajectory.waypoints().map(|waypoint| {
        let q = waypoint.position;
        [q[0] as f32, q[1] as f32, q[2] as f32]
    });
    LineStrips3D::new([points.collect::<Vec<_>>()])
        .with_radii([Radius::new_ui_points(BOLD)])
        .with_colors([colour])
}

/// All plans of one replan: faint, and the chosen one bold and on top.
///
/// `chosen` is the index of the plan that will run, or `None` if no plan was feasible.
///
/// # Panics
///
/// If a plan has fewer than two coordinates.
pub fn candidates(plans: &[Trajectory], chosen: Option<usize>) -> LineStrips2D {
    // Of lines with one draw order the last one is on top.
    let others = (0..plans.len()).filter(|&i| Some(i) != chosen);
    let order: Vec<usize> = others.chain(chosen.filter(|&i| i < plans.len())).collect();
    let style = |&i: &usize| {
        if Some(i) == chosen {
            (BOLD, colour::PLAN)
        } else {
            (FINE, colour::CANDIDATE)
        }
    };
    LineStrips2D::new(order.iter().map(|&i| waypoints(&plans[i])))
        .with_radii(order.iter().map(|i| Radius::new_ui_points(style(i).0)))
        .with_colors(order.iter().map(|i| style(i).1))
        .with_draw_order(order::CANDIDATES)
}

/// The estimates x̂ of one plan, from the noisiest to the clean one, in one picture.
///
/// Colours run from [`colour::NOISE`] to [`colour::PLAN`]; the last estimate is bold.
/// Log it once a plan; on the `denoising` timeline, [`denoised`] shows the same estimates one by one.
///
/// # Panics
///
/// If an estimate has fewer than two coordinates.
pub fn denoising(estimates: &[Trajectory]) -> LineStrips2D {
    let last = estimates.len().saturating_sub(1);
    let steps = || 0..estimates.len();
    LineStrips2D::new(estimates.iter().map(waypoints))
        .with_radii(steps().map(|i| Radius::new_ui_points(if i == last { BOLD } else { FINE })))
        .with_colors(steps().map(|i| colour::denoising(progress(i, estimates.len()))))
        .with_draw_order(order::CANDIDATES)
}

/// The estimate x̂ after step `step` (from 0) of `steps`, in the colour of that step.
///
/// # Panics
///
/// If the estimate has fewer than two coordinates.
pub fn denoised(estimate: &Trajectory, step: usize, steps: usize) -> LineStrips2D {
    path(estimate, colour::denoising(progress(step, steps)))
}

/// How far step `step` of `steps` is on the way from noise, 0, to clean, 1; a single step is there at once.
fn progress(step: usize, steps: usize) -> f64 {
    match steps.saturating_sub(1) {
        0 => 1.0,
        last => step as f64 / last as f64,
    }
}

/// The first two coordinates of each waypoint.
pub(crate) fn waypoints(trajectory: &Trajectory) -> Vec<[f32; 2]> {
    assert!(
        trajectory.dof() >= 2,
        "a path in the plane needs 2 coordinates, not {}",
        trajectory.dof()
    );
    strip(
        trajectory
            .waypoints()
            .map(|waypoint| [waypoint.position[0], waypoint.position[1]]),
    )
}

/// Points as rerun takes them.
pub(crate) fn strip(points: impl IntoIterator<Item = [f64; 2]>) -> Vec<[f32; 2]> {
    points.into_iter().map(|p| p.map(|x| x as f32)).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use clearway_motion::Interpolation;
    use ndarray::array;

    use super::*;

    fn plan(height: f64) -> Trajectory {
        Trajectory::uniform(
            Duration::ZERO,
            Duration::from_millis(100),
            array![[0.0, height], [1.0, height]],
            Interpolation::Hold,
        )
        .expect("finite")
    }

    #[test]
    fn the_chosen_plan_is_drawn_last() {
        let plans = [plan(0.0), plan(1.0), plan(2.0)];
        let chosen_first = candidates(&plans, Some(0));
        let reordered = candidates(&[plan(1.0), plan(2.0), plan(0.0)], Some(2));
        assert_eq!(chosen_first, reordered);
        assert_ne!(chosen_first, candidates(&plans, None));
    }

    #[test]
    fn no_plan_is_no_line() {
        // An index that names no plan must not panic a control loop for a picture.
        assert_eq!(candidates(&[], Some(3)), candidates(&[], None));
        assert_eq!(denoising(&[]), denoising(&[]));
    }

    #[test]
    fn the_last_step_has_the_colour_of_a_plan() {
        assert_eq!(denoised(&plan(0.0), 9, 10), path(&plan(0.0), colour::PLAN));
        assert_eq!(denoised(&plan(0.0), 0, 1), path(&plan(0.0), colour::PLAN));
    }

    #[test]
    #[should_panic(expected = "a path in space needs 3 coordinates, not 2")]
    fn a_path_in_space_needs_three_coordinates() {
        path_3d(&plan(0.0), colour::PLAN);
    }
}
