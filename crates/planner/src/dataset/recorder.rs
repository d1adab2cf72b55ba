//! Demonstrations on their way to a folder.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parquet::basic::{Compression, LogicalType, Repetition, Type as Physical};
use parquet::data_type::{ByteArray, ByteArrayType, DataType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use parquet::schema::types::{Type, TypePtr};
use serde_json::{Map, Value, json};

use super::Statistics;

const DATA: &str = "data/chunk-000/file-000.parquet";
const EPISODES: &str = "meta/episodes/chunk-000/file-000.parquet";
const TASKS: &str = "meta/tasks.parquet";

/// Rows that lie together in a table.
const GROUP: usize = 1 << 16;

/// A feature of demonstrations, and what its values are called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordedFeature {
    /// LeRobot's name: `observation.state`, `observation.environment_state`, `action`.
    pub name: String,
    /// A name for each value.
    pub values: Vec<String>,
}

/// Demonstrations that become a `LeRobotDataset` of version 3.0, which LeRobot and [`Dataset::open`](super::Dataset::open) read.
///
/// Frames are kept in memory as `float32` until [`write`](Self::write): 80 bytes a frame of PushT.
///
/// ```
/// use clearway_planner::dataset::{Dataset, RecordedFeature, Recorder};
///
/// let feature = |name: &str, values: &[&str]| RecordedFeature {
///     name: name.into(),
///     values: values.iter().map(|&it| it.into()).collect(),
/// };
/// let features = [feature("observation.state", &["x", "y"]), feature("action", &["dx", "dy"])];
/// let mut recorder = Recorder::new(10.0, "point", "Go to the middle.", features);
/// for step in 0..5 {
///     let x = f64::from(step);
///     recorder.push(&[&[x, -x], &[1.0, -1.0]])?;
/// }
/// recorder.end_episode();
///
/// let folder = std::env::temp_dir().join(format!("clearway-recorder-{}", std::process::id()));
/// recorder.write(&folder)?;
/// let read = Dataset::open(&folder, &["action"])?;
/// assert_eq!((read.len(), read.get("action", 4)), (5, Some(&[1.0, -1.0][..])));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug)]
pub struct Recorder {
    fps: f64,
    robot_type: String,
    task: String,
    features: Vec<RecordedFeature>,
    /// Of each feature, `[frames, values]`.
    values: Vec<Vec<f32>>,
    /// The ends of the episodes, in frames.
    ends: Vec<usize>,
    frames: usize,
}

/// Why demonstrations were not recorded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A frame does not fit the features.
    #[error("frame {frame}: `{feature}` has {found} values where {expected} were announced")]
    Values {
        /// The frame, of all of them.
        frame: usize,
        /// The feature.
        feature: String,
        /// How many the frame has.
        found: usize,
        /// How many were announced.
        expected: usize,
    },
    /// A value that is not a finite `float32`.
    #[error("frame {frame}: `{feature}` is {value} at index {index}")]
    NotFinite {
        /// The frame, of all of them.
        frame: usize,
        /// The feature.
        feature: String,
        /// Which of its values.
        index: usize,
        /// The value.
        value: f64,
    },
    /// Nothing was recorded.
    #[error("there is no episode to write")]
    Empty,
    /// Something lies where the folder shall be.
    #[error("{} is there already", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },
    /// A file cannot be written.
    #[error("{} cannot be written: {error}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system says.
        error: io::Error,
    },
}

impl Recorder {
    /// Nothing yet, of a task at some frames a second.
    pub fn new(
        fps: f64,
        robot_type: impl Into<String>,
        task: impl Into<String>,
        features: impl Into<Vec<RecordedFeature>>,
    ) -> Self {
        let features = features.into();
        Self {
            fps,
            robot_type: robot_type.into(),
            task: task.into(),
            values: vec![Vec::new(); features.len()],
            features,
            ends: Vec::new(),
            frames: 0,
        }
    }

