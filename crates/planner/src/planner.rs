//! The planner: from observations to a trajectory that may be executed.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    Clip, Denoiser, Discrete, Inpaint, Noise, Parameterization, Parameterized, Pins, Sampler,
    Seeded, Stage, Threshold,
};
use clearway_layers::{Level, Precision, can_pack, in_pool, in_team};
use clearway_motion::{Interpolation, Safety, Trajectory, TrajectoryError, Violation};
use ndarray::{Array2, ArrayView1};

use crate::network::Prepared;
use crate::plan::{Arithmetic, Budget, Denoising, Outcome, Plan, PlanError, PlannerError, Problem};
use crate::sampling::{Sampling, clipped_noise};
use crate::{Observation, Policy};

/// The most candidates of a plan; they share network passes, so memory grows with them.
const MOST_CANDIDATES: usize = 4096;
/// The most numbers that one layer lays out for the candidates of a plan: 1 GiB of f32.
const MOST_VALUES: usize = 1 << 28;

/// The denoiser of a policy: its network, with what it predicts and how that is clipped.
pub type PolicyDenoiser = dyn Denoiser<3, Condition = Tensor<2>, Prepared = Prepared> + Send + Sync;

/// Plans with a policy.
///
/// ```no_run
/// # use std::{path::Path, time::Duration};
/// # use burn::tensor::Device;
/// use clearway_planner::{Budget, History, Observation, Planner, Problem};
///
/// let planner = Planner::load(Path::new("models/pusht"), Duration::from_millis(100), &Device::flex())?;
/// let mut history = History::default();
/// history.push(
///     Observation::new(Duration::ZERO)
///         .with("observation.state", [222.0, 97.0])
///         .with("observation.environment_state", [0.0; 16]),
/// )?;
/// let plan = planner.plan(&Problem::new(&history), Budget::default(), 7)?;
/// for action in plan.trajectory.waypoints() {
///     println!("{:?}: {}", action.time, action.position);
/// }
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// With packed weights, each thread of rayon's pool keeps a core busy for as long as a plan takes
/// ([`in_team`]). Beside threads with deadlines, give plans a pool with fewer threads than
/// there are cores: `rayon::ThreadPool::install`, or `RAYON_NUM_THREADS`.
pub struct Planner {
    policy: Policy,
    denoiser: Box<PolicyDenoiser>,
    parameterization: Parameterization,
    schedule: Discrete,
    sampling: Sampling,
    stages: Vec<Stage>,
    refinement: Option<(usize, Vec<Stage>)>,
    candidates: usize,
    actions: usize,
    period: Duration,
    device: Device,
    model: Arc<str>,
    pace: Mutex<Pace>,
}

impl Planner {
    /// Loads a policy from its folder; `period` is the time between two of its actions, which LeRobot's checkpoints do
    /// not say.
    ///
    /// On the CPU its weights are packed as they are [stored](Policy::stored), or in f32; on other devices they stay plain.
    ///
    /// # Errors
    ///
    /// If the folder holds no policy that can be run, or the period is zero.
    pub fn load(path: &Path, period: Duration, device: &Device) -> Result<Self, PlannerError> {
        let mut policy = Policy::load(path, device)?;
        if can_pack(device) {
            let stored = policy.stored().cloned();
            let packed = policy.pack(stored.unwrap_or_else(|| Precision::F32.into()));
            tracing::debug!(?packed, "packed");
        }
        Self::new(policy, period, device)
    }

    /// The same with weights [packed](Policy::pack) in a precision, or plain: then burn computes, on any device.
    ///
    /// # Errors
    ///
    /// As [`load`](Self::load).
    pub fn load_with(
        path: &Path,
        period: Duration,
        device: &Device,
        precision: Option<Precision>,
    ) -> Result<Self, PlannerError> {
        let mut policy = Policy::load(path, device)?;
        if let Some(precision) = precision {
            let packed = policy.pack(precision);
            tracing::debug!(?packed, "packed");
        }
        Self::new(policy, period, device)
    }

