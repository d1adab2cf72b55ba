//! Networks of pictures from pictures.
//!
//! A [`Trainer`] is a loop's body, as a policy's is: [`step`](Trainer::step), and between steps
//! [`validate`](Trainer::validate), [`save`](Trainer::save) and [`save_network`](Trainer::save_network). What a step is made of
//! is the engine's; what is asked and how wrong an answer is says a [`Task`].
//!
//! ```text
//! Recipe + Pictures --> Trainer --step--> loss
//!                          |  \--save--> a checkpoint --resume--> Trainer
//!                          \--save_network--> a PictureModel's folder, or a Classifier's
//! ```
//!
//! What a model learns from another, in fewer steps or with fewer blocks, is in [`distill`].
//!
//! Everything that is drawn depends on the recipe's seed and the number of the step alone, so that a run that was
//! interrupted and resumed is the run that was not, to the bit.

mod asked;
mod beginning;
pub mod distill;
mod error;
mod guidance;
mod recipe;
mod task;

use std::path::Path;

use burn::tensor::Device;
use clearway_diffusion::train::{Batches, Fitting, OptimizerKind, OptimizerRecipe, Step};
use clearway_layers::{AdamW, Checkpoint, Muon, ResumableOptimizer, Rule, Run, in_pool};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use error::TrainError;
pub use guidance::{GuidanceRecipe, Guiding};
pub use recipe::{ClassifierRecipe, DataRecipe, ModelRecipe, Recipe};
pub use task::{Classifying, Draw, Drawing, Task};

use crate::dataset::Pictures;

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

/// A network of pictures that is being trained.
#[derive(Debug)]
pub struct Trainer<T: Task> {
    recipe: Recipe<T::Recipe>,
    seeds: Seeds,
    task: T,
    pictures: Pictures,
    hash: String,
    training: Vec<usize>,
    held_out: Vec<usize>,
    batches: Batches,
    fitting: Fitting<T::Network>,
    optimizer: ResumableOptimizer,
}

impl<T: Task + Sync> Trainer<T> {
    /// Begins.
    ///
    /// # Errors
    ///
    /// If the recipe describes no network for the pictures, or nothing is left to train on.
    pub fn new(
        recipe: Recipe<T::Recipe>,
        pictures: Pictures,
        device: &Device,
    ) -> Result<Self, TrainError> {
        recipe.check()?;
        let task = T::new(&recipe.network, &pictures, device)?;
        let seeds = Seeds::new(recipe.seed);
        let [training, held_out] = split(&pictures, seeds.held_out, recipe.data.held_out)?;
        let network = task.first(device, seeds.weights);
        Ok(Self {
            batches: recipe.data.order.of(seeds.order, training.len()),
            hash: format!("{}{}", pictures.hash(), task.source()),
            fitting: Fitting::new(network, recipe.average.clone().into()),
            optimizer: ResumableOptimizer::new(rule(&recipe.optimizer)),
            recipe,
            seeds,
            task,
            pictures,
            training,
            held_out,
        })
    }

    /// Goes on where a [checkpoint](Self::save) was made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the checkpoint cannot be read, or is of another recipe or dataset. The recipe's number of
    /// steps may be another: the learning rate is then another from there on.
    pub fn resume(
        recipe: Recipe<T::Recipe>,
        pictures: Pictures,
        checkpoint: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let mut this = Self::new(recipe, pictures, device)?;
        let file = checkpoint.display().to_string();
        let unreadable = |error| TrainError::Checkpoint {
            file: file.clone(),
            error,
        };
        let opened = Checkpoint::open(checkpoint).map_err(unreadable)?;
        let other = |what: &str| TrainError::OtherRun {
            file: file.clone(),
            what: what.into(),
        };
        let step = match opened.run() {
            None => return Err(other("format")),
            Some(run) => match run.difference(&this.recipe, &this.hash) {
                Some(what) => return Err(other(&what)),
                None => run.step,
            },
        };
        let network = this.task.network(device);
        let ([network, average], optimizer) = opened
            .load(network, rule(&this.recipe.optimizer), step)
            .map_err(unreadable)?;
        let decay = this.recipe.average.clone().into();
        this.fitting = Fitting::resume(network, average, decay, step);
        this.optimizer = optimizer;
        Ok(this)
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.fitting.steps()
    }