    /// Adds a frame: the values of each feature, in the order in which they were announced.
    ///
    /// # Errors
    ///
    /// If they are not as many as were announced, or not finite; then nothing is added.
    pub fn push(&mut self, frame: &[&[f64]]) -> Result<(), RecordError> {
        let at = self.frames;
        for (i, feature) in self.features.iter().enumerate() {
            let row = frame.get(i).copied().unwrap_or_default();
            if row.len() != feature.values.len() {
                return Err(RecordError::Values {
                    frame: at,
                    feature: feature.name.clone(),
                    found: row.len(),
                    expected: feature.values.len(),
                });
            }
            if let Some(index) = row.iter().position(|&value| !(value as f32).is_finite()) {
                return Err(RecordError::NotFinite {
                    frame: at,
                    feature: feature.name.clone(),
                    index,
                    value: row[index],
                });
            }
        }
        for (column, row) in self.values.iter_mut().zip(frame) {
            column.extend(row.iter().map(|&value| value as f32));
        }
        self.frames += 1;
        Ok(())
    }

    /// Ends the episode of the frames since the last one ended; nothing where there is none.
    pub fn end_episode(&mut self) {
        if self.frames > self.ends.last().copied().unwrap_or(0) {
            self.ends.push(self.frames);
        }
    }

    /// How many episodes have ended.
    pub fn episodes(&self) -> usize {
        self.ends.len()
    }

    /// How many frames they have.
    pub fn frames(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }

    /// Writes the episodes that have ended: a folder that is whole or not there.
    ///
    /// # Errors
    ///
    /// If there is none, something lies at the folder's place, or a file cannot be written.
    pub fn write(&self, folder: &Path) -> Result<(), RecordError> {
        if self.ends.is_empty() {
            return Err(RecordError::Empty);
        }
        if folder.exists() {
            return Err(RecordError::Exists {
                folder: folder.to_owned(),
            });
        }
        let mut name = folder.file_name().unwrap_or_default().to_owned();
        name.push(".part");
        let beside = folder.with_file_name(name);
        let failed = |file: &Path| {
            let file = file.to_owned();
            move |error| RecordError::Write { file, error }
        };
        if beside.exists() {
            return Err(RecordError::Exists { folder: beside });
        }
        let written = self
            .write_files(&beside)
            .and_then(|()| std::fs::rename(&beside, folder).map_err(failed(folder)));
        if written.is_err() {
            // It may not even be there; the error that matters is the first.
            let _ = std::fs::remove_dir_all(&beside);
        }
        written
    }

    fn write_files(&self, folder: &Path) -> Result<(), RecordError> {
        let write = |file: &str, write: &dyn Fn(&Path) -> io::Result<()>| {
            let path = folder.join(file);
            let parent = path.parent().unwrap_or(folder);
            std::fs::create_dir_all(parent)
                .and_then(|()| write(&path))
                .map_err(|error| RecordError::Write {
                    file: path.clone(),
                    error,
                })
        };
        write(DATA, &|path| self.write_data(path))?;
        write(EPISODES, &|path| self.write_episodes(path))?;
        write(TASKS, &|path| self.write_tasks(path))?;
        let text = |value: &Value| format!("{value:#}\n");
        write("meta/stats.json", &|path| {
            std::fs::write(path, text(&self.statistics()))
        })?;
        write("meta/info.json", &|path| {
            std::fs::write(path, text(&self.info()))
        })
    }

    fn info(&self) -> Value {
        let mut features = Map::new();
        for feature in &self.features {
            let entry = json!({ "dtype": "float32", "shape": [feature.values.len()], "names": feature.values });
            features.insert(feature.name.clone(), entry);
        }
        let of_every = [
            ("timestamp", "float32"),
            ("frame_index", "int64"),
            ("episode_index", "int64"),
            ("index", "int64"),
            ("task_index", "int64"),
        ];
        for (name, dtype) in of_every {
            let entry = json!({ "dtype": dtype, "shape": [1], "names": null });
            features.insert(name.to_owned(), entry);
        }
        // LeRobot wants a whole number.
        let fps = if self.fps.fract() == 0.0 {
            json!(self.fps as i64)
        } else {
            json!(self.fps)
        };
        json!({
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": self.episodes(),
            "total_frames": self.frames(),
            "total_tasks": 1,
            "chunks_size": 1000,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": fps,
            "splits": { "train": format!("0:{}", self.episodes()) },
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": null,
            "features": features,
        })
    }

