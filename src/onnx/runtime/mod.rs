//! ONNX Runtime, through `ort`, whose types stay inside this room. In: graph files or encoded graphs, a device, tensors by name. Out:
//! tensors by name. Graphs are not edited here.
//!
//! - `library`: where the library may be
//! - `environment`: loads it, once for the process
//! - `device`: execution providers and memory
//! - `tensor`: tensors in the memory of host or device
//! - `session`: an opened graph

pub(crate) mod device;
pub(crate) mod environment;
pub(crate) mod library;
pub(crate) mod session;
pub(crate) mod tensor;
