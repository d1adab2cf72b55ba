//! A run that was interrupted and resumed is the run that was not, to the bit; it lowers the loss; and what it writes is a
//! policy.

use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::Device;
use clearway_planner::dataset::Order;
use clearway_planner::train::{OptimizerKind, Recipe, TrainError, Trainer, WeightingRecipe};
use clearway_planner::{Budget, History, Observation, Planner, Policy, Problem};
use clearway_tests::repository;

fn dataset() -> PathBuf {
    repository("tests/golden/lerobot/dataset_v30")
}

/// A network of some thousands of parameters.
fn recipe() -> Recipe {
    let mut recipe = Recipe {
        seed: 5,
        ..Recipe::default()
    };
    recipe.policy.down_dims = vec![8, 16];
    recipe.policy.horizon = 8;
    recipe.policy.n_action_steps = 4;
    recipe.policy.n_groups = 4;
    recipe.policy.diffusion_step_embed_dim = 16;
    recipe.policy.num_train_timesteps = 20;
    recipe.data.batch = 7;
    recipe.data.held_out = 0.25;
    recipe.optimizer.steps = 400;
    recipe.optimizer.rate = 5e-3;
    recipe.optimizer.warm_up = 10;
    recipe.average.most = 0.99;
    recipe
}

fn begin(recipe: Recipe) -> Trainer {
    Trainer::new(recipe, &dataset(), &Device::flex()).expect("a recipe")
}

fn saved(trainer: &Trainer, folder: &Path) -> Vec<u8> {
    let path = folder.join("checkpoint.safetensors");
    trainer.save(&path).expect("saved");
    std::fs::read(path).expect("readable")
}

#[test]
fn a_run_with_a_stop_is_the_run_without() {
    let [adamw, muon] = [OptimizerKind::AdamW, OptimizerKind::Muon];
    for (order, masked, weighting, kind) in [
        (Order::Shuffled, true, WeightingRecipe::MinSnr(5.0), adamw),
        (Order::Replacement, false, WeightingRecipe::Uniform, muon),
    ] {
        let mut recipe = recipe();
        recipe.optimizer.kind = kind;
        recipe.data.order = order;
        recipe.loss.do_mask_loss_for_padding = masked;
        recipe.loss.weighting = weighting;
        let folder = tempfile::tempdir().expect("a folder");
        let folder = folder.path();
        let mut whole = begin(recipe.clone());
        let losses: Vec<f64> = (0..9).map(|_| whole.step().expect("finite").loss).collect();
        let mut first = begin(recipe.clone());
        let mut again: Vec<f64> = (0..4).map(|_| first.step().expect("finite").loss).collect();
        // Looking changes nothing.
        let validation = first.validate(100);
        assert_eq!(first.validate(100), validation);
        saved(&first, folder);
        drop(first);
        let checkpoint = folder.join("checkpoint.safetensors");
        let resumed = Trainer::resume(recipe.clone(), &dataset(), &checkpoint, &Device::flex());
        let mut resumed = resumed.expect("its own checkpoint");
        assert_eq!(resumed.steps(), 4);
        assert_eq!(resumed.validate(100), validation);
        again.extend((4..9).map(|_| resumed.step().expect("finite").loss));
        assert_eq!(losses, again);
        // Weights, averages and moments.
        assert!(saved(&whole, folder) == saved(&resumed, folder));
        let other = begin(Recipe { seed: 6, ..recipe });
        assert!(saved(&whole, folder) != saved(&other, folder));
    }
}

#[test]
fn the_loss_falls() {
    let mean = |trainer: &mut Trainer, steps: usize| {
        let losses = (0..steps).map(|_| trainer.step().expect("finite").loss);
        losses.sum::<f64>() / steps as f64
    };
    for (prediction, weighting) in [
        ("epsilon", WeightingRecipe::Uniform),
        ("sample", WeightingRecipe::MinSnr(5.0)),
        ("v_prediction", WeightingRecipe::MinSnr(5.0)),
        ("v_prediction", WeightingRecipe::Edm(0.5)),
        ("flow_prediction", WeightingRecipe::Uniform),
    ] {
        let mut recipe = recipe();
        recipe.policy.prediction_type = prediction.into();
        recipe.loss.weighting = weighting;
        let mut trainer = begin(recipe);
        let [windows, held_out] = trainer.windows();
        assert!(windows > 0 && held_out > 0, "{windows} {held_out}");
        let first = mean(&mut trainer, 20);
        mean(&mut trainer, 300);
        let last = mean(&mut trainer, 80);
        // The demonstrations are noise, but there are few: they can be learned.
        assert!(last < 0.5 * first, "{prediction}: {first} {last}");
    }
}

#[test]
fn who_asks_for_a_validation_has_one() {
    let mut recipe = recipe();
    for (share, held_out) in [(0.0, 0), (1e-9, 1), (0.25, 1), (0.6, 2)] {
        recipe.data.held_out = share;
        recipe.data.drop_n_last_frames = Some(0);
        let mut trainer = begin(recipe.clone());
        let of_all: usize = trainer.windows().iter().sum();
        assert_eq!(of_all, trainer.dataset().len());
        let is_validated = trainer.validate(100).is_some();
        assert_eq!(is_validated, held_out > 0, "{share}");
        trainer.step().expect("finite");
    }
}

