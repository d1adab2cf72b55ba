//! Who is asked, and how.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use burn::tensor::Device;
use clearway_motion::{FreeSpace, GridSearch, Path, PathError, RrtConnect, Trajectory, shortcut};
use clearway_planner::paths::{
    Guidance, PathOutcome, PathPlanner, PathProblem, PathSettings, Projection,
};
use clearway_planner::{Budget, Sampling};

use super::others::OthersAnswer;
use super::problem::{Problem, World};
use crate::error::Error;

/// Attempts to shorten what a classical planner finds.
const SHORTCUTS: usize = 100;

/// Who plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Kind {
    /// A prior of paths, guided, projected and checked
    Diffusion,
    /// RRT-Connect with shortcuts
    RrtConnect,
    /// A search on a lattice, at any angle
    Grid,
    /// One that has answered already, in a file
    #[value(skip)]
    Other,
}

impl Kind {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Diffusion => "diffusion",
            Self::RrtConnect => "rrt-connect",
            Self::Grid => "grid",
            Self::Other => "other",
        }
    }
}

/// On or off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Switch {
    On,
    Off,
}

/// The arguments that all worlds share.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct Arguments {
    /// Who plans
    #[arg(long, value_enum, default_value = "diffusion")]
    pub(super) planner: Kind,
    /// Problems to solve
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub(super) episodes: u32,
    /// Seed of the first problem and its noise; the next ones have the next
    #[arg(long, value_name = "S", default_value_t = 0)]
    pub(super) seed: u64,
    /// Solver of the denoising, and its steps [default: what the prior says]
    #[arg(long, value_name = "NAME")]
    solver: Option<clearway_planner::Method>,
    /// Steps of denoising [default: what the prior says]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u32).range(1..))]
    steps: Option<u32>,
    /// Paths that are drawn for a problem
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub(super) candidates: u32,
    /// Whether obstacles push while paths are denoised
    #[arg(long, value_enum, default_value = "on")]
    pub(super) guidance: Switch,
    /// Whether paths that are blocked after that are bent until they are free
    #[arg(long, value_enum, default_value = "on")]
    pub(super) projection: Switch,
    /// The share of signal from which on obstacles push, from 0 (always) to 1
    #[arg(long, value_name = "ALPHA")]
    guidance_from: Option<f64>,
    /// Pushes a pass
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(0..=100))]
    guidance_steps: Option<u32>,
    /// What keeps a path where it is while its tremor is taken out: the smaller, the smoother; 0 leaves the tremor
    #[arg(long, value_name = "X")]
    guidance_smoothing: Option<f64>,
    /// How much pushes are damped
    #[arg(long, value_name = "X")]
    guidance_damping: Option<f64>,
    /// Milliseconds for the passes of a plan; what is there then is checked and used
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..))]
    budget: Option<u64>,
    /// Ask RRT-Connect where no path that was drawn can be followed
    #[arg(long)]
    pub(super) fallback: bool,
    /// Write the results
    #[arg(long, value_name = "FILE")]
    pub(super) json: Option<PathBuf>,
    /// Record the first problems for rerun: a .rrd file, or the rerun+http:// address of a viewer that runs
    #[arg(long, value_name = "FILE")]
    pub(super) record: Option<String>,
    /// Problems to record
    #[arg(long, value_name = "N", default_value_t = 1, requires = "record")]
    pub(super) record_episodes: u32,
    /// Write the problems, so that others can be asked them
    #[arg(long, value_name = "FILE")]
    pub(super) problems_out: Option<PathBuf>,
}

/// A planner with its settings.
pub(super) struct Asked {
    pub(super) kind: Kind,
    settings: PathSettings,
    planner: Option<PathPlanner>,
    budget: Option<Duration>,
}

/// What came of a problem.
pub(crate) struct Answer {
    /// The motion, or why there is none.
    pub(crate) plan: Result<Trajectory, String>,
    /// How it ended, where it was drawn.
    pub(crate) outcome: Option<PathOutcome>,
    /// What was drawn, or found by so many seeds.
    pub(crate) samples: Vec<Path>,
    /// How many were asked for; some searches find nothing.
    pub(super) asked: usize,
    /// Which of them the plan came from.
    #[cfg_attr(
        not(feature = "rerun"),
        expect(dead_code, reason = "what is chosen is shown in recordings")
    )]
    pub(crate) chosen: Option<usize>,
    /// The time to the plan: s.
    pub(super) elapsed: f64,
    /// The candidates after each pass, if they are kept.
    #[cfg_attr(
        not(feature = "rerun"),
        allow(dead_code, reason = "only recordings show them")
    )]
    pub(crate) passes: Vec<Vec<ndarray::Array2<f64>>>,
}

