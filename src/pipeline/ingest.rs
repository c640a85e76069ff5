//! The ingest stage: rows in, rows with pixel values (or their error) out, in manifest order.
//!
//! Fetching is concurrent on one async thread, decoding and resizing parallel on the threads of [`super::workers`]. [`super::row`]
//! handles one row, [`super::budget`] bounds memory, [`super::outage`] stops the run when storage does not answer.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc::{Receiver, Sender};

use super::budget::{MemoryBudget, Ticket, TicketQueue};
use super::outage::{FailedImage, OutageWatch};
use super::read::ReadItem;
use super::row::{IngestItem, ingest_row};
use super::stages::Stages;
use super::workers::Workers;
use crate::error::Error;
use crate::manifest::row::{ImageSource, RowBatch};
use crate::row::error::Stage;

/// Images that are fetched or prepared at the same time, at least.
const CONCURRENT_ROWS: usize = 32;
/// The same for each preprocessing thread: rows leave in order, so that others wait behind an image that takes long, and no thread should.
const ROWS_PER_THREAD: usize = 4;

pub(super) fn run(stages: &Stages<'_>, input: Receiver<ReadItem>, out: &Sender<IngestItem>) -> Result<(), Error> {
    let system = |action, source| Error::System { action, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| system("start the fetch thread", error))?;
    let memory_bytes = stages.job.runtime.prefetch_bytes / stages.lanes;
    let threads = stages.job.runtime.threads.div_ceil(stages.lanes);
    let workers = Workers::start(threads, memory_bytes)?;
    let concurrent_rows = CONCURRENT_ROWS.max(ROWS_PER_THREAD * threads);
    let budget = MemoryBudget::new(memory_bytes);
    let outcome = runtime.block_on(async {
        let mut watch = OutageWatch::new(stages);
        let mut tickets = TicketQueue::new();
        let items = stream::unfold(input, |mut input| async { input.recv().await.map(|item| (item, input)) });
        let units = items.flat_map(|item| stream::iter(units(item, &mut tickets)));
        let mut rows =
            std::pin::pin!(units.map(|unit| ingest(stages, &workers, &budget, unit)).buffered(concurrent_rows));
        let flow = async {
            while let Some(outcome) = rows.next().await {
                let (item, image) = outcome?;
                watch.see(&item, image).await?;
                if out.send(item).await.is_err() {
                    break;
                }
            }
            Ok(())
        };
        // A stop and the end of the next stage, which reports its own error, do not wait for images that are being fetched.
        tokio::select! {
            biased;
            outcome = flow => outcome,
            () = stages.stop.wait() => Ok(()),
            () = out.closed() => Ok(()),
        }
    });
    // A read that hangs in the operating system must not keep the run from ending.
    runtime.shutdown_background();
    outcome
}

/// One item of the stage, in manifest order.
enum Unit {
    Row { batch: Arc<RowBatch>, index: usize, ticket: Ticket },
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

fn units(item: ReadItem, tickets: &mut TicketQueue) -> Vec<Unit> {
    match item {
        ReadItem::Rows(batch) => {
            (0..batch.len()).map(|index| Unit::Row { batch: batch.clone(), index, ticket: tickets.ticket() }).collect()
        }
        ReadItem::PartEnd { part, carried } => vec![Unit::PartEnd { part, carried }],
    }
}

/// Handles a unit. For a row whose image could not be fetched, also says where it was looked for.
async fn ingest(
    stages: &Stages<'_>,
    workers: &Workers,
    budget: &MemoryBudget,
    unit: Unit,
) -> Result<(IngestItem, Option<FailedImage>), Error> {
    match unit {
        Unit::PartEnd { part, carried } => Ok((IngestItem::PartEnd { part, carried }, None)),
        Unit::Row { batch, index, ticket } => {
            let row = ingest_row(stages, workers, &batch, index, (ticket, budget)).await?;
            if let Err(error) = row.image.as_ref()
                && error.is_exhausted
            {
                let source = std::io::Error::other(format!(
                    "{}\nhint: `ulimit -n` limits the files that a process has open",
                    error.message
                ));
                return Err(Error::System { action: "read an image", source });
            }
            let failed = matches!(&row.image, Err(error) if error.stage == Stage::Fetch);
            let failed_image = failed.then(|| batch.row(index)).and_then(|row| match row.image {
                ImageSource::Uri(uri) => Some(FailedImage { uri, base: row.base }),
                _ => None,
            });
            Ok((IngestItem::Row(Box::new(row)), failed_image))
        }
    }
}
