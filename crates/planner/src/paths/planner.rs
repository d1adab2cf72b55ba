//! From a problem to a proven motion.

use std::path::Path as FilePath;
use std::sync::Arc;
use std::time::{Duration, Instant};

use burn::tensor::{Device, Tensor, TensorData};
use clearway_diffusion::{
    Clip, ClippedNoise, Denoiser as _, End, Grid, Guided, Inpaint, Parameterized, Pins, Sampler,
    Seeded, Stage, Threshold, timesteps,
};
use clearway_layers::Precision;
use clearway_motion::{
    FreeSpace, Interpolation, Optimizer, Path, PathError, RrtConnect, ScalingError, Trajectory,
    scale_time, shortcut,
};
use ndarray::Array2;
use rayon::prelude::*;

use super::guidance::{Guidance, PathCost};
use super::plan::{
    FallbackReason, PathCandidate, PathOutcome, PathPlan, PathPlanError, PathPlannerError,
    PathProblem,
};
use super::prior::{PathNetwork, PathPrior};
use crate::{Budget, Sampling, SamplingError};

/// The most candidates of a plan.
const MOST_CANDIDATES: usize = 4096;

/// How long one waits at the goal if one is there already.
const STANDSTILL: Duration = Duration::from_millis(1);

/// How a path planner works.
#[derive(Clone, Debug, PartialEq)]
pub struct PathSettings {
    /// How many paths are drawn; `32`.
    pub candidates: usize,
    /// With which solver and in how many steps; what the prior says where it is left out.
    pub sampling: Option<Sampling>,
    /// What the network computes in; nothing leaves the weights as they are. `F32`, packed.
    pub precision: Option<Precision>,
    /// How they are guided while they are denoised; nothing leaves them alone.
    pub guidance: Option<Guidance>,
    /// What becomes of blocked ones after that; nothing leaves them blocked.
    pub projection: Option<Projection>,
    /// What guidance and projection keep from obstacles beyond what must be kept, where start and goal do: m; `0.01`.
    pub margin: f64,
    /// How many of the shortest free candidates are made motions, of which the quickest is the plan; `3`.
    pub finalists: usize,
    /// Attempts to shorten each of these; `50`, and `0` keeps them as they are.
    pub shortcuts: usize,
    /// The largest radius of a corner that is rounded: m; `0.2`.
    pub radius: f64,
    /// Who is asked where no candidate becomes a motion; nobody by default.
    pub fallback: Option<RrtConnect>,
}

/// What becomes of blocked candidates: a few covariant steps of an optimizer, each candidate by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Projection {
    /// The optimizer; the number of its waypoints is the prior's.
    pub optimizer: Optimizer,
}

impl Default for Projection {
    fn default() -> Self {
        Self {
            optimizer: Optimizer {
                iterations: 10,
                reserve: 0.02,
                ..Optimizer::default()
            },
        }
    }
}

impl Default for PathSettings {
    fn default() -> Self {
        Self {
            candidates: 32,
            sampling: None,
            precision: Some(Precision::F32),
            guidance: Some(Guidance::default()),
            projection: Some(Projection::default()),
            margin: 0.01,
            finalists: 3,
            shortcuts: 50,
            radius: 0.2,
            fallback: None,
        }
    }
}

impl PathSettings {
    /// The quickest motion that is found along a free path, as it is or shortened, with the path that it follows: within all
    /// limits, and proven free once more. It is what becomes of every path that leaves a planner, learned or classical.
    ///
    /// # Errors
    ///
    /// [`ScalingError`], where neither the path nor what it was shortened to becomes a motion.
    pub fn motion(
        &self,
        free: &FreeSpace,
        path: &Path,
        seed: u64,
    ) -> Result<(Trajectory, Path), ScalingError> {
        let mut ways = vec![path.clone()];
        if self.shortcuts > 0 {
            ways.push(shortcut(free, path, self.shortcuts, seed));
        }
        let mut best: Option<(Trajectory, Path)> = None;
        let mut failed = None;
        for way in ways {
            // A spline leaves the segments that were proven; what is rounded does not, and is slower.
            let smooth = way.spline().map_err(ScalingError::from);
            let smooth = smooth.and_then(|curve| proven(free, scale_time(&curve, free.limits())?));
            let motion = smooth.or_else(|_| proven(free, way.motion(free, self.radius)?));
            match motion {
                Ok(trajectory) => {
                    let quickest = best.as_ref().map(|(it, _)| it.duration());
                    if quickest.is_none_or(|it| trajectory.duration() < it) {
                        best = Some((trajectory, way));
                    }
                }
                Err(error) => failed = Some(error),
            }
        }
        match (best, failed) {
            (Some(best), _) => Ok(best),
            (None, Some(error)) => Err(error),
            (None, None) => Err(ScalingError::Point),
        }
    }
}

