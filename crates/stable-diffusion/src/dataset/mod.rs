//! Pictures to learn from.
//!
//! | layout | files |
//! |---|---|
//! | IDX, as MNIST and Fashion-MNIST have it | `train-images-idx3-ubyte`, `train-labels-idx1-ubyte`, the same with `t10k-`; each plain or `.gz` |
//! | a folder with captions | PNG and JPEG files of one size, each with a `.txt` beside it, or a line in `metadata.jsonl`: `{"file_name": "a.png", "text": "a caption"}` |
//!
//! Debian's `dataset-fashion-mnist` puts the first into `/usr/share/datasets/fashion-mnist`. A broken file is named.

mod error;
mod folder;
mod idx;

use std::path::Path;

use sha2::{Digest, Sha256};

pub use error::DatasetError;

/// Which pictures of a dataset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// Those to train with.
    Train,
    /// Those to test with.
    Test,
}

/// Pictures of one size, each of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pictures {
    /// Height and width.
    pub(crate) size: [usize; 2],
    pub(crate) channels: usize,
    /// `[picture, channel, row, column]`.
    pub(crate) pixels: Vec<u8>,
    /// The class of each picture.
    pub(crate) labels: Vec<usize>,
    /// What each class is called: a number, or a caption.
    pub(crate) names: Vec<String>,
}

impl Pictures {
    /// Reads the pictures of a folder.
    ///
    /// # Errors
    ///
    /// If the folder has no layout that is known, or a file is missing, malformed, cut short, of another size than the
    /// others, or without a label or caption.
    pub fn open(folder: &Path, split: Split) -> Result<Self, DatasetError> {
        if idx::find(folder, idx::TRAIN[0]).is_some() {
            let names = match split {
                Split::Train => idx::TRAIN,
                Split::Test => idx::TEST,
            };
            return idx::read(folder, names);
        }
        let files = folder::find(folder)?;
        if files.is_empty() {
            return Err(DatasetError::Layout {
                folder: folder.into(),
            });
        }
        match split {
            Split::Train => folder::read(folder, &files),
            Split::Test => Err(DatasetError::NoTest {
                folder: folder.into(),
            }),
        }
    }

    /// Whether a folder looks as one of the layouts does.
    pub fn are_in(folder: &Path) -> bool {
        idx::find(folder, idx::TRAIN[0]).is_some()
            || folder::find(folder).is_ok_and(|files| !files.is_empty())
    }

    /// Pictures that a program has.
    ///
    /// # Panics
    ///
    /// If there are not as many pixels as sizes, channels and labels say.
    pub fn new(
        size: [usize; 2],
        channels: usize,
        pixels: Vec<u8>,
        labels: Vec<usize>,
        names: Vec<String>,
    ) -> Self {
        assert_eq!(
            pixels.len(),
            labels.len() * channels * size[0] * size[1],
            "as many pixels as labels, channels and sizes say"
        );
        Self {
            size,
            channels,
            pixels,
            labels,
            names,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// Height and width.
    pub fn size(&self) -> [usize; 2] {
        self.size
    }

    /// One where pictures are grey, three where they are coloured.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// The class of each picture.
    pub fn labels(&self) -> &[usize] {
        &self.labels
    }

    /// What each class is called: its number, or its caption.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A picture's values, `[channel, row, column]`, from 0 to 255.
    ///
    /// # Panics
    ///
    /// If there is no such picture.
    pub fn pixels(&self, index: usize) -> &[u8] {
        let each = self.channels * self.size[0] * self.size[1];
        &self.pixels[index * each..][..each]
    }

    /// The mean and the standard deviation of all values, from -1 for black to 1 for white.
    pub fn moments(&self) -> [f64; 2] {
        let mut counts = [0_u64; 256];
        for &value in &self.pixels {
            counts[usize::from(value)] += 1;
        }
        let total = self.pixels.len().max(1) as f64;
        let moment = |power: i32| {
            let of = |(value, &count): (usize, &u64)| {
                (value as f64 / 127.5 - 1.0).powi(power) * count as f64
            };
            counts.iter().enumerate().map(of).sum::<f64>() / total
        };
        let mean = moment(1);
        [mean, (moment(2) - mean * mean).max(0.0).sqrt()]
    }

    /// The SHA-256 of sizes, labels, names and pixels, in hexadecimal digits.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        for size in [self.size[0], self.size[1], self.channels, self.len()] {
            hash.update((size as u64).to_le_bytes());
        }
        for label in &self.labels {
            hash.update((*label as u64).to_le_bytes());
        }
        for name in &self.names {
            hash.update((name.len() as u64).to_le_bytes());
            hash.update(name);
        }
        hash.update(&self.pixels);
        format!("{:x}", hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write;

    use super::*;
    use crate::Picture;

    /// An IDX file of bytes.
    fn idx(sizes: &[u32], bytes: &[u8]) -> Vec<u8> {
        let mut file = vec![0, 0, 8, sizes.len() as u8];
        file.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
        file.extend(bytes);
        file
    }

    fn packed(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).expect("in memory");
        encoder.finish().expect("in memory")
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, bytes) in files {
            fs::write(folder.path().join(name), bytes).expect("written");
        }
        folder
    }

