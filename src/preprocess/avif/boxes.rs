//! The boxes of ISO base media files (ISO/IEC 14496-12), and integers in them. What a box means is not known here.

use super::super::limits::{corrupt, fail};
use crate::row::error::{ErrorKind, RowError};

/// The error of a damaged AVIF file.
pub(super) fn damaged(found: impl std::fmt::Display) -> RowError {
    corrupt("AVIF", found)
}

/// The error of a variant that is not decoded.
pub(super) fn unsupported(found: &str) -> RowError {
    let hint = "hint: convert the image to JPEG or PNG, with Pillow for instance";
    fail(ErrorKind::UnsupportedFormat, format!("expected AVIF as libavif and Pillow read it, found {found}\n{hint}"))
}

/// Four letters, the kind of a box.
pub(super) type Kind = [u8; 4];

/// The rest of a box's payload.
#[derive(Debug, Clone, Copy)]
pub(super) struct Reader<'a> {
    pub(super) bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], RowError> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or_else(|| damaged("a box ends too early"))?;
        self.bytes = rest;
        Ok(taken)
    }

    /// An unsigned integer of up to 8 bytes.
    pub(super) fn integer(&mut self, bytes: usize) -> Result<u64, RowError> {
        Ok(self.take(bytes)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }

    pub(super) fn kind(&mut self) -> Result<Kind, RowError> {
        let bytes = self.take(4)?;
        Ok([bytes[0], bytes[1], bytes[2], bytes[3]])
    }

    /// The version of a full box, and its flags.
    pub(super) fn version(&mut self) -> Result<(u64, u64), RowError> {
        Ok((self.integer(1)?, self.integer(3)?))
    }

    /// Version 0 of a full box, and any flags.
    pub(super) fn version_0(&mut self) -> Result<(), RowError> {
        match self.version()? {
            (0, _) => Ok(()),
            (version, _) => Err(damaged(format!("a box is of version {version}"))),
        }
    }

    /// The next box; None at the end. `is_file` says that the last box may reach to the end whatever its length.
    pub(super) fn next_box(&mut self, is_file: bool) -> Result<Option<(Kind, Self)>, RowError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let whole = self.bytes.len() as u64;
        let mut size = self.integer(4)?;
        let kind = self.kind()?;
        if size == 1 {
            size = self.integer(8)?;
        } else if size == 0 && is_file {
            size = whole;
        }
        if &kind == b"uuid" {
            self.take(16)?;
        }
        let header = whole - self.bytes.len() as u64;
        let payload = size.checked_sub(header).and_then(|size| usize::try_from(size).ok());
        let payload = payload.ok_or_else(|| damaged("the length of a box is damaged"))?;
        Ok(Some((kind, Reader::new(self.take(payload)?))))
    }

    /// Every box.
    pub(super) fn boxes(mut self) -> Result<Vec<(Kind, Self)>, RowError> {
        std::iter::from_fn(|| self.next_box(false).transpose()).collect()
    }
}
