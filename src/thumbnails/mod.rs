//! The pictures of an OUTPUT's rows, made small. OUTPUT holds none: they are read again from where the run read them, and shown only if
//! they are still the same bytes. In: rows of a view. Out: a JPEG for each, or why there is none. Never here: models, writing.
//!
//! [`input`] says where the pictures of a run are and which of them may be read, [`picture_row`] what one is found by, [`source`] opens a
//! manifest and reads rows of it, [`reader`] puts the pictures of several runs together.

mod input;
mod picture_row;
mod reader;
mod source;

pub use self::picture_row::{CONTENT_HASH, PictureRow, RUN_SEQ};
pub use self::reader::ThumbnailReader;

/// The picture of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Thumbnail {
    /// An encoded JPEG.
    Jpeg(Vec<u8>),
    /// Neither the manifest nor the storage has it any more.
    Gone,
    /// Other bytes than the run read are in its place.
    Changed,
    /// It cannot be read or decoded, or may not be read; this says why.
    Unreadable(String),
}
