//! Plan while the robot moves: a command every 100 ms, whatever the planner is doing, until the block lies on its target.
//!
//! ```sh
//! cargo run --release --example 03_control_loop [SEED] [TIMES]
//! ```
//!
//! The simulator's clock is the machine's, or runs so many TIMES as fast.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_motion::{Check, Limits, Safety, Space, Unit};
use clearway_planner::{Horizon, Observation, Planner, Replanner, Settings};
use clearway_sim::{PushT, pusht};

/// What the policy was trained to see, by the names that it was trained with.
fn observe(now: Duration, seen: &pusht::Observation) -> Observation {
    Observation::new(now)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let seed: u64 = arguments.next().map_or(Ok(100_001), |seed| seed.parse())?;
    let times: f64 = arguments.next().map_or(Ok(1.0), |times| times.parse())?;
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let period = Duration::from_secs_f64(pusht::CONTROL_PERIOD);

    // A plan offers its whole horizon, so that there is something in hand should the next one be late.
    let planner = Planner::load(&policy, period, &Device::flex())?;
    let actions = planner.most_actions();
    let planner = planner.with_actions(actions)?;

    // Eight actions of each plan are executed. While it is made one more is, of the plan before: it is committed, and
    // the new plan begins with it.
    let horizon = Horizon {
        execute: 8,
        latency: 1,
    };

    // What a plan must be to be executed. Every check is required that is not waived: pixels that a controller of its own
    // smooths have no derivatives that matter, and a target may be anywhere in the square.
    let space = Space::new([("agent x", Unit::Pixel), ("agent y", Unit::Pixel)])?;
    let square = Limits::unlimited(2).with_position(&[0.0; 2], &[pusht::SIZE; 2])?;
    let safety = Safety::new(&space)
        .without([Check::Velocity, Check::Acceleration, Check::Jerk])
        .without([Check::Start, Check::Workspace])
        .with_limits(square)
        .with_max_age(2 * period);
    let settings = Settings::new(horizon)
        .with_safety(safety)
        .with_budget(period.mul_f64(0.8 / times))
        .with_seed(seed);

    let mut world = PushT::reset(seed);
    let mut seen = world.observation();
    let mut replanner = Replanner::spawn(planner, settings, &seen.agent)?;
    let begun = Instant::now();
    let mut last = None;
    while !world.succeeded() && world.steps() < pusht::EPISODE_STEPS {
        let now = begun.elapsed().mul_f64(times);
        let command = replanner.command(now, &observe(now, &seen)); // never waits, never fails
        if last.replace((command.plan, command.status)) != Some((command.plan, command.status)) {
            println!(
                "{:>5.1} s  plan {:>2}  {}  coverage {:.3}",
                now.as_secs_f64(),
                command.plan,
                command.status,
                world.coverage()
            );
        }
        seen = world.step([command.position[0], command.position[1]])?;
        let next = period.mul_f64(world.steps() as f64 / times);
        std::thread::sleep(next.saturating_sub(begun.elapsed()));
    }
    let health = replanner.health();
    println!(
        "{} after {:.1} s: {} plans, {} late",
        if world.succeeded() {
            "solved"
        } else {
            "not solved"
        },
        world.steps() as f64 * pusht::CONTROL_PERIOD,
        health.adopted,
        health.late
    );
    Ok(())
}
