//! The columns of a part besides the carried ones: one table with the condition, the type and the values of each.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{
    ArrayRef, BooleanArray, FixedSizeListArray, Float16Array, Float32Array, Int32Array, Int64Array, StringArray,
};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use half::f16;
use half::slice::HalfFloatSliceExt;
use serde::Serialize;

use super::result::RowResult;
use crate::engine::{Caption, RowOutput};
use crate::job::VectorType;
use crate::output::OutputError;
use crate::row::error::RowError;
use crate::support::redact;
use crate::support::repetition::repeats;

/// Which of the optional columns a job writes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is one column, there or not")]
pub struct OutputColumns {
    /// `caption` and the columns about it.
    pub caption: bool,
    /// `caption_similarity`.
    pub caption_similarity: bool,
    /// Width of `image_embedding`.
    pub image_embedding: Option<usize>,
    /// Width of `text_embedding`.
    pub text_embedding: Option<usize>,
    /// Width of `fused_embedding`.
    pub fused_embedding: Option<usize>,
    /// `image_text_similarity`.
    pub image_text_similarity: bool,
    /// `image_text_match`.
    pub image_text_match: bool,
    /// The job has images: `image_width`, `image_height`, `content_hash`.
    pub image: bool,
    /// Element type of the vectors.
    pub dtype: VectorType,
}

impl OutputColumns {
    /// Whether vectors, or scores computed from them, are written.
    #[must_use]
    pub fn has_embedding_columns(&self) -> bool {
        let widths = [self.image_embedding, self.text_embedding, self.fused_embedding];
        let scores = [self.image_text_similarity, self.image_text_match, self.caption && self.caption_similarity];
        scores.contains(&true) || widths.iter().any(Option::is_some)
    }

    /// The type of vectors of `width` values, if there are any.
    fn vector(&self, width: Option<usize>) -> Option<DataType> {
        let element = match self.dtype {
            VectorType::F32 => DataType::Float32,
            VectorType::F16 => DataType::Float16,
        };
        let width = i32::try_from(width?).unwrap_or(i32::MAX);
        Some(DataType::FixedSizeList(Arc::new(Field::new("element", element, false)), width))
    }
}

/// Values that are the same in every row and footer of a run.
#[derive(Debug, Clone)]
pub struct RunStamp {
    /// The run id.
    pub run: String,
    /// BLAKE3 of the plan record, hex.
    pub plan_digest: String,
    /// The `run_seq` column.
    pub run_seq: i64,
    /// The `caption_fingerprint` column.
    pub caption_fingerprint: Option<String>,
    /// The `embedding_fingerprint` column.
    pub embedding_fingerprint: Option<String>,
}

/// One column: its condition, type and values.
pub(crate) struct Column {
    /// Its name.
    pub(crate) name: &'static str,
    /// Its type for a job; None: the job does not write it.
    kind: fn(&OutputColumns) -> Option<DataType>,
    /// Whether it may be null.
    nullable: bool,
    /// Whether a copied row takes the value from the row that it copies.
    pub(crate) copied: bool,
    values: ColumnValues,
}

