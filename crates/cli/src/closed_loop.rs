//! A policy in closed loop: where planner and world meet.

#[cfg(feature = "train")]
pub(crate) mod looking_ahead;

use std::path::Path;
use std::time::Duration;

use clearway_motion::Trajectory;
use clearway_planner::{Budget, Denoising, History, Image, Observation, Plan, Planner, Problem};
use clearway_sim::{PushT, pusht};
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use safetensors::SafeTensors;
use safetensors::tensor::TensorView;

use crate::error::Error;

/// Which episodes to run.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) episodes: usize,
    /// Episode `i` starts from this seed plus `i`.
    pub(crate) seed: u64,
    /// What the noise of the plans is drawn from, beside the episode's seed: another draw over the same starts.
    pub(crate) noise_seed: u64,
    /// Episodes that share network passes.
    pub(crate) batch: usize,
    /// The initial noise of every replan, instead of what the seed gives.
    pub(crate) noise: Option<RecordedNoise>,
    /// Episodes, the first ones, of which everything is kept.
    pub(crate) kept: usize,
}

/// What happened in an episode.
#[derive(Debug)]
pub(crate) struct Episode {
    pub(crate) seed: u64,
    pub(crate) succeeded: bool,
    /// The largest reward.
    pub(crate) reward: f64,
    /// At the start and after each step.
    pub(crate) observations: Vec<pusht::Observation>,
    pub(crate) actions: Vec<[f64; 2]>,
    pub(crate) rewards: Vec<f64>,
    /// Of an episode that is kept, each replan and the step before which it was made.
    pub(crate) replans: Vec<(usize, Replan)>,
}

impl Episode {
    pub(crate) fn steps(&self) -> usize {
        self.actions.len()
    }
}

/// A plan, and how it came out of the noise.
#[derive(Debug)]
#[cfg_attr(
    not(feature = "rerun"),
    expect(dead_code, reason = "what is kept is for recordings")
)]
pub(crate) struct Replan {
    pub(crate) plan: Plan,
    pub(crate) estimates: Vec<Trajectory>,
}

/// What came out of all of them.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) episodes: Vec<Episode>,
    /// Milliseconds that one plan takes alone.
    pub(crate) latencies: Vec<f64>,
}

/// An episode that runs.
struct Running {
    index: usize,
    world: PushT,
    history: History,
    sight: Sight,
    /// How many observations the policy sees.
    looks_back: usize,
    replans: usize,
    episode: Episode,
}

pub(crate) fn period() -> Duration {
    Duration::from_secs_f64(pusht::CONTROL_PERIOD)
}

/// Says what cannot run before anything is written.
pub(crate) fn check(planner: &Planner, settings: &Settings) -> Result<(), Error> {
    let config = planner.policy().config();
    Sight::of(planner)?;
    let Some(noise) = &settings.noise else {
        return Ok(());
    };
    if planner.stages().iter().any(|stage| stage.fresh > 0.0) {
        return Err(Error::Stochastic(planner.sampling().to_string()));
    }
    let replans = pusht::EPISODE_STEPS.div_ceil(config.n_action_steps);
    if noise.episodes < settings.episodes || noise.replans < replans {
        return Err(Error::Argument {
            argument: "--noise",
            reason: format!(
                "must hold {} episodes of {replans} replans, found {} of {}",
                settings.episodes, noise.episodes, noise.replans
            ),
        });
    }
    if let Some(index) = noise.values.iter().position(|value| !value.is_finite()) {
        return Err(Error::Argument {
            argument: "--noise",
            reason: format!("holds {} at index {index}", noise.values[index]),
        });
    }
    Ok(())
}

/// Runs episodes in PushT as LeRobot does: the executed part of a plan to its end, then the next plan.
///
/// Up to `batch` episodes run side by side and are planned for together; when one ends the next begins, so that no
/// pass is half empty before the last ones. `each` is called with every episode that ends.
pub(crate) fn run(
    planner: &Planner,
    settings: &Settings,
    mut each: impl FnMut(&Episode),
) -> Result<Outcome, Error> {
    let mut done: Vec<(usize, Episode)> = Vec::new();
    let mut latencies = Latencies::default();
    let plan = |running: &[Running]| plan(planner, settings, running, &mut latencies);
    let keep = |index, episode: Episode| {
        each(&episode);
        done.push((index, episode));
    };
    run_with(planner, settings, plan, keep, || false)?;
    done.sort_by_key(|(index, _)| *index);
    Ok(Outcome {
        episodes: done.into_iter().map(|(_, episode)| episode).collect(),
        latencies: latencies.milliseconds,
    })
}

