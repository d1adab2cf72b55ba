//! Models of pictures from models of pictures: fewer steps, or smaller networks.

mod checkpoint;
mod matching;
mod recipe;
mod teaching;

use std::path::Path;

use burn::module::Module;
use burn::optim::GradientsParams;
use burn::tensor::{Device, Tensor};
use clearway_diffusion::distill::{Lessons, Phase, scales};
use clearway_diffusion::train::{
    Batches, Decay, Ema, NonFinite, Step, WarmUpCosine, clip, initialize,
};
use clearway_diffusion::{Discrete, Noise, Seeded, normal};
use clearway_layers::{ResumableOptimizer, in_pool};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

pub use recipe::{Distillation, StudentRecipe};

use super::beginning::{Unknown, begin, fits, plain};
use super::{TrainError, rule, split, task};
use crate::dataset::Pictures;
use crate::picture_model::PictureModel;
use crate::{Condition, Files, Unet};
use matching::Critic;
use teaching::{Batch, Meaning, Teacher, Teaching};

/// The seeds of what is drawn, all from one.
#[derive(Clone, Copy, Debug)]
struct Seeds {
    weights: u64,
    order: u64,
    lessons: u64,
    noise: u64,
    critic: u64,
    scales: u64,
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
            scales: draw(),
            held_out: draw(),
            validation: draw(),
        }
    }
}

/// A student that learns from a model of pictures.
///
/// It is to its loop what a [`Trainer`](super::Trainer) is: [`step`](Self::step), and between steps [`validate`](Self::validate),
/// [`save`](Self::save) and [`save_model`](Self::save_model). Of a teacher that knows guidance scales it learns a range of them,
/// and knows them too: it needs one pass a step.
///
/// ```text
/// progressive     [convert]  N -> N/2  N/2 -> N/4  ..  2n -> n       a phase each, from the average of the one before
/// consistency     [convert]  jumps
/// distribution    [convert]  matching, with a fake score of the teacher's network
/// structure       estimates
/// ```
///
/// A student with fewer blocks begins with the weights of those that are left.
#[derive(Debug)]
pub struct Distiller {
    recipe: Distillation,
    seeds: Seeds,
    pictures: Pictures,
    hash: String,
    teacher_hash: String,
    /// Of the model that the student begins with.
    start_hash: String,
    training: Vec<usize>,
    held_out: Vec<usize>,
    batches: Batches,
    phases: Vec<Phase>,
    /// What the student will be, with weights that are not its own.
    model: PictureModel,
    scales: Option<[f64; 2]>,
    /// The model's own network, plain.
    original: Unet,
    meaning: Meaning,
    /// What makes lessons in this phase.
    teacher: Teacher,
    /// The student of the phase before, plain, where it is the teacher.
    predecessor: Option<Unet>,
    of_student: Meaning,
    network: Unet,
    optimizer: ResumableOptimizer,
    average: Ema<Unet>,
    /// What says what the student shall see, where it learns jumps.
    target: Option<Ema<Unet>>,
    critic: Option<Critic>,
    step: u64,
    device: Device,
}

