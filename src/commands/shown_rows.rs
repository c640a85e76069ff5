//! Rows of OUTPUT as people and programs see them: a table of text, or JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::io::{IsTerminal, stdout};

use arrow::array::{Array, ArrayRef, AsArray};
use arrow::datatypes::{DataType, Float32Type, Schema};
use arrow::record_batch::RecordBatch;
use rustix::termios::tcgetwinsize;
use serde_json::{Map, Value};

use super::context::Context;
use crate::output::OutputError;
use crate::output::view::{View, ViewPart};
pub(super) use crate::report::cells::{shown_columns, text_value};

/// Columns of a table where there is no terminal.
const WIDTH: usize = 120;
/// The fewest columns that a table is made for.
const NARROWEST: usize = 40;

/// Columns of the terminal: the environment variable `COLUMNS`, or what stdout says.
pub(super) fn terminal_width(context: &Context<'_>) -> usize {
    let set = (context.variable)("COLUMNS").and_then(|columns| columns.parse().ok());
    let of_terminal = || {
        let size = stdout().is_terminal().then(|| tcgetwinsize(stdout()).ok()).flatten()?;
        Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
    };
    set.or_else(of_terminal).unwrap_or(WIDTH).max(NARROWEST)
}

/// By part and row, a batch that holds the row, and its number there.
pub(super) type RowsAt = BTreeMap<(ViewPart, u32), (RecordBatch, usize)>;

/// The `columns` of rows at these places. Each part is read once.
pub(super) fn rows_at(
    view: &View,
    places: impl Iterator<Item = (ViewPart, u32)>,
    columns: &[&str],
) -> Result<RowsAt, OutputError> {
    let mut wanted: BTreeMap<ViewPart, Vec<u32>> = BTreeMap::new();
    places.for_each(|(part, row)| wanted.entry(part).or_default().push(row));
    let mut found = BTreeMap::new();
    for (part, mut rows) in wanted {
        rows.sort_unstable();
        rows.dedup();
        let batch = view.take(part, &rows, columns)?;
        found.extend(rows.into_iter().enumerate().map(|(at, row)| ((part, row), (batch.clone(), at))));
    }
    Ok(found)
}

/// The column of a caption or text, the first that there is.
pub(super) fn words_column(schema: &Schema) -> Option<&'static str> {
    ["caption", "text", "title"].into_iter().find(|name| schema.index_of(name).is_ok())
}

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

/// A table with a heading, at most `width` columns wide: the last column is wrapped. Cells of the other columns are cut. What would act
/// on a terminal is left out.
pub(super) fn table(heading: &[&str], rows: &[Vec<String>], width: usize) -> String {
    const LONGEST: usize = 40;
    let longest = LONGEST.min(width / 3);
    let Some(last) = heading.len().checked_sub(1) else { return String::new() };
    let cut = |text: &str| -> String {
        let text: String = text.chars().map(|c| if acts(c) { ' ' } else { c }).collect();
        if text.chars().count() <= longest {
            text
        } else {
            text.chars().take(longest - 3).chain("...".chars()).collect()
        }
    };
    let widest = |column: usize| {
        let cells = rows.iter().map(|row| cut(&row[column]).chars().count());
        cells.chain([heading[column].chars().count()]).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..last).map(widest).collect();
    let before: usize = widths.iter().map(|width| width + 2).sum();
    let mut text = String::new();
    let mut line = |cells: &[String], words: &str| {
        for (cell, width) in cells.iter().zip(&widths) {
            // Writing to a string cannot fail.
            let _ = write!(text, "{cell:<width$}  ");
        }
        for (number, part) in wrap(words, width.saturating_sub(before).max(10)).iter().enumerate() {
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

/// Whether a terminal does not show `c` but acts on it: a control character, or one that turns the direction of writing.
fn acts(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The lines of a text, broken between words, at most `width` characters long; longer words are cut.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let word: String = word.chars().filter(|c| !acts(*c)).take(width).collect();
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
        let text = table(&["rank", "key", "caption"], &rows, WIDTH);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH && line == line.trim_end()), "{text}");
        assert_eq!(text.matches("word").count(), 40);
        assert!(text.contains("a b") && text.contains("kkk..."), "{text}");
        for width in [NARROWEST, 57, 200] {
            let text = table(&["rank", "key", "caption"], &rows, width);
            assert!(text.lines().all(|line| line.chars().count() <= width), "{width}\n{text}");
            assert_eq!(text.matches("word").count(), 40);
        }
    }

    #[test]
    fn nothing_in_a_cell_acts_on_a_terminal() {
        let cell = "a\u{1b}[31mb\u{9b}31m\u{202e}c\u{2066}d\u{7}\u{7f}".to_owned();
        let text = table(&["key", "caption"], &[vec![cell.clone(), cell]], WIDTH);
        assert!(!text.chars().any(|c| acts(c) && c != '\n'), "{text:?}");
        assert!(text.contains("a [31mb") && text.contains("a[31mb31mcd"), "{text:?}");
    }
}
