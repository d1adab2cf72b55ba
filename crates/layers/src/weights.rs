//! Strict loading of weights from safetensors and PyTorch files.
//!
//! A file is checked before it is believed: the header has a bounded length and no key twice, the tensors cover the
//! file without gap or overlap, every parameter finds a tensor of its shape, every number is finite, and nothing is
//! left over. No tensor is read before its shape is known to be the wanted one, so that a file can claim any size
//! without costing memory.
//!
//! Tensors are read one at a time, in blocks, straight into the f32 numbers that are kept. A memory map would save
//! nothing here: every number is looked at once, to be converted and checked. And a file that is cut short while it is
//! mapped ends the process, where a read ends in an error.

mod low_rank;
mod pytorch;
mod writer;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData, bf16, f16};
use safetensors::tensor::{Dtype, Metadata, TensorInfo};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, Visitor};
use serde_json::Value;

use crate::quantized::{Arrival, paired_axis, send};
use crate::{PackPolicy, Precision, Quantized, can_pack};

/// The longest header that is read, in bytes. Stable Diffusion's 1130 tensors need 0.1 MB.
pub const MAX_HEADER: u64 = 8 << 20;

/// How a git-lfs pointer begins: the file that a clone leaves in place of a large one until `git lfs pull`.
pub const LFS_POINTER: &[u8] = b"version https://git-lfs";

pub use low_rank::LowRank;
pub use writer::WeightsWriter;

/// How many bytes are read at a time: whole numbers of any type.
const BLOCK: usize = 1 << 16;

/// What is added to a key for the scales of its codes.
const SCALE: &str = ".scale";
/// And for what inputs are multiplied by.
const BALANCE: &str = ".balance";

/// Under which key a file says how it was [packed](PackPolicy).
const PACKING: &str = "clearway.packing";

/// How many keys an error message lists.
const LISTED_KEYS: usize = 5;

/// Why weights could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WeightsError {
    /// The file cannot be opened or read.
    #[error("cannot be read: {0}")]
    Io(#[from] std::io::Error),
    /// A folder, a pipe or a device.
    #[error("is not a regular file")]
    NotAFile,
    /// A stand-in for the weights, which were not downloaded.
    #[error("is a git-lfs pointer, not the weights: run git lfs pull")]
    LfsPointer,
    /// The header is not what the format says.
    #[error("is not a safetensors file: {reason}")]
    Header {
        /// What is wrong.
        reason: String,
    },
    /// The file is not what `torch.save` writes, or holds what is not read here.
    #[error("is not a readable PyTorch file: {reason}")]
    Pytorch {
        /// What is wrong.
        reason: String,
    },
    /// The header claims to be longer than [`MAX_HEADER`].
    #[error("the header claims {found} bytes; the limit is {limit}")]
    HeaderTooLong {
        /// What the file says, in bytes.
        found: u64,
        /// The limit, in bytes.
        limit: u64,
    },
    /// The file is shorter or longer than its header says: a broken download, usually.
    #[error("has {found} bytes where its header says {expected}")]
    Length {
        /// What the header says, in bytes.
        expected: u64,
        /// The file's size, in bytes.
        found: u64,
    },
    /// A tensor that the network needs is not there.
    #[error("tensor `{key}` is missing")]
    Missing {
        /// The tensor's key.
        key: String,
    },
    /// A tensor has another shape than the network needs.
    #[error("tensor `{key}` has shape {found:?} where {expected:?} is needed")]
    Shape {
        /// The tensor's key.
        key: String,
        /// The shape that the network needs.
        expected: Vec<usize>,
        /// The shape in the file.
        found: Vec<usize>,
    },
    /// A low-rank update does not fit its tensor.
    #[error("the update of tensor `{key}` is of shape {found:?}; the tensor's is {expected:?}")]
    Update {
        /// The tensor's key.
        key: String,
        /// The tensor's shape, its axes behind the first laid together.
        expected: [usize; 2],
        /// The shape of the update.
        found: [usize; 2],
    },
    /// A tensor is not of a floating-point type.
    #[error("tensor `{key}` is of type {found} where F64, F32, F16 or BF16 is needed")]
    Dtype {
        /// The tensor's key.
        key: String,
        /// The type in the file.
        found: String,
    },
    /// A tensor does not hold whole numbers.
    #[error("tensor `{key}` is of type {found} where I64 or I32 is needed")]
    NotWhole {
        /// The tensor's key.
        key: String,
        /// The type in the file.
        found: String,
    },
    /// A weight is NaN or infinite, or too large for f32.
    #[error("tensor `{key}` holds a value that is not finite in f32, at index {index}")]
    NonFinite {
        /// The tensor's key.
        key: String,
        /// Where, in row-major order.
        index: usize,
    },
    /// Codes and scales are no weight.
    #[error("tensor `{key}` and its scales: {error}")]
    Quantized {
        /// The key of the codes.
        key: String,
        /// What is wrong.
        error: Box<crate::QuantizedError>,
    },
    /// Tensors that the network has no place for.
    #[error("{}: {}", counted(keys), listed(keys))]
    Unexpected {
        /// Their keys, sorted.
        keys: Vec<String>,
    },
    /// Two tensors have the same key, after [renaming](Weights::rename).
    #[error("two tensors are called `{key}`")]
    Duplicate {
        /// The key.
        key: String,
    },
}

