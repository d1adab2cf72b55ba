//! Where plans are curves, one takes over from another without a jump in position, velocity or acceleration, and what is
//! not replaced in time comes to rest within the limits.

use std::f64::consts::TAU;
use std::time::Duration;

use clearway_motion::{Interpolation, Limits, Trajectory};
use clearway_planner::{
    Budget, Horizon, Layout, Plan, PlanError, Plans, Problem, Replanner, Settings, Status,
};
use ndarray::Array2;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const PERIOD: Duration = Duration::from_millis(50);
const TICK: Duration = Duration::from_millis(1);
const ACTIONS: usize = 20;
const DOF: usize = 3;
const SPEED: f64 = 4.0;
const ACCELERATION: f64 = 60.0;
const JERK: f64 = 6000.0;

fn limits() -> Limits {
    Limits::unlimited(DOF)
        .with_position(&[-2.0; DOF], &[2.0; DOF])
        .and_then(|limits| limits.with_velocity(&[SPEED; DOF]))
        .and_then(|limits| limits.with_acceleration(&[ACCELERATION; DOF]))
        .and_then(|limits| limits.with_jerk(&[JERK; DOF]))
        .expect("valid limits")
}

/// A swing about the middle, whose phase each plan draws anew but for what is committed: it eases from there into its own.
struct Swing;

impl Plans for Swing {
    fn layout(&self) -> Layout {
        Layout {
            dof: DOF,
            actions: ACTIONS,
            period: PERIOD,
            observations: 1,
        }
    }

