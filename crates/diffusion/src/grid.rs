//! Which levels a sampler visits.

use crate::schedule::linspace;
use crate::{Discrete, FlowMatching, Level, Point, Schedule};

/// Where a grid ends, after its last network pass.
///
/// The choice moves results visibly, and libraries have changed their default, so it is always said.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum End {
    /// At the data: `alpha = 1`, `sigma = 0` (diffusers' `set_alpha_to_one`, `final_sigmas_type = "zero"`).
    Clean,
    /// At this time of the schedule; 0 is the first entry of a table (`set_alpha_to_one = false`, `"sigma_min"`).
    At(f64),
}

/// Why a grid cannot be built.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GridError {
    /// There is no step.
    #[error("a grid needs at least one step and at most {most}, found {found}")]
    Length {
        /// The most.
        most: usize,
        /// What was asked for.
        found: usize,
    },
    /// Nothing is left of a grid.
    #[error("a grid of {steps} steps has none left without its first {without}")]
    Spent {
        /// The steps of the grid.
        steps: usize,
        /// Those that were to be left out.
        without: usize,
    },
    /// A table cannot be cut into that many steps.
    #[error("a noise schedule of {timesteps} timesteps cannot be sampled in {steps} steps")]
    Steps {
        /// The length of the table.
        timesteps: usize,
        /// What was asked for.
        steps: usize,
    },
    /// A time that the schedule does not have.
    #[error(
        "time {t} of step {step} lies outside of the noise schedule, which runs from {from} to {to}"
    )]
    Time {
        /// Which step.
        step: usize,
        /// The time.
        t: f64,
        /// The first time.
        from: f64,
        /// The last time.
        to: f64,
    },
    /// Noise must fall from step to step.
    #[error(
        "the noise must fall from step to step, but step {step} goes from sigma/alpha {from} to {to}"
    )]
    Rising {
        /// Which step.
        step: usize,
        /// The ratio it starts at.
        from: f64,
        /// The ratio it ends at.
        to: f64,
    },
    /// A number that makes no level.
    #[error("step {step} starts at alpha {alpha}, sigma {sigma}, which is no noise level")]
    Level {
        /// Which step.
        step: usize,
        /// The signal.
        alpha: f64,
        /// The noise.
        sigma: f64,
    },
}

/// The most steps that a grid can have; it bounds what a configuration file can make the engine do.
const MOST: usize = 1 << 20;

/// The points that a solver visits, noise first, the end last.
///
/// A grid that exists falls: the noise-to-signal ratio of each point is below that of the one before (a last step may
/// stay where it is, as DDIM's does with `steps_offset = 0` and `set_alpha_to_one = false`).
#[derive(Clone, Debug, PartialEq)]
pub struct Grid {
    points: Vec<Point>,
}

impl Grid {
    /// A grid from its points, the end included.
    ///
    /// # Errors
    ///
    /// [`GridError`] if there are fewer than two points, a level is none, or the noise does not fall.
    pub fn new(points: Vec<Point>) -> Result<Self, GridError> {
        let steps = points.len().saturating_sub(1);
        if steps == 0 || steps > MOST {
            return Err(GridError::Length {
                most: MOST,
                found: steps,
            });
        }
        for (step, Point { level, .. }) in points.iter().enumerate() {
            let Level { alpha, sigma } = *level;
            let is_level = alpha.is_finite()
                && sigma.is_finite()
                && alpha >= 0.0
                && sigma >= 0.0
                && alpha + sigma > 0.0;
            // Only the end may be without noise: a network is never asked there.
            if !is_level || (step < steps && sigma == 0.0) {
                return Err(GridError::Level { step, alpha, sigma });
            }
        }
        for (step, pair) in points.windows(2).enumerate() {
            let (from, to) = (pair[0].level.ratio(), pair[1].level.ratio());
            // The end may be where the last step starts, up to the rounding of two ways to get there.
            let stays = step + 1 == steps && to <= from * (1.0 + 1e-12) && to.is_finite();
            if !(to < from || stays) {
                return Err(GridError::Rising { step, from, to });
            }
        }
        Ok(Self { points })
    }

