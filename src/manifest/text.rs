//! Columns as text, whatever their type: keys, paths, signatures, what a prompt's template reads.

use arrow::array::{ArrayRef, AsArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::DataType;
use arrow::error::ArrowError;

/// A column as text. Times of a named zone such as `UTC`, which Arrow cannot tell without a table of zones, are given in UTC.
pub(super) fn strings(array: &ArrayRef) -> Result<StringArray, ArrowError> {
    let text = match array.data_type() {
        DataType::Timestamp(unit, Some(zone)) if !zone.starts_with(['+', '-']) => {
            let in_utc = DataType::Timestamp(*unit, Some("+00:00".into()));
            cast(&cast(&cast(array, &DataType::Int64)?, &in_utc)?, &DataType::Utf8)?
        }
        _ => cast(array, &DataType::Utf8)?,
    };
    Ok(text.as_string::<i32>().clone())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::TimestampMicrosecondArray;

    use super::*;

    #[test]
    fn times_are_text_in_every_zone() {
        let time = TimestampMicrosecondArray::from(vec![Some(1_700_000_000_500_000), None]);
        for (zone, expected) in [
            (None, "2023-11-14T22:13:20.500"),
            (Some("+01:00"), "2023-11-14T23:13:20.500+01:00"),
            (Some("UTC"), "2023-11-14T22:13:20.500Z"),
            (Some("Europe/Berlin"), "2023-11-14T22:13:20.500Z"),
        ] {
            let column: ArrayRef = Arc::new(time.clone().with_timezone_opt(zone));
            assert_eq!(strings(&column).unwrap().iter().collect::<Vec<_>>(), [Some(expected), None], "{zone:?}");
        }
    }
}
