//! `nightcap status`: lists the runs of an OUTPUT, and its damage.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use super::context::{Context, print, to_json};
use crate::cli::StatusArgs;
use crate::error::{Error, ExitStatus};
use crate::output::store::OutputStore;
use crate::output::upkeep::status::OutputStatus;
use crate::output::upkeep::watch::Watched;
use crate::support::redact::{json, lines};

/// Between two looks at the signals.
const NAP: Duration = Duration::from_millis(100);
/// Clears a terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

pub(super) fn execute(args: &StatusArgs, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let store = OutputStore::from_argument(&args.output)?;
    if args.watch {
        return watch(args, &store, context);
    }
    let status = OutputStatus::read(&store, args.check)?;
    let text = if args.json { to_json(&status)? } else { lines(&status.to_string()) };
    print(context, &text)?;
    if status.findings.is_empty() {
        if args.check {
            tracing::info!("every part of the published runs is as the records say");
        }
        return Ok(ExitStatus::Done);
    }
    tracing::error!(findings = status.findings.len(), "this OUTPUT is damaged; stdout says where and what to do");
    Ok(ExitStatus::Refused)
}

/// Shows unfinished runs until there is none, or until a signal.
fn watch(args: &StatusArgs, store: &OutputStore, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let is_terminal = std::io::stdout().is_terminal();
    loop {
        let watched = Watched::read(store)?;
        let text = if args.json {
            let line = serde_json::to_string(&watched).map(|text| json(&text) + "\n");
            line.map_err(|error| Error::System { action: "write JSON", source: error.into() })?
        } else {
            lines(&watched.to_string())
        };
        print(context, &if is_terminal && !args.json { format!("{CLEAR}{text}") } else { text })?;
        if watched.runs.is_empty() {
            return Ok(ExitStatus::Done);
        }
        let next = Instant::now() + Duration::from_secs(args.interval);
        while Instant::now() < next {
            if context.stop.requested() {
                return Ok(ExitStatus::Stopped);
            }
            std::thread::sleep(NAP);
        }
    }
}
