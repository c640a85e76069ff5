//! Why a `preprocessor_config.json` is refused.

use serde_json::Value;

/// Why a `preprocessor_config.json` cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A value is missing, of the wrong type or out of range.
    #[error("preprocessor_config.json: `{key}`: expected {expected}, found {found}")]
    Invalid {
        /// The key.
        key: String,
        /// What would have been right.
        expected: String,
        /// The value, as JSON.
        found: String,
    },
    /// The key asks for a step that is not supported and would change pixels.
    #[error(
        "preprocessor_config.json: `{key}` = {found} asks for a preprocessing step that is not supported, and ignoring it \
         would change pixels\nhint: supported are resize, center crop, rescale and normalise"
    )]
    Unsupported {
        /// The key.
        key: String,
        /// The value, as JSON.
        found: String,
    },
}

impl ConfigError {
    pub(super) fn invalid(key: &str, expected: &str, found: &Value) -> Self {
        Self::Invalid { key: key.to_owned(), expected: expected.to_owned(), found: bounded(found) }
    }
}

/// `value` as JSON, or its beginning.
pub(super) fn bounded(value: &Value) -> String {
    const MOST_CHARACTERS: usize = 200;
    value.to_string().chars().take(MOST_CHARACTERS).collect()
}
