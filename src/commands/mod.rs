//! What each command does: arguments in, data on stdout, an exit status out.

mod calibrate;
mod compact;
mod discard;
mod finalize;
mod model;
mod plan;
mod prepare;
mod run;
mod status;

use std::io::Write;

use crate::cli::{Cli, Command, ModelCommand};
use crate::error::Error;
use crate::exit::Status;
use crate::output::Counts;
use crate::output::records::failure_limits::FailureLimits;
use crate::pipeline::Stop;
use crate::progress::Terminal;

/// What commands use of the process around them.
pub struct Context<'a> {
    /// Data for the caller.
    pub stdout: &'a mut dyn Write,
    /// Bars and log lines for people.
    pub terminal: Terminal,
    /// Whether log lines are JSON.
    pub json_log: bool,
    /// Set by signals.
    pub stop: Stop,
    /// Looks up an environment variable.
    pub variable: fn(&'static str) -> Option<String>,
}

/// Documented commands that this version does not carry out.
const NOT_YET: [&str; 3] = ["search", "report", "eval"];

/// Carries out the command.
///
/// # Errors
/// Whatever stood in the way; the process then exits with [`Status::Refused`].
pub fn execute(cli: Cli, context: &mut Context<'_>) -> Result<Status, Error> {
    match cli.command {
        Command::Run(args) => run::execute(&args, context),
        Command::Plan(args) => plan::execute(&args, context),
        Command::Status(args) => status::execute(&args, context),
        Command::Finalize(args) => finalize::execute(&args, context),
        Command::Discard(args) => discard::execute(&args),
        Command::Compact(args) => compact::execute(&args, context),
        Command::Model(ModelCommand::Inspect { dir, precision, json }) => {
            model::inspect(&dir, precision.as_deref(), json, context)
        }
        Command::Model(ModelCommand::Prepare { dir, precision, json }) => {
            model::prepare(&dir, precision.as_deref(), json, context)
        }
        Command::Model(ModelCommand::Other(words)) => Err(unknown("model ", &words, &[])),
        Command::Other(words) => Err(unknown("", &words, &NOT_YET)),
    }
}

fn unknown(parent: &str, words: &[String], not_yet: &[&str]) -> Error {
    let name = words.first().map_or("", String::as_str);
    if not_yet.contains(&name) {
        return not_supported(&format!("nightcap {parent}{name}"));
    }
    Error::Unfit(format!("there is no command `nightcap {parent}{name}`\nhint: `nightcap --help` lists the commands"))
}

/// Refuses a documented flag or command that is not built yet.
fn not_supported(what: &str) -> Error {
    Error::Unfit(format!("`{what}` is not supported yet\nhint: the README lists what is supported today"))
}

/// The status of a published run: whether so many rows failed that somebody should look.
fn judge(counts: &Counts, limits: &FailureLimits) -> Status {
    if !limits.exceeded_by(counts.failed, counts.rows) {
        return Status::Done;
    }
    let fraction = limits.max_failed_fraction;
    tracing::error!(
        failed = counts.failed,
        rows = counts.rows,
        "more rows failed than limits.max_failed_fraction = {fraction} allows"
    );
    Status::TooManyFailed
}

/// Writes data to stdout.
fn print(context: &mut Context<'_>, text: &str) -> Result<(), Error> {
    let written = context.stdout.write_all(text.as_bytes()).and_then(|()| context.stdout.flush());
    match written {
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::System { action: "write to stdout", source }),
    }
}

/// A value as pretty JSON for stdout.
fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Error::System { action: "write JSON", source: error.into() })
}
