//! MNIST's files: sizes, then bytes.
//!
//! ```text
//! 0 0 8 n      bytes, n sizes
//! size × n     32 bits each, the most significant byte first
//! bytes        row by row
//! ```
//!
//! LeCun, Cortes and Burges, "The MNIST database of handwritten digits", 1998, section "file formats". Fashion-MNIST has the
//! same: Xiao, Rasul and Vollgraf, 2017, arXiv:1708.07747.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::MultiGzDecoder;

use super::{DatasetError, Pictures};

/// The files of pictures and of labels, as MNIST names them; each may end in `.gz`.
pub(super) const TRAIN: [&str; 2] = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte"];
pub(super) const TEST: [&str; 2] = ["t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"];

/// The most bytes of a file, unpacked: twenty times MNIST's.
const LIMIT: usize = 1 << 30;

/// The file of a name in a folder, plain or packed.
pub(super) fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    let files = [folder.join(name), folder.join(format!("{name}.gz"))];
    files.into_iter().find(|file| file.is_file())
}

/// The pictures of one of the two pairs of files.
pub(super) fn read(folder: &Path, names: [&str; 2]) -> Result<Pictures, DatasetError> {
    let open = |name: &str| {
        find(folder, name).ok_or_else(|| DatasetError::Io {
            file: folder.join(name),
            error: std::io::ErrorKind::NotFound.into(),
        })
    };
    let [of_pictures, of_labels] = [open(names[0])?, open(names[1])?];
    let ([count, height, width], pixels) = values(&of_pictures, "pictures")?;
    let ([labelled], labels) = values(&of_labels, "labels")?;
    if count != labelled {
        return Err(DatasetError::Counts {
            pictures: of_pictures,
            found: count,
            labels: of_labels,
            expected: labelled,
        });
    }
    let labels: Vec<usize> = labels.into_iter().map(usize::from).collect();
    let classes = labels.iter().max().map_or(0, |most| most + 1);
    Ok(Pictures {
        size: [height, width],
        channels: 1,
        pixels,
        labels,
        names: (0..classes).map(|class| class.to_string()).collect(),
    })
}

/// The sizes and the bytes of a file with `N` sizes.
fn values<const N: usize>(
    file: &Path,
    what: &'static str,
) -> Result<([usize; N], Vec<u8>), DatasetError> {
    let io = |error| DatasetError::Io {
        file: file.into(),
        error,
    };
    let opened = File::open(file).map_err(io)?;
    let mut reader: Box<dyn Read> = if file.extension().is_some_and(|it| it == "gz") {
        Box::new(MultiGzDecoder::new(opened))
    } else {
        Box::new(std::io::BufReader::new(opened))
    };
    let mut header = Vec::new();
    let length = 4 + 4 * N;
    (reader.by_ref().take(length as u64))
        .read_to_end(&mut header)
        .map_err(io)?;
    let expected = [0, 0, 8, N as u8];
    let found: [u8; 4] = std::array::from_fn(|i| header.get(i).copied().unwrap_or_default());
    if header.len() >= 4 && found != expected {
        return Err(DatasetError::Magic {
            file: file.into(),
            what,
            found,
            expected,
        });
    }
    if header.len() < length {
        return Err(DatasetError::Length {
            file: file.into(),
            sizes: Vec::new(),
            found: header.len(),
            expected: length,
        });
    }
    let sizes: [usize; N] = std::array::from_fn(|i| {
        let bytes: [u8; 4] = std::array::from_fn(|j| header[4 + 4 * i + j]);
        u32::from_be_bytes(bytes) as usize
    });
    let count = sizes
        .iter()
        .try_fold(1_usize, |product, size| product.checked_mul(*size))
        .filter(|count| (1..=LIMIT).contains(count));
    let Some(count) = count else {
        return Err(DatasetError::Sizes {
            file: file.into(),
            sizes: sizes.into(),
            limit: LIMIT,
        });
    };
    let mut bytes = Vec::new();
    // One more than there may be shows that there are too many.
    let read = reader.take(count as u64 + 1).read_to_end(&mut bytes);
    match read {
        // A packed file that ends early.
        Err(error) if error.kind() != std::io::ErrorKind::UnexpectedEof => Err(io(error)),
        _ if bytes.len() != count => Err(DatasetError::Length {
            file: file.into(),
            sizes: sizes.into(),
            found: length + bytes.len(),
            expected: length + count,
        }),
        Err(error) => Err(io(error)),
        Ok(_) => Ok((sizes, bytes)),
    }
}
