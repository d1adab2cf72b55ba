//! The same code learns pictures: a run with a stop is the run without, to the bit; the loss falls; what it writes draws the
//! pictures of the class that is asked for; and packed it draws the same.

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::train::{Step, WeightingRecipe};
use clearway_diffusion::{Level, Network, Noise, Point, Seeded};
use clearway_layers::{Precision, WeightsWriter};
use clearway_stable_diffusion::dataset::Pictures;
use clearway_stable_diffusion::train::{
    ClassifierRecipe, Classifying, Drawing, GuidanceRecipe, Guiding, ModelRecipe, Recipe, Task,
    TrainError, Trainer,
};
use clearway_stable_diffusion::{
    ClassifierConfig, Condition, Emphasis, FeatureStatistics, Method, PictureModel, Sampling,
};

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

fn recipe<N: Default>(steps: u64) -> Recipe<N> {
    let mut recipe = Recipe {
        seed: 5,
        ..Recipe::default()
    };
    recipe.data.batch = 16;
    recipe.data.held_out = 0.1;
    recipe.optimizer.steps = steps;
    recipe.optimizer.rate = 4e-3;
    recipe.optimizer.warm_up = 5;
    recipe.average.most = 0.95;
    recipe
}

/// A network of some ten thousand parameters.
fn model(steps: u64) -> Recipe<ModelRecipe> {
    let mut recipe = recipe::<ModelRecipe>(steps);
    recipe.network.block_out_channels = vec![8, 16];
    recipe.network.norm_num_groups = 4;
    recipe.network.num_train_timesteps = 100;
    recipe
}

fn classifier(steps: u64) -> Recipe<ClassifierRecipe> {
    let mut recipe = recipe::<ClassifierRecipe>(steps);
    recipe.network.channels = [8, 16];
    recipe.network.norm_num_groups = 4;
    recipe
}

fn saved<T: Task + Sync>(trainer: &Trainer<T>, folder: &Path) -> Vec<u8> {
    let path = folder.join("checkpoint.safetensors");
    trainer.save(&path).expect("saved");
    std::fs::read(path).expect("readable")
}

fn steps<T: Task + Sync>(trainer: &mut Trainer<T>, count: usize) -> Vec<f64> {
    let step = |_| {
        let Step { loss, .. } = trainer.step().expect("finite");
        loss
    };
    (0..count).map(step).collect()
}

/// The path and the values of each parameter.
#[derive(Default)]
struct Parameters {
    path: Vec<String>,
    found: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Parameters {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
        let values = parameter.val().into_data().try_to_vec().expect("f32");
        self.found.push((self.path.join("."), values));
    }
}

#[test]
fn first_weights_depend_on_the_seed_alone() {
    let parameters = |seed| {
        let recipe = Recipe { seed, ..model(10) };
        let trainer = Trainer::<Drawing>::new(recipe, pictures(20), &Device::flex());
        let mut parameters = Parameters::default();
        trainer.expect("a recipe").network().visit(&mut parameters);
        parameters.found
    };
    let first = parameters(5);
    assert_eq!(first, parameters(5));
    let other = parameters(6);
    for ((path, values), (_, others)) in first.iter().zip(&other) {
        if path.contains("norm") {
            let expected = if path.ends_with("weight") { 1.0 } else { 0.0 };
            assert_eq!(*values, vec![expected; values.len()], "{path}");
        } else {
            assert_ne!(values, others, "{path}");
        }
    }
    assert!(
        first
            .iter()
            .any(|(path, _)| path.contains("class_embedding"))
    );
}

