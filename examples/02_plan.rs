//! Plan once: from what a robot sees to what it shall do.
//!
//! ```sh
//! cargo run --release --example 02_plan
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clearway_motion::Limits;
use clearway_planner::{Budget, History, Method, Observation, Planner, Problem, Sampling};
use clearway_sim::PushT;

fn main() -> Result<(), Box<dyn Error>> {
    // A folder as LeRobot's `save_pretrained` writes it. Its checkpoints do not say how long an action lasts: we do.
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let period = Duration::from_millis(100);
    let planner = Planner::load(&policy, period, &Device::flex())?;

    // What is seen, in physical units, with its time. The policy looks back on two observations; where there is one,
    // it takes that twice, as LeRobot does.
    let seen = PushT::reset(7).observation();
    let mut history = History::default();
    history.push(
        Observation::new(Duration::ZERO)
            .with("observation.state", seen.agent)
            .with("observation.environment_state", seen.key_points),
    )?;

    // The same seed gives the same plan, bit for bit.
    let plan = planner.plan(&Problem::new(&history), Budget::default(), 1)?;
    println!(
        "{}: {} in {:.1?}",
        planner.sampling(),
        plan.outcome,
        plan.elapsed
    );
    for action in plan.trajectory.waypoints() {
        println!(
            "  {:>5.1} s  {:6.1} {:6.1} px",
            action.time.as_secs_f64(),
            action.position[0],
            action.position[1]
        );
    }

    // A policy is a distribution over plans. Draw several, and take the first that keeps a limit.
    let planner = planner.with_candidates(16)?;
    let limits = Limits::unlimited(2).with_velocity(&[150.0, 150.0])?;
    match planner.plan(
        &Problem::new(&history).with_limits(&limits),
        Budget::default(),
        1,
    ) {
        Ok(plan) => println!("below 150 px/s: candidate {} of 16", plan.chosen + 1),
        Err(error) => println!("below 150 px/s: {error}"),
    }

    // Any solver of the engine samples any policy.
    let two_steps = Sampling::new(Method::DpmSolver2M, 2);
    let planner = planner.with_candidates(1)?.with_sampling(two_steps)?;
    let plan = planner.plan(&Problem::new(&history), Budget::default(), 1)?;
    println!(
        "{}: {} in {:.1?}",
        planner.sampling(),
        plan.outcome,
        plan.elapsed
    );
    Ok(())
}