/// Plans paths with a [`PathPrior`].
///
/// It holds no state between plans: what it answers depends on its arguments alone, and each candidate on its own noise, the
/// problem and nothing else, not on how many there are.
#[derive(Debug)]
pub struct PathPlanner {
    prior: PathPrior,
    settings: PathSettings,
    sampling: Sampling,
    stages: Vec<Stage>,
    denoiser: Parameterized<PathNetwork>,
    model: Arc<str>,
    device: Device,
}

/// What was drawn, before anything was proven.
struct Drawn {
    /// `[candidates, horizon, dof]`, normalized.
    samples: Vec<f32>,
    outcome: PathOutcome,
    passes: usize,
}

impl PathPlanner {
    /// A planner with the prior in a folder.
    ///
    /// # Errors
    ///
    /// As [`PathPrior::load`] and [`PathPlanner::new`].
    pub fn load(
        folder: &FilePath,
        settings: PathSettings,
        device: &Device,
    ) -> Result<Self, PathPlannerError> {
        Self::new(PathPrior::load(folder, device)?, settings, device)
    }

    /// A planner.
    ///
    /// # Errors
    ///
    /// If a setting is none that can be worked with, or the prior cannot be sampled in that way.
    pub fn new(
        prior: PathPrior,
        settings: PathSettings,
        device: &Device,
    ) -> Result<Self, PathPlannerError> {
        check(&settings)?;
        let config = prior.config();
        let sampling = match settings.sampling {
            Some(sampling) => sampling,
            None => config.sampling()?,
        };
        let schedule = config.schedule()?;
        // From the last timestep on, so that few steps leave none of the first noise in a sample.
        let times = timesteps::trailing(&schedule, sampling.steps).map_err(SamplingError::from)?;
        let grid = Grid::at_times(&schedule, &times, End::Clean).map_err(SamplingError::from)?;
        let solver = sampling.method.solver();
        let stages = solver.plan(&schedule, &grid).map_err(SamplingError::from)?;
        let mut network = prior.network().clone();
        if let Some(precision) = settings.precision {
            let _ = network.pack(precision);
        }
        let denoiser = Parameterized::new(network, config.parameterization()?);
        denoiser.check(&stages)?;
        Ok(Self {
            model: prior.hash().into(),
            prior,
            settings,
            sampling,
            stages,
            denoiser,
            device: device.clone(),
        })
    }

    /// The prior, as it was before it was packed.
    pub fn prior(&self) -> &PathPrior {
        &self.prior
    }

    /// How it works.
    pub fn settings(&self) -> &PathSettings {
        &self.settings
    }

    /// With which solver, in how many steps.
    pub fn sampling(&self) -> Sampling {
        self.sampling
    }

    /// The passes of a plan: what bounds its time.
    pub fn passes(&self) -> usize {
        self.stages.len()
    }

