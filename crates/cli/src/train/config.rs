//! The file that says what to train.

use std::path::{Path, PathBuf};

use clearway_planner::paths::PriorConfig;
use clearway_planner::paths::train::{PathDataRecipe, PathRecipe};
use clearway_planner::train::{
    AverageRecipe, DataRecipe, LossRecipe, OptimizerRecipe, PolicyRecipe, Recipe,
};
use clearway_stable_diffusion::train as pictures;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::demonstrations::Demonstrated;
use crate::error::Error;

/// What a file may say; what it leaves out is the default.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    #[serde(default)]
    pub(crate) seed: u64,
    pub(crate) run: Run,
    pub(crate) data: Data,
    policy: Option<PolicyRecipe>,
    pub(super) pictures: Option<pictures::ModelRecipe>,
    pub(super) classifier: Option<pictures::ClassifierRecipe>,
    pub(super) guidance: Option<pictures::GuidanceRecipe>,
    pub(super) paths: Option<PriorConfig>,
    pub(super) demonstrations: Option<Demonstrated>,
    loss: Option<LossRecipe>,
    #[serde(default)]
    pub(crate) optimizer: OptimizerRecipe,
    #[serde(default)]
    pub(crate) average: AverageRecipe,
}

/// How long a run is, and what it writes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    /// The folder for the checkpoint, the curve and the policy.
    pub(crate) output: PathBuf,
    /// After how many minutes the run stops, if its steps are not done.
    pub(crate) minutes: Option<f64>,
    /// After how many steps each the loss is written down.
    #[serde(default = "log_every")]
    pub(crate) log_every: u64,
    /// After how many steps each the policy is validated.
    #[serde(default = "validate_every")]
    pub(crate) validate_every: u64,
    /// On how many windows at most.
    #[serde(default = "validation_windows")]
    pub(crate) validation_windows: usize,
    /// After how many steps each a checkpoint and the policy are written.
    #[serde(default = "save_every")]
    pub(crate) save_every: u64,
}

fn log_every() -> u64 {
    50
}

fn validate_every() -> u64 {
    500
}

fn validation_windows() -> usize {
    1024
}

fn save_every() -> u64 {
    1000
}

/// What is said of a key that only policies have.
const OF_POLICIES: &str = "left out where pictures or paths are learned";

/// The demonstrations, or the pictures. The keys are those of [`DataRecipe`], and the folder, which paths do without.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Data {
    #[serde(default)]
    pub(crate) folder: PathBuf,
    order: Option<clearway_planner::dataset::Order>,
    batch: Option<usize>,
    drop_n_last_frames: Option<usize>,
    held_out: Option<f64>,
}

/// Reads a file that says what to learn; its paths are relative to where the command runs.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Result<T, Error> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::read(path, &error))?;
    // Without the drawing of the line: errors are one sentence.
    let wrong = |key: String, error: &toml::de::Error| Error::Config {
        path: path.to_owned(),
        line: error.span().map_or(1, |span| {
            let before = text.get(..span.start).unwrap_or_default();
            before.matches('\n').count() + 1
        }),
        reason: if key == "." || key.is_empty() {
            error.message().to_owned()
        } else {
            format!("`{key}`: {}", error.message())
        },
    };
    let parsed = toml::Deserializer::parse(&text);
    let parsed = parsed.map_err(|error| wrong(String::new(), &error))?;
    serde_path_to_error::deserialize(parsed)
        .map_err(|error| wrong(error.path().to_string(), error.inner()))
}

impl Run {
    /// Makes sure that the numbers of a file are ones that a run can have.
    pub(crate) fn check(&self, path: &Path) -> Result<(), Error> {
        let numbers = [
            ("run.log_every", self.log_every > 0, "at least 1"),
            ("run.validate_every", self.validate_every > 0, "at least 1"),
            ("run.save_every", self.save_every > 0, "at least 1"),
            (
                "run.minutes",
                self.minutes.is_none_or(|it| it > 0.0 && it < 1e6),
                "positive and below a million",
            ),
        ];
        match numbers.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, expected)) => Err(Error::ConfigValue {
                path: path.to_owned(),
                key,
                expected,
            }),
            None => Ok(()),
        }
    }
}

