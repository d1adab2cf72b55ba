//! A model of pictures that learns from another needs fewer steps or fewer blocks; one that was interrupted and resumed is the one
//! that was not, to the bit, whatever it learns; and a student of a teacher that knows guidance scales knows them too.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use clearway_diffusion::distill::{DistillRecipe, EmphasisRecipe, Kind};
use clearway_diffusion::{Noise, Seeded};
use clearway_stable_diffusion::dataset::Pictures;
use clearway_stable_diffusion::train::distill::{Distillation, Distiller};
use clearway_stable_diffusion::train::{
    Drawing, GuidanceRecipe, Guiding, ModelRecipe, Recipe, TrainError, Trainer,
};
use clearway_stable_diffusion::{Emphasis, Method, PictureModel, Sampling};

/// Pictures of 8 × 8 pixels: bright above where the class is 0, bright below where it is 1, with some noise.
fn pictures(count: usize) -> Pictures {
    let mut noise = Seeded::new(3, count);
    let noise = noise.draw(&[count, 64]);
    let labels: Vec<usize> = (0..count).map(|at| at * 7 / 3 % 2).collect();
    let pixels = noise.iter().enumerate().map(|(at, noise)| {
        let (picture, row) = (at / 64, at % 64 / 8);
        let bright = (row < 4) == (labels[picture] == 0);
        let level = if bright { 200.0 } else { 40.0 };
        (level + 10.0 * noise).clamp(0.0, 255.0) as u8
    });
    let pixels = pixels.collect();
    let names = ["above", "below"].map(String::from).into();
    Pictures::new([8, 8], 1, pixels, labels, names)
}

fn training<N: Default>(steps: u64) -> Recipe<N> {
    let mut recipe = Recipe {
        seed: 5,
        ..Recipe::default()
    };
    recipe.data.batch = 16;
    recipe.optimizer.steps = steps;
    recipe.optimizer.rate = 4e-3;
    recipe.optimizer.warm_up = 5;
    recipe.average.most = 0.95;
    recipe
}

/// A teacher of some thousands of parameters, trained for some steps.
fn teacher(folder: &Path, steps: u64) -> PathBuf {
    let mut recipe = training::<ModelRecipe>(steps);
    recipe.network.block_out_channels = vec![8, 16];
    recipe.network.norm_num_groups = 4;
    recipe.network.num_train_timesteps = 100;
    let device = Device::flex();
    let mut trainer = Trainer::<Drawing>::new(recipe, pictures(100), &device).expect("a recipe");
    for _ in 0..steps {
        trainer.step().expect("finite");
    }
    let teacher = folder.join("teacher");
    trainer.save_network(&teacher).expect("written");
    teacher
}

/// One that knows the guidance scale.
fn guided(folder: &Path, steps: u64) -> PathBuf {
    let mut recipe = training::<GuidanceRecipe>(steps);
    recipe.network.teacher = teacher(folder, steps);
    recipe.network.time_cond_proj_dim = 16;
    let device = Device::flex();
    let mut trainer = Trainer::<Guiding>::new(recipe, pictures(100), &device).expect("a recipe");
    for _ in 0..steps {
        trainer.step().expect("finite");
    }
    let guided = folder.join("guided");
    trainer.save_network(&guided).expect("written");
    guided
}

fn recipe(distill: DistillRecipe, steps: u64) -> Distillation {
    let mut recipe = Distillation {
        seed: 3,
        distill,
        ..Distillation::default()
    };
    recipe.data.batch = 8;
    recipe.data.held_out = 0.1;
    recipe.optimizer.steps = steps;
    recipe.optimizer.rate = 2e-3;
    recipe.optimizer.warm_up = 2;
    recipe.average.most = 0.9;
    recipe
}

