//! A loop of any rate gets its plans, and goes on after whatever befell it: a slow planner, a loop that was away, a clock
//! that was set.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use clearway_motion::{Interpolation, Limits, Trajectory};
use clearway_planner::replanner::log::{Decision, Event, Verdict};
use clearway_planner::{
    Budget, Failure, Horizon, Layout, Observation, Plan, PlanError, Plans, Problem, Reason,
    Replanner, ReplannerError, Settings, Status,
};
use ndarray::Array2;

const STATE: &str = "observation.state";

/// Goes on from what is committed by so much an action.
#[derive(Clone, Copy)]
struct Ramp {
    layout: Layout,
    stride: f64,
    panics: bool,
}

impl Plans for Ramp {
    fn layout(&self) -> Layout {
        self.layout
    }

    fn plan(&self, problem: &Problem<'_>, _: Budget, seed: u64) -> Result<Plan, PlanError> {
        assert!(!self.panics, "as it was told to");
        let start = problem.observations.newest().expect("it looked").time();
        let committed = problem.committed.expect("it is told");
        let mut at = committed
            .waypoints()
            .last()
            .map_or(0.0, |known| known.position[0]);
        let mut rows = Vec::new();
        for row in 0..self.layout.actions {
            let time = start + self.layout.period * row as u32;
            let known = committed.waypoints().find(|known| known.time == time);
            at = known.map_or(at + self.stride, |known| known.position[0]);
            rows.push(at);
        }
        let positions = Array2::from_shape_vec([rows.len(), 1], rows).expect("one column");
        let (period, hold) = (self.layout.period, Interpolation::Hold);
        let trajectory = Trajectory::uniform(start, period, positions, hold)?;
        Ok(Plan::of(trajectory, seed))
    }
}

fn milliseconds(value: f64) -> Duration {
    Duration::from_secs_f64(value / 1e3)
}

fn ramp(period: Duration, actions: usize) -> Ramp {
    Ramp {
        layout: Layout {
            dof: 1,
            actions,
            period,
            observations: 1,
        },
        stride: 0.01,
        panics: false,
    }
}

fn settings(interpolation: Interpolation, execute: usize, latency: usize) -> Settings {
    let limits = Limits::unlimited(1)
        .with_velocity(&[5.0])
        .and_then(|limits| limits.with_acceleration(&[1e3]))
        .and_then(|limits| limits.with_jerk(&[1e5]))
        .expect("valid limits");
    Settings::new(Horizon { execute, latency })
        .with_interpolation(interpolation)
        .with_limits(limits)
}

fn observation(now: Duration) -> Observation {
    Observation::new(now).with(STATE, [0.0])
}

/// The share of commands that are fresh, of so many ticks.
fn fresh(replanner: &mut Replanner, ticks: u32, mut clock: impl FnMut(u32) -> Duration) -> f64 {
    let mut fresh = 0;
    for tick in 0..ticks {
        let now = clock(tick);
        let command = replanner.command(now, &observation(now));
        fresh += u32::from(command.status == Status::Fresh);
    }
    f64::from(fresh) / f64::from(ticks)
}

#[test]
fn a_loop_of_any_rate_gets_its_plans() {
    use Interpolation::{Hold, Quintic};
    // Interpolation, then period, tick and planning time in milliseconds, and the latency that it is told.
    let cases = [
        (Hold, 100.0, 99.0, 150.0, 1),
        (Hold, 100.0, 100.0, 150.0, 1),
        (Hold, 100.0, 101.0, 150.0, 1),
        (Hold, 33.333_333, 33.0, 40.0, 1),
        (Hold, 33.333_333, 33.0, 80.0, 2),
        (Hold, 33.333_333, 16.0, 40.0, 1),
        (Hold, 123.456_789, 61.728_394, 283.95, 1),
        (Hold, 100.0, 70.0, 150.0, 1),
        (Quintic, 100.0, 99.0, 150.0, 1),
        (Quintic, 33.333_333, 33.0, 40.0, 1),
        (Quintic, 100.0, 100.0, 50.0, 1),
        (Quintic, 100.0, 30.0, 0.0, 0),
        (Quintic, 100.0, 101.0, 0.0, 0),
    ];
    for case in cases {
        let (interpolation, period, tick, delay, latency) = case;
        let delay = milliseconds(delay);
        let mut replanner = Replanner::in_step(
            ramp(milliseconds(period), 12),
            settings(interpolation, 4, latency),
            &[0.0],
            move |_| delay,
        )
        .expect("the settings fit");
        let share = fresh(&mut replanner, 2000, |n| milliseconds(tick * f64::from(n)));
        let health = replanner.health();
        assert!(share > 0.97, "{case:?}: {share} fresh, {health:?}");
        assert_eq!(health.diverged + health.refused, 0, "{case:?}: {health:?}");
    }
}

