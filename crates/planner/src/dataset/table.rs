//! Columns of a Parquet file.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use parquet::basic::Type;
use parquet::column::reader::get_typed_column_reader;
use parquet::data_type::{DataType, DoubleType, FloatType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};

use super::DatasetError;

/// A Parquet file of a dataset.
pub(super) struct Table {
    /// Its path in the dataset.
    file: String,
    reader: SerializedFileReader<File>,
    rows: usize,
}

impl Table {
    pub(super) fn open(folder: &Path, file: &str) -> Result<Self, DatasetError> {
        let io = |error| DatasetError::Io {
            file: file.into(),
            error,
        };
        let path = folder.join(file);
        if !std::fs::metadata(&path).map_err(io)?.is_file() {
            return Err(io(std::io::Error::other("is not a regular file")));
        }
        let opened = File::open(path).map_err(io)?;
        let reader = caught(file, || SerializedFileReader::new(opened))?;
        let metadata = reader.metadata();
        // Rows are read by groups: where the file counts otherwise, columns would be of another length than is said.
        let groups = metadata.row_groups().iter();
        let grouped = groups.fold(0_i64, |sum, group| sum.saturating_add(group.num_rows()));
        let rows = metadata.file_metadata().num_rows();
        let count = usize::try_from(rows).ok().filter(|_| rows == grouped);
        let rows = count.ok_or_else(|| DatasetError::Parquet {
            file: file.into(),
            reason: format!("it says {rows} rows, its groups {grouped}"),
        })?;
        Ok(Self {
            file: file.into(),
            reader,
            rows,
        })
    }

    pub(super) fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// A column of `len` finite numbers a row.
    pub(super) fn numbers(&self, column: &str, len: usize) -> Result<Vec<f64>, DatasetError> {
        let expected = "a column of float or double";
        let (index, found) = self.find(column, expected)?;
        let values: Vec<f64> = match found {
            Type::FLOAT => {
                let values = self.read::<FloatType>(column, index, len)?;
                values.into_iter().map(f64::from).collect()
            }
            Type::DOUBLE => self.read::<DoubleType>(column, index, len)?,
            other => return Err(self.wrong(column, &other.to_string(), expected)),
        };
        match values.iter().position(|value| !value.is_finite()) {
            Some(at) => Err(self.row(
                at / len,
                column,
                format!("is {} at index {}", values[at], at % len),
            )),
            None => Ok(values),
        }
    }

    /// A column of one whole number a row, none of them negative.
    pub(super) fn naturals(&self, column: &str) -> Result<Vec<usize>, DatasetError> {
        let expected = "a column of int64";
        let (index, found) = self.find(column, expected)?;
        if found != Type::INT64 {
            return Err(self.wrong(column, &found.to_string(), expected));
        }
        let values = self.read::<Int64Type>(column, index, 1)?;
        let naturals = values.iter().enumerate().map(|(row, &value)| {
            usize::try_from(value).map_err(|_| self.row(row, column, format!("is {value}")))
        });
        naturals.collect()
    }

    /// Makes sure that the rows are those of whole episodes, `first` and the next, each from its first frame to its last.
    pub(super) fn check_episodes(
        &self,
        first: usize,
        lengths: impl Iterator<Item = usize>,
    ) -> Result<(), DatasetError> {
        let columns = ["episode_index", "frame_index"];
        let [episodes, frames] = columns.map(|column| self.naturals(column));
        let (episodes, frames) = (episodes?, frames?);
        let expected = lengths
            .enumerate()
            .flat_map(|(i, length)| (0..length).map(move |frame| [first + i, frame]));
        let found = episodes.into_iter().zip(frames);
        for (row, (expected, found)) in expected.zip(found).enumerate() {
            for ((column, expected), found) in columns.iter().zip(expected).zip([found.0, found.1])
            {
                if expected != found {
                    let reason = format!("is {found} where {expected} is expected");
                    return Err(self.row(row, column, reason));
                }
            }
        }
        Ok(())
    }

