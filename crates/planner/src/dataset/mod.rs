//! Demonstrations as LeRobot keeps them: a `LeRobotDataset` folder of version 2.1 or 3.0.
//!
//! | file | content |
//! |---|---|
//! | `meta/info.json` | version, rate, counts, features, where the tables lie |
//! | `meta/episodes/*/*.parquet`, or `meta/episodes.jsonl` in 2.1 | the length of each episode, and in 3.0 the table it lies in |
//! | `meta/stats.json` | statistics of the features; computed where it is missing |
//! | `data/*/*.parquet` | a row a frame |
//!
//! What a feature is at a frame is a row of numbers. A frame is one moment of an episode, and training reads [windows](Window)
//! around it: the observations that led to it and the actions that followed, never across the end of an episode. A broken
//! folder is named by file and row.
//!
//! Features that are pictures, which LeRobot keeps in the tables or as video, are not read.
//!
//! The layout was read in LeRobot's source, version 0.4.4.

mod demonstrations;
mod error;
mod info;
mod recorder;
mod statistics;
mod table;
mod window;

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;

use sha2::{Digest, Sha256};

pub use clearway_diffusion::train::{Batches, Order};
pub use demonstrations::{Demonstrations, DemonstrationsError};
pub use error::DatasetError;
pub use info::{FeatureInfo, Info, Version};
pub use recorder::{RecordError, RecordedFeature, Recorder};
pub use statistics::Statistics;
pub use window::Window;

use table::Table;

/// Demonstrations, with the features that were asked for.
#[derive(Clone, Debug)]
pub struct Dataset {
    info: Info,
    /// The frames of each episode.
    episodes: Vec<Range<usize>>,
    features: BTreeMap<String, Column>,
}

/// A feature at every frame.
#[derive(Clone, Debug)]
struct Column {
    len: usize,
    /// `[frames, len]`, row-major.
    values: Vec<f64>,
    statistics: Statistics,
}

impl Dataset {
    /// Reads a folder, and of its features those that are named.
    ///
    /// # Errors
    ///
    /// If a file is missing or malformed, files contradict each other, a feature is not there or is a picture, or a value is
    /// missing or not finite.
    pub fn open(folder: &Path, features: &[&str]) -> Result<Self, DatasetError> {
        let info = Info::open(folder)?;
        let widths = features
            .iter()
            .map(|name| Ok((*name, info.vector(name)?)))
            .collect::<Result<Vec<_>, DatasetError>>()?;
        let lengths = info.episodes(folder)?;
        let mut episodes = Vec::with_capacity(lengths.len());
        let mut frames = 0;
        for length in lengths.iter().map(|episode| episode.length) {
            episodes.push(frames..frames + length);
            frames += length;
        }
        if frames != info.total_frames {
            return Err(DatasetError::Frames {
                found: frames,
                expected: info.total_frames,
            });
        }
        let mut values = vec![Vec::new(); features.len()];
        let mut episode = 0;
        for lying in lengths.chunk_by(|a, b| a.table == b.table) {
            let table = Table::open(folder, &lying[0].table)?;
            let rows: usize = lying.iter().map(|it| it.length).sum();
            if table.rows() != rows {
                return Err(DatasetError::Rows {
                    file: table.file().into(),
                    found: table.rows(),
                    expected: rows,
                });
            }
            table.check_episodes(episode, lying.iter().map(|it| it.length))?;
            for ((name, len), values) in widths.iter().zip(&mut values) {
                values.extend(table.numbers(name, *len)?);
            }
            episode += lying.len();
        }
        let stored = statistics::read(folder)?;
        let mut columns = BTreeMap::new();
        for ((name, len), values) in widths.into_iter().zip(values) {
            let statistics = match stored.as_ref() {
                Some(file) => Statistics::read(file, name, len)?,
                None => None,
            };
            let statistics = statistics.unwrap_or_else(|| Statistics::of(&values, len));
            let column = Column {
                len,
                values,
                statistics,
            };
            columns.insert(name.to_owned(), column);
        }
        Ok(Self {
            info,
            episodes,
            features: columns,
        })
    }

    /// What the folder says of itself.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// How many frames there are.
    pub fn len(&self) -> usize {
        self.info.total_frames
    }

    /// Whether there is no frame.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The frames of each episode.
    pub fn episodes(&self) -> &[Range<usize>] {
        &self.episodes
    }

    /// The SHA-256 of what was read, in hexadecimal digits: of the episodes their lengths, of the features that were asked
    /// for the names, the values and the statistics.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for episode in &self.episodes {
            hash.update((episode.end as u64).to_le_bytes());
        }
        for (name, column) in &self.features {
            hash.update(name);
            let statistics = column.statistics.rows();
            let rows = [("", column.values.as_slice())].into_iter();
            for (name, row) in rows.chain(statistics) {
                hash.update(name);
                for value in row {
                    hash.update(value.to_le_bytes());
                }
            }
        }
        format!("{:x}", hash.finalize())
    }

    /// The values of a feature at a frame; none if the feature was not asked for.
    ///
    /// # Panics
    ///
    /// If there is no such frame.
    pub fn get(&self, feature: &str, frame: usize) -> Option<&[f64]> {
        let column = self.features.get(feature)?;
        Some(&column.values[frame * column.len..][..column.len])
    }

    /// A feature at all frames, `[frames, len]`, row-major; none if the feature was not asked for.
    pub fn values(&self, feature: &str) -> Option<&[f64]> {
        Some(&self.features.get(feature)?.values)
    }

    /// The statistics of a feature; none if the feature was not asked for.
    pub fn statistics(&self, feature: &str) -> Option<&Statistics> {
        Some(&self.features.get(feature)?.statistics)
    }
}