impl Distiller {
    /// Reads a teacher, and begins.
    ///
    /// # Errors
    ///
    /// If it cannot be read, does not draw such pictures, the recipe fits no student of it, or nothing is left to learn on.
    pub fn new(
        recipe: Distillation,
        teacher: &Path,
        pictures: Pictures,
        device: &Device,
    ) -> Result<Self, TrainError> {
        let own = plain(teacher, device)?;
        fits(&own, teacher, &pictures)?;
        recipe.check(own.scheduler().schedule.len())?;
        let scales = recipe.student.scales(own.unet().knows_guidance())?;
        let teacher_hash = Files::open(teacher)?.hash()?;
        let (start, start_hash) = match &recipe.student.start {
            None => (own.clone(), teacher_hash.clone()),
            Some(folder) => {
                let start = plain(folder, device)?;
                same_task(&own, &start, folder)?;
                (start, Files::open(folder)?.hash()?)
            }
        };
        let said = recipe.student.said(&start, recipe.distill.kind);
        let model = PictureModel::new(own.form().clone(), said, device)?;

        let seeds = Seeds::new(recipe.seed);
        let [training, held_out] = split(&pictures, seeds.held_out, recipe.data.held_out)?;
        let converts = start.scheduler().parameterization != model.scheduler().parameterization;
        let phases = {
            let schedule = &own.scheduler().schedule;
            (recipe.distill).phases(schedule, recipe.optimizer.steps, converts)?
        };
        let network = if start.config() == model.config() {
            start.unet().clone()
        } else {
            let drawn = initialize(model.config().init(device), seeds.weights);
            begin(drawn, start.unet(), Unknown::Kept)
        };
        let network = network.train();
        let (meaning, of_student) = (Meaning::of(own.scheduler()), Meaning::of(model.scheduler()));
        let original = own.unet().clone();
        Ok(Self {
            teacher: Teacher::new(&original, meaning),
            average: Ema::new(&network, recipe.average.clone().into()),
            optimizer: ResumableOptimizer::new(rule(&recipe.optimizer)),
            batches: recipe.data.order.of(seeds.order, training.len()),
            hash: pictures.hash(),
            teacher_hash,
            start_hash,
            recipe,
            seeds,
            pictures,
            training,
            held_out,
            phases,
            model,
            scales,
            original,
            meaning,
            predecessor: None,
            of_student,
            network,
            target: None,
            critic: None,
            step: 0,
            device: device.clone(),
        })
    }

    /// The recipe.
    pub fn recipe(&self) -> &Distillation {
        &self.recipe
    }

    /// The pictures.
    pub fn pictures(&self) -> &Pictures {
        &self.pictures
    }

    /// How many steps were made.
    pub fn steps(&self) -> u64 {
        self.step
    }

    /// How many pictures are learned on, and how many are held out.
    pub fn counts(&self) -> [usize; 2] {
        [self.training.len(), self.held_out.len()]
    }

    /// The network of averaged weights: what is validated and saved.
    pub fn network(&self) -> &Unet {
        self.average.network()
    }

    /// In how many steps the student of now is sampled; none where as its teacher is.
    pub fn passes(&self) -> Option<usize> {
        self.phase().sampled.map(|it| it.steps)
    }

    /// In how many steps the student is sampled that the last step completed, where another begins with the next: one that
    /// halved its teacher's steps, or learned to predict something else.
    pub fn completed(&self) -> Option<usize> {
        let begins = self.phases.iter().any(|phase| phase.start == self.step);
        (self.step > 0 && begins).then(|| self.passes()).flatten()
    }

    /// The phase of the last step that was made, or of the first.
    fn phase(&self) -> &Phase {
        let last = self.step.saturating_sub(1);
        let begun = |phase: &&Phase| phase.start <= last;
        self.phases.iter().rfind(begun).unwrap_or(&self.phases[0])
    }

    fn schedule(&self) -> &Discrete {
        &self.model.scheduler().schedule
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
            self.teacher = Teacher::new(&plain, self.of_student);
            self.predecessor = Some(plain.clone());
        }
        self.network = plain.train();
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

    /// Some pictures, of what they are, and how much that is emphasised.
    fn batch(&self, which: &[usize], seed: u64, number: u64) -> Batch {
        let labels = which.iter().map(|&at| self.pictures.labels()[at]).collect();
        let guidance =
            (self.scales).map(|[least, most]| scales(&(least..=most), seed, number, which.len()));
        Batch {
            clean: task::batch(self.model.form(), &self.pictures, which, &self.device),
            condition: Condition {
                guidance,
                ..Condition::classes(labels)
            },
        }
    }

