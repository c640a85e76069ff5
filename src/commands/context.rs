//! What commands share: the process around them, output on stdout, and the exit status of a published run.

use std::io::Write;

use crate::error::{Error, ExitStatus};
use crate::job::FailureLimits;
use crate::monitor::Monitor;
use crate::pipeline::Stop;
use crate::support::counts::Counts;
use crate::support::progress::Terminal;
use crate::support::redact;

/// The process around a command.
pub struct Context<'a> {
    /// Takes data.
    pub stdout: &'a mut dyn Write,
    /// Shows progress bars and log lines.
    pub terminal: Terminal,
    /// Whether log lines are JSON.
    pub json_log: bool,
    /// Set by SIGTERM and SIGINT.
    pub stop: Stop,
    /// Tells an operator's tools about the command.
    pub monitor: Monitor,
    /// Looks up an environment variable.
    pub variable: fn(&'static str) -> Option<String>,
}

/// The exit status of a published run: whether more rows failed than the limits allow.
pub(super) fn judge(counts: &Counts, limits: &FailureLimits) -> ExitStatus {
    if !limits.exceeded_by(counts.failed, counts.rows) {
        return ExitStatus::Done;
    }
    let fraction = limits.max_failed_fraction;
    tracing::error!(
        failed = counts.failed,
        rows = counts.rows,
        "more rows failed than limits.max_failed_fraction = {fraction} allows"
    );
    ExitStatus::TooManyFailed
}

/// Writes data to stdout.
pub(super) fn print(context: &mut Context<'_>, text: &str) -> Result<(), Error> {
    let written = context.stdout.write_all(text.as_bytes()).and_then(|()| context.stdout.flush());
    match written {
        // A reader such as `head` closes the pipe early.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other.map_err(|source| Error::System { action: "write to stdout", source }),
    }
}

/// A value as pretty JSON for stdout; its strings are bounded and hold no credentials.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, Error> {
    let text = serde_json::to_string_pretty(value).map(|text| redact::json(&text));
    text.map(|text| text + "\n").map_err(|error| Error::System { action: "write JSON", source: error.into() })
}
