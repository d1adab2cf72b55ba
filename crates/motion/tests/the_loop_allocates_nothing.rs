//! Sampling a trajectory and judging the command, once a cycle, never allocates.

use std::sync::Arc;
use std::time::Duration;

use clearway_motion::{
    Interpolation, Limits, Obstacle, OccupancyGrid, Region, Safety, Scene, Space, State,
    Trajectory, Translating, Unit, Workspace,
};
use ndarray::Array2;

const DOF: usize = 7;

fn plan(interpolation: Interpolation) -> Trajectory {
    let period = Duration::from_millis(100);
    let positions = Array2::from_shape_fn((16, DOF), |(i, j)| 0.01 * (i + j) as f64);
    Trajectory::uniform(period, period, positions, interpolation).expect("the waypoints are valid")
}

fn safety() -> Safety {
    let space = Space::new((0..DOF).map(|j| (format!("joint {j}"), Unit::Radian)));
    let space = space.expect("names are distinct");
    let names = ["joint 0", "joint 1"];
    let post = Region::ball(&space, &names, &[0.5, 0.5], 0.1).expect("a disc");
    let range = Region::cuboid(&space, &names, &[-1.0, -1.0], &[1.0, 1.0]).expect("a box");
    let region = Region::intersection([range, post.outside()]).expect("one space");
    let limits = Limits::unlimited(DOF)
        .with_position(&[-1.0; DOF], &[1.0; DOF])
        .and_then(|limits| limits.with_velocity(&[1e3; DOF]))
        .and_then(|limits| limits.with_acceleration(&[1e3; DOF]))
        .expect("they are numbers");
    Safety::new(&space)
        .with_limits(limits)
        .with_workspace(Workspace::new(region, 1e-4).expect("a resolution"))
        .with_max_jump(&[0.05; DOF])
}

#[test]
fn a_cycle_allocates_nothing() {
    let safety = safety();
    let cycle = Duration::from_millis(1);
    for interpolation in [
        Interpolation::Hold,
        Interpolation::Linear,
        Interpolation::Cubic,
        Interpolation::Quintic,
    ] {
        let plan = plan(interpolation);
        let mut command = State::zeros(DOF);
        let mut previous = plan.sample(Duration::ZERO).expect("it has waypoints");
        let mut sent = 0;
        let counted = allocation_counter::measure(|| {
            // From before the first waypoint until after the last.
            for millis in 0..2000 {
                assert!(plan.sample_into(cycle * millis, &mut command));
                // Held actions step by 0.01 in one cycle, which is within what 1e3 a second allows.
                if safety.check_command(&command, &previous, cycle).is_ok() {
                    sent += 1;
                    std::mem::swap(&mut command, &mut previous);
                }
            }
        });
        assert_eq!(sent, 2000, "{interpolation}");
        assert_eq!(counted.count_total, 0, "{interpolation}");
    }
}

#[test]
fn a_refusal_allocates_nothing() {
    let safety = safety();
    let mut command = State::zeros(DOF);
    command.velocity[3] = f64::NAN;
    let rest = State::zeros(DOF);
    let mut refusal = None;
    let counted = allocation_counter::measure(|| {
        refusal = safety
            .check_command(&command, &rest, Duration::from_millis(1))
            .err();
    });
    let refusal = refusal.expect("NaN is refused");
    assert_eq!(refusal.to_string(), "velocity of coordinate 3 is NaN");
    assert_eq!(counted.count_total, 0);
}

#[test]
fn a_scene_allocates_nothing() {
    let disc = Obstacle::disc([0.5, 0.0], 0.1).expect("a disc");
    let map = OccupancyGrid::new([2.0, 2.0], 0.1, 3, vec![true; 9]).expect("a map");
    let scene = Scene::new().with(disc).with(Obstacle::grid(map));
    let body = Arc::new(Translating::disc(0.1).expect("a disc"));
    let safety = Safety::lenient(2).with_scene(body, Arc::new(scene), 0.05);
    let mut command = State::zeros(2);
    let before = State::zeros(2);
    let mut refused = 0;
    let counted = allocation_counter::measure(|| {
        for millis in 0..1000 {
            command.position[0] = 1e-3 * f64::from(millis);
            let cycle = Duration::from_millis(1);
            refused += usize::from(safety.check_command(&command, &before, cycle).is_err());
        }
    });
    // From 0.25 before the middle of the disc to 0.25 behind it, both in reach.
    assert_eq!(refused, 499);
    assert_eq!(counted.count_total, 0);
}

/// The counter counts: without it the claims above would hold of anything.
#[test]
fn an_allocation_is_counted() {
    let plan = plan(Interpolation::Cubic);
    let counted = allocation_counter::measure(|| {
        let state = plan.sample(Duration::from_millis(150));
        assert!(std::hint::black_box(state).is_some());
    });
    assert_eq!(counted.count_total, 3);
}
