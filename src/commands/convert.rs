//! `nightcap model prepare DIR --precision P -o DIR2`: a model directory in another precision. It is made in a folder with another name
//! beside DIR2, which gets that name when everything is there.

use std::path::Path;

use serde::Serialize;

use super::context::{Context, print, to_json};
use super::difference::{Difference, Sample};
use super::model::local_folder;
use crate::cli::PrepareArgs;
use crate::engine::open_each;
use crate::error::{Error, ExitStatus};
use crate::model::{Conversion, ModelDirectory};
use crate::onnx::{ConvertedGraph, GraphOptions, HalfPrecision, convert};
use crate::support::redact::lines;

/// The bytes of graphs that are opened on the processor, which makes float32 of them in memory.
const MOST_OPENED: u64 = 2 << 30;

/// What was written.
#[derive(Debug, Serialize)]
struct Report {
    output: String,
    precision: &'static str,
    graphs: Vec<GraphReport>,
    copied: Vec<String>,
    /// Whether ONNX Runtime can run it on a processor.
    runs_on_cpu: bool,
    difference: Option<Difference>,
}

/// What was made of one graph file.
#[derive(Debug, Serialize)]
struct GraphReport {
    from: String,
    to: String,
    #[serde(flatten)]
    converted: ConvertedGraph,
    bytes_before: u64,
}

pub(super) fn execute(args: &PrepareArgs, output: &Path, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let name = args.precision.as_deref().unwrap_or_default();
    let half = HalfPrecision::from_name(name).ok_or_else(|| {
        Error::Unfit(format!("--precision {name}: expected fp16 or bf16 to convert to with -o\nhint: jobs/export/quantize.py makes int8 graphs"))
    })?;
    let parent = free_folder(output)?;
    let sample = args.sample.as_deref().map(|source| sample(source, args, half, context)).transpose()?;
    let folder = local_folder(&args.dir)?;
    let conversion = Conversion::of(&folder, half.name())?;
    let unwritable = |error: std::io::Error| Error::Unfit(format!("cannot write {}: {error}", output.display()));
    let mut builder = tempfile::Builder::new();
    let work = builder.prefix(".nightcap-").permissions(std::os::unix::fs::PermissionsExt::from_mode(0o777));
    let work = work.tempdir_in(parent).map_err(unwritable)?;
    let mut graphs = Vec::new();
    for (from, to) in &conversion.graphs {
        let (source, target) = (folder.join(from), work.path().join(to));
        target.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(unwritable)?;
        tracing::info!("converting {from}");
        let converted = convert(&source, &target, half, &|| context.stop.requested());
        if context.stop.requested() {
            tracing::warn!("stopped, and nothing was written; run the same command again");
            return Ok(ExitStatus::Stopped);
        }
        let converted = converted?;
        graphs.push(GraphReport { from: from.clone(), to: to.clone(), converted, bytes_before: 0 });
    }
    for file in &conversion.copied {
        let target = work.path().join(file);
        target.parent().map_or(Ok(()), std::fs::create_dir_all).map_err(unwritable)?;
        copy(&folder.join(file), &target).map_err(unwritable)?;
    }
    let directory = ModelDirectory::open(&folder, Some("fp32"))?;
    for report in &mut graphs {
        report.bytes_before = directory.bytes_of(&report.from);
    }
    // the new directory is opened as a run opens it, before it gets its name
    let runs_on_cpu = half == HalfPrecision::F16;
    let opened = ModelDirectory::open(work.path(), Some(half.name()))?;
    let bytes: u64 = graphs.iter().map(|graph| graph.converted.bytes).sum();
    if runs_on_cpu && bytes <= MOST_OPENED {
        open_each(&opened, GraphOptions::default())?;
    } else if !runs_on_cpu {
        tracing::warn!(
            "ONNX Runtime has no bfloat16 arithmetic for processors: this model runs on a GPU only, and was not opened here"
        );
    }
    std::fs::rename(work.path(), output).map_err(unwritable)?;
    let _ = work.keep();
    for file in &conversion.unused {
        tracing::info!("left out: {file}, which no run of this directory opens");
    }
    tracing::info!("wrote {}; a job uses it with path = \"{0}\" below [model]", output.display());
    let difference = sample.map(|sample| sample.difference(&folder, output, half.name(), context)).transpose()?;
    let report = Report {
        output: output.display().to_string(),
        precision: half.name(),
        graphs,
        copied: conversion.copied,
        runs_on_cpu,
        difference,
    };
    let text = if args.json { to_json(&report)? } else { lines(&report.to_string()) };
    print(context, &text)?;
    Ok(ExitStatus::Done)
}

/// The sample of `args`; a processor cannot run it in bfloat16.
fn sample(source: &Path, args: &PrepareArgs, half: HalfPrecision, context: &mut Context<'_>) -> Result<Sample, Error> {
    let names_devices = args.set.iter().any(|set| set.trim_start().starts_with("runtime.devices"));
    if half == HalfPrecision::Bf16 && !names_devices {
        let what = "--sample: ONNX Runtime has no bfloat16 arithmetic for processors, so the sample cannot be run here";
        return Err(Error::Unfit(format!("{what}\nhint: on a GPU: --set 'runtime.devices=[\"cuda:0\"]'")));
    }
    Sample::open(source, &args.set, context)
}

/// The folder in which `output` will be, if that is free: nothing, or an empty folder.
fn free_folder(output: &Path) -> Result<&Path, Error> {
    let shown = output.display();
    if output.to_str().is_some_and(|text| text.contains("://")) {
        let hint = "write to a local folder, and copy that";
        return Err(Error::Unfit(format!("-o {shown}: expected a local folder, found a URI\nhint: {hint}")));
    }
    let is_free = match std::fs::read_dir(output) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => std::fs::symlink_metadata(output).is_err(),
    };
    if !is_free {
        let hint = "name a folder that does not exist; nothing is replaced";
        return Err(Error::Unfit(format!(
            "-o {shown}: expected no such folder or an empty one, found something\nhint: {hint}"
        )));
    }
    let parent = output.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if output.file_name().is_none() || !parent.is_dir() {
        return Err(Error::Unfit(format!(
            "-o {shown}: expected a new folder in an existing one, found no folder {}",
            parent.display()
        )));
    }
    Ok(parent)
}

/// Copies the content of a file, not its permissions: files of a cache may be read-only.
#[allow(clippy::disallowed_methods, reason = "a file in a new folder that only this process knows, not in an OUTPUT")]
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    let mut from = crate::support::regular_file::open(from)?;
    let mut to = std::fs::File::create_new(to)?;
    std::io::copy(&mut from, &mut to)?;
    to.sync_all()
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for GraphReport { from, to, converted, bytes_before } in &self.graphs {
            let ConvertedGraph { nodes, in_float32, bytes } = converted;
            writeln!(
                f,
                "{from} -> {to}: {} of {}; {in_float32} of {nodes} nodes stay in float32",
                megabytes(*bytes),
                megabytes(*bytes_before)
            )?;
        }
        self.difference.iter().try_for_each(|difference| write!(f, "{difference}"))
    }
}

fn megabytes(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "a size for people")]
    let megabytes = bytes as f64 / 1e6;
    format!("{megabytes:.1} MB")
}
