//! Path priors from demonstrations.
//!
//! A [`PathTrainer`] is a loop's body, as a policy's is: [`step`](PathTrainer::step), and between steps
//! [`validate`](PathTrainer::validate), [`save`](PathTrainer::save) and [`save_prior`](PathTrainer::save_prior).
//! Everything that is drawn depends on the recipe's seed and the number of the step alone, so that a run that was interrupted
//! and resumed is the run that was not, to the bit.

use std::path::Path as FilePath;

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::train::{
    AverageRecipe, Batches, Fitting, Levels, NonFinite, OptimizerRecipe, Order, Step,
    WeightingRecipe, WrongValue, initialize,
};
use clearway_diffusion::{
    Discrete, Network as _, Parameterization, Parameterized, ScheduleError, Seeded, normal,
};
use clearway_layers::{Checkpoint, ResumableOptimizer, Run, WeightsError, in_pool};
use clearway_motion::{Path, Scene};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::config::{PathConfig, PriorConfig};
use super::prior::{PathNetwork, PathPrior};
use crate::LoadError;
use crate::train::rule;

/// Everything that a run is a function of, besides its demonstrations.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathRecipe {
    /// Of everything that is drawn: first weights, batches, levels, noise, which demonstrations are held out.
    pub seed: u64,
    /// What the prior is: that of the demonstrations, whatever is said here.
    pub prior: PriorConfig,
    /// Which demonstrations are seen, and when.
    pub data: PathDataRecipe,
    /// How much the error at a level counts.
    pub weighting: WeightingRecipe,
    /// How the loss is made smaller.
    pub optimizer: OptimizerRecipe,
    /// The average of weights that is evaluated and saved.
    pub average: AverageRecipe,
}

/// Which demonstrations are seen, and when.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathDataRecipe {
    /// How they are chosen.
    pub order: Order,
    /// How many a step sees.
    pub batch: usize,
    /// Which share is held out, to validate on.
    pub held_out: f64,
}

impl Default for PathDataRecipe {
    fn default() -> Self {
        Self {
            order: Order::Shuffled,
            batch: 64,
            held_out: 0.0,
        }
    }
}

