//! Rows of OUTPUT as people and programs see them: a table of text, or JSON.

use std::fmt::Write;

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type};
use arrow::record_batch::RecordBatch;
use serde_json::{Map, Value};

pub(super) use crate::report::cells::{shown_columns, text_value};

/// Columns of a terminal.
const WIDTH: usize = 120;

/// A value as JSON: numbers and truth values as they are, everything else as text.
pub(super) fn json_value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::from(column.as_boolean().value(row)),
        DataType::Float32 => Value::from(column.as_primitive::<Float32Type>().value(row)),
        kind if kind.is_numeric() => serde_json::from_str(&text_value(column, row)).unwrap_or(Value::Null),
        _ => Value::from(text_value(column, row)),
    }
}

/// A row as a JSON object.
pub(super) fn json_row(rows: &RecordBatch, row: usize) -> Map<String, Value> {
    let names = rows.schema();
    let values = names.fields().iter().zip(rows.columns());
    values.map(|(field, column)| (field.name().clone(), json_value(column, row))).collect()
}

/// A table with a heading, as wide as a terminal at most: the last column is wrapped. Cells of the other columns are cut.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>]) -> String {
    const LONGEST: usize = 40;
    let Some(last) = heading.len().checked_sub(1) else { return String::new() };
    let cut = |text: &str| -> String {
        let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        if text.chars().count() <= LONGEST {
            text
        } else {
            text.chars().take(LONGEST - 3).chain("...".chars()).collect()
        }
    };
    let width = |column: usize| {
        let cells = rows.iter().map(|row| cut(&row[column]).chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..last).map(width).collect();
    let before: usize = widths.iter().map(|width| width + 2).sum();
    let mut text = String::new();
    let mut line = |cells: &[String], words: &str| {
        for (cell, width) in cells.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        for (number, part) in wrap(words, WIDTH.saturating_sub(before).max(20)).iter().enumerate() {
            let _ = if number == 0 { text.write_str(part) } else { write!(text, "\n{:before$}{part}", "") };
        }
        text.truncate(text.trim_end_matches(' ').len());
        text.push('\n');
    };
    let heading: Vec<String> = heading.iter().map(|name| (*name).to_owned()).collect();
    line(&heading[..last], &heading[last]);
    let rules: Vec<String> = widths.iter().map(|width| "-".repeat(*width)).collect();
    line(&rules, &"-".repeat(heading[last].chars().count()));
    for row in rows {
        let cells: Vec<String> = row[..last].iter().map(|cell| cut(cell)).collect();
        line(&cells, &row[last]);
    }
    text
}

/// The lines of a text, broken between words, at most `width` characters long; longer words are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|c| !c.is_control()).take(width).collect();
        let used = lines.last().map_or(0, |line| line.chars().count());
        match lines.last_mut() {
            Some(line) if used == 0 => *line = word,
            Some(line) if used + 1 + word.chars().count() <= width => *line = format!("{line} {word}"),
            _ => lines.push(word),
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_wrapped_and_cut() {
        let words = "word ".repeat(40);
        let rows =
            vec![vec!["1".to_owned(), "k".repeat(60), words], vec!["2".to_owned(), "a\nb".to_owned(), String::new()]];
        let text = table(&["rank", "key", "caption"], &rows);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line == line.trim_end()), "{text}");
        assert_eq!(text.matches("word").count(), 40);
        assert!(text.contains("a b") && text.contains("kkk..."), "{text}");
    }
}
