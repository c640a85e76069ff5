//! The columns that `export` adds, and vectors in another type.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryBuilder, FixedSizeListArray, Float32Builder, Int64Builder, ListBuilder,
    StringArray, StructArray,
};
use arrow::buffer::NullBuffer;
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Fields};
use arrow::error::ArrowError;

use crate::search::neighbors::Neighbor;
use crate::thumbnails::Thumbnail;

/// Whether a column holds vectors.
pub(super) fn is_vector(kind: &DataType) -> bool {
    matches!(kind, DataType::FixedSizeList(element, _) if element.data_type().is_floating())
}

/// `column` of vectors with elements of the type `element`.
pub(super) fn vectors_as(column: &ArrayRef, element: &DataType) -> Result<ArrayRef, ArrowError> {
    let Some(vectors) = column.as_fixed_size_list_opt() else { return Ok(column.clone()) };
    let width = vectors.value_length();
    let values = vectors.values().slice(vectors.value_offset_at(0), vectors.len() * width as usize);
    let field = vector_field(vectors.data_type(), element);
    let values = cast(&values, element)?;
    Ok(Arc::new(FixedSizeListArray::try_new(field, width, values, vectors.nulls().cloned())?))
}

/// The element field of vectors of the type `kind`, with elements of the type `element`.
pub(super) fn vector_field(kind: &DataType, element: &DataType) -> Arc<Field> {
    match kind {
        DataType::FixedSizeList(field, _) => Arc::new(field.as_ref().clone().with_data_type(element.clone())),
        _ => Arc::new(Field::new_list_field(element.clone(), false)),
    }
}

fn thumbnail_fields() -> Fields {
    Fields::from(vec![Field::new("bytes", DataType::Binary, true), Field::new("path", DataType::Utf8, true)])
}

/// The field of thumbnails: images as Hugging Face datasets and embedding-atlas read them.
pub(super) fn thumbnail_field() -> Field {
    Field::new("thumbnail", DataType::Struct(thumbnail_fields()), true)
}

/// The column of thumbnails; null where there is none.
pub(super) fn thumbnail_column(thumbnails: &[Thumbnail]) -> Result<ArrayRef, ArrowError> {
    let mut bytes = BinaryBuilder::new();
    for thumbnail in thumbnails {
        bytes.append_option(match thumbnail {
            Thumbnail::Jpeg(jpeg) => Some(jpeg),
            _ => None,
        });
    }
    let there: NullBuffer =
        thumbnails.iter().map(|found| matches!(found, Thumbnail::Jpeg(_))).collect::<Vec<_>>().into();
    let columns: Vec<ArrayRef> = vec![Arc::new(bytes.finish()), Arc::new(StringArray::new_null(thumbnails.len()))];
    Ok(Arc::new(StructArray::try_new(thumbnail_fields(), columns, Some(there))?))
}

fn neighbor_fields() -> Fields {
    let list = |kind| DataType::List(Arc::new(Field::new_list_field(kind, true)));
    Fields::from(vec![
        Field::new("ids", list(DataType::Int64), true),
        Field::new("distances", list(DataType::Float32), true),
    ])
}

/// The field of neighbors, as embedding-atlas reads them.
pub(super) fn neighbor_field() -> Field {
    Field::new("neighbors", DataType::Struct(neighbor_fields()), true)
}

/// The column of neighbors: row numbers of the file, and 1 - cosine; null where a row has no vector.
pub(super) fn neighbor_column(rows: &[Option<Vec<Neighbor>>]) -> Result<ArrayRef, ArrowError> {
    let (mut ids, mut distances) = (ListBuilder::new(Int64Builder::new()), ListBuilder::new(Float32Builder::new()));
    for row in rows {
        for (id, score) in row.iter().flatten() {
            ids.values().append_value(i64::from(*id));
            distances.values().append_value(1.0 - score);
        }
        ids.append(row.is_some());
        distances.append(row.is_some());
    }
    let there: NullBuffer = rows.iter().map(Option::is_some).collect::<Vec<_>>().into();
    let columns: Vec<ArrayRef> = vec![Arc::new(ids.finish()), Arc::new(distances.finish())];
    Ok(Arc::new(StructArray::try_new(neighbor_fields(), columns, Some(there))?))
}
