//! float16 and bfloat16. In: float32 numbers. Out: the nearest numbers of 16 bits.

use ::half::{bf16, f16};

/// An element type of 16 bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HalfPrecision {
    /// IEEE 754 binary16: 11 bits of precision, numbers up to 65,504.
    F16,
    /// The upper half of a float32: 8 bits of precision, the range of float32.
    Bf16,
}

impl HalfPrecision {
    /// The precision called `name` in a job file.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::F16, Self::Bf16].into_iter().find(|half| half.name() == name)
    }

    /// Its name in a job file, and in file names.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::F16 => "fp16",
            Self::Bf16 => "bf16",
        }
    }

    /// What ONNX calls it.
    #[must_use]
    pub const fn onnx_name(self) -> &'static str {
        match self {
            Self::F16 => "float16",
            Self::Bf16 => "bfloat16",
        }
    }

    /// `TensorProto.DataType`
    pub(super) const fn data_type(self) -> i32 {
        match self {
            Self::F16 => 10,
            Self::Bf16 => 16,
        }
    }

    /// The largest number.
    pub(super) fn largest(self) -> f32 {
        match self {
            Self::F16 => f16::MAX.to_f32(),
            Self::Bf16 => bf16::MAX.to_f32(),
        }
    }

    /// The bits of the number that is nearest to `value`, ties to even.
    pub(super) fn round(self, value: f32) -> u16 {
        match self {
            Self::F16 => f16::from_f32(value).to_bits(),
            Self::Bf16 => bf16::from_f32(value).to_bits(),
        }
    }

    /// Whether `value` is a number, and becomes infinite.
    pub(super) fn overflows(self, value: f32) -> bool {
        value.is_finite()
            && match self {
                Self::F16 => f16::from_f32(value).is_infinite(),
                Self::Bf16 => bf16::from_f32(value).is_infinite(),
            }
    }

    /// Whether `value` is not zero, and becomes zero.
    pub(super) fn vanishes(self, value: f32) -> bool {
        // All bits but the sign.
        value != 0.0 && self.round(value) << 1 == 0
    }
}
