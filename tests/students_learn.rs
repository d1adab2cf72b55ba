//! A student that was interrupted and resumed is the student that was not, to the bit, whatever it learns; it learns; and what is
//! written is a policy that is sampled as it was taught.

use std::path::{Path, PathBuf};
use std::time::Duration;

use burn::tensor::{Device, Distribution, Tensor};
use clearway_diffusion::{Network as _, Point, Schedule as _};
use clearway_planner::network::ConditionalUnet1d;
use clearway_planner::train::{
    Codes, DistillRecipe, Distillation, Distiller, EmphasisRecipe, Kind, Recipe, TrainError,
    Trainer,
};
use clearway_planner::{
    Budget, History, Method, Observation, Planner, Policy, Precision, Problem, Sampling,
};
use clearway_tests::repository;

fn dataset() -> PathBuf {
    repository("tests/golden/lerobot/dataset_v30")
}

/// A teacher of some thousands of parameters, trained for some steps.
fn teacher(folder: &Path) -> PathBuf {
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
    recipe.optimizer.steps = 60;
    recipe.optimizer.rate = 5e-3;
    recipe.optimizer.warm_up = 10;
    let mut trainer = Trainer::new(recipe, &dataset(), &Device::flex()).expect("a recipe");
    for _ in 0..60 {
        trainer.step().expect("finite");
    }
    let teacher = folder.join("teacher");
    trainer.save_policy(&teacher).expect("saved");
    teacher
}

fn recipe(distill: DistillRecipe) -> Distillation {
    let mut recipe = Distillation {
        seed: 3,
        distill,
        ..Distillation::default()
    };
    recipe.data.batch = 7;
    recipe.data.held_out = 0.5;
    recipe.optimizer.steps = 9;
    recipe.optimizer.rate = 2e-3;
    recipe.optimizer.warm_up = 2;
    recipe.average.most = 0.9;
    recipe
}

/// One of each kind, with phases that end within nine steps.
fn kinds() -> [DistillRecipe; 5] {
    let few = |kind| DistillRecipe {
        kind,
        steps: Some(1),
        convert: Some(2),
        ..DistillRecipe::default()
    };
    [
        DistillRecipe {
            teacher_steps: Some(4),
            emphasis: EmphasisRecipe::TruncatedSnr,
            ..few(Kind::Progressive)
        },
        DistillRecipe {
            steps: Some(2),
            teacher_steps: Some(10),
            skip: Some(3),
            huber: Some(0.01),
            ..few(Kind::Consistency)
        },
        DistillRecipe {
            convert: Some(2),
            ..rollout(4, Some(1))
        },
        few(Kind::Distribution),
        DistillRecipe {
            kind: Kind::Structure,
            emphasis: EmphasisRecipe::MinSnr(5.0),
            task: Some(0.5),
            ..DistillRecipe::default()
        },
    ]
}

/// Of a student of two steps.
fn rollout(teacher_steps: usize, offset: Option<usize>) -> DistillRecipe {
    DistillRecipe {
        kind: Kind::Rollout,
        steps: Some(2),
        teacher_steps: Some(teacher_steps),
        offset,
        ..DistillRecipe::default()
    }
}

fn begin(recipe: Distillation, teacher: &Path) -> Distiller {
    Distiller::new(recipe, teacher, &dataset(), &Device::flex()).expect("a recipe")
}

fn saved(distiller: &Distiller, folder: &Path) -> Vec<u8> {
    let path = folder.join("checkpoint.safetensors");
    distiller.save(&path).expect("saved");
    std::fs::read(path).expect("readable")
}

#[test]
fn a_student_with_a_stop_is_the_student_without() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let teacher = teacher(folder);
    for distill in kinds() {
        let kind = distill.kind;
        let mut recipe = recipe(distill);
        recipe.student.precision = (kind == Kind::Consistency).then_some(Codes::Int8);
        let mut whole = begin(recipe.clone(), &teacher);
        let losses: Vec<f64> = (0..9).map(|_| whole.step().expect("finite").loss).collect();
        let end = saved(&whole, folder);
        // At the beginning, within a phase, and where one ends and the next begins.
        for stop in [0, 2, 4, 5, 7] {
            let mut first = begin(recipe.clone(), &teacher);
            let mut again: Vec<f64> = (0..stop)
                .map(|_| first.step().expect("finite").loss)
                .collect();
            // Looking changes nothing.
            let validation = first.validate(100);
            let is_measured = kind != Kind::Distribution || stop <= 2;
            assert_eq!(validation.is_some(), is_measured, "{kind:?} at {stop}");
            assert_eq!(first.validate(100), validation);
            saved(&first, folder);
            drop(first);
            let checkpoint = folder.join("checkpoint.safetensors");
            let device = Device::flex();
            let resumed =
                Distiller::resume(recipe.clone(), &teacher, &dataset(), &checkpoint, &device);
            let mut resumed = resumed.expect("its own checkpoint");
            assert_eq!(resumed.steps(), stop);
            assert_eq!(resumed.validate(100), validation, "{kind:?} at {stop}");
            again.extend((stop..9).map(|_| resumed.step().expect("finite").loss));
            assert_eq!(losses, again, "{kind:?} at {stop}");
            // Weights, averages, moments, targets and critics.
            assert!(saved(&resumed, folder) == end, "{kind:?} at {stop}");
        }
        let other = Distillation { seed: 4, ..recipe };
        let mut other = begin(other, &teacher);
        for _ in 0..9 {
            other.step().expect("finite");
        }
        assert!(saved(&other, folder) != end);
    }
}

