//! The job file, validated once.
//!
//! In: a TOML file and `--set` overrides. Out: a [`Job`] whose values are checked as far as possible without the manifest, the model
//! and the output. Never here: these three.
//!
//! `file` has the keys as structs, `keys` derives the list of known keys from them, `load` reads and checks the sections, `generation`
//! one of them. `template` renders a new job file.

mod failure_limits;
mod file;
mod generation;
mod keys;
mod load;
mod template;
mod vector_type;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub use self::failure_limits::FailureLimits;
pub use self::template::JobTemplate;
pub use self::vector_type::VectorType;
use crate::engine::GenerationOverrides;
use crate::onnx::Device;
use crate::storage::{Location, PrivateHosts, StorageSettings};

/// A job file that is not valid. Every variant ends the command with status 2 before anything was run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JobFileError {
    /// The file cannot be read.
    #[error(
        "cannot read the job file {path}: {source}\nhint: give the path of a TOML job file, as in `nightcap run jobs/sample.toml`"
    )]
    Unreadable {
        /// The path as given.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML, or a value has the wrong type.
    #[error("{origin}: {message}")]
    Syntax {
        /// The job file, or the `--set` argument.
        origin: String,
        /// What the TOML library found, with line and column.
        message: String,
    },
    /// An error with the line it comes from.
    #[error("{origin}: {error}")]
    At {
        /// `FILE:LINE` or the `--set` argument.
        origin: String,
        /// What is wrong there.
        error: Box<Self>,
    },
    /// A table that no job file has.
    #[error("unknown section [{section}]\nhint: {hint}")]
    UnknownSection {
        /// As written.
        section: String,
        /// What was probably meant.
        hint: String,
    },
    /// A key that no job file has.
    #[error("unknown key `{key}`\nhint: {hint}")]
    UnknownKey {
        /// Dotted, as written.
        key: String,
        /// What was probably meant.
        hint: String,
    },
    /// A required key is absent.
    #[error("`{key}` is missing: {what}")]
    Missing {
        /// Dotted key.
        key: &'static str,
        /// Its meaning.
        what: &'static str,
    },
    /// A path or URI that cannot be understood.
    #[error("`{key}`: {message}")]
    Unclear {
        /// Dotted key.
        key: String,
        /// What was expected.
        message: String,
    },
    /// A value out of range or in conflict with another.
    #[error("`{key}`: expected {expected}, found {found}")]
    Value {
        /// Dotted key.
        key: String,
        /// What would be accepted.
        expected: String,
        /// What was there.
        found: String,
    },
}

impl JobFileError {
    /// The value `found` of `key` is not what is `expected`.
    fn value(key: &str, expected: impl Into<String>, found: impl std::fmt::Display) -> Self {
        Self::Value { key: key.to_owned(), expected: expected.into(), found: found.to_string() }
    }
}

/// A validated job.
#[derive(Debug, Clone)]
pub struct Job {
    /// Where the rows come from.
    pub input: Input,
    /// Which model directory runs.
    pub model: Model,
    /// How captions are written.
    pub generation: Generation,
    /// Which vectors are written.
    pub embedding: Embedding,
    /// Where the parts go.
    pub output: Output,
    /// How this machine is used; never changes results beyond rounding.
    pub runtime: Runtime,
    /// When rows and runs count as failed.
    pub limits: Limits,
    /// How remote storage is reached.
    pub storage: StorageSettings,
}

/// `[input]`
#[derive(Debug, Clone, Serialize)]
pub struct Input {
    /// Paths, URIs or globs of manifest files, in the order given.
    pub manifest: Vec<Location>,
    /// The column that names a row.
    pub key: String,
    /// The column with the image: URI, bytes, or `{bytes, path}`. None: a text-only job.
    pub image: Option<String>,
    /// The column with the text that accompanies the image.
    pub text: Option<String>,
    /// SQL predicate over the manifest's columns.
    #[serde(rename = "where")]
    pub predicate: Option<String>,
    /// Columns that change when a row's content does; empty: what the storage lists decides.
    pub signature: Vec<String>,
    /// What to do about rows with the same key.
    pub on_duplicate_key: OnDuplicateKey,
    /// Whether JPEGs much larger than the model takes them are decoded at a fraction of their size. Serialised only if true,
    /// so that it does not change the identity of other jobs.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub jpeg_scaling: bool,
}

