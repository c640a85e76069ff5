//! ONNX Runtime, through `ort`, whose types stay inside this room. In: graph files or encoded graphs, a device, tensors by name. Out:
//! tensors by name. Graphs are not edited here.
//!
//! - `library`: where the library may be
//! - `environment`: loads it, once for the process
//! - `device`: execution providers and memory
//! - `tensor`: tensors in the memory of host or device
//! - `host_memory`: memory of the host that a device copies from fastest
//! - `transfers`: counts what crosses between host and device
//! - `run_context`: ends the runs of another thread, and counts their time and transfers
//! - `session`: an opened graph
//! - `diagnosis`: whether a device can be used
//! - `bound`: runs on tensors that are bound once

pub(crate) mod bound;
pub(crate) mod device;
pub(crate) mod diagnosis;
pub(crate) mod environment;
pub(crate) mod host_memory;
pub(crate) mod library;
pub(crate) mod run_context;
pub(crate) mod session;
pub(crate) mod tensor;
pub(crate) mod transfers;
