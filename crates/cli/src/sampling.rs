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
            candidates,
            precision,
        }
    }

    /// A planner of the policy in a folder.
    pub(crate) fn planner(&self, path: &Path, period: Duration) -> Result<Planner, Error> {
        let device = Device::flex();
        let planner = Planner::new(self.precision.load(path, &device)?, period, &device);
        let planner = planner.map_err(|error| Error::policy(path, error))?;
        let own = planner.sampling();
        let sampling = Sampling {
            method: self.solver.unwrap_or(own.method),
            steps: self.steps.unwrap_or(own.steps),
        };
        let wrong = |argument| {
            move |error: PlannerError| Error::Argument {
                argument,
                reason: format!("does not fit this policy: {error}"),
            }
        };
        planner
            .with_sampling(sampling)
            .map_err(wrong("--solver or --steps"))?
            .with_candidates(self.candidates)
            .map_err(wrong("--candidates"))
    }
}

/// A solver by its name; clap lists them.
fn method() -> impl TypedValueParser<Value = Method> {
    PossibleValuesParser::new(Method::ALL.map(Method::name)).try_map(|name| name.parse::<Method>())
}
