//! Parts: results as Parquet bytes, with the schema that every part of OUTPUT shares.
//!
//! In: the carried manifest columns and one [`RowResult`] a row. Out: the bytes of one Parquet file that depend on nothing
//! else. Never here: storage.

use std::collections::HashSet;
use std::sync::Arc;

use arrow::array::{ArrayRef, FixedSizeListArray, Float16Array, Float32Array, Int32Array, Int64Array, StringArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use half::f16;
use half::slice::HalfFloatSliceExt;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::ColumnPath;
use serde::Serialize;

use super::reuse::Copies;
use super::{Counts, OutputError};
use crate::engine::{Caption, RowOutput};
use crate::job::VectorType;
use crate::results::RowResult;
use crate::row_error::RowError;

/// Which of the optional columns this job and model can fill.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[allow(clippy::struct_excessive_bools, reason = "each is one column, there or not")]
pub struct OutputColumns {
    /// `caption` and what belongs to it.
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
    /// Whether anything is written that embeddings decide: vectors, or scores made from them.
    #[must_use]
    pub fn has_embedding_columns(&self) -> bool {
        let widths = [self.image_embedding, self.text_embedding, self.fused_embedding];
        let scores = [self.image_text_similarity, self.image_text_match, self.caption && self.caption_similarity];
        scores.contains(&true) || widths.iter().any(Option::is_some)
    }
}

/// What is the same in every row and footer of a run.
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

/// The schema of every part whose carried columns are `carried`.
///
/// # Errors
/// [`OutputError::Collision`] when a carried column has the name of one that is written here, or `run`.
pub fn part_schema(carried: Vec<Field>, columns: &OutputColumns) -> Result<SchemaRef, OutputError> {
    let ours = fields(columns);
    // Hive-style readers put the folder's `run` into a column of that name; SQL does not tell upper from lower case.
    let mut taken: HashSet<String> = ours.iter().map(|field| field.name().clone()).collect();
    taken.insert("run".to_owned());
    if let Some(field) = carried.iter().find(|field| !taken.insert(field.name().to_lowercase())) {
        return Err(OutputError::Collision { column: field.name().clone() });
    }
    Ok(Arc::new(Schema::new(carried.into_iter().chain(ours).collect::<Vec<_>>())))
}

/// Turns results into parts of one run.
#[derive(Debug)]
pub struct PartEncoder {
    columns: OutputColumns,
    stamp: RunStamp,
    schema: SchemaRef,
}

impl PartEncoder {
    /// An encoder for parts of `schema`, which [`part_schema`] made for the same `columns`.
    #[must_use]
    pub fn new(schema: SchemaRef, columns: OutputColumns, stamp: RunStamp) -> Self {
        Self { columns, stamp, schema }
    }

    /// Digest of the plan that the parts are made for.
    #[must_use]
    pub fn plan_digest(&self) -> &str {
        &self.stamp.plan_digest
    }

    /// The columns that a row has in common with one it is a copy of, besides those by which that one was found.
    #[must_use]
    pub fn copied_columns(&self) -> Vec<&str> {
        let carried = self.schema.fields().len() - fields(&self.columns).len();
        let names = self.schema.fields().iter().skip(carried).map(|field| field.name().as_str());
        names.filter(|name| !OWN.contains(name)).collect()
    }

    /// The Parquet bytes of part `part`; `carried` holds the same rows as `results`, in order, and `copies` what some of them
    /// are copies of; `halved` says how often a batch was halved, because memory ran out or a run failed.
    ///
    /// # Errors
    /// [`OutputError::Encode`].
    pub fn encode(
        &self,
        part: u64,
        carried: &[RecordBatch],
        results: &[RowResult],
        copies: Option<&Copies>,
        halved: u32,
    ) -> Result<Vec<u8>, OutputError> {
        let (run, plan_digest) = (&self.stamp.run, &self.stamp.plan_digest);
        let footer = PartFooter { run, plan_digest, part, counts: &count(results), halved };
        let bytes = self.batch(carried, results, copies).and_then(|batch| encode_batch(&batch, &footer));
        bytes.map_err(|source| OutputError::Encode { part, source })
    }

    fn batch(
        &self,
        carried: &[RecordBatch],
        results: &[RowResult],
        copies: Option<&Copies>,
    ) -> Result<RecordBatch, ParquetError> {
        let carried_count = self.schema.fields().len() - fields(&self.columns).len();
        let carried_schema = Arc::new(self.schema.project(&(0..carried_count).collect::<Vec<_>>())?);
        let carried = arrow::compute::concat_batches(&carried_schema, carried)?;
        let mut arrays = carried.columns().to_vec();
        arrays.extend(self.arrays(results)?);
        if let Some(copies) = copies {
            let copied = self.copied_columns();
            let ours = self.schema.fields().iter().zip(&mut arrays).skip(carried_count);
            for (field, array) in ours.filter(|(field, _)| copied.contains(&field.name().as_str())) {
                *array = copies.over(field.name(), array.clone())?;
            }
        }
        Ok(RecordBatch::try_new(self.schema.clone(), arrays)?)
    }

    /// The columns of [`fields`], in the same order.
    fn arrays(&self, results: &[RowResult]) -> Result<Vec<ArrayRef>, ParquetError> {
        let wants = &self.columns;
        let error = |show: fn(&RowError) -> String| {
            strings(results.iter().map(move |row| row.outcome.as_ref().err().map(show)))
        };
        let caption = |row: &RowResult| row.outcome.as_ref().ok().and_then(|output| output.caption.clone());
        let mut arrays: Vec<ArrayRef> = vec![
            strings(results.iter().map(|row| Some(if row.outcome.is_ok() { "ok" } else { "failed" }.to_owned()))),
            error(|error| error.stage.as_str().to_owned()),
            error(|error| error.kind.as_str().to_owned()),
            error(|error| error.message.clone()),
        ];
        if wants.caption {
            let captions: Vec<Option<Caption>> = results.iter().map(caption).collect();
            let each = || captions.iter().map(Option::as_ref);
            arrays.push(strings(each().map(|caption| Some(caption?.text.clone()))));
            arrays.push(Arc::new(each().map(|caption| Some(caption?.logprob)).collect::<Float32Array>()));
            arrays.push(Arc::new(each().map(|caption| Some(caption?.tokens)).collect::<Int32Array>()));
            arrays.push(strings(each().map(|caption| Some(caption?.finish.as_str().to_owned()))));
            if wants.caption_similarity {
                arrays.push(Arc::new(each().map(|caption| caption?.similarity).collect::<Float32Array>()));
            }
        }
        let vectors: [(Option<usize>, Vector); 3] = [
            (wants.image_embedding, |output| output.image_embedding.as_ref()),
            (wants.text_embedding, |output| output.text_embedding.as_ref()),
            (wants.fused_embedding, |output| output.fused_embedding.as_ref()),
        ];
        for (width, vector) in vectors {
            if let Some(width) = width {
                let rows = results.iter().map(|row| row.outcome.as_ref().ok().and_then(vector));
                arrays.push(embeddings(rows, width, wants.dtype)?);
            }
        }
        let scores: [(bool, Score); 2] = [
            (wants.image_text_similarity, |output| output.image_text_similarity),
            (wants.image_text_match, |output| output.image_text_match),
        ];
        for (_, score) in scores.into_iter().filter(|(wanted, _)| *wanted) {
            let rows = results.iter().map(|row| score(row.outcome.as_ref().ok()?));
            arrays.push(Arc::new(rows.collect::<Float32Array>()));
        }
        if wants.image {
            let side = |pick: fn((u32, u32)) -> u32| -> ArrayRef {
                let sides =
                    results.iter().map(|row| row.image_size.map(|size| i32::try_from(pick(size)).unwrap_or(i32::MAX)));
                Arc::new(sides.collect::<Int32Array>())
            };
            arrays.push(side(|(width, _)| width));
            arrays.push(side(|(_, height)| height));
            arrays.push(strings(results.iter().map(|row| row.content_hash.map(|hash| hash.to_hex().to_string()))));
        }
        arrays.push(strings(results.iter().map(|row| Some(row.content_signature.to_string()))));
        for fingerprint in [&self.stamp.caption_fingerprint, &self.stamp.embedding_fingerprint].into_iter().flatten() {
            arrays.push(strings(results.iter().map(|_| Some(fingerprint.clone()))));
        }
        arrays.push(Arc::new(Int64Array::from_value(self.stamp.run_seq, results.len())));
        Ok(arrays)
    }
}

/// What a part's footer says of it.
pub(super) struct PartFooter<'a> {
    pub(super) run: &'a str,
    pub(super) plan_digest: &'a str,
    pub(super) part: u64,
    pub(super) counts: &'a Counts,
    /// How often a batch was halved, because memory ran out or a run failed; its rows may differ in the last bits from those of whole
    /// batches.
    pub(super) halved: u32,
}

