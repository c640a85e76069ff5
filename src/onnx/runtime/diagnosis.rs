//! What `nightcap doctor` asks ONNX Runtime: whether a device can be used.

use ort::session::Session;

use super::device::{AttentionKernels, Device};
use super::environment::runtime;
use crate::onnx::error::{OnnxError, OnnxErrorKind};

/// Checks that ONNX Runtime can open sessions on `device`, without a graph.
///
/// # Errors
/// [`OnnxErrorKind::Library`] without a library, or what ONNX Runtime says of the device's execution provider: that it was built without
/// it, or which of its libraries is missing.
pub fn check_device(device: Device) -> Result<(), OnnxError> {
    let environment = runtime()?.environment();
    let failed = |error: &ort::Error| OnnxError::from_ort(OnnxErrorKind::Device, &device.to_string(), error);
    let builder = Session::builder(environment).map_err(|error| failed(&error))?;
    let opened = builder.with_execution_providers(device.providers(AttentionKernels::default(), false));
    opened.map(drop).map_err(|error| failed(&error.into()))
}
