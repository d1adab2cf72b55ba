//! How fast demonstrations and classical plans are made, on one thread, and how well D4RL's controller scores:
//! `cargo bench -p clearway-sim`.
//!
//! Each line is the best of three runs, since what else a machine does only makes it slower.
#![allow(clippy::print_stdout, clippy::expect_used)]

use std::hint::black_box;
use std::time::Instant;

use clearway_motion::{Optimizer, RrtConnect, shortcut};
use clearway_sim::{Clutter, Environment, Expert, Layout, Maze2D, clutter, maze2d};

/// Seconds of the quickest of three runs.
fn seconds(mut run: impl FnMut()) -> f64 {
    let times = (0..3).map(|_| {
        let begin = Instant::now();
        run();
        begin.elapsed().as_secs_f64()
    });
    times.fold(f64::INFINITY, f64::min)
}

/// The mean score of D4RL's controller over 500 episodes: one for all of them, or a new one for each.
fn score(layout: Layout, new: bool) -> f64 {
    let episodes = 500;
    let mut kept: Option<maze2d::WaypointController> = None;
    let mut sum = 0.0;
    for seed in 0..episodes {
        let mut world = Maze2D::reset(layout, seed);
        let at = world.observation().position;
        let mut controller = kept.take().filter(|_| !new).unwrap_or_else(|| {
            maze2d::WaypointController::new(layout, at, world.target(), seed).expect("connected")
        });
        for _ in 0..layout.episode_steps() {
            let seen = world.observation();
            let (action, _) = controller.act(seen.position, seen.velocity);
            sum += world.step(action).expect("finite").reward;
        }
        kept = Some(controller);
    }
    layout.normalized_score(sum / episodes as f64)
}

fn main() {
    for layout in Layout::ALL {
        let steps = 200_000;
        let time = seconds(|| {
            for frame in Expert::new(layout, 1).take(steps) {
                black_box(frame);
            }
        });
        let episodes = 200;
        let episode = seconds(|| {
            for seed in 0..episodes {
                black_box(maze2d::expert(layout, seed).expect("finite"));
            }
        });
        println!(
            "{layout:?}: {:.2} million steps a second, {:.0} demonstrations a second",
            steps as f64 / time / 1e6,
            episodes as f64 / episode
        );
        println!(
            "{layout:?}: D4RL's controller scores {:.1} as its reference was taken, {:.1} if it plans in each episode",
            score(layout, false),
            score(layout, true)
        );
    }
    for environment in Environment::ALL {
        let world = Clutter::new(environment).expect("published");
        let free = world.free_space().expect("two coordinates");
        let count = 200;
        let problems: Vec<clutter::Problem> = (0..count)
            .map(|seed| world.problem(seed).expect("it has room"))
            .collect();
        let (mut solved, mut paths) = (0, Vec::new());
        let expert = seconds(|| {
            solved = 0;
            for (seed, problem) in problems.iter().enumerate() {
                solved += usize::from(black_box(world.expert(problem, seed as u64)).is_ok());
            }
        });
        let trees = seconds(|| {
            paths.clear();
            for (seed, problem) in problems.iter().enumerate() {
                let planner = RrtConnect::default();
                let path = planner.plan(&free, &problem.start, &problem.goal, seed as u64);
                paths.extend(path);
            }
        });
        let mut short = Vec::new();
        let shortcuts = seconds(|| {
            short.clear();
            for (seed, path) in paths.iter().enumerate() {
                short.push(shortcut(&free, path, 100, seed as u64));
            }
        });
        let mut smooth = 0;
        let optimizer = seconds(|| {
            smooth = 0;
            for path in &short {
                smooth += usize::from(Optimizer::default().optimize(&free, path).is_ok());
            }
        });
        let each = |time: f64, count: usize| 1e3 * time / count.max(1) as f64;
        println!(
            "{environment:?}: {:.0} demonstrations a second, {solved} of {count} solved; RRT-Connect {:.3} ms ({} solved), \
             100 shortcuts {:.3} ms, optimizer {:.3} ms ({smooth} smooth)",
            count as f64 / expert,
            each(trees, count as usize),
            paths.len(),
            each(shortcuts, paths.len()),
            each(optimizer, short.len()),
        );
    }
}
