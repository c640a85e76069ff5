//! `nightcap plan`: what `run` would do.

use std::fmt::Write;

use super::prepare::prepare;
use super::{Context, print};
use crate::cli::PlanArgs;
use crate::error::Error;
use crate::exit::Status;
use crate::output::store::OutputStore;
use crate::plan::claim::{check_schema, unfinished};

pub(super) fn execute(args: &PlanArgs, context: &mut Context<'_>) -> Result<Status, Error> {
    let prepared = prepare(&args.job)?;
    let output = &prepared.job.output;
    let select = || prepared.select();
    let mut goes_on = None;
    if output.path.exists() {
        let store = OutputStore::open(&output.path)?;
        check_schema(&store, &prepared.schema)?;
        goes_on = unfinished(&store, &prepared.draft(&select))?;
    }
    let selection = select()?;
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
    line("parts", format!("{} of {} rows", rows.div_ceil(output.part_rows), output.part_rows));
    line("output", output.path.display().to_string());
    line("run", goes_on.map_or_else(|| "a new one".to_owned(), |plan| format!("goes on with {}", plan.run)));
    if let Some(processor) = &prepared.processor {
        line("images", processor.describe());
    }
    let schema = &prepared.schema;
    let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
    line("columns", columns.collect::<Vec<_>>().join("\n           "));
    print(context, &text)?;
    Ok(Status::Done)
}
