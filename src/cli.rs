//! The command line: arguments in, a parsed [`Cli`] out. Nothing is looked up or opened here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Captions image collections overnight and builds search indexes from them: Parquet in, Parquet out.
#[derive(Debug, Parser)]
#[command(name = "nightcap", version, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// How log lines on stderr look.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, global = true)]
    pub log_format: LogFormat,
}

/// Form of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a job: caption and embed every selected row, write parts, publish the run.
    Run(RunArgs),
    /// Say what `run` would do: rows, parts, bytes, columns. Writes nothing.
    Plan(PlanArgs),
    /// List the runs of an OUTPUT: parts, counts, failures by kind.
    Status(StatusArgs),
    /// Check that every part of a run is there, then publish it.
    Finalize(FinalizeArgs),
    /// Remove an unpublished run.
    Discard(DiscardArgs),
    /// Rewrite the newest row of every key into one run and remove the runs it replaces.
    Compact(CompactArgs),
    /// Look at a model directory.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Documented commands that are not built yet arrive here, to be refused by name.
    #[command(external_subcommand)]
    Other(Vec<String>),
}

/// The job and what is changed about it.
#[derive(Debug, Args)]
pub struct JobArgs {
    /// The job file.
    #[arg(value_name = "JOB.toml")]
    pub job: PathBuf,
    /// Set a key of the job file, as in `--set runtime.batch_size=8`.
    #[arg(long, value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
    /// Take only the first N rows that are new or changed.
    #[arg(long, value_name = "N")]
    pub limit: Option<u64>,
    /// Take permanently failed rows again, too.
    #[arg(long)]
    pub retry_failed: bool,
    /// Take every row, also what is unchanged since it was published.
    #[arg(long)]
    pub full: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Which job.
    #[command(flatten)]
    pub job: JobArgs,
    /// Name the run, or go on with the run of that name. Default: go on with this job's unfinished run, or start one named like `r20261123t041500z`.
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Make only every Nth part, starting with part I; `/N` takes I from `JOB_COMPLETION_INDEX` or `AWS_BATCH_JOB_ARRAY_INDEX`.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// Which job.
    #[command(flatten)]
    pub job: JobArgs,
}

/// Arguments of `status`.
#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// Read every part of every published run to its last row, and compare it with the records; status 2 if something is wrong.
    #[arg(long)]
    pub check: bool,
}

/// Arguments of `finalize`.
#[derive(Debug, Args)]
pub struct FinalizeArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// The run to publish.
    #[arg(long, value_name = "ID")]
    pub run_id: String,
    /// Publish the parts that are finished; the other rows are left to the next run.
    #[arg(long)]
    pub partial: bool,
}

/// Arguments of `discard`.
#[derive(Debug, Args)]
pub struct DiscardArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// The run to remove.
    #[arg(long, value_name = "ID")]
    pub run_id: String,
}

/// Arguments of `compact`.
#[derive(Debug, Args)]
pub struct CompactArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// Keep only the keys that occur in this manifest (a file, folder, glob or URI; may be given several times); all other rows are deleted, also those without a key.
    #[arg(long, value_name = "MANIFEST")]
    pub keep_keys: Vec<String>,
    /// The column of the manifest with the keys. Default: named as the key column of the runs.
    #[arg(long, value_name = "COLUMN", requires = "keep_keys")]
    pub key: Option<String>,
    /// Name the new run. Default: one named like `r20261123t041500z`.
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
}

/// Commands about model directories.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Explain what was found in a model directory, and what is missing.
    Inspect {
        /// The model directory: a path or URI.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Prefer graphs with this file-name suffix, as in fp16.
        #[arg(long)]
        precision: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Open every graph as `run` does, and say what is done to it and how long that takes. Writes nothing.
    Prepare {
        /// The model directory: a path or URI.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Prefer graphs with this file-name suffix, as in fp16.
        #[arg(long)]
        precision: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// What is no command arrives here, to be refused by name.
    #[command(external_subcommand)]
    Other(Vec<String>),
}