/// One of each kind, with phases that end within nine steps.
fn kinds() -> [Distillation; 4] {
    let few = |kind| DistillRecipe {
        kind,
        steps: Some(1),
        ..DistillRecipe::default()
    };
    let mut progressive = recipe(
        DistillRecipe {
            teacher_steps: Some(8),
            emphasis: EmphasisRecipe::TruncatedSnr,
            ..few(Kind::Progressive)
        },
        9,
    );
    progressive.student.scales = Some([2.0, 2.0]);
    let mut consistency = recipe(
        DistillRecipe {
            steps: Some(2),
            teacher_steps: Some(10),
            skip: Some(3),
            convert: Some(3),
            huber: Some(0.01),
            ..few(Kind::Consistency)
        },
        9,
    );
    consistency.student.prediction_type = Some("sample".into());
    let distribution = recipe(few(Kind::Distribution), 9);
    let mut structure = recipe(
        DistillRecipe {
            kind: Kind::Structure,
            emphasis: EmphasisRecipe::MinSnr(5.0),
            task: Some(0.5),
            ..DistillRecipe::default()
        },
        9,
    );
    structure.student.mid_block = Some(false);
    [progressive, consistency, distribution, structure]
}

fn begin(recipe: &Distillation, teacher: &Path) -> Distiller {
    let distiller = Distiller::new(recipe.clone(), teacher, pictures(60), &Device::flex());
    distiller.expect("a recipe")
}

fn losses(distiller: &mut Distiller, count: u64) -> Vec<f64> {
    let step = |_| distiller.step().expect("finite").loss;
    (0..count).map(step).collect()
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
    let (teacher, device) = (guided(folder, 20), Device::flex());
    for recipe in kinds() {
        let kind = recipe.distill.kind;
        let mut whole = begin(&recipe, &teacher);
        let expected = losses(&mut whole, 9);
        let end = saved(&whole, folder);
        // At the beginning, within a phase, and where one ends and the next begins.
        for stop in [0, 2, 3, 6, 7] {
            let mut first = begin(&recipe, &teacher);
            let mut again = losses(&mut first, stop);
            // Looking changes nothing.
            let validation = first.validate(100);
            assert_eq!(validation.is_some(), kind != Kind::Distribution);
            assert_eq!(first.validate(100), validation);
            saved(&first, folder);
            drop(first);
            let checkpoint = folder.join("checkpoint.safetensors");
            let resume = |recipe: &Distillation, count| {
                let (recipe, pictures) = (recipe.clone(), pictures(count));
                Distiller::resume(recipe, &teacher, pictures, &checkpoint, &device)
            };
            let mut resumed = resume(&recipe, 60).expect("its own checkpoint");
            assert_eq!(resumed.steps(), stop);
            assert_eq!(resumed.validate(100), validation, "{kind:?} at {stop}");
            if stop == 2 {
                let mut other = recipe.clone();
                other.optimizer.steps += 1;
                let error = resume(&other, 60).expect_err("is of another run");
                assert!(error.to_string().contains("`optimizer.steps`"), "{error}");
                let error = resume(&recipe, 61).expect_err("is of other pictures");
                assert!(error.to_string().contains("dataset"), "{error}");
            }
            again.extend(losses(&mut resumed, 9 - stop));
            assert_eq!(expected, again, "{kind:?} at {stop}");
            // Weights, averages, moments, targets and critics.
            assert!(saved(&resumed, folder) == end, "{kind:?} at {stop}");
        }
        let mut other = recipe.clone();
        other.seed += 1;
        let mut other = begin(&other, &teacher);
        losses(&mut other, 9);
        assert!(saved(&other, folder) != end, "{kind:?}");
    }
}

fn draw(model: &PictureModel, steps: usize, emphasis: Emphasis) -> Vec<f64> {
    let (classes, seeds) = ([0, 1, 0, 1, 0, 1, 0, 1], [1, 2, 3, 4, 5, 6, 7, 8]);
    let sampling = Sampling {
        method: Method::Ddim,
        steps,
        spacing: None,
    };
    let pixels = model.draw(&classes, &seeds, sampling, emphasis);
    let pixels = pixels.expect("it can be sampled");
    pixels.into_iter().map(f64::from).collect()
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
    squares.sum::<f64>().sqrt()
}

