//! What went wrong, in one sentence that says what to do.

use std::path::{Path, PathBuf};

use clearway_motion::{SpaceError, TrajectoryError};
use clearway_planner::{HistoryError, LoadError, PlanError, PlannerError};
use clearway_sim::SimError;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot load the policy in {}: {error}", path.display())]
    Policy { path: PathBuf, error: Box<PlannerError> },
    #[error("there is no policy in {}: give a folder written by LeRobot's save_pretrained with --policy", .0.display())]
    NoPolicy(PathBuf),
    #[error("cannot read {}: {reason}", path.display())]
    Read { path: PathBuf, reason: String },
    #[error("cannot write {}: {reason}", path.display())]
    Write { path: PathBuf, reason: String },
    #[error("{} lacks `{key}`: expected {expected}", path.display())]
    Missing {
        path: PathBuf,
        key: String,
        expected: &'static str,
    },
    #[error("`{key}` in {} must have the shape {expected}, found {found:?}", path.display())]
    Shape {
        path: PathBuf,
        key: String,
        expected: String,
        found: Vec<usize>,
    },
    #[error(
        "--noise gives only the first draw, but {0} draws noise in every step: choose a deterministic solver such as ddim"
    )]
    Stochastic(String),
    #[error(
        "this policy makes {0} numbers an action, PushT takes 2: it was trained for another task"
    )]
    Task(usize),
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Observations(#[from] HistoryError),
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error(transparent)]
    Trajectory(#[from] TrajectoryError),
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[error("cannot start the threads: {0}")]
    Threads(String),
    #[cfg(feature = "rerun")]
    #[error("cannot record: {0}")]
    Record(#[from] clearway_viz::rerun::RecordingStreamError),
    #[cfg(not(feature = "rerun"))]
    #[error("this binary cannot record: build it with the feature `rerun`, which is on by default")]
    Record,
}

impl Error {
    pub(crate) fn read(path: &Path, reason: &impl ToString) -> Self {
        Self::Read {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn write(path: &Path, reason: &impl ToString) -> Self {
        Self::Write {
            path: path.to_owned(),
            reason: reason.to_string(),
        }
    }

    pub(crate) fn policy(path: &Path, error: impl Into<PlannerError>) -> Self {
        Self::Policy {
            path: path.to_owned(),
            error: Box::new(error.into()),
        }
    }
}

/// Writes a JSON report for `--json`, whole or not at all.
pub(crate) fn write_json(path: &Path, report: &impl serde::Serialize) -> Result<(), Error> {
    let mut text =
        serde_json::to_string_pretty(report).map_err(|error| Error::write(path, &error))?;
    text.push('\n');
    std::fs::write(path, text).map_err(|error| Error::write(path, &error))
}

/// Says early that a file cannot be written, before the work whose result it shall hold.
pub(crate) fn check_writable(path: Option<&Path>) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if folder.is_dir() && !path.is_dir() {
        return Ok(());
    }
    Err(Error::write(path, &"its folder does not exist, or it is one itself"))
}

/// Loads a policy, telling a folder that is not there from one that is broken.
pub(crate) fn load_policy(
    path: &Path,
    device: &burn::tensor::Device,
) -> Result<clearway_planner::Policy, Error> {
    if !path.is_dir() {
        return Err(Error::NoPolicy(path.to_owned()));
    }
    clearway_planner::Policy::load(path, device)
        .map_err(|error: LoadError| Error::policy(path, error))
}
