//! What is new: compares each manifest row with the newest published row of its key.
//!
//! Planning merges the published runs' indexes, which are sorted by key, with the scanned manifest, sorted the same way.
//! Memory: 25 bytes a row besides the scan's.

use std::collections::HashMap;

use super::scan::Scan;
use crate::output::part::rows::{Fingerprints, RowState};
use crate::output::publish::index::{IndexEntry, IndexReader};
use crate::output::records::published::Published;
use crate::output::records::reasons::Reason;
use crate::output::store::OutputStore;
use crate::output::{OutputError, run_folder};

/// The fingerprints of a new run, and which unchanged rows it takes all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunRequest {
    /// The fingerprints that the run's rows will have.
    pub fingerprints: Fingerprints,
    /// `--retry-failed`: take permanently failed rows again.
    pub retry_failed: bool,
    /// `--full`: take every row.
    pub full: bool,
}

/// The reason for every scanned row, by ordinal; not for duplicates.
///
/// # Errors
/// When an index cannot be read.
pub(super) fn compare(
    store: &OutputStore,
    published: &[Published],
    scan: &Scan,
    request: &RunRequest,
) -> Result<Vec<Reason>, OutputError> {
    let mut reasons = vec![Reason::New; scan.keys.len()];
    let mut newest = vec![i64::MIN; scan.keys.len()];
    for run in published {
        let index = IndexReader::open(store, &run_folder(&run.run), &run.index)?;
        let stale: HashMap<u32, Option<Reason>> =
            index.fingerprints.iter().enumerate().map(|(at, then)| (at as u32, request.outdates(then))).collect();
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
                    reasons[ordinal] = request.reason(scan, ordinal, &entry, outdated);
                }
            }
        }
    }
    if request.full {
        reasons.iter_mut().filter(|reason| **reason == Reason::Unchanged).for_each(|reason| *reason = Reason::Full);
    }
    Ok(reasons)
}

impl RunRequest {
    /// Why rows made with `then` have to be computed again; None: they do not.
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
