//! After warm-up a command neither allocates nor frees, whatever the planner brings; and nothing grows in a million
//! ticks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use clearway_motion::{Interpolation, Trajectory};
use clearway_planner::{
    Budget, Horizon, Image, Layout, Observation, Plan, PlanError, Plans, Problem, Replanner,
    Settings, Status,
};
use ndarray::Array2;

const PERIOD: Duration = Duration::from_millis(10);
const HORIZON: Horizon = Horizon {
    execute: 4,
    latency: 2,
};

/// Goes on a little from what is committed; every seventh time it has no plan, every eleventh one of a wrong size.
struct Walk {
    asked: Arc<AtomicU64>,
}

impl Plans for Walk {
    fn layout(&self) -> Layout {
        Layout {
            dof: 7,
            actions: 16,
            period: PERIOD,
            observations: 2,
        }
    }

    fn plan(&self, problem: &Problem<'_>, _: Budget, seed: u64) -> Result<Plan, PlanError> {
        let number = self.asked.fetch_add(1, Ordering::Relaxed);
        if number % 7 == 6 {
            return Err(PlanError::NoiseLength {
                expected: 1,
                found: 0,
            });
        }
        let rows = if number % 11 == 10 { 3 } else { 16 };
        let last = problem.committed.and_then(|known| known.waypoints().last());
        let at = last.map_or(0.0, |known| known.position[0]);
        let start = problem
            .observations
            .newest()
            .map_or(PERIOD, Observation::time);
        let positions = Array2::from_shape_fn([rows, 7], |(row, _)| (at + 1e-3 * row as f64).sin());
        let trajectory = Trajectory::uniform(start, PERIOD, positions, Interpolation::Hold)?;
        Ok(Plan::of(trajectory, seed))
    }
}

fn observation(now: Duration) -> Observation {
    Observation::new(now)
        .with("observation.state", [now.as_secs_f64(); 7])
        .with("observation.environment_state", [0.5; 32])
        .with_image("observation.images.top", picture())
}

/// What a camera brings anew with every tick.
fn picture() -> Image {
    Image::from_rgb8(24, 32, vec![127; 24 * 32 * 3]).expect("three bytes a pixel")
}

/// Observations of some ticks, made before, so that only the command is counted.
fn observations(from: u32, ticks: u32, tick: Duration) -> Vec<(Duration, Observation)> {
    (from..from + ticks)
        .map(|number| (tick * number, observation(tick * number)))
        .collect()
}

fn nothing(counted: AllocationInfo) -> bool {
    counted.count_total == 0 && counted.count_current == 0 && counted.bytes_current == 0
}

#[test]
fn a_hundred_thousand_ticks_beside_a_thread_that_plans() {
    let asked = Arc::default();
    let plans = Walk {
        asked: Arc::clone(&asked),
    };
    let mut replanner =
        Replanner::spawn(plans, Settings::new(HORIZON), &[0.0; 7]).expect("the settings fit");
    let tick = Duration::from_millis(1);
    let mut fresh = 0;
    let mut run = |from: u32, ticks: u32, fresh: &mut u32| {
        let seen = observations(from, ticks, tick);
        measure(|| {
            for (now, seen) in &seen {
                let command = replanner.command(*now, seen);
                *fresh += u32::from(command.status == Status::Fresh);
                // The thread gets time to plan, or nothing would ever come back.
                if now.subsec_millis().is_multiple_of(10) {
                    std::thread::yield_now();
                }
            }
        })
    };
    run(0, 1_000, &mut fresh);
    fresh = 0;
    for block in 0..100 {
        let counted = run(1_000 + block * 1_000, 1_000, &mut fresh);
        assert!(nothing(counted), "block {block}: {counted:?}");
    }
    // It did replan: the loop runs a thousand times as fast as its clock, so that some plans come late.
    assert!(asked.load(Ordering::Relaxed) > 100, "{asked:?}");
    assert!(fresh > 1_000, "{fresh}");
}

#[test]
fn a_million_ticks_leave_memory_and_latency_as_they_were() {
    let plans = Walk {
        asked: Arc::default(),
    };
    // Plans take from 4 to 14 ms, the same ones again and again.
    let delay = |number: u64| Duration::from_millis(4 + number % 11);
    let mut replanner = Replanner::in_step(plans, Settings::new(HORIZON), &[0.0; 7], delay)
        .expect("the settings fit");
    let tick = Duration::from_millis(1);
    let mut seen = observation(Duration::ZERO);
    let mut run = |from: u32, ticks: u32| {
        measure(|| {
            for number in from..from + ticks {
                let now = tick * number;
                seen.clone_from(&observation(now));
                replanner.command(now, &seen);
            }
        })
    };
    run(0, 100_000);
    let mut held = 0;
    for block in 1..10 {
        held += run(block * 100_000, 100_000).bytes_current;
    }
    let health = replanner.health();
    // A plan or two are longer than others; a leak of one number a plan would be a hundred times that.
    assert!(
        held.unsigned_abs() < 64 * 1024,
        "{held} bytes more are held"
    );
    assert!(health.asked > 10_000, "{health:?}");
    assert_eq!(
        health.stalled + health.diverged + health.refused,
        0,
        "{health:?}"
    );
    // The longest plans take 14 ms; the command a millisecond before had to do without.
    assert_eq!(health.latency.as_millis(), 13, "{health:?}");
}
