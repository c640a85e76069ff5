//! The names that optimum and transformers.js give a decoder's cache entries. In: an input's or output's name. Out: the output that is
//! the next value of an input, and whether an entry is static. What feeds an input is decided in [`super::producer`].

use std::collections::BTreeMap;

use super::graph_file::GraphFile;
use super::role::Role;

/// The input of a merged decoder that chooses between its branches: bool `[1]`, true if there is a cache.
pub(super) const HAS_PAST: &str = "use_cache_branch";

/// The output that is the next value of a cache input: `present.X` for `past_key_values.X`, and `present_X` for the `past_X` of
/// recurrent states.
pub(super) fn present(input: &str) -> Option<String> {
    match input.strip_prefix("past_key_values.") {
        Some(rest) => Some(format!("present.{rest}")),
        None => input.strip_prefix("past_").map(|rest| format!("present_{rest}")),
    }
}

/// Whether the cache entry `output` is static: it does not change after the prefill. Keys and values of cross-attention are static. A
/// `decoder_with_past_model` does not return them, and a merged decoder returns them with a batch of size 0.
pub(super) fn is_static_cache(output: &str, graphs: &BTreeMap<Role, GraphFile>) -> bool {
    let Some(decoder) = graphs.get(&Role::Decoder) else { return false };
    let cross = output.contains(".encoder.");
    match graphs.get(&Role::Prefill) {
        Some(_) => cross || decoder.header.output(output).is_none(),
        None => cross && decoder.header.input(HAS_PAST).is_some(),
    }
}
