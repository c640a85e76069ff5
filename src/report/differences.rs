//! What a run changed: its rows beside the rows that the same keys had before. In: two views. Out: counts, captions before and after,
//! and how far the vectors of unchanged images moved.
//!
//! Memory: 64 bytes for each row of the run, and what the bounds below allow.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};
use arrow::record_batch::RecordBatch;
use rayon::prelude::*;

use super::gather::{Place, hash};
use super::least::{Least, drawn};
use super::pairs::{spread, vector_column};
use super::tally::Tally;
use crate::output::OutputError;
use crate::output::part::rows::PartRows;
use crate::output::view::{View, ViewBatch, ViewPart, Which};

/// The most changed captions that are shown.
pub(super) const CHANGES: usize = 40;
/// The most rows whose vectors are compared, and the most parts on each side that they are in.
pub(super) const VECTORS: usize = 2_000;
const PARTS: usize = 32;
/// Parts that are read before they are added up.
const PARTS_AT_ONCE: usize = 64;

/// A caption that changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change {
    chance: u64,
    /// The row after.
    pub(super) place: Place,
    /// The caption before.
    pub(super) before: String,
}

/// What a run changed.
pub(super) struct Differences {
    /// Rows of keys that had a row before.
    pub(super) rows: u64,
    /// Of those, rows with a caption on both sides, and how many of these differ.
    pub(super) captions: u64,
    pub(super) changed: u64,
    /// Rows that were ok and failed now, and the other way round.
    pub(super) failed_now: u64,
    pub(super) ok_now: u64,
    pub(super) examples: Vec<Change>,
    /// Cosines of the vectors of the same images, before and after.
    pub(super) drift: Tally,
    /// Of those rows, how many have vectors of another `embedding_fingerprint` than before.
    pub(super) other_model: u64,
}

/// A row of the run.
struct After {
    key: u128,
    /// The hash of its caption; None: it has none.
    caption: Option<u64>,
    content: u64,
    part: u32,
    row: u32,
    ok: bool,
}

/// A row whose vectors are compared: chance, row before, row after.
type Moved = (u64, Place, Place);

#[derive(Default)]
struct Found {
    rows: u64,
    captions: u64,
    changed: u64,
    failed_now: u64,
    ok_now: u64,
    examples: Option<Least<Change>>,
    moved: Option<Least<Moved>>,
}

/// Compares the rows of `after` with those of `before`.
///
/// # Errors
/// [`OutputError`] when a part cannot be read.
pub(super) fn differences(after: &View, before: &View) -> Result<Differences, OutputError> {
    let parts = after.parts();
    let mut rows: Vec<After> = Vec::new();
    for (at, chunk) in parts.chunks(PARTS_AT_ONCE).enumerate() {
        let first = at * PARTS_AT_ONCE;
        let read: Result<Vec<Vec<After>>, OutputError> =
            chunk.par_iter().enumerate().map(|(at, part)| rows_of(after, *part, (first + at) as u32)).collect();
        rows.extend(read?.into_iter().flatten());
    }
    rows.par_sort_unstable_by_key(|row| (row.key, row.part, row.row));
    // Only from some parts, so that few columns of vectors are read.
    let old_parts = before.parts();
    let compared = spread(&old_parts, PARTS);
    let mut found = Found::default();
    for (at, chunk) in old_parts.chunks(PARTS_AT_ONCE).enumerate() {
        let first = at * PARTS_AT_ONCE;
        let read: Result<Vec<Found>, OutputError> = chunk
            .par_iter()
            .enumerate()
            .map(|(at, part)| {
                let vectors = compared.binary_search(part).is_ok();
                compare(before, *part, first + at, &rows, &parts, vectors)
            })
            .collect();
        read?.into_iter().for_each(|other| found.merge(other));
    }
    let moved = found.moved.take().map(Least::into_sorted).unwrap_or_default();
    let (drift, other_model) = drift(after, before, &moved)?;
    Ok(Differences {
        rows: found.rows,
        captions: found.captions,
        changed: found.changed,
        failed_now: found.failed_now,
        ok_now: found.ok_now,
        examples: found.examples.map(Least::into_sorted).unwrap_or_default(),
        drift,
        other_model,
    })
}

impl Found {
    fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.captions += other.captions;
        self.changed += other.changed;
        self.failed_now += other.failed_now;
        self.ok_now += other.ok_now;
        if let Some(examples) = other.examples {
            self.examples.get_or_insert_with(|| Least::new(CHANGES)).merge(examples);
        }
        if let Some(moved) = other.moved {
            self.moved.get_or_insert_with(|| Least::new(VECTORS)).merge(moved);
        }
    }
}

/// The columns that are compared; `key` is the key column.
fn columns(key: &str) -> Vec<&str> {
    let mut columns = PartRows::columns(key);
    columns.push("caption");
    columns
}

fn refuse(message: String) -> OutputError {
    OutputError::View { message }
}

fn captions(rows: &RecordBatch) -> Option<&StringArray> {
    rows.column_by_name("caption").and_then(|column| column.as_string_opt::<i32>())
}

fn caption(column: Option<&StringArray>, row: usize) -> Option<&str> {
    column.filter(|column| column.is_valid(row)).map(|column| column.value(row))
}

fn is_ok(rows: &RecordBatch, row: usize) -> bool {
    let status = rows.column_by_name("status").and_then(|column| column.as_string_opt::<i32>());
    caption(status, row) == Some("ok")
}

