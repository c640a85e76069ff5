//! The fusion graph. In: states of images and, for some of them, a text or its states. Out: fused states for the decoder, a
//! fused embedding for each image, and the probability that image and text match. The text of a row without one is masked with
//! zeros; a graph that takes token ids is not run for such a row.

use super::image_states::ImageStates;
use super::text::TextFeatures;
use super::vision::{ImageFeatures, states_of};
use crate::model::{EmbeddingPort, ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Dim, GraphOptions, OnnxError, Port, RowGather, Session, SessionInput, Tensor};

/// The fusion graph, its inputs and which of its outputs are used.
#[derive(Debug)]
pub(crate) struct Fusion {
    graph: Session,
    inputs: Vec<FusionInput>,
    embedding: Option<EmbeddingPort>,
    matches: bool,
    /// Whether it takes token ids, so that it is not run for rows without text.
    pub(crate) needs_text: bool,
    states: Vec<String>,
    row_gather: RowGather,
    /// How many rows the graph takes, if it takes no other number.
    fixed_batch: Option<usize>,
    /// How many tokens it gets of rows without text.
    text_length: usize,
}

#[derive(Debug)]
struct FusionInput {
    name: String,
    dtype: DataType,
    source: FusionSource,
}

#[derive(Debug)]
enum FusionSource {
    Image,
    /// An output of the text graph, and the shape of one row of zeros for a batch without text.
    Text {
        output: String,
        absent: Vec<usize>,
    },
    Tokens(&'static str),
    /// Ones for the states of each image.
    ImageMask,
}

/// Outputs of one run by name, `[images, ...]`.
pub(crate) type FusedStates = Vec<(String, Tensor)>;

/// Where the fused states of an image are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FusedRow {
    /// The index of the run of the fusion graph.
    pub(crate) run: usize,
    /// The row in its outputs.
    pub(crate) row: usize,
}

/// The outputs of the fusion graph for several images.
#[derive(Debug, Default)]
pub(crate) struct Fused {
    /// An L2-normalised embedding for each image; empty if the model has none.
    pub(crate) embeddings: Vec<Vec<f32>>,
    /// The probability that image and text match, for each image; empty if the model does not rate that.
    pub(crate) matches: Vec<f32>,
    /// The outputs that the decoder takes.
    pub(crate) states: FusedStates,
}

