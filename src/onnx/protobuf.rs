//! Walks the fields of a protobuf message in a file without reading what is skipped, so that the declarations of a
//! graph are read in milliseconds however many gigabytes of weights lie between them. Wire format:
//! <https://protobuf.dev/programming-guides/encoding/>.

use std::io::{self, BufRead, Seek};

/// One field of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// A number.
    Varint(u64),
    /// A string, bytes or message of this many bytes, which the caller reads or skips.
    Bytes(u64),
    /// A number of fixed width, already skipped.
    Skipped,
}

/// A reader over one message in a file; knows where it is, so that nested messages know where they end.
pub(super) struct Walker<R> {
    source: R,
    position: u64,
}

impl<R: BufRead + Seek> Walker<R> {
    pub(super) fn new(source: R) -> Self {
        Self { source, position: 0 }
    }

    /// The offset in the file.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// The next field before offset `end`: its number and content; `None` at the end of the message.
    pub(super) fn next(&mut self, end: u64) -> io::Result<Option<(u64, Field)>> {
        if self.position >= end {
            return Ok(None);
        }
        let key = self.varint()?;
        let field = match key & 7 {
            0 => Field::Varint(self.varint()?),
            1 => self.skip(8).map(|()| Field::Skipped)?,
            2 => {
                let length = self.varint()?;
                if self.position.checked_add(length).is_none_or(|stop| stop > end) {
                    return Err(malformed("a field is longer than its message; is the file cut off?"));
                }
                Field::Bytes(length)
            }
            5 => self.skip(4).map(|()| Field::Skipped)?,
            _ => return Err(malformed("not a protobuf message")),
        };
        Ok(Some((key >> 3, field)))
    }

    /// Goes past `length` bytes.
    pub(super) fn skip(&mut self, length: u64) -> io::Result<()> {
        let offset = i64::try_from(length).map_err(|_| malformed("a length beyond all files"))?;
        self.source.seek_relative(offset)?;
        self.position += length;
        Ok(())
    }

    /// The next `length` bytes as text.
    pub(super) fn text(&mut self, length: u64) -> io::Result<String> {
        if length > 1 << 20 {
            return Err(malformed("a name of more than a megabyte"));
        }
        let mut bytes = vec![0; length as usize];
        self.source.read_exact(&mut bytes)?;
        self.position += length;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn varint(&mut self) -> io::Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let mut byte = [0];
            self.source.read_exact(&mut byte)?;
            self.position += 1;
            value |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(malformed("a number of more than 64 bits"))
    }
}

/// An error of kind `InvalidData`.
pub(super) fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}
