//! CSV and JSON Lines as manifests: read twice, once for the types of the columns, once for their values, which go into a temporary
//! Parquet file. From there on they are manifests as all others.
//!
//! A column is of whole numbers, of numbers, of `true` and `false`, or of text; never of times. What would not come out as it stands
//! there, such as `007` or a number of more digits than its type holds, makes the column text. An empty field of a CSV file is null.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};

use arrow::record_batch::RecordBatch;
use csv_core::ReadRecordResult;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;
use serde_json::Value;

use super::column_types::{Cell, ColumnTypes, Kind, MOST_COLUMNS, Row, array};
use crate::storage::Location;

/// Rows that are written at once.
const AT_ONCE: usize = 1024;
/// Rows of a row group.
const GROUP_ROWS: usize = 1 << 15;
/// The most bytes of a line of JSON, and of a record of CSV.
const LONGEST_LINE: u64 = 64 << 20;

/// How a text file holds rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// Fields between commas, semicolons or tabs, below a line of names.
    Csv,
    /// An object a line.
    JsonLines,
}

impl Format {
    /// By the extension of a file's name.
    pub(super) fn of(location: &Location) -> Option<Self> {
        let name = location.file_name();
        let (_, extension) = name.rsplit_once('.')?;
        match extension.to_ascii_lowercase().as_str() {
            "csv" | "tsv" => Some(Self::Csv),
            "jsonl" | "ndjson" => Some(Self::JsonLines),
            _ => None,
        }
    }
}

/// Writes the rows of a file, which `open` opens, as a Parquet file into `to`.
///
/// # Errors
/// What was expected and found, with the line; and failures to read and write.
pub(super) fn convert<R: Read>(
    format: Format,
    open: impl Fn() -> Result<R, String>,
    to: std::fs::File,
) -> Result<(), String> {
    let mut columns = ColumnTypes::default();
    each_row(format, open()?, &mut |row| columns.see(row))?;
    let schema = columns.schema();
    // What is not written yet is in memory.
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(GROUP_ROWS)).build();
    let mut writer = ArrowWriter::try_new(to, schema.clone(), Some(properties)).map_err(|error| error.to_string())?;
    let mut cells: Vec<Vec<Cell>> = vec![Vec::new(); columns.names.len()];
    let (mut waiting, places) = (0, columns.places.clone());
    let mut write = |cells: &mut Vec<Vec<Cell>>| {
        let arrays = schema.fields().iter().zip(cells.iter_mut());
        let arrays = arrays.map(|(field, cells)| array(field.data_type(), &std::mem::take(cells)));
        let batch = RecordBatch::try_new(schema.clone(), arrays.collect()).map_err(|error| error.to_string())?;
        writer.write(&batch).map_err(|error| error.to_string())
    };
    each_row(format, open()?, &mut |row| {
        for (name, cell) in row {
            let column = places.get(&name).and_then(|place| cells.get_mut(*place));
            column.ok_or("it was changed while it was read")?.push(cell);
        }
        waiting += 1;
        for column in &mut cells {
            column.resize(waiting, None);
        }
        if waiting == AT_ONCE {
            waiting = 0;
            write(&mut cells)?;
        }
        Ok(())
    })?;
    if waiting > 0 {
        write(&mut cells)?;
    }
    writer.close().map(drop).map_err(|error| error.to_string())
}

fn each_row<R: Read>(format: Format, read: R, see: &mut dyn FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let mut read = BufReader::with_capacity(1 << 20, read);
    let start = read.fill_buf().map_err(|error| error.to_string())?;
    if start.starts_with(b"\xef\xbb\xbf") {
        read.consume(3);
    }
    match format {
        Format::Csv => each_record(read, see),
        Format::JsonLines => each_line(read, see),
    }
}

