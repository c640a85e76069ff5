//! Batches of manifest rows, and one row: where its image is, its text and its prompt.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, LargeBinaryArray, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use bytes::Bytes;

use super::prompt::PromptValues;
use super::text::strings;
use super::types::cast_exactly;
use super::unsigned::unsigned;
use super::{ImageColumn, Manifest, PromptTemplate};
use crate::row::signature::{ContentFingerprint, Signature, TextHash};
use crate::storage::Location;
use crate::storage::data_uri::holds_image;
use crate::support::redact::uri;

/// Which columns are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Projection {
    /// Every column that results are made from, and the carried ones.
    Rows,
    /// Columns that planning compares; of images only their paths, so that images inside the manifest are not read.
    Plan,
    /// Columns that planning compares, images inside the manifest included.
    PlanWithImages,
}

/// Where a row's image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// The column is null in this row.
    Null,
    /// A path or URI as written in the manifest.
    Uri(String),
    /// Written into the text of the column, as a `data:` URI or as what means to be one.
    Text(String),
    /// In the manifest itself, with this many bytes; [`RowBatch::image_bytes`] copies them.
    Inline(usize),
    /// In a column that was not read.
    Unread,
    /// The job has no image column.
    TextOnly,
}

/// One selected manifest row.
#[derive(Debug, Clone)]
pub struct Row {
    /// The key as text, for messages; None when it is null.
    pub key: Option<String>,
    /// The image.
    pub image: ImageSource,
    /// The accompanying text, or the whole input of a text-only job; None when it is blank.
    pub text: Option<String>,
    /// The prompt, or why it cannot be rendered; None unless prompts differ from row to row.
    pub prompt: Option<Result<String, String>>,
    /// The folder of the manifest file, which relative image paths are relative to.
    pub base: Arc<Location>,
}

/// Consecutive manifest rows in memory.
#[derive(Debug)]
pub struct RowBatch {
    keys: StringArray,
    image: Images,
    text: Option<StringArray>,
    prompt: Option<(Arc<PromptTemplate>, PromptValues)>,
    /// The job's signature columns.
    signature: Vec<StringArray>,
    base: Arc<Location>,
    /// The carried columns of the same rows, in output order; none while planning.
    pub carried: RecordBatch,
    /// The signatures of the same rows in the plan; empty while planning.
    pub signatures: Vec<Signature>,
}

#[derive(Debug)]
enum Images {
    None,
    Unread,
    Uri(StringArray),
    Bytes { bytes: LargeBinaryArray, path: Option<StringArray> },
}

impl RowBatch {
    /// Takes the job's columns out of `arrays`, of which `arrays[i]` is the manifest's column `columns[i]`.
    ///
    /// # Errors
    /// When a column cannot be cast to the type that the pipeline works with.
    pub(super) fn new(
        manifest: &Manifest,
        columns: &[usize],
        arrays: &[ArrayRef],
        base: Arc<Location>,
        projection: Projection,
    ) -> Result<Self, ArrowError> {
        let column = |index: usize| -> Result<&ArrayRef, ArrowError> {
            let at = columns.iter().position(|&column| column == index);
            at.and_then(|at| arrays.get(at))
                .ok_or_else(|| ArrowError::SchemaError(format!("column {index} was not read from the manifest")))
        };
        let image = match manifest.image {
            None => Images::None,
            Some((index, _)) if !columns.contains(&index) => Images::Unread,
            Some((index, ImageColumn::Uri)) => Images::Uri(strings(column(index)?)?),
            Some((index, ImageColumn::Bytes)) => Images::Bytes { bytes: binaries(column(index)?)?, path: None },
            Some((index, ImageColumn::Struct)) => {
                let parts = column(index)?.as_struct();
                let child = |name: &str| -> Option<ArrayRef> {
                    // The children of a null struct may hold values, which do not count.
                    let child = parts.column_by_name(name)?;
                    let hidden = arrow::compute::is_null(parts).ok()?;
                    arrow::compute::nullif(child, &hidden).ok()
                };
                let missing = || ArrowError::SchemaError("the image struct has no readable `bytes`".to_owned());
                let bytes = binaries(&child("bytes").ok_or_else(missing)?)?;
                Images::Bytes { bytes, path: child("path").map(|path| strings(&path)).transpose()? }
            }
        };
        let text = manifest.text.map(|index| strings(column(index)?)).transpose()?;
        let prompt = manifest.prompt.as_ref().map(|template| {
            let values = template.columns.iter().map(|(_, index)| column(*index).cloned());
            Ok::<_, ArrowError>((template.clone(), PromptValues::new(values)?))
        });
        let prompt = prompt.transpose()?;
        let signature = manifest.signature.iter().map(|&index| strings(column(index)?)).collect::<Result<_, _>>()?;
        let carried = if projection == Projection::Rows {
            let fields = manifest.carried_fields();
            let carried = manifest.carried.iter().zip(&fields).map(|(&index, field)| {
                let column = cast_exactly(column(index)?, field.data_type()).map_err(|error| match error {
                    ArrowError::CastError(why) => ArrowError::CastError(format!("column `{}`: {why}", field.name())),
                    ArrowError::ComputeError(why)
                    | ArrowError::InvalidArgumentError(why)
                    | ArrowError::ArithmeticOverflow(why) => {
                        ArrowError::CastError(format!("column `{}`: {why}", field.name()))
                    }
                    error => error,
                })?;
                if index == manifest.key { Ok(column) } else { unsigned(&column) }
            });
            let carried = carried.collect::<Result<Vec<_>, ArrowError>>()?;
            let schema = Arc::new(Schema::new(fields));
            RecordBatch::try_new(schema, carried)?
        } else {
            RecordBatch::new_empty(Arc::new(Schema::empty()))
        };
        let (keys, signatures) = (strings(column(manifest.key)?)?, Vec::new());
        Ok(Self { keys, image, text, prompt, signature, base, carried, signatures })
    }

