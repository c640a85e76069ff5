//! The image encoder. In: preprocessed pixels. Out: for each image its states and its embedding, which can be used again for equal
//! images. States stay in the memory of the device, if it has one. No image file is decoded here.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::finite::is_finite;
use super::image_states::ImageStates;
use crate::model::{EmbeddingPort, ModelDirectory, Producer, Role};
use crate::onnx::{DataType, Device, GraphOptions, OnnxError, OnnxErrorKind, RowGather, Session, SessionInput, Tensor};
use crate::preprocess::{PixelData, PixelValues, TileGrid, Values};

/// How many patches are encoded in one run on a CPU, unless one image has more: those of 4 images of 224 x 224 in patches of
/// 16 x 16. Larger batches do not make an encoder faster, as they do a decoder, but slower, once the activations between its
/// layers no longer fit the caches. On a GPU, which small runs would leave idle for most of the time, a run has the whole batch.
const MOST_PATCHES: usize = 4 * 14 * 14;
/// The side of a patch if the configuration has none, or one below [`SMALLEST_SIDE`]: networks that begin with patches of 4 x 4 pixels,
/// such as Swin, merge them in their first layers.
const PATCH_SIDE: usize = 16;
const SMALLEST_SIDE: usize = 8;

/// The outputs of the image encoder for one image.
#[derive(Debug, Clone, PartialEq)]
pub struct ImageFeatures {
    /// The embedding, L2-normalised; `None` if the model has none.
    pub embedding: Option<Vec<f32>>,
    /// The states that fusion and decoder take; `None` if neither is run.
    pub hidden: Option<ImageStates>,
    /// The tiles that the image was split into, if it was.
    pub grid: Option<TileGrid>,
    /// Whether all values are finite; if not, the row fails.
    pub(crate) finite: bool,
}

impl ImageFeatures {
    /// Its size in memory.
    pub fn bytes(&self) -> usize {
        let embedding = self.embedding.as_ref().map_or(0, |embedding| size_of_val(embedding.as_slice()));
        size_of::<Self>() + embedding + self.hidden.as_ref().map_or(0, ImageStates::bytes)
    }
}

