use std::path::PathBuf;

use crate::PictureError;

/// Why a dataset of pictures cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A file or folder cannot be read.
    #[error("{file} cannot be read: {error}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// A folder holds pictures in no layout that is known.
    #[error(
        "{folder} holds neither `{}` nor pictures with captions (PNG or JPEG files, each with a .txt beside it or a line in metadata.jsonl)",
        super::idx::TRAIN[0]
    )]
    Layout {
        /// The folder.
        folder: PathBuf,
    },
    /// An IDX file begins otherwise than it must.
    #[error("{file} begins with {found:02x?}; an IDX file of {what} begins with {expected:02x?}")]
    Magic {
        /// The file.
        file: PathBuf,
        /// What it must hold.
        what: &'static str,
        /// Its first four bytes.
        found: [u8; 4],
        /// What they must be.
        expected: [u8; 4],
    },
    /// An IDX file is shorter or longer than it says.
    #[error("{file} holds {found} bytes; its header of {sizes:?} needs {expected}")]
    Length {
        /// The file.
        file: PathBuf,
        /// The sizes that its header says.
        sizes: Vec<usize>,
        /// How many bytes there are, unpacked; one more than needed stands for any number more.
        found: usize,
        /// How many there must be.
        expected: usize,
    },
    /// An IDX file says sizes that cannot be.
    #[error("{file} says that it holds {sizes:?}; sizes from 1 and at most {limit} bytes are read")]
    Sizes {
        /// The file.
        file: PathBuf,
        /// The sizes that its header says.
        sizes: Vec<usize>,
        /// The most bytes.
        limit: usize,
    },
    /// There are more pictures than labels, or fewer.
    #[error("{pictures} holds {found} pictures, and {labels} {expected} labels")]
    Counts {
        /// The file of pictures.
        pictures: PathBuf,
        /// How many it holds.
        found: usize,
        /// The file of labels.
        labels: PathBuf,
        /// How many it holds.
        expected: usize,
    },
    /// A picture has no caption.
    #[error("{picture} has no caption: neither {text} nor a line of metadata.jsonl is there")]
    NoCaption {
        /// The picture.
        picture: PathBuf,
        /// The file that could hold it.
        text: PathBuf,
    },
    /// A line of metadata.jsonl cannot be used.
    #[error("{file}, line {line}: {reason}")]
    Metadata {
        /// The file.
        file: PathBuf,
        /// The line, counted from one.
        line: usize,
        /// Why.
        reason: String,
    },
    /// A picture cannot be read.
    #[error("{file} {error}")]
    Picture {
        /// The file.
        file: PathBuf,
        /// Why.
        error: PictureError,
    },
    /// A picture is of another size than the first.
    #[error(
        "{file} has {} × {} pixels; {first} has {} × {}", found[1], found[0], expected[1], expected[0]
    )]
    Size {
        /// The picture.
        file: PathBuf,
        /// Its height and width.
        found: [usize; 2],
        /// The first picture.
        first: PathBuf,
        /// That one's height and width.
        expected: [usize; 2],
    },
    /// A folder has no pictures to test with.
    #[error("{folder} has no test pictures: a folder with captions is for training alone")]
    NoTest {
        /// The folder.
        folder: PathBuf,
    },
}
