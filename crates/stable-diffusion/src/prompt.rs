//! Prompts with weights, and the chunks of tokens that they become.
//!
//! | written | weight |
//! |---|---|
//! | `(word)` | × 1.1 |
//! | `(word:1.3)` | × 1.3 |
//! | `[word]` | ÷ 1.1 |
//! | `\(word\)`, `\[`, `\]`, `\\` | the characters themselves |
//! | `BREAK` | the rest goes into the next chunk |
//!
//! Brackets nest. One that is never closed counts to the end; one that was never opened is text.
//! The syntax and what it means are those of Stable Diffusion web UI, so that prompts can be carried over, but for two
//! things: a `BREAK` inside of brackets breaks here too, and what is no number after a colon is text.
//! Its prompts that change while a picture is made (`[a:b:0.5]`, `[a|b]`) and its `AND` are not read: they are text.

use std::sync::LazyLock;

use regex::Regex;

use crate::tokenizer::Tokenizer;

/// What a round bracket multiplies by, and a square one divides by.
const EMPHASIS: f64 = 1.1;

/// The most tokens from a comma on that go into the next chunk rather than be divided; as in web UI.
const LONGEST_PHRASE: usize = 20;

/// Why a prompt cannot become tokens.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PromptError {
    /// The brackets around a text multiply to more than f32 holds.
    #[error("the weight of `{text}` is {weight}, which is not finite in f32")]
    Weight {
        /// The text.
        text: String,
        /// Its weight.
        weight: f64,
    },
}

/// A piece of a prompt.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    /// Text, and how much it counts; 1 is as it is.
    Text {
        /// Without the brackets.
        text: String,
        /// The product of what is around it.
        weight: f64,
    },
    /// A chunk ends here.
    Break,
}

/// A prompt that was read.
///
/// ```
/// use clearway_stable_diffusion::{Part, Prompt};
///
/// let prompt = Prompt::parse("a (red:1.5) car");
/// let text = |text: &str, weight| Part::Text { text: text.into(), weight };
/// assert_eq!(prompt.parts(), [text("a ", 1.0), text("red", 1.5), text(" car", 1.0)]);
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Prompt {
    parts: Vec<Part>,
}

impl Prompt {
    /// Reads the syntax of this module. Any text is a prompt.
    pub fn parse(prompt: &str) -> Self {
        let mut reader = Reader::default();
        let mut rest = prompt;
        while !rest.is_empty() {
            rest = &rest[reader.read(rest)..];
        }
        Self {
            parts: reader.finish(),
        }
    }

    /// Text as it is: brackets are characters, and every weight is 1.
    pub fn literal(text: &str) -> Self {
        let part = Part::Text {
            text: text.into(),
            weight: 1.0,
        };
        Self { parts: vec![part] }
    }

    /// The pieces, in order. No text is empty; neighbours have the same weight only where a bracket was empty.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }
}

#[derive(Default)]
struct Reader {
    parts: Vec<Part>,
    /// Where brackets were opened, in parts.
    round: Vec<usize>,
    square: Vec<usize>,
}

static BREAK: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"\s*\bBREAK\b\s*").expect("a constant"));

/// The end of a bracket with a weight.
static WEIGHT: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"^:\s*([+-]?[.0-9]+)\s*\)").expect("a constant"));

