//! Reuse: results of published runs, found by content and copied instead of computed.
//!
//! The plan names the runs that may be copied from, so that every attempt finds the same rows. Their reuse indexes are fetched
//! into unnamed temporary files and searched there: memory does not grow with OUTPUT.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;

use arrow::array::{AsArray, UInt32Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;

use super::reuse_index::{ENTRY_BYTES, MAGIC, ReuseEntry, ReuseKey};
use crate::output::heartbeat::refuse_alive;
use crate::output::part::copies::{Copies, CopySource};
use crate::output::part::footer::wrong_part;
use crate::output::part::reader::read_part;
use crate::output::part::result::RowResult;
use crate::output::part::rows::Fingerprints;
use crate::output::records::plan::Plan;
use crate::output::records::published::{load_published, unpublished_compactions};
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_path, run_folder};
use crate::row::signature::Signature;

/// Entries that are fetched in one request.
const CHUNK_ENTRIES: u64 = 1 << 17;

/// The rows that a run may copy.
#[derive(Debug)]
pub struct Reuse {
    /// What the results must have been made with.
    made: Fingerprints,
    /// Newest first.
    runs: Vec<LocalIndex>,
}

/// A local copy of a run's reuse index.
#[derive(Debug)]
struct LocalIndex {
    run: String,
    file: File,
    entries: u64,
}

impl Reuse {
    /// Fetches the reuse indexes of the runs that `plan` may copy from; None when it copies nothing.
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
            let published = load_published(store, run)?.ok_or_else(gone)?;
            if let Some(name) = published.reuse_index {
                runs.push(LocalIndex::fetch(store, run, &name)?);
            }
        }
        let Plan { caption_fingerprint: caption, embedding_fingerprint: embedding, .. } = plan.clone();
        Ok(Some(Self { made: Fingerprints { caption, embedding }, runs }))
    }

    /// The newest results for an image and the text of `signature`.
    ///
    /// # Errors
    /// When the temporary files cannot be read.
    pub fn find(&self, image: &blake3::Hash, signature: Signature) -> std::io::Result<Option<CopySource>> {
        let key = ReuseKey::new(image.to_hex().as_str(), signature, &self.made);
        for (run, index) in self.runs.iter().enumerate() {
            if let Some(ReuseEntry { part, row, .. }) = index.find(key)? {
                return Ok(Some(CopySource { run, part, row }));
            }
        }
        Ok(None)
    }

    /// Reads `columns` of the rows that `results` are copies of.
    ///
    /// # Errors
    /// [`OutputError::WrongPart`] when a part does not hold what the reuse index says, [`OutputError::Store`].
    pub(crate) fn fetch(
        &self,
        store: &OutputStore,
        columns: &[&str],
        results: &[RowResult],
    ) -> Result<Copies, OutputError> {
        let mut wanted: BTreeMap<(usize, u32), Vec<(u32, usize)>> = BTreeMap::new();
        for (at, source) in results.iter().enumerate().filter_map(|(at, row)| Some((at, row.copy?))) {
            wanted.entry((source.run, source.part)).or_default().push((source.row, at));
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
    let (mut found, mut first, mut rest) = (Vec::new(), 0_u32, rows);
    for batch in read_part(store, path, Some(&columns))? {
        let batch = batch.map_err(wrong)?;
        let end = first.saturating_add(u32::try_from(batch.num_rows()).unwrap_or(u32::MAX));
        let (here, later) = rest.split_at(rest.partition_point(|(row, _)| *row < end));
        rest = later;
        let indices: UInt32Array = here.iter().map(|(row, _)| Some(row - first)).collect();
        found.push(take_record_batch(&batch, &indices).map_err(wrong)?);
        first = end;
    }
    let missing = || wrong_part(path, &format!("{first} rows, but the reuse index names a row with a higher number"));
    let schema = found.first().filter(|_| rest.is_empty()).ok_or_else(missing)?.schema();
    let found = concat_batches(&schema, &found).map_err(wrong)?;
    let hashes = found.column_by_name("content_hash").and_then(|column| column.as_string_opt::<i32>());
    let hashes = hashes.ok_or_else(|| wrong_part(path, &"no column `content_hash`"))?;
    for ((row, at), found) in rows.iter().zip(hashes) {
        let expected = results[*at].content_hash.map(|hash| hash.to_hex().to_string());
        if found != expected.as_deref() {
            return Err(wrong_part(path, &format!("another image in row {row} than the reuse index says")));
        }
    }
    Ok(found)
}

impl LocalIndex {
    fn fetch(store: &OutputStore, run: &str, name: &str) -> Result<Self, OutputError> {
        let path = format!("{}/{name}", run_folder(run));
        let temporary = |source| OutputError::Temporary { folder: std::env::temp_dir(), source };
        let damaged = |message: &str| OutputError::Record { path: path.clone(), message: message.to_owned() };
        let (magic, size) = (store.range(&path, 0, MAGIC.len() as u64)?, store.tail(&path, 1)?.1);
        let bytes = size.saturating_sub(MAGIC.len() as u64);
        if magic != MAGIC[..] || !bytes.is_multiple_of(ENTRY_BYTES as u64) {
            return Err(damaged("it is no reuse index"));
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

    fn find(&self, key: ReuseKey) -> std::io::Result<Option<ReuseEntry>> {
        let (mut low, mut high) = (0, self.entries);
        while low < high {
            let middle = low + (high - low) / 2;
            let mut bytes = [0; ENTRY_BYTES];
            self.file.read_exact_at(&mut bytes, middle * ENTRY_BYTES as u64)?;
            let entry = ReuseEntry::from_bytes(bytes);
            match entry.key.cmp(&key) {
                std::cmp::Ordering::Equal => return Ok(Some(entry)),
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
            }
        }
        Ok(None)
    }
}
