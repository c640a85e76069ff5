//! Jinja templates that end. In: nothing, or work on a template. Out: an environment in which rendering is bounded in time and memory,
//! and a stack on which any template of bounded length can be parsed. What a template says is not known here.
//!
//! minijinja counts what a template does and creates (its fuel). It does not count, before it is made, the text of a list that holds
//! one long string many times: that is paid for here. Its parser and its compiler call themselves once for each operator, so that the
//! length of a template bounds how deep they go.

use std::fmt::{self, Write};
use std::io;

use minijinja::filters::{capitalize, escape, format, join, lower, pprint, replace, split, string, title, trim, upper};
use minijinja::value::{Rest, ValueKind, ValueOrKwargs};
use minijinja::{Environment, Error, ErrorKind, Output, State, Value};

/// The most bytes of a template. The largest chat templates in use have about 30,000.
const MOST_BYTES: usize = 1 << 16;
/// Enough for a template of [`MOST_BYTES`] operators. Only pages that are used take memory.
const STACK_BYTES: usize = 256 << 20;
/// The instructions of one rendering, or 64 bytes of values for each of them. A chat template takes a few hundred.
const FUEL: u64 = 4_000;
/// Calls of macros and recursive loops inside each other; a macro counts as four.
const MOST_RECURSIONS: usize = 200;
/// The widest field that `format` may fill.
const MOST_WIDTH: usize = 10_000;
/// What one unit of fuel pays for in minijinja.
const BYTES_PER_FUEL: usize = 64;

/// An environment without templates, in which one rendering takes at most [`FUEL`].
pub(crate) fn environment<'a>() -> Environment<'a> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MOST_RECURSIONS);
    environment.remove_global("debug");
    // filters that make text of whatever they are given
    environment.add_filter("builtin capitalize", capitalize);
    environment.add_filter("builtin escape", escape);
    environment.add_filter("builtin format", format);
    environment.add_filter("builtin join", join);
    environment.add_filter("builtin lower", lower);
    environment.add_filter("builtin pprint", pprint);
    environment.add_filter("builtin replace", replace);
    environment.add_filter("builtin split", split);
    environment.add_filter("builtin string", string);
    environment.add_filter("builtin title", title);
    environment.add_filter("builtin trim", trim);
    environment.add_filter("builtin upper", upper);
    for name in [
        "capitalize",
        "escape",
        "e",
        "format",
        "join",
        "lower",
        "pprint",
        "replace",
        "split",
        "string",
        "title",
        "trim",
        "upper",
    ] {
        let builtin = format!("builtin {}", if name == "e" { "escape" } else { name });
        environment.add_filter(name, move |state: &mut State<'_, '_>, arguments: Rest<ValueOrKwargs>| {
            let arguments: Vec<Value> = arguments.0.into_iter().map(ValueOrKwargs::into_value).collect();
            pay(state, &arguments, 1)?;
            state.apply_filter(&builtin, &arguments)
        });
    }
    environment.set_formatter(write);
    environment.set_unknown_method_callback(|state, value, name, arguments| {
        let times = match (value.as_str(), name) {
            (Some(text), "format") if widest(text) > MOST_WIDTH => return Err(Error::from(ErrorKind::OutOfFuel)),
            (Some(text), "format") => text.matches('{').count(),
            _ => 1,
        };
        pay(state, arguments, times)?;
        minijinja_contrib::pycompat::unknown_method_callback(state, value, name, arguments)
    });
    environment
}

/// Writes a value into the output, as minijinja does.
///
/// # Errors
/// When the fuel does not pay for it.
pub(crate) fn write(out: &mut Output<'_>, state: &mut State<'_, '_>, value: &Value) -> Result<(), Error> {
    pay(state, std::slice::from_ref(value), 1)?;
    minijinja::escape_formatter(out, state, value)
}

/// The largest number in the format string `text`: a width or a precision, or more.
fn widest(text: &str) -> usize {
    let numbers = text.split(|character: char| !character.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(usize::MAX)).max().unwrap_or(0)
}

/// Refuses a template that is too long to be parsed.
///
/// # Errors
/// What was expected and found.
pub(crate) fn check_length(template: &str) -> Result<(), String> {
    if template.len() <= MOST_BYTES {
        return Ok(());
    }
    Err(format!("expected a template of at most {MOST_BYTES} bytes, found one of {}", template.len()))
}

/// Does `work` on a stack of its own, on which every template that [`check_length`] accepts can be parsed, compiled and dropped.
///
/// # Errors
/// When the operating system does not start a thread, or `work` panicked.
pub(crate) fn on_large_stack<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("template".to_owned()).stack_size(STACK_BYTES);
        let panicked = |_| io::Error::other("a fault in the template engine");
        thread.spawn_scoped(scope, work)?.join().map_err(panicked)
    })
}

/// What is wrong, in one sentence.
pub(crate) fn explain(error: &Error) -> String {
    const MOST_CHARACTERS: usize = 200;
    match error.kind() {
        ErrorKind::OutOfFuel => format!(
            "it takes more than {FUEL} instructions, or {} bytes of text; it may be one that does not end",
            FUEL as usize * BYTES_PER_FUEL
        ),
        _ => error.to_string().chars().take(MOST_CHARACTERS).collect(),
    }
}

/// Takes from the fuel of a rendering what the text of `arguments` costs, `times` times, before it is made.
///
/// # Errors
/// When the fuel is not enough.
pub(crate) fn pay(state: &State<'_, '_>, arguments: &[Value], times: usize) -> Result<(), Error> {
    let (_, left) = state.fuel_levels().unwrap_or_default();
    let mut text =
        Counter { bytes: 0, most: usize::try_from(left).unwrap_or(usize::MAX).saturating_mul(BYTES_PER_FUEL) };
    for argument in arguments {
        let counted = match (argument.kind(), argument.as_str()) {
            (ValueKind::String, Some(string)) => text.write_str(string),
            (ValueKind::Seq | ValueKind::Map | ValueKind::Iterable, _) => write!(text, "{argument}"),
            _ => Ok(()),
        };
        counted.map_err(|_| Error::from(ErrorKind::OutOfFuel))?;
    }
    state.consume_fuel((text.bytes.saturating_mul(times) / BYTES_PER_FUEL) as u64)
}

/// Counts the bytes of a text without keeping them, and stops at the most.
struct Counter {
    bytes: usize,
    most: usize,
}

impl Write for Counter {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > self.most { Err(fmt::Error) } else { Ok(()) }
    }
}
