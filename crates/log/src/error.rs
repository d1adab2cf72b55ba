//! Why a log cannot be written or read.

use std::path::PathBuf;

use mcap::McapError;

/// Why a log cannot be written or read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LogError {
    /// The file cannot be created.
    #[error("{} cannot be created: {error}", path.display())]
    Create {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// The file cannot be opened.
    #[error("{} cannot be opened: {error}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: std::io::Error,
    },
    /// Nothing more can be written.
    #[error("the log cannot be written: {}", because(.0))]
    Write(McapError),
    /// An event has something that this version has no words for.
    #[error("{event} has {what}, which a log cannot hold")]
    Unwritable {
        /// Which event.
        event: String,
        /// What.
        what: String,
    },
    /// An event came after the end.
    #[error("the log is finished")]
    Finished,
    /// Events are missing.
    #[error("{events} of the events are not in the log; the first because {first}")]
    Lost {
        /// How many.
        events: u64,
        /// Why the first is not.
        first: Box<LogError>,
    },
    /// The file ends before its end: whoever wrote it was cut off. What came before is whole.
    #[error("the log ends after message {after}, without being finished")]
    Truncated {
        /// The number of the last message, from 1; 0 if there is none.
        after: u64,
    },
    /// The file is no MCAP, or broken.
    #[error(
        "after message {after} the file is no MCAP that can be read: {}",
        because(error)
    )]
    Container {
        /// The number of the last message, from 1; 0 if there is none.
        after: u64,
        /// Why.
        error: McapError,
    },
    /// A message of a known schema is not in JSON.
    #[error("message {message} on {topic} is in `{found}`, not in json")]
    Encoding {
        /// Its number, from 1.
        message: u64,
        /// Where it is.
        topic: String,
        /// What it is in.
        found: String,
    },
    /// A message says what cannot be.
    #[error("message {message} on {topic}: `{field}`: {reason}")]
    Field {
        /// Its number, from 1.
        message: u64,
        /// Where it is.
        topic: String,
        /// The field, with dots between levels; `.` is the whole message.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// What the container says, with the cause that it leaves to others.
fn because(error: &McapError) -> String {
    match std::error::Error::source(error) {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

/// A field with a value that cannot be.
#[derive(Debug)]
pub(crate) struct Wrong {
    pub(crate) field: String,
    pub(crate) reason: String,
}

impl Wrong {
    pub(crate) fn new(field: &str, reason: &impl ToString) -> Self {
        Self {
            field: field.to_owned(),
            reason: reason.to_string(),
        }
    }

    /// The same, seen from a level above.
    pub(crate) fn within(self, outer: &str) -> Self {
        Self {
            field: format!("{outer}.{}", self.field),
            ..self
        }
    }
}
