//! A plan is a function of weights, problem, seed and passes: not of threads, and not of the batch it is made in, to the bit
//! where the weights are packed, as they are on the CPU.

use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_motion::Limits;
use clearway_planner::{
    Budget, History, Method, Observation, Outcome, Plan, PlanError, Planner, Precision, Problem,
    Sampling,
};
use clearway_sim::PushT;
use clearway_tests::repository;

/// Where the weights are plain: of an action, in pixels, 1e-6 of a normalized unit, half of the 499 px that actions range over.
const ROUNDING: f64 = 1e-6 * 499.0 / 2.0;
/// The same for a grid that starts at the last timestep, where a noise estimate's error enters the clean estimate
/// sigma/alpha = 2029 times as large.
const FROM_PURE_NOISE: f64 = 10.0 * ROUNDING;

const PERIOD: Duration = Duration::from_millis(100);

fn planner() -> Planner {
    let path = repository("models/pusht");
    Planner::load(&path, PERIOD, &Device::flex()).expect("the shipped policy loads")
}

fn planner_with(precision: Option<Precision>) -> Planner {
    let path = repository("models/pusht");
    Planner::load_with(&path, PERIOD, &Device::flex(), precision).expect("the shipped policy loads")
}

fn history(seed: u64) -> History {
    let mut world = PushT::reset(seed);
    let mut observations = Vec::new();
    for step in 0..2 {
        let seen = world.observation();
        observations.push(
            Observation::new(Duration::from_millis(100 * step))
                .with("observation.state", seen.agent)
                .with("observation.environment_state", seen.key_points),
        );
        world.step([256.0, 256.0]).expect("a finite action");
    }
    History::new(observations).expect("times increase")
}

fn actions(plan: &Plan) -> Vec<f64> {
    plan.trajectory.positions().iter().copied().collect()
}

fn bits(plan: &Plan) -> Vec<u64> {
    actions(plan).into_iter().map(f64::to_bits).collect()
}

fn worst(a: &Plan, b: &Plan) -> f64 {
    actions(a)
        .iter()
        .zip(actions(b))
        .map(|(a, b)| (a - b).abs())
        .fold(0.0, f64::max)
}

fn samplings() -> [Sampling; 3] {
    [
        (Method::Ddim, 10),
        (Method::Ddpm, 25),
        (Method::DpmSolver2M, 5),
    ]
    .map(|(method, steps)| Sampling::new(method, steps))
}

#[test]
fn the_same_bits_on_one_thread_and_two_and_again() {
    let history = history(3);
    for sampling in samplings() {
        let planner = planner().with_sampling(sampling).expect("fits");
        let on = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new()
                .num_threads(threads)
                .build()
                .expect("threads start");
            let plan = || {
                planner
                    .plan(&Problem::new(&history), Budget::default(), 42)
                    .expect("a plan")
            };
            bits(&pool.install(plan))
        };
        let once = on(1);
        assert_eq!(once, on(1), "{sampling} again");
        assert_eq!(once, on(2), "{sampling} on two threads");
        let other = planner
            .plan(&Problem::new(&history), Budget::default(), 43)
            .expect("a plan");
        assert_ne!(once, bits(&other), "{sampling} with another seed");
    }
}

#[test]
fn a_batch_has_the_same_bits_on_one_thread_and_two() {
    let histories: Vec<History> = (0..16).map(history).collect();
    let problems: Vec<Problem<'_>> = histories.iter().map(Problem::new).collect();
    let seeds: Vec<u64> = (0..16).collect();
    let planner = planner();
    let on = |threads: usize| -> Vec<Vec<u64>> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(threads)
            .build()
            .expect("threads start");
        let plans = pool.install(|| planner.plan_batch(&problems, Budget::default(), &seeds));
        plans
            .into_iter()
            .map(|plan| bits(&plan.expect("a plan")))
            .collect()
    };
    assert_eq!(on(1), on(2));
}

#[test]
fn alone_and_in_a_batch() {
    let histories: Vec<History> = (0..7).map(history).collect();
    let problems: Vec<Problem<'_>> = histories.iter().map(Problem::new).collect();
    let seeds: Vec<u64> = (100..107).collect();
    let packed = [
        Precision::F32,
        Precision::Bf16,
        Precision::Int8,
        Precision::INT4,
    ];
    for precision in packed.into_iter().map(Some).chain([None]) {
        for sampling in samplings() {
            let planner = planner_with(precision).with_sampling(sampling);
            let planner = planner.expect("fits");
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .expect("threads start");
                pool.install(|| planner.plan_batch(&problems, Budget::default(), &seeds))
            };
            let batches = on(1).into_iter().zip(on(2));
            for ((problem, &seed), (one, two)) in problems.iter().zip(&seeds).zip(batches) {
                let alone = planner
                    .plan(problem, Budget::default(), seed)
                    .expect("a plan");
                for together in [one, two] {
                    let together = together.expect("a plan");
                    let error = worst(&alone, &together);
                    let bound = match sampling.method {
                        Method::Ddim | Method::Ddpm => ROUNDING,
                        _ => FROM_PURE_NOISE,
                    };
                    match precision {
                        Some(precision) => assert_eq!(
                            bits(&alone),
                            bits(&together),
                            "{precision}, {sampling}, seed {seed}: {error:e} px"
                        ),
                        None => assert!(error <= bound, "{sampling}, seed {seed}: {error:e} px"),
                    }
                }
            }
        }
    }
}

