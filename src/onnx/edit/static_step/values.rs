//! Makes nodes, attributes and small constants.

use bytes::Bytes;

use crate::onnx::port::DataType;
use crate::onnx::proto::{AttributeProto, NodeProto, TensorProto};

/// ONNX Runtime's own operators.
pub(super) const CONTRIB: &str = "com.microsoft";

/// `AttributeProto.AttributeType`
const FLOAT: i32 = 1;
const INTS: i32 = 7;

impl AttributeProto {
    /// Several integers.
    pub(super) fn ints(name: &str, values: &[i64]) -> Self {
        Self { name: Some(name.to_owned()), ints: values.to_vec(), r#type: Some(INTS), ..Self::default() }
    }

    /// A number.
    pub(super) fn float(name: &str, value: f32) -> Self {
        Self { name: Some(name.to_owned()), f: Some(value), r#type: Some(FLOAT), ..Self::default() }
    }
}

impl NodeProto {
    /// The same node with `attribute`.
    pub(super) fn with(mut self, attribute: AttributeProto) -> Self {
        self.attribute.push(attribute);
        self
    }
}

/// An int64 constant.
pub(super) fn integers(name: &str, dims: &[usize], values: &[i64]) -> TensorProto {
    TensorProto {
        name: Some(name.to_owned()),
        dims: dims.iter().map(|&size| size as i64).collect(),
        data_type: DataType::I64.to_onnx(),
        raw_data: Some(values.iter().flat_map(|value| value.to_le_bytes()).collect::<Bytes>()),
        ..TensorProto::default()
    }
}
