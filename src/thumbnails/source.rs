//! One manifest, opened: finds rows by their keys, reads their pictures. In: keys and the hashes of what the run read. Out: thumbnails.
//!
//! Only the keys are read of every row, 32 bytes each in memory. Of the pictures, a few are in memory at the same time, however many are
//! asked for.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::{StreamExt, stream};
use roaring::RoaringBitmap;
use tokio::sync::oneshot;

use super::Thumbnail;
use super::input::{ImageInput, Web};
use super::picture_row::PictureRow;
use crate::fetch::Fetcher;
use crate::job::Limits;
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::row::{ImageSource, RowBatch};
use crate::manifest::{Manifest, ManifestError, filter};
use crate::preprocess::{DecodeLimits, thumbnail};
use crate::row::error::{ErrorKind, RowError, Stage};
use crate::row::signature::KeyHash;
use crate::storage::Location;
use crate::storage::data_uri::decode;
use crate::support::unwind::caught;

/// Pictures that are read at the same time.
const AT_ONCE: usize = 16;

/// A manifest with pictures.
pub(super) struct ImageFolder {
    input: ImageInput,
    manifest: Manifest,
    /// For disks and buckets.
    fetcher: Fetcher,
    /// For web servers.
    of_web: Fetcher,
    /// Key, file and row, sorted.
    keys: Vec<(KeyHash, u32, u32)>,
}

/// What is wanted of one manifest row: for each of the asked rows its number there, and the hash of its picture.
type Wanted<'a> = Vec<(usize, &'a str)>;

impl ImageFolder {
    /// Opens the manifest and reads its keys.
    pub(super) fn open(input: ImageInput) -> Result<Self, ManifestError> {
        let manifest = Manifest::open_keys(&input.manifest, "input.key", &input.key, &input.storage)?;
        let all = filter::select(&manifest, None)?;
        let mut places = all.iter().enumerate().flat_map(|(file, rows)| rows.iter().map(move |row| (file as u32, row)));
        let mut keys = Vec::new();
        for batch in ManifestReader::new(&manifest, all.clone(), Projection::Plan) {
            let batch = batch?;
            // In this order: the rows that the batch has, no further place.
            for (index, (file, row)) in (0..batch.len()).zip(places.by_ref()) {
                keys.extend(batch.row(index).key.map(|key| (KeyHash::new(&key), file, row)));
            }
        }
        keys.sort_unstable();
        let manifest = manifest.with_images(&input.image)?;
        let fetcher = Fetcher::new(&input.limits, &input.storage);
        let of_web = match input.web {
            Web::Anywhere => Limits { roots: Vec::new(), ..input.limits.clone() },
            Web::WithinRoots => input.limits.clone(),
        };
        let of_web = Fetcher::new(&of_web, &input.storage);
        Ok(Self { input, manifest, fetcher, of_web, keys })
    }