    fn step_within(&mut self) -> Result<Step, TrainError> {
        let step = self.step;
        // The phase that this step belongs to.
        let phase = (self.phases.iter()).rfind(|phase| phase.start <= step);
        let phase = phase.expect("a run begins with a phase").clone();
        let places = self.batches.draw(step, self.recipe.data.batch);
        let which: Vec<usize> = places.iter().map(|&at| self.training[at]).collect();
        let batch = self.batch(&which, self.seeds.scales, step);
        let noise = drawn(self.seeds.noise ^ step, &batch);
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
            self.mismatch(matching, &batch, noise)
        } else {
            let teaching = self.teaching();
            let seed = self.seeds.lessons;
            let lesson = teaching.lesson(&phase.lessons, &batch, noise.clone(), seed, step);
            teaching.errors(&self.network, &phase.lessons, &lesson, &batch, noise)
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
            schedule: self.schedule(),
            teacher: &self.teacher,
            of_student: self.of_student,
            seen_by: match &self.target {
                Some(target) => target.network(),
                None => self.average.network(),
            },
        }
    }

    /// The loss of the averaged network on the pictures that are held out, in lessons of the last step's kind that are the same
    /// every time; none if none are held out, or the student matches a distribution, which no loss measures.
    ///
    /// Where there are more than `most`, some of them are looked at, spread over all.
    pub fn validate(&self, most: usize) -> Option<f64> {
        let lessons = &self.phase().lessons;
        let count = self.held_out.len().min(most);
        if count == 0 || matches!(lessons, Lessons::Matching(_)) {
            return None;
        }
        let which: Vec<usize> = (0..count)
            .map(|i| self.held_out[i * self.held_out.len() / count])
            .collect();
        let (network, seed) = (self.network(), self.seeds.validation);
        let teaching = self.teaching();
        let batches = which.chunks(self.recipe.data.batch);
        let losses = batches.zip(0_u64..).map(|(which, i)| {
            let batch = self.batch(which, seed, i);
            let noise = drawn(seed ^ i, &batch);
            let loss: f32 = in_pool(|| {
                let lesson = teaching.lesson(lessons, &batch, noise.clone(), seed, i);
                let errors = teaching.errors(network, lessons, &lesson, &batch, noise);
                errors.mean().into_scalar()
            });
            f64::from(loss) * which.len() as f64
        });
        Some(losses.sum::<f64>() / count as f64)
    }

    /// Writes the student of averaged weights, as [`PictureModel::open`] reads it.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn save_model(&self, folder: &Path) -> Result<(), TrainError> {
        let model = self.model.clone().with_unet(self.network().clone());
        model.save(folder).map_err(|error| TrainError::Write {
            file: folder.display().to_string(),
            error,
        })
    }
}

/// Makes sure that a student of a teacher can begin as another model.
fn same_task(
    teacher: &PictureModel,
    start: &PictureModel,
    folder: &Path,
) -> Result<(), TrainError> {
    let (ours, theirs) = (start.scheduler(), teacher.scheduler());
    let knows = |model: &PictureModel| model.config().encoder.time_cond_proj_dim;
    let rows = [
        ("pictures", start.form() == teacher.form()),
        ("schedule of noise", ours.schedule == theirs.schedule),
        ("clipping", ours.clip == theirs.clip),
        ("time_cond_proj_dim", knows(start) == knows(teacher)),
    ];
    match rows.into_iter().find(|(_, holds)| !holds) {
        Some((what, _)) => Err(TrainError::OtherTask {
            folder: folder.to_owned(),
            what,
        }),
        None => Ok(()),
    }
}

/// Noise for a batch: a seed and the place in the batch are what it depends on.
fn drawn(seed: u64, batch: &Batch) -> Tensor<4> {
    let mut noise = Seeded::new(seed, batch.count());
    let device = batch.clean.device();
    normal(&mut noise as &mut dyn Noise, batch.clean.dims(), &device)
}
