//! Captions: settings, the choice of tokens, and the scheduling of rows in a batch.

pub(crate) mod beam_search;
pub(crate) mod captioner;
pub(crate) mod logits_processors;
pub(crate) mod prefill;
pub(crate) mod random;
pub(crate) mod resolve;
pub(crate) mod sampler;
pub(crate) mod scheduler;
pub(crate) mod sequence;
pub(crate) mod settings;
pub(crate) mod softmax;
