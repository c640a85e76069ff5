//! Checks a row for NaN and infinity. In: a row of a model's output. Out: whether all of it is finite; if not, the row fails
//! alone.

/// Values in one block of vector operations.
const LANES: usize = 32;

/// Whether no element is NaN or infinite. It runs on the logits of every row and step, so the loop is written to be compiled into
/// vector instructions.
#[multiversion::multiversion(targets("x86_64+avx512f", "x86_64+avx2"))]
pub(crate) fn is_finite(values: &[f32]) -> bool {
    const EXPONENT: u32 = f32::INFINITY.to_bits();
    let mut worst = [0_u32; LANES];
    let (blocks, rest) = values.as_chunks::<LANES>();
    for block in blocks {
        for (worst, value) in worst.iter_mut().zip(block) {
            *worst = (*worst).max(value.to_bits() & EXPONENT);
        }
    }
    worst.iter().all(|bits| *bits < EXPONENT) && rest.iter().all(|value| value.is_finite())
}

#[cfg(test)]
mod tests {
    use super::{LANES, is_finite};

    #[test]
    fn one_value_that_is_not_finite_is_seen_wherever_it_stands() {
        for count in [1, LANES, 2 * LANES + 3] {
            assert!(is_finite(&vec![f32::MAX; count]) && is_finite(&vec![-0.0; count]));
            for index in 0..count {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let mut values = vec![1.0; count];
                    values[index] = bad;
                    assert!(!is_finite(&values), "{bad} at {index} of {count}");
                }
            }
        }
        assert!(is_finite(&[]));
    }
}