    fn plan(&self, problem: &Problem<'_>, _: Budget, seed: u64) -> Result<Plan, PlanError> {
        let mut random = SmallRng::seed_from_u64(seed);
        let phase = random.random_range(-0.4..0.4);
        let start = problem.observations.newest().expect("it looked").time();
        let committed = problem.committed.expect("it is told");
        let known = |time| committed.waypoints().find(|known| known.time == time);
        let rest = |j: usize| {
            let last = committed.waypoints().last();
            last.map_or(0.0, |known| known.position[j])
        };
        let mut positions = Array2::zeros([ACTIONS, DOF]);
        let mut free = 0_u32;
        for row in 0..ACTIONS {
            let time = start + PERIOD * row as u32;
            for j in 0..DOF {
                let swing = 0.6 * (TAU * 0.15 * time.as_secs_f64() + phase + j as f64).sin();
                positions[[row, j]] = match known(time) {
                    Some(known) => known.position[j],
                    // From where it was, going on as it went, into the swing over half a second.
                    None => {
                        let before = |rows: usize| match row.checked_sub(rows) {
                            Some(row) => positions[[row, j]],
                            // Of a plan that begins from rest nothing is known but where that is.
                            None => rest(j),
                        };
                        let (last, before) = (before(1), before(2));
                        let ease = 1.0 - 0.75_f64.powi(i32::try_from(free).expect("few"));
                        let straight = last + 0.8 * (last - before);
                        straight + 0.12 * ease * (swing - straight)
                    }
                };
            }
            free += u32::from(known(time).is_none());
        }
        let trajectory = Trajectory::uniform(start, PERIOD, positions, Interpolation::Hold)?;
        Ok(Plan::of(trajectory, seed))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    position: [f64; DOF],
    velocity: [f64; DOF],
    acceleration: [f64; DOF],
}

/// Runs for some seconds; plans 20 to 26 take too long if it is told so. Returns each tick's command, and how many plans
/// took over and how often the loop held.
fn run(late: bool, seconds: u32) -> (Vec<Sample>, u64, usize) {
    let settings = Settings::new(Horizon {
        execute: 5,
        latency: 2,
    })
    .with_interpolation(Interpolation::Quintic)
    .with_limits(limits());
    let delay = move |plan: u64| match plan {
        20..=26 if late => PERIOD * 40,
        _ => PERIOD.mul_f64(1.3),
    };
    let mut replanner =
        Replanner::in_step(Swing, settings, &[0.0; DOF], delay).expect("the settings fit");
    let mut samples = Vec::new();
    let mut held = 0;
    for tick in 0..seconds * 1000 {
        let now = TICK * tick;
        let seen = clearway_planner::Observation::new(now).with("observation.state", [0.0; DOF]);
        let command = replanner.command(now, &seen);
        held += usize::from(matches!(command.status, Status::Holding(_)));
        let copy = |values: &[f64]| std::array::from_fn(|j| values[j]);
        samples.push(Sample {
            position: copy(command.position),
            velocity: copy(command.velocity),
            acceleration: copy(command.acceleration),
        });
    }
    let health = replanner.health();
    assert_eq!((health.refused, health.diverged), (0, 0), "{health:?}");
    (samples, health.adopted, held)
}

/// That what is commanded is the motion that it says it is, and within its limits.
fn check(samples: &[Sample]) {
    let dt = TICK.as_secs_f64();
    // Half of what changes over a tick, at the greatest jerk and acceleration.
    let (of_velocity, of_acceleration) = (JERK * dt, JERK * dt * 1.01);
    for (tick, pair) in samples.windows(2).enumerate() {
        for j in 0..DOF {
            let [a, b] = [pair[0], pair[1]];
            let context = || format!("tick {tick}, coordinate {j}: {a:?} {b:?}");
            assert!(b.velocity[j].abs() <= SPEED + 1e-9, "{}", context());
            assert!(
                b.acceleration[j].abs() <= ACCELERATION + 1e-6,
                "{}",
                context()
            );
            // No jump: each is the integral of the next, as far as the next can change within a tick.
            let moved = (b.position[j] - a.position[j]) / dt;
            let mean = f64::midpoint(a.velocity[j], b.velocity[j]);
            assert!((moved - mean).abs() <= of_velocity * dt, "{}", context());
            let sped = (b.velocity[j] - a.velocity[j]) / dt;
            let mean = f64::midpoint(a.acceleration[j], b.acceleration[j]);
            assert!((sped - mean).abs() <= of_velocity, "{}", context());
            let jerked = (b.acceleration[j] - a.acceleration[j]).abs();
            assert!(jerked <= of_acceleration, "{}", context());
        }
    }
}

#[test]
fn plans_take_over_without_a_jump() {
    let (samples, adopted, held) = run(false, 20);
    check(&samples);
    assert!(adopted > 70, "{adopted}");
    // It holds until the first plan is there, and never again.
    assert!(held < 150, "{held}");
    let far = samples.iter().map(|sample| sample.position[0].abs());
    assert!(far.fold(0.0, f64::max) > 0.3, "nothing moved");
}

#[test]
fn what_is_not_replaced_comes_to_rest_and_goes_on() {
    let (samples, adopted, held) = run(true, 40);
    check(&samples);
    assert!(adopted > 70, "{adopted}");
    // It held, at rest, while the plans were late.
    assert!(held > 1000, "{held}");
    let resting = samples.iter().skip(1000);
    let resting = resting.filter(|sample| sample.velocity.iter().all(|v| v.abs() <= 0.0));
    assert!(resting.count() > 800);
    let moving = samples[samples.len() - 1].velocity;
    assert!(moving.iter().any(|v| v.abs() > 1e-3), "{moving:?}");
}

#[test]
fn a_curve_without_a_way_to_brake_is_refused() {
    let settings = || {
        Settings::new(Horizon {
            execute: 5,
            latency: 2,
        })
        .with_interpolation(Interpolation::Quintic)
    };
    let speed = Limits::unlimited(DOF)
        .with_velocity(&[SPEED; DOF])
        .expect("valid");
    for settings in [settings(), settings().with_limits(speed)] {
        let error = Replanner::spawn(Swing, settings, &[0.0; DOF]).expect_err("no brake");
        assert_eq!(
            error.to_string(),
            "to come to rest, quintic interpolation needs a limit of each coordinate's acceleration or jerk"
        );
    }
}