/// Runs episodes with plans from anywhere: `plan` makes one for each episode that runs, `end` is given those that end.
/// Before each plan `is_over` says whether those that run are given up.
fn run_with(
    planner: &Planner,
    settings: &Settings,
    mut plan: impl FnMut(&[Running]) -> Result<Vec<Replan>, Error>,
    mut end: impl FnMut(usize, Episode),
    is_over: impl Fn() -> bool,
) -> Result<(), Error> {
    let sight = Sight::of(planner)?;
    let executed = planner.policy().config().n_action_steps;
    let mut waiting = 0..settings.episodes;
    let mut running: Vec<Running> = Vec::new();
    loop {
        while running.len() < settings.batch
            && let Some(index) = waiting.next()
        {
            let seed = settings.seed.wrapping_add(index as u64);
            running.push(Running::new(
                index,
                seed,
                planner.policy().config().n_obs_steps,
                &sight,
            ));
        }
        if running.is_empty() || is_over() {
            return Ok(());
        }
        let plans = plan(&running)?;
        let mut still = Vec::with_capacity(running.len());
        for (mut one, replan) in running.into_iter().zip(plans) {
            let ended = one.execute(replan, executed, one.index < settings.kept)?;
            if ended {
                end(one.index, one.episode);
            } else {
                still.push(one);
            }
        }
        running = still;
    }
}

/// One plan for each running episode: those that are kept alone and with their denoising, the others together.
fn plan(
    planner: &Planner,
    settings: &Settings,
    running: &[Running],
    latencies: &mut Latencies,
) -> Result<Vec<Replan>, Error> {
    let problems: Vec<Problem<'_>> = running
        .iter()
        .map(|one| {
            let problem = Problem::new(&one.history);
            match &settings.noise {
                Some(noise) => problem.with_noise(noise.of(one.index, one.replans)),
                None => problem,
            }
        })
        .collect();
    let seeds: Vec<u64> = running
        .iter()
        .map(|one| one.plan_seed(settings.noise_seed))
        .collect();
    let kept = |i: usize| running[i].index < settings.kept;
    let together: Vec<usize> = (0..running.len()).filter(|&i| !kept(i)).collect();
    let chosen: Vec<Problem<'_>> = together.iter().map(|&i| problems[i]).collect();
    let their_seeds: Vec<u64> = together.iter().map(|&i| seeds[i]).collect();
    let mut shared = planner
        .plan_batch(&chosen, Budget::default(), &their_seeds)
        .into_iter();

    let mut replans = Vec::with_capacity(running.len());
    for (i, problem) in problems.iter().enumerate() {
        let replan = if kept(i) {
            let Denoising { plan, estimates } =
                planner.denoise(problem, Budget::default(), seeds[i])?;
            latencies.add(&plan);
            Replan { plan, estimates }
        } else {
            let plan = shared.next().expect("one plan a problem")?;
            if together.len() == 1 {
                latencies.add(&plan);
            }
            Replan {
                plan,
                estimates: Vec::new(),
            }
        };
        replans.push(replan);
    }
    // Where passes are shared, some plans are made once more, alone, to know what one takes.
    if together.len() > 1 && latencies.wants_more() {
        let again = planner.plan(&chosen[0], Budget::default(), their_seeds[0])?;
        latencies.add(&again);
    }
    Ok(replans)
}

/// How long single plans take.
#[derive(Debug, Default)]
struct Latencies {
    milliseconds: Vec<f64>,
    /// The first plan of a process also maps memory and starts threads; it is left out.
    warm: bool,
}

impl Latencies {
    const ENOUGH: usize = 200;

    fn wants_more(&self) -> bool {
        self.milliseconds.len() < Self::ENOUGH
    }

    fn add(&mut self, plan: &Plan) {
        if self.warm {
            self.milliseconds.push(plan.elapsed.as_secs_f64() * 1e3);
        }
        self.warm = true;
    }
}

impl Running {
    fn new(index: usize, seed: u64, looks_back: usize, sight: &Sight) -> Self {
        let world = PushT::reset(seed);
        let start = world.observation();
        let mut one = Self {
            index,
            world,
            history: History::default(),
            sight: sight.clone(),
            looks_back,
            replans: 0,
            episode: Episode {
                seed,
                succeeded: false,
                reward: 0.0,
                observations: vec![start],
                actions: Vec::new(),
                rewards: Vec::new(),
                replans: Vec::new(),
            },
        };
        one.history
            .push(one.sight.observe(0, &one.world, &start))
            .expect("the first observation is newest");
        one
    }

    /// A seed of its own for each plan of each episode: a hash, since seeds that are counted up would meet.
    fn plan_seed(&self, noise_seed: u64) -> u64 {
        let mut key = [0; 32];
        key[..8].copy_from_slice(&noise_seed.to_le_bytes());
        key[8..16].copy_from_slice(&self.episode.seed.to_le_bytes());
        let mut generator = ChaCha8Rng::from_seed(key);
        generator.set_stream(self.replans as u64);
        generator.next_u64()
    }

