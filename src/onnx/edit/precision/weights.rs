//! Rounds weights. In: the elements of a float32 tensor. Out: those of a tensor of 16 bits. A number that has no finite value there is
//! refused, unless it is the filling of a mask.

use super::half::HalfPrecision;

/// Elements that are rounded before they are handed on.
const CHUNK: usize = 1 << 18;

/// Rounds `elements`, float32 in little-endian order, and hands the result on in chunks.
///
/// The filling of a mask, such as the most negative float32, becomes the most negative number of the type, which is what the
/// reference models fill in when they run in it (`torch.finfo(dtype).min`). A mask is a tensor of at most two numbers.
///
/// # Errors
/// What is out of range, or what `give` says.
pub(super) fn round(
    elements: &[u8],
    half: HalfPrecision,
    give: &mut dyn FnMut(&[u8]) -> Result<(), String>,
) -> Result<(), String> {
    let beyond = numbers(elements).filter(|number| half.overflows(*number)).count();
    if beyond > 0 && !is_mask(elements) {
        let largest =
            numbers(elements).filter(|number| number.is_finite()).fold(0f32, |most, number| most.max(number.abs()));
        let (name, most) = (half.onnx_name(), half.largest());
        return Err(format!(
            "{beyond} of its numbers do not fit {name}, whose largest is {most}; the largest of them is {largest}"
        ));
    }
    let most = half.largest();
    let mut rounded = Vec::with_capacity(2 * CHUNK.min(elements.len() / 4));
    for chunk in elements.chunks(4 * CHUNK) {
        rounded.clear();
        rounded.extend(numbers(chunk).flat_map(|number| {
            let number = if half.overflows(number) { number.clamp(-most, most) } else { number };
            half.round(number).to_le_bytes()
        }));
        give(&rounded)?;
    }
    Ok(())
}

/// The float32 numbers that `elements` holds.
pub(super) fn numbers(elements: &[u8]) -> impl Iterator<Item = f32> {
    elements.chunks_exact(4).map(|bytes| f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

fn is_mask(elements: &[u8]) -> bool {
    let mut seen: Vec<u32> = Vec::new();
    for number in numbers(elements) {
        if !seen.contains(&number.to_bits()) {
            seen.push(number.to_bits());
        }
        if seen.len() > 2 {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use half::{bf16, f16};

    use super::super::half::HalfPrecision::{self, Bf16, F16};
    use super::round;

    fn rounded(numbers: &[f32], half: HalfPrecision) -> Result<Vec<u16>, String> {
        let elements: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
        let mut bits = Vec::new();
        round(&elements, half, &mut |chunk| {
            bits.extend(chunk.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])));
            Ok(())
        })?;
        Ok(bits)
    }

    #[test]
    fn numbers_are_rounded_to_the_nearest() {
        let numbers = [0.0, -1.5, 0.1, 2049.0, 65519.0, 6e-8, 1e-9, f32::INFINITY];
        assert_eq!(rounded(&numbers, F16).unwrap(), numbers.map(|number| f16::from_f32(number).to_bits()));
        assert_eq!(rounded(&numbers, Bf16).unwrap(), numbers.map(|number| bf16::from_f32(number).to_bits()));
    }

    #[test]
    fn a_weight_out_of_range_is_refused_and_a_mask_is_not() {
        let said = rounded(&[1.0, 2.0, -70000.0, 3.0], F16).unwrap_err();
        assert_eq!(said, "1 of its numbers do not fit float16, whose largest is 65504; the largest of them is 70000");
        assert!(rounded(&[1.0, 2.0, -70000.0, 3.0], Bf16).is_ok());
        let mask = [0.0, f32::MIN, 0.0, f32::MIN];
        let least = f16::MIN.to_bits();
        assert_eq!(rounded(&mask, F16).unwrap(), [0, least, 0, least]);
        // the nearest bfloat16 is infinite
        let least = bf16::MIN.to_bits();
        assert_eq!(rounded(&mask, Bf16).unwrap(), [0, least, 0, least]);
    }
}