    /// Plans.
    ///
    /// # Errors
    ///
    /// See [`PathPlanError`]: what is wrong with the question, or what is in the way.
    #[allow(
        clippy::result_large_err,
        reason = "an answer a plan, with all that is in the way"
    )]
    pub fn plan(
        &self,
        problem: &PathProblem<'_>,
        budget: Budget,
        seed: u64,
    ) -> Result<PathPlan, PathPlanError> {
        self.plan_with(problem, budget, seed, |_| ())
    }

    /// Plans, and shows after each pass the clean estimates of all candidates: `[waypoint, dof]` each, which may be blocked and
    /// need not be finite.
    ///
    /// # Errors
    ///
    /// As [`PathPlanner::plan`].
    #[allow(
        clippy::result_large_err,
        reason = "an answer a plan, with all that is in the way"
    )]
    pub fn plan_with(
        &self,
        problem: &PathProblem<'_>,
        budget: Budget,
        seed: u64,
        mut each: impl FnMut(Vec<Array2<f64>>),
    ) -> Result<PathPlan, PathPlanError> {
        let begun = Instant::now();
        let PathProblem { free, start, goal } = *problem;
        let expected = self.prior.config().dof();
        if free.dof() != expected {
            return Err(PathPlanError::Dimensions {
                expected,
                found: free.dof(),
            });
        }
        if !free.margin().is_finite() {
            return Err(PathPlanError::Margin {
                margin: free.margin(),
            });
        }
        free.check(start).map_err(PathPlanError::Start)?;
        free.check(goal).map_err(PathPlanError::Goal)?;
        if start == goal {
            return Ok(self.standstill(start, seed, begun));
        }
        let drawn = self.draw(problem, budget, seed, &mut each);
        let candidates = self.candidates(problem, &drawn.samples);
        let answer = self.choose(problem, &candidates, seed);
        let ((trajectory, path), chosen, outcome) = match (answer, self.settings.fallback) {
            (Ok((chosen, found)), _) => (found, Some(chosen), drawn.outcome),
            (Err(reason), Some(fallback)) => {
                let found = self.fall_back(problem, fallback, seed).map_err(|error| {
                    PathPlanError::Fallback {
                        reason: reason.clone(),
                        error,
                    }
                })?;
                (found?, None, PathOutcome::Fallback { reason })
            }
            (Err(reason), None) => {
                let candidates = self.settings.candidates;
                return Err(match reason {
                    FallbackReason::Blocked(nearest) => PathPlanError::Infeasible {
                        candidates,
                        nearest,
                    },
                    FallbackReason::Motion(error) => PathPlanError::Motion(error),
                    FallbackReason::NonFinite => PathPlanError::NonFinite { candidates },
                });
            }
        };
        Ok(PathPlan {
            trajectory,
            path,
            candidates,
            chosen,
            outcome,
            passes: drawn.passes,
            seed,
            elapsed: begun.elapsed(),
            model: Arc::clone(&self.model),
        })
    }

    /// What is drawn for a problem, guided and projected, free or not: what [`PathPlanner::plan`] chooses from by the same seed.
    /// None where the question is wrong.
    pub fn candidates_of(&self, problem: &PathProblem<'_>, budget: Budget, seed: u64) -> Vec<Path> {
        let PathProblem { free, start, goal } = problem;
        let fits = free.dof() == self.prior.config().dof();
        if !(fits && free.check(start).is_ok() && free.check(goal).is_ok()) {
            return Vec::new();
        }
        let drawn = self.draw(problem, budget, seed, &mut |_| ());
        let candidates = self.candidates(problem, &drawn.samples);
        candidates.into_iter().map(|it| it.path).collect()
    }

    /// One who is there already stays.
    fn standstill(&self, at: &[f64], seed: u64, begun: Instant) -> PathPlan {
        let positions = Array2::from_shape_fn((2, at.len()), |(_, j)| at[j]);
        let quintic = Interpolation::Quintic;
        let trajectory =
            Trajectory::uniform(Duration::ZERO, STANDSTILL, positions.clone(), quintic);
        PathPlan {
            // The start was checked, so it is finite.
            trajectory: trajectory.expect("it is finite"),
            path: Path::new(positions).expect("it is finite"),
            candidates: Vec::new(),
            chosen: None,
            outcome: PathOutcome::Complete,
            passes: 0,
            seed,
            elapsed: begun.elapsed(),
            model: Arc::clone(&self.model),
        }
    }

    /// The free space with the margin that guidance and projection keep, where both ends do.
    fn careful<'a>(&self, problem: &PathProblem<'a>) -> FreeSpace<'a> {
        let free = problem.free;
        let careful = free.with_margin(free.margin() + self.settings.margin);
        let keeps = [problem.start, problem.goal]
            .iter()
            .all(|it| careful.check(it).is_ok());
        if keeps { careful } else { free }
    }

    /// The passes.
    fn draw(
        &self,
        problem: &PathProblem<'_>,
        budget: Budget,
        seed: u64,
        each: &mut impl FnMut(Vec<Array2<f64>>),
    ) -> Drawn {
        let config = self.prior.config();
        let (count, horizon, dof) = (self.settings.candidates, config.prior.horizon, config.dof());
        let PathProblem { start, goal, free } = *problem;
        let condition = self.prior.condition(start, goal, free.scene());
        let shape = [1, condition.len()];
        let condition = Tensor::<2>::from_data(TensorData::new(condition, shape), &self.device);
        let still = Guidance {
            steps: 0,
            ..Guidance::default()
        };
        let guidance = self.settings.guidance.as_ref().unwrap_or(&still);
        let denoiser = Inpaint {
            pins: self.pins(start, goal),
            denoiser: Guided {
                denoiser: Clip {
                    denoiser: &self.denoiser,
                    // What is within the bounds of the coordinates.
                    threshold: Threshold::Static { range: 1.0 },
                    noise: ClippedNoise::Implied,
                },
                cost: PathCost {
                    config,
                    guidance,
                    free: self.careful(problem),
                    start,
                    goal,
                },
                // The cost answers with whole steps.
                rate: 1.0,
                steps: guidance.steps,
            },
        };
        let prepared = denoiser.prepare(&condition);
        let mut noise = Seeded::new(seed, count);
        let shape = [count, horizon, dof];
        let sampler = Sampler::from_noise(
            &denoiser,
            &prepared,
            &self.stages,
            shape,
            &self.device,
            &mut noise,
        );
        let mut drawn = Drawn {
            samples: Vec::new(),
            outcome: PathOutcome::Complete,
            passes: 0,
        };
        let mut longest = Duration::ZERO;
        let mut pass = Instant::now();
        for step in sampler {
            drawn.passes = step.index + 1;
            let now = Instant::now();
            longest = longest.max(now - pass);
            pass = now;
            each(self.rows(&download(&step.estimate.clean)));
            let late = budget
                .deadline
                .is_some_and(|end| now.checked_add(longest).is_none_or(|next| next > end));
            let spent = budget.passes.is_some_and(|most| drawn.passes >= most);
            if (late || spent) && drawn.passes < self.stages.len() {
                drawn.outcome = PathOutcome::Truncated {
                    passes: drawn.passes,
                };
                drawn.samples = download(&denoiser.finish(step.estimate.clean));
                break;
            }
            if drawn.passes == self.stages.len() {
                drawn.samples = download(&step.sample);
            }
        }
        drawn
    }

    /// Start and goal, for all candidates alike.
    fn pins(&self, start: &[f64], goal: &[f64]) -> Pins<3> {
        let config = self.prior.config();
        let (horizon, dof) = (config.prior.horizon, config.dof());
        let mut mask = vec![0.0_f32; horizon * dof];
        let mut values = vec![0.0; horizon * dof];
        let last = (horizon - 1) * dof;
        for (at, end) in [(0, start), (last, goal)] {
            mask[at..at + dof].fill(1.0);
            for (value, x) in values[at..].iter_mut().zip(config.normalized(end)) {
                *value = x;
            }
        }
        let tensor =
            |values| Tensor::from_data(TensorData::new(values, [1, horizon, dof]), &self.device);
        Pins::new(tensor(mask), tensor(values))
    }

    /// Normalized samples in physical terms.
    fn rows(&self, samples: &[f32]) -> Vec<Array2<f64>> {
        let config = self.prior.config();
        let (horizon, dof) = (config.prior.horizon, config.dof());
        let sample = |sample: &[f32]| {
            let values: Vec<f64> = sample
                .chunks(dof)
                .flat_map(|row| config.physical(row))
                .collect();
            Array2::from_shape_fn((horizon, dof), |(i, j)| values[i * dof + j])
        };
        samples.chunks(horizon * dof).map(sample).collect()
    }

    /// What is finite, with its proof; what is blocked, projected. NaN stops here.
    fn candidates(&self, problem: &PathProblem<'_>, samples: &[f32]) -> Vec<PathCandidate> {
        let free = problem.free;
        let careful = self.careful(problem);
        let candidate = |mut rows: Array2<f64>| {
            let last = rows.nrows() - 1;
            for j in 0..rows.ncols() {
                // Normalizing and back is not exact.
                rows[[0, j]] = problem.start[j];
                rows[[last, j]] = problem.goal[j];
            }
            let path = Path::new(rows).ok()?;
            let Err(blocked) = free.check_path(&path) else {
                return Some(PathCandidate {
                    path,
                    blocked: None,
                    projected: false,
                });
            };
            let projected = self.settings.projection.map(|it| {
                let optimizer = Optimizer {
                    waypoints: path.len(),
                    ..it.optimizer
                };
                optimizer.optimize(&careful, &path)
            });
            Some(match projected {
                None => PathCandidate {
                    path,
                    blocked: Some(blocked),
                    projected: false,
                },
                Some(Ok(path)) => PathCandidate {
                    // The margin is at least the problem's, but what counts is the problem's own proof.
                    blocked: free.check_path(&path).err(),
                    path,
                    projected: true,
                },
                Some(Err(error)) => PathCandidate {
                    path,
                    blocked: Some(error.blocked().cloned().unwrap_or(blocked)),
                    projected: false,
                },
            })
        };
        let rows = self.rows(samples).into_par_iter();
        rows.filter_map(candidate).collect()
    }

    /// The quickest motion along one of the shortest free candidates.
    fn choose(
        &self,
        problem: &PathProblem<'_>,
        candidates: &[PathCandidate],
        seed: u64,
    ) -> Result<(usize, Found), FallbackReason> {
        let mut free: Vec<(usize, f64)> = candidates
            .iter()
            .enumerate()
            .filter(|(_, it)| it.blocked.is_none())
            .map(|(i, it)| (i, it.path.length()))
            .collect();
        if free.is_empty() {
            let blocked = candidates.iter().filter_map(|it| it.blocked.as_ref());
            let nearest = blocked.min_by(|a, b| a.excess().total_cmp(&b.excess()));
            return Err(match nearest {
                Some(nearest) => FallbackReason::Blocked(nearest.clone()),
                None => FallbackReason::NonFinite,
            });
        }
        // Stable: of equally long ones the first.
        free.sort_by(|a, b| a.1.total_cmp(&b.1));
        let mut failed = None;
        for finalists in free.chunks(self.settings.finalists) {
            let motions: Vec<_> = finalists
                .par_iter()
                .map(|&(i, _)| {
                    (
                        i,
                        self.settings
                            .motion(&problem.free, &candidates[i].path, seed),
                    )
                })
                .collect();
            let mut best: Option<(usize, Found)> = None;
            for (i, motion) in motions {
                match motion {
                    Ok(found) => {
                        let duration = found.0.duration();
                        let quickest = best.as_ref().map(|(_, it)| it.0.duration());
                        if quickest.is_none_or(|it| duration < it) {
                            best = Some((i, found));
                        }
                    }
                    Err(error) => failed = Some(error),
                }
            }
            if let Some(best) = best {
                return Ok(best);
            }
        }
        // There was one, and none of them became a motion.
        Err(failed.map_or(FallbackReason::NonFinite, FallbackReason::Motion))
    }

    /// The classical planner's answer.
    fn fall_back(
        &self,
        problem: &PathProblem<'_>,
        planner: RrtConnect,
        seed: u64,
    ) -> Result<Result<Found, PathPlanError>, PathError> {
        let PathProblem { free, start, goal } = problem;
        let path = planner.plan(free, start, goal, seed)?;
        Ok(self
            .settings
            .motion(free, &path, seed)
            .map_err(PathPlanError::Motion))
    }
}

