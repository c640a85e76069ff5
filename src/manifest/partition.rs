//! Columns that stand in the path of a file, as Hive and Spark write them: `year=2024/month=1/part-0.parquet`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Int64Array, StringArray, new_null_array};
use arrow::datatypes::DataType;
use chrono::NaiveDate;

use crate::storage::Location;

/// What Hive writes for a null.
const NULL: &str = "__HIVE_DEFAULT_PARTITION__";
/// Days from 0001-01-01 to 1970-01-01.
const EPOCH: i32 = 719_163;

/// Names and values of the folders `name=value` above a file, from the top down; None: null.
pub(super) fn partitions(file: &Location) -> Vec<(String, Option<String>)> {
    let path = match file {
        Location::Local(path) => path.to_string_lossy().into_owned(),
        Location::Object { key, .. } => key.clone(),
        // Its segments are no folders.
        Location::Http(_) => return Vec::new(),
    };
    let Some((folders, _)) = path.rsplit_once('/') else { return Vec::new() };
    folders.split('/').filter_map(partition).collect()
}

/// Whether a folder of this name holds rows of one value.
pub(super) fn is_partition(folder: &str) -> bool {
    partition(folder).is_some()
}

fn partition(folder: &str) -> Option<(String, Option<String>)> {
    let (name, value) = folder.split_once('=')?;
    let name = decoded(name);
    let is_name = name.chars().all(|letter| letter.is_alphanumeric() || "_-. ".contains(letter));
    (!name.is_empty() && is_name).then(|| (name, (value != NULL).then(|| decoded(value))))
}

/// With `%3A` and the like as the characters that they stand for.
fn decoded(text: &str) -> String {
    percent_encoding::percent_decode_str(text).decode_utf8_lossy().into_owned()
}

/// The type of the values of one name: whole numbers, dates, or else text, as `DuckDB` takes them.
pub(super) fn kind_of<'a>(values: &(impl Iterator<Item = &'a str> + Clone)) -> DataType {
    if values.clone().next().is_none() {
        return DataType::Utf8;
    }
    if values.clone().all(|value| value.parse::<i64>().is_ok()) {
        return DataType::Int64;
    }
    if values.clone().all(|value| date(value).is_some()) { DataType::Date32 } else { DataType::Utf8 }
}

fn date(value: &str) -> Option<i32> {
    use chrono::Datelike as _;
    let date = NaiveDate::parse_from_str(value, "%Y-%m-%d").ok().filter(|_| value.len() == 10)?;
    Some(date.num_days_from_ce() - EPOCH)
}

/// `value` in each of `rows`, as `kind`.
pub(super) fn column(value: Option<&str>, kind: &DataType, rows: usize) -> ArrayRef {
    let null = || new_null_array(kind, rows);
    let Some(value) = value else { return null() };
    match kind {
        DataType::Int64 => value.parse().map_or_else(|_| null(), |value| Arc::new(Int64Array::from_value(value, rows))),
        DataType::Date32 => date(value).map_or_else(null, |value| Arc::new(Date32Array::from_value(value, rows))),
        _ => Arc::new(std::iter::repeat_n(Some(value), rows).collect::<StringArray>()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_with_values() {
        let of = |path: &str| partitions(&Location::Local(path.into()));
        let pair = |name: &str, value: Option<&str>| (name.to_owned(), value.map(str::to_owned));
        assert_eq!(
            of("/d/year=2024/lang=de%20AT/day=__HIVE_DEFAULT_PARTITION__/a=b.parquet"),
            [pair("year", Some("2024")), pair("lang", Some("de AT")), pair("day", None)]
        );
        assert_eq!(of("/d/=x/a?b=c/e.parquet"), []);
        let kind = |values: &[&str]| kind_of(&values.iter().copied());
        assert_eq!(kind(&["2024", "007"]), DataType::Int64);
        assert_eq!(kind(&["2024-01-31", "1969-12-31"]), DataType::Date32);
        assert_eq!(kind(&["2024-02-30"]), DataType::Utf8);
        assert_eq!(kind(&["2024", "x"]), DataType::Utf8);
        assert_eq!(date("1969-12-31"), Some(-1));
    }
}
