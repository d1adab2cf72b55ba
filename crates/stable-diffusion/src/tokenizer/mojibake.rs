//! Text that was UTF-8 and was read as something else: `â€™` for `’`.
//!
//! What is unlikely to be meant, and which encodings are tried, is as in `fix_encoding` of ftfy 6.3.1 (Robyn Speer);
//! CLIP's captions went through it. The groups and patterns are ftfy's, under the Apache License 2.0.

use std::sync::LazyLock;

use regex::{Regex, bytes};

use super::encoding::{CLUES, Clues, Encoding, SUBSTITUTE, TRIED, windows_1252};

/// Repairs `text` until nothing changes.
pub(super) fn repair(text: &str) -> String {
    let mut text = text.to_owned();
    while let Some(better) = step(&text) {
        text = better;
    }
    text
}

/// What C1 control characters mean in Windows-1252; the five that mean nothing stay.
pub(super) fn repair_controls(text: &str) -> String {
    text.chars().map(|c| windows_1252(c).unwrap_or(c)).collect()
}

/// One repair, or `None` where none is needed or known.
fn step(text: &str) -> Option<String> {
    if text.is_ascii() || !is_unlikely(text) {
        return None;
    }
    for encoding in TRIED.iter() {
        if let Some(decoded) = encoding
            .encode(text)
            .and_then(|bytes| decode(encoding, bytes))
        {
            return (decoded != text).then_some(decoded);
        }
    }
    [repair_parts(text), repair_controls(text)]
        .into_iter()
        .find(|repaired| repaired != text)
}

/// Reads bytes as UTF-8 once more; `None` if they are not.
fn decode(encoding: &Encoding, mut bytes: Vec<u8>) -> Option<String> {
    if encoding.restores_spaces && SPACED.is_match(&bytes) {
        bytes = restore_spaces(&bytes);
    }
    if encoding.lenient {
        bytes = LOSSY
            .replace_all(&bytes, "\u{fffd}".as_bytes())
            .into_owned();
    }
    decode_utf8(&bytes)
}

/// Puts no-break spaces (byte 0xa0) back where a space broke a sequence of UTF-8.
///
/// `Ã la` keeps its space, as the French word does, unless a Portuguese one follows.
fn restore_spaces(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    for (i, &byte) in bytes.iter().enumerate() {
        kept.push(byte);
        let word = bytes.get(i + 2..).unwrap_or_default();
        if byte == 0xc3
            && bytes.get(i + 1) == Some(&b' ')
            && ![" ", "quele", "quela", "quilo", "s "]
                .iter()
                .any(|&other| word.starts_with(other.as_bytes()))
        {
            kept.push(0xa0);
        }
    }
    SPACED
        .replace_all(&kept, |found: &bytes::Captures<'_>| {
            found[0]
                .iter()
                .map(|&byte| if byte == b' ' { 0xa0 } else { byte })
                .collect::<Vec<u8>>()
        })
        .into_owned()
}

/// UTF-8, and what other programs take for it: a character above U+FFFF as two surrogates of three bytes each (CESU-8),
/// U+0000 as two bytes (Java).
fn decode_utf8(bytes: &[u8]) -> Option<String> {
    // ftfy's patterns take the line break that ends a text for the byte that is missing before it.
    let ends = |i: usize| i == bytes.len() || (i + 1 == bytes.len() && bytes[i] == b'\n');
    let within = |i: usize, from: u8, to: u8| bytes.get(i).is_some_and(|b| (from..=to).contains(b));
    let mut out = String::new();
    let mut begun = 0;
    let mut i = 0;
    while i < bytes.len() {
        let (c, length) = match bytes[i] {
            0xc0 if within(i + 1, 0x80, 0x80) || ends(i + 1) => ('\0', 2),
            0xed if within(i + 1, 0xa0, 0xaf)
                && within(i + 2, 0x80, 0xbf)
                && within(i + 3, 0xed, 0xed)
                && within(i + 4, 0xb0, 0xbf)
                && i + 6 <= bytes.len()
                && (within(i + 5, 0x80, 0xbf) || ends(i + 5)) =>
            {
                let bits = |at: usize, mask: u8| u32::from(bytes[i + at] & mask);
                let point = 0x10000
                    + (bits(1, 0x0f) << 16)
                    + (bits(2, 0x3f) << 10)
                    + (bits(4, 0x0f) << 6)
                    + bits(5, 0x3f);
                (char::from_u32(point)?, 6)
            }
            _ => {
                i += 1;
                continue;
            }
        };
        if i + length > bytes.len() {
            return None;
        }
        out.push_str(std::str::from_utf8(&bytes[begun..i]).ok()?);
        out.push(c);
        i += length;
        begun = i;
    }
    out.push_str(std::str::from_utf8(&bytes[begun..]).ok()?);
    Some(out)
}

