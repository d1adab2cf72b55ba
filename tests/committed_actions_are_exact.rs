//! What is committed is what the next plan begins with, bit for bit; a refinement with all steps is a plan.

use std::time::Duration;

use burn::tensor::Device;
use clearway_motion::{Interpolation, Trajectory};
use clearway_planner::{
    Budget, History, Method, Observation, Outcome, Plan, PlanError, Planner, PlannerError, Problem,
    Sampling,
};
use clearway_sim::PushT;
use clearway_tests::repository;
use ndarray::{Array2, array};
use proptest::prelude::*;

const PERIOD: Duration = Duration::from_millis(100);

fn planner() -> Planner {
    Planner::load(&repository("models/pusht"), PERIOD, &Device::flex())
        .expect("the shipped policy loads")
}

/// Two observations; the newest, at which the plan begins, at 0.5 s.
fn history(seed: u64) -> History {
    let mut world = PushT::reset(seed);
    let mut observations = Vec::new();
    for step in 4..=5 {
        let seen = world.observation();
        observations.push(
            Observation::new(PERIOD * step)
                .with("observation.state", seen.agent)
                .with("observation.environment_state", seen.key_points),
        );
        world.step([256.0, 256.0]).expect("a finite action");
    }
    History::new(observations).expect("times increase")
}

/// Actions from a step on, 0.1 s apart.
fn actions(first: u32, positions: Array2<f64>) -> Trajectory {
    Trajectory::uniform(PERIOD * first, PERIOD, positions, Interpolation::Hold).expect("finite")
}

fn bits(plan: &Plan) -> Vec<u64> {
    let positions = plan.trajectory.positions();
    positions.iter().map(|value| value.to_bits()).collect()
}

fn plan(planner: &Planner, problem: &Problem<'_>, seed: u64) -> Plan {
    planner
        .plan(problem, Budget::default(), seed)
        .expect("the problem is valid")
}

#[test]
fn every_solver_and_every_truncation_keeps_them() {
    let history = history(3);
    // A third of these has no exact f32, and none is where the policy would go.
    let known = array![[101.1, 402.3], [103.7, 400.9], [107.3, 399.1]];
    let committed = actions(4, known.clone());
    for method in Method::ALL {
        let sampling = Sampling::new(method, 4);
        let planner = planner()
            .with_sampling(sampling)
            .and_then(|planner| planner.with_candidates(3))
            .expect("fits");
        for passes in 1..=planner.stages().len() {
            let budget = Budget {
                passes: Some(passes),
                ..Budget::default()
            };
            let problem = Problem::new(&history).with_committed(&committed);
            let plan = planner.plan(&problem, budget, 7).expect("valid");
            assert_eq!(plan.passes, passes);
            for candidate in &plan.candidates {
                // The first committed action is of the past; the plan begins with the second.
                assert_eq!(candidate.positions().row(0), known.row(1), "{sampling}");
                assert_eq!(candidate.positions().row(1), known.row(2), "{sampling}");
                assert_ne!(candidate.positions().row(2), known.row(2), "{sampling}");
            }
        }
    }
}

#[test]
fn the_rest_follows_from_what_is_committed() {
    let (history, planner) = (history(3), planner());
    let problem = Problem::new(&history);
    let free = plan(&planner, &problem, 7);
    let own = actions(5, free.trajectory.positions().to_owned());
    let elsewhere = actions(5, array![[30.0, 480.0], [20.0, 490.0], [10.0, 500.0]]);
    // A plan that goes on from its own beginning is about the same plan; one that must begin elsewhere is not.
    let first = |n| {
        actions(
            5,
            free.trajectory
                .positions()
                .slice_move(ndarray::s![..n, ..])
                .to_owned(),
        )
    };
    let two = first(2);
    let same = plan(&planner, &problem.with_committed(&two), 7);
    let other = plan(&planner, &problem.with_committed(&elsewhere), 7);
    let distance = |a: &Plan, row: usize| {
        let difference = &a.trajectory.positions().row(row) - &free.trajectory.positions().row(row);
        difference.mapv(f64::abs).sum()
    };
    let (same, other) = (distance(&same, 3), distance(&other, 3));
    assert!(same < 20.0 && other > 4.0 * same, "{same} {other}");
    // With everything committed nothing is left to plan.
    assert_eq!(
        bits(&plan(&planner, &problem.with_committed(&own), 9)),
        bits(&free)
    );
    // What the plan does not reach does not matter, to the bit.
    let past = actions(0, array![[1.0, 1.0], [2.0, 2.0]]);
    assert_eq!(
        bits(&plan(&planner, &problem.with_committed(&past), 7)),
        bits(&free)
    );
}

#[test]
fn one_problem_of_a_batch_does_not_pin_the_others() {
    let (history, planner) = (history(3), planner());
    let committed = actions(5, array![[101.1, 402.3], [103.7, 400.9]]);
    let free = Problem::new(&history);
    let bound = free.with_committed(&committed);
    let both = planner.plan_batch(&[bound, free, bound], Budget::default(), &[7, 7, 8]);
    let both: Vec<Plan> = both.into_iter().map(|plan| plan.expect("valid")).collect();
    let alone = [
        plan(&planner, &bound, 7),
        plan(&planner, &free, 7),
        plan(&planner, &bound, 8),
    ];
    for (together, alone) in both.iter().zip(&alone) {
        for (a, b) in together
            .trajectory
            .positions()
            .iter()
            .zip(alone.trajectory.positions())
        {
            // As in `same_seed_same_plan`: products are summed in another order.
            assert!((a - b).abs() < 3e-4, "{a} {b}");
        }
    }
}

