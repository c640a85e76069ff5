//! Gathers rows (axis 0) of tensors on the device that holds them. In: tensors, and which rows of each. Out: tensors with these rows.
//! Tensors in a device's memory are never copied to the host.
//!
//! - `graphs`: builds small ONNX graphs of `Gather`, `Pad` and `Concat`
//! - `gather`: runs them
//! - `place`: writes rows of many tensors into tensors of a fixed size
//! - `vector_graphs`, `vectors`: the same for vectors and for the search of rows that are not finite
//! - `fixed_batch`: runs of a graph that takes one number of rows
//! - `host`: memory of the host for the inputs of runs

pub(crate) mod fixed_batch;
pub(crate) mod gather;
pub(crate) mod graphs;
pub(crate) mod host;
pub(crate) mod place;
pub(crate) mod vector_graphs;
pub(crate) mod vectors;
