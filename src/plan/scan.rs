//! Reads the manifest for planning: the key and content signature of every row that `where` selects.

use rayon::slice::ParallelSliceMut;
use roaring::RoaringBitmap;

use super::listing::Listing;
use super::{PlanError, Selection};
use crate::fetch::CommonFolders;
use crate::manifest::Manifest;
use crate::manifest::reader::{ManifestReader, Projection};
use crate::manifest::row::{ImageSource, Row, RowBatch};
use crate::row::signature::{ContentFingerprint, KeyHash, PartHash, Signature, TextHash};
use crate::storage::{Location, Storage, byte_range};
use crate::support::redact;

/// Duplicate keys that an error shows.
const EXAMPLES: usize = 3;

/// The storage that a scan reads besides the manifest.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sources<'a> {
    /// Lists the images' folders.
    pub(super) storage: &'a Storage,
    /// The folders and URI prefixes that images must be in; empty: anywhere.
    pub(super) roots: &'a [Location],
    /// Whether images inside the manifest are hashed.
    pub(super) inline: bool,
}

/// Keys and signatures by ordinal: the number of a row among the scanned ones, in manifest order.
pub(super) struct Scan {
    /// The keys.
    pub(super) keys: Vec<KeyHash>,
    /// The signatures; [`Signature::unread`] where images inside the manifest were not to be read.
    pub(super) signatures: Vec<Signature>,
    /// The ordinals, ordered by key, then by ordinal.
    pub(super) by_key: Vec<u32>,
    /// Rows whose images are on storage that cannot be listed, so that only a change of the URI is noticed.
    pub(super) unlisted: u64,
    /// The folders that all images share.
    pub(super) roots: CommonFolders,
    /// Ordinals of rows whose key is null.
    keyless: RoaringBitmap,
}

/// One row before storage is listed.
struct RowContent {
    text: TextHash,
    /// None: an image inside the manifest that was not read.
    fingerprint: Option<ContentFingerprint>,
    /// The bytes of the file that are the image.
    part: PartHash,
    /// Whether `fingerprint` is a URI on storage that can be listed.
    listable: bool,
    /// Whether `fingerprint` is a URI on storage that cannot.
    unlisted: bool,
}

impl Scan {
    /// Reads key, image, text and signature columns of every row of `selection`, and lists the folders of the images.
    ///
    /// # Errors
    /// When the manifest cannot be read or the folders cannot be listed.
    pub(super) fn read(manifest: &Manifest, selection: &Selection, sources: Sources<'_>) -> Result<Self, PlanError> {
        if u32::try_from(selection.rows()).is_err() {
            return Err(PlanError::TooManyRows { rows: selection.rows() });
        }
        tracing::debug!(rows = selection.rows(), "scanning the manifest");
        let rows = selection.rows() as usize;
        let (mut keys, mut contents) = (Vec::new(), Vec::new());
        // A damaged manifest may claim any number of rows; memory that is reserved and not used costs nothing.
        let _ = (keys.try_reserve_exact(rows), contents.try_reserve_exact(rows));
        let (mut keyless, mut folders, mut roots) =
            (RoaringBitmap::new(), Listing::default(), CommonFolders::default());
        // Paths have to be listed. If the column may hold both, only its values say which rows have a path and which have bytes.
        let projection = if sources.inline || manifest.may_mix_paths_and_bytes() {
            Projection::PlanWithImages
        } else {
            Projection::Plan
        };
        let (mut signed_keys, mut signed_key) = (0, None);
        for batch in ManifestReader::new(manifest, selection.0.clone(), projection) {
            let batch = batch?;
            for index in 0..batch.len() {
                let row = batch.row(index);
                match &row.key {
                    None => drop(keyless.insert(keys.len() as u32)),
                    Some(key) if redact::holds_credential(key) => {
                        signed_keys += 1;
                        signed_key.get_or_insert_with(|| key.clone());
                    }
                    Some(_) => {}
                }
                // A row without a key gets a hash of its signature, below.
                keys.push(row.key.as_deref().map_or(KeyHash(0), KeyHash::new));
                let image = match &row.image {
                    ImageSource::Uri(uri) => row.base.resolve(byte_range::split(uri).0).ok(),
                    _ => None,
                };
                if let Some(image) = &image {
                    roots.add(image);
                }
                contents.push(content(&batch, index, &row, image.as_ref(), &mut folders));
            }
        }
        if let Some(example) = signed_key {
            let column = manifest.schema.field(manifest.key).name().clone();
            return Err(PlanError::SignedKeys { column, rows: signed_keys, example });
        }
        let listable = contents.iter().filter(|row: &&RowContent| row.listable).filter_map(|row| row.fingerprint);
        let listed =
            folders.read(listable.map(ContentFingerprint::uri_hash).collect(), sources.storage, sources.roots)?;
        let unlisted = contents.iter().filter(|row| row.unlisted).count() as u64;
        let signature = |row: RowContent| match row.fingerprint {
            None => Signature::unread(row.text),
            Some(fingerprint) if row.listable => Signature::new(row.text, listed.content(fingerprint).part(row.part)),
            Some(fingerprint) => Signature::new(row.text, fingerprint.part(row.part)),
        };
        let signatures: Vec<Signature> = contents.into_iter().map(signature).collect();
        for ordinal in &keyless {
            keys[ordinal as usize] = KeyHash::keyless(signatures[ordinal as usize]);
        }
        let mut by_key: Vec<u32> = (0..rows as u32).collect();
        by_key.par_sort_unstable_by_key(|&ordinal| (keys[ordinal as usize], ordinal));
        Ok(Self { keys, signatures, by_key, unlisted, roots, keyless })
    }

