//! A folder of pictures with captions.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{DatasetError, Pictures};
use crate::Picture;

/// What says the captions of many pictures, as in Hugging Face's `imagefolder`.
const METADATA: &str = "metadata.jsonl";

/// A line of it. The caption is called `text`, or `caption`.
#[derive(Deserialize)]
struct Line {
    file_name: String,
    #[serde(alias = "caption")]
    text: String,
}

/// The pictures of a folder, in the order of their names; none if there are no pictures.
pub(super) fn find(folder: &Path) -> Result<Vec<PathBuf>, DatasetError> {
    let io = |error| DatasetError::Io {
        file: folder.into(),
        error,
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let file = entry.map_err(io)?.path();
        let ending = file.extension().map(std::ffi::OsStr::to_ascii_lowercase);
        let is_picture = ending.is_some_and(|it| ["png", "jpg", "jpeg"].iter().any(|e| it == *e));
        if is_picture && file.is_file() {
            files.push(file);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads pictures of one size; their captions are their classes, in the order of the alphabet.
pub(super) fn read(folder: &Path, files: &[PathBuf]) -> Result<Pictures, DatasetError> {
    let said = metadata(folder)?;
    let mut captions = Vec::with_capacity(files.len());
    let mut size = [0; 2];
    let mut pixels = Vec::new();
    for file in files {
        captions.push(caption(file, &said)?);
        let picture = Picture::read(file).map_err(|error| DatasetError::Picture {
            file: file.clone(),
            error,
        })?;
        let found = [picture.height() as usize, picture.width() as usize];
        if pixels.is_empty() {
            size = found;
        }
        if found != size {
            return Err(DatasetError::Size {
                file: file.clone(),
                found,
                first: files[0].clone(),
                expected: size,
            });
        }
        let rgb = picture.rgb();
        pixels.extend((0..3).flat_map(|channel| rgb.iter().skip(channel).step_by(3)));
    }
    let mut names = captions.clone();
    names.sort();
    names.dedup();
    let number = |caption: &String| names.binary_search(caption).unwrap_or_default();
    Ok(Pictures {
        size,
        channels: 3,
        pixels,
        labels: captions.iter().map(number).collect(),
        names,
    })
}

/// What the text beside a picture says, or else its line.
fn caption(file: &Path, said: &BTreeMap<PathBuf, String>) -> Result<String, DatasetError> {
    let text = file.with_extension("txt");
    match std::fs::read_to_string(&text) {
        Ok(caption) => Ok(caption.trim().to_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => said
            .get(file)
            .cloned()
            .ok_or_else(|| DatasetError::NoCaption {
                picture: file.into(),
                text,
            }),
        Err(error) => Err(DatasetError::Io { file: text, error }),
    }
}

/// The captions by picture; none where there is no such file.
fn metadata(folder: &Path) -> Result<BTreeMap<PathBuf, String>, DatasetError> {
    let file = folder.join(METADATA);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(error) => return Err(DatasetError::Io { file, error }),
    };
    let mut said = BTreeMap::new();
    for (i, line) in text.lines().enumerate() {
        if line.trim().is_empty() {
            continue;
        }
        let wrong = |reason: String| DatasetError::Metadata {
            file: file.clone(),
            line: i + 1,
            reason,
        };
        let Line { file_name, text } =
            serde_json::from_str(line).map_err(|error| wrong(error.to_string()))?;
        let picture = folder.join(&file_name);
        if !picture.is_file() {
            return Err(wrong(format!("`{file_name}` is not in the folder")));
        }
        if said.insert(picture, text.trim().to_owned()).is_some() {
            return Err(wrong(format!("`{file_name}` has a caption already")));
        }
    }
    Ok(said)
}
