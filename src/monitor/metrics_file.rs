//! The file of metrics: renamed into place, so that a collector never reads a half of one.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use super::exposition::{self, LAST_SUCCESS};
use super::observed::Observed;
use crate::support::redact;
use crate::support::whole_file::{self, Existing};

/// A larger file is not one of ours.
const MOST_BYTES: u64 = 1 << 20;

pub(super) struct MetricsFile {
    path: PathBuf,
    labels: HashMap<String, String>,
    /// When the command last succeeded, in seconds since 1970: from the file that is replaced.
    last_success: Option<f64>,
    has_warned: bool,
}

impl MetricsFile {
    pub(super) fn new(path: PathBuf, labels: [(&str, String); 3]) -> Result<Self, String> {
        if path.is_dir() || path.file_name().is_none() {
            return Err(format!("--metrics-file: expected the path of a file, found {}", path.display()));
        }
        let labels = labels.into_iter().filter(|(_, value)| !value.is_empty());
        let labels = labels.map(|(name, value)| (name.to_owned(), redact::value(&value))).collect();
        let last_success = last_success(&path);
        Ok(Self { path, labels, last_success, has_warned: false })
    }

    /// Replaces the file.
    ///
    /// # Errors
    /// A message.
    pub(super) fn write(&mut self, observed: &Observed) -> Result<(), String> {
        if observed.status == Some(0) {
            self.last_success = Some(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64());
        }
        let failed = |error: &dyn std::fmt::Display| format!("--metrics-file {}: {error}", self.path.display());
        let text = exposition::text(observed, &self.labels, self.last_success).map_err(|error| failed(&error))?;
        whole_file::write(&self.path, text.as_bytes(), Existing::Replace).map_err(|error| failed(&error))
    }

    /// A file that cannot be replaced now is no reason to stop the run, nor to say so every time.
    pub(super) fn warn_once(&mut self, error: &str) {
        if !std::mem::replace(&mut self.has_warned, true) {
            tracing::warn!("the metrics cannot be written: {error}");
        }
    }
}

/// The time in the metric [`LAST_SUCCESS`] of the file at `path`, if it has one.
fn last_success(path: &Path) -> Option<f64> {
    let metadata = std::fs::metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= MOST_BYTES);
    metadata?;
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(LAST_SUCCESS))?;
    line.rsplit(' ').next()?.parse().ok().filter(|time: &f64| time.is_finite())
}
