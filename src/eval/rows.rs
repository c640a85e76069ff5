//! The rows of an OUTPUT that have references: their captions first, then their vectors.

use std::collections::BTreeMap;

use arrow::array::{Array, ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float32Type};

use super::references::References;
use super::retrieval::Images;
use crate::output::OutputError;
use crate::output::view::{View, ViewBatch, Which};

/// The column of the vectors that are compared.
pub const VECTORS: &str = "image_embedding";
const CAPTION: &str = "caption";
const SIMILARITY: &str = "caption_similarity";
const FINGERPRINT: &str = "embedding_fingerprint";

/// An ok row of an OUTPUT.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OutputRow {
    /// Its caption, where the job makes some.
    pub caption: Option<String>,
    /// The cosine of image and caption.
    pub similarity: Option<f32>,
}

/// The ok rows of an OUTPUT.
#[derive(Debug, Default)]
pub struct OutputRows {
    /// By row of the references; None: OUTPUT has no ok row of this key.
    pub rows: Vec<Option<OutputRow>>,
    /// Ok rows.
    pub ok: u64,
    /// Ok rows whose key has no references.
    pub extra: u64,
    /// Whether OUTPUT has captions, and their similarity with images.
    pub has: Columns,
}

/// Which columns an OUTPUT has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns {
    /// `caption`
    pub captions: bool,
    /// `caption_similarity`
    pub similarity: bool,
    /// `image_embedding`
    pub vectors: bool,
}

impl OutputRows {
    /// Reads the captions of the newest ok rows.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn read(view: &View, references: &References) -> Result<Self, OutputError> {
        let has = |name| view.schema().index_of(name).is_ok();
        let has = Columns { captions: has(CAPTION), similarity: has(SIMILARITY), vectors: has(VECTORS) };
        let mut found = Self { rows: vec![None; references.captions.len()], has, ..Self::default() };
        each_batch(view, &[CAPTION, SIMILARITY], |keys, batch| {
            let captions = batch.rows.column_by_name(CAPTION).map(strings).transpose()?;
            let similarity =
                batch.rows.column_by_name(SIMILARITY).and_then(|column| column.as_primitive_opt::<Float32Type>());
            for row in batch.mask.values().set_indices() {
                found.ok += 1;
                let Some(known) = keys.is_valid(row).then(|| references.row(keys.value(row))).flatten() else {
                    found.extra += 1;
                    continue;
                };
                let caption = captions.as_ref().filter(|captions| captions.is_valid(row));
                found.rows[known as usize] = Some(OutputRow {
                    caption: caption.map(|captions| captions.value(row).to_owned()),
                    similarity: similarity.filter(|values| values.is_valid(row)).map(|values| values.value(row)),
                });
            }
            Ok(())
        })?;
        Ok(found)
    }
}

/// Reads the vectors of the newest ok rows: of the references' row `row`, if `number(row)` gives it a number. With how many rows have each
/// `embedding_fingerprint`.
///
/// # Errors
/// When a part cannot be read.
pub fn read_vectors(
    view: &View,
    references: &References,
    number: impl Fn(u32) -> Option<u32>,
) -> Result<(Images, BTreeMap<String, u64>), OutputError> {
    let (mut images, mut fingerprints) = (Images::default(), BTreeMap::<String, u64>::new());
    each_batch(view, &[VECTORS, FINGERPRINT], |keys, batch| {
        let vectors = batch.rows.column_by_name(VECTORS).and_then(|column| column.as_fixed_size_list_opt());
        let names = batch.rows.column_by_name(FINGERPRINT).map(strings).transpose()?;
        let (Some(vectors), Some(names)) = (vectors, names) else {
            return Err(format!("no columns `{VECTORS}` and `{FINGERPRINT}` of vectors and texts"));
        };
        images.width = vectors.value_length() as usize;
        for row in batch.mask.values().set_indices().filter(|row| vectors.is_valid(*row) && keys.is_valid(*row)) {
            let Some(number) = references.row(keys.value(row)).and_then(&number) else { continue };
            let vector = cast(&vectors.value(row), &DataType::Float32).map_err(|error| error.to_string())?;
            images.rows.push(number);
            images.vectors.extend_from_slice(vector.as_primitive::<Float32Type>().values());
            match fingerprints.get_mut(names.value(row)) {
                Some(rows) => *rows += 1,
                None => drop(fingerprints.insert(names.value(row).to_owned(), 1)),
            }
        }
        Ok(())
    })?;
    Ok((images, fingerprints))
}

/// Calls `take` with the keys, as text, and the rows of every batch, which has those of `columns` that there are.
fn each_batch(
    view: &View,
    columns: &[&str],
    mut take: impl FnMut(&StringArray, &ViewBatch) -> Result<(), String>,
) -> Result<(), OutputError> {
    let refuse = |message: String| OutputError::View { message };
    for part in view.parts() {
        let key = view.run_of(part).key.clone();
        for batch in view.read(part, &[&[key.as_str()], columns].concat(), Which::Ok)? {
            let batch = batch?;
            let keys = batch.rows.column_by_name(&key).ok_or_else(|| refuse(format!("no column `{key}`")))?;
            take(&strings(keys).map_err(refuse)?, &batch).map_err(refuse)?;
        }
    }
    Ok(())
}

fn strings(column: &ArrayRef) -> Result<StringArray, String> {
    Ok(cast(column, &DataType::Utf8).map_err(|error| error.to_string())?.as_string::<i32>().clone())
}
