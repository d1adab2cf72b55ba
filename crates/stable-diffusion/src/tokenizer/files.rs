//! A model's own tokenizer: the files of its `tokenizer` folder.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

use super::bpe::{Bpe, pair, parse_merges};
use super::{Tokenizer, TokenizerError};

/// The longest file that is read, in bytes. CLIP's tokenizer.json has 2 MB.
const MAX_FILE: u64 = 64 << 20;

/// Tokens of a prompt with its start and end, where the files do not say.
const CONTEXT: usize = 77;

/// The longest context that is believed; transformers writes 10³⁰ where a tokenizer has no limit.
const LONGEST_CONTEXT: u64 = 4096;

/// `tokenizer.json`, as far as it concerns byte-pair encoding.
#[derive(Deserialize)]
struct Fast {
    model: Model,
    #[serde(default)]
    added_tokens: Vec<Added>,
}

#[derive(Deserialize)]
struct Model {
    vocab: HashMap<String, u32>,
    merges: Vec<Merge>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Merge {
    Line(String),
    Pair(String, String),
}

#[derive(Deserialize)]
struct Added {
    id: u32,
    content: String,
}

impl Tokenizer {
    /// Reads the files of a model's `tokenizer` folder.
    ///
    /// `vocab.json` with `merges.txt`, or `tokenizer.json`; then, where they are there, `special_tokens_map.json` and
    /// `tokenizer_config.json` say what pads, starts and ends a prompt and how long it may be.
    /// Without them it is as in Stable Diffusion 1.5: 77 tokens, padded with the end token.
    ///
    /// # Errors
    ///
    /// [`TokenizerError`] names the file, and what in it is missing or wrong.
    pub fn load(folder: &Path) -> Result<Self, TokenizerError> {
        let (vocabulary, bpe) = vocabulary(folder)?;
        let config = optional(folder, "tokenizer_config.json")?;
        let map = optional(folder, "special_tokens_map.json")?;
        // As transformers reads them: the map of older models goes before their configuration.
        let order = if config.get("added_tokens_decoder").is_some() {
            [&config, &map]
        } else {
            [&map, &config]
        };
        let special = |role: &'static str, usual: &str| {
            let token = order
                .iter()
                .find_map(|file| content(&file[role]))
                .unwrap_or(usual);
            let id = vocabulary.get(token).copied();
            id.ok_or_else(|| TokenizerError::Special {
                role,
                token: token.into(),
            })
        };
        let end_text = order
            .iter()
            .find_map(|file| content(&file["eos_token"]))
            .unwrap_or("<|endoftext|>");
        let context = match &config["model_max_length"] {
            Value::Number(number) => match number.as_u64() {
                Some(context) if context < 3 => {
                    return Err(TokenizerError::Context { found: context });
                }
                Some(context) if context <= LONGEST_CONTEXT => context as usize,
                _ => CONTEXT,
            },
            _ => CONTEXT,
        };
        Ok(Self {
            bpe,
            start: special("bos_token", "<|startoftext|>")?,
            end: special("eos_token", "<|endoftext|>")?,
            pad: special("pad_token", end_text)?,
            comma: vocabulary.get(",</w>").copied(),
            context,
        })
    }
}

fn vocabulary(folder: &Path) -> Result<(HashMap<String, u32>, Bpe), TokenizerError> {
    if folder.join("vocab.json").exists() && folder.join("merges.txt").exists() {
        let vocabulary = parse("vocab.json", &read(folder, "vocab.json")?)?;
        let file = "merges.txt";
        let bpe = parse_merges(&read(folder, file)?)
            .and_then(|merges| Bpe::new(&vocabulary, &merges))
            .map_err(|error| TokenizerError::Vocabulary { file, error })?;
        return Ok((vocabulary, bpe));
    }
    let file = "tokenizer.json";
    let fast: Fast = parse(file, &read(folder, file)?)?;
    let mut vocabulary = fast.model.vocab;
    vocabulary.extend(fast.added_tokens.into_iter().map(|it| (it.content, it.id)));
    let bpe = fast
        .model
        .merges
        .into_iter()
        .enumerate()
        .map(|(i, merge)| match merge {
            Merge::Line(line) => pair(i + 1, &line),
            Merge::Pair(a, b) => Ok((a, b)),
        })
        .collect::<Result<Vec<_>, _>>()
        .and_then(|merges| Bpe::new(&vocabulary, &merges))
        .map_err(|error| TokenizerError::Vocabulary { file, error })?;
    Ok((vocabulary, bpe))
}

/// A special token is a string, or an object with more about it.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value["content"].as_str())
}

/// A file that a tokenizer can do without.
fn optional(folder: &Path, file: &'static str) -> Result<Value, TokenizerError> {
    if folder.join(file).exists() {
        parse(file, &read(folder, file)?)
    } else {
        Ok(Value::Null)
    }
}

fn parse<T: for<'a> Deserialize<'a>>(file: &'static str, text: &str) -> Result<T, TokenizerError> {
    serde_json::from_str(text).map_err(|error| TokenizerError::Json { file, error })
}

fn read(folder: &Path, file: &'static str) -> Result<String, TokenizerError> {
    let io = |error| TokenizerError::Io { file, error };
    let mut text = String::new();
    let found = File::open(folder.join(file))
        .and_then(|opened| opened.take(MAX_FILE + 1).read_to_string(&mut text))
        .map_err(io)?;
    if found as u64 > MAX_FILE {
        return Err(TokenizerError::TooLarge {
            file,
            limit: MAX_FILE,
        });
    }
    Ok(text)
}
