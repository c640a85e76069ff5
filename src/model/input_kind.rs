//! What an encoder's input takes, by its type and shape. In: a declared input. Out: whether pixels or tokens fit it.

use crate::onnx::Port;

/// Whether an input takes pixels. Keys and values of a cache have as many axes.
pub(super) fn takes_pixels(port: &Port) -> bool {
    port.dtype.is_float() && matches!(port.rank(), Some(4 | 5)) && !port.name.starts_with("past")
}

/// Whether an input takes tokens or a mask of them.
pub(super) fn takes_tokens(port: &Port) -> bool {
    port.dtype.is_integer() && port.rank().is_none_or(|rank| rank == 2)
}
