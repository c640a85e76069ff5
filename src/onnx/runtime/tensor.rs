//! Tensors. In: vectors, or the outputs of a run. Out: vectors, or the inputs of the next run; `ort`'s types stay inside. Rows are
//! gathered in [`crate::onnx::rows::gather`].

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use half::f16;
use half::slice::HalfFloatSliceExt;
use ort::memory::Allocator;
use ort::session::SessionInputValue;
use ort::value::{
    DynTensorValueType, DynValue, PrimitiveTensorElementType, Tensor as OrtTensor, TensorElementType, TensorRef,
    ValueType,
};

use super::device::Device;
use super::environment::runtime;
use super::run_context;
use super::transfers::Direction;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::DataType;
use crate::onnx::proto::TensorProto;

/// A tensor owned by ONNX Runtime. Moving it from one run's outputs to the next run's inputs copies nothing.
#[derive(Debug)]
pub struct Tensor {
    tensor: DynValue,
    location: TensorLocation,
}

/// In which memory a tensor is.
#[derive(Debug, Clone, Copy)]
enum TensorLocation {
    /// In the host's memory, as every tensor that is made here. If only the first rows are in use, how many.
    Host(Option<usize>),
    /// In the memory of a device, as an output of a run.
    Device(Device),
}

/// An element type.
pub(crate) trait Element: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static {}

impl<T: PrimitiveTensorElementType + Copy + Default + std::fmt::Debug + 'static> Element for T {}

impl Tensor {
    /// A tensor of `shape` that takes over `data`, row-major; converted to float16 if `dtype` is that.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or memory ran out.
    pub fn from_f32(dtype: DataType, shape: &[usize], data: Vec<f32>) -> Result<Self, OnnxError> {
        match dtype {
            DataType::F16 => {
                let mut halves = vec![f16::ZERO; data.len()];
                halves.convert_from_f32_slice(&data);
                Self::owned(shape, halves)
            }
            _ => Self::owned(shape, data),
        }
    }

    /// A float16 tensor of `shape` that takes over `data`, row-major.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or memory ran out.
    pub fn from_f16(shape: &[usize], data: Vec<f16>) -> Result<Self, OnnxError> {
        Self::owned(shape, data)
    }

    /// An int64 tensor of `shape` that takes over `data`, row-major.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or memory ran out.
    pub fn from_i64(shape: &[usize], data: Vec<i64>) -> Result<Self, OnnxError> {
        if data.is_empty() && shape.contains(&0) {
            return Self::zeros(DataType::I64, shape);
        }
        Self::owned(shape, data)
    }

    /// Integers, or a mask, of `shape` in the type of an input: int64, int32, bool, or float.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, a number does not fit the type, or memory ran out.
    pub fn from_integers(dtype: DataType, shape: &[usize], data: Vec<i64>) -> Result<Self, OnnxError> {
        match dtype {
            DataType::I64 => Self::from_i64(shape, data),
            DataType::Bool => Self::owned(shape, data.into_iter().map(|value| value != 0).collect()),
            dtype if dtype.is_float() => {
                Self::from_f32(dtype, shape, data.into_iter().map(|value| value as f32).collect())
            }
            dtype if dtype.is_integer() => {
                let narrow = data.into_iter().map(i32::try_from).collect::<Result<Vec<_>, _>>();
                Self::owned(shape, narrow.map_err(|_| OnnxError::of_run("a token id that does not fit int32"))?)
            }
            dtype => Err(OnnxError::of_run(format!("expected an input of integers, found {dtype}"))),
        }
    }

    /// A bool tensor of shape `[1]`.
    ///
    /// # Errors
    /// When memory ran out.
    pub fn from_bool(value: bool) -> Result<Self, OnnxError> {
        Self::owned(&[1], vec![value])
    }

    /// A mask of ones, or of true. Masks are int64, bool or float.
    ///
    /// # Errors
    /// When ONNX Runtime refuses to make it.
    pub fn ones(dtype: DataType, shape: &[usize]) -> Result<Self, OnnxError> {
        Self::mask(dtype, shape, vec![true; shape.iter().product()])
    }

