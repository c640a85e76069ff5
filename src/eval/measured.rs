//! What each row contributes to every score of one OUTPUT, and the scores of rows that are drawn again.

use std::collections::HashSet;

use rayon::prelude::*;

use super::Sentence;
use super::bleu::BleuCounts;
use super::cider::DocumentFrequency;
use super::diversity::distinct;
use super::retrieval::{Rank, Ranks};
use super::rouge::rouge_l;
use super::words::Vocabulary;
use crate::support::repetition::repeats;

/// A score, in percent unless the name is [`MEDIAN_RANKS`] or `words`; `similarity` is a cosine.
#[derive(Debug, Clone, PartialEq)]
pub struct Score {
    /// As `jobs/train/metrics.py` names it.
    pub name: String,
    /// Its value.
    pub value: f64,
}

/// The names of the median ranks, which are counted from 1.
pub const MEDIAN_RANKS: [&str; 2] = ["i2t median rank", "t2i median rank"];

/// The ranks up to which recall is counted.
const RECALLS: [u32; 3] = [1, 5, 10];

/// What the captions of rows contribute.
#[derive(Debug)]
struct Captions {
    bleu: Vec<BleuCounts>,
    cider: Vec<f64>,
    rouge: Vec<f64>,
    repeats: Vec<f64>,
    novel: Vec<f64>,
    words: Vec<f64>,
    distinct: [f64; 4],
}

/// What the rows of one OUTPUT contribute.
#[derive(Debug, Default)]
pub struct Measured {
    rows: usize,
    captions: Option<Captions>,
    /// Cosine of image and caption; NaN: none.
    similarity: Option<Vec<f64>>,
    /// Sorted by rank.
    ranks: Option<Ranks>,
}

impl Measured {
    /// Nothing yet of `rows` rows.
    #[must_use]
    pub fn new(rows: usize) -> Self {
        Self { rows, ..Self::default() }
    }

    /// Compares the caption of each row with its references. A caption is novel that is neither one of them nor of `others`.
    #[must_use]
    pub fn with_captions(
        self,
        captions: &[String],
        references: &[Vec<Sentence>],
        others: &[Vec<Sentence>],
        vocabulary: &mut Vocabulary,
    ) -> Self {
        let known: HashSet<&Sentence> = references.iter().chain(others).flatten().collect();
        let is_novel = |caption: &String| f64::from(u8::from(!known.contains(&vocabulary.sentence(caption))));
        let novel = captions.iter().map(is_novel).collect();
        let mut sentence = |caption: &String| match vocabulary.sentence(caption) {
            // As in `jobs/train`.
            empty if empty.is_empty() => (vocabulary.sentence("empty"), 0.0),
            sentence => (sentence.clone(), sentence.len() as f64),
        };
        let (sentences, words): (Vec<Sentence>, Vec<f64>) = captions.iter().map(&mut sentence).unzip();
        let frequency = DocumentFrequency::of(references);
        let compare = |(caption, references): (&Sentence, &Vec<Sentence>)| {
            let bleu = BleuCounts::of(caption, references);
            (bleu, (frequency.cider(caption, references), rouge_l(caption, references)))
        };
        let (bleu, (cider, rouge)) = sentences.par_iter().zip(references).map(compare).unzip();
        let repeats = captions.iter().map(|caption| f64::from(u8::from(repeats(caption)))).collect();
        let said: Vec<Sentence> = sentences
            .into_iter()
            .zip(&words)
            .filter(|(_, words)| **words > 0.0)
            .map(|(sentence, _)| sentence)
            .collect();
        let distinct = std::array::from_fn(|n| distinct(&said, n + 1));
        Self { captions: Some(Captions { bleu, cider, rouge, repeats, novel, words, distinct }), ..self }
    }

    /// The cosine of each row's image and caption, where there is one.
    #[must_use]
    pub fn with_similarity(self, similarity: &[Option<f32>]) -> Self {
        let similarity = similarity.iter().map(|value| value.map_or(f64::NAN, f64::from)).collect();
        Self { similarity: Some(similarity), ..self }
    }