/// Repairs the parts of a text that look like UTF-8 on their own, where the whole does not.
fn repair_parts(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    let mut before = None;
    while let Some(c) = rest.chars().next() {
        let length = match before {
            // In the middle of a garble, a part would make things worse.
            Some(before) if CLUES.is_continuation_for_certain(before) => 0,
            _ => CLUES.sequences(rest),
        };
        if length == 0 {
            out.push(c);
            before = Some(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let (part, after) = rest.split_at(length);
        // A part is shorter than the whole, or this would not end.
        if part.len() < text.len() && is_unlikely(part) {
            out.push_str(&repair(part));
        } else {
            out.push_str(part);
        }
        before = part.chars().next_back();
        rest = after;
    }
    out
}

impl Clues {
    fn is_continuation_for_certain(&self, c: char) -> bool {
        self.continuation.contains(&c) && !PUNCTUATION.contains(c)
    }

    /// The bytes of `text` that look like sequences of UTF-8 from its start on.
    fn sequences(&self, text: &str) -> usize {
        let mut end = 0;
        loop {
            let mut chars = text[end..].chars();
            let follow = match chars.next() {
                Some(c) if self.first_of_2.contains(&c) => 1,
                Some(c) if self.first_of_3.contains(&c) => 2,
                Some(c) if self.first_of_4.contains(&c) => 3,
                _ => return end,
            };
            for _ in 0..follow {
                // A space may have been a no-break space.
                match chars.next() {
                    Some(c) if c == ' ' || self.continuation.contains(&c) => {}
                    _ => return end,
                }
            }
            end = text.len() - chars.as_str().len();
        }
    }
}

/// Continuations that stand for themselves often enough beside mojibake.
const PUNCTUATION: &str = "–—―‘’‚“”„•…";

/// Sequences that would be UTF-8 with 0xa0 in place of a space.
static SPACED: LazyLock<bytes::Regex> = LazyLock::new(|| {
    bytes::Regex::new(
        r"(?-u)[\xc2\xc3\xc5\xce\xd0\xd9] |[\xe2\xe3] [\x80-\x84\x86-\x9f\xa1-\xbf]|[\xe0-\xe3][\x80-\x84\x86-\x9f\xa1-\xbf] |\xf0 [\x80-\xbf][\x80-\xbf]|\xf0[\x80-\xbf] [\x80-\xbf]|\xf0[\x80-\xbf][\x80-\xbf] ",
    )
    .expect("a constant")
});

/// Sequences of UTF-8 of which bytes were lost, and single bytes that were.
static LOSSY: LazyLock<bytes::Regex> = LazyLock::new(|| {
    debug_assert_eq!(SUBSTITUTE, 0x1a);
    bytes::Regex::new(
        r"(?-u)[\xc2-\xdf]\x1a|[\xc2-\xc3]\?|\xed[\xa0-\xaf][\x1a?]\xed[\xb0-\xbf][\x1a?\x80-\xbf]|\xed[\xa0-\xaf][\x1a?\x80-\xbf]\xed[\xb0-\xbf][\x1a?]|[\xe0-\xef][\x1a?][\x1a\x80-\xbf]|[\xe0-\xef][\x1a\x80-\xbf][\x1a?]|[\xf0-\xf4][\x1a?][\x1a\x80-\xbf][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a?][\x1a\x80-\xbf]|[\xf0-\xf4][\x1a\x80-\xbf][\x1a\x80-\xbf][\x1a?]|\x1a",
    )
    .expect("a constant")
});

/// Whether characters follow each other that nobody writes, such as an accented letter and a currency sign.
fn is_unlikely(text: &str) -> bool {
    UNLIKELY.is_match(text)
}

/// Groups of the few hundred characters that mojibake consists of. A pattern names them in braces.
const GROUPS: [(&str, &str); 15] = [
    ("common", "\u{a0}\u{ad}·´–—―…’"),
    ("c1", "\u{80}-\u{9f}"),
    // Hardly ever meant.
    ("bad", "¦¤¨¬¯¸ƒˆˇ˘˛˜†‡‰⌐◊\u{fffd}ªº"),
    ("law", "¶§"),
    ("currency", "¢£¥₧€"),
    ("open", "¡«¿©΄΅‘‚“„•‹\u{f8ff}"),
    ("close", "®»˝”›™"),
    ("numeric", "²³¹±¼½¾×µ÷⁄∂∆∏∑√∞∩∫≈≠≡≤≥№"),
    // Letters that faces are made of.
    ("face", "Ò-ÖÙ-Üò-öø-üŐŌŪŲ°"),
    ("upper", "À-ÑØÜÝĂĀĄĆČĎĐĘĚĒĖĞĢİĪĶĹĽŁĻŃŇŅŒŘŚŞŠŢŤŮŰŸŹŻŽҐ"),
    ("lower", "ßà-ñăąāćčďđęěēėğģįīķĺľłļœŕśşšťüźżžґﬁﬂ"),
    ("upper_common", "ÞΑ-ΩΆΈΉΊΌΎΏΪΫЁ-Я"),
    ("lower_common", "α-ωάέήίΰа-џ"),
    ("box", "│┌┐┘├┤┬┼═-╬▀▄█▌▐░▒▓"),
    // What Python calls white space and a word.
    ("space", r"\s\x1c-\x1f"),
];

/// What nobody writes: any of these.
const PATTERNS: [&str; 37] = [
    "[{c1}]",
    "[{bad}{lower}{upper}{box}{open}{close}{currency}{numeric}{law}][{bad}]",
    "[a-zA-Z][{lower_common}{upper_common}][{bad}]",
    "[{bad}][{lower}{upper}{box}{open}{close}{currency}{numeric}{law}]",
    "[{lower}{lower_common}{box}{close}{currency}{numeric}][{upper}]",
    "[{box}{close}{currency}{numeric}][{lower}]",
    "[{lower}{box}{close}][{currency}]",
    "[{space}][{upper}][{currency}]",
    "[{upper}{box}][{numeric}{law}]",
    "[{lower}{upper}{box}{currency}{close}][{open}][{numeric}]",
    "[{lower}{upper}{currency}{numeric}{box}{law}][{close}][{open}]",
    "[{currency}{numeric}{box}][{open}]",
    "[a-z][{upper}][{open}{currency}]",
    "[{box}][{face}]",
    "[{lower}{upper}{currency}{numeric}{open}{close}{law}][{box}]",
    "[{box}][{close}]",
    r"[{lower}{upper}][{open}{close}][\p{L}\p{N}_]",
    // The ligature, unless a plain letter follows.
    "[Œœ][^A-Za-z]",
    "[{upper}]°",
    // Windows-1252, two characters.
    "[ÂÃÎÐ][€œŠš¢£Ÿž\u{a0}\u{ad}®©°·»{open}{close}–—´]",
    "×[²³]",
    // Arabic: four, because single pairs are common.
    "[ØÙ][{common}{currency}{bad}{numeric}{open}ŸŠ®°µ»][ØÙ][{common}{currency}{bad}{numeric}{open}ŸŠ®°µ»]",
    // The scripts of South Asia.
    "à[²µ¹¼½¾]",
    // Mac Roman.
    "√[±∂†≠®™´≤≥¥µø]",
    "≈[°¢]",
    "‚Ä[ìîïòôúùû†°¢π]",
    "‚[âó][àä°ê]",
    // Windows-1251: punctuation, letters, and letters that were garbled twice.
    "вЂ",
    "[ВГРС][{c1}{bad}{open}{close}{currency}°µ][ВГРС]",
    "ГўВЂВ.[A-Za-z ]",
    // à and á, and à whose second byte became a space.
    "Ã[\u{a0}¡]",
    "[a-z][{space}]?[ÃÂ] ",
    "^[ÃÂ] ",
    "[a-z.,?!{close}]Â[ {open}{close}]",
    // Windows-1253.
    "β€[™\u{a0}Ά\u{ad}®°]",
    "[ΒΓΞΟ][{c1}{bad}{open}{close}{currency}°][ΒΓΞΟ]",
    // Windows-1257.
    "ā€",
];

static UNLIKELY: LazyLock<Regex> = LazyLock::new(|| {
    let mut pattern = PATTERNS.join("|");
    for (name, characters) in GROUPS {
        pattern = pattern.replace(&format!("{{{name}}}"), characters);
    }
    Regex::new(&pattern).expect("a constant")
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_texts() {
        assert_eq!(repair("sÃ³"), "só");
        assert_eq!(repair("Ã\u{a0} la mode"), "à la mode");
        assert_eq!(repair("voilÃ  le travail"), "voilà le travail");
        assert_eq!(repair("itâ€™s"), "it’s");
        assert_eq!(repair("âœ” No problems"), "✔ No problems");
        assert_eq!(repair("ÐŸÑ€Ð¸Ð²ÐµÑ‚"), "Привет");
        assert_eq!(
            repair("(Ã\u{a0}Â¸â€¡'Ã¢Å’Â£')Ã\u{a0}Â¸â€¡"),
            "(ง'⌣')ง",
            "garbled twice"
        );
    }

    #[test]
    fn texts_that_lost_bytes() {
        assert_eq!(repair("â€œ like this â€\u{fffd}"), "“ like this \u{fffd}");
    }

    #[test]
    fn parts_of_texts() {
        assert_eq!(repair("日本 itâ€™s 日本"), "日本 it’s 日本");
        assert_eq!(repair("日本 caf\u{85}"), "日本 caf…");
    }

    #[test]
    fn what_is_meant_stays() {
        for text in [
            "a £5 café",
            "Ünïcödé",
            "¯\\_(ツ)_/¯",
            "ÃÂ",
            "naïve Ærøskøbing",
            "日本語",
        ] {
            assert_eq!(repair(text), text);
        }
    }

    #[test]
    fn surrogates_in_six_bytes_are_one_character() {
        assert_eq!(
            decode_utf8(b"\xed\xa0\xbd\xed\xb8\x8d!\xc0\x80").as_deref(),
            Some("😍!\0")
        );
        assert_eq!(decode_utf8(b"\xed\xa0\xbd!"), None);
        assert_eq!(decode_utf8(b"a\xc0"), None);
        assert_eq!(decode_utf8("é 한".as_bytes()).as_deref(), Some("é 한"));
    }
}