impl Fusion {
    pub(crate) fn open(directory: &ModelDirectory, options: GraphOptions) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Fusion) else { return Ok(None) };
        let inputs = directory.bindings().of(Role::Fusion).iter().filter_map(|(name, producer)| {
            let port = file.header.input(name)?;
            let source = match producer {
                Producer::Output(Role::Vision, _) => FusionSource::Image,
                Producer::Output(Role::Text, output) => {
                    let produced = directory.graph(Role::Text).and_then(|text| text.header.output(output));
                    FusionSource::Text { output: output.clone(), absent: absent_shape(port, produced) }
                }
                Producer::Tokens(field) => FusionSource::Tokens(field),
                _ => FusionSource::ImageMask,
            };
            Some(FusionInput { name: name.clone(), dtype: port.dtype, source })
        });
        let inputs = inputs.collect();
        let outputs = file.header.outputs.iter().map(|port| port.name.clone());
        let states = outputs.filter(|name| directory.bindings().takes(Role::Fusion, name)).collect();
        let embedding = directory.embedding(Role::Fusion).cloned();
        let (matches, needs_text) = (directory.matches_images_with_texts(), directory.fuses_tokens());
        let (graph, row_gather) = (file.source.open_encoder(options)?, RowGather::new(options));
        let fixed_batch = directory.fixed_batch(Role::Fusion);
        let text_length = directory.fixed_text_length().unwrap_or(1);
        Ok(Some(Self { graph, inputs, embedding, matches, needs_text, states, row_gather, fixed_batch, text_length }))
    }

    /// One run over `images`, or several where the graph takes a fixed number of rows; `texts` holds for each image its row in `text`,
    /// if it has one.
    pub(crate) fn fuse(
        &mut self,
        images: &[&ImageFeatures],
        texts: &[Option<usize>],
        text: Option<&TextFeatures>,
    ) -> Result<Fused, OnnxError> {
        let Some(batch) = self.fixed_batch else { return self.fuse_batch(images, texts, text) };
        let mut whole = Fused::default();
        let mut states: Vec<(String, DataType, Vec<usize>, Vec<f32>)> = Vec::new();
        for (images, texts) in images.chunks(batch).zip(texts.chunks(batch)) {
            let count = images.len();
            let (mut images, mut texts) = (images.to_vec(), texts.to_vec());
            if let (Some(image), Some(text)) = (images.last().copied(), texts.last().copied()) {
                images.resize(batch, image);
                texts.resize(batch, text);
            }
            let fused = self.fuse_batch(&images, &texts, text)?;
            whole.embeddings.extend(fused.embeddings.into_iter().take(count));
            whole.matches.extend(fused.matches.into_iter().take(count));
            for (index, (name, tensor)) in fused.states.into_iter().enumerate() {
                let (shape, values) = (tensor.shape(), tensor.to_f32()?);
                let used = values.len() / batch * count;
                if states.len() == index {
                    states.push((name, tensor.dtype(), [&[0], &shape[1..]].concat(), Vec::new()));
                }
                states[index].2[0] += count;
                states[index].3.extend_from_slice(&values[..used]);
            }
        }
        let tensor = |(name, dtype, shape, values): (String, DataType, Vec<usize>, Vec<f32>)| {
            Ok((name, Tensor::from_f32(dtype, &shape, values)?))
        };
        whole.states = states.into_iter().map(tensor).collect::<Result<_, OnnxError>>()?;
        Ok(whole)
    }

    /// One run over `images`.
    fn fuse_batch(
        &mut self,
        images: &[&ImageFeatures],
        texts: &[Option<usize>],
        text: Option<&TextFeatures>,
    ) -> Result<Fused, OnnxError> {
        let batch = images.len();
        let text = text.filter(|_| texts.iter().any(Option::is_some));
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            let value = match (&input.source, text) {
                (FusionSource::Image, _) => ImageStates::stack(&states_of(images)?, input.dtype, &mut self.row_gather)?,
                (FusionSource::Text { output, .. }, Some(text)) => {
                    let (shape, states) = text.output(output)?;
                    let (shape, data) = scatter(&states, &shape, texts);
                    Tensor::from_f32(input.dtype, &shape, data)?
                }
                (FusionSource::Text { absent, .. }, None) => {
                    let shape: Vec<usize> = std::iter::once(batch).chain(absent.iter().copied()).collect();
                    Tensor::from_f32(input.dtype, &shape, vec![0.0; shape.iter().product()])?
                }
                (FusionSource::Tokens(field), Some(text)) => {
                    let shape = [text.tokens.rows, text.tokens.length];
                    let (shape, data) = scatter(text.tokens.field(field), &shape, texts);
                    Tensor::from_integers(input.dtype, &shape, data)?
                }
                (FusionSource::Tokens(_), None) => {
                    Tensor::from_integers(input.dtype, &[batch, self.text_length], vec![0; batch * self.text_length])?
                }
                (FusionSource::ImageMask, _) => {
                    let states = images.first().and_then(|image| image.hidden.as_ref());
                    let length = states.and_then(|states| states.shape().first().copied()).unwrap_or(0);
                    Tensor::ones(input.dtype, &[batch, length])?
                }
            };
            feeds.push((input.name.as_str(), SessionInput::Owned(value)));
        }
        let read = self.embedding.iter().map(|embedding| embedding.output.as_str());
        let read: Vec<_> = read.chain(self.matches.then_some(ModelDirectory::MATCH)).collect();
        let mut outputs = self.graph.run_on_device(&feeds, &read)?;
        let embeddings =
            self.embedding.as_ref().map_or(Ok(Vec::new()), |embedding| embedding.read(&outputs, batch, None))?;
        let mut matches = Vec::new();
        if self.matches {
            let logits = outputs.get(ModelDirectory::MATCH, batch)?.to_f32()?;
            // softmax over the logits of no and yes
            matches.extend(logits.as_chunks::<2>().0.iter().map(|[no, yes]| 1.0 / (1.0 + (no - yes).exp())));
        }
        let take = |name: &String| Ok((name.clone(), outputs.take(name, batch)?));
        Ok(Fused { embeddings, matches, states: self.states.iter().map(take).collect::<Result<_, OnnxError>>()? })
    }
}

/// The shape of one row of a text output when there is no text: 1 for every dynamic axis.
fn absent_shape(input: &Port, output: Option<&Port>) -> Vec<usize> {
    let dims = |port: &Port| port.shape.clone().unwrap_or_default();
    let (declared, produced) = (dims(input), output.map(dims).unwrap_or_default());
    let fixed = |dims: &[Dim], axis: usize| match dims.get(axis) {
        Some(Dim::Fixed(size)) => Some(*size),
        _ => None,
    };
    (1..declared.len().max(produced.len()))
        .map(|axis| fixed(&declared, axis).or_else(|| fixed(&produced, axis)).unwrap_or(1))
        .collect()
}

/// A tensor whose row `i` is row `rows[i]` of `from`, or zeros.
fn scatter<T: Copy + Default>(from: &[T], shape: &[usize], rows: &[Option<usize>]) -> (Vec<usize>, Vec<T>) {
    let size: usize = shape[1..].iter().product();
    let mut data = vec![T::default(); rows.len() * size];
    for (to, row) in data.chunks_exact_mut(size.max(1)).zip(rows) {
        if let Some(row) = row {
            to.copy_from_slice(&from[row * size..(row + 1) * size]);
        }
    }
    (std::iter::once(rows.len()).chain(shape[1..].iter().copied()).collect(), data)
}
