//! Which graph runs the prefill. In: the declarations of the graphs. Out: whether the prefill graph is needed as a whole, in part or
//! not at all.

use std::collections::BTreeMap;

use super::binding::Bindings;
use super::cache_names::present;
use super::graph_file::GraphFile;
use super::producer::Producer;
use super::role::Role;
use crate::onnx::{GraphHeader, Port};

/// Whether the decoder graph can also run the prefill, so that the prefill graph is not loaded: it has all inputs of the prefill graph,
/// and its cache entries are only appended to, so that they may be empty.
pub(super) fn decoder_can_prefill(graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let (Some(prefill), Some(decoder)) = (graphs.get(&Role::Prefill), graphs.get(&Role::Decoder)) else { return false };
    let mut states = states(&decoder.header).peekable();
    states.peek().is_some()
        && states.all(|(port, output)| may_be_empty(&decoder.header, port, &output))
        && prefill.header.inputs.iter().all(|port| decoder.header.input(&port.name).is_some())
}

/// The outputs of the prefill graph that are static cache entries, in the order of the decoder's inputs. They are returned if the
/// decoder graph can also run the prefill once it has them: then only the subgraph that computes them is loaded.
pub(super) fn static_cache_outputs(graphs: &BTreeMap<Role, GraphFile>, bindings: &Bindings) -> Option<Vec<String>> {
    let (prefill, decoder) = (graphs.get(&Role::Prefill)?, &graphs.get(&Role::Decoder)?.header);
    let (mut fixed, mut growing) = (Vec::new(), 0);
    for (input, producer) in bindings.of(Role::Decoder) {
        match producer {
            Producer::StaticCache(output) => fixed.push(output.clone()),
            Producer::Cache(output) if may_be_empty(decoder, decoder.input(input)?, output) => growing += 1,
            Producer::Cache(_) => return None,
            _ => {}
        }
    }
    // static entries are computed from the encoder's output, which need not be an input of the decoder
    let known = |port: &Port| port.name == "encoder_hidden_states" || decoder.input(&port.name).is_some();
    (growing > 0 && !fixed.is_empty() && prefill.header.inputs.iter().all(known)).then_some(fixed)
}

/// The decoder's cache inputs, each with the output that is its next value.
fn states(decoder: &GraphHeader) -> impl Iterator<Item = (&Port, String)> {
    decoder.inputs.iter().filter_map(|port| Some((port, present(&port.name)?)))
}

/// Whether the cache entry `port`, whose next value is `output`, may be empty in the prefill.
fn may_be_empty(decoder: &GraphHeader, port: &Port, output: &str) -> bool {
    let sizes_known = port.rank() == Some(4) && port.fixed(1).is_some() && port.fixed(3).is_some();
    decoder.output(output).is_some() && sizes_known && decoder.appended.contains(&port.name)
}
