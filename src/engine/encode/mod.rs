//! Encoders: images and texts to states and embeddings, and their fusion.

pub(crate) mod embedding;
pub(crate) mod finite;
pub(crate) mod fusion;
pub(crate) mod shared_graph;
pub(crate) mod text;
pub(crate) mod tokenizer;
pub(crate) mod vision;
