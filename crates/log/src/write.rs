//! Events into an MCAP file.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use clearway_planner::replanner::log::{Decision, Event, Log};
use mcap::records::MessageHeader;
use mcap::write::NoSeek;
use mcap::{WriteOptions, Writer};
use serde::Serialize;

use crate::decision::{DecisionMessage, StatusMessage, VerdictMessage};
use crate::error::LogError;
use crate::message::{Header, JointTrajectory, PosesInFrame};
use crate::schema::Topic;

/// The log of a control loop, as an MCAP file.
///
/// A clone is another handle to the same file: one goes to the replanner, and with the other the caller
/// [finishes](Self::finish) when that is done. Several replanners, one after another or side by side, may write into one
/// file.
///
/// ```no_run
/// # use clearway_planner::{Horizon, Settings};
/// use clearway_log::McapLog;
///
/// let log = McapLog::create("run.mcap")?;
/// let settings = Settings::new(Horizon { execute: 8, latency: 1 }).with_log(log.clone());
/// // .. Replanner::spawn, the loop, and Replanner::finish ..
/// log.finish()?;
/// # Ok::<(), clearway_log::LogError>(())
/// ```
///
/// # When it is cut off
///
/// With every decision a chunk of the file is closed and handed to the system. So a process that ends without
/// finishing loses what came after its last decision, and a machine that loses its power what the system had not
/// written yet. Such a file has no index and no end; [`events`](crate::events) reads it up to there and then says so, and
/// `mcap recover` makes a whole one of it.
///
/// # Errors
///
/// A control loop does not stop for its log. An event that cannot be written is reported by `tracing` at once, and all
/// of them by [`finish`](Self::finish).
#[derive(Clone)]
pub struct McapLog {
    shared: Arc<Mutex<Shared>>,
}

type Sink = NoSeek<Box<dyn Write + Send>>;

struct Shared {
    /// Nothing once it is finished.
    writer: Option<Writer<Sink>>,
    /// Of each topic its channel and the number of its next message.
    channels: Vec<(u16, u32)>,
    joint_names: Vec<String>,
    frame: String,
    /// The newest time that an event brought.
    latest: Duration,
    lost: u64,
    first: Option<LogError>,
}

impl McapLog {
    /// A log into a new file; one that is there already is replaced.
    ///
    /// # Errors
    ///
    /// If the file cannot be created or written.
    pub fn create(path: impl AsRef<Path>) -> Result<Self, LogError> {
        let path = path.as_ref();
        let file = File::create(path).map_err(|error| LogError::Create {
            path: path.to_owned(),
            error,
        })?;
        Self::new(BufWriter::new(file))
    }

    /// A log into anything that can be written.
    ///
    /// # Errors
    ///
    /// If it cannot.
    pub fn new(sink: impl Write + Send + 'static) -> Result<Self, LogError> {
        let options = WriteOptions::new()
            .library(concat!("clearway-log/", env!("CARGO_PKG_VERSION")))
            // Its compressions are C, and a chunk is to be whole in the file or not there.
            .compression(None)
            .disable_seeking(true);
        let sink: Sink = NoSeek::new(Box::new(sink));
        let mut writer = options.create(sink).map_err(LogError::Write)?;
        let mut channels = Vec::with_capacity(Topic::ALL.len());
        for topic in Topic::ALL {
            let schema = topic.schema().to_string();
            let channel = writer
                .add_schema(topic.schema_name(), "jsonschema", schema.as_bytes())
                .and_then(|schema| {
                    writer.add_channel(schema, topic.name(), "json", &BTreeMap::new())
                })
                .map_err(LogError::Write)?;
            channels.push((channel, 0));
        }
        Ok(Self {
            shared: Arc::new(Mutex::new(Shared {
                writer: Some(writer),
                channels,
                joint_names: Vec::new(),
                frame: "world".to_owned(),
                latest: Duration::ZERO,
                lost: 0,
                first: None,
            })),
        })
    }

    /// What the coordinates are called in `/plan`; by default, and beyond these, `q0`, `q1` and so on.
    #[must_use]
    pub fn with_joint_names(self, names: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.lock().joint_names = names.into_iter().map(Into::into).collect();
        self
    }

    /// The frame of the coordinates; by default `world`.
    #[must_use]
    pub fn with_frame(self, frame: impl Into<String>) -> Self {
        self.lock().frame = frame.into();
        self
    }