    /// A mask of ones and zeros, or of true and false. Masks are int64, bool or float.
    ///
    /// # Errors
    /// When `data` does not fill `shape`, or ONNX Runtime refuses to make it.
    pub fn mask(dtype: DataType, shape: &[usize], data: Vec<bool>) -> Result<Self, OnnxError> {
        match dtype {
            DataType::I64 => Self::owned(shape, data.into_iter().map(i64::from).collect()),
            DataType::Bool => Self::owned(shape, data),
            dtype if dtype.is_integer() => Self::from_integers(dtype, shape, data.into_iter().map(i64::from).collect()),
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
        // ONNX Runtime does not take over a vector without elements
        runtime()?;
        let allocator = Allocator::default();
        let value = match dtype {
            DataType::F16 => OrtTensor::<f16>::new(&allocator, shape).map(OrtTensor::into_dyn),
            DataType::I64 => OrtTensor::<i64>::new(&allocator, shape).map(OrtTensor::into_dyn),
            _ => OrtTensor::<f32>::new(&allocator, shape).map(OrtTensor::into_dyn),
        };
        value.map(Self::from_ort).map_err(|error| failed(&error))
    }

    /// Its shape.
    pub fn shape(&self) -> Vec<usize> {
        let ValueType::Tensor { shape, .. } = self.tensor.dtype() else { return Vec::new() };
        let mut shape: Vec<usize> = shape.iter().map(|&size| usize::try_from(size).unwrap_or(0)).collect();
        if let (TensorLocation::Host(Some(rows)), Some(size)) = (self.location, shape.first_mut()) {
            *size = rows;
        }
        shape
    }

    /// Its element type.
    pub fn dtype(&self) -> DataType {
        data_type(self.tensor.dtype())
    }

    /// The bytes of its elements.
    pub(crate) fn bytes(&self) -> usize {
        self.shape().iter().product::<usize>() * self.dtype().bytes()
    }

    /// Its elements as float32, row-major; converted if they are float16.
    ///
    /// # Errors
    /// When its elements are no floats, or are in a device's memory.
    pub fn to_f32(&self) -> Result<Cow<'_, [f32]>, OnnxError> {
        match self.dtype() {
            DataType::F16 => self.slice::<f16>().map(|data| Cow::Owned(data.to_f32_vec())),
            _ => self.slice::<f32>().map(Cow::Borrowed),
        }
    }

