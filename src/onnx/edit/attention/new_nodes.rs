//! Makes the nodes and constants that an edited graph gets in place of others.

use bytes::Bytes;

use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto};

/// The domain of ONNX Runtime's own operators.
pub(super) const MICROSOFT: &str = "com.microsoft";

/// `AttributeProto.AttributeType`
const FLOAT: i32 = 1;
const INT: i32 = 2;

/// The operator `op_type` of ONNX Runtime. An input or output that is left out is an empty name.
pub(super) fn microsoft(op_type: &str, input: &[&str], output: &[&str], attribute: Vec<AttributeProto>) -> NodeProto {
    let owned = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    NodeProto {
        op_type: Some(op_type.to_owned()),
        domain: Some(MICROSOFT.to_owned()),
        input: owned(input),
        output: owned(output),
        attribute,
        ..NodeProto::default()
    }
}

/// An attribute that is an integer.
pub(super) fn integer_attribute(name: &str, value: usize) -> AttributeProto {
    let value = i64::try_from(value).unwrap_or(i64::MAX);
    AttributeProto { name: Some(name.to_owned()), i: Some(value), r#type: Some(INT), ..AttributeProto::default() }
}

/// An attribute that is a float.
pub(super) fn float_attribute(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: Some(name.to_owned()), f: Some(value), r#type: Some(FLOAT), ..AttributeProto::default() }
}

/// A vector of int64.
pub(super) fn int64s(name: &str, values: &[i64]) -> TensorProto {
    let data: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
    tensor(name, DataType::I64.to_onnx().unwrap_or_default(), &[values.len()], data)
}

/// A tensor whose elements are `data`.
pub(super) fn tensor(name: &str, data_type: i32, dims: &[usize], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        data_type: Some(data_type),
        dims: dims.iter().filter_map(|&size| i64::try_from(size).ok()).collect(),
        raw_data: Some(Bytes::from(data)),
        ..TensorProto::default()
    }
}
