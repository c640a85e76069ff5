//! What is known about the values of a graph: types, and questions about a value.

use std::collections::HashMap;

use crate::onnx::edit::constants::is_integer;

/// A size of an axis: a number, or some number that has a name. Two sizes are certainly equal if they are the same `Size`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Size {
    Number(i64),
    Named(u32),
}

/// An element of a small vector.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum KnownElement {
    Number(f64),
    /// A size whose number is not known.
    Size(u32),
    Unknown,
}

/// What is known about one value.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Known {
    /// Its shape, if its rank is known.
    pub(super) shape: Option<Vec<Size>>,
    /// Its elements, if it is a number or a short vector.
    pub(super) elements: Option<Vec<KnownElement>>,
    /// Its ONNX element type, 0 if it is not known.
    pub(super) data_type: i32,
}

/// A shape of more axes is not followed: no operator of a model has it.
pub(super) const MOST_AXES: usize = 16;

pub(super) const INT64: i32 = 7;
pub(super) const BOOL: i32 = 9;

/// What is known about the values of a graph.
#[derive(Debug, Clone, Default)]
pub(crate) struct KnownValues {
    pub(super) values: HashMap<String, Known>,
    pub(super) names: u32,
    /// The names of products of sizes.
    pub(super) products: HashMap<Factors, u32>,
    pub(super) factors: HashMap<u32, Factors>,
}

/// A product of a number and named sizes, in the order of their names.
pub(super) type Factors = (i64, Vec<u32>);

impl Known {
    pub(super) fn is_integer(&self) -> bool {
        self.data_type != 0 && is_integer(self.data_type)
    }
}

impl Size {
    /// The size as a number, if it is one.
    pub(crate) fn number(self) -> Option<usize> {
        match self {
            Self::Number(number) => usize::try_from(number).ok(),
            Self::Named(_) => None,
        }
    }
}

impl KnownValues {
    /// The shape of `value`, if its rank is known.
    pub(crate) fn shape(&self, value: &str) -> Option<&[Size]> {
        self.values.get(value)?.shape.as_deref()
    }

    /// The ONNX element type of `value`, if it is known.
    pub(crate) fn data_type(&self, value: &str) -> Option<i32> {
        self.values.get(value).map(|known| known.data_type).filter(|&data_type| data_type != 0)
    }

    /// How many axes `value` has.
    pub(crate) fn rank(&self, value: &str) -> Option<usize> {
        self.shape(value).map(<[Size]>::len)
    }

    /// The number that `value` is: a constant with one element.
    pub(crate) fn number(&self, value: &str) -> Option<f64> {
        match self.values.get(value)?.elements.as_deref()? {
            [KnownElement::Number(number)] => Some(*number),
            _ => None,
        }
    }

    /// The integers that `value` consists of, if all are known.
    pub(crate) fn integers(&self, value: &str) -> Option<Vec<i64>> {
        integers_of(self.values.get(value)?)
    }

    pub(super) fn fresh(&mut self) -> Size {
        self.names += 1;
        Size::Named(self.names)
    }
}

pub(super) fn integers_of(known: &Known) -> Option<Vec<i64>> {
    #[allow(clippy::cast_possible_truncation, reason = "the ends of slices saturate")]
    let integer = |element: &KnownElement| match element {
        KnownElement::Number(number) => Some(*number as i64),
        _ => None,
    };
    known.elements.as_ref()?.iter().map(integer).collect()
}

/// An axis or index, which counts from the end if it is negative.
pub(super) fn place(axis: i64, count: usize) -> Option<usize> {
    let axis = if axis < 0 { axis.checked_add(i64::try_from(count).ok()?)? } else { axis };
    usize::try_from(axis).ok().filter(|&axis| axis < count)
}

pub(super) fn with(mut shape: Vec<Size>, axis: usize, size: Size) -> Vec<Size> {
    shape[axis] = size;
    shape
}

pub(super) fn whole(number: f64) -> Size {
    #[allow(clippy::cast_possible_truncation, reason = "a size")]
    Size::Number(number as i64)
}
