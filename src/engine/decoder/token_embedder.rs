//! Token embeddings. In: token ids. Out: their embeddings, for prompts that hold an image and for decoders that take
//! `inputs_embeds`. Some models have a graph of its own for that (`embed_tokens.onnx`); in `CoCa` the text graph does it.

use crate::engine::encode::shared_graph::SharedGraph;
use crate::model::{ModelDirectory, Producer, Role};
use crate::onnx::{DataType, FixedBatch, GraphOptions, OnnxError, SessionInput, Tensor};

/// The graph that embeds tokens.
#[derive(Debug)]
pub(crate) struct TokenEmbedder {
    graph: SharedGraph,
    fixed_batch: FixedBatch,
    /// Name, field of the tokens, element type.
    inputs: Vec<(String, &'static str, DataType)>,
    output: String,
}

impl TokenEmbedder {
    /// The graph that feeds the decoder's graphs, if they take embeddings; `text` is the opened text graph.
    pub(crate) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        text: Option<&SharedGraph>,
    ) -> Result<Option<Self>, OnnxError> {
        let decoders = [Role::Prefill, Role::Decoder].into_iter().flat_map(|role| directory.bindings().of(role));
        let source = decoders.into_iter().find_map(|(_, producer)| match producer {
            Producer::StepOutput(role, output) => Some((*role, output.clone())),
            _ => None,
        });
        let Some((role, output)) = source else { return Ok(None) };
        let Some(file) = directory.graph(role) else { return Ok(None) };
        let graph = match text.filter(|_| role == Role::Text) {
            Some(text) => text.clone(),
            None => SharedGraph::new(file.source.open(options)?),
        };
        let inputs = directory.bindings().of(role).iter().map(|(input, producer)| {
            let dtype = file.header.input(input).map_or(DataType::I64, |port| port.dtype);
            match producer {
                Producer::Tokens(field) => (input.clone(), *field, dtype),
                _ => (input.clone(), "input_ids", dtype),
            }
        });
        let fixed_batch = FixedBatch::new(directory.fixed_batch(role), options);
        Ok(Some(Self { graph, fixed_batch, inputs: inputs.collect(), output }))
    }

    /// The embeddings `[rows, tokens, width]` of `tokens`, of which every row has the same number. They stay on the graph's
    /// device if their type is `device_dtype`, the type of the input that takes them.
    pub(crate) fn embed(&mut self, tokens: &[Vec<i64>], device_dtype: Option<DataType>) -> Result<Tensor, OnnxError> {
        self.run(tokens, |dtype| device_dtype.is_some() && device_dtype == dtype)
    }

    /// As [`embed`](Self::embed), but they stay on the graph's device, whatever their type.
    pub(crate) fn embed_on_device(&mut self, tokens: &[Vec<i64>]) -> Result<Tensor, OnnxError> {
        self.run(tokens, |_| true)
    }

    /// `stays`: whether embeddings of this type stay on the device.
    fn run(&mut self, tokens: &[Vec<i64>], stays: impl Fn(Option<DataType>) -> bool) -> Result<Tensor, OnnxError> {
        let shape = [tokens.len(), tokens.first().map_or(0, Vec::len)];
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for (input, field, dtype) in &self.inputs {
            let size = shape[0] * shape[1];
            let values = match *field {
                "attention_mask" => vec![1; size],
                "token_type_ids" => vec![0; size],
                _ => tokens.concat(),
            };
            feeds.push((input.as_str(), SessionInput::Owned(Tensor::from_integers(*dtype, &shape, values)?)));
        }
        let mut graph = self.graph.graph();
        let dtype = graph.outputs().iter().find(|port| port.name == self.output).map(|port| port.dtype);
        let read: &[&str] = if stays(dtype) { &[] } else { &[&self.output] };
        let mut outputs = self.fixed_batch.run(&mut graph, &feeds, tokens.len(), read)?;
        let embeddings = outputs.take(&self.output, tokens.len())?;
        match embeddings.shape().as_slice() {
            [rows, count, width] if [*rows, *count] == shape && *width > 0 => Ok(embeddings),
            found => {
                let what = format!(
                    "expected {:?} [{}, {}, width], an embedding for each token, found {found:?}",
                    self.output, shape[0], shape[1]
                );
                Err(OnnxError::of_run(what).with_hint("the graph that embeds tokens must give one vector for every id"))
            }
        }
    }
}