    fn error(folder: &tempfile::TempDir) -> String {
        let error = Pictures::open(folder.path(), Split::Train).expect_err("is broken");
        error
            .to_string()
            .replace(&format!("{}/", folder.path().display()), "")
    }

    const PIXELS: [u8; 18] = [
        0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 255, 128,
    ];

    #[test]
    fn idx_files_are_read_plain_and_packed() {
        let (images, labels) = (idx(&[3, 2, 3], &PIXELS), idx(&[3], &[2, 0, 2]));
        let plain = folder(&[(idx::TRAIN[0], &images), (idx::TRAIN[1], &labels)]);
        let gz = folder(&[
            ("train-images-idx3-ubyte.gz", &packed(&images)),
            ("train-labels-idx1-ubyte.gz", &packed(&labels)),
            (idx::TEST[0], &idx(&[1, 2, 3], &PIXELS[..6])),
            (idx::TEST[1], &idx(&[1], &[1])),
        ]);
        let read = |folder: &tempfile::TempDir, split| Pictures::open(folder.path(), split);
        let pictures = read(&plain, Split::Train).expect("well formed");
        assert_eq!(pictures, read(&gz, Split::Train).expect("well formed"));
        assert_eq!((pictures.len(), pictures.size()), (3, [2, 3]));
        assert_eq!(pictures.labels(), [2, 0, 2]);
        assert_eq!(pictures.names(), ["0", "1", "2"]);
        assert_eq!(pictures.pixels(1), &PIXELS[6..12]);
        assert_eq!(
            pictures.hash(),
            read(&gz, Split::Train).expect("again").hash()
        );
        let test = read(&gz, Split::Test).expect("well formed");
        assert_eq!((test.len(), test.labels()), (1, &[1][..]));
        assert_ne!(test.hash(), pictures.hash());
        let values = PIXELS.map(|x| f64::from(x) / 127.5 - 1.0);
        let mean = values.iter().sum::<f64>() / 18.0;
        let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / 18.0;
        let [found_mean, found_deviation] = pictures.moments();
        // Eighteen numbers of f64.
        assert!((found_mean - mean).abs() < 1e-12);
        assert!((found_deviation - variance.sqrt()).abs() < 1e-12);
    }

