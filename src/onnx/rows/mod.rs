//! Gathers rows (axis 0) of tensors on the device that holds them. In: tensors, and which rows of each. Out: tensors with these rows.
//! Tensors in a device's memory are never copied to the host.
//!
//! - `graphs`: builds small ONNX graphs of `Gather`, `Pad` and `Concat`
//! - `gather`: runs them

pub(crate) mod gather;
pub(crate) mod graphs;
