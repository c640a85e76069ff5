//! The text encoder. In: padded tokens. Out: an embedding for each text, and the states that fusion takes. No text
//! is cut into tokens here.

use super::embedding::EmbeddingOutput;
use super::tokens::TokenBatch;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{Graph, GraphOptions, Input, OnnxError, Outputs, Value};

/// The text graph and which of its outputs are kept.
#[derive(Debug)]
pub(super) struct TextEncoder {
    graph: Graph,
    inputs: Vec<(String, &'static str)>,
    embedding: Option<EmbeddingOutput>,
}

/// What the text encoder says about several texts.
#[derive(Debug)]
pub(super) struct TextFeatures {
    pub(super) tokens: TokenBatch,
    /// An L2-normalised embedding for each text; empty if the model has none.
    pub(super) embeddings: Vec<Vec<f32>>,
    /// The other outputs, `[texts, ...]`.
    pub(super) outputs: Outputs,
}

impl TextEncoder {
    pub(super) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Text) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Text).iter().filter_map(|(input, producer)| match producer {
            Producer::Tokens(field) => Some((input.clone(), *field)),
            _ => None,
        });
        let embedding = EmbeddingOutput::of(directory, Role::Text);
        Ok(Some(Self { graph: Graph::open(&file.path, options)?, inputs: inputs.collect(), embedding }))
    }

    /// One run over `tokens`.
    pub(super) fn encode(&mut self, tokens: TokenBatch) -> Result<TextFeatures, OnnxError> {
        let shape = [tokens.rows, tokens.length];
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for (input, field) in &self.inputs {
            let ids = match *field {
                "attention_mask" => &tokens.attention_mask,
                "token_type_ids" => &tokens.token_type_ids,
                _ => &tokens.input_ids,
            };
            feeds.push((input.as_str(), Input::Owned(Value::from_i64(&shape, ids.clone())?)));
        }
        let outputs = self.graph.run(feeds)?;
        let embeddings = self.embedding.map_or(Ok(Vec::new()), |embedding| embedding.read(&outputs, tokens.rows))?;
        Ok(TextFeatures { tokens, embeddings, outputs })
    }
}