    fn statistics(&self) -> Value {
        let of = |feature: &RecordedFeature, column: &Vec<f32>| {
            let len = feature.values.len();
            let values: Vec<f64> = column[..self.frames() * len]
                .iter()
                .map(|&value| f64::from(value))
                .collect();
            let mut rows = Map::new();
            for (name, row) in Statistics::of(&values, len).rows() {
                rows.insert(name.to_owned(), json!(row));
            }
            rows.insert("count".to_owned(), json!([self.frames()]));
            (feature.name.clone(), Value::Object(rows))
        };
        let all = self.features.iter().zip(&self.values);
        Value::Object(all.map(|(feature, column)| of(feature, column)).collect())
    }

    /// The frames of each episode.
    fn spans(&self) -> impl Iterator<Item = [usize; 2]> + '_ {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, &end)| [start, end])
    }

    fn write_data(&self, path: &Path) -> io::Result<()> {
        let frames = self.frames();
        let (mut episode_index, mut frame_index) = (Vec::new(), Vec::new());
        for (episode, [start, end]) in (0..).zip(self.spans()) {
            episode_index.extend(std::iter::repeat_n(episode, end - start));
            frame_index.extend((0..).take(end - start));
        }
        let time = |&frame: &i64| (frame as f64 / self.fps) as f32;
        let mut columns: Vec<Column<'_>> = self
            .features
            .iter()
            .zip(&self.values)
            .map(|(feature, values)| Column::List {
                name: &feature.name,
                len: feature.values.len(),
                values: &values[..frames * feature.values.len()],
            })
            .collect();
        let times: Vec<f32> = frame_index.iter().map(time).collect();
        columns.push(Column::Float("timestamp", times));
        columns.push(Column::Whole("episode_index", episode_index));
        columns.push(Column::Whole("frame_index", frame_index));
        columns.push(Column::Whole("index", (0..).take(frames).collect()));
        columns.push(Column::Whole("task_index", vec![0; frames]));
        write_table(path, &columns, frames, None)
    }

    fn write_episodes(&self, path: &Path) -> io::Result<()> {
        let count = self.episodes();
        let whole = |of: &dyn Fn(usize, [usize; 2]) -> usize| -> Vec<i64> {
            let spans = self.spans().enumerate();
            spans
                .map(|(i, span)| i64::try_from(of(i, span)).unwrap_or(i64::MAX))
                .collect()
        };
        let zeros = || vec![0; count];
        let columns = [
            Column::Whole("episode_index", whole(&|i, _| i)),
            Column::Texts("tasks", vec![&self.task; count]),
            Column::Whole("length", whole(&|_, [start, end]| end - start)),
            Column::Whole("data/chunk_index", zeros()),
            Column::Whole("data/file_index", zeros()),
            Column::Whole("dataset_from_index", whole(&|_, [start, _]| start)),
            Column::Whole("dataset_to_index", whole(&|_, [_, end]| end)),
            Column::Whole("meta/episodes/chunk_index", zeros()),
            Column::Whole("meta/episodes/file_index", zeros()),
        ];
        write_table(path, &columns, count, None)
    }

    /// LeRobot reads the tasks with pandas, and looks them up by their index.
    fn write_tasks(&self, path: &Path) -> io::Result<()> {
        let index = "__index_level_0__";
        let column = |name: Value, field: &str, pandas: &str, numpy: &str| {
            json!({
                "name": name, "field_name": field, "pandas_type": pandas, "numpy_type": numpy, "metadata": null,
            })
        };
        let pandas = json!({
            "index_columns": [index],
            "column_indexes": [column(Value::Null, "None", "unicode", "object")],
            "columns": [
                column(json!("task_index"), "task_index", "int64", "int64"),
                column(Value::Null, index, "unicode", "object"),
            ],
            "creator": { "library": "clearway", "version": env!("CARGO_PKG_VERSION") },
            "pandas_version": "2.0.0",
        });
        let columns = [
            Column::Whole("task_index", vec![0]),
            Column::Text(index, &self.task),
        ];
        let said = KeyValue::new("pandas".to_owned(), pandas.to_string());
        write_table(path, &columns, 1, Some(said))
    }
}