    /// How many pictures are trained on, and how many are held out.
    pub fn counts(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The pictures.
    pub fn pictures(&self) -> &Pictures {
        &self.pictures
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &T::Network {
        self.fitting.average()
    }

    /// Makes a step.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite; then nothing has changed.
    pub fn step(&mut self) -> Result<Step, TrainError> {
        let number = self.steps();
        let Self {
            recipe,
            seeds,
            task,
            pictures,
            training,
            batches,
            fitting,
            optimizer,
            ..
        } = self;
        let drawn = batches.draw(number, recipe.data.batch);
        let which: Vec<usize> = drawn.iter().map(|&at| training[at]).collect();
        let draw = Draw {
            levels: seeds.levels,
            noise: seeds.noise,
            number,
        };
        let (rates, most) = (recipe.optimizer.rates(), recipe.optimizer.clip);
        let step = in_pool(|| {
            fitting.step(
                rates,
                most,
                |network| task.loss(network, pictures, &which, draw),
                |rate, network, gradients| optimizer.step(rate, network, gradients),
            )
        });
        Ok(step?)
    }

    /// The loss of the averaged network on the pictures that are held out, at levels and with noise that are the same every
    /// time; none if none are held out.
    ///
    /// Where there are more than `most`, some of them are looked at, spread over all.
    pub fn validate(&self, most: usize) -> Option<f64> {
        let count = self.held_out.len().min(most);
        if count == 0 {
            return None;
        }
        let which: Vec<usize> = (0..count)
            .map(|i| self.held_out[i * self.held_out.len() / count])
            .collect();
        let batches = which.chunks(self.recipe.data.batch);
        let losses = batches.zip(0_u64..).map(|(which, number)| {
            let draw = Draw {
                levels: self.seeds.validation,
                noise: self.seeds.validation,
                number,
            };
            let (task, network, pictures) = (&self.task, self.network(), &self.pictures);
            let loss = in_pool(|| task.loss(network, pictures, which, draw));
            let loss: f32 = loss.into_scalar();
            f64::from(loss) * which.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes all that [`resume`](Self::resume) needs: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &Path) -> Result<(), TrainError> {
        let run = Run {
            step: self.steps(),
            recipe: Run::comparable(&self.recipe),
            dataset: self.hash.clone(),
        };
        let networks = [self.fitting.network(), self.fitting.average()];
        let written = Checkpoint::write(path, &run, networks, &self.optimizer);
        written.map_err(|error| TrainError::Write {
            file: path.display().to_string(),
            error,
        })
    }

    /// Writes the network of averaged weights, as others load it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save_network(&self, folder: &Path) -> Result<(), TrainError> {
        let written = self.task.save(self.network(), folder);
        written.map_err(|error| TrainError::Write {
            file: folder.display().to_string(),
            error,
        })
    }
}

/// Which pictures are trained on, and which share of them is held out.
fn split(pictures: &Pictures, seed: u64, share: f64) -> Result<[Vec<usize>; 2], TrainError> {
    let mut training: Vec<usize> = (0..pictures.len()).collect();
    training.shuffle(&mut ChaCha8Rng::seed_from_u64(seed));
    let aside = (share * training.len() as f64).round() as usize;
    // Who asks for a validation shall have one.
    let aside = aside.max(usize::from(share > 0.0)).min(training.len());
    let mut held_out: Vec<usize> = training.drain(..aside).collect();
    held_out.sort_unstable();
    training.sort_unstable();
    if training.is_empty() {
        return Err(TrainError::NoPicture {
            pictures: pictures.len(),
            held_out: aside,
        });
    }
    Ok([training, held_out])
}

/// The optimizer that a recipe asks for.
fn rule(optimizer: &OptimizerRecipe) -> Rule {
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
