//! The ingest stage: rows in, rows with pixel values (or their error) out, in manifest order.
//!
//! Fetching is concurrent on one async thread, decoding and resizing parallel on rayon. A row takes room in the byte budget
//! when its size is known and holds it until it joins a batch.

use std::sync::Arc;

use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;

use super::Stages;
use super::budget::{Budget, Room, Turn};
use super::read::ReadItem;
use crate::error::Error;
use crate::manifest::row::{ImageSource, Row, RowBatch};
use crate::preprocess::{DecodeLimits, ImageProcessor, PixelValues, decode};
use crate::row_error::{ErrorKind, RowError, Stage};

/// Images that are fetched or prepared at the same time.
const CONCURRENT_ROWS: usize = 32;

/// What the ingest stage hands on.
pub(super) enum IngestItem {
    /// One row.
    Row(Box<IngestedRow>),
    /// The part is complete; these are its carried columns.
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

/// A row ready for the model, or failed on the way.
pub(super) struct IngestedRow {
    /// The accompanying text, if it says anything.
    pub(super) text: Option<String>,
    /// The pixels; None in a text-only job.
    pub(super) image: Result<Option<PixelValues>, RowError>,
    /// Width and height after rotation, once decoded.
    pub(super) image_size: Option<(u32, u32)>,
    /// BLAKE3 of the image bytes, once fetched.
    pub(super) content_hash: Option<blake3::Hash>,
    /// See the output column.
    pub(super) content_signature: String,
    /// The bytes this row may occupy.
    pub(super) room: Option<Room>,
}

enum Unit {
    Row { batch: Arc<RowBatch>, index: usize, turn: Turn },
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

pub(super) fn run(stages: &Stages<'_>, input: Receiver<ReadItem>, out: &Sender<IngestItem>) -> Result<(), Error> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let runtime = runtime.map_err(|source| Error::System { action: "start the fetch thread", source })?;
    let workers = rayon::ThreadPoolBuilder::new()
        .num_threads(stages.job.runtime.threads)
        .thread_name(|i| format!("preprocess-{i}"));
    let workers = workers.build().map_err(|error| Error::System {
        action: "start the preprocessing threads",
        source: std::io::Error::other(error),
    })?;
    runtime.block_on(async {
        let mut budget = Budget::new(stages.job.runtime.prefetch_bytes);
        let items = stream::unfold(input, |mut input| async { input.recv().await.map(|item| (item, input)) });
        let units = items.flat_map(|item| stream::iter(units(item, &mut budget)));
        let mut rows = std::pin::pin!(units.map(|unit| ingest(stages, &workers, unit)).buffered(CONCURRENT_ROWS));
        while let Some(item) = rows.next().await {
            if stages.stop.requested() {
                break;
            }
            // Closed when the model has failed, which says why itself.
            if out.send(item).await.is_err() {
                break;
            }
        }
    });
    Ok(())
}

fn units(item: ReadItem, budget: &mut Budget) -> Vec<Unit> {
    match item {
        ReadItem::Rows(batch) => {
            let batch = Arc::new(batch);
            (0..batch.len()).map(|index| Unit::Row { batch: batch.clone(), index, turn: budget.turn() }).collect()
        }
        ReadItem::PartEnd { part, carried } => vec![Unit::PartEnd { part, carried }],
    }
}

async fn ingest(stages: &Stages<'_>, workers: &rayon::ThreadPool, unit: Unit) -> IngestItem {
    match unit {
        Unit::PartEnd { part, carried } => IngestItem::PartEnd { part, carried },
        Unit::Row { batch, index, turn } => {
            IngestItem::Row(Box::new(ingest_row(stages, workers, &batch, index, turn).await))
        }
    }
}

async fn ingest_row(
    stages: &Stages<'_>,
    workers: &rayon::ThreadPool,
    batch: &RowBatch,
    index: usize,
    turn: Turn,
) -> IngestedRow {
    let Row { key, image, text, base } = batch.row(index);
    let text = text.filter(|text| !text.trim().is_empty());
    let mut row = IngestedRow {
        content_signature: String::new(),
        image: Ok(None),
        image_size: None,
        content_hash: None,
        room: None,
        text,
    };
    let null = |what: &str| {
        Err(RowError::new(Stage::Manifest, ErrorKind::NullInput, format!("the {what} column is null in this row")))
    };
    // What the content looks like from outside: for the signature, not for the model.
    let mut outside = String::new();
    let fetched: Result<Option<Bytes>, RowError> = async {
        if key.is_none() {
            return null("key");
        }
        match image {
            ImageSource::TextOnly if row.text.is_none() => null("text"),
            ImageSource::TextOnly => Ok(None),
            ImageSource::Null => null("image"),
            ImageSource::Inline(size) => {
                stages.fetcher.check_size(size as u64)?;
                row.room = Some(room(stages, turn, size).await);
                Ok(stages.metrics.fetch.busy(|| batch.image_bytes(index)))
            }
            ImageSource::Uri(uri) => {
                outside = format!("{uri}\nmissing");
                let object = stages.metrics.fetch.busy_async(stages.fetcher.open(&uri, &base)).await?;
                outside = format!("{uri}\n{}\n{}", object.size, object.modified_ns);
                row.room = Some(room(stages, turn, usize::try_from(object.size).unwrap_or(usize::MAX)).await);
                let bytes = stages.metrics.fetch.busy_async(object.bytes()).await?;
                Ok(Some(bytes))
            }
        }
    }
    .await;
    let prepared = match fetched {
        Ok(Some(bytes)) => {
            stages.metrics.fetch.add_bytes(bytes.len());
            Some(prepare(stages, workers, bytes).await)
        }
        Ok(None) => None,
        Err(error) => {
            row.image = Err(error);
            None
        }
    };
    if let Some(prepared) = prepared {
        row.content_hash = Some(prepared.hash);
        row.image_size = prepared.size;
        row.image = prepared.pixels.map(Some);
        if outside.is_empty() {
            outside = prepared.hash.to_hex().to_string();
        }
    }
    let mut signature = blake3::Hasher::new();
    signature.update(row.text.as_deref().unwrap_or_default().as_bytes()).update(b"\0").update(outside.as_bytes());
    row.content_signature = signature.finalize().to_hex()[..32].to_owned();
    row
}

/// Room for a row's encoded bytes and its pixel values. What decoding needs in between lives in one worker at a time.
async fn room(stages: &Stages<'_>, turn: Turn, encoded_bytes: usize) -> Room {
    let (height, width) = stages.processor.as_ref().and_then(|processor| processor.output_size()).unwrap_or((0, 0));
    let pixel_bytes = 3 * height as usize * width as usize * size_of::<f32>();
    stages.metrics.fetch.waiting_for_output_async(turn.take(encoded_bytes.saturating_add(pixel_bytes))).await
}

/// What a worker makes of image bytes.
struct Prepared {
    hash: blake3::Hash,
    size: Option<(u32, u32)>,
    pixels: Result<PixelValues, RowError>,
}

async fn prepare(stages: &Stages<'_>, workers: &rayon::ThreadPool, bytes: Bytes) -> Prepared {
    let (done, prepared) = oneshot::channel();
    let (processor, metrics) = (stages.processor.clone(), stages.metrics.clone());
    let limits = DecodeLimits { max_image_pixels: stages.job.limits.max_image_pixels };
    workers.spawn(move || {
        let prepared = metrics.preprocess.busy(|| prepare_now(processor.as_deref(), limits, &bytes));
        if let Ok(pixels) = &prepared.pixels {
            metrics.preprocess.add_bytes(size_of_val(pixels.data.as_slice()));
        }
        // Nobody waits for the answer when the run was stopped.
        let _ = done.send(prepared);
    });
    prepared.await.unwrap_or_else(|_| {
        let message = "the thread that decoded this image ended without an answer".to_owned();
        let error = RowError::new(Stage::Preprocess, ErrorKind::CorruptImage, message);
        Prepared { hash: blake3::hash(b""), size: None, pixels: Err(error) }
    })
}

fn prepare_now(processor: Option<&ImageProcessor>, limits: DecodeLimits, bytes: &[u8]) -> Prepared {
    let hash = blake3::hash(bytes);
    let decoded = decode(bytes, limits);
    let size = decoded.as_ref().ok().map(|image| (image.width, image.height));
    let no_processor =
        || RowError::new(Stage::Preprocess, ErrorKind::UnsupportedFormat, "the model takes no images".to_owned());
    let pixels = decoded.and_then(|image| Ok(processor.ok_or_else(no_processor)?.process(&image)));
    Prepared { hash, size, pixels }
}
