//! Which graph runs a decoder's first step, the prefill. In: the declarations of the graphs. Out: whether the prefill graph is needed as
//! a whole, in part or not at all.

use std::collections::BTreeMap;

use super::binding::Bindings;
use super::cache_names::present;
use super::graph_file::GraphFile;
use super::producer::Producer;
use super::role::Role;
use crate::onnx::{GraphHeader, Port};

/// Whether the decoder graph can also run the prefill, so that the prefill graph is not loaded: it has all inputs of the prefill graph,
/// and its cache entries are only appended to, so that they may be empty.
pub(super) fn begins_alone(graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let (Some(prefill), Some(decoder)) = (graphs.get(&Role::Prefill), graphs.get(&Role::Decoder)) else { return false };
    let mut states = states(&decoder.header).peekable();
    states.peek().is_some()
        && states.all(|(port, output)| begins_empty(&decoder.header, port, &output))
        && prefill.header.inputs.iter().all(|port| decoder.header.input(&port.name).is_some())
}

/// The static cache entries, as outputs of the prefill graph in the order of the decoder's inputs, if with them the decoder graph can
/// also run the prefill: then only the subgraph that computes them is loaded.
pub(super) fn kept_states(graphs: &BTreeMap<Role, GraphFile>, bindings: &Bindings) -> Option<Vec<String>> {
    let (prefill, decoder) = (graphs.get(&Role::Prefill)?, &graphs.get(&Role::Decoder)?.header);
    let (mut kept, mut own) = (Vec::new(), 0);
    for (input, producer) in bindings.of(Role::Decoder) {
        match producer {
            Producer::Kept(output) => kept.push(output.clone()),
            Producer::State(output) if begins_empty(decoder, decoder.input(input)?, output) => own += 1,
            Producer::State(_) => return None,
            _ => {}
        }
    }
    // the static entries are computed from the encoder's output, which the decoder then does not take
    let known = |port: &Port| port.name == "encoder_hidden_states" || decoder.input(&port.name).is_some();
    (own > 0 && !kept.is_empty() && prefill.header.inputs.iter().all(known)).then_some(kept)
}

/// The decoder's cache inputs, each with the output that is its next value.
fn states(decoder: &GraphHeader) -> impl Iterator<Item = (&Port, String)> {
    decoder.inputs.iter().filter_map(|port| Some((port, present(&port.name)?)))
}

/// Whether the cache entry `port`, whose next value is `output`, may be empty in the first step.
fn begins_empty(decoder: &GraphHeader, port: &Port, output: &str) -> bool {
    let sizes_known = port.rank() == Some(4) && port.fixed(1).is_some() && port.fixed(3).is_some();
    decoder.output(output).is_some() && sizes_known && decoder.appended.contains(&port.name)
}
