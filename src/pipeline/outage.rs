//! Tells an outage from images that are gone, by looking at rows in manifest order.
//!
//! Before a part with storage failures is complete, the roots of the images that failed are asked; and earlier, when
//! `limits.outage_after` failures of one kind stand in a row. If they answer, the images are at fault and their rows failed; if not,
//! the run stops before that part is complete.

use std::sync::Arc;

use super::row::IngestItem;
use super::stages::Stages;
use crate::error::Error;
use crate::fetch::CommonFolders;
use crate::row::error::{ErrorKind, Stage};
use crate::storage::Location;

/// Where a row's image was looked for.
pub(super) struct FailedImage {
    pub(super) uri: String,
    pub(super) base: Arc<Location>,
}

/// Follows the rows of a run.
pub(super) struct OutageWatch<'a> {
    stages: &'a Stages<'a>,
    /// The storage failures of the part at hand, since the root last answered.
    failures: Vec<FailedImage>,
    /// How many of them are the last rows.
    streak: usize,
    kind: ErrorKind,
    /// As the plan has them: nothing is read here, in async code, that may block.
    roots: CommonFolders,
    /// Whether this run's log says already that some images cannot be read.
    warned: bool,
}

impl<'a> OutageWatch<'a> {
    pub(super) fn new(stages: &'a Stages<'a>) -> Self {
        let roots = CommonFolders::from_records(&stages.plan.image_roots);
        Self { stages, failures: Vec::new(), streak: 0, kind: ErrorKind::Io, roots, warned: false }
    }

    /// Takes the next row, or the end of a part, into account; `image`: where a failed row's image was looked for.
    ///
    /// # Errors
    /// [`Error::Outage`].
    pub(super) async fn see(&mut self, item: &IngestItem, image: Option<FailedImage>) -> Result<(), Error> {
        let limit = self.stages.job.limits.outage_after;
        if limit == 0 {
            return Ok(());
        }
        let IngestItem::Row(row) = item else {
            // Single web servers are down every night; that is no outage.
            let of_web = |image: &FailedImage| matches!(image.base.resolve(&image.uri), Ok(Location::Http(_)));
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
        let images = self.failures[first..].iter().map(|image| (image.uri.as_str(), &*image.base));
        let (failures, kind) = (self.failures.len(), self.kind.as_str());
        if let Some(why) = self.stages.fetcher.outage(&self.roots, images).await {
            return Err(Error::Outage { failures, kind, why });
        }
        if self.warned {
            tracing::debug!(failures, kind, "images could not be read, but their storage answers");
        } else {
            tracing::warn!(kind, "some images cannot be read, but their storage answers: they become failed rows");
            self.warned = true;
        }
        self.failures.clear();
        self.streak = 0;
        Ok(())
    }
}
