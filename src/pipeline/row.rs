//! One row through the ingest stage: its image's bytes, then its pixel values, and its signature.
//!
//! A row reserves memory for its bytes and pixel values as soon as its size is known, and holds it until it joins a batch. The
//! memory of decoding is counted from the image's header and held only while the image is decoded.

use std::panic::{AssertUnwindSafe, catch_unwind};

use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::budget::{MemoryBudget, Reservation, Ticket};
use super::stages::Stages;
use super::workers::Workers;
use crate::error::Error;
use crate::manifest::row::{ImageSource, RowBatch};
use crate::output::part::copies::CopySource;
use crate::preprocess::{DecodeLimits, Preprocessed, Preprocessor, decode_scaled};
use crate::row::error::{ErrorKind, RowError, Stage};
use crate::row::signature::{ContentFingerprint, KeyHash, Signature};
use crate::storage::Location;
use crate::storage::data_uri::decode;

/// Output of the ingest stage.
pub(super) enum IngestItem {
    /// One row.
    Row(Box<IngestedRow>),
    /// The part is complete; these are its carried columns.
    PartEnd { part: u64, carried: Vec<RecordBatch> },
}

/// A row that is ready for the model, or that failed.
pub(super) struct IngestedRow {
    /// A hash of the row's key.
    pub(super) key: u64,
    /// The accompanying text; None if it is blank.
    pub(super) text: Option<String>,
    /// The prompt, if it differs from row to row.
    pub(super) prompt: Option<String>,
    /// The pixels; None in a text-only job and in a copy.
    pub(super) image: Result<Option<Preprocessed>, RowError>,
    /// The published row whose results are to be copied, if there is one.
    pub(super) copy: Option<CopySource>,
    /// Width and height in pixels of the full image after EXIF rotation; None if it was not decoded.
    pub(super) image_size: Option<(u32, u32)>,
    /// BLAKE3 of the image bytes; None if they were not fetched.
    pub(super) content_hash: Option<blake3::Hash>,
    /// The `content_signature` column.
    pub(super) content_signature: Signature,
    /// The memory of its bytes and pixel values; None if it has none.
    pub(super) reservation: Option<Reservation>,
}

/// An image's encoded bytes.
struct Fetched {
    bytes: Bytes,
    reservation: Reservation,
}

/// The result of decoding and preprocessing encoded bytes.
struct PreparedImage {
    hash: blake3::Hash,
    size: Option<(u32, u32)>,
    pixels: Result<Option<Preprocessed>, RowError>,
    copy: std::io::Result<Option<CopySource>>,
}

/// Row `index` of `batch`, with everything that the model needs.
///
/// # Errors
/// When earlier results cannot be looked up.
pub(super) async fn ingest_row(
    stages: &Stages<'_>,
    workers: &Workers,
    batch: &RowBatch,
    index: usize,
    memory: (Ticket, &MemoryBudget),
) -> Result<IngestedRow, Error> {
    let row = batch.row(index);
    let planned = batch.signatures[index];
    // Planning does not read images inside the manifest when no run is published to compare them with.
    let signature = |hash: Option<blake3::Hash>| {
        planned.or_read(|| match &row.image {
            ImageSource::Inline(_) => hash.or_else(|| batch.image_hash(index)).as_ref().map(ContentFingerprint::bytes),
            ImageSource::Null => Some(ContentFingerprint::NOTHING),
            _ => None,
        })
    };
    let key = KeyHash::new(row.key.as_deref().unwrap_or_default()).0 as u64;
    let unread = |image| {
        Ok(IngestedRow {
            key,
            content_signature: signature(None),
            text: row.text.clone(),
            prompt: None,
            image,
            copy: None,
            image_size: None,
            content_hash: None,
            reservation: None,
        })
    };
    let fetched = match (&row.image, &row.key) {
        (_, None) => return unread(Err(null("key"))),
        _ if let Some(Err(why)) = &row.prompt => {
            let what = format!("generation.prompt cannot be filled in for this row: {why}");
            return unread(Err(RowError::new(Stage::Manifest, ErrorKind::InvalidPrompt, what)));
        }
        (ImageSource::Null | ImageSource::Unread, _) => return unread(Err(null("image"))),
        (ImageSource::TextOnly, _) if row.text.is_none() => return unread(Err(null("text"))),
        (ImageSource::TextOnly, _) => return unread(Ok(None)),
        (ImageSource::Inline(size), _) => fetch_inline(stages, batch, index, *size, memory).await,
        (ImageSource::Text(text), _) => decode_text(stages, text, memory).await,
        (ImageSource::Uri(uri), _) => fetch_uri(stages, uri, &row.base, memory).await,
    };
    let Fetched { bytes, reservation } = match fetched {
        Ok(fetched) => fetched,
        Err(error) => return unread(Err(error)),
    };
    stages.metrics.fetch.add_bytes(bytes.len());
    let prepared = prepare(stages, workers, bytes, planned).await;
    Ok(IngestedRow {
        key,
        content_signature: signature(Some(prepared.hash)),
        text: row.text.clone(),
        prompt: row.prompt.and_then(Result::ok),
        image: prepared.pixels,
        copy: prepared.copy.map_err(|source| Error::System { action: "look up earlier results", source })?,
        image_size: prepared.size,
        content_hash: Some(prepared.hash),
        reservation: Some(reservation),
    })
}