    /// A grid at explicit times.
    ///
    /// # Errors
    ///
    /// [`GridError`] if a time is outside of the schedule, or the noise does not fall.
    pub fn at_times(schedule: &dyn Schedule, times: &[f64], end: End) -> Result<Self, GridError> {
        let mut points = times
            .iter()
            .enumerate()
            .map(|(step, &t)| at(schedule, step, t))
            .collect::<Result<Vec<_>, _>>()?;
        points.push(match end {
            End::Clean => clean(schedule),
            End::At(t) => at(schedule, times.len(), t)?,
        });
        Self::new(points)
    }

    /// A grid at explicit noise-to-signal ratios `S = sigma / alpha`; the network is told the times that
    /// [`Schedule::time`] gives.
    ///
    /// # Errors
    ///
    /// [`GridError`] if a ratio is none, or the noise does not fall.
    pub fn at_ratios(schedule: &dyn Schedule, ratios: &[f64], end: End) -> Result<Self, GridError> {
        let mut points: Vec<Point> = ratios
            .iter()
            .map(|&ratio| Point {
                t: schedule.time(ratio),
                level: schedule.line().level(ratio),
            })
            .collect();
        points.push(match end {
            End::Clean => clean(schedule),
            End::At(t) => at(schedule, ratios.len(), t)?,
        });
        Self::new(points)
    }

    /// Karras et al.'s grid between the ends of the schedule.
    ///
    /// ```text
    /// S_i = (S_max^(1/ρ) + i/(n−1) · (S_min^(1/ρ) − S_max^(1/ρ)))^ρ,   ρ = 7
    /// ```
    ///
    /// "Elucidating the Design Space of Diffusion-Based Generative Models", 2022, arXiv:2206.00364, equation 5.
    ///
    /// # Errors
    ///
    /// [`GridError`] for no steps, or a schedule whose ends are pure signal or pure noise.
    pub fn karras(schedule: &dyn Schedule, steps: usize, end: End) -> Result<Self, GridError> {
        const RHO: f64 = 7.0;
        let [low, high] = ends(schedule, steps)?;
        let ratios: Vec<f64> = linspace(high.powf(RHO.recip()), low.powf(RHO.recip()), steps)
            .map(|root| root.powf(RHO))
            .collect();
        Self::at_ratios(schedule, &ratios, end)
    }

    /// Equal steps of `ln S` between the ends of the schedule: `S_i = exp(linspace(ln S_max, ln S_min, n))`.
    ///
    /// # Errors
    ///
    /// [`GridError`] for no steps, or a schedule whose ends are pure signal or pure noise.
    pub fn exponential(schedule: &dyn Schedule, steps: usize, end: End) -> Result<Self, GridError> {
        let [low, high] = ends(schedule, steps)?;
        let ratios: Vec<f64> = linspace(high.ln(), low.ln(), steps).map(f64::exp).collect();
        Self::at_ratios(schedule, &ratios, end)
    }

    /// Equal steps of σ from 1 down to `sigma_min`, shifted, then the end at the data.
    ///
    /// ```text
    /// σ = shifted(linspace(1, sigma_min, n)), 0
    /// ```
    ///
    /// `sigma_min = 1/n` gives n equal steps of σ where there is no shift, as flow policies use; diffusers' table is
    /// that of `sigma_min = shifted(1/1000)`, which applies the shift to it twice.
    ///
    /// # Errors
    ///
    /// [`GridError`] for no steps or a `sigma_min` outside of (0, 1].
    pub fn flow(schedule: &FlowMatching, steps: usize, sigma_min: f64) -> Result<Self, GridError> {
        check_steps(steps, MOST)?;
        let end = *schedule.domain().end();
        let times: Vec<f64> = linspace(1.0, sigma_min, steps)
            .map(|sigma| end * schedule.shifted(sigma))
            .collect();
        Self::at_times(schedule, &times, End::Clean)
    }

    /// The same levels, with the network told whole times (half to even), as diffusers' multistep solvers do on Karras
    /// grids.
    #[must_use]
    pub fn with_rounded_times(mut self) -> Self {
        for point in &mut self.points {
            point.t = point.t.round_ties_even();
        }
        self
    }

