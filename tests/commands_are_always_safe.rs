//! Whatever happens to the planner, the observations or the clock: every command is finite and within the limits, and
//! one that is not fresh says so.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clearway_motion::{Interpolation, Limits, Trajectory};
use clearway_planner::replanner::log::{Event, Verdict};
use clearway_planner::{
    Budget, Failure, History, Horizon, Layout, Observation, Plan, PlanError, Plans, Problem,
    Reason, Replanner, ReplannerError, Settings, Status,
};
use ndarray::Array2;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

const PERIOD: Duration = Duration::from_millis(100);
const ACTIONS: usize = 12;
const HORIZON: Horizon = Horizon {
    execute: 4,
    latency: 2,
};
/// Half the side of the square that commands must stay in.
const SIDE: f64 = 1.0;
/// The greatest speed, per second.
const SPEED: f64 = 1.0;
const STATE: &str = "observation.state";

fn limits() -> Limits {
    Limits::unlimited(2)
        .with_position(&[-SIDE; 2], &[SIDE; 2])
        .and_then(|limits| limits.with_velocity(&[SPEED; 2]))
        .expect("valid limits")
}

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fault {
    Nothing,
    // Of the planner.
    Late,
    Hangs,
    Panics,
    HasNoPlan,
    LeavesTheSquare,
    IsTooFast,
    ForgetsWhatIsCommitted,
    HasTooFewActions,
    HasTooManyCoordinates,
    IsEmpty,
    // Of what is seen.
    SeesNan,
    SeesNothing,
    SeesThePast,
    SeesTheFuture,
    // Of the loop and its clock.
    ClockGoesBack,
    LoopStalls,
    LoopJitters,
}

const FAULTS: [Fault; 17] = [
    Fault::Late,
    Fault::Hangs,
    Fault::Panics,
    Fault::HasNoPlan,
    Fault::LeavesTheSquare,
    Fault::IsTooFast,
    Fault::ForgetsWhatIsCommitted,
    Fault::HasTooFewActions,
    Fault::HasTooManyCoordinates,
    Fault::IsEmpty,
    Fault::SeesNan,
    Fault::SeesNothing,
    Fault::SeesThePast,
    Fault::SeesTheFuture,
    Fault::ClockGoesBack,
    Fault::LoopStalls,
    Fault::LoopJitters,
];

/// Walks from where it is told to a random place, at most at three quarters of the greatest speed.
struct Walk {
    fault: Arc<Mutex<Fault>>,
}

impl Walk {
    fn fault(&self) -> Fault {
        *self.fault.lock().expect("no panic while it is set")
    }
}

impl Plans for Walk {
    fn layout(&self) -> Layout {
        Layout {
            dof: 2,
            actions: ACTIONS,
            period: PERIOD,
            observations: 2,
        }
    }

    fn plan(&self, problem: &Problem<'_>, _: Budget, seed: u64) -> Result<Plan, PlanError> {
        let fault = self.fault();
        assert_ne!(fault, Fault::Panics, "as it was told to");
        let newest = problem
            .observations
            .newest()
            .expect("the loop has seen something");
        let seen = newest.get(STATE).ok_or_else(|| {
            PlanError::Observation(clearway_planner::ObservationError::Missing {
                feature: STATE.into(),
            })
        })?;
        if let Some(index) = seen.iter().position(|value| !value.is_finite()) {
            return Err(PlanError::NoiseValue {
                index,
                value: f32::NAN,
            });
        }
        if fault == Fault::HasNoPlan {
            return Err(PlanError::NoiseLength {
                expected: 1,
                found: 0,
            });
        }
        let (actions, dof) = match fault {
            Fault::HasTooFewActions => (ACTIONS - 1, 2),
            Fault::HasTooManyCoordinates => (ACTIONS, 3),
            Fault::IsEmpty => (0, 2),
            _ => (ACTIONS, 2),
        };
        let mut random = SmallRng::seed_from_u64(seed);
        let goal = [0, 1].map(|_| random.random_range(-0.9..0.9) * SIDE);
        let stride = match fault {
            Fault::IsTooFast => 3.0 * SPEED,
            Fault::LeavesTheSquare => 0.9 * SPEED,
            _ => 0.75 * SPEED,
        } * PERIOD.as_secs_f64();
        let committed = problem.committed.expect("it is told");
        let mut at = [seen[0], seen[1]];
        let mut rows = Vec::new();
        for row in 0..actions {
            let time = newest.time() + PERIOD * row as u32;
            let known = committed.waypoints().find(|known| known.time == time);
            match known {
                Some(known) if fault != Fault::ForgetsWhatIsCommitted => {
                    at = [known.position[0], known.position[1]];
                }
                _ => {
                    for i in 0..2 {
                        let goal = match fault {
                            Fault::LeavesTheSquare => 5.0 * SIDE,
                            Fault::ForgetsWhatIsCommitted => -at[i].signum() * 0.9 * SIDE,
                            _ => goal[i],
                        };
                        let way = goal - at[i];
                        at[i] += match fault {
                            Fault::ForgetsWhatIsCommitted => way,
                            _ => way.clamp(-stride, stride),
                        };
                    }
                }
            }
            rows.extend_from_slice(&[at[0], at[1], 0.0][..dof]);
        }
        let positions = Array2::from_shape_vec([actions, dof], rows).expect("whole rows");
        let trajectory =
            Trajectory::uniform(newest.time(), PERIOD, positions, Interpolation::Hold)?;
        Ok(Plan::of(trajectory, seed))
    }
}

