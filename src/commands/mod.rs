//! What each command does: arguments in, data on stdout, an exit status out.

mod calibrate;
mod compact;
mod discard;
mod finalize;
mod init;
mod manifest;
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
use crate::support::progress::Terminal;

/// What commands use of the process around them.
pub struct Context<'a> {
    /// Data for the caller.
    pub stdout: &'a mut dyn Write,
    /// Bars and log lines for people.
    pub terminal: Terminal,
    /// Whether log lines are JSON.
    pub json_log: bool,
    /// Set by SIGTERM and SIGINT.
    pub stop: Stop,
    /// Looks up an environment variable.
    pub variable: fn(&'static str) -> Option<String>,
}

/// Carries out the command.
///
/// # Errors
/// Whatever ended the command early; [`Error::status`] gives the exit status.
pub fn execute(cli: Cli, context: &mut Context<'_>) -> Result<Status, Error> {
    match cli.command {
        Command::Manifest(args) => manifest::execute(&args, context),
        Command::Init(args) => init::execute(&args, context),
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
    }
}

/// The exit status of a published run: whether more rows failed than the limits allow.
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
        // A reader such as `head` closes the pipe when it has enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::System { action: "write to stdout", source }),
    }
}

/// A value as pretty JSON for stdout.
fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value);
    text.map(|text| text + "\n").map_err(|error| Error::System { action: "write JSON", source: error.into() })
}
