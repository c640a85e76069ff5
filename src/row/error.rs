//! The error of one row. It never stops a run: it becomes the row's `error_stage`, `error_kind` and `error_message` columns. Errors
//! that stop a run are [`crate::error::Error`].

use std::fmt;
use std::time::Duration;

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

/// Declares the enum, the list of its kinds and their names from one table.
macro_rules! error_kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// Why a row failed; the `error_kind` column. The set is closed; docs/output.md documents it.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorKind {
            $($(#[$doc])* $kind,)*
        }

        impl ErrorKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// The name written to the `error_kind` column.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$kind => $name,)*
                }
            }
        }
    };
}

error_kinds! {
    /// The row's image (or, in a text-only job, its text) is null.
    NullInput = "null_input",
    /// No such file or object.
    NotFound = "not_found",
    /// The storage refused access to this one object, its URI lies outside `limits.roots`, its host is one of a private network, or
    /// a redirect may not be followed.
    Forbidden = "forbidden",
    /// More bytes than `limits.max_image_bytes`.
    TooLarge = "too_large",
    /// More pixels than `limits.max_image_pixels`, in the file or when it is enlarged for the model.
    TooManyPixels = "too_many_pixels",
    /// The bytes are no image of a supported format.
    UnsupportedFormat = "unsupported_format",
    /// The bytes claim a supported format and cannot be decoded.
    CorruptImage = "corrupt_image",
    /// The image's URI cannot be understood.
    InvalidUri = "invalid_uri",
    /// The model's tokenizer cannot take the row's text.
    InvalidText = "invalid_text",
    /// The prompt's template cannot be filled in with the row's columns, or the result cannot be tokenized.
    InvalidPrompt = "invalid_prompt",
    /// The row's prompt has more tokens than the model has positions.
    PromptTooLong = "prompt_too_long",
    /// A model produced NaN or infinity for this row.
    NonFiniteOutput = "non_finite_output",
    /// A graph fails on this row alone, while it works for others.
    ModelError = "model_error",
    /// The storage did not answer in time.
    Timeout = "timeout",
    /// The storage asked for fewer requests (status 429 or 503).
    Throttled = "throttled",
    /// The storage failed (another status from 500).
    ServerError = "server_error",
    /// The connection could not be made, or broke off.
    Connection = "connection",
    /// The storage failed in another way that may pass.
    Io = "io",
}

impl ErrorKind {
    /// Whether the same row may well succeed on another night.
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
        Self::ALL.iter().any(|kind| kind.is_transient() && kind.as_str() == name)
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
    /// Whether this process ran out of descriptors or memory, and the row is not at fault: it must not become a failed row.
    pub is_exhausted: bool,
    /// How long the server asks to wait before the next attempt.
    pub retry_after: Option<Duration>,
}

impl RowError {
    /// A failure of `kind` in `stage`.
    pub fn new(stage: Stage, kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { stage, kind, message: message.into(), is_exhausted: false, retry_after: None }
    }
}

impl fmt::Display for RowError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.kind.as_str(), self.stage.as_str(), self.message)
    }
}

impl std::error::Error for RowError {}
