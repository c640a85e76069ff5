//! The index of a published run: for every row its key, content signature, fingerprints, outcome and `run_seq`, sorted by
//! key, so that the next night's planning can merge it with the manifest without opening a part.
//!
//! One object: the magic, the length of a JSON header (u32), the header, then [`ENTRY_BYTES`] for each row. Numbers are
//! big-endian. It is named by its content, and the published record names it.

use std::collections::VecDeque;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use super::store::OutputStore;
use super::{Counts, OutputError};
use crate::row_error::ErrorKind;
use crate::signature::{KeyHash, Signature};

const MAGIC: &[u8; 8] = b"ncindex1";
/// Bytes of one entry.
pub const ENTRY_BYTES: usize = 16 + Signature::BYTES + 4 + 8;
/// Entries that a reader fetches in one go.
const CHUNK_ENTRIES: u64 = 1 << 16;

/// How a row came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// With results.
    Ok,
    /// Failed in a way that another night does not change.
    Permanent,
    /// Failed in a way that may pass.
    Transient,
}

/// What captions and vectors were made with; a fingerprint is None where the run made none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The `caption_fingerprint` column.
    pub caption: Option<String>,
    /// The `embedding_fingerprint` column.
    pub embedding: Option<String>,
}

/// One row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Whose row it is.
    pub key: KeyHash,
    /// Its content.
    pub signature: Signature,
    /// Index into the header's [`Fingerprints`].
    pub fingerprints: u32,
    /// Its outcome.
    pub state: RowState,
    /// The run that computed it.
    pub run_seq: i64,
}

#[derive(Serialize, Deserialize)]
struct Header {
    rows: u64,
    fingerprints: Vec<Fingerprints>,
}

/// Collects the rows of a run, as the bytes that they become: [`ENTRY_BYTES`] each in memory, too.
#[derive(Debug)]
pub struct IndexBuilder {
    fingerprints: Vec<Fingerprints>,
    entries: Vec<[u8; ENTRY_BYTES]>,
}

impl IndexBuilder {
    /// One with room for `rows` rows.
    #[must_use]
    pub fn with_capacity(rows: u64) -> Self {
        let room_for_header = 64;
        Self { fingerprints: Vec::new(), entries: Vec::with_capacity(rows as usize + room_for_header) }
    }

    /// Adds the rows of a part; `key` is the name of the key column.
    ///
    /// # Errors
    /// What is wrong with the batch, in words.
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
        // Big-endian numbers sort as their bytes do, and the key stands first.
        self.entries.sort_unstable();
        let header = Header { rows: self.entries.len() as u64, fingerprints: self.fingerprints };
        let header = super::json(&header, folder)?;
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
    /// What the entries' `fingerprints` point into.
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
    /// [`OutputError::Store`], or [`OutputError::Record`] when it is no index of this version.
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
        let header = store.range(&path, start.len() as u64, length)?;
        let header: Header = serde_json::from_slice(&header).map_err(|error| damaged(&error.to_string()))?;
        let (Header { rows, fingerprints }, first_byte) = (header, start.len() as u64 + length);
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

/// The columns of a part that say whose its rows are and how they came out.
pub struct PartRows {
    key: StringArray,
    signature: StringArray,
    status: StringArray,
    error_kind: StringArray,
    caption_fingerprint: Option<StringArray>,
    embedding_fingerprint: Option<StringArray>,
    run_seq: arrow::array::Int64Array,
    content_hash: Option<StringArray>,
}

impl PartRows {
    /// The names of the columns that [`PartRows::new`] needs; `key` is the key column's.
    #[must_use]
    pub fn columns(key: &str) -> Vec<&str> {
        vec![
            key,
            "content_signature",
            "status",
            "error_kind",
            "caption_fingerprint",
            "embedding_fingerprint",
            "run_seq",
            "content_hash",
        ]
    }

    /// Finds the columns in a batch of a part.
    ///
    /// # Errors
    /// Which column is missing or of another type, in words.
    pub fn new(batch: &RecordBatch, key: &str) -> Result<Self, String> {
        let optional = |name: &str| -> Result<Option<StringArray>, String> {
            let Some(column) = batch.column_by_name(name) else { return Ok(None) };
            let text = cast(column, &DataType::Utf8).map_err(|error| format!("column `{name}`: {error}"))?;
            Ok(Some(text.as_string::<i32>().clone()))
        };
        let text = |name: &str| optional(name)?.ok_or_else(|| format!("no column `{name}`"));
        let run_seq = batch.column_by_name("run_seq").and_then(|column| column.as_primitive_opt::<Int64Type>());
        Ok(Self {
            key: text(key)?,
            signature: text("content_signature")?,
            status: text("status")?,
            error_kind: text("error_kind")?,
            caption_fingerprint: optional("caption_fingerprint")?,
            embedding_fingerprint: optional("embedding_fingerprint")?,
            run_seq: run_seq.ok_or("no integer column `run_seq`")?.clone(),
            content_hash: optional("content_hash")?,
        })
    }

    /// Rows.
    #[must_use]
    pub fn len(&self) -> usize {
        self.key.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.key.is_empty()
    }

    /// The `content_signature` of row `index`.
    ///
    /// # Errors
    /// When it is none, in words.
    pub fn signature(&self, index: usize) -> Result<Signature, String> {
        let text = self.signature.value(index);
        text.parse().map_err(|_| format!("expected 32 hex digits in `content_signature`, found {text:?}"))
    }

    /// Whose row `index` is.
    #[must_use]
    pub fn key(&self, index: usize, signature: Signature) -> KeyHash {
        if self.key.is_valid(index) { KeyHash::new(self.key.value(index)) } else { KeyHash::keyless(signature) }
    }

    /// Whether row `index` has no key; such rows may be equal to each other.
    #[must_use]
    pub fn is_keyless(&self, index: usize) -> bool {
        self.key.is_null(index)
    }

    /// The rows by outcome.
    #[must_use]
    pub fn count(&self) -> Counts {
        let mut counts = Counts { rows: self.len() as u64, ..Counts::default() };
        for index in 0..self.len() {
            if self.status.value(index) == "ok" {
                counts.ok += 1;
            } else {
                counts.failed += 1;
                *counts.failures.entry(self.error_kind.value(index).to_owned()).or_default() += 1;
            }
        }
        counts
    }

    /// The key of row `index` as text, for messages.
    #[must_use]
    pub fn key_text(&self, index: usize) -> &str {
        if self.key.is_valid(index) { self.key.value(index) } else { "null" }
    }

    /// How row `index` came out.
    #[must_use]
    pub fn state(&self, index: usize) -> RowState {
        if self.status.value(index) == "ok" {
            RowState::Ok
        } else if ErrorKind::is_transient_name(self.error_kind.value(index)) {
            RowState::Transient
        } else {
            RowState::Permanent
        }
    }

    /// What row `index` was made with.
    #[must_use]
    pub fn fingerprints(&self, index: usize) -> Fingerprints {
        let at = |column: &Option<StringArray>| column.as_ref().map(|column| column.value(index).to_owned());
        Fingerprints { caption: at(&self.caption_fingerprint), embedding: at(&self.embedding_fingerprint) }
    }

    /// The `content_hash` of row `index`; None: its image was not read, or the run has no images.
    #[must_use]
    pub fn content_hash(&self, index: usize) -> Option<&str> {
        self.content_hash.as_ref().filter(|hashes| hashes.is_valid(index)).map(|hashes| hashes.value(index))
    }

    /// The `run_seq` of row `index`.
    #[must_use]
    pub fn run_seq(&self, index: usize) -> i64 {
        self.run_seq.value(index)
    }
}
