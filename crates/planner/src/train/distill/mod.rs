//! Policies from policies: fewer steps, or smaller networks.

mod beginning;
mod checkpoint;
mod matching;
mod phases;
mod recipe;
mod teaching;

use std::collections::BTreeMap;
use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::Device;
use clearway_diffusion::Discrete;
use clearway_diffusion::distill::Lessons;
use clearway_diffusion::train::{Decay, Ema, NonFinite, WarmUpCosine, clip, initialize};
use clearway_layers::{ResumableOptimizer, in_pool};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

pub use clearway_diffusion::distill::{DistillRecipe, EmphasisRecipe, Kind};
pub use recipe::{Codes, Distillation, StudentRecipe};

use super::examples::Examples;
use super::task::noise;
use super::{Step, TrainError, rule, split};
use crate::dataset::{Batches, Dataset};
use crate::lerobot::DiffusionConfig;
use crate::lerobot::json;
use crate::lerobot::save::Saved;
use crate::network::ConditionalUnet1d;
use crate::{Policy, Sampling};
use beginning::{same_statistics, same_task, student_config};
use matching::Critic;
use phases::{Phase, phases};
use teaching::{Meaning, Teacher, Teaching};

/// The seeds of what is drawn, all from one.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    weights: u64,
    order: u64,
    lessons: u64,
    noise: u64,
    critic: u64,
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
            lessons: draw(),
            noise: draw(),
            critic: draw(),
            held_out: draw(),
            validation: draw(),
        }
    }
}

/// A student that learns from a policy.
///
/// It is to its loop what a [`Trainer`](super::Trainer) is: [`step`](Self::step), and between steps [`validate`](Self::validate),
/// [`save`](Self::save) and [`save_policy`](Self::save_policy). What it writes is a policy of LeRobot's format, with
/// `clearway.json` beside, which says how it is sampled.
///
/// ```text
/// progressive     [convert]  N -> N/2  N/2 -> N/4  ..  2n -> n       a phase each, from the average of the one before
/// rollout         [convert]  all steps at once
/// consistency     [convert]  jumps
/// distribution    [convert]  matching, with a fake score of the teacher's network
/// structure       estimates
/// ```
#[derive(Debug)]
pub struct Distiller {
    recipe: Distillation,
    seeds: Seeds,
    json: Value,
    config: DiffusionConfig,
    statistics: BTreeMap<String, BTreeMap<String, Vec<f32>>>,
    schedule: Discrete,
    examples: Examples,
    device: Device,
    dataset_hash: String,
    teacher_hash: String,
    /// Of the policy that the student begins with.
    start_hash: String,
    training: Vec<usize>,
    held_out: Vec<usize>,
    batches: Batches,
    phases: Vec<Phase>,
    /// The policy's own network, plain.
    original: ConditionalUnet1d,
    meaning: Meaning,
    /// What makes lessons in this phase.
    teacher: Teacher,
    /// The student of the phase before, plain, where it is the teacher.
    predecessor: Option<ConditionalUnet1d>,
    of_student: Meaning,
    network: ConditionalUnet1d,
    optimizer: ResumableOptimizer,
    average: Ema<ConditionalUnet1d>,
    /// What says what the student shall see, where it learns jumps.
    target: Option<Ema<ConditionalUnet1d>>,
    critic: Option<Critic>,
    step: u64,
}

