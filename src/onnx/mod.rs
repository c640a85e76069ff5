//! ONNX graphs and ONNX Runtime. In: a graph file and tensors by name. Out: tensors by name, or an [`OnnxError`]. What a graph is used
//! for (vision, text, ...) is not known here, and no other module of the crate imports `ort`.
//!
//! - `port`, `error`: what a graph declares, and how it fails; plain data
//! - `proto`: the protobuf messages of an ONNX file
//! - `runtime`: the library, devices, sessions and tensors
//! - `rows`: gathers rows of tensors on the device that holds them
//! - `edit`: edits graphs in memory before they are opened

pub(crate) mod edit;
mod error;
mod port;
pub(crate) mod proto;
pub(crate) mod rows;
pub(crate) mod runtime;

pub(crate) use edit::choose;
pub use edit::decoder_graph::DecoderGraph;
pub use edit::encoder_graph::FusedOperators;
pub use edit::fold_shapes::ProbeInputs;
pub use edit::header::GraphHeader;
pub use edit::hoist::HoistedGraph;
pub use edit::precision::{ConvertedGraph, HalfPrecision, convert};
pub(crate) use edit::static_session::{open_choice, open_static_step};
pub(crate) use edit::static_step::{EmbedGraph, NotStatic, StaticGraph, StepPort, StepPorts, recognise_static};
pub use edit::subgraph::open_subgraph;
pub use error::{OnnxError, OnnxErrorKind};
pub use port::{DataType, Dim, GraphSource, Port};
pub use rows::fixed_batch::FixedBatch;
pub use rows::gather::RowGather;
pub(crate) use rows::host::host_memory;
pub(crate) use rows::place::{RowPlacement, RowSource, Rows};
pub(crate) use runtime::bound::{BoundRun, Capture};
pub use runtime::device::{AttentionKernels, Device, limit_device_memory};
pub use runtime::diagnosis::check_device;
pub use runtime::environment::{OnnxRuntime, runtime};
pub(crate) use runtime::host_memory::{HostMemory, HostValues};
pub use runtime::library::{LibraryAttempt, LibraryError};
pub(crate) use runtime::run_context::RunContext;
pub use runtime::session::{GraphOptions, Outputs, Session, SessionInput};
pub(crate) use runtime::tensor::Element;
pub use runtime::tensor::Tensor;
pub(crate) use runtime::transfers::Transfers;
