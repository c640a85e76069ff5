//! Errors of this room as `object_store` errors.

use std::error::Error as StdError;

use object_store::Error;

/// An `object_store` error of its generic kind.
pub(super) fn generic(source: Box<dyn StdError + Send + Sync>) -> Error {
    Error::Generic { store: "nightcap", source }
}

/// A [`generic`] error with this message.
pub(super) fn other(message: &str) -> Error {
    generic(std::io::Error::other(message.to_owned()).into())
}
