use std::path::PathBuf;

use clearway_diffusion::distill::RecipeError;
use clearway_diffusion::train::{NonFinite, WrongValue};
use clearway_layers::WeightsError;

use crate::LoadError;
use crate::dataset::DatasetError;

/// Why a network of pictures cannot be trained.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TrainError {
    /// The dataset cannot be used.
    #[error(transparent)]
    Dataset(#[from] DatasetError),
    /// The recipe describes no network.
    #[error("the recipe's {0}")]
    Network(#[from] LoadError),
    /// A number of the recipe is not one to train with.
    #[error(transparent)]
    Value(#[from] WrongValue),
    /// The recipe names other classes than the dataset has.
    #[error("the recipe names {found} classes, and the dataset has {expected}")]
    Labels {
        /// How many the recipe names.
        found: usize,
        /// How many there are.
        expected: usize,
    },
    /// Pictures cannot be cut into squares.
    #[error("pictures of {} × {} pixels cannot be cut into squares of {patch}", size[1], size[0])]
    Patch {
        /// Height and width.
        size: [usize; 2],
        /// The side of a square.
        patch: usize,
    },
    /// A sum of channels and groups does not come out.
    #[error("`{key}` is {found:?}; it must be {expected}")]
    Channels {
        /// The key.
        key: &'static str,
        /// The numbers.
        found: Vec<usize>,
        /// What they must be.
        expected: String,
    },
    /// Scales that cannot be taught.
    #[error("`guidance.scales` is {found:?}; it must be two numbers from 0, the larger one last")]
    Scales {
        /// The scales.
        found: [f64; 2],
    },
    /// Scales that cannot be taught to a student that has one or more.
    #[error(
        "`student.scales` is {found:?}; it must be two numbers from 0, the second not below the first"
    )]
    TaughtScales {
        /// The scales.
        found: [f64; 2],
    },
    /// Scales for a teacher that knows none.
    #[error(
        "`student.scales` is for teachers that know guidance scales: distil the guidance first, see `[guidance]`"
    )]
    NoScales,
    /// What a student shall learn is not to be learned.
    #[error(transparent)]
    Distill(#[from] RecipeError),
    /// The model to begin with draws otherwise than the teacher.
    #[error("{} is no beginning for a student of this teacher: its {what} is another", folder.display())]
    OtherTask {
        /// Its folder.
        folder: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// A teacher's weights are packed: a student cannot begin with them.
    #[error(
        "the weights of the teacher in {folder} are packed: learn from the model that they were made of"
    )]
    Packed {
        /// The teacher's folder.
        folder: PathBuf,
    },
    /// A teacher is a student already.
    #[error("the teacher in {folder} knows the guidance scale already")]
    Guided {
        /// The teacher's folder.
        folder: PathBuf,
    },
    /// A teacher draws other pictures than the dataset has.
    #[error(
        "the teacher in {folder} draws pictures of {} × {} pixels of {channels} channels, and the dataset has others", size[1], size[0]
    )]
    OtherPictures {
        /// The teacher's folder.
        folder: PathBuf,
        /// The height and width of its pictures.
        size: [usize; 2],
        /// Their channels.
        channels: usize,
    },
    /// No picture is left to train on.
    #[error("no picture is left to train on: {pictures}, of which {held_out} are held out")]
    NoPicture {
        /// How many there are.
        pictures: usize,
        /// How many are held out.
        held_out: usize,
    },
    /// Training left the numbers.
    #[error(transparent)]
    NonFinite(#[from] NonFinite),
    /// A file cannot be written.
    #[error("cannot write {file}: {error}")]
    Write {
        /// The file or folder.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A checkpoint cannot be read.
    #[error("{file}: {error}")]
    Checkpoint {
        /// The file.
        file: String,
        /// Why.
        error: WeightsError,
    },
    /// A checkpoint is of another run.
    #[error("{file} is of another run: its {what} is another")]
    OtherRun {
        /// The file.
        file: String,
        /// What differs.
        what: String,
    },
}
