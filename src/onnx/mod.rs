//! Everything that touches ONNX Runtime: finding its library, editing, opening and running graphs, and their tensors. In: a graph file
//! and tensors by name. Out: tensors by name, or an [`OnnxError`]. What a graph is *for* (vision, text, ...) is not known here. No
//! other module imports `ort`.

pub(crate) mod edit;
mod error;
mod port;
pub(crate) mod proto;
pub(crate) mod rows;
pub(crate) mod runtime;

pub use edit::decoder_graph::DecoderGraph;
pub use edit::fold_shapes::Trial;
pub use edit::header::GraphHeader;
pub use edit::hoist::Once;
pub use edit::subgraph::open_subgraph;
pub use error::{OnnxError, OnnxErrorKind};
pub use port::{DataType, Dim, GraphSource, Port};
pub use rows::gather::RowGather;
pub use runtime::device::Device;
pub use runtime::environment::{OnnxRuntime, runtime};
pub use runtime::library::{Attempt, LibraryError};
pub use runtime::session::{GraphOptions, Input, Outputs, Session};
pub use runtime::tensor::Tensor;
