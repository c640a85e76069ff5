//! What is new: each manifest row against the newest published row of its key.
//!
//! Planning merges the published runs' indexes, which are sorted by key, with the scanned manifest, sorted the same way.
//! Memory: 25 bytes a row besides the scan's.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use super::scan::Scan;
use crate::error::Error;
use crate::output::finalize::Published;
use crate::output::index::{Fingerprints, IndexEntry, IndexReader, RowState};
use crate::output::run_folder;
use crate::output::store::OutputStore;

/// How many rows are in for which reason, and how many are not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reasons {
    /// No published row has the key.
    pub new: u64,
    /// The picture (or a signature column) is another.
    pub content_changed: u64,
    /// The text is another.
    pub text_changed: u64,
    /// The model directory is another.
    pub model_changed: u64,
    /// Settings of generation, embedding or preprocessing are others.
    pub settings_changed: u64,
    /// The row failed before, transiently or with `--retry-failed`.
    pub retried: u64,
    /// Unchanged, but `--full` was given.
    pub full: u64,
    /// Left out: the published row stands.
    pub unchanged: u64,
    /// Left out: an earlier row has the key, and `on_duplicate_key` is `first`.
    pub duplicate: u64,
}

/// Why a row is in, or not: one for each count of [`Reasons`].
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
    /// Whether the row is in.
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

    /// The counts that are not zero, with what they are called.
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

/// What tonight's rows would be made with, and what was asked for besides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tonight {
    /// As the parts will say.
    pub fingerprints: Fingerprints,
    /// Take permanently failed rows again.
    pub retry_failed: bool,
    /// Take every row.
    pub full: bool,
}

/// The reason for every scanned row, by ordinal, duplicates aside.
///
/// # Errors
/// When an index cannot be read.
pub(super) fn compare(
    store: &OutputStore,
    published: &[Published],
    scan: &Scan,
    tonight: &Tonight,
) -> Result<Vec<Reason>, Error> {
    let mut reasons = vec![Reason::New; scan.keys.len()];
    let mut newest = vec![i64::MIN; scan.keys.len()];
    for run in published {
        let index = IndexReader::open(store, &run_folder(&run.run), &run.index)?;
        let stale: HashMap<u32, Option<Reason>> =
            index.fingerprints.iter().enumerate().map(|(at, then)| (at as u32, tonight.outdates(then))).collect();
        let mut at = 0;
        for entry in index {
            let entry = entry?;
            let key = |at: usize| scan.by_key.get(at).map(|&ordinal| (scan.keys[ordinal as usize], ordinal as usize));
            while key(at).is_some_and(|(key, _)| key < entry.key) {
                at += 1;
            }
            let same = (at..).map_while(key).take_while(|(key, _)| *key == entry.key);
            for (_, ordinal) in same {
                if entry.run_seq > newest[ordinal] {
                    newest[ordinal] = entry.run_seq;
                    let outdated = stale.get(&entry.fingerprints).copied().flatten();
                    reasons[ordinal] = tonight.reason(scan, ordinal, &entry, outdated);
                }
            }
        }
    }
    if tonight.full {
        reasons.iter_mut().filter(|reason| **reason == Reason::Unchanged).for_each(|reason| *reason = Reason::Full);
    }
    Ok(reasons)
}

impl Tonight {
    /// Why rows made with `then` have to be made again; None: they do not.
    fn outdates(&self, then: &Fingerprints) -> Option<Reason> {
        let now = &self.fingerprints;
        if then == now {
            return None;
        }
        // The first half of a fingerprint names the model, the second the settings.
        let model = |of: &Fingerprints| {
            let half = |text: &Option<String>| text.as_ref().map(|text| text.split('-').next().map(str::to_owned));
            (half(&of.caption), half(&of.embedding))
        };
        Some(if model(then) == model(now) { Reason::SettingsChanged } else { Reason::ModelChanged })
    }

    fn reason(&self, scan: &Scan, ordinal: usize, then: &IndexEntry, outdated: Option<Reason>) -> Reason {
        let now = scan.signatures[ordinal];
        if now != then.signature {
            return if now.text == then.signature.text { Reason::ContentChanged } else { Reason::TextChanged };
        }
        match then.state {
            RowState::Transient => Reason::Retried,
            RowState::Permanent if self.retry_failed => Reason::Retried,
            RowState::Permanent | RowState::Ok => outdated.unwrap_or(Reason::Unchanged),
        }
    }
}