impl Reader {
    /// Reads one sign, or text up to the next one; returns its length in bytes.
    fn read(&mut self, text: &str) -> usize {
        let mut chars = text.chars();
        match chars.next() {
            Some('\\') => {
                // Before anything else a backslash vanishes.
                let escaped = chars.next().filter(|c| r"()[]\".contains(*c));
                self.text(&escaped.map(String::from).unwrap_or_default());
                1 + escaped.map_or(0, char::len_utf8)
            }
            Some('(') => {
                self.round.push(self.parts.len());
                1
            }
            Some('[') => {
                self.square.push(self.parts.len());
                1
            }
            Some(')') => {
                match self.round.pop() {
                    Some(start) => self.multiply(start, EMPHASIS),
                    None => self.text(")"),
                }
                1
            }
            Some(']') => {
                match self.square.pop() {
                    Some(start) => self.multiply(start, 1.0 / EMPHASIS),
                    None => self.text("]"),
                }
                1
            }
            Some(':') => self.colon(text),
            _ => {
                let end = text.find(['\\', '(', ')', '[', ']', ':']);
                let end = end.unwrap_or(text.len());
                self.plain(&text[..end]);
                end
            }
        }
    }

    /// A weight that closes a bracket, or a character.
    fn colon(&mut self, text: &str) -> usize {
        if let Some(found) = WEIGHT.captures(text)
            && let Ok(weight) = found[1].parse()
            && let Some(start) = self.round.pop()
        {
            self.multiply(start, weight);
            return found[0].len();
        }
        self.text(":");
        1
    }

    fn plain(&mut self, text: &str) {
        for (i, piece) in BREAK.split(text).enumerate() {
            if i > 0 {
                self.parts.push(Part::Break);
            }
            self.text(piece);
        }
    }

    fn text(&mut self, text: &str) {
        self.parts.push(Part::Text {
            text: text.into(),
            weight: 1.0,
        });
    }

    fn multiply(&mut self, start: usize, by: f64) {
        for part in &mut self.parts[start..] {
            if let Part::Text { weight, .. } = part {
                *weight *= by;
            }
        }
    }

    fn finish(mut self) -> Vec<Part> {
        for start in std::mem::take(&mut self.round) {
            self.multiply(start, EMPHASIS);
        }
        for start in std::mem::take(&mut self.square) {
            self.multiply(start, 1.0 / EMPHASIS);
        }
        // Texts of one weight are one text, or words would be divided at an escape.
        let mut merged: Vec<Part> = Vec::new();
        for part in self.parts {
            match (merged.last_mut(), part) {
                (
                    Some(Part::Text { text, weight }),
                    Part::Text {
                        text: more,
                        weight: same,
                    },
                ) if weight.total_cmp(&same).is_eq() => text.push_str(&more),
                (_, part) => merged.push(part),
            }
        }
        merged.retain(|part| !matches!(part, Part::Text { text, .. } if text.is_empty()));
        merged
    }
}

/// What the text encoder reads at once: as many tokens as its context, and a weight each.
#[derive(Clone, Debug, PartialEq)]
pub struct Chunk {
    /// Start, tokens, end, padding.
    pub tokens: Vec<u32>,
    /// 1 for start, end and padding.
    pub weights: Vec<f32>,
}

impl Chunk {
    /// Whether a weight is other than 1, so that [`emphasize`] has something to do.
    pub fn is_weighted(&self) -> bool {
        self.weights
            .iter()
            .any(|weight| weight.total_cmp(&1.0).is_ne())
    }
}

/// What did not fit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The tokens that were left out.
    pub tokens: Vec<u32>,
    /// Their text, as the tokenizer read it: repaired, in small letters, a space after every word.
    pub text: String,
}

impl Tokenizer {
    /// A prompt in as many chunks as it takes, at least one; their embeddings are concatenated along the tokens.
    ///
    /// A chunk holds two tokens less than the context, between start and end. Where its last
    /// comma is at most 20 tokens before its end, what follows the comma goes into the next one.
    /// A prompt and its negative need equally many chunks; fill the shorter with [`empty_chunk`](Self::empty_chunk).
    ///
    /// # Errors
    ///
    /// [`PromptError::Weight`] if a weight is not finite in f32.
    pub fn chunks(&self, prompt: &Prompt) -> Result<Vec<Chunk>, PromptError> {
        let room = self.context() - 2;
        let mut chunks = Vec::new();
        let mut chunk: Vec<(u32, f32)> = Vec::new();
        let mut comma = None;
        for part in prompt.parts() {
            let Some(tokens) = self.part(part)? else {
                chunks.push(self.chunk(&chunk));
                chunk.clear();
                comma = None;
                continue;
            };
            for (token, weight) in tokens {
                let is_comma = self.comma() == Some(token);
                if chunk.len() == room {
                    let phrase = match comma {
                        Some(at) if !is_comma && room - at <= LONGEST_PHRASE => {
                            chunk.split_off(at + 1)
                        }
                        _ => Vec::new(),
                    };
                    chunks.push(self.chunk(&chunk));
                    chunk = phrase;
                    comma = None;
                } else if is_comma {
                    comma = Some(chunk.len());
                }
                chunk.push((token, weight));
            }
        }
        if !chunk.is_empty() || chunks.is_empty() {
            chunks.push(self.chunk(&chunk));
        }
        Ok(chunks)
    }

