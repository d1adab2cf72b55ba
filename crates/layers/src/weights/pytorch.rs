//! PyTorch files.
//!
//! `torch.save` writes a zip archive, or wrote a bare stream before PyTorch 1.6, of a pickle that says which tensors there
//! are and of the numbers. Nothing is compressed, so that the numbers are read where they lie.
//!
//! The maintained reader, `pytorch-reader` 0.22.1, refuses dictionaries that have a class as a key, as the checkpoints of
//! training programs may have.

mod archive;
mod pickle;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use safetensors::tensor::Dtype;

use super::{Place, Stored, Weights, WeightsError, regular_file};
use archive::Archive;
use pickle::{Id, Object, Pickle, Storage, TensorView};

/// The longest pickle that is read, in bytes. That of Stable Diffusion 1.5 with its training's state has 1 MB.
const MAX_PICKLE: u64 = 64 << 20;

/// What training programs put the network's tensors under.
const STATE_DICT: &str = "state_dict";

/// How deep dictionaries lie in dictionaries.
const MAX_DEPTH: usize = 16;

impl Weights {
    /// Opens what `torch.save` wrote: a `.ckpt`, `.pt`, `.pth` or `.bin` file.
    ///
    /// Such a file holds a program that builds its content. It is not run: the few instructions that name tensors,
    /// dictionaries, lists, words and numbers are followed, and whatever else would be built is nothing here. Where there
    /// is a `state_dict`, as in the checkpoints of training programs, what lies beside it is left out.
    ///
    /// # Errors
    ///
    /// If it is no regular file, or not what `torch.save` writes.
    pub fn open_pytorch(path: &Path) -> Result<Self, WeightsError> {
        let mut file = regular_file(path)?;
        let size = file.metadata()?.len();
        let (pickle, root, numbers) = match Archive::open(&mut file, size)? {
            Some(archive) => from_archive(&mut file, &archive)?,
            None => from_stream(&mut file, size)?,
        };
        let mut found = BTreeMap::new();
        let root = pickle.entry(root, STATE_DICT).unwrap_or(root);
        collect(&pickle, root, "", 0, &mut BTreeSet::new(), &mut found);
        let mut tensors = BTreeMap::new();
        for (key, view) in found {
            let stored = stored(&key, view, &numbers)?;
            tensors.insert(key, stored);
        }
        if tensors.is_empty() {
            return Err(malformed("it holds no tensors"));
        }
        Ok(Self {
            files: vec![file],
            tensors,
            updates: BTreeMap::new(),
            used: BTreeSet::new(),
            metadata: BTreeMap::new(),
            packing: None,
        })
    }
}

/// Where the numbers of each storage begin, and how many bytes they are.
type Numbers = BTreeMap<String, (u64, u64)>;

pub(super) fn malformed(reason: impl Into<String>) -> WeightsError {
    WeightsError::Pytorch {
        reason: reason.into(),
    }
}

/// `.. /data.pkl`, and a file a storage in `.. /data/`.
fn from_archive(file: &mut File, archive: &Archive) -> Result<(Pickle, Id, Numbers), WeightsError> {
    let name = "data.pkl";
    let root = (archive.names())
        .filter_map(|entry| entry.strip_suffix(name))
        .filter(|root| root.is_empty() || root.ends_with('/'))
        .min_by_key(|root| root.len())
        .ok_or_else(|| malformed(format!("the archive holds no {name}")))?
        .to_owned();
    if let Some((start, length)) = archive.entry(file, &format!("{root}byteorder"))? {
        let order = bytes(file, start, length.min(16))?;
        if order.trim_ascii() != b"little" {
            return Err(malformed("its numbers begin with their highest byte"));
        }
    }
    let (start, length) = (archive.entry(file, &format!("{root}{name}"))?)
        .ok_or_else(|| malformed(format!("the archive holds no {name}")))?;
    if length > MAX_PICKLE {
        return Err(malformed(format!(
            "its pickle has {length} bytes; the limit is {MAX_PICKLE}"
        )));
    }
    let bytes = bytes(file, start, length)?;
    let mut pickle = Pickle::default();
    let root_object = pickle.read(&mut &bytes[..])?;
    let prefix = format!("{root}data/");
    let names: Vec<String> = (archive.names())
        .filter(|name| name.starts_with(&prefix))
        .map(str::to_owned)
        .collect();
    let mut numbers = Numbers::new();
    for name in names {
        if let Some(place) = archive.entry(file, &name)? {
            numbers.insert(name[prefix.len()..].into(), place);
        }
    }
    Ok((pickle, root_object, numbers))
}

