//! The index of a published run: for every row its key, content signature, fingerprints, status and `run_seq`, sorted by
//! key, so that planning can merge it with the manifest without opening a part.
//!
//! One object: the magic, the length of a JSON header (u32), the header, then [`ENTRY_BYTES`] for each row. Numbers are
//! big-endian. It is named by its content, and the published record names it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::output::OutputError;
use crate::output::part::rows::{Fingerprints, PartRows, RowState};
use crate::output::store::OutputStore;
use crate::row::signature::{KeyHash, Signature};

const MAGIC: &[u8; 8] = b"ncindex1";
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 16 + Signature::BYTES + 4 + 8;
/// Entries that a reader fetches in one request.
const CHUNK_ENTRIES: u64 = 1 << 16;

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// The hash of the key.
    pub key: KeyHash,
    /// The content signature.
    pub signature: Signature,
    /// Index into the header's [`Fingerprints`].
    pub fingerprints: u32,
    /// The status.
    pub state: RowState,
    /// The run that computed it.
    pub run_seq: i64,
}

#[derive(Serialize, Deserialize)]
struct IndexHeader {
    rows: u64,
    fingerprints: Vec<Fingerprints>,
}

/// Collects the entries of a run, already encoded: [`ENTRY_BYTES`] each in memory.
#[derive(Debug)]
pub struct IndexBuilder {
    fingerprints: Vec<Fingerprints>,
    entries: Vec<[u8; ENTRY_BYTES]>,
}

impl IndexBuilder {
    /// An empty builder, with capacity for `rows` rows if there is so much memory.
    #[must_use]
    pub fn with_capacity(rows: u64) -> Self {
        let room_for_header = 64;
        let mut entries = Vec::new();
        // Records may claim any number of rows; memory that is reserved and not used costs nothing.
        let _ = entries.try_reserve_exact((rows as usize).saturating_add(room_for_header));
        Self { fingerprints: Vec::new(), entries }
    }

    /// Adds the rows of a part; `key` is the name of the key column.
    ///
    /// # Errors
    /// A message that says what is wrong with the batch.
    pub fn add(&mut self, rows: &PartRows) -> Result<(), String> {
        for index in 0..rows.len() {
            let fingerprints = rows.fingerprints(index);
            let at = self.fingerprints.iter().position(|known| *known == fingerprints).unwrap_or_else(|| {
                self.fingerprints.push(fingerprints);
                self.fingerprints.len() - 1
            });
            let signature = rows.signature(index)?;
            let entry = IndexEntry {
                key: rows.key(index, signature),
                signature,
                fingerprints: u32::try_from(at).map_err(|error| error.to_string())?,
                state: rows.state(index),
                run_seq: rows.run_seq(index),
            };
            self.entries.push(entry.to_bytes());
        }
        Ok(())
    }

    /// Puts the index beside the run's other records and returns its name there.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn put(mut self, store: &OutputStore, folder: &str) -> Result<String, OutputError> {
        // Big-endian numbers sort as their bytes do, and the key comes first.
        self.entries.sort_unstable();
        let header = IndexHeader { rows: self.entries.len() as u64, fingerprints: self.fingerprints };
        let header = crate::output::json(&header, folder)?;
        let length = u32::try_from(header.len()).unwrap_or(u32::MAX).to_be_bytes();
        let mut bytes = self.entries.into_flattened();
        bytes.splice(0..0, [&MAGIC[..], &length, &header].concat());
        let name = format!("index-{}", &blake3::hash(&bytes).to_hex()[..32]);
        store.put_new(&format!("{folder}/{name}"), bytes)?;
        Ok(name)
    }
}

impl IndexEntry {
    fn to_bytes(self) -> [u8; ENTRY_BYTES] {
        let state: u32 = match self.state {
            RowState::Ok => 0,
            RowState::Permanent => 1,
            RowState::Transient => 2,
        };
        let mut bytes = [0; ENTRY_BYTES];
        bytes[..16].copy_from_slice(&self.key.0.to_be_bytes());
        bytes[16..32].copy_from_slice(&self.signature.to_bytes());
        bytes[32..36].copy_from_slice(&(self.fingerprints << 2 | state).to_be_bytes());
        bytes[36..].copy_from_slice(&self.run_seq.to_be_bytes());
        bytes
    }