    /// Completes the file. What comes later is lost, and said to be.
    ///
    /// # Errors
    ///
    /// If events were lost, or the end cannot be written. The second time there is nothing left to complete or to say.
    pub fn finish(&self) -> Result<(), LogError> {
        let mut shared = self.lock();
        let completed = shared.complete();
        let events = std::mem::take(&mut shared.lost);
        match shared.first.take() {
            Some(first) => Err(LogError::Lost {
                events,
                first: Box::new(first),
            }),
            None => completed,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        // The writer keeps its own account of what failed half-way.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Log for McapLog {
    fn note(&mut self, event: &Event) {
        let mut shared = self.lock();
        if let Err(error) = shared.note(event) {
            tracing::error!(%error, "an event is not in the log");
            shared.lost += 1;
            shared.first.get_or_insert(error);
        }
    }
}

impl Shared {
    fn note(&mut self, event: &Event) -> Result<(), LogError> {
        match event {
            Event::Decision(decision) => {
                self.latest = decision.asked;
                for (topic, message) in self.decision(decision)? {
                    self.write(topic, &message)?;
                }
                let writer = self.writer.as_mut().ok_or(LogError::Finished)?;
                writer.flush().map_err(LogError::Write)
            }
            Event::Verdict { plan, verdict } => {
                let message = VerdictMessage::new(*plan, *verdict)?;
                self.write(Topic::Verdict, &json(&message)?)
            }
            Event::Status { now, status } => {
                let message = StatusMessage::new(*now, *status)?;
                self.latest = *now;
                self.write(Topic::Status, &json(&message)?)
            }
            other => Err(LogError::Unwritable {
                event: "an event".to_owned(),
                what: format!("the kind {other:?}"),
            }),
        }
    }

    /// The messages of a decision: all of them, or an error before the first is written.
    fn decision(&self, decision: &Decision) -> Result<Vec<(Topic, Vec<u8>)>, LogError> {
        let message = DecisionMessage::new(decision)?;
        let mut messages = vec![(Topic::Decision, json(&message)?)];
        if let Ok(made) = &decision.result {
            let header = Header {
                stamp: decision.asked.into(),
                frame_id: self.frame.clone(),
            };
            let given = self.joint_names.iter().cloned();
            let counted = (self.joint_names.len()..).map(|j| format!("q{j}"));
            let names = given.chain(counted).take(made.trajectory.dof()).collect();
            let plan = JointTrajectory::new(header, names, &made.trajectory);
            messages.push((Topic::Plan, json(&plan)?));
            if let Some(path) =
                PosesInFrame::new(decision.asked, self.frame.clone(), &made.trajectory)
            {
                messages.push((Topic::Path, json(&path)?));
            }
        }
        Ok(messages)
    }

    fn write(&mut self, topic: Topic, data: &[u8]) -> Result<(), LogError> {
        let writer = self.writer.as_mut().ok_or(LogError::Finished)?;
        let (channel_id, sequence) = &mut self.channels[topic as usize];
        // A verdict has no time of its own: it is known when the next plan is asked for.
        let time = u64::try_from(self.latest.as_nanos()).unwrap_or(u64::MAX);
        let header = MessageHeader {
            channel_id: *channel_id,
            sequence: *sequence,
            log_time: time,
            publish_time: time,
        };
        *sequence = sequence.wrapping_add(1);
        writer
            .write_to_known_channel(&header, data)
            .map_err(LogError::Write)
    }

    fn complete(&mut self) -> Result<(), LogError> {
        let Some(mut writer) = self.writer.take() else {
            return Ok(());
        };
        writer.finish().map_err(LogError::Write)?;
        let mut sink = writer.into_inner();
        sink.flush()
            .map_err(|error| LogError::Write(mcap::McapError::Io(error)))
    }
}

/// A message that serde can write fails only for what JSON has no keys for, of which there is none here.
fn json(message: &impl Serialize) -> Result<Vec<u8>, LogError> {
    serde_json::to_vec(message).map_err(|error| LogError::Unwritable {
        event: "a message".to_owned(),
        what: error.to_string(),
    })
}

impl Drop for Shared {
    fn drop(&mut self) {
        if let Err(error) = self.complete() {
            tracing::error!(%error, "the log is not complete");
        }
        if let Some(error) = &self.first {
            tracing::error!(%error, events = self.lost, "events are not in the log");
        }
    }
}

impl fmt::Debug for McapLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shared = self.lock();
        f.debug_struct("McapLog")
            .field("finished", &shared.writer.is_none())
            .field("latest", &shared.latest)
            .field("lost", &shared.lost)
            .finish_non_exhaustive()
    }
}