/// How the values of a column are made.
enum ColumnValues {
    /// The values of some rows.
    Plain(fn(&Rows<'_>) -> ArrayRef),
    /// The vector of one row, whose width is that of the column's type.
    Vectors(fn(&RowOutput) -> Option<&Vec<f32>>),
}

/// The rows that columns are made from.
pub(crate) struct Rows<'a> {
    /// One result a row.
    pub(crate) results: &'a [RowResult],
    /// Values that are the same in every row.
    pub(crate) stamp: &'a RunStamp,
}

impl Column {
    /// The values of `rows`, of the column's type `kind`.
    pub(crate) fn fill(&self, rows: &Rows<'_>, kind: &DataType) -> Result<ArrayRef, ArrowError> {
        match (&self.values, kind) {
            (ColumnValues::Plain(values), _) => Ok(values(rows)),
            (ColumnValues::Vectors(vector), DataType::FixedSizeList(element, width)) => {
                vectors(rows.results.iter().map(|row| output(row).and_then(*vector)), element, *width)
            }
            (ColumnValues::Vectors(_), kind) => {
                Err(ArrowError::SchemaError(format!("expected a type of vectors for `{}`, found {kind}", self.name)))
            }
        }
    }
}

/// The type of a column of text that every part has.
const ALWAYS_TEXT: fn(&OutputColumns) -> Option<DataType> = |_| Some(DataType::Utf8);

/// Every column that can be in a part besides the carried ones, in order.
static COLUMNS: [Column; 22] = [
    own("status", ALWAYS_TEXT, false, |rows| {
        rows.text(|row| Some(if row.outcome.is_ok() { "ok" } else { "failed" }.to_owned()))
    }),
    own("error_stage", ALWAYS_TEXT, true, |rows| rows.error(|error| error.stage.as_str().to_owned())),
    own("error_kind", ALWAYS_TEXT, true, |rows| rows.error(|error| error.kind.as_str().to_owned())),
    own("error_message", ALWAYS_TEXT, true, |rows| rows.error(|error| redact::value(&error.message))),
    copied(
        "caption",
        |c| c.caption.then_some(DataType::Utf8),
        |rows| rows.text(|row| Some(caption(row)?.text.clone())),
    ),
    copied(
        "caption_logprob",
        |c| c.caption.then_some(DataType::Float32),
        |rows| rows.float(|row| Some(caption(row)?.logprob)),
    ),
    copied(
        "caption_tokens",
        |c| c.caption.then_some(DataType::Int32),
        |rows| rows.integer(|row| Some(caption(row)?.tokens)),
    ),
    copied(
        "caption_finish",
        |c| c.caption.then_some(DataType::Utf8),
        |rows| rows.text(|row| Some(caption(row)?.finish.as_str().to_owned())),
    ),
    copied(
        "caption_similarity",
        |c| (c.caption && c.caption_similarity).then_some(DataType::Float32),
        |rows| rows.float(|row| caption(row)?.similarity),
    ),
    copied(
        "caption_repeats",
        |c| c.caption.then_some(DataType::Boolean),
        |rows| rows.boolean(|row| Some(repeats(&caption(row)?.text))),
    ),
    embedding("image_embedding", |c| c.vector(c.image_embedding), |output| output.image_embedding.as_ref()),
    embedding("text_embedding", |c| c.vector(c.text_embedding), |output| output.text_embedding.as_ref()),
    embedding("fused_embedding", |c| c.vector(c.fused_embedding), |output| output.fused_embedding.as_ref()),
    copied(
        "image_text_similarity",
        |c| c.image_text_similarity.then_some(DataType::Float32),
        |rows| rows.float(|row| output(row)?.image_text_similarity),
    ),
    copied(
        "image_text_match",
        |c| c.image_text_match.then_some(DataType::Float32),
        |rows| rows.float(|row| output(row)?.image_text_match),
    ),
    copied(
        "image_width",
        |c| c.image.then_some(DataType::Int32),
        |rows| rows.integer(|row| Some(pixels(row.image_size?.0))),
    ),
    copied(
        "image_height",
        |c| c.image.then_some(DataType::Int32),
        |rows| rows.integer(|row| Some(pixels(row.image_size?.1))),
    ),
    own(
        "content_hash",
        |c| c.image.then_some(DataType::Utf8),
        true,
        |rows| rows.text(|row| Some(row.content_hash?.to_hex().to_string())),
    ),
    own("content_signature", ALWAYS_TEXT, false, |rows| rows.text(|row| Some(row.content_signature.to_string()))),
    own(
        "caption_fingerprint",
        |c| c.caption.then_some(DataType::Utf8),
        false,
        |rows| rows.text(|_| rows.stamp.caption_fingerprint.clone()),
    ),
    own(
        "embedding_fingerprint",
        |c| c.has_embedding_columns().then_some(DataType::Utf8),
        false,
        |rows| rows.text(|_| rows.stamp.embedding_fingerprint.clone()),
    ),
    own(
        "run_seq",
        |_| Some(DataType::Int64),
        false,
        |rows| Arc::new(Int64Array::from_value(rows.stamp.run_seq, rows.results.len())),
    ),
];

/// A column whose value always comes from the row itself, also in a copied row.
const fn own(
    name: &'static str,
    kind: fn(&OutputColumns) -> Option<DataType>,
    nullable: bool,
    values: fn(&Rows<'_>) -> ArrayRef,
) -> Column {
    Column { name, kind, nullable, copied: false, values: ColumnValues::Plain(values) }
}

/// A column whose value a copied row takes from its source; null in a row without such a result.
const fn copied(
    name: &'static str,
    kind: fn(&OutputColumns) -> Option<DataType>,
    values: fn(&Rows<'_>) -> ArrayRef,
) -> Column {
    Column { name, kind, nullable: true, copied: true, values: ColumnValues::Plain(values) }
}

/// A column of vectors, which a copied row takes from its source; null in a row without one.
const fn embedding(
    name: &'static str,
    kind: fn(&OutputColumns) -> Option<DataType>,
    vector: fn(&RowOutput) -> Option<&Vec<f32>>,
) -> Column {
    Column { name, kind, nullable: true, copied: true, values: ColumnValues::Vectors(vector) }
}

/// The columns that a job writes, in order, each with its field.
pub(crate) fn columns(wanted: &OutputColumns) -> impl Iterator<Item = (&'static Column, Field)> {
    COLUMNS.iter().filter_map(move |column| {
        let kind = (column.kind)(wanted)?;
        Some((column, Field::new(column.name, kind, column.nullable)))
    })
}

/// The schema of every part whose carried columns are `carried`.
///
/// # Errors
/// [`OutputError::Collision`] when a carried column has the name of one that is written here, or `run`.
pub fn part_schema(carried: Vec<Field>, columns: &OutputColumns) -> Result<SchemaRef, OutputError> {
    let ours: Vec<Field> = self::columns(columns).map(|(_, field)| field).collect();
    // Readers with Hive partitioning add the folder's `run` as a column. SQL compares names without case.
    let mut taken: HashSet<String> = ours.iter().map(|field| field.name().clone()).collect();
    taken.insert("run".to_owned());
    if let Some(field) = carried.iter().find(|field| !taken.insert(field.name().to_lowercase())) {
        return Err(OutputError::Collision { column: field.name().clone() });
    }
    Ok(Arc::new(Schema::new(carried.into_iter().chain(ours).collect::<Vec<_>>())))
}

fn output(row: &RowResult) -> Option<&RowOutput> {
    row.outcome.as_ref().ok()
}

fn caption(row: &RowResult) -> Option<&Caption> {
    output(row)?.caption.as_ref()
}

fn pixels(side: u32) -> i32 {
    i32::try_from(side).unwrap_or(i32::MAX)
}

impl Rows<'_> {
    fn text(&self, value: impl Fn(&RowResult) -> Option<String>) -> ArrayRef {
        Arc::new(self.results.iter().map(value).collect::<StringArray>())
    }

    fn error(&self, show: fn(&RowError) -> String) -> ArrayRef {
        self.text(|row| row.outcome.as_ref().err().map(show))
    }

    fn float(&self, value: impl Fn(&RowResult) -> Option<f32>) -> ArrayRef {
        Arc::new(self.results.iter().map(value).collect::<Float32Array>())
    }

    fn boolean(&self, value: impl Fn(&RowResult) -> Option<bool>) -> ArrayRef {
        Arc::new(self.results.iter().map(value).collect::<BooleanArray>())
    }

    fn integer(&self, value: impl Fn(&RowResult) -> Option<i32>) -> ArrayRef {
        Arc::new(self.results.iter().map(value).collect::<Int32Array>())
    }
}

/// Vectors as one fixed-size list column: null rows hold zeros underneath, the child has no nulls.
fn vectors<'a>(
    rows: impl Iterator<Item = Option<&'a Vec<f32>>>,
    element: &FieldRef,
    width: i32,
) -> Result<ArrayRef, ArrowError> {
    let mut values: Vec<f32> = Vec::new();
    let mut valid = Vec::new();
    for row in rows {
        match row {
            Some(vector) => values.extend_from_slice(vector),
            None => values.resize(values.len() + width as usize, 0.0),
        }
        valid.push(row.is_some());
    }
    let values: ArrayRef = if *element.data_type() == DataType::Float16 {
        let mut halves = vec![f16::ZERO; values.len()];
        halves.convert_from_f32_slice(&values);
        Arc::new(Float16Array::from(halves))
    } else {
        Arc::new(Float32Array::from(values))
    };
    Ok(Arc::new(FixedSizeListArray::try_new(element.clone(), width, values, Some(NullBuffer::from(valid)))?))
}
