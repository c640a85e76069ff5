//! Why a manifest cannot be used.

use arrow::datatypes::DataType;

/// A manifest that cannot be used or read. Found before anything is run, it ends the command with status 2; a read that fails while
/// parts are made interrupts the run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ManifestError {
    /// A path or glob of `input.manifest` matches nothing.
    #[error(
        "no manifest file matches {pattern}\nhint: relative paths in a job file start at its folder, those on the command line at the current one"
    )]
    NotFound {
        /// As resolved.
        pattern: String,
    },
    /// A glob that cannot be parsed.
    #[error("`input.manifest`: {pattern} is not a valid glob: {source}")]
    Glob {
        /// As resolved.
        pattern: String,
        /// What is wrong with it.
        source: glob::PatternError,
    },
    /// Braces that stand for too many names.
    #[error("`input.manifest`: expected braces for at most 100,000 names, found more: {pattern}")]
    Braces {
        /// As resolved.
        pattern: String,
    },
    /// A file that cannot be opened or listed.
    #[error("cannot read the manifest {path}: {source}")]
    Io {
        /// The file or folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Remote storage that does not give a file or a list of them.
    #[error("cannot read the manifest {path}: {}", crate::storage::explain(.source))]
    Storage {
        /// The file, folder or pattern.
        path: String,
        /// Why.
        source: object_store::Error,
    },
    /// A file that is not Parquet, or is damaged.
    #[error(
        "the manifest {path} is not readable as Parquet: {source}\nhint: files named .csv, .tsv, .jsonl, .ndjson, .tar and .arrow are read as such; DuckDB converts other formats: COPY (FROM 'FILE') TO 'FILE.parquet'"
    )]
    Parquet {
        /// The file.
        path: String,
        /// What the Parquet library found.
        source: parquet::errors::ParquetError,
    },
    /// A folder of several data sets.
    #[error(
        "{path} holds the splits {} of a data set, each with rows of its own\nhint: name one, as in \"{path}/{}\", or a list of them",
        splits.join(", "),
        splits.first().map_or("SPLIT", String::as_str)
    )]
    Splits {
        /// The folder.
        path: String,
        /// Their names.
        splits: Vec<String>,
    },
    /// A CSV or JSON Lines file, an archive or an Arrow file that cannot be read.
    #[error("the manifest {path} is not readable: {why}")]
    Rows {
        /// The file.
        path: String,
        /// What was expected and found.
        why: String,
    },
    /// A folder of images that cannot be listed.
    #[error("`input.manifest`: {source}")]
    Folder {
        /// Why.
        source: super::folder::FolderError,
    },
    /// A row group whose data cannot be decoded.
    #[error("the manifest {path} is damaged in row group {row_group}: {source}")]
    Damaged {
        /// The file.
        path: String,
        /// Zero-based row group.
        row_group: usize,
        /// What the Arrow library found.
        source: arrow::error::ArrowError,
    },
    /// A column of the job that the manifest lacks.
    #[error(
        "`{setting}` names column `{column}`, which {path} does not have\nhint: its columns are {}",
        available.join(", ")
    )]
    MissingColumn {
        /// The job's key.
        setting: &'static str,
        /// The column asked for.
        column: String,
        /// The file.
        path: String,
        /// The columns of the file.
        available: Vec<String>,
    },
    /// A column of a type that cannot be used.
    #[error("`{setting}` names column `{column}` of {path}: expected {expected}, found {found}")]
    ColumnType {
        /// The job's key.
        setting: &'static str,
        /// The column.
        column: String,
        /// The file.
        path: String,
        /// Types that can be used.
        expected: &'static str,
        /// The type found.
        found: DataType,
    },
    /// A manifest without a column that is usually named as one for this purpose.
    #[error(
        "cannot tell which column of {path} has the {holds}: expected {expected} with a usual name\nhint: name it with {flag} COLUMN; the columns are {}",
        columns.join(", ")
    )]
    NoUsualName {
        /// The file.
        path: String,
        /// What is looked for.
        holds: &'static str,
        /// Types that serve.
        expected: &'static str,
        /// The option that names the column.
        flag: &'static str,
        /// The columns with their types.
        columns: Vec<String>,
    },
    /// Two manifest files whose columns differ.
    #[error(
        "{path} and {first} differ in column `{column}`: {found} against {expected}\nhint: give files with the same columns, or leave the column out with `output.columns`"
    )]
    Mixed {
        /// The later file.
        path: String,
        /// The first file.
        first: String,
        /// The column.
        column: String,
        /// Its type in the later file.
        found: String,
        /// Its type in the first.
        expected: String,
    },
    /// A column that the job uses, of which there are several.
    #[error(
        "`{setting}` names column `{column}`, and {path} has several columns of this name\nhint: give each a name of its own"
    )]
    Ambiguous {
        /// The job's key.
        setting: &'static str,
        /// The name.
        column: String,
        /// The file.
        path: String,
    },
    /// A value that the type of its column in OUTPUT cannot hold.
    #[error(
        "{path} holds a value that would come out changed: {message}\nhint: leave the column out with `output.columns`, or write it with the type that OUTPUT has"
    )]
    Inexact {
        /// The file.
        path: String,
        /// The column and what the Arrow library found.
        message: String,
    },
    /// Times of years that cannot be told with the digits that other values have.
    #[error(
        "column `{column}` of {path} holds times (INT96) of years that would come out changed, before 1677 or after 2262 and with others to the nanosecond, or too far for microseconds\nhint: write the column as timestamps of microseconds, or leave it out with `output.columns`"
    )]
    Years {
        /// The column.
        column: String,
        /// A file with such years.
        path: String,
    },
    /// More rows in one file than the plan's row masks can number.
    #[error("{path} has {rows} rows; at most {} fit in one file\nhint: split it into several files", u32::MAX)]
    TooManyRows {
        /// The file.
        path: String,
        /// Its rows.
        rows: u64,
    },
    /// A file that is not the one that was opened or planned: it was replaced, or written to while it was read.
    #[error(
        "the manifest {path} was changed while it was read\nhint: replace a manifest by a new file (write, then rename) instead of writing into it; then start a new run"
    )]
    Changed {
        /// The file.
        path: String,
    },
    /// A file that `input.manifest` names twice.
    #[error(
        "`input.manifest` names {path} twice, so each of its rows would come out twice\nhint: list every file once"
    )]
    ListedTwice {
        /// The file.
        path: String,
    },
    /// A prompt that is not a valid template, or that reads a column that the manifest does not have.
    #[error(
        "`generation.prompt` = {template:?} is not a template: {why}\nhint: write manifest columns in double braces, as in \"A photo of {{{{ title }}}}\"; https://jinja.palletsprojects.com/templates says what else can"
    )]
    Prompt {
        /// As written.
        template: String,
        /// What is wrong with it.
        why: String,
    },
    /// `input.where` cannot be evaluated.
    #[error(
        "`input.where` = {predicate:?} cannot be evaluated on {path}: {message}\nhint: it is a SQL expression over the manifest's columns that is true or false, as in \"width >= 200 AND lang = 'en'\"; write text in single quotes"
    )]
    Predicate {
        /// As written.
        predicate: String,
        /// The file it was tried on.
        path: String,
        /// The message of polars.
        message: String,
    },
}