fn observation(time: Duration, at: &[f64]) -> Observation {
    Observation::new(time).with(STATE, at)
}

/// For each plan the step at which the next one should take over.
type Seams = Arc<Mutex<BTreeMap<u64, u64>>>;

fn settings(seams: &Seams) -> Settings {
    let seams = Arc::clone(seams);
    Settings::new(HORIZON)
        .with_limits(limits())
        .with_restarts(u64::MAX)
        .with_log(move |event: &Event| {
            if let Event::Decision(decision) = event
                && let Ok(made) = &decision.result
            {
                seams
                    .lock()
                    .expect("no panic")
                    .insert(decision.plan, made.until);
            }
        })
}

/// What an episode saw.
#[derive(Debug, Default)]
struct Tally {
    fresh: u64,
    stale: u64,
    holding: u64,
    failed: u64,
}

/// One episode: 2 s as it should be, a fault for up to 3 s, and 2.5 s as it should be again.
fn episode(number: u64, fault: Fault) -> Tally {
    let mut random = SmallRng::seed_from_u64(number);
    let now_wrong = Arc::new(Mutex::new(Fault::Nothing));
    let seams = Seams::default();
    let delays = Arc::clone(&now_wrong);
    let mut slow = SmallRng::seed_from_u64(number + 1);
    let delay = move |_| match *delays.lock().expect("no panic") {
        Fault::Late => PERIOD.mul_f64(slow.random_range(1.0..20.0)),
        Fault::Hangs => Duration::MAX,
        _ => PERIOD.mul_f64(slow.random_range(0.1..1.8)),
    };
    let plans = Walk {
        fault: Arc::clone(&now_wrong),
    };
    let start = [0, 1].map(|_| random.random_range(-0.8..0.8) * SIDE);
    let mut replanner =
        Replanner::in_step(plans, settings(&seams), &start, delay).expect("the settings fit");

    let ticks_a_period = *[1_u32, 3, 10].get(number as usize % 3).expect("three");
    let tick = PERIOD / ticks_a_period;
    let ticks = 75 * ticks_a_period;
    let begins = ticks_a_period * random.random_range(10..20);
    let lasts = ticks_a_period * random.random_range(1..30);
    let mut now = Duration::from_secs(random.random_range(0..1000));
    let mut frozen = None;
    let mut executed: Vec<(u64, [f64; 2])> = Vec::new();
    let mut tally = Tally::default();
    let mut last_status = Status::Holding(Reason::Starting);
    for number_of_tick in 0..ticks {
        let wrong = (begins..begins + lasts).contains(&number_of_tick);
        let kind = fault;
        let fault = if wrong { fault } else { Fault::Nothing };
        *now_wrong.lock().expect("no panic") = fault;
        if number_of_tick == begins + lasts && replanner.health().latency > PERIOD * 20 {
            panic!("the latency is {:?}", replanner.health().latency);
        }
        now = match fault {
            Fault::ClockGoesBack if number_of_tick == begins => now.saturating_sub(PERIOD * 7),
            Fault::LoopStalls if random.random_bool(0.3) => now + tick * random.random_range(1..20),
            Fault::LoopJitters => now + tick.mul_f64(random.random_range(0.9..1.1)),
            _ => now + tick,
        };
        let at = executed.last().map_or(start, |(_, at)| *at);
        let seen = match fault {
            Fault::SeesNan => observation(now, &[at[0], f64::NAN]),
            Fault::SeesNothing => Observation::new(now),
            Fault::SeesThePast => {
                let frozen = *frozen.get_or_insert(now);
                observation(frozen, &at)
            }
            Fault::SeesTheFuture => observation(now + PERIOD * 50, &at),
            _ => observation(now, &at),
        };
        let age = now.checked_sub(seen.time());
        let command = replanner.command(now, &seen);

        // Finite, and within the limits.
        let at = [command.position[0], command.position[1]];
        let context = || format!("episode {number}, {fault:?}, tick {number_of_tick}: {command:?}");
        assert!(
            at.iter().all(|q| q.is_finite() && q.abs() <= SIDE),
            "{}",
            context()
        );
        let (step, status, plan) = (command.step, command.status, command.plan);
        match executed.last() {
            Some(&(last, then)) if last == step => assert_eq!(at, then, "{}", context()),
            Some(&(last, then)) => {
                // No action is skipped, and none faster than the limit, whatever plan it is of.
                assert_eq!(step, last + 1, "{}", context());
                let speed = |i: usize| (at[i] - then[i]).abs() / PERIOD.as_secs_f64();
                assert!(
                    speed(0) <= SPEED + 1e-9 && speed(1) <= SPEED + 1e-9,
                    "{}",
                    context()
                );
                executed.push((step, at));
            }
            None => executed.push((step, at)),
        }
        // What is stale is not called fresh: the plan's share of the steps is over, or the loop is blind.
        let seam = seams.lock().expect("no panic").get(&plan).copied();
        let over = seam.is_none_or(|until| step >= until);
        let blind = age.is_none_or(|age| age > PERIOD * 2);
        let failed = matches!(status, Status::Failed(_));
        let stalled = status == Status::Stale(Reason::Stalled);
        let fresh = !over && !blind && !failed && !stalled;
        assert_eq!(status == Status::Fresh, fresh, "{}", context());
        // Only a loop that was away, or missed steps, goes on with what is old though its share is not over.
        let missed = matches!(kind, Fault::LoopStalls | Fault::LoopJitters);
        assert!(!stalled || missed, "{}", context());
        match status {
            Status::Fresh => tally.fresh += 1,
            Status::Stale(_) => tally.stale += 1,
            Status::Holding(_) => tally.holding += 1,
            Status::Failed(_) => tally.failed += 1,
        }
        last_status = status;
    }
    // It comes back by itself from all but a planner that never answers.
    if fault != Fault::Hangs {
        assert_eq!(last_status, Status::Fresh, "episode {number}, {fault:?}");
    }
    tally
}

