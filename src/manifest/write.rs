//! Writes the manifest of a folder of images: Parquet with the columns `id`, `image`, `bytes` and `modified`.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::WriterProperties;

use super::folder::ImageFile;

/// Rows that are turned into Arrow arrays at once; far fewer than 2 GiB of paths.
const BATCH_ROWS: usize = 1 << 16;

/// The Parquet file for `images`: `id` (string, the path below the folder), `image` (string, what `location` makes of the path),
/// `bytes` (int64) and `modified` (timestamp, microseconds, UTC). The same images give the same bytes.
///
/// # Errors
/// Those of the Parquet library.
pub fn encode(images: &[ImageFile], location: impl Fn(&str) -> String) -> Result<Vec<u8>, ParquetError> {
    let modified = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let columns =
        [("id", DataType::Utf8), ("image", DataType::Utf8), ("bytes", DataType::Int64), ("modified", modified)];
    let fields = columns.map(|(name, kind)| Field::new(name, kind, false));
    let schema = Arc::new(Schema::new(fields.to_vec()));
    let compression = Compression::ZSTD(ZstdLevel::default());
    let properties = WriterProperties::builder().set_compression(compression).build();
    let mut writer = ArrowWriter::try_new(Vec::new(), schema.clone(), Some(properties))?;
    for images in images.chunks(BATCH_ROWS) {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(images.iter().map(|image| Some(&image.path)).collect::<StringArray>()),
            Arc::new(images.iter().map(|image| Some(location(&image.path))).collect::<StringArray>()),
            Arc::new(Int64Array::from_iter_values(
                images.iter().map(|image| i64::try_from(image.bytes).unwrap_or(i64::MAX)),
            )),
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(images.iter().map(|image| image.modified_us))
                    .with_timezone("UTC"),
            ),
        ];
        writer.write(&RecordBatch::try_new(schema.clone(), columns)?)?;
    }
    writer.into_inner()
}
