//! The filter `tojson` of chat templates. In: a value of a template. Out: what Python's `json.dumps` makes of it, as transformers calls it
//! (`ensure_ascii` is false unless the template asks for it). Every text that it makes is paid for by the fuel of the rendering.

use std::fmt::Write as _;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, State, Value};

use crate::support::jinja;

/// Lists inside each other; a template has no way to make one that holds itself.
const MOST_DEPTH: usize = 100;
/// The widest indent.
const MOST_INDENT: usize = 100;

/// How the text is written.
struct Layout {
    ensure_ascii: bool,
    indent: Option<String>,
    item: String,
    key: String,
    sort_keys: bool,
}

/// `value | tojson(ensure_ascii=false, indent=none, separators=none, sort_keys=false)`.
///
/// # Errors
/// When the value, or one in it, is no JSON; when the fuel does not pay for the text.
#[allow(clippy::needless_pass_by_value, reason = "minijinja gives arguments by value")]
pub(super) fn tojson(
    state: &mut State<'_, '_>,
    value: &Value,
    ensure_ascii: Option<Value>,
    indent: Option<Value>,
    options: Kwargs,
) -> Result<String, Error> {
    jinja::pay(state, std::slice::from_ref(value), 2)?;
    let given = |name: &str, positional: Option<Value>| -> Result<Option<Value>, Error> {
        let named: Option<Value> = options.get(name)?;
        Ok(named.or(positional).filter(|value| !value.is_none() && !value.is_undefined()))
    };
    let indent = given("indent", indent)?.map(|value| match value.as_str() {
        Some(text) => text.chars().take(MOST_INDENT).collect(),
        None => " ".repeat(usize::try_from(value).unwrap_or(0).min(MOST_INDENT)),
    });
    let separators = given("separators", None)?;
    let separator = |place: usize, usual: &str| {
        let given = separators.as_ref().and_then(|pair| pair.get_item(&Value::from(place)).ok());
        given.and_then(|text| text.as_str().map(str::to_owned)).unwrap_or_else(|| usual.to_owned())
    };
    let layout = Layout {
        ensure_ascii: given("ensure_ascii", ensure_ascii)?.is_some_and(|value| value.is_true()),
        item: separator(0, if indent.is_some() { "," } else { ", " }),
        key: separator(1, ": "),
        indent,
        sort_keys: given("sort_keys", None)?.is_some_and(|value| value.is_true()),
    };
    options.assert_all_used()?;
    let mut text = String::new();
    layout.write(state, value, 0, &mut text)?;
    Ok(text)
}

impl Layout {
    fn write(&self, state: &State<'_, '_>, value: &Value, depth: usize, to: &mut String) -> Result<(), Error> {
        let refuse = |what: &str| Error::new(ErrorKind::InvalidOperation, format!("tojson: {what}"));
        if depth > MOST_DEPTH {
            return Err(refuse("lists are too deep inside each other"));
        }
        match value.kind() {
            ValueKind::None => to.push_str("null"),
            ValueKind::Bool => to.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => to.push_str(&number(value)),
            ValueKind::String => self.quote(value.as_str().unwrap_or_default(), to),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = value.try_iter()?.map(|item| (None, item)).collect();
                self.items(state, ['[', ']'], items, depth, to)?;
            }
            ValueKind::Map => {
                let mut items = Vec::new();
                for key in value.try_iter()? {
                    let item = value.get_item(&key)?;
                    let name = match (key.kind(), key.as_str()) {
                        (_, Some(text)) => text.to_owned(),
                        (ValueKind::None, _) => "null".to_owned(),
                        (ValueKind::Bool, _) => key.is_true().to_string(),
                        (ValueKind::Number, _) => number(&key),
                        _ => return Err(refuse("a key is no text")),
                    };
                    items.push((Some(name), item));
                }
                if self.sort_keys {
                    items.sort_by(|(one, _), (other, _)| one.cmp(other));
                }
                self.items(state, ['{', '}'], items, depth, to)?;
            }
            kind => return Err(refuse(&format!("a value that is {kind} is not JSON"))),
        }
        Ok(())
    }

    /// Writes a list or an object.
    fn items(
        &self,
        state: &State<'_, '_>,
        [open, close]: [char; 2],
        items: Vec<(Option<String>, Value)>,
        depth: usize,
        to: &mut String,
    ) -> Result<(), Error> {
        state.consume_fuel(items.len() as u64)?;
        to.push(open);
        let empty = items.is_empty();
        let line = |depth: usize, to: &mut String| {
            if let Some(indent) = self.indent.as_ref().filter(|_| !empty) {
                to.push('\n');
                to.push_str(&indent.repeat(depth));
            }
        };
        for (place, (name, item)) in items.into_iter().enumerate() {
            if place > 0 {
                to.push_str(&self.item);
            }
            line(depth + 1, to);
            if let Some(name) = name {
                self.quote(&name, to);
                to.push_str(&self.key);
            }
            self.write(state, &item, depth + 1, to)?;
        }
        line(depth, to);
        to.push(close);
        Ok(())
    }

    fn quote(&self, text: &str, to: &mut String) {
        to.push('"');
        for character in text.chars() {
            match character {
                '"' => to.push_str("\\\""),
                '\\' => to.push_str("\\\\"),
                '\n' => to.push_str("\\n"),
                '\r' => to.push_str("\\r"),
                '\t' => to.push_str("\\t"),
                '\u{8}' => to.push_str("\\b"),
                '\u{c}' => to.push_str("\\f"),
                control if control < ' ' => push_unit(to, u32::from(control)),
                other if self.ensure_ascii && !other.is_ascii() => {
                    let mut units = [0; 2];
                    for unit in other.encode_utf16(&mut units) {
                        push_unit(to, u32::from(*unit));
                    }
                }
                other => to.push(other),
            }
        }
        to.push('"');
    }
}

/// A number as Python writes it.
fn number(value: &Value) -> String {
    let Some(float) = f64::try_from(value.clone()).ok().filter(|_| !value.is_integer()) else {
        return value.to_string();
    };
    if float.is_nan() {
        return "NaN".to_owned();
    }
    if float.is_infinite() {
        return if float > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let text = format!("{float:?}");
    match text.split_once('e') {
        None => text,
        Some((digits, exponent)) => {
            let (sign, exponent) = exponent.strip_prefix('-').map_or(('+', exponent), |exponent| ('-', exponent));
            format!("{digits}e{sign}{exponent:0>2}")
        }
    }
}

/// `\\uXXXX`, as JSON writes a UTF-16 unit.
fn push_unit(to: &mut String, unit: u32) {
    // Writing to a string cannot fail.
    let _ = write!(to, "\\u{unit:04x}");
}
