//! Repairs of text that went wrong on its way: `fix_text` of ftfy 6.3.1 (Robyn Speer, Apache License 2.0).
//!
//! CLIP's tokenizer begins with it, and so CLIP's captions never had a curly quotation mark in them.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use unicode_normalization::UnicodeNormalization;

use super::entities::{entity, unescape};
use super::mojibake;

/// The longest piece that is repaired as one, in characters.
const LONGEST_SEGMENT: usize = 1_000_000;

/// Repairs `text` line by line.
///
/// A line with a `<` is HTML: from there on character references stay as they are.
pub(super) fn repair(text: &str) -> String {
    let mut references = true;
    let mut out = String::with_capacity(text.len());
    for line in text.split_inclusive('\n') {
        let mut rest = line;
        while !rest.is_empty() {
            let end = rest
                .char_indices()
                .nth(LONGEST_SEGMENT)
                .map_or(rest.len(), |(end, _)| end);
            let (segment, after) = rest.split_at(end);
            references &= !segment.contains('<');
            out.push_str(&repair_segment(segment, references));
            rest = after;
        }
    }
    out
}

fn repair_segment(segment: &str, references: bool) -> String {
    let mut text = segment.to_owned();
    loop {
        let mut better = text.clone();
        if references {
            better = REFERENCE
                .replace_all(&better, |found: &Captures<'_>| reference(&found[0]))
                .into_owned();
        }
        better = mojibake::repair_controls(&mojibake::repair(&better));
        better = characters(&better);
        better = ESCAPE.replace_all(&better, "").into_owned();
        better.retain(|c| !is_control(c));
        better = better.nfc().collect();
        if better == text {
            return better;
        }
        text = better;
    }
}

static REFERENCE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new("&#?[0-9A-Za-z]{1,24};").expect("a constant"));

/// The sequences that colour a terminal.
static ESCAPE: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\x1b\[[\d;]*[a-zA-Z]").expect("a constant"));

/// What a character reference stands for; also one in capitals, as in `P&EACUTE;REZ`.
fn reference(name: &str) -> String {
    if let Some(value) = entity(name) {
        return value.to_owned();
    }
    let plain = unescape(name);
    if name.starts_with("&#") {
        // A reference to a semicolon stays, as in ftfy.
        return if plain.contains(';') {
            name.to_owned()
        } else {
            plain
        };
    }
    let lower = name.to_lowercase();
    match entity(&lower) {
        Some(value) if plain == name && lower.to_uppercase() == name => value.to_uppercase(),
        _ => name.to_owned(),
    }
}

/// Ligatures, widths, quotation marks and line breaks.
fn characters(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match ligature(c) {
            Some(letters) => letters.chars().for_each(|c| push(c, &mut out)),
            None => push(c, &mut out),
        }
    }
    // Two characters are one line break.
    out.replace("\r\n", "\n").replace('\r', "\n")
}

fn push(c: char, out: &mut String) {
    match c {
        '\u{3000}' => out.push(' '),
        '\u{ff01}'..='\u{ffef}' => out.extend(std::iter::once(c).nfkc()),
        '\u{2bc}' | '\u{2018}'..='\u{201b}' => out.push('\''),
        '\u{201c}'..='\u{201f}' => out.push('"'),
        '\u{85}' | '\u{2028}' | '\u{2029}' => out.push('\n'),
        _ => out.push(c),
    }
}

/// The letters of a Latin ligature or digraph.
fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'Ĳ' => "IJ",
        'ĳ' => "ij",
        'ŉ' => "ʼn",
        'Ǳ' => "DZ",
        'ǲ' => "Dz",
        'ǳ' => "dz",
        'Ǆ' => "DŽ",
        'ǅ' => "Dž",
        'ǆ' => "dž",
        'Ǉ' => "LJ",
        'ǈ' => "Lj",
        'ǉ' => "lj",
        'Ǌ' => "NJ",
        'ǋ' => "Nj",
        'ǌ' => "nj",
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' => "ſt",
        'ﬆ' => "st",
        _ => return None,
    })
}

/// Control characters without an effect that is meant; those for white space and for joining letters stay.
fn is_control(c: char) -> bool {
    matches!(
        c,
        '\0'..='\x08'
            | '\x0b'
            | '\x0e'..='\x1f'
            | '\x7f'
            | '\u{206a}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffc}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_look_alike() {
        assert_eq!(
            repair("\u{201c}here\u{2019}s a test\u{201d}"),
            "\"here's a test\""
        );
        assert_eq!(repair("ﬂuﬃeﬆ ŉ"), "fluffiest 'n");
        assert_eq!(repair("ＬＯＵＤ　ＮＯＩＳＥＳ"), "LOUD NOISES");
        assert_eq!(repair("Ｕﾀｰﾝ"), "Uターン");
        assert_eq!(repair("e\u{301}"), "é");
    }

    #[test]
    fn control_characters() {
        assert_eq!(repair("\u{1b}[36;44mblue\u{1b}[0m"), "blue");
        assert_eq!(repair("a\u{feff}b\0c\u{200d}d"), "abc\u{200d}d");
        assert_eq!(repair("a\r\nb\rc\u{2028}d"), "a\nb\nc\nd");
    }

    #[test]
    fn character_references() {
        assert_eq!(
            repair("&amp;amp; P&EACUTE;REZ &nTILDE; &SZLIG;"),
            "& PÉREZ &nTILDE; SS"
        );
        assert_eq!(repair("&#59; &#x41;"), "&#59; A");
        assert_eq!(repair("<b>&amp;"), "<b>&amp;");
        assert_eq!(repair("&lt;\n<\n&lt;"), "<\n<\n&lt;");
    }
}
