//! Which graph is meant ([`GraphSource`]), and what a graph declares: inputs and outputs with name, element type and shape. Plain data;
//! no file is read here.

use std::fmt;
use std::path::PathBuf;

/// The graph of a file, or the subgraph that computes some of its outputs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GraphSource {
    /// The file.
    pub path: PathBuf,
    /// The outputs of the subgraph; `None` for the whole graph.
    pub outputs: Option<Vec<String>>,
}

impl GraphSource {
    /// The whole graph of the file at `path`.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), outputs: None }
    }

    /// The subgraph of the file at `path` that computes `outputs`.
    pub fn subgraph(path: impl Into<PathBuf>, outputs: Vec<String>) -> Self {
        Self { path: path.into(), outputs: Some(outputs) }
    }
}

/// The element type of a tensor. Only the types that nightcap writes or reads have a variant of their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DataType {
    /// 32-bit float.
    F32,
    /// 16-bit float.
    F16,
    /// 64-bit signed integer.
    I64,
    /// True or false.
    Bool,
    /// Any other, with ONNX's name for it.
    Other(&'static str),
}

impl DataType {
    /// The bytes of an element; 4 for a type whose size is not known.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::F16 | Self::Other("uint16" | "int16" | "bfloat16") => 2,
            Self::I64 | Self::Other("double" | "uint64") => 8,
            Self::Bool | Self::Other("uint8" | "int8") => 1,
            Self::F32 | Self::Other(_) => 4,
        }
    }

    /// The type with this number in ONNX's `TensorProto.DataType`.
    pub(crate) fn from_onnx(code: i32) -> Self {
        match code {
            1 => Self::F32,
            10 => Self::F16,
            7 => Self::I64,
            9 => Self::Bool,
            2 => Self::Other("uint8"),
            3 => Self::Other("int8"),
            4 => Self::Other("uint16"),
            5 => Self::Other("int16"),
            6 => Self::Other("int32"),
            8 => Self::Other("string"),
            11 => Self::Other("double"),
            12 => Self::Other("uint32"),
            13 => Self::Other("uint64"),
            16 => Self::Other("bfloat16"),
            _ => Self::Other("an unusual type"),
        }
    }

    /// The number of this type in ONNX's `TensorProto.DataType`, if it has a variant of its own.
    pub(crate) fn to_onnx(self) -> Option<i32> {
        match self {
            Self::F32 => Some(1),
            Self::F16 => Some(10),
            Self::I64 => Some(7),
            Self::Bool => Some(9),
            Self::Other(_) => None,
        }
    }

    /// Whether token ids and positions can be written in this type.
    pub fn is_integer(self) -> bool {
        self == Self::I64 || self.to_string() == "int32"
    }

    /// Whether values of this type are read and written as floats.
    pub fn is_float(self) -> bool {
        matches!(self, Self::F32 | Self::F16)
    }
}

impl fmt::Display for DataType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::F32 => "float32",
            Self::F16 => "float16",
            Self::I64 => "int64",
            Self::Bool => "bool",
            Self::Other(name) => name,
        })
    }
}

/// One axis of a declared shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always this size.
    Fixed(usize),
    /// A dynamic size, with its name in the file; empty if it has none.
    Any(String),
}

impl fmt::Display for Dim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => write!(f, "{size}"),
            Self::Any(name) if name.is_empty() => f.write_str("?"),
            Self::Any(name) => f.write_str(name),
        }
    }
}

/// A declared input or output of a graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Its element type.
    pub dtype: DataType,
    /// Its shape; `None` if the file declares none.
    pub shape: Option<Vec<Dim>>,
}

impl Port {
    /// How many axes it has, if declared.
    pub fn rank(&self) -> Option<usize> {
        self.shape.as_ref().map(Vec::len)
    }

    /// The size of axis `axis`, if declared as a number.
    pub fn fixed(&self, axis: usize) -> Option<usize> {
        match self.shape.as_ref()?.get(axis)? {
            Dim::Fixed(size) => Some(*size),
            Dim::Any(_) => None,
        }
    }

    /// `float32 [batch, 3, 224, 224]`.
    pub fn describe(&self) -> String {
        match &self.shape {
            None => format!("{} of undeclared shape", self.dtype),
            Some(dims) => {
                let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
                format!("{} [{}]", self.dtype, dims.join(", "))
            }
        }
    }
}
