//! Streams the selected rows of a manifest, row group by row group, in manifest order.
//!
//! Memory is bounded by one batch (about 8 MiB, or 16 inline images), however large a row group is: pages are decoded as
//! they are needed.

use std::sync::Arc;

use parquet::arrow::arrow_reader::{ParquetRecordBatchReader, RowSelection, RowSelector};
use parquet::arrow::{ProjectionMask, parquet_to_arrow_field_levels};
use parquet::errors::ParquetError;
use roaring::RoaringBitmap;

use super::pages::CheckedGroup;
pub use super::row::Projection;
use super::row::RowBatch;
use super::source::storage_error;
use super::{ImageColumn, Manifest, ManifestError, ManifestFile};
use crate::support::untrusted_parquet::{guarded, largest_dictionary_value};
use crate::support::unwind::caught;

/// The target size of a batch in bytes of decoded rows.
const BATCH_BYTES: usize = 8 << 20;
/// Rows in a batch of small rows.
const BATCH_ROWS: usize = 1024;
/// Rows in a batch with images inside. [`BATCH_BYTES`] divided by the average size does not bound these: sizes differ widely, and a
/// dictionary stores an image once that many rows have.
const BATCH_IMAGES: usize = 16;

/// An iterator over the batches of some rows of every manifest file.
pub struct ManifestReader<'a> {
    manifest: &'a Manifest,
    /// The wanted rows of each file.
    wanted: Vec<RoaringBitmap>,
    columns: Vec<usize>,
    projection: Projection,
    /// Next row group to open: file and group.
    next: (usize, usize),
    /// First row of the next row group within its file.
    first_row: u32,
    open: Option<OpenGroup>,
}

/// The row group that is being read.
struct OpenGroup {
    file: usize,
    group: usize,
    reader: ParquetRecordBatchReader,
    /// Rows that are still to come.
    missing: i64,
}

impl<'a> ManifestReader<'a> {
    /// Reads `wanted[i]` (row numbers within file `i`) of every file.
    #[must_use]
    pub fn new(manifest: &'a Manifest, wanted: Vec<RoaringBitmap>, projection: Projection) -> Self {
        let mut columns = vec![manifest.key];
        if projection == Projection::Rows {
            columns.extend(&manifest.carried);
        }
        // With signature columns, planning reads no image bytes.
        let image = manifest.image.filter(|(_, kind)| match projection {
            Projection::Rows => true,
            Projection::Plan => *kind == ImageColumn::Uri,
            Projection::PlanWithImages => *kind == ImageColumn::Uri || manifest.signature.is_empty(),
        });
        columns.extend(image.map(|(index, _)| index));
        columns.extend(manifest.text);
        columns.extend(&manifest.signature);
        let prompt = manifest.prompt.iter().flat_map(|template| &template.columns);
        columns.extend(prompt.map(|(_, index)| *index));
        columns.sort_unstable();
        columns.dedup();
        Self { manifest, wanted, columns, projection, next: (0, 0), first_row: 0, open: None }
    }

