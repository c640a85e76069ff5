//! `nightcap report`: a page about an OUTPUT.

use std::path::Path;
use std::time::SystemTime;

use super::pictures::{CARD, pictures};
use crate::cli::ReportArgs;
use crate::error::{Error, ExitStatus};
use crate::output::OutputError;
use crate::output::records::published::{Published, load_published, published_runs};
use crate::output::records::run_id::check_run_id;
use crate::output::store::OutputStore;
use crate::output::view::View;
use crate::report::{Comparison, Report};
use crate::support::clock::utc;
use crate::support::whole_file::{self, Existing};

pub(super) fn execute(args: &ReportArgs) -> Result<ExitStatus, Error> {
    check(&args.file)?;
    let store = OutputStore::from_argument(&args.output)?;
    let runs = published_runs(&store)?;
    let run = match &args.run {
        Some(run) => named(&store, run)?,
        None => newest(&store, &runs)?,
    };
    let shown = if args.run.is_some() { vec![run.clone()] } else { runs.clone() };
    let scope = match &args.run {
        Some(run) => format!("the rows of run {run}"),
        None => "the newest row of every key".to_owned(),
    };
    let comparison = comparison(args, &store, &run, &runs)?;
    let view = View::of_runs(store, shown, None)?;
    let pictures = pictures(args.job.as_deref(), CARD)?;
    let report = Report {
        view: &view,
        scope,
        run: &run,
        runs: &runs,
        comparison: comparison.as_ref(),
        pictures: &*pictures,
        written: written(),
    };
    let html = report.html()?;
    write_page(&args.file, &html)?;
    tracing::info!(file = %args.file.display(), bytes = html.len(), "wrote the report");
    Ok(ExitStatus::Done)
}

/// The time that a page names.
pub(super) fn written() -> String {
    utc(SystemTime::now()).format("%Y-%m-%d %H:%M UTC").to_string()
}

/// Writes a page.
pub(super) fn write_page(file: &Path, html: &str) -> Result<(), Error> {
    check(file)?;
    let written = whole_file::write(file, html.as_bytes(), Existing::Replace);
    written.map_err(|error| Error::Unfit(format!("cannot write {}: {error}", file.display())))
}

/// Refuses a name at which no file can be written, before there is work.
fn check(file: &Path) -> Result<(), Error> {
    let refused = |why: &str| Err(Error::Unfit(format!("-o {}: {why}", file.display())));
    if file.to_str().is_some_and(|text| text.contains("://")) {
        return refused("expected a path of this machine, found a URI\nhint: write it here, then copy it");
    }
    if std::fs::metadata(file).is_ok_and(|found| !found.is_file()) {
        return refused("expected a file, found something else of that name");
    }
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        return refused("there is no such folder to write it to\nhint: make the folder first");
    }
    Ok(())
}

/// The published run of this name, also if a compaction has replaced it and its parts are still there.
fn named(store: &OutputStore, run: &str) -> Result<Published, Error> {
    check_run_id(run)?;
    let found = load_published(store, run)?;
    Ok(found.ok_or_else(|| OutputError::NoSuchRun { run: run.to_owned() })?)
}

/// The newest run with rows.
fn newest(store: &OutputStore, runs: &[Published]) -> Result<Published, Error> {
    let found = runs.iter().rev().find(|run| run.parts > 0).cloned();
    found.ok_or_else(|| {
        let location = store.location();
        Error::Unfit(format!("{location}: expected rows of a published run, found none\nhint: run a job first"))
    })
}

/// The rows of `run` beside those before it; None if there are none.
fn comparison(
    args: &ReportArgs,
    store: &OutputStore,
    run: &Published,
    runs: &[Published],
) -> Result<Option<Comparison>, Error> {
    let (before, against) = match &args.against {
        Some(other) if *other == run.run => {
            return Err(Error::Unfit(format!(
                "--against {other}: expected another run, found the one that the report is about\nhint: `nightcap status OUTPUT` lists the runs"
            )));
        }
        Some(other) => (vec![named(store, other)?], format!("run {other}")),
        None => {
            let earlier: Vec<Published> = runs.iter().filter(|other| other.run_seq < run.run_seq).cloned().collect();
            (earlier, format!("the rows that were there before run {}", run.run))
        }
    };
    if before.iter().all(|run| run.parts == 0) || run.parts == 0 {
        return Ok(None);
    }
    let view = |runs| Ok::<_, Error>(View::of_runs(OutputStore::from_argument(&args.output)?, runs, None)?);
    Ok(Some(Comparison { after: view(vec![run.clone()])?, before: view(before)?, against }))
}
