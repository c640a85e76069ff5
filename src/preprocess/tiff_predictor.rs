//! The predictors of TIFF files: rows of differences in, rows of samples in native byte order out.

/// Undoes the differences between neighbours in a row.
pub(super) fn sum_up(row: &mut [u8], bits: usize, samples: usize) {
    let bytes = bits / 8;
    for at in (samples * bytes..row.len() / bytes * bytes).step_by(bytes) {
        let number = |row: &[u8], at: usize| {
            row[at..at + bytes].iter().rev().fold(0_u32, |value, byte| value << 8 | u32::from(*byte))
        };
        let sum = number(row, at).wrapping_add(number(row, at - samples * bytes));
        row[at..at + bytes].copy_from_slice(&sum.to_le_bytes()[..bytes]);
    }
}

/// Undoes the differences between neighbouring bytes of a row of 32-bit floats, whose highest bytes come first, then the next ones.
pub(super) fn sum_up_floats(row: &mut [u8]) {
    for at in 1..row.len() {
        row[at] = row[at].wrapping_add(row[at - 1]);
    }
    let planes = row.to_vec();
    let count = row.len() / 4;
    for (at, float) in row.as_chunks_mut::<4>().0.iter_mut().enumerate() {
        let bytes = [0, 1, 2, 3].map(|plane| planes[plane * count + at]);
        *float = u32::from_be_bytes(bytes).to_ne_bytes();
    }
}