#[test]
fn the_latency_is_forgotten_when_it_is_over() {
    let period = milliseconds(100.0);
    // One plan takes a second, the others 50 ms.
    let delay = |plan| milliseconds(if plan == 20 { 1000.0 } else { 50.0 });
    let hold = settings(Interpolation::Hold, 4, 1);
    let mut replanner =
        Replanner::in_step(ramp(period, 12), hold, &[0.0], delay).expect("the settings fit");
    fresh(&mut replanner, 20 * 4 + 20, |n| period * n);
    assert!(replanner.health().late > 0);
    let asked = replanner.health().asked;
    fresh(&mut replanner, 100, |n| period * (100 + n));
    let again = replanner.health().asked - asked;
    fresh(&mut replanner, 100, |n| period * (200 + n));
    let usual = replanner.health().asked - asked - again;
    // Planned every fourth step again.
    assert!((24..=26).contains(&usual), "{usual} after {again}");
}

#[test]
fn a_loop_that_was_away_says_that_its_plan_is_old() {
    let period = milliseconds(100.0);
    let mut replanner = Replanner::in_step(
        ramp(period, 12),
        settings(Interpolation::Hold, 4, 1),
        &[0.0],
        move |_| period.mul_f64(0.5),
    )
    .expect("the settings fit");
    fresh(&mut replanner, 42, |n| period * n);
    let away = Duration::from_secs(3600);
    let statuses: Vec<Status> = (42..50)
        .map(|n| {
            let now = away + period * n;
            replanner.command(now, &observation(now)).status
        })
        .collect();
    assert_eq!(statuses[0], Status::Stale(Reason::Stalled), "{statuses:?}");
    // It is asked for a new one at once, and told that there is time as before.
    assert_eq!(statuses[7], Status::Fresh, "{statuses:?}");
    assert!(
        statuses[2..].iter().all(|s| *s == Status::Fresh),
        "{statuses:?}"
    );
}

#[test]
fn a_planner_that_takes_longer_than_its_plans_last_moves_a_robot_that_stands() {
    for interpolation in [Interpolation::Hold, Interpolation::Quintic] {
        let period = milliseconds(100.0);
        let slow = move |_| period.mul_f64(10.5);
        let mut replanner =
            Replanner::in_step(ramp(period, 8), settings(interpolation, 4, 1), &[0.0], slow)
                .expect("the settings fit");
        let share = fresh(&mut replanner, 1000, |n| period * n);
        let health = replanner.health();
        let end = replanner.trajectory().positions();
        let end = end[[end.nrows() - 1, 0]];
        // It moves and stands by turns: four actions of some thirty steps are fresh.
        assert!(share > 0.1, "{interpolation}: {share} {health:?}");
        assert!(health.adopted > 40, "{interpolation}: {health:?}");
        assert!(end > 2.0, "{interpolation}: {end}");
    }
}

#[test]
fn a_plan_has_actions_of_its_own() {
    // As many are committed as can be; what is left is executed.
    for interpolation in [Interpolation::Hold, Interpolation::Quintic] {
        let period = milliseconds(100.0);
        let mut replanner = Replanner::in_step(
            ramp(period, 12),
            settings(interpolation, 4, 2),
            &[0.0],
            move |_| period.mul_f64(9.3),
        )
        .expect("the settings fit");
        let share = fresh(&mut replanner, 600, |n| period * n);
        let end = replanner.trajectory().positions();
        let end = end[[end.nrows() - 1, 0]];
        assert!(share > 0.08 && end > 0.5, "{interpolation}: {share} {end}");
    }
    let error = Replanner::in_step(
        ramp(milliseconds(100.0), 6),
        settings(Interpolation::Quintic, 4, 2),
        &[0.0],
        |_| Duration::ZERO,
    )
    .expect_err("a curve is known at the hand-over too");
    assert!(
        matches!(error, ReplannerError::Actions { needed: 7, .. }),
        "{error}"
    );
}

