//! `nightcap completions` and `nightcap man`: files for the shell and for `man`, made from the command line's own definition.

use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;

use super::context::{Context, print};
use crate::cli::Cli;
use crate::error::{Error, ExitStatus};

pub(super) fn completions(shell: Shell, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "nightcap", &mut script);
    print(context, &String::from_utf8_lossy(&script))?;
    Ok(ExitStatus::Done)
}

/// Writes `nightcap.1`, `nightcap-run.1` and so on into `folder`.
pub(super) fn man(folder: &Path) -> Result<ExitStatus, Error> {
    let failed = |source| Error::System { action: "write the man pages", source };
    std::fs::create_dir_all(folder).map_err(failed)?;
    clap_mangen::generate_to(Cli::command(), folder).map_err(failed)?;
    Ok(ExitStatus::Done)
}
