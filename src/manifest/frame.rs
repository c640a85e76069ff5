//! Rows as polars takes them. In: Arrow batches of columns that a predicate reads. Out: a polars frame with copies of them. They are
//! handed over as an Arrow stream in memory, which both libraries check; polars opens no file. Types that polars does not have (it is
//! built without small unsigned integers, dictionaries and extensions) become the plain type with the same values.

use std::io::Cursor;

use arrow::array::ArrayRef;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use polars::prelude::{Column, DataFrame, PlSmallStr, PolarsError, PolarsResult, Series};
use polars_arrow::io::ipc::read::{StreamReader, StreamState, read_stream_metadata};

/// `field` as polars has it, without metadata.
pub(super) fn plain_field(field: &Field) -> Field {
    Field::new(field.name(), plain_type(field.data_type()), field.is_nullable())
}

fn plain_type(kind: &DataType) -> DataType {
    let child = |field: &Field| plain_field(field).into();
    match kind {
        DataType::UInt8 | DataType::UInt16 => DataType::UInt32,
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Dictionary(_, values) => plain_type(values),
        DataType::RunEndEncoded(_, values) => plain_type(values.data_type()),
        DataType::List(field) | DataType::ListView(field) => DataType::List(child(field)),
        DataType::LargeList(field) | DataType::LargeListView(field) => DataType::LargeList(child(field)),
        DataType::FixedSizeList(field, length) => DataType::FixedSizeList(child(field), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|field| plain_field(field)).collect::<Fields>()),
        DataType::Map(entries, sorted) => DataType::Map(child(entries), *sorted),
        other => other.clone(),
    }
}

/// `columns` with the types of `schema`, which [`plain_field`] made.
///
/// # Errors
/// The library's, if it cannot convert a column.
pub(super) fn plain_batch(schema: &SchemaRef, columns: &[ArrayRef]) -> Result<RecordBatch, ArrowError> {
    let converted = columns.iter().zip(schema.fields()).map(|(column, field)| cast(column, field.data_type()));
    RecordBatch::try_new(schema.clone(), converted.collect::<Result<_, _>>()?)
}

/// The rows of `batches`, which have `schema`.
///
/// # Errors
/// What one of the libraries says.
pub(super) fn frame(schema: &SchemaRef, batches: &[RecordBatch]) -> PolarsResult<DataFrame> {
    let encode = || {
        let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
        // Also without a row: a column needs an array to have a type.
        writer.write(&RecordBatch::new_empty(schema.clone()))?;
        batches.iter().try_for_each(|batch| writer.write(batch))?;
        writer.into_inner()
    };
    let bytes = encode().map_err(|error| PolarsError::ComputeError(error.to_string().into()))?;
    let mut bytes = Cursor::new(bytes);
    let metadata = read_stream_metadata(&mut bytes)?;
    let mut columns = vec![Vec::new(); schema.fields().len()];
    for state in StreamReader::new(bytes, metadata, None) {
        let StreamState::Some(batch) = state? else { break };
        columns.iter_mut().zip(batch.into_arrays()).for_each(|(column, array)| column.push(array));
    }
    let series = schema.fields().iter().zip(columns).map(|(field, arrays)| {
        let name = PlSmallStr::from_str(field.name());
        Series::try_from((name, arrays)).map(|series| Column::from(series.rechunk()))
    });
    let rows = batches.iter().map(RecordBatch::num_rows).sum();
    DataFrame::new(rows, series.collect::<PolarsResult<_>>()?)
}
