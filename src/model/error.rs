//! Why a model directory cannot run: every reason at once, each with its file and what to do. A single
//! bad row is never one of these.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::onnx::OnnxError;

/// One reason why a model directory cannot run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The file (or folder) it is about, relative to the model directory where possible.
    pub file: String,
    /// Lower-case sentence: what was expected, what was found.
    pub what: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem without advice. What files of a model hold is not repeated at length.
    pub fn new(file: impl Into<String>, what: impl Into<String>) -> Self {
        Self { file: bounded(file.into()), what: bounded(what.into()), hint: None }
    }

    /// The same problem with advice.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(bounded(hint.into()));
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file, self.what)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

/// Why a model directory cannot run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ModelError {
    /// The directory itself does not fit together.
    #[error("the model directory {} cannot run:{}", path.display(), listed(problems))]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Every reason found.
        problems: Vec<Problem>,
    },
    /// ONNX Runtime is missing or refused a graph.
    #[error(transparent)]
    Onnx(#[from] OnnxError),
}

impl ModelError {
    /// A directory with one problem.
    pub fn one(path: &Path, problem: Problem) -> Self {
        Self::Directory { path: path.to_path_buf(), problems: vec![problem] }
    }
}

/// The beginning of `text`, if it is long.
fn bounded(mut text: String) -> String {
    const MOST_CHARACTERS: usize = 1000;
    if let Some((end, _)) = text.char_indices().nth(MOST_CHARACTERS) {
        text.truncate(end);
        text.push_str(" ...");
    }
    text
}

fn listed(problems: &[Problem]) -> String {
    problems.iter().fold(String::new(), |list, problem| list + "\n" + &problem.to_string())
}
