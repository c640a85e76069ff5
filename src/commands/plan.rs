//! `nightcap plan`: what `run` would do.

use std::fmt::Write;

use super::prepare::prepare;
use super::{Context, Status, print};
use crate::cli::PlanArgs;
use crate::error::Error;

pub(super) fn execute(args: &PlanArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    let prepared = prepare(&args.job)?;
    let selection = prepared.select()?;
    let rows = selection.rows();
    let files = &prepared.manifest.files;
    let all: u64 = files.iter().map(|file| file.snapshot.rows).sum();
    let bytes: u64 = files.iter().map(|file| file.snapshot.bytes).sum();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    line("manifest", format!("{} files, {all} rows, {bytes} bytes", files.len()));
    line("rows", format!("{rows} selected"));
    // Nothing is compared with earlier runs yet, so none of the rows count as done.
    line("done", "0 (every run takes every selected row)".to_owned());
    line(
        "parts",
        format!("{} of {} rows", rows.div_ceil(prepared.job.output.part_rows), prepared.job.output.part_rows),
    );
    line("output", prepared.job.output.path.display().to_string());
    if let Some(processor) = &prepared.processor {
        line("images", processor.describe());
    }
    let schema = &prepared.schema;
    let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
    line("columns", columns.collect::<Vec<_>>().join("\n           "));
    print(context, &text)?;
    Ok(Status::Done)
}
