//! Values of rows as text.

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Schema};
use arrow::util::display::{ArrayFormatter, FormatOptions};

use crate::support::redact;

/// The columns that can be shown: all but vectors and bytes.
#[must_use]
pub fn shown_columns(schema: &Schema) -> Vec<&str> {
    let shown = |kind: &DataType| {
        !matches!(
            kind,
            DataType::FixedSizeList(_, _)
                | DataType::Binary
                | DataType::LargeBinary
                | DataType::BinaryView
                | DataType::FixedSizeBinary(_)
        )
    };
    schema.fields().iter().filter(|field| shown(field.data_type())).map(|field| field.name().as_str()).collect()
}

/// A value as text; a null is empty.
#[must_use]
pub fn text_value(column: &ArrayRef, row: usize) -> String {
    let options = FormatOptions::default();
    ArrayFormatter::try_new(column, &options).map(|values| values.value(row).to_string()).unwrap_or_default()
}

/// A text for a page: without credentials, of at most `most` characters, and without control characters other than line breaks.
pub(super) fn shown(text: &str, most: usize) -> String {
    let text = redact::text(text);
    let plain = |c: char| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c };
    // A text of few bytes has few characters.
    let count = if text.len() <= most { 0 } else { text.chars().count() };
    if count <= most {
        return text.chars().map(plain).collect();
    }
    let start: String = text.chars().take(most).map(plain).collect();
    format!("{start}\u{2026} [{count} characters]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_and_hold_no_control_characters_and_no_credentials() {
        assert_eq!(shown("a\u{0}b\u{1b}[1m\nc", 99), "a\u{fffd}b\u{fffd}[1m\nc");
        assert_eq!(shown(&"é".repeat(12), 10), format!("{}… [12 characters]", "é".repeat(10)));
        assert_eq!(shown(&"é".repeat(10), 10), "é".repeat(10));
        assert!(!shown("https://me:hunter2@host/a.jpg", 99).contains("hunter2"));
    }
}
