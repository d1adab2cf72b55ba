//! A prior learns what paths look like; guidance keeps paths from obstacles that nobody has seen; and a run of training that
//! was interrupted is the run that was not.
//!
//! The prior is trained here, for a few seconds, on Motion Planning Diffusion's simple world: enough to show that each part
//! does its work, and far from what the shipped ones do.

use std::sync::OnceLock;

use burn::tensor::Device;
use clearway_motion::{FreeSpace, Path};
use clearway_planner::Budget;
use clearway_planner::paths::train::{Demonstrations, PathRecipe, PathTrainError, PathTrainer};
use clearway_planner::paths::{
    Guidance, NetworkConfig, PathConfig, PathCoordinate, PathPlanner, PathPrior, PathProblem,
    PathSettings, PriorConfig, SamplingConfig,
};
use clearway_sim::{Clutter, Environment, clutter};

/// Problems of a measurement, and paths of each.
const PROBLEMS: u64 = 20;
const CANDIDATES: usize = 10;

fn config() -> PathConfig {
    let coordinate = |name: &str| PathCoordinate {
        name: name.into(),
        unit: "m".into(),
        lower: -1.0,
        upper: 1.0,
    };
    let prior = PriorConfig {
        horizon: 32,
        network: NetworkConfig::ConditionalUnet1d {
            down_dims: vec![16, 32],
            kernel_size: 5,
            n_groups: 8,
            diffusion_step_embed_dim: 16,
        },
        sampling: SamplingConfig {
            solver: "ddim".into(),
            steps: 8,
        },
        ..PriorConfig::default()
    };
    PathConfig::new(vec![coordinate("x"), coordinate("y")], prior)
}

fn demonstrations(count: u64) -> Demonstrations {
    let world = Clutter::new(Environment::Simple).expect("published");
    let mut demonstrations = Demonstrations::new(config()).expect("a configuration");
    for seed in 0..count {
        let problem = world.problem(1_000_000 + seed).expect("it has room");
        let Ok(path) = world.expert(&problem, seed) else {
            continue;
        };
        let path = Path::new(path.positions().to_owned()).expect("finite");
        let path = path.resampled(32);
        demonstrations
            .push(&path, world.scene())
            .expect("of that shape");
    }
    demonstrations
}

fn recipe(steps: u64) -> PathRecipe {
    let mut recipe = PathRecipe {
        seed: 4,
        prior: config().prior,
        ..PathRecipe::default()
    };
    recipe.data.batch = 32;
    recipe.data.held_out = 0.1;
    recipe.optimizer.steps = steps;
    recipe.optimizer.rate = 4e-3;
    recipe.optimizer.warm_up = 20;
    recipe.optimizer.betas = [0.9, 0.999];
    recipe.average.most = 0.98;
    recipe
}

fn trained() -> &'static PathPrior {
    static PRIOR: OnceLock<PathPrior> = OnceLock::new();
    PRIOR.get_or_init(|| {
        let device = Device::flex();
        let demonstrations = demonstrations(400);
        assert!(demonstrations.len() > 700);
        let steps = 600;
        let mut trainer =
            PathTrainer::new(recipe(steps), demonstrations, &device).expect("a recipe");
        let before = trainer.validate(256).expect("some are held out");
        for _ in 0..steps {
            trainer.step().expect("finite");
        }
        let after = trainer.validate(256).expect("some are held out");
        println!("the loss of what is held out: {before:.3}, then {after:.3}");
        assert!(after < 0.3 * before, "{before} {after}");
        trainer.prior().expect("a prior")
    })
}

/// The share of valid candidates, and of problems with a plan, in a world with so many obstacles more.
fn measured(prior: &PathPrior, settings: PathSettings, added: usize) -> [f64; 2] {
    let planner = PathPlanner::new(prior.clone(), settings, &Device::flex()).expect("a planner");
    let [mut valid, mut planned] = [0_usize; 2];
    for seed in 0..PROBLEMS {
        let world = Clutter::with_random_additions(Environment::Simple, added, seed);
        let world = world.expect("drawn");
        let clutter::Problem { start, goal } = world.problem(seed).expect("it has room");
        let free = world.free_space().expect("two coordinates");
        let problem = PathProblem {
            free,
            start: &start,
            goal: &goal,
        };
        let candidates = planner.candidates_of(&problem, Budget::default(), seed);
        valid += candidates
            .iter()
            .filter(|it| free.check_path(it).is_ok())
            .count();
        if let Ok(plan) = planner.plan(&problem, Budget::default(), seed) {
            arrives(&free, &plan.trajectory, &start, &goal);
            planned += 1;
        }
    }
    let all = PROBLEMS as f64;
    [
        valid as f64 / (all * CANDIDATES as f64),
        planned as f64 / all,
    ]
}

