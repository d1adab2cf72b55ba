//! Events out of an MCAP file.

use std::fmt;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;
use std::time::Duration;

use clearway_planner::replanner::log::{Decision, Event};
use mcap::sans_io::LinearReaderOptions;
use mcap::{McapError, Message};
use serde::de::DeserializeOwned;

use crate::decision::{DecisionMessage, StatusMessage, VerdictMessage};
use crate::error::{LogError, Wrong};
use crate::schema::Topic;

/// An event of a log.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// The number of its message in the file, from 1, others counted.
    pub message: u64,
    /// The time of its message: the robot's clock.
    pub time: Duration,
    /// What happened.
    pub event: Event,
}

/// The events of a file, in the order in which they were noted.
///
/// Decisions, verdicts and statuses are known by the names of their schemas, so that a file may hold other topics
/// beside them, and these may have been renamed. Messages that are wrong are errors of their own, and reading goes on
/// after them; a container that is wrong or ends early is the last error.
///
/// # Errors
///
/// If the file cannot be opened.
pub fn events(path: impl AsRef<Path>) -> Result<Events, LogError> {
    let path = path.as_ref();
    let open = || {
        let file = File::open(path)?;
        let length = file.metadata()?.len();
        Ok((file, length))
    };
    let (file, length) = open().map_err(|error| LogError::Open {
        path: path.to_owned(),
        error,
    })?;
    Ok(Events::new(Box::new(BufReader::new(file)), length))
}

/// The decisions of a file, bit for bit as they were; of a failure, the words.
///
/// # Errors
///
/// As [`events`].
pub fn decisions(
    path: impl AsRef<Path>,
) -> Result<impl Iterator<Item = Result<Decision, LogError>>, LogError> {
    Ok(events(path)?.filter_map(|entry| match entry {
        Ok(Entry {
            event: Event::Decision(decision),
            ..
        }) => Some(Ok(*decision)),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    }))
}

/// The events of a log: see [`events`].
pub struct Events {
    messages: mcap::io::MessageReader<Box<dyn Read + Send>>,
    read: u64,
}

impl Events {
    /// The events of a log in memory.
    pub fn of(bytes: Vec<u8>) -> Self {
        let length = bytes.len() as u64;
        Self::new(Box::new(std::io::Cursor::new(bytes)), length)
    }

    fn new(source: Box<dyn Read + Send>, length: u64) -> Self {
        // No record is longer than its file: what says so is not worth its memory.
        let limit = usize::try_from(length).unwrap_or(usize::MAX);
        let options = LinearReaderOptions::default()
            .with_record_length_limit(limit)
            // What was changed by accident is not to be taken for what was decided.
            .with_prevalidate_chunk_crcs(true)
            .with_validate_data_section_crc(true);
        Self {
            messages: mcap::io::MessageReader::new_with_options(source, options),
            read: 0,
        }
    }
}

impl Iterator for Events {
    type Item = Result<Entry, LogError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let message = match self.messages.next()? {
                Ok(message) => message,
                Err(McapError::UnexpectedEof) => {
                    return Some(Err(LogError::Truncated { after: self.read }));
                }
                Err(error) => {
                    return Some(Err(LogError::Container {
                        after: self.read,
                        error,
                    }));
                }
            };
            self.read += 1;
            if let Some(event) = event(&message, self.read).transpose() {
                return Some(event.map(|event| Entry {
                    message: self.read,
                    time: Duration::from_nanos(message.log_time),
                    event,
                }));
            }
        }
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events")
            .field("read", &self.read)
            .finish_non_exhaustive()
    }
}

/// The event of a message; nothing if it is none.
fn event(message: &Message<'_>, number: u64) -> Result<Option<Event>, LogError> {
    let schema = message.channel.schema.as_ref();
    let known = schema.and_then(|schema| {
        let mut topics = Topic::ALL.into_iter();
        topics.find(|topic| topic.schema_name() == schema.name)
    });
    let restore: fn(&[u8]) -> Result<Event, Wrong> = match known {
        Some(Topic::Decision) => |data| {
            let decision = parse::<DecisionMessage>(data)?.restore()?;
            Ok(Event::Decision(Box::new(decision)))
        },
        Some(Topic::Status) => |data| parse::<StatusMessage>(data)?.restore(),
        Some(Topic::Verdict) => |data| parse::<VerdictMessage>(data)?.restore(),
        // What these say is in the decision.
        Some(Topic::Plan | Topic::Path) | None => return Ok(None),
    };
    let topic = || message.channel.topic.clone();
    if message.channel.message_encoding != "json" {
        return Err(LogError::Encoding {
            message: number,
            topic: topic(),
            found: message.channel.message_encoding.clone(),
        });
    }
    restore(&message.data)
        .map(Some)
        .map_err(|Wrong { field, reason }| LogError::Field {
            message: number,
            topic: topic(),
            field,
            reason,
        })
}

fn parse<T: DeserializeOwned>(data: &[u8]) -> Result<T, Wrong> {
    let mut json = serde_json::Deserializer::from_slice(data);
    let parsed = serde_path_to_error::deserialize(&mut json);
    let parsed = parsed.map_err(|error| Wrong {
        field: error.path().to_string(),
        reason: error.into_inner().to_string(),
    })?;
    json.end().map_err(|error| Wrong::new(".", &error))?;
    Ok(parsed)
}
