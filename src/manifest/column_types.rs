//! The types of the columns of CSV and JSON Lines. In: rows, as they stand in the file. Out: the type that holds every value of a column as
//! it stands there, and the values in it. How a file holds rows is not known here.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Float64Array, Int64Array, NullArray, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

/// The most columns.
pub(super) const MOST_COLUMNS: usize = 10_000;
/// Whole numbers up to this one are exact as `f64`.
const EXACT: u64 = 1 << 53;

/// A value as it stands in the file; None: null.
pub(super) type Cell = Option<(String, Kind)>;

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Whole,
    Number,
    Truth,
    Text,
}

/// Name and value of each column of a row. Columns of one name are told apart by their numbers.
pub(super) type Row = Vec<((String, usize), Cell)>;

/// The columns seen so far.
#[derive(Default)]
pub(super) struct ColumnTypes {
    pub(super) names: Vec<String>,
    pub(super) places: HashMap<(String, usize), usize>,
    seen: Vec<Seen>,
}

/// What the values of a column are.
#[derive(Debug, Clone, Copy, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is one kind of value, seen or not")]
struct Seen {
    whole: bool,
    negative: bool,
    /// A whole number beyond `i64`.
    large: bool,
    /// A whole number that `f64` does not hold.
    inexact: bool,
    number: bool,
    truth: bool,
    text: bool,
}

impl ColumnTypes {
    pub(super) fn see(&mut self, row: Row) -> Result<(), String> {
        for (name, cell) in row {
            let place = match self.places.get(&name) {
                Some(place) => *place,
                None if self.names.len() == MOST_COLUMNS => {
                    return Err(format!("expected at most {MOST_COLUMNS} columns, found more"));
                }
                None => {
                    self.names.push(name.0.clone());
                    self.seen.push(Seen::default());
                    self.places.insert(name, self.names.len() - 1);
                    self.names.len() - 1
                }
            };
            if let (Some((text, kind)), Some(seen)) = (cell, self.seen.get_mut(place)) {
                seen.add(&text, kind);
            }
        }
        Ok(())
    }

    pub(super) fn schema(&self) -> SchemaRef {
        let field = |(name, seen): (&String, &Seen)| Field::new(name, seen.kind(), true);
        Arc::new(Schema::new(self.names.iter().zip(&self.seen).map(field).collect::<Vec<_>>()))
    }
}

impl Seen {
    fn add(&mut self, text: &str, kind: Kind) {
        match kind {
            Kind::Truth => self.truth = true,
            Kind::Text => self.text = true,
            Kind::Number => self.number = true,
            Kind::Whole => match text.parse::<i128>() {
                Ok(value) if value >= i128::from(i64::MIN) && value <= i128::from(u64::MAX) => {
                    self.whole = true;
                    self.negative |= value < 0;
                    self.large |= value > i128::from(i64::MAX);
                    self.inexact |= value.unsigned_abs() > u128::from(EXACT);
                }
                _ => self.text = true,
            },
        }
    }

    const fn kind(self) -> DataType {
        match self {
            Self { text: true, .. } => DataType::Utf8,
            Self { truth: true, whole: false, number: false, .. } => DataType::Boolean,
            Self { truth: true, .. } | Self { number: true, inexact: true, .. } => DataType::Utf8,
            Self { number: true, .. } => DataType::Float64,
            Self { large: true, negative: true, .. } => DataType::Utf8,
            Self { large: true, .. } => DataType::UInt64,
            Self { whole: true, .. } => DataType::Int64,
            _ => DataType::Null,
        }
    }
}

/// The values of a column of the type `kind`.
pub(super) fn array(kind: &DataType, cells: &[Cell]) -> ArrayRef {
    let texts = cells.iter().map(|cell| cell.as_ref().map(|(text, _)| text.as_str()));
    match kind {
        DataType::Null => Arc::new(NullArray::new(cells.len())),
        DataType::Int64 => Arc::new(texts.map(|text| text?.parse().ok()).collect::<Int64Array>()),
        DataType::UInt64 => Arc::new(texts.map(|text| text?.parse().ok()).collect::<UInt64Array>()),
        DataType::Float64 => Arc::new(texts.map(|text| text?.parse().ok()).collect::<Float64Array>()),
        DataType::Boolean => {
            Arc::new(texts.map(|text| Some(text?.eq_ignore_ascii_case("true"))).collect::<BooleanArray>())
        }
        _ => Arc::new(texts.collect::<StringArray>()),
    }
}
