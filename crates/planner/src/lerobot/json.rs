//! JSON files whose entries are required and checked, with errors that name them.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::ops::RangeInclusive;
use std::path::Path;

use clearway_layers::weights::LFS_POINTER;
use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, Visitor};
use serde_json::{Map, Value};

use crate::LoadError;

/// LeRobot's JSON files have a few kilobytes.
const MAX_JSON: u64 = 1 << 20;

/// How much of a wrong value an error shows, in characters.
const SHOWN: usize = 60;

/// Reads a JSON file of a policy's folder.
pub(crate) fn read(folder: &Path, file: &str) -> Result<Value, LoadError> {
    parse(file, &text(folder, file)?)
}

/// Reads the text of a file that is to be JSON.
pub(crate) fn text(folder: &Path, file: &str) -> Result<Vec<u8>, LoadError> {
    let path = folder.join(file);
    let io = |error| LoadError::Io {
        file: file.into(),
        error,
    };
    let metadata = std::fs::metadata(&path).map_err(io)?;
    if !metadata.is_file() {
        return Err(io(std::io::Error::other("is not a regular file")));
    }
    let mut text = Vec::new();
    // The limit holds for what is read and not for what the system says is there.
    let found = File::open(&path)
        .and_then(|file| file.take(MAX_JSON + 1).read_to_end(&mut text))
        .map_err(io)? as u64;
    if found > MAX_JSON {
        return Err(LoadError::TooLarge {
            file: file.into(),
            found: metadata.len().max(found),
            limit: MAX_JSON,
        });
    }
    if text.starts_with(LFS_POINTER) {
        return Err(LoadError::LfsPointer { file: file.into() });
    }
    Ok(text)
}

/// Reads the text of a JSON file.
pub(crate) fn parse<'a, T: Deserialize<'a>>(file: &str, text: &'a [u8]) -> Result<T, LoadError> {
    serde_json::from_slice(text).map_err(|error| LoadError::Json {
        file: file.into(),
        error,
    })
}

/// The names in a map in the order of the file, which [`Value`] does not keep.
#[derive(Debug)]
pub(crate) struct Names(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for Names {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;

        impl<'de> Visitor<'de> for Keys {
            type Value = Names;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Names, A::Error> {
                let mut names = Vec::new();
                while let Some((name, IgnoredAny)) = map.next_entry()? {
                    names.push(name);
                }
                Ok(Names(names))
            }
        }

        deserializer.deserialize_map(Keys)
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
    pub(crate) fn root(file: &'a str, value: &'a Value) -> Self {
        Self {
            file,
            key: String::new(),
            value,
        }
    }

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
        let mut found = match self.value {
            Value::Array(_) => "a list".into(),
            Value::Object(_) => "an object".into(),
            other => other.to_string(),
        };
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

    fn map(&self) -> Result<&'a Map<String, Value>, LoadError> {
        self.value
            .as_object()
            .ok_or_else(|| self.wrong("an object"))
    }

    /// An entry that must be there.
    pub(crate) fn get(&self, name: &str) -> Result<Entry<'a>, LoadError> {
        self.find(name)?.ok_or_else(|| LoadError::Missing {
            file: self.file.into(),
            key: self.child(name, self.value).key,
        })
    }

    /// An entry that may be missing.
    pub(crate) fn find(&self, name: &str) -> Result<Option<Entry<'a>>, LoadError> {
        Ok(self.map()?.get(name).map(|value| self.child(name, value)))
    }

    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = (&'a str, Entry<'a>)>, LoadError> {
        let this = self.clone();
        Ok(self
            .map()?
            .iter()
            .map(move |(name, value)| (name.as_str(), this.child(name, value))))
    }

    pub(crate) fn list(&self) -> Result<impl Iterator<Item = Entry<'a>>, LoadError> {
        let this = self.clone();
        let list = self.value.as_array().ok_or_else(|| self.wrong("a list"))?;
        Ok(list
            .iter()
            .enumerate()
            .map(move |(i, value)| this.child(&i.to_string(), value)))
    }

    pub(crate) fn is_null(&self) -> bool {
        self.value.is_null()
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

    /// A number for which `allowed` holds, as `expected` says in words.
    pub(crate) fn number(
        &self,
        allowed: impl Fn(f64) -> bool,
        expected: &str,
    ) -> Result<f64, LoadError> {
        let number = self.value.as_f64().filter(|v| v.is_finite() && allowed(*v));
        number.ok_or_else(|| self.wrong(expected))
    }

    pub(crate) fn boolean(&self) -> Result<bool, LoadError> {
        self.value
            .as_bool()
            .ok_or_else(|| self.wrong("true or false"))
    }

    pub(crate) fn string(&self) -> Result<&'a str, LoadError> {
        self.value.as_str().ok_or_else(|| self.wrong("a string"))
    }

    /// One of a few words.
    pub(crate) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Result<T, LoadError> {
        let word = self.string()?;
        let found = words.iter().find(|(name, _)| *name == word);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let names: Vec<_> = words.iter().map(|(name, _)| format!("`{name}`")).collect();
            self.wrong(names.join(" or "))
        })
    }
}
