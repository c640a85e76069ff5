//! Rows of tensors, selected, repeated and joined by small ONNX graphs on the device that holds them.

pub(crate) mod gather;
pub(crate) mod graphs;
