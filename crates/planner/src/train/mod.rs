//! Policies from demonstrations.
//!
//! A [`Trainer`] is a loop's body: [`step`](Trainer::step), and between steps [`validate`](Trainer::validate),
//! [`save`](Trainer::save) and [`save_policy`](Trainer::save_policy). When to do which, when to stop and what to show is
//! the loop's matter.
//!
//! ```text
//! Recipe + Dataset --> Trainer --step--> loss
//!                         |  \--save--> a checkpoint --resume--> Trainer
//!                         \--save_policy--> a folder of LeRobot's
//! ```
//!
//! A [`Distiller`] is the same loop's body for a student that learns from a policy what demonstrations alone do not say.
//!
//! Everything that is drawn depends on the recipe's seed and the number of the step alone, so that a run that was
//! interrupted and resumed is the run that was not, to the bit.

mod checkpoint;
mod distill;
mod error;
mod examples;
#[cfg(test)]
mod initialize;
mod recipe;
mod task;

use std::collections::BTreeMap;
use std::path::Path;

use burn::tensor::{Device, Tensor};
use clearway_diffusion::Point;
use clearway_diffusion::train::{Fitting, Levels, initialize};
use clearway_layers::{AdamW, Muon, ResumableOptimizer, Rule, in_pool};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

pub use clearway_diffusion::train::{
    AverageRecipe, Decay, OptimizerKind, OptimizerRecipe, Step, Weighting, WeightingRecipe,
};
pub use distill::{
    Codes, DistillRecipe, Distillation, Distiller, EmphasisRecipe, Kind, StudentRecipe,
};
pub use error::TrainError;
pub use recipe::{DataRecipe, LossRecipe, PolicyRecipe, Recipe};

use crate::dataset::{Batches, Dataset};
use crate::lerobot::DiffusionConfig;
use crate::lerobot::save::Saved;
use crate::network::ConditionalUnet1d;
use examples::Examples;
use task::Task;

/// The seeds of what is drawn, all from one.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    weights: u64,
    order: u64,
    levels: u64,
    noise: u64,
    held_out: u64,
    validation: u64,
}

impl Seeds {
    fn new(seed: u64) -> Self {
        let mut generator = ChaCha8Rng::seed_from_u64(seed);
        let mut draw = || generator.next_u64();
        Self {
            weights: draw(),
            order: draw(),
            levels: draw(),
            noise: draw(),
            held_out: draw(),
            validation: draw(),
        }
    }
}

/// A policy that is being trained.
#[derive(Debug)]
pub struct Trainer {
    recipe: Recipe,
    seeds: Seeds,
    json: Value,
    config: DiffusionConfig,
    statistics: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
    task: Task,
    dataset_hash: String,
    training: Vec<usize>,
    held_out: Vec<usize>,
    batches: Batches,
    fitting: Fitting<ConditionalUnet1d>,
    optimizer: ResumableOptimizer,
}

impl Trainer {
    /// Reads a dataset and begins.
    ///
    /// # Errors
    ///
    /// If the dataset cannot be read, the recipe describes no policy for it, or nothing is left to train on.
    pub fn new(recipe: Recipe, folder: &Path, device: &Device) -> Result<Self, TrainError> {
        recipe.check()?;
        let inputs = &recipe.policy.inputs;
        let known = ["observation.state", "observation.environment_state"];
        for (i, name) in inputs.iter().enumerate() {
            if !known.contains(&name.as_str()) || inputs[..i].contains(name) {
                return Err(TrainError::Input {
                    found: name.clone(),
                });
            }
        }
        let features: Vec<&str> = (inputs.iter().map(String::as_str))
            .chain(["action"])
            .collect();
        let dataset = Dataset::open(folder, &features)?;
        let (json, config) = recipe.config(&dataset)?;
        let schedule = config.schedule()?;
        let parameterization = config.prediction.into();
        let seeds = Seeds::new(recipe.seed);

        let [training, held_out] = split(
            &dataset,
            seeds.held_out,
            recipe.data.held_out,
            recipe.dropped(),
        )?;
        let batches = recipe.data.order.of(seeds.order, training.len());
        let dataset_hash = dataset.hash();
        let (examples, statistics) = Examples::new(dataset, &config)?;
        let network = initialize(config.network().init(device), seeds.weights);
        let fitting = Fitting::new(network, recipe.average.clone().into());
        let optimizer = ResumableOptimizer::new(rule(&recipe.optimizer));
        let task = Task {
            schedule,
            parameterization,
            examples,
            recipe: recipe.loss.clone(),
            device: device.clone(),
        };
        Ok(Self {
            recipe,
            seeds,
            json,
            config,
            statistics,
            task,
            dataset_hash,
            training,
            held_out,
            batches,
            fitting,
            optimizer,
        })
    }

    /// The recipe.
    pub fn recipe(&self) -> &Recipe {
        &self.recipe
    }