impl Arguments {
    /// The planner that is asked for.
    pub(super) fn asked(&self, prior: &std::path::Path, margin: f64) -> Result<Asked, Error> {
        let mut guidance = Guidance::default();
        if let Some(from) = self.guidance_from {
            guidance.from = from;
        }
        if let Some(steps) = self.guidance_steps {
            guidance.steps = steps as usize;
        }
        if let Some(smoothing) = self.guidance_smoothing {
            guidance.smoothing = (smoothing != 0.0).then_some(smoothing);
        }
        if let Some(damping) = self.guidance_damping {
            guidance.damping = damping;
        }
        let mut settings = PathSettings {
            candidates: self.candidates as usize,
            guidance: (self.guidance == Switch::On).then_some(guidance),
            projection: (self.projection == Switch::On).then(Projection::default),
            margin,
            fallback: self.fallback.then(RrtConnect::default),
            ..PathSettings::default()
        };
        let planner = if self.planner == Kind::Diffusion {
            let device = Device::flex();
            if !prior.is_dir() {
                return Err(Error::NoPrior(prior.to_owned()));
            }
            let failed = |error| Error::Prior {
                path: prior.to_owned(),
                error: Box::new(error),
            };
            let loaded = clearway_planner::paths::PathPrior::load(prior, &device);
            let loaded = loaded.map_err(|error| failed(error.into()))?;
            let default = loaded.config().sampling();
            let default = default.map_err(|error| failed(error.into()))?;
            settings.sampling = Some(Sampling::new(
                self.solver.unwrap_or(default.method),
                self.steps.map_or(default.steps, |it| it as usize),
            ));
            let planner = PathPlanner::new(loaded, settings.clone(), &device);
            Some(planner.map_err(failed)?)
        } else {
            None
        };
        Ok(Asked {
            kind: self.planner,
            settings,
            planner,
            budget: self.budget.map(Duration::from_millis),
        })
    }
}

impl Asked {
    pub(super) fn planner(&self) -> Option<&PathPlanner> {
        self.planner.as_ref()
    }

    /// Plans, and keeps what was denoised on the way if it shall be shown.
    pub(super) fn plan(
        &self,
        problem: &Problem,
        world: &World,
        seed: u64,
        keep: bool,
    ) -> Result<Answer, Error> {
        let free = world.free()?;
        let (start, goal) = (&problem.start[..], &problem.goal[..]);
        let begun = Instant::now();
        if let Some(planner) = &self.planner {
            let budget = self.budget.map_or(Budget::default(), Budget::within);
            let asked = PathProblem { free, start, goal };
            let mut passes = Vec::new();
            let answer = planner.plan_with(&asked, budget, seed, |paths| {
                if keep {
                    passes.push(paths);
                }
            });
            let elapsed = begun.elapsed().as_secs_f64();
            return Ok(match answer {
                Ok(plan) => Answer {
                    asked: self.settings.candidates,
                    samples: plan.candidates.into_iter().map(|it| it.path).collect(),
                    chosen: plan.chosen,
                    plan: Ok(plan.trajectory),
                    outcome: Some(plan.outcome),
                    elapsed,
                    passes,
                },
                // What is infeasible has candidates too, and they count: drawn again, by the same seed, without the choice.
                Err(error) => Answer {
                    asked: self.settings.candidates,
                    samples: planner.candidates_of(&asked, budget, seed),
                    chosen: None,
                    plan: Err(error.to_string()),
                    outcome: None,
                    elapsed,
                    passes,
                },
            });
        }
        let find = |seed: u64| self.find(&free, start, goal, seed);
        let found = find(seed);
        let plan = found
            .as_ref()
            .map_err(ToString::to_string)
            .and_then(|path| {
                let motion = self.settings.motion(&free, path, seed);
                motion
                    .map(|(motion, _)| motion)
                    .map_err(|error| error.to_string())
            });
        let elapsed = begun.elapsed().as_secs_f64();
        let mut asked = 1;
        let mut samples: Vec<Path> = found.into_iter().collect();
        if self.kind == Kind::RrtConnect {
            // Other seeds of the same problem, for how different ways are.
            asked = self.settings.candidates;
            let others = (1..self.settings.candidates as u64).map(|i| seed.wrapping_add(i << 32));
            samples.extend(others.filter_map(|seed| find(seed).ok()));
        }
        Ok(Answer {
            chosen: (!samples.is_empty()).then_some(0),
            plan,
            outcome: None,
            samples,
            asked,
            elapsed,
            passes: Vec::new(),
        })
    }

    /// What another planner found, as one's own is judged: its first path is made a motion, the others are samples. Its time is
    /// the other's own and that of the motion.
    pub(super) fn judge(
        &self,
        other: &OthersAnswer,
        world: &World,
        seed: u64,
    ) -> Result<Answer, Error> {
        let free = world.free()?;
        let paths = other.paths()?;
        let begun = Instant::now();
        let plan = match paths.first() {
            Some(Some(path)) => free
                .check_path(path)
                .map_err(|blocked| blocked.to_string())
                .and_then(|()| {
                    let motion = self.settings.motion(&free, path, seed);
                    motion
                        .map(|(motion, _)| motion)
                        .map_err(|error| error.to_string())
                }),
            _ => Err("it found no path".into()),
        };
        let theirs = other.milliseconds.first().copied().unwrap_or_default();
        Ok(Answer {
            chosen: matches!(paths.first(), Some(Some(_))).then_some(0),
            plan,
            outcome: None,
            asked: paths.len(),
            samples: paths.into_iter().flatten().collect(),
            elapsed: 1e-3 * theirs + begun.elapsed().as_secs_f64(),
            passes: Vec::new(),
        })
    }

    fn find(
        &self,
        free: &FreeSpace,
        start: &[f64],
        goal: &[f64],
        seed: u64,
    ) -> Result<Path, PathError> {
        if self.kind == Kind::Grid {
            return GridSearch::default().plan(free, start, goal);
        }
        let path = RrtConnect::default().plan(free, start, goal, seed)?;
        Ok(shortcut(free, &path, SHORTCUTS, seed))
    }
}