#[test]
fn a_clock_that_was_set_back_hides_no_planner_that_hangs() {
    let period = milliseconds(100.0);
    let hold = settings(Interpolation::Hold, 4, 1).with_patience(period * 20);
    let never = |plan| {
        if plan > 5 {
            Duration::MAX
        } else {
            Duration::from_millis(50)
        }
    };
    let mut replanner =
        Replanner::in_step(ramp(period, 12), hold, &[0.0], never).expect("the settings fit");
    let hour = Duration::from_secs(3600);
    fresh(&mut replanner, 30, |n| hour + period * n);
    let mut hung = None;
    for n in 0..60 {
        let now = period * n;
        if replanner.command(now, &observation(now)).status == Status::Failed(Reason::Hung) {
            hung.get_or_insert(n);
        }
    }
    assert!(hung.is_some_and(|ticks| ticks <= 22), "{hung:?}");
}

#[test]
fn no_time_and_no_layout_makes_a_command_panic() {
    let period = milliseconds(100.0);
    for delay in [Duration::ZERO, period, Duration::MAX] {
        let mut replanner = Replanner::in_step(
            ramp(period, 12),
            settings(Interpolation::Quintic, 4, 2),
            &[0.5],
            move |_| delay,
        )
        .expect("the settings fit");
        let odd = [0, 0, 1, u64::MAX / 2, 3, u64::MAX, u64::MAX, 0, 17];
        for now in odd.map(Duration::from_nanos).into_iter().chain([
            Duration::MAX,
            Duration::ZERO,
            Duration::MAX,
            Duration::MAX - period,
        ]) {
            let command = replanner.command(now, &observation(Duration::MAX));
            assert!(command.position[0].is_finite());
            let command = replanner.command(now, &observation(now));
            assert!(command.position[0].is_finite());
        }
    }
    let layout = ramp(period, 12).layout;
    for wrong in [
        Layout {
            period: Duration::ZERO,
            ..layout
        },
        Layout {
            period: Duration::MAX,
            ..layout
        },
        Layout {
            observations: 0,
            ..layout
        },
        Layout {
            actions: 0,
            ..layout
        },
        Layout { dof: 0, ..layout },
        Layout {
            actions: usize::MAX,
            ..layout
        },
        Layout {
            observations: usize::MAX / 2,
            ..layout
        },
    ] {
        let plans = Ramp {
            layout: wrong,
            ..ramp(period, 12)
        };
        let hold = settings(Interpolation::Hold, 4, 2);
        let error = Replanner::in_step(plans, hold, &[0.0], |_| Duration::ZERO);
        assert!(
            matches!(error, Err(ReplannerError::Layout { .. })),
            "{wrong:?}"
        );
    }
}

/// What a log heard.
#[derive(Debug, Default)]
struct Heard {
    decisions: Vec<Decision>,
    verdicts: Vec<(u64, Verdict)>,
}

#[test]
fn every_decision_is_logged() {
    let silent = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let told = panic
            .payload_as_str()
            .is_some_and(|text| text.contains("as it was told to"));
        if !told {
            silent(panic);
        }
    }));
    let period = milliseconds(100.0);
    for panics in [true, false] {
        let heard: Arc<Mutex<Heard>> = Arc::default();
        let hears = Arc::clone(&heard);
        let mut events = 0;
        let logged = settings(Interpolation::Hold, 4, 1)
            .with_restarts(u64::MAX)
            .with_log(move |event: &Event| {
                events += 1;
                let mut heard = hears
                    .lock()
                    .unwrap_or_else(std::sync::PoisonError::into_inner);
                match event {
                    Event::Decision(decision) => heard.decisions.push((**decision).clone()),
                    Event::Verdict { plan, verdict } => heard.verdicts.push((*plan, *verdict)),
                    _ => {}
                }
                drop(heard);
                assert!(events % 5 != 4, "as it was told to");
            });
        let plans = Ramp {
            panics,
            ..ramp(period, 12)
        };
        let mut replanner = Replanner::in_step(plans, logged, &[0.0], move |_| period.mul_f64(0.5))
            .expect("the settings fit");
        fresh(&mut replanner, 100, |n| period * n);
        let health = replanner.health();
        replanner.finish();
        let heard = heard
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        // A log that panics is the log's trouble: plans and verdicts go on.
        assert_eq!(heard.decisions.len() as u64, health.asked, "{health:?}");
        assert_eq!(heard.verdicts.len() as u64, health.asked, "{health:?}");
        for decision in &heard.decisions {
            assert_eq!(decision.latency, 1);
            let panicked = matches!(decision.result, Err(Failure::Panicked { .. }));
            assert_eq!(panicked, panics, "{:?}", decision.result);
        }
        assert_eq!(health.adopted > 20, !panics, "{health:?}");
    }
}
