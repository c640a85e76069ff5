//! The best hits of one query. Ties are decided by the key, so that the result does not depend on the order in which rows are read.

use std::cmp::{Ordering, Reverse};
use std::collections::BinaryHeap;

use crate::output::view::ViewPart;

/// The key of a row, by which hits of equal score are ordered: nulls, then numbers, then texts.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// A row without a key.
    Null,
    /// An integer.
    Number(i128),
    /// Any other key, as text.
    Text(String),
}

/// A row with its score.
#[derive(Debug, Clone, PartialEq)]
pub struct Hit {
    /// The cosine with the query.
    pub score: f32,
    /// The row's key.
    pub key: Key,
    /// Where the row is.
    pub part: ViewPart,
    /// Its number in the part.
    pub row: u32,
}

impl Eq for Hit {}

impl PartialOrd for Hit {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Hit {
    /// Better hits come first.
    fn cmp(&self, other: &Self) -> Ordering {
        let place = |hit: &Self| (hit.part, hit.row);
        let by_score = other.score.total_cmp(&self.score);
        by_score.then_with(|| self.key.cmp(&other.key)).then_with(|| place(self).cmp(&place(other)))
    }
}

/// The best hits so far.
#[derive(Debug, Clone)]
pub struct Best {
    most: usize,
    /// The worst of them is on top.
    hits: BinaryHeap<Hit>,
}

impl Best {
    /// Keeps the best `most` hits.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, hits: BinaryHeap::new() }
    }

    /// Whether a row with this score may be among the best.
    #[must_use]
    pub fn may_take(&self, score: f32) -> bool {
        self.hits.len() < self.most || self.hits.peek().is_some_and(|worst| score >= worst.score)
    }

    /// Adds a hit if it is better than the worst, and drops that one.
    pub fn add(&mut self, hit: Hit) {
        self.hits.push(hit);
        if self.hits.len() > self.most {
            self.hits.pop();
        }
    }

    /// The best of both.
    #[must_use]
    pub fn merged(mut self, other: Self) -> Self {
        other.hits.into_iter().for_each(|hit| self.add(hit));
        self
    }

    /// The hits, best first.
    #[must_use]
    pub fn into_sorted(self) -> Vec<Hit> {
        let mut hits: Vec<Reverse<Hit>> = self.hits.into_iter().map(Reverse).collect();
        hits.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        hits.into_iter().map(|Reverse(hit)| hit).collect()
    }
}
