//! Caption generation. In: rows with encoded images, generation settings. Out: the tokens of each caption, or the error of its row. No
//! graph is opened or fed here but the encoder of prompts; the rest is `decoder`'s and `encode`'s.
//!
//! - `settings`, `resolve`: generation settings, from the job and the model directory
//! - `captioner`: the entry: tokenizes the prompts of all requests
//! - `scheduler`: takes requests out of the queue and runs the decoder until all are finished
//! - `device_search`: the same on a device with steps of one shape; `open_caption`: a caption there
//! - `token_selection`: where tokens are selected: by the graph, among its candidates, or from all logits; `certain_filter`: what filters of
//!   sampling keep of candidates
//! - `prefill`: makes the input of a prefill
//! - `sequence`: what scheduler and search share: requests, sequences of tokens, captions
//! - `sampler` (greedy search, sampling), `beam_search`: select the next tokens
//! - `logits_processors`, `softmax`, `random`: what they compute with

pub(crate) mod beam_search;
pub(crate) mod captioner;
mod certain_filter;
pub(crate) mod device_search;
pub(crate) mod logits_processors;
mod open_caption;
pub(crate) mod prefill;
pub(crate) mod random;
pub(crate) mod resolve;
mod resolve_tokens;
pub(crate) mod sampler;
pub(crate) mod scheduler;
pub(crate) mod sequence;
pub(crate) mod settings;
pub(crate) mod softmax;
pub(crate) mod token_selection;
