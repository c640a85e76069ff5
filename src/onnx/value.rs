//! Tensors in host memory. In: vectors, or the outputs of a run. Out: vectors, or the inputs of the next run. Nothing runs
//! here, and `ort`'s types stay inside.

use std::borrow::Cow;

use bytes::Bytes;
use half::f16;
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{DynValue, PrimitiveTensorElementType, Tensor, TensorElementType, TensorRef, ValueType};

use super::environment::runtime;
use super::error::{OnnxError, OnnxErrorKind};
use super::messages::TensorProto;
use super::port::DataType;

/// A tensor owned by ONNX Runtime. Moving it from one run's outputs to the next run's inputs copies nothing.
#[derive(Debug)]
pub struct Value {
    tensor: DynValue,
    /// How many rows of axis 0 there are, where the tensor has room for more.
    rows: Option<usize>,
}

/// What tensors here are made of.
trait Element: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static {}

impl<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static> Element for T {}

impl Value {
    /// A tensor of `shape` that takes over `data`, row-major; as float16 if `dtype` asks for it.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or memory ran out.
    pub fn from_f32(dtype: DataType, shape: &[usize], data: Vec<f32>) -> Result<Self, OnnxError> {
        match dtype {
            DataType::F16 => Self::owned(shape, data.into_iter().map(f16::from_f32).collect::<Vec<_>>()),
            _ => Self::owned(shape, data),
        }
    }

    /// An int64 tensor of `shape` that takes over `data`, row-major.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or memory ran out.
    pub fn from_i64(shape: &[usize], data: Vec<i64>) -> Result<Self, OnnxError> {
        Self::owned(shape, data)
    }

