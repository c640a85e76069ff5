//! Log lines: every field without credentials and bounded, whoever logs it. In: events of nightcap and of its libraries. Out: one line
//! each, as text or as a JSON object.

use std::fmt;

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::progress::Terminal;
use super::redact;

/// Starts logging to `terminal`, of what the environment variable `NIGHTCAP_LOG` selects.
pub fn start(json: bool, terminal: &Terminal) {
    let filter = EnvFilter::try_from_env("NIGHTCAP_LOG").unwrap_or_else(|_| EnvFilter::new("nightcap=info,warn"));
    let writer = terminal.clone();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(move || writer.clone());
    // Fails only if a subscriber is set already, and the binary sets one only here.
    let _ = if json {
        lines.fmt_fields(TextFields).event_format(JsonLines).try_init()
    } else {
        lines.with_target(false).with_ansi(terminal.is_drawn()).compact().fmt_fields(TextFields).try_init()
    };
}

/// What a field's value is, fit to leave.
fn shown(field: &Field, text: &str) -> String {
    match field.name() {
        "message" => redact::message(text),
        name if redact::is_secret_name(name) => redact::HIDDEN.to_owned(),
        _ => redact::value(text),
    }
}

/// Whether it is one of the fields with which records of the `log` crate come.
fn is_of_log(field: &Field) -> bool {
    field.name().starts_with("log.")
}

/// Fields as `message name=value`.
struct TextFields;

impl<'writer> FormatFields<'writer> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut line = TextLine { writer, is_empty: true, result: Ok(()) };
        fields.record(&mut line);
        line.result
    }
}

struct TextLine<'writer> {
    writer: Writer<'writer>,
    is_empty: bool,
    result: fmt::Result,
}

impl TextLine<'_> {
    fn write(&mut self, field: &Field, text: &str) {
        if self.result.is_err() || is_of_log(field) {
            return;
        }
        let space = if std::mem::take(&mut self.is_empty) { "" } else { " " };
        self.result = match field.name() {
            "message" => write!(self.writer, "{space}{text}"),
            name => write!(self.writer, "{space}{}={text}", name.trim_start_matches("r#")),
        };
    }
}

impl Visit for TextLine<'_> {
    fn record_str(&mut self, field: &Field, text: &str) {
        let text = match field.name() {
            "message" => redact::message(text),
            name if redact::is_secret_name(name) => redact::HIDDEN.to_owned(),
            _ => format!("{:?}", redact::bounded(text)),
        };
        self.write(field, &text);
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.write(field, &shown(field, &error.to_string()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.write(field, &shown(field, &format!("{value:?}")));
    }
}

/// Events as JSON objects: `timestamp`, `level`, and the fields beside them.
struct JsonLines;

impl<S: Subscriber + for<'span> LookupSpan<'span>, N: for<'writer> FormatFields<'writer> + 'static> FormatEvent<S, N>
    for JsonLines
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut timestamp = String::new();
        SystemTime.format_time(&mut Writer::new(&mut timestamp))?;
        let mut fields = JsonFields(Vec::new());
        event.record(&mut fields);
        let level = event.metadata().level().as_str();
        let first = [("timestamp", Value::from(timestamp)), ("level", Value::from(level))];
        for (number, (name, value)) in first.into_iter().chain(fields.0).enumerate() {
            let before = if number == 0 { '{' } else { ',' };
            write!(writer, "{before}{}:{value}", Value::from(name))?;
        }
        writeln!(writer, "}}")
    }
}

struct JsonFields(Vec<(&'static str, Value)>);

impl JsonFields {
    fn push(&mut self, field: &Field, value: Value) {
        if !is_of_log(field) {
            self.0.push((field.name().trim_start_matches("r#"), value));
        }
    }
}

impl Visit for JsonFields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.push(field, value.into());
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.push(field, value.into());
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.push(field, value.into());
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.push(field, value.into());
    }

    fn record_str(&mut self, field: &Field, text: &str) {
        self.push(field, shown(field, text).into());
    }

    fn record_error(&mut self, field: &Field, error: &(dyn std::error::Error + 'static)) {
        self.push(field, shown(field, &error.to_string()).into());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.push(field, shown(field, &format!("{value:?}")).into());
    }
}
