//! Gathers rows (axis 0) of tensors: selects, repeats and concatenates them. In: tensors, and which rows of each. Out: tensors with these
//! rows. Floats stay in the memory of their device, where the graphs of [`super::graphs`] are run.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::{Path, PathBuf};

use half::f16;
use itertools::Itertools;

use super::graphs::{RowGraph, STACKED, names};
use super::vector_graphs::VectorGraph;
use crate::onnx::error::OnnxError;
use crate::onnx::port::DataType;
use crate::onnx::runtime::device::Device;
use crate::onnx::runtime::session::{EditedGraph, GraphOptions, Session, SessionInput};
use crate::onnx::runtime::tensor::{Element, Tensor};

/// Gathers rows of tensors. Its graphs are opened when they are first needed.
#[derive(Debug)]
pub struct RowGather {
    options: GraphOptions,
    opened: HashMap<RowGraph, Session>,
    of_vectors: HashMap<VectorGraph, Session>,
}

impl RowGather {
    /// Gathers rows for graphs that are opened with `options`.
    pub fn new(options: GraphOptions) -> Self {
        Self { options: Self::options(options), opened: HashMap::new(), of_vectors: HashMap::new() }
    }

    /// How small graphs are opened beside graphs that are opened with `options`.
    pub(crate) fn options(options: GraphOptions) -> GraphOptions {
        let (device, threads) = match options.device {
            // TensorRT would build an engine for every size of tensor
            Device::Cuda(number) | Device::TensorRt(number) => (Device::Cuda(number), 1),
            device => (device, options.threads),
        };
        GraphOptions { device, threads, dynamic_shapes: true, repeatable: true }
    }

    /// `value`, copied to the memory of the device if its elements are floats.
    ///
    /// # Errors
    /// As [`Self::concat`].
    pub fn to_device(&mut self, value: Tensor) -> Result<Tensor, OnnxError> {
        if value.device().is_some() || !self.options.device.has_memory() || !value.dtype().is_float() {
            return Ok(value);
        }
        let all: Vec<_> = (0..value.shape().first().copied().unwrap_or(0)).collect();
        self.gather(&value, &all)
    }

    /// The rows `rows` of `value`, in that order.
    ///
    /// # Errors
    /// As [`Self::concat`].
    pub fn gather(&mut self, value: &Tensor, rows: &[usize]) -> Result<Tensor, OnnxError> {
        self.concat(&[(value, rows)], None)
    }

    /// Replaces `value` by its rows `rows`, in that order. A tensor in the host's memory is changed in place if every row keeps its
    /// index or comes from behind the new end: only the rows that change their index are copied.
    ///
    /// # Errors
    /// As [`Self::concat`].
    pub fn gather_in_place(&mut self, value: &mut Tensor, rows: &[usize]) -> Result<(), OnnxError> {
        let count = value.shape().first().copied().unwrap_or(0);
        let stays = |(&row, to): (&usize, usize)| row == to || row >= rows.len();
        if value.device().is_some() || rows.len() > count || !rows.iter().zip(0..).all(stays) {
            *value = self.gather(value, rows)?;
            return Ok(());
        }
        if let Some(row) = rows.iter().find(|row| **row >= count) {
            return Err(no_row(*row, count));
        }
        match value.dtype() {
            DataType::F16 => fill_gaps::<f16>(value, rows)?,
            DataType::I64 => fill_gaps::<i64>(value, rows)?,
            _ => fill_gaps::<f32>(value, rows)?,
        }
        value.shorten(rows.len());
        Ok(())
    }

