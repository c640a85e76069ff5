//! Reuse: results of published runs, found by content and copied instead of computed.
//!
//! The plan names the runs that may be copied from, so that every attempt finds the same rows. Their contents are fetched
//! into unnamed temporary files and searched there: memory does not grow with OUTPUT.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, UInt32Array};
use arrow::compute::{concat_batches, interleave, take_record_batch};
use arrow::datatypes::{Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::compact::unpublished_compactions;
use super::contents::{ContentEntry, ContentKey, ENTRY_BYTES, MAGIC};
use super::discard::refuse_alive;
use super::finalize::Published;
use super::index::Fingerprints;
use super::part_reader::{read_part, wrong_part};
use super::store::OutputStore;
use super::{OutputError, part_path, published_path, run_folder};
use crate::plan::Plan;
use crate::results::RowResult;
use crate::signature::Signature;

/// Entries that are fetched in one go.
const CHUNK_ENTRIES: u64 = 1 << 17;

/// Where results are that may be copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Number of the run among those of a [`Reuse`].
    run: usize,
    part: u32,
    row: u32,
}

/// The rows that a run may copy.
#[derive(Debug)]
pub struct Reuse {
    /// What the results must have been made with.
    made: Fingerprints,
    /// Newest first.
    runs: Vec<Contents>,
}

/// One run's contents, on this machine.
#[derive(Debug)]
struct Contents {
    run: String,
    file: File,
    entries: u64,
}

impl Reuse {
    /// Fetches the contents of the runs that `plan` may copy from; None when it copies nothing.
    ///
    /// # Errors
    /// [`OutputError::SourceGone`] when one of them is no longer there, [`OutputError::Alive`] when a compaction is about to
    /// remove it, and failures to read OUTPUT or to write to the folder for temporary files.
    pub fn open(store: &OutputStore, plan: &Plan) -> Result<Option<Self>, OutputError> {
        if plan.reuses.is_empty() {
            return Ok(None);
        }
        // Of a run and a compaction that start together, at least one sees the plan of the other.
        for compaction in unpublished_compactions(store)? {
            if compaction.supersedes.iter().any(|run| plan.reuses.contains(run)) {
                refuse_alive(store, &compaction.run)?;
            }
        }
        let mut runs = Vec::new();
        for run in plan.reuses.iter().rev() {
            let gone = || OutputError::SourceGone { run: plan.run.clone(), from: run.clone() };
            let published: Published = store.record(&published_path(run))?.ok_or_else(gone)?;
            if let Some(name) = published.contents {
                runs.push(Contents::fetch(store, run, &name)?);
            }
        }
        let Plan { caption_fingerprint: caption, embedding_fingerprint: embedding, .. } = plan.clone();
        Ok(Some(Self { made: Fingerprints { caption, embedding }, runs }))
    }

    /// The newest results for an image and the text of `signature`.
    ///
    /// # Errors
    /// When the temporary files cannot be read.
    pub fn find(&self, image: &blake3::Hash, signature: Signature) -> std::io::Result<Option<Place>> {
        let key = ContentKey::new(image.to_hex().as_str(), signature, &self.made);
        for (run, contents) in self.runs.iter().enumerate() {
            if let Some(ContentEntry { part, row, .. }) = contents.find(key)? {
                return Ok(Some(Place { run, part, row }));
            }
        }
        Ok(None)
    }

    /// Reads `columns` of the rows that `results` are copies of.
    ///
    /// # Errors
    /// [`OutputError::WrongPart`] when a part does not hold what the contents say, [`OutputError::Store`].
    pub(crate) fn fetch(
        &self,
        store: &OutputStore,
        columns: &[&str],
        results: &[RowResult],
    ) -> Result<Copies, OutputError> {
        let mut wanted: BTreeMap<(usize, u32), Vec<(u32, usize)>> = BTreeMap::new();
        for (at, place) in results.iter().enumerate().filter_map(|(at, row)| Some((at, row.copy?))) {
            wanted.entry((place.run, place.part)).or_default().push((place.row, at));
        }
        let mut copies = Copies { batches: Vec::new(), of: vec![None; results.len()], rows: 0 };
        for ((run, part), mut rows) in wanted {
            rows.sort_unstable();
            let path = part_path(&self.runs[run].run, u64::from(part));
            let found = read_rows(store, &path, columns, &rows, results)?;
            for (_, at) in rows {
                copies.of[at] = Some(copies.rows);
                copies.rows += 1;
            }
            copies.batches.push(found);
        }
        Ok(copies)
    }
}

