//! Compares a static step with the exported graph it was made from, on the CPU. In: both. Out: nothing, or how they differ.
//!
//! Rows of different lengths in one batch of the static step are compared with each row alone in the exported graph, with equal caches:
//! the logits, and the keys and values that the step appends.

use std::collections::HashMap;

use super::counted::refused;
use super::make::LOGITS;
use super::outcome::NotStatic;
use super::ports::{ProbeRows, StepPort, StepPorts, declared};
use super::step::{LENGTHS, LOWEST_RUNTIME, StaticStep, TOKENS, encode};
use crate::onnx::edit::extract::extract;
use crate::onnx::edit::file::OnnxFile;
use crate::onnx::error::{OnnxError, OnnxErrorKind};
use crate::onnx::port::DataType;
use crate::onnx::runtime::session::{GraphOptions, Session, SessionInput};
use crate::onnx::runtime::tensor::Tensor;

/// Lengths of the rows of each batch, as far as there are positions.
const BATCHES: [[usize; 3]; 2] = [[4, 1, 9], [131, 20, 66]];
/// How many entries more than the longest row's tokens the caches have.
const SPARE: [usize; 2] = [3, 1];
/// How far values may differ, relative to their range, by rounding.
const MOST: f32 = 1e-4;
const MOST_F16: f32 = 1e-2;

/// Passes a reason on.
macro_rules! or_not {
    ($outcome:expr) => {
        match $outcome {
            Ok(found) => found,
            Err(not) => return Ok(Err(not)),
        }
    };
}

/// What one row gave.
struct RowOutputs {
    logits: Vec<f32>,
    /// By output, the entry that was appended, of all heads.
    entries: Vec<Vec<f32>>,
}

/// Compares `step` with the graph of `file`, whose inputs are `ports`.
///
/// # Errors
/// When a file cannot be read, or memory ran out.
pub(super) fn prove(
    file: &OnnxFile,
    step: &StaticStep,
    ports: &StepPorts,
    options: GraphOptions,
) -> Result<Result<(), NotStatic>, OnnxError> {
    let edited = encode(file, step.graph.clone())?;
    let mut made = match Session::open_for_probes(file.path(), &edited, options) {
        Err(error) if error.kind == OnnxErrorKind::OutOfMemory => return Err(error),
        Err(error) => {
            let what: String = error.what.chars().take(300).collect();
            let what =
                format!("its static step does not open; ONNX Runtime {LOWEST_RUNTIME} or newer is needed: {what}");
            return Ok(Err(NotStatic::because(what)));
        }
        Ok(session) => session,
    };
    let mut exported =
        or_not!(refused(Session::open_for_probes(file.path(), &file.encode(file.graph.clone())?, options))?);
    let mut embedder = match &ports.embed {
        Some(embed) => {
            let embeds = OnnxFile::read(&embed.source)?;
            let outputs = embeds.graph.output.iter().filter(|output| output.name() == embed.output).cloned().collect();
            let edited = embeds.encode(extract(&embeds.graph, outputs, Vec::new()))?;
            Some((or_not!(refused(Session::open_for_probes(embeds.path(), &edited, options))?), embed))
        }
        None => None,
    };
    let mut number = 0;
    for (batch, spare) in BATCHES.into_iter().zip(SPARE) {
        let most = ports.positions.map_or(usize::MAX, |positions| positions.saturating_sub(1));
        let lengths: Vec<usize> = batch.into_iter().map(|length| length.min(most).max(1)).collect();
        let longest = lengths.iter().copied().max().unwrap_or(1);
        let rows = ProbeRows { lengths, first: number, attended: 7 + number, cache: Some(longest + spare) };
        let mut expected = Vec::new();
        for (row, &length) in rows.lengths.iter().enumerate() {
            let alone = ProbeRows { lengths: vec![length], first: number + row, cache: None, ..rows };
            let embedded = match &mut embedder {
                Some((session, embed)) => {
                    let tokens = Tensor::from_i64(&[1, 1], alone.tokens())?;
                    let outputs = session.run(&[(embed.input.as_str(), SessionInput::Owned(tokens))]);
                    Some(or_not!(refused(outputs)?).remove(&embed.output)?)
                }
                None => None,
            };
            match by_itself(&mut exported, file, step, ports, &alone, embedded)? {
                Ok(outputs) => expected.push(outputs),
                // there are fewer positions
                Err(_) if number > 0 && ports.positions.is_none() => return Ok(Ok(())),
                Err(not) => return Ok(Err(not)),
            }
        }
        let found = or_not!(together(&mut made, file, step, ports, &rows)?);
        for (found, expected) in found.iter().zip(&expected) {
            or_not!(compare(step, found, expected));
        }
        number += rows.lengths.len();
    }
    Ok(Ok(()))
}

