//! distinct-n: Li et al., *A Diversity-Promoting Objective Function for Neural Conversation Models*, 2016.
//!
//! ```text
//! distinct-n = different n-grams of all captions / n-grams of all captions
//! ```

use super::Sentence;
use super::ngrams::ngrams;

/// distinct-n of captions, from 0 to 1; `n` is 1 to 4.
#[must_use]
pub fn distinct(captions: &[Sentence], n: usize) -> f64 {
    let mut all: Vec<_> = captions.iter().flat_map(|caption| ngrams(caption, n)).collect();
    let count = all.len().max(1);
    all.sort_unstable();
    all.dedup();
    all.len() as f64 / count as f64
}
