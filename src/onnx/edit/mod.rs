//! Edits of ONNX graphs, made in memory before a session is opened.

pub(crate) mod decoder_graph;
pub(crate) mod elide_copies;
pub(crate) mod external_data;
pub(crate) mod extract;
pub(crate) mod file;
pub(crate) mod fold_shapes;
pub(crate) mod header;
pub(crate) mod hoist;
pub(crate) mod subgraph;