fn stops_and_goes_on<T: Task + Sync + std::fmt::Debug>(recipe: &Recipe<T::Recipe>) {
    let folder = tempfile::tempdir().expect("a folder");
    let (folder, device) = (folder.path(), Device::flex());
    let begin = || Trainer::<T>::new(recipe.clone(), pictures(60), &device).expect("a recipe");
    let mut whole = begin();
    let losses = steps(&mut whole, 9);
    let mut first = begin();
    let mut again = steps(&mut first, 4);
    // Looking changes nothing.
    let validation = first.validate(100);
    assert!(validation.is_some());
    assert_eq!(first.validate(100), validation);
    saved(&first, folder);
    let checkpoint = folder.join("checkpoint.safetensors");
    let resume = |recipe: &Recipe<T::Recipe>, count| {
        Trainer::<T>::resume(recipe.clone(), pictures(count), &checkpoint, &device)
    };
    let mut resumed = resume(recipe, 60).expect("its own checkpoint");
    assert_eq!(resumed.steps(), 4);
    assert_eq!(resumed.validate(100), validation);
    again.extend(steps(&mut resumed, 5));
    assert_eq!(losses, again);
    // Weights, averages and moments.
    assert!(saved(&whole, folder) == saved(&resumed, folder));
    let mut other = recipe.clone();
    other.seed += 1;
    let error = resume(&other, 60).expect_err("is of another run");
    assert!(
        error.to_string().ends_with("its `seed` is another"),
        "{error}"
    );
    let error = resume(recipe, 61).expect_err("is of other pictures");
    assert!(matches!(error, TrainError::OtherRun { .. }), "{error}");
    // A longer run is the same run.
    let mut longer = recipe.clone();
    longer.optimizer.steps *= 2;
    assert_eq!(resume(&longer, 60).expect("the same run").steps(), 9);
}

#[test]
fn a_run_with_a_stop_is_the_run_without() {
    stops_and_goes_on::<Drawing>(&model(100));
    let mut weighted = model(100);
    weighted.network.weighting = WeightingRecipe::MinSnr(5.0);
    weighted.network.prediction_type = "epsilon".into();
    stops_and_goes_on::<Drawing>(&weighted);
    stops_and_goes_on::<Classifying>(&classifier(100));
}

#[test]
fn what_is_learned_is_drawn() {
    let (device, folder) = (Device::flex(), tempfile::tempdir().expect("a folder"));
    let (of_model, of_classifier) = (
        folder.path().join("model"),
        folder.path().join("classifier"),
    );
    let mean = |losses: &[f64]| losses.iter().sum::<f64>() / losses.len() as f64;

    let mut trainer =
        Trainer::<Classifying>::new(classifier(60), pictures(200), &device).expect("a recipe");
    let losses = steps(&mut trainer, 60);
    assert!(mean(&losses[50..]) < 0.2 * mean(&losses[..5]), "{losses:?}");
    trainer.save_network(&of_classifier).expect("written");

    let mut trainer =
        Trainer::<Drawing>::new(model(400), pictures(200), &device).expect("a recipe");
    let losses = steps(&mut trainer, 400);
    assert!(
        mean(&losses[350..]) < 0.4 * mean(&losses[..5]),
        "{losses:?}"
    );
    trainer.save_network(&of_model).expect("written");

    let drawn = PictureModel::open(&of_model, &device).expect("what was written");
    assert_eq!(drawn.form().labels, ["above", "below"]);
    let (config, judge) =
        ClassifierConfig::open(&of_classifier, &device).expect("what was written");
    let look = |pixels: &[u8]| {
        let values: Vec<f32> = pixels
            .iter()
            .map(|&it| f32::from(it) / 127.5 - 1.0)
            .collect();
        let shape = [pixels.len() / 64, config.in_channels, 8, 8];
        judge.features(Tensor::from_data(TensorData::new(values, shape), &device))
    };
    let features = |pixels: &[u8]| -> FeatureStatistics {
        let features: Vec<f32> = look(pixels).into_data().try_to_vec().expect("f32");
        FeatureStatistics::of(&features, config.channels[1]).expect("enough")
    };
    let known = pictures(200);
    let reference: Vec<u8> = (0..200).flat_map(|at| known.pixels(at).to_vec()).collect();
    let reference = features(&reference);
    let classes: Vec<usize> = (0..40).map(|at| at % 2).collect();
    let seeds: Vec<u64> = (0..40).collect();
    let sampling = Sampling {
        method: Method::Ddim,
        steps: 10,
        spacing: None,
    };
    for emphasis in [Emphasis::None, Emphasis::TwoPasses(1.5)] {
        let pixels = drawn
            .draw(&classes, &seeds, sampling, emphasis)
            .expect("it can be sampled");
        let answers: Vec<f32> = judge
            .answers(look(&pixels))
            .into_data()
            .try_to_vec()
            .expect("f32");
        let right = (answers.chunks(2).zip(&classes))
            .filter(|(answers, class)| (answers[1] > answers[0]) == (**class == 1))
            .count();
        assert!(
            right >= 38,
            "{emphasis:?}: {right} of 40 are of their class"
        );
        // Nearer to what was learned than the same pictures upside down or as noise would be.
        let distance = features(&pixels).distance(&reference);
        let grey: Vec<u8> = (0..2560_usize).map(|at| (at * 97 % 251) as u8).collect();
        let far = features(&grey).distance(&reference);
        assert!(
            distance < 0.2 * far,
            "{emphasis:?}: {distance}, of noise {far}"
        );
        // A picture depends on its own seed and class, and not on what is drawn beside it.
        let mut packed = drawn.clone();
        let report = packed.pack(Precision::F32);
        assert!(report.layers > 10);
        let all = packed
            .draw(&classes, &seeds, sampling, emphasis)
            .expect("it can be sampled");
        let alone = packed
            .draw(&classes[7..8], &seeds[7..8], sampling, emphasis)
            .expect("it can be sampled");
        assert_eq!(alone, all[7 * 64..8 * 64]);
        // A rounding may tip a value from one of 256 levels to the next.
        let most = all.iter().zip(&pixels).map(|(a, b)| a.abs_diff(*b)).max();
        assert!(most <= Some(1), "{emphasis:?}: {most:?}");
    }
}

