//! From what a person wrote to what CLIP was trained on.

use super::entities::unescape;
use super::repair::repair;

/// Repairs, unescapes twice, makes every run of white space one space, and lowers the case.
pub(super) fn clean(text: &str) -> String {
    let text = unescape(&unescape(&repair(text)));
    let words: Vec<&str> = text
        .split(is_space)
        .filter(|word| !word.is_empty())
        .collect();
    words.join(" ").to_lowercase()
}

/// White space as Python has it, which counts the four separators of ASCII.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_one_line_of_small_letters() {
        assert_eq!(
            clean("  A\tPhoto\u{a0}of\n\u{3000}CATS "),
            "a photo of cats"
        );
        assert_eq!(clean("ΟΔΟΣ İ"), "οδος i\u{307}");
        assert_eq!(clean("<i>&amp;lt;"), "<i><");
        assert_eq!(clean(" \n "), "");
    }
}