    /// The ordinals of rows whose key an earlier row has. Rows without a key have no duplicates.
    #[must_use]
    pub(super) fn duplicates(&self) -> RoaringBitmap {
        let key = |&ordinal: &u32| self.keys[ordinal as usize];
        let pairs = self.by_key.windows(2).filter_map(|pair| match pair {
            [a, b] if key(a) == key(b) && !self.keyless.contains(*b) => Some(*b),
            _ => None,
        });
        let mut duplicates: Vec<u32> = pairs.collect();
        duplicates.sort_unstable();
        duplicates.into_iter().collect()
    }
}

/// The content of `row`; `image` is the location of its image, if it has one.
fn content(batch: &RowBatch, index: usize, row: &Row, image: Option<&Location>, folders: &mut Listing) -> RowContent {
    let text = row.text_hash();
    let plain = |fingerprint| RowContent { text, fingerprint, part: PartHash::WHOLE, listable: false, unlisted: false };
    match (batch.signature_columns(index), &row.image) {
        (Some(columns), _) => plain(Some(columns)),
        (None, ImageSource::Uri(uri)) => {
            let (file, part) = byte_range::split(uri);
            let row = match image {
                Some(location) if folders.add(location) => {
                    RowContent { listable: true, ..plain(Some(ContentFingerprint::uri(&location.to_string()))) }
                }
                // Without its signature, which is new every night.
                resolved => RowContent {
                    unlisted: resolved.is_some(),
                    ..plain(Some(ContentFingerprint::uri(&redact::uri(file))))
                },
            };
            RowContent { part: PartHash::new(part.as_ref()), ..row }
        }
        (None, ImageSource::Text(text)) => plain(Some(ContentFingerprint::bytes(&blake3::hash(text.as_bytes())))),
        (None, ImageSource::Inline(_)) => plain(batch.image_hash(index).as_ref().map(ContentFingerprint::bytes)),
        (None, ImageSource::Unread) => plain(None),
        (None, ImageSource::Null | ImageSource::TextOnly) => plain(Some(ContentFingerprint::NOTHING)),
    }
}

/// The refusal of a manifest in which `duplicates` (ordinals) have the keys of earlier rows, with examples.
///
/// # Errors
/// Always: that refusal, or a failure to read the examples.
pub(super) fn refuse_duplicates(manifest: &Manifest, selection: &Selection, duplicates: &RoaringBitmap) -> PlanError {
    let few: RoaringBitmap = duplicates.iter().take(EXAMPLES).collect();
    let mut examples = Vec::new();
    for batch in ManifestReader::new(manifest, selection.at(&few).0, Projection::Plan) {
        match batch {
            Ok(batch) => examples.extend((0..batch.len()).filter_map(|index| batch.row(index).key)),
            Err(error) => return error.into(),
        }
    }
    PlanError::DuplicateKeys { rows: duplicates.len(), examples }
}
