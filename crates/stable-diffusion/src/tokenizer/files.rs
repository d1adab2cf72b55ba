//! A model's own tokenizer: the files of its `tokenizer` folder.

use std::collections::{HashMap, HashSet};
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
        let config = optional(folder, "tokenizer_config.json")?;
        let map = optional(folder, "special_tokens_map.json")?;
        let (vocabulary, bpe) = vocabulary(folder, &tokens(&[&config, &map]))?;
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

/// The vocabulary and the merges, which must make all of it but `tokens`.
fn vocabulary(
    folder: &Path,
    tokens: &HashSet<String>,
) -> Result<(HashMap<String, u32>, Bpe), TokenizerError> {
    let (file, vocabulary, merges) =
        if folder.join("vocab.json").exists() && folder.join("merges.txt").exists() {
            let vocabulary = parse("vocab.json", &read(folder, "vocab.json")?)?;
            let file = "merges.txt";
            (file, vocabulary, parse_merges(&read(folder, file)?))
        } else {
            let file = "tokenizer.json";
            let Fast {
                model,
                added_tokens,
            } = parse(file, &read(folder, file)?)?;
            let mut vocabulary = model.vocab;
            vocabulary.extend(added_tokens.into_iter().map(|it| (it.content, it.id)));
            let merges = model.merges.into_iter().enumerate();
            let merges = merges.map(|(i, merge)| match merge {
                Merge::Line(line) => pair(i + 1, &line),
                Merge::Pair(a, b) => Ok((a, b)),
            });
            (file, vocabulary, merges.collect())
        };
    let bpe = merges
        .and_then(|merges| {
            let bpe = Bpe::new(&vocabulary, &merges)?;
            bpe.makes(&vocabulary, |symbol| {
                tokens.contains(symbol) || is_written_as_token(symbol)
            })?;
            Ok(bpe)
        })
        .map_err(|error| TokenizerError::Vocabulary { file, error })?;
    Ok((vocabulary, bpe))
}

/// The tokens that a model's files name: they are in the vocabulary, and no merge makes them.
fn tokens(files: &[&Value]) -> HashSet<String> {
    const ROLES: [&str; 4] = ["bos_token", "eos_token", "pad_token", "unk_token"];
    let mut tokens = HashSet::new();
    for file in files {
        let roles = ROLES.iter().map(|&role| &file[role]);
        let more = file["additional_special_tokens"].as_array();
        let added = file["added_tokens_decoder"].as_object();
        let named = roles
            .chain(more.into_iter().flatten())
            .chain(added.into_iter().flat_map(|it| it.values()));
        tokens.extend(named.filter_map(content).map(String::from));
    }
    tokens
}

/// `<|startoftext|>`, `<concept>`: words hold no letter or digit beside a bracket, so no merge makes one.
fn is_written_as_token(symbol: &str) -> bool {
    symbol
        .strip_prefix('<')
        .and_then(|rest| rest.strip_suffix('>'))
        .is_some_and(|inner| inner.contains(char::is_alphanumeric))
        && !symbol.ends_with("</w>")
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
