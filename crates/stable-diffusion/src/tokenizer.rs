//! From a prompt to the numbers that CLIP's text encoder reads.
//!
//! ```text
//! text --repair, clean--> words --byte-pair encoding--> tokens --start, end, padding--> chunks of 77
//! ```
//!
//! Exactly as OpenAI's tokenizer with ftfy, which CLIP was trained with.

mod bpe;
mod clean;
mod encoding;
mod entities;
mod files;
mod mojibake;
mod repair;

use std::sync::LazyLock;

use regex::Regex;

pub use bpe::VocabularyError;

use bpe::{Bpe, parse_merges};

/// OpenAI's merges for CLIP: the first 48,894 of `bpe_simple_vocab_16e6.txt`; see `LICENSE-CLIP` beside it.
const MERGES: &str = include_str!("tokenizer/merges.txt");

/// Why a tokenizer could not be loaded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TokenizerError {
    /// A file cannot be opened or read, or is not UTF-8.
    #[error("{file} cannot be read: {error}")]
    Io {
        /// The file's name.
        file: &'static str,
        /// Why.
        error: std::io::Error,
    },
    /// A file is longer than a tokenizer's is.
    #[error("{file} has more than {limit} bytes")]
    TooLarge {
        /// The file's name.
        file: &'static str,
        /// The limit, in bytes.
        limit: u64,
    },
    /// A file is not the JSON that it should be.
    #[error("{file} is not a tokenizer's: {error}")]
    Json {
        /// The file's name.
        file: &'static str,
        /// What is wrong, and where.
        error: serde_json::Error,
    },
    /// Symbols and merges do not fit.
    #[error("{file}: {error}")]
    Vocabulary {
        /// The file's name.
        file: &'static str,
        /// What is wrong.
        error: VocabularyError,
    },
    /// A special token has no number.
    #[error("the {role} `{token}` is not in the vocabulary")]
    Special {
        /// What it is for, as the files call it.
        role: &'static str,
        /// The token.
        token: String,
    },
    /// There is no room for a token between start and end.
    #[error("model_max_length is {found}; 3 is the least that holds a token between start and end")]
    Context {
        /// What the file says, in tokens.
        found: u64,
    },
}

/// CLIP's byte-pair tokenizer.
///
/// Radford et al., "Learning Transferable Visual Models From Natural Language Supervision", 2021, arXiv:2103.00020,
/// section 2.4; OpenAI's `simple_tokenizer.py`.
///
/// ```
/// use clearway_stable_diffusion::Tokenizer;
///
/// let tokenizer = Tokenizer::clip();
/// let tokens = tokenizer.encode("A photograph of an astronaut riding a horse");
/// assert_eq!(tokens, [320, 8853, 539, 550, 18376, 6765, 320, 4558]);
/// assert_eq!(tokenizer.decode(&tokens), "a photograph of an astronaut riding a horse");
/// ```
#[derive(Clone, Debug)]
pub struct Tokenizer {
    bpe: Bpe,
    start: u32,
    end: u32,
    pad: u32,
    comma: Option<u32>,
    context: usize,
}

/// Words: the special tokens written out, English contractions, letters, one digit, or anything else.
///
/// U+0345 is in none: a mark whose capital is a letter is neither to a pattern that ignores case, as the original does.
static WORD: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?i:<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d)|\p{L}+|\p{N}|[^\s\p{L}\p{N}\u{345}]+",
    )
    .expect("a constant")
});

impl Tokenizer {
    /// The tokenizer of Stable Diffusion 1.5: OpenAI's vocabulary, 77 tokens, padded with the end token.
    ///
    /// # Panics
    ///
    /// Never: the vocabulary is part of the program.
    pub fn clip() -> Self {
        let merges = parse_merges(MERGES).expect("the file beside this one");
        let bpe = Bpe::from_merges(&merges).expect("the file beside this one");
        // After 256 bytes, 256 bytes that end a word, and the merges.
        let start = 512 + merges.len() as u32;
        let mut tokenizer = Self {
            bpe,
            start,
            end: start + 1,
            pad: start + 1,
            comma: None,
            context: 77,
        };
        tokenizer.comma = tokenizer.encode(",").first().copied();
        tokenizer
    }

