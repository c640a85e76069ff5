//! The result of one row, which the pipeline hands to the part writer.

use super::copies::CopySource;
use crate::engine::RowOutput;
use crate::row::error::RowError;
use crate::row::signature::Signature;

/// The values of one row besides its carried columns.
#[derive(Debug, Clone)]
pub struct RowResult {
    /// Caption and vectors, or the error; empty in a copied row.
    pub outcome: Result<RowOutput, RowError>,
    /// The published row whose caption, vectors and image size are copied, if there is one.
    pub copy: Option<CopySource>,
    /// Width and height in pixels after EXIF rotation; None when the image was not decoded.
    pub image_size: Option<(u32, u32)>,
    /// BLAKE3 of the image bytes; None when they were not fetched.
    pub content_hash: Option<blake3::Hash>,
    /// The signature by which the next run sees whether the content changed.
    pub content_signature: Signature,
}

impl RowResult {
    /// Bytes of the row's caption and vectors.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let Ok(output) = &self.outcome else { return 0 };
        let vectors = [&output.image_embedding, &output.text_embedding, &output.fused_embedding];
        let vectors: usize = vectors.into_iter().flatten().map(|vector| size_of_val(vector.as_slice())).sum();
        vectors + output.caption.as_ref().map_or(0, |caption| caption.text.len())
    }
}
