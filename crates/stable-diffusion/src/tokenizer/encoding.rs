//! The single-byte encodings that UTF-8 is most often mistaken for.
//!
//! Bytes below 0x80 are ASCII in all of them; a table says what the upper half stands for.
//! Where Windows leaves a byte without a meaning, it stands for the control character of its number, which is what
//! programs write.

use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

const WINDOWS_1252: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}Ž\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}žŸ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÐÑÒÓÔÕÖ×ØÙÚÛÜÝÞß\
    àáâãäåæçèéêëìíîïðñòóôõö÷øùúûüýþÿ";
const WINDOWS_1251: &str = "\
    ЂЃ‚ѓ„…†‡€‰Љ‹ЊЌЋЏђ‘’“”•–—\u{98}™љ›њќћџ\
    \u{a0}ЎўЈ¤Ґ¦§Ё©Є«¬\u{ad}®Ї°±Ііґµ¶·ё№є»јЅѕї\
    АБВГДЕЖЗИЙКЛМНОПРСТУФХЦЧШЩЪЫЬЭЮЯ\
    абвгдежзийклмнопрстуфхцчшщъыьэюя";
const WINDOWS_1250: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰Š‹ŚŤŽŹ\u{90}‘’“”•–—\u{98}™š›śťžź\
    \u{a0}ˇ˘Ł¤Ą¦§¨©Ş«¬\u{ad}®Ż°±˛ł´µ¶·¸ąş»Ľ˝ľż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const WINDOWS_1253: &str = "\
    €\u{81}‚ƒ„…†‡\u{88}‰\u{8a}‹\u{8c}\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}΅Ά£¤¥¦§¨©ª«¬\u{ad}®―°±²³΄µ¶·ΈΉΊ»Ό½ΎΏ\
    ΐΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡÒΣΤΥΦΧΨΩΪΫάέήί\
    ΰαβγδεζηθικλμνξοπρςστυφχψωϊϋόύώÿ";
const WINDOWS_1254: &str = "\
    €\u{81}‚ƒ„…†‡ˆ‰Š‹Œ\u{8d}\u{8e}\u{8f}\u{90}‘’“”•–—˜™š›œ\u{9d}\u{9e}Ÿ\
    \u{a0}¡¢£¤¥¦§¨©ª«¬\u{ad}®¯°±²³´µ¶·¸¹º»¼½¾¿\
    ÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏĞÑÒÓÔÕÖ×ØÙÚÛÜİŞß\
    àáâãäåæçèéêëìíîïğñòóôõö÷øùúûüışÿ";
const WINDOWS_1257: &str = "\
    €\u{81}‚\u{83}„…†‡\u{88}‰\u{8a}‹\u{8c}¨ˇ¸\u{90}‘’“”•–—\u{98}™\u{9a}›\u{9c}¯˛\u{9f}\
    \u{a0}¡¢£¤¥¦§Ø©Ŗ«¬\u{ad}®Æ°±²³´µ¶·ø¹ŗ»¼½¾æ\
    ĄĮĀĆÄÅĘĒČÉŹĖĢĶĪĻŠŃŅÓŌÕÖ×ŲŁŚŪÜŻŽß\
    ąįāćäåęēčéźėģķīļšńņóōõö÷ųłśūüżž˙";
const ISO_8859_2: &str = "\
    \u{80}\u{81}\u{82}\u{83}\u{84}\u{85}\u{86}\u{87}\u{88}\u{89}\u{8a}\u{8b}\u{8c}\u{8d}\u{8e}\u{8f}\
    \u{90}\u{91}\u{92}\u{93}\u{94}\u{95}\u{96}\u{97}\u{98}\u{99}\u{9a}\u{9b}\u{9c}\u{9d}\u{9e}\u{9f}\
    \u{a0}Ą˘Ł¤ĽŚ§¨ŠŞŤŹ\u{ad}ŽŻ°ą˛ł´ľśˇ¸šşťź˝žż\
    ŔÁÂĂÄĹĆÇČÉĘËĚÍÎĎĐŃŇÓÔŐÖ×ŘŮÚŰÜÝŢß\
    ŕáâăäĺćçčéęëěíîďđńňóôőö÷řůúűüýţ˙";
const MAC_ROMAN: &str = "\
    ÄÅÇÉÑÖÜáàâäãåçéèêëíìîïñóòôöõúùûü\
    †°¢£§•¶ß®©™´¨≠ÆØ∞±≤≥¥µ∂∑∏π∫ªºΩæø\
    ¿¡¬√ƒ≈∆«»…\u{a0}ÀÃÕŒœ–—“”‘’÷◊ÿŸ⁄€‹›ﬁﬂ\
    ‡·‚„‰ÂÊÁËÈÍÎÏÌÓÔ\u{f8ff}ÒÚÛÙıˆ˜¯˘˙˚¸˝˛ˇ";
const CODE_PAGE_437: &str = "\
    ÇüéâäàåçêëèïîìÄÅÉæÆôöòûùÿÖÜ¢£¥₧ƒ\
    áíóúñÑªº¿⌐¬½¼¡«»░▒▓│┤╡╢╖╕╣║╗╝╜╛┐\
    └┴┬├─┼╞╟╚╔╩╦╠═╬╧╨╤╥╙╘╒╓╫╪┘┌█▄▌▐▀\
    αßΓπΣσµτΦΘΩδ∞φε∩≡±≥≤⌠⌡÷≈°∙·√ⁿ²■\u{a0}";

/// The byte that stands for U+FFFD where an encoding is read leniently.
pub(super) const SUBSTITUTE: u8 = 0x1a;