    /// Makes the thumbnails of `rows`, of which each is its number among all that were asked for; the others stay as they are in `found`.
    pub(super) fn read(
        &self,
        runtime: &tokio::runtime::Runtime,
        side: u32,
        rows: &[(usize, &PictureRow)],
        found: &mut [Thumbnail],
    ) {
        let mut wanted: BTreeMap<(u32, u32), Wanted<'_>> = BTreeMap::new();
        for (number, row) in rows {
            match (self.place(&row.key), &row.content_hash) {
                (Some(place), Some(hash)) => wanted.entry(place).or_default().push((*number, hash)),
                (None, _) => found[*number] = Thumbnail::Gone,
                (_, None) => found[*number] = Thumbnail::Unreadable("the run did not read it".to_owned()),
            }
        }
        let mut selection = vec![RoaringBitmap::new(); self.manifest.files.len()];
        for (file, row) in wanted.keys() {
            selection[*file as usize].insert(*row);
        }
        let mut wanted = wanted.into_values();
        for batch in ManifestReader::new(&self.manifest, selection, Projection::PlanWithImages) {
            let batch = match batch {
                Ok(batch) => batch,
                Err(error) => {
                    let why = error.to_string();
                    wanted.flatten().for_each(|(number, _)| found[number] = Thumbnail::Unreadable(why.clone()));
                    return;
                }
            };
            let of_batch: Vec<(usize, Wanted<'_>)> = (0..batch.len()).zip(wanted.by_ref()).collect();
            for (number, thumbnail) in runtime.block_on(self.of_batch(&batch, of_batch, side)) {
                found[number] = thumbnail;
            }
        }
    }

    /// File and row of a key; of several rows the first.
    fn place(&self, key: &str) -> Option<(u32, u32)> {
        let key = KeyHash::new(key);
        let at = self.keys.partition_point(|(other, ..)| *other < key);
        self.keys.get(at).filter(|(other, ..)| *other == key).map(|(_, file, row)| (*file, *row))
    }

    async fn of_batch<'a>(
        &self,
        batch: &RowBatch,
        rows: Vec<(usize, Wanted<'a>)>,
        side: u32,
    ) -> Vec<(usize, Thumbnail)> {
        let one = |(index, wanted): (usize, Wanted<'a>)| async move {
            let read = self.of_row(batch, index, side).await;
            let of = |(number, hash): (usize, &str)| {
                let thumbnail = match &read {
                    Ok((found, _)) if found != hash => Thumbnail::Changed,
                    Ok((_, Ok(jpeg))) => Thumbnail::Jpeg(jpeg.clone()),
                    Ok((_, Err(error))) => Thumbnail::Unreadable(error.message.clone()),
                    Err(thumbnail) => thumbnail.clone(),
                };
                (number, thumbnail)
            };
            wanted.into_iter().map(of).collect::<Vec<_>>()
        };
        stream::iter(rows).map(one).buffered(AT_ONCE).flat_map(stream::iter).collect().await
    }

    /// The hash of a row's picture, and the picture.
    async fn of_row(
        &self,
        batch: &RowBatch,
        index: usize,
        side: u32,
    ) -> Result<(String, Result<Vec<u8>, RowError>), Thumbnail> {
        let unreadable = |why: &str| Thumbnail::Unreadable(why.to_owned());
        let bytes = self.bytes(batch, index).await?;
        let limits = DecodeLimits { max_image_pixels: self.input.limits.max_image_pixels };
        let (send, made) = oneshot::channel();
        rayon::spawn(move || {
            let make = || (blake3::hash(&bytes).to_hex().to_string(), thumbnail(&bytes, limits, side));
            // Nobody waits for it any more: it is not needed.
            drop(send.send(caught(make)));
        });
        let made = made.await.map_err(|_| unreadable("it was not decoded"))?;
        made.map_err(|panic| unreadable(&panic))
    }

    /// The encoded bytes of a row's picture.
    async fn bytes(&self, batch: &RowBatch, index: usize) -> Result<Bytes, Thumbnail> {
        let unreadable = |error: RowError| match error.kind {
            ErrorKind::NotFound => Thumbnail::Gone,
            _ => Thumbnail::Unreadable(error.message),
        };
        let row = batch.row(index);
        match row.image {
            ImageSource::Null | ImageSource::Unread | ImageSource::TextOnly => Err(Thumbnail::Gone),
            ImageSource::Inline(size) => {
                self.fetcher.check_size(size as u64).map_err(unreadable)?;
                batch.image_bytes(index).ok_or(Thumbnail::Gone)
            }
            ImageSource::Text(text) => match decode(&text, self.input.limits.max_image_bytes) {
                Ok(Ok(bytes)) => Ok(bytes.into()),
                Ok(Err(size)) => Err(unreadable(self.fetcher.check_size(size).err().unwrap_or_else(|| {
                    RowError::new(Stage::Fetch, ErrorKind::TooLarge, "it is too large".to_owned())
                }))),
                Err(why) => Err(Thumbnail::Unreadable(why)),
            },
            ImageSource::Uri(uri) => {
                let location = row.base.resolve(&uri).map_err(|error| Thumbnail::Unreadable(error.to_string()))?;
                self.input.refuse(&location).map_err(Thumbnail::Unreadable)?;
                let fetcher = match location {
                    Location::Http(_) => &self.of_web,
                    _ => &self.fetcher,
                };
                let object = fetcher.open(&uri, &row.base).await.map_err(unreadable)?;
                object.body().await.map_err(unreadable)
            }
        }
    }
}
