//! Rows that look alike: the nearest pairs among a sample of vectors. The sample bounds what is read and how long it takes.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type, Schema};
use rayon::prelude::*;

use super::gather::{Place, hash};
use super::least::{Least, drawn};
use crate::output::OutputError;
use crate::output::view::{View, ViewPart, Which};
use crate::search::kernel::scores;
use crate::search::scan::FINGERPRINT;

/// The most rows of the sample, and the most parts that they are taken from.
pub(super) const SAMPLE: usize = 3_000;
const PARTS: usize = 32;
/// The most pairs.
pub(super) const PAIRS: usize = 18;

/// The nearest pairs of a sample.
pub(super) struct Alike {
    /// Rows that were compared.
    pub(super) rows: usize,
    /// The parts that they are from.
    pub(super) parts: usize,
    /// Cosine and rows, nearest first.
    pub(super) pairs: Vec<(f32, Place, Place)>,
}

/// A row of the sample.
struct Sampled {
    chance: u64,
    place: Place,
    fingerprint: u64,
    /// The hash of the image; rows with the same image are no news.
    content: Option<u64>,
    vector: Vec<f32>,
}

/// The column of vectors that are compared: of images, or of texts where there are none.
pub(super) fn vector_column(schema: &Schema) -> Option<&'static str> {
    ["image_embedding", "text_embedding"].into_iter().find(|name| {
        schema.field_with_name(name).is_ok_and(|field| matches!(field.data_type(), DataType::FixedSizeList(_, _)))
    })
}

/// At most `most` of `items`, evenly spread.
pub(super) fn spread<T: Copy>(items: &[T], most: usize) -> Vec<T> {
    if items.len() <= most {
        return items.to_vec();
    }
    (0..most).map(|at| items[at * items.len() / most]).collect()
}

/// The nearest pairs of rows with different images, of those that one model made. None without vectors.
///
/// # Errors
/// [`OutputError`] when a part cannot be read.
pub(super) fn alike(view: &View) -> Result<Option<Alike>, OutputError> {
    let Some(column) = vector_column(view.schema()) else { return Ok(None) };
    let parts = spread(&view.parts(), PARTS);
    // Each part gives at most its share, so that memory does not depend on the size of parts.
    let share = SAMPLE.div_ceil(parts.len().max(1));
    let read: Result<Vec<Vec<Sampled>>, OutputError> =
        parts.par_iter().enumerate().map(|(number, part)| of_part(view, *part, number, column, share)).collect();
    let mut rows: Vec<Sampled> = read?.into_iter().flatten().collect();
    let mut models: BTreeMap<u64, usize> = BTreeMap::new();
    for row in &rows {
        *models.entry(row.fingerprint).or_default() += 1;
    }
    let Some((most, _)) = models.into_iter().max_by_key(|(_, rows)| *rows) else { return Ok(None) };
    rows.retain(|row| row.fingerprint == most);
    rows.sort_by_key(|row| row.place);
    let Some(width) = rows.first().map(|row| row.vector.len()).filter(|width| *width > 0) else { return Ok(None) };
    let vectors: Vec<f32> = rows.iter().flat_map(|row| &row.vector).copied().collect();
    let pairs = (0..rows.len()).into_par_iter().fold(
        || Least::new(PAIRS),
        |mut least, row| {
            let after = &vectors[(row + 1) * width..];
            let mut found = vec![0.0; rows.len() - row - 1];
            scores(after, &rows[row].vector, &mut found);
            for (other, score) in (row + 1..).zip(found) {
                let same = rows[row].content.is_some() && rows[row].content == rows[other].content;
                if score.is_finite() && !same {
                    // Of a positive float, a greater one has greater bits; nearest first.
                    least.add((u32::MAX - order(score), row, other));
                }
            }
            least
        },
    );
    let nearest = pairs.reduce(
        || Least::new(PAIRS),
        |mut a, b| {
            a.merge(b);
            a
        },
    );
    let cosine = |row: usize, other: usize| {
        let mut found = [0.0];
        scores(&rows[other].vector, &rows[row].vector, &mut found);
        found[0]
    };
    let named = |(_, row, other): (u32, usize, usize)| (cosine(row, other), rows[row].place, rows[other].place);
    let pairs = nearest.into_sorted().into_iter().map(named).collect();
    Ok(Some(Alike { rows: rows.len(), parts: parts.len(), pairs }))
}

/// A number that grows with `score`.
fn order(score: f32) -> u32 {
    let bits = score.to_bits();
    if bits >> 31 == 1 { !bits } else { bits | 1 << 31 }
}

fn of_part(
    view: &View,
    part: ViewPart,
    number: usize,
    column: &str,
    share: usize,
) -> Result<Vec<Sampled>, OutputError> {
    let mut rows: Vec<Sampled> = Vec::new();
    for batch in view.read(part, &[column, FINGERPRINT, "content_hash"], Which::Ok)? {
        let batch = batch?;
        let Some(vectors) = batch.rows.column_by_name(column).and_then(|column| column.as_fixed_size_list_opt()) else {
            continue;
        };
        let text = |name: &str| batch.rows.column_by_name(name).and_then(|column| column.as_string_opt::<i32>());
        let (fingerprints, contents) = (text(FINGERPRINT), text("content_hash"));
        let hashed = |column: Option<&arrow::array::StringArray>, row| {
            column.filter(|column| column.is_valid(row)).map(|column| hash(column.value(row)))
        };
        for row in batch.mask.values().set_indices().filter(|row| vectors.is_valid(*row)) {
            let place = (part, batch.first + row as u32);
            let chance = drawn(number, place.1);
            if rows.len() >= share && rows.last().is_some_and(|last| last.chance <= chance) {
                continue;
            }
            let wide = cast(&vectors.value(row), &DataType::Float32)
                .map_err(|error| OutputError::View { message: error.to_string() })?;
            let vector = wide.as_primitive::<Float32Type>().values().to_vec();
            let sampled = Sampled {
                chance,
                place,
                fingerprint: hashed(fingerprints, row).unwrap_or(0),
                content: hashed(contents, row),
                vector,
            };
            let at = rows.partition_point(|other| other.chance <= chance);
            rows.insert(at, sampled);
            rows.truncate(share);
        }
    }
    Ok(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_of_floats_is_theirs() {
        let sorted = [-1.0, -0.5, -0.0, 0.0, 0.25, 0.5, 1.0];
        assert!(sorted.windows(2).all(|pair| order(pair[0]) <= order(pair[1])));
    }

    #[test]
    fn a_spread_covers_the_whole() {
        let items: Vec<usize> = (0..1000).collect();
        let found = spread(&items, 10);
        assert_eq!(found, [0, 100, 200, 300, 400, 500, 600, 700, 800, 900]);
        assert_eq!(spread(&items[..7], 10), items[..7]);
    }
}