    /// A prompt in one chunk, and what did not fit into it. `BREAK` has no effect.
    ///
    /// # Errors
    ///
    /// [`PromptError::Weight`] if a weight is not finite in f32.
    pub fn cut(&self, prompt: &Prompt) -> Result<(Chunk, Option<Cut>), PromptError> {
        let mut all = Vec::new();
        for part in prompt.parts() {
            all.extend(self.part(part)?.into_iter().flatten());
        }
        let rest = all.split_off(all.len().min(self.context() - 2));
        let tokens: Vec<u32> = rest.into_iter().map(|(token, _)| token).collect();
        let cut = (!tokens.is_empty()).then(|| Cut {
            text: self.decode(&tokens),
            tokens,
        });
        Ok((self.chunk(&all), cut))
    }

    /// The chunk of the empty prompt.
    pub fn empty_chunk(&self) -> Chunk {
        self.chunk(&[])
    }

    /// The tokens of a text with their weight, or `None` for a break.
    fn part(&self, part: &Part) -> Result<Option<Vec<(u32, f32)>>, PromptError> {
        let Part::Text { text, weight } = part else {
            return Ok(None);
        };
        let finite = *weight as f32;
        if !finite.is_finite() {
            return Err(PromptError::Weight {
                text: text.clone(),
                weight: *weight,
            });
        }
        let tokens = self.encode(text).into_iter().map(|token| (token, finite));
        Ok(Some(tokens.collect()))
    }

    /// Puts start, end and padding around tokens that fit.
    fn chunk(&self, content: &[(u32, f32)]) -> Chunk {
        let mut tokens = vec![self.start()];
        let mut weights = vec![1.0];
        tokens.extend(content.iter().map(|&(token, _)| token));
        weights.extend(content.iter().map(|&(_, weight)| weight));
        tokens.push(self.end());
        tokens.resize(self.context(), self.pad());
        weights.resize(self.context(), 1.0);
        Chunk { tokens, weights }
    }
}