#[test]
fn what_is_written_is_a_policy_that_is_sampled_as_it_was_taught() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let teacher = teacher(folder);
    let sampled = Sampling::new;
    let own = Policy::load(&teacher, &Device::flex()).expect("a policy");
    let expected = [
        (sampled(Method::Euler, 1), "sample"),
        (sampled(Method::Consistency, 2), "sample"),
        (sampled(Method::Euler, 2).with_offset(Some(6)), "sample"),
        (sampled(Method::Consistency, 1), "sample"),
        (own.sampling(), "epsilon"),
    ];
    for (distill, (sampling, prediction)) in kinds().into_iter().zip(expected) {
        let mut distiller = begin(recipe(distill), &teacher);
        for _ in 0..9 {
            distiller.step().expect("finite");
        }
        let student = folder.join("student");
        distiller.save_policy(&student).expect("saved");
        let period = Duration::from_millis(100);
        let planner = Planner::load(&student, period, &Device::flex()).expect("a policy");
        assert_eq!(planner.sampling(), sampling);
        let config = planner.policy().config();
        assert_eq!(config.prediction.word(), prediction);
        assert_eq!(config.num_inference_steps, sampling.steps);
        assert_eq!(planner.stages().len(), sampling.steps);
        let mut history = History::default();
        let observation = Observation::new(Duration::ZERO)
            .with("observation.state", [200.0, 300.0])
            .with("observation.environment_state", [250.0; 3]);
        history.push(observation).expect("the first");
        let plan = planner.plan(&Problem::new(&history), Budget::default(), 1);
        assert_eq!(plan.expect("feasible").trajectory.len(), 4);
    }
}

/// How well a smaller network that begins with nothing does what its teacher does; and one that begins as its teacher does it
/// at once.
#[test]
fn students_learn_what_their_teacher_estimates() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher(folder.path());
    let structure = DistillRecipe {
        kind: Kind::Structure,
        emphasis: EmphasisRecipe::MinSnr(1.0),
        ..DistillRecipe::default()
    };
    let mut same = recipe(structure.clone());
    same.average.most = 0.0;
    let same = begin(same, &teacher).validate(100).expect("held out");
    // f32, packed against plain.
    assert!(same < 1e-9, "{same}");
    let mut smaller = recipe(structure);
    smaller.student.down_dims = Some(vec![8]);
    smaller.optimizer.steps = 200;
    smaller.optimizer.rate = 1e-2;
    let mut smaller = begin(smaller, &teacher);
    let parameters = Policy::load(&teacher, &Device::flex())
        .expect("a policy")
        .parameters();
    assert!(smaller.network().parameters() < parameters / 2);
    let before = smaller.validate(100).expect("held out");
    for _ in 0..200 {
        smaller.step().expect("finite");
    }
    let after = smaller.validate(100).expect("held out");
    // It learned most of what there is to learn.
    assert!(after < 0.2 * before, "{before} {after}");
}

/// Rounding its weights to four bits takes a student from its teacher; learning with the rounding brings it back, and what is
/// saved and packed is what learned.
#[test]
fn students_learn_to_live_with_codes() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher(folder.path());
    let mut rounded = recipe(DistillRecipe {
        kind: Kind::Structure,
        emphasis: EmphasisRecipe::MinSnr(1.0),
        ..DistillRecipe::default()
    });
    rounded.student.precision = Some(Codes::Int4);
    rounded.optimizer.steps = 400;
    rounded.optimizer.rate = 1e-4;
    let mut student = begin(rounded, &teacher);
    let before = student.validate(100).expect("held out");
    assert!(before > 1e-6, "codes of four bits are no numbers: {before}");
    for _ in 0..400 {
        student.step().expect("finite");
    }
    let after = student.validate(100).expect("held out");
    assert!(after < 0.5 * before, "{before} {after}");

    let out = folder.path().join("student");
    student.save_policy(&out).expect("saved");
    let device = Device::flex();
    let plain = Policy::load(&out, &device).expect("a policy");
    let mut packed = plain.clone();
    let _ = packed.pack(Precision::INT4);
    // What rehearses answers what is packed, not what is saved.
    let points = [Point {
        t: 10.0,
        level: plain.config().schedule().expect("a schedule").level(10.0),
    }];
    let config = plain.config();
    device.seed(1);
    let even = Distribution::Uniform(-1.0, 1.0);
    let x = Tensor::<3>::random([4, config.horizon, config.action.len], even, &device);
    let condition = Tensor::<2>::random([4, config.condition_dim()], even, &device);
    let answer = |network: &ConditionalUnet1d| {
        let prepared = network.prepare(&condition);
        network.forward(x.clone(), &points, &prepared)
    };
    let distance = |a: Tensor<3>, b: Tensor<3>| {
        let of = |x: Tensor<3>| x.square().sum().sqrt().into_scalar::<f32>();
        of(a - b.clone()) / of(b)
    };
    let rehearsed = answer(student.network());
    let [of_packed, of_plain] = [&packed, &plain].map(|it| answer(it.network()));
    let near = distance(rehearsed.clone(), of_packed.clone());
    let far = distance(of_plain, of_packed);
    assert!(near < 0.1 * far, "{near} {far}");
}

