//! The directory of the first page of a TIFF file: bytes in, the values of its tags out. What a tag means is not known here.

/// The entries of a directory, in a classic TIFF file or a `BigTIFF` one.
#[derive(Clone, Copy)]
pub(super) struct Directory<'a> {
    bytes: &'a [u8],
    /// 12 bytes each, 20 in a `BigTIFF` file.
    entries: &'a [u8],
    pub(super) is_little_endian: bool,
    is_big_tiff: bool,
}

/// A tag's values, as far as the file has them.
pub(super) struct Field<'a> {
    /// Bytes of one value.
    pub(super) size: usize,
    pub(super) data: &'a [u8],
    is_little_endian: bool,
}

impl<'a> Directory<'a> {
    /// That of the first page.
    pub(super) fn first(bytes: &'a [u8]) -> Option<Self> {
        let is_little_endian = bytes.first() == Some(&b'I');
        let is_big_tiff = bytes.get(2..4)?.contains(&43);
        let integer = |at: usize, size: usize| Some(unsigned(bytes.get(at..at.checked_add(size)?)?, is_little_endian));
        let at = usize::try_from(if is_big_tiff { integer(8, 8)? } else { integer(4, 4)? }).ok()?;
        let (count_size, entry_size) = if is_big_tiff { (8, 20) } else { (2, 12) };
        let count = usize::try_from(integer(at, count_size)?).ok()?;
        let entries = bytes.get(at + count_size..)?;
        let entries = &entries[..count.saturating_mul(entry_size).min(entries.len())];
        Some(Self { bytes, entries, is_little_endian, is_big_tiff })
    }

    /// Whether all readers find the same values of `tags`: each is there once at most, as integers, and before an entry whose values
    /// lie behind the end of the file, at which Pillow stops reading.
    pub(super) fn is_sound(&self, tags: &[u16]) -> bool {
        let little = self.is_little_endian;
        let (entry_size, count_size) = if self.is_big_tiff { (20, 8) } else { (12, 4) };
        let (mut seen, mut is_cut) = (Vec::new(), false);
        for entry in self.entries.chunks_exact(entry_size) {
            let (tag, kind) = (unsigned(&entry[..2], little) as u16, unsigned(&entry[2..4], little));
            if tags.contains(&tag) {
                if is_cut || seen.contains(&tag) || !matches!(kind, 1 | 3 | 4 | 6..=9 | 13 | 16 | 17) {
                    return false;
                }
                seen.push(tag);
            }
            let (count, inline) = entry[4..].split_at(count_size);
            let length = unsigned(count, little).saturating_mul(value_bytes(kind) as u64);
            let end = unsigned(inline, little).saturating_add(length);
            is_cut |= matches!(kind, 1..=13 | 16 | 17) && length > inline.len() as u64 && end > self.bytes.len() as u64;
        }
        true
    }

    /// The tag's last entry, which counts.
    pub(super) fn field(&self, tag: u16) -> Option<Field<'a>> {
        let little = self.is_little_endian;
        let (entry_size, count_size) = if self.is_big_tiff { (20, 8) } else { (12, 4) };
        let entry =
            self.entries.chunks_exact(entry_size).rfind(|entry| unsigned(&entry[..2], little) == u64::from(tag))?;
        let size = value_bytes(unsigned(&entry[2..4], little));
        let (count, inline) = entry[4..].split_at(count_size);
        let length = usize::try_from(unsigned(count, little)).unwrap_or(usize::MAX).saturating_mul(size);
        let data = if length <= inline.len() {
            &inline[..length]
        } else {
            let data = self.bytes.get(usize::try_from(unsigned(inline, little)).ok()?..)?;
            &data[..length.min(data.len())]
        };
        Some(Field { size, data, is_little_endian: little })
    }
}

impl<'a> Field<'a> {
    /// As unsigned integers.
    pub(super) fn values(&self) -> impl Iterator<Item = u64> + use<'a> {
        let little = self.is_little_endian;
        self.data.chunks_exact(self.size).map(move |bytes| unsigned(bytes, little))
    }
}

/// Bytes of a value of a type.
const fn value_bytes(kind: u64) -> usize {
    match kind {
        1 | 2 | 6 | 7 => 1,
        3 | 8 => 2,
        4 | 9 | 11 | 13 => 4,
        _ => 8,
    }
}

/// An integer of up to 8 bytes.
fn unsigned(bytes: &[u8], is_little_endian: bool) -> u64 {
    let add = |value: u64, byte: &u8| value << 8 | u64::from(*byte);
    if is_little_endian { bytes.iter().rev().fold(0, add) } else { bytes.iter().fold(0, add) }
}
