//! What a control loop can rely on: deadlines, the time of a command, and that nothing grows.
//!
//! ```sh
//! cargo bench --bench control_loop -- deadlines [PLANS]
//! cargo bench --bench control_loop -- commands [TICKS]
//! cargo bench --bench control_loop -- soak [TICKS]
//! ```
#![allow(clippy::print_stdout, reason = "a benchmark says what it measured")]

use std::error::Error;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_planner::{
    Budget, History, Horizon, Observation, Outcome, Planner, Problem, Replanner, Settings, Status,
};
use clearway_sim::{PushT, pusht};

/// As in the `clearway` command.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds.
const BUDGETS: [f64; 11] = [
    1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0, 100.0, 200.0,
];

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let what = arguments.next().unwrap_or_default();
    let count: Option<usize> = arguments.next().map(|count| count.parse()).transpose()?;
    match what.as_str() {
        "deadlines" => {
            let plans = count.unwrap_or(10_000);
            println!(
                "| cores | budget [ms] | plans | passes | over budget p50, p99.9, max [ms] | over budget and one pass p99.9, max [ms] |"
            );
            println!("|---|---|---|---|---|---|");
            deadlines(plans, "quiet")?;
            busy(|| deadlines(plans, "both busy"))?;
        }
        "commands" => commands(count.unwrap_or(100_000), Duration::from_millis(1), 100)?,
        "soak" => commands(count.unwrap_or(1_000_000), Duration::from_micros(100), 10)?,
        // Run without an argument, as `cargo bench` does, it says what it could do.
        _ => println!("control_loop: deadlines [PLANS], commands [TICKS] or soak [TICKS]"),
    }
    Ok(())
}

fn planner(period: Duration) -> Result<Planner, Box<dyn Error>> {
    let policy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/pusht");
    Ok(Planner::load(&policy, period, &Device::flex())?)
}

fn observation(time: Duration, seen: &pusht::Observation) -> Observation {
    Observation::new(time)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

/// Runs with a thread on each core that never rests.
fn busy<T>(run: impl FnOnce() -> T) -> T {
    let going = Arc::new(AtomicBool::new(true));
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads: Vec<_> = (0..cores)
        .map(|_| {
            let going = Arc::clone(&going);
            thread::spawn(move || {
                while going.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            })
        })
        .collect();
    let result = run();
    going.store(false, Ordering::Relaxed);
    for thread in threads {
        // It does nothing that could panic.
        let _ = thread.join();
    }
    result
}

/// The `share`-quantile of sorted values.
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let last = sorted.len().saturating_sub(1);
    let place = (share * last as f64).ceil() as usize;
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

fn sorted(mut values: Vec<f64>) -> Vec<f64> {
    values.sort_by(f64::total_cmp);
    values
}

/// Plans against each budget, and by how much it was missed.
fn deadlines(plans: usize, cores: &str) -> Result<(), Box<dyn Error>> {
    let period = Duration::from_millis(100);
    let planner = planner(period)?;
    let mut world = PushT::reset(0);
    let mut history = History::new(vec![observation(Duration::ZERO, &world.observation())])?;
    let seen = world.step([256.0, 256.0])?;
    history.push(observation(period, &seen))?;
    let problem = Problem::new(&history);
    let each = plans.div_ceil(BUDGETS.len());
    let mut beyond_all = Vec::with_capacity(plans);
    for milliseconds in BUDGETS {
        let (mut over, mut beyond, mut passes) = (Vec::new(), Vec::new(), 0);
        for seed in 0..each as u64 {
            let begun = Instant::now();
            let deadline = begun + Duration::from_secs_f64(milliseconds / 1e3);
            let budget = Budget {
                deadline: Some(deadline),
                passes: None,
            };
            let plan = planner.plan(&problem, budget, seed)?;
            let took = begun.elapsed().as_secs_f64() * 1e3;
            if let Outcome::Truncated { passes } = plan.outcome {
                assert_eq!(passes, plan.passes);
            }
            let excess = (took - milliseconds).max(0.0);
            over.push(excess);
            let pass = plan.longest_pass.as_secs_f64() * 1e3;
            beyond.push((excess - pass).max(0.0));
            passes += plan.passes;
        }
        beyond_all.extend_from_slice(&beyond);
        let (over, beyond) = (sorted(over), sorted(beyond));
        println!(
            "| {cores} | {milliseconds} | {each} | {:.1} | {:.2}, {:.2}, {:.2} | {:.2}, {:.2} |",
            passes as f64 / each as f64,
            quantile(&over, 0.5),
            quantile(&over, 0.999),
            quantile(&over, 1.0),
            quantile(&beyond, 0.999),
            quantile(&beyond, 1.0),
        );
    }
    let beyond = sorted(beyond_all);
    println!(
        "| {cores} | all | {} | | | {:.2}, {:.2} |",
        beyond.len(),
        quantile(&beyond, 0.999),
        quantile(&beyond, 1.0)
    );
    Ok(())
}

/// Memory that this process holds, in bytes.
fn resident() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages * 4096)
}

