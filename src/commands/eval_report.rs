//! What `nightcap eval` prints: a table for people, or JSON.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::shown_rows::table;
use crate::eval::bootstrap::{CONFIDENCE, Interval, RESAMPLES};
use crate::eval::measured::Score;
use crate::eval::words::TOKENIZER;

/// The scores of one or two OUTPUTs.
pub(super) struct Report {
    /// As the user wrote it.
    pub(super) references: String,
    /// Keys with captions.
    pub(super) reference_rows: u64,
    /// Keys without captions, and rows without a key.
    pub(super) without_captions: u64,
    /// Rows that every OUTPUT has.
    pub(super) compared: u64,
    pub(super) outputs: Vec<Compared>,
    /// The first OUTPUT less the second.
    pub(super) differences: Vec<Difference>,
}

/// One OUTPUT.
pub(super) struct Compared {
    pub(super) output: String,
    /// Ok rows.
    pub(super) ok: u64,
    /// Ok rows without references.
    pub(super) extra: u64,
    /// References without an ok row.
    pub(super) missing: u64,
    pub(super) scores: Vec<Score>,
    /// What could not be scored, and why.
    pub(super) left_out: Vec<String>,
}

/// The difference of two scores.
pub(super) struct Difference {
    pub(super) name: String,
    pub(super) value: f64,
    pub(super) interval: Option<Interval>,
}

pub(super) fn as_json(report: &Report) -> Value {
    let scores = |scores: &[Score]| -> Value {
        scores.iter().map(|score| (score.name.clone(), Value::from(score.value))).collect::<Map<_, _>>().into()
    };
    let output = |found: &Compared| {
        json!({
            "output": found.output,
            "ok": found.ok,
            "without_references": found.extra,
            "missing": found.missing,
            "left_out": found.left_out,
            "scores": scores(&found.scores),
        })
    };
    let mut value = json!({
        "words": TOKENIZER,
        "references": {
            "source": report.references, "keys": report.reference_rows, "without_captions": report.without_captions,
        },
        "compared": report.compared,
        "outputs": report.outputs.iter().map(output).collect::<Vec<_>>(),
    });
    if report.outputs.len() > 1 {
        let difference = |found: &Difference| {
            let (low, high) = (found.interval.map(|found| found.low), found.interval.map(|found| found.high));
            (found.name.clone(), json!({"value": found.value, "low": low, "high": high}))
        };
        value["differences"] = report.differences.iter().map(difference).collect::<Map<_, _>>().into();
        value["bootstrap"] = json!({"resamples": RESAMPLES, "confidence": CONFIDENCE});
    }
    value
}

pub(super) fn as_table(report: &Report, width: usize) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail.
    for found in &report.outputs {
        let Compared { output, ok, extra, missing, .. } = found;
        let keys = report.reference_rows;
        let _ = writeln!(
            text,
            "{output}: {ok} ok rows, {extra} of them without references; {missing} of {keys} keys with references have no ok row"
        );
    }
    if report.without_captions > 0 {
        let _ = writeln!(text, "{}: {} keys without captions", report.references, report.without_captions);
    }
    let _ = writeln!(text, "{} rows are compared, by the {TOKENIZER}\n", report.compared);
    let value = |scores: &[Score], name: &str| {
        scores.iter().find(|score| score.name == name).map_or_else(|| "-".to_owned(), |score| number(name, score.value))
    };
    let mut names: Vec<&str> = Vec::new();
    for score in report.outputs.iter().flat_map(|found| &found.scores) {
        if !names.contains(&score.name.as_str()) {
            names.push(&score.name);
        }
    }
    let row = |name: &&str| {
        let mut row = vec![(*name).to_owned()];
        row.extend(report.outputs.iter().map(|found| value(&found.scores, name)));
        if let Some(found) = report.differences.iter().find(|found| found.name == **name) {
            row.push(signed(name, found.value));
            let ends = |found: Interval| format!("{} to {}", signed(name, found.low), signed(name, found.high));
            row.push(found.interval.map_or_else(String::new, ends));
        } else if report.outputs.len() > 1 {
            row.extend([String::new(), String::new()]);
        }
        row
    };
    let rows: Vec<Vec<String>> = names.iter().map(row).collect();
    let heading: &[&str] = if report.outputs.len() > 1 {
        &["score", "OUTPUT", "OUTPUT2", "difference", "95 of 100 differences"]
    } else {
        &["score", "value"]
    };
    text + &table(heading, &rows, width)
}

/// As many digits as the noise of a usual number of rows leaves.
fn number(name: &str, value: f64) -> String {
    match name {
        _ if value.is_nan() => "-".to_owned(),
        "similarity" => format!("{value:.4}"),
        _ => format!("{value:.2}"),
    }
}

fn signed(name: &str, value: f64) -> String {
    let shown = number(name, value);
    if value > 0.0 { format!("+{shown}") } else { shown }
}
