//! What a decoder's first step needs. In: the declarations of its graphs. Out: which inputs go on from one step to the next, and
//! whether the graph that is exported for the first step has to be run, or only what is kept of it.

use std::collections::BTreeMap;

use super::binding::{Bindings, Producer};
use super::directory::GraphFile;
use super::role::Role;
use crate::onnx::{GraphHeader, Port};

/// Whether the decoder makes the first step just as the prefill graph does, so that the weights of that need not be loaded:
/// it takes all that the prefill graph takes, and its states are caches that it only appends to, empty in the first step.
pub(super) fn begins_alone(graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let (Some(prefill), Some(decoder)) = (graphs.get(&Role::Prefill), graphs.get(&Role::Decoder)) else { return false };
    let mut states = states(&decoder.header).peekable();
    states.peek().is_some()
        && states.all(|(port, output)| begins_empty(&decoder.header, port, &output))
        && prefill.header.inputs.iter().all(|port| decoder.header.input(&port.name).is_some())
}

/// The outputs of the prefill graph that all steps share, in the order of the decoder's inputs, if the decoder would begin alone
/// were it not for them: they are all that it needs of that graph to make the first step itself.
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
    // what is kept stands for the states that are attended to
    let known = |port: &Port| port.name == "encoder_hidden_states" || decoder.input(&port.name).is_some();
    (own > 0 && !kept.is_empty() && prefill.header.inputs.iter().all(known)).then_some(kept)
}

/// The decoder inputs that go on from one step to the next, with the outputs that they continue.
fn states(decoder: &GraphHeader) -> impl Iterator<Item = (&Port, String)> {
    decoder.inputs.iter().filter_map(|port| Some((port, present(&port.name)?)))
}

/// Whether the state `port`, which `output` gives again, may be of size 0 in the first step.
fn begins_empty(decoder: &GraphHeader, port: &Port, output: &str) -> bool {
    let sizes_known = port.rank() == Some(4) && port.fixed(1).is_some() && port.fixed(3).is_some();
    decoder.output(output).is_some() && sizes_known && decoder.appended.contains(&port.name)
}

/// The output that a decoder input continues: `present.X` for `past_key_values.X`, and `present_X` for the `past_X` of
/// recurrent states.
pub(super) fn present(input: &str) -> Option<String> {
    match input.strip_prefix("past_key_values.") {
        Some(rest) => Some(format!("present.{rest}")),
        None => input.strip_prefix("past_").map(|rest| format!("present_{rest}")),
    }
}

/// Whether state `output` stays what the first step made of it. Keys and values of cross-attention do: a decoder of its own
/// for later steps does not give them again, and one that branches gives them with a batch of 0.
pub(super) fn is_kept(output: &str, graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let Some(decoder) = graphs.get(&Role::Decoder) else { return false };
    let cross = output.contains(".encoder.");
    match graphs.get(&Role::Prefill) {
        Some(_) => cross || decoder.header.output(output).is_none(),
        None => cross && decoder.header.input(Producer::HAS_PAST).is_some(),
    }
}
