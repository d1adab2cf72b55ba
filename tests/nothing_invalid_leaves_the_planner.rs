//! Nothing invalid leaves the path planner: a motion that another library finds free and differences find within limits, or
//! an error that says what is wrong.
//!
//! The network has random weights. What the planner promises does not depend on what was learned, and a network that knows
//! nothing asks for all that comes after it: guidance, projection, choice, fallback.
//! `CLEARWAY_PROBLEMS` says how many random problems three planners are asked each; 1,000 by default. A hundred thousand take
//! ten minutes of one core:
//!
//! ```text
//! CLEARWAY_PROBLEMS=100000 cargo test --release --workspace --locked --test nothing_invalid_leaves_the_planner -- --nocapture
//! ```

use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_diffusion::train::initialize;
use clearway_motion::{
    Blocked, Bound, FreeSpace, Limits, Obstacle, RrtConnect, Scene, Translating,
};
use clearway_planner::paths::{
    NetworkConfig, PathConfig, PathCoordinate, PathOutcome, PathPlanError, PathPlanner, PathPrior,
    PathProblem, PathSettings, PriorConfig, SamplingConfig, SceneCode,
};
use clearway_planner::{Budget, LoadError, Method, Sampling};
use clearway_tests::plane::{Plane, ends};
use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};

fn problems() -> u64 {
    let given = std::env::var("CLEARWAY_PROBLEMS").ok();
    given.map_or(1000, |it| it.parse().expect("a number of problems"))
}

fn limits() -> Limits {
    Limits::unlimited(2)
        .with_position(&[-1.0; 2], &[1.0; 2])
        .and_then(|it| it.with_velocity(&[1.0; 2]))
        .and_then(|it| it.with_acceleration(&[2.0; 2]))
        .and_then(|it| it.with_jerk(&[20.0; 2]))
        .expect("positive and ordered")
}

/// A network of some thousands of parameters, which sees the scene.
fn config() -> PathConfig {
    let coordinate = |name: &str| PathCoordinate {
        name: name.into(),
        unit: "m".into(),
        lower: -1.0,
        upper: 1.0,
    };
    let prior = PriorConfig {
        horizon: 16,
        scene: Some(SceneCode {
            origin: [-0.75, -0.75, 0.0],
            spacing: 0.5,
            size: [4, 4, 1],
            reach: 0.5,
        }),
        network: NetworkConfig::ConditionalUnet1d {
            down_dims: vec![8, 16],
            kernel_size: 3,
            n_groups: 4,
            diffusion_step_embed_dim: 16,
        },
        sampling: SamplingConfig {
            solver: "ddim".into(),
            steps: 3,
        },
        ..PriorConfig::default()
    };
    PathConfig::new(vec![coordinate("x"), coordinate("y")], prior)
}

fn prior(seed: u64) -> PathPrior {
    let device = Device::flex();
    let random = PathPrior::random(config(), &device).expect("a configuration");
    let network = initialize(random.network().clone(), seed);
    PathPrior::new(config(), network).expect("a configuration")
}

fn planner(settings: PathSettings) -> PathPlanner {
    PathPlanner::new(prior(1), settings, &Device::flex()).expect("a planner")
}

fn settings() -> PathSettings {
    PathSettings {
        candidates: 4,
        finalists: 1,
        shortcuts: 20,
        ..PathSettings::default()
    }
}

/// What is asked, by what must come of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    /// Random ends among random obstacles: there may be a way or not, and ends may be wrong.
    Anywhere,
    /// Two sides of a wall with a gap that is wider than the robot.
    Narrow,
    /// Two sides of a wall without a gap, or with one that is narrower than the robot: no plan is right.
    Impossible,
    /// An end that is not finite or beyond a limit, or a margin that is no number: no plan is right.
    Wrong,
    /// Already there.
    Arrived,
}

const KINDS: [Kind; 5] = [
    Kind::Anywhere,
    Kind::Narrow,
    Kind::Impossible,
    Kind::Wrong,
    Kind::Arrived,
];

