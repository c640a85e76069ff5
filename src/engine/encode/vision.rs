//! The image encoder. In: preprocessed pixels. Out: for each image its states and its embedding, in host memory, where they can be
//! used again for equal images. No image file is decoded here.

use std::collections::BTreeMap;
use std::mem::size_of;
use std::sync::Arc;

use super::finite::is_finite;
use crate::model::{EmbeddingPort, ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Device, GraphOptions, OnnxError, OnnxErrorKind, Session, SessionInput, Tensor};
use crate::preprocess::{PixelValues, TileGrid};

/// How many patches are encoded in one run on a CPU, unless one image has more: those of 4 images of 224 x 224 in patches of
/// 16 x 16. Larger batches do not make an encoder faster, as they do a decoder, but slower, once the activations between its
/// layers no longer fit the caches.
const MOST_PATCHES: usize = 4 * 14 * 14;
/// The same on a GPU, which small runs would leave idle for most of the time.
const MOST_PATCHES_ON_DEVICE: usize = 4 * MOST_PATCHES;
/// The side of a patch if the configuration has none, or one below [`SMALLEST_SIDE`]: networks that begin with patches of 4 x 4 pixels,
/// such as Swin, merge them in their first layers.
const PATCH_SIDE: usize = 16;
const SMALLEST_SIDE: usize = 8;

/// The outputs of the image encoder for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFeatures {
    /// The embedding, L2-normalised; `None` if the model has none.
    pub embedding: Option<Vec<f32>>,
    /// The states that fusion and decoder take, row-major with their shape without the batch axis, e.g. `[tokens, width]`, the
    /// tokens of all tiles one after the other; `None` if neither is run.
    pub hidden: Option<(Vec<f32>, Vec<usize>)>,
    /// The tiles that the image was split into, if it was.
    pub grid: Option<TileGrid>,
    /// Whether all values are finite; if not, the row fails.
    pub(crate) finite: bool,
}

impl ImageFeatures {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, Vec::len);
        let hidden = self.hidden.as_ref().map_or(0, |(states, _)| states.len());
        size_of::<Self>() + (embedding + hidden) * size_of::<f32>()
    }
}

/// The vision graph and which of its outputs are used.
#[derive(Debug)]
pub(crate) struct ImageEncoder {
    graph: Session,
    inputs: Vec<VisionInput>,
    embedding: Option<EmbeddingPort>,
    states: Option<String>,
    /// How many pixels are encoded in one run, unless one image has more.
    most_pixels: usize,
}

#[derive(Debug)]
struct VisionInput {
    name: String,
    dtype: DataType,
    /// Whether it is a mask of the pixels that are not padding.
    is_mask: bool,
    /// Whether it has an axis for the tiles of an image.
    takes_tiles: bool,
}

impl ImageEncoder {
    /// Opens the vision graph; states are returned only if `returns_states`.
    pub(crate) fn open(
        directory: &ModelDirectory,
        options: GraphOptions,
        returns_states: bool,
    ) -> Result<Option<Self>, OnnxError> {
        let Some(file) = directory.graph(Role::Vision) else { return Ok(None) };
        let graph = file.source.open(options)?;
        let inputs = directory.bindings().of(Role::Vision).iter().filter_map(|(name, producer)| {
            let port = file.header.input(name)?;
            let (is_mask, takes_tiles) = (*producer == Producer::PixelMask, port.rank() == Some(5));
            Some(VisionInput { name: name.clone(), dtype: port.dtype, is_mask, takes_tiles })
        });
        let embedding = directory.embedding(Role::Vision).cloned();
        let states = directory.bindings().vision_states().filter(|_| returns_states).map(str::to_owned);
        let side = directory.config().patch_size().filter(|side| *side >= SMALLEST_SIDE).unwrap_or(PATCH_SIDE);
        let most_patches = if options.device == Device::Cpu { MOST_PATCHES } else { MOST_PATCHES_ON_DEVICE };
        let most_pixels = most_patches * side * side;
        Ok(Some(Self { graph, inputs: inputs.collect(), embedding, states, most_pixels }))
    }