impl Distiller {
    /// Reads a teacher and the demonstrations that it was trained on, and begins.
    ///
    /// # Errors
    ///
    /// If either cannot be read, they do not belong together, the recipe fits no student of this teacher, or nothing is left to
    /// learn on.
    pub fn new(
        recipe: Distillation,
        teacher: &Path,
        folder: &Path,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let load = |folder: &Path| {
            let failed = |error| TrainError::Load {
                folder: folder.display().to_string(),
                error: Box::new(error),
            };
            let policy = Policy::load(folder, device).map_err(failed)?;
            // Codes have no gradient, and were rounded from weights that are better to learn from.
            if policy.stored().is_some() {
                return Err(TrainError::Packed {
                    folder: folder.display().to_string(),
                });
            }
            // Its file was just read.
            let json = json::read(folder, "config.json").map_err(failed)?;
            Ok::<_, TrainError>((policy, json))
        };
        let (policy, json_of_teacher) = load(teacher)?;
        let config = policy.config();
        recipe.check(config.num_train_timesteps)?;
        if let Some(vision) = &config.vision {
            return Err(TrainError::Sees {
                camera: vision.cameras.first().cloned().unwrap_or_default(),
            });
        }
        let (start, json_of_start) = match &recipe.student.start {
            None => (policy.clone(), json_of_teacher),
            Some(start) => load(start)?,
        };
        same_task(config, start.config(), &recipe)?;
        let (json, student) = student_config(&recipe, &start, json_of_start)?;

        let features: Vec<&str> = (config.inputs.iter().map(|it| it.name.as_str()))
            .chain([config.action.name.as_str()])
            .collect();
        let dataset = Dataset::open(folder, &features)?;
        same_statistics(&policy, &dataset)?;
        let seeds = Seeds::new(recipe.seed);
        let lerobots =
            (config.horizon + 1).saturating_sub(config.n_action_steps + config.n_obs_steps);
        let dropped = recipe.data.drop_n_last_frames.unwrap_or(lerobots);
        let [training, held_out] = split(&dataset, seeds.held_out, recipe.data.held_out, dropped)?;
        let batches = recipe.data.order.of(seeds.order, training.len());
        let dataset_hash = dataset.hash();
        let (examples, statistics) = Examples::new(dataset, config)?;

        let schedule = config.schedule()?;
        let sampling = policy.sampling();
        let converts = start.config().prediction != student.prediction;
        let phases = phases(&recipe, &schedule, sampling, converts)?;
        let fresh = start.config().network() != student.network();
        let network = if fresh {
            initialize(student.network().init(device), seeds.weights)
        } else {
            start.network().clone()
        };
        let network = recipe.student.rehearsed(network).train();
        let (meaning, of_student) = (Meaning::of(config), Meaning::of(&student));
        let original = policy.network().clone();
        Ok(Self {
            teacher: Teacher::new(&original, meaning, device),
            average: Ema::new(&network, recipe.average.clone().into()),
            optimizer: ResumableOptimizer::new(rule(&recipe.optimizer)),
            teacher_hash: policy.hash().to_owned(),
            start_hash: start.hash().to_owned(),
            recipe,
            seeds,
            json,
            config: student,
            statistics,
            schedule,
            examples,
            device: device.clone(),
            dataset_hash,
            training,
            held_out,
            batches,
            phases,
            original,
            meaning,
            predecessor: None,
            of_student,
            network,
            target: None,
            critic: None,
            step: 0,
        })
    }

    /// The recipe.
    pub fn recipe(&self) -> &Distillation {
        &self.recipe
    }

    /// The student's configuration.
    pub fn config(&self) -> &DiffusionConfig {
        &self.config
    }