/// A random problem.
struct Question {
    kind: Kind,
    plane: Plane,
    radius: f64,
    margin: f64,
    ends: [Vec<f64>; 2],
    budget: Budget,
}

impl Question {
    fn draw(seed: u64) -> Self {
        let mut draw = SmallRng::seed_from_u64(7 << 40 | seed);
        let radius = draw.random_range(1e-5..0.1);
        let kept = draw.random_range(0.0..0.03);
        let mut margin = if draw.random_range(0..4) == 0 {
            kept
        } else {
            0.0
        };
        // Narrow is down to a tenth of a millimetre more than the robot needs, and impossible down to as much less.
        let needed = 2.0 * (radius + margin);
        let spare = 10_f64.powf(draw.random_range(-4.0..-0.5));
        let kind = match draw.random_range(0..32) {
            0..16 => Kind::Anywhere,
            16..22 => Kind::Narrow,
            22..28 => Kind::Impossible,
            28..31 => Kind::Wrong,
            _ => Kind::Arrived,
        };
        let (plane, mut ends) = match kind {
            Kind::Anywhere => {
                let plane = Plane::draw(&mut draw);
                (plane, ends(&mut draw, 2))
            }
            Kind::Narrow => Plane::walled(&mut draw, Some(needed + spare)),
            Kind::Impossible => {
                let gap = needed - spare;
                Plane::walled(&mut draw, (gap > 0.0).then_some(gap))
            }
            Kind::Wrong | Kind::Arrived => Plane::walled(&mut draw, None),
        };
        if kind == Kind::Wrong {
            let value = match draw.random_range(0..6) {
                0 => f64::NAN,
                1 => f64::INFINITY,
                2 => -1e300,
                3 => 1.0 + f64::EPSILON,
                4 => -1.5,
                _ => {
                    margin = [f64::NAN, f64::INFINITY, f64::NEG_INFINITY][draw.random_range(0..3)];
                    0.5
                }
            };
            ends[draw.random_range(0..2)][draw.random_range(0..2)] = value;
        }
        if kind == Kind::Arrived {
            ends[1] = ends[0].clone();
        }
        let budget = match draw.random_range(0..8) {
            0 => Budget {
                passes: Some(draw.random_range(1..4)),
                deadline: None,
            },
            1 => Budget::within(Duration::ZERO),
            _ => Budget::default(),
        };
        Self {
            kind,
            plane,
            radius,
            margin,
            ends,
            budget,
        }
    }

    /// Asks a planner, and judges what it answers.
    fn ask(&self, planner: &PathPlanner, seed: u64) -> Answer {
        let [start, goal] = &self.ends;
        let (body, limits) = (Translating::disc(self.radius).expect("a disc"), limits());
        let free = FreeSpace::new(&body, &self.plane.scene, &limits).expect("two coordinates");
        let free = free.with_margin(self.margin);
        let asked = PathProblem { free, start, goal };
        let said = |checked: Result<(), Blocked>| format!("{checked:?}");
        match planner.plan(&asked, self.budget, seed) {
            Ok(plan) => {
                assert!(![Kind::Impossible, Kind::Wrong].contains(&self.kind));
                let reach = self.radius + self.margin;
                self.plane
                    .judge_motion(&plan.trajectory, reach, start, goal);
                let end = plan.trajectory.arrival().expect("it has waypoints");
                assert!(end.is_at_rest());
                for candidate in &plan.candidates {
                    let judged = free.check_path(&candidate.path).is_ok();
                    assert_eq!(judged, candidate.blocked.is_none());
                }
                let is_limited = self.budget != Budget::default();
                let chosen = plan.chosen.map(|it| plan.candidates[it].blocked.clone());
                match &plan.outcome {
                    PathOutcome::Complete if self.kind == Kind::Arrived => {
                        assert_eq!(chosen, None);
                        Answer::Planned
                    }
                    PathOutcome::Complete => {
                        assert_eq!(chosen, Some(None), "it is one of them, and free");
                        Answer::Planned
                    }
                    PathOutcome::Truncated { .. } => {
                        assert!(is_limited);
                        assert_eq!(chosen, Some(None), "it is one of them, and free");
                        Answer::Truncated
                    }
                    PathOutcome::Fallback { .. } => {
                        assert_eq!(chosen, None);
                        Answer::Fallen
                    }
                    other => panic!("{other}"),
                }
            }
            Err(PathPlanError::Start(blocked)) => {
                assert_eq!(said(free.check(start)), said(Err(blocked)));
                Answer::Refused
            }
            Err(PathPlanError::Goal(blocked)) => {
                assert!(free.check(start).is_ok());
                assert_eq!(said(free.check(goal)), said(Err(blocked)));
                Answer::Refused
            }
            Err(PathPlanError::Margin { margin }) => {
                assert!(!margin.is_finite() && self.kind == Kind::Wrong);
                Answer::Refused
            }
            Err(PathPlanError::Infeasible { nearest, .. }) => {
                assert!(free.check(start).is_ok() && free.check(goal).is_ok());
                assert!(nearest.excess() > 0.0, "{nearest}");
                Answer::Infeasible
            }
            // What grazes an obstacle may leave no room for a motion, which is said; and so is a search without result.
            Err(PathPlanError::Motion(_) | PathPlanError::Fallback { .. }) => Answer::Infeasible,
            Err(other) => panic!("{other}"),
        }
    }
}