    /// Which leaf of the schema a column is, and of which type; lists have one leaf.
    fn find(&self, column: &str, expected: &'static str) -> Result<(usize, Type), DatasetError> {
        let schema = self.reader.metadata().file_metadata().schema_descr();
        let mut leaves = schema.columns().iter().enumerate().filter(|(_, leaf)| {
            leaf.path()
                .parts()
                .first()
                .is_some_and(|name| name == column)
        });
        match (leaves.next(), leaves.next()) {
            (Some((index, leaf)), None) if leaf.max_rep_level() <= 1 => {
                Ok((index, leaf.physical_type()))
            }
            (None, _) => Err(self.wrong(column, "missing", expected)),
            _ => Err(self.wrong(column, "nested", expected)),
        }
    }

    /// Reads a column of `len` values a row.
    fn read<T: DataType>(
        &self,
        column: &str,
        index: usize,
        len: usize,
    ) -> Result<Vec<T::T>, DatasetError> {
        let mut values = Vec::new();
        let mut row = 0;
        for group in 0..self.reader.num_row_groups() {
            let group = caught(&self.file, || self.reader.get_row_group(group))?;
            let leaf = group.metadata().column(index).column_descr_ptr();
            let rows = usize::try_from(group.metadata().num_rows()).unwrap_or(0);
            let (mut definitions, mut repetitions) = (Vec::new(), Vec::new());
            let (mut read, mut levels) = (0, 0);
            caught(&self.file, || {
                let mut reader = get_typed_column_reader::<T>(group.get_column_reader(index)?);
                while read < rows {
                    let (definitions, repetitions) = (&mut definitions, &mut repetitions);
                    let (records, _, more) = reader.read_records(
                        rows - read,
                        Some(definitions),
                        Some(repetitions),
                        &mut values,
                    )?;
                    if records == 0 {
                        break;
                    }
                    read += records;
                    levels += more;
                }
                Ok(())
            })?;
            if read != rows {
                return Err(DatasetError::Parquet {
                    file: self.file.clone(),
                    reason: format!("the column `{column}` has {read} of {rows} rows"),
                });
            }
            // A row begins where nothing is repeated; a level that is not defined to the end is a value that is not there.
            let is_there = |level: usize| {
                leaf.max_def_level() == 0 || definitions[level] == leaf.max_def_level()
            };
            let begins = |level: usize| leaf.max_rep_level() == 0 || repetitions[level] == 0;
            let mut start = 0;
            while start < levels {
                let end = (start + 1..levels)
                    .find(|&level| begins(level))
                    .unwrap_or(levels);
                if let Some(index) = (start..end).position(|level| !is_there(level)) {
                    return Err(self.row(row, column, format!("lacks the value {index}")));
                }
                if end - start != len {
                    let found = end - start;
                    return Err(self.row(row, column, format!("has {found} values, not {len}")));
                }
                start = end;
                row += 1;
            }
        }
        Ok(values)
    }

    fn wrong(&self, column: &str, found: &str, expected: &'static str) -> DatasetError {
        DatasetError::Column {
            file: self.file.clone(),
            column: column.into(),
            found: found.into(),
            expected,
        }
    }

    fn row(&self, row: usize, column: &str, reason: String) -> DatasetError {
        DatasetError::Row {
            file: self.file.clone(),
            row,
            column: column.into(),
            reason,
        }
    }
}

/// What the Parquet reader says; it panics at some files that are broken, and that is an error as well.
fn caught<T>(
    file: &str,
    read: impl FnOnce() -> Result<T, ParquetError>,
) -> Result<T, DatasetError> {
    // Nothing that it leaves half-made is looked at again.
    let reason = match catch_unwind(AssertUnwindSafe(read)) {
        Ok(Ok(read)) => return Ok(read),
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it cannot be decoded".into(),
    };
    Err(DatasetError::Parquet {
        file: file.into(),
        reason,
    })
}
