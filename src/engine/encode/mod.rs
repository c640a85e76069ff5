//! Encoders. In: preprocessed pixels and texts. Out: for each image and text its states and its embedding, and for both together fused
//! states, a fused embedding and how well they match. No caption is generated here.
//!
//! - `vision`: pixels to image states and embeddings; `image_states`: where states are
//! - `tokenizer`, `text`: texts to tokens, states and embeddings; `shared_graph`: the text graph, if the decoder uses it, too
//! - `fusion`: image and text states to fused states
//! - `embedding`, `finite`: normalises embeddings, and finds NaN and infinity

mod bounded_tokenizer;
pub(crate) mod embedding;
pub(crate) mod finite;
pub(crate) mod fusion;
pub(crate) mod image_states;
pub(crate) mod shared_graph;
pub(crate) mod text;
pub(crate) mod tokenizer;
mod tokenizer_class;
pub(crate) mod vision;
