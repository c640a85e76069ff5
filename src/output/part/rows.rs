//! The columns of a part that indexes, checks and compactions read: key, content, fingerprints, status.

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};

use crate::row::error::ErrorKind;
use crate::row::signature::{KeyHash, Signature};
use crate::support::counts::Counts;

/// The status of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowState {
    /// With results.
    Ok,
    /// Failed permanently.
    Permanent,
    /// Failed transiently.
    Transient,
}

/// What captions and vectors were made with; None if the run made none.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Fingerprints {
    /// The `caption_fingerprint` column.
    pub caption: Option<String>,
    /// The `embedding_fingerprint` column.
    pub embedding: Option<String>,
}

/// The columns of a batch of rows that identify rows and say how they ended.
pub struct PartRows {
    key: StringArray,
    signature: StringArray,
    status: StringArray,
    error_kind: StringArray,
    caption_fingerprint: Option<StringArray>,
    embedding_fingerprint: Option<StringArray>,
    run_seq: Int64Array,
    content_hash: Option<StringArray>,
    captions: Option<Captions>,
}

/// The columns by which captions are counted.
pub(super) struct Captions {
    text: StringArray,
    repeats: BooleanArray,
}

impl Captions {
    /// Those of a batch of a part; None where the job makes no captions.
    pub(super) fn of(batch: &RecordBatch) -> Option<Self> {
        let text = batch.column_by_name("caption")?.as_string_opt::<i32>()?.clone();
        let repeats = batch.column_by_name("caption_repeats")?.as_boolean_opt()?.clone();
        Some(Self { text, repeats })
    }

    /// Adds those that somebody should look at to `counts`.
    pub(super) fn count(&self, counts: &mut Counts) {
        counts.empty_captions += self.text.iter().flatten().filter(|text| text.trim().is_empty()).count() as u64;
        counts.repeating_captions += self.repeats.true_count() as u64;
    }
}

impl PartRows {
    /// The names of the columns that [`PartRows::new`] needs, except for [`PartRows::count`]; `key` is the key column's.
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
    /// A message that says which column is missing or has another type.
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
            captions: Captions::of(batch),
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
    /// A message, when it is malformed.
    pub fn signature(&self, index: usize) -> Result<Signature, String> {
        let text = self.signature.value(index);
        text.parse().map_err(|_| format!("expected 32 hex digits in `content_signature`, found {text:?}"))
    }

    /// The hash of the key of row `index`, or of its content if it has no key.
    #[must_use]
    pub fn key(&self, index: usize, signature: Signature) -> KeyHash {
        if self.key.is_valid(index) { KeyHash::new(self.key.value(index)) } else { KeyHash::keyless(signature) }
    }

    /// Whether row `index` has no key; several such rows may have the same hash.
    #[must_use]
    pub fn is_keyless(&self, index: usize) -> bool {
        self.key.is_null(index)
    }

    /// The rows by status, and captions to look at. Needs all columns of the part.
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
        self.captions.iter().for_each(|captions| captions.count(&mut counts));
        counts
    }

    /// The key of row `index` as text, for messages.
    #[must_use]
    pub fn key_text(&self, index: usize) -> &str {
        if self.key.is_valid(index) { self.key.value(index) } else { "null" }
    }

    /// The status of row `index`.
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
