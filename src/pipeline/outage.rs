//! Tells an outage from images that are gone, by looking at rows in manifest order.
//!
//! Failures of one kind in a row are a streak. When it is long, or a part would end in it, the root of the images is asked. If it
//! answers, the images are at fault and their rows failed; if not, the run stops before that part is complete.

use std::sync::Arc;

use super::Stages;
use super::ingest::IngestItem;
use crate::error::Error;
use crate::fetch::Roots;
use crate::manifest::reader::ManifestReader;
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
    /// Since the root last answered.
    streak: Vec<Sought>,
    kind: Option<ErrorKind>,
    /// Found when they are first asked.
    roots: Option<Roots>,
}

impl<'a> OutageWatch<'a> {
    pub(super) const fn new(stages: &'a Stages<'a>) -> Self {
        Self { stages, streak: Vec::new(), kind: None, roots: None }
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
        if let IngestItem::Row(row) = item {
            let failure = row.image.as_ref().err().filter(|error| error.stage == Stage::Fetch).map(|error| error.kind);
            match (failure.filter(|kind| kind.is_of_storage()), image) {
                (Some(kind), Some(image)) => {
                    if self.kind != Some(kind) {
                        self.streak.clear();
                        self.kind = Some(kind);
                    }
                    self.streak.push(image);
                }
                // The storage gave this image, or said something about it.
                _ if row.content_hash.is_some() || failure.is_some() => self.streak.clear(),
                // The row has no image in any storage.
                _ => {}
            }
            if (self.streak.len() as u64) < limit {
                return Ok(());
            }
        }
        self.ask().await
    }

    async fn ask(&mut self) -> Result<(), Error> {
        let Some(kind) = self.kind.filter(|_| !self.streak.is_empty()) else { return Ok(()) };
        let roots = match &self.roots {
            Some(roots) => roots,
            None => self.roots.insert(roots(self.stages)?),
        };
        let images = self.streak.iter().map(|image| (image.uri.as_str(), &*image.base));
        if let Some(why) = self.stages.fetcher.outage(roots, images).await {
            let failures = self.streak.len() as u64;
            return Err(Error::Outage { failures, kind: kind.as_str(), why });
        }
        let failures = self.streak.len();
        tracing::warn!(failures, kind = kind.as_str(), "images could not be read, but their storage answers");
        self.streak.clear();
        Ok(())
    }
}

/// The roots of every image of the run, not of this attempt: what one attempt sees may be a folder that is rightly gone.
fn roots(stages: &Stages<'_>) -> Result<Roots, Error> {
    let mut roots = Roots::default();
    for batch in ManifestReader::new(stages.manifest, stages.selection.0.clone()) {
        let batch = batch?;
        for row in (0..batch.len()).map(|index| batch.row(index)) {
            if let ImageSource::Uri(uri) = &row.image {
                roots.add(uri, &row.base);
            }
        }
    }
    Ok(roots)
}