#[test]
fn guidance_becomes_one_pass() {
    let (device, folder) = (Device::flex(), tempfile::tempdir().expect("a folder"));
    let of_teacher = folder.path().join("teacher");
    let mut teacher =
        Trainer::<Drawing>::new(model(200), pictures(200), &device).expect("a recipe");
    steps(&mut teacher, 200);
    teacher.save_network(&of_teacher).expect("written");
    let teacher_unet = teacher.network().clone();
    let mut recipe = recipe::<GuidanceRecipe>(1600);
    recipe.optimizer.rate = 2e-3;
    recipe.network.teacher = of_teacher.clone();
    recipe.network.time_cond_proj_dim = 16;
    stops_and_goes_on::<Guiding>(&recipe);
    let mut student =
        Trainer::<Guiding>::new(recipe.clone(), pictures(200), &device).expect("a recipe");
    // It begins as its teacher without guidance.
    let before = student.validate(100).expect("held out");
    steps(&mut student, 1600);
    let after = student.validate(100).expect("held out");
    assert!(after < 0.2 * before, "{before} {after}");
    let of_student = folder.path().join("student");
    student.save_network(&of_student).expect("written");
    let student = PictureModel::open(&of_student, &device).expect("what was written");
    assert!(student.unet().knows_guidance());
    recipe.network.teacher = of_student;
    let error = Trainer::<Guiding>::new(recipe.clone(), pictures(20), &device)
        .expect_err("a student is no teacher");
    assert!(matches!(error, TrainError::Guided { .. }), "{error}");
    // Codes have no gradient, and a student would begin without them.
    let mut packed = PictureModel::open(&of_teacher, &device).expect("what was written");
    let _ = packed.pack(Precision::Int8);
    let mut writer = WeightsWriter::default();
    packed.unet().save(&mut writer);
    writer.packing(&Precision::Int8.into());
    let of_packed = folder.path().join("packed");
    packed
        .with_unet(teacher_unet)
        .save(&of_packed)
        .expect("written");
    let file = of_packed.join("unet/diffusion_pytorch_model.safetensors");
    writer.write(&file).expect("written");
    recipe.network.teacher = of_packed;
    let error = Trainer::<Guiding>::new(recipe.clone(), pictures(20), &device)
        .expect_err("codes are no beginning");
    assert!(matches!(error, TrainError::Packed { .. }), "{error}");
    recipe.network.scales = [2.0, 2.0];
    let error = Trainer::<Guiding>::new(recipe, pictures(20), &device).expect_err("no scales");
    assert_eq!(
        error.to_string(),
        "`guidance.scales` is [2.0, 2.0]; it must be two numbers from 0, the larger one last"
    );
    let teacher = PictureModel::open(&of_teacher, &device).expect("what was written");
    let (classes, seeds) = ([0, 1, 0, 1], [1, 2, 3, 4]);
    let sampling = Sampling {
        method: Method::Ddim,
        steps: 8,
        spacing: None,
    };
    let draw = |model: &PictureModel, emphasis| -> Vec<f64> {
        let pixels = model.draw(&classes, &seeds, sampling, emphasis);
        pixels
            .expect("it can be sampled")
            .into_iter()
            .map(f64::from)
            .collect()
    };
    let distance = |a: &[f64], b: &[f64]| -> f64 {
        a.iter()
            .zip(b)
            .map(|(a, b)| (a - b).powi(2))
            .sum::<f64>()
            .sqrt()
    };
    let guided = draw(&teacher, Emphasis::TwoPasses(2.0));
    let known = draw(&student, Emphasis::Known(2.0));
    let unguided = draw(&teacher, Emphasis::None);
    let (of_student, of_none) = (distance(&known, &guided), distance(&unguided, &guided));
    assert!(of_student < 0.8 * of_none, "{of_student} {of_none}");
}