    /// A planner that samples as the policy says, one candidate a plan. The policy's weights stay as they are, plain or
    /// packed.
    ///
    /// # Errors
    ///
    /// If the policy's noise schedule or number of steps cannot be sampled, or the period is zero.
    pub fn new(policy: Policy, period: Duration, device: &Device) -> Result<Self, PlannerError> {
        if period.is_zero() {
            return Err(PlannerError::Period);
        }
        let config = policy.config();
        let schedule = config.schedule()?;
        let parameterization = config.prediction.into();
        let sampling = policy.sampling();
        let (stages, denoiser) = compile(&policy, parameterization, &schedule, sampling)?;
        Ok(Self {
            stages,
            refinement: None,
            parameterization,
            model: policy.hash().into(),
            actions: policy.config().n_action_steps,
            policy,
            denoiser,
            schedule,
            sampling,
            candidates: 1,
            period,
            device: device.clone(),
            pace: Mutex::default(),
        })
    }

    /// Samples with another solver, number of steps or grid.
    ///
    /// # Errors
    ///
    /// If the policy's noise schedule cannot be sampled so.
    pub fn with_sampling(mut self, sampling: Sampling) -> Result<Self, PlannerError> {
        (self.stages, self.denoiser) = compile(
            &self.policy,
            self.parameterization,
            &self.schedule,
            sampling,
        )?;
        self.sampling = sampling;
        self.refinement = None;
        Ok(self)
    }

    /// Where a problem brings the [last plan](Problem::previous), starts from that in place of noise, and makes only
    /// the last `steps` steps of a whole plan.
    ///
    /// With all of them it is planning from noise, but for the signal that is left at the first level. Set it after
    /// the [sampling](Self::with_sampling), which forgets it.
    ///
    /// Meng et al., "SDEdit", 2021, arXiv:2108.01073, algorithm 1; for plans Janner et al., 2022, arXiv:2205.09991,
    /// section 5.5.
    ///
    /// # Errors
    ///
    /// For no step, or more than a whole plan has.
    pub fn with_refinement(mut self, steps: usize) -> Result<Self, PlannerError> {
        if !(1..=self.sampling.steps).contains(&steps) {
            return Err(PlannerError::Refinement {
                limit: self.sampling.steps,
                found: steps,
            });
        }
        let stages = self.sampling.last_stages(&self.schedule, steps)?;
        self.refinement = Some((steps, stages));
        Ok(self)
    }

    /// Plans have so many actions in place of the policy's `n_action_steps`.
    ///
    /// A policy generates a longer horizon than it was meant to execute; who plans again before the end, and wants to
    /// have something in hand should the next plan be late, takes [all of it](Self::most_actions).
    ///
    /// # Errors
    ///
    /// For no action, or more than the horizon has from the newest observation on.
    pub fn with_actions(mut self, actions: usize) -> Result<Self, PlannerError> {
        let limit = self.most_actions();
        if !(1..=limit).contains(&actions) {
            return Err(PlannerError::Actions {
                limit,
                found: actions,
            });
        }
        self.actions = actions;
        Ok(self)
    }

    /// Draws so many candidates a plan and chooses among those that are feasible: where actions are committed the one
    /// that goes on most straightly from them, else the first.
    ///
    /// The first candidate of a seed is the same however many there are: to the bit where the weights are packed, else up
    /// to rounding.
    ///
    /// # Errors
    ///
    /// For no candidates, or more than 4096, or more than fit into a gibibyte at the widest layer.
    pub fn with_candidates(mut self, candidates: usize) -> Result<Self, PlannerError> {
        let config = self.policy.config();
        // A convolution lays out all of its windows; the widest is that of the widest level, at full length.
        let widest = config
            .down_dims
            .iter()
            .copied()
            .max()
            .unwrap_or(1)
            .max(config.action.len);
        let each = config.horizon * config.kernel_size * widest;
        let limit = MOST_CANDIDATES.min((MOST_VALUES / each).max(1));
        if !(1..=limit).contains(&candidates) {
            return Err(PlannerError::Candidates {
                limit,
                found: candidates,
            });
        }
        self.candidates = candidates;
        Ok(self)
    }

