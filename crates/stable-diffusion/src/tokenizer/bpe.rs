//! Byte-pair encoding: a word is bytes, and the pair of symbols that was learned first is merged first.
//!
//! Sennrich et al., "Neural Machine Translation of Rare Words with Subword Units", 2016, arXiv:1508.07909; on bytes as
//! in GPT-2, with symbols that end a word apart as in CLIP.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};

/// What marks a symbol that ends a word, in files.
const END_OF_WORD: &str = "</w>";

/// Why a vocabulary cannot be used.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum VocabularyError {
    /// A line of the merges is not two symbols.
    #[error("merge {line} is `{found}` where two symbols are needed")]
    Merge {
        /// The merge's number, from 1.
        line: usize,
        /// What is there.
        found: String,
    },
    /// A symbol of a merge, or of a byte, has no number.
    #[error("symbol `{symbol}` is not in the vocabulary")]
    Missing {
        /// The symbol as files write it.
        symbol: String,
    },
    /// A symbol is not made of the characters that stand for bytes.
    #[error("symbol `{symbol}` holds `{found}`, which stands for no byte")]
    NotBytes {
        /// The symbol as files write it.
        symbol: String,
        /// The character.
        found: char,
    },
    /// The vocabulary has symbols that nothing makes, so merges are missing: text would have other tokens.
    #[error(
        "{count} of the vocabulary's symbols can be made by no merge, first `{symbol}`: the merges are cut short"
    )]
    NotMade {
        /// How many there are.
        count: usize,
        /// The one with the least number, as files write it.
        symbol: String,
    },
}

/// Merges, and the numbers of the symbols they make.
#[derive(Clone, Debug)]
pub(super) struct Bpe {
    /// The symbol of a byte: inside a word, and at its end.
    bytes: Box<[[u32; 2]; 256]>,
    /// Two symbols' rank, where less is earlier, and what they become.
    merges: HashMap<(u32, u32), (u32, u32)>,
    symbols: HashMap<u32, Symbol>,
}

#[derive(Clone, Debug)]
struct Symbol {
    bytes: Vec<u8>,
    ends_word: bool,
}

impl Bpe {
    /// CLIP's numbering: the bytes, the bytes that end a word, and a number a merge.
    pub(super) fn from_merges(merges: &[(String, String)]) -> Result<Self, VocabularyError> {
        let letters = letters();
        let bytes = letters.iter().map(|&(_, letter)| letter.to_string());
        let ends = letters
            .iter()
            .map(|(_, letter)| format!("{letter}{END_OF_WORD}"));
        let merged = merges.iter().map(|(a, b)| format!("{a}{b}"));
        let vocabulary = bytes.chain(ends).chain(merged).zip(0..).collect();
        Self::new(&vocabulary, merges)
    }

    /// The numbers that a file gives to symbols; special tokens may be among them.
    pub(super) fn new(
        vocabulary: &HashMap<String, u32>,
        merges: &[(String, String)],
    ) -> Result<Self, VocabularyError> {
        let letters = letters();
        let number = |symbol: &str| {
            vocabulary
                .get(symbol)
                .copied()
                .ok_or_else(|| VocabularyError::Missing {
                    symbol: symbol.into(),
                })
        };
        let byte_of: HashMap<char, u8> = letters.iter().map(|&(byte, c)| (c, byte)).collect();
        let mut symbols = HashMap::with_capacity(vocabulary.len());
        let mut name = |symbol: String| -> Result<u32, VocabularyError> {
            let id = number(&symbol)?;
            let (letters, ends_word) = match symbol.strip_suffix(END_OF_WORD) {
                Some(letters) if !letters.is_empty() => (letters, true),
                _ => (&*symbol, false),
            };
            let bytes = letters
                .chars()
                .map(|c| {
                    byte_of.get(&c).copied().ok_or(VocabularyError::NotBytes {
                        symbol: symbol.clone(),
                        found: c,
                    })
                })
                .collect::<Result<_, _>>()?;
            symbols.insert(id, Symbol { bytes, ends_word });
            Ok(id)
        };
        let mut bytes = Box::new([[0; 2]; 256]);
        for &(byte, letter) in &letters {
            bytes[usize::from(byte)] = [
                name(letter.to_string())?,
                name(format!("{letter}{END_OF_WORD}"))?,
            ];
        }
        let mut ranks = HashMap::with_capacity(merges.len());
        for ((a, b), rank) in merges.iter().zip(0..) {
            let merged = name(format!("{a}{b}"))?;
            // A pair that is listed twice keeps its first rank.
            ranks
                .entry((number(a)?, number(b)?))
                .or_insert((rank, merged));
        }
        Ok(Self {
            bytes,
            merges: ranks,
            symbols,
        })
    }

    /// Checks that each symbol of a vocabulary is a byte, is made by a merge or is a token of its own.
    pub(super) fn makes(
        &self,
        vocabulary: &HashMap<String, u32>,
        is_token: impl Fn(&str) -> bool,
    ) -> Result<(), VocabularyError> {
        let not_made = || {
            vocabulary
                .iter()
                .filter(|(symbol, id)| !self.symbols.contains_key(id) && !is_token(symbol))
        };
        match not_made().min_by_key(|&(_, id)| id) {
            None => Ok(()),
            Some((symbol, _)) => Err(VocabularyError::NotMade {
                count: not_made().count(),
                symbol: symbol.clone(),
            }),
        }
    }