#[test]
fn ten_thousand_faulty_episodes() {
    let mut tallies: BTreeMap<Fault, Tally> = BTreeMap::new();
    let silent = std::panic::take_hook();
    // The planner's panics are part of the test; its own are shown by the harness nevertheless.
    std::panic::set_hook(Box::new(move |panic| {
        let told = panic
            .payload_as_str()
            .is_some_and(|text| text.contains("as it was told to"));
        if !told {
            silent(panic);
        }
    }));
    for number in 0..10_200 {
        let fault = FAULTS[number as usize % FAULTS.len()];
        let tally = episode(number, fault);
        let all = tallies.entry(fault).or_default();
        all.fresh += tally.fresh;
        all.stale += tally.stale;
        all.holding += tally.holding;
        all.failed += tally.failed;
    }
    // A fault that nobody sees was not injected: those of the planner and of what is seen cost freshness.
    for (fault, tally) in &tallies {
        let worse = tally.stale + tally.holding + tally.failed;
        let harmless = matches!(fault, Fault::ClockGoesBack | Fault::LoopJitters);
        let share = worse as f64 / (worse + tally.fresh) as f64;
        assert!(harmless || share > 0.03, "{fault:?} {tally:?}");
        assert!(!harmless || share < 0.1, "{fault:?} {tally:?}");
    }
}

/// Longer than a machine with other things to do takes for a plan.
const PATIENT: Duration = Duration::from_secs(3600);

/// In its own thread, with a planner that waits to be let on.
struct Gate {
    walk: Walk,
    hold: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
}

impl Plans for Gate {
    fn layout(&self) -> Layout {
        self.walk.layout()
    }

