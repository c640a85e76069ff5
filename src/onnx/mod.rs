//! Everything that touches ONNX Runtime: finding its library, editing, opening and running graphs, and their tensors. In: a graph file
//! and tensors by name. Out: tensors by name, or an [`OnnxError`]. What a graph is *for* (vision, text, ...) is not known here. No
//! other module imports `ort`.

mod copies;
mod cut;
mod device;
mod environment;
mod error;
mod external_data;
mod fold;
mod graph;
mod header;
mod hoist;
mod library;
mod messages;
mod part;
mod port;
mod row_graphs;
mod rows;
mod source;
mod stepped;
mod value;

pub use device::Device;
pub use environment::{Runtime, runtime};
pub use error::{OnnxError, OnnxErrorKind};
pub use fold::Trial;
pub use graph::{Graph, GraphOptions, Input, Outputs};
pub use header::GraphHeader;
pub use hoist::Once;
pub use library::{Attempt, LibraryError};
pub use part::open_subgraph;
pub use port::{DataType, Dim, GraphSource, Port};
pub use rows::RowGather;
pub use stepped::DecoderGraph;
pub use value::Value;
