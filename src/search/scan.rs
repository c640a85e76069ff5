//! Reads the vectors of the newest rows, part by part on all cores, and scores each with every query.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, FixedSizeListArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float16Type, Float32Type};
use rayon::prelude::*;

use super::best::{Best, Hit, Key};
use super::kernel::{scores, scores_of_halves};
use crate::output::OutputError;
use crate::output::view::{View, ViewBatch, ViewPart, Which};

/// The column that names what vectors were made with.
pub const FINGERPRINT: &str = "embedding_fingerprint";

/// What a search reads.
#[derive(Debug)]
pub struct Scan<'a> {
    /// The rows.
    pub view: &'a View,
    /// The column of vectors.
    pub column: &'a str,
    /// Query vectors `[queries][width]`, L2-normalised.
    pub queries: &'a [Vec<f32>],
    /// Hits of each query.
    pub top: usize,
    /// A row that is no hit: the one that a query was taken from.
    pub without: Option<&'a Key>,
}

/// Rows by what their vectors were made with.
pub type Fingerprints = BTreeMap<String, u64>;

/// What a part gave.
struct Found {
    best: Vec<Best>,
    /// Rows with a vector, by fingerprint.
    fingerprints: Fingerprints,
}

/// The best hits of each query, and the fingerprints of the vectors that were compared, with their rows.
///
/// # Errors
/// [`OutputError`] when a part cannot be read, or the vectors have another width.
pub fn search(scan: &Scan<'_>) -> Result<(Vec<Vec<Hit>>, Fingerprints), OutputError> {
    let empty = || Found { best: vec![Best::new(scan.top); scan.queries.len()], fingerprints: BTreeMap::new() };
    let merge = |a: Found, b: Found| {
        let mut fingerprints = a.fingerprints;
        b.fingerprints.into_iter().for_each(|(name, rows)| *fingerprints.entry(name).or_default() += rows);
        Found { best: a.best.into_iter().zip(b.best).map(|(a, b)| a.merged(b)).collect(), fingerprints }
    };
    let parts = scan.view.parts();
    let found = parts.par_iter().map(|part| of_part(scan, *part, empty())).try_reduce(empty, |a, b| Ok(merge(a, b)))?;
    Ok((found.best.into_iter().map(Best::into_sorted).collect(), found.fingerprints))
}

fn of_part(scan: &Scan<'_>, part: ViewPart, mut found: Found) -> Result<Found, OutputError> {
    let key = scan.view.run_of(part).key.clone();
    for batch in scan.view.read(part, &[&key, scan.column, FINGERPRINT], Which::Matching)? {
        of_batch(scan, part, &key, &batch?, &mut found)?;
    }
    Ok(found)
}

fn of_batch(
    scan: &Scan<'_>,
    part: ViewPart,
    key: &str,
    batch: &ViewBatch,
    found: &mut Found,
) -> Result<(), OutputError> {
    let refuse = |message: String| OutputError::View { message };
    let column = |name: &str| batch.rows.column_by_name(name).ok_or_else(|| refuse(format!("no column `{name}`")));
    let vectors = column(scan.column)?.as_fixed_size_list_opt();
    let vectors = vectors.ok_or_else(|| refuse(format!("`{}` is no column of vectors", scan.column)))?;
    let counted: Vec<usize> = batch.mask.values().set_indices().filter(|row| vectors.is_valid(*row)).collect();
    count(column(FINGERPRINT)?, &counted, &mut found.fingerprints).map_err(refuse)?;
    let keys = column(key)?;
    let mut all = vec![0.0; batch.rows.num_rows()];
    for (query, best) in scan.queries.iter().zip(&mut found.best) {
        score(vectors, query, &mut all).map_err(refuse)?;
        for &row in &counted {
            if !best.may_take(all[row]) {
                continue;
            }
            let key = key_of(keys, row).map_err(refuse)?;
            if scan.without != Some(&key) {
                best.add(Hit { score: all[row], key, part, row: batch.first + row as u32 });
            }
        }
    }
    Ok(())
}

fn score(vectors: &FixedSizeListArray, query: &[f32], all: &mut [f32]) -> Result<(), String> {
    let width = vectors.value_length() as usize;
    if width != query.len() {
        return Err(format!("expected a query of {width} numbers, as the vectors have, found {}", query.len()));
    }
    let start = vectors.value_offset_at(0);
    let values = vectors.values().slice(start, vectors.len() * width);
    match values.data_type() {
        DataType::Float32 => scores(values.as_primitive::<Float32Type>().values(), query, all),
        DataType::Float16 => {
            let mut row = vec![0.0; width];
            scores_of_halves(values.as_primitive::<Float16Type>().values(), query, &mut row, all);
        }
        other => return Err(format!("expected vectors of Float32 or Float16, found {other}")),
    }
    Ok(())
}

fn count(names: &ArrayRef, rows: &[usize], counts: &mut BTreeMap<String, u64>) -> Result<(), String> {
    let names = names.as_string_opt::<i32>().ok_or_else(|| format!("`{FINGERPRINT}` is no text"))?;
    // Nearly always one name for all.
    let mut last: Option<(&str, u64)> = None;
    for &row in rows {
        let name = names.value(row);
        match &mut last {
            Some((known, rows)) if *known == name => *rows += 1,
            _ => {
                if let Some((known, rows)) = last.replace((name, 1)) {
                    *counts.entry(known.to_owned()).or_default() += rows;
                }
            }
        }
    }
    if let Some((known, rows)) = last {
        *counts.entry(known.to_owned()).or_default() += rows;
    }
    Ok(())
}

/// The key of a row.
///
/// # Errors
/// When a key has a type that no key column can have.
pub fn key_of(keys: &ArrayRef, row: usize) -> Result<Key, String> {
    if keys.is_null(row) {
        return Ok(Key::Null);
    }
    let text = cast(&keys.slice(row, 1), &DataType::Utf8).map_err(|error| error.to_string())?;
    let text = text.as_string::<i32>().value(0);
    Ok(if keys.data_type().is_integer() {
        text.parse().map(Key::Number).map_err(|error| error.to_string())?
    } else {
        Key::Text(text.to_owned())
    })
}