    /// The same policy, set up as the planner was that made a plan: its sampling, refinement, candidates, actions and
    /// period. What makes it [again](crate::replanner::log::Decision::replay), with the same
    /// [arithmetic](Self::arithmetic): that is chosen when a policy is loaded.
    ///
    /// # Errors
    ///
    /// If this policy cannot be set up so.
    pub fn set_up_as(mut self, plan: &Plan) -> Result<Self, PlannerError> {
        if plan.period.is_zero() {
            return Err(PlannerError::Period);
        }
        self.period = plan.period;
        let sampling = plan.sampling.unwrap_or(self.sampling);
        let planner = self
            .with_sampling(sampling)?
            .with_candidates(plan.drawn)?
            .with_actions(plan.trajectory.len())?;
        match plan.refined {
            Some(steps) => planner.with_refinement(steps),
            None => Ok(planner),
        }
    }

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// What the network computes with now; nothing where its weights are plain.
    pub fn arithmetic(&self) -> Option<Arithmetic> {
        let precision = self.policy.precision()?;
        Some(Arithmetic {
            precision,
            level: Level::detected(),
        })
    }

    /// How plans are sampled.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// How many candidates a plan draws.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// How many actions a plan has.
    pub fn actions(&self) -> usize {
        self.actions
    }

    /// How many actions the horizon has from the newest observation on.
    pub fn most_actions(&self) -> usize {
        let config = self.policy.config();
        config.horizon - (config.n_obs_steps - 1)
    }

    /// The passes of a plan, with what happens after each; their number bounds the latency.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The denoiser that is sampled: the network, with what it predicts and how that is clipped.
    pub fn denoiser(&self) -> &PolicyDenoiser {
        &*self.denoiser
    }

    /// How long one more pass, and the check after the last one, must be expected to take: the longest of the last ones,
    /// slowly forgotten. Nothing before the first plan.
    pub fn longest_pass(&self) -> Option<Duration> {
        let pace = self.pace();
        pace.pass.map(|pass| pass + pace.rest)
    }

    /// The time between two actions.
    pub fn period(&self) -> Duration {
        self.period
    }

    /// Plans once.
    ///
    /// # Errors
    ///
    /// If the observations do not fit the policy, or no candidate may be executed.
    pub fn plan(
        &self,
        problem: &Problem<'_>,
        budget: Budget,
        seed: u64,
    ) -> Result<Plan, PlanError> {
        self.run(std::slice::from_ref(problem), budget, &[seed], |_| ())
            .swap_remove(0)
    }

    /// Plans once and keeps what the denoiser saw in the noise after each pass.
    ///
    /// # Errors
    ///
    /// As [`plan`](Planner::plan).
    pub fn denoise(
        &self,
        problem: &Problem<'_>,
        budget: Budget,
        seed: u64,
    ) -> Result<Denoising, PlanError> {
        let mut estimates = Vec::new();
        let keep = |clean: &Tensor<3>| estimates.push(clean.clone());
        let plan = self
            .run(std::slice::from_ref(problem), budget, &[seed], keep)
            .swap_remove(0)?;
        let ready = self.ready(problem, seed)?;
        let mut estimates = estimates
            .into_iter()
            .map(|clean| self.trajectory(&download(clean.narrow(0, plan.row, 1)), &ready))
            .collect::<Result<Vec<_>, _>>()?;
        // The last step may add to its estimate; what is executed is the sample.
        if let Some(last) = estimates.last_mut() {
            *last = plan.trajectory.clone();
        }
        Ok(Denoising { plan, estimates })
    }

