//! The reuse index of a published run: which row has the results for an image and a text, so that a later run may copy them.
//!
//! One object: the magic, then [`ENTRY_BYTES`] for each row with results and an image, sorted by key. Numbers are
//! big-endian. It is named by its content, and the published record names it.

use crate::output::OutputError;
use crate::output::part::rows::{Fingerprints, PartRows, RowState};
use crate::output::store::OutputStore;
use crate::row::signature::Signature;

/// The magic bytes of a reuse index.
pub(crate) const MAGIC: &[u8; 8] = b"ncreuse1";
/// Bytes of one entry.
pub(crate) const ENTRY_BYTES: usize = KEY_BYTES + 4 + 4;
/// Bytes of an entry's key.
const KEY_BYTES: usize = 16;

/// What results depend on: image, text, and the fingerprints of model and settings. 128 bits of BLAKE3.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReuseKey(u128);

impl ReuseKey {
    /// Of an image's `content_hash`, a row's signature, of which only the text counts, and fingerprints.
    pub(crate) fn new(image: &str, signature: Signature, made: &Fingerprints) -> Self {
        let Fingerprints { caption, embedding } = made;
        let hash = blake3::hash(format!("{image} {:016x} {caption:?} {embedding:?}", signature.text).as_bytes());
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash.as_bytes()[..16]);
        Self(u128::from_be_bytes(bytes))
    }
}

/// Where the results for a key are within a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ReuseEntry {
    pub(crate) key: ReuseKey,
    pub(crate) part: u32,
    /// Row of the part, from 0.
    pub(crate) row: u32,
}

impl ReuseEntry {
    pub(crate) fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..16].copy_from_slice(&self.key.0.to_be_bytes());
        bytes[16..20].copy_from_slice(&self.part.to_be_bytes());
        bytes[20..].copy_from_slice(&self.row.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: [u8; ENTRY_BYTES]) -> Self {
        let (mut key, mut part, mut row) = ([0; 16], [0; 4], [0; 4]);
        key.copy_from_slice(&bytes[..16]);
        part.copy_from_slice(&bytes[16..20]);
        row.copy_from_slice(&bytes[20..]);
        let key = ReuseKey(u128::from_be_bytes(key));
        Self { key, part: u32::from_be_bytes(part), row: u32::from_be_bytes(row) }
    }
}

/// Collects the entries of a run, already encoded: [`ENTRY_BYTES`] each in memory.
#[derive(Debug)]
pub(crate) struct ReuseIndexBuilder {
    entries: Vec<[u8; ENTRY_BYTES]>,
}

impl ReuseIndexBuilder {
    /// An empty builder, with capacity for `rows` rows if there is so much memory.
    pub(crate) fn with_capacity(rows: u64) -> Self {
        let room_for_magic = 1;
        let mut entries = Vec::new();
        let _ = entries.try_reserve_exact((rows as usize).saturating_add(room_for_magic));
        Self { entries }
    }

    /// Adds rows of part `part`, the first of which is its row `first`.
    ///
    /// # Errors
    /// A message that says what is wrong with the rows.
    pub(crate) fn add(&mut self, part: u64, first: u64, rows: &PartRows) -> Result<(), String> {
        for index in (0..rows.len()).filter(|index| rows.state(*index) == RowState::Ok) {
            let Some(image) = rows.content_hash(index) else { continue };
            let key = ReuseKey::new(image, rows.signature(index)?, &rows.fingerprints(index));
            let number = |number: u64| u32::try_from(number).map_err(|error| error.to_string());
            let entry = ReuseEntry { key, part: number(part)?, row: number(first + index as u64)? };
            self.entries.push(entry.to_bytes());
        }
        Ok(())
    }

    /// The bytes of the object, with the first row of each key; None if it has no entry.
    pub(crate) fn into_bytes(mut self) -> Option<Vec<u8>> {
        // Big-endian numbers sort as their bytes do: by key, then by part and row.
        self.entries.sort_unstable();
        self.entries.dedup_by(|next, first| next[..KEY_BYTES] == first[..KEY_BYTES]);
        let mut bytes = self.entries.into_flattened();
        if bytes.is_empty() {
            return None;
        }
        bytes.splice(0..0, *MAGIC);
        Some(bytes)
    }

    /// Puts the object beside the run's other records and returns its name there; None when no row has results and an image.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub(crate) fn put(self, store: &OutputStore, folder: &str) -> Result<Option<String>, OutputError> {
        let Some(bytes) = self.into_bytes() else { return Ok(None) };
        let name = reuse_index_name(&bytes);
        store.put_new(&format!("{folder}/{name}"), bytes)?;
        Ok(Some(name))
    }
}

/// The name of a reuse index with these bytes.
pub(crate) fn reuse_index_name(bytes: &[u8]) -> String {
    format!("reuse-index-{}", &blake3::hash(bytes).to_hex()[..32])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_survive_bytes_and_keys_tell_results_apart() {
        let made = |caption: &str| Fingerprints { caption: Some(caption.to_owned()), embedding: None };
        let signature = |content, text| Signature { content, text };
        let key = ReuseKey::new("aa", signature(1, 2), &made("m-s"));
        let entry = ReuseEntry { key, part: 70_000, row: 999_999 };
        assert_eq!(ReuseEntry::from_bytes(entry.to_bytes()), entry);
        assert_eq!(ReuseKey::new("aa", signature(7, 2), &made("m-s")), key, "the location of the image does not count");
        for other in [
            ReuseKey::new("ab", signature(1, 2), &made("m-s")),
            ReuseKey::new("aa", signature(1, 3), &made("m-s")),
            ReuseKey::new("aa", signature(1, 2), &made("m-t")),
            ReuseKey::new("aa", signature(1, 2), &Fingerprints { caption: None, embedding: Some("m-s".to_owned()) }),
        ] {
            assert_ne!(other, key);
        }
    }
}