fn each_record<R: Read>(mut read: BufReader<R>, see: &mut dyn FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let start = read.fill_buf().map_err(|error| error.to_string())?;
    let head = start.split(|byte| b"\r\n".contains(byte)).next().unwrap_or_default();
    let count = |delimiter: u8| memchr::memchr_iter(delimiter, head).count();
    // The last of equals.
    let delimiter = b";\t,".iter().copied().max_by_key(|delimiter| count(*delimiter)).unwrap_or(b',');
    let mut parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
    // The text of one record, and where its fields end.
    let (mut text, mut ends) = (vec![0; 1 << 16], vec![0; 64]);
    let (mut length, mut count) = (0, 0);
    let (mut names, mut rows): (Option<Vec<(String, usize)>>, u64) = (None, 0);
    loop {
        let input = read.fill_buf().map_err(|error| error.to_string())?;
        let (result, taken, written, ended) = parser.read_record(input, &mut text[length..], &mut ends[count..]);
        read.consume(taken);
        (length, count) = (length + written, count + ended);
        let line = parser.line();
        match result {
            ReadRecordResult::InputEmpty => continue,
            ReadRecordResult::OutputFull if text.len() as u64 >= LONGEST_LINE => {
                return Err(format!("line {line}: expected at most {LONGEST_LINE} bytes, found more"));
            }
            ReadRecordResult::OutputFull => {
                text.resize(text.len() * 2, 0);
                continue;
            }
            ReadRecordResult::OutputEndsFull if ends.len() > MOST_COLUMNS => {
                return Err(format!("line {line}: expected at most {MOST_COLUMNS} columns, found more"));
            }
            ReadRecordResult::OutputEndsFull => {
                ends.resize(ends.len() * 2, 0);
                continue;
            }
            ReadRecordResult::End => break,
            ReadRecordResult::Record => {}
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let fields = starts.zip(ends.iter().take(count)).map(|(start, end)| {
            let field = text.get(start..*end).unwrap_or_default();
            std::str::from_utf8(field).map_err(|_| format!("line {line}: expected UTF-8, found another encoding"))
        });
        let fields = fields.collect::<Result<Vec<_>, _>>()?;
        if let Some(names) = &names {
            if names.len() != fields.len() {
                let (wanted, found) = (names.len(), fields.len());
                return Err(format!("before line {line}: expected {wanted} fields, found {found}"));
            }
            rows += 1;
            see(names.iter().cloned().zip(fields.into_iter().map(field)).collect())?;
        } else {
            let mut seen: HashMap<&str, usize> = HashMap::new();
            let number = |name: &'_ str, seen: usize| (name.to_owned(), seen - 1);
            let mut found = Vec::new();
            for name in fields {
                *seen.entry(name).or_default() += 1;
                found.push(number(name, seen[name]));
            }
            names = Some(found);
        }
        (length, count) = (0, 0);
    }
    if rows == 0 {
        return Err("expected rows below a line with the names of the columns, found none".to_owned());
    }
    Ok(())
}

/// A field of a CSV file.
fn field(text: &str) -> Cell {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let is_number = digits.bytes().next().is_some_and(|byte| byte.is_ascii_digit() || byte == b'.')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    let has_zeros = digits.len() > 1 && digits.starts_with('0') && !digits.starts_with("0.");
    let kind = match text {
        "" => return None,
        _ if text.eq_ignore_ascii_case("true") || text.eq_ignore_ascii_case("false") => Kind::Truth,
        _ if !is_number || has_zeros => Kind::Text,
        _ if digits.bytes().all(|byte| byte.is_ascii_digit()) => Kind::Whole,
        _ if text.parse::<f64>().is_ok_and(f64::is_finite) => Kind::Number,
        _ => Kind::Text,
    };
    Some((text.to_owned(), kind))
}

fn each_line<R: Read>(mut read: BufReader<R>, see: &mut dyn FnMut(Row) -> Result<(), String>) -> Result<(), String> {
    let (mut line, mut number) = (Vec::new(), 0_u64);
    loop {
        line.clear();
        number += 1;
        let length =
            read.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line).map_err(|error| error.to_string())?;
        if length == 0 {
            return Ok(());
        }
        if length as u64 == LONGEST_LINE && !line.ends_with(b"\n") {
            return Err(format!("line {number}: expected at most {LONGEST_LINE} bytes, found more"));
        }
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let value = lenient_json(&line).map_err(|error| format!("line {number}: {error}"))?;
        let Value::Object(object) = value else { return Err(format!("line {number}: expected an object")) };
        see(object.into_iter().map(|(name, value)| ((name, 0), json(value))).collect())?;
    }
}

/// Reads JSON, with `NaN` and `Infinity`, which Python writes, as nulls.
pub(super) fn lenient_json(text: &[u8]) -> serde_json::Result<Value> {
    serde_json::from_slice(text).or_else(|error| {
        let plain = without_nan(text);
        if plain == text { Err(error) } else { serde_json::from_slice(&plain).map_err(|_| error) }
    })
}