    /// Encodes `images`, those of one size and number of tiles together, but no more pixels at once than `most_pixels`.
    pub(crate) fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<Arc<ImageFeatures>>, OnnxError> {
        let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, image) in images.iter().enumerate() {
            groups.entry((image.tiles(), image.height, image.width)).or_default().push(index);
        }
        let mut features: Vec<_> = images.iter().map(|_| None).collect();
        for ((tiles, height, width), indexes) in groups {
            let (height, width) = (height as usize, width as usize);
            let most = self.most_pixels / (tiles * height * width).max(1);
            for indexes in indexes.chunks(most.max(1)) {
                let group: Vec<_> = indexes.iter().map(|&index| images[index]).collect();
                for (&index, encoded) in indexes.iter().zip(self.encode_alike(&group, [tiles, height, width])?) {
                    features[index] = Some(Arc::new(encoded));
                }
            }
        }
        Ok(features.into_iter().flatten().collect())
    }

    /// One run over images of `[tiles, height, width]`.
    fn encode_alike(
        &mut self,
        images: &[&PixelValues],
        [tiles, height, width]: [usize; 3],
    ) -> Result<Vec<ImageFeatures>, OnnxError> {
        let size = tiles * 3 * height * width;
        let refuse = |what: String| OnnxError::new(OnnxErrorKind::Run, self.graph.path().display().to_string(), what);
        if let Some(image) = images.iter().find(|image| image.data.len() != size) {
            let found = image.data.len();
            return Err(refuse(format!(
                "expected {tiles} x 3 x {height} x {width} = {size} pixel values, found {found}"
            )));
        }
        let batch = images.len();
        let mut feeds = Vec::with_capacity(self.inputs.len());
        for input in &self.inputs {
            if input.is_mask {
                let mask = Tensor::ones(input.dtype, &[batch, tiles, height, width])?;
                feeds.push((input.name.as_str(), SessionInput::Owned(mask)));
                continue;
            }
            if !input.takes_tiles && tiles > 1 {
                return Err(refuse(format!(
                    "expected an image that is not split, but preprocessing gives {tiles} tiles"
                )));
            }
            let shape =
                if input.takes_tiles { vec![batch, tiles, 3, height, width] } else { vec![batch, 3, height, width] };
            let pixels: Vec<&[f32]> = images.iter().map(|image| image.data.as_slice()).collect();
            let value = Tensor::from_f32(input.dtype, &shape, pixels.concat())?;
            feeds.push((input.name.as_str(), SessionInput::Owned(value)));
        }
        let outputs = self.graph.run(&feeds)?;
        let embeddings = self.embedding.as_ref().map(|embedding| embedding.read(&outputs, batch)).transpose()?;
        let states = self.states.as_ref().map(|name| outputs.get(name, batch * tiles)).transpose()?;
        let grid = images.first().and_then(|image| image.grid);
        let blank =
            |image: &&PixelValues| ImageFeatures { grid: image.grid, embedding: None, hidden: None, finite: true };
        let mut rows: Vec<_> = images.iter().map(blank).collect();
        for (row, embedding) in rows.iter_mut().zip(embeddings.into_iter().flatten()) {
            row.finite &= is_finite(&embedding);
            row.embedding = Some(embedding);
        }
        if let Some(states) = states {
            let mut inner = states.shape()[1..].to_vec();
            // the tokens of all tiles, one after the other
            if let Some(tokens) = inner.first_mut().filter(|_| grid.is_some()) {
                *tokens *= tiles;
            }
            let size = inner.iter().product::<usize>().max(1);
            for (row, values) in rows.iter_mut().zip(states.to_f32()?.chunks_exact(size)) {
                row.finite &= is_finite(values);
                row.hidden = Some((values.to_vec(), inner.clone()));
            }
        }
        Ok(rows)
    }
}

/// The states of several images as one tensor `[batch, ...]`.
pub(crate) fn stack_states(images: &[&ImageFeatures], dtype: DataType) -> Result<Tensor, OnnxError> {
    let mut inner: Option<&[usize]> = None;
    let mut data = Vec::new();
    for image in images {
        let Some((states, shape)) = &image.hidden else {
            let what = "an image was encoded without the states that fusion or decoder need";
            return Err(OnnxError::of_run(what));
        };
        if *inner.get_or_insert(shape) != shape.as_slice() {
            let what = format!("images of one batch have states of shapes {inner:?} and {shape:?}");
            return Err(OnnxError::of_run(what));
        }
        data.extend_from_slice(states);
    }
    let shape: Vec<usize> = std::iter::once(images.len()).chain(inner.unwrap_or_default().iter().copied()).collect();
    Tensor::from_f32(dtype, &shape, data)
}
