//! The image encoder. In: preprocessed pixels. Out: for each image its states and its embedding, in host memory, so that
//! one encoding serves caption and embeddings, and can be kept for equal images. No image file is
//! decoded here.

use std::mem::size_of;
use std::sync::Arc;

use super::embedding::{EmbeddingOutput, is_finite};
use crate::model::{ModelDirectory, Role};
use crate::onnx::{DataType, Graph, GraphOptions, Input, OnnxError, OnnxErrorKind, Value};

/// What the image encoder says about one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFeatures {
    /// The embedding, L2-normalised; `None` if the model has none.
    pub embedding: Option<Vec<f32>>,
    /// The states that fusion and decoder take, row-major with their shape without the batch axis, e.g. `[tokens, width]`;
    /// `None` if neither is run.
    pub hidden: Option<(Vec<f32>, Vec<usize>)>,
    /// Whether all of it is finite; a row whose image is not fails alone.
    pub(super) finite: bool,
}

impl ImageFeatures {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, Vec::len);
        let hidden = self.hidden.as_ref().map_or(0, |(states, _)| states.len());
        size_of::<Self>() + (embedding + hidden) * size_of::<f32>()
    }
}

/// The vision graph and which of its outputs are kept.
#[derive(Debug)]
pub(super) struct ImageEncoder {
    graph: Graph,
    input: String,
    dtype: DataType,
    embedding: Option<EmbeddingOutput>,
    states: Option<String>,
}

impl ImageEncoder {
    /// Opens the vision graph; states are kept only if `keeps_states`.
    pub(super) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        keeps_states: bool,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Vision) else { return Ok(None) };
        let graph = Graph::open(&file.path, options)?;
        let (input, dtype) = file
            .header
            .inputs
            .first()
            .map(|port| (port.name.clone(), port.dtype))
            .ok_or_else(|| OnnxError::new(OnnxErrorKind::Load, &file.file, "has no input"))?;
        let embedding = EmbeddingOutput::of(directory, Role::Vision);
        let states = directory.bindings().vision_states().filter(|_| keeps_states).map(str::to_owned);
        Ok(Some(Self { graph, input, dtype, embedding, states }))
    }

    /// One run over `images`, each `[3, height, width]` f32.
    pub(super) fn encode(
        &mut self,
        images: &[&[f32]],
        height: usize,
        width: usize,
    ) -> Result<Vec<Arc<ImageFeatures>>, OnnxError> {
        if images.is_empty() {
            return Ok(Vec::new());
        }
        let size = 3 * height * width;
        if let Some(image) = images.iter().find(|image| image.len() != size) {
            let what =
                format!("expected 3 x {height} x {width} = {size} pixel values for each image, found {}", image.len());
            return Err(OnnxError::new(OnnxErrorKind::Run, self.graph.path().display().to_string(), what));
        }
        let (batch, shape) = (images.len(), [images.len(), 3, height, width]);
        let pixels = match images {
            [image] if self.dtype == DataType::F32 => Input::F32(&shape, image),
            images => Input::Owned(Value::from_f32(self.dtype, &shape, images.concat())?),
        };
        let outputs = self.graph.run(vec![(&self.input, pixels)])?;
        let embeddings = self.embedding.map(|embedding| embedding.read(&outputs, batch)).transpose()?;
        let states = self.states.as_ref().map(|name| outputs.get(name, batch)).transpose()?;
        let mut rows: Vec<_> =
            (0..batch).map(|_| ImageFeatures { embedding: None, hidden: None, finite: true }).collect();
        for (row, embedding) in rows.iter_mut().zip(embeddings.into_iter().flatten()) {
            row.finite &= is_finite(&embedding);
            row.embedding = Some(embedding);
        }
        if let Some(states) = states {
            let inner = states.shape()[1..].to_vec();
            let size = inner.iter().product::<usize>().max(1);
            for (row, values) in rows.iter_mut().zip(states.to_f32()?.chunks_exact(size)) {
                row.finite &= is_finite(values);
                row.hidden = Some((values.to_vec(), inner.clone()));
            }
        }
        Ok(rows.into_iter().map(Arc::new).collect())
    }
}

/// The states of several images as one tensor `[batch, ...]`.
pub(super) fn stack_states(images: &[&ImageFeatures], dtype: DataType) -> Result<Value, OnnxError> {
    let fail = |what: String| OnnxError { kind: OnnxErrorKind::Run, graph: None, what, hint: None };
    let mut inner: Option<&[usize]> = None;
    let mut data = Vec::new();
    for image in images {
        let Some((states, shape)) = &image.hidden else {
            return Err(fail("an image was encoded without the states that fusion or decoder need".into()));
        };
        if *inner.get_or_insert(shape) != shape.as_slice() {
            return Err(fail(format!("images of one batch have states of shapes {inner:?} and {shape:?}")));
        }
        data.extend_from_slice(states);
    }
    let shape: Vec<usize> = std::iter::once(images.len()).chain(inner.unwrap_or_default().iter().copied()).collect();
    Value::from_f32(dtype, &shape, data)
}
