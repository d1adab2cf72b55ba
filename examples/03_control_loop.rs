//! Plan in a loop: act on a plan, look again, plan again, until the block lies on its target.
//!
//! ```sh
//! cargo run --release --example 03_control_loop [SEED]
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clearway_planner::{Budget, History, Observation, Planner, Problem};
use clearway_sim::{PushT, pusht};

/// What the policy was trained to see, by the names that it was trained with.
fn observe(step: usize, seen: &pusht::Observation) -> Observation {
    Observation::new(Duration::from_secs_f64(step as f64 * pusht::CONTROL_PERIOD))
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

fn main() -> Result<(), Box<dyn Error>> {
    let seed: u64 = match std::env::args().nth(1) {
        Some(argument) => argument.parse()?,
        None => 0,
    };
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let period = Duration::from_secs_f64(pusht::CONTROL_PERIOD);
    let planner = Planner::load(&policy, period, &Device::flex())?;

    let mut world = PushT::reset(seed);
    let mut history = History::new(vec![observe(0, &world.observation())])?;
    let mut replans = 0;
    while !world.succeeded() && world.steps() < pusht::EPISODE_STEPS {
        // One plan is eight actions, 0.8 s of motion; it takes some 1/40 of that.
        let plan = planner.plan(
            &Problem::new(&history),
            Budget::default(),
            seed << 16 | replans,
        )?;
        replans += 1;
        for action in plan.trajectory.waypoints() {
            let target = [0, 1].map(|i| action.position[i].clamp(0.0, pusht::SIZE));
            let seen = world.step(target)?;
            history.push(observe(world.steps(), &seen))?;
            if seen.succeeded {
                break;
            }
        }
        history.keep_newest(2);
        println!(
            "{:>5.1} s  plan {replans:>2} in {:>5.1?}  coverage {:.3}",
            world.steps() as f64 * pusht::CONTROL_PERIOD,
            plan.elapsed,
            world.coverage()
        );
    }
    println!(
        "{}",
        if world.succeeded() {
            "solved"
        } else {
            "not solved in 30 s"
        }
    );
    Ok(())
}
