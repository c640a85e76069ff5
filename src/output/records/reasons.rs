//! The reasons for which rows are selected or left out, counted in the plan.

use serde::{Deserialize, Serialize};

/// The numbers of rows by the reason for which they are selected or left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// No published row has the key.
    pub new: u64,
    /// The image (or a signature column) changed.
    pub content_changed: u64,
    /// The text changed.
    pub text_changed: u64,
    /// The model directory changed.
    pub model_changed: u64,
    /// Settings of generation, embedding or preprocessing changed.
    pub settings_changed: u64,
    /// The row failed before, transiently or with `--retry-failed`.
    pub retried: u64,
    /// Unchanged, but `--full` was given.
    pub full: u64,
    /// Left out: the published row is up to date.
    pub unchanged: u64,
    /// Left out: an earlier row has the key, and `on_duplicate_key` is `first`.
    pub duplicate: u64,
}

/// Why a row is selected or left out: one for each count of [`Reasons`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the counts of the same names are documented")]
pub enum Reason {
    New,
    ContentChanged,
    TextChanged,
    ModelChanged,
    SettingsChanged,
    Retried,
    Full,
    Unchanged,
    Duplicate,
}

impl Reason {
    /// Whether the row is selected.
    #[must_use]
    pub const fn is_in(self) -> bool {
        !matches!(self, Self::Unchanged | Self::Duplicate)
    }
}

impl Reasons {
    /// Counts `reasons`.
    #[must_use]
    pub fn count(reasons: &[Reason]) -> Self {
        let mut counts = Self::default();
        for reason in reasons {
            *match reason {
                Reason::New => &mut counts.new,
                Reason::ContentChanged => &mut counts.content_changed,
                Reason::TextChanged => &mut counts.text_changed,
                Reason::ModelChanged => &mut counts.model_changed,
                Reason::SettingsChanged => &mut counts.settings_changed,
                Reason::Retried => &mut counts.retried,
                Reason::Full => &mut counts.full,
                Reason::Unchanged => &mut counts.unchanged,
                Reason::Duplicate => &mut counts.duplicate,
            } += 1;
        }
        counts
    }

    /// The names and values of the counts that are not zero.
    pub fn named(&self) -> impl Iterator<Item = (&'static str, u64)> {
        [
            ("new", self.new),
            ("content changed", self.content_changed),
            ("text changed", self.text_changed),
            ("model changed", self.model_changed),
            ("settings changed", self.settings_changed),
            ("retried", self.retried),
            ("full", self.full),
            ("unchanged", self.unchanged),
            ("duplicate key", self.duplicate),
        ]
        .into_iter()
        .filter(|(_, rows)| *rows > 0)
    }
}
