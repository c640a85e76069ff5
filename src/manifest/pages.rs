//! The pages of a row group, checked before the Parquet library skips values in them: it believes the length of a text that it skips,
//! and past the end of the page it asks for memory that no machine has, which ends the process.

use std::sync::Arc;

use bytes::Bytes;
use parquet::arrow::arrow_reader::RowGroups;
use parquet::basic::{Encoding, Type};
use parquet::column::page::{Page, PageIterator, PageMetadata, PageReader};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::{ParquetMetaData, RowGroupMetaData};
use parquet::file::serialized_reader::SerializedPageReader;

use super::source::Source;

/// One row group of a file.
pub(super) struct CheckedGroup {
    pub(super) source: Arc<Source>,
    pub(super) metadata: Arc<ParquetMetaData>,
    pub(super) group: usize,
}

impl RowGroups for CheckedGroup {
    fn num_rows(&self) -> usize {
        usize::try_from(self.metadata.row_group(self.group).num_rows()).unwrap_or(0)
    }

    fn column_chunks(&self, leaf: usize) -> Result<Box<dyn PageIterator>> {
        let column = self.metadata.row_group(self.group).column(leaf);
        let pages = SerializedPageReader::new(self.source.clone(), column, self.num_rows(), None)?;
        let described = column.column_descr();
        let levels = [described.max_rep_level(), described.max_def_level()];
        if described.physical_type() != Type::BYTE_ARRAY {
            return Ok(Box::new(Chunk(Some(Box::new(pages)))));
        }
        Ok(Box::new(Chunk(Some(Box::new(CheckedPages { pages, levels })))))
    }

    fn row_groups(&self) -> Box<dyn Iterator<Item = &RowGroupMetaData> + '_> {
        Box::new(std::iter::once(self.metadata.row_group(self.group)))
    }

    fn metadata(&self) -> &ParquetMetaData {
        &self.metadata
    }
}

/// The pages of the one chunk that a column has in a row group.
struct Chunk(Option<Box<dyn PageReader>>);

impl Iterator for Chunk {
    type Item = Result<Box<dyn PageReader>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.0.take().map(Ok)
    }
}

impl PageIterator for Chunk {}

/// Pages of texts or bytes, of a column with these greatest repetition and definition levels.
struct CheckedPages {
    pages: SerializedPageReader<Source>,
    levels: [i16; 2],
}

impl Iterator for CheckedPages {
    type Item = Result<Page>;

    fn next(&mut self) -> Option<Self::Item> {
        self.get_next_page().transpose()
    }
}

impl PageReader for CheckedPages {
    fn get_next_page(&mut self) -> Result<Option<Page>> {
        let page = self.pages.get_next_page()?;
        let damaged = page.as_ref().is_some_and(|page| values(page, self.levels).is_some_and(|found| !found));
        if damaged { Err(ParquetError::General("a value is longer than its page".to_owned())) } else { Ok(page) }
    }

    fn peek_next_page(&mut self) -> Result<Option<PageMetadata>> {
        self.pages.peek_next_page()
    }

    fn skip_next_page(&mut self) -> Result<()> {
        self.pages.skip_next_page()
    }

    fn supports_deferred_dictionary(&self) -> bool {
        self.pages.supports_deferred_dictionary()
    }

    fn take_deferred_dictionary(&mut self) -> Result<Option<Page>> {
        self.pages.take_deferred_dictionary()
    }

    fn at_record_boundary(&mut self) -> Result<bool> {
        self.pages.at_record_boundary()
    }
}

/// Whether the plain values of a data page end within it. None: it has none, or its levels are damaged, which the library notices.
fn values(page: &Page, levels: [i16; 2]) -> Option<bool> {
    let (buf, count, start) = match page {
        Page::DataPage {
            buf, num_values, encoding: Encoding::PLAIN, def_level_encoding, rep_level_encoding, ..
        } => {
            let mut start = 0;
            for (greatest, encoding) in levels.into_iter().zip([rep_level_encoding, def_level_encoding]) {
                start += if greatest > 0 { level_bytes(buf, start, *encoding, greatest, *num_values)? } else { 0 };
            }
            (buf, *num_values, start)
        }
        Page::DataPageV2 {
            buf,
            num_values,
            num_nulls,
            encoding: Encoding::PLAIN,
            def_levels_byte_len,
            rep_levels_byte_len,
            ..
        } => (buf, num_values.checked_sub(*num_nulls)?, *def_levels_byte_len as usize + *rep_levels_byte_len as usize),
        _ => return None,
    };
    let mut rest = buf.get(start..)?;
    for _ in 0..count {
        if rest.is_empty() {
            break;
        }
        let after =
            rest.split_first_chunk::<4>().and_then(|(size, rest)| rest.get(u32::from_le_bytes(*size) as usize..));
        let Some(after) = after else { return Some(false) };
        rest = after;
    }
    Some(true)
}

/// The bytes that levels from `start` take in a page of the first version.
fn level_bytes(buf: &Bytes, start: usize, encoding: Encoding, greatest: i16, count: u32) -> Option<usize> {
    if encoding == Encoding::RLE {
        let (size, _) = buf.get(start..)?.split_first_chunk::<4>()?;
        return Some(4 + u32::from_le_bytes(*size) as usize);
    }
    let bits = (i16::BITS - greatest.leading_zeros()) as usize;
    Some((bits * count as usize).div_ceil(8))
}
