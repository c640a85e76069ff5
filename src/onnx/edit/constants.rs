//! Small constants. In: a tensor of a graph. Out: its numbers.

use half::f16;

use crate::onnx::port::DataType;
use crate::onnx::proto::TensorProto;

/// The most numbers that are read of a tensor: sizes, axes, factors.
const MOST: usize = 64;

/// The numbers of `tensor`, if it is small and lies in the graph. An int64 beyond 2^53, as the end of a slice, is rounded.
pub(crate) fn numbers(tensor: &TensorProto) -> Option<Vec<f64>> {
    let count = tensor.dims.iter().try_fold(1usize, |count, &size| count.checked_mul(usize::try_from(size).ok()?))?;
    if count > MOST {
        return None;
    }
    let found: Vec<f64> = if let Some(data) = &tensor.raw_data {
        let each = |size| data.chunks_exact(size);
        #[allow(clippy::cast_precision_loss, reason = "only the ends of slices are that large")]
        match tensor.data_type() {
            1 => each(4).filter_map(|b| b.try_into().ok()).map(|b| f64::from(f32::from_le_bytes(b))).collect(),
            6 => each(4).filter_map(|b| b.try_into().ok()).map(|b| f64::from(i32::from_le_bytes(b))).collect(),
            7 => each(8).filter_map(|b| b.try_into().ok()).map(|b| i64::from_le_bytes(b) as f64).collect(),
            9 => data.iter().map(|&b| f64::from(b)).collect(),
            10 => each(2).filter_map(|b| b.try_into().ok()).map(|b| f16::from_le_bytes(b).to_f64()).collect(),
            11 => each(8).filter_map(|b| b.try_into().ok()).map(f64::from_le_bytes).collect(),
            _ => return None,
        }
    } else if let (1, Some(data)) = (tensor.data_type(), &tensor.float_data) {
        data.chunks_exact(4).filter_map(|b| b.try_into().ok()).map(|b| f64::from(f32::from_le_bytes(b))).collect()
    } else {
        let data = match tensor.data_type() {
            6 | 9 | 10 => tensor.int32_data.as_ref()?,
            7 => tensor.int64_data.as_ref()?,
            _ => return None,
        };
        let as_number = |number: i64| match tensor.data_type() {
            10 => u16::try_from(number).map_or(f64::NAN, |bits| f16::from_bits(bits).to_f64()),
            #[allow(clippy::cast_precision_loss, reason = "only the ends of slices are that large")]
            _ => number as f64,
        };
        varints(data).into_iter().map(as_number).collect()
    };
    (found.len() == count).then_some(found)
}

/// Whether numbers of this ONNX type are integers.
pub(crate) fn is_integer(data_type: i32) -> bool {
    !matches!(DataType::from_onnx(data_type), DataType::F32 | DataType::F16 | DataType::Other("double" | "bfloat16"))
}

/// Packed integers as protobuf encodes them.
fn varints(data: &[u8]) -> Vec<i64> {
    let (mut found, mut number, mut shift) = (Vec::new(), 0u64, 0u32);
    for &byte in data {
        number |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if byte & 0x80 == 0 {
            found.push(number.cast_signed());
            (number, shift) = (0, 0);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use bytes::Bytes;

    use super::numbers;
    use crate::onnx::proto::TensorProto;

    fn tensor(data_type: i32, dims: &[i64]) -> TensorProto {
        TensorProto { dims: dims.to_vec(), data_type: Some(data_type), ..TensorProto::default() }
    }

    #[test]
    fn numbers_are_read_in_each_encoding() {
        let raw = |data: &[u8]| Some(Bytes::copy_from_slice(data));
        let cases = [
            (TensorProto { raw_data: raw(&0.5f32.to_le_bytes()), ..tensor(1, &[]) }, vec![0.5]),
            (TensorProto { float_data: raw(&2.5f32.to_le_bytes()), ..tensor(1, &[1]) }, vec![2.5]),
            (TensorProto { raw_data: raw(&[0, 0x38]), ..tensor(10, &[]) }, vec![0.5]),
            (TensorProto { int32_data: raw(&[0x80, 0x70]), ..tensor(10, &[]) }, vec![0.5]),
            (TensorProto { raw_data: raw(&(-1i64).to_le_bytes()), ..tensor(7, &[1]) }, vec![-1.0]),
            (
                TensorProto {
                    int64_data: raw(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01, 0xac, 0x02]),
                    ..tensor(7, &[2])
                },
                vec![-1.0, 300.0],
            ),
        ];
        for (tensor, expected) in cases {
            assert_eq!(numbers(&tensor).unwrap(), expected, "{tensor:?}");
        }
    }

    #[test]
    fn a_tensor_that_is_large_or_elsewhere_has_no_numbers() {
        assert_eq!(numbers(&tensor(1, &[1000])), None);
        assert_eq!(numbers(&tensor(1, &[2])), None);
        assert_eq!(numbers(&tensor(7, &[-1])), None);
    }
}