    fn plan(&self, problem: &Problem<'_>, budget: Budget, seed: u64) -> Result<Plan, PlanError> {
        self.begun.fetch_add(1, Ordering::SeqCst);
        while self.hold.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.walk.plan(problem, budget, seed)
    }
}

struct Threaded {
    replanner: Replanner,
    fault: Arc<Mutex<Fault>>,
    hold: Arc<AtomicBool>,
    begun: Arc<AtomicU64>,
    verdicts: Arc<Mutex<Vec<Verdict>>>,
    now: Duration,
}

impl Threaded {
    fn new(restarts: u64, patience: Duration) -> Self {
        let (hold, begun) = (Arc::new(AtomicBool::new(false)), Arc::default());
        let fault = Arc::new(Mutex::new(Fault::Nothing));
        let gate = Gate {
            walk: Walk {
                fault: Arc::clone(&fault),
            },
            hold: Arc::clone(&hold),
            begun: Arc::clone(&begun),
        };
        let verdicts: Arc<Mutex<Vec<Verdict>>> = Arc::default();
        let noted = Arc::clone(&verdicts);
        let settings = Settings::new(HORIZON)
            .with_limits(limits())
            .with_patience(patience)
            .with_restarts(restarts)
            .with_log(move |event: &Event| {
                if let Event::Verdict { verdict, .. } = event {
                    noted.lock().expect("no panic").push(*verdict);
                }
            });
        let replanner = Replanner::spawn(gate, settings, &[0.1, 0.2]).expect("the settings fit");
        Self {
            replanner,
            fault,
            hold,
            begun,
            verdicts,
            now: Duration::ZERO,
        }
    }

    /// A tick of a period; the planner gets a while of the machine's time.
    fn tick(&mut self) -> (Status, [f64; 2]) {
        self.now += PERIOD;
        std::thread::sleep(Duration::from_millis(3));
        let command = self
            .replanner
            .command(self.now, &observation(self.now, &[0.1, 0.2]));
        (command.status, [command.position[0], command.position[1]])
    }

    /// Ticks until the status is as it should be, or some seconds are over.
    fn until(&mut self, wanted: impl Fn(Status) -> bool) -> Status {
        let mut last = self.tick();
        for _ in 0..3000 {
            if wanted(last.0) {
                break;
            }
            let next = self.tick();
            for i in 0..2 {
                assert!((next.1[i] - last.1[i]).abs() <= SPEED * PERIOD.as_secs_f64() + 1e-9);
            }
            last = next;
        }
        last.0
    }
}

#[test]
fn a_thread_that_hangs_is_noticed_and_replaced() {
    let mut loops = Threaded::new(0, PERIOD * 30);
    assert_eq!(loops.until(|status| status == Status::Fresh), Status::Fresh);
    loops.hold.store(true, Ordering::SeqCst);
    let status = loops.until(|status| status == Status::Failed(Reason::Hung));
    assert_eq!(status, Status::Failed(Reason::Hung));
    // It goes on as failed until it holds, at rest.
    let positions: Vec<[f64; 2]> = (0..20).map(|_| loops.tick().1).collect();
    assert_eq!(positions[18], positions[19]);
    let begun = loops.begun.load(Ordering::SeqCst);
    loops.replanner.restart().expect("a thread");
    loops.hold.store(false, Ordering::SeqCst);
    assert_eq!(loops.until(|status| status == Status::Fresh), Status::Fresh);
    assert!(loops.begun.load(Ordering::SeqCst) > begun);
}

#[test]
fn a_planner_that_comes_back_is_used_again() {
    let mut loops = Threaded::new(0, PERIOD * 30);
    loops.until(|status| status == Status::Fresh);
    loops.hold.store(true, Ordering::SeqCst);
    loops.until(|status| status == Status::Failed(Reason::Hung));
    loops.hold.store(false, Ordering::SeqCst);
    assert_eq!(loops.until(|status| status == Status::Fresh), Status::Fresh);
    // What it brought in the end was late by count, and was dropped.
    assert!(loops.replanner.health().late > 0);
    let verdicts = loops.verdicts.lock().expect("no panic");
    assert!(
        verdicts
            .iter()
            .any(|verdict| matches!(verdict, Verdict::Late { .. }))
    );
}

