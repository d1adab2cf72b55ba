//! How a policy is sampled: as it says itself, or with any solver of the engine.

use std::fmt;

use clearway_diffusion::{
    ClippedNoise, Discrete, End, Grid, GridError, Method, SolverError, Stage, timesteps,
};

use crate::lerobot::{DiffusionConfig, NoiseScheduler};

/// What must become of the noise estimate where a policy clips the clean one: the methods that step along both, or along
/// the noise alone, need the noise that the clipped estimate implies.
pub(crate) fn clipped_noise(method: Method) -> ClippedNoise {
    match method {
        Method::Heun | Method::Pndm | Method::Deis | Method::Lms => ClippedNoise::Implied,
        _ => ClippedNoise::Kept,
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

/// A solver and its grid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Sampling {
    /// The solver.
    pub method: Method,
    /// The steps of its grid; a pass each, unless the method says otherwise.
    pub steps: usize,
    /// The timestep of the last step, and how far the leading grid is moved; nothing for the method's own grid, see
    /// [`stages`](Self::stages).
    pub offset: Option<usize>,
}

impl Sampling {
    /// A solver on its own grid.
    pub const fn new(method: Method, steps: usize) -> Self {
        Self {
            method,
            steps,
            offset: None,
        }
    }

    /// The same on the leading grid, moved so that its last step is at this timestep.
    #[must_use]
    pub fn with_offset(mut self, offset: Option<usize>) -> Self {
        self.offset = offset;
        self
    }

    /// What the policy's configuration says.
    pub fn of(config: &DiffusionConfig) -> Self {
        let method = match config.noise_scheduler {
            NoiseScheduler::Ddim => Method::Ddim,
            NoiseScheduler::Ddpm => Method::Ddpm,
        };
        Self::new(method, config.num_inference_steps)
    }

    /// The stages, one network pass each.
    ///
    /// DDIM and DDPM have LeRobot's grid, which is diffusers' default: leading, without offset. The others start at the
    /// last timestep (trailing): with few steps, a grid that begins part-way leaves the first noise in the sample. Who gives
    /// an [offset](Self::offset) has the leading grid with diffusers' `steps_offset`, whatever the method. All end at the
    /// data.
    ///
    /// # Errors
    ///
    /// If the schedule has fewer timesteps than steps are asked for, none are, or the offset moves the grid out of it.
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

    /// The points that the solver visits.
    pub(crate) fn grid(self, schedule: &Discrete) -> Result<Grid, GridError> {
        let times = match (self.offset, self.method) {
            (Some(offset), _) => timesteps::leading(schedule, self.steps, offset)?,
            (None, Method::Ddim | Method::Ddpm) => timesteps::leading(schedule, self.steps, 0)?,
            (None, _) => timesteps::trailing(schedule, self.steps)?,
        };
        Grid::at_times(schedule, &times, End::Clean)
    }
}

impl fmt::Display for Sampling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.method, self.steps)?;
        match self.offset {
            Some(offset) => write!(f, "+{offset}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_method_plans_on_a_robots_schedule() {
        let schedule = Discrete::squared_cosine(100).expect("valid");
        for method in Method::ALL {
            for steps in [1, 2, 10, 100] {
                let stages = Sampling::new(method, steps)
                    .stages(&schedule)
                    .expect("fits");
                let passes = match method {
                    Method::Heun => 2 * steps - 1,
                    Method::Pndm if steps > 1 => steps + 1,
                    _ => steps,
                };
                assert_eq!(stages.len(), passes, "{method}-{steps}");
            }
            for steps in [0, 101] {
                assert!(Sampling::new(method, steps).stages(&schedule).is_err());
            }
        }
    }

    #[test]
    fn an_offset_moves_the_grid_of_every_method() {
        let schedule = Discrete::squared_cosine(100).expect("valid");
        for method in [
            Method::Ddim,
            Method::Ddpm,
            Method::Euler,
            Method::Consistency,
        ] {
            let times = |sampling: Sampling| -> Vec<f64> {
                let stages = sampling.stages(&schedule).expect("fits");
                stages.iter().map(|stage| stage.at.t).collect()
            };
            let moved = |offset| Sampling::new(method, 2).with_offset(Some(offset));
            assert_eq!(times(moved(40)), [90.0, 40.0], "{method}");
            assert_eq!(times(moved(49)), [99.0, 49.0], "{method}");
            assert_eq!(times(moved(0)), [50.0, 0.0], "{method}");
            for offset in [50, usize::MAX] {
                assert!(moved(offset).stages(&schedule).is_err(), "{method}");
            }
        }
    }
}
