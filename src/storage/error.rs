//! Errors of our own in the type that object stores have.

use std::error::Error as StdError;

use object_store::Error;

/// An object store's error that none of its own kinds fits.
pub(super) fn generic(source: Box<dyn StdError + Send + Sync>) -> Error {
    Error::Generic { store: "nightcap", source }
}

/// A [`generic`] error with this message.
pub(super) fn other(message: &str) -> Error {
    generic(std::io::Error::other(message.to_owned()).into())
}
