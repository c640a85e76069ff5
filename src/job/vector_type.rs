//! The numbers that vectors are made of.

use serde::{Deserialize, Serialize};

/// Element type of embedding columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VectorType {
    /// 32-bit floats.
    F32,
    /// 16-bit floats: half the bytes, about three decimal digits.
    F16,
}
