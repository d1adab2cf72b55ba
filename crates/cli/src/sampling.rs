//! How to sample, and with what: the arguments that all commands share.

use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clearway_planner::{Method, Planner, PlannerError, Sampling};

use crate::error::Error;
use crate::precision;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Solver [default: the policy's own]
    #[arg(long, value_name = "NAME", value_parser = method())]
    solver: Option<Method>,
    /// Denoising steps [default: the policy's own]
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// The timestep of the last step, to which the leading grid is moved [default: the policy's own, or the solver's grid
    /// where --solver or --steps says another]
    #[arg(long, value_name = "T")]
    offset: Option<usize>,
    /// Trajectories drawn a plan; the first is executed, the others are shown in a recording
    #[arg(long, value_name = "N", default_value_t = 1)]
    candidates: usize,
    #[command(flatten)]
    precision: precision::Arguments,
}

impl Arguments {
    pub(crate) fn with_candidates(candidates: usize, precision: precision::Arguments) -> Self {
        Self {
            solver: None,
            steps: None,
            offset: None,
            candidates,
            precision,
        }
    }

    /// A planner of the policy in a folder.
    pub(crate) fn planner(&self, path: &Path, period: Duration) -> Result<Planner, Error> {
        let device = Device::flex();
        let planner = Planner::new(self.precision.load(path, &device)?, period, &device);
        let planner = planner.map_err(|error| Error::policy(path, error))?;
        let sampling = chosen(planner.sampling(), self.solver, self.steps, self.offset);
        let wrong = |argument| {
            move |error: PlannerError| Error::Argument {
                argument,
                reason: format!("does not fit this policy: {error}"),
            }
        };
        planner
            .with_sampling(sampling)
            .map_err(wrong("--solver, --offset or --steps"))?
            .with_candidates(self.candidates)
            .map_err(wrong("--candidates"))
    }
}

/// What is asked for, and of the policy's own what is not. Its offset belongs to its grid.
pub(crate) fn chosen(
    own: Sampling,
    solver: Option<Method>,
    steps: Option<usize>,
    offset: Option<usize>,
) -> Sampling {
    let is_own = solver.is_none() && steps.is_none_or(|it| it == own.steps);
    let kept = if is_own { own.offset } else { None };
    Sampling::new(solver.unwrap_or(own.method), steps.unwrap_or(own.steps))
        .with_offset(offset.or(kept))
}

/// A solver by its name; clap lists them.
fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name)).try_map(|name| name.parse::<Method>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_offset_stays_with_its_grid() {
        let own = Sampling::new(Method::Euler, 2).with_offset(Some(40));
        assert_eq!(chosen(own, None, None, None), own);
        assert_eq!(chosen(own, None, Some(2), None), own);
        assert_eq!(
            chosen(own, None, Some(1), None),
            Sampling::new(Method::Euler, 1)
        );
        assert_eq!(
            chosen(own, Some(Method::Ddim), None, None),
            Sampling::new(Method::Ddim, 2)
        );
        let moved = Sampling::new(Method::Euler, 1).with_offset(Some(90));
        assert_eq!(chosen(own, None, Some(1), Some(90)), moved);
    }
}
