//! What the stages of a run share: the opened job, the stop, and finished parts.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use tokio::sync::watch;

use crate::fetch::Fetcher;
use crate::job::Job;
use crate::manifest::Manifest;
use crate::output::part::result::RowResult;
use crate::output::part::writer::PartEncoder;
use crate::output::publish::reuse::Reuse;
use crate::output::records::plan::Plan;
use crate::output::store::OutputStore;
use crate::plan::Selection;
use crate::preprocess::Preprocessor;
use crate::support::metrics::Metrics;
use crate::support::progress::Progress;

/// A request to stop at the next row, made by a signal or by a stage that failed.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    requested: Arc<watch::Sender<bool>>,
    /// The stop that this one is nested in.
    outer: Option<Arc<watch::Sender<bool>>>,
}

impl Stop {
    /// Requests a stop; parts that are not complete are given up.
    pub fn request(&self) {
        self.requested.send_replace(true);
    }

    /// Whether a stop was requested.
    #[must_use]
    pub fn requested(&self) -> bool {
        self.both().any(|stop| *stop.borrow())
    }

    /// Waits until a stop is requested.
    pub(super) async fn wait(&self) {
        let requested = |stop: &Arc<watch::Sender<bool>>| {
            let mut stop = stop.subscribe();
            // Fails only without a sender, and `self` holds it.
            Box::pin(async move { stop.wait_for(|requested| *requested).await.is_ok() })
        };
        futures::future::select_all(self.both().map(requested)).await;
    }

    /// A stop that follows this one, and that can be requested on its own.
    pub(super) fn nested(&self) -> Self {
        Self { requested: Arc::default(), outer: Some(self.requested.clone()) }
    }

    fn both(&self) -> impl Iterator<Item = &Arc<watch::Sender<bool>>> {
        std::iter::once(&self.requested).chain(&self.outer)
    }
}

/// Everything that the stages of a run share.
#[derive(Clone)]
pub struct Stages<'a> {
    /// The validated job.
    pub job: &'a Job,
    /// The opened manifest.
    pub manifest: &'a Manifest,
    /// The run's plan.
    pub plan: &'a Plan,
    /// The selected rows.
    pub selection: &'a Selection,
    /// Fetches images.
    pub fetcher: &'a Fetcher,
    /// Turns images into pixel values; None in a text-only job.
    pub processor: Option<Arc<Preprocessor>>,
    /// Encodes parts.
    pub encoder: &'a PartEncoder,
    /// Earlier results that may be copied; None: every row is computed.
    pub reuse: Option<Arc<Reuse>>,
    /// OUTPUT.
    pub store: &'a OutputStore,
    /// Number of lanes, one for each device. Threads and memory of the job are divided among them.
    pub lanes: usize,
    /// Counters of every stage.
    pub metrics: Arc<Metrics>,
    /// Counts finished rows.
    pub progress: &'a Progress,
    /// Stops the run.
    pub stop: &'a Stop,
}

/// A part with a result for every row, for the write stage.
pub(super) struct FinishedPart {
    pub(super) part: u64,
    pub(super) carried: Vec<RecordBatch>,
    pub(super) results: Vec<RowResult>,
    /// How often a batch of the part was halved, because memory ran out or a row made it fail.
    pub(super) halved: u32,
}

#[cfg(test)]
mod tests {
    use super::Stop;

    #[tokio::test]
    async fn a_nested_stop_follows_the_outer_one_and_not_the_other_way_round() {
        let outer = Stop::default();
        let (first, second) = (outer.nested(), outer.nested());
        first.request();
        first.wait().await;
        assert!(first.requested() && !second.requested() && !outer.requested());
        let waiting = tokio::spawn({
            let second = second.clone();
            async move { second.wait().await }
        });
        outer.request();
        waiting.await.unwrap();
        assert!(second.requested());
    }
}