#[test]
fn one_step_does_what_four_did() {
    let folder = tempfile::tempdir().expect("a folder");
    let (teacher, device) = (guided(folder.path(), 200), Device::flex());
    let distill = DistillRecipe {
        kind: Kind::Progressive,
        steps: Some(1),
        teacher_steps: Some(4),
        ..DistillRecipe::default()
    };
    let mut recipe = recipe(distill, 600);
    recipe.optimizer.rate = 4e-3;
    recipe.student.scales = Some([1.5, 2.5]);
    let mut distiller = begin(&recipe, &teacher);
    assert_eq!(distiller.passes(), Some(2));
    losses(&mut distiller, 300);
    assert_eq!(distiller.completed(), Some(2));
    losses(&mut distiller, 300);
    assert_eq!(distiller.passes(), Some(1));
    let of_student = folder.path().join("student");
    distiller.save_model(&of_student).expect("written");
    assert!(PictureModel::is_in(&of_student));
    let [teacher, student] = [&teacher, &of_student]
        .map(|folder| PictureModel::open(folder, &device).expect("what was written"));
    assert!(student.unet().knows_guidance());
    for scale in [1.5, 2.5] {
        let emphasis = Emphasis::Known(scale);
        let expected = draw(&teacher, 4, emphasis);
        let at_once = distance(&draw(&teacher, 1, emphasis), &expected);
        let learned = distance(&draw(&student, 1, emphasis), &expected);
        assert!(learned < 0.8 * at_once, "{scale}: {learned} {at_once}");
    }
}

#[test]
fn a_student_without_a_block_begins_with_those_that_are_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let (teacher, device) = (teacher(folder.path(), 200), Device::flex());
    let distill = DistillRecipe {
        kind: Kind::Structure,
        ..DistillRecipe::default()
    };
    let mut recipe = recipe(distill, 200);
    let whole = begin(&recipe, &teacher).validate(100).expect("held out");
    // The teacher's own weights answer what the teacher does, but for the order of a packed sum.
    assert!(whole < 1e-8, "{whole}");
    recipe.student.mid_block = Some(false);
    let mut smaller = begin(&recipe, &teacher);
    let before = smaller.validate(100).expect("held out");
    losses(&mut smaller, 200);
    let after = smaller.validate(100).expect("held out");
    assert!(after < 0.5 * before, "{before} {after}");
    assert_eq!((smaller.passes(), smaller.completed()), (None, None));
    let of_student = folder.path().join("student");
    smaller.save_model(&of_student).expect("written");
    let [teacher, student] = [&teacher, &of_student]
        .map(|folder| PictureModel::open(folder, &device).expect("what was written"));
    assert!(student.unet().parameters() < teacher.unet().parameters());
    draw(&student, 4, Emphasis::TwoPasses(2.0));
}

#[test]
fn lessons_that_cannot_be_learned_are_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    let guided = guided(folder, 2);
    let teacher = folder.join("teacher");
    let [progressive, ..] = kinds();
    let error = |teacher: &Path, change: &dyn Fn(&mut Distillation)| -> TrainError {
        let mut recipe = progressive.clone();
        change(&mut recipe);
        let distiller = Distiller::new(recipe, teacher, pictures(60), &Device::flex());
        distiller.expect_err("cannot be learned")
    };
    let said =
        |teacher: &Path, change: &dyn Fn(&mut Distillation)| error(teacher, change).to_string();
    assert_eq!(
        said(&teacher, &|_| {}),
        "`student.scales` is for teachers that know guidance scales: distil the guidance first, see `[guidance]`"
    );
    assert_eq!(
        said(&guided, &|it| it.student.scales = Some([2.0, 1.0])),
        "`student.scales` is [2.0, 1.0]; it must be two numbers from 0, the second not below the first"
    );
    assert_eq!(
        said(&guided, &|it| it.distill.teacher_steps = Some(6)),
        "`distill.teacher_steps` is 6; it must be 2, 4, 8, .. times `distill.steps`"
    );
    assert_eq!(
        said(&guided, &|it| it.distill.skip = Some(2)),
        "`distill.skip` is for consistency, and not for progressive"
    );
    assert_eq!(
        said(&guided, &|it| it.data.batch = 0),
        "`data.batch` is 0; it must be from 1 to 65536"
    );
    let missing = said(&guided, &|it| {
        it.student.start = Some(folder.join("nowhere"))
    });
    assert!(missing.contains("nowhere"), "{missing}");
    let other = error(&guided, &|it| it.student.start = Some(teacher.clone()));
    assert!(
        other
            .to_string()
            .ends_with("its time_cond_proj_dim is another"),
        "{other}"
    );
    let blocks = said(&guided, &|it| {
        it.student.layers_per_block = Some(vec![1, 1, 1])
    });
    assert!(blocks.contains("`layers_per_block`"), "{blocks}");
}