    /// A bool tensor of shape `[1]`.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn from_bool(value: bool) -> Result<Self, OnnxError> {
        Self::owned(&[1], vec![value])
    }

    /// A tensor of ones, or of true, of a type that masks have: int64, bool or a float.
    ///
    /// # Errors
    /// When ONNX Runtime refuses to make it.
    pub fn ones(dtype: DataType, shape: &[usize]) -> Result<Self, OnnxError> {
        Self::mask(dtype, shape, vec![true; shape.iter().product()])
    }

    /// A tensor of ones and zeros, or of true and false, of a type that masks have: int64, bool or a float.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or ONNX Runtime refuses to make it.
    pub fn mask(dtype: DataType, shape: &[usize], data: Vec<bool>) -> Result<Self, OnnxError> {
        match dtype {
            DataType::I64 => Self::owned(shape, data.into_iter().map(i64::from).collect()),
            DataType::Bool => Self::owned(shape, data),
            _ => Self::from_f32(dtype, shape, data.into_iter().map(|one| f32::from(u8::from(one))).collect()),
        }
    }

    /// A tensor of zeros; without elements if an axis has size 0.
    ///
    /// # Errors
    /// When ONNX Runtime refuses to make it.
    pub fn zeros(dtype: DataType, shape: &[usize]) -> Result<Self, OnnxError> {
        let size = shape.iter().product();
        if size > 0 && dtype == DataType::I64 {
            return Self::owned(shape, vec![0_i64; size]);
        }
        if size > 0 {
            return Self::from_f32(dtype, shape, vec![0.0; size]);
        }
        // ONNX Runtime takes over no vector without elements
        runtime()?;
        let allocator = Allocator::default();
        let value = match dtype {
            DataType::F16 => Tensor::<f16>::new(&allocator, shape).map(Tensor::into_dyn),
            DataType::I64 => Tensor::<i64>::new(&allocator, shape).map(Tensor::into_dyn),
            _ => Tensor::<f32>::new(&allocator, shape).map(Tensor::into_dyn),
        };
        value.map(Self::from_ort).map_err(|error| failed(&error))
    }

    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        let ValueType::Tensor { shape, .. } = self.tensor.dtype() else { return Vec::new() };
        let mut shape: Vec<usize> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        if let (Some(rows), Some(held)) = (self.rows, shape.first_mut()) {
            *held = rows;
        }
        shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DataType {
        data_type(self.tensor.dtype())
    }

    /// Its elements as float32, row-major; converted if they are float16.
    ///
    /// # Errors
    /// When its elements are no floats.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, OnnxError> {
        match self.dtype() {
            DataType::F16 => Ok(Cow::Owned(self.slice::<f16>()?.iter().map(|value| value.to_f32()).collect())),
            _ => self.slice::<f32>().map(Cow::Borrowed),
        }
    }

    /// Its elements, row-major.
    ///
    /// # Errors
    /// When they are not float32.
    pub fn as_f32(&self) -> Result<&[f32], OnnxError> {
        self.slice::<f32>()
    }

    /// Its elements, row-major.
    ///
    /// # Errors
    /// When they are not int64.
    pub fn to_i64(&self) -> Result<&[i64], OnnxError> {
        self.slice::<i64>()
    }

    /// The rows `rows` of axis 0, in that order; their elements are copied.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn gather(&self, rows: &[usize]) -> Result<Self, OnnxError> {
        Self::stack(&[(self, rows)], None)
    }

    /// Goes on with the rows `rows` of axis 0, in that order. Where each of them stays in its place or comes from behind the last
    /// place, as when the last rows fill the gaps of others, only those that come are copied.
    ///
    /// # Errors
    /// As [`Self::stack`].
    pub fn keep(&mut self, rows: &[usize]) -> Result<(), OnnxError> {
        let held = self.shape().first().copied().unwrap_or(0);
        if rows.iter().zip(0..).any(|(&row, place)| row != place && row < rows.len()) || rows.len() > held {
            *self = self.gather(rows)?;
            return Ok(());
        }
        match self.dtype() {
            DataType::F16 => self.fill_gaps::<f16>(rows, held)?,
            DataType::I64 => self.fill_gaps::<i64>(rows, held)?,
            _ => self.fill_gaps::<f32>(rows, held)?,
        }
        self.rows = Some(rows.len());
        Ok(())
    }

    /// Rows of one tensor after the other, `(tensor, rows)`, as one; their elements are copied. With `aligned`, an axis and its
    /// size, the ends of that axis stand at its end: the beginning of a longer one is left out, that of a shorter one is zeros.
    ///
    /// # Errors
    /// When a row does not exist, tensors differ in type or in a size that is not aligned, their elements are no floats or
    /// int64, or memory ran out.
    pub fn stack(parts: &[(&Self, &[usize])], aligned: Option<(usize, usize)>) -> Result<Self, OnnxError> {
        match parts.first().map(|(first, _)| first.dtype()) {
            Some(DataType::F16) => Self::stack_as::<f16>(parts, aligned),
            Some(DataType::I64) => Self::stack_as::<i64>(parts, aligned),
            _ => Self::stack_as::<f32>(parts, aligned),
        }
    }

    /// The same tensor with floats of type `dtype`; itself if it has them already.
    ///
    /// # Errors
    /// When its elements are no floats, or memory ran out.
    pub fn into_float(self, dtype: DataType) -> Result<Self, OnnxError> {
        if self.dtype() == dtype {
            return Ok(self);
        }
        Self::from_f32(dtype, &self.shape(), self.to_f32()?.into_owned())
    }

    /// A copy of the tensor with floats of type `dtype`.
    ///
    /// # Errors
    /// When its elements are no floats, or memory ran out.
    pub fn to_float(&self, dtype: DataType) -> Result<Self, OnnxError> {
        Self::from_f32(dtype, &self.shape(), self.to_f32()?.into_owned())
    }

    /// The same tensor as a part of a graph, without a name; `None` if its elements are of a type that has none here.
    pub(super) fn to_tensor(&self) -> Option<TensorProto> {
        fn bytes<T: Copy, const N: usize>(data: &[T], of: impl Fn(T) -> [u8; N]) -> Bytes {
            data.iter().flat_map(|&element| of(element)).collect()
        }
        let data = match self.dtype() {
            DataType::F32 => bytes(self.slice::<f32>().ok()?, f32::to_le_bytes),
            DataType::F16 => bytes(self.slice::<f16>().ok()?, f16::to_le_bytes),
            DataType::I64 => bytes(self.slice::<i64>().ok()?, i64::to_le_bytes),
            DataType::Bool => bytes(self.slice::<bool>().ok()?, |element| [u8::from(element)]),
            DataType::Other(_) => return None,
        };
        Some(TensorProto {
            dims: self.shape().into_iter().map(|size| size as i64).collect(),
            data_type: self.dtype().to_onnx(),
            raw_data: Some(data),
            ..TensorProto::default()
        })
    }

    pub(super) fn from_ort(tensor: DynValue) -> Self {
        Self { tensor, rows: None }
    }

    /// What a run takes; nothing is copied.
    pub(super) fn as_input(&self) -> ort::Result<SessionInputValue<'_>> {
        fn view<T: Element>(value: &Value) -> ort::Result<SessionInputValue<'_>> {
            let (_, data) = value.tensor.try_extract_tensor::<T>()?;
            let shape = value.shape();
            let data = &data[..shape.iter().product()];
            TensorRef::from_array_view((shape, data)).map(Into::into)
        }
        match self.dtype() {
            _ if self.rows.is_none() => Ok((&self.tensor).into()),
            DataType::F16 => view::<f16>(self),
            DataType::I64 => view::<i64>(self),
            _ => view::<f32>(self),
        }
    }

    fn owned<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self, OnnxError> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(misfit(format!("{} elements do not fill shape {shape:?}", data.len())));
        }
        runtime()?;
        Tensor::from_array((shape, data))
            .map(|tensor| Self::from_ort(tensor.into_dyn()))
            .map_err(|error| failed(&error))
    }

    fn slice<T: Element>(&self) -> Result<&[T], OnnxError> {
        let (_, data) = self.tensor.try_extract_tensor::<T>().map_err(|error| failed(&error))?;
        Ok(if self.rows.is_some() { &data[..self.shape().iter().product()] } else { data })
    }

    fn fill_gaps<T: Element>(&mut self, rows: &[usize], held: usize) -> Result<(), OnnxError> {
        let width: usize = self.shape().iter().skip(1).product();
        if let Some(row) = rows.iter().find(|row| **row >= held) {
            return Err(misfit(format!("row {row} of a tensor with {held} rows")));
        }
        let (_, data) = self.tensor.try_extract_tensor_mut::<T>().map_err(|error| failed(&error))?;
        for (place, &row) in rows.iter().enumerate().filter(|(place, row)| place != *row) {
            data.copy_within(row * width..(row + 1) * width, place * width);
        }
        Ok(())
    }

    fn stack_as<T: Element>(parts: &[(&Self, &[usize])], aligned: Option<(usize, usize)>) -> Result<Self, OnnxError> {
        let all_rows: usize = parts.iter().map(|(_, rows)| rows.len()).sum();
        let mut stacked: Option<Vec<usize>> = None;
        let mut data = Vec::new();
        for (value, rows) in parts {
            let mut shape = value.shape();
            let [held, inner @ ..] = shape.as_slice() else {
                return Err(misfit("rows of a tensor without axes".to_owned()));
            };
            let (held, width) = (*held, inner.iter().product::<usize>());
            // a row is `runs` runs of `old` elements, which become `new` elements each
            let (runs, old, new) = match aligned {
                Some((axis @ 1.., size)) if shape.get(axis).is_some_and(|&found| found != size) => {
                    let after = shape[axis + 1..].iter().product::<usize>();
                    (shape[1..axis].iter().product(), shape[axis] * after, size * after)
                }
                _ => (1, width, width),
            };
            if stacked.is_none() {
                data.reserve_exact(all_rows * runs * new);
            }
            let from = value.slice::<T>()?;
            for &row in *rows {
                let part = from.get(row * width..(row + 1) * width);
                let part = part.ok_or_else(|| misfit(format!("row {row} of a tensor with {held} rows")))?;
                for run in 0..runs {
                    data.extend(std::iter::repeat_n(T::default(), new.saturating_sub(old)));
                    data.extend_from_slice(&part[run * old + old.saturating_sub(new)..(run + 1) * old]);
                }
            }
            if let Some((axis, size)) = aligned.filter(|(axis, _)| *axis < shape.len()) {
                shape[axis] = size;
            }
            shape[0] = rows.len();
            match &mut stacked {
                None => stacked = Some(shape),
                Some(all) if all[1..] == shape[1..] => all[0] += rows.len(),
                Some(all) => return Err(misfit(format!("rows of shapes {all:?} and {shape:?} in one tensor"))),
            }
        }
        Self::owned(&stacked.unwrap_or_default(), data)
    }
}

pub(super) fn data_type(value: &ValueType) -> DataType {
    use TensorElementType as T;
    match value {
        ValueType::Tensor { ty, .. } => match ty {
            T::Float32 => DataType::F32,
            T::Float16 => DataType::F16,
            T::Int64 => DataType::I64,
            T::Uint8 => DataType::Other("uint8"),
            T::Int8 => DataType::Other("int8"),
            T::Int32 => DataType::Other("int32"),
            T::Bool => DataType::Bool,
            T::String => DataType::Other("string"),
            T::Float64 => DataType::Other("double"),
            T::Bfloat16 => DataType::Other("bfloat16"),
            _ => DataType::Other("an unusual type"),
        },
        _ => DataType::Other("not a tensor"),
    }
}

fn failed(error: &ort::Error) -> OnnxError {
    OnnxError { graph: None, ..OnnxError::from_ort(OnnxErrorKind::Run, "", error) }
}

fn misfit(what: String) -> OnnxError {
    OnnxError { kind: OnnxErrorKind::Run, graph: None, what, hint: None }
}