/// The `rows` of one part, with the results that copy each, in their order.
fn read_rows(
    store: &OutputStore,
    path: &str,
    columns: &[&str],
    rows: &[(u32, usize)],
    results: &[RowResult],
) -> Result<RecordBatch, OutputError> {
    let wrong = |error: ArrowError| wrong_part(path, &error);
    let columns: Vec<&str> = columns.iter().copied().chain(["content_hash"]).collect();
    let (mut found, mut first, mut rest) = (Vec::new(), 0, rows);
    for batch in read_part(store, path, Some(&columns))? {
        let batch = batch.map_err(wrong)?;
        let end = first + batch.num_rows() as u32;
        let (here, later) = rest.split_at(rest.partition_point(|(row, _)| *row < end));
        rest = later;
        let indices: UInt32Array = here.iter().map(|(row, _)| Some(row - first)).collect();
        found.push(take_record_batch(&batch, &indices).map_err(wrong)?);
        first = end;
    }
    let missing = || wrong_part(path, &format!("{first} rows, of which one with a higher number has known contents"));
    let schema = found.first().filter(|_| rest.is_empty()).ok_or_else(missing)?.schema();
    let found = concat_batches(&schema, &found).map_err(wrong)?;
    let hashes = found.column_by_name("content_hash").and_then(|column| column.as_string_opt::<i32>());
    let hashes = hashes.ok_or_else(|| wrong_part(path, &"no column `content_hash`"))?;
    for ((row, at), found) in rows.iter().zip(hashes) {
        let expected = results[*at].content_hash.map(|hash| hash.to_hex().to_string());
        if found != expected.as_deref() {
            return Err(wrong_part(path, &format!("another image in row {row} than its contents say")));
        }
    }
    Ok(found)
}

impl Contents {
    fn fetch(store: &OutputStore, run: &str, name: &str) -> Result<Self, OutputError> {
        let path = format!("{}/{name}", run_folder(run));
        let temporary = |source| OutputError::Temporary { folder: std::env::temp_dir(), source };
        let damaged = |message: &str| OutputError::Record { path: path.clone(), message: message.to_owned() };
        let (magic, size) = (store.range(&path, 0, MAGIC.len() as u64)?, store.tail(&path, 1)?.1);
        let bytes = size.saturating_sub(MAGIC.len() as u64);
        if magic != MAGIC[..] || !bytes.is_multiple_of(ENTRY_BYTES as u64) {
            return Err(damaged("it is no list of contents"));
        }
        let mut file = tempfile::tempfile().map_err(temporary)?;
        for start in (0..bytes).step_by(CHUNK_ENTRIES as usize * ENTRY_BYTES) {
            let length = (CHUNK_ENTRIES * ENTRY_BYTES as u64).min(bytes - start);
            let chunk = store.range(&path, MAGIC.len() as u64 + start, length)?;
            if chunk.len() as u64 != length {
                return Err(damaged("it is cut off"));
            }
            file.write_all(&chunk).map_err(temporary)?;
        }
        Ok(Self { run: run.to_owned(), file, entries: bytes / ENTRY_BYTES as u64 })
    }

    fn find(&self, key: ContentKey) -> std::io::Result<Option<ContentEntry>> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; ENTRY_BYTES];
            self.file.read_exact_at(&mut bytes, middle * ENTRY_BYTES as u64)?;
            let entry = ContentEntry::from_bytes(bytes);
            match entry.key.cmp(&key) {
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}

/// Rows of earlier runs, for the rows of a part.
#[derive(Debug)]
pub struct Copies {
    batches: Vec<RecordBatch>,
    /// For each row of the part the row of `batches` that it copies.
    of: Vec<Option<usize>>,
    /// Rows of all `batches`.
    pub(crate) rows: usize,
}

impl Copies {
    /// `computed`, the column `name` of the part, with the copied rows in it.
    pub(super) fn over(&self, name: &str, computed: ArrayRef) -> Result<ArrayRef, ArrowError> {
        let Some(first) = self.batches.first() else { return Ok(computed) };
        // The reader adds entries to a schema that are each part's own.
        let field = first.schema().field_with_name(name)?.clone();
        let schema: SchemaRef = Arc::new(Schema::new(vec![field]));
        let column = |batch: &RecordBatch| {
            let column = batch.column_by_name(name).cloned();
            let column = column.ok_or_else(|| ArrowError::SchemaError(format!("no column `{name}`")))?;
            RecordBatch::try_new(schema.clone(), vec![column])
        };
        let columns = self.batches.iter().map(column).collect::<Result<Vec<_>, _>>()?;
        let copied = concat_batches(&schema, &columns)?;
        let pick = |(row, copy): (usize, &Option<usize>)| copy.map_or((0, row), |copy| (1, copy));
        let picks: Vec<(usize, usize)> = self.of.iter().enumerate().map(pick).collect();
        interleave(&[&*computed, &**copied.column(0)], &picks)
    }
}