    /// The elements in `range`, row-major, as float32; converted if they are float16.
    ///
    /// # Errors
    /// When the range ends behind the last element, or elements are no floats, or are in a device's memory.
    pub fn range_to_f32(&self, range: Range<usize>) -> Result<Cow<'_, [f32]>, OnnxError> {
        let part = match self.dtype() {
            DataType::F16 => self.slice::<f16>()?.get(range.clone()).map(|part| Cow::Owned(part.to_f32_vec())),
            _ => self.slice::<f32>()?.get(range.clone()).map(Cow::Borrowed),
        };
        part.ok_or_else(|| OnnxError::of_run(format!("elements {range:?} of a tensor of shape {:?}", self.shape())))
    }

    /// Its elements, row-major.
    ///
    /// # Errors
    /// When they are not int64, or are in a device's memory.
    pub fn to_i64(&self) -> Result<&[i64], OnnxError> {
        self.slice::<i64>()
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

    /// The same tensor as a protobuf message, without a name; `None` for an element type that nightcap does not read.
    pub(crate) fn to_tensor(&self) -> Option<TensorProto> {
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

    pub(crate) fn from_ort(tensor: DynValue) -> Self {
        Self { tensor, location: TensorLocation::Host(None) }
    }

    pub(crate) fn on_device(tensor: DynValue, device: Device) -> Self {
        Self { tensor, location: TensorLocation::Device(device) }
    }

    /// The device in whose memory it is; `None` if it is in the host's.
    pub(crate) fn device(&self) -> Option<Device> {
        match self.location {
            TensorLocation::Device(device) => Some(device),
            TensorLocation::Host(_) => None,
        }
    }

    pub(super) fn value(&self) -> &DynValue {
        &self.tensor
    }

    pub(super) fn value_mut(&mut self) -> &mut DynValue {
        &mut self.tensor
    }

    /// Copies the elements into `target`, a tensor of the same shape and type, from host to device or back.
    ///
    /// # Errors
    /// When shapes or types differ, or a transfer fails.
    pub(crate) fn copy_into(&self, target: &mut Self) -> Result<(), OnnxError> {
        let (from, to) = (self.shape(), target.shape());
        if from != to || self.dtype() != target.dtype() {
            return Err(OnnxError::of_run(format!("a tensor of shape {from:?} does not fit one of shape {to:?}")));
        }
        let mut copy = || -> ort::Result<()> {
            let from = self.tensor.view().downcast::<DynTensorValueType>()?;
            let to = target.tensor.view_mut().downcast::<DynTensorValueType>()?;
            from.copy_into(to)
        };
        copy().map_err(|error| failed(&error))?;
        match (self.device(), target.device()) {
            (None, Some(_)) => run_context::copied(Direction::ToDevice, self.bytes()),
            (Some(_), None) => run_context::copied(Direction::ToHost, self.bytes()),
            (None, None) | (Some(_), Some(_)) => {}
        }
        Ok(())
    }

    /// A copy in the host's memory.
    ///
    /// # Errors
    /// When memory ran out, or the transfer fails.
    pub(crate) fn to_host(&self) -> Result<Self, OnnxError> {
        let mut host = Self::zeros(self.dtype(), &self.shape())?;
        self.copy_into(&mut host)?;
        Ok(host)
    }

    /// The tensor as the input of a run, not copied.
    pub(crate) fn as_input(&self) -> ort::Result<SessionInputValue<'_>> {
        fn view<T: Element>(value: &Tensor) -> ort::Result<SessionInputValue<'_>> {
            let (_, data) = value.tensor.try_extract_tensor::<T>()?;
            let shape = value.shape();
            let data = &data[..shape.iter().product()];
            TensorRef::from_array_view((shape, data)).map(Into::into)
        }
        match (self.location, self.dtype()) {
            (TensorLocation::Device(_) | TensorLocation::Host(None), _) => Ok((&self.tensor).into()),
            (TensorLocation::Host(Some(_)), DataType::F16) => view::<f16>(self),
            (TensorLocation::Host(Some(_)), DataType::I64) => view::<i64>(self),
            (TensorLocation::Host(Some(_)), _) => view::<f32>(self),
        }
    }

    fn owned<T: Element>(shape: &[usize], data: Vec<T>) -> Result<Self, OnnxError> {
        if shape.iter().product::<usize>() != data.len() {
            return Err(OnnxError::of_run(format!("{} elements do not fill shape {shape:?}", data.len())));
        }
        runtime()?;
        Self::from_values(shape, data).map_err(|error| failed(&error))
    }

    /// A tensor of `shape` that takes over `data`.
    pub(super) fn from_values<T: Element>(shape: &[usize], data: Vec<T>) -> ort::Result<Self> {
        OrtTensor::from_array((shape, data)).map(|tensor| Self::from_ort(tensor.into_dyn()))
    }

    /// Drops all but the first `rows` rows of a tensor in the host's memory.
    pub(crate) fn shorten(&mut self, rows: usize) {
        self.location = TensorLocation::Host(Some(rows));
    }

    /// The elements of all rows, in use or not.
    pub(crate) fn slice_mut<T: Element>(&mut self) -> Result<&mut [T], OnnxError> {
        let (_, data) = self.tensor.try_extract_tensor_mut::<T>().map_err(|error| failed(&error))?;
        Ok(data)
    }

    fn slice<T: Element>(&self) -> Result<&[T], OnnxError> {
        if let TensorLocation::Device(device) = self.location {
            return Err(OnnxError::of_run(format!(
                "a tensor of shape {:?} is in the memory of {device}, not in the host's",
                self.shape()
            )));
        }
        let (_, data) = self.tensor.try_extract_tensor::<T>().map_err(|error| failed(&error))?;
        Ok(if matches!(self.location, TensorLocation::Host(Some(_))) {
            &data[..self.shape().iter().product()]
        } else {
            data
        })
    }
}

pub(crate) fn data_type(value: &ValueType) -> DataType {
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
