//! Whether a text repeats itself, which small captioners do ("a red shirt and a red shirt").

use std::collections::HashSet;

/// Whether two or more words in a row occur twice in `text`, or one word occurs twice in a row.
///
/// Words are runs of letters and digits in lower case; apostrophes are left out ("t-shirt" is two words). `jobs/train/metrics.py`
/// counts by the same definition. Any longer sequence that occurs
/// twice holds a pair of words that does, so pairs are enough; two occurrences may share a word ("dog and dog and dog").
#[must_use]
pub fn repeats(text: &str) -> bool {
    let text = text.to_lowercase().replace(['\'', '\u{2019}'], "");
    let words: Vec<&str> = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let mut pairs = HashSet::with_capacity(words.len());
    words.windows(2).any(|pair| pair[0] == pair[1] || !pairs.insert((pair[0], pair[1])))
}

#[cfg(test)]
mod tests {
    use super::repeats;

    #[test]
    fn a_pair_of_words_that_occurs_twice_or_a_doubled_word_is_a_repetition() {
        for text in [
            "a red shirt and a red shirt",
            "a large building with a large building in the background",
            "the the dog",
            "Dog, dog!",
            "dog and dog and dog",
            "A man. a man",
            "ein Haus, EIN HAUS",
            "a t-shirt and a t-shirt",
            "the man's dog and the mans dog",
        ] {
            assert!(repeats(text), "{text}");
        }
    }

    #[test]
    fn a_word_that_comes_back_elsewhere_is_none() {
        for text in
            ["", "dog", "  ", "a dog and a cat", "- - -", "a man in a hat by a house", "of the sea and the sand"]
        {
            assert!(!repeats(text), "{text}");
        }
    }
}