fn counted(keys: &[String]) -> String {
    match keys.len() {
        1 => "one tensor belongs to nothing".into(),
        n => format!("{n} tensors belong to nothing"),
    }
}

fn listed(keys: &[String]) -> String {
    let mut list: Vec<_> = keys
        .iter()
        .take(LISTED_KEYS)
        .map(|key| format!("`{key}`"))
        .collect();
    if keys.len() > LISTED_KEYS {
        list.push("..".into());
    }
    list.join(", ")
}

/// The tensors of a file, or of the files that one network is spread over, and which of them were used.
///
/// The headers are read at once, a tensor when it is asked for.
#[derive(Debug, Default)]
pub struct Weights {
    files: Vec<File>,
    tensors: BTreeMap<String, Stored>,
    updates: BTreeMap<String, Vec<LowRank>>,
    used: BTreeSet<String>,
    metadata: BTreeMap<String, String>,
    packing: Option<PackPolicy>,
}

/// A tensor that was not read yet.
#[derive(Clone, Debug)]
struct Stored {
    dtype: Dtype,
    shape: Vec<usize>,
    place: Place,
}

/// Where a tensor's numbers lie.
#[derive(Clone, Debug)]
struct Place {
    /// In which of `Weights::files`.
    file: usize,
    /// The byte of the first number.
    start: u64,
    /// The extent and the distance between neighbours of each axis, where numbers do not lie in row-major order.
    strided: Option<Vec<(usize, usize)>>,
    /// How many numbers are left out before the first, in row-major order; none unless strided.
    skip: usize,
}