    /// Concatenates rows of several tensors, `(tensor, rows)`. With `aligned`, an axis and a size, that axis of every tensor gets that
    /// size, aligned at its end: a longer one loses its beginning, a shorter one begins with zeros.
    ///
    /// # Errors
    /// When a row does not exist, tensors differ in type or in a size that is not aligned, or memory ran out.
    pub fn concat(
        &mut self,
        parts: &[(&Tensor, &[usize])],
        aligned: Option<(usize, usize)>,
    ) -> Result<Tensor, OnnxError> {
        let mut shapes: Vec<_> = parts.iter().map(|(value, _)| value.shape()).collect();
        let mut missing = Vec::with_capacity(parts.len());
        for (shape, (_, rows)) in shapes.iter_mut().zip(parts) {
            let count = shape.first().copied().unwrap_or(0);
            if let Some(row) = rows.iter().find(|row| **row >= count) {
                return Err(no_row(*row, count));
            }
            let mut pads = vec![0; 2 * shape.len()];
            if let Some((axis, size)) = aligned.filter(|(axis, _)| *axis < shape.len()) {
                // as the operator `Pad` has it: elements to insert at the beginning, to remove if negative
                pads[axis] = size as i64 - shape[axis] as i64;
                shape[axis] = size;
            }
            missing.push(pads);
        }
        let misfits = |(this, that): &(&Vec<usize>, &Vec<usize>)| this.get(1..) != that.get(1..);
        if let Some((this, that)) = shapes.iter().tuple_windows().find(misfits) {
            return Err(OnnxError::of_run(format!("rows of shapes {this:?} and {that:?} in one tensor")));
        }
        let aligns = missing.iter().flatten().any(|size| *size != 0);
        let names: Vec<_> = (0..parts.len()).map(names).collect();
        let mut feeds = Vec::with_capacity(3 * parts.len());
        for (((value, rows), pads), [tensor, rows_of, pads_of]) in parts.iter().zip(missing).zip(&names) {
            let rows = Tensor::from_i64(&[rows.len()], rows.iter().map(|&row| row as i64).collect())?;
            feeds.extend([
                (tensor.as_str(), SessionInput::Shared(value)),
                (rows_of.as_str(), SessionInput::Owned(rows)),
            ]);
            if aligns {
                feeds.push((pads_of.as_str(), SessionInput::Owned(Tensor::from_i64(&[pads.len()], pads)?)));
            }
        }
        let dtype = parts.first().map_or(DataType::F32, |(value, _)| value.dtype());
        self.graph(RowGraph { dtype, parts: parts.len(), aligns })?.run_on_device(&feeds, &[])?.remove(STACKED)
    }

    fn graph(&mut self, kind: RowGraph) -> Result<&mut Session, OnnxError> {
        opened(self.opened.entry(kind), "rows of tensors", self.options, RowGraph::encode)
    }

    /// The session of a graph for vectors.
    pub(super) fn vector_graph(&mut self, kind: VectorGraph) -> Result<&mut Session, OnnxError> {
        opened(self.of_vectors.entry(kind), "vectors of tensors", self.options, |kind| kind.encode())
    }
}

/// The session of a graph, opened if it is not yet.
fn opened<'a, K: Clone>(
    entry: Entry<'a, K, Session>,
    name: &str,
    options: GraphOptions,
    encode: impl Fn(K) -> Vec<u8>,
) -> Result<&'a mut Session, OnnxError> {
    match entry {
        Entry::Occupied(entry) => Ok(entry.into_mut()),
        Entry::Vacant(entry) => {
            let edited = EditedGraph { bytes: encode(entry.key().clone()), folder: PathBuf::new() };
            Ok(entry.insert(Session::open_edited(Path::new(name), &edited, options)?))
        }
    }
}

/// Copies each row of `rows` that changes its index.
fn fill_gaps<T: Element>(value: &mut Tensor, rows: &[usize]) -> Result<(), OnnxError> {
    let width: usize = value.shape().iter().skip(1).product();
    let data = value.slice_mut::<T>()?;
    for (to, &row) in rows.iter().enumerate().filter(|(to, row)| to != *row) {
        data.copy_within(row * width..(row + 1) * width, to * width);
    }
    Ok(())
}

fn no_row(row: usize, count: usize) -> OnnxError {
    OnnxError::of_run(format!("row {row} of a tensor with {count} rows"))
}
