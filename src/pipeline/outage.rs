//! Distinguishes an outage from missing images. In: rows in manifest order. Out: [`Error::Outage`], or nothing.
//!
//! After `limits.outage_after` consecutive failures of one kind, and at the end of a part with failures, the folders that the failed
//! images share are requested (see [`CommonFolders`]). If the storage answers, the images are at fault and their rows are failed
//! rows; if not, the run stops before that part is complete.

use std::sync::Arc;

use super::row::IngestItem;
use super::stages::Stages;
use crate::error::Error;
use crate::fetch::CommonFolders;
use crate::row::error::{ErrorKind, Stage};
use crate::storage::Location;

/// Where an image was looked for that could not be fetched.
pub(super) struct FailedImage {
    pub(super) uri: String,
    pub(super) base: Arc<Location>,
}

/// Counts the storage failures of a run.
pub(super) struct OutageWatch<'a> {
    stages: &'a Stages<'a>,
    /// The storage failures of the current part since the storage last answered.
    failures: Vec<FailedImage>,
    /// How many of them are consecutive and of the same kind, at the end.
    streak: usize,
    kind: ErrorKind,
    /// From the plan: finding them here could block the async runtime.
    roots: CommonFolders,
    /// Whether it was logged already that some images cannot be read.
    warned: bool,
}

impl<'a> OutageWatch<'a> {
    pub(super) fn new(stages: &'a Stages<'a>) -> Self {
        let roots = CommonFolders::from_records(&stages.plan.image_roots);
        Self { stages, failures: Vec::new(), streak: 0, kind: ErrorKind::Io, roots, warned: false }
    }

    /// Counts the next row, or handles the end of a part; `image`: where the image of a failed row was looked for.
    ///
    /// # Errors
    /// [`Error::Outage`].
    pub(super) async fn see(&mut self, item: &IngestItem, image: Option<FailedImage>) -> Result<(), Error> {
        let limit = self.stages.job.limits.outage_after;
        if limit == 0 {
            return Ok(());
        }
        let IngestItem::Row(row) = item else {
            // Among many web servers some are always down; that is no outage.
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
            // The storage answered for this image.
            _ if row.content_hash.is_some() || failure.is_some() => self.streak = 0,
            // The row has no image in a storage.
            _ => {}
        }
        if (self.streak as u64) < limit {
            return Ok(());
        }
        self.ask(self.failures.len().saturating_sub(self.streak)).await
    }

    /// Requests the shared folders of the failures from number `first` on.
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