fn null(column: &str) -> RowError {
    RowError::new(Stage::Manifest, ErrorKind::NullInput, format!("the {column} column is null or empty in this row"))
}

async fn fetch_inline(
    stages: &Stages<'_>,
    batch: &RowBatch,
    index: usize,
    size: usize,
    memory: (Ticket, &MemoryBudget),
) -> Result<Fetched, RowError> {
    stages.fetcher.check_size(size as u64)?;
    let reservation = reserve(stages, memory, size as u64).await;
    let bytes = stages.metrics.fetch.busy(|| batch.image_bytes(index)).unwrap_or_default();
    Ok(Fetched { bytes, reservation })
}

/// The image in a text of the manifest.
async fn decode_text(stages: &Stages<'_>, text: &str, memory: (Ticket, &MemoryBudget)) -> Result<Fetched, RowError> {
    // An encoding may be three times as long as its bytes, never shorter.
    let reservation = reserve(stages, memory, text.len() as u64).await;
    let invalid = |why: String| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, why);
    let decoded = stages.metrics.fetch.busy(|| decode(text, stages.job.limits.max_image_bytes)).map_err(invalid)?;
    let too_large = |size| stages.fetcher.check_size(size).err();
    match decoded {
        Ok(bytes) => Ok(Fetched { bytes: bytes.into(), reservation }),
        Err(size) => Err(too_large(size).unwrap_or_else(|| invalid("its size is unknown".to_owned()))),
    }
}

async fn fetch_uri(
    stages: &Stages<'_>,
    uri: &str,
    base: &Location,
    memory: (Ticket, &MemoryBudget),
) -> Result<Fetched, RowError> {
    let meter = &stages.metrics.fetch;
    let object = meter.busy_async(stages.fetcher.open(uri, base)).await?;
    let reservation = reserve(stages, memory, object.size).await;
    let bytes = meter.busy_async(object.body()).await?;
    Ok(Fetched { bytes, reservation })
}

/// Reserves memory for a row's encoded bytes and its pixel values.
async fn reserve(stages: &Stages<'_>, (ticket, budget): (Ticket, &MemoryBudget), encoded_bytes: u64) -> Reservation {
    let pixel_bytes = stages.processor.as_ref().map_or(0, |processor| processor.most_bytes()) as u64;
    let reservation = ticket.reserve(budget, encoded_bytes.saturating_add(pixel_bytes));
    stages.metrics.fetch.waiting_for_output_async(reservation).await
}

async fn prepare(stages: &Stages<'_>, workers: &Workers, bytes: Bytes, signature: Signature) -> PreparedImage {
    let Some(processor) = stages.processor.clone() else { return not_wanted(&bytes) };
    let (metrics, reuse) = (stages.metrics.clone(), stages.reuse.clone());
    let limits = DecodeLimits { max_image_pixels: stages.job.limits.max_image_pixels };
    let memory_bytes = processor.memory_needed(&bytes, limits);
    let work = move || {
        let prepared = metrics.preprocess.busy(|| {
            let find = |hash: &blake3::Hash| reuse.as_ref().map_or(Ok(None), |reuse| reuse.find(hash, signature));
            let work = AssertUnwindSafe(|| prepare_now(&processor, limits, &bytes, find));
            catch_unwind(work).unwrap_or_else(|_| crashed(&bytes))
        });
        if let Ok(Some(pixels)) = &prepared.pixels {
            metrics.preprocess.add_bytes(pixels.bytes());
        }
        prepared
    };
    workers.run(memory_bytes, work).await.unwrap_or_else(|| crashed(&[]))
}

/// An image on which a decoding library panicked: a failed row, since a run that ended here would end here every time.
fn crashed(bytes: &[u8]) -> PreparedImage {
    let message = "the decoder crashed on this image; please report it, with the image if you may".to_owned();
    let error = RowError::new(Stage::Preprocess, ErrorKind::CorruptImage, message);
    PreparedImage { hash: blake3::hash(bytes), size: None, pixels: Err(error), copy: Ok(None) }
}

/// An image in a job whose model takes none.
fn not_wanted(bytes: &[u8]) -> PreparedImage {
    let error = RowError::new(Stage::Preprocess, ErrorKind::UnsupportedFormat, "the model takes no images".to_owned());
    PreparedImage { hash: blake3::hash(bytes), size: None, pixels: Err(error), copy: Ok(None) }
}

fn prepare_now(
    processor: &Preprocessor,
    limits: DecodeLimits,
    bytes: &[u8],
    find: impl FnOnce(&blake3::Hash) -> std::io::Result<Option<CopySource>>,
) -> PreparedImage {
    let hash = blake3::hash(bytes);
    let copy = find(&hash);
    if !matches!(copy, Ok(None)) {
        return PreparedImage { hash, size: None, pixels: Ok(None), copy };
    }
    let decoded = decode_scaled(bytes, limits, |width, height| processor.jpeg_scale(width, height));
    let size = decoded.as_ref().ok().map(|decoded| (decoded.full_width, decoded.full_height));
    let pixels = decoded.and_then(|decoded| processor.process_within(limits, &decoded.image));
    PreparedImage { hash, size, pixels: pixels.map(Some), copy }
}
