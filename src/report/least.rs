//! The least of many values, kept with bounded memory: how galleries are bounded, and how rows are drawn with a fixed seed.

use std::collections::BinaryHeap;

/// The least `most` values so far.
#[derive(Debug, Clone)]
pub(super) struct Least<T> {
    most: usize,
    /// The greatest of them is on top.
    kept: BinaryHeap<T>,
}

impl<T: Ord> Least<T> {
    pub(super) fn new(most: usize) -> Self {
        Self { most, kept: BinaryHeap::new() }
    }

    pub(super) fn add(&mut self, value: T) {
        if self.kept.len() < self.most {
            self.kept.push(value);
        } else if let Some(mut greatest) = self.kept.peek_mut()
            && value < *greatest
        {
            *greatest = value;
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        other.kept.into_iter().for_each(|value| self.add(value));
    }

    /// The values, least first.
    pub(super) fn into_sorted(self) -> Vec<T> {
        self.kept.into_sorted_vec()
    }
}

/// A number for row `row` of part `part` that looks random and is the same each time; the rows with the least numbers are a sample.
pub(super) fn drawn(part: usize, row: u32) -> u64 {
    // SplitMix64, <https://prng.di.unimi.it/splitmix64.c>.
    let mut mixed = ((part as u64) << 32 | u64::from(row)).wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_are_those_of_a_sort_however_they_are_merged() {
        let values: Vec<u64> = (0..500).map(|row| drawn(7, row)).collect();
        let mut sorted = values.clone();
        sorted.sort_unstable();
        let (mut all, mut half) = (Least::new(20), Least::new(20));
        values.iter().enumerate().for_each(|(at, value)| if at % 3 == 0 { half.add(*value) } else { all.add(*value) });
        all.merge(half);
        assert_eq!(all.into_sorted(), sorted[..20]);
        sorted.dedup();
        assert_eq!(sorted.len(), 500);
    }
}