impl Stored {
    fn numbers(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Weights {
    /// Opens a safetensors file, and reads and checks its header.
    ///
    /// # Errors
    ///
    /// If it is no regular file, the header is malformed, or the tensors do not cover the file exactly.
    pub fn open(path: &Path) -> Result<Self, WeightsError> {
        let mut file = regular_file(path)?;
        let size = file.metadata()?.len();
        let malformed = |reason: String| WeightsError::Header { reason };
        let mut begin = Vec::new();
        Read::by_ref(&mut file)
            .take(LFS_POINTER.len() as u64)
            .read_to_end(&mut begin)?;
        if begin == LFS_POINTER {
            return Err(WeightsError::LfsPointer);
        }
        let mut length = [0; 8];
        let data_at = |length: u64| 8 + length;
        if size == 0 {
            return Err(malformed("it is empty".into()));
        }
        if size < data_at(0) {
            return Err(malformed(
                "it ends within the 8 bytes that give the header's length".into(),
            ));
        }
        file.seek(SeekFrom::Start(0))?;
        file.read_exact(&mut length)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER {
            return Err(WeightsError::HeaderTooLong {
                found: length,
                limit: MAX_HEADER,
            });
        }
        if size < data_at(length) {
            return Err(WeightsError::Length {
                expected: data_at(length),
                found: size,
            });
        }
        let mut header = vec![0; length as usize];
        file.read_exact(&mut header)?;
        let Header(tensors, metadata) =
            serde_json::from_slice(&header).map_err(|error| malformed(error.to_string()))?;
        // The format's own crate checks that the tensors touch without gap or overlap and that each has the bytes that
        // its shape needs, without overflow.
        let mut in_file_order: Vec<_> = tensors
            .iter()
            .map(|(key, info)| (key.clone(), info.clone()))
            .collect();
        in_file_order.sort_by_key(|(_, info)| info.data_offsets);
        let layout =
            Metadata::new(None, in_file_order).map_err(|error| malformed(error.to_string()))?;
        let expected = data_at(length).checked_add(layout.data_len() as u64);
        if expected != Some(size) {
            return Err(WeightsError::Length {
                expected: expected.unwrap_or(u64::MAX),
                found: size,
            });
        }
        let tensors = tensors.into_iter().map(|(key, info)| {
            let stored = Stored {
                dtype: info.dtype,
                shape: info.shape,
                place: Place {
                    file: 0,
                    start: data_at(length) + info.data_offsets.0 as u64,
                    strided: None,
                    skip: 0,
                },
            };
            (key, stored)
        });
        let packing = match metadata.get(PACKING) {
            Some(text) => Some(text.parse().map_err(malformed)?),
            None => None,
        };
        Ok(Self {
            packing,
            files: vec![file],
            tensors: tensors.collect(),
            updates: BTreeMap::new(),
            used: BTreeSet::new(),
            metadata,
        })
    }

    /// Lays the tensors of another file beside these: a network that is spread over several files. What the first of them say
    /// of themselves holds for all.
    ///
    /// # Errors
    ///
    /// If a tensor of the same key is here already.
    pub fn join(mut self, other: Self) -> Result<Self, WeightsError> {
        let before = self.files.len();
        self.files.extend(other.files);
        for (key, mut stored) in other.tensors {
            stored.place.file += before;
            if self.tensors.insert(key.clone(), stored).is_some() {
                return Err(WeightsError::Duplicate { key });
            }
        }
        for (key, updates) in other.updates {
            self.updates.entry(key).or_default().extend(updates);
        }
        self.used.extend(other.used);
        for (key, value) in other.metadata {
            self.metadata.entry(key).or_insert(value);
        }
        self.packing = self.packing.or(other.packing);
        Ok(self)
    }

    /// What a safetensors file says beside its tensors.
    pub fn metadata(&self) -> &BTreeMap<String, String> {
        &self.metadata
    }

    /// How the file was packed, where it was; then it holds weights of codes, or of bf16.
    pub fn packing(&self) -> Option<&PackPolicy> {
        self.packing.as_ref()
    }

    /// The type of a tensor's numbers, as its file calls it.
    pub fn dtype(&self, key: &str) -> Option<String> {
        self.tensors.get(key).map(|stored| stored.dtype.to_string())
    }

    /// The bytes that all tensors take in their files.
    pub fn stored_bytes(&self) -> u64 {
        let tensors = self.tensors.values();
        let bits = tensors.map(|it| it.numbers() as u64 * it.dtype.bitsize() as u64);
        bits.sum::<u64>() / 8
    }

    /// The keys, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    /// The shape of a tensor.
    pub fn shape(&self, key: &str) -> Option<&[usize]> {
        self.tensors.get(key).map(|stored| stored.shape.as_slice())
    }

    /// Keeps the tensors whose keys begin with `prefix`, and takes it off their keys: one network of several that share
    /// a file.
    #[must_use]
    pub fn within(self, prefix: &str) -> Self {
        let inside = |key: String| key.strip_prefix(prefix).map(str::to_owned);
        Self {
            files: self.files,
            tensors: (self.tensors.into_iter())
                .filter_map(|(key, stored)| Some((inside(key)?, stored)))
                .collect(),
            updates: (self.updates.into_iter())
                .filter_map(|(key, updates)| Some((inside(key)?, updates)))
                .collect(),
            used: self.used.into_iter().filter_map(inside).collect(),
            metadata: self.metadata,
            packing: self.packing,
        }
    }

    /// Sees a tensor in another shape of as many numbers: a product with a matrix is a convolution of one tap.
    ///
    /// # Errors
    ///
    /// If the tensor is missing, or has another number of numbers.
    pub fn reshape(&mut self, key: &str, shape: &[usize]) -> Result<(), WeightsError> {
        let stored =
            (self.tensors.get_mut(key)).ok_or_else(|| WeightsError::Missing { key: key.into() })?;
        if shape.iter().product::<usize>() != stored.numbers() {
            return Err(WeightsError::Shape {
                key: key.into(),
                expected: shape.to_vec(),
                found: stored.shape.clone(),
            });
        }
        stored.shape = shape.to_vec();
        Ok(())
    }

    /// Cuts a tensor along its first axis into equal parts with keys of their own: projections that were saved as one.
    ///
    /// # Errors
    ///
    /// If the tensor is missing, its first axis cannot be cut so, or a part's key is taken.
    pub fn split(&mut self, key: &str, parts: &[&str]) -> Result<(), WeightsError> {
        let missing = || WeightsError::Missing { key: key.into() };
        let stored = self.tensors.get(key).ok_or_else(missing)?;
        let Some((&rows, _)) = (stored.shape.split_first())
            .filter(|(rows, _)| !parts.is_empty() && rows.is_multiple_of(parts.len()))
        else {
            let mut expected = stored.shape.clone();
            if let Some(rows) = expected.first_mut() {
                *rows = rows.next_multiple_of(parts.len().max(1));
            }
            return Err(WeightsError::Shape {
                key: key.into(),
                expected,
                found: stored.shape.clone(),
            });
        };
        let stored = self.tensors.remove(key).ok_or_else(missing)?;
        let numbers = stored.numbers() / parts.len();
        for (i, &part) in parts.iter().enumerate() {
            let mut cut = stored.clone();
            cut.shape[0] = rows / parts.len();
            if cut.place.strided.is_some() {
                cut.place.skip += i * numbers;
            } else {
                cut.place.start += (i * numbers * (cut.dtype.bitsize() / 8)) as u64;
            }
            if self.tensors.insert(part.into(), cut).is_some() {
                return Err(WeightsError::Duplicate { key: part.into() });
            }
        }
        Ok(())
    }

    /// Adds a low-rank update to a tensor when it is [loaded](Self::load); several add up.
    ///
    /// # Errors
    ///
    /// If the tensor is missing, or has another shape than the update.
    pub fn merge(&mut self, key: &str, update: LowRank) -> Result<(), WeightsError> {
        let shape = (self.shape(key)).ok_or_else(|| WeightsError::Missing { key: key.into() })?;
        let expected = match shape.split_first() {
            Some((&rows, columns)) => [rows, columns.iter().product()],
            None => [1, 1],
        };
        if update.shape() != expected {
            return Err(WeightsError::Update {
                key: key.into(),
                expected,
                found: update.shape(),
            });
        }
        self.updates.entry(key.into()).or_default().push(update);
        Ok(())
    }

    /// Calls the tensors by other names.
    ///
    /// # Errors
    ///
    /// If two tensors get the same name.
    pub fn rename(self, name: impl Fn(&str) -> String) -> Result<Self, WeightsError> {
        let mut tensors = BTreeMap::new();
        for (key, stored) in self.tensors {
            let key = name(&key);
            if tensors.insert(key.clone(), stored).is_some() {
                return Err(WeightsError::Duplicate { key });
            }
        }
        let updates = self.updates.into_iter();
        let updates = updates
            .map(|(key, updates)| (name(&key), updates))
            .collect();
        let used = self.used.iter().map(|key| name(key)).collect();
        Ok(Self {
            tensors,
            updates,
            used,
            ..self
        })
    }

    /// Reads a tensor as f32 values in row-major order, as the file has them, and marks it as used. Of [codes](Quantized) the
    /// numbers that they stand for.
    ///
    /// # Errors
    ///
    /// If it is missing, has another shape or is neither of a floating-point type nor codes, or a value is not finite in f32.
    pub fn values(&mut self, key: &str, shape: &[usize]) -> Result<Vec<f32>, WeightsError> {
        if let Some(weight) = self.quantized(key, shape)? {
            return Ok(weight.values());
        }
        let stored = self
            .tensors
            .get(key)
            .ok_or_else(|| WeightsError::Missing { key: key.into() })?;
        if stored.shape != shape {
            return Err(WeightsError::Shape {
                key: key.into(),
                expected: shape.to_vec(),
                found: stored.shape.clone(),
            });
        }
        let files = &mut self.files;
        let values = match stored.dtype {
            Dtype::F64 => read(files, stored, |b| f64::from_le_bytes(b) as f32)?,
            Dtype::F32 => read(files, stored, f32::from_le_bytes)?,
            Dtype::F16 => read(files, stored, |b| f16::from_le_bytes(b).to_f32())?,
            Dtype::BF16 => read(files, stored, |b| bf16::from_le_bytes(b).to_f32())?,
            other => {
                return Err(WeightsError::Dtype {
                    key: key.into(),
                    found: other.to_string(),
                });
            }
        };
        if let Some(index) = values.iter().position(|value| !value.is_finite()) {
            return Err(WeightsError::NonFinite {
                key: key.into(),
                index,
            });
        }
        self.used.insert(key.into());
        Ok(values)
    }

    /// Reads codes and their scales, and marks both as used; nothing if the tensor is of a floating-point type.
    ///
    /// | | type | shape |
    /// |---|---|---|
    /// | codes of eight bits | `I8` | the weight's |
    /// | codes of four bits | `U8` | the weight's, but half as many along the axis of the groups, or one more: of two neighbours the first is in the lower half |
    /// | factors of inputs, at the key and `.balance`, if they are balanced | `F32` | `[channels]` |
    /// | scales, at the key and `.scale` | `F32` | the weight's, but one, or one for each group, along some axes |
    ///
    /// The file says what the group is: `clearway.packing` of its metadata.
    ///
    /// # Errors
    ///
    /// If the tensor is missing, or of another shape, or codes and scales do not go together.
    pub fn quantized(
        &mut self,
        key: &str,
        shape: &[usize],
    ) -> Result<Option<Quantized>, WeightsError> {
        let missing = |key: &str| WeightsError::Missing { key: key.into() };
        let stored = self.tensors.get(key).ok_or_else(|| missing(key))?;
        let precision = match (stored.dtype, &self.packing) {
            (Dtype::I8, _) => Precision::Int8,
            (Dtype::U8, Some(packing)) if packing.precision.is_codes() && !shape.is_empty() => {
                packing.precision
            }
            // Nothing says how many codes share a scale.
            (Dtype::U8, _) => {
                return Err(WeightsError::Dtype {
                    key: key.into(),
                    found: stored.dtype.to_string(),
                });
            }
            _ => return Ok(None),
        };
        let scale_key = format!("{key}{SCALE}");
        let scales = (self.tensors.get(&scale_key)).ok_or_else(|| missing(&scale_key))?;
        let scale_shape = scales.shape.clone();
        let mut expected = shape.to_vec();
        let is_half = stored.dtype == Dtype::U8;
        let axis = paired_axis(shape, &scale_shape);
        if is_half && let Some(pairs) = expected.get_mut(axis) {
            *pairs = pairs.div_ceil(2);
        }
        if stored.shape != expected {
            return Err(WeightsError::Shape {
                key: key.into(),
                expected,
                found: stored.shape.clone(),
            });
        }
        // No more is read than there may be.
        let is_larger = |(codes, scales): (&usize, &usize)| scales > codes;
        if scale_shape.len() != shape.len() || shape.iter().zip(&scale_shape).any(is_larger) {
            return Err(WeightsError::Shape {
                key: scale_key,
                expected: shape.to_vec(),
                found: scale_shape,
            });
        }
        let bytes = read(&mut self.files, stored, |[byte]: [u8; 1]| byte)?;
        let codes = if is_half {
            unpaired(&bytes, shape, axis)
        } else {
            bytes.into_iter().map(u8::cast_signed).collect()
        };
        if scales.dtype != Dtype::F32 {
            return Err(WeightsError::Dtype {
                found: scales.dtype.to_string(),
                key: scale_key,
            });
        }
        let scales = read(&mut self.files, scales, f32::from_le_bytes)?;
        let weight = Quantized::new(precision, (shape, codes), (&scale_shape, scales));
        let wrong = |error| WeightsError::Quantized {
            key: key.into(),
            error: Box::new(error),
        };
        let mut weight = weight.map_err(wrong)?;
        let balance_key = format!("{key}{BALANCE}");
        if let Some(stored) = self.tensors.get(&balance_key) {
            if stored.dtype != Dtype::F32 {
                return Err(WeightsError::Dtype {
                    found: stored.dtype.to_string(),
                    key: balance_key,
                });
            }
            if shape
                .get(1)
                .is_none_or(|channels| stored.shape != [*channels])
            {
                return Err(WeightsError::Shape {
                    key: balance_key,
                    expected: shape.get(1).copied().into_iter().collect(),
                    found: stored.shape.clone(),
                });
            }
            let factors = read(&mut self.files, stored, f32::from_le_bytes)?;
            weight = weight.balanced(&factors).map_err(wrong)?;
            self.used.insert(balance_key);
        }
        // Finite numbers, whose products may be too large.
        let most = |numbers: &[f32]| numbers.iter().fold(0.0_f32, |most, it| most.max(it.abs()));
        if !(most(weight.scales()) * 128.0 * weight.balance().map_or(1.0, most)).is_finite()
            && let Some(index) = weight.values().iter().position(|value| !value.is_finite())
        {
            return Err(WeightsError::NonFinite {
                key: key.into(),
                index,
            });
        }
        self.used.insert(key.into());
        self.used.insert(scale_key);
        Ok(Some(weight))
    }

    /// Reads a tensor of whole numbers in row-major order, and marks it as used.
    ///
    /// # Errors
    ///
    /// If it is missing, or not of a signed whole type of 32 or 64 bits.
    pub fn integers(&mut self, key: &str) -> Result<Vec<i64>, WeightsError> {
        let stored = self
            .tensors
            .get(key)
            .ok_or_else(|| WeightsError::Missing { key: key.into() })?;
        let values = match stored.dtype {
            Dtype::I64 => read(&mut self.files, stored, i64::from_le_bytes)?,
            Dtype::I32 => read(&mut self.files, stored, |b| {
                i64::from(i32::from_le_bytes(b))
            })?,
            other => {
                return Err(WeightsError::NotWhole {
                    key: key.into(),
                    found: other.to_string(),
                });
            }
        };
        self.used.insert(key.into());
        Ok(values)
    }

    /// The type, the shape and the bytes of a tensor, as they lie in the file.
    fn bytes(&mut self, key: &str) -> Result<(Dtype, Vec<usize>, Vec<u8>), WeightsError> {
        let stored =
            (self.tensors.get(key)).ok_or_else(|| WeightsError::Missing { key: key.into() })?;
        let Stored { dtype, shape, .. } = stored.clone();
        let files = &mut self.files;
        let bytes = match dtype.bitsize() / 8 {
            1 => read(files, stored, |[byte]: [u8; 1]| [byte])?.concat(),
            2 => read(files, stored, |bytes: [u8; 2]| bytes)?.concat(),
            4 => read(files, stored, |bytes: [u8; 4]| bytes)?.concat(),
            8 => read(files, stored, |bytes: [u8; 8]| bytes)?.concat(),
            _ => {
                return Err(WeightsError::Dtype {
                    key: key.into(),
                    found: dtype.to_string(),
                });
            }
        };
        Ok((dtype, shape, bytes))
    }

    /// Marks a tensor as used without reading it: one that is known to be of no use here.
    pub fn ignore(&mut self, key: &str) {
        self.used.insert(key.into());
    }

    /// Fills a module's parameters.
    ///
    /// `key` turns the path of a parameter in the module (`down_modules.0.conv1.weight`) into its key in the file.
    ///
    /// # Errors
    ///
    /// As [`values`](Self::values), for the first parameter that cannot be filled.
    pub fn load<M: Module>(
        &mut self,
        module: M,
        key: impl Fn(&str) -> String,
    ) -> Result<M, WeightsError> {
        let mut loader = Loader {
            weights: self,
            key,
            path: Vec::new(),
            error: None,
        };
        let module = module.map(&mut loader);
        match loader.error {
            Some(error) => Err(error),
            None => Ok(module),
        }
    }

    /// Makes sure that every tensor was used.
    ///
    /// # Errors
    ///
    /// If one was not.
    pub fn finish(&self) -> Result<(), WeightsError> {
        let keys: Vec<_> = self
            .tensors
            .keys()
            .filter(|key| !self.used.contains(*key))
            .cloned()
            .collect();
        if keys.is_empty() {
            Ok(())
        } else {
            Err(WeightsError::Unexpected { keys })
        }
    }

    /// Hands all bytes of the files, headers included, to `update` in order, in blocks: for a hash.
    ///
    /// # Errors
    ///
    /// If a file cannot be read.
    pub fn for_each_block(&mut self, mut update: impl FnMut(&[u8])) -> Result<(), WeightsError> {
        let mut block = vec![0; BLOCK];
        for file in &mut self.files {
            file.seek(SeekFrom::Start(0))?;
            loop {
                match file.read(&mut block) {
                    Ok(0) => break,
                    Ok(n) => update(&block[..n]),
                    // A signal came in between; `read_exact` retries by itself.
                    Err(error) if error.kind() == ErrorKind::Interrupted => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Reads a tensor in blocks.
fn read<const N: usize, T: Copy>(
    files: &mut [File],
    stored: &Stored,
    decode: impl Fn([u8; N]) -> T,
) -> Result<Vec<T>, WeightsError> {
    let Place {
        file,
        start,
        strided,
        skip,
    } = &stored.place;
    let numbers = stored.numbers();
    let mut span = numbers;
    if let Some(axes) = strided
        && numbers > 0
    {
        // From the first number to the last, wherever they lie.
        let reach = axes.iter().map(|(extent, stride)| (extent - 1) * stride);
        span = reach.sum::<usize>() + 1;
    }
    let mut values = Vec::with_capacity(span);
    let mut left = span * N;
    let file = &mut files[*file];
    file.seek(SeekFrom::Start(*start))?;
    let mut block = vec![0; left.min(BLOCK)];
    while left > 0 {
        let block = &mut block[..left.min(BLOCK)];
        file.read_exact(block)?;
        values.extend(block.as_chunks().0.iter().map(|&bytes| decode(bytes)));
        left -= block.len();
    }
    let Some(axes) = strided else {
        return Ok(values);
    };
    let at = |number: usize| {
        let mut rest = number;
        let mut at = 0;
        for (extent, stride) in axes.iter().rev() {
            at += rest % extent * stride;
            rest /= extent;
        }
        at
    };
    Ok((*skip..skip + numbers)
        .map(|number| values[at(number)])
        .collect())
}

/// Codes of four bits, two in a byte along an axis.
fn unpaired(bytes: &[u8], shape: &[usize], axis: usize) -> Vec<i8> {
    let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let pairs = extent.div_ceil(2);
    let code = |number: usize| {
        let (outer, at, inside) = (
            number / (extent * inner),
            number / inner % extent,
            number % inner,
        );
        let byte = bytes[(outer * pairs + at / 2) * inner + inside];
        let half = if at.is_multiple_of(2) {
            byte << 4
        } else {
            byte
        };
        half.cast_signed() >> 4
    };
    (0..shape.iter().product()).map(code).collect()
}

/// Undoes [`unpaired`].
fn paired(codes: &[i8], shape: &[usize], axis: usize) -> Vec<u8> {
    let (extent, inner) = (shape[axis], shape[axis + 1..].iter().product::<usize>());
    let pairs = extent.div_ceil(2);
    let outer = shape[..axis].iter().product::<usize>();
    let mut bytes = vec![0; outer * pairs * inner];
    for (number, code) in codes.iter().enumerate() {
        let (outer, at, inside) = (
            number / (extent * inner),
            number / inner % extent,
            number % inner,
        );
        let half = (code.cast_unsigned() & 0xf) << (at % 2 * 4);
        bytes[(outer * pairs + at / 2) * inner + inside] |= half;
    }
    bytes
}

/// Opens a file that is one.
fn regular_file(path: &Path) -> Result<File, WeightsError> {
    // Asked before opening: opening a pipe would wait for its writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(WeightsError::NotAFile);
    }
    Ok(File::open(path)?)
}

/// The header of a safetensors file: a JSON map in which no key comes twice.
///
/// The format's own crate keeps the last of two equal keys.
struct Header(BTreeMap<String, TensorInfo>, BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;

        impl<'de> Visitor<'de> for Entries {
            type Value = Header;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map from tensor names to types, shapes and offsets")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Header, A::Error> {
                let mut tensors = BTreeMap::new();
                let mut metadata = BTreeMap::new();
                while let Some(key) = map.next_key::<String>()? {
                    if key == "__metadata__" {
                        // What is not text is of no use here, and no error.
                        if let Value::Object(entries) = map.next_value()? {
                            let texts =
                                entries.into_iter().filter_map(|(key, value)| match value {
                                    Value::String(text) => Some((key, text)),
                                    _ => None,
                                });
                            metadata.extend(texts);
                        }
                    } else if tensors.insert(key.clone(), map.next_value()?).is_some() {
                        return Err(A::Error::custom(format!("two tensors are called `{key}`")));
                    }
                }
                Ok(Header(tensors, metadata))
            }
        }

        deserializer.deserialize_map(Entries)
    }
}

/// Fills parameters as it walks over a module.
struct Loader<'a, F> {
    weights: &'a mut Weights,
    key: F,
    path: Vec<String>,
    error: Option<WeightsError>,
}

impl<F: Fn(&str) -> String> ModuleMapper for Loader<'_, F> {
    fn enter_module(&mut self, name: &str, _: &str) {
        self.path.push(name.into());
    }

    fn exit_module(&mut self, _: &str, _: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        // A mapper cannot stop; after the first error it leaves the rest as it is, which allocates nothing.
        if self.error.is_some() {
            return param;
        }
        let shape = param.lazy_shape().to_vec();
        let key = (self.key)(&self.path.join("."));
        let device = param.lazy_device();
        // What is updated, or computed elsewhere, is no code any more.
        if can_pack(&device) && !self.weights.updates.contains_key(&key) {
            match self.weights.quantized(&key, &shape) {
                Ok(Some(weight)) if send(param.id, Arrival::Codes(weight.clone())) => {
                    return param;
                }
                // A tensor that is no layer's weight takes the numbers that its codes stand for.
                Ok(_) => {}
                Err(error) => {
                    self.error = Some(error);
                    return param;
                }
            }
        }
        match self.weights.values(&key, &shape) {
            Ok(values) => {
                let mut tensor = Tensor::from_data(TensorData::new(values, shape), &device);
                for update in self.weights.updates.get(&key).into_iter().flatten() {
                    tensor = update.add_to(tensor);
                }
                let id = param.id;
                param.transform_for_load(tensor, id)
            }
            Err(error) => {
                self.error = Some(error);
                param
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use burn::tensor::Device;
    use tempfile::TempDir;

    use super::*;
    use crate::{Linear, LinearConfig};

    /// A file with a header and as many bytes of data as are given.
    fn file(header: &str, data: &[u8]) -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        std::fs::write(&path, bytes).expect("can be written");
        (folder, path)
    }

    fn bytes<const N: usize>(values: &[[u8; N]]) -> Vec<u8> {
        values.concat()
    }

    #[test]
    fn every_floating_point_type_becomes_f32() {
        let values = [1.5_f32, -0.25];
        let table = [
            (
                "F64",
                16,
                bytes(&values.map(|v| f64::from(v).to_le_bytes())),
            ),
            ("F32", 8, bytes(&values.map(f32::to_le_bytes))),
            (
                "F16",
                4,
                bytes(&values.map(|v| f16::from_f32(v).to_le_bytes())),
            ),
            (
                "BF16",
                4,
                bytes(&values.map(|v| bf16::from_f32(v).to_le_bytes())),
            ),
        ];
        for (dtype, n, data) in table {
            let header =
                format!(r#"{{"x":{{"dtype":"{dtype}","shape":[2],"data_offsets":[0,{n}]}}}}"#);
            let (_folder, path) = file(&header, &data);
            let mut weights = Weights::open(&path).expect("is valid");
            assert!(matches!(
                weights.finish(),
                Err(WeightsError::Unexpected { .. })
            ));
            assert_eq!(weights.values("x", &[2]).expect("is there"), values);
            weights.finish().expect("all is used");
        }
    }

    #[test]
    fn numbers_that_f32_cannot_hold_are_errors() {
        let header = r#"{"x":{"dtype":"F64","shape":[2],"data_offsets":[0,16]}}"#;
        let (_folder, path) = file(header, &bytes(&[1.0_f64, 1e300].map(f64::to_le_bytes)));
        let mut weights = Weights::open(&path).expect("is valid");
        let error = weights.values("x", &[2]).expect_err("is too large");
        assert_eq!(
            error.to_string(),
            "tensor `x` holds a value that is not finite in f32, at index 1"
        );
    }

    #[test]
    fn broken_codes_are_errors() {
        let open = |parts: &[(&str, &str, &[usize], &[u8])], packing: &str| {
            let (mut header, mut data) =
                (vec![format!(r#""__metadata__":{{{packing}}}"#)], Vec::new());
            for (key, dtype, shape, bytes) in parts {
                let start = data.len();
                data.extend_from_slice(bytes);
                header.push(format!(
                    r#""{key}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":[{start},{}]}}"#,
                    data.len()
                ));
            }
            let (_folder, path) = file(&format!("{{{}}}", header.join(",")), &data);
            let mut weights = Weights::open(&path).map_err(|error| error.to_string())?;
            weights
                .values("w", &[2, 2])
                .map_err(|error| error.to_string())
        };
        let codes = ("w", "I8", &[2, 2][..], &[1, 2, 3, 255][..]);
        let scale = |bytes: [f32; 2]| bytes.map(f32::to_le_bytes).concat();
        let (one, huge) = (scale([1.0, 0.5]), scale([3e38, 1.0]));
        let scales = ("w.scale", "F32", &[2, 1][..], &one[..]);
        assert_eq!(open(&[codes, scales], ""), Ok(vec![1.0, 2.0, 1.5, -0.5]));
        let int4 = r#""clearway.packing":"{\"precision\":\"int4/8\"}""#;
        let halves = ("w", "U8", &[2, 1][..], &[0x21, 0xf3][..]);
        assert_eq!(open(&[halves, scales], int4), Ok(vec![1.0, 2.0, 1.5, -0.5]));
        for (parts, packing, word) in [
            (&[codes][..], "", "`w.scale` is missing"),
            (&[halves, scales], "", "of type U8"),
            (
                &[codes, ("w.scale", "F32", &[2], &one)],
                "",
                "`w.scale` has shape [2]",
            ),
            (
                &[codes, ("w.scale", "I32", &[2, 1], &one)],
                "",
                "`w.scale` is of type I32",
            ),
            (
                &[codes, ("w.scale", "F32", &[2, 1], &huge)],
                "",
                "not finite in f32, at index 1",
            ),
            (
                &[codes, scales, ("w.balance", "F32", &[1, 2], &one)],
                "",
                "`w.balance` has shape",
            ),
            (
                &[codes, scales, ("w.balance", "F32", &[2], &[0; 8])],
                "",
                "factor 0",
            ),
            (
                &[halves, scales],
                r#""clearway.packing":"{\"precision\":\"int4/9\"}""#,
                "int4/9",
            ),
        ] {
            let error = open(parts, packing).expect_err("is broken");
            assert!(error.contains(word), "does not say `{word}`: {error}");
        }
    }

    #[test]
    fn codes_of_what_is_no_layer_become_numbers() {
        #[derive(Module, Debug)]
        struct Table {
            rows: Param<Tensor<2>>,
        }
        let scale = [0.5_f32, 2.0].map(f32::to_le_bytes).concat();
        let header = r#"{"rows":{"dtype":"I8","shape":[2,2],"data_offsets":[0,4]},
            "rows.scale":{"dtype":"F32","shape":[2,1],"data_offsets":[4,12]}}"#;
        let (_folder, path) = file(header, &[&[1, 2, 3, 252][..], &scale].concat());
        let mut weights = Weights::open(&path).expect("is valid");
        let table = Table {
            rows: Param::from_tensor(Tensor::zeros([2, 2], &Device::flex())),
        };
        let table = weights.load(table, str::to_owned).expect("fits");
        weights.finish().expect("all is used");
        let found: Vec<f32> = table.rows.val().into_data().try_into_vec().expect("f32");
        assert_eq!(found, [0.5, 1.0, 6.0, -8.0]);
    }

    #[test]
    fn what_is_no_safetensors_file_says_so() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("x.safetensors");
        for (content, message) in [
            ("", "is not a safetensors file: it is empty"),
            (
                "1234567",
                "is not a safetensors file: it ends within the 8 bytes that give the header's length",
            ),
            (
                "version https://git-lfs.github.com/spec/v1\noid sha256:aaaa\nsize 123\n",
                "is a git-lfs pointer, not the weights: run git lfs pull",
            ),
        ] {
            std::fs::write(&path, content).expect("can be written");
            let error = Weights::open(&path).expect_err("has no tensors");
            assert_eq!(error.to_string(), message);
        }
    }

    #[test]
    fn what_is_left_over_is_named() {
        for (n, message) in [
            (1, "one tensor belongs to nothing: `t0`"),
            (2, "2 tensors belong to nothing: `t0`, `t1`"),
            (
                7,
                "7 tensors belong to nothing: `t0`, `t1`, `t2`, `t3`, `t4`, ..",
            ),
        ] {
            let keys = (0..n).map(|i| format!("t{i}")).collect();
            assert_eq!(WeightsError::Unexpected { keys }.to_string(), message);
        }
    }

    #[test]
    fn parameters_are_found_by_their_paths() {
        let header = r#"{"w":{"dtype":"F32","shape":[1,2],"data_offsets":[4,12]},
            "b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
        let (_folder, path) = file(header, &bytes(&[0.5_f32, 2.0, 3.0].map(f32::to_le_bytes)));
        let mut weights = Weights::open(&path).expect("is valid");
        let config = LinearConfig {
            d_input: 2,
            d_output: 1,
            bias: true,
        };
        let layer: Linear = weights
            .load(config.init(&Device::flex()), |path| path[..1].into())
            .expect("fits");
        weights.finish().expect("all is used");
        let x = Tensor::<2>::from_data([[1.0, 10.0]], &Device::flex());
        let y: f32 = layer.forward(x).into_scalar();
        assert!((y - 32.5).abs() < 1e-6);
    }

    #[test]
    fn several_files_are_one_network() {
        let header =
            |key| format!(r#"{{"{key}":{{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]}}}}"#);
        let (_folder, a) = file(&header("a"), &bytes(&[0.5_f32, 2.0].map(f32::to_le_bytes)));
        let (_folder2, b) = file(&header("b"), &bytes(&[3.0_f32, 4.0].map(f32::to_le_bytes)));
        let open = |path| Weights::open(path).expect("is valid");
        let mut both = open(&a).join(open(&b)).expect("the keys differ");
        assert_eq!(both.values("b", &[2, 1]).expect("is there"), [3.0, 4.0]);
        assert_eq!(both.values("a", &[2, 1]).expect("is there"), [0.5, 2.0]);
        let mut length = 0;
        both.for_each_block(|block| length += block.len())
            .expect("can be read");
        assert_eq!(length, 2 * (8 + header("a").len() + 8));
        assert!(matches!(
            open(&a).join(open(&a)),
            Err(WeightsError::Duplicate { key }) if key == "a"
        ));
    }

    #[test]
    fn a_tensor_is_cut_along_its_first_axis() {
        let header = r#"{"n.qkv":{"dtype":"F16","shape":[3,2],"data_offsets":[0,12]},
            "m.x":{"dtype":"F16","shape":[1],"data_offsets":[12,14]}}"#;
        let values = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let data = bytes(&values.map(|v| f16::from_f32(v).to_le_bytes()));
        let (_folder, path) = file(header, &data);
        let mut weights = Weights::open(&path).expect("is valid").within("n.");
        assert_eq!(weights.keys().collect::<Vec<_>>(), ["qkv"]);
        weights.reshape("qkv", &[3, 2, 1]).expect("as many numbers");
        assert!(weights.reshape("qkv", &[3, 3]).is_err());
        assert!(weights.split("qkv", &["a", "b"]).is_err());
        weights.split("qkv", &["q", "k", "v"]).expect("three rows");
        assert_eq!(
            weights.values("k", &[1, 2, 1]).expect("is there"),
            [3.0, 4.0]
        );
        assert_eq!(
            weights.values("v", &[1, 2, 1]).expect("is there"),
            [5.0, 6.0]
        );
        weights.ignore("q");
        weights.finish().expect("the other network was left out");
    }

    #[test]
    fn a_network_that_is_too_large_is_refused_before_it_is_allocated() {
        let header = r#"{"weight":{"dtype":"F32","shape":[1,1],"data_offsets":[0,4]}}"#;
        let (_folder, path) = file(header, &[0; 4]);
        let mut weights = Weights::open(&path).expect("is valid");
        // 2⁸⁰ bytes, did anyone allocate them.
        let config = LinearConfig {
            d_input: 1 << 39,
            d_output: 1 << 39,
            bias: false,
        };
        let error = weights
            .load(config.init(&Device::flex()), str::to_owned)
            .expect_err("does not fit");
        assert!(matches!(error, WeightsError::Shape { .. }));
    }
}
