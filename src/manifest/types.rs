//! The types as which columns are carried into parts, and casts to them that change no value.
//!
//! Arrow has several types for the same values: `string`, `large_string`, `string_view` and dictionaries of them. A part has one of
//! them, whatever the manifest of the night was written with, so that all parts of an OUTPUT have one schema.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DECIMAL128_MAX_PRECISION, DataType, Field, FieldRef, TimeUnit};
use arrow::error::ArrowError;
use parquet::basic::LogicalType;
use parquet::schema::types::Type;

/// Field metadata that names an extension type, as Arrow defines it.
pub const EXTENSION: &str = "ARROW:extension:name";

/// The type as which values of `kind` are carried. A column without any value (`Null`) is carried as text.
pub(super) fn carried_type(kind: &DataType) -> DataType {
    let field = |name: &str, field: &FieldRef| {
        let metadata = field.metadata().iter().filter(|(key, _)| !key.starts_with("PARQUET:"));
        let metadata: HashMap<_, _> = metadata.map(|(key, value)| (key.clone(), value.clone())).collect();
        Arc::new(Field::new(name, carried_type(field.data_type()), true).with_metadata(metadata))
    };
    match kind {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View | DataType::Null => DataType::Utf8,
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => DataType::Binary,
        DataType::Dictionary(_, values) => carried_type(values),
        DataType::RunEndEncoded(_, values) => carried_type(values.data_type()),
        // Parquet has no seconds, and would show plain numbers.
        DataType::Timestamp(TimeUnit::Second, zone) => DataType::Timestamp(TimeUnit::Millisecond, zone.clone()),
        DataType::Time32(_) => DataType::Time32(TimeUnit::Millisecond),
        DataType::Date64 => DataType::Date32,
        DataType::Decimal32(precision, scale)
        | DataType::Decimal64(precision, scale)
        | DataType::Decimal256(precision, scale)
            if *precision <= DECIMAL128_MAX_PRECISION =>
        {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child) => DataType::List(field("element", child)),
        DataType::FixedSizeList(child, length) => DataType::FixedSizeList(field("element", child), *length),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(|child| field(child.name(), child)).collect()),
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                let key = field("key", &fields[0]).as_ref().clone().with_nullable(false);
                let entries = DataType::Struct([Arc::new(key), field("value", &fields[1])].into_iter().collect());
                DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
            }
            _ => kind.clone(),
        },
        other => other.clone(),
    }
}

/// The field as which `field` is carried.
pub(super) fn carried_field(field: &Field) -> Field {
    let whole = Arc::new(field.clone());
    match carried_type(&DataType::Struct([whole].into_iter().collect())) {
        DataType::Struct(fields) => fields[0].as_ref().clone(),
        _ => field.clone(),
    }
}

/// Whether columns of these types hold the same kind of values. Times with a zone differ from those without one, and numbers of
/// different widths from each other.
pub(super) fn is_same_kind(one: &DataType, other: &DataType) -> bool {
    match (carried_type(one), carried_type(other)) {
        _ if *one == DataType::Null || *other == DataType::Null => true,
        (DataType::Timestamp(_, one), DataType::Timestamp(_, other)) => one.is_some() == other.is_some(),
        (one, other) => one.equals_datatype(&other),
    }
}

/// Of two types of the same kind, the one that holds the values of both: a type with values, and the finer unit of time.
pub(super) fn wider(one: &DataType, other: &DataType) -> DataType {
    match (one, other) {
        (DataType::Null, other) => other.clone(),
        (DataType::Timestamp(unit, _), DataType::Timestamp(finer, _)) if finer > unit => other.clone(),
        (one, _) => one.clone(),
    }
}

/// Why a column of this type cannot be carried into a part, if it cannot.
pub(super) fn not_carried(kind: &DataType) -> Option<&'static str> {
    let of_children = |fields: &[FieldRef]| fields.iter().find_map(|field| not_carried(field.data_type()));
    match kind {
        DataType::Interval(_) => Some("intervals of months, days and milliseconds, of which Arrow reads a part only"),
        DataType::Union(..) => Some("unions, which Parquet does not have"),
        DataType::Struct(fields) if fields.is_empty() => Some("structs without a field, which Parquet does not have"),
        DataType::Struct(fields) => of_children(fields),
        DataType::Dictionary(_, values) => not_carried(values),
        DataType::List(child)
        | DataType::LargeList(child)
        | DataType::ListView(child)
        | DataType::LargeListView(child)
        | DataType::FixedSizeList(child, _)
        | DataType::RunEndEncoded(_, child)
        | DataType::Map(child, _) => not_carried(child.data_type()),
        _ => None,
    }
}

/// `column` as `kind`, which is a type of the same kind.
///
/// # Errors
/// When a value would not be the same.
pub(super) fn cast_exactly(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef, ArrowError> {
    let from = column.data_type();
    if from == kind {
        return Ok(column.clone());
    }
    if *from == DataType::Null {
        return Ok(new_null_array(kind, column.len()));
    }
    let cast = |array: &ArrayRef, kind: &DataType| {
        cast_with_options(array, kind, &CastOptions { safe: false, ..CastOptions::default() })
    };
    if let (DataType::Timestamp(unit, Some(_)), DataType::Timestamp(to, Some(zone))) = (from, kind) {
        // The instant stays, whatever the zone is called; Arrow knows no zones by name.
        let plain = |unit: TimeUnit| DataType::Timestamp(unit, None);
        let instants = cast(&cast(column, &DataType::Int64)?, &plain(*unit))?;
        let changed = cast_exactly(&instants, &plain(*to))?;
        let numbers = cast(&changed, &DataType::Int64)?;
        return cast(&numbers, &DataType::Timestamp(*to, Some(zone.clone())));
    }
    let found = cast(column, kind)?;
    let may_lose = matches!(
        (from, kind),
        (DataType::Timestamp(..), DataType::Timestamp(..)) | (DataType::Date64 | DataType::Time32(_), _)
    );
    // What lies below a null does not count.
    if may_lose && cast(&found, from)?.as_ref() != column.as_ref() {
        return Err(ArrowError::CastError(format!(
            "expected values that are the same as {kind}, found others as {from}"
        )));
    }
    Ok(found)
}

/// The field with what the Parquet type says of it and its Arrow type does not: UUIDs, JSON, and whether a time is in UTC.
pub(super) fn with_logical_type(field: &Field, parquet: &Type) -> Field {
    let entry = match parquet.get_basic_info().logical_type_ref() {
        Some(LogicalType::Uuid) => (EXTENSION, "arrow.uuid"),
        Some(LogicalType::Json) => (EXTENSION, "arrow.json"),
        Some(LogicalType::Time(time)) if time.is_adjusted_to_u_t_c => ("adjusted_to_utc", ""),
        _ => return field.clone(),
    };
    let mut metadata = field.metadata().clone();
    if !metadata.contains_key(entry.0) {
        metadata.insert(entry.0.to_owned(), entry.1.to_owned());
    }
    field.clone().with_metadata(metadata)
}