    /// The grid without its first `steps` steps: where a [refinement](crate::Sampler::refine) starts.
    ///
    /// # Errors
    ///
    /// [`GridError::Spent`] if no step is left.
    pub fn without_first(&self, steps: usize) -> Result<Self, GridError> {
        if steps >= self.steps() {
            return Err(GridError::Spent {
                steps: self.steps(),
                without: steps,
            });
        }
        Ok(Self {
            points: self.points[steps..].to_vec(),
        })
    }

    /// The points, the end included.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// Where sampling starts.
    pub fn start(&self) -> Point {
        self.points[0]
    }

    /// The number of steps: one less than the points.
    pub fn steps(&self) -> usize {
        self.points.len() - 1
    }
}

/// Whole timesteps of a table, noise first.
///
/// `N` is the length of the table and `n` the number of steps. For [`Grid::at_times`].
pub mod timesteps {
    use super::{Discrete, GridError, check_steps, linspace};

    /// `i · ⌊N/n⌋ + offset` for `i = n−1 .. 0`: DDPM's and DDIM's default, which never starts at the last timestep
    /// unless `n = N`.
    ///
    /// Lin et al., "Common Diffusion Noise Schedules and Sample Steps are Flawed", 2023, arXiv:2305.08891, table 2,
    /// like the two others.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n ≤ N`.
    pub fn leading(
        schedule: &Discrete,
        steps: usize,
        offset: usize,
    ) -> Result<Vec<f64>, GridError> {
        check_steps(steps, schedule.len())?;
        let stride = schedule.len() / steps;
        Ok((0..steps)
            .rev()
            .map(|i| (i * stride).saturating_add(offset) as f64)
            .collect())
    }

    /// `linspace(N − 1, 0, n)`, fractional.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n ≤ N`.
    pub fn linspaced(schedule: &Discrete, steps: usize) -> Result<Vec<f64>, GridError> {
        check_steps(steps, schedule.len())?;
        Ok(linspace((schedule.len() - 1) as f64, 0.0, steps).collect())
    }

    /// `round(N, N − N/n, ..) − 1`, half to even: starts at the last timestep, and the choice for few steps.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n ≤ N`.
    pub fn trailing(schedule: &Discrete, steps: usize) -> Result<Vec<f64>, GridError> {
        check_steps(steps, schedule.len())?;
        let stride = schedule.len() as f64 / steps as f64;
        Ok((0..steps)
            .map(|i| (schedule.len() as f64 - i as f64 * stride).round_ties_even() - 1.0)
            .collect())
    }

    /// The same rounded, half to even: what diffusers' DDIM takes for `linspace`.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n ≤ N`.
    pub fn linspaced_whole(schedule: &Discrete, steps: usize) -> Result<Vec<f64>, GridError> {
        Ok(linspaced(schedule, steps)?
            .into_iter()
            .map(f64::round_ties_even)
            .collect())
    }

    /// `round(linspace(N − 1, 0, n + 1))` without its last: what diffusers' DPM-Solver++ takes by default, since its own
    /// last step goes on to the end of the grid.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n < N`.
    pub fn multistep(schedule: &Discrete, steps: usize) -> Result<Vec<f64>, GridError> {
        check_steps(steps, schedule.len().saturating_sub(1))?;
        let mut times = linspaced_whole(schedule, steps + 1)?;
        times.pop();
        Ok(times)
    }

    /// The grid of consistency-distilled models: `origin` equal strides of the table, of which `n` are taken evenly,
    /// the last timestep first.
    ///
    /// ```text
    /// k = ⌊N/origin⌋;   (i + 1) · k − 1 for i = origin−1 .. 0;   of these the ⌊linspace(0, origin, n)⌋-th, end excluded
    /// ```
    ///
    /// Luo et al., "Latent Consistency Models", 2023, arXiv:2310.04378, section 4.3; `origin` is 50 there.
    ///
    /// # Errors
    ///
    /// [`GridError::Steps`] unless `1 ≤ n ≤ origin ≤ N`.
    pub fn distilled(
        schedule: &Discrete,
        origin: usize,
        steps: usize,
    ) -> Result<Vec<f64>, GridError> {
        check_steps(origin, schedule.len())?;
        check_steps(steps, origin)?;
        let stride = schedule.len() / origin;
        Ok((0..steps)
            .map(|i| ((origin - i * origin / steps) * stride - 1) as f64)
            .collect())
    }
}