/// Multiplies embeddings by their tokens' weights, and restores their mean.
///
/// ```text
/// z'ᵢ = wᵢ zᵢ · mean(z) / mean(w z)
/// ```
///
/// `embeddings` is one chunk's output of the text encoder, `[tokens, channels]` in row-major order; `weights` has an
/// entry a token. The means are over all of it. Without the restoration pictures burn out; it is web UI's, and has no
/// theory behind it. Where the new mean is 0 there is nothing to restore by, and the products stay.
/// If every weight is 1 the embeddings are as before to the bit.
///
/// # Panics
///
/// If the number of embeddings is no multiple of the number of weights.
pub fn emphasize(embeddings: &mut [f32], weights: &[f32]) {
    if weights.iter().all(|weight| weight.total_cmp(&1.0).is_eq()) {
        return;
    }
    assert!(
        embeddings.len().is_multiple_of(weights.len()),
        "{} embeddings for {} weights",
        embeddings.len(),
        weights.len()
    );
    let channels = embeddings.len() / weights.len();
    if channels == 0 {
        return;
    }
    let sum = |values: &[f32]| values.iter().map(|&value| f64::from(value)).sum::<f64>();
    let before = sum(embeddings);
    for (embedding, weight) in embeddings.chunks_exact_mut(channels).zip(weights) {
        for value in embedding {
            *value *= weight;
        }
    }
    let restore = before / sum(embeddings);
    if restore.is_finite() {
        for value in embeddings {
            *value = (f64::from(*value) * restore) as f32;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::clip);

    /// Products of 1.1 in another order of multiplication.
    const ROUNDING: f64 = 1e-12;

    fn check(prompt: &str, expected: &[(&str, f64)]) {
        let parsed = Prompt::parse(prompt);
        assert_eq!(parsed.parts().len(), expected.len(), "{prompt}: {parsed:?}");
        for (part, &(expected, weighs)) in parsed.parts().iter().zip(expected) {
            match part {
                Part::Text { text, weight } => {
                    assert_eq!(text, expected, "{prompt}");
                    assert!((weight - weighs).abs() < ROUNDING, "{prompt}: {weight}");
                }
                Part::Break => assert_eq!(expected, "BREAK", "{prompt}"),
            }
        }
    }

    #[test]
    fn brackets_weigh() {
        check("normal text", &[("normal text", 1.0)]);
        check(
            "an (important) word",
            &[("an ", 1.0), ("important", 1.1), (" word", 1.0)],
        );
        check("(unnecessary)(parens)", &[("unnecessaryparens", 1.1)]);
        check("[less]", &[("less", 1.0 / 1.1)]);
        check(
            "(a:0.5) (b:-1) (c: .5 )",
            &[("a", 0.5), (" ", 1.0), ("b", -1.0), (" ", 1.0), ("c", 0.5)],
        );
        check(
            "a (((house:1.3)) [on] a (hill:0.5), sun, (((sky))).",
            &[
                ("a ", 1.0),
                ("house", 1.573),
                (" ", 1.1),
                ("on", 1.0),
                (" a ", 1.1),
                ("hill", 0.55),
                (", sun, ", 1.1),
                ("sky", 1.4641),
                (".", 1.1),
            ],
        );
    }

    #[test]
    fn brackets_without_a_partner() {
        check("(unbalanced", &[("unbalanced", 1.1)]);
        check("[unbalanced", &[("unbalanced", 1.0 / 1.1)]);
        check("a) b] c:2)", &[("a) b] c:2)", 1.0)]);
        check("(a]", &[("a]", 1.1)]);
        check("()[]", &[]);
    }

    #[test]
    fn a_backslash_makes_a_character_of_a_bracket() {
        check(r"\(literal\]", &[("(literal]", 1.0)]);
        check(r"(a \(b\):1.5)", &[("a (b)", 1.5)]);
        check(r"\\ \a \", &[(r"\ a ", 1.0)]);
    }

    #[test]
    fn what_is_no_number_is_text() {
        check("(a:1.2.3)", &[("a:1.2.3", 1.1)]);
        check("(a:b)", &[("a:b", 1.1)]);
        check("a:1.2", &[("a:1.2", 1.0)]);
        check("(a:.)", &[("a:.", 1.1)]);
    }

    #[test]
    fn breaks() {
        check("a BREAK b", &[("a", 1.0), ("BREAK", 0.0), ("b", 1.0)]);
        check("BREAKFAST, a BREAKb", &[("BREAKFAST, a BREAKb", 1.0)]);
        check("(a BREAK b:1.5)", &[("a", 1.5), ("BREAK", 0.0), ("b", 1.5)]);
        check("BREAK BREAK", &[("BREAK", 0.0), ("BREAK", 0.0)]);
    }

    #[test]
    fn a_literal_prompt_has_no_syntax() {
        let part = Part::Text {
            text: "(a) BREAK".into(),
            weight: 1.0,
        };
        assert_eq!(Prompt::literal("(a) BREAK").parts(), [part]);
    }

    fn contents(chunk: &Chunk) -> String {
        CLIP.decode(&chunk.tokens)
    }

    #[test]
    fn a_chunk_is_as_long_as_the_context() -> Result<(), PromptError> {
        let chunks = CLIP.chunks(&Prompt::parse("a (cat:1.5)"))?;
        assert_eq!(chunks.len(), 1);
        assert_eq!(chunks[0].tokens[..5], [49406, 320, 2368, 49407, 49407]);
        assert_eq!(chunks[0].weights[..4], [1.0, 1.0, 1.5, 1.0]);
        assert_eq!((chunks[0].tokens.len(), chunks[0].weights.len()), (77, 77));
        assert!(chunks[0].is_weighted());
        assert_eq!(CLIP.chunks(&Prompt::default())?, [CLIP.empty_chunk()]);
        assert!(!CLIP.empty_chunk().is_weighted());
        let zeros = CLIP.clone().with_padding(0);
        assert_eq!(zeros.empty_chunk().tokens[..3], [49406, 49407, 0]);
        Ok(())
    }

    #[test]
    fn long_prompts_take_several_chunks() -> Result<(), PromptError> {
        let cats = |n| Prompt::parse(&"cat ".repeat(n));
        assert_eq!(CLIP.chunks(&cats(75))?.len(), 1);
        let chunks = CLIP.chunks(&cats(151))?;
        assert_eq!(chunks.len(), 3);
        assert_eq!(contents(&chunks[1]), "cat ".repeat(75).trim_end());
        assert_eq!(contents(&chunks[2]), "cat");
        assert_eq!(chunks[0].tokens[76], 49407);
        Ok(())
    }

    #[test]
    fn a_short_phrase_is_not_divided() -> Result<(), PromptError> {
        // 70 words, a comma, and a phrase that would be divided after 4.
        let text = "cat ".repeat(70) + ", one two three four five six";
        let chunks = CLIP.chunks(&Prompt::parse(&text))?;
        assert_eq!(contents(&chunks[0]), "cat ".repeat(70) + ",");
        assert_eq!(contents(&chunks[1]), "one two three four five six");
        // Here the comma is 20 tokens before the border, then 21.
        let long = |words: usize| "cat ".repeat(words) + ", " + &"dog ".repeat(30);
        let chunks = CLIP.chunks(&Prompt::parse(&long(55)))?;
        assert_eq!(contents(&chunks[0]), "cat ".repeat(55) + ",");
        let chunks = CLIP.chunks(&Prompt::parse(&long(54)))?;
        assert_eq!(
            contents(&chunks[0]),
            ("cat ".repeat(54) + ", " + &"dog ".repeat(20)).trim_end()
        );
        // A comma right at the border begins the next chunk.
        let chunks = CLIP.chunks(&Prompt::parse(&("cat ".repeat(75) + ", dog")))?;
        assert_eq!(contents(&chunks[1]), ", dog");
        Ok(())
    }

    #[test]
    fn a_break_begins_a_chunk() -> Result<(), PromptError> {
        let chunks = CLIP.chunks(&Prompt::parse("cat BREAK dog BREAK"))?;
        let texts: Vec<String> = chunks.iter().map(contents).collect();
        assert_eq!(texts, ["cat", "dog"]);
        Ok(())
    }

    #[test]
    fn what_is_cut_is_said() -> Result<(), PromptError> {
        let (chunk, cut) =
            CLIP.cut(&Prompt::parse(&("cat ".repeat(74) + "A Red Dog's “house”")))?;
        assert_eq!(contents(&chunk), "cat ".repeat(74) + "a");
        let cut = cut.expect("a cut");
        assert_eq!(cut.text, "red dog 's \" house \"");
        assert_eq!(cut.tokens.len(), 6);
        assert_eq!(CLIP.cut(&Prompt::parse("a cat"))?.1, None);
        Ok(())
    }

    #[test]
    fn a_weight_that_is_not_finite_is_an_error() {
        let prompt = Prompt::parse(&format!("a (cat:{}) b", "9".repeat(60)));
        let error = CLIP.chunks(&prompt).expect_err("a weight");
        assert!(
            error.to_string().starts_with("the weight of `cat` is 1"),
            "{error}"
        );
        let nested = "(".repeat(2000) + "cat";
        assert!(CLIP.cut(&Prompt::parse(&nested)).is_err());
    }

    #[test]
    fn weights_multiply_and_the_mean_returns() {
        let mut embeddings = [1.0, 2.0, 3.0, 4.0];
        emphasize(&mut embeddings, &[1.0, 2.0]);
        // The products 1, 2, 6, 8 have the mean 17/4, and had 10/4.
        let expected = [1.0, 2.0, 6.0, 8.0].map(|value: f32| value * 10.0 / 17.0);
        for (value, expected) in embeddings.iter().zip(expected) {
            assert!((value - expected).abs() < 1e-6);
        }
        let mut same = [0.1, 0.7];
        emphasize(&mut same, &[1.0, 1.0]);
        assert_eq!(same.map(f32::to_bits), [0.1f32, 0.7].map(f32::to_bits));
        let mut cancelled = [1.0, 1.0, -2.0, 0.0];
        emphasize(&mut cancelled, &[2.0, 2.0]);
        assert_eq!(
            cancelled.map(f32::to_bits),
            [2.0f32, 2.0, -4.0, 0.0].map(f32::to_bits)
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_prompt(text in any::<String>(), signs in r"[()\[\]:\\.0-9 aBREAK-]{0,80}") {
            for prompt in [Prompt::parse(&text), Prompt::parse(&signs)] {
                for chunk in CLIP.chunks(&prompt).into_iter().flatten() {
                    prop_assert_eq!(chunk.tokens.len(), 77);
                    prop_assert_eq!(chunk.weights.len(), 77);
                    prop_assert!(chunk.weights.iter().all(|weight| weight.is_finite()));
                    prop_assert_eq!(chunk.tokens[0], CLIP.start());
                }
            }
        }

        // Chunks hold the tokens of the text, in order, whatever commas do.
        #[test]
        fn no_token_is_lost(words in prop::collection::vec(prop_oneof!["cat", "dog", ","], 0..300)) {
            let text = words.join(" ");
            let mut tokens = Vec::new();
            for chunk in CLIP.chunks(&Prompt::parse(&text))? {
                let end = chunk.tokens.iter().position(|&token| token == CLIP.end());
                tokens.extend_from_slice(&chunk.tokens[1..end.unwrap_or(77)]);
            }
            prop_assert_eq!(tokens, CLIP.encode(&text));
        }
    }
}