#[test]
fn the_first_candidate_is_the_plan_of_its_seed() {
    let history = history(5);
    let one = planner()
        .plan(&Problem::new(&history), Budget::default(), 9)
        .expect("a plan");
    let several = planner().with_candidates(6).expect("few enough");
    let several = several
        .plan(&Problem::new(&history), Budget::default(), 9)
        .expect("a plan");
    assert_eq!((several.candidates.len(), several.chosen), (6, 0));
    assert_eq!(bits(&one), bits(&several));
    assert_ne!(several.candidates[0], several.candidates[1]);
}

#[test]
fn a_problem_that_is_none_does_not_spoil_the_others() {
    let histories = [history(1), History::default(), history(2)];
    let problems: Vec<Problem<'_>> = histories.iter().map(Problem::new).collect();
    let planner = planner();
    let plans = planner.plan_batch(&problems, Budget::default(), &[1, 2, 3]);
    assert!(matches!(plans[1], Err(PlanError::Observation(_))));
    let alone = planner
        .plan(&problems[2], Budget::default(), 3)
        .expect("a plan");
    assert_eq!(bits(&alone), bits(plans[2].as_ref().expect("a plan")));
}

#[test]
fn what_leaves_the_planner_satisfies_the_limits_it_was_given() {
    let planner = planner().with_candidates(16).expect("few enough");
    let (mut feasible, mut passed_over, mut infeasible) = (0, 0, 0);
    for seed in 0..24 {
        let history = history(seed);
        // Between what every plan satisfies and what none does.
        let limits = Limits::unlimited(2)
            .with_velocity(&[220.0, 220.0])
            .expect("positive");
        match planner.plan(
            &Problem::new(&history).with_limits(&limits),
            Budget::default(),
            seed,
        ) {
            Ok(plan) => {
                assert_eq!(limits.check(&plan.trajectory), Ok(()));
                assert!(
                    plan.candidates[..plan.chosen]
                        .iter()
                        .all(|earlier| limits.check(earlier).is_err())
                );
                feasible += 1;
                passed_over += plan.chosen;
            }
            Err(PlanError::Infeasible {
                candidates,
                violation,
            }) => {
                assert_eq!(candidates, 16);
                assert!(violation.excess() > 0.0);
                infeasible += 1;
            }
            Err(other) => panic!("seed {seed}: {other}"),
        }
    }
    println!("{feasible} feasible, {passed_over} candidates passed over, {infeasible} infeasible");
    assert!(
        feasible > 0 && passed_over > 0 && infeasible > 0,
        "the limits must tell plans apart"
    );
}

#[test]
fn running_out_of_time_is_an_outcome() {
    let planner = planner();
    let history = history(6);
    let late = Budget {
        deadline: Some(Instant::now()),
        ..Budget::default()
    };
    let plan = planner
        .plan(&Problem::new(&history), late, 1)
        .expect("a plan");
    assert_eq!(plan.outcome, Outcome::Truncated { passes: 1 });
    assert_eq!(plan.trajectory.len(), 8);
    // What was done says how to do it again.
    let Outcome::Truncated { passes } = plan.outcome else {
        panic!("it was truncated");
    };
    let again = Budget {
        passes: Some(passes),
        ..Budget::default()
    };
    let replayed = planner
        .plan(&Problem::new(&history), again, 1)
        .expect("a plan");
    assert_eq!(bits(&plan), bits(&replayed));
    let early = Budget {
        deadline: Some(Instant::now() + Duration::from_secs(600)),
        ..Budget::default()
    };
    let plan = planner
        .plan(&Problem::new(&history), early, 1)
        .expect("a plan");
    assert_eq!(plan.outcome, Outcome::Complete);
}

#[test]
fn denoising_ends_in_the_plan() {
    let planner = planner().with_candidates(3).expect("few enough");
    let history = history(8);
    let denoising = planner
        .denoise(&Problem::new(&history), Budget::default(), 4)
        .expect("a plan");
    assert_eq!(denoising.estimates.len(), 10);
    assert_eq!(denoising.estimates[9], denoising.plan.trajectory);
    assert_ne!(denoising.estimates[0], denoising.plan.trajectory);
    let plan = planner
        .plan(&Problem::new(&history), Budget::default(), 4)
        .expect("a plan");
    assert_eq!(bits(&plan), bits(&denoising.plan));
}
