//! An expert: a policy that may try its plans in the world before it chooses one.
//!
//! A policy draws candidates; each is followed in a fork of the exact simulator, to the end of its horizon, and the one that
//! leads nearest to the target is executed. No robot has such a simulator, but it can learn from what the expert does.

use clearway_motion::Trajectory;
use clearway_planner::{Budget, Plan, Planner, Problem};
use clearway_sim::{PushT, pusht};
use rayon::prelude::*;

use super::{Episode, Error, Replan, Running, Settings, actions, run_with};

/// Runs episodes of the expert, with as many candidates a plan as the planner draws; `end` is given each episode that ends,
/// by its place among them. Once `is_over` those that run are given up.
pub(crate) fn run(
    planner: &Planner,
    settings: &Settings,
    end: impl FnMut(usize, Episode),
    is_over: impl Fn() -> bool,
) -> Result<(), Error> {
    let target = PushT::at_pose([0.0; 2], pusht::TARGET)?.observation();
    let plan = |running: &[Running]| {
        let problems: Vec<Problem<'_>> = running
            .iter()
            .map(|one| Problem::new(&one.history))
            .collect();
        let seeds: Vec<u64> = running
            .iter()
            .map(|one| one.plan_seed(settings.noise_seed))
            .collect();
        let plans = planner.plan_batch(&problems, Budget::default(), &seeds);
        let plans: Vec<Plan> = plans.into_iter().collect::<Result<_, _>>()?;
        let chosen = running.par_iter().zip(plans).map(|(one, mut plan)| {
            let costs = plan.candidates.iter();
            let costs = costs.map(|it| cost(&one.world, it, &target.key_points));
            let costs: Vec<f64> = costs.collect::<Result<_, Error>>()?;
            let best = (0..costs.len()).min_by(|&a, &b| costs[a].total_cmp(&costs[b]));
            plan.chosen = best.unwrap_or(0);
            plan.trajectory = plan.candidates[plan.chosen].clone();
            Ok(Replan {
                plan,
                estimates: Vec::new(),
            })
        });
        chosen.collect()
    };
    run_with(planner, settings, plan, end, is_over)
}

/// How far from the target a plan leads: below zero if it solves the task, the less the sooner; else the mean distance of the
/// block's key points from where they shall be, px, after the last action.
fn cost(world: &PushT, plan: &Trajectory, target: &[f64; 16]) -> Result<f64, Error> {
    let mut fork = world.clone();
    let mut seen = fork.observation();
    for (step, action) in (0_i32..).zip(actions(plan)) {
        seen = fork.step(action)?;
        if seen.succeeded {
            return Ok(-1.0 / f64::from(step + 1));
        }
    }
    let (found, _) = seen.key_points.as_chunks::<2>();
    let (target, _) = target.as_chunks::<2>();
    let distances = found
        .iter()
        .zip(target)
        .map(|(a, b)| (a[0] - b[0]).hypot(a[1] - b[1]));
    Ok(distances.sum::<f64>() / found.len() as f64)
}
