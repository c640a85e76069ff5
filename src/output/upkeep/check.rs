//! Check: every part of a published run read to its last row, and compared with the plan, the published record and the index.
//!
//! A finding does not end the check: each is one line of the report. Memory: 56 bytes for each row of one run, and one part.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Display;

use arrow::array::{Array, AsArray, FixedSizeListArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Schema};
use arrow::record_batch::RecordBatch;
use serde::Serialize;

use crate::output::part::footer::{part_summary, read_footer};
use crate::output::part::hashes::MAGIC;
use crate::output::part::reader::{read_part, read_rows};
use crate::output::part::rows::{Fingerprints, PartRows, RowState};
use crate::output::publish::finalize::check_part;
use crate::output::publish::index::IndexReader;
use crate::output::publish::part_hashes::{self, PartHashes};
use crate::output::publish::reuse_index::{ReuseIndexBuilder, reuse_index_name};
use crate::output::records::outcome::{outcome, outcome_path};
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::{Published, part_number, present_parts};
use crate::output::records::schema::check_schema;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder, part_path, published_path, run_folder};
use crate::row::signature::{KeyHash, Signature};
use crate::support::counts::Counts;

/// Missing parts that are reported one by one.
const MOST_MISSING: u64 = 100;
/// How far the length of a vector may be from 1: more than f16 rounding, less than a flipped bit of an exponent.
const LENGTH_TOLERANCE: f32 = 0.01;

/// Something that is wrong in an OUTPUT.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Path within OUTPUT.
    pub path: String,
    /// What is wrong with it.
    pub found: String,
    /// What to do.
    pub hint: String,
}

impl Finding {
    /// A finding about the object at `path`. The hint of an error is left out, since it is meant for another command.
    pub(crate) fn new(path: &str, found: &dyn Display, hint: impl Into<String>) -> Self {
        let found = found.to_string();
        let found = found.split("\nhint: ").next().unwrap_or_default();
        let found = found.strip_prefix(path).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(found).to_owned();
        Self { path: path.to_owned(), found, hint: hint.into() }
    }
}

/// Checks the run that `published` describes, and adds what is wrong to `findings`.
///
/// # Errors
/// [`OutputError::Store`] when OUTPUT cannot be listed.
pub(crate) fn check_run(
    store: &OutputStore,
    published: &Published,
    findings: &mut Vec<Finding>,
) -> Result<(), OutputError> {
    // Without a readable plan, which the status reports, the parts are still compared with the rest.
    let plan = load_plan(store, &published.run).ok();
    let mut check = Check {
        store,
        published,
        plan,
        findings,
        hint: if published.supersedes.is_empty() {
            format!(
                "put it back from a backup; or remove {} and {}, then `nightcap discard OUTPUT --run-id {}`: the next run makes its rows again",
                published_path(&published.run),
                outcome_path(&published.run),
                published.run
            )
        } else {
            "put it back from a backup: a compaction holds the only copy of its rows".to_owned()
        },
        hashes: None,
        totals: RowTotals::default(),
    };
    // Without readable hashes, the parts are still compared with the rest.
    match PartHashes::load(store, published) {
        Ok(hashes) => check.hashes = Some(hashes),
        Err(found) => check.report(&part_hashes::path(published), &found),
    }
    let mut reuse_index = ReuseIndexBuilder::with_capacity(0);
    if outcome(store, &published.run)?.is_none() {
        check.report(&outcome_path(&published.run), &"it is missing");
    }
    check.files()?;
    let (mut complete, mut missing) = (true, 0);
    let present = present_parts(store, &published.run)?;
    for part in published.part_numbers() {
        let path = part_path(&published.run, part);
        missing += u64::from(!present.contains(&part));
        if missing > MOST_MISSING {
            complete = false;
            let found = format!("it counts {} parts, of which many more are missing", published.parts);
            check.report(&published_path(&published.run), &found);
            break;
        }
        match check.part(part, &path, &mut reuse_index) {
            Ok(totals) => check.totals.add(totals),
            Err(found) => {
                complete = false;
                check.report(&path, &found);
            }
        }
    }
    if complete {
        check.sums();
        check.index();
        check.reuse_index(reuse_index)?;
    }
    check.duplicates();
    Ok(())
}