/// What came of a question.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Planned,
    Truncated,
    Fallen,
    Infeasible,
    Refused,
}

/// Says which question it was, where a test ends in the middle of it.
struct Asking(u64);

impl Drop for Asking {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was question {}", self.0);
        }
    }
}

#[test]
fn every_answer_is_a_valid_motion_or_an_error() {
    let planners = [
        planner(settings()),
        planner(PathSettings {
            fallback: Some(RrtConnect {
                iterations: 1000,
                ..RrtConnect::default()
            }),
            ..settings()
        }),
        planner(PathSettings {
            guidance: None,
            projection: None,
            ..settings()
        }),
    ];
    // Of each planner, by kind and answer.
    let mut counts = [[[0_usize; 5]; KINDS.len()]; 3];
    for seed in 0..problems() {
        let _asking = Asking(seed);
        let question = Question::draw(seed);
        for (planner, counts) in planners.iter().zip(&mut counts) {
            let answer = question.ask(planner, seed) as usize;
            counts[question.kind as usize][answer] += 1;
        }
    }
    println!("planned, truncated, by fallback, infeasible, refused:");
    for (name, counts) in ["guided and projected", "with fallback", "bare"]
        .iter()
        .zip(&counts)
    {
        for (kind, counts) in KINDS.iter().zip(counts) {
            println!("  {name:20} {:10} {counts:?}", format!("{kind:?}"));
        }
    }
    let of = |planner: usize, answer: Answer| -> usize {
        counts[planner].iter().map(|it| it[answer as usize]).sum()
    };
    // Ends are right or wrong, whoever is asked.
    let refused = [0, 1, 2].map(|i| of(i, Answer::Refused));
    assert!(refused[0] > 0 && refused == [refused[0]; 3], "{refused:?}");
    // A fallback helps, and so do guidance and projection.
    assert!(of(1, Answer::Fallen) > 0);
    assert!(of(1, Answer::Infeasible) < of(0, Answer::Infeasible));
    assert!(of(0, Answer::Planned) > of(2, Answer::Planned));
    assert!(of(0, Answer::Truncated) > 0);
    // A gap is gone through, and who is there stays.
    assert!(counts[0][Kind::Narrow as usize][Answer::Planned as usize] > 0);
    for counts in &counts {
        let [planned, _, _, _, refused] = counts[Kind::Arrived as usize];
        assert!(planned > 0 && refused == 0, "{counts:?}");
        let [.., refused] = counts[Kind::Wrong as usize];
        assert_eq!(refused, counts[Kind::Wrong as usize].iter().sum::<usize>());
    }
}