/// What to do about manifest rows with the same key.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDuplicateKey {
    /// Refuse the manifest.
    #[default]
    Error,
    /// Take the first row, leave the others out.
    First,
}

/// `[model]`
#[derive(Debug, Clone, Serialize)]
pub struct Model {
    /// The model directory.
    pub path: Location,
    /// File-name suffix of the graphs to prefer, such as `fp16`.
    pub precision: Option<String>,
}

/// `[generation]`
#[derive(Debug, Clone, Serialize)]
pub struct Generation {
    /// Whether captions are written; None: if the model can.
    pub enabled: Option<bool>,
    /// The settings in the job; the others come from the model's files.
    pub overrides: GenerationOverrides,
}

impl Generation {
    /// The prompt, if it differs from row to row: a template over the manifest's columns.
    #[must_use]
    pub fn prompt_template(&self) -> Option<&str> {
        self.overrides.prompt_template().filter(|_| self.enabled != Some(false))
    }
}

/// `[embedding]`: which vectors are written; None: if the model can make them.
#[derive(Debug, Clone, Serialize)]
pub struct Embedding {
    /// The image's vector.
    pub image: Option<bool>,
    /// The vector of the row's own text.
    pub text: Option<bool>,
    /// The vector of image and text fused.
    pub fused: Option<bool>,
    /// The cosine of the image with its generated caption.
    pub caption_similarity: Option<bool>,
    /// Element type of the vectors.
    pub dtype: VectorType,
    /// The model directory that makes them; None: that of `[model]`.
    pub model: Option<Location>,
}

/// `[output]`
#[derive(Debug, Clone)]
pub struct Output {
    /// The output folder.
    pub path: Location,
    /// Manifest columns to carry; None: all but image bytes.
    pub columns: Option<Vec<String>>,
    /// Rows in a part.
    pub part_rows: u64,
    /// Whether results of earlier runs are copied to rows of the same image and text.
    pub reuse_by_content: bool,
}

/// `[runtime]`
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Where the models run; each device has a worker of its own.
    pub devices: Vec<Device>,
    /// Rows in a batch; None: measured before the run is planned.
    pub batch_size: Option<usize>,
    /// Most bytes of a GPU's memory; None: what there is.
    pub device_memory_bytes: Option<usize>,
    /// Most bytes of fetched images and pixel values waiting for the model.
    pub prefetch_bytes: usize,
    /// Whether two runs give the same bytes on a GPU, as they do on the CPU.
    pub repeatable: bool,
    /// Threads for preprocessing, and for the model.
    pub threads: usize,
}

/// `[limits]`
#[derive(Debug, Clone)]
pub struct Limits {
    /// How many failed rows make the exit status 1.
    pub failures: FailureLimits,
    /// Larger files become `too_large` rows.
    pub max_image_bytes: u64,
    /// Larger images become `too_many_pixels` rows.
    pub max_image_pixels: u64,
    /// One attempt to read an image may take this long; a request for a part five times as long.
    pub fetch_timeout_ms: u64,
    /// Retries after a transient failure of remote storage.
    pub retries: u32,
    /// Requests for images that each web server has to answer at the same time.
    pub requests_per_host: usize,
    /// After this many storage failures of one kind in a row, the folder of the images is requested; 0: never.
    pub outage_after: u64,
    /// Folders and URI prefixes that images must be in; empty: anywhere.
    pub roots: Vec<Location>,
    /// Hosts of private networks that manifests and images may be read from over http(s).
    pub allow_private_hosts: PrivateHosts,
}