/// From start to goal, at rest in both, proven once more.
fn arrives(free: &FreeSpace, motion: &clearway_motion::Trajectory, start: &[f64], goal: &[f64]) {
    assert_eq!(free.check_trajectory(motion), Ok(()));
    assert_eq!(free.limits().check(motion), Ok(()));
    let rows = motion.positions();
    assert_eq!(rows.row(0).to_vec(), start);
    assert_eq!(rows.row(rows.nrows() - 1).to_vec(), goal);
    assert!(motion.arrival().expect("it has waypoints").is_at_rest());
}

fn bare() -> PathSettings {
    PathSettings {
        candidates: CANDIDATES,
        guidance: None,
        projection: None,
        ..PathSettings::default()
    }
}

#[test]
fn a_prior_learns_what_paths_look_like() {
    let device = Device::flex();
    let unlearned = PathPrior::random(config(), &device).expect("a configuration");
    let world = Clutter::new(Environment::Simple).expect("published");
    let length = |prior: &PathPrior| {
        let planner = PathPlanner::new(prior.clone(), bare(), &device).expect("a planner");
        let mut sum = 0.0;
        for seed in 0..PROBLEMS {
            let clutter::Problem { start, goal } = world.problem(seed).expect("it has room");
            let problem = PathProblem {
                free: world.free_space().expect("two coordinates"),
                start: &start,
                goal: &goal,
            };
            let paths = planner.candidates_of(&problem, Budget::default(), seed);
            sum += paths.iter().map(Path::length).sum::<f64>() / paths.len() as f64;
        }
        sum / PROBLEMS as f64
    };
    // Demonstrations are two metres long; noise goes a metre with each of its 31 steps.
    let [nothing, learned] = [length(&unlearned), length(trained())];
    println!("{nothing:.1} m without learning, {learned:.1} m with");
    assert!(nothing > 10.0 && learned < 5.0, "{nothing} {learned}");
}

#[test]
fn guidance_keeps_paths_from_obstacles_that_nobody_has_seen() {
    let guided = PathSettings {
        guidance: Some(Guidance::default()),
        ..bare()
    };
    let projected = PathSettings {
        candidates: CANDIDATES,
        ..PathSettings::default()
    };
    let [alone, _] = measured(trained(), bare(), 5);
    let [pushed, _] = measured(trained(), guided, 5);
    let [bent, planned] = measured(trained(), projected, 5);
    println!("valid {alone:.3}, guided {pushed:.3}, projected {bent:.3}; plans {planned:.3}");
    assert!(pushed > alone + 0.1, "{alone} {pushed}");
    assert!(bent >= pushed && planned >= 0.9, "{bent} {planned}");
}

#[test]
fn a_run_with_a_stop_is_the_run_without() {
    let device = Device::flex();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    let begin = || PathTrainer::new(recipe(20), demonstrations(20), &device).expect("a recipe");
    let mut whole = begin();
    let steps = |trainer: &mut PathTrainer, count: usize| -> Vec<f64> {
        (0..count)
            .map(|_| trainer.step().expect("finite").loss)
            .collect()
    };
    let losses = steps(&mut whole, 8);
    let mut first = begin();
    assert_eq!(steps(&mut first, 5), losses[..5]);
    first.save(&path).expect("written");
    let resume = |recipe, count| PathTrainer::resume(recipe, demonstrations(count), &path, &device);
    let mut second = resume(recipe(20), 20).expect("its own");
    assert_eq!(second.steps(), 5);
    assert_eq!(steps(&mut second, 3), losses[5..]);
    let [a, b] = [whole, second].map(|it| {
        it.save(&path).expect("written");
        std::fs::read(&path).expect("readable")
    });
    assert_eq!(a, b);
    for (recipe, count) in [
        (recipe(20), 21),
        (
            PathRecipe {
                seed: 5,
                ..recipe(20)
            },
            20,
        ),
    ] {
        let other = resume(recipe, count);
        assert!(matches!(other, Err(PathTrainError::OtherRun { .. })));
    }
}
