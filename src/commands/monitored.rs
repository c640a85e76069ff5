//! Commands that an operator's tools are told about.

use std::path::Path;

use super::context::Context;
use crate::cli::WatchArgs;
use crate::error::{Error, ExitStatus};
use crate::monitor::{Monitor, MonitorSettings, ping_url};
use crate::panics;

/// The environment variable with the URL of `--ping`.
const PING_URL: &str = "NIGHTCAP_PING_URL";

/// What the monitor of `command` does; `source` is the job file or OUTPUT.
pub(super) fn settings(
    command: &'static str,
    source: &Path,
    shard: Option<&str>,
    args: &WatchArgs,
    context: &Context<'_>,
) -> Result<MonitorSettings, Error> {
    let ping = match &args.ping {
        Some(url) => Some(url.clone()),
        None => (context.variable)(PING_URL)
            .filter(|text| !text.is_empty())
            .map(|text| ping_url(&text))
            .transpose()
            .map_err(|error| Error::Unfit(format!("{PING_URL}: {error}")))?,
    };
    let (source, shard) = (source.display().to_string(), shard.unwrap_or_default().to_owned());
    Ok(MonitorSettings { command, source, shard, metrics_file: args.metrics_file.clone(), ping })
}

/// Runs `command` under a monitor, which is told how it ends, also by a panic.
pub(super) fn execute<'a>(
    settings: MonitorSettings,
    context: &mut Context<'a>,
    command: impl FnOnce(&mut Context<'a>) -> Result<ExitStatus, Error>,
) -> Result<ExitStatus, Error> {
    context.monitor = Monitor::start(settings).map_err(Error::Unfit)?;
    let outcome = panics::caught("the command", || command(context));
    let status = outcome.as_ref().map_or_else(Error::status, |status| *status);
    std::mem::take(&mut context.monitor).finish(status as u8);
    outcome
}
