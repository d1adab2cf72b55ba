//! The directory of a zip archive whose files are not compressed.
//!
//! "APPNOTE.TXT - .ZIP File Format Specification", PKWARE, version 6.3.10, sections 4.3 and 4.5.3.

use std::collections::BTreeMap;
use std::fs::File;

use super::{bytes, malformed};
use crate::WeightsError;

const LOCAL: u32 = 0x0403_4b50;
const CENTRAL: u32 = 0x0201_4b50;
const END: u32 = 0x0605_4b50;
const END_64: u32 = 0x0606_4b50;
const LOCATOR_64: u32 = 0x0706_4b50;

/// The record at the end without its comment, and the longest comment.
const END_LENGTH: u64 = 22;
const MAX_COMMENT: u64 = 0xffff;

/// The longest directory that is read, in bytes.
const MAX_DIRECTORY: u64 = 64 << 20;

/// The identifier of what holds sizes that do not fit into 32 bits.
const SIZES_64: u16 = 1;

/// What stands in the place of a size that does not fit.
const TOO_LARGE: u64 = 0xffff_ffff;

#[derive(Debug)]
pub(super) struct Archive {
    size: u64,
    entries: BTreeMap<String, Entry>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    is_compressed: bool,
    length: u64,
    header: u64,
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

impl Archive {
    /// Reads the directory of a file of `size` bytes; none if it does not begin as an archive.
    pub(super) fn open(file: &mut File, size: u64) -> Result<Option<Self>, WeightsError> {
        if size < 4 || u32_at(&bytes(file, 0, 4)?, 0) != Some(LOCAL) {
            return Ok(None);
        }
        let broken =
            || malformed("the directory at its end is missing or broken: it is cut short, usually");
        let tail_length = size.min(END_LENGTH + MAX_COMMENT);
        let tail_start = size - tail_length;
        let tail = bytes(file, tail_start, tail_length)?;
        let end = (0..tail.len())
            .rev()
            .find(|&at| u32_at(&tail, at) == Some(END) && at + END_LENGTH as usize <= tail.len())
            .ok_or_else(broken)?;
        let mut length = u64::from(u32_at(&tail, end + 12).ok_or_else(broken)?);
        let mut start = u64::from(u32_at(&tail, end + 16).ok_or_else(broken)?);
        let locator = (tail_start + end as u64).checked_sub(20);
        if let Some(locator) = locator {
            let locator = bytes(file, locator, 20)?;
            if u32_at(&locator, 0) == Some(LOCATOR_64) {
                let at = u64_at(&locator, 8)
                    .filter(|at| at.checked_add(56).is_some_and(|end| end <= size))
                    .ok_or_else(broken)?;
                let record = bytes(file, at, 56)?;
                if u32_at(&record, 0) != Some(END_64) {
                    return Err(broken());
                }
                length = u64_at(&record, 40).ok_or_else(broken)?;
                start = u64_at(&record, 48).ok_or_else(broken)?;
            }
        }
        let is_inside = start.checked_add(length).is_some_and(|end| end <= size);
        if !is_inside || length > MAX_DIRECTORY {
            return Err(broken());
        }
        let directory = bytes(file, start, length)?;
        let entries = entries(&directory).ok_or_else(broken)?;
        Ok(Some(Self { size, entries }))
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.entries.keys().map(String::as_str)
    }

    /// Where a file in the archive begins, and its length; none if it is not there.
    pub(super) fn entry(
        &self,
        file: &mut File,
        name: &str,
    ) -> Result<Option<(u64, u64)>, WeightsError> {
        let Some(entry) = self.entries.get(name) else {
            return Ok(None);
        };
        if entry.is_compressed {
            return Err(malformed(format!(
                "`{name}` in it is compressed, which torch.save does not do"
            )));
        }
        let broken = || {
            malformed(format!(
                "`{name}` in it does not lie where its directory says"
            ))
        };
        let fits = |start: u64, length: u64| {
            (start.checked_add(length)).is_some_and(|end| end <= self.size)
        };
        if !fits(entry.header, 30) {
            return Err(broken());
        }
        // The name and what follows may be longer here than in the directory: PyTorch aligns the numbers so.
        let header = bytes(file, entry.header, 30)?;
        if u32_at(&header, 0) != Some(LOCAL) {
            return Err(broken());
        }
        let lengths = [26, 28].map(|at| u64::from(u16_at(&header, at).unwrap_or(0)));
        let start = entry.header + 30 + lengths[0] + lengths[1];
        if !fits(start, entry.length) {
            return Err(broken());
        }
        Ok(Some((start, entry.length)))
    }
}

/// The entries of a directory; none if it is broken.
fn entries(mut directory: &[u8]) -> Option<BTreeMap<String, Entry>> {
    let mut entries = BTreeMap::new();
    while !directory.is_empty() {
        if u32_at(directory, 0)? != CENTRAL {
            return None;
        }
        let compressed = u64::from(u32_at(directory, 20)?);
        let mut length = u64::from(u32_at(directory, 24)?);
        let mut header = u64::from(u32_at(directory, 42)?);
        let [name, extra, comment] = [28, 30, 32].map(|at| u16_at(directory, at).map(usize::from));
        let (name, extra, comment) = (name?, extra?, comment?);
        let text = directory.get(46..46 + name)?;
        let mut more = directory.get(46 + name..46 + name + extra)?;
        while more.len() >= 4 {
            let (id, size) = (u16_at(more, 0)?, usize::from(u16_at(more, 2)?));
            let field = more.get(4..4 + size)?;
            if id == SIZES_64 {
                let mut at = 0;
                // In this order, those that do not fit alone.
                let mut compressed = compressed;
                for value in [&mut length, &mut compressed, &mut header] {
                    if *value == TOO_LARGE {
                        *value = u64_at(field, at)?;
                        at += 8;
                    }
                }
            }
            more = &more[4 + size..];
        }
        let entry = Entry {
            is_compressed: u16_at(directory, 10)? != 0,
            length,
            header,
        };
        entries.insert(String::from_utf8(text.into()).ok()?, entry);
        directory = directory.get(46 + name + extra + comment..)?;
    }
    Some(entries)
}