    /// The same with another token for padding: 0 for Stable Diffusion 2.
    #[must_use]
    pub fn with_padding(self, pad: u32) -> Self {
        Self { pad, ..self }
    }

    /// The tokens of `text` alone: no start, no end, no padding, however many there are.
    ///
    /// `<|startoftext|>` and `<|endoftext|>` in the text are those tokens, as in OpenAI's.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        for word in WORD.find_iter(&clean::clean(text)) {
            match word.as_str() {
                "<|startoftext|>" => ids.push(self.start),
                "<|endoftext|>" => ids.push(self.end),
                word => self.bpe.encode(word, &mut ids),
            }
        }
        ids
    }

    /// The text of tokens, with a space after every word.
    ///
    /// Start, end and numbers that are no token's are left out; bytes that are no UTF-8 are U+FFFD, which is so where
    /// a character was cut in two.
    pub fn decode(&self, tokens: &[u32]) -> String {
        let mut bytes = Vec::new();
        for &token in tokens {
            if let Some((symbol, ends_word)) = self.bpe.symbol(token) {
                bytes.extend_from_slice(symbol);
                if ends_word {
                    bytes.push(b' ');
                }
            }
        }
        bytes.pop_if(|last| *last == b' ');
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The token that starts every chunk.
    pub fn start(&self) -> u32 {
        self.start
    }

    /// The token that ends every chunk.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// The token that fills a chunk after its end.
    pub fn pad(&self) -> u32 {
        self.pad
    }

    /// The length of a chunk, in tokens, with its start and end.
    pub fn context(&self) -> usize {
        self.context
    }

    /// The token of a comma, where prompts are best divided.
    pub(crate) fn comma(&self) -> Option<u32> {
        self.comma
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::clip);

    #[test]
    fn special_tokens_end_the_vocabulary() {
        assert_eq!(
            (CLIP.start(), CLIP.end(), CLIP.pad()),
            (49406, 49407, 49407)
        );
        assert_eq!(CLIP.encode("<|StartOfText|> <|endoftext|>"), [49406, 49407]);
        assert_eq!(CLIP.comma(), Some(267));
        assert_eq!(CLIP.clone().with_padding(0).pad(), 0);
    }

    #[test]
    fn a_long_word_takes_no_longer_than_many_short_ones() {
        let ids = CLIP.encode(&"ab".repeat(500_000));
        assert_eq!(CLIP.decode(&ids), "ab".repeat(500_000));
    }

    #[test]
    fn bytes_of_a_divided_character_are_replaced() {
        let ids = CLIP.encode("🜲");
        assert!(ids.len() > 1);
        assert_eq!(CLIP.decode(&ids), "🜲");
        assert_eq!(CLIP.decode(&ids[..1]), "\u{fffd}");
    }

    proptest! {
        #[test]
        fn any_text_has_tokens(text in any::<String>()) {
            for token in CLIP.encode(&text) {
                prop_assert!(token <= CLIP.end());
            }
        }

        // What text of ASCII decodes to has the same tokens: spaces are all that is added.
        #[test]
        fn ascii_survives(text in "[ -~]{0,60}") {
            let ids: Vec<u32> = CLIP.encode(&text);
            prop_assume!(!ids.contains(&CLIP.start()) && !ids.contains(&CLIP.end()));
            prop_assert_eq!(&CLIP.encode(&CLIP.decode(&ids)), &ids);
        }
    }

    /// A folder with CLIP's vocabulary, as diffusers writes it.
    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a folder");
        let mut vocabulary = serde_json::Map::new();
        let written = |id| {
            let (bytes, ends) = CLIP.bpe.symbol(id)?;
            let letters: String = bytes.iter().map(|&byte| letter(byte)).collect();
            Some(letters + if ends { "</w>" } else { "" })
        };
        for id in 0..CLIP.start() {
            vocabulary.insert(written(id).expect("a symbol"), id.into());
        }
        vocabulary.insert("<|startoftext|>".into(), CLIP.start().into());
        vocabulary.insert("<|endoftext|>".into(), CLIP.end().into());
        let text = serde_json::to_string(&vocabulary).expect("JSON");
        fs::write(folder.path().join("vocab.json"), text).expect("a file");
        fs::write(folder.path().join("merges.txt"), MERGES).expect("a file");
        folder
    }

    /// GPT-2's letter for a byte.
    fn letter(byte: u8) -> char {
        let plain = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        if plain(byte) {
            char::from(byte)
        } else {
            let before = (0..byte).filter(|&byte| !plain(byte)).count() as u32;
            char::from_u32(0x100 + before).expect("a letter")
        }
    }

    fn write(folder: &tempfile::TempDir, file: &str, value: &serde_json::Value) {
        fs::write(folder.path().join(file), value.to_string()).expect("a file");
    }

    const TEXT: &str = "A cat's “photo”, 日本 (1/60 s)";

    #[test]
    fn a_folder_has_its_own_vocabulary_and_special_tokens() {
        let folder = folder();
        let loaded = Tokenizer::load(folder.path()).expect("a tokenizer");
        assert_eq!(loaded.encode(TEXT), CLIP.encode(TEXT));
        assert_eq!((loaded.pad(), loaded.context()), (49407, 77));
        assert_eq!(loaded.comma(), CLIP.comma());

        write(
            &folder,
            "tokenizer_config.json",
            &json!({"pad_token": "<|endoftext|>", "model_max_length": 32, "bos_token": {"content": "<|startoftext|>"}}),
        );
        // Stable Diffusion 2 says it here.
        write(
            &folder,
            "special_tokens_map.json",
            &json!({"pad_token": "!"}),
        );
        let loaded = Tokenizer::load(folder.path()).expect("a tokenizer");
        assert_eq!((loaded.start(), loaded.end()), (49406, 49407));
        assert_eq!((loaded.pad(), loaded.context()), (0, 32));
    }

    #[test]
    fn one_file_holds_it_all() {
        let folder = folder();
        let vocab: serde_json::Value = serde_json::from_str(
            &fs::read_to_string(folder.path().join("vocab.json")).expect("a file"),
        )
        .expect("JSON");
        let lines: Vec<&str> = MERGES.lines().skip(1).collect();
        let pairs: Vec<Vec<&str>> = lines.iter().map(|line| line.split(' ').collect()).collect();
        fs::remove_file(folder.path().join("vocab.json")).expect("a file");
        for merges in [json!(lines), json!(pairs)] {
            write(
                &folder,
                "tokenizer.json",
                &json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}}),
            );
            let loaded = Tokenizer::load(folder.path()).expect("a tokenizer");
            assert_eq!(loaded.encode(TEXT), CLIP.encode(TEXT));
        }
    }

    #[test]
    fn what_is_wrong_with_a_folder_is_named() {
        let folder = folder();
        let error = || {
            Tokenizer::load(folder.path())
                .expect_err("no tokenizer")
                .to_string()
        };
        write(
            &folder,
            "special_tokens_map.json",
            &json!({"pad_token": "<pad>"}),
        );
        assert_eq!(error(), "the pad_token `<pad>` is not in the vocabulary");
        write(&folder, "special_tokens_map.json", &json!({}));
        write(
            &folder,
            "tokenizer_config.json",
            &json!({"model_max_length": 2}),
        );
        assert!(error().contains("model_max_length is 2"));
        fs::remove_file(folder.path().join("tokenizer_config.json")).expect("a file");
        write(&folder, "vocab.json", &json!({"!": 0}));
        assert_eq!(
            error(),
            "merges.txt: symbol `!</w>` is not in the vocabulary"
        );
        fs::write(folder.path().join("vocab.json"), "{\"!\": ").expect("a file");
        assert!(error().starts_with("vocab.json is not a tokenizer's: EOF"));
        fs::remove_file(folder.path().join("merges.txt")).expect("a file");
        assert!(error().starts_with("tokenizer.json cannot be read"));
    }

    #[test]
    fn any_file_cut_short_is_an_error_that_names_it() {
        let folder = folder();
        let read = |file| fs::read_to_string(folder.path().join(file)).expect("a file");
        let (vocabulary, merges) = (read("vocab.json"), read("merges.txt"));
        let fast = json!({
            "model": {
                "type": "BPE",
                "vocab": serde_json::from_str::<serde_json::Value>(&vocabulary).expect("JSON"),
                "merges": merges.lines().skip(1).collect::<Vec<_>>(),
            },
        })
        .to_string();
        let config = json!({"pad_token": {"content": "!"}, "model_max_length": 77}).to_string();

        // Loads the folder with one file cut at some bytes; each cut must be an error.
        let cut = |file: &str, text: &str, cuts: &[usize]| {
            for &at in cuts {
                fs::write(folder.path().join(file), &text[..at]).expect("a file");
                let error = Tokenizer::load(folder.path()).expect_err("a file is cut short");
                assert!(
                    error.to_string().starts_with(file),
                    "{file} at {at}: {error}"
                );
            }
            fs::write(folder.path().join(file), text).expect("a file");
            Tokenizer::load(folder.path()).expect("whole files");
        };
        // The ends of lines are where a cut leaves a file that is well formed.
        let ends: Vec<usize> = merges.match_indices('\n').map(|(at, _)| at + 1).collect();
        let last = ends[ends.len() - 2];
        let of_merges = [
            0,
            ends[0],
            ends[1],
            ends[20_000],
            last,
            last - 1,
            last + 1,
            last + 3,
            merges.len() - 3,
        ];
        cut("merges.txt", &merges, &of_merges);
        for (file, text) in [
            ("vocab.json", &vocabulary),
            ("tokenizer_config.json", &config),
            ("special_tokens_map.json", &config),
        ] {
            cut(file, text, &[0, 1, text.len() / 2, text.len() - 1]);
        }
        fs::remove_file(folder.path().join("merges.txt")).expect("a file");
        cut(
            "tokenizer.json",
            &fast,
            &[0, 1, fast.len() / 2, fast.len() - 1],
        );

        // Whole as JSON, and yet short of its last merge.
        let mut short: serde_json::Value = serde_json::from_str(&fast).expect("JSON");
        let merges = short["model"]["merges"].as_array_mut().expect("merges");
        merges.pop();
        write(&folder, "tokenizer.json", &short);
        let error = Tokenizer::load(folder.path()).expect_err("a merge is missing");
        assert_eq!(
            error.to_string(),
            "tokenizer.json: 1 of the vocabulary's symbols can be made by no merge, first `jekyll</w>`: the merges are \
             cut short"
        );
    }

    #[test]
    fn tokens_of_their_own_need_no_merge() {
        let folder = folder();
        let path = folder.path().join("vocab.json");
        let mut vocabulary: serde_json::Value =
            serde_json::from_str(&fs::read_to_string(&path).expect("a file")).expect("JSON");
        vocabulary["<my-cat>"] = 49408.into();
        vocabulary["mycat"] = 49409.into();
        write(&folder, "vocab.json", &vocabulary);
        let error = Tokenizer::load(folder.path()).expect_err("nothing makes `mycat`");
        assert!(error.to_string().contains("first `mycat`"), "{error}");
        write(
            &folder,
            "special_tokens_map.json",
            &json!({"additional_special_tokens": ["mycat"]}),
        );
        Tokenizer::load(folder.path()).expect("a tokenizer");
    }
}
