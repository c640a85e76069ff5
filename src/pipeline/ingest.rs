//! The ingest stage: rows in, rows with pixel values (or their error) out, in manifest order.
//!
//! Fetching is concurrent on one async thread, decoding and resizing parallel on [`super::workers`]. What happens to one row is
//! in [`super::row`]; what bounds memory is in [`super::budget`].

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc::{Receiver, Sender};

use super::budget::{MemoryBudget, Turn, TurnQueue};
use super::outage::{FailedImage, OutageWatch};
use super::read::ReadItem;
use super::row::{IngestItem, ingest_row};
use super::stages::Stages;
use super::workers::Workers;
use crate::error::Error;
use crate::manifest::row::{ImageSource, RowBatch};
use crate::row::error::Stage;

/// Images that are fetched or prepared at the same time.
const CONCURRENT_ROWS: usize = 32;

pub(super) fn run(stages: &Stages<'_>, input: Receiver<ReadItem>, out: &Sender<IngestItem>) -> Result<(), Error> {
    let system = |action, source| Error::System { action, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| system("start the fetch thread", error))?;
    let memory_bytes = stages.job.runtime.prefetch_bytes / stages.lanes;
    let workers = Workers::start(stages.job.runtime.threads.div_ceil(stages.lanes), memory_bytes)?;
    let budget = MemoryBudget::new(memory_bytes);
    let outcome = runtime.block_on(async {
        let mut watch = OutageWatch::new(stages);
        let mut turns = TurnQueue::new();
        let items = stream::unfold(input, |mut input| async { input.recv().await.map(|item| (item, input)) });
        let units = items.flat_map(|item| stream::iter(units(item, &mut turns)));
        let mut rows =
            std::pin::pin!(units.map(|unit| ingest(stages, &workers, &budget, unit)).buffered(CONCURRENT_ROWS));
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
        // Neither a stop nor the end of the next stage, which says why itself, waits for images that are being fetched.
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

/// What passes through the stage in order.
enum Unit {
    Row { batch: Arc<RowBatch>, index: usize, turn: Turn },
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

fn units(item: ReadItem, turns: &mut TurnQueue) -> Vec<Unit> {
    match item {
        ReadItem::Rows(batch) => {
            (0..batch.len()).map(|index| Unit::Row { batch: batch.clone(), index, turn: turns.turn() }).collect()
        }
        ReadItem::PartEnd { part, carried } => vec![Unit::PartEnd { part, carried }],
    }
}

/// What becomes of a unit, and of a row where its image was looked for.
async fn ingest(
    stages: &Stages<'_>,
    workers: &Workers,
    budget: &MemoryBudget,
    unit: Unit,
) -> Result<(IngestItem, Option<FailedImage>), Error> {
    match unit {
        Unit::PartEnd { part, carried } => Ok((IngestItem::PartEnd { part, carried }, None)),
        Unit::Row { batch, index, turn } => {
            let row = ingest_row(stages, workers, &batch, index, (turn, budget)).await?;
            let failed = matches!(&row.image, Err(error) if error.stage == Stage::Fetch);
            let sought = failed.then(|| batch.row(index)).and_then(|row| match row.image {
                ImageSource::Uri(uri) => Some(FailedImage { uri, base: row.base }),
                _ => None,
            });
            Ok((IngestItem::Row(Box::new(row)), sought))
        }
    }
}