/// A magic number, a version, what the machine was; the content; the storages' names; then for each storage how many
/// numbers it has, and the numbers.
fn from_stream(file: &mut File, size: u64) -> Result<(Pickle, Id, Numbers), WeightsError> {
    /// 0x1950a86a20f9469cfc6c, as a pickle has it.
    const MAGIC: [u8; 15] = [
        0x80, 2, 0x8a, 10, 0x6c, 0xfc, 0x9c, 0x46, 0xf9, 0x20, 0x6a, 0xa8, 0x50, 0x19, b'.',
    ];
    let begin = bytes(file, 0, size.min(MAX_PICKLE))?;
    let Some(rest) = begin.strip_prefix(&MAGIC) else {
        return Err(malformed(
            "it is neither a zip archive nor a stream with PyTorch's magic number",
        ));
    };
    let mut rest = rest;
    let mut pickle = Pickle::default();
    pickle.read(&mut rest)?;
    let system = pickle.read(&mut rest)?;
    if let Some(id) = pickle.entry(system, "little_endian")
        && matches!(pickle.get(id), Object::Bool(false))
    {
        return Err(malformed("its numbers begin with their highest byte"));
    }
    let root = pickle.read(&mut rest)?;
    let names = pickle.read(&mut rest)?;
    let mut at = (begin.len() - rest.len()) as u64;
    let mut numbers = Numbers::new();
    for name in pickle.words(names) {
        let count = bytes(file, at, 8)?;
        let count = u64::from_le_bytes(count.try_into().unwrap_or_default());
        let length = (pickle.storage(&name).map(|storage| storage.dtype))
            .and_then(|dtype| count.checked_mul(dtype.bitsize() as u64 / 8))
            .filter(|length| at + 8 <= size && *length <= size - at - 8)
            .ok_or_else(|| malformed(format!("the storage `{name}` is longer than the file")))?;
        numbers.insert(name, (at + 8, length));
        at += 8 + length;
    }
    Ok((pickle, root, numbers))
}

/// Part of a file that is known to be as long.
fn bytes(file: &mut File, start: u64, length: u64) -> Result<Vec<u8>, WeightsError> {
    file.seek(SeekFrom::Start(start))?;
    let mut bytes = vec![0; length as usize];
    file.read_exact(&mut bytes)
        .map_err(|_| malformed("it ends too early"))?;
    Ok(bytes)
}

/// The tensors in a dictionary and the dictionaries in it, their keys joined by dots.
fn collect<'a>(
    pickle: &'a Pickle,
    id: Id,
    path: &str,
    depth: usize,
    seen: &mut BTreeSet<Id>,
    tensors: &mut BTreeMap<String, &'a TensorView>,
) {
    // Each dictionary once: they may hold each other.
    let Object::Dict(entries) = pickle.get(id) else {
        return;
    };
    if depth > MAX_DEPTH || !seen.insert(id) {
        return;
    }
    for &(key, value) in entries {
        let Object::Text(key) = pickle.get(key) else {
            continue;
        };
        let key = if path.is_empty() {
            key.clone()
        } else {
            format!("{path}.{key}")
        };
        match pickle.get(value) {
            Object::Tensor(view) => {
                tensors.insert(key, view);
            }
            Object::Dict(_) => collect(pickle, value, &key, depth + 1, seen, tensors),
            _ => {}
        }
    }
}

/// Finds a tensor's numbers, and makes sure that they are all there.
fn stored(key: &str, view: &TensorView, numbers: &Numbers) -> Result<Stored, WeightsError> {
    let Storage { name, dtype } = &view.storage;
    let lacks = || malformed(format!("tensor `{key}` has no numbers in storage `{name}`"));
    let &(start, length) = numbers.get(name).ok_or_else(lacks)?;
    let size = dtype.bitsize() as u64 / 8;
    let mut contiguous = 1_usize;
    let mut is_contiguous = true;
    let mut last = view.offset;
    for (&extent, &stride) in view.shape.iter().zip(&view.strides).rev() {
        is_contiguous &= extent <= 1 || stride == contiguous;
        contiguous = contiguous.checked_mul(extent).ok_or_else(lacks)?;
        let reach = extent.saturating_sub(1).checked_mul(stride);
        last = reach
            .and_then(|reach| last.checked_add(reach))
            .ok_or_else(lacks)?;
    }
    let fits = contiguous == 0
        || (last as u64 + 1)
            .checked_mul(size)
            .is_some_and(|end| end <= length);
    if !fits {
        return Err(lacks());
    }
    let start = start + view.offset as u64 * size;
    Ok(Stored {
        dtype: *dtype,
        shape: view.shape.clone(),
        place: Place {
            file: 0,
            start,
            strided: (!is_contiguous).then(|| {
                let axes = view.shape.iter().copied();
                axes.zip(view.strides.iter().copied()).collect()
            }),
            skip: 0,
        },
    })
}

/// The type of a storage by the name of its class.
fn dtype(class: &str) -> Option<Dtype> {
    Some(match class {
        "torch.DoubleStorage" => Dtype::F64,
        "torch.FloatStorage" => Dtype::F32,
        "torch.HalfStorage" => Dtype::F16,
        "torch.BFloat16Storage" => Dtype::BF16,
        "torch.LongStorage" => Dtype::I64,
        "torch.IntStorage" => Dtype::I32,
        "torch.ShortStorage" => Dtype::I16,
        "torch.CharStorage" => Dtype::I8,
        "torch.ByteStorage" => Dtype::U8,
        "torch.BoolStorage" => Dtype::BOOL,
        _ => return None,
    })
}
