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
//! Everything that is drawn depends on the recipe's seed and the number of the step alone, so that a run that was
//! interrupted and resumed is the run that was not, to the bit.

mod error;
mod examples;
mod initialize;
mod recipe;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::train::{Ema, Levels, WarmUpCosine, clip};
use clearway_diffusion::{
    Discrete, Network, Noise, Parameterization, Parameterized, Point, Seeded,
};
use clearway_layers::{AdamW, ResumableAdamW, Weights, WeightsError, WeightsWriter, in_pool};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::Value;

pub use clearway_diffusion::train::{Decay, Weighting};
pub use error::TrainError;
pub use recipe::{
    AverageRecipe, DataRecipe, LossRecipe, OptimizerRecipe, PolicyRecipe, Recipe, WeightingRecipe,
};

use crate::dataset::Dataset;
use crate::lerobot::DiffusionConfig;
use crate::lerobot::save::Saved;
use crate::network::ConditionalUnet1d;
use examples::Examples;

/// What a checkpoint says of its run, beside the tensors.
const STEP: &str = "step";
const RECIPE: &str = "recipe";
const FRAMES: &str = "frames";

/// Where a checkpoint keeps what.
const NETWORK: &str = "network.";
const AVERAGE: &str = "average.";
const OPTIMIZER: &str = "optimizer.";

/// What a training step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Which one, counted from zero.
    pub step: u64,
    /// The loss of its batch, before it.
    pub loss: f64,
    /// The norm of all gradients, before they were clipped.
    pub norm: f64,
    /// The learning rate.
    pub rate: f64,
}

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

/// What a network is asked.
#[derive(Debug)]
struct Task {
    schedule: Discrete,
    parameterization: Parameterization,
    examples: Examples,
    recipe: LossRecipe,
    device: Device,
}