    /// Executes the first actions of a plan, and says whether the episode ended with them.
    fn execute(&mut self, replan: Replan, executed: usize, keep: bool) -> Result<bool, Error> {
        let planned_at = self.world.steps();
        let mut ended = false;
        for action in actions(&replan.plan.trajectory).take(executed) {
            let seen = self.world.step(action)?;
            self.history
                .push(self.sight.observe(self.world.steps(), &self.world, &seen))?;
            let episode = &mut self.episode;
            episode.observations.push(seen);
            episode.actions.push(action);
            episode.rewards.push(seen.reward);
            episode.reward = episode.reward.max(seen.reward);
            episode.succeeded |= seen.succeeded;
            ended = episode.succeeded || self.world.steps() >= pusht::EPISODE_STEPS;
            if ended {
                break;
            }
        }
        self.history.keep_newest(self.looks_back);
        self.replans += 1;
        if keep {
            self.episode.replans.push((planned_at, replan));
        }
        Ok(ended)
    }
}

/// The actions of a plan. gym-pusht's are those of a square; it leaves it to the caller to stay within.
fn actions(plan: &Trajectory) -> impl Iterator<Item = [f64; 2]> + '_ {
    let waypoints = plan.waypoints();
    waypoints.map(|it| [0, 1].map(|i| it.position[i].clamp(0.0, pusht::SIZE)))
}

/// What a PushT policy is shown, by the names that LeRobot's policies have for it.
#[derive(Clone, Debug)]
pub(crate) struct Sight {
    /// The cameras of the policy; all see the same.
    cameras: Vec<String>,
}

impl Sight {
    /// What a policy wants to see, if PushT can show it.
    pub(crate) fn of(planner: &Planner) -> Result<Self, Error> {
        let config = planner.policy().config();
        if config.action.len != 2 {
            return Err(Error::Task(config.action.len));
        }
        let Some(vision) = planner.policy().vision() else {
            return Ok(Self {
                cameras: Vec::new(),
            });
        };
        let size = vision.config().size;
        if size != [pusht::PICTURE_SIZE; 2] {
            return Err(Error::Sight {
                found: size,
                shown: pusht::PICTURE_SIZE,
            });
        }
        Ok(Self {
            cameras: vision.observed_names().to_vec(),
        })
    }

    /// What the world shows, in a step of the robot's clock.
    pub(crate) fn observe(
        &self,
        step: usize,
        world: &PushT,
        seen: &pusht::Observation,
    ) -> Observation {
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        let mut observation = Observation::new(period() * step)
            .with("observation.state", seen.agent)
            .with("observation.environment_state", seen.key_points);
        if self.cameras.is_empty() {
            return observation;
        }
        let picture = world.picture();
        let (height, width) = (picture.height(), picture.width());
        let image = Image::from_rgb8(height, width, picture.into_bytes())
            .expect("a picture has three bytes a pixel");
        for camera in &self.cameras {
            observation = observation.with_image(camera, image.clone());
        }
        observation
    }
}

/// The initial noise of every replan of every episode.
#[derive(Debug)]
pub(crate) struct RecordedNoise {
    values: Vec<f32>,
    episodes: usize,
    replans: usize,
    each: usize,
}

impl RecordedNoise {
    /// Reads the tensor `noise`, `[episode, replan, horizon, action]`, of a safetensors file.
    pub(crate) fn read(path: &Path, planner: &Planner) -> Result<Self, Error> {
        let config = planner.policy().config();
        let bytes = std::fs::read(path).map_err(|error| Error::read(path, &error))?;
        let file = SafeTensors::deserialize(&bytes).map_err(|error| Error::read(path, &error))?;
        let tensor = file.tensor("noise").map_err(|_| Error::Missing {
            path: path.to_owned(),
            key: "noise".to_owned(),
            expected: "a tensor [episode, replan, horizon, action]",
        })?;
        let [episodes, replans, horizon, action] = *tensor.shape() else {
            return Err(Self::misshapen(path, planner, &tensor));
        };
        if horizon != config.horizon
            || action != config.action.len
            || tensor.dtype() != safetensors::Dtype::F32
        {
            return Err(Self::misshapen(path, planner, &tensor));
        }
        let (values, _) = tensor.data().as_chunks::<4>();
        Ok(Self {
            values: values
                .iter()
                .map(|bytes| f32::from_le_bytes(*bytes))
                .collect(),
            episodes,
            replans,
            each: horizon * action,
        })
    }

    fn misshapen(path: &Path, planner: &Planner, found: &TensorView<'_>) -> Error {
        let config = planner.policy().config();
        Error::Shape {
            path: path.to_owned(),
            key: "noise".to_owned(),
            expected: format!(
                "[episode, replan, {}, {}] in F32",
                config.horizon, config.action.len
            ),
            found: format!("{:?} in {:?}", found.shape(), found.dtype()),
        }
    }

    /// The noise of a replan; [`check`] made sure that there is enough.
    fn of(&self, episode: usize, replan: usize) -> &[f32] {
        let start = (episode * self.replans + replan) * self.each;
        &self.values[start..start + self.each]
    }
}