struct Check<'a> {
    store: &'a OutputStore,
    published: &'a Published,
    plan: Option<Plan>,
    findings: &'a mut Vec<Finding>,
    hint: String,
    hashes: Option<PartHashes>,
    totals: RowTotals,
}

/// What the rows of readable parts add up to.
#[derive(Default)]
struct RowTotals {
    keys: Vec<(KeyHash, i64)>,
    counts: Counts,
    /// Sum of the rows' digests, which does not depend on their order.
    digest: u128,
}

impl RowTotals {
    fn add(&mut self, other: Self) {
        self.keys.extend(other.keys);
        self.counts.add(&other.counts);
        self.digest = self.digest.wrapping_add(other.digest);
    }
}

impl Check<'_> {
    fn report(&mut self, path: &str, found: &dyn Display) {
        self.findings.push(Finding::new(path, found, self.hint.clone()));
    }

    /// Checks that there is no file besides the parts that count.
    fn files(&mut self) -> Result<(), OutputError> {
        let folder = part_folder(&self.published.run);
        for name in self.store.files(&folder)? {
            let path = format!("{folder}/{name}");
            let counts = |part| self.published.counts_part(part) && part_path(&self.published.run, part) == path;
            let is_filler = || part_summary(self.store, &path).is_ok_and(|part| part.is_filler && part.rows == 0);
            if !(part_number(&name).is_some_and(counts) || self.published.partial.is_some() && is_filler()) {
                let hint = "move it away: readers of this folder take its rows for the run's";
                self.findings.push(Finding::new(&path, &"it is none of the parts that were published", hint));
            }
        }
        Ok(())
    }

    /// Checks every byte, and every column of every row.
    fn part(&self, part: u64, path: &str, reuse_index: &mut ReuseIndexBuilder) -> Result<RowTotals, String> {
        let message = |error: OutputError| error.to_string();
        let published =
            self.hashes.as_ref().map(|hashes| hashes.of(self.published, part)).transpose().map_err(message)?;
        let footer = read_footer(self.store, path, published).map_err(message)?;
        let summary = footer.summary(path).map_err(message)?;
        if let Some(plan) = &self.plan {
            check_part(plan, part, path, &summary).map_err(message)?;
        }
        if self.store.range(path, 0, MAGIC.len() as u64).map_err(message)? != MAGIC {
            return Err("it does not begin like a Parquet file".to_owned());
        }
        let reader = read_rows(self.store, path, footer, None).map_err(message)?;
        check_schema(self.store, &Schema::new(reader.schema().fields().clone())).map_err(message)?;
        let mut totals = RowTotals::default();
        for batch in reader {
            let batch = batch.map_err(|error| error.to_string())?;
            check_vectors(&batch)?;
            let rows = PartRows::new(&batch, &self.published.key)?;
            reuse_index.add(part, totals.counts.rows, &rows)?;
            totals.counts.add(&rows.count());
            for index in 0..rows.len() {
                let signature = rows.signature(index)?;
                let key = rows.key(index, signature);
                let (state, run_seq, made) = (rows.state(index), rows.run_seq(index), rows.fingerprints(index));
                // A compaction holds rows of the runs before it.
                let (fits, expected) = match self.published.supersedes.as_slice() {
                    [] => (run_seq == self.published.run_seq, "the run_seq"),
                    _ => (run_seq < self.published.run_seq, "a run_seq below that"),
                };
                if !fits {
                    let (key, of) = (rows.key_text(index), self.published.run_seq);
                    return Err(format!("key {key:?} has run_seq {run_seq}, not {expected} of the run, {of}"));
                }
                if !rows.is_keyless(index) {
                    totals.keys.push((key, run_seq));
                }
                totals.digest = totals.digest.wrapping_add(digest(key, signature, state, run_seq, &made));
            }
        }
        if totals.counts != summary.counts {
            let (found, expected) = (show(&totals.counts), show(&summary.counts));
            return Err(format!("its rows are {found}, but its footer counts {expected}"));
        }
        Ok(totals)
    }

    /// Checks that the published record counts what the parts hold.
    fn sums(&mut self) {
        let path = published_path(&self.published.run);
        if self.totals.counts != self.published.counts {
            let (found, expected) = (show(&self.totals.counts), show(&self.published.counts));
            self.report(&path, &format!("it counts {expected}, but the parts hold {found}"));
        }
        let Some(plan) = &self.plan else { return };
        let published = self.published;
        if (plan.run_seq, &plan.key, &plan.supersedes) != (published.run_seq, &published.key, &published.supersedes)
            || plan.caption_fingerprint != published.caption_fingerprint
            || plan.embedding_fingerprint != published.embedding_fingerprint
        {
            self.report(&path, &"its run_seq, key, fingerprints or replaced runs are not those of the plan");
        }
        let Some(plan) = &self.plan else { return };
        let planned: u64 = self.published.part_numbers().map(|part| plan.rows_in(part)).fold(0, u64::saturating_add);
        let whole = self.published.partial.is_some() || (planned == plan.rows && self.published.parts == plan.parts);
        if !whole || planned != self.published.counts.rows {
            let (rows, parts) = (plan.rows, plan.parts);
            let (counted, counted_parts) = (self.published.counts.rows, self.published.parts);
            self.report(
                &path,
                &format!("it counts {counted} rows in {counted_parts} parts, but the plan has {rows} in {parts}"),
            );
        }
    }

    /// Checks that the index holds the rows of the parts, in the order of their keys.
    fn index(&mut self) {
        let folder = run_folder(&self.published.run);
        let path = format!("{folder}/{}", self.published.index);
        let found = match self.read_index(&folder) {
            Ok((rows, sum)) if rows == self.totals.counts.rows && sum == self.totals.digest => return,
            Ok((rows, _)) if rows == self.totals.counts.rows => "its rows are not those of the parts".to_owned(),
            Ok((rows, _)) => format!("it holds {rows} rows, the parts {}", self.totals.counts.rows),
            Err(found) => found,
        };
        self.report(&path, &found);
    }

    /// Checks that the reuse index names the rows of the parts.
    fn reuse_index(&mut self, expected: ReuseIndexBuilder) -> Result<(), OutputError> {
        let expected = expected.into_bytes().map(|bytes| reuse_index_name(&bytes));
        let Some(name) = &self.published.reuse_index else {
            if expected.is_some() {
                self.report(
                    &published_path(&self.published.run),
                    &"it names no reuse index, but the parts have rows for one",
                );
            }
            return Ok(());
        };
        let path = format!("{}/{name}", run_folder(&self.published.run));
        match self.store.get(&path)? {
            None => self.report(&path, &"it is missing"),
            Some(bytes) if reuse_index_name(&bytes) != *name => {
                self.report(&path, &"it was changed after it was written");
            }
            Some(_) if expected.as_ref() != Some(name) => self.report(&path, &"its rows are not those of the parts"),
            Some(_) => {}
        }
        Ok(())
    }

    fn read_index(&self, folder: &str) -> Result<(u64, u128), String> {
        let message = |error: OutputError| error.to_string();
        let mut reader = IndexReader::open(self.store, folder, &self.published.index).map_err(message)?;
        let made = std::mem::take(&mut reader.fingerprints);
        let (mut rows, mut sum, mut last) = (0, 0u128, KeyHash(0));
        for entry in reader {
            let entry = entry.map_err(message)?;
            if entry.key < last {
                return Err("it is not in the order of the keys".to_owned());
            }
            let made =
                made.get(entry.fingerprints as usize).ok_or("it points to a fingerprint that it does not have")?;
            (rows, last) = (rows + 1, entry.key);
            sum = sum.wrapping_add(digest(entry.key, entry.signature, entry.state, entry.run_seq, made));
        }
        Ok((rows, sum))
    }

    /// Checks that no key occurs twice with one `run_seq`. Only if one does, the parts are read again to find it.
    fn duplicates(&mut self) {
        let mut keys = std::mem::take(&mut self.totals.keys);
        keys.sort_unstable();
        let twice: BTreeSet<(KeyHash, i64)> =
            keys.windows(2).filter_map(|pair| if pair[0] == pair[1] { Some(pair[0]) } else { None }).collect();
        drop(keys);
        let Some(example) = twice.first() else { return };
        let mut keys_by_path: BTreeMap<String, String> = BTreeMap::new();
        let present = present_parts(self.store, &self.published.run).unwrap_or_default();
        for part in present.into_iter().filter(|part| self.published.counts_part(*part)) {
            let path = part_path(&self.published.run, part);
            if let Ok(Some(key)) = self.find(&path, *example) {
                keys_by_path.insert(path, key);
            }
        }
        let Some(key) = keys_by_path.values().next().cloned() else { return };
        let others = match twice.len() {
            1 => String::new(),
            count => format!(", and so do {} more keys", count - 1),
        };
        let paths: Vec<String> = keys_by_path.into_keys().collect();
        let found = format!("key {key:?} occurs more than once, in {}{others}", paths.join(" and "));
        self.report(&part_folder(&self.published.run), &found);
    }

    fn find(&self, path: &str, (wanted, run_seq): (KeyHash, i64)) -> Result<Option<String>, String> {
        let key = &self.published.key;
        let reader = read_part(self.store, path, Some(&PartRows::columns(key))).map_err(|error| error.to_string())?;
        for batch in reader {
            let rows = PartRows::new(&batch.map_err(|error| error.to_string())?, key)?;
            for index in 0..rows.len() {
                if rows.run_seq(index) == run_seq
                    && !rows.is_keyless(index)
                    && rows.key(index, rows.signature(index)?) == wanted
                {
                    return Ok(Some(rows.key_text(index).to_owned()));
                }
            }
        }
        Ok(None)
    }
}

