//! The values of pixels in the element type that the graph takes, owned by their image or part of the memory of a whole batch. Data
//! only.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use half::f16;
use half::slice::HalfFloatSliceExt;

/// Values of pixels, row-major.
#[derive(Debug, Clone, PartialEq)]
pub enum PixelData {
    /// 32-bit floats.
    F32(Values<f32>),
    /// 16-bit floats, half the memory.
    F16(Values<f16>),
}

/// Values of one type.
#[derive(Clone)]
pub enum Values<T> {
    /// Memory of their own.
    Own(Vec<T>),
    /// A part of memory that holds the images of a batch one after the other.
    Shared(SharedValues<T>, Range<usize>),
}

/// Memory that holds the images of a batch.
pub type SharedValues<T> = Arc<dyn AsRef<[T]> + Send + Sync>;

impl<T> Values<T> {
    /// The values.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::Own(values) => values,
            Self::Shared(memory, range) => (**memory).as_ref().get(range.clone()).unwrap_or_default(),
        }
    }

    /// The values of all `parts`, if they follow each other in memory.
    pub fn joined<'a>(parts: &[&'a Self]) -> Option<&'a [T]> {
        let (Self::Shared(memory, first), Some(Self::Shared(_, last))) = (*parts.first()?, parts.last()) else {
            return parts.first().filter(|_| parts.len() == 1).map(|part| part.as_slice());
        };
        let mut end = first.start;
        for part in parts {
            let Self::Shared(other, range) = part else { return None };
            if !std::ptr::addr_eq(Arc::as_ptr(memory), Arc::as_ptr(other)) || range.start != end {
                return None;
            }
            end = range.end;
        }
        (**memory).as_ref().get(first.start..last.end)
    }
}

impl<T: PartialEq> PartialEq for Values<T> {
    fn eq(&self, other: &Self) -> bool {
        self.as_slice() == other.as_slice()
    }
}

impl<T> fmt::Debug for Values<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.as_slice().len())
    }
}

impl PixelData {
    /// How many values.
    pub fn len(&self) -> usize {
        match self {
            Self::F32(values) => values.as_slice().len(),
            Self::F16(values) => values.as_slice().len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Their size in memory.
    pub fn bytes(&self) -> usize {
        match self {
            Self::F32(values) => size_of_val(values.as_slice()),
            Self::F16(values) => size_of_val(values.as_slice()),
        }
    }

    /// Planes of `from` (height and width) in the upper left corner of planes of `to`, which are zero elsewhere.
    pub(super) fn padded(&self, from: (u32, u32), to: (u32, u32)) -> Self {
        match self {
            Self::F32(values) => padded(values.as_slice(), from, to).into(),
            Self::F16(values) => padded(values.as_slice(), from, to).into(),
        }
    }

    /// The values as 32-bit floats.
    pub fn to_f32(&self) -> Cow<'_, [f32]> {
        match self {
            Self::F32(values) => Cow::Borrowed(values.as_slice()),
            Self::F16(values) => Cow::Owned(values.as_slice().to_f32_vec()),
        }
    }
}

fn padded<T: Copy + Default>(values: &[T], from: (u32, u32), to: (u32, u32)) -> Vec<T> {
    let area = |(height, width): (u32, u32)| height as usize * width as usize;
    let mut out = vec![T::default(); values.len() / area(from).max(1) * area(to)];
    for (plane, source) in out.chunks_exact_mut(area(to).max(1)).zip(values.chunks_exact(area(from).max(1))) {
        for (row, line) in plane.chunks_exact_mut(to.1 as usize).zip(source.chunks_exact(from.1 as usize)) {
            row[..line.len()].copy_from_slice(line);
        }
    }
    out
}

impl From<Vec<f32>> for PixelData {
    fn from(values: Vec<f32>) -> Self {
        Self::F32(Values::Own(values))
    }
}

impl From<Vec<f16>> for PixelData {
    fn from(values: Vec<f16>) -> Self {
        Self::F16(Values::Own(values))
    }
}
