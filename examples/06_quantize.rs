//! One policy in fewer bits: how much smaller and faster it gets, and what it loses at which level of noise.
//!
//! ```sh
//! cargo run --release --example 06_quantize
//! ```
//!
//! `clearway quantize` writes such a policy to a folder, and with `--calibrate` chooses its codes for what layers really read.
#![allow(clippy::print_stdout, reason = "an example shows what it does")]

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{Denoiser, Parameterized, Point, Schedule, drift};
use clearway_planner::{Budget, History, Observation, Planner, Policy, Precision, Problem};
use clearway_sim::{PushT, pusht};

/// Levels of noise at which the networks are compared, from the most to the least.
const TIMESTEPS: [f64; 5] = [99.0, 75.0, 50.0, 25.0, 1.0];

fn main() -> Result<(), Box<dyn Error>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    let period = Duration::from_secs_f64(pusht::CONTROL_PERIOD);
    let device = Device::flex();

    // 1. What the policy sees and does, in three episodes: the networks are compared on that, not on noise alone.
    let planner = Planner::load(&folder, period, &device)?;
    let policy = planner.policy();
    let (mut conditions, mut actions, mut histories) = (Vec::new(), Vec::new(), Vec::new());
    for seed in 0..3 {
        let mut world = PushT::reset(seed);
        let mut history = History::default();
        history.push(observe(&world))?;
        for replan in 0..20 {
            let plan = planner.plan(&Problem::new(&history), Budget::default(), replan)?;
            conditions.extend(policy.condition(&history)?);
            // A plan is the part of the horizon that is executed: its last action stands for the rest.
            let rows = plan.trajectory.waypoints().map(|it| it.position.to_vec());
            let mut rows: Vec<Vec<f64>> = rows.collect();
            let last = rows[rows.len() - 1].clone();
            rows.resize(policy.config().horizon, last);
            actions.extend(policy.normalized_actions(&rows.concat()));
            histories.push(history.clone());
            for action in plan.trajectory.waypoints() {
                let [x, y] = [0, 1].map(|i| action.position[i].clamp(0.0, pusht::SIZE));
                world.step([x, y])?;
                history.push(observe(&world))?;
            }
            history.keep_newest(policy.config().n_obs_steps);
        }
    }
    let count = histories.len();
    let width = conditions.len() / count;
    let shape = [count, policy.config().horizon, policy.config().action.len];
    let condition: Tensor<2> =
        Tensor::from_data(TensorData::new(conditions, [count, width]), &device);
    let actions: Tensor<3> = Tensor::from_data(TensorData::new(actions, shape), &device);

    // 2. The same weights in each precision.
    let schedule = policy.config().schedule()?;
    let points = TIMESTEPS.map(|t| Point {
        t,
        level: schedule.level(t),
    });
    let prediction = policy.config().prediction;
    let denoiser =
        |policy: &Policy| Parameterized::new(policy.network().clone(), prediction.into());
    let exact = denoiser(policy);
    let of_exact = exact.prepare(&condition);
    println!("          MB    plan     ‖Δε‖/‖ε‖ at timestep {TIMESTEPS:?}");
    for precision in [
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::INT4,
    ] {
        let mut packed = Policy::load(&folder, &device)?;
        let report = packed.pack(precision);
        let approximate = denoiser(&packed);
        let of_approximate = approximate.prepare(&condition);
        let found = drift(
            (&exact, &approximate),
            (&of_exact, &of_approximate),
            &actions,
            &points,
            1,
        );
        let errors: Vec<String> = found.iter().map(|it| format!("{:.0e}", it.noise)).collect();

        let planner = Planner::new(packed, period, &device)?;
        let mut times = Vec::new();
        for (history, seed) in histories.iter().zip(0..) {
            let plan = planner.plan(&Problem::new(history), Budget::default(), seed)?;
            times.push(plan.elapsed);
        }
        times.sort_unstable();
        println!(
            "{:>5} {:6.1} {:4.1} ms     {}",
            precision.to_string(),
            report.bytes as f64 / 1e6,
            times[times.len() / 2].as_secs_f64() * 1e3,
            errors.join("  ")
        );
    }
    Ok(())
}

fn observe(world: &PushT) -> Observation {
    let seen = world.observation();
    let step = u32::try_from(world.steps()).unwrap_or(u32::MAX);
    Observation::new(Duration::from_secs_f64(pusht::CONTROL_PERIOD) * step)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}
