//! OUTPUT: the folder that holds every run's parts and records, local or in a bucket.
//!
//! ```text
//! run=<run id>/part-<number>.parquet          parts, put once and whole
//! _nightcap/format.json                       the format of this folder, put first
//! _nightcap/schema.json                       the one schema of every part
//! _nightcap/seq/<number>.json                 claims of run_seq
//! _nightcap/compactions/<number>.json         claims of compactions, of which one at a time is at work
//! _nightcap/runs/<run id>/plan.json           what the run will do
//! _nightcap/runs/<run id>/selection-<hash>    row masks of the manifest files
//! _nightcap/runs/<run id>/signatures-<hash>   content signatures of the selected rows
//! _nightcap/runs/<run id>/planner-<number>    claim of the process that plans, or has planned, the run for its shards
//! _nightcap/runs/<run id>/heartbeat-<worker>  a process is working on the run
//! _nightcap/runs/<run id>/stages-<worker>     where the time of a process went that made parts
//! _nightcap/runs/<run id>/putting-<part>-...  a process is about to put that part
//! _nightcap/runs/<run id>/index-<hash>        keys, signatures and outcomes, for later planning
//! _nightcap/runs/<run id>/reuse-index-<hash>  which row has the results for an image and a text
//! _nightcap/runs/<run id>/part-hashes-<hash>  by which changed bytes of a part are found
//! _nightcap/outcomes/<run id>.json            how the run ends, decided once
//! _nightcap/published/<run id>.json           written last, by finalize
//! ```
//!
//! Every write goes through [`store`]. All are conditional puts, which never overwrite an object, except heartbeats, planning
//! claims, intents and times of stages. Who writes what:
//! - format: [`OutputStore::create`](store::OutputStore::create);
//! - schema, `run_seq`, selections, signatures, plans: `plan::claim`; the last four also [`upkeep::compact`], for compactions;
//! - planning claims: `plan::planner`; heartbeats: every process that works on a run;
//! - parts and their intents: [`part::commit`]; fillers of closed runs: `publish::fill`;
//! - indexes, part hashes, outcomes and published records: [`publish::finalize`]; the outcome of a discarded run: [`upkeep::discard`].
//!
//! Only `upkeep::sweep` removes runs, and only those that never count again: discarded ones, and those that a compaction has replaced.
//!
//! [`store`] and `open` reach OUTPUT, [`process`] is what they take from the process around them, `local_files` lists and removes
//! files of this machine without following links, [`mod@format`] refuses other format numbers, [`heartbeat`] says which process, a
//! [`worker`], works on a run. The rooms, from the bottom up: [`records`], [`part`], [`publish`],
//! [`view`], [`upkeep`].

pub mod format;
pub mod heartbeat;
mod local_files;
mod open;
pub mod part;
pub mod process;
pub mod publish;
pub mod records;
pub mod store;
pub mod upkeep;
pub mod view;
pub mod worker;

use std::path::PathBuf;

use serde::Serialize;

