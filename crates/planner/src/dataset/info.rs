//! `meta/info.json`, and which episodes there are.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use serde::Deserialize;

use super::{DatasetError, Table};
use crate::lerobot::json::{self, Entry};

const INFO: &str = "meta/info.json";
const EPISODES: &str = "meta/episodes";
const EPISODE_LINES: &str = "meta/episodes.jsonl";

/// The most episodes and frames that are believed: two years of demonstrations.
const MAX_FRAMES: usize = 1 << 31;
/// The most values in a feature.
const MAX_VALUES: usize = 1 << 16;

/// A version of LeRobot's format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A table an episode.
    V21,
    /// Many episodes in a table.
    V30,
}

impl Version {
    /// LeRobot's word.
    pub fn word(self) -> &'static str {
        match self {
            Self::V21 => "v2.1",
            Self::V30 => "v3.0",
        }
    }
}

/// What a dataset says of a feature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FeatureInfo {
    /// The type of its values: `float32`, `int64`, `image`, `video`.
    pub dtype: String,
    /// How many there are along each axis.
    pub shape: Vec<usize>,
}

/// What a dataset says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Info {
    /// The version of the format.
    pub version: Version,
    /// Frames a second.
    pub fps: f64,
    /// How many episodes there are.
    pub total_episodes: usize,
    /// How many frames they have together.
    pub total_frames: usize,
    /// Which robot was used, if that is known.
    pub robot_type: Option<String>,
    /// The features, sorted by name.
    pub features: BTreeMap<String, FeatureInfo>,
    chunks_size: usize,
    data_path: String,
}

/// Where an episode lies, and how long it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Episode {
    pub(super) length: usize,
    pub(super) table: String,
}

#[derive(Deserialize)]
struct EpisodeLine {
    episode_index: usize,
    length: usize,
}

impl Info {
    /// Reads `meta/info.json`.
    ///
    /// # Errors
    ///
    /// If it cannot be read, lacks an entry or has one that cannot be, or is of another version.
    pub fn open(folder: &Path) -> Result<Self, DatasetError> {
        let json = json::read(folder, INFO)?;
        let json = Entry::root(INFO, &json);
        let version = match json.get("codebase_version")?.string()? {
            "v2.1" => Version::V21,
            "v3.0" => Version::V30,
            found => {
                return Err(DatasetError::Version {
                    found: found.into(),
                });
            }
        };
        let mut features = BTreeMap::new();
        for (name, entry) in json.get("features")?.entries()? {
            let shape = entry.get("shape")?;
            let shape = shape.list()?.map(|n| n.integer(0..=MAX_VALUES));
            let feature = FeatureInfo {
                dtype: entry.get("dtype")?.string()?.into(),
                shape: shape.collect::<Result<_, _>>()?,
            };
            features.insert(name.to_owned(), feature);
        }
        let data_path = json.get("data_path")?;
        let this = Self {
            version,
            fps: json
                .get("fps")?
                .number(|fps| fps > 0.0, "a positive number")?,
            total_episodes: json.get("total_episodes")?.integer(1..=MAX_FRAMES)?,
            total_frames: json.get("total_frames")?.integer(1..=MAX_FRAMES)?,
            robot_type: match json.find("robot_type")? {
                Some(robot) if !robot.is_null() => Some(robot.string()?.into()),
                _ => None,
            },
            features,
            chunks_size: json.get("chunks_size")?.integer(1..=MAX_FRAMES)?,
            data_path: data_path.string()?.into(),
        };
        // A path that leaves the folder is no dataset's.
        let path = Path::new(&this.data_path);
        let inside = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || formatted(&this.data_path, &|_| Some(0)).is_none() {
            return Err(data_path
                .wrong("a path inside the dataset, with places such as {chunk_index:03d}")
                .into());
        }
        Ok(this)
    }

    /// The number of values of a feature that is a vector.
    pub(super) fn vector(&self, name: &str) -> Result<usize, DatasetError> {
        let feature = self
            .features
            .get(name)
            .ok_or_else(|| DatasetError::Feature {
                feature: name.into(),
                known: self.features.keys().cloned().collect(),
            })?;
        let FeatureInfo { dtype, shape } = feature.clone();
        match (dtype.as_str(), shape.as_slice()) {
            ("image" | "video", _) => Err(DatasetError::Picture {
                feature: name.into(),
                dtype,
            }),
            ("float32" | "float64", &[len]) if len > 0 => Ok(len),
            _ => Err(DatasetError::Vector {
                feature: name.into(),
                dtype,
                shape,
            }),
        }
    }

    /// The episodes in their order.
    pub(super) fn episodes(&self, folder: &Path) -> Result<Vec<Episode>, DatasetError> {
        let (file, episodes) = match self.version {
            Version::V21 => (EPISODE_LINES, self.listed_episodes(folder)?),
            Version::V30 => (EPISODES, self.tabled_episodes(folder)?),
        };
        if episodes.len() == self.total_episodes {
            Ok(episodes)
        } else {
            Err(DatasetError::Episodes {
                file: file.into(),
                found: episodes.len(),
                expected: self.total_episodes,
            })
        }
    }

