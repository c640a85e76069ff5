//! Selects the rows of a new run: `where`, then duplicate keys, then what is new, then `--limit`.

use roaring::RoaringBitmap;

use super::delta::{RunRequest, compare};
use super::scan::{Scan, Sources, refuse_duplicates};
use super::{PlanError, Selection};
use crate::job::{Job, OnDuplicateKey};
use crate::manifest::{Manifest, filter};
use crate::output::OutputError;
use crate::output::records::published::published_runs;
use crate::output::records::reasons::{Reason, Reasons};
use crate::output::store::OutputStore;
use crate::row::signature::Signature;
use crate::storage::Storage;
use crate::support::failpoint;

/// The rows that a new run takes, and why.
#[derive(Debug)]
pub struct Decision {
    /// The rows.
    pub selection: Selection,
    /// Their signatures, in order.
    pub signatures: Vec<Signature>,
    /// Rows by reason, before the limit.
    pub reasons: Reasons,
    /// The published runs that were compared with.
    pub considered: Vec<String>,
    /// Rows whose images are on storage that cannot be listed, so that only a change of the URI is noticed.
    pub unlisted: u64,
    /// See [`Plan::image_roots`](crate::output::records::plan::Plan::image_roots). From every row that `where` selects, not only from
    /// those of the run: the images of one run may all be in a folder that was removed on purpose.
    pub image_roots: Vec<String>,
}

/// Compares the manifest with the published rows of OUTPUT (None: there is no OUTPUT yet).
///
/// # Errors
/// [`OutputError::Key`], a refused predicate, duplicate keys, and failures to read the manifest, the places it names, or OUTPUT.
pub fn decide(
    job: &Job,
    manifest: &Manifest,
    storage: &Storage,
    store: Option<&OutputStore>,
    request: &RunRequest,
    limit: Option<u64>,
) -> Result<Decision, PlanError> {
    let selection = Selection(filter::select(manifest, job.input.predicate.as_deref())?);
    let mut published = store.map(published_runs).transpose()?.unwrap_or_default();
    if let Some(run) = published.iter().find(|run| run.key != job.input.key) {
        let (run, theirs) = (run.run.clone(), run.key.clone());
        return Err(OutputError::Key { run, theirs, ours: job.input.key.clone() }.into());
    }
    // Images inside the manifest are hashed only when there are published rows to compare with.
    let sources = Sources { storage, roots: &job.limits.roots, inline: !published.is_empty() };
    let scan = Scan::read(manifest, &selection, sources)?;
    let duplicates = scan.duplicates();
    if !duplicates.is_empty() && job.input.on_duplicate_key == OnDuplicateKey::Error {
        return Err(refuse_duplicates(manifest, &selection, &duplicates));
    }
    let mut reasons = vec![Reason::New; scan.keys.len()];
    if let Some(store) = store {
        loop {
            failpoint::hit("before_compare");
            let compared = compare(store, &published, &scan, request);
            // A compaction may remove the runs that it replaces while they are read here.
            let now = published_runs(store)?;
            if compared.is_ok() || now == published {
                reasons = compared?;
                break;
            }
            published = now;
        }
    }
    for ordinal in &duplicates {
        reasons[ordinal as usize] = Reason::Duplicate;
    }
    let limit = usize::try_from(limit.unwrap_or(u64::MAX)).unwrap_or(usize::MAX);
    let taken = reasons.iter().enumerate().filter(|(_, reason)| reason.is_in()).map(|(ordinal, _)| ordinal as u32);
    let taken: RoaringBitmap = taken.take(limit).collect();
    Ok(Decision {
        selection: selection.at(&taken),
        signatures: taken.iter().map(|ordinal| scan.signatures[ordinal as usize]).collect(),
        reasons: Reasons::count(&reasons),
        unlisted: scan.unlisted,
        image_roots: scan.roots.to_records(),
        considered: published.into_iter().map(|run| run.run).collect(),
    })
}
