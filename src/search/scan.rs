//! Reads the vectors of the newest rows, part by part on all cores, and scores each with every query.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, StringArray};
use arrow::compute::{cast, concat};
use arrow::datatypes::DataType;
use rayon::prelude::*;

use super::best::{Best, Hit, Key};
use super::kernel::scores;
use crate::output::OutputError;
use crate::output::view::{View, ViewPart, Which};

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

/// Vectors that are compared together: few enough for a core's cache.
const BLOCK: usize = 64;

/// The rows of a part, without vectors.
struct ScannedPart {
    part: ViewPart,
    keys: ArrayRef,
    fingerprints: StringArray,
    /// Which of them count.
    mask: BooleanArray,
}

/// Some vectors of a part.
#[derive(Default)]
struct Block {
    /// The numbers of their rows, ascending.
    rows: Vec<u32>,
    /// `[rows, width]`
    vectors: Vec<f32>,
    /// Of one query.
    scores: Vec<f32>,
}

fn of_part(scan: &Scan<'_>, part: ViewPart, mut found: Found) -> Result<Found, OutputError> {
    let Some(rows) = ScannedPart::read(scan.view, part)? else { return Ok(found) };
    let mut block = Block::default();
    scan.view.read_vectors(part, scan.column, &mut |vectors| {
        let mut numbers = vectors.rows.iter().cloned().flatten();
        for start in (0..vectors.len()).step_by(BLOCK) {
            let end = vectors.len().min(start + BLOCK);
            block.rows.clear();
            block.rows.extend(numbers.by_ref().take(end - start));
            vectors.copy(start..end, &mut block.vectors);
            of_block(scan, &rows, &mut block, &mut found)?;
        }
        Ok(())
    })?;
    Ok(found)
}

impl ScannedPart {
    /// None: it has no rows.
    fn read(view: &View, part: ViewPart) -> Result<Option<Self>, OutputError> {
        let refuse = |message: String| OutputError::View { message };
        let key = &view.run_of(part).key;
        let batches = view.read(part, &[key, FINGERPRINT], Which::Matching)?.collect::<Result<Vec<_>, _>>()?;
        if batches.is_empty() {
            return Ok(None);
        }
        let column = |name: &str| {
            let arrays = batches.iter().map(|batch| batch.rows.column_by_name(name).map(AsRef::as_ref));
            let arrays = arrays.collect::<Option<Vec<&dyn Array>>>().ok_or_else(|| format!("no column `{name}`"))?;
            concat(&arrays).map_err(|error| error.to_string())
        };
        let fingerprints = column(FINGERPRINT).map_err(refuse)?;
        let fingerprints = fingerprints.as_string_opt::<i32>().cloned();
        let fingerprints = fingerprints.ok_or_else(|| refuse(format!("`{FINGERPRINT}` is no text")))?;
        let mask = batches.iter().flat_map(|batch| batch.mask.values().iter()).collect::<Vec<bool>>();
        Ok(Some(Self { part, keys: column(key).map_err(refuse)?, fingerprints, mask: mask.into() }))
    }

    fn counts(&self, row: u32) -> bool {
        (row as usize) < self.mask.len() && self.mask.value(row as usize)
    }
}

fn of_block(scan: &Scan<'_>, rows: &ScannedPart, block: &mut Block, found: &mut Found) -> Result<(), OutputError> {
    let refuse = |message: String| OutputError::View { message };
    let counted: Vec<(usize, u32)> =
        block.rows.iter().copied().enumerate().filter(|(_, row)| rows.counts(*row)).collect();
    if counted.is_empty() {
        return Ok(());
    }
    for (_, row) in &counted {
        let name = rows.fingerprints.value(*row as usize);
        match found.fingerprints.get_mut(name) {
            Some(rows) => *rows += 1,
            None => drop(found.fingerprints.insert(name.to_owned(), 1)),
        }
    }
    let width = block.vectors.len() / block.rows.len();
    block.scores.resize(block.rows.len(), 0.0);
    for (query, best) in scan.queries.iter().zip(&mut found.best) {
        if width != query.len() {
            let found = query.len();
            return Err(refuse(format!("expected a query of {width} numbers, as the vectors have, found {found}")));
        }
        scores(&block.vectors, query, &mut block.scores);
        for &(at, row) in &counted {
            let score = block.scores[at];
            if !best.may_take(score) {
                continue;
            }
            let key = key_of(&rows.keys, row as usize).map_err(refuse)?;
            if scan.without != Some(&key) {
                best.add(Hit { score, key, part: rows.part, row });
            }
        }
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
