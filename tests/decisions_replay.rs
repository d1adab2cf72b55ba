//! What a control loop decided is written down so that it comes back to the bit, and can be decided again.

use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_log::McapLog;
use clearway_motion::Limits;
use clearway_planner::replanner::log::{Decision, Event, Log, ReplayError};
use clearway_planner::{
    Arithmetic, Budget, Horizon, Layout, Level, Method, Observation, Outcome, Plan, PlanError,
    Planner, PlannerError, Plans, Precision, Problem, Replanner, Sampling, Settings,
};
use clearway_sim::PushT;
use clearway_tests::repository;

const PERIOD: Duration = Duration::from_millis(100);
const HORIZON: Horizon = Horizon {
    execute: 6,
    latency: 2,
};

fn planner() -> Planner {
    let planner = Planner::load(&repository("models/pusht"), PERIOD, &Device::flex())
        .expect("the shipped policy loads");
    let actions = planner.most_actions();
    planner.with_actions(actions).expect("the policy has them")
}

/// A planner whose budget is counted in passes, so many for one plan after another. The fifth is told of limits that no
/// plan keeps.
struct Counted {
    planner: Planner,
    passes: [Option<usize>; 4],
    asked: Mutex<usize>,
    impossible: Limits,
}

impl Plans for Counted {
    fn layout(&self) -> Layout {
        self.planner.layout()
    }

    fn plan(&self, problem: &Problem<'_>, _: Budget, seed: u64) -> Result<Plan, PlanError> {
        let mut asked = self.asked.lock().expect("no panic");
        *asked += 1;
        let budget = Budget {
            deadline: None,
            passes: self.passes[*asked % self.passes.len()],
        };
        let mut problem = *problem;
        if *asked == 5 {
            problem = problem.with_limits(&self.impossible);
        }
        self.planner.plan(&problem, budget, seed)
    }
}

/// What was noted, as it was and as it is read from the file.
struct Logged {
    noted: Arc<Mutex<Vec<Event>>>,
    log: McapLog,
    file: tempfile::NamedTempFile,
}

impl Logged {
    fn new() -> Self {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        Self {
            noted: Arc::default(),
            log: McapLog::create(file.path()).expect("it can be written"),
            file,
        }
    }

    fn sink(&self) -> impl Log + 'static {
        let (noted, mut log) = (Arc::clone(&self.noted), self.log.clone());
        move |event: &Event| {
            noted.lock().expect("no panic").push(event.clone());
            log.note(event);
        }
    }

    /// All events, which came back as they were; a failure in its words.
    fn finish(self) -> Vec<Event> {
        self.log.finish().expect("everything was written");
        let read = clearway_log::events(self.file.path()).expect("a file");
        let read: Vec<Event> = read.map(|entry| entry.expect("whole").event).collect();
        let noted = self.noted.lock().expect("no panic");
        assert_eq!(read.len(), noted.len());
        for (read, noted) in read.iter().zip(noted.iter()) {
            match (read, noted) {
                (Event::Decision(read), Event::Decision(noted)) if noted.result.is_err() => {
                    let words = |decision: &Decision| {
                        let failure = decision.result.as_ref().expect_err("a failure");
                        failure.to_string()
                    };
                    assert_eq!(words(read), words(noted));
                    let read = Decision {
                        result: noted.result.clone(),
                        ..Decision::clone(read)
                    };
                    assert_eq!(read, **noted);
                }
                // Equal, and to the bit: a Debug of an f64 has all of its digits, and its sign.
                _ => {
                    assert_eq!(read, noted);
                    assert_eq!(format!("{read:?}"), format!("{noted:?}"));
                }
            }
        }
        read
    }
}