#[test]
fn what_cannot_be_learned_is_an_error_that_names_the_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let teacher = teacher(folder.path());
    type Change = fn(&mut Distillation);
    let changes: [(Change, &str); 18] = [
        (|it| it.distill.steps = Some(0), "`distill.steps`"),
        (|it| it.distill.steps = Some(21), "`distill.steps`"),
        (
            |it| it.distill.teacher_steps = Some(21),
            "`distill.teacher_steps`",
        ),
        (
            |it| it.distill.teacher_steps = Some(7),
            "multiple of `distill.steps`",
        ),
        (|it| it.distill.skip = Some(11), "`distill.skip`"),
        (|it| it.distill.convert = Some(9), "`distill.convert`"),
        (|it| it.distill.huber = Some(0.0), "`distill.huber`"),
        (
            |it| it.distill.target_decay = Some(1.0),
            "`distill.target_decay`",
        ),
        (
            |it| it.distill.critic_steps = Some(3),
            "`distill.critic_steps` is for distribution",
        ),
        (
            |it| it.distill.task = Some(1.0),
            "`distill.task` is for structure",
        ),
        (|it| it.optimizer.rate = -1.0, "`optimizer.rate`"),
        (
            |it| it.optimizer.momentum = Some(0.9),
            "`optimizer.momentum`",
        ),
        (
            |it| it.distill.offset = Some(0),
            "`distill.offset` is for progressive and rollout",
        ),
        (
            |it| it.distill = rollout(4, Some(5)),
            "`distill.offset` is 5",
        ),
        (|it| it.distill = rollout(6, Some(0)), "a divisor of"),
        (
            |it| it.distill = rollout(3, None),
            "multiple of `distill.steps`",
        ),
        (
            |it| it.student.prediction_type = Some("x0".into()),
            "`prediction_type`",
        ),
        (|it| it.student.start = Some("nowhere".into()), "nowhere"),
    ];
    for (change, said) in changes {
        let [_, consistency, ..] = kinds();
        let mut recipe = recipe(consistency);
        change(&mut recipe);
        let error = Distiller::new(recipe, &teacher, &dataset(), &Device::flex());
        let error = error.expect_err(said).to_string();
        assert!(error.contains(said), "does not say {said}: {error}");
    }
    // A teacher of other statistics.
    let other = repository("models/pusht");
    let error = Distiller::new(
        recipe(DistillRecipe::default()),
        &other,
        &dataset(),
        &Device::flex(),
    );
    let error = error.expect_err("another dataset");
    assert!(
        matches!(error, TrainError::OtherStatistics { .. }),
        "{error}"
    );
}

#[test]
fn a_checkpoint_of_another_run_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let teacher = teacher(folder);
    let [progressive, ..] = kinds();
    let recipe = recipe(progressive);
    saved(&begin(recipe.clone(), &teacher), folder);
    let checkpoint = folder.join("checkpoint.safetensors");
    let resume = |recipe: Distillation, teacher: &Path| {
        let device = Device::flex();
        let resumed = Distiller::resume(recipe, teacher, &dataset(), &checkpoint, &device);
        resumed.map(|_| ()).map_err(|error| error.to_string())
    };
    resume(recipe.clone(), &teacher).expect("its own");
    let mut other = recipe.clone();
    other.distill.teacher_steps = Some(8);
    let error = resume(other, &teacher).expect_err("another recipe");
    assert!(error.contains("`distill.teacher_steps`"), "{error}");
    // The same policy after some steps more is another teacher. The first step's rate is zero.
    let mut distiller = begin(recipe.clone(), &teacher);
    for _ in 0..4 {
        distiller.step().expect("finite");
    }
    let student = folder.join("student");
    distiller.save_policy(&student).expect("saved");
    let error = resume(recipe, &student).expect_err("another teacher");
    assert!(error.contains("teacher"), "{error}");
}
