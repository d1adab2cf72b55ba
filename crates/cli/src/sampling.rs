//! How to sample: the arguments that all commands share.

use std::path::Path;
use std::time::Duration;

use burn::tensor::Device;
use clearway_planner::{Method, Planner, Sampling};

use crate::error::{Error, load_policy};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Solver [default: the policy's own]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::PossibleValuesParser::new(Method::ALL.map(Method::name)))]
    solver: Option<String>,
    /// Denoising steps [default: the policy's own]
    #[arg(long, value_name = "K")]
    steps: Option<usize>,
    /// Trajectories drawn a plan; the first feasible one is executed
    #[arg(long, value_name = "N", default_value_t = 1)]
    candidates: usize,
}

impl Arguments {
    pub(crate) fn with_candidates(candidates: usize) -> Self {
        Self {
            solver: None,
            steps: None,
            candidates,
        }
    }

    /// A planner of the policy in a folder.
    pub(crate) fn planner(&self, path: &Path, period: Duration) -> Result<Planner, Error> {
        let device = Device::flex();
        let planner = Planner::new(load_policy(path, &device)?, period, &device);
        let planner = planner.map_err(|error| Error::policy(path, error))?;
        let own = planner.sampling();
        let method = match &self.solver {
            Some(name) => name.parse().unwrap_or(own.method),
            None => own.method,
        };
        let sampling = Sampling {
            method,
            steps: self.steps.unwrap_or(own.steps),
        };
        planner
            .with_sampling(sampling)
            .and_then(|planner| planner.with_candidates(self.candidates))
            .map_err(|error| Error::policy(path, error))
    }
}
