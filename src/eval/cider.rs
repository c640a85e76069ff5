//! `CIDEr`: Vedantam et al., *`CIDEr`: Consensus-based Image Description Evaluation*, 2015, in the form `CIDEr-D` of coco-caption.
//!
//! Each sentence is four vectors, one for each length n of n-grams, of `count * (ln N - ln max(1, df))`: N rows, of which `df` have the
//! n-gram in a reference. With c the caption's vector and r that of a reference:
//!
//! ```text
//! CIDEr = 10 * mean over references and n of  sum(min(c, r) * r) / (|c| * |r|) * exp(-(difference in length)^2 / (2 * 6^2))
//! ```
//!
//! Lengths are counted in 2-grams, and the divisor is left out where a vector is 0, as in pycocoevalcap.

use std::collections::HashMap;

use super::Sentence;
use super::ngrams::{LONGEST, Ngram, counts, ngrams};

/// In how many rows n-grams occur.
#[derive(Debug)]
pub struct DocumentFrequency {
    /// n-grams that more than one row has: others weigh as much as one that no row has.
    several: HashMap<Ngram, u32>,
    /// ln N.
    most: f64,
}

/// A sentence as vectors.
struct Weighted {
    /// By n: n-grams with their weights, sorted.
    vectors: [Vec<(Ngram, f64)>; LONGEST],
    norms: [f64; LONGEST],
    length: f64,
}

impl DocumentFrequency {
    /// Counts in the references of all rows. Takes 16 bytes for each n-gram of one length while it counts.
    #[must_use]
    pub fn of(rows: &[Vec<Sentence>]) -> Self {
        let (mut several, most) = (HashMap::new(), (rows.len() as f64).ln());
        for n in 1..=LONGEST {
            let mut all = Vec::new();
            for references in rows {
                let start = all.len();
                all.extend(references.iter().flat_map(|reference| ngrams(reference, n)));
                // Each once for a row.
                all[start..].sort_unstable();
                let mut kept = start;
                for at in start..all.len() {
                    if at == start || all[at] != all[kept - 1] {
                        all[kept] = all[at];
                        kept += 1;
                    }
                }
                all.truncate(kept);
            }
            all.sort_unstable();
            let same = all.chunk_by(|a, b| a == b).filter(|same| same.len() > 1);
            several.extend(same.map(|same| (same[0], same.len() as u32)));
        }
        Self { several, most }
    }

    /// `CIDEr` of a caption against the references of its row.
    #[must_use]
    pub fn cider(&self, caption: &[u32], references: &[Sentence]) -> f64 {
        let caption = self.weighted(caption);
        let similarity: f64 = references.iter().map(|reference| similarity(&caption, &self.weighted(reference))).sum();
        10.0 * similarity / references.len().max(1) as f64
    }

    fn weighted(&self, sentence: &[u32]) -> Weighted {
        let weight = |(ngram, count): (Ngram, u32)| {
            let rows = self.several.get(&ngram).copied().unwrap_or(1);
            (ngram, f64::from(count) * (self.most - f64::from(rows).ln()))
        };
        let vectors = std::array::from_fn(|n| counts(sentence, n + 1).into_iter().map(weight).collect());
        let norm = |vector: &Vec<(Ngram, f64)>| vector.iter().map(|(_, weight)| weight * weight).sum::<f64>().sqrt();
        let norms = std::array::from_fn(|n| norm(&vectors[n]));
        Weighted { vectors, norms, length: sentence.len().saturating_sub(1) as f64 }
    }
}

/// The mean over n.
fn similarity(caption: &Weighted, reference: &Weighted) -> f64 {
    const SIGMA: f64 = 6.0;
    let of_length = |n: usize| {
        let theirs = &reference.vectors[n];
        let product = |(ngram, weight): &(Ngram, f64)| {
            let found = theirs.binary_search_by_key(ngram, |(found, _)| *found);
            found.map_or(0.0, |at| weight.min(theirs[at].1) * theirs[at].1)
        };
        let sum: f64 = caption.vectors[n].iter().map(product).sum();
        let norms = caption.norms[n] * reference.norms[n];
        if norms == 0.0 { sum } else { sum / norms }
    };
    let difference = caption.length - reference.length;
    let penalty = (-difference * difference / (2.0 * SIGMA * SIGMA)).exp();
    (0..LONGEST).map(of_length).sum::<f64>() * penalty / LONGEST as f64
}