/// The Parquet bytes of a part that holds the rows of `batch`.
pub(super) fn encode_batch(batch: &RecordBatch, footer: &PartFooter<'_>) -> Result<Vec<u8>, ParquetError> {
    let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), Some(properties(&batch.schema(), footer)))?;
    writer.write(batch)?;
    writer.into_inner()
}

fn properties(schema: &Schema, footer: &PartFooter<'_>) -> WriterProperties {
    let value = |key: &str, value: String| KeyValue::new(format!("nightcap.{key}"), value);
    let mut entries = vec![
        value("run", footer.run.to_owned()),
        value("plan", footer.plan_digest.to_owned()),
        value("part", footer.part.to_string()),
        value("counts", serde_json::to_string(footer.counts).unwrap_or_default()),
    ];
    if footer.halved > 0 {
        entries.push(value("halved_batches", footer.halved.to_string()));
    }
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(format!("nightcap {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(entries));
    for field in schema.fields() {
        if let DataType::FixedSizeList(element, _) = field.data_type() {
            // Vectors are noise to a compressor and to a dictionary: both only cost the readers time.
            let path = ColumnPath::new(vec![field.name().clone(), "list".to_owned(), element.name().clone()]);
            properties = properties
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(path, false);
        }
    }
    properties.build()
}

/// Columns in which a row that is a copy speaks for itself.
const OWN: [&str; 9] = [
    "status",
    "error_stage",
    "error_kind",
    "error_message",
    "content_hash",
    "content_signature",
    "caption_fingerprint",
    "embedding_fingerprint",
    "run_seq",
];

/// Picks one vector out of a row's output.
type Vector = fn(&RowOutput) -> Option<&Vec<f32>>;

/// Picks one number out of a row's output.
type Score = fn(&RowOutput) -> Option<f32>;

/// Results by outcome.
#[must_use]
pub fn count(results: &[RowResult]) -> Counts {
    let mut counts = Counts { rows: results.len() as u64, ..Counts::default() };
    for row in results {
        match &row.outcome {
            Ok(_) => counts.ok += 1,
            Err(error) => {
                counts.failed += 1;
                *counts.failures.entry(error.kind.as_str().to_owned()).or_default() += 1;
            }
        }
    }
    counts
}

/// The columns that follow the carried ones.
fn fields(columns: &OutputColumns) -> Vec<Field> {
    let mut fields = vec![Field::new("status", DataType::Utf8, false)];
    let mut add = |wanted: bool, name: &str, kind: DataType, nullable: bool| {
        if wanted {
            fields.push(Field::new(name, kind, nullable));
        }
    };
    for name in ["error_stage", "error_kind", "error_message"] {
        add(true, name, DataType::Utf8, true);
    }
    add(columns.caption, "caption", DataType::Utf8, true);
    add(columns.caption, "caption_logprob", DataType::Float32, true);
    add(columns.caption, "caption_tokens", DataType::Int32, true);
    add(columns.caption, "caption_finish", DataType::Utf8, true);
    add(columns.caption && columns.caption_similarity, "caption_similarity", DataType::Float32, true);
    for (name, width) in [
        ("image_embedding", columns.image_embedding),
        ("text_embedding", columns.text_embedding),
        ("fused_embedding", columns.fused_embedding),
    ] {
        add(width.is_some(), name, vector_type(width.unwrap_or(0), columns.dtype), true);
    }
    add(columns.image_text_similarity, "image_text_similarity", DataType::Float32, true);
    add(columns.image_text_match, "image_text_match", DataType::Float32, true);
    add(columns.image, "image_width", DataType::Int32, true);
    add(columns.image, "image_height", DataType::Int32, true);
    add(columns.image, "content_hash", DataType::Utf8, true);
    add(true, "content_signature", DataType::Utf8, false);
    add(columns.caption, "caption_fingerprint", DataType::Utf8, false);
    add(columns.has_embedding_columns(), "embedding_fingerprint", DataType::Utf8, false);
    add(true, "run_seq", DataType::Int64, false);
    fields
}

fn element(dtype: VectorType) -> Arc<Field> {
    let kind = match dtype {
        VectorType::F32 => DataType::Float32,
        VectorType::F16 => DataType::Float16,
    };
    Arc::new(Field::new("element", kind, false))
}

fn vector_type(width: usize, dtype: VectorType) -> DataType {
    DataType::FixedSizeList(element(dtype), i32::try_from(width).unwrap_or(i32::MAX))
}

fn strings(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

/// Vectors as one fixed-size list column: null rows hold zeros underneath, the child has no nulls.
fn embeddings<'a>(
    rows: impl Iterator<Item = Option<&'a Vec<f32>>>,
    width: usize,
    dtype: VectorType,
) -> Result<ArrayRef, ParquetError> {
    let mut values: Vec<f32> = Vec::new();
    let mut valid = Vec::new();
    for row in rows {
        match row {
            Some(vector) => values.extend_from_slice(vector),
            None => values.resize(values.len() + width, 0.0),
        }
        valid.push(row.is_some());
    }
    let values: ArrayRef = match dtype {
        VectorType::F32 => Arc::new(Float32Array::from(values)),
        VectorType::F16 => {
            let mut halves = vec![f16::ZERO; values.len()];
            halves.convert_from_f32_slice(&values);
            Arc::new(Float16Array::from(halves))
        }
    };
    let size = i32::try_from(width).unwrap_or(i32::MAX);
    Ok(Arc::new(FixedSizeListArray::try_new(element(dtype), size, values, Some(NullBuffer::from(valid)))?))
}