/// A loop in real time against a planner in its own thread, with so many ticks a period.
fn commands(ticks: usize, tick: Duration, ticks_a_period: u32) -> Result<(), Box<dyn Error>> {
    // The planner on one core, the loop on the other.
    rayon::ThreadPoolBuilder::new()
        .num_threads(1)
        .build_global()?;
    let planner = planner(tick * ticks_a_period)?;
    let actions = planner.most_actions();
    let planner = planner.with_actions(actions)?;
    let mut world = PushT::reset(0);
    let mut seen = world.observation();
    let settings = Settings::new(Horizon {
        execute: 8,
        latency: 4,
    });
    let mut replanner = Replanner::spawn(planner, settings, &seen.agent)?;
    let mut now_seen = observation(Duration::ZERO, &seen);
    let mut took = Vec::with_capacity(ticks);
    let (mut fresh, mut step) = (0_usize, None);
    let begun = Instant::now();
    let mut memory = Vec::new();
    for number in 0..ticks {
        let due = begun + tick * u32::try_from(number)?;
        while Instant::now() < due {
            std::hint::spin_loop();
        }
        let now = begun.elapsed();
        now_seen.clone_from(&observation(now, &seen));
        let before = Instant::now();
        let command = replanner.command(now, &now_seen);
        took.push(before.elapsed().as_secs_f64() * 1e6);
        fresh += usize::from(command.status == Status::Fresh);
        let action = [0, 1].map(|i| command.position[i].clamp(0.0, pusht::SIZE));
        if step.replace(command.step) != Some(command.step) {
            seen = world.step(action)?;
            if seen.succeeded || world.steps() >= pusht::EPISODE_STEPS {
                world = PushT::reset(number as u64);
                seen = world.observation();
            }
        }
        if number % (ticks / 10).max(1) == 0 {
            memory.push((replanner.health().latency, resident()));
        }
    }
    let health = replanner.health();
    replanner.finish();
    let took = sorted(took);
    println!(
        "{ticks} ticks of {tick:?}: a command takes p50 {:.2}, p99 {:.2}, p99.9 {:.2}, max {:.1} µs; {:.2} % fresh",
        quantile(&took, 0.5),
        quantile(&took, 0.99),
        quantile(&took, 0.999),
        quantile(&took, 1.0),
        100.0 * fresh as f64 / ticks as f64
    );
    println!("{health:?}");
    for (latency, resident) in memory {
        let resident = resident.map_or_else(String::new, |bytes| {
            format!(", resident {:.1} MB", bytes as f64 / 1e6)
        });
        println!("  latency {:.1} ms{resident}", latency.as_secs_f64() * 1e3);
    }
    Ok(())
}