/// Runs the static step on `rows`.
fn together(
    session: &mut Session,
    file: &OnnxFile,
    step: &StaticStep,
    ports: &StepPorts,
    rows: &ProbeRows,
) -> Result<Result<Vec<RowOutputs>, NotStatic>, OnnxError> {
    let count = rows.lengths.len();
    let lengths = rows.lengths.iter().map(|&length| length as i64).collect();
    let mut feeds = vec![
        (TOKENS, SessionInput::Owned(Tensor::from_i64(&[count, 1], rows.tokens())?)),
        (LENGTHS, SessionInput::Owned(Tensor::from_i64(&[count], lengths)?)),
    ];
    let mut before = HashMap::new();
    for (name, kind) in &ports.inputs {
        if matches!(kind, StepPort::Tokens) || !session.inputs().iter().any(|port| port.name == *name) {
            continue;
        }
        let port = or_not!(declared(&file.graph, name));
        let Some(value) = rows.value(&port, kind)? else { continue };
        if matches!(kind, StepPort::Growing(_)) {
            before.insert(name.as_str(), value.to_f32()?.into_owned());
        }
        feeds.push((name.as_str(), SessionInput::Owned(value)));
    }
    let outputs = or_not!(refused(session.run(&feeds))?);
    let logits = outputs.get(LOGITS, count)?;
    let vocabulary = logits.shape().last().copied().unwrap_or(1).max(1);
    let all = logits.to_f32()?;
    if all.len() != count * vocabulary {
        return Ok(Err(NotStatic::because(format!("its static step gives logits of shape {:?}", logits.shape()))));
    }
    let mut found: Vec<RowOutputs> =
        all.chunks(vocabulary).map(|row| RowOutputs { logits: row.to_vec(), entries: Vec::new() }).collect();
    for cache in &step.caches {
        let value = outputs.get(&cache.output, count)?;
        let length = rows.cache.unwrap_or(0);
        if value.shape() != [count, cache.heads, length, cache.width] {
            return Ok(Err(NotStatic::because(format!(
                "its static step gives {:?} of shape {:?}",
                cache.output,
                value.shape()
            ))));
        }
        let (value, width) = (value.to_f32()?, cache.width);
        let empty = Vec::new();
        let before = before.get(cache.input.as_str()).unwrap_or(&empty);
        for (row, found) in found.iter_mut().enumerate() {
            let mut entry = Vec::with_capacity(cache.heads * width);
            for head in 0..cache.heads {
                let start = (row * cache.heads + head) * length * width;
                let at = start + rows.lengths[row] * width;
                if before.get(start..at) != value.get(start..at) {
                    return Ok(Err(NotStatic::because(format!(
                        "its static step changes earlier entries of {:?}",
                        cache.output
                    ))));
                }
                entry.extend_from_slice(value.get(at..at + width).unwrap_or_default());
            }
            found.entries.push(entry);
        }
    }
    Ok(Ok(found))
}

/// Runs the exported graph on one row.
fn by_itself(
    session: &mut Session,
    file: &OnnxFile,
    step: &StaticStep,
    ports: &StepPorts,
    row: &ProbeRows,
    mut embedded: Option<Tensor>,
) -> Result<Result<RowOutputs, NotStatic>, OnnxError> {
    let mut feeds = Vec::new();
    for (name, kind) in &ports.inputs {
        let port = or_not!(declared(&file.graph, name));
        let value = match row.value(&port, kind)? {
            Some(value) => value,
            None => match embedded.take() {
                Some(embedded) => embedded.into_float(port.dtype)?,
                None => return Ok(Err(NotStatic::because(format!("no graph gives {name:?}")))),
            },
        };
        feeds.push((name.as_str(), SessionInput::Owned(value)));
    }
    let outputs = or_not!(refused(session.run(&feeds))?);
    let logits = outputs.get(LOGITS, 1)?;
    let vocabulary = logits.shape().last().copied().unwrap_or(1);
    let all = logits.to_f32()?;
    let logits = all[all.len().saturating_sub(vocabulary)..].to_vec();
    let length = row.lengths[0];
    let mut entries = Vec::new();
    for cache in &step.caches {
        let value = outputs.get(&cache.output, 1)?;
        if value.shape() != [1, cache.heads, length + 1, cache.width] {
            return Ok(Err(NotStatic::because(format!("it gives {:?} of shape {:?}", cache.output, value.shape()))));
        }
        let value = value.to_f32()?;
        let last = value.chunks((length + 1) * cache.width).flat_map(|head| &head[length * cache.width..]);
        entries.push(last.copied().collect());
    }
    Ok(Ok(RowOutputs { logits, entries }))
}

fn compare(step: &StaticStep, found: &RowOutputs, expected: &RowOutputs) -> Result<(), NotStatic> {
    let half = step.caches.iter().any(|cache| cache.dtype == DataType::F16);
    let most = if half { MOST_F16 } else { MOST };
    let names = std::iter::once(LOGITS).chain(step.caches.iter().map(|cache| cache.output.as_str()));
    let found = std::iter::once(&found.logits).chain(&found.entries);
    let expected = std::iter::once(&expected.logits).chain(&expected.entries);
    for ((name, found), expected) in names.zip(found).zip(expected) {
        let differs = difference(found, expected);
        if differs.is_none_or(|differs| differs > most) {
            let by = differs
                .map_or_else(|| "in shape, or is not finite".to_owned(), |by| format!("by {by:.1e} of its range"));
            return Err(NotStatic::because(format!("its static step differs from the exported graph: {name:?} {by}")));
        }
    }
    Ok(())
}

/// The largest difference, relative to the range of `expected`; `None` if they cannot be compared.
fn difference(found: &[f32], expected: &[f32]) -> Option<f32> {
    if found.len() != expected.len() || !found.iter().chain(expected).all(|number| number.is_finite()) {
        return None;
    }
    let (least, most) = expected.iter().fold((0.0_f32, 0.0_f32), |(a, b), &number| (a.min(number), b.max(number)));
    let worst = found.iter().zip(expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    Some(worst / (most - least).max(f32::MIN_POSITIVE))
}
