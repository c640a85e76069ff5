//! Counts of the n-grams of a sentence.

/// The longest n-grams.
pub(super) const LONGEST: usize = 4;

/// One to four words in a row; after them [`NONE`].
pub(super) type Ngram = [u32; LONGEST];

/// No word.
const NONE: u32 = u32::MAX;

/// The n-grams of `sentence` of length `n`, in its order.
pub(super) fn ngrams(sentence: &[u32], n: usize) -> impl Iterator<Item = Ngram> {
    sentence.windows(n).map(|words| std::array::from_fn(|at| words.get(at).copied().unwrap_or(NONE)))
}

/// How often each n-gram of length `n` occurs, sorted by n-gram: sums over them have one order.
pub(super) fn counts(sentence: &[u32], n: usize) -> Vec<(Ngram, u32)> {
    let mut all: Vec<Ngram> = ngrams(sentence, n).collect();
    all.sort_unstable();
    all.chunk_by(|a, b| a == b).map(|same| (same[0], same.len() as u32)).collect()
}

/// The count of an n-gram in sorted counts.
pub(super) fn count_of(counts: &[(Ngram, u32)], ngram: &Ngram) -> u32 {
    counts.binary_search_by_key(ngram, |(found, _)| *found).map_or(0, |at| counts[at].1)
}