#[test]
fn a_packed_network_is_the_plain_one() {
    let device = Device::flex();
    let trainer = Trainer::<Drawing>::new(model(10), pictures(20), &device).expect("a recipe");
    let plain = trainer.network();
    let x = Seeded::new(1, 3).draw(&[3, 4, 4, 4]);
    let x = Tensor::<4>::from_data(TensorData::new(x, [3, 4, 4, 4]), &device);
    let points = [900.0, 300.0, 5.0].map(|t| Point {
        t,
        level: Level::CLEAN,
    });
    let pass = |network: &clearway_stable_diffusion::Unet| {
        let prepared = network.prepare(&Condition::classes(vec![0, 2, 1]));
        network.forward(x.clone(), &points, &prepared)
    };
    let expected = pass(plain);
    let norm = |x: Tensor<4>| -> f64 {
        let sum: f32 = x.square().sum().into_scalar();
        f64::from(sum).sqrt()
    };
    // Of the output's norm: what rounding weights and inputs to so many bits does to a network of some dozen layers.
    for (precision, tolerance) in [
        (Precision::F32, 1e-5),
        (Precision::Bf16, 3e-2),
        (Precision::Int8, 6e-2),
    ] {
        let mut packed = plain.clone();
        let report = packed.pack(precision);
        assert!(report.layers > 10, "{report:?}");
        let error = norm(pass(&packed) - expected.clone()) / norm(expected.clone());
        assert!(error < tolerance, "{precision:?}: {error:e}");
    }
}

#[test]
fn recipes_that_cannot_be_trained_are_named() {
    let device = Device::flex();
    let error = |change: &dyn Fn(&mut Recipe<ModelRecipe>)| {
        let mut recipe = model(10);
        change(&mut recipe);
        let trainer = Trainer::<Drawing>::new(recipe, pictures(20), &device);
        trainer.expect_err("cannot be trained").to_string()
    };
    assert_eq!(
        error(&|it| it.network.patch_size = 3),
        "pictures of 8 × 8 pixels cannot be cut into squares of 3"
    );
    assert_eq!(
        error(&|it| it.network.labels = Some(vec!["one".into()])),
        "the recipe names 1 classes, and the dataset has 2"
    );
    assert_eq!(
        error(&|it| it.network.block_out_channels = vec![8, 14]),
        "`pictures.block_out_channels` is [8, 14]; it must be multiples of the 4 groups of `norm_num_groups`"
    );
    assert_eq!(
        error(&|it| it.network.unconditional = 1.0),
        "`pictures.unconditional` is 1; it must be at least 0 and below 1"
    );
    assert_eq!(
        error(&|it| it.data.batch = 0),
        "`data.batch` is 0; it must be from 1 to 65536"
    );
    assert_eq!(
        error(&|it| it.data.held_out = 0.99),
        "no picture is left to train on: 20, of which 20 are held out"
    );
    let said = error(&|it| it.network.prediction_type = "noise".into());
    assert!(said.contains("`prediction_type` is \"noise\""), "{said}");
    let said = error(&|it| it.network.layers_per_block = vec![1, 1, 1]);
    assert!(said.contains("`layers_per_block`"), "{said}");
}
