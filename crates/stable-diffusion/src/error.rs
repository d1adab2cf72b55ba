//! Why a model could not be loaded.

use clearway_layers::WeightsError;

/// Why a model, or one of its networks, could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// A file or folder cannot be read.
    #[error("{file} cannot be read: {error}")]
    Io {
        /// The file.
        file: String,
        /// What the system says.
        error: std::io::Error,
    },
    /// A JSON file is larger than any that a model has.
    #[error("{file} has {found} bytes; the limit is {limit}")]
    TooLarge {
        /// The file.
        file: String,
        /// Its size, in bytes.
        found: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A JSON file was not downloaded.
    #[error("{file} is a git-lfs pointer, not the file itself: run git lfs pull")]
    LfsPointer {
        /// The file.
        file: String,
    },
    /// A JSON file is malformed.
    #[error("{file} is not JSON: {error}")]
    Json {
        /// The file.
        file: String,
        /// Where and why.
        error: serde_json::Error,
    },
    /// A JSON file lacks an entry.
    #[error("{file} lacks `{key}`")]
    Missing {
        /// The file.
        file: String,
        /// The entry, with dots between levels.
        key: String,
    },
    /// An entry of a JSON file has a value that cannot be, or asks for what is not supported.
    #[error("{file}: `{key}` is {found}; {expected} is needed")]
    Value {
        /// The file.
        file: String,
        /// The entry, with dots between levels.
        key: String,
        /// Its value.
        found: String,
        /// What it should be.
        expected: String,
    },
    /// An index of weights names a file outside of its folder.
    #[error("{file}: the weights file `{name}` is not a file in the same folder")]
    Shard {
        /// The index.
        file: String,
        /// The name.
        name: String,
    },
    /// A folder holds no weights under any of the names that they have.
    #[error("{folder} holds no weights: none of {names}")]
    NoWeights {
        /// The folder.
        folder: String,
        /// The names that were looked for.
        names: String,
    },
    /// A single file holds no tensors of a network.
    #[error("{file} holds no {network}: no tensor is called `{key}`")]
    NoNetwork {
        /// The file.
        file: String,
        /// The network.
        network: &'static str,
        /// The tensor that shows whether it is there.
        key: String,
    },
    /// A file of weights cannot be used.
    #[error("{file}: {error}")]
    Weights {
        /// The file.
        file: String,
        /// Why.
        error: WeightsError,
    },
}
