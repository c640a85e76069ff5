//! One row through the ingest stage: its image's bytes, then its pixel values, and its signature.
//!
//! A row takes room in the byte budget when its size is known and holds it until it joins a batch.

use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use tokio::sync::oneshot;

use super::budget::{Room, Turn};
use super::stages::Stages;
use crate::error::Error;
use crate::manifest::row::{ImageSource, RowBatch};
use crate::output::copies::CopySource;
use crate::preprocess::{DecodeLimits, JpegScale, Preprocessed, Preprocessor, decode_scaled};
use crate::row_error::{ErrorKind, RowError, Stage};
use crate::signature::{ContentFingerprint, KeyHash, Signature};
use crate::storage::Location;

/// A row ready for the model, or failed on the way.
pub(super) struct IngestedRow {
    /// A hash of the row's key.
    pub(super) key: u64,
    /// The accompanying text, if it says anything.
    pub(super) text: Option<String>,
    /// What its caption goes on from, where that differs from row to row.
    pub(super) prompt: Option<String>,
    /// The pixels; None in a text-only job and in a copy.
    pub(super) image: Result<Option<Preprocessed>, RowError>,
    /// Where the results are, if they are to be copied.
    pub(super) copy: Option<CopySource>,
    /// Width and height of the full picture after rotation, once decoded.
    pub(super) image_size: Option<(u32, u32)>,
    /// BLAKE3 of the image bytes, once fetched.
    pub(super) content_hash: Option<blake3::Hash>,
    /// See the output column.
    pub(super) content_signature: Signature,
    /// The bytes this row may occupy.
    pub(super) room: Option<Room>,
}

/// An image's encoded bytes, with what it looked like before they were read.
struct Fetched {
    bytes: Bytes,
    room: Room,
}

/// What a worker makes of encoded bytes.
struct Prepared {
    hash: blake3::Hash,
    size: Option<(u32, u32)>,
    pixels: Result<Option<Preprocessed>, RowError>,
    copy: std::io::Result<Option<CopySource>>,
}

/// Row `index` of `batch`, as far as it comes without the model.
///
/// # Errors
/// When earlier results cannot be looked up.
pub(super) async fn ingest_row(
    stages: &Stages<'_>,
    workers: &rayon::ThreadPool,
    batch: &RowBatch,
    index: usize,
    turn: &mut Turn,
) -> Result<IngestedRow, Error> {
    let row = batch.row(index);
    let planned = batch.signatures[index];
    // Planning leaves images inside the manifest unread when it has nothing to compare them with.
    let signature = |hash: Option<blake3::Hash>| {
        let seen = match &row.image {
            ImageSource::Inline(_) => hash.or_else(|| batch.image_hash(index)).as_ref().map(ContentFingerprint::bytes),
            ImageSource::Null => Some(ContentFingerprint::NOTHING),
            _ => None,
        };
        let seen = seen.filter(|_| planned.is_unread());
        seen.map_or(planned, |seen| Signature::new(row.text_hash(), seen))
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
            room: None,
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
        (ImageSource::Inline(size), _) => fetch_inline(stages, batch, index, *size, turn).await,
        (ImageSource::Uri(uri), _) => fetch_uri(stages, uri, &row.base, turn).await,
    };
    let Fetched { bytes, room } = match fetched {
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
        room: Some(room),
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
    turn: &mut Turn,
) -> Result<Fetched, RowError> {
    stages.fetcher.check_size(size as u64)?;
    let room = take_room(stages, turn, size).await;
    let bytes = stages.metrics.fetch.busy(|| batch.image_bytes(index)).unwrap_or_default();
    Ok(Fetched { bytes, room })
}

async fn fetch_uri(stages: &Stages<'_>, uri: &str, base: &Location, turn: &mut Turn) -> Result<Fetched, RowError> {
    let meter = &stages.metrics.fetch;
    let object = meter.busy_async(stages.fetcher.open(uri, base)).await?;
    let room = take_room(stages, turn, usize::try_from(object.size).unwrap_or(usize::MAX)).await;
    let bytes = meter.busy_async(object.body()).await?;
    Ok(Fetched { bytes, room })
}

/// Room for a row's encoded bytes and its pixel values. What decoding needs in between lives in one worker at a time.
async fn take_room(stages: &Stages<'_>, turn: &mut Turn, encoded_bytes: usize) -> Room {
    let values = stages.processor.as_ref().map_or(0, |processor| processor.most_values());
    let pixel_bytes = values * size_of::<f32>();
    stages.metrics.fetch.waiting_for_output_async(turn.take(encoded_bytes.saturating_add(pixel_bytes))).await
}

async fn prepare(stages: &Stages<'_>, workers: &rayon::ThreadPool, bytes: Bytes, signature: Signature) -> Prepared {
    let (done, prepared) = oneshot::channel();
    let (processor, metrics, reuse) = (stages.processor.clone(), stages.metrics.clone(), stages.reuse.clone());
    let limits = DecodeLimits { max_image_pixels: stages.job.limits.max_image_pixels };
    workers.spawn(move || {
        let prepared = metrics.preprocess.busy(|| {
            let find = |hash: &blake3::Hash| reuse.as_ref().map_or(Ok(None), |reuse| reuse.find(hash, signature));
            let work = AssertUnwindSafe(|| prepare_now(processor.as_deref(), limits, &bytes, find));
            catch_unwind(work).unwrap_or_else(|_| crashed(&bytes))
        });
        if let Ok(Some(pixels)) = &prepared.pixels {
            metrics.preprocess.add_bytes(pixels.bytes());
        }
        // Nobody waits for the answer when the run was stopped.
        let _ = done.send(prepared);
    });
    prepared.await.unwrap_or_else(|_| crashed(&[]))
}

/// What becomes of an image on which a decoding library panicked: one failed row, not a run that dies there every night.
fn crashed(bytes: &[u8]) -> Prepared {
    let message = "the decoder crashed on this image; please report it, with the image if you may".to_owned();
    let error = RowError::new(Stage::Preprocess, ErrorKind::CorruptImage, message);
    Prepared { hash: blake3::hash(bytes), size: None, pixels: Err(error), copy: Ok(None) }
}

fn prepare_now(
    processor: Option<&Preprocessor>,
    limits: DecodeLimits,
    bytes: &[u8],
    find: impl FnOnce(&blake3::Hash) -> std::io::Result<Option<CopySource>>,
) -> Prepared {
    let hash = blake3::hash(bytes);
    let copy = find(&hash);
    if !matches!(copy, Ok(None)) {
        return Prepared { hash, size: None, pixels: Ok(None), copy };
    }
    let scale = |width, height| processor.map_or(JpegScale::Full, |processor| processor.jpeg_scale(width, height));
    let decoded = decode_scaled(bytes, limits, scale);
    let size = decoded.as_ref().ok().map(|decoded| (decoded.full_width, decoded.full_height));
    let no_processor =
        || RowError::new(Stage::Preprocess, ErrorKind::UnsupportedFormat, "the model takes no images".to_owned());
    let pixels = decoded.and_then(|decoded| Ok(processor.ok_or_else(no_processor)?.process(&decoded.image)));
    Prepared { hash, size, pixels: pixels.map(Some), copy }
}