    /// The ranks of images and texts.
    #[must_use]
    pub fn with_ranks(self, mut ranks: Ranks) -> Self {
        ranks.to_text.sort_unstable_by_key(|found| (found.rank, found.row));
        ranks.to_image.sort_unstable_by_key(|found| (found.rank, found.row));
        Self { ranks: Some(ranks), ..self }
    }

    /// All scores.
    #[must_use]
    pub fn scores(&self) -> Vec<Score> {
        let mut scores = self.weighted(&vec![1; self.rows]);
        if let Some(captions) = &self.captions {
            let distinct = (1..).zip(captions.distinct);
            scores.extend(distinct.map(|(n, value)| Score { name: format!("distinct-{n}"), value: 100.0 * value }));
        }
        scores
    }

    /// The scores of rows of which each counts as often as `weights` says: all but distinct-n, which does not add up over rows.
    #[must_use]
    pub fn weighted(&self, weights: &[u32]) -> Vec<Score> {
        let mut scores = Vec::new();
        let mut add = |name: &str, value: f64| scores.push(Score { name: name.to_owned(), value });
        if let Some(captions) = &self.captions {
            let bleu =
                captions.bleu.iter().zip(weights).map(|(row, weight)| *row * f64::from(*weight)).sum::<BleuCounts>();
            (1..).zip(bleu.scores()).for_each(|(n, value)| add(&format!("BLEU-{n}"), 100.0 * value));
            add("ROUGE-L", 100.0 * mean(&captions.rouge, weights));
            add("CIDEr", 100.0 * mean(&captions.cider, weights));
        }
        if let Some(ranks) = &self.ranks {
            for (direction, ranks) in [("i2t", &ranks.to_text), ("t2i", &ranks.to_image)] {
                for k in RECALLS {
                    add(&format!("{direction} R@{k}"), 100.0 * recall(ranks, k, weights));
                }
                add(&format!("{direction} median rank"), median(ranks, weights));
            }
        }
        if let Some(similarity) = &self.similarity {
            add("similarity", mean(similarity, weights));
        }
        if let Some(captions) = &self.captions {
            add("repeat", 100.0 * mean(&captions.repeats, weights));
            add("novel", 100.0 * mean(&captions.novel, weights));
            add("words", mean(&captions.words, weights));
        }
        scores
    }
}

/// The mean of the values that are numbers.
fn mean(values: &[f64], weights: &[u32]) -> f64 {
    let known = values.iter().zip(weights).filter(|(value, _)| !value.is_nan());
    let (sum, count) = known.fold((0.0, 0.0), |(sum, count), (value, weight)| {
        (sum + value * f64::from(*weight), count + f64::from(*weight))
    });
    sum / count
}

/// The share of ranks below `k`.
fn recall(sorted: &[Rank], k: u32, weights: &[u32]) -> f64 {
    let weigh = |ranks: &[Rank]| ranks.iter().map(|found| u64::from(weights[found.row as usize])).sum::<u64>() as f64;
    weigh(&sorted[..sorted.partition_point(|found| found.rank < k)]) / weigh(sorted)
}

/// The median rank, counted from 1: the mean of the two in the middle where their number is even.
fn median(sorted: &[Rank], weights: &[u32]) -> f64 {
    let weight = |found: &Rank| u64::from(weights[found.row as usize]);
    let count: u64 = sorted.iter().map(weight).sum();
    let nth = |n: u64| {
        let mut before = 0;
        let found = sorted.iter().find(|found| {
            before += weight(found);
            before > n
        });
        found.map_or(f64::NAN, |found| f64::from(found.rank) + 1.0)
    };
    if count == 0 { f64::NAN } else { f64::midpoint(nth((count - 1) / 2), nth(count / 2)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_count_rows_as_often_as_they_are_drawn() {
        let ranks: Vec<Rank> =
            [0, 2, 9].iter().enumerate().map(|(row, rank)| Rank { row: row as u32, rank: *rank }).collect();
        for (weights, expected) in
            [([1, 1, 1], 3.0), ([1, 1, 0], 2.0), ([0, 0, 3], 10.0), ([1, 0, 1], 5.5), ([3, 1, 0], 1.0)]
        {
            assert!((median(&ranks, &weights) - expected).abs() < 1e-12, "{weights:?}");
        }
        assert!(median(&ranks, &[0, 0, 0]).is_nan());
    }
}