/// The point at a time that the schedule has.
fn at(schedule: &dyn Schedule, step: usize, t: f64) -> Result<Point, GridError> {
    let domain = schedule.domain();
    if !domain.contains(&t) {
        return Err(GridError::Time {
            step,
            t,
            from: *domain.start(),
            to: *domain.end(),
        });
    }
    Ok(Point {
        t,
        level: schedule.level(t),
    })
}

/// The end at the data; what the network would be told there is never used.
fn clean(schedule: &dyn Schedule) -> Point {
    Point {
        t: *schedule.domain().start(),
        level: Level::CLEAN,
    }
}

/// The smallest and the largest noise-to-signal ratio of a schedule.
fn ends(schedule: &dyn Schedule, steps: usize) -> Result<[f64; 2], GridError> {
    check_steps(steps, MOST)?;
    let domain = schedule.domain();
    Ok([*domain.start(), *domain.end()].map(|t| schedule.level(t).ratio()))
}

fn check_steps(steps: usize, timesteps: usize) -> Result<(), GridError> {
    if (1..=timesteps).contains(&steps) {
        Ok(())
    } else {
        Err(GridError::Steps { timesteps, steps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Cosine, Exploding};

    fn robot() -> Discrete {
        Discrete::squared_cosine(100).expect("a hundred timesteps")
    }

    #[test]
    fn leading_never_starts_at_the_last_timestep() {
        let ten: Vec<f64> = (0..10).rev().map(|i| f64::from(i) * 10.0).collect();
        assert_eq!(timesteps::leading(&robot(), 10, 0).expect("fits"), ten);
        let sixteen = timesteps::leading(&robot(), 16, 0).expect("fits");
        assert_eq!((sixteen[0], sixteen[15]), (90.0, 0.0));
    }

    #[test]
    fn what_cannot_be_sampled_is_refused() {
        assert!(timesteps::leading(&robot(), 0, 0).is_err());
        assert_eq!(
            timesteps::trailing(&robot(), 101)
                .expect_err("more steps than timesteps")
                .to_string(),
            "a noise schedule of 100 timesteps cannot be sampled in 101 steps"
        );
        assert!(Grid::at_times(&robot(), &[99.0, 100.0], End::Clean).is_err());
        assert!(Grid::at_times(&robot(), &[50.0, 60.0], End::Clean).is_err());
        assert!(Grid::at_times(&robot(), &[f64::NAN], End::Clean).is_err());
        assert!(Grid::at_times(&robot(), &[], End::Clean).is_err());
        assert!(
            Grid::karras(&Cosine, 5, End::Clean).is_err(),
            "the cosine's ends have no ratio"
        );
        let zero = robot().with_zero_terminal_snr().expect("long enough");
        assert!(
            Grid::at_times(&Exploding(zero), &[99.0], End::Clean).is_err(),
            "pure noise has no place in sigma-space"
        );
    }

    #[test]
    fn grids_of_ratios_end_where_they_are_told() {
        let tables = [
            robot(),
            Discrete::linear(1000, 1e-4, 0.02).expect("valid"),
            Discrete::scaled_linear(1000, 0.00085, 0.012).expect("valid"),
        ];
        for table in tables {
            for schedule in [&table as &dyn Schedule, &Exploding(table.clone())] {
                for steps in [1, 2, 3, 10, 20, 33] {
                    for end in [End::Clean, End::At(0.0)] {
                        for grid in [Grid::karras, Grid::exponential] {
                            let grid = grid(schedule, steps, end).expect("the noise falls");
                            assert_eq!(grid.steps(), steps);
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn every_shift_starts_at_pure_noise() {
        for i in 1..=3000 {
            let schedule = FlowMatching::new(1.0, f64::from(i) / 1000.0).expect("valid");
            let grid = Grid::flow(&schedule, 10, 0.1).expect("the noise falls");
            assert!((grid.start().level.sigma - 1.0).abs() < 1e-15);
        }
    }

    #[test]
    fn a_last_step_may_stay_where_it_is() {
        assert!(Grid::at_times(&robot(), &[50.0, 0.0], End::At(0.0)).is_ok());
        assert!(Grid::at_times(&robot(), &[50.0, 50.0], End::Clean).is_err());
    }
}
