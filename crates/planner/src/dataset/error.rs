use crate::LoadError;

/// Why a dataset could not be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DatasetError {
    /// A JSON file cannot be used.
    #[error(transparent)]
    Json(#[from] LoadError),
    /// A version of the format that is not read here.
    #[error("the dataset is of version {found}; v2.1 and v3.0 are read")]
    Version {
        /// What `meta/info.json` says.
        found: String,
    },
    /// A file cannot be read.
    #[error("{file} cannot be read: {error}")]
    Io {
        /// The file, relative to the dataset's folder.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A line of a file of JSON lines is not what it should be.
    #[error("{file}, line {line}: {reason}")]
    Line {
        /// The file.
        file: String,
        /// The line, counted from one.
        line: usize,
        /// What is wrong.
        reason: String,
    },
    /// A table is not a Parquet file, or cut short.
    #[error("{file} is not a readable Parquet file: {reason}")]
    Parquet {
        /// The file.
        file: String,
        /// Where and why.
        reason: String,
    },
    /// A table lacks a column, or has it of another type.
    #[error("{file}: the column `{column}` is {found}; {expected} is needed")]
    Column {
        /// The file.
        file: String,
        /// The column.
        column: String,
        /// What it is.
        found: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A row of a table is not what it should be.
    #[error("{file}, row {row}: `{column}` {reason}")]
    Row {
        /// The file.
        file: String,
        /// The row, counted from zero.
        row: usize,
        /// The column.
        column: String,
        /// What is wrong.
        reason: String,
    },
    /// A table has rows too many or too few.
    #[error("{file} has {found} rows where its episodes have {expected} frames")]
    Rows {
        /// The file.
        file: String,
        /// How many it has.
        found: usize,
        /// How many the episodes say.
        expected: usize,
    },
    /// Episodes are missing, or there are too many.
    #[error("meta/info.json says {expected} episodes; {file} lists {found}")]
    Episodes {
        /// Where episodes are listed.
        file: String,
        /// How many are listed.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The episodes have too many frames or too few.
    #[error("meta/info.json says {expected} frames; the episodes have {found} together")]
    Frames {
        /// How many the episodes have.
        found: usize,
        /// How many there should be.
        expected: usize,
    },
    /// The dataset does not have a feature.
    #[error("the dataset has no feature `{feature}`; it has {}", listed(known))]
    Feature {
        /// The feature.
        feature: String,
        /// Those that it has.
        known: Vec<String>,
    },
    /// A feature is a picture.
    #[error(
        "the feature `{feature}` is of type `{dtype}`: training reads vectors; pictures are not supported yet"
    )]
    Picture {
        /// The feature.
        feature: String,
        /// Its type, `image` or `video`.
        dtype: String,
    },
    /// A feature is not a vector of floating-point numbers.
    #[error(
        "the feature `{feature}` is of type `{dtype}` and shape {shape:?}; a vector of float32 or float64 is needed"
    )]
    Vector {
        /// The feature.
        feature: String,
        /// Its type.
        dtype: String,
        /// Its shape.
        shape: Vec<usize>,
    },
}

fn listed(names: &[String]) -> String {
    let names: Vec<_> = names.iter().map(|name| format!("`{name}`")).collect();
    names.join(", ")
}