fn without_nan(text: &[u8]) -> Vec<u8> {
    let (mut plain, mut at, mut is_text) = (Vec::with_capacity(text.len()), 0, false);
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let words: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];
        let word = words.into_iter().find(|word| !is_text && rest.starts_with(word));
        let length = match (byte, word) {
            (_, Some(word)) => {
                plain.extend(b"null");
                at += word.len();
                continue;
            }
            (b'\\', None) if is_text => rest.len().min(2),
            _ => 1,
        };
        is_text ^= byte == b'"';
        plain.extend(rest.iter().take(length));
        at += length;
    }
    plain
}

/// A value of JSON; lists and objects stay JSON, as text.
fn json(value: Value) -> Cell {
    let kind = match &value {
        Value::Null => return None,
        Value::Bool(_) => Kind::Truth,
        Value::Number(number) if number.is_i64() || number.is_u64() => Kind::Whole,
        Value::Number(_) => Kind::Number,
        _ => Kind::Text,
    };
    match value {
        Value::String(text) => Some((text, kind)),
        value => Some((value.to_string(), kind)),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::ArrayRef;
    use arrow::util::display::array_value_to_string;
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    /// Names with types, and the rows as text.
    fn converted(format: Format, text: &str) -> Result<(String, Vec<Vec<String>>), String> {
        let file = tempfile::tempfile().unwrap();
        convert(format, || Ok(text.as_bytes()), file.try_clone().unwrap())?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap();
        let fields = reader.schema().fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
        let fields = fields.collect::<Vec<_>>().join(", ");
        let mut rows = Vec::new();
        for batch in reader.build().unwrap() {
            let batch = batch.unwrap();
            let show = |column: &ArrayRef, row| {
                if column.logical_nulls().is_some_and(|nulls| nulls.is_null(row)) {
                    "-".to_owned()
                } else {
                    array_value_to_string(column, row).unwrap()
                }
            };
            rows.extend(
                (0..batch.num_rows()).map(|row| batch.columns().iter().map(|column| show(column, row)).collect()),
            );
        }
        Ok((fields, rows))
    }

    #[test]
    fn values_come_out_as_they_stand() {
        let (fields, rows) = converted(
            Format::Csv,
            "\u{feff}id,n,x,b,zip,big,mixed,none,note\n\
             1,-5,0.5,true,007,18446744073709551615,1,,\"a, \"\"b\"\"\nline\"\n\
             2,,1e3,False,8,0,x,,\n",
        )
        .unwrap();
        assert_eq!(
            fields,
            "id Int64, n Int64, x Float64, b Boolean, zip Utf8, big UInt64, mixed Utf8, none Null, note Utf8"
        );
        assert_eq!(rows[0][..7], ["1", "-5", "0.5", "true", "007", "18446744073709551615", "1"]);
        assert_eq!(rows[0][8], "a, \"b\"\nline");
        assert_eq!(rows[1], ["2", "-", "1000.0", "false", "8", "0", "x", "-", "-"]);
        let (fields, rows) = converted(
            Format::JsonLines,
            "{\"id\": \"1\", \"n\": 9007199254740993, \"t\": true, \"l\": [1, 2]}\n\n{\"id\": \"2\", \"n\": 0.5, \"late\": 1}",
        )
        .unwrap();
        assert_eq!(fields, "id Utf8, l Utf8, n Utf8, t Boolean, late Int64");
        assert_eq!(rows, [["1", "[1,2]", "9007199254740993", "true", "-"], ["2", "-", "0.5", "-", "1"]]);
        let (fields, rows) =
            converted(Format::JsonLines, "{\"a\": NaN, \"b\": [\"NaN\\\"NaN\", -Infinity]}\n{\"a\": 0.5}").unwrap();
        assert_eq!(fields, "a Float64, b Utf8");
        assert_eq!(rows, [["-", "[\"NaN\\\"NaN\",null]"], ["0.5", "-"]]);
        assert_eq!(converted(Format::Csv, "a;b\n1;2\n").unwrap().0, "a Int64, b Int64");
        assert_eq!(converted(Format::Csv, "a\tb\n1\t2\n").unwrap().0, "a Int64, b Int64");
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        assert!(converted(Format::Csv, "a,b\n1\n").unwrap_err().contains("expected 2 fields, found 1"));
        assert!(converted(Format::JsonLines, "{}\n[1]").unwrap_err().contains("line 2"));
        assert!(converted(Format::JsonLines, "{\"a\": ").unwrap_err().contains("line 1"));
        assert!(converted(Format::Csv, "a,b\n").unwrap_err().contains("rows"));
    }
}
