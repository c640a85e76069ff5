//! Arguments of the commands that read an OUTPUT: `search`, `eval`, `sample`, `report`, `export`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

/// Arguments of `search`.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("query").required(true).args(["words", "image", "like", "queries"]))]
pub struct SearchArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// Find rows that fit this text.
    #[arg(value_name = "WORDS")]
    pub words: Option<String>,
    /// Find rows that are like this image, a path or URI.
    #[arg(long, value_name = "FILE|URI")]
    pub image: Option<PathBuf>,
    /// Find rows that are like the row of this key, which is left out.
    #[arg(long, value_name = "KEY")]
    pub like: Option<String>,
    /// Find rows for every text of this Parquet file's column `text`; its column `id`, or else the number of the row, names a query.
    #[arg(long, value_name = "FILE.parquet")]
    pub queries: Option<PathBuf>,
    /// Rows to find for each query.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub top: u64,
    /// Compare only rows for which this SQL condition on the columns of OUTPUT is true.
    #[arg(long, value_name = "SQL")]
    pub r#where: Option<String>,
    /// The column of vectors to compare with. Default: `image_embedding`, or `text_embedding` where there are no images.
    #[arg(long, value_name = "COLUMN")]
    pub column: Option<String>,
    /// The model directory that encodes the query. Default: the one that the newest run used.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = SearchFormat::Table)]
    pub format: SearchFormat,
    /// Write to this file instead of stdout. An existing one is replaced.
    #[arg(short = 'o', long = "output", value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// For the pictures of `--format html`: a job file that says where they are, how storage is reached and what may be read. Default: the
    /// records of the runs and the environment say it.
    #[arg(long, value_name = "JOB.toml")]
    pub job: Option<PathBuf>,
}

/// What `search` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum SearchFormat {
    /// For people.
    Table,
    /// JSON, with every column but vectors.
    Json,
    /// A page with pictures, complete in one file.
    Html,
}

/// Arguments of `eval`.
#[derive(Debug, Args)]
pub struct EvalArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// The reference captions: a file, folder, glob or URI, as `input.manifest` takes them, with a key and a caption or list of captions in each row.
    #[arg(long, value_name = "FILE")]
    pub references: String,
    /// The key column of the references. Default: the name of OUTPUT's key column.
    #[arg(long, value_name = "COLUMN")]
    pub key: Option<String>,
    /// The column with the reference captions. Default: `captions`, `references`, `sentences` or `caption`.
    #[arg(long, value_name = "COLUMN")]
    pub captions: Option<String>,
    /// Also score this output folder on the rows that both have, and say by how much OUTPUT is better, with intervals.
    #[arg(long, value_name = "OUTPUT2")]
    pub against: Option<PathBuf>,
    /// The model directory that encodes the references for retrieval. Default: the one that made the vectors.
    #[arg(long, value_name = "DIR")]
    pub model: Option<PathBuf>,
    /// What is printed.
    #[arg(long, value_enum, default_value_t = TableFormat::Table)]
    pub format: TableFormat,
}

/// Arguments of `sample`.
#[derive(Debug, Args)]
pub struct SampleArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// How many rows to show.
    #[arg(long, value_name = "N", default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=100_000))]
    pub n: u64,
    /// Another number chooses other rows.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub seed: u64,
    /// Show each row's picture, in a terminal that shows pictures: by the protocol of kitty or iTerm2. Without a value, the environment
    /// says which.
    #[arg(long, value_name = "PROTOCOL", value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "auto")]
    pub pictures: Option<TerminalPictures>,
    /// For `--pictures`: a job file that says where they are, how storage is reached and what may be read. Default: the records of the
    /// runs and the environment say it.
    #[arg(long, value_name = "JOB.toml")]
    pub job: Option<PathBuf>,
}

/// How a terminal is told to show a picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TerminalPictures {
    /// As the environment names the terminal.
    Auto,
    /// Kitty's protocol, which Ghostty and Konsole know too.
    Kitty,
    /// That of iTerm2, which `WezTerm`, VS Code and mintty know too.
    Iterm,
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct ReportArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// The file to write. An existing one is replaced.
    #[arg(short = 'o', long = "output", value_name = "FILE.html")]
    pub file: PathBuf,
    /// Report on the rows of this run alone. Default: the newest row of every key.
    #[arg(long, value_name = "ID")]
    pub run: Option<String>,
    /// Compare the newest run, or that of --run, with this one. Default: with the rows that were there before it.
    #[arg(long, value_name = "ID")]
    pub against: Option<String>,
    /// A job file that says where pictures are, how storage is reached and what may be read. Default: the records of the runs and the
    /// environment say it.
    #[arg(long, value_name = "JOB.toml")]
    pub job: Option<PathBuf>,
}

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// The output folder.
    #[arg(value_name = "OUTPUT")]
    pub output: PathBuf,
    /// The Parquet file to write. An existing one is replaced.
    #[arg(short = 'o', long = "output", value_name = "FILE.parquet")]
    pub file: PathBuf,
    /// The columns of OUTPUT to write, besides the key. Default: all.
    #[arg(long, value_name = "COLUMN,...", value_delimiter = ',')]
    pub columns: Vec<String>,
    /// Write only rows for which this SQL condition on the columns of OUTPUT is true.
    #[arg(long, value_name = "SQL")]
    pub r#where: Option<String>,
    /// Add a column `thumbnail`: each row's picture as a JPEG with at most this many pixels on its longer side.
    #[arg(long, value_name = "PIXELS", value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub thumbnails: Option<u32>,
    /// Add a column `neighbors`: for each row the N rows whose vectors are nearest. For 100,000 rows at most.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub neighbors: Option<u64>,
    /// The type of vectors. Default: as OUTPUT has them.
    #[arg(long, value_enum)]
    pub vectors: Option<ExportVectors>,
    /// A job file that says where pictures are, how storage is reached and what may be read. Default: the records of the runs and the
    /// environment say it.
    #[arg(long, value_name = "JOB.toml")]
    pub job: Option<PathBuf>,
}

/// What vectors are written as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportVectors {
    /// 32-bit floats.
    F32,
    /// 16-bit floats.
    F16,
    /// Not at all.
    None,
}

/// What commands print that list rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// For people.
    Table,
    /// JSON, with every column but vectors.
    Json,
}