impl Data {
    /// What of the demonstrations is seen, and when.
    pub(crate) fn recipe(&self) -> DataRecipe {
        let default = DataRecipe::default();
        DataRecipe {
            order: self.order.unwrap_or(default.order),
            batch: self.batch.unwrap_or(default.batch),
            drop_n_last_frames: self.drop_n_last_frames,
            held_out: self.held_out.unwrap_or(default.held_out),
        }
    }

    /// What of the pictures is seen, and when.
    pub(crate) fn recipe_of_pictures(&self, path: &Path) -> Result<pictures::DataRecipe, Error> {
        if self.drop_n_last_frames.is_some() {
            return Err(Error::ConfigValue {
                path: path.to_owned(),
                key: "data.drop_n_last_frames",
                expected: OF_POLICIES,
            });
        }
        Ok(self.of_pictures())
    }

    fn of_pictures(&self) -> pictures::DataRecipe {
        let default = pictures::DataRecipe::default();
        pictures::DataRecipe {
            order: self.order.unwrap_or(default.order),
            batch: self.batch.unwrap_or(default.batch),
            held_out: self.held_out.unwrap_or(default.held_out),
        }
    }
}

impl Config {
    /// Reads a file.
    pub(crate) fn read(path: &Path) -> Result<Self, Error> {
        let config: Self = read(path)?;
        config.run.check(path)?;
        let kinds = [
            config.pictures.is_some(),
            config.classifier.is_some(),
            config.guidance.is_some(),
            config.paths.is_some(),
        ];
        let kinds = kinds.into_iter().filter(|is_there| *is_there).count();
        let of_pictures = kinds > 0;
        let of_paths = config.paths.is_some();
        let tables = [
            (
                "policy",
                !(of_pictures && config.policy.is_some()),
                OF_POLICIES,
            ),
            (
                "loss",
                !(of_pictures && !of_paths && config.loss.is_some()),
                OF_POLICIES,
            ),
            (
                "data.drop_n_last_frames",
                !(of_pictures && config.data.drop_n_last_frames.is_some()),
                OF_POLICIES,
            ),
            (
                "pictures",
                kinds < 2,
                "the only one of `pictures`, `classifier`, `guidance` and `paths`",
            ),
            (
                "demonstrations",
                config.demonstrations.is_some() == of_paths,
                "there where `paths` are learned, and only there",
            ),
            (
                "data.folder",
                config.data.folder.as_os_str().is_empty() == of_paths,
                "the folder of the dataset; paths have demonstrations in its place",
            ),
        ];
        match tables.into_iter().find(|(_, holds, _)| !holds) {
            Some((key, _, expected)) => Err(Error::ConfigValue {
                path: path.to_owned(),
                key,
                expected,
            }),
            None => Ok(config),
        }
    }

    /// What the run is a function of.
    pub(crate) fn recipe(&self) -> Recipe {
        Recipe {
            seed: self.seed,
            policy: self.policy.clone().unwrap_or_default(),
            data: self.data.recipe(),
            loss: self.loss.clone().unwrap_or_default(),
            optimizer: self.optimizer.clone(),
            average: self.average.clone(),
        }
    }

    /// The same of a path prior.
    pub(super) fn recipe_of_paths(&self, prior: &PriorConfig) -> PathRecipe {
        let default = PathDataRecipe::default();
        PathRecipe {
            seed: self.seed,
            prior: prior.clone(),
            data: PathDataRecipe {
                order: self.data.order.unwrap_or(default.order),
                batch: self.data.batch.unwrap_or(default.batch),
                held_out: self.data.held_out.unwrap_or(default.held_out),
            },
            weighting: self.loss.clone().unwrap_or_default().weighting,
            optimizer: self.optimizer.clone(),
            average: self.average.clone(),
        }
    }

    /// The same of a network of pictures.
    pub(super) fn recipe_of<N: Clone>(&self, network: &N) -> pictures::Recipe<N> {
        pictures::Recipe {
            seed: self.seed,
            network: network.clone(),
            data: self.data.of_pictures(),
            optimizer: self.optimizer.clone(),
            average: self.average.clone(),
        }
    }
}
