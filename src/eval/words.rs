//! Captions as tokens: those of `data.tokens.words` in `jobs/train`, by which the models of the recipes are scored.

use std::collections::HashMap;

use tokenizers::normalizers::{BertNormalizer, StripAccents};
use tokenizers::{NormalizedString, Normalizer};

use super::Sentence;

/// What [`words`] does, for those who compare scores with others.
pub const TOKENIZER: &str = "words of jobs/train: lower case, without accents, apostrophes and punctuation";

/// The words of a caption: in lower case, without accents (nonspacing marks after Unicode's NFD); all but letters and digits separates
/// words, and apostrophes are dropped ("dog 's" and "dog's" are one word, "dogs").
#[must_use]
pub fn words(caption: &str) -> Vec<String> {
    let lower = caption.to_lowercase();
    let plain = if lower.is_ascii() { lower } else { without_accents(&lower) };
    // Runs of other characters become one blank, as the regular expression `(?:[^\w']|_)+` has it.
    let mut spaced = String::with_capacity(plain.len());
    for c in plain.chars() {
        if c == '\'' {
            if spaced.ends_with(' ') {
                spaced.pop();
            }
        } else if is_of_word(c) {
            spaced.push(c);
        } else if !spaced.ends_with(' ') {
            spaced.push(' ');
        }
    }
    spaced.split(' ').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

fn without_accents(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    // Fails for no text.
    let _ = BertNormalizer::new(false, false, Some(true), false).normalize(&mut normalized);
    normalized.get().to_owned()
}

/// Whether Python's `\w` matches `c`, and it is no `_`: letters and numbers, but neither marks nor circled letters, which Unicode also
/// calls alphabetic.
fn is_of_word(c: char) -> bool {
    if c.is_ascii() {
        return c.is_ascii_alphanumeric();
    }
    let is_circled = matches!(c, '\u{24b6}'..='\u{24e9}' | '\u{1f130}'..='\u{1f149}' | '\u{1f150}'..='\u{1f169}' | '\u{1f170}'..='\u{1f189}');
    c.is_alphanumeric() && !is_circled && !is_mark(c)
}

fn is_mark(c: char) -> bool {
    let mut alone = NormalizedString::from(c.to_string());
    StripAccents.normalize(&mut alone).is_ok() && alone.is_empty()
}

/// The words of all captions, numbered in the order in which they were first seen.
#[derive(Debug, Default)]
pub struct Vocabulary(HashMap<String, u32>);

impl Vocabulary {
    /// The words of a caption as numbers.
    pub fn sentence(&mut self, caption: &str) -> Sentence {
        let number = |word: String| {
            let next = self.0.len() as u32;
            *self.0.entry(word).or_insert(next)
        };
        words(caption).into_iter().map(number).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_those_of_the_recipes() {
        for (caption, expected) in [
            ("A man, in a red T-shirt!", "a man in a red t shirt"),
            ("the dog 's ball isn't 'new'", "the dogs ball isntnew"),
            ("Café_au lait -- ÉCLAIR", "cafe au lait eclair"),
            ("ΟΔΟΣ straße İ", "οδος straße i"),
            ("1/2 of 3.5 ½ Ⅷ x²", "1 2 of 3 5 ½ ⅷ x²"),
            ("ⓐ हिन्दी 犬が走る", "ह नद 犬か走る"),
            (" '' _ ", ""),
        ] {
            assert_eq!(words(caption).join(" "), expected, "{caption}");
        }
    }
}
