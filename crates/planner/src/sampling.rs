//! How a policy is sampled: as it says itself, or with any solver of the engine.

use std::fmt;
use std::str::FromStr;

use clearway_diffusion::{
    ClippedNoise, Consistency, Ddim, Ddpm, Discrete, DpmSolver2M, End, EulerAncestral, Grid,
    GridError, Heun, Lcm, Pndm, SdeDpmSolver2M, Solver, SolverError, Stage, Tcd, timesteps,
};

use crate::lerobot::{DiffusionConfig, NoiseScheduler};

/// A solver, by the name that the field gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Method {
    /// [`Ddim`], deterministic.
    Ddim,
    /// [`Ddpm`] with the posterior's variance.
    Ddpm,
    /// [`EulerAncestral`].
    EulerAncestral,
    /// [`DpmSolver2M`].
    DpmSolver2M,
    /// [`SdeDpmSolver2M`].
    SdeDpmSolver2M,
    /// [`Heun`]: two passes a step.
    Heun,
    /// [`Pndm`]: one pass more than steps.
    Pndm,
    /// [`Lcm`], for networks distilled to be sampled so.
    Lcm,
    /// [`Tcd`] with `gamma = 0.3`, for networks distilled to be sampled so.
    Tcd,
    /// [`Consistency`], for networks distilled to be sampled so.
    Consistency,
}

impl Method {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Ddim,
        Self::Ddpm,
        Self::EulerAncestral,
        Self::DpmSolver2M,
        Self::SdeDpmSolver2M,
        Self::Heun,
        Self::Pndm,
        Self::Lcm,
        Self::Tcd,
        Self::Consistency,
    ];

    /// Its name in commands and files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ddim => "ddim",
            Self::Ddpm => "ddpm",
            Self::EulerAncestral => "euler-a",
            Self::DpmSolver2M => "dpmpp2m",
            Self::SdeDpmSolver2M => "dpmpp2m-sde",
            Self::Heun => "heun",
            Self::Pndm => "pndm",
            Self::Lcm => "lcm",
            Self::Tcd => "tcd",
            Self::Consistency => "consistency",
        }
    }

    /// What must become of the noise estimate where a policy clips the clean one: the methods that step along both, or
    /// along the noise alone, need the noise that the clipped estimate implies.
    pub(crate) fn clipped_noise(self) -> ClippedNoise {
        match self {
            Self::Heun | Self::Pndm => ClippedNoise::Implied,
            _ => ClippedNoise::Kept,
        }
    }

    fn solver(self) -> Box<dyn Solver> {
        match self {
            Self::Ddim => Box::new(Ddim::default()),
            Self::Ddpm => Box::new(Ddpm::default()),
            Self::EulerAncestral => Box::new(EulerAncestral),
            Self::DpmSolver2M => Box::new(DpmSolver2M::default()),
            Self::SdeDpmSolver2M => Box::new(SdeDpmSolver2M::default()),
            Self::Heun => Box::new(Heun),
            Self::Pndm => Box::new(Pndm),
            Self::Lcm => Box::new(Lcm::default()),
            Self::Tcd => Box::new(Tcd { gamma: 0.3 }),
            Self::Consistency => Box::new(Consistency::default()),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no [`Method`] has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no solver is called `{name}`; there are {}", Method::ALL.map(Method::name).join(", "))]
pub struct UnknownMethod {
    /// The name.
    pub name: String,
}

impl FromStr for Method {
    type Err = UnknownMethod;

    fn from_str(name: &str) -> Result<Self, UnknownMethod> {
        let named = Self::ALL.into_iter().find(|method| method.name() == name);
        named.ok_or_else(|| UnknownMethod {
            name: name.to_owned(),
        })
    }
}

/// Why a policy cannot be sampled in that way.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SamplingError {
    /// The number of steps does not fit the noise schedule.
    #[error(transparent)]
    Grid(#[from] GridError),
    /// The solver does not work there.
    #[error(transparent)]
    Solver(#[from] SolverError),
}

/// A solver and a number of steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// The solver.
    pub method: Method,
    /// The steps of its grid; a pass each, unless the method says otherwise.
    pub steps: usize,
}

impl Sampling {
    /// What the policy's configuration says.
    pub fn of(config: &DiffusionConfig) -> Self {
        Self {
            method: match config.noise_scheduler {
                NoiseScheduler::Ddim => Method::Ddim,
                NoiseScheduler::Ddpm => Method::Ddpm,
            },
            steps: config.num_inference_steps,
        }
    }

    /// The stages, one network pass each.
    ///
    /// DDIM and DDPM have LeRobot's grid, which is diffusers' default: leading, without offset. The others start at the
    /// last timestep (trailing): with few steps, a grid that begins part-way leaves the first noise in the sample. All
    /// end at the data.
    ///
    /// # Errors
    ///
    /// If the schedule has fewer timesteps than steps are asked for, or none are.
    pub fn stages(self, schedule: &Discrete) -> Result<Vec<Stage>, SamplingError> {
        Ok(self.method.solver().plan(schedule, &self.grid(schedule)?)?)
    }

    /// The stages of the last `steps` steps: what refines a plan that is there already.
    ///
    /// # Errors
    ///
    /// As [`stages`](Self::stages).
    pub fn last_stages(
        self,
        schedule: &Discrete,
        steps: usize,
    ) -> Result<Vec<Stage>, SamplingError> {
        let skipped = self.steps.saturating_sub(steps);
        let grid = self.grid(schedule)?.without_first(skipped)?;
        Ok(self.method.solver().plan(schedule, &grid)?)
    }

    fn grid(self, schedule: &Discrete) -> Result<Grid, SamplingError> {
        let times = match self.method {
            Method::Ddim | Method::Ddpm => timesteps::leading(schedule, self.steps, 0)?,
            _ => timesteps::trailing(schedule, self.steps)?,
        };
        Ok(Grid::at_times(schedule, &times, End::Clean)?)
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.method, self.steps)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for method in Method::ALL {
            assert_eq!(method.name().parse(), Ok(method));
        }
        let error = "ddmi".parse::<Method>().expect_err("a misspelling");
        assert!(
            error
                .to_string()
                .starts_with("no solver is called `ddmi`; there are ddim, ddpm, ")
        );
    }

    #[test]
    fn every_method_plans_on_a_robots_schedule() {
        let schedule = Discrete::squared_cosine(100).expect("valid");
        for method in Method::ALL {
            for steps in [1, 2, 10, 100] {
                let stages = Sampling { method, steps }.stages(&schedule).expect("fits");
                let passes = match method {
                    Method::Heun => 2 * steps - 1,
                    Method::Pndm if steps > 1 => steps + 1,
                    _ => steps,
                };
                assert_eq!(stages.len(), passes, "{method}-{steps}");
            }
            for steps in [0, 101] {
                assert!(Sampling { method, steps }.stages(&schedule).is_err());
            }
        }
    }
}
