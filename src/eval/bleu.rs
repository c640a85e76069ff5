//! BLEU-1 to BLEU-4: Papineni et al., *BLEU: a Method for Automatic Evaluation of Machine Translation*, 2002.
//!
//! With `p_k` the share of the captions' k-grams that are in a reference of their row (each at most as often as in the reference that has
//! it most often), `c` the length of all captions and `r` that of the references closest in length, the shorter one of two:
//!
//! ```text
//! BLEU-n = min(1, exp(1 - r / c)) * (p_1 * ... * p_n)^(1/n)
//! ```
//!
//! Sums are over all rows before they are divided, and tiny numbers keep divisors from 0, as in pycocoevalcap.

use std::iter::Sum;
use std::ops::{Add, Mul};

use super::Sentence;
use super::ngrams::{LONGEST, count_of, counts};

/// What BLEU needs to know of a row, or of the sum of several.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct BleuCounts {
    /// k-grams that a reference has too.
    correct: [f64; LONGEST],
    /// k-grams.
    guessed: [f64; LONGEST],
    /// Words of the caption.
    length: f64,
    /// Words of the reference that is closest in length.
    reference_length: f64,
}

impl BleuCounts {
    /// Compares a caption with its references, of which there is at least one.
    #[must_use]
    pub fn of(caption: &[u32], references: &[Sentence]) -> Self {
        let closest =
            references.iter().map(|reference| (reference.len().abs_diff(caption.len()), reference.len())).min();
        let mut found = Self {
            length: caption.len() as f64,
            reference_length: closest.map_or(0.0, |(_, length)| length as f64),
            ..Self::default()
        };
        for n in 1..=LONGEST {
            let theirs: Vec<_> = references.iter().map(|reference| counts(reference, n)).collect();
            let most = |ngram| theirs.iter().map(|counts| count_of(counts, ngram)).max().unwrap_or(0);
            let correct: u32 = counts(caption, n).iter().map(|(ngram, count)| most(ngram).min(*count)).sum();
            found.correct[n - 1] = f64::from(correct);
            found.guessed[n - 1] = (caption.len() + 1).saturating_sub(n) as f64;
        }
        found
    }

    /// BLEU-1 to BLEU-4, from 0 to 1.
    #[must_use]
    pub fn scores(&self) -> [f64; LONGEST] {
        const SMALL: f64 = 1e-9;
        const TINY: f64 = 1e-15;
        let ratio = (self.length + TINY) / (self.reference_length + SMALL);
        let brevity = if ratio < 1.0 { (1.0 - 1.0 / ratio).exp() } else { 1.0 };
        let mut product = 1.0;
        std::array::from_fn(|k| {
            product *= (self.correct[k] + TINY) / (self.guessed[k] + SMALL);
            f64::powf(product, 1.0 / (k as f64 + 1.0)) * brevity
        })
    }
}

impl Add for BleuCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            correct: std::array::from_fn(|k| self.correct[k] + other.correct[k]),
            guessed: std::array::from_fn(|k| self.guessed[k] + other.guessed[k]),
            length: self.length + other.length,
            reference_length: self.reference_length + other.reference_length,
        }
    }
}

impl Mul<f64> for BleuCounts {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        Self {
            correct: self.correct.map(|count| count * times),
            guessed: self.guessed.map(|count| count * times),
            length: self.length * times,
            reference_length: self.reference_length * times,
        }
    }
}

impl Sum for BleuCounts {
    fn sum<I: Iterator<Item = Self>>(rows: I) -> Self {
        rows.fold(Self::default(), Add::add)
    }
}
