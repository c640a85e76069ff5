//! Definition levels of a page of vectors: which rows have one. A vector has a level for each of its numbers, a row without one a single
//! level. In: the bytes before the values of a data page (version 1). Out: ranges of rows. The Parquet library would give a level for each
//! number, which takes longer than reading the vectors; here a run of equal levels, which is how they are stored, is one step.
//!
//! Format: <https://parquet.apache.org/docs/file-format/data-pages/encodings/#RLE>.

use std::ops::Range;

/// The definition levels at the front of the page `bytes`, and the values behind them.
///
/// # Errors
/// What was found in their place.
pub(super) fn split_levels(bytes: &[u8], most_repetition: i16, most_definition: i16) -> Result<(&[u8], &[u8]), String> {
    let split = |bytes: &'_ [u8], most: i16| -> Option<(usize, usize)> {
        if most == 0 {
            return Some((0, 0));
        }
        let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
        (bytes.len() - 4 >= length).then_some((4, 4 + length))
    };
    let short = || format!("a page of {} bytes that ends within its levels", bytes.len());
    let (_, end) = split(bytes, most_repetition).ok_or_else(short)?;
    let bytes = &bytes[end..];
    let (start, end) = split(bytes, most_definition).ok_or_else(short)?;
    Ok((&bytes[start..end], &bytes[end..]))
}

/// The rows that have a vector of `width` numbers, of a page with `count` levels that are at most `most` and begin at the row `first`; and
/// the row after the last one.
///
/// # Errors
/// What was found in their place.
pub(super) fn rows_with_values(
    levels: &[u8],
    most: i16,
    count: u32,
    width: usize,
    first: u32,
) -> Result<(Vec<Range<u32>>, u32), String> {
    let mut rows = RowRanges { ranges: Vec::new(), next: first, numbers: 0, width: width.max(1) };
    let bits = u16::BITS - most.unsigned_abs().leading_zeros();
    let (mut levels, mut left) = (levels, count);
    while left > 0 && most > 0 {
        let header = varint(&mut levels).ok_or("levels that end too early")?;
        if header & 1 == 0 {
            let run = u32::try_from(header >> 1).unwrap_or(u32::MAX).min(left);
            let (level, rest) = levels.split_first().ok_or("levels that end too early")?;
            levels = rest;
            rows.add(i16::from(*level) == most, run)?;
            left -= run;
            if run == 0 {
                return Err("a run of no levels".to_owned());
            }
        } else {
            // Groups of eight levels, the lowest bits first.
            let groups = usize::try_from(header >> 1).unwrap_or(usize::MAX);
            let bytes = groups.saturating_mul(bits as usize).min(levels.len());
            let (packed, rest) = levels.split_at(bytes);
            levels = rest;
            let here = left.min(u32::try_from(packed.len() as u64 * 8 / u64::from(bits)).unwrap_or(u32::MAX));
            for at in 0..here {
                let bit = |bit: u32| {
                    let place = at as usize * bits as usize + bit as usize;
                    i16::from(packed[place / 8] >> (place % 8) & 1) << bit
                };
                rows.add((0..bits).map(bit).sum::<i16>() == most, 1)?;
            }
            left -= here;
            if here == 0 {
                return Err("levels that end too early".to_owned());
            }
        }
    }
    rows.add(true, left)?;
    if rows.numbers > 0 {
        return Err(format!("a page that ends within a vector, after {} numbers of {width}", rows.numbers));
    }
    Ok((rows.ranges, rows.next))
}

/// The rows so far.
struct RowRanges {
    ranges: Vec<Range<u32>>,
    next: u32,
    /// Numbers of a vector that has begun.
    numbers: usize,
    width: usize,
}

impl RowRanges {
    /// Adds `run` numbers, or as many rows without a vector.
    fn add(&mut self, has_value: bool, run: u32) -> Result<(), String> {
        let end = |next: u32, rows: u32| next.checked_add(rows).ok_or("more rows than a part has");
        if !has_value {
            if run > 0 && self.numbers > 0 {
                return Err(format!("a vector of {} numbers, where they have {}", self.numbers, self.width));
            }
            self.next = end(self.next, run)?;
            return Ok(());
        }
        let numbers = self.numbers + run as usize;
        self.numbers = numbers % self.width;
        let new = self.next..end(self.next, (numbers / self.width) as u32)?;
        self.next = new.end;
        match self.ranges.last_mut() {
            Some(last) if last.end == new.start => last.end = new.end,
            _ if new.is_empty() => {}
            _ => self.ranges.push(new),
        }
        Ok(())
    }
}

/// An unsigned number in base 128, the lowest digits first.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..63).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Levels 2, 2, 0, 2, 2, ... of vectors of two numbers, as one run of packed groups.
    fn packed(levels: &[u8]) -> Vec<u8> {
        let groups = levels.len().div_ceil(8);
        let mut bytes = vec![(groups as u8) << 1 | 1];
        bytes.resize(1 + groups * 2, 0);
        levels.iter().enumerate().for_each(|(at, level)| bytes[1 + at / 4] |= level << (at % 4 * 2));
        bytes
    }

    #[test]
    fn runs_and_packed_groups_say_the_same() {
        let expected = (vec![5..6, 7..9], 9);
        assert_eq!(rows_with_values(&packed(&[2, 2, 0, 2, 2, 2, 2]), 2, 7, 2, 5).unwrap(), expected);
        let runs = [2 << 1, 2, 1 << 1, 0, 3 << 1, 2, 1 << 1, 2];
        assert_eq!(rows_with_values(&runs, 2, 7, 2, 5).unwrap(), expected);
        let long = [0x80, 0x10, 2];
        assert_eq!(format!("{:?}", rows_with_values(&long, 2, 1024, 512, 0)), "Ok(([0..2], 2))");
        assert_eq!(format!("{:?}", rows_with_values(&[], 0, 6, 2, 0)), "Ok(([0..3], 3))", "never null");
    }

    #[test]
    fn what_is_no_vector_is_refused() {
        for (levels, count, found) in [
            (&[3 << 1, 2][..], 3, "a page that ends within a vector, after 1 numbers of 2"),
            (&[1 << 1, 2, 1 << 1, 0][..], 2, "a vector of 1 numbers, where they have 2"),
            (&[2 << 1, 2][..], 4, "levels that end too early"),
            (&[2 << 1][..], 2, "levels that end too early"),
            (&[0, 2][..], 2, "a run of no levels"),
            (&[0xff; 12][..], 2, "levels that end too early"),
            (&[3][..], 2, "levels that end too early"),
        ] {
            assert_eq!(rows_with_values(levels, 2, count, 2, 0).unwrap_err(), found, "{levels:?}");
        }
        assert!(rows_with_values(&[2 << 1, 2], 2, 2, 2, u32::MAX).is_err());
        for bytes in [&[1, 0, 0][..], &[1, 0, 0, 0], &[0xff; 8]] {
            assert!(split_levels(bytes, 1, 0).is_err() && split_levels(bytes, 0, 1).is_err(), "{bytes:?}");
        }
        assert_eq!(split_levels(&[1, 0, 0, 0, 7, 1, 0, 0, 0, 8, 9], 1, 2).unwrap(), (&[8][..], &[9][..]));
    }
}
