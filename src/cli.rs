//! The command line: arguments in, a parsed [`Cli`] out. No file is opened here.

mod of_output;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub use self::of_output::{
    EvalArgs, ExportArgs, ExportVectors, ReportArgs, SampleArgs, SearchArgs, SearchFormat, TableFormat,
    TerminalPictures,
};
use crate::monitor::{PingUrl, ping_url};

/// Version, commit, and the ONNX Runtime that is looked for.
pub const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (commit ", env!("NIGHTCAP_COMMIT"), ")");

/// Captions image collections overnight and builds search indexes from them: Parquet in, Parquet out.
#[derive(Debug, Parser)]
#[command(name = "nightcap", version, long_version = VERSION, max_term_width = 100, subcommand_required = true, arg_required_else_help = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
    /// Form of the log lines on stderr.
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
    /// Write a manifest of the images in a folder: paths, sizes, modification times.
    Manifest(ManifestArgs),
    /// Write a commented job file for a manifest or a folder of images.
    Init(InitArgs),
    /// Run a job: caption and embed every selected row, write parts, publish the run.
    Run(RunArgs),
    /// Say what `run` would do: rows, parts, bytes, columns. Writes nothing.
    Plan(PlanArgs),
    /// List the runs of an OUTPUT: parts, counts, failures by kind.
    Status(StatusArgs),
    /// Check that all parts of a run exist, then publish it.
    Finalize(FinalizeArgs),
    /// Remove an unpublished run.
    Discard(DiscardArgs),
    /// Find the rows whose vectors are nearest to a text, an image or another row.
    Search(SearchArgs),
    /// Score the captions and vectors of an OUTPUT against reference captions.
    Eval(EvalArgs),
    /// Show the captions of some rows of an OUTPUT.
    Sample(SampleArgs),
    /// Write a page about an OUTPUT: what ran, distributions, pictures with their captions, failures, changes.
    Report(ReportArgs),
    /// Write the newest ok rows as one Parquet file for other tools, with thumbnails and neighbors if asked for.
    Export(ExportArgs),
    /// Rewrite the newest row of every key into one run that replaces the others, which are removed after a while.
    Compact(CompactArgs),
    /// Explain a model directory, or what loading it does.
    #[command(subcommand)]
    Model(ModelCommand),
    /// Say what this machine has of what jobs may need: ONNX Runtime, GPUs, credentials, caches.
    Doctor {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the completions of a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// The folder.
        #[arg(value_name = "FOLDER")]
        folder: PathBuf,
    },
}

/// Who is told about a command while it runs and when it ends.
#[derive(Debug, Default, Args)]
pub struct WatchArgs {
    /// Write metrics for Prometheus to this file, every 15 seconds and at the end.
    #[arg(long, value_name = "PATH")]
    pub metrics_file: Option<PathBuf>,
    /// Request URL/start at the start, URL at the end, or URL/STATUS if the exit status is not 0. Default: the environment variable `NIGHTCAP_PING_URL`, which other users of the machine cannot see.
    #[arg(long, value_name = "URL", value_parser = ping_url)]
    pub ping: Option<PingUrl>,
}

/// Arguments of `manifest`.
#[derive(Debug, Args)]
pub struct ManifestArgs {
    /// The folder of images, searched with all folders below it, or tar shards: a path, a glob, or a URI of s3://, gs:// or az://.
    #[arg(value_name = "FOLDER")]
    pub folder: PathBuf,
    /// The Parquet file to write. An existing one is replaced.
    #[arg(short, long, value_name = "FILE.parquet")]
    pub output: PathBuf,
    /// Leave out folders that this user may not read, instead of refusing to write an incomplete manifest.
    #[arg(long)]
    pub skip_unreadable: bool,
}

/// Arguments of `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// A manifest (Parquet file, folder of them, glob or URI), or a folder of images, for which manifest.parquet is written beside the job file.
    #[arg(value_name = "FOLDER|MANIFEST")]
    pub source: PathBuf,
    /// The job file to write. An existing one is never replaced.
    #[arg(short, long, value_name = "JOB.toml", default_value = "job.toml")]
    pub output: PathBuf,
    /// The model directory. Default: `model` or `sample_data/model` beside the job file, if there is one.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// The column that names a row. Default: chosen by type and name.
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// The column with the images. Default: chosen by type and name.
    #[arg(long, value_name = "COLUMN")]
    pub image: Option<String>,
    /// The column with a text that comes with the image. Default: chosen by type and name.
    #[arg(long, value_name = "COLUMN")]
    pub text: Option<String>,
}