    fn read(bytes: &[u8; ENTRY_BYTES]) -> Option<Self> {
        let (key, rest) = bytes.split_first_chunk()?;
        let (signature, rest) = rest.split_first_chunk()?;
        let (outcome, rest) = rest.split_first_chunk()?;
        let (run_seq, _) = rest.split_first_chunk()?;
        let outcome = u32::from_be_bytes(*outcome);
        let state = match outcome & 3 {
            0 => RowState::Ok,
            1 => RowState::Permanent,
            2 => RowState::Transient,
            _ => return None,
        };
        Some(Self {
            key: KeyHash(u128::from_be_bytes(*key)),
            signature: Signature::from_bytes(*signature),
            fingerprints: outcome >> 2,
            state,
            run_seq: i64::from_be_bytes(*run_seq),
        })
    }
}

/// Streams an index in key order; holds a chunk of it at a time.
pub struct IndexReader<'a> {
    store: &'a OutputStore,
    path: String,
    /// The fingerprints that entries refer to by index.
    pub fingerprints: Vec<Fingerprints>,
    /// Rows in it.
    pub rows: u64,
    next: u64,
    first_byte: u64,
    chunk: VecDeque<IndexEntry>,
}

impl<'a> IndexReader<'a> {
    /// Opens the index `name` in a run's folder of records.
    ///
    /// # Errors
    /// [`OutputError::Store`], or [`OutputError::Record`] when it is not an index of this version.
    pub fn open(store: &'a OutputStore, folder: &str, name: &str) -> Result<Self, OutputError> {
        let path = format!("{folder}/{name}");
        let damaged = |message: &str| OutputError::Record { path: path.clone(), message: message.to_owned() };
        let start = store.range(&path, 0, MAGIC.len() as u64 + 4)?;
        let (magic, length) = start.split_at_checked(MAGIC.len()).ok_or_else(|| damaged("it is too short"))?;
        let length: [u8; 4] = length.try_into().map_err(|_| damaged("it is too short"))?;
        if magic != MAGIC {
            return Err(damaged("it does not begin like an index"));
        }
        let length = u64::from(u32::from_be_bytes(length));
        let first_byte = start.len() as u64 + length;
        let bytes = store.tail(&path, 1)?.1;
        if first_byte > bytes {
            return Err(damaged("it is cut off"));
        }
        let header = store.range(&path, start.len() as u64, length)?;
        let header: IndexHeader = serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
        let IndexHeader { rows, fingerprints } = header;
        if rows.checked_mul(ENTRY_BYTES as u64).and_then(|entries| entries.checked_add(first_byte)) != Some(bytes) {
            return Err(damaged("it does not hold as many rows as it says"));
        }
        Ok(Self { store, path, fingerprints, rows, next: 0, first_byte, chunk: VecDeque::new() })
    }

    fn fill(&mut self) -> Result<(), OutputError> {
        let entries = CHUNK_ENTRIES.min(self.rows - self.next);
        let bytes = self.store.range(
            &self.path,
            self.first_byte + self.next * ENTRY_BYTES as u64,
            entries * ENTRY_BYTES as u64,
        )?;
        let (chunks, rest) = bytes.as_chunks::<ENTRY_BYTES>();
        let parsed: Option<VecDeque<_>> = chunks.iter().map(IndexEntry::read).collect();
        let damaged =
            || OutputError::Record { path: self.path.clone(), message: "it is damaged or cut off".to_owned() };
        self.chunk = parsed.filter(|chunk| rest.is_empty() && chunk.len() as u64 == entries).ok_or_else(damaged)?;
        self.next += entries;
        Ok(())
    }
}

impl Iterator for IndexReader<'_> {
    type Item = Result<IndexEntry, OutputError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.chunk.is_empty() {
            if self.next >= self.rows {
                return None;
            }
            if let Err(error) = self.fill() {
                self.next = self.rows;
                return Some(Err(error));
            }
        }
        self.chunk.pop_front().map(Ok)
    }
}
