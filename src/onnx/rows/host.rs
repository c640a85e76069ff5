//! Memory of the host for the inputs of a device's runs. In: the device. Out: an allocator, from a session of its own, since sessions of
//! other threads are busy.

use std::path::{Path, PathBuf};

use super::gather::RowGather;
use super::graphs::RowGraph;
use crate::onnx::port::DataType;
use crate::onnx::runtime::device::Device;
use crate::onnx::runtime::host_memory::HostMemory;
use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Session};

/// Memory from which `device` copies fastest.
pub(crate) fn host_memory(device: Device) -> HostMemory {
    if !matches!(device, Device::Cuda(_) | Device::TensorRt(_)) {
        return HostMemory::default();
    }
    let options = RowGather::options(GraphOptions { device, threads: 1, dynamic_shapes: true, repeatable: true });
    let graph = RowGraph { dtype: DataType::F32, parts: 1, aligns: false };
    let edited = EditedGraph { bytes: graph.encode(), folder: PathBuf::new() };
    match Session::open_edited(Path::new("memory of the host"), &edited, options) {
        Ok(session) => HostMemory::locked(options.device, session),
        Err(error) => {
            tracing::warn!("no page-locked memory, so that copies to {device} are slower: {error}");
            HostMemory::default()
        }
    }
}