#[test]
fn a_panic_is_a_failure_until_a_restart_or_not_at_all() {
    // Not asked again.
    let mut loops = Threaded::new(0, PATIENT);
    loops.until(|status| status == Status::Fresh);
    *loops.fault.lock().expect("no panic") = Fault::Panics;
    let panicked = |status| status == Status::Failed(Reason::Panicked);
    assert_eq!(loops.until(panicked), Status::Failed(Reason::Panicked));
    let failure = loops.replanner.failure().expect("it says why").clone();
    assert!(
        matches!(&failure, Failure::Panicked { message, last: true } if message.contains("as it was told to")),
        "{failure}"
    );
    // The thread has ended; that it panicked says more than that it is gone.
    assert_eq!(loops.tick().0, Status::Failed(Reason::Panicked));
    *loops.fault.lock().expect("no panic") = Fault::Nothing;
    let begun = loops.begun.load(Ordering::SeqCst);
    for _ in 0..20 {
        loops.tick();
    }
    assert_eq!(
        loops.begun.load(Ordering::SeqCst),
        begun,
        "it was asked again"
    );
    loops.replanner.restart().expect("a thread");
    assert_eq!(loops.until(|status| status == Status::Fresh), Status::Fresh);

    // Asked again, twice.
    let mut loops = Threaded::new(2, PATIENT);
    loops.until(|status| status == Status::Fresh);
    *loops.fault.lock().expect("no panic") = Fault::Panics;
    let begun = loops.begun.load(Ordering::SeqCst);
    assert_eq!(loops.until(panicked), Status::Failed(Reason::Panicked));
    assert_eq!(loops.begun.load(Ordering::SeqCst), begun + 3);
}

#[test]
fn a_thread_that_is_gone_is_noticed() {
    struct Dies;
    impl Plans for Dies {
        fn layout(&self) -> Layout {
            Walk {
                fault: Arc::new(Mutex::new(Fault::Nothing)),
            }
            .layout()
        }
        fn plan(&self, _: &Problem<'_>, _: Budget, _: u64) -> Result<Plan, PlanError> {
            unreachable!("its thread does not live so long")
        }
    }
    let settings = Settings::new(HORIZON)
        .with_patience(PATIENT)
        .on_start(|| panic!("as it was told to"));
    let mut replanner = Replanner::spawn(Dies, settings, &[0.1, 0.2]).expect("the settings fit");
    let mut status = Status::Fresh;
    for tick in 0..3000_u32 {
        std::thread::sleep(Duration::from_millis(1));
        let now = PERIOD * tick;
        let command = replanner.command(now, &observation(now, &[0.1, 0.2]));
        assert_eq!(command.position, [0.1, 0.2]);
        status = command.status;
        if matches!(status, Status::Failed(_)) {
            break;
        }
    }
    assert_eq!(status, Status::Failed(Reason::Gone));
}

#[test]
fn what_does_not_fit_is_refused_at_the_start() {
    let walk = || Walk {
        fault: Arc::new(Mutex::new(Fault::Nothing)),
    };
    let error = |settings: Settings, start: &[f64]| {
        Replanner::spawn(walk(), settings, start)
            .expect_err("it does not fit")
            .to_string()
    };
    let horizon = |execute, latency| Settings::new(Horizon { execute, latency });
    assert_eq!(
        error(horizon(0, 1), &[0.0; 2]),
        "at least one action of a plan must be executed"
    );
    assert_eq!(
        error(horizon(4, 0), &[0.0; 2]),
        "a planner in its own thread needs a latency of at least one action"
    );
    assert_eq!(
        error(horizon(11, 2), &[0.0; 2]),
        "executing 11 actions after a latency of 2 needs plans of 13 actions; these have 12 (see `Planner::with_actions`)"
    );
    assert_eq!(
        error(horizon(4, 2), &[0.0; 3]),
        "the start has 3 coordinates, an action has 2"
    );
    let outside = error(horizon(4, 2).with_limits(limits()), &[0.0, 2.0]);
    assert!(
        outside.starts_with("the start cannot be held: position of coordinate 1 is 2"),
        "{outside}"
    );
    let nan = Replanner::spawn(walk(), horizon(4, 2), &[f64::NAN, 0.0]);
    assert!(matches!(nan, Err(ReplannerError::NoPosition(_))));
    let other = horizon(4, 2).with_limits(Limits::unlimited(3));
    assert_eq!(
        error(other, &[0.0; 2]),
        "the safety check is for 3 coordinates, an action has 2"
    );
    // A history that is not one is nothing that a loop can make.
    assert!(History::default().newest().is_none());
}