#[test]
fn the_straightest_candidate_goes_on_from_what_is_committed() {
    let history = history(3);
    let planner = planner().with_candidates(8).expect("few");
    let known = array![[256.0, 256.0], [250.0, 250.0]];
    let committed = actions(5, known.clone());
    let plan = plan(
        &planner,
        &Problem::new(&history).with_committed(&committed),
        1,
    );
    let bend = |candidate: &Trajectory| {
        let straight = &known.row(1) * 2.0 - known.row(0);
        let bend = &candidate.positions().row(2) - &straight;
        bend.dot(&bend)
    };
    let bends: Vec<f64> = plan.candidates.iter().map(bend).collect();
    let least = bends.iter().copied().fold(f64::INFINITY, f64::min);
    assert!((bends[plan.chosen] - least).abs() <= 0.0, "{bends:?}");
    assert!(bends.iter().any(|bend| *bend > 1.5 * least), "{bends:?}");
}

#[test]
fn a_refinement_begins_with_the_last_plan() {
    let (history, planner) = (history(3), planner());
    let problem = Problem::new(&history);
    let last = plan(&planner, &problem, 7);
    // One step from little noise leaves the plan about as it is, whatever the seed.
    let one = planner.with_refinement(1).expect("of ten");
    let refined = plan(&one, &problem.with_previous(&last.trajectory), 99);
    assert_eq!(refined.passes, 1);
    assert_eq!(refined.outcome, Outcome::Complete);
    let worst = |a: &Plan, b: &Plan| {
        let difference = &a.trajectory.positions() - &b.trajectory.positions();
        difference
            .iter()
            .fold(0.0_f64, |worst, value| worst.max(value.abs()))
    };
    assert!(worst(&refined, &last) < 40.0, "{}", worst(&refined, &last));
    // Where there is no last plan it plans from noise.
    assert_eq!(bits(&plan(&one, &problem, 7)), bits(&last));
    // All steps are planning from noise but for what is left of the signal, 1e-2 of it at timestep 90.
    let all = one.with_refinement(10).expect("of ten");
    let again = plan(&all, &problem.with_previous(&last.trajectory), 8);
    let fresh = plan(&all, &problem, 8);
    assert_eq!(again.passes, 10);
    assert!(worst(&again, &fresh) < worst(&fresh, &last) / 2.0);
    // Committed actions are exact in a refinement too.
    let known = array![[101.1, 402.3], [103.7, 400.9]];
    let committed = actions(5, known.clone());
    let both = problem
        .with_previous(&last.trajectory)
        .with_committed(&committed);
    assert_eq!(
        plan(&all, &both, 8).trajectory.positions().row(1),
        known.row(1)
    );
}

#[test]
fn what_cannot_be_committed_says_why() {
    let (history, planner) = (history(3), planner());
    let problem = Problem::new(&history);
    let error = |problem: &Problem<'_>| {
        planner
            .plan(problem, Budget::default(), 0)
            .expect_err("the problem is none")
    };
    let three = actions(5, array![[1.0, 2.0, 3.0]]);
    assert!(matches!(
        error(&problem.with_committed(&three)),
        PlanError::CommittedWidth {
            expected: 2,
            found: 3
        }
    ));
    let between = Trajectory::uniform(
        Duration::from_millis(530),
        PERIOD,
        array![[1.0, 2.0]],
        Interpolation::Hold,
    )
    .expect("finite");
    assert_eq!(
        error(&problem.with_committed(&between)).to_string(),
        "the committed action at 530ms is not at a whole number of periods of 100ms from the newest observation at 500ms"
    );
    let refining = planner.with_refinement(2).expect("of ten");
    let empty = Trajectory::empty(2).expect("two coordinates");
    for (previous, actions) in [(&three, 1), (&empty, 0)] {
        let plan = refining.plan(&problem.with_previous(previous), Budget::default(), 0);
        let error = plan.expect_err("no plan to refine");
        assert!(
            matches!(error, PlanError::Previous { expected: 2, actions: n, .. } if n == actions),
            "{error}"
        );
    }
    for steps in [0, 11] {
        let error = self::planner().with_refinement(steps).expect_err("of ten");
        assert!(
            matches!(error, PlannerError::Refinement { limit: 10, .. }),
            "{error}"
        );
    }
    for actions in [0, 16] {
        let error = self::planner()
            .with_actions(actions)
            .expect_err("of fifteen");
        assert!(
            matches!(error, PlannerError::Actions { limit: 15, .. }),
            "{error}"
        );
    }
    assert_eq!(self::planner().with_actions(15).expect("all").actions(), 15);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn any_prefix_is_exact(
        seed in any::<u64>(),
        first in 3_u32..8,
        rows in prop::collection::vec((-50.0..600.0_f64, -50.0..600.0_f64), 1..6),
    ) {
        let history = history(seed % 100);
        let planner = planner()
            .with_actions(15)
            .and_then(|planner| planner.with_sampling(Sampling::new(Method::Ddim, 2)))
            .expect("fits");
        let flat = rows.iter().flat_map(|row| [row.0, row.1]).collect();
        let known = Array2::from_shape_vec((rows.len(), 2), flat).expect("rows of two");
        let committed = actions(first, known);
        let plan = plan(&planner, &Problem::new(&history).with_committed(&committed), seed);
        let mut met = 0;
        for action in plan.trajectory.waypoints() {
            if let Some(known) = committed.waypoints().find(|known| known.time == action.time) {
                prop_assert_eq!(action.position, known.position);
                met += 1;
            }
        }
        prop_assert!(met > 0 || first as usize + rows.len() <= 5);
    }
}