/// Makes every decision again with a planner that was only just loaded; returns how many plans there were.
fn replay(events: &[Event]) -> usize {
    // Set up as none of them was.
    let mut planner = planner().with_candidates(2).expect("they fit");
    let mut plans = 0;
    for event in events {
        let Event::Decision(decision) = event else {
            continue;
        };
        let Ok(made) = &decision.result else {
            let error = decision.replay(&planner).expect_err("there was no plan");
            assert!(matches!(error, ReplayError::None { .. }), "{error}");
            continue;
        };
        planner = planner.set_up_as(&made.plan).expect("it was set up so");
        let again = decision.replay(&planner).expect("the same bits");
        plans += 1;
        // All of it is the same, but for the time that it took. One that ran out of its time and one that was told to
        // stop there are both truncated.
        let timed = Plan {
            elapsed: made.plan.elapsed,
            longest_pass: made.plan.longest_pass,
            ..again
        };
        assert_eq!(timed, made.plan, "decision {}", decision.plan);
    }
    plans
}

fn observe(now: Duration, world: &PushT) -> Observation {
    let seen = world.observation();
    Observation::new(now)
        .with("observation.state", seen.agent)
        .with("observation.environment_state", seen.key_points)
}

fn decisions(events: &[Event]) -> impl Iterator<Item = &Decision> {
    events.iter().filter_map(|event| match event {
        Event::Decision(decision) => Some(&**decision),
        _ => None,
    })
}

#[test]
fn a_simulated_loop_is_decided_again() {
    let samplings = [(Method::Ddim, 6), (Method::SdeDpmSolver2M, 4)];
    for (method, steps) in samplings {
        let planner = planner()
            .with_sampling(Sampling::new(method, steps))
            .and_then(|planner| planner.with_candidates(3))
            .and_then(|planner| planner.with_refinement(3))
            .expect("it fits");
        let plans = Counted {
            planner,
            passes: [None, Some(2), None, Some(1)],
            asked: Mutex::default(),
            impossible: Limits::unlimited(2)
                .with_position(&[-2.0; 2], &[-1.0; 2])
                .expect("an interval"),
        };
        let limits = Limits::unlimited(2)
            .with_position(&[-600.0, f64::NEG_INFINITY], &[1200.0; 2])
            .expect("intervals");
        let logged = Logged::new();
        let mut world = PushT::reset(100_007);
        let start = world.observation().agent;
        let settings = Settings::new(HORIZON)
            .with_limits(limits)
            .with_seed(u64::MAX / 3)
            .with_overlap(4)
            .with_log(logged.sink());
        let mut loops =
            Replanner::in_step(plans, settings, &start, |_| PERIOD * 2).expect("the settings fit");
        for step in 0..90 {
            let now = PERIOD * step;
            let command = loops.command(now, &observe(now, &world));
            let action = [0, 1].map(|i| command.position[i].clamp(0.0, 512.0));
            world.step(action).expect("a finite action");
        }
        loops.finish();
        let events = logged.finish();
        let plans = replay(&events);
        // Everything was there that could be lost.
        let all: Vec<&Decision> = decisions(&events).collect();
        let count = |of: &dyn Fn(&Plan) -> bool| {
            let plans = all
                .iter()
                .filter_map(|decision| decision.result.as_ref().ok());
            plans.filter(|made| of(&made.plan)).count()
        };
        assert_eq!(all.len(), plans + 1, "the impossible one");
        assert!(plans >= 10, "{plans}");
        assert!(count(&|plan| plan.outcome == Outcome::Complete) >= 4);
        assert!(count(&|plan| plan.outcome == Outcome::Truncated { passes: 1 }) >= 2);
        assert!(count(&|plan| plan.refined == Some(3)) >= 8);
        assert_eq!(count(&|plan| plan.refined.is_none()), 1, "the first plan");
        assert!(count(&|plan| plan.chosen > 0) >= 1);
        assert!(
            all.iter()
                .skip(1)
                .all(|decision| decision.committed.is_some())
        );
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::Verdict { .. }))
        );
        assert!(
            events
                .iter()
                .any(|event| matches!(event, Event::Status { .. }))
        );
    }
}