/// Why a prior cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PathTrainError {
    /// The recipe describes no prior.
    #[error(transparent)]
    Config(#[from] LoadError),
    /// Its schedule is none.
    #[error(transparent)]
    Schedule(#[from] ScheduleError),
    /// A number of the recipe is not one to train with.
    #[error(transparent)]
    Value(#[from] WrongValue),
    /// A demonstration is one of another robot, or has another number of waypoints.
    #[error(
        "demonstration {index} has {} waypoints of {} coordinates; {} of {} are needed",
        found[0], found[1], expected[0], expected[1]
    )]
    Shape {
        /// Which.
        index: usize,
        /// Waypoints and coordinates.
        found: [usize; 2],
        /// What they should be.
        expected: [usize; 2],
    },
    /// Nothing is left to train on.
    #[error("{held_out} of {demonstrations} demonstrations are held out: none is left to train on")]
    NoDemonstration {
        /// How many there are.
        demonstrations: usize,
        /// How many are held out.
        held_out: usize,
    },
    /// Training left the numbers.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// A checkpoint cannot be read.
    #[error("cannot go on with {file}: {error}")]
    Checkpoint {
        /// Its file.
        file: String,
        /// Why.
        error: WeightsError,
    },
    /// A checkpoint is of another run.
    #[error("cannot go on with {file}: its {what} is another")]
    OtherRun {
        /// Its file.
        file: String,
        /// What differs.
        what: String,
    },
    /// A file cannot be written.
    #[error("cannot write {file}: {error}")]
    Write {
        /// The file.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
}

/// Paths and the scenes that they were made in, in a network's terms.
#[derive(Clone, Debug)]
pub struct Demonstrations {
    config: PathConfig,
    conditions: Vec<f32>,
    paths: Vec<f32>,
    count: usize,
}

impl Demonstrations {
    /// None yet, for a prior of such a configuration.
    ///
    /// # Errors
    ///
    /// As [`PathConfig::check`].
    pub fn new(config: PathConfig) -> Result<Self, PathTrainError> {
        config.check()?;
        Ok(Self {
            config,
            conditions: Vec::new(),
            paths: Vec::new(),
            count: 0,
        })
    }

    /// Adds a path, from its first waypoint to its last, and the same path backwards: where one can be gone, so can the other.
    ///
    /// # Errors
    ///
    /// If it has not as many waypoints as the prior, or other coordinates.
    pub fn push(&mut self, path: &Path, scene: &Scene) -> Result<(), PathTrainError> {
        let expected = [self.config.prior.horizon, self.config.dof()];
        let found = [path.len(), path.dof()];
        if found != expected {
            return Err(PathTrainError::Shape {
                index: self.count,
                found,
                expected,
            });
        }
        let code = self.config.prior.scene.as_ref();
        let code = code.map(|it| it.of(scene)).unwrap_or_default();
        let rows: Vec<Vec<f32>> = path
            .waypoints()
            .rows()
            .into_iter()
            .map(|row| self.config.normalized(&row.to_vec()).collect())
            .collect();
        let last = rows.len() - 1;
        for [start, goal] in [[0, last], [last, 0]] {
            self.conditions.extend(&rows[start]);
            self.conditions.extend(&rows[goal]);
            self.conditions.extend(&code);
        }
        self.paths.extend(rows.iter().flatten());
        self.paths.extend(rows.iter().rev().flatten());
        self.count += 2;
        Ok(())
    }

    /// How many there are, both directions of each.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// What they are for.
    pub fn config(&self) -> &PathConfig {
        &self.config
    }

    /// The SHA-256 of all numbers.
    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for value in self.conditions.iter().chain(&self.paths) {
            hash.update(value.to_le_bytes());
        }
        format!("{:x}", hash.finalize())
    }

    /// Conditions `[batch, condition_dim]` and paths `[batch, horizon, dof]`.
    fn batch(&self, rows: &[usize], device: &Device) -> (Tensor<2>, Tensor<3>) {
        let (horizon, dof) = (self.config.prior.horizon, self.config.dof());
        let gather = |from: &[f32], width: usize| -> Vec<f32> {
            let each = rows.iter().map(|&i| &from[i * width..(i + 1) * width]);
            each.flatten().copied().collect()
        };
        let width = self.config.condition_dim();
        let conditions = gather(&self.conditions, width);
        let paths = gather(&self.paths, horizon * dof);
        (
            Tensor::from_data(TensorData::new(conditions, [rows.len(), width]), device),
            Tensor::from_data(TensorData::new(paths, [rows.len(), horizon, dof]), device),
        )
    }
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

/// A path prior that is being trained.
#[derive(Debug)]
pub struct PathTrainer {
    recipe: PathRecipe,
    seeds: Seeds,
    demonstrations: Demonstrations,
    hash: String,
    schedule: Discrete,
    parameterization: Parameterization,
    training: Vec<usize>,
    held_out: Vec<usize>,
    batches: Batches,
    fitting: Fitting<PathNetwork>,
    optimizer: ResumableOptimizer,
    device: Device,
}

impl PathTrainer {
    /// Begins.
    ///
    /// # Errors
    ///
    /// If the recipe cannot be trained with, or nothing is left to train on.
    pub fn new(
        mut recipe: PathRecipe,
        demonstrations: Demonstrations,
        device: &Device,
    ) -> Result<Self, PathTrainError> {
        let value = |key, found, holds, expected| {
            if holds {
                return Ok(());
            }
            Err(WrongValue {
                key,
                found,
                expected,
            })
        };
        let PathDataRecipe {
            batch,
            held_out: share,
            order,
        } = recipe.data;
        let batches = (1..=1 << 16).contains(&batch);
        value("data.batch", batch as f64, batches, "from 1 to 65536")?;
        let shares = (0.0..1.0).contains(&share);
        value("data.held_out", share, shares, "at least 0 and below 1")?;
        recipe.weighting.check()?;
        recipe.optimizer.check()?;
        recipe.average.check()?;
        let config = demonstrations.config();
        let schedule = config.schedule()?;
        let parameterization = config.parameterization()?;
        recipe.prior = config.prior.clone();
        let seeds = Seeds::new(recipe.seed);

        // Both directions of a path are held out together.
        let mut pairs: Vec<usize> = (0..demonstrations.len() / 2).collect();
        pairs.shuffle(&mut ChaCha8Rng::seed_from_u64(seeds.held_out));
        let aside = (share * pairs.len() as f64).round() as usize;
        // Who asks for a validation shall have one.
        let aside = aside.max(usize::from(share > 0.0)).min(pairs.len());
        let both = |pairs: &[usize]| -> Vec<usize> {
            let mut rows: Vec<usize> = pairs.iter().flat_map(|i| [2 * i, 2 * i + 1]).collect();
            rows.sort_unstable();
            rows
        };
        let (held_out, training) = (both(&pairs[..aside]), both(&pairs[aside..]));
        if training.is_empty() {
            return Err(PathTrainError::NoDemonstration {
                demonstrations: demonstrations.len(),
                held_out: held_out.len(),
            });
        }
        let network = initialize(PathNetwork::new(config, device), seeds.weights).zeroed(device);
        Ok(Self {
            batches: order.of(seeds.order, training.len()),
            hash: demonstrations.hash(),
            fitting: Fitting::new(network, recipe.average.clone().into()),
            optimizer: ResumableOptimizer::new(rule(&recipe.optimizer)),
            recipe,
            seeds,
            demonstrations,
            schedule,
            parameterization,
            training,
            held_out,
            device: device.clone(),
        })
    }

    /// Goes on where a [checkpoint](Self::save) was made.
    ///
    /// # Errors
    ///
    /// As [`new`](Self::new), and if the checkpoint cannot be read, or is of another recipe or of other demonstrations. The
    /// recipe's number of steps may be another: the learning rate is then another from there on.
    pub fn resume(
        recipe: PathRecipe,
        demonstrations: Demonstrations,
        checkpoint: &FilePath,
        device: &Device,
    ) -> Result<Self, PathTrainError> {
        let mut this = Self::new(recipe, demonstrations, device)?;
        let file = checkpoint.display().to_string();
        let unreadable = |error| PathTrainError::Checkpoint {
            file: file.clone(),
            error,
        };
        let other = |what: &str| PathTrainError::OtherRun {
            file: file.clone(),
            what: what.into(),
        };
        let opened = Checkpoint::open(checkpoint).map_err(unreadable)?;
        let step = match opened.run() {
            None => return Err(other("format")),
            Some(run) => match run.difference(&this.recipe, &this.hash) {
                Some(what) => return Err(other(&what)),
                None => run.step,
            },
        };
        let network = PathNetwork::new(this.demonstrations.config(), device);
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

    /// How many demonstrations are trained on, and how many are held out.
    pub fn counts(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &PathNetwork {
        self.fitting.average()
    }

    /// Makes a step.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite; then nothing has changed.
    pub fn step(&mut self) -> Result<Step, PathTrainError> {
        let step = self.steps();
        let batch = self.recipe.data.batch;
        let drawn = self.batches.draw(step, batch);
        let rows: Vec<usize> = drawn.iter().map(|&at| self.training[at]).collect();
        let (levels, noise) = (self.seeds.levels, self.seeds.noise ^ step);
        let Self {
            recipe,
            demonstrations,
            schedule,
            parameterization,
            fitting,
            optimizer,
            device,
            ..
        } = self;
        let asked = Asked {
            demonstrations,
            recipe,
            parameterization: *parameterization,
            device,
            points: Levels::Timesteps.draw(schedule, levels, step, batch),
            noise,
        };
        let step = in_pool(|| {
            fitting.step(
                recipe.optimizer.rates(),
                recipe.optimizer.clip,
                |network| asked.loss(network, &rows),
                |rate, network, gradients| optimizer.step(rate, network, gradients),
            )
        });
        Ok(step?)
    }

    /// The loss of the averaged network on what is held out, at levels and with noise that are the same every time; none if
    /// nothing is held out. Of more than `most` some are looked at, spread over all.
    pub fn validate(&self, most: usize) -> Option<f64> {
        let count = self.held_out.len().min(most);
        if count == 0 {
            return None;
        }
        let rows: Vec<usize> = (0..count)
            .map(|i| self.held_out[i * self.held_out.len() / count])
            .collect();
        let (network, seed) = (self.network(), self.seeds.validation);
        let batches = rows.chunks(self.recipe.data.batch).zip(0_u64..);
        let losses = batches.map(|(rows, i)| {
            let asked = Asked {
                demonstrations: &self.demonstrations,
                recipe: &self.recipe,
                parameterization: self.parameterization,
                device: &self.device,
                points: Levels::Timesteps.draw(&self.schedule, seed, i, rows.len()),
                noise: seed ^ i,
            };
            let loss: f32 = in_pool(|| asked.loss(network, rows)).into_scalar();
            f64::from(loss) * rows.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes all that [`resume`](Self::resume) needs: a safetensors file, which is whole or not there.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save(&self, path: &FilePath) -> Result<(), PathTrainError> {
        let run = Run {
            step: self.steps(),
            recipe: Run::comparable(&self.recipe),
            dataset: self.hash.clone(),
        };
        let networks = [self.fitting.network(), self.fitting.average()];
        let written = Checkpoint::write(path, &run, networks, &self.optimizer);
        written.map_err(|error| unwritten(path, error))
    }

    /// The prior of averaged weights.
    ///
    /// # Errors
    ///
    /// None: its configuration was checked before.
    pub fn prior(&self) -> Result<PathPrior, LoadError> {
        PathPrior::new(
            self.demonstrations.config().clone(),
            self.fitting.average().clone(),
        )
    }

    /// Writes the prior of averaged weights; [`PathPrior::load`] reads it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save_prior(&self, folder: &FilePath) -> Result<(), PathTrainError> {
        let saved = self.prior()?.save(folder);
        saved.map_err(|error| unwritten(folder, error))
    }
}

/// What a network is asked in a step.
struct Asked<'a> {
    demonstrations: &'a Demonstrations,
    recipe: &'a PathRecipe,
    parameterization: Parameterization,
    device: &'a Device,
    points: Vec<clearway_diffusion::Point>,
    noise: u64,
}

impl Asked<'_> {
    /// How wrong a network is about some demonstrations.
    fn loss(&self, network: &PathNetwork, rows: &[usize]) -> Tensor<1> {
        let (condition, paths) = self.demonstrations.batch(rows, self.device);
        let mut noise = Seeded::new(self.noise, rows.len());
        let noise = normal(&mut noise, paths.dims(), self.device);
        let denoiser = Parameterized::new(network.clone(), self.parameterization);
        let prepared = network.prepare(&condition);
        let weighting = self.recipe.weighting.into();
        denoiser.loss([paths, noise], &self.points, &prepared, weighting)
    }
}

fn unwritten(path: &FilePath, error: std::io::Error) -> PathTrainError {
    PathTrainError::Write {
        file: path.display().to_string(),
        error,
    }
}
