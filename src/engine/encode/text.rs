//! The text encoder. In: padded tokens. Out: an embedding for each text, and the states that fusion takes. No text is tokenized
//! here.

use super::shared_graph::SharedGraph;
use super::tokenizer::TokenBatch;
use crate::model::{EmbeddingPort, ModelDirectory, Producer, Role};
use crate::onnx::{DataType, GraphOptions, OnnxError, OnnxErrorKind, Outputs, SessionInput, Tensor};

/// The text graph and the output that holds its embedding.
#[derive(Debug)]
pub(crate) struct TextEncoder {
    pub(crate) graph: SharedGraph,
    inputs: Vec<(String, &'static str, DataType)>,
    embedding: Option<EmbeddingPort>,
    /// How many texts the graph takes, if it takes no other number.
    fixed_batch: Option<usize>,
}

/// The outputs of the text encoder for several texts.
#[derive(Debug)]
pub(crate) struct TextFeatures {
    pub(crate) tokens: TokenBatch,
    /// An L2-normalised embedding for each text; empty if the model has none.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// The other outputs, `[texts, ...]`, of each run; none if no text graph was run.
    runs: Vec<Outputs>,
    /// How many texts a run has, the last one filled up.
    in_run: usize,
}

impl TextFeatures {
    /// For a model without a text graph: the tokens only.
    pub(crate) fn of_tokens(tokens: TokenBatch) -> Self {
        Self { tokens, embeddings: Vec::new(), runs: Vec::new(), in_run: 0 }
    }

    /// The shape and the values of the output called `name`, `[texts, ...]`; those of the last run may be more than there are texts.
    pub(crate) fn output(&self, name: &str) -> Result<(Vec<usize>, Vec<f32>), OnnxError> {
        let mut shape = Vec::new();
        let mut values = Vec::new();
        for run in &self.runs {
            let value = run.get(name, self.in_run)?;
            let found = value.shape();
            if shape.get(1..).is_some_and(|inner| Some(inner) != found.get(1..)) {
                let what = format!("output {name:?} has shapes {shape:?} and {found:?} in two runs");
                return Err(OnnxError::new(OnnxErrorKind::Run, "text", what));
            }
            shape = found;
            values.extend_from_slice(&value.to_f32()?);
        }
        match shape.first_mut() {
            Some(rows) => *rows = self.in_run * self.runs.len(),
            None => return Err(OnnxError::new(OnnxErrorKind::Run, "text", format!("gave no output {name:?}"))),
        }
        Ok((shape, values))
    }
}

impl TextEncoder {
    pub(crate) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Text) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Text).iter().filter_map(|(input, producer)| match producer {
            Producer::Tokens(field) => Some((input.clone(), *field, file.header.input(input)?.dtype)),
            _ => None,
        });
        let embedding = directory.embedding(Role::Text).cloned();
        let graph = SharedGraph::new(file.source.open_encoder(options)?);
        let fixed_batch = directory.fixed_batch(Role::Text);
        Ok(Some(Self { graph, inputs: inputs.collect(), embedding, fixed_batch }))
    }

    /// One run over `tokens`, or several where the graph takes a fixed number of texts.
    pub(crate) fn encode(&mut self, tokens: TokenBatch) -> Result<TextFeatures, OnnxError> {
        let in_run = self.fixed_batch.unwrap_or(tokens.rows);
        let (mut embeddings, mut runs) = (Vec::with_capacity(tokens.rows), Vec::new());
        for first in (0..tokens.rows).step_by(in_run.max(1)) {
            let shape = [in_run, tokens.length];
            let rows = |field: &[i64]| rows(field, first, shape);
            let mut feeds = Vec::with_capacity(self.inputs.len());
            for (input, field, dtype) in &self.inputs {
                let ids = rows(tokens.field(field));
                feeds.push((input.as_str(), SessionInput::Owned(Tensor::from_integers(*dtype, &shape, ids)?)));
            }
            let outputs = self.graph.run(&feeds)?;
            if let Some(embedding) = &self.embedding {
                embeddings.extend(embedding.read(&outputs, in_run, Some(&rows(&tokens.attention_mask)))?);
            }
            runs.push(outputs);
        }
        embeddings.truncate(tokens.rows);
        Ok(TextFeatures { tokens, embeddings, runs, in_run })
    }
}

/// `count` rows of `field`, `[texts, length]`, from `first` on; the last text again and again where there are fewer.
fn rows(field: &[i64], first: usize, [count, length]: [usize; 2]) -> Vec<i64> {
    let texts = field.len() / length.max(1);
    let row = |text: usize| &field[text * length..(text + 1) * length];
    (first..first + count).flat_map(|text| row(text.min(texts.saturating_sub(1)))).copied().collect()
}
