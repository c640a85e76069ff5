//! `nightcap model inspect`: what a model directory contains and can do; `nightcap model prepare`: how its graphs are changed when
//! they are loaded.

use std::path::{Path, PathBuf};

use super::context::{Context, print, to_json};
use super::prepare::processor;
use crate::engine::{GenerationOverrides, GenerationSettings, LoadReport, check_tokenizer, open_each};
use crate::error::{Error, ExitStatus};
use crate::model::{ModelDirectory, ModelError, Problem, inspect as describe};
use crate::onnx::{FusedOperators, GraphOptions};
use crate::storage::{Location, Storage, explain};
use crate::support::redact::lines;

pub(super) fn inspect(
    dir: &Path,
    precision: Option<&str>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<ExitStatus, Error> {
    let folder = local_folder(dir)?;
    if !folder.is_dir() {
        // The error that `run` gives, instead of a description of nothing.
        ModelDirectory::open(&folder, precision)?;
    }
    let mut description = describe(&folder, precision);
    if description.problems.is_empty() {
        description.problems = refusals(&ModelDirectory::open(&folder, precision)?);
    }
    let text = if json { to_json(&description)? } else { lines(&description.to_string()) };
    print(context, &text)?;
    Ok(if description.problems.is_empty() { ExitStatus::Done } else { ExitStatus::Refused })
}

/// Why `run` would refuse a directory whose graphs and files fit together: its preprocessing, its tokenizer or its generation settings are
/// not supported. What depends on the job, such as a prompt, counts as given.
fn refusals(directory: &ModelDirectory) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Some(config) = directory.preprocessor().filter(|_| directory.takes_images())
        && let Err(error) = processor(directory)
    {
        let what = error.to_string();
        problems.push(Problem::new(&config.source, what.trim_start_matches("preprocessor_config.json: ")));
    }
    let asks = directory.bindings().prompt_holds_image();
    let overrides = GenerationOverrides {
        prompt: asks.then(|| "Describe this image in one sentence.".to_owned()),
        max_new_tokens: asks.then_some(20),
        ..GenerationOverrides::default()
    };
    let checked = if directory.can_caption() {
        GenerationSettings::resolve(directory, &overrides).map(|_| ())
    } else {
        check_tokenizer(directory)
    };
    match checked {
        Ok(()) => {}
        Err(ModelError::Directory { problems: found, .. }) => problems.extend(found),
        Err(error) => problems.push(Problem::new(".", error.to_string())),
    }
    problems
}

/// The model directory `dir`, fetched first where it is a URI of remote storage.
pub(super) fn local_folder(dir: &Path) -> Result<PathBuf, Error> {
    let Some(uri) = dir.to_str().filter(|text| text.contains("://")) else { return Ok(dir.to_owned()) };
    let location = Location::Local(PathBuf::from("/")).resolve(uri);
    let location = location.map_err(|error| Error::Unfit(format!("DIR: {error}")))?;
    let copy = Storage::from_environment().local_copy(&location);
    copy.map_err(|error| Error::Unfit(format!("cannot fetch the model directory {location}: {}", explain(&error))))
}

pub(super) fn prepare(
    dir: &Path,
    precision: Option<&str>,
    json: bool,
    context: &mut Context<'_>,
) -> Result<ExitStatus, Error> {
    let directory = ModelDirectory::open(&local_folder(dir)?, precision)?;
    let reports = open_each(&directory, GraphOptions::default())?;
    let text = if json { to_json(&reports)? } else { lines(&reports.iter().map(line).collect::<String>()) };
    print(context, &text)?;
    Ok(ExitStatus::Done)
}

fn line(report: &LoadReport) -> String {
    let LoadReport {
        role,
        file,
        subgraph_outputs,
        folded_sizes,
        elided_copies,
        hoisted_values,
        fused_operators,
        seconds,
        ..
    } = report;
    let mut done = Vec::new();
    done.extend(subgraph_outputs.as_ref().map(|outputs| match outputs.as_slice() {
        [first, more @ ..] if more.len() > 2 => format!("reduced to what computes {first} and {} more", more.len()),
        few => format!("reduced to what computes {}", few.join(", ")),
    }));
    done.extend((*folded_sizes > 0).then(|| format!("{folded_sizes} shape values folded")));
    done.extend((*elided_copies > 0).then(|| format!("{elided_copies} copies removed")));
    done.extend((*hoisted_values > 0).then(|| format!("{hoisted_values} values computed once per batch")));
    let done = if done.is_empty() { "unchanged".to_owned() } else { done.join("; ") };
    let steps = match (report.static_step, &report.not_static) {
        (Some(true), _) => {
            let selection = report.token_selection.iter().map(|selection| format!("; {selection}"));
            format!("  its steps have one shape on a GPU{}\n", selection.collect::<String>())
        }
        (_, Some(reason)) => format!("  its steps on a GPU are those of the exported graph: {reason}\n"),
        _ => String::new(),
    };
    let on_a_gpu = fused_operators.as_ref().map(fused).unwrap_or_default();
    format!("{role}: {file}: {done}; loaded in {seconds:.2} s\n{steps}{on_a_gpu}")
}

/// What becomes one operator on a GPU, and why other attentions do not.
fn fused(operators: &FusedOperators) -> String {
    let FusedOperators { attentions, fused_attentions, reasons, layer_norms, activations } = operators;
    let mut done = Vec::new();
    done.extend((*attentions > 0).then(|| format!("attention ({fused_attentions} of {attentions})")));
    done.extend((*layer_norms > 0).then(|| format!("sum and layer normalization ({layer_norms})")));
    done.extend((*activations > 0).then(|| format!("GELU ({activations})")));
    if done.is_empty() {
        return String::new();
    }
    let reasons = reasons.iter().map(|reason| format!("    attention that is not: {reason}\n"));
    format!("  on a GPU one operator each: {}\n{}", done.join(", "), reasons.collect::<String>())
}
