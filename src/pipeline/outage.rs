//! Tells an outage from images that are gone, by looking at rows in manifest order.
//!
//! Before a part with storage failures is complete, the roots of the images that failed are asked; and earlier, when
//! `limits.outage_after` failures of one kind stand in a row. If they answer, the images are at fault and their rows failed; if not,
//! the run stops before that part is complete.

use std::sync::Arc;

use super::Stages;
use super::ingest::IngestItem;
use crate::error::Error;
use crate::fetch::Roots;
use crate::manifest::filter;
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::row::ImageSource;
use crate::row_error::{ErrorKind, Stage};
use crate::storage::Location;

/// Where a row's image was looked for.
pub(super) struct Sought {
    pub(super) uri: String,
    pub(super) base: Arc<Location>,
}

/// Follows the rows of a run.
pub(super) struct OutageWatch<'a> {
    stages: &'a Stages<'a>,
    /// The storage failures of the part at hand, since the root last answered.
    failures: Vec<Sought>,
    /// How many of them are the last rows.
    streak: usize,
    kind: ErrorKind,
    /// Found when they are first asked.
    roots: Option<Roots>,
    /// Whether this run's log says already that some images cannot be read.
    told: bool,
}

impl<'a> OutageWatch<'a> {
    pub(super) const fn new(stages: &'a Stages<'a>) -> Self {
        Self { stages, failures: Vec::new(), streak: 0, kind: ErrorKind::Io, roots: None, told: false }
    }

    /// Takes the next row, or the end of a part, into account; `image`: where a failed row's image was looked for.
    ///
    /// # Errors
    /// [`Error::Outage`].
    pub(super) async fn see(&mut self, item: &IngestItem, image: Option<Sought>) -> Result<(), Error> {
        let limit = self.stages.job.limits.outage_after;
        if limit == 0 {
            return Ok(());
        }
        let IngestItem::Row(row) = item else {
            // Single web servers are down every night; that is no outage.
            let of_web = |image: &Sought| matches!(image.base.resolve(&image.uri), Ok(Location::Http(_)));
            self.failures.retain(|image| !of_web(image));
            return self.ask(0).await;
        };
        let failure = row.image.as_ref().err().filter(|error| error.stage == Stage::Fetch).map(|error| error.kind);
        match (failure.filter(|kind| kind.is_of_storage()), image) {
            (Some(kind), Some(image)) => {
                self.streak = if self.kind == kind { self.streak + 1 } else { 1 };
                self.kind = kind;
                self.failures.push(image);
            }
            // The storage gave this image, or said something about it.
            _ if row.content_hash.is_some() || failure.is_some() => self.streak = 0,
            // The row has no image in any storage.
            _ => {}
        }
        if (self.streak as u64) < limit {
            return Ok(());
        }
        self.ask(self.failures.len().saturating_sub(self.streak)).await
    }

    /// Asks the roots of the failures from number `first` on.
    async fn ask(&mut self, first: usize) -> Result<(), Error> {
        if self.failures.is_empty() {
            return Ok(());
        }
        let roots = match &self.roots {
            Some(roots) => roots,
            None => self.roots.insert(roots(self.stages)?),
        };
        let images = self.failures[first..].iter().map(|image| (image.uri.as_str(), &*image.base));
        let (failures, kind) = (self.failures.len(), self.kind.as_str());
        if let Some(why) = self.stages.fetcher.outage(roots, images).await {
            return Err(Error::Outage { failures, kind, why });
        }
        if self.told {
            tracing::debug!(failures, kind, "images could not be read, but their storage answers");
        } else {
            tracing::warn!(kind, "some images cannot be read, but their storage answers: they become failed rows");
            self.told = true;
        }
        self.failures.clear();
        self.streak = 0;
        Ok(())
    }
}

/// The roots of every image that the job is about, not of this run: what one night takes may lie in a folder that is rightly
/// gone.
fn roots(stages: &Stages<'_>) -> Result<Roots, Error> {
    let mut roots = Roots::default();
    let rows = filter::select(stages.manifest, stages.job.input.predicate.as_deref())?;
    for batch in ManifestReader::new(stages.manifest, rows, Projection::Places) {
        let batch = batch?;
        for row in (0..batch.len()).map(|index| batch.row(index)) {
            if let ImageSource::Uri(uri) = &row.image {
                roots.add(uri, &row.base);
            }
        }
    }
    Ok(roots)
}