    /// Plans several problems in shared passes, with one seed a problem. Each comes out as alone: to the bit where the
    /// weights are packed, else up to rounding.
    ///
    /// # Panics
    ///
    /// If there are not as many seeds as problems.
    pub fn plan_batch(
        &self,
        problems: &[Problem<'_>],
        budget: Budget,
        seeds: &[u64],
    ) -> Vec<Result<Plan, PlanError>> {
        self.run(problems, budget, seeds, |_| ())
    }

    fn run(
        &self,
        problems: &[Problem<'_>],
        budget: Budget,
        seeds: &[u64],
        mut each: impl FnMut(&Tensor<3>) + Send,
    ) -> Vec<Result<Plan, PlanError>> {
        assert_eq!(problems.len(), seeds.len(), "one seed a problem");
        let begun = Instant::now();
        let span = tracing::debug_span!("plan", problems = problems.len());
        let _entered = span.enter();

        // A problem that is none must not spoil the others.
        let mut plans: Vec<Option<Result<Plan, PlanError>>> = Vec::new();
        let mut valid = Vec::with_capacity(problems.len());
        for (index, (problem, &seed)) in problems.iter().zip(seeds).enumerate() {
            match self.ready(problem, seed) {
                Ok(ready) => {
                    valid.push((index, ready));
                    plans.push(None);
                }
                Err(error) => plans.push(Some(Err(error))),
            }
        }
        // Those that refine make other passes than those that begin with noise.
        let (refined, whole): (Vec<_>, Vec<_>) = valid
            .into_iter()
            .partition(|(_, ready)| ready.previous.is_some());
        for group in [whole, refined] {
            if group.is_empty() {
                continue;
            }
            let (indices, group): (Vec<usize>, Vec<Ready<'_>>) = group.into_iter().unzip();
            // Once a plan: every pass is shared out there.
            let sample = || span.in_scope(|| self.sample(&group, budget, &mut each));
            let (samples, passes) = if self.policy.precision().is_some() {
                in_team(sample)
            } else {
                in_pool(sample)
            };
            let finishing = Instant::now();
            let size = samples.len() / group.len();
            for ((index, ready), samples) in
                indices.into_iter().zip(&group).zip(samples.chunks(size))
            {
                plans[index] = Some(self.choose(samples, ready, &passes));
            }
            self.pace().note_rest(finishing.elapsed());
            tracing::info!(
                problems = group.len(), sampling = %self.sampling, outcome = %passes.outcome,
                passes = passes.made, elapsed = ?begun.elapsed(), "planned"
            );
        }
        let elapsed = begun.elapsed();
        let timed = |plan: Option<Result<Plan, PlanError>>| {
            let mut plan = plan.expect("every problem is an error or in a group")?;
            plan.elapsed = elapsed;
            Ok(plan)
        };
        plans.into_iter().map(timed).collect()
    }

    /// A problem in the network's terms; all that a caller can get wrong is found here.
    fn ready<'p>(&self, problem: &'p Problem<'p>, seed: u64) -> Result<Ready<'p>, PlanError> {
        let config = self.policy.config();
        let width = config.action.len;
        if let Some(noise) = problem.noise {
            let expected = config.horizon * width;
            if noise.len() != expected {
                return Err(PlanError::NoiseLength {
                    expected,
                    found: noise.len(),
                });
            }
            if let Some(index) = noise.iter().position(|value| !value.is_finite()) {
                return Err(PlanError::NoiseValue {
                    index,
                    value: noise[index],
                });
            }
        }
        if let Some(limits) = problem.limits
            && limits.dof() != width
        {
            return Err(PlanError::Limits {
                expected: width,
                found: limits.dof(),
            });
        }
        let condition = self
            .policy
            .condition_every(self.period, problem.observations)?;
        let start = problem
            .observations
            .newest()
            .map_or(Duration::ZERO, Observation::time);
        let known = self.known(problem, start)?;
        let first = known.iter().map(|(row, _)| row + 1).max();
        let first = first.unwrap_or(config.n_obs_steps - 1);
        let previous = self.previous(problem, start)?;
        Ok(Ready {
            problem,
            seed,
            condition,
            start,
            drawn: self.drawn(problem, start, first),
            known,
            previous,
        })
    }

    /// The rows of the horizon whose actions are committed.
    fn known<'p>(
        &self,
        problem: &Problem<'p>,
        start: Duration,
    ) -> Result<Vec<(usize, ArrayView1<'p, f64>)>, PlanError> {
        let Some(committed) = problem.committed else {
            return Ok(Vec::new());
        };
        let config = self.policy.config();
        if committed.dof() != config.action.len {
            return Err(PlanError::CommittedWidth {
                expected: config.action.len,
                found: committed.dof(),
            });
        }
        let period = self.period.as_secs_f64();
        let mut known = Vec::new();
        for waypoint in committed.waypoints() {
            let time = waypoint.time;
            // Row 0 is the action of the oldest observation.
            let steps = (time.as_secs_f64() - start.as_secs_f64()) / period;
            let row = steps.round() + (config.n_obs_steps - 1) as f64;
            if row < 0.0 || row >= config.horizon as f64 {
                continue;
            }
            if (steps - steps.round()).abs() > OFF_THE_GRID {
                return Err(PlanError::CommittedTime {
                    time,
                    start,
                    period: self.period,
                });
            }
            known.push((row as usize, waypoint.position));
        }
        Ok(known)
    }

    /// The last plan at the times of the horizon, normalized, if it is to be refined.
    fn previous(
        &self,
        problem: &Problem<'_>,
        start: Duration,
    ) -> Result<Option<Vec<f32>>, PlanError> {
        let Some(previous) = problem.previous else {
            return Ok(None);
        };
        let config = self.policy.config();
        let wrong = PlanError::Previous {
            expected: config.action.len,
            found: previous.dof(),
            actions: previous.len(),
        };
        if previous.dof() != config.action.len {
            return Err(wrong);
        }
        if self.refinement.is_none() {
            return if previous.is_empty() {
                Err(wrong)
            } else {
                Ok(None)
            };
        }
        let mut rows = Vec::with_capacity(config.horizon * config.action.len);
        for row in 0..config.horizon {
            // Beyond its ends it stands still.
            let Some(state) = previous.sample(self.time(start, row)) else {
                return Err(wrong);
            };
            rows.extend(state.position.iter().copied());
        }
        Ok(Some(self.policy.normalized_actions(&rows)))
    }

    /// When the action of a row is due; row 0 is the oldest observation's.
    fn time(&self, start: Duration, row: usize) -> Duration {
        let periods = |n: usize| {
            self.period
                .saturating_mul(u32::try_from(n).unwrap_or(u32::MAX))
        };
        let past = periods(self.policy.config().n_obs_steps - 1);
        start.saturating_add(periods(row)).saturating_sub(past)
    }

    /// The rows after the committed ones that are drawn towards the last plan: row, weight and action.
    fn drawn(&self, problem: &Problem<'_>, start: Duration, first: usize) -> Vec<Drawn> {
        let Some(previous) = problem.previous else {
            return Vec::new();
        };
        let end = previous.times().last().copied().unwrap_or_default();
        let mut drawn = Vec::new();
        for i in 1..=problem.overlap {
            let row = first + i - 1;
            let time = self.time(start, row);
            if row >= self.policy.config().horizon || time > end {
                break;
            }
            let share = 1.0 - i as f64 / (problem.overlap as f64 + 1.0);
            let weight = share * share.exp_m1() / 1.0_f64.exp_m1();
            if let Some(state) = previous.sample(time) {
                let action = self.policy.normalized_actions(state.position.as_slice());
                drawn.push(Drawn {
                    row,
                    weight: weight as f32,
                    action,
                });
            }
        }
        drawn
    }

    /// One upload, the passes, one download: `[problems · candidates, horizon, action]`.
    fn sample(
        &self,
        group: &[Ready<'_>],
        budget: Budget,
        each: &mut impl FnMut(&Tensor<3>),
    ) -> (Vec<f32>, Passes) {
        let begun = Instant::now();
        let config = self.policy.config();
        let batch = group.len() * self.candidates;
        let shape = [batch, config.horizon, config.action.len];
        let width = config.condition_dim();
        let conditions: Vec<f32> = group
            .iter()
            .flat_map(|ready| ready.condition.repeat(self.candidates))
            .collect();
        let conditions =
            Tensor::<2>::from_data(TensorData::new(conditions, [batch, width]), &self.device);
        let prepared = self.denoiser.prepare(&conditions);
        let mut noise = Initial {
            given: group.iter().map(|ready| ready.problem.noise).collect(),
            candidates: self.candidates,
            seeded: Seeded::from_seeds_with(
                &group.iter().map(|ready| ready.seed).collect::<Vec<_>>(),
                self.candidates,
            ),
        };
        let previous: Vec<f32> = group
            .iter()
            .filter_map(|ready| ready.previous.as_ref())
            .flat_map(|rows| rows.repeat(self.candidates))
            .collect();
        let previous = (!previous.is_empty())
            .then(|| Tensor::from_data(TensorData::new(previous, shape), &self.device));
        let pins = self.pins(group, shape);
        let run = Run {
            prepared: &prepared,
            shape,
            previous,
            noise: &mut noise,
            budget,
            begun,
        };
        let (sample, passes) = match pins {
            None => self.denoise_with(&self.denoiser, run, each),
            Some(pins) => {
                let denoiser = &*self.denoiser;
                self.denoise_with(&Inpaint { denoiser, pins }, run, each)
            }
        };
        (download(sample), passes)
    }

    /// Where actions are committed, and which.
    fn pins(&self, group: &[Ready<'_>], shape: [usize; 3]) -> Option<Pins<3>> {
        if group
            .iter()
            .all(|ready| ready.known.is_empty() && ready.drawn.is_empty())
        {
            return None;
        }
        let [_, horizon, width] = shape;
        let mut mask = Vec::with_capacity(shape.iter().product());
        let mut values = Vec::with_capacity(mask.capacity());
        for ready in group {
            let (mut pinned, mut known) =
                (vec![0.0_f32; horizon * width], vec![0.0; horizon * width]);
            for (row, position) in &ready.known {
                let at = row * width..(row + 1) * width;
                pinned[at.clone()].fill(1.0);
                let position = position.to_vec();
                known[at].copy_from_slice(&self.policy.normalized_actions(&position));
            }
            for Drawn {
                row,
                weight,
                action,
            } in &ready.drawn
            {
                let at = row * width..(row + 1) * width;
                pinned[at.clone()].fill(*weight);
                known[at].copy_from_slice(action);
            }
            mask.extend(pinned.repeat(self.candidates));
            values.extend(known.repeat(self.candidates));
        }
        let tensor = |values| Tensor::from_data(TensorData::new(values, shape), &self.device);
        Some(Pins::new(tensor(mask), tensor(values)))
    }

    fn denoise_with<N>(
        &self,
        denoiser: &N,
        run: Run<'_>,
        each: &mut impl FnMut(&Tensor<3>),
    ) -> (Tensor<3>, Passes)
    where
        N: Denoiser<3, Condition = Tensor<2>, Prepared = Prepared>,
    {
        let Run {
            prepared,
            shape,
            previous,
            noise,
            budget,
            begun,
        } = run;
        let stages = match (&previous, &self.refinement) {
            (Some(_), Some((_, stages))) => stages,
            _ => &self.stages,
        };
        let sampler = match previous {
            None => Sampler::from_noise(denoiser, prepared, stages, shape, &self.device, noise),
            Some(clean) => Sampler::refine(denoiser, prepared, stages, clean, noise),
        };
        let mut passes = Passes {
            outcome: Outcome::Complete,
            made: 0,
            longest: Duration::ZERO,
        };
        let mut result = None;
        let mut pass = Instant::now();
        for step in sampler {
            each(&step.estimate.clean);
            passes.made = step.index + 1;
            let now = Instant::now();
            let took = now - pass;
            pass = now;
            let whole = if step.index == 0 { now - begun } else { took };
            passes.longest = passes.longest.max(whole);
            tracing::trace!(pass = passes.made, of = stages.len(), ?took, "pass");
            let needed = self.pace().note_pass(shape[0], took);
            let late = budget
                .deadline
                .is_some_and(|deadline| now.checked_add(needed).is_none_or(|end| end > deadline));
            let spent = budget.passes.is_some_and(|most| passes.made >= most);
            if (late || spent) && passes.made < stages.len() {
                passes.outcome = Outcome::Truncated {
                    passes: passes.made,
                };
                return (denoiser.finish(step.estimate.clean), passes);
            }
            result = Some(step.sample);
        }
        (result.expect("a grid has at least one step"), passes)
    }

    fn pace(&self) -> std::sync::MutexGuard<'_, Pace> {
        // Whoever panicked while it noted a duration left a duration.
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Of the candidates that pass the checks the one that goes on most straightly. NaN stops here.
    fn choose(
        &self,
        samples: &[f32],
        ready: &Ready<'_>,
        passes: &Passes,
    ) -> Result<Plan, PlanError> {
        let mut candidates = Vec::with_capacity(self.candidates);
        let mut broken = None;
        let mut rows = Vec::with_capacity(self.candidates);
        for (row, sample) in samples.chunks(samples.len() / self.candidates).enumerate() {
            match self.trajectory(sample, ready) {
                Ok(trajectory) => {
                    candidates.push(trajectory);
                    rows.push(row);
                }
                Err(error) => broken = Some(error),
            }
        }
        let mut safety = Safety::lenient(self.policy.config().action.len);
        if let Some(limits) = ready.problem.limits {
            safety = safety.with_limits(limits.clone());
        }
        let mut nearest: Option<Violation> = None;
        let mut chosen: Option<(usize, f64)> = None;
        for (index, candidate) in candidates.iter().enumerate() {
            if let Some(Err(violation)) = ready.problem.limits.map(|limits| limits.check(candidate))
            {
                let nearer = |nearest| relative(&violation) < relative(nearest);
                if nearest.as_ref().is_none_or(nearer) {
                    nearest = Some(violation);
                }
                continue;
            }
            let bend = self.bend(candidate, ready);
            if chosen.is_none_or(|(_, least)| bend < least) {
                chosen = Some((index, bend));
            }
        }
        let Some((chosen, _)) = chosen else {
            return Err(match (nearest, broken) {
                (Some(violation), _) => PlanError::Infeasible {
                    candidates: self.candidates,
                    violation,
                },
                (None, Some(error)) => error.into(),
                (None, None) => unreachable!("there is at least one candidate, and it was judged"),
            });
        };
        Ok(Plan {
            trajectory: candidates[chosen].clone(),
            candidates,
            chosen,
            row: rows[chosen],
            drawn: self.candidates,
            refined: match (&ready.previous, &self.refinement) {
                (Some(_), Some((steps, _))) => Some(*steps),
                _ => None,
            },
            period: self.period,
            outcome: passes.outcome,
            sampling: Some(self.sampling),
            arithmetic: self.arithmetic(),
            passes: passes.made,
            longest_pass: passes.longest,
            seed: ready.seed,
            checks: safety.applied(),
            elapsed: Duration::ZERO,
            model: Arc::clone(&self.model),
        })
    }

    /// How far the first free action is from where the last two committed ones lead, squared and summed over the
    /// coordinates; zero where nothing is committed.
    fn bend(&self, candidate: &Trajectory, ready: &Ready<'_>) -> f64 {
        let first = self.policy.config().n_obs_steps - 1;
        let action = |row: usize| {
            let known = ready.known.iter().find(|(known, _)| *known == row);
            known.map(|(_, position)| *position)
        };
        let last = ready.known.iter().map(|(row, _)| *row).max();
        let free = last.and_then(|last| (last + 1).checked_sub(first));
        let (Some(last), Some(free)) = (last, free.filter(|free| *free < candidate.len())) else {
            return 0.0;
        };
        let Some(known) = action(last) else {
            return 0.0;
        };
        let before = last.checked_sub(1).and_then(action).unwrap_or(known);
        (0..candidate.dof())
            .map(|j| candidate.positions()[[free, j]] - 2.0 * known[j] + before[j])
            .map(|bend| bend * bend)
            .sum()
    }

    /// The actions of a sample from the newest observation on, those that are committed exactly so.
    fn trajectory(&self, sample: &[f32], ready: &Ready<'_>) -> Result<Trajectory, TrajectoryError> {
        let config = self.policy.config();
        let (width, first) = (config.action.len, config.n_obs_steps - 1);
        let executed = &sample[first * width..(first + self.actions) * width];
        let mut actions =
            Array2::from_shape_vec([self.actions, width], self.policy.actions(executed))
                .expect("whole rows were unnormalized");
        // Normalized and back they would be off by a rounding.
        for (row, position) in &ready.known {
            if let Some(action) = row.checked_sub(first).filter(|row| *row < self.actions) {
                actions.row_mut(action).assign(position);
            }
        }
        Trajectory::uniform(ready.start, self.period, actions, Interpolation::Hold)
    }
}

/// How far from the plan's times a committed action may be, in periods: rounding of clocks, not another time.
const OFF_THE_GRID: f64 = 1e-3;

/// A problem in the network's terms.
struct Ready<'p> {
    problem: &'p Problem<'p>,
    seed: u64,
    condition: Vec<f32>,
    /// The time of the newest observation.
    start: Duration,
    /// The rows of the horizon that are committed, and their actions.
    known: Vec<(usize, ArrayView1<'p, f64>)>,
    /// What is refined, normalized: `[horizon, action]`.
    previous: Option<Vec<f32>>,
    /// What follows the last plan for a while.
    drawn: Vec<Drawn>,
}

/// A row that is drawn towards an action, normalized.
struct Drawn {
    row: usize,
    weight: f32,
    action: Vec<f32>,
}

/// What the passes begin with.
struct Run<'a> {
    prepared: &'a Prepared,
    shape: [usize; 3],
    previous: Option<Tensor<3>>,
    noise: &'a mut dyn Noise,
    budget: Budget,
    /// When what the passes share began to be prepared: a part of the first.
    begun: Instant,
}

/// What became of them.
struct Passes {
    outcome: Outcome,
    made: usize,
    longest: Duration,
}

/// How long a pass took lately, and what comes after the passes: the longest of each, slowly forgotten.
#[derive(Debug, Default)]
struct Pace {
    /// For how many rows.
    rows: usize,
    pass: Option<Duration>,
    rest: Duration,
}

impl Pace {
    /// Of what was longer than now, a quarter is forgotten with every pass: a machine that was asleep once must not cost
    /// plans their passes for long.
    const FORGOTTEN: u32 = 4;

    fn forget(longest: Duration, now: Duration) -> Duration {
        now.max(longest.saturating_sub(longest.saturating_sub(now) / Self::FORGOTTEN))
    }

    /// Notes a pass and says what one more, with the rest, must be expected to take.
    fn note_pass(&mut self, rows: usize, took: Duration) -> Duration {
        if self.rows != rows {
            // The first pass of its size also maps memory and starts threads; it says nothing about the next.
            *self = Self {
                rows,
                ..Self::default()
            };
            return took.min(Duration::from_millis(1));
        }
        let pass = self.pass.map_or(took, |pass| Self::forget(pass, took));
        self.pass = Some(pass);
        pass + self.rest
    }

    fn note_rest(&mut self, took: Duration) {
        self.rest = Self::forget(self.rest, took);
    }
}

impl fmt::Debug for Planner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Planner")
            .field("sampling", &self.sampling)
            .field("candidates", &self.candidates)
            .field("period", &self.period)
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// The stages of a sampling, and the denoiser that fits it.
fn compile(
    policy: &Policy,
    parameterization: Parameterization,
    schedule: &Discrete,
    sampling: Sampling,
) -> Result<(Vec<Stage>, Box<PolicyDenoiser>), PlannerError> {
    let stages = sampling.stages(schedule)?;
    let parameterized = Parameterized::new(policy.network().clone(), parameterization);
    parameterized.check(&stages)?;
    let denoiser: Box<PolicyDenoiser> = match policy.config().clip_sample_range {
        Some(range) => Box::new(Clip {
            denoiser: parameterized,
            threshold: Threshold::Static { range },
            noise: clipped_noise(sampling.method),
        }),
        None => Box::new(parameterized),
    };
    Ok((stages, denoiser))
}

/// By how much a violation is beyond its limit, as a share of the limit: what makes pixels and speeds comparable.
fn relative(violation: &Violation) -> f64 {
    match violation {
        Violation::Exceeded { limit, .. } if *limit != 0.0 => violation.excess() / limit.abs(),
        _ => violation.excess(),
    }
}

fn download(tensor: Tensor<3>) -> Vec<f32> {
    tensor
        .into_data()
        .try_to_vec()
        .expect("the engine computes in f32")
}

/// The seeds' noise, but for the problems whose initial noise was given.
#[derive(Debug)]
struct Initial<'a> {
    given: Vec<Option<&'a [f32]>>,
    candidates: usize,
    seeded: Seeded,
}

impl Noise for Initial<'_> {
    fn draw(&mut self, shape: &[usize]) -> Vec<f32> {
        let mut values = self.seeded.draw(shape);
        let each: usize = shape[1..].iter().product();
        for (values, given) in values
            .chunks_mut(each * self.candidates)
            .zip(&mut self.given)
        {
            // Of several candidates the first is the one that was given; later draws are the seed's.
            if let Some(given) = given.take() {
                values[..each].copy_from_slice(given);
            }
        }
        values
    }
}