/// A disc in an empty room of 2 m, or one with a wall.
fn asked<T>(scene: &Scene, ends: [[f64; 2]; 2], ask: impl FnOnce(&PathProblem<'_>) -> T) -> T {
    let (body, limits) = (Translating::disc(0.1).expect("a disc"), limits());
    let [start, goal] = &ends;
    ask(&PathProblem {
        free: FreeSpace::new(&body, scene, &limits).expect("two coordinates"),
        start,
        goal,
    })
}

#[test]
fn what_is_wrong_with_a_question_is_said() {
    let planner = planner(settings());
    let wall = Obstacle::rectangle([0.0, 0.0], [0.05, 2.0], 0.0).expect("a wall");
    let walled = Scene::new().with(wall);
    let answer = |scene: &Scene, ends| {
        asked(scene, ends, |problem| {
            let answer = planner.plan(problem, Budget::default(), 3);
            answer.expect_err("it cannot be")
        })
    };
    let (left, right) = ([-0.5, 0.0], [0.5, 0.0]);
    assert!(matches!(
        answer(&walled, [[0.0, 0.5], right]),
        PathPlanError::Start(Blocked::Obstacle { obstacle: 0, clearance, .. }) if clearance < 0.0
    ));
    assert!(matches!(
        answer(&walled, [left, [0.1, 0.5]]),
        PathPlanError::Goal(Blocked::Obstacle { obstacle: 0, .. })
    ));
    assert!(matches!(
        answer(&walled, [left, [1.25, 0.0]]),
        PathPlanError::Goal(Blocked::Limit { bound: Bound::Upper, coordinate: 0, value, limit })
            if value == 1.25 && limit == 1.0
    ));
    assert!(matches!(
        answer(&walled, [[f64::NAN, 0.0], right]),
        PathPlanError::Start(Blocked::NonFinite { .. })
    ));
    assert!(matches!(
        answer(&walled, [left, [0.0, f64::NEG_INFINITY]]),
        PathPlanError::Goal(Blocked::NonFinite { .. })
    ));
    // No way through a wall: what is in the way, where, and by how much.
    match answer(&walled, [left, right]) {
        PathPlanError::Infeasible {
            candidates: 4,
            nearest:
                Blocked::Obstacle {
                    obstacle: 0,
                    position,
                    clearance,
                    ..
                },
        } => assert!(position[0].abs() < 0.16 && clearance < 0.0, "{position:?}"),
        other => panic!("{other}"),
    }
    // Three coordinates where the prior has two.
    let body = Translating::ball(0.1).expect("a ball");
    let limits = Limits::unlimited(3);
    let scene = Scene::new();
    let problem = PathProblem {
        free: FreeSpace::new(&body, &scene, &limits).expect("three coordinates"),
        start: &[0.0; 3],
        goal: &[1.0; 3],
    };
    assert_eq!(
        planner.plan(&problem, Budget::default(), 0),
        Err(PathPlanError::Dimensions {
            expected: 2,
            found: 3
        })
    );
}

#[test]
fn one_who_is_there_stays() {
    asked(&Scene::new(), [[0.25, 0.5]; 2], |problem| {
        let plan = planner(settings()).plan(problem, Budget::default(), 0);
        let plan = plan.expect("there is nothing to do");
        for waypoint in plan.trajectory.waypoints() {
            assert_eq!(waypoint.position.to_vec(), [0.25, 0.5]);
        }
    });
}

#[test]
fn the_same_seed_is_the_same_plan_whatever_the_candidates_and_threads() {
    let disc = Obstacle::disc([0.0, 0.05], 0.3).expect("a disc");
    let scene = Scene::new().with(disc);
    let ends = [[-0.8, 0.0], [0.8, 0.1]];
    let plan = |candidates: usize, seed: u64| {
        let planner = planner(PathSettings {
            candidates,
            ..settings()
        });
        asked(&scene, ends, |problem| {
            let plan = planner.plan(problem, Budget::default(), seed);
            plan.expect("there is room")
        })
    };
    let (one, again) = (plan(6, 5), plan(6, 5));
    assert_eq!(one.trajectory, again.trajectory);
    assert_eq!(one.candidates, again.candidates);
    assert_ne!(one.candidates, plan(6, 6).candidates);
    // A candidate does not know how many others there are.
    assert_eq!(one.candidates[..3], plan(3, 5).candidates);
    let pool = rayon::ThreadPoolBuilder::new().num_threads(1).build();
    let alone = pool.expect("a pool").install(|| plan(6, 5));
    assert_eq!(one.candidates, alone.candidates);
    assert_eq!(one.trajectory, alone.trajectory);
}

#[test]
#[allow(clippy::result_large_err, reason = "it is looked at once")]
fn a_budget_truncates_and_what_leaves_is_valid_all_the_same() {
    let scene = Scene::new();
    let ends = [[-0.8, 0.0], [0.8, 0.1]];
    let planner = planner(PathSettings {
        sampling: Some(Sampling::new(Method::Ddim, 10)),
        ..settings()
    });
    for budget in [
        Budget {
            passes: Some(2),
            deadline: None,
        },
        Budget {
            passes: None,
            deadline: Some(Instant::now()),
        },
        Budget::within(Duration::ZERO),
    ] {
        let plan = asked(&scene, ends, |problem| planner.plan(problem, budget, 1));
        let plan = plan.expect("nothing is in the way");
        let passes = budget.passes.unwrap_or(1);
        assert_eq!(plan.outcome, PathOutcome::Truncated { passes });
        assert_eq!(plan.passes, passes);
        let free = limits();
        assert_eq!(free.check(&plan.trajectory), Ok(()));
    }
}

#[test]
fn a_prior_is_what_it_was_saved_as_and_what_is_broken_is_an_error() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let device = Device::flex();
    prior(3).save(folder).expect("written");
    let loaded = PathPrior::load(folder, &device).expect("read");
    assert_eq!(loaded.config(), &config());
    assert_eq!(loaded.hash().len(), 64);
    let scene = Scene::new().with(Obstacle::disc([0.0, 0.0], 0.2).expect("a disc"));
    let plan = |prior: PathPrior| {
        let planner = PathPlanner::new(prior, settings(), &device).expect("a planner");
        asked(&scene, [[-0.8, 0.0], [0.8, 0.0]], |problem| {
            planner.candidates_of(problem, Budget::default(), 2)
        })
    };
    assert_eq!(plan(loaded), plan(prior(3)));

    let text = std::fs::read_to_string(folder.join("config.json")).expect("written");
    let load = |from: &str, to: &str| {
        assert!(text.contains(from), "{from}");
        let broken = text.replacen(from, to, 1);
        std::fs::write(folder.join("config.json"), broken).expect("written");
        PathPrior::load(folder, &device).expect_err("it is broken")
    };
    let key = |error: LoadError| match error {
        LoadError::Value { key, .. } => key,
        other => panic!("{other}"),
    };
    assert_eq!(key(load("clearway_paths", "diffusion")), "type");
    assert_eq!(
        key(load("\"horizon\": 16", "\"horizon\": 15")),
        "prior.horizon"
    );
    assert_eq!(
        key(load("\"lower\": -1.0", "\"lower\": 1.0")),
        "coordinates.x"
    );
    assert_eq!(key(load("\"reach\": 0.5", "\"reach\": 0.0")), "prior.scene");
    assert_eq!(key(load("v_prediction", "v")), "prior.prediction_type");
    assert_eq!(
        key(load("\"steps\": 3", "\"steps\": 101")),
        "prior.sampling.steps"
    );
    assert!(matches!(
        load("\"horizon\"", "\"horizons\""),
        LoadError::Json { .. }
    ));
    // Another network than the weights'.
    assert!(matches!(
        load("\"kernel_size\": 3", "\"kernel_size\": 5"),
        LoadError::Weights { .. }
    ));
    std::fs::write(folder.join("config.json"), &text).expect("written");
    std::fs::write(folder.join("model.safetensors"), [0; 100]).expect("written");
    let broken = PathPrior::load(folder, &device).expect_err("no weights");
    assert!(matches!(broken, LoadError::Weights { .. }), "{broken}");
}
