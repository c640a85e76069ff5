//! The strings within JSON.

use super::bound::message;

/// Every string in `value` as `change` makes it; keys stay.
pub fn strings_of(value: &mut serde_json::Value, change: fn(&str) -> String) {
    match value {
        serde_json::Value::String(text) => *text = change(text),
        serde_json::Value::Array(values) => values.iter_mut().for_each(|value| strings_of(value, change)),
        serde_json::Value::Object(values) => values.values_mut().for_each(|value| strings_of(value, change)),
        _ => {}
    }
}

/// JSON text with every string as [`message`] makes it. Numbers and order stay as they are.
#[must_use]
pub fn json(text: &str) -> String {
    let (mut shown, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(start) = rest.find('"') {
        shown.push_str(&rest[..start]);
        let mut strings = serde_json::Deserializer::from_str(&rest[start..]).into_iter::<String>();
        // Text that is no JSON is left as it is; whoever calls this has made it.
        let Some(Ok(string)) = strings.next() else { return shown + &rest[start..] };
        shown.push_str(&serde_json::Value::from(message(&string)).to_string());
        rest = &rest[start + strings.byte_offset()..];
    }
    shown + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_its_numbers_and_order() {
        let given = "{\n  \"b\": 0.1, \"a\": [\"x \\\"y\\\" https://me:hunter2@h\", null]}";
        let shown = "{\n  \"b\": 0.1, \"a\": [\"x \\\"y\\\" https://[redacted]@h\", null]}";
        assert_eq!(json(given), shown);
    }
}
