//! Gathers vectors (along the last axis) of tensors, and finds rows that are not finite, where the tensors are. In: tensors in the memory
//! of a device. Out: a tensor of some of their vectors there; a flag for each row on the host.

use super::gather::RowGather;
use super::vector_graphs::{INDEX, OUTPUT, SHAPE, VectorGraph, tensor_name};
use crate::onnx::error::OnnxError;
use crate::onnx::port::DataType;
use crate::onnx::runtime::session::SessionInput;
use crate::onnx::runtime::tensor::Tensor;

impl RowGather {
    /// The vectors numbered `index` of `tensors`, which are numbered one tensor after the other, as a tensor of `shape`, whose last axis is
    /// that of the vectors, and of type `to`. It stays in the memory of the device.
    ///
    /// # Errors
    /// When the tensors have vectors of other sizes, a vector does not exist, or memory ran out.
    pub(crate) fn vectors(
        &mut self,
        tensors: &[&Tensor],
        index: Vec<usize>,
        shape: &[usize],
        to: DataType,
    ) -> Result<Tensor, OnnxError> {
        let (Some(width), outer) = (shape.last(), &shape[..shape.len().saturating_sub(1)]) else {
            return Err(OnnxError::of_run("vectors without an axis"));
        };
        if let Some(other) = tensors.iter().find(|tensor| tensor.shape().last() != Some(width)) {
            let what = format!("vectors of a tensor of shape {:?} in one of shape {shape:?}", other.shape());
            return Err(OnnxError::of_run(what));
        }
        let index = Tensor::from_i64(outer, index.into_iter().map(|vector| vector as i64).collect())?;
        let flat = Tensor::from_i64(&[2], vec![-1, *width as i64])?;
        let names: Vec<_> = (0..tensors.len()).map(tensor_name).collect();
        let mut feeds = vec![(INDEX, SessionInput::Owned(index)), (SHAPE, SessionInput::Owned(flat))];
        feeds.extend(names.iter().zip(tensors).map(|(name, tensor)| (name.as_str(), SessionInput::Shared(tensor))));
        let from = tensors.iter().map(|tensor| tensor.dtype()).collect();
        let graph = self.vector_graph(VectorGraph::Vectors { from, to })?;
        graph.run_on_device(&feeds, &[])?.remove(OUTPUT)
    }

    /// A copy of `value` with floats of type `dtype`, in the memory where it is.
    ///
    /// # Errors
    /// When its elements are no floats, or memory ran out.
    pub(crate) fn with_floats(&mut self, value: &Tensor, dtype: DataType) -> Result<Tensor, OnnxError> {
        if value.device().is_none() {
            return value.to_float(dtype);
        }
        let shape = value.shape();
        let vectors = shape.iter().take(shape.len().saturating_sub(1)).product();
        self.vectors(&[value], (0..vectors).collect(), &shape, dtype)
    }

    /// Whether all values are finite, for each of `rows` parts of equal size of `tensor`.
    ///
    /// # Errors
    /// When the tensor has not so many parts, or memory ran out.
    pub(crate) fn finite(&mut self, tensor: &Tensor, rows: usize) -> Result<Vec<bool>, OnnxError> {
        let flat = Tensor::from_i64(&[2], vec![rows as i64, -1])?;
        let tensor_name = tensor_name(0);
        let feeds = [(SHAPE, SessionInput::Owned(flat)), (tensor_name.as_str(), SessionInput::Shared(tensor))];
        let outputs = self.vector_graph(VectorGraph::Finite(tensor.dtype()))?.run(&feeds)?;
        Ok(outputs.get(OUTPUT, rows)?.to_f32()?.iter().map(|sum| *sum == 0.0).collect())
    }
}

#[cfg(test)]
mod tests {
    use crate::onnx::{DataType, Device, GraphOptions, RowGather, Tensor};

    fn gather() -> RowGather {
        RowGather::new(GraphOptions { device: Device::StandIn, threads: 1, dynamic_shapes: true, repeatable: true })
    }

    #[test]
    fn vectors_of_several_tensors_make_one_of_any_shape() {
        let tensor = |dtype, shape: &[usize], first: u8| {
            let size = shape.iter().product::<usize>();
            Tensor::from_f32(dtype, shape, (0..size).map(|at| f32::from(first) + at as f32).collect()).unwrap()
        };
        let mut gather = gather();
        let (a, b) = (tensor(DataType::F32, &[2, 2, 2], 0), tensor(DataType::F16, &[3, 2], 100));
        let made = gather.vectors(&[&a, &b], vec![6, 0, 3, 4], &[2, 2, 2], DataType::F32).unwrap();
        assert!(made.device().is_some() && made.to_f32().is_err());
        let read = |gather: &mut RowGather, tensor: &Tensor| {
            // a run whose outputs are on the host
            let copy = gather.vectors(&[tensor], (0..4).collect(), &[4, 2], DataType::F16).unwrap();
            assert_eq!(copy.dtype(), DataType::F16);
            gather.finite(&copy, 4).unwrap()
        };
        assert_eq!(read(&mut gather, &made), [true; 4]);
        assert_eq!((made.shape(), made.dtype()), (vec![2, 2, 2], DataType::F32));
        assert!(gather.vectors(&[&a, &b], vec![7], &[1, 2], DataType::F32).is_err(), "there are seven vectors");
        assert!(gather.vectors(&[&a], vec![0], &[1, 3], DataType::F32).is_err(), "of two values");
    }

    #[test]
    fn rows_that_are_not_finite_are_found_on_the_device() {
        let mut gather = gather();
        for dtype in [DataType::F32, DataType::F16] {
            for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut values = vec![-60000.0; 24];
                values[17] = bad;
                let tensor = Tensor::from_f32(dtype, &[4, 3, 2], values).unwrap();
                assert_eq!(gather.finite(&tensor, 4).unwrap(), [true, true, false, true]);
                assert_eq!(gather.finite(&tensor, 2).unwrap(), [true, false], "two tiles an image");
            }
        }
    }
}