/// The job, and what replaces its settings.
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
    /// Also take rows that failed permanently.
    #[arg(long)]
    pub retry_failed: bool,
    /// Take every row, even if it is unchanged since it was published.
    #[arg(long)]
    pub full: bool,
}

/// Arguments of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// The job.
    #[command(flatten)]
    pub job: JobArgs,
    /// Name of the run to start or resume. Default: resume this job's unfinished run, or start one named like `r20261123t041500z-k3f9`.
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Make only every Nth part, starting with part I (0 to N-1); `/N` takes I from `JOB_COMPLETION_INDEX` or `AWS_BATCH_JOB_ARRAY_INDEX`.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<String>,
    /// Who is told about the command.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Arguments of `plan`.
#[derive(Debug, Args)]
pub struct PlanArgs {
    /// The job.
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
    /// Read every row of every published part and compare counts with the records; exit status 2 if something is wrong.
    #[arg(long)]
    pub check: bool,
    /// Show the shards of unfinished runs again and again, until no run is unfinished: which process is alive, and its parts. With `--json`, one line each time.
    #[arg(long, conflicts_with = "check")]
    pub watch: bool,
    /// How often `--watch` looks.
    #[arg(long, value_name = "SECONDS", default_value_t = 10, requires = "watch", value_parser = clap::value_parser!(u64).range(1..))]
    pub interval: u64,
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
    /// Publish the finished parts only; the next run takes the other rows.
    #[arg(long)]
    pub partial: bool,
    /// Who is told about the command.
    #[command(flatten)]
    pub watch: WatchArgs,
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
    /// Keep only the keys that occur in this manifest (a file, folder, glob or URI; may be given several times). All other rows are deleted, including those without a key.
    #[arg(long, value_name = "MANIFEST")]
    pub keep_keys: Vec<String>,
    /// The manifest's key column. Default: the name of the runs' key column.
    #[arg(long, value_name = "COLUMN", requires = "keep_keys")]
    pub key: Option<String>,
    /// How long the replaced runs stay for queries that have begun; a later `compact` removes them. 0 removes them at once.
    #[arg(long, value_name = "SECONDS", default_value_t = 3600)]
    pub grace: u64,
    /// Name of the new run. Default: one like `r20261123t041500z-k3f9`.
    #[arg(long, value_name = "ID")]
    pub run_id: Option<String>,
    /// Who is told about the command.
    #[command(flatten)]
    pub watch: WatchArgs,
}

/// Commands about model directories.
#[derive(Debug, Subcommand)]
pub enum ModelCommand {
    /// Say what a model directory contains, what it can do and what is missing.
    Inspect {
        /// The model directory: a path or URI.
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Take graphs of this precision, such as fp16 or int8, by the suffix of their file names.
        #[arg(long)]
        precision: Option<String>,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Load every graph as `run` does, and say how it is changed and how long that takes; with -o, write the model in another precision.
    Prepare(PrepareArgs),
}

/// Arguments of `model prepare`.
#[derive(Debug, Args)]
pub struct PrepareArgs {
    /// The model directory: a path or URI.
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
    /// Without -o: take graphs of this precision, such as fp16 or int8, by the suffix of their file names. With -o: convert to it, fp16 or bf16.
    #[arg(long)]
    pub precision: Option<String>,
    /// Write the model, converted to --precision, to this new folder.
    #[arg(short, long, value_name = "DIR2", requires = "precision")]
    pub output: Option<PathBuf>,
    /// Run the model before and after on these images (a folder or manifest), and say how far captions and vectors differ.
    #[arg(long, value_name = "FOLDER|MANIFEST", requires = "output")]
    pub sample: Option<PathBuf>,
    /// Set a key of the job that runs the sample, as in `--set generation.prompt="<CAPTION>"`.
    #[arg(long, value_name = "SECTION.KEY=VALUE", requires = "sample")]
    pub set: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
}
