//! `nightcap plan`: what `run` would do.

use std::fmt::Write;
use std::path::Path;

use super::context::{Context, print};
use super::prepare::prepare;
use crate::cli::PlanArgs;
use crate::error::{Error, ExitStatus};
use crate::output::records::published::present_parts;
use crate::output::records::schema::check_schema;
use crate::output::store::OutputStore;
use crate::plan::claim::{Unfinished, unfinished};
use crate::support::redact::lines;

pub(super) fn execute(args: &PlanArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let mut prepared = prepare(&args.job)?;
    let mut first = Vec::new();
    let mut unfinished_plan = None;
    let mut store = None;
    if prepared.job.output.path.local().is_none_or(Path::exists) {
        let opened = OutputStore::open(&prepared.job.output.path, &prepared.storage)?;
        prepared.fit(&opened)?;
        check_schema(&opened, &prepared.schema)?;
        let Unfinished { to_continue, to_close } = unfinished(&opened, &prepared.draft(false))?;
        if let Some(plan) = &to_continue {
            let done = present_parts(&opened, &plan.run)?.len();
            first.push(format!("resumes {}: {done} of {} parts are done", plan.run, plan.parts));
        } else {
            first.extend(to_close.iter().map(|run| format!("closes {run}: publishes its finished parts")));
        }
        (unfinished_plan, store) = (to_continue, Some(opened));
    }
    let output = &prepared.job.output;
    let (rows, part_rows, reasons, unlisted) = if let Some(plan) = unfinished_plan {
        (plan.rows, plan.part_rows, plan.reasons, 0)
    } else {
        let decision = prepared.decide(store.as_ref())?;
        (decision.selection.rows(), output.part_rows, decision.reasons, decision.unlisted)
    };
    let files = &prepared.manifest.files;
    let all: u64 = files.iter().map(|file| file.snapshot.rows).sum();
    let bytes: u64 = files.iter().map(|file| file.snapshot.bytes).sum();
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10} {value}");
    };
    let plural = if files.len() == 1 { "" } else { "s" };
    line("manifest", format!("{} file{plural}, {all} rows, {bytes} bytes", files.len()));
    line("rows", format!("{rows} selected"));
    for (reason, rows) in reasons.named() {
        line("", format!("{rows:>10} {reason}"));
    }
    if unlisted > 0 {
        line("", format!("{unlisted:>10} of all on web servers: known by their URIs alone, not by their content"));
    }
    line("parts", format!("{}, of up to {part_rows} rows each", rows.div_ceil(part_rows)));
    line("output", output.path.to_string());
    if first.is_empty() {
        first.push(if rows == 0 { "none: nothing is new" } else { "a new one" }.to_owned());
    }
    line("run", first.join("\n           "));
    if let Some(processor) = &prepared.processor {
        line("images", processor.model.describe());
        if let Some(processor) = &processor.embedding {
            line("", format!("for the vectors: {}", processor.describe()));
        }
    }
    let schema = &prepared.schema;
    let columns = schema.fields().iter().map(|field| format!("{} {}", field.name(), field.data_type()));
    line("columns", columns.collect::<Vec<_>>().join("\n           "));
    print(context, &lines(&text))?;
    Ok(ExitStatus::Done)
}