/// The vision graph and which of its outputs are used.
#[derive(Debug)]
pub(crate) struct ImageEncoder {
    graph: Session,
    inputs: Vec<VisionInput>,
    embedding: Option<EmbeddingPort>,
    states: Option<String>,
    row_gather: RowGather,
    /// How many pixels are encoded in one run on a CPU, unless one image has more.
    most_pixels: Option<usize>,
    /// How many images the graph takes, if it takes no other number.
    fixed_batch: Option<usize>,
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
        let graph = file.source.open_encoder(options)?;
        let inputs = directory.bindings().of(Role::Vision).iter().filter_map(|(name, producer)| {
            let port = file.header.input(name)?;
            let (is_mask, takes_tiles) = (*producer == Producer::PixelMask, port.rank() == Some(5));
            Some(VisionInput { name: name.clone(), dtype: port.dtype, is_mask, takes_tiles })
        });
        let embedding = directory.embedding(Role::Vision).cloned();
        let states = directory.bindings().vision_states().filter(|_| returns_states).map(str::to_owned);
        let side = directory.config().patch_size().filter(|side| *side >= SMALLEST_SIDE).unwrap_or(PATCH_SIDE);
        let most_pixels = (options.device == Device::Cpu).then_some(MOST_PATCHES * side * side);
        let (inputs, row_gather) = (inputs.collect(), RowGather::new(options));
        let fixed_batch = directory.fixed_batch(Role::Vision);
        Ok(Some(Self { graph, inputs, embedding, states, row_gather, most_pixels, fixed_batch }))
    }

    /// Encodes `images`, those of one size and number of tiles together: on a CPU no more pixels at once than `most_pixels`, on a device
    /// as many tiles as there are images.
    pub(crate) fn encode(&mut self, images: &[&PixelValues]) -> Result<Vec<Arc<ImageFeatures>>, OnnxError> {
        let mut groups: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (index, image) in images.iter().enumerate() {
            groups.entry((image.tiles(), image.height, image.width)).or_default().push(index);
        }
        let mut features: Vec<_> = images.iter().map(|_| None).collect();
        for ((tiles, height, width), indexes) in groups {
            let (height, width) = (height as usize, width as usize);
            let most = match (self.fixed_batch, self.most_pixels) {
                (Some(batch), _) => batch,
                (None, Some(pixels)) => pixels / (tiles * height * width).max(1),
                (None, None) => images.len() / tiles.max(1),
            };
            for indexes in indexes.chunks(most.max(1)) {
                let mut group: Vec<_> = indexes.iter().map(|&index| images[index]).collect();
                if let (Some(batch), Some(last)) = (self.fixed_batch, group.last()) {
                    group.resize(batch, *last);
                }
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
            let pixels: Vec<&PixelData> = images.iter().map(|image| &image.data).collect();
            feeds.push((input.name.as_str(), join(&pixels, input.dtype, shape)?));
        }
        let read: Vec<_> = self.embedding.iter().map(|embedding| embedding.output.as_str()).collect();
        let mut outputs = self.graph.run_on_device(&feeds, &read)?;
        let embeddings = self.embedding.as_ref().map(|embedding| embedding.read(&outputs, batch, None)).transpose()?;
        let grid = images.first().and_then(|image| image.grid);
        let blank =
            |image: &&PixelValues| ImageFeatures { grid: image.grid, embedding: None, hidden: None, finite: true };
        let mut rows: Vec<_> = images.iter().map(blank).collect();
        for (row, embedding) in rows.iter_mut().zip(embeddings.into_iter().flatten()) {
            row.finite &= is_finite(&embedding);
            row.embedding = Some(embedding);
        }
        let Some(name) = &self.states else { return Ok(rows) };
        let states = outputs.take(name, batch * tiles)?;
        let mut inner = states.shape()[1..].to_vec();
        // the tokens of all tiles, one after the other
        if let Some(tokens) = inner.first_mut().filter(|_| grid.is_some()) {
            *tokens *= tiles;
        }
        if states.device().is_some() {
            let finite = self.row_gather.finite(&states, batch)?;
            let states = Arc::new(states);
            for (index, (row, finite)) in rows.iter_mut().zip(finite).enumerate() {
                row.finite &= finite;
                let tiles = index * tiles..(index + 1) * tiles;
                row.hidden = Some(ImageStates::on_device(states.clone(), tiles, inner.clone()));
            }
            return Ok(rows);
        }
        let size = inner.iter().product::<usize>().max(1);
        for (row, values) in rows.iter_mut().zip(states.to_f32()?.chunks_exact(size)) {
            row.finite &= is_finite(values);
            row.hidden = Some(ImageStates::on_host(values.to_vec(), inner.clone()));
        }
        Ok(rows)
    }
}

/// The pixel values of several images as one input of `shape`, not copied where they follow each other in memory. They are converted to
/// float16 if they are not yet and `dtype` is that.
fn join<'a>(pixels: &[&'a PixelData], dtype: DataType, shape: Vec<usize>) -> Result<SessionInput<'a>, OnnxError> {
    let halves = pixels.iter().map(|data| match data {
        PixelData::F16(values) => Some(values),
        PixelData::F32(_) => None,
    });
    let floats = pixels.iter().map(|data| match data {
        PixelData::F32(values) => Some(values),
        PixelData::F16(_) => None,
    });
    let values = match (dtype, halves.collect::<Option<Vec<_>>>(), floats.collect::<Option<Vec<_>>>()) {
        (DataType::F16, Some(halves), _) => match Values::joined(&halves) {
            Some(values) => return Ok(SessionInput::Halves(shape, values)),
            None => {
                Tensor::from_f16(&shape, halves.iter().map(|values| values.as_slice()).collect::<Vec<_>>().concat())
            }
        },
        (DataType::F32, _, Some(floats)) if let Some(values) = Values::joined(&floats) => {
            return Ok(SessionInput::Floats(shape, values));
        }
        _ => {
            let values: Vec<_> = pixels.iter().map(|data| data.to_f32()).collect();
            Tensor::from_f32(dtype, &shape, values.concat())
        }
    };
    values.map(SessionInput::Owned)
}

/// The states of each of `images`.
pub(crate) fn states_of<'a>(images: &[&'a ImageFeatures]) -> Result<Vec<&'a ImageStates>, OnnxError> {
    let missing = || OnnxError::of_run("an image was encoded without the states that fusion or decoder need");
    images.iter().map(|image| image.hidden.as_ref().ok_or_else(missing)).collect()
}
