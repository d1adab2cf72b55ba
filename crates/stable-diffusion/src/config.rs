//! The configurations of networks: JSON files whose entries are checked, with errors that name them.

use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

use clearway_layers::weights::LFS_POINTER;
use serde_json::{Map, Value};

use crate::LoadError;

/// Configurations have some kilobytes, an index of weights has some hundred.
const MAX_JSON: u64 = 4 << 20;

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 60;

/// The most channels, features, tokens, groups.
pub(crate) const MAX_SIZE: usize = 1 << 20;
/// The most stages, and layers of a stage.
pub(crate) const MAX_DEPTH: usize = 64;

/// A JSON file, and what errors call it.
#[derive(Clone, Debug)]
pub struct Config {
    file: String,
    value: Value,
}

impl Config {
    /// Reads a JSON file.
    ///
    /// # Errors
    ///
    /// If it cannot be read, is no JSON object, or is larger than any that a model has.
    pub fn open(path: &Path) -> Result<Self, LoadError> {
        let file = path.display().to_string();
        let io = |error| LoadError::Io {
            file: file.clone(),
            error,
        };
        let metadata = std::fs::metadata(path).map_err(io)?;
        if !metadata.is_file() {
            return Err(io(std::io::Error::other("is not a regular file")));
        }
        let mut text = Vec::new();
        // The limit holds for what is read and not for what the system says is there.
        let found = File::open(path)
            .and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut text))
            .map_err(io)? as u64;
        if found > MAX_JSON {
            return Err(LoadError::TooLarge {
                file,
                found: metadata.len().max(found),
                limit: MAX_JSON,
            });
        }
        if text.starts_with(LFS_POINTER) {
            return Err(LoadError::LfsPointer { file });
        }
        match serde_json::from_slice(&text) {
            Ok(value) => Self::new(file, value),
            Err(error) => Err(LoadError::Json { file, error }),
        }
    }

    /// What a program knows without a file.
    ///
    /// # Errors
    ///
    /// If `value` is no JSON object.
    pub fn new(file: impl Into<String>, value: Value) -> Result<Self, LoadError> {
        let config = Self {
            file: file.into(),
            value,
        };
        config.root().map()?;
        Ok(config)
    }

    pub(crate) fn into_value(self) -> Value {
        self.value
    }

    pub(crate) fn root(&self) -> Entry<'_> {
        Entry {
            file: &self.file,
            key: String::new(),
            value: &self.value,
        }
    }
}

/// An entry of a JSON file, which knows where it is.
#[derive(Clone, Debug)]
pub(crate) struct Entry<'a> {
    file: &'a str,
    key: String,
    value: &'a Value,
}

