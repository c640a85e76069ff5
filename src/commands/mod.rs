//! One file for each command. In: parsed arguments and the process around them ([`Context`]). Out: data on stdout, log lines on
//! stderr, an exit status. Never here: the work itself, which is in the rooms below.
//!
//! `run` and `plan` share `prepare`, which opens and checks everything that a job names; `calibrate` chooses the batch size for
//! `run`; `difference` runs two models on one sample for `convert`.

mod calibrate;
mod compact;
mod completions;
mod context;
mod convert;
mod device_memory;
mod difference;
mod discard;
mod doctor;
mod eval;
mod eval_report;
mod export;
mod exported_columns;
mod finalize;
mod init;
mod manifest;
mod mixed_vectors;
mod model;
mod monitored;
mod pictures;
mod plan;
mod prepare;
mod query_encoder;
mod report;
mod run;
mod sample;
mod search;
mod shown_rows;
mod status;
mod terminal_pictures;

pub use self::context::Context;
use crate::cli::{Cli, Command, ModelCommand};
use crate::error::{Error, ExitStatus};
use crate::support::descriptors::raise;

/// Runs the command.
///
/// # Errors
/// The error that ended the command early; [`Error::status`] gives the exit status.
pub fn execute(cli: Cli, context: &mut Context<'_>) -> Result<ExitStatus, Error> {
    raise().map_err(Error::Unfit)?;
    match cli.command {
        Command::Manifest(args) => manifest::execute(&args, context),
        Command::Init(args) => init::execute(&args, context),
        Command::Run(args) => {
            let settings = monitored::settings("run", &args.job.job, args.shard.as_deref(), &args.watch, context)?;
            monitored::execute(settings, context, |context| run::execute(&args, context))
        }
        Command::Plan(args) => plan::execute(&args, context),
        Command::Status(args) => status::execute(&args, context),
        Command::Finalize(args) => {
            let settings = monitored::settings("finalize", &args.output, None, &args.watch, context)?;
            monitored::execute(settings, context, |context| finalize::execute(&args, context))
        }
        Command::Discard(args) => discard::execute(&args),
        Command::Compact(args) => {
            let settings = monitored::settings("compact", &args.output, None, &args.watch, context)?;
            monitored::execute(settings, context, |context| compact::execute(&args, context))
        }
        Command::Eval(args) => eval::execute(&args, context),
        Command::Sample(args) => sample::execute(&args, context),
        Command::Search(args) => search::execute(&args, context),
        Command::Report(args) => report::execute(&args),
        Command::Export(args) => export::execute(&args, context),
        Command::Doctor { json } => doctor::execute(json, context),
        Command::Completions { shell } => completions::completions(shell, context),
        Command::Man { folder } => completions::man(&folder),
        Command::Model(ModelCommand::Inspect { dir, precision, json }) => {
            model::inspect(&dir, precision.as_deref(), json, context)
        }
        Command::Model(ModelCommand::Prepare(args)) => match &args.output {
            Some(output) => convert::execute(&args, output, context),
            None => model::prepare(&args.dir, args.precision.as_deref(), args.json, context),
        },
    }
}
