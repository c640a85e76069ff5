//! Edits of ONNX graphs, made in memory before a session is opened. In: a graph file, and what is wanted of it. Out: its declarations,
//! or a session. No edit changes what a graph computes, except `precision`, which writes a new file; no file is changed.
//!
//! - `external_data`, `file`: reads a graph file, whose weights stay in the file, and encodes an edited graph; `decoded_size`: whether
//!   it is one that can be read
//! - `header`: what a graph declares
//! - `extract`: the subgraph that computes some values
//! - `elide_copies`, `fold_shapes`, `hoist`: the edits; they leave out, fold, and move nodes
//! - `choose`: chooses tokens in the graph
//! - `static_session`: opens a static step with the choice in it
//! - `graph_index`, `constants`, `known_values`: who computes and uses a value, and what is known about it without running the graph
//! - `static_step`: the step of one shape of a decoder
//! - `attention`: where a graph computes attention, and one operator in its place
//! - `subgraph`: opens a graph or a subgraph
//! - `precision`: converts a graph file to float16 or bfloat16
//! - `decoder_graph`, `encoder_graph`: open the graph of a decoder or an encoder with all edits

pub(crate) mod attention;
pub(crate) mod choose;
mod constants;
mod decoded_size;
pub(crate) mod decoder_graph;
pub(crate) mod elide_copies;
pub(crate) mod encoder_graph;
pub(crate) mod external_data;
pub(crate) mod extract;
pub(crate) mod file;
pub(crate) mod fold_shapes;
#[cfg(test)]
mod fused_encoders;
pub(crate) mod graph_index;
pub(crate) mod header;
pub(crate) mod hoist;
pub(crate) mod known_values;
#[cfg(test)]
mod mutations;
pub(crate) mod precision;
pub(crate) mod static_session;
pub(crate) mod static_step;
pub(crate) mod subgraph;
