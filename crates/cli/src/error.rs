//! What went wrong, in one sentence that says what to do.

use std::path::{Path, PathBuf};

use clearway_log::LogError;
use clearway_motion::{SpaceError, TrajectoryError};
use clearway_planner::{HistoryError, LoadError, PlanError, PlannerError};
use clearway_sim::SimError;
use clearway_stable_diffusion::{GenerateError, PictureError};

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("cannot load the policy in {}: {error}", path.display())]
    Policy {
        path: PathBuf,
        error: Box<PlannerError>,
    },
    #[error("there is no policy in {}: give a folder written by LeRobot's save_pretrained with --policy", .0.display())]
    NoPolicy(PathBuf),
    #[error("cannot use the model in {}: {error}", path.display())]
    Model {
        path: PathBuf,
        error: Box<GenerateError>,
    },
    #[error("{} {error}", path.display())]
    Picture { path: PathBuf, error: PictureError },
    #[error(transparent)]
    Generate(#[from] Box<GenerateError>),
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
    #[error("`{key}` in {} must be {expected}, found {found}", path.display())]
    Shape {
        path: PathBuf,
        key: String,
        expected: String,
        found: String,
    },
    #[error(
        "--noise gives only the first draw, but {0} draws noise in every step: choose a deterministic solver such as ddim"
    )]
    Stochastic(String),
    #[error(
        "this policy makes {0} numbers an action, PushT takes 2: it was trained for another task"
    )]
    Task(usize),
    #[error(
        "this policy sees {} x {} pixels, PushT shows {shown} x {shown}: it was trained for another task",
        found[0], found[1]
    )]
    Sight { found: [usize; 2], shown: usize },
    #[error("{argument} {reason}")]
    Argument {
        argument: &'static str,
        reason: String,
    },
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Observations(#[from] HistoryError),
    #[error(transparent)]
    Log(#[from] LogError),
    #[error("there is no plan in {}: give a file written with --log", .0.display())]
    NoPlan(PathBuf),
    #[error("decision {plan} (message {message}) cannot be made by this policy: {error}")]
    SetUp {
        message: u64,
        plan: u64,
        error: Box<PlannerError>,
    },
    #[error(transparent)]
    Sim(#[from] SimError),
    #[error(transparent)]
    Trajectory(#[from] TrajectoryError),
    #[error(transparent)]
    Space(#[from] SpaceError),
    #[cfg(feature = "train")]
    #[error("cannot use the dataset in {}: {error}", path.display())]
    Dataset {
        path: PathBuf,
        error: Box<clearway_planner::dataset::DatasetError>,
    },
    #[cfg(feature = "train")]
    #[error("{}, line {line}: {reason}", path.display())]
    Config {
        path: PathBuf,
        line: usize,
        reason: String,
    },
    #[cfg(feature = "train")]
    #[error("{}: `{key}` must be {expected}", path.display())]
    ConfigValue {
        path: PathBuf,
        key: &'static str,
        expected: &'static str,
    },
    #[cfg(feature = "train")]
    #[error("there is no checkpoint at {}: begin the run without --resume", .0.display())]
    NoCheckpoint(PathBuf),
    #[cfg(feature = "train")]
    #[error("there is a run in {} already: go on with --resume, or choose another folder with --output", .0.display())]
    RunExists(PathBuf),
    #[cfg(feature = "train")]
    #[error("there is no teacher in {}: give the folder of a policy or of a model of pictures with --teacher", .0.display())]
    NoTeacher(PathBuf),
    #[cfg(feature = "train")]
    #[error(transparent)]
    Train(Box<clearway_planner::train::TrainError>),
    #[cfg(feature = "train")]
    #[error(transparent)]
    TrainPictures(Box<clearway_stable_diffusion::train::TrainError>),
    #[cfg(feature = "train")]
    #[error(transparent)]
    TrainPaths(Box<clearway_planner::paths::train::PathTrainError>),
    #[error("cannot use the prior in {}: {error}", path.display())]
    Prior {
        path: PathBuf,
        error: Box<clearway_planner::paths::PathPlannerError>,
    },
    #[error("there is no prior in {}: train one (`clearway train`), or give a folder with --prior", .0.display())]
    NoPrior(PathBuf),
    #[error("the world cannot be made: {0}")]
    World(String),
    #[cfg(feature = "train")]
    #[error("cannot use the pictures: {0}")]
    Pictures(Box<clearway_stable_diffusion::dataset::DatasetError>),
    #[cfg(feature = "train")]
    #[error("cannot use the {what} in {}: {error}", path.display())]
    PictureModel {
        what: &'static str,
        path: PathBuf,
        error: Box<clearway_stable_diffusion::LoadError>,
    },
    #[cfg(feature = "train")]
    #[error("the {what} is for {found}; {expected} is needed")]
    Unlike {
        what: &'static str,
        found: String,
        expected: String,
    },
    #[cfg(feature = "train")]
    #[error("cannot compare pictures: {0}")]
    Features(#[from] clearway_stable_diffusion::FeatureError),
    #[error("cannot start the threads: {0}")]
    Threads(String),
    #[cfg(feature = "rerun")]
    #[error("cannot record: {0}")]
    Record(#[from] clearway_viz::rerun::RecordingStreamError),
    #[cfg(not(feature = "rerun"))]
    #[error("this binary cannot record: build it with the feature `rerun`, which is on by default")]
    Record,
}

impl From<GenerateError> for Error {
    fn from(error: GenerateError) -> Self {
        Self::Generate(Box::new(error))
    }
}

impl Error {
    #[cfg(feature = "train")]
    pub(crate) fn train(error: clearway_planner::train::TrainError) -> Self {
        Self::Train(Box::new(error))
    }

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

/// Writes a JSON report for `--json`.
pub(crate) fn write_json(path: &Path, report: &impl serde::Serialize) -> Result<(), Error> {
    let mut text =
        serde_json::to_string_pretty(report).map_err(|error| Error::write(path, &error))?;
    text.push('\n');
    write_whole(path, |beside| std::fs::write(beside, &text))
        .map_err(|error| Error::write(path, &error))
}

/// Writes a file beside its place and then renames it, so that what stood there is lost only to what is whole.
pub(crate) fn write_whole<E: From<std::io::Error>>(
    path: &Path,
    write: impl FnOnce(&Path) -> Result<(), E>,
) -> Result<(), E> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let beside = path.with_file_name(name);
    // What was left there by a run that was ended may have another mode, and need not be there.
    let _ = std::fs::remove_file(&beside);
    // Some writers put a file of their own there, which nobody but its owner may read: it gets the mode of all files.
    let usual = std::fs::File::create(&beside)?.metadata()?.permissions();
    let written = write(&beside).and_then(|()| {
        std::fs::set_permissions(&beside, usual)?;
        Ok(std::fs::rename(&beside, path)?)
    });
    if written.is_err() {
        // It may not even be there; the error that matters is the first.
        let _ = std::fs::remove_file(&beside);
    }
    written
}

/// Says early that a file cannot be written, before the work whose result it shall hold.
pub(crate) fn check_writable(path: Option<&Path>) -> Result<(), Error> {
    let Some(path) = path else { return Ok(()) };
    if path.is_dir() {
        return Err(Error::write(path, &"it is a folder"));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        return Err(Error::write(path, &"its folder does not exist"));
    }
    Ok(())
}

/// Loads a policy, telling a folder that is not there from one that is broken.
pub(crate) fn load_policy(
    path: &Path,
    device: &burn::tensor::Device,
) -> Result<clearway_planner::Policy, Error> {
    if !path.is_dir() {
        return Err(Error::NoPolicy(path.to_owned()));
    }
    let bar = spinner("loading the policy");
    let policy = clearway_planner::Policy::load(path, device)
        .map_err(|error: LoadError| Error::policy(path, error));
    bar.finish_and_clear();
    policy
}

/// Shows on a terminal that something is being done; nothing where the output is piped.
pub(crate) fn spinner(what: &'static str) -> indicatif::ProgressBar {
    let bar = indicatif::ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(std::time::Duration::from_millis(100));
    bar
}
