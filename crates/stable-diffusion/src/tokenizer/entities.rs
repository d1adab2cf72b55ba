//! HTML's character references, as Python's `html.unescape` reads them.

use htmlize::ENTITIES;

use super::encoding::windows_1252;

/// The longest name that is looked for, in characters, without `&` and `;`.
const LONGEST_NAME: usize = 32;

/// Replaces every character reference, also those without a semicolon: `&lt;` and `&lt` are `<`.
pub(super) fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('&') {
        out.push_str(&rest[..start]);
        rest = &rest[start..];
        let taken = numeric(rest, &mut out).or_else(|| named(rest, &mut out));
        if taken.is_none() {
            out.push('&');
        }
        rest = &rest[taken.unwrap_or(1)..];
    }
    out.push_str(rest);
    out
}

/// What the name of an entity stands for; the name with its `&` and, mostly, its `;`.
pub(super) fn entity(name: &str) -> Option<&'static str> {
    ENTITIES
        .get(name.as_bytes())
        .and_then(|value| std::str::from_utf8(value).ok())
}

/// Reads `&#123;` or `&#x7b;`; returns the number of bytes.
fn numeric(text: &str, out: &mut String) -> Option<usize> {
    let digits = text.strip_prefix("&#")?;
    let (digits, radix, before) = match digits.strip_prefix(['x', 'X']) {
        Some(digits) => (digits, 16, 3),
        None => (digits, 10, 2),
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    if end == 0 {
        return None;
    }
    // A number that is too large for u32 is no character either.
    let number = u32::from_str_radix(&digits[..end], radix).unwrap_or(u32::MAX);
    out.extend(character(number));
    let semicolon = usize::from(digits[end..].starts_with(';'));
    Some(before + end + semicolon)
}

/// The character of a number, by the table of HTML 5 for the numbers that are none.
fn character(number: u32) -> Option<char> {
    let Some(c) = char::from_u32(number) else {
        return Some('\u{fffd}');
    };
    match number {
        0 => Some('\u{fffd}'),
        0x0d => Some('\r'),
        // The five that Windows has no meaning for stand for themselves.
        0x80..=0x9f => Some(windows_1252(c).unwrap_or(c)),
        0x01..=0x08 | 0x0b | 0x0e..=0x1f | 0x7f | 0xfdd0..=0xfdef => None,
        _ if number & 0xfffe == 0xfffe => None,
        _ => Some(c),
    }
}

/// Reads `&name;`, or the longest name that begins the word; returns the number of bytes.
fn named(text: &str, out: &mut String) -> Option<usize> {
    let ends = |c: char| matches!(c, '\t' | '\n' | '\x0c' | ' ' | '<' | '&' | '#' | ';');
    let mut end = 1;
    for (length, c) in text[1..].chars().enumerate() {
        if c == ';' && length > 0 {
            end += 1;
        }
        if ends(c) || length == LONGEST_NAME {
            break;
        }
        end += c.len_utf8();
    }
    // A name has at least two letters, unless it is written out with its semicolon.
    (3..=end)
        .rev()
        .filter(|&end| text.is_char_boundary(end))
        .find_map(|end| entity(&text[..end]).map(|value| (end, value)))
        .map(|(end, value)| {
            out.push_str(value);
            end
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_and_without_semicolon() {
        assert_eq!(unescape("&lt;b&gt; &amp &ampamp;"), "<b> & &amp;");
        assert_eq!(unescape("&notit; &notin;"), "¬it; ∉");
        assert_eq!(unescape("&nosuchname; &; & &&amp;"), "&nosuchname; &; & &&");
        assert_eq!(
            unescape("&CounterClockwiseContourIntegral;"),
            "\u{2233}",
            "the longest name"
        );
    }

    #[test]
    fn numbers() {
        assert_eq!(unescape("&#65;&#x42;&#X43&#68"), "ABCD");
        assert_eq!(unescape("&#128;&#x81;&#13;"), "€\u{81}\r");
        assert_eq!(
            unescape("&#0;&#xd800;&#99999999999;"),
            "\u{fffd}\u{fffd}\u{fffd}"
        );
        assert_eq!(unescape("a&#1;&#xfffe;b"), "ab");
        assert_eq!(unescape("&#; &#x; &#xg;"), "&#; &#x; &#xg;");
    }

    #[test]
    fn characters_of_many_bytes_do_not_split() {
        assert_eq!(unescape("&é&aé;&ampé"), "&é&aé;&é");
    }
}