    #[test]
    fn broken_idx_files_are_named() {
        let (images, labels) = (idx(&[3, 2, 3], &PIXELS), idx(&[3], &[2, 0, 2]));
        let with = |images: &[u8], labels: &[u8]| {
            error(&folder(&[(idx::TRAIN[0], images), (idx::TRAIN[1], labels)]))
        };
        assert_eq!(
            with(&labels, &labels),
            "train-images-idx3-ubyte begins with [00, 00, 08, 01]; an IDX file of pictures begins with [00, 00, 08, 03]"
        );
        assert_eq!(
            with(&images[..20], &labels),
            "train-images-idx3-ubyte holds 20 bytes; its header of [3, 2, 3] needs 34"
        );
        assert_eq!(
            with(&images[..7], &labels),
            "train-images-idx3-ubyte holds 7 bytes; its header of [] needs 16"
        );
        assert_eq!(
            with(&[&images[..], &[0]].concat(), &labels),
            "train-images-idx3-ubyte holds 35 bytes; its header of [3, 2, 3] needs 34"
        );
        assert_eq!(
            with(&images, &idx(&[2], &[2, 0])),
            "train-images-idx3-ubyte holds 3 pictures, and train-labels-idx1-ubyte 2 labels"
        );
        assert_eq!(
            with(&idx(&[3, 0, 3], &[]), &labels),
            "train-images-idx3-ubyte says that it holds [3, 0, 3]; sizes from 1 and at most 1073741824 bytes are read"
        );
        assert_eq!(
            with(&idx(&[u32::MAX; 3], &[]), &labels),
            "train-images-idx3-ubyte says that it holds [4294967295, 4294967295, 4294967295]; sizes from 1 and at most \
             1073741824 bytes are read"
        );
        let gz = packed(&images);
        let short = folder(&[
            ("train-images-idx3-ubyte.gz", &gz[..gz.len() - 12]),
            (idx::TRAIN[1], &labels),
        ]);
        let short = error(&short);
        assert!(short.starts_with("train-images-idx3-ubyte.gz "), "{short}");
        let lacks = error(&folder(&[(idx::TRAIN[0], &images)]));
        assert!(
            lacks.starts_with("train-labels-idx1-ubyte cannot be read: "),
            "{lacks}"
        );
        let none = error(&folder(&[("a.txt", b"words")]));
        assert!(none.contains("holds neither"), "{none}");
    }

    fn png(width: u32, height: u32, value: u8) -> Vec<u8> {
        let rgb = (0..3 * width * height).map(|i| value + i as u8).collect();
        let picture = Picture::new(width, height, rgb).expect("of that size");
        picture.png(None).expect("written")
    }

    #[test]
    fn captions_are_beside_pictures_or_in_a_list() {
        let list = br#"{"file_name": "c.png", "text": "a shoe"}

            {"file_name": "a.png", "caption": "not this"}"#;
        let folder = folder(&[
            ("b.png", &png(2, 1, 10)),
            ("b.txt", b"a shirt\n"),
            ("a.png", &png(2, 1, 20)),
            ("a.txt", b"a shoe"),
            ("c.png", &png(2, 1, 30)),
            ("metadata.jsonl", list),
        ]);
        let pictures = Pictures::open(folder.path(), Split::Train).expect("well formed");
        assert_eq!(pictures.names(), ["a shirt", "a shoe"]);
        assert_eq!(pictures.labels(), [1, 0, 1]);
        assert_eq!((pictures.size(), pictures.channels()), ([1, 2], 3));
        // Channels before columns.
        assert_eq!(pictures.pixels(1), [10, 13, 11, 14, 12, 15]);
        assert!(Pictures::are_in(folder.path()));
        let test = Pictures::open(folder.path(), Split::Test);
        assert!(matches!(test, Err(DatasetError::NoTest { .. })));
    }

    #[test]
    fn broken_folders_are_named() {
        let a = png(2, 1, 0);
        assert_eq!(
            error(&folder(&[("a.png", &a)])),
            "a.png has no caption: neither a.txt nor a line of metadata.jsonl is there"
        );
        assert_eq!(
            error(&folder(&[
                ("a.png", &a),
                ("a.txt", b"x"),
                ("b.png", &png(2, 3, 0)),
                ("b.txt", b"y"),
            ])),
            "b.png has 2 × 3 pixels; a.png has 2 × 1"
        );
        let list = |text: &[u8]| error(&folder(&[("a.png", &a), ("metadata.jsonl", text)]));
        assert_eq!(
            list(b"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"b.png\", \"text\": \"x\"}"),
            "metadata.jsonl, line 2: `b.png` is not in the folder"
        );
        assert_eq!(
            list(b"{\"file_name\": \"a.png\", \"text\": \"x\"}\n{\"file_name\": \"a.png\", \"text\": \"x\"}"),
            "metadata.jsonl, line 2: `a.png` has a caption already"
        );
        let error_of = list(b"{\"file_name\": \"a.png\"}");
        assert!(
            error_of.starts_with("metadata.jsonl, line 1: missing field `text`"),
            "{error_of}"
        );
        let cut = error(&folder(&[("a.png", &a[..a.len() / 2]), ("a.txt", b"x")]));
        assert!(cut.starts_with("a.png is "), "{cut}");
    }
}
