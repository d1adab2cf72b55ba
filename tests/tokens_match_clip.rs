//! A prompt has the tokens that CLIP was trained on: those of OpenAI's tokenizer with ftfy, exactly.
//!
//! `CLEARWAY_TOKENS` names another file of `tests/golden/stable_diffusion/tokens.py` to compare with.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use clearway_stable_diffusion::Tokenizer;
use clearway_tests::repository;
use serde_json::Value;

type Failure = Box<dyn std::error::Error>;

/// How many strings that differ are shown.
const SHOWN: usize = 20;

/// Compares, and returns the number of strings.
fn compare(cases: &Value) -> Result<usize, Failure> {
    let tokenizer = Tokenizer::clip();
    let cases = cases.as_array().ok_or("no cases")?;
    let mut differ = BTreeMap::new();
    for case in cases {
        let text = case["text"].as_str().ok_or("no text")?;
        let theirs: Vec<u32> = serde_json::from_value(case["ids"].clone())?;
        let ours = tokenizer.encode(text);
        if ours != theirs {
            differ.insert(text, (ours, theirs));
        }
    }
    for (text, (ours, theirs)) in differ.iter().take(SHOWN) {
        let [ours, theirs] = [ours, theirs].map(|ids| tokenizer.decode(ids));
        eprintln!("{text:?}\n  ours   {ours:?}\n  theirs {theirs:?}");
    }
    assert!(
        differ.is_empty(),
        "{} of {} strings have other tokens",
        differ.len(),
        cases.len()
    );
    Ok(cases.len())
}

fn read(path: PathBuf) -> Result<Value, Failure> {
    Ok(serde_json::from_str(&fs::read_to_string(path)?)?)
}

#[test]
fn the_thirty_prompts() -> Result<(), Failure> {
    let goldens = read(repository(
        "tests/golden/stable_diffusion/clip_token_goldens.json",
    ))?;
    assert_eq!(compare(&goldens)?, 30);
    Ok(())
}

#[test]
fn strings_that_cleaning_touches() -> Result<(), Failure> {
    let path = std::env::var_os("CLEARWAY_TOKENS").map_or_else(
        || repository("tests/golden/stable_diffusion/tokens.json"),
        PathBuf::from,
    );
    let compared = compare(&read(path)?["cases"])?;
    assert!(compared >= 400, "{compared}");
    Ok(())
}