    /// Opens the next row group that holds a wanted row; false at the end.
    fn advance(&mut self) -> Result<bool, ManifestError> {
        while let Some(file) = self.manifest.files.get(self.next.0) {
            let (file_index, group) = self.next;
            let groups = file.metadata.metadata().row_groups();
            let Some(row_group) = groups.get(group) else {
                self.next = (file_index + 1, 0);
                self.first_row = 0;
                continue;
            };
            let rows = u32::try_from(row_group.num_rows()).unwrap_or(u32::MAX);
            let first = self.first_row;
            self.next = (file_index, group + 1);
            self.first_row = first.saturating_add(rows);
            let Some(wanted) = self.wanted.get(file_index) else { continue };
            let selection = select(wanted, first, rows);
            if selection.row_count() > 0 {
                let missing = selection.row_count() as i64;
                let reader = self.open(file, group, selection)?;
                self.open = Some(OpenGroup { file: file_index, group, reader, missing });
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn open(
        &self,
        file: &ManifestFile,
        group: usize,
        selection: RowSelection,
    ) -> Result<ParquetRecordBatchReader, ManifestError> {
        let path = &file.location;
        let parquet =
            |source| storage_error(path, &source).unwrap_or(ManifestError::Parquet { path: path.to_string(), source });
        let descriptor = file.metadata.metadata().file_metadata().schema_descr();
        let row_group = file.metadata.metadata().row_group(group);
        let mask = ProjectionMask::roots(descriptor, file.columns.roots(&self.columns));
        let leaves = row_group.columns().iter().enumerate().filter(|(leaf, _)| mask.leaf_included(*leaf));
        let leaves: Vec<_> = leaves.map(|(_, column)| column).collect();
        let bytes = leaves.iter().map(|column| column.uncompressed_size()).fold(0, i64::saturating_add);
        let chunks = leaves.iter().map(|column| column.byte_range()).map(|(start, length)| start..start + length);
        let source = file.reopen(chunks.collect())?;
        let pages = Arc::new(source.another().map_err(parquet)?);
        let largest = largest_dictionary_value(&pages, &leaves, row_group.num_rows()).map_err(parquet)?;
        let holds_images = |(index, kind)| kind != ImageColumn::Uri && self.columns.contains(&index);
        let most_rows = if self.manifest.image.is_some_and(holds_images) { BATCH_IMAGES } else { BATCH_ROWS };
        let row_bytes = usize::try_from(bytes / row_group.num_rows().max(1)).unwrap_or(0).max(largest).max(1);
        let rows = (BATCH_BYTES / row_bytes).clamp(1, most_rows);
        let pages = CheckedGroup { source: Arc::new(source), metadata: file.metadata.metadata().clone(), group };
        let build = || {
            let levels = parquet_to_arrow_field_levels(descriptor, mask, Some(file.metadata.schema().fields()))?;
            ParquetRecordBatchReader::try_new_with_row_groups(&levels, &pages, rows, Some(selection))
        };
        guarded(build).map_err(parquet)
    }
}

impl Iterator for ManifestReader<'_> {
    type Item = Result<RowBatch, ManifestError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(open) = &mut self.open {
                let file = &self.manifest.files[open.file];
                let (group, base) = (open.group, Arc::new(file.location.folder()));
                // A damaged file may make the library panic, also while its arrays are cast.
                let read = caught(|| {
                    let batch = open.reader.next()?;
                    Some(batch.and_then(|batch| {
                        let arrays = file.columns.arrange(&self.manifest.schema, &self.columns, &batch);
                        RowBatch::new(self.manifest, &self.columns, &arrays, base, self.projection)
                    }))
                });
                let rows = read.unwrap_or_else(|panic| Some(Err(ParquetError::General(panic).into())));
                if let Some(rows) = rows {
                    open.missing -= rows.as_ref().map_or(0, |rows| rows.len() as i64);
                    if rows.is_err() {
                        // After a failure there is no next row.
                        self.open = None;
                        self.next = (self.manifest.files.len(), 0);
                    }
                    return Some(rows.map_err(|source| file.damaged(group, source)));
                }
                let missing = open.missing;
                self.open = None;
                if missing != 0 {
                    self.next = (self.manifest.files.len(), 0);
                    return Some(Err(file.cut_off(group, missing)));
                }
            }
            match self.advance() {
                Ok(true) => {}
                Ok(false) => return None,
                Err(error) => {
                    self.next = (self.manifest.files.len(), 0);
                    return Some(Err(error));
                }
            }
        }
    }
}

/// The wanted rows of one row group as alternating skips and selects.
fn select(wanted: &RoaringBitmap, first: u32, rows: u32) -> RowSelection {
    let mut selectors = Vec::new();
    let end = first.saturating_add(rows);
    let mut at = first;
    let mut ranges = wanted.range(first..end);
    while let Some(range) = ranges.next_range() {
        let (start, stop) = (*range.start(), range.end().saturating_add(1).min(end));
        if start > at {
            selectors.push(RowSelector::skip((start - at) as usize));
        }
        selectors.push(RowSelector::select((stop - start) as usize));
        at = stop;
    }
    RowSelection::from(selectors)
}
