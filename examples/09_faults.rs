//! What the robot does when its planner is late, and then hangs: it goes on with what it has, holds, says why, and is
//! asked to start again.
//!
//! ```sh
//! cargo run --release --example 09_faults [SEED]
//! ```
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_motion::Limits;
use clearway_planner::{
    Budget, Horizon, Layout, Observation, Plan, PlanError, Planner, Plans, Problem, Reason,
    Replanner, Settings, Status,
};
use clearway_sim::{PushT, pusht};

/// A planner that takes a while longer than it should: the shipped one, on a bad day.
struct BadDay {
    planner: Planner,
    /// Milliseconds that are added to each plan.
    delay: Arc<AtomicU64>,
}

impl Plans for BadDay {
    fn layout(&self) -> Layout {
        self.planner.layout()
    }

    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError> {
        let asked = Instant::now();
        // A delay that is taken back ends at once: only so does a planner that hangs come to its end here.
        while asked.elapsed() < Duration::from_millis(self.delay.load(Ordering::Relaxed)) {
            thread::sleep(Duration::from_millis(1));
        }
        self.planner.plan(problem, budget, seed)
    }
}

fn observe(now: Duration, seen: &pusht::Observation) -> Observation {
    Observation::new(now)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

fn main() -> Result<(), Box<dyn Error>> {
    let seed: u64 = std::env::args()
        .nth(1)
        .map_or(Ok(100_001), |seed| seed.parse())?;
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let period = Duration::from_secs_f64(pusht::CONTROL_PERIOD);
    let planner = Planner::load(&policy, period, &Device::flex())?;
    let actions = planner.most_actions();
    let delay = Arc::new(AtomicU64::new(0));
    let bad_day = BadDay {
        planner: planner.with_actions(actions)?,
        delay: Arc::clone(&delay),
    };
    let horizon = Horizon {
        execute: 8,
        latency: 1,
    };
    let square = Limits::unlimited(2).with_position(&[0.0; 2], &[pusht::SIZE; 2])?;
    let settings = Settings::new(horizon)
        .with_limits(square)
        .with_patience(Duration::from_secs(3))
        .with_seed(seed);

    let mut world = PushT::reset(seed);
    let mut seen = world.observation();
    let mut replanner = Replanner::spawn(bad_day, settings, &seen.agent)?;
    let begun = Instant::now();
    let mut last = None;
    for step in 1..=160_u32 {
        match step {
            30 => {
                println!("        -- from now on a plan takes 400 ms longer");
                delay.store(400, Ordering::Relaxed);
            }
            70 => {
                println!("        -- from now on none comes back");
                delay.store(u64::MAX, Ordering::Relaxed);
            }
            _ => {}
        }
        let now = begun.elapsed();
        let command = replanner.command(now, &observe(now, &seen));
        let (plan, status) = (command.plan, command.status);
        seen = world.step([command.position[0], command.position[1]])?;
        if last.replace((plan, status)) != Some((plan, status)) {
            let now = now.as_secs_f64();
            println!("{now:>5.1} s  plan {plan:>2}  {status}");
        }
        if status == Status::Failed(Reason::Hung) && step >= 120 {
            println!("        -- it is well again, and is started anew");
            delay.store(0, Ordering::Relaxed);
            replanner.restart()?;
        }
        thread::sleep((period * step).saturating_sub(begun.elapsed()));
    }
    println!("{:?}", replanner.health());
    Ok(())
}