impl<'a> Entry<'a> {
    pub(crate) fn file(&self) -> &'a str {
        self.file
    }

    fn child(&self, name: &str, value: &'a Value) -> Self {
        let key = if self.key.is_empty() {
            name.into()
        } else {
            format!("{}.{name}", self.key)
        };
        Self {
            file: self.file,
            key,
            value,
        }
    }

    /// The error that this entry is not what is expected.
    pub(crate) fn wrong(&self, expected: impl Into<String>) -> LoadError {
        let mut found = self.value.to_string();
        if let Some((end, _)) = found.char_indices().nth(SHOWN) {
            found.truncate(end);
            found.push_str("..");
        }
        LoadError::Value {
            file: self.file.into(),
            key: if self.key.is_empty() {
                "the file".into()
            } else {
                self.key.clone()
            },
            found,
            expected: expected.into(),
        }
    }

    pub(crate) fn map(&self) -> Result<&'a Map<String, Value>, LoadError> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("an object"))
    }

    /// An entry that may be missing; `null` counts as missing, as it does to Python's defaults.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Entry<'a>>, LoadError> {
        let value = self.map()?.get(name);
        let value = value.filter(|value| !value.is_null());
        Ok(value.map(|value| self.child(name, value)))
    }

    /// An entry that must be there.
    pub(crate) fn get(&self, name: &str) -> Result<Entry<'a>, LoadError> {
        self.find(name)?.ok_or_else(|| LoadError::Missing {
            file: self.file.into(),
            key: self.child(name, self.value).key,
        })
    }

    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = (&'a str, Entry<'a>)>, LoadError> {
        let this = self.clone();
        Ok(self
            .map()?
            .iter()
            .map(move |(name, value)| (name.as_str(), this.child(name, value))))
    }

    pub(crate) fn list(&self) -> Result<Vec<Entry<'a>>, LoadError> {
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        let entries = list.iter().enumerate();
        Ok(entries
            .map(|(i, value)| self.child(&i.to_string(), value))
            .collect())
    }

    pub(crate) fn is_list(&self) -> bool {
        self.value.is_array()
    }

    pub(crate) fn string(&self) -> Result<&'a str, LoadError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    pub(crate) fn float(&self) -> Option<f64> {
        self.value.as_f64()
    }

    fn boolean(&self) -> Result<bool, LoadError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    pub(crate) fn integer(&self, limits: RangeInclusive<usize>) -> Result<usize, LoadError> {
        let integer = self.value.as_u64().and_then(|v| usize::try_from(v).ok());
        integer.filter(|v| limits.contains(v)).ok_or_else(|| {
            self.wrong(format!(
                "a whole number from {} to {}",
                limits.start(),
                limits.end()
            ))
        })
    }

    /// A list of whole numbers, at least one.
    fn integers(&self, limits: &RangeInclusive<usize>) -> Result<Vec<usize>, LoadError> {
        let list = self.list()?;
        if list.is_empty() || list.len() > MAX_DEPTH {
            return Err(self.wrong(format!("a list of 1 to {MAX_DEPTH}")));
        }
        list.iter()
            .map(|entry| entry.integer(limits.clone()))
            .collect()
    }

    pub(crate) fn integer_or(
        &self,
        name: &str,
        default: usize,
        limits: RangeInclusive<usize>,
    ) -> Result<usize, LoadError> {
        self.find(name)?
            .map_or(Ok(default), |entry| entry.integer(limits))
    }

    pub(crate) fn boolean_or(&self, name: &str, default: bool) -> Result<bool, LoadError> {
        self.find(name)?
            .map_or(Ok(default), |entry| entry.boolean())
    }

    /// A number for which `allowed` holds, as `expected` says in words.
    pub(crate) fn number_or(
        &self,
        name: &str,
        default: f64,
        allowed: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<f64, LoadError> {
        let Some(entry) = self.find(name)? else {
            return Ok(default);
        };
        let number = entry.value.as_f64();
        number
            .filter(|v| v.is_finite() && allowed(*v))
            .ok_or_else(|| entry.wrong(expected))
    }

    /// What is added to a variance.
    pub(crate) fn epsilon_or(&self, name: &str, default: f64) -> Result<f64, LoadError> {
        self.number_or(name, default, |v| v > 0.0, "a positive number")
    }

    pub(crate) fn integers_or(
        &self,
        name: &str,
        default: &[usize],
        limits: &RangeInclusive<usize>,
    ) -> Result<Vec<usize>, LoadError> {
        self.find(name)?
            .map_or_else(|| Ok(default.into()), |entry| entry.integers(limits))
    }

    /// One number for all stages, or one a stage.
    pub(crate) fn for_each_stage(
        &self,
        name: &str,
        default: usize,
        stages: usize,
        limits: &RangeInclusive<usize>,
    ) -> Result<Vec<usize>, LoadError> {
        let Some(entry) = self.find(name)? else {
            return Ok(vec![default; stages]);
        };
        if !entry.is_list() {
            return Ok(vec![entry.integer(limits.clone())?; stages]);
        }
        let list = entry.integers(limits)?;
        if list.len() == stages {
            Ok(list)
        } else {
            Err(entry.wrong(format!("one number or a list of {stages}")))
        }
    }

    /// One of a few words, and the first where there is none.
    pub(crate) fn one_of<T: Copy>(&self, name: &str, words: &[(&str, T)]) -> Result<T, LoadError> {
        let Some(entry) = self.find(name)? else {
            return Ok(words[0].1);
        };
        entry.word(words)
    }

    /// One of a few words.
    pub(crate) fn word<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, LoadError> {
        let word = self.string()?;
        let found = words.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = words.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(names.join(" or "))
        })
    }

    /// Entries that must be missing, or have one of the values under which they change nothing.
    pub(crate) fn unsupported(&self, entries: &[(&str, &[Value])]) -> Result<(), LoadError> {
        for (name, neutral) in entries {
            if let Some(entry) = self.find(name)? {
                // A list says the same of each stage.
                let says = |value: &Value| {
                    neutral.iter().any(|neutral| {
                        neutral == value
                            || (neutral.is_number() && neutral.as_f64() == value.as_f64())
                    })
                };
                let all = match entry.value {
                    Value::Array(list) => list.iter().all(says),
                    value => says(value),
                };
                if !all {
                    let mut allowed: Vec<String> = vec!["no such entry".into()];
                    allowed.extend(neutral.iter().map(ToString::to_string));
                    return Err(entry.wrong(allowed.join(" or ")));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn config(value: Value) -> Config {
        Config::new("config.json", value).expect("an object")
    }

    #[test]
    fn errors_name_the_entry_and_what_is_needed() {
        let config = config(json!({"a": 3, "b": [1, "x"], "c": "mish", "d": null}));
        let root = config.root();
        let message = |error: LoadError| error.to_string();
        assert_eq!(
            message(root.integer_or("a", 1, 4..=8).expect_err("3 is too small")),
            "config.json: `a` is 3; a whole number from 4 to 8 is needed"
        );
        assert_eq!(
            message(root.integers_or("b", &[], &(0..=9)).expect_err("a word")),
            "config.json: `b.1` is \"x\"; a whole number from 0 to 9 is needed"
        );
        assert_eq!(
            message(root.one_of("c", &[("silu", ())]).expect_err("another")),
            "config.json: `c` is \"mish\"; `silu` is needed"
        );
        assert_eq!(
            message(root.get("d").expect_err("null counts as missing")),
            "config.json lacks `d`"
        );
        assert_eq!(
            message(
                root.unsupported(&[("d", &[]), ("a", &[json!(1)])])
                    .expect_err("3")
            ),
            "config.json: `a` is 3; no such entry or 1 is needed"
        );
        root.unsupported(&[("a", &[json!(3.0)])])
            .expect("the same number");
    }

    #[test]
    fn a_number_holds_for_all_stages() {
        let config = config(json!({"one": 2, "each": [1, 2, 3]}));
        let root = config.root();
        let read = |name, stages| root.for_each_stage(name, 7, stages, &(1..=9));
        assert_eq!(read("one", 3).expect("a number"), [2, 2, 2]);
        assert_eq!(read("each", 3).expect("a list"), [1, 2, 3]);
        assert_eq!(read("none", 2).expect("the default"), [7, 7]);
        assert!(read("each", 2).is_err());
    }
}
