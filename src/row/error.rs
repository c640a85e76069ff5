//! The error of one row. It never stops a run: it becomes the row's `error_stage`, `error_kind` and `error_message` columns. Errors
//! that stop a run are [`crate::error::Error`].

use std::fmt;

/// The step of the pipeline in which a row failed; the `error_stage` column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading the row's image or text out of the manifest.
    Manifest,
    /// Getting the image's bytes.
    Fetch,
    /// Turning image bytes into pixel values.
    Preprocess,
    /// Running the image encoder, text encoder or fusion graph.
    Encode,
    /// Generating the caption.
    Generate,
}

/// Why a row failed; the `error_kind` column. The set is closed; docs/output.md documents it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The row's image (or, in a text-only job, its text) is null.
    NullInput,
    /// No such file or object.
    NotFound,
    /// The storage refused access to this one object, or its URI is outside `limits.roots`.
    Forbidden,
    /// More bytes than `limits.max_image_bytes`.
    TooLarge,
    /// More pixels than `limits.max_image_pixels`.
    TooManyPixels,
    /// The bytes are not an image of a supported format.
    UnsupportedFormat,
    /// The bytes begin like a supported format but cannot be decoded.
    CorruptImage,
    /// The image's URI cannot be understood.
    InvalidUri,
    /// The model's tokenizer cannot take the row's text.
    InvalidText,
    /// The prompt's template cannot be filled in with the row's columns, or the result cannot be tokenized.
    InvalidPrompt,
    /// The row's prompt has more tokens than the model has positions.
    PromptTooLong,
    /// A model produced NaN or infinity for this row.
    NonFiniteOutput,
    /// A graph fails on this row alone, while it works for others.
    ModelError,
    /// The storage did not answer in time.
    Timeout,
    /// The storage asked for fewer requests (status 429 or 503).
    Throttled,
    /// The storage failed (another status from 500).
    ServerError,
    /// The connection could not be made, or broke off.
    Connection,
    /// The storage failed transiently in another way.
    Io,
}

impl ErrorKind {
    /// The transient kinds: the same row may succeed in a later run.
    const TRANSIENT: [Self; 5] = [Self::Timeout, Self::Throttled, Self::ServerError, Self::Connection, Self::Io];

    /// Whether it is transient: the same row may succeed in a later run.
    #[must_use]
    pub const fn is_transient(self) -> bool {
        self.is_outage() || matches!(self, Self::Io)
    }

    /// Whether a server failed, whatever was requested from it.
    #[must_use]
    pub const fn is_outage(self) -> bool {
        matches!(self, Self::Timeout | Self::Throttled | Self::ServerError | Self::Connection)
    }

    /// Whether the storage rather than one image may be at fault: many in a row may be an outage.
    #[must_use]
    pub const fn is_of_storage(self) -> bool {
        self.is_transient() || matches!(self, Self::NotFound | Self::Forbidden)
    }

    /// Whether `name`, from an `error_kind` column, is a transient kind.
    #[must_use]
    pub fn is_transient_name(name: &str) -> bool {
        Self::TRANSIENT.iter().any(|kind| kind.as_str() == name)
    }

    /// The name written to the `error_kind` column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NullInput => "null_input",
            Self::NotFound => "not_found",
            Self::Forbidden => "forbidden",
            Self::TooLarge => "too_large",
            Self::TooManyPixels => "too_many_pixels",
            Self::UnsupportedFormat => "unsupported_format",
            Self::CorruptImage => "corrupt_image",
            Self::InvalidUri => "invalid_uri",
            Self::InvalidText => "invalid_text",
            Self::InvalidPrompt => "invalid_prompt",
            Self::PromptTooLong => "prompt_too_long",
            Self::NonFiniteOutput => "non_finite_output",
            Self::ModelError => "model_error",
            Self::Timeout => "timeout",
            Self::Throttled => "throttled",
            Self::ServerError => "server_error",
            Self::Connection => "connection",
            Self::Io => "io",
        }
    }
}

impl Stage {
    /// The name written to the `error_stage` column.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Fetch => "fetch",
            Self::Preprocess => "preprocess",
            Self::Encode => "encode",
            Self::Generate => "generate",
        }
    }
}

/// The failure of one row: its stage, its kind, and a message that says what was expected and what was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowError {
    /// The step that failed.
    pub stage: Stage,
    /// The documented kind.
    pub kind: ErrorKind,
    /// The message, in lower case.
    pub message: String,
}

impl RowError {
    /// A failure of `kind` in `stage`.
    pub fn new(stage: Stage, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { stage, kind, message: message.into() }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind.as_str(), self.stage.as_str(), self.message)
    }
}

impl std::error::Error for RowError {}
