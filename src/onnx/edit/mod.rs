//! Edits of ONNX graphs, made in memory before a session is opened. In: a graph file, and what is wanted of it. Out: its declarations,
//! or a session. No edit changes what a graph computes, and no file is changed.
//!
//! - `external_data`, `file`: reads a graph file, whose weights stay in the file, and encodes an edited graph; `decoded_size`: whether
//!   it is one that can be read
//! - `header`: what a graph declares
//! - `extract`: the subgraph that computes some values
//! - `elide_copies`, `fold_shapes`, `hoist`: the edits; they leave out, fold, and move nodes
//! - `subgraph`: opens a graph or a subgraph
//! - `decoder_graph`: opens the graph of a decoder with all edits

mod decoded_size;
pub(crate) mod decoder_graph;
pub(crate) mod elide_copies;
pub(crate) mod external_data;
pub(crate) mod extract;
pub(crate) mod file;
pub(crate) mod fold_shapes;
pub(crate) mod header;
pub(crate) mod hoist;
#[cfg(test)]
mod mutations;
pub(crate) mod subgraph;
