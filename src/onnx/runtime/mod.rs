//! ONNX Runtime: the library, its environment, devices, sessions and tensors.

pub(crate) mod device;
pub(crate) mod environment;
pub(crate) mod library;
pub(crate) mod session;
pub(crate) mod tensor;