impl Task {
    /// The loss of a network on some windows.
    fn loss(
        &self,
        network: &ConditionalUnet1d,
        frames: &[usize],
        points: &[Point],
        seed: u64,
    ) -> Tensor<1> {
        let batch = self.examples.batch(frames, &self.device);
        let shape = batch.actions.dims();
        let noise = Seeded::new(seed, frames.len()).draw(&shape);
        let noise = Tensor::from_data(TensorData::new(noise, shape), &self.device);
        let denoiser = Parameterized::new(network.clone(), self.parameterization);
        let prepared = network.prepare(&batch.condition);
        let weighting = self.recipe.weighting.into();
        let errors = denoiser.errors([batch.actions, noise], points, &prepared, weighting);
        if self.recipe.do_mask_loss_for_padding {
            // As LeRobot has it: what is masked is zero, and counts in the mean.
            (errors * batch.inside).mean()
        } else {
            errors.mean()
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
    training: Vec<usize>,
    held_out: Vec<usize>,
    network: ConditionalUnet1d,
    optimizer: ResumableAdamW,
    average: Ema<ConditionalUnet1d>,
    step: u64,
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
        if let Some(found) = inputs.iter().find(|name| !known.contains(&name.as_str())) {
            return Err(TrainError::Input {
                found: found.clone(),
            });
        }
        let features: Vec<&str> = (inputs.iter().map(String::as_str))
            .chain(["action"])
            .collect();
        let dataset = Dataset::open(folder, &features)?;
        let (json, config) = recipe.config(&dataset)?;
        let schedule = config.schedule()?;
        let parameterization = config.prediction.into();
        let seeds = Seeds::new(recipe.seed);

        let mut episodes: Vec<usize> = (0..dataset.episodes().len()).collect();
        episodes.shuffle(&mut ChaCha8Rng::seed_from_u64(seeds.held_out));
        let aside = (recipe.data.held_out * episodes.len() as f64).round() as usize;
        let (aside, trained) = episodes.split_at_mut(aside.min(dataset.episodes().len()));
        aside.sort_unstable();
        trained.sort_unstable();
        let dropped = recipe.dropped();
        let training = dataset.frames(trained, dropped);
        let held_out = dataset.frames(aside, dropped);
        if training.is_empty() {
            return Err(TrainError::NoWindow {
                episodes: dataset.episodes().len(),
                held_out: aside.len(),
                dropped,
            });
        }
        let (examples, statistics) = Examples::new(dataset, &config)?;
        let network = initialize::initialize(config.network().init(device), seeds.weights).train();
        let average = Ema::new(&network, recipe.average.clone().into());
        let optimizer = ResumableAdamW::new(adamw(&recipe));
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
            training,
            held_out,
            network,
            optimizer,
            average,
            step: 0,
        })
    }

    /// Reads a dataset and goes on where a [checkpoint](Self::save) was made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the checkpoint cannot be read, or is of another recipe or dataset. The recipe's number of
    /// steps may be another: the learning rate is then another from there on.
    pub fn resume(
        recipe: Recipe,
        folder: &Path,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut this = Self::new(recipe, folder, device)?;
        let file = checkpoint.display().to_string();
        let unreadable = |error| TrainError::Checkpoint {
            file: file.clone(),
            error,
        };
        let mut weights = Weights::open(checkpoint).map_err(unreadable)?;
        let other = |what: &str| TrainError::OtherRun {
            file: file.clone(),
            what: what.into(),
        };
        let metadata = weights.metadata().clone();
        let text = |key: &'static str| {
            let missing = || {
                unreadable(WeightsError::Missing {
                    key: format!("__metadata__.{key}"),
                })
            };
            metadata.get(key).ok_or_else(missing)
        };
        let saved: Value = serde_json::from_str(text(RECIPE)?).map_err(|_| other(RECIPE))?;
        if let Some(key) = different(&saved, &comparable(&this.recipe)) {
            return Err(other(&format!("`{key}`")));
        }
        if *text(FRAMES)? != this.task.examples.dataset().len().to_string() {
            return Err(other("dataset"));
        }
        this.step = text(STEP)?.parse().map_err(|_| other(STEP))?;
        let network = this.config.network().init(device);
        let network = weights
            .load(network, |path| format!("{NETWORK}{path}"))
            .map_err(unreadable)?;
        let average = weights
            .load(network.clone(), |path| format!("{AVERAGE}{path}"))
            .map_err(unreadable)?;
        this.optimizer = ResumableAdamW::load(
            adamw(&this.recipe),
            this.step as usize,
            &network,
            &mut weights,
            OPTIMIZER,
        )
        .map_err(unreadable)?;
        weights.finish().map_err(unreadable)?;
        this.network = network.train();
        this.average = Ema::resume(average, this.recipe.average.clone().into(), this.step);
        Ok(this)
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
        self.step
    }

    /// How many windows are trained on, and how many are held out.
    pub fn windows(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &ConditionalUnet1d {
        self.average.network()
    }

    /// Makes a step.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite; then nothing has changed.
    pub fn step(&mut self) -> Result<Step, TrainError> {
        in_pool(|| self.step_in_pool())
    }

    fn step_in_pool(&mut self) -> Result<Step, TrainError> {
        let step = self.step;
        let (order, batch) = (self.recipe.data.order, self.recipe.data.batch);
        let windows = order.draw(self.seeds.order, step, batch, self.training.len());
        let frames: Vec<usize> = windows.iter().map(|&at| self.training[at]).collect();
        let points = Levels::Timesteps.draw(&self.task.schedule, self.seeds.levels, step, batch);
        let seed = self.seeds.noise ^ step;
        let loss = self.task.loss(&self.network, &frames, &points, seed);
        let value: f32 = loss.clone().into_scalar();
        let mut gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let norm = clip(&mut gradients, &self.network, self.recipe.optimizer.clip);
        let loss = f64::from(value);
        if !(loss.is_finite() && norm.is_finite()) {
            return Err(TrainError::NonFinite { step, loss, norm });
        }
        let rate = WarmUpCosine {
            peak: self.recipe.optimizer.rate,
            warm_up: self.recipe.optimizer.warm_up,
            steps: self.recipe.optimizer.steps,
        }
        .rate(step);
        self.network = self.optimizer.step(rate, self.network.clone(), gradients);
        self.average.update(&self.network);
        self.step += 1;
        Ok(Step {
            step,
            loss,
            norm,
            rate,
        })
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
            let loss = in_pool(|| task.loss(network, frames, &points, seed ^ i));
            let loss: f32 = loss.into_scalar();
            f64::from(loss) * frames.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes all that [`resume`](Self::resume) needs: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let mut writer = WeightsWriter::default();
        writer.metadata(STEP, self.step.to_string());
        writer.metadata(RECIPE, comparable(&self.recipe).to_string());
        writer.metadata(FRAMES, self.task.examples.dataset().len().to_string());
        writer.module(&self.network.valid(), |path| format!("{NETWORK}{path}"));
        writer.module(self.average.network(), |path| format!("{AVERAGE}{path}"));
        self.optimizer.save(&self.network, &mut writer, OPTIMIZER);
        writer.write(path).map_err(|error| TrainError::Write {
            file: path.display().to_string(),
            error,
        })
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
            network: self.average.network(),
        };
        saved.write(folder).map_err(|error| TrainError::Write {
            file: folder.display().to_string(),
            error,
        })
    }
}

fn adamw(recipe: &Recipe) -> AdamW {
    let optimizer = &recipe.optimizer;
    AdamW {
        betas: optimizer.betas,
        epsilon: optimizer.epsilon,
        weight_decay: optimizer.weight_decay,
    }
}

/// What of a recipe must be the same in a run that is resumed: all but how long it is.
fn comparable(recipe: &Recipe) -> Value {
    let mut value = serde_json::to_value(recipe).expect("numbers, words, and maps of words");
    if let Some(optimizer) = value["optimizer"].as_object_mut() {
        optimizer.remove("steps");
    }
    value
}

/// The first key, with dots between levels, of which two values differ.
fn different(a: &Value, b: &Value) -> Option<String> {
    match (a, b) {
        (Value::Object(a), Value::Object(b)) => {
            let keys = a.keys().chain(b.keys().filter(|key| !a.contains_key(*key)));
            keys.into_iter().find_map(|key| {
                let none = Value::Null;
                let [a, b] = [a, b].map(|it| it.get(key).unwrap_or(&none));
                let inner = different(a, b)?;
                Some(if inner.is_empty() {
                    key.clone()
                } else {
                    format!("{key}.{inner}")
                })
            })
        }
        _ => (a != b).then(String::new),
    }
}
