//! Why a graph has no static step.

use std::fmt;

/// Why a graph has no static step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NotStatic {
    /// What was not recognised, as the end of a sentence about the graph.
    pub(crate) reason: String,
}

impl NotStatic {
    pub(super) fn because(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

impl fmt::Display for NotStatic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}
