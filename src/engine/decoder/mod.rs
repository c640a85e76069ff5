//! The decoder: its graphs and its cache. In: encoder outputs and prompts, then the token selected for each slot. Out: the logits of
//! the next token of each slot. Which token comes next is not decided here.
//!
//! - `probe_inputs`: inputs for the probe runs when a graph is opened
//! - `encoder_outputs`: what the decoder attends to; cross-attention
//! - `token_embedder`: embeds tokens for graphs that take `inputs_embeds`
//! - `step_ports`: what feeds the decoder's graph, for the edit that makes a step of one shape
//! - `step_graph`: one graph, opened and fed
//! - `cache`: the state between two steps
//! - `run`: the prefill and the steps
//! - `static_decoder`: steps of one shape on a device; `static_batch`: their tensors; `chosen`: what they give
//! - `continuous_batching`: whether sequences of different lengths can share a batch

pub(crate) mod cache;
pub(crate) mod chosen;
pub(crate) mod continuous_batching;
pub(crate) mod encoder_outputs;
pub(crate) mod probe_inputs;
pub(crate) mod run;
pub(crate) mod static_batch;
pub(crate) mod static_decoder;
pub(crate) mod step_graph;
pub(crate) mod step_ports;
pub(crate) mod token_embedder;
