//! The encoder states of a part's images, by content hash. Equal images are encoded once, as long as the kept states fit.

use std::collections::{HashMap, HashSet};

use super::batch_runner::BatchRunner;
use crate::engine::EncodedImage;
use crate::error::Error;
use crate::onnx::Device;
use crate::preprocess::Preprocessed;
use crate::row::error::RowError;

/// How many bytes of encoder states may be in memory. States of a device are in its memory, which nothing else needs for as long.
pub(crate) const fn most_bytes(device: Device) -> usize {
    match device {
        Device::Cpu => 128 << 20,
        Device::Cuda(_) | Device::TensorRt(_) | Device::StandIn => 1 << 30,
    }
}

/// The encoded images of one part.
pub(super) struct EncodedImages {
    /// How many bytes of states are kept for equal images later in the part.
    most_kept: usize,
    /// Kept until the part is complete.
    kept: HashMap<blake3::Hash, EncodedImage>,
    kept_bytes: usize,
    /// Kept until the rows that are ready have run.
    waiting: HashMap<blake3::Hash, EncodedImage>,
    waiting_bytes: usize,
    /// Images that a model fails on.
    failed: HashMap<blake3::Hash, RowError>,
    encoded: usize,
}

impl EncodedImages {
    /// No images yet; states of `most_kept` bytes are kept for equal images later in the part.
    pub(super) fn new(most_kept: usize) -> Self {
        Self {
            most_kept,
            kept: HashMap::new(),
            kept_bytes: 0,
            waiting: HashMap::new(),
            waiting_bytes: 0,
            failed: HashMap::new(),
            encoded: 0,
        }
    }

    /// Encodes those of `images` that are not encoded yet, in order.
    ///
    /// # Errors
    /// As [`BatchRunner::encode`].
    pub(super) fn encode<'a>(
        &mut self,
        images: impl Iterator<Item = (blake3::Hash, &'a Preprocessed)>,
        runner: &mut BatchRunner,
    ) -> Result<(), Error> {
        let mut listed = HashSet::new();
        let images = images.filter(|(hash, _)| !self.holds(hash) && listed.insert(*hash));
        let (hashes, pixels): (Vec<_>, Vec<_>) = images.unzip();
        for (hash, encoded) in hashes.into_iter().zip(runner.encode(&pixels)?) {
            self.encoded += 1;
            match encoded {
                Ok(image) => self.insert(hash, image),
                Err(error) => drop(self.failed.insert(hash, error)),
            }
        }
        Ok(())
    }

    fn holds(&self, hash: &blake3::Hash) -> bool {
        self.kept.contains_key(hash) || self.waiting.contains_key(hash) || self.failed.contains_key(hash)
    }

    fn insert(&mut self, hash: blake3::Hash, image: EncodedImage) {
        let bytes = image.bytes();
        if self.kept_bytes + bytes <= self.most_kept {
            self.kept_bytes += bytes;
            self.kept.insert(hash, image.clone());
        }
        self.waiting_bytes += bytes;
        self.waiting.insert(hash, image);
    }

    /// The encoded image with `hash`, or why the model failed on it.
    ///
    /// # Errors
    /// [`Error::Internal`] if it was not encoded.
    pub(super) fn get(&self, hash: &blake3::Hash) -> Result<Result<EncodedImage, RowError>, Error> {
        let encoded = self.kept.get(hash).or_else(|| self.waiting.get(hash)).cloned().map(Ok);
        let failed = || self.failed.get(hash).cloned().map(Err);
        encoded.or_else(failed).ok_or_else(|| Error::Internal(format!("image {} was not encoded", hash.to_hex())))
    }

    /// Bytes of the states of waiting rows.
    pub(super) const fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    /// How many images were encoded.
    pub(super) const fn encoded(&self) -> usize {
        self.encoded
    }

    /// Releases the states of waiting rows; no row waits any more.
    pub(super) fn release_waiting(&mut self) {
        self.waiting.clear();
        self.waiting_bytes = 0;
    }
}