    /// The policy's configuration.
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// The demonstrations.
    pub fn dataset(&self) -> &Dataset {
        self.task.examples.dataset()
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.fitting.steps()
    }

    /// How many windows are trained on, and how many are held out.
    pub fn windows(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &ConditionalUnet1d {
        self.fitting.average()
    }

    /// Makes a step.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite; then nothing has changed.
    pub fn step(&mut self) -> Result<Step, TrainError> {
        let (step, batch) = (self.steps(), self.recipe.data.batch);
        let windows = self.batches.draw(step, batch);
        let frames: Vec<usize> = windows.iter().map(|&at| self.training[at]).collect();
        let points = Levels::Timesteps.draw(&self.task.schedule, self.seeds.levels, step, batch);
        let noise = self.task.noise(self.seeds.noise ^ step, batch);
        in_pool(|| self.step_on(&frames, &points, noise))
    }

    /// Makes a step with what is drawn for it.
    fn step_on(
        &mut self,
        frames: &[usize],
        points: &[Point],
        noise: Tensor<3>,
    ) -> Result<Step, TrainError> {
        let Self {
            recipe,
            task,
            fitting,
            optimizer,
            ..
        } = self;
        let OptimizerRecipe { clip, .. } = recipe.optimizer;
        let step = fitting.step(
            recipe.optimizer.rates(),
            clip,
            |network| task.loss(network, frames, points, noise),
            |rate, network, gradients| optimizer.step(rate, network, gradients),
        );
        Ok(step?)
    }

    /// The loss of the averaged network on the windows that are held out, at levels and with noise that are the same every
    /// time; none if none are held out.
    ///
    /// Where there are more than `most`, some of them are looked at, spread over all.
    pub fn validate(&self, most: usize) -> Option<f64> {
        let count = self.held_out.len().min(most);
        if count == 0 {
            return None;
        }
        let frames: Vec<usize> = (0..count)
            .map(|i| self.held_out[i * self.held_out.len() / count])
            .collect();
        let (task, network, seed) = (&self.task, self.network(), self.seeds.validation);
        let batches = frames.chunks(self.recipe.data.batch);
        let losses = batches.zip(0_u64..).map(|(frames, i)| {
            let points = Levels::Timesteps.draw(&task.schedule, seed, i, frames.len());
            let noise = task.noise(seed ^ i, frames.len());
            let loss = in_pool(|| task.loss(network, frames, &points, noise));
            let loss: f32 = loss.into_scalar();
            f64::from(loss) * frames.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes the policy of averaged weights as LeRobot's `save_pretrained` does; LeRobot and
    /// [`Policy::load`](crate::Policy::load) read it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save_policy(&self, folder: &Path) -> Result<(), TrainError> {
        let saved = Saved {
            json: &self.json,
            config: &self.config,
            statistics: &self.statistics,
            network: self.fitting.average(),
            sampling: None,
        };
        saved.write(folder).map_err(|error| TrainError::Write {
            file: folder.display().to_string(),
            error,
        })
    }
}

/// The frames that are trained on, and those that are held out: whole episodes.
fn split(
    dataset: &Dataset,
    seed: u64,
    share: f64,
    dropped: usize,
) -> Result<[Vec<usize>; 2], TrainError> {
    let mut episodes: Vec<usize> = (0..dataset.episodes().len()).collect();
    episodes.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let aside = (share * episodes.len() as f64).round() as usize;
    // Who asks for a validation shall have one.
    let aside = aside.max(usize::from(share > 0.0));
    let (aside, trained) = episodes.split_at_mut(aside);
    aside.sort_unstable();
    trained.sort_unstable();
    let training = dataset.frames(trained, dropped);
    let held_out = dataset.frames(aside, dropped);
    if training.is_empty() {
        return Err(TrainError::NoWindow {
            episodes: dataset.episodes().len(),
            held_out: aside.len(),
            dropped,
        });
    }
    Ok([training, held_out])
}

/// The optimizer that a recipe asks for.
pub(crate) fn rule(optimizer: &OptimizerRecipe) -> Rule {
    let adamw = AdamW {
        betas: optimizer.betas,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
    };
    match optimizer.kind {
        OptimizerKind::AdamW => Rule::AdamW(adamw),
        OptimizerKind::Muon => Rule::Muon {
            matrices: Muon {
                momentum: optimizer.momentum.unwrap_or(0.95),
                weight_decay: optimizer.weight_decay,
            },
            others: adamw,
        },
    }
}

#[cfg(test)]
mod tests {
    use burn::module::{Module, ModuleVisitor, Param};
    use burn::tensor::TensorData;
    use clearway_diffusion::Schedule;
    use clearway_layers::Weights;

    use super::*;
    use crate::network::ConditionalUnet1d;

    /// Of losses of about one, means of some dozens of squares in f32; behind some steps of what rounding makes of Adam's
    /// steps where gradients are small.
    const LOSS: f64 = 1e-5;
    /// Of norms of about two: roots of sums of thousands of squares of f32.
    const NORM: f64 = 1e-4;
    /// Of how far the averaged weights moved together, for the same reason.
    const WEIGHTS: f64 = 1e-3;

    fn golden(path: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../tests/golden/lerobot")
            .join(path)
    }

    /// All values of a network.
    #[derive(Default)]
    struct Values(Vec<f64>);

    impl ModuleVisitor for Values {
        fn visit_float<const D: usize>(&mut self, parameter: &Param<Tensor<D>>) {
            let values: Vec<f32> = parameter.val().into_data().try_to_vec().expect("f32");
            self.0.extend(values.into_iter().map(f64::from));
        }
    }

    fn values(network: &ConditionalUnet1d) -> Vec<f64> {
        let mut values = Values::default();
        network.visit(&mut values);
        values.0
    }

    fn distance(a: &[f64], b: &[f64]) -> f64 {
        let squares = a.iter().zip(b).map(|(a, b)| (a - b).powi(2));
        squares.sum::<f64>().sqrt()
    }

    /// A run of LeRobot's, from its own loader, processors and loss, with PyTorch's AdamW and clipping, diffusers' learning
    /// rates and average: `tests/golden/lerobot/record_run.py`.
    #[test]
    fn a_run_is_lerobots() {
        const STEPS: usize = 6;
        const BATCH: usize = 6;
        let mut recipe = Recipe::default();
        recipe.policy.horizon = 8;
        recipe.policy.n_action_steps = 4;
        recipe.policy.down_dims = vec![8, 16];
        recipe.policy.n_groups = 4;
        recipe.policy.diffusion_step_embed_dim = 16;
        recipe.policy.num_train_timesteps = 20;
        let modes = &mut recipe.policy.normalization_mapping;
        modes.insert("ENV".into(), "MEAN_STD".into());
        recipe.loss.do_mask_loss_for_padding = true;
        recipe.optimizer = OptimizerRecipe {
            steps: 8,
            rate: 2e-3,
            warm_up: 2,
            betas: [0.95, 0.999],
            epsilon: 1e-6,
            weight_decay: 0.1,
            clip: 0.5,
            ..OptimizerRecipe::default()
        };
        recipe.average.most = 0.5;
        let device = Device::flex();
        let mut trainer = Trainer::new(recipe, &golden("dataset_v30"), &device).expect("a recipe");

        let mut recorded = Weights::open(&golden("run.safetensors")).expect("recorded");
        let mut network = |prefix: &str| {
            let network = trainer.config.network().init(&device);
            network.load(&mut recorded, prefix).expect("of that shape")
        };
        let (before, after) = (network("before."), network("after."));
        let mut numbers = |key: &str, shape: &[usize]| recorded.values(key, shape).expect(key);
        let noises = numbers("noise", &[STEPS, BATCH, 8, 2]);
        let [losses, norms, rates] = ["loss", "norm", "rate"].map(|key| numbers(key, &[STEPS]));
        let plain = f64::from(numbers("plain", &[1])[0]);
        let mut integers = |key: &str| recorded.integers(key).expect(key);
        let (frames, timesteps) = (integers("frames"), integers("timesteps"));
        recorded.finish().expect("nothing else was recorded");

        let decay = trainer.recipe.average.clone().into();
        let first = values(&before);
        trainer.fitting = Fitting::new(before, decay);
        for step in 0..STEPS {
            let at = step * BATCH..(step + 1) * BATCH;
            let frames: Vec<usize> = frames[at.clone()].iter().map(|&it| it as usize).collect();
            let points: Vec<Point> = (timesteps[at].iter())
                .map(|&t| Point {
                    t: t as f64,
                    level: trainer.task.schedule.level(t as f64),
                })
                .collect();
            let shape = [BATCH, 8, 2];
            let each: usize = shape.iter().product();
            let noise = noises[step * each..][..each].to_vec();
            let noise = Tensor::<3>::from_data(TensorData::new(noise, shape), &device);
            if step == 0 {
                trainer.task.recipe.do_mask_loss_for_padding = false;
                let loss =
                    trainer
                        .task
                        .loss(trainer.fitting.network(), &frames, &points, noise.clone());
                let loss: f32 = loss.into_scalar();
                assert!((f64::from(loss) - plain).abs() < LOSS, "{loss} {plain}");
                trainer.task.recipe.do_mask_loss_for_padding = true;
            }
            let made = trainer.step_on(&frames, &points, noise).expect("finite");
            for (found, expected, tolerance) in [
                (made.loss, losses[step], LOSS),
                (made.norm, norms[step], NORM),
                // Rates are recorded in f64 and read as f32.
                (made.rate, rates[step], 1e-9),
            ] {
                let error = (found - f64::from(expected)).abs();
                assert!(error < tolerance, "step {step}: {found}, not {expected}");
            }
        }
        let (expected, found) = (values(&after), values(trainer.network()));
        let moved = distance(&first, &expected);
        let error = distance(&found, &expected);
        assert!(error < WEIGHTS * moved, "{error} of {moved}");
    }
}