/// Which encodings are tried, in this order.
pub(super) static TRIED: LazyLock<[Encoding; 10]> = LazyLock::new(|| {
    [
        Encoding::latin_1(),
        Encoding::windows(WINDOWS_1252),
        Encoding::windows(WINDOWS_1251),
        Encoding::windows(WINDOWS_1250),
        Encoding::windows(WINDOWS_1253),
        Encoding::windows(WINDOWS_1254),
        Encoding::windows(WINDOWS_1257),
        Encoding::strict(ISO_8859_2),
        Encoding {
            restores_spaces: false,
            ..Encoding::strict(MAC_ROMAN)
        },
        Encoding::strict(CODE_PAGE_437),
    ]
});

/// One of the encodings.
#[derive(Debug)]
pub(super) struct Encoding {
    bytes: HashMap<char, u8>,
    /// U+FFFD is [`SUBSTITUTE`], so that text that lost characters can be encoded.
    pub(super) lenient: bool,
    /// A space may stand for a no-break space that was lost.
    ///
    /// In Mac Roman it may not: an en dash and a space would match.
    pub(super) restores_spaces: bool,
}

impl Encoding {
    fn latin_1() -> Self {
        Self {
            bytes: ('\u{80}'..='\u{ff}').zip(0x80..=0xff).collect(),
            lenient: false,
            restores_spaces: true,
        }
    }

    fn strict(upper: &str) -> Self {
        Self {
            bytes: upper.chars().zip(0x80..=0xff).collect(),
            lenient: false,
            restores_spaces: true,
        }
    }

    fn windows(upper: &str) -> Self {
        Self {
            lenient: true,
            ..Self::strict(upper)
        }
    }

    /// The bytes that `text` was read from, if it was read in this encoding.
    pub(super) fn encode(&self, text: &str) -> Option<Vec<u8>> {
        text.chars().map(|c| self.byte(c)).collect()
    }

    fn byte(&self, c: char) -> Option<u8> {
        match c {
            '\u{1a}' if self.lenient => None,
            '\u{fffd}' if self.lenient => Some(SUBSTITUTE),
            '\0'..='\x7f' => Some(c as u8),
            _ => self.bytes.get(&c).copied(),
        }
    }
}

/// What a byte from 0x80 to 0x9f means in Windows-1252, where it means anything.
pub(super) fn windows_1252(c1: char) -> Option<char> {
    let index = u32::from(c1).checked_sub(0x80)?;
    WINDOWS_1252
        .chars()
        .take(0x20)
        .nth(index as usize)
        .filter(|&c| c != c1)
}

/// Which characters the bytes of UTF-8 look like in the encodings that resemble Latin-1.
#[derive(Debug)]
pub(super) struct Clues {
    /// The first byte of two: 0xc2 to 0xdf.
    pub(super) first_of_2: HashSet<char>,
    /// The first byte of three: 0xe0 to 0xef.
    pub(super) first_of_3: HashSet<char>,
    /// The first byte of four: 0xf0, and 0xf3; the others lead to planes that are hardly used.
    pub(super) first_of_4: HashSet<char>,
    /// The bytes after it: 0x80 to 0xbf.
    pub(super) continuation: HashSet<char>,
}

/// The clues of the seven encodings that resemble Latin-1.
pub(super) static CLUES: LazyLock<Clues> = LazyLock::new(|| {
    let seen_as = |wanted: &dyn Fn(u8) -> bool| {
        TRIED[..7]
            .iter()
            .flat_map(|encoding| &encoding.bytes)
            .filter(|&(_, &byte)| wanted(byte))
            .map(|(&c, _)| c)
            .collect()
    };
    Clues {
        first_of_2: seen_as(&|byte| (0xc2..=0xdf).contains(&byte)),
        first_of_3: seen_as(&|byte| (0xe0..=0xef).contains(&byte)),
        first_of_4: seen_as(&|byte| byte == 0xf0 || byte == 0xf3),
        continuation: seen_as(&|byte| (0x80..=0xbf).contains(&byte)),
    }
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_names_every_upper_byte_once() {
        for encoding in TRIED.iter() {
            assert_eq!(encoding.bytes.len(), 128);
        }
    }

    #[test]
    fn what_was_lost_can_be_encoded_leniently() {
        assert_eq!(TRIED[1].encode("€\u{fffd}"), Some(vec![0x80, SUBSTITUTE]));
        assert_eq!(TRIED[1].encode("\u{1a}"), None);
        assert_eq!(TRIED[0].encode("\u{1a}é"), Some(vec![SUBSTITUTE, 0xe9]));
        assert_eq!(TRIED[0].encode("\u{fffd}"), None);
    }

    #[test]
    fn windows_says_what_controls_meant() {
        assert_eq!(windows_1252('\u{80}'), Some('€'));
        assert_eq!(windows_1252('\u{9f}'), Some('Ÿ'));
        assert_eq!(windows_1252('\u{81}'), None);
        assert_eq!(windows_1252('\u{a0}'), None);
        assert_eq!(windows_1252('a'), None);
    }

    #[test]
    fn clues_do_not_share_first_bytes() {
        assert_eq!(CLUES.first_of_2.len(), 124);
        assert_eq!(CLUES.first_of_3.len(), 66);
        assert_eq!(CLUES.first_of_4.len(), 9);
        assert_eq!(CLUES.continuation.len(), 158);
        assert!(CLUES.first_of_2.is_disjoint(&CLUES.first_of_3));
        assert!(CLUES.first_of_3.is_disjoint(&CLUES.first_of_4));
        assert!(CLUES.first_of_2.is_disjoint(&CLUES.first_of_4));
    }
}