    /// Rows in this batch.
    #[must_use]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// `length` rows of this batch from row `first`, without copying, with their signatures in the plan.
    #[must_use]
    pub fn slice(&self, first: usize, length: usize, signatures: Vec<Signature>) -> Self {
        let image = match &self.image {
            Images::None => Images::None,
            Images::Unread => Images::Unread,
            Images::Uri(uris) => Images::Uri(uris.slice(first, length)),
            Images::Bytes { bytes, path } => Images::Bytes {
                bytes: bytes.slice(first, length),
                path: path.as_ref().map(|path| path.slice(first, length)),
            },
        };
        Self {
            keys: self.keys.slice(first, length),
            image,
            text: self.text.as_ref().map(|text| text.slice(first, length)),
            prompt: self.prompt.as_ref().map(|(template, values)| (template.clone(), values.slice(first, length))),
            signature: self.signature.iter().map(|column| column.slice(first, length)).collect(),
            base: self.base.clone(),
            carried: self.carried.slice(first, length),
            signatures,
        }
    }

    /// A copy of the image bytes in row `index`, so that the batch can be dropped before they are used.
    #[must_use]
    pub fn image_bytes(&self, index: usize) -> Option<Bytes> {
        match &self.image {
            Images::Bytes { bytes, .. } if bytes.is_valid(index) => Some(Bytes::copy_from_slice(bytes.value(index))),
            _ => None,
        }
    }

    /// BLAKE3 of the image bytes in row `index`.
    #[must_use]
    pub fn image_hash(&self, index: usize) -> Option<blake3::Hash> {
        match &self.image {
            Images::Bytes { bytes, .. } if bytes.is_valid(index) => Some(blake3::hash(bytes.value(index))),
            _ => None,
        }
    }

    /// The job's signature columns in row `index`; None: the job names none.
    #[must_use]
    pub fn signature_columns(&self, index: usize) -> Option<ContentFingerprint> {
        let value = |column: &StringArray| column.is_valid(index).then(|| column.value(index).to_owned());
        // A signed URL has a new signature every night.
        let unsigned = |text: String| uri(&text).into_owned();
        let values: Vec<Option<String>> = self.signature.iter().map(|column| value(column).map(unsigned)).collect();
        (!values.is_empty()).then(|| ContentFingerprint::columns(values.iter().map(Option::as_deref)))
    }

    /// Row `index` of this batch.
    #[must_use]
    pub fn row(&self, index: usize) -> Row {
        let image = match &self.image {
            Images::None => ImageSource::TextOnly,
            Images::Unread => ImageSource::Unread,
            Images::Uri(uris) => string_at(uris, index).map_or(ImageSource::Null, named),
            Images::Bytes { bytes, .. } if bytes.is_valid(index) => ImageSource::Inline(bytes.value(index).len()),
            Images::Bytes { path, .. } => {
                path.as_ref().and_then(|path| string_at(path, index)).map_or(ImageSource::Null, named)
            }
        };
        Row {
            key: string_at(&self.keys, index),
            image,
            text: self.text.as_ref().and_then(|text| string_at(text, index)).filter(|text| !text.trim().is_empty()),
            prompt: self.prompt.as_ref().map(|(template, values)| template.render(values, index)),
            base: self.base.clone(),
        }
    }
}

impl Row {
    /// The hash of the row's text and prompt, for its signature.
    #[must_use]
    pub fn text_hash(&self) -> TextHash {
        let prompt = self.prompt.as_ref().map(|prompt| prompt.as_deref().unwrap_or_else(|why| why));
        TextHash::new(self.text.as_deref(), prompt)
    }
}

/// The image that a text names or holds.
fn named(text: String) -> ImageSource {
    if holds_image(&text) { ImageSource::Text(text) } else { ImageSource::Uri(text) }
}

fn binaries(array: &ArrayRef) -> Result<LargeBinaryArray, ArrowError> {
    Ok(cast(array, &DataType::LargeBinary)?.as_binary::<i64>().clone())
}

fn string_at(array: &StringArray, index: usize) -> Option<String> {
    array.is_valid(index).then(|| array.value(index).to_owned())
}
