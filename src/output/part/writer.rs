//! Encodes a part. In: the carried manifest columns and one [`RowResult`] for each row. Out: the bytes of one Parquet file, which
//! depend on nothing else. Never here: storage.

use std::sync::Arc;

use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, FieldRef, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::arrow::{ArrowSchemaConverter, ArrowWriter};
use parquet::basic::{Compression, LogicalType, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::WriterProperties;
use parquet::schema::types::{ColumnPath, SchemaDescriptor, Type, TypePtr};

use super::columns::{OutputColumns, Rows, RunStamp, columns};
use super::copies::Copies;
use super::footer::FILLER;
use super::hashes::{COLUMN_HASHES, column_hashes};
use super::result::RowResult;
use super::rows::Captions;
use crate::manifest::types::EXTENSION;
use crate::output::OutputError;
use crate::support::counts::Counts;

/// Encodes the parts of one run.
#[derive(Debug)]
pub struct PartEncoder {
    columns: OutputColumns,
    stamp: RunStamp,
    schema: SchemaRef,
}

impl PartEncoder {
    /// An encoder for parts of `schema`, which [`part_schema`](super::columns::part_schema) made for the same `columns`.
    #[must_use]
    pub fn new(schema: SchemaRef, columns: OutputColumns, stamp: RunStamp) -> Self {
        Self { columns, stamp, schema }
    }

    /// Digest of the plan that the parts are made for.
    #[must_use]
    pub fn plan_digest(&self) -> &str {
        &self.stamp.plan_digest
    }

    /// The columns that a copied row takes from its source.
    #[must_use]
    pub fn copied_columns(&self) -> Vec<&'static str> {
        columns(&self.columns).filter(|(column, _)| column.copied).map(|(column, _)| column.name).collect()
    }

    /// Part `part`; `carried` holds the same rows as `results`, in order, and `copies` what some of them
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
    ) -> Result<EncodedPart, OutputError> {
        let (run, plan_digest) = (&self.stamp.run, &self.stamp.plan_digest);
        let mut counts = count(results);
        let encoded = self.batch(carried, results, copies).and_then(|batch| {
            if let Some(captions) = Captions::of(&batch) {
                captions.count(&mut counts);
            }
            encode_batch(&batch, &PartFooter { run, plan_digest, part, counts: &counts, halved, is_filler: false })
        });
        let bytes = encoded.map_err(|source| OutputError::Encode { part, source })?;
        Ok(EncodedPart { bytes, counts })
    }

    fn batch(
        &self,
        carried: &[RecordBatch],
        results: &[RowResult],
        copies: Option<&Copies>,
    ) -> Result<RecordBatch, ParquetError> {
        let rows = Rows { results, stamp: &self.stamp };
        let carried_count = self.schema.fields().len() - columns(&self.columns).count();
        let carried_schema = Arc::new(self.schema.project(&(0..carried_count).collect::<Vec<_>>())?);
        let mut arrays = concat_batches(&carried_schema, carried)?.columns().to_vec();
        for (column, field) in columns(&self.columns) {
            let computed = column.fill(&rows, field.data_type())?;
            arrays.push(match copies.filter(|_| column.copied) {
                Some(copies) => copies.over(column.name, computed)?,
                None => computed,
            });
        }
        Ok(RecordBatch::try_new(self.schema.clone(), arrays)?)
    }
}

/// A part as it is put.
#[derive(Debug)]
pub struct EncodedPart {
    /// The Parquet file.
    pub bytes: Vec<u8>,
    /// Its rows.
    pub counts: Counts,
}

/// The metadata in the footer of a part.
pub(crate) struct PartFooter<'a> {
    pub(crate) run: &'a str,
    pub(crate) plan_digest: &'a str,
    pub(crate) part: u64,
    pub(crate) counts: &'a Counts,
    /// How often a batch was halved, because memory ran out or a run failed; its rows may differ in the last bits from those of whole
    /// batches.
    pub(crate) halved: u32,
    /// Whether the part only takes the name of a part that a closed run does not have; it has no rows.
    pub(crate) is_filler: bool,
}

/// The Parquet bytes of a part that holds the rows of `batch`.
pub(crate) fn encode_batch(batch: &RecordBatch, footer: &PartFooter<'_>) -> Result<Vec<u8>, ParquetError> {
    let options = ArrowWriterOptions::new().with_properties(properties(&batch.schema(), footer));
    let options = options.with_parquet_schema(parquet_schema(&batch.schema())?);
    let mut writer = ArrowWriter::try_new_with_options(Vec::new(), batch.schema(), options)?;
    writer.write(batch)?;
    writer.flush()?;
    // The columns are complete; what follows are indexes of pages and the footer.
    writer.sync()?;
    let hashes = column_hashes(writer.flushed_row_groups(), writer.inner()).map_err(ParquetError::General)?;
    writer.append_key_value_metadata(KeyValue::new(COLUMN_HASHES.to_owned(), hashes));
    writer.into_inner()
}

/// The Parquet schema of `schema`, with the logical types of UUIDs and JSON, which are extension types of Arrow.
fn parquet_schema(schema: &Schema) -> Result<SchemaDescriptor, ParquetError> {
    let plain = ArrowSchemaConverter::new().convert(schema)?;
    let column = |(field, column): (&FieldRef, &TypePtr)| {
        let extension = field.metadata().get(EXTENSION).map(String::as_str);
        let (logical, length) = match (extension, field.data_type()) {
            (Some("arrow.uuid"), DataType::FixedSizeBinary(16)) => (LogicalType::Uuid, 16),
            (Some("arrow.json"), DataType::Utf8) => (LogicalType::Json, -1),
            _ => return Ok(column.clone()),
        };
        let info = column.get_basic_info();
        let kind = Type::primitive_type_builder(column.name(), column.get_physical_type())
            .with_repetition(info.repetition())
            .with_logical_type(Some(logical))
            .with_length(length);
        kind.build().map(Arc::new)
    };
    let columns = schema.fields().iter().zip(plain.root_schema().get_fields()).map(column);
    let columns = columns.collect::<Result<Vec<_>, ParquetError>>()?;
    let root = Type::group_type_builder(plain.root_schema().name()).with_fields(columns).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

fn properties(schema: &Schema, footer: &PartFooter<'_>) -> WriterProperties {
    let value = |key: &str, value: String| KeyValue::new(format!("nightcap.{key}"), value);
    let mut entries = vec![
        value("run", footer.run.to_owned()),
        value("plan", footer.plan_digest.to_owned()),
        value("part", footer.part.to_string()),
        value("counts", serde_json::to_string(footer.counts).unwrap_or_default()),
    ];
    if footer.is_filler {
        entries.push(value(FILLER, true.to_string()));
    }
    if footer.halved > 0 {
        entries.push(value("halved_batches", footer.halved.to_string()));
    }
    let mut properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_created_by(format!("nightcap {}", env!("CARGO_PKG_VERSION")))
        .set_key_value_metadata(Some(entries));
    for field in schema.fields() {
        if let DataType::FixedSizeList(element, _) = field.data_type() {
            // Neither compression nor a dictionary makes vectors smaller; both cost readers time.
            let path = ColumnPath::new(vec![field.name().clone(), "list".to_owned(), element.name().clone()]);
            properties = properties
                .set_column_compression(path.clone(), Compression::UNCOMPRESSED)
                .set_column_dictionary_enabled(path, false);
        }
    }
    properties.build()
}

/// Counts results by status.
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
