//! The planner: from observations to a trajectory that may be executed.

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    Clip, Denoiser, Discrete, Noise, Parameterization, Parameterized, Sampler, Seeded, Stage,
    Threshold,
};
use clearway_motion::{Interpolation, Trajectory, TrajectoryError, Violation};
use ndarray::Array2;

use crate::Policy;
use crate::lerobot::{BetaSchedule, Prediction};
use crate::network::Prepared;
use crate::plan::{Budget, Check, Denoising, Outcome, Plan, PlanError, PlannerError, Problem};
use crate::sampling::Sampling;

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
pub struct Planner {
    policy: Policy,
    denoiser: Box<PolicyDenoiser>,
    parameterization: Parameterization,
    schedule: Discrete,
    sampling: Sampling,
    stages: Vec<Stage>,
    candidates: usize,
    period: Duration,
    device: Device,
    model: Arc<str>,
}

impl Planner {
    /// Loads a policy from its folder; `period` is the time between two of its actions, which LeRobot's checkpoints do
    /// not say.
    ///
    /// # Errors
    ///
    /// If the folder holds no policy that can be run, or the period is zero.
    pub fn load(path: &Path, period: Duration, device: &Device) -> Result<Self, PlannerError> {
        Self::new(Policy::load(path, device)?, period, device)
    }

    /// A planner that samples as the policy says, one candidate a plan.
    ///
    /// # Errors
    ///
    /// If the policy's noise schedule or number of steps cannot be sampled, or the period is zero.
    pub fn new(policy: Policy, period: Duration, device: &Device) -> Result<Self, PlannerError> {
        if period.is_zero() {
            return Err(PlannerError::Period);
        }
        let config = policy.config();
        let (timesteps, start, end) = (
            config.num_train_timesteps,
            config.beta_start,
            config.beta_end,
        );
        let schedule = match config.beta_schedule {
            BetaSchedule::Linear => Discrete::linear(timesteps, start, end),
            BetaSchedule::ScaledLinear => Discrete::scaled_linear(timesteps, start, end),
            BetaSchedule::SquaredCosine => Discrete::squared_cosine(timesteps),
        }?;
        let parameterization = match config.prediction {
            Prediction::Epsilon => Parameterization::Noise,
            Prediction::Sample => Parameterization::Sample,
        };
        let sampling = Sampling::of(config);
        let (stages, denoiser) = compile(&policy, parameterization, &schedule, sampling)?;
        Ok(Self {
            stages,
            parameterization,
            model: policy.hash().into(),
            policy,
            denoiser,
            schedule,
            sampling,
            candidates: 1,
            period,
            device: device.clone(),
        })
    }