/// A column of a table, with a value a row.
enum Column<'a> {
    Float(&'a str, Vec<f32>),
    Whole(&'a str, Vec<i64>),
    Text(&'a str, &'a str),
    /// A list of `len` numbers a row.
    List {
        name: &'a str,
        len: usize,
        values: &'a [f32],
    },
    /// A list of one text a row.
    Texts(&'a str, Vec<&'a String>),
}

impl Column<'_> {
    fn schema(&self) -> Result<Type, ParquetError> {
        let (name, physical, is_list) = match self {
            Self::Float(name, _) => (*name, Physical::FLOAT, false),
            Self::Whole(name, _) => (*name, Physical::INT64, false),
            Self::Text(name, _) => (*name, Physical::BYTE_ARRAY, false),
            Self::List { name, .. } => (*name, Physical::FLOAT, true),
            Self::Texts(name, _) => (*name, Physical::BYTE_ARRAY, true),
        };
        let is_text = physical == Physical::BYTE_ARRAY;
        let leaf = Type::primitive_type_builder(if is_list { "element" } else { name }, physical)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(is_text.then_some(LogicalType::String))
            .build()?;
        if !is_list {
            return Ok(leaf);
        }
        let repeated = Type::group_type_builder("list")
            .with_repetition(Repetition::REPEATED)
            .with_fields(vec![Arc::new(leaf)])
            .build()?;
        Type::group_type_builder(name)
            .with_repetition(Repetition::OPTIONAL)
            .with_logical_type(Some(LogicalType::List))
            .with_fields(vec![Arc::new(repeated)])
            .build()
    }
}

/// Writes columns of as many rows.
fn write_table(
    path: &Path,
    columns: &[Column<'_>],
    rows: usize,
    said: Option<KeyValue>,
) -> io::Result<()> {
    let write = || -> Result<(), ParquetError> {
        let fields = columns.iter().map(|column| column.schema().map(Arc::new));
        let schema: TypePtr = Arc::new(
            Type::group_type_builder("schema")
                .with_fields(fields.collect::<Result<_, _>>()?)
                .build()?,
        );
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_key_value_metadata(said.map(|it| vec![it]))
            .build();
        let mut writer =
            SerializedFileWriter::new(File::create(path)?, schema, Arc::new(properties))?;
        for start in (0..rows).step_by(GROUP) {
            let end = (start + GROUP).min(rows);
            let mut group = writer.next_row_group()?;
            for column in columns {
                match column {
                    Column::Float(_, values) => {
                        next::<FloatType, _>(&mut group, &values[start..end], None)
                    }
                    Column::Whole(_, values) => {
                        next::<Int64Type, _>(&mut group, &values[start..end], None)
                    }
                    Column::Text(_, text) => {
                        next::<ByteArrayType, _>(&mut group, &[ByteArray::from(*text)], None)
                    }
                    Column::List { len, values, .. } => {
                        let values = &values[start * len..end * len];
                        next::<FloatType, _>(&mut group, values, Some(*len))
                    }
                    Column::Texts(_, texts) => {
                        let texts = texts[start..end].iter();
                        let texts: Vec<_> = texts.map(|it| ByteArray::from(it.as_str())).collect();
                        next::<ByteArrayType, _>(&mut group, &texts, Some(1))
                    }
                }?;
            }
            group.close()?;
        }
        writer.close()?;
        Ok(())
    };
    write().map_err(|error| match error {
        ParquetError::External(error) => io::Error::other(error),
        other => io::Error::other(other),
    })
}

/// Writes the next column of a group of rows: a value a row, or a list of `list` values.
fn next<T: DataType, W: io::Write + Send>(
    group: &mut parquet::file::writer::SerializedRowGroupWriter<'_, W>,
    values: &[T::T],
    list: Option<usize>,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("a column too many".to_owned()))?;
    // Everything is there: a value that is defined counts one, and two more in a list.
    let definitions = vec![if list.is_some() { 3 } else { 1 }; values.len()];
    let repetitions: Option<Vec<i16>> =
        list.map(|len| (0..values.len()).map(|i| i16::from(i % len > 0)).collect());
    column
        .typed::<T>()
        .write_batch(values, Some(&definitions), repetitions.as_deref())?;
    column.close()
}
