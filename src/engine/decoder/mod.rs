//! The decoder's graphs: what they attend to, their key/value cache, one step after another.

pub(crate) mod cache;
pub(crate) mod continuous_batching;
pub(crate) mod encoder_outputs;
pub(crate) mod probe_inputs;
pub(crate) mod run;
pub(crate) mod step_graph;
pub(crate) mod token_embedder;