    /// Version 2.1 has a line an episode.
    fn listed_episodes(&self, folder: &Path) -> Result<Vec<Episode>, DatasetError> {
        let file = EPISODE_LINES;
        let text =
            std::fs::read_to_string(folder.join(file)).map_err(|error| DatasetError::Io {
                file: file.into(),
                error,
            })?;
        let mut episodes = Vec::new();
        for (line, text) in text.lines().enumerate() {
            let wrong = |reason: String| DatasetError::Line {
                file: file.into(),
                line: line + 1,
                reason,
            };
            let episode: EpisodeLine =
                serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
            let index = episodes.len();
            if let Some(reason) = self.too_long(episode.length) {
                return Err(wrong(format!("the length {reason}")));
            }
            if episode.episode_index != index {
                let found = episode.episode_index;
                return Err(wrong(format!(
                    "the episode is {found} where {index} is expected"
                )));
            }
            episodes.push(Episode {
                length: episode.length,
                table: self.table(index / self.chunks_size, index),
            });
        }
        Ok(episodes)
    }

    /// Version 3.0 has tables of episodes.
    fn tabled_episodes(&self, folder: &Path) -> Result<Vec<Episode>, DatasetError> {
        let mut episodes = Vec::new();
        for file in tables(folder)? {
            let table = Table::open(folder, &file)?;
            let [indices, lengths, chunks, files] = [
                "episode_index",
                "length",
                "data/chunk_index",
                "data/file_index",
            ]
            .map(|column| table.naturals(column));
            let (indices, lengths, chunks, files) = (indices?, lengths?, chunks?, files?);
            for row in 0..table.rows() {
                let index = episodes.len();
                let wrong = |column: &str, reason| DatasetError::Row {
                    file: file.clone(),
                    row,
                    column: column.into(),
                    reason,
                };
                if indices[row] != index {
                    let reason = format!("is {} where {index} is expected", indices[row]);
                    return Err(wrong("episode_index", reason));
                }
                if let Some(reason) = self.too_long(lengths[row]) {
                    return Err(wrong("length", reason));
                }
                episodes.push(Episode {
                    length: lengths[row],
                    table: self.table(chunks[row], files[row]),
                });
            }
        }
        Ok(episodes)
    }

    /// Why an episode cannot be of a length: no sum of lengths that can be is too large to be counted.
    fn too_long(&self, length: usize) -> Option<String> {
        let total = self.total_frames;
        (length > total).then(|| format!("is {length}; {INFO} says {total} frames in all"))
    }

    /// The path of a table: of a file of a chunk, or of an episode.
    fn table(&self, chunk: usize, file: usize) -> String {
        let value = |name: &str| match name {
            "chunk_index" | "episode_chunk" => Some(chunk),
            "file_index" | "episode_index" => Some(file),
            _ => None,
        };
        formatted(&self.data_path, &value).unwrap_or_else(|| self.data_path.clone())
    }
}

/// The tables of episodes, in their order.
fn tables(folder: &Path) -> Result<Vec<String>, DatasetError> {
    let list = |path: &str| -> Result<Vec<String>, DatasetError> {
        let io = |error| DatasetError::Io {
            file: path.into(),
            error,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder.join(path)).map_err(io)? {
            if let Ok(name) = entry.map_err(io)?.file_name().into_string() {
                names.push(format!("{path}/{name}"));
            }
        }
        names.sort();
        Ok(names)
    };
    let mut tables = Vec::new();
    for chunk in list(EPISODES)? {
        if folder.join(&chunk).is_dir() {
            let files = list(&chunk)?;
            tables.extend(files.into_iter().filter(|file| file.ends_with(".parquet")));
        }
    }
    Ok(tables)
}

/// Python's `str.format` with places such as `{name:03d}`; nothing where a place is not of that form or has no value.
fn formatted(template: &str, value: &dyn Fn(&str) -> Option<usize>) -> Option<String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once('{') {
        let (place, after) = after.split_once('}')?;
        let (name, form) = place.split_once(':').unwrap_or((place, "d"));
        let digits: usize = match form.strip_suffix('d')? {
            "" => 0,
            width => width.parse().ok().filter(|width| *width < 20)?,
        };
        text.push_str(before);
        write!(text, "{:0digits$}", value(name)?).ok()?;
        rest = after;
    }
    (!rest.contains('}')).then(|| text + rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_formatted_as_python_does() {
        let value = |name: &str| match name {
            "chunk_index" => Some(2),
            "file_index" => Some(1234),
            _ => None,
        };
        for (template, expected) in [
            (
                "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
                Some("data/chunk-002/file-1234.parquet"),
            ),
            ("{chunk_index}", Some("2")),
            ("{file_index:06d}", Some("001234")),
            ("plain", Some("plain")),
            ("{other:03d}", None),
            ("{chunk_index:3x}", None),
            ("{chunk_index", None),
            ("chunk_index}", None),
        ] {
            assert_eq!(
                formatted(template, &value).as_deref(),
                expected,
                "{template}"
            );
        }
    }
}
