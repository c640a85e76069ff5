//! Counts of numbers in bins, from which plots are made. Memory is bounded whatever the numbers are.

use std::collections::BTreeMap;

/// The bins on each side of zero; what lies beyond is counted in the last one.
const MOST_BINS: i64 = 8192;

/// How often numbers occur, by bins of one width.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    width: f64,
    bins: BTreeMap<i64, u64>,
}

/// One bar of a histogram.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Bar {
    /// The least number in it.
    pub(super) from: f64,
    /// The greatest.
    pub(super) to: f64,
    pub(super) rows: u64,
}

impl Tally {
    /// Numbers are rounded to multiples of `width`.
    pub(super) fn new(width: f64) -> Self {
        Self { width, bins: BTreeMap::new() }
    }

    /// Counts a number; infinities and NaN are left out.
    pub(super) fn add(&mut self, number: f64) {
        if number.is_finite() {
            let bin = ((number / self.width).round() as i64).clamp(-MOST_BINS, MOST_BINS);
            *self.bins.entry(bin).or_default() += 1;
        }
    }

    pub(super) fn merge(&mut self, other: Self) {
        other.bins.into_iter().for_each(|(bin, rows)| *self.bins.entry(bin).or_default() += rows);
    }

    /// Numbers that were counted.
    pub(super) fn rows(&self) -> u64 {
        self.bins.values().sum()
    }

    /// The number below which the fraction `part` of all numbers lies; None without numbers.
    pub(super) fn quantile(&self, part: f64) -> Option<f64> {
        let wanted = (part * self.rows().saturating_sub(1) as f64).round() as u64;
        let mut before = 0;
        let found = self.bins.iter().find(|(_, rows)| {
            before += **rows;
            before > wanted
        });
        found.map(|(bin, _)| *bin as f64 * self.width)
    }

    /// At most `most` bars of one width, from the least number to the greatest.
    pub(super) fn bars(&self, most: i64) -> Vec<Bar> {
        let (Some((first, _)), Some((last, _))) = (self.bins.first_key_value(), self.bins.last_key_value()) else {
            return Vec::new();
        };
        let bins = (last - first + 1).div_euclid(most) + i64::from((last - first + 1) % most > 0);
        let count = (last - first) / bins + 1;
        let bar = |bar: i64| {
            let (from, to) = (first + bar * bins, first + (bar + 1) * bins - 1);
            let rows = self.bins.range(from..=to).map(|(_, rows)| rows).sum();
            Bar { from: from as f64 * self.width, to: to as f64 * self.width, rows }
        };
        (0..count).map(bar).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_in_one_bar() {
        let mut tally = Tally::new(0.5);
        (0..1000).for_each(|number| tally.add(f64::from(number) / 10.0));
        tally.add(f64::NAN);
        tally.add(f64::INFINITY);
        let bars = tally.bars(40);
        assert!(bars.len() <= 40 && bars.len() > 20, "{}", bars.len());
        assert_eq!(bars.iter().map(|bar| bar.rows).sum::<u64>(), 1000);
        assert!(bars.windows(2).all(|pair| pair[0].to < pair[1].from));
        assert_eq!(tally.quantile(0.5), Some(50.0));
        assert_eq!((tally.quantile(0.0), tally.quantile(1.0)), (Some(0.0), Some(100.0)));
    }

    #[test]
    fn whole_numbers_have_whole_bars_and_outliers_take_no_memory() {
        let mut tally = Tally::new(1.0);
        for number in [3.0, 4.0, 4.0, 1e300, -1e300] {
            tally.add(number);
        }
        assert_eq!(tally.rows(), 5);
        assert_eq!((tally.quantile(0.0), tally.quantile(1.0)), (Some(-8192.0), Some(8192.0)));
        assert!(Tally::new(1.0).bars(9).is_empty());
        assert_eq!(Tally::new(1.0).quantile(0.5), None);
        let mut words = Tally::new(1.0);
        for number in [3.0, 4.0, 4.0] {
            words.add(number);
        }
        let bars = words.bars(40);
        assert_eq!(bars, [Bar { from: 3.0, to: 3.0, rows: 1 }, Bar { from: 4.0, to: 4.0, rows: 2 }]);
    }
}