#[test]
fn a_loop_in_real_time_is_decided_again() {
    let planner = planner().with_refinement(4).expect("it fits");
    let logged = Logged::new();
    let mut world = PushT::reset(100_011);
    let start = world.observation().agent;
    // The time of some plans runs out, wherever this runs; which and when is in the log.
    let settings = Settings::new(HORIZON)
        .with_overlap(3)
        .with_budget(Duration::from_millis(8))
        .with_log(logged.sink());
    let mut loops = Replanner::spawn(planner, settings, &start).expect("the settings fit");
    let begun = Instant::now();
    for step in 0..60 {
        thread::sleep((PERIOD * step).saturating_sub(begun.elapsed()));
        let now = begun.elapsed();
        let command = loops.command(now, &observe(now, &world));
        let action = [0, 1].map(|i| command.position[i].clamp(0.0, 512.0));
        world.step(action).expect("a finite action");
    }
    loops.finish();
    let events = logged.finish();
    let plans = replay(&events);
    assert!(plans >= 3, "{plans} plans in six seconds");
    assert_eq!(decisions(&events).count(), plans);
}

#[test]
fn a_decision_that_was_tampered_with_comes_out_differently() {
    let logged = Logged::new();
    let world = PushT::reset(100_000);
    let start = world.observation().agent;
    let settings = Settings::new(HORIZON).with_log(logged.sink());
    let mut loops = Replanner::in_step(planner(), settings, &start, |_| PERIOD).expect("they fit");
    for step in 0..8 {
        loops.command(PERIOD * step, &observe(PERIOD * step, &world));
    }
    drop(loops);
    let events = logged.finish();
    let decision = decisions(&events).last().expect("there was one").clone();
    let planner = planner();
    decision.replay(&planner).expect("as it was");
    let other_seed = Decision {
        seed: decision.seed ^ 1,
        ..decision.clone()
    };
    let error = other_seed.replay(&planner).expect_err("other noise");
    assert!(matches!(error, ReplayError::Differs { .. }), "{error}");
    let mut other_model = decision.clone();
    let made = other_model.result.as_mut().expect("a plan");
    made.plan.model = "another".into();
    let error = other_model.replay(&planner).expect_err("other weights");
    assert!(matches!(error, ReplayError::Model { .. }), "{error}");
    // In another arithmetic it would be another plan, and the error says so before it is made.
    let packed = Arithmetic {
        precision: Precision::F32,
        level: Level::detected(),
    };
    let made = decision.result.as_ref().expect("a plan");
    assert_eq!(made.plan.arithmetic, Some(packed));
    for precision in [Some(Precision::Bf16), None] {
        let path = repository("models/pusht");
        let other =
            Planner::load_with(&path, PERIOD, &Device::flex(), precision).expect("it loads");
        let error = decision.replay(&other).expect_err("another arithmetic");
        assert!(matches!(error, ReplayError::Arithmetic { .. }), "{error}");
    }
    let mut less = decision;
    less.result.as_mut().expect("a plan").plan.passes -= 1;
    let error = less.replay(&planner).expect_err("a pass less");
    assert!(matches!(error, ReplayError::Differs { .. }), "{error}");
}

#[test]
fn a_planner_is_not_set_up_as_none_could_be() {
    let logged = Logged::new();
    let world = PushT::reset(100_000);
    let settings = Settings::new(HORIZON).with_log(logged.sink());
    let start = world.observation().agent;
    let mut loops = Replanner::in_step(planner(), settings, &start, |_| PERIOD).expect("they fit");
    loops.command(Duration::ZERO, &observe(Duration::ZERO, &world));
    drop(loops);
    let events = logged.finish();
    let decision = decisions(&events).next().expect("there was one");
    let made = decision.result.as_ref().expect("a plan");
    let refused = |plan: Plan| planner().set_up_as(&plan).expect_err("no planner is so");
    let plan = || made.plan.clone();
    let period = Duration::ZERO;
    assert!(matches!(
        refused(Plan { period, ..plan() }),
        PlannerError::Period
    ));
    let drawn = Plan { drawn: 0, ..plan() };
    assert!(matches!(refused(drawn), PlannerError::Candidates { .. }));
    let refined = Some(11);
    assert!(matches!(
        refused(Plan { refined, ..plan() }),
        PlannerError::Refinement { .. }
    ));
    let sampling = Some(Sampling::new(Method::Ddim, 1000));
    assert!(matches!(
        refused(Plan { sampling, ..plan() }),
        PlannerError::Sampling(_)
    ));
}