    /// The demonstrations.
    pub fn dataset(&self) -> &Dataset {
        self.examples.dataset()
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// How many windows are learned on, and how many are held out.
    pub fn windows(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &ConditionalUnet1d {
        self.average.network()
    }

    /// How the student of now is sampled.
    pub fn sampling(&self) -> Sampling {
        self.phase().sampling
    }

    /// How the student is sampled that the last step completed, where another begins with the next: one that halved its
    /// teacher's steps, or learned to predict something else.
    pub fn completed(&self) -> Option<Sampling> {
        let begins = self.phases.iter().any(|phase| phase.start == self.step);
        (self.step > 0 && begins).then(|| self.sampling())
    }

    /// The phase of the last step that was made, or of the first.
    fn phase(&self) -> &Phase {
        let last = self.step.saturating_sub(1);
        let begun = |phase: &&Phase| phase.start <= last;
        self.phases.iter().rfind(begun).unwrap_or(&self.phases[0])
    }

    /// Makes a step.
    ///
    /// # Errors
    ///
    /// If the loss or the gradient is not finite. The student is then as it was; its fake score may have gone on, so that the
    /// run goes on from a checkpoint.
    pub fn step(&mut self) -> Result<Step, TrainError> {
        if let Some(at) = (self.phases.iter()).position(|phase| phase.start == self.step) {
            self.begin(at);
        }
        in_pool(|| self.step_within())
    }

    /// Begins a phase: with the average of the one before, and everything else anew.
    fn begin(&mut self, at: usize) {
        let before = at.checked_sub(1).map(|before| &self.phases[before].lessons);
        let plain = self.average.network().clone();
        if let (Some(Lessons::Halving(_)), Lessons::Halving(_)) = (before, &self.phases[at].lessons)
        {
            self.teacher = Teacher::new(&plain, self.of_student, &self.device);
            self.predecessor = Some(plain.clone());
        }
        self.network = self.recipe.student.rehearsed(plain).train();
        self.average = Ema::new(&self.network, self.recipe.average.clone().into());
        self.optimizer = ResumableOptimizer::new(rule(&self.recipe.optimizer));
        self.target = matches!(self.phases[at].lessons, Lessons::Jumps(_))
            .then(|| Ema::new(&self.network, self.target_decay()));
        self.critic = matches!(self.phases[at].lessons, Lessons::Matching(_)).then(|| Critic {
            network: self.original.clone().train(),
            optimizer: ResumableOptimizer::new(rule(&self.recipe.optimizer)),
        });
    }

    /// As fast from the first update on: what the average begins with is a student that is nearly right.
    fn target_decay(&self) -> Decay {
        Decay {
            most: self.recipe.distill.target_decay.unwrap_or(0.95),
            inverse_gamma: f64::MIN_POSITIVE,
            power: 1.0,
        }
    }

    fn step_within(&mut self) -> Result<Step, TrainError> {
        let (step, count) = (self.step, self.recipe.data.batch);
        // The phase that this step belongs to.
        let phase = (self.phases.iter()).rfind(|phase| phase.start <= step);
        let phase = phase.expect("a run begins with a phase").clone();
        let windows = self.batches.draw(step, count);
        let frames: Vec<usize> = windows.iter().map(|&at| self.training[at]).collect();
        let batch = self.examples.batch(&frames, &self.device);
        let shape = self.examples.shape();
        let drawn = noise(self.seeds.noise ^ step, count, shape, &self.device);
        let progress = step - phase.start;
        let rate = |peak: f64| {
            let rates = WarmUpCosine {
                peak,
                warm_up: self.recipe.optimizer.warm_up,
                steps: phase.steps,
            };
            rates.rate(progress)
        };
        let rate_of_critic = {
            let peak = self.recipe.distill.critic_rate;
            rate(peak.unwrap_or(self.recipe.optimizer.rate))
        };
        let rate = rate(self.recipe.optimizer.rate);
        let errors = if let Lessons::Matching(matching) = &phase.lessons {
            self.follow(matching, &batch, rate_of_critic)?;
            self.mismatch(matching, &batch, drawn)
        } else {
            let teaching = self.teaching();
            let seed = self.seeds.lessons;
            let lesson = teaching.lesson(&phase.lessons, &batch, drawn.clone(), seed, step);
            teaching.errors(&self.network, &phase.lessons, &lesson, &batch, drawn)
        };
        let loss = errors.mean();
        let value: f32 = loss.clone().into_scalar();
        let mut gradients = GradientsParams::from_grads(loss.backward(), &self.network);
        let norm = clip(&mut gradients, &self.network, self.recipe.optimizer.clip);
        let loss = f64::from(value);
        if !(loss.is_finite() && norm.is_finite()) {
            return Err(NonFinite { step, loss, norm }.into());
        }
        // Who holds weights alone changes them in place; the average stands in meanwhile.
        let network = std::mem::replace(&mut self.network, self.average.network().clone());
        self.network = self.optimizer.step(rate, network, gradients);
        self.average.update(&self.network);
        if let Some(target) = &mut self.target {
            target.update(&self.network);
        }
        self.step += 1;
        Ok(Step {
            step,
            loss,
            norm,
            rate,
        })
    }

    /// Who makes lessons now.
    fn teaching(&self) -> Teaching<'_> {
        Teaching {
            recipe: &self.recipe.distill,
            schedule: &self.schedule,
            teacher: &self.teacher,
            of_student: self.of_student,
            seen_by: match &self.target {
                Some(target) => target.network(),
                None => self.average.network(),
            },
        }
    }

    /// The loss of the averaged network on the windows that are held out, in lessons of the last step's kind that are the same
    /// every time; none if none are held out, or the student matches a distribution, which no loss measures.
    ///
    /// Where there are more than `most`, some of them are looked at, spread over all.
    pub fn validate(&self, most: usize) -> Option<f64> {
        let lessons = &self.phase().lessons;
        let count = self.held_out.len().min(most);
        if count == 0 || matches!(lessons, Lessons::Matching(_)) {
            return None;
        }
        let frames: Vec<usize> = (0..count)
            .map(|i| self.held_out[i * self.held_out.len() / count])
            .collect();
        let (network, seed) = (self.network(), self.seeds.validation);
        let teaching = self.teaching();
        let batches = frames.chunks(self.recipe.data.batch);
        let losses = batches.zip(0_u64..).map(|(frames, i)| {
            let batch = self.examples.batch(frames, &self.device);
            let shape = self.examples.shape();
            let drawn = noise(seed ^ i, frames.len(), shape, &self.device);
            let loss: f32 = in_pool(|| {
                let lesson = teaching.lesson(lessons, &batch, drawn.clone(), seed, i);
                let errors = teaching.errors(network, lessons, &lesson, &batch, drawn);
                errors.mean().into_scalar()
            });
            f64::from(loss) * frames.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes the student of averaged weights as LeRobot's `save_pretrained` does, and beside it in `clearway.json` how it is
    /// sampled; LeRobot and [`Policy::load`] read the folder.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save_policy(&self, folder: &Path) -> Result<(), TrainError> {
        let sampling = self.sampling();
        let mut json = self.json.clone();
        json["num_inference_steps"] = json!(sampling.steps);
        let saved = Saved {
            json: &json,
            config: &self.config,
            statistics: &self.statistics,
            network: self.average.network(),
            sampling: Some(sampling),
        };
        saved.write(folder).map_err(|error| TrainError::Write {
            file: folder.display().to_string(),
            error,
        })
    }
}