/// Rows without a key are left out: nothing says which row they were before.
fn keyed(batch: &ViewBatch, rows: &PartRows) -> Result<Vec<(usize, u128)>, OutputError> {
    let counted = batch.mask.values().set_indices().filter(|row| !rows.is_keyless(*row));
    counted.map(|row| Ok((row, rows.key(row, rows.signature(row).map_err(refuse)?).0))).collect()
}

fn rows_of(view: &View, part: ViewPart, number: u32) -> Result<Vec<After>, OutputError> {
    let key = view.run_of(part).key.clone();
    let mut found = Vec::new();
    for batch in view.read(part, &columns(&key), Which::Newest)? {
        let batch = batch?;
        let rows = PartRows::new(&batch.rows, &key).map_err(refuse)?;
        let captions = captions(&batch.rows);
        for (row, key) in keyed(&batch, &rows)? {
            found.push(After {
                key,
                caption: caption(captions, row).map(hash),
                content: rows.content_hash(row).map_or(0, hash),
                part: number,
                row: batch.first + row as u32,
                ok: is_ok(&batch.rows, row),
            });
        }
    }
    Ok(found)
}

/// Compares the rows of one part before with the rows after that have their keys.
fn compare(
    before: &View,
    part: ViewPart,
    number: usize,
    after: &[After],
    parts: &[ViewPart],
    vectors: bool,
) -> Result<Found, OutputError> {
    let key = before.run_of(part).key.clone();
    let (mut found, mut examples, mut moved) = (Found::default(), Least::new(CHANGES), Least::new(VECTORS));
    for batch in before.read(part, &columns(&key), Which::Newest)? {
        let batch = batch?;
        let rows = PartRows::new(&batch.rows, &key).map_err(refuse)?;
        let captions = captions(&batch.rows);
        for (row, key) in keyed(&batch, &rows)? {
            let Ok(at) = after.binary_search_by_key(&key, |after| after.key) else { continue };
            let now = &after[at];
            let (place, chance) = ((parts[now.part as usize], now.row), drawn(number, batch.first + row as u32));
            let was_ok = is_ok(&batch.rows, row);
            found.rows += 1;
            found.failed_now += u64::from(was_ok && !now.ok);
            found.ok_now += u64::from(!was_ok && now.ok);
            if let (Some(old), Some(new)) = (caption(captions, row), now.caption) {
                found.captions += 1;
                if hash(old) != new {
                    found.changed += 1;
                    examples.add(Change { chance, place, before: old.to_owned() });
                }
            }
            if vectors && was_ok && now.ok && rows.content_hash(row).is_some_and(|content| hash(content) == now.content)
            {
                moved.add((chance, (part, batch.first + row as u32), place));
            }
        }
    }
    Ok(Found { examples: Some(examples), moved: Some(moved), ..found })
}

/// The cosines of vectors before and after, and how many of them are of two models.
fn drift(after: &View, before: &View, moved: &[Moved]) -> Result<(Tally, u64), OutputError> {
    let mut tally = Tally::new(0.002);
    let (Some(column), Some(old_column)) = (vector_column(after.schema()), vector_column(before.schema())) else {
        return Ok((tally, 0));
    };
    if column != old_column {
        return Ok((tally, 0));
    }
    let kept: Vec<ViewPart> = {
        let mut parts: Vec<ViewPart> = moved.iter().map(|(_, _, (part, _))| *part).collect();
        parts.sort_unstable();
        parts.dedup();
        spread(&parts, PARTS)
    };
    let moved: Vec<&Moved> = moved.iter().filter(|(_, _, (part, _))| kept.contains(part)).collect();
    let old = vectors(before, moved.iter().map(|(_, old, _)| *old), column)?;
    let new = vectors(after, moved.iter().map(|(_, _, new)| *new), column)?;
    let mut other_model = 0;
    for (_, was, is) in moved {
        let (Some((was, old_model)), Some((is, model))) = (old.get(was), new.get(is)) else { continue };
        // Vectors are normalised. Those of another width are of another space.
        if was.len() == is.len() {
            tally.add(was.iter().zip(is).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum());
            other_model += u64::from(old_model != model);
        }
    }
    Ok((tally, other_model))
}

/// The vectors of rows, each with the hash of its fingerprint.
type Vectors = BTreeMap<Place, (Vec<f32>, u64)>;

fn vectors(view: &View, places: impl Iterator<Item = Place>, column: &str) -> Result<Vectors, OutputError> {
    let mut wanted: BTreeMap<ViewPart, Vec<u32>> = BTreeMap::new();
    places.for_each(|(part, row)| wanted.entry(part).or_default().push(row));
    let mut found = Vectors::new();
    for (part, rows) in wanted {
        let batch = view.take(part, &rows, &[column, "embedding_fingerprint"])?;
        let Some(lists) = batch.column_by_name(column).and_then(|column| column.as_fixed_size_list_opt()) else {
            continue;
        };
        let models = batch.column_by_name("embedding_fingerprint").and_then(|column| column.as_string_opt::<i32>());
        for (at, row) in rows.into_iter().enumerate().filter(|(at, _)| lists.is_valid(*at)) {
            let wide = cast(&lists.value(at), &DataType::Float32).map_err(|error| refuse(error.to_string()))?;
            let vector = wide.as_primitive::<Float32Type>().values().to_vec();
            found.insert((part, row), (vector, caption(models, at).map_or(0, hash)));
        }
    }
    Ok(found)
}