    /// Samples with another solver or number of steps.
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
        Ok(self)
    }

    /// Draws so many candidates a plan and executes the first that is feasible.
    ///
    /// The first candidate of a seed is the same however many there are, up to rounding.
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

    /// The policy.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// How plans are sampled.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// How many candidates a plan draws.
    pub fn candidates(&self) -> usize {
        self.candidates
    }

    /// The passes of a plan, with what happens after each; their number bounds the latency.
    pub fn stages(&self) -> &[Stage] {
        &self.stages
    }

    /// The denoiser that is sampled: the network, with what it predicts and how that is clipped.
    pub fn denoiser(&self) -> &PolicyDenoiser {
        &*self.denoiser
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
        let start = start(problem);
        let mut estimates = estimates
            .into_iter()
            .map(|clean| self.trajectory(&download(clean.narrow(0, plan.row, 1)), start))
            .collect::<Result<Vec<_>, _>>()?;
        // The last step may add to its estimate; what is executed is the sample.
        if let Some(last) = estimates.last_mut() {
            *last = plan.trajectory.clone();
        }
        Ok(Denoising { plan, estimates })
    }

    /// Plans several problems in shared passes, with one seed a problem. Each comes out as alone, up to rounding.
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
        mut each: impl FnMut(&Tensor<3>),
    ) -> Vec<Result<Plan, PlanError>> {
        assert_eq!(problems.len(), seeds.len(), "one seed a problem");
        let begun = Instant::now();
        let span = tracing::debug_span!(
            "plan",
            problems = problems.len(),
            passes = self.stages.len()
        );
        let _entered = span.enter();

        // A problem that is none must not spoil the others.
        let conditions: Vec<Result<Vec<f32>, PlanError>> = problems
            .iter()
            .map(|problem| self.condition(problem))
            .collect();
        let valid: Vec<usize> = (0..problems.len())
            .filter(|&i| conditions[i].is_ok())
            .collect();
        let (samples, outcome) = if valid.is_empty() {
            (Vec::new(), Outcome::Complete)
        } else {
            let rows = valid.iter().filter_map(|&i| conditions[i].as_deref().ok());
            let seeds: Vec<u64> = valid.iter().map(|&i| seeds[i]).collect();
            let given = valid.iter().map(|&i| problems[i].noise).collect();
            let mut noise = Initial {
                given,
                candidates: self.candidates,
                seeded: Seeded::from_seeds_with(&seeds, self.candidates),
            };
            self.sample(rows, budget, &mut noise, &mut each)
        };
        tracing::info!(problems = problems.len(), sampling = %self.sampling, %outcome, elapsed = ?begun.elapsed(), "planned");

        let config = self.policy.config();
        let size = self.candidates * config.horizon * config.action.len;
        let mut samples = samples.chunks(size);
        let mut plans = Vec::with_capacity(problems.len());
        for ((condition, problem), &seed) in conditions.into_iter().zip(problems).zip(seeds) {
            plans.push(condition.and_then(|_| {
                let candidates = samples
                    .next()
                    .expect("one block of samples a valid problem");
                self.choose(candidates, problem, outcome, seed)
            }));
        }
        let elapsed = begun.elapsed();
        for plan in plans.iter_mut().flatten() {
            plan.elapsed = elapsed;
        }
        plans
    }

    /// What the network is conditioned on; all that a caller can get wrong is found here.
    fn condition(&self, problem: &Problem<'_>) -> Result<Vec<f32>, PlanError> {
        let config = self.policy.config();
        if let Some(noise) = problem.noise {
            let expected = config.horizon * config.action.len;
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
            && limits.dof() != config.action.len
        {
            return Err(PlanError::Limits {
                expected: config.action.len,
                found: limits.dof(),
            });
        }
        Ok(self
            .policy
            .condition_every(self.period, problem.observations)?)
    }

    /// One upload, the passes, one download: `[rows · candidates, horizon, action]`.
    fn sample<'b>(
        &self,
        rows: impl Iterator<Item = &'b [f32]>,
        budget: Budget,
        noise: &mut dyn Noise,
        each: &mut impl FnMut(&Tensor<3>),
    ) -> (Vec<f32>, Outcome) {
        let config = self.policy.config();
        let conditions: Vec<f32> = rows.flat_map(|row| row.repeat(self.candidates)).collect();
        let width = config.condition_dim();
        let batch = conditions.len() / width;
        let conditions =
            Tensor::<2>::from_data(TensorData::new(conditions, [batch, width]), &self.device);
        let prepared = self.denoiser.prepare(&conditions);
        let shape = [batch, config.horizon, config.action.len];
        let sampler = Sampler::from_noise(
            &self.denoiser,
            &prepared,
            &self.stages,
            shape,
            &self.device,
            noise,
        );
        let mut sample = None;
        for step in sampler {
            each(&step.estimate.clean);
            let passes = step.index + 1;
            let late = budget
                .deadline
                .is_some_and(|deadline| Instant::now() >= deadline);
            let spent = budget.passes.is_some_and(|most| passes >= most);
            if (late || spent) && passes < self.stages.len() {
                let estimate = self.denoiser.finish(step.estimate.clean);
                return (download(estimate), Outcome::Truncated { passes });
            }
            sample = Some(step.sample);
        }
        let sample = sample.expect("a grid has at least one step");
        (download(sample), Outcome::Complete)
    }

    /// The first candidate that passes the checks. NaN stops here.
    fn choose(
        &self,
        samples: &[f32],
        problem: &Problem<'_>,
        outcome: Outcome,
        seed: u64,
    ) -> Result<Plan, PlanError> {
        let start = start(problem);
        let mut candidates = Vec::with_capacity(self.candidates);
        let mut broken = None;
        let mut rows = Vec::with_capacity(self.candidates);
        for (row, sample) in samples.chunks(samples.len() / self.candidates).enumerate() {
            match self.trajectory(sample, start) {
                Ok(trajectory) => {
                    candidates.push(trajectory);
                    rows.push(row);
                }
                Err(error) => broken = Some(error),
            }
        }
        let mut checks = vec![Check::Finite];
        let mut nearest: Option<Violation> = None;
        let chosen = match problem.limits {
            None => (!candidates.is_empty()).then_some(0),
            Some(limits) => {
                checks.push(Check::Limits);
                candidates
                    .iter()
                    .position(|candidate| match limits.check(candidate) {
                        Ok(()) => true,
                        Err(violation) => {
                            if nearest
                                .as_ref()
                                .is_none_or(|nearest| relative(&violation) < relative(nearest))
                            {
                                nearest = Some(violation);
                            }
                            false
                        }
                    })
            }
        };
        let Some(chosen) = chosen else {
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
            outcome,
            sampling: self.sampling,
            seed,
            checks,
            elapsed: Duration::ZERO,
            model: Arc::clone(&self.model),
        })
    }

    /// The actions of a sample that are executed: those from the newest observation on.
    fn trajectory(&self, sample: &[f32], start: Duration) -> Result<Trajectory, TrajectoryError> {
        let config = self.policy.config();
        let (width, first) = (config.action.len, config.n_obs_steps - 1);
        let executed = &sample[first * width..(first + config.n_action_steps) * width];
        let actions = Array2::from_shape_vec(
            [config.n_action_steps, width],
            self.policy.actions(executed),
        )
        .expect("whole rows were unnormalized");
        Trajectory::uniform(start, self.period, actions, Interpolation::Hold)
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
            noise: sampling.method.clipped_noise(),
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

/// The time of the newest observation.
fn start(problem: &Problem<'_>) -> Duration {
    problem
        .observations
        .newest()
        .map_or(Duration::ZERO, crate::Observation::time)
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