fn show(counts: &Counts) -> String {
    format!("{} rows, {} ok, {} failed {:?}", counts.rows, counts.ok, counts.failed, counts.failures)
}

/// A digest of an index entry.
fn digest(key: KeyHash, signature: Signature, state: RowState, run_seq: i64, made: &Fingerprints) -> u128 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&key.0.to_be_bytes()).update(&signature.to_bytes()).update(&run_seq.to_be_bytes());
    hasher.update(&[state as u8]);
    for fingerprint in [&made.caption, &made.embedding] {
        hasher.update(&[u8::from(fingerprint.is_some())]).update(fingerprint.as_deref().unwrap_or_default().as_bytes());
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    u128::from_be_bytes(bytes)
}

/// Checks that vectors have length 1. They are not compressed, so that a flipped bit does not make decoding fail.
fn check_vectors(batch: &RecordBatch) -> Result<(), String> {
    for name in ["image_embedding", "text_embedding", "fused_embedding"] {
        let Some(list) = batch.column_by_name(name).and_then(|column| column.as_fixed_size_list_opt()) else {
            continue;
        };
        if (0..list.len()).any(|row| list.is_valid(row) && !has_length_one(list, row)) {
            return Err(format!("a vector of `{name}` is not of length 1"));
        }
    }
    Ok(())
}

fn has_length_one(list: &FixedSizeListArray, row: usize) -> bool {
    let Ok(values) = cast(&list.value(row), &DataType::Float32) else { return false };
    let length = values.as_primitive::<Float32Type>().values().iter().map(|x| x * x).sum::<f32>().sqrt();
    // A graph may give the zero vector, which has no direction.
    length == 0.0 || (length - 1.0).abs() < LENGTH_TOLERANCE
}