/// Why OUTPUT cannot be read, written or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OutputError {
    /// The folder is missing, no folder, or not permitted.
    #[error(
        "cannot use the output folder {path}: {source}\nhint: `output.path` must be a folder this user may create and write"
    )]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Nothing where the user says that an OUTPUT is.
    #[error(
        "expected an OUTPUT, found nothing: {path}\nhint: give the folder that `output.path` of the job names; here, relative paths start at the current folder"
    )]
    NoFolder {
        /// As given.
        path: PathBuf,
    },
    /// Remote storage that cannot be listed.
    #[error("cannot use the output folder {location}: {}", crate::storage::explain(.source))]
    Unreachable {
        /// The folder.
        location: String,
        /// Why.
        source: object_store::Error,
    },
    /// A web server, which takes no conditional puts.
    #[error("cannot write to {location}\nhint: OUTPUT is a local folder, or one on s3://, gs:// or az://")]
    WebServer {
        /// The folder.
        location: String,
    },
    /// An OUTPUT argument that is neither a path nor a URI.
    #[error("OUTPUT: {message}")]
    Argument {
        /// What was expected.
        message: String,
    },
    /// A read, write or listing failed.
    #[error("cannot {action} {path} in the output folder: {}", crate::storage::explain(.source))]
    Store {
        /// The operation.
        action: &'static str,
        /// Path within OUTPUT.
        path: String,
        /// Why.
        source: object_store::Error,
    },
    /// A record that this version cannot read.
    #[error(
        "{path} in the output folder is not readable: {message}\nhint: it was damaged, or written by another version of nightcap"
    )]
    Record {
        /// Path within OUTPUT.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// What a command asks of the published rows is not possible.
    #[error("{message}")]
    View {
        /// What was expected and found.
        message: String,
    },
    /// The parts of this job would have other columns than those already there.
    #[error(
        "this job's columns differ from those already in OUTPUT: {difference}\nhint: one OUTPUT has one schema: write the manifest's columns as they are there, or choose them with `output.columns`; only another `output.path`, for which every row is computed again, may have others"
    )]
    Schema {
        /// The first difference.
        difference: String,
    },
    /// The published runs name their rows by another column.
    #[error(
        "this job's key is `{ours}`, that of run {run} in OUTPUT is `{theirs}`\nhint: one OUTPUT has one key; give this job another `output.path`"
    )]
    Key {
        /// A published run.
        run: String,
        /// Its key column.
        theirs: String,
        /// The key column of the job.
        ours: String,
    },
    /// A part of the run's name that belongs to another plan.
    #[error(
        "{path} exists and belongs to another plan (found {found}, expected {expected})\nhint: two different jobs were given the same --run-id; use another"
    )]
    ForeignPart {
        /// Path within OUTPUT.
        path: String,
        /// Plan digest in the part.
        found: String,
        /// Plan digest of this run.
        expected: String,
    },
    /// A run id that readers might take for a number or date.
    #[error(
        "--run-id {run:?}: expected a lower-case letter, then letters, digits, `_` or `-`, as in r20261123t041500z"
    )]
    RunId {
        /// As given.
        run: String,
    },
    /// An OUTPUT that another version of nightcap made, or whose format number is damaged.
    #[error("the output folder {location}: expected format {expected}, found {found}\nhint: {hint}")]
    Format {
        /// The folder.
        location: String,
        /// What this version reads and writes.
        expected: u32,
        /// What is there instead.
        found: String,
        /// What to do.
        hint: &'static str,
    },
    /// Storage on which two processes could overwrite each other.
    #[error(
        "the storage of the output folder {location} cannot put an object only if its name is free: {found}\nhint: OUTPUT needs a disk with hard links (ext4, XFS, btrfs, NFS, Lustre; not FAT or exFAT, and give a bucket by its URI, not by a mount), or a server that refuses a taken name: for s3:// one that knows `If-None-Match: *` (Amazon S3, MinIO, Ceph, Cloudflare R2, SeaweedFS), gs:// or az://"
    )]
    NoCondition {
        /// The folder.
        location: String,
        /// What it answered.
        found: String,
    },
    /// No run of that name.
    #[error("there is no run {run} in this OUTPUT\nhint: `nightcap status OUTPUT` lists the runs")]
    NoSuchRun {
        /// The run id.
        run: String,
    },
    /// A published run was to be discarded.
    #[error(
        "run {run} is published, and only unpublished runs are discarded\nhint: `nightcap compact OUTPUT` replaces the runs by their newest rows; with --keep-keys it leaves out those that are gone from the manifest"
    )]
    IsPublished {
        /// The run id.
        run: String,
    },
    /// Another process is working on the run.
    #[error(
        "process {pid} on {host} is at work on run {run}\nhint: wait until it has ended, or stop it; a process that was killed counts as dead after a minute"
    )]
    Alive {
        /// The run id.
        run: String,
        /// Name of the machine.
        host: String,
        /// Process number.
        pid: u32,
    },
    /// The id of a new run is in use, or was.
    #[error("there is or was a run {run} in this OUTPUT\nhint: use another --run-id, or leave it out")]
    NameTaken {
        /// The run id.
        run: String,
    },
    /// A compaction cannot be published with some of its parts: its sources are removed afterwards.
    #[error(
        "run {run} is a compaction, which is published whole or not at all\nhint: run `nightcap compact` again; it starts again and loses nothing"
    )]
    PartialCompaction {
        /// The run id.
        run: String,
    },
    /// The run has no finished part to publish.
    #[error(
        "run {run} has no finished part, so nothing was published\nhint: run the job again to go on with it, or `nightcap discard OUTPUT --run-id {run}` to remove it"
    )]
    NoParts {
        /// The run id.
        run: String,
    },
    /// The published runs cannot be compacted.
    #[error(
        "OUTPUT cannot be compacted: {found}; nothing was changed\nhint: `nightcap status OUTPUT --check` looks at every part; with --keep-keys, --key names the manifest's key column"
    )]
    CannotCompact {
        /// Why.
        found: String,
    },
    /// Parts that are not there yet.
    #[error(
        "run {run} has {present} of {expected} parts; the first missing one is {first}\nhint: run the job again with --run-id {run} to make the missing parts, then finalize; or publish those that are there with --partial"
    )]
    Incomplete {
        /// The run id.
        run: String,
        /// Parts that are there.
        present: u64,
        /// Parts the plan asks for.
        expected: u64,
        /// Path of the first missing part.
        first: String,
    },
    /// A part that does not hold what the plan says.
    #[error(
        "{path}: expected {expected}, found {found}\nhint: the part was changed after it was written. If its run is unfinished, remove the part and run the job again with the same --run-id; otherwise `nightcap status OUTPUT --check` says what to do"
    )]
    WrongPart {
        /// Path within OUTPUT.
        path: String,
        /// What the plan or the schema says.
        expected: String,
        /// What the part holds.
        found: String,
    },
    /// A run that was published before all of its parts were made.
    #[error(
        "run {run} was closed: it is published with the parts that were finished\nhint: a new run takes its other rows; the name {run} is not used again"
    )]
    Closed {
        /// The run id.
        run: String,
    },
    /// A run that was discarded.
    #[error("run {run} was discarded\nhint: a new run takes its rows; the name {run} is not used again")]
    Discarded {
        /// The run id.
        run: String,
    },
    /// A process that was suspended, and another one went on with its run in the meantime.
    #[error(
        "another process went on with run {run} while this one was suspended or slow\nhint: nothing is lost; run the same command again"
    )]
    Overtaken {
        /// The run id.
        run: String,
    },
    /// The folder of a run was removed while this process worked on it.
    #[error(
        "the records of run {run} are no longer in OUTPUT: somebody has removed the folder\nhint: run the job again; it starts a new run"
    )]
    Gone {
        /// The run id.
        run: String,
    },
    /// A run was removed from which an unfinished one copies rows.
    #[error(
        "run {run} copies rows of run {from}, which is no longer in OUTPUT\nhint: `nightcap finalize OUTPUT --run-id {run} --partial` publishes its finished parts; without any, `nightcap discard`. The next run makes the other rows"
    )]
    SourceGone {
        /// The unfinished run.
        run: String,
        /// The run that is gone.
        from: String,
    },
    /// The folder for temporary files cannot be written, or is full.
    #[error(
        "cannot keep a temporary file in {folder}: {source}\nhint: `output.reuse_by_content` needs 24 bytes there for each row of OUTPUT; TMPDIR names another folder"
    )]
    Temporary {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A part cannot be encoded as Parquet.
    #[error("cannot encode part {part}: {source}")]
    Encode {
        /// Part number.
        part: u64,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// A carried column that has the name of another column of the output.
    #[error(
        "the manifest's column `{column}` has the name of another column of the output (upper and lower case count as the same)\nhint: leave it out with `output.columns`, or rename it in the manifest"
    )]
    Collision {
        /// The name.
        column: String,
    },
}

/// Folder of a run's parts within OUTPUT.
#[must_use]
pub fn part_folder(run: &str) -> String {
    format!("run={run}")
}

/// Path of a part within OUTPUT.
#[must_use]
pub fn part_path(run: &str, part: u64) -> String {
    format!("{}/part-{part:06}.parquet", part_folder(run))
}

/// Folder of a run's records within OUTPUT.
#[must_use]
pub fn run_folder(run: &str) -> String {
    format!("_nightcap/runs/{run}")
}

/// Path of a run's plan.
#[must_use]
pub fn plan_path(run: &str) -> String {
    format!("{}/plan.json", run_folder(run))
}

/// Path of the record that publishes a run.
#[must_use]
pub fn published_path(run: &str) -> String {
    format!("_nightcap/published/{run}.json")
}

/// A record as pretty JSON bytes.
pub(crate) fn json<T: Serialize>(record: &T, path: &str) -> Result<Vec<u8>, OutputError> {
    let bytes = serde_json::to_vec_pretty(record);
    bytes.map_err(|error| OutputError::Record { path: path.to_owned(), message: error.to_string() })
}
