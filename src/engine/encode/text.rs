//! The text encoder. In: padded tokens. Out: an embedding for each text, and the states that fusion takes. No text is tokenized
//! here.

use super::shared_graph::SharedGraph;
use super::tokenizer::TokenBatch;
use crate::model::{EmbeddingPort, ModelDirectory, Producer, Role};
use crate::onnx::{GraphOptions, OnnxError, OnnxErrorKind, Outputs, SessionInput, Tensor};

/// The text graph and the output that holds its embedding.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    pub(crate) graph: SharedGraph,
    inputs: Vec<(String, &'static str)>,
    embedding: Option<EmbeddingPort>,
}

/// The outputs of the text encoder for several texts.
#[derive(Debug)]
pub(crate) struct TextFeatures {
    pub(crate) tokens: TokenBatch,
    /// An L2-normalised embedding for each text; empty if the model has none.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// The other outputs, `[texts, ...]`; none if no text graph was run.
    outputs: Option<Outputs>,
}

impl TextFeatures {
    /// For a model without a text graph: the tokens only.
    pub(crate) fn of_tokens(tokens: TokenBatch) -> Self {
        Self { tokens, embeddings: Vec::new(), outputs: None }
    }

    /// The output called `name`, `[texts, ...]`.
    pub(crate) fn output(&self, name: &str) -> Result<&Tensor, OnnxError> {
        match &self.outputs {
            Some(outputs) => outputs.get(name, self.tokens.rows),
            None => Err(OnnxError::new(OnnxErrorKind::Run, "text", format!("gave no output {name:?}"))),
        }
    }
}

impl TextEncoder {
    pub(crate) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Text) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Text).iter().filter_map(|(input, producer)| match producer {
            Producer::Tokens(field) => Some((input.clone(), *field)),
            _ => None,
        });
        let embedding = directory.embedding(Role::Text).cloned();
        let graph = SharedGraph::new(file.source.open_encoder(options)?);
        Ok(Some(Self { graph, inputs: inputs.collect(), embedding }))
    }

    /// One run over `tokens`.
    pub(crate) fn encode(&mut self, tokens: TokenBatch) -> Result<TextFeatures, OnnxError> {
        let shape = [tokens.rows, tokens.length];
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for (input, field) in &self.inputs {
            let ids = tokens.field(field).to_vec();
            feeds.push((input.as_str(), SessionInput::Owned(Tensor::from_i64(&shape, ids)?)));
        }
        let outputs = self.graph.run(&feeds)?;
        let embeddings =
            self.embedding.as_ref().map_or(Ok(Vec::new()), |embedding| embedding.read(&outputs, tokens.rows))?;
        Ok(TextFeatures { tokens, embeddings, outputs: Some(outputs) })
    }
}