/// A motion, and the path that it follows.
type Found = (Trajectory, Path);

/// The last thing that is done to a motion: nothing leaves without.
fn proven(free: &FreeSpace, motion: Trajectory) -> Result<Trajectory, ScalingError> {
    free.limits().check(&motion)?;
    free.check_trajectory(&motion)?;
    Ok(motion)
}

fn download(tensor: &Tensor<3>) -> Vec<f32> {
    let data = tensor.to_data();
    data.try_into_vec().expect("the engine computes in f32")
}

fn check(settings: &PathSettings) -> Result<(), PathPlannerError> {
    let PathSettings {
        candidates,
        guidance,
        margin,
        finalists,
        radius,
        ..
    } = settings;
    if !(1..=MOST_CANDIDATES).contains(candidates) {
        return Err(PathPlannerError::Candidates {
            limit: MOST_CANDIDATES,
            found: *candidates,
        });
    }
    let guidance = guidance.unwrap_or_default();
    let is_share = |x: f64| (0.0..=1.0).contains(&x);
    let is_length = |x: f64| x.is_finite() && x >= 0.0;
    for (setting, found, holds, expected) in [
        (
            "the margin",
            *margin,
            is_length(*margin),
            "finite and not negative",
        ),
        (
            "the number of finalists",
            *finalists as f64,
            *finalists > 0,
            "at least 1",
        ),
        (
            "the radius of corners",
            *radius,
            is_length(*radius) && *radius > 0.0,
            "positive",
        ),
        (
            "the pull of guidance",
            guidance.pull,
            is_share(guidance.pull),
            "from 0 to 1",
        ),
        (
            "the damping of guidance",
            guidance.damping,
            is_length(guidance.damping),
            "finite and not negative",
        ),
        (
            "the smoothing of guidance",
            guidance.smoothing.unwrap_or(1.0),
            guidance.smoothing.is_none_or(is_length),
            "finite and not negative",
        ),
        (
            "the beginning of guidance",
            guidance.from,
            is_share(guidance.from),
            "from 0 to 1",
        ),
    ] {
        if !holds {
            return Err(PathPlannerError::Setting {
                setting,
                expected,
                found,
            });
        }
    }
    Ok(())
}
