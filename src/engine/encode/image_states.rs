//! The states of one image. In: an output of the vision graph, on the host or in the memory of a device. Out: the states of several images
//! as one tensor, in the same memory. What is on a device is never copied to the host.

use std::ops::Range;
use std::sync::Arc;

use crate::onnx::{DataType, OnnxError, RowGather, Tensor};

/// The states of one image that fusion and decoder take.
#[derive(Debug, Clone)]
pub struct ImageStates {
    memory: StatesMemory,
    /// Without the batch axis, e.g. `[tokens, width]`, the tokens of all tiles one after the other.
    shape: Vec<usize>,
}

/// Where states are.
#[derive(Debug, Clone)]
enum StatesMemory {
    Host(Vec<f32>),
    /// Rows of a tensor that several images share, in the memory of a device; a row for each tile.
    Device(Arc<Tensor>, Range<usize>),
}

impl PartialEq for ImageStates {
    /// On a device, states are equal if they are the same.
    fn eq(&self, other: &Self) -> bool {
        let same_memory = match (&self.memory, &other.memory) {
            (StatesMemory::Host(these), StatesMemory::Host(those)) => these == those,
            (StatesMemory::Device(this, rows), StatesMemory::Device(that, others)) => {
                Arc::ptr_eq(this, that) && rows == others
            }
            _ => false,
        };
        same_memory && self.shape == other.shape
    }
}

impl ImageStates {
    /// States on the host, row-major.
    pub(super) const fn on_host(values: Vec<f32>, shape: Vec<usize>) -> Self {
        Self { memory: StatesMemory::Host(values), shape }
    }

    /// States that are `rows` of `tensor`.
    pub(super) const fn on_device(tensor: Arc<Tensor>, rows: Range<usize>, shape: Vec<usize>) -> Self {
        Self { memory: StatesMemory::Device(tensor, rows), shape }
    }

    /// Their shape without the batch axis.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// The states, row-major; `None` if they are in the memory of a device.
    pub fn values(&self) -> Option<&[f32]> {
        match &self.memory {
            StatesMemory::Host(values) => Some(values),
            StatesMemory::Device(..) => None,
        }
    }

    /// Their size in memory.
    pub(crate) fn bytes(&self) -> usize {
        let value_bytes = match &self.memory {
            StatesMemory::Device(tensor, _) if tensor.dtype() == DataType::F16 => 2,
            StatesMemory::Host(_) | StatesMemory::Device(..) => 4,
        };
        self.shape.iter().product::<usize>() * value_bytes
    }

    /// The states of several images as one tensor `[images, ...]` of floats of type `dtype`.
    ///
    /// # Errors
    /// When their shapes differ, or a run on the device fails.
    pub(crate) fn stack(images: &[&Self], dtype: DataType, row_gather: &mut RowGather) -> Result<Tensor, OnnxError> {
        let inner = images.first().map_or(&[][..], |first| first.shape());
        if let Some(other) = images.iter().find(|image| image.shape() != inner) {
            let what = format!("images of one batch have states of shapes {inner:?} and {:?}", other.shape);
            return Err(OnnxError::of_run(what));
        }
        let shape: Vec<usize> = std::iter::once(images.len()).chain(inner.iter().copied()).collect();
        if let Some(values) = images.iter().map(|image| image.values()).collect::<Option<Vec<_>>>() {
            return Tensor::from_f32(dtype, &shape, values.concat());
        }
        let mut vectors = DeviceVectors::default();
        let index = images.iter().map(|image| vectors.add(image)).collect::<Result<Vec<_>, _>>()?;
        let index = index.into_iter().flatten().collect();
        row_gather.vectors(&vectors.tensors(), index, &shape, dtype)
    }
}

/// Vectors in the memory of a device: those along the last axis of some tensors, numbered one tensor after the other.
#[derive(Debug, Default)]
pub(crate) struct DeviceVectors<'a> {
    tensors: Vec<(&'a Tensor, usize)>,
    count: usize,
}

impl<'a> DeviceVectors<'a> {
    /// Adds a tensor, if it is not there yet. Returns the number of its first vector.
    pub(crate) fn add_tensor(&mut self, tensor: &'a Tensor) -> usize {
        if let Some((_, first)) = self.tensors.iter().find(|(known, _)| std::ptr::eq(*known, tensor)) {
            return *first;
        }
        let (first, shape) = (self.count, tensor.shape());
        self.count += shape.iter().take(shape.len().saturating_sub(1)).product::<usize>();
        self.tensors.push((tensor, first));
        first
    }

    /// Adds the states of an image. Returns the numbers of their vectors.
    ///
    /// # Errors
    /// When they are on the host.
    pub(crate) fn add(&mut self, states: &'a ImageStates) -> Result<Range<usize>, OnnxError> {
        let StatesMemory::Device(tensor, rows) = &states.memory else {
            return Err(OnnxError::of_run("image states on the host among those on a device"));
        };
        let shape = tensor.shape();
        let in_row: usize = shape.iter().skip(1).take(shape.len().saturating_sub(2)).product();
        let first = self.add_tensor(tensor);
        Ok(first + rows.start * in_row..first + rows.end * in_row)
    }

    /// The tensors in the order of their vectors.
    pub(crate) fn tensors(&self) -> Vec<&'a Tensor> {
        self.tensors.iter().map(|(tensor, _)| *tensor).collect()
    }
}