#[test]
fn what_is_written_is_a_policy() {
    for prediction in ["epsilon", "sample", "v_prediction", "flow_prediction"] {
        let mut recipe = recipe();
        recipe.policy.prediction_type = prediction.into();
        is_a_policy(recipe);
    }
}

fn is_a_policy(recipe: Recipe) {
    let mut trainer = begin(recipe);
    for _ in 0..30 {
        trainer.step().expect("finite");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("policy");
    for _ in 0..2 {
        trainer
            .save_policy(&path)
            .expect("written, and written over");
    }
    let device = Device::flex();
    let policy = Policy::load(&path, &device).expect("a policy");
    assert_eq!(policy.config(), trainer.config());
    assert_eq!(policy.parameters(), trainer.network().parameters());
    let planner = Planner::new(policy, Duration::from_millis(100), &device);
    let mut history = History::default();
    let seen = Observation::new(Duration::ZERO)
        .with("observation.state", [1.0, -3.0])
        .with("observation.environment_state", [2.0, 0.5, 7.0]);
    history.push(seen).expect("the first");
    let plan = planner
        .expect("a policy")
        .plan(&Problem::new(&history), Budget::default(), 3)
        .expect("a plan");
    // What is clipped to one is, in the units of the demonstrations, within their range.
    let statistics = trainer.dataset().statistics("action").expect("read");
    let [low, high] = ["min", "max"].map(|name| statistics.get(name).expect("kept"));
    for position in plan.trajectory.positions().rows() {
        for (i, x) in position.iter().enumerate() {
            assert!((low[i] - 1e-4..=high[i] + 1e-4).contains(x), "{x}");
        }
    }
}

#[test]
fn another_run_does_not_go_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    begin(recipe()).save(&path).expect("saved");
    let resume = |recipe: Recipe| {
        Trainer::resume(recipe, &dataset(), &path, &Device::flex()).map(|it| it.steps())
    };
    // A longer run is the same run.
    let mut longer = recipe();
    longer.optimizer.steps = 1000;
    assert_eq!(resume(longer).expect("the same run"), 0);
    let mut wider = recipe();
    wider.policy.down_dims = vec![16, 16];
    let error = resume(wider).expect_err("another network").to_string();
    assert!(error.contains("`policy.down_dims`"), "{error}");
    // The same frames, but of statistics computed where LeRobot's are kept.
    let other = repository("tests/golden/lerobot/dataset_v21");
    let error = Trainer::resume(recipe(), &other, &path, &Device::flex());
    let error = error.expect_err("another dataset").to_string();
    assert!(error.contains("its dataset is another"), "{error}");
    let bytes = std::fs::read(&path).expect("readable");
    std::fs::write(&path, &bytes[..bytes.len() - 1]).expect("written");
    let error = resume(recipe()).expect_err("cut short").to_string();
    assert!(error.contains("checkpoint.safetensors"), "{error}");
}

#[test]
fn recipes_that_cannot_be_are_errors() {
    let fails = |change: &dyn Fn(&mut Recipe), said: &str| {
        let mut recipe = recipe();
        change(&mut recipe);
        let error = Trainer::new(recipe, &dataset(), &Device::flex()).expect_err(said);
        let error = error.to_string();
        assert!(error.contains(said), "does not say `{said}`: {error}");
    };
    fails(&|it| it.data.batch = 0, "`data.batch`");
    fails(&|it| it.data.held_out = 1.0, "`data.held_out`");
    fails(&|it| it.data.held_out = 0.95, "no window is left");
    fails(
        &|it| it.data.drop_n_last_frames = Some(99),
        "no window is left",
    );
    fails(&|it| it.optimizer.rate = f64::NAN, "`optimizer.rate`");
    fails(&|it| it.optimizer.betas = [0.9, 1.0], "`optimizer.betas`");
    fails(
        &|it| it.loss.weighting = WeightingRecipe::MinSnr(0.0),
        "`loss.weighting`",
    );
    fails(&|it| it.policy.horizon = 6, "`horizon`");
    fails(
        &|it| it.policy.prediction_type = "velocity".into(),
        "`prediction_type`",
    );
    fails(
        &|it| it.policy.inputs.truncate(1),
        "observation.environment_state",
    );
    fails(
        &|it| it.policy.inputs.push("observation.images.top".into()),
        "`policy.inputs`",
    );
    fails(
        &|it| it.policy.inputs.push("observation.state".into()),
        "each once",
    );
    // A rate that leaves the numbers is found out.
    let mut wild = recipe();
    wild.optimizer.rate = 1e30;
    wild.optimizer.warm_up = 0;
    let mut trainer = begin(wild);
    let error = (0..20).find_map(|_| trainer.step().err());
    assert!(
        matches!(error, Some(TrainError::NonFinite { .. })),
        "{error:?}"
    );
}