    /// The symbols of one word.
    ///
    /// In `n log n` for `n` bytes: pairs wait in a heap, and what a merge made stale is skipped.
    pub(super) fn encode(&self, word: &str, ids: &mut Vec<u32>) {
        let bytes = word.as_bytes();
        let Some(last) = bytes.len().checked_sub(1) else {
            return;
        };
        // A symbol is None once it went into the one before it.
        let mut symbols: Vec<Option<u32>> = bytes
            .iter()
            .enumerate()
            .map(|(i, &byte)| Some(self.bytes[usize::from(byte)][usize::from(i == last)]))
            .collect();
        let mut next: Vec<usize> = (1..=bytes.len()).collect();
        let mut previous: Vec<Option<usize>> = (0..bytes.len()).map(|i| i.checked_sub(1)).collect();
        let mut waiting = BinaryHeap::new();
        let wait = |waiting: &mut BinaryHeap<_>, symbols: &[Option<u32>], i: usize, j: usize| {
            if let (Some(&Some(a)), Some(&Some(b))) = (symbols.get(i), symbols.get(j))
                && let Some(&(rank, merged)) = self.merges.get(&(a, b))
            {
                waiting.push(Reverse((rank, i, (a, b), merged)));
            }
        };
        for i in 0..last {
            wait(&mut waiting, &symbols, i, i + 1);
        }
        while let Some(Reverse((_, i, (a, b), merged))) = waiting.pop() {
            let j = next[i];
            if symbols[i] != Some(a) || symbols.get(j) != Some(&Some(b)) {
                continue;
            }
            symbols[i] = Some(merged);
            symbols[j] = None;
            next[i] = next[j];
            if let Some(after) = previous.get_mut(next[j]) {
                *after = Some(i);
            }
            if let Some(before) = previous[i] {
                wait(&mut waiting, &symbols, before, i);
            }
            wait(&mut waiting, &symbols, i, next[i]);
        }
        ids.extend(symbols.into_iter().flatten());
    }

    /// The bytes of a symbol, and whether it ends a word.
    pub(super) fn symbol(&self, id: u32) -> Option<(&[u8], bool)> {
        self.symbols
            .get(&id)
            .map(|symbol| (&*symbol.bytes, symbol.ends_word))
    }
}

/// Reads merges: two symbols a line, after a line with the version.
pub(super) fn parse_merges(text: &str) -> Result<Vec<(String, String)>, VocabularyError> {
    let mut lines = text.lines().peekable();
    lines.next_if(|line| line.starts_with("#version"));
    lines
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty())
        .map(|(i, line)| pair(i + 1, line))
        .collect()
}

/// Reads one merge.
pub(super) fn pair(line: usize, text: &str) -> Result<(String, String), VocabularyError> {
    match text.split(' ').collect::<Vec<_>>()[..] {
        [a, b] if !a.is_empty() && !b.is_empty() => Ok((a.into(), b.into())),
        _ => Err(VocabularyError::Merge {
            line,
            found: text.into(),
        }),
    }
}

/// The character that stands for a byte in files, in the order of CLIP's numbers.
///
/// Printable characters stand for themselves, the other bytes for U+0100 and up.
fn letters() -> Vec<(u8, char)> {
    let printable = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    let plain = (0..=255)
        .filter(printable)
        .map(|byte| (byte, char::from(byte)));
    let moved = (0..=255).filter(|byte| !printable(byte)).zip('\u{100}'..);
    plain.chain(moved).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small() -> Bpe {
        let merges = parse_merges("#version: 0.2\na b\nb c</w>\nab ab\na a\n").expect("merges");
        Bpe::from_merges(&merges).expect("a vocabulary")
    }

    fn texts(bpe: &Bpe, word: &str) -> Vec<String> {
        let mut ids = Vec::new();
        bpe.encode(word, &mut ids);
        ids.iter()
            .map(|&id| {
                let (bytes, ends) = bpe.symbol(id).expect("its own symbol");
                format!(
                    "{}{}",
                    String::from_utf8_lossy(bytes),
                    if ends { "." } else { "" }
                )
            })
            .collect()
    }

    #[test]
    fn the_earliest_merge_comes_first() {
        let bpe = small();
        assert_eq!(texts(&bpe, "abc"), ["ab", "c."]);
        assert_eq!(texts(&bpe, "bc"), ["bc."]);
        assert_eq!(texts(&bpe, "ababab"), ["abab", "a", "b."]);
        assert_eq!(texts(&bpe, "aaaab"), ["aa", "aa", "b."]);
        assert_eq!(texts(&bpe, "aaac"), ["aa", "a", "c."]);
        assert!(texts(&bpe, "").is_empty());
    }

    #[test]
    fn bytes_are_numbered_from_the_exclamation_mark() {
        let mut ids = Vec::new();
        small().encode("!\0!", &mut ids);
        assert_eq!(ids, [0, 188, 256]);
    }

    #[test]
    fn errors_name_the_merge() {
        assert_eq!(
            parse_merges("#version: 0.2\na b\na b c\n"),
            Err(VocabularyError::Merge {
                line: 2,
                found: "a b c".into()
            })
        );
        let error = |merges| Bpe::from_merges(&parse_merges(merges).expect("merges")).map(|_| ());
        assert_eq!(
            error("a zz"),
            Err(VocabularyError::Missing {
                symbol: "zz".into()
            })
        );
        assert_eq!(
            error("a 日"),
            Err(VocabularyError::NotBytes {
                symbol: "a日".into(),
                found: '日'
            })
        );
    }
}
