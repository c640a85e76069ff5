//! The indexes of several runs, read together in the order of their keys.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::index::{IndexEntry, IndexReader};
use crate::output::part::rows::Fingerprints;
use crate::output::records::published::Published;
use crate::output::store::OutputStore;
use crate::output::{OutputError, published_path, run_folder};
use crate::row::signature::KeyHash;

/// Several indexes as one, in key order.
pub(in crate::output) struct Merge<'a> {
    readers: Vec<IndexReader<'a>>,
    /// The first entry that was not handed out yet, of each reader.
    heads: Vec<Option<IndexEntry>>,
    order: BinaryHeap<Reverse<(KeyHash, usize)>>,
}

impl<'a> Merge<'a> {
    /// Opens the indexes of `sources`.
    pub(in crate::output) fn open(store: &'a OutputStore, sources: &[Published]) -> Result<Self, OutputError> {
        let open = |run: &Published| {
            let reader = IndexReader::open(store, &run_folder(&run.run), &run.index)?;
            if reader.rows == run.counts.rows {
                return Ok(reader);
            }
            let message = format!("it counts {} rows, its index {}", run.counts.rows, reader.rows);
            Err(OutputError::Record { path: published_path(&run.run), message })
        };
        let readers = sources.iter().map(open).collect::<Result<Vec<_>, _>>()?;
        let mut merge = Self { heads: vec![None; readers.len()], readers, order: BinaryHeap::new() };
        for source in 0..merge.readers.len() {
            merge.advance(source)?;
        }
        Ok(merge)
    }

    fn advance(&mut self, source: usize) -> Result<Option<IndexEntry>, OutputError> {
        let next = self.readers[source].next().transpose()?;
        if let Some(next) = &next {
            self.order.push(Reverse((next.key, source)));
        }
        Ok(std::mem::replace(&mut self.heads[source], next))
    }

    /// The next key, and into `rows` its entries with the number of the source of each.
    pub(in crate::output) fn next_key(
        &mut self,
        rows: &mut Vec<(usize, IndexEntry)>,
    ) -> Result<Option<KeyHash>, OutputError> {
        rows.clear();
        let Some(&Reverse((key, _))) = self.order.peek() else { return Ok(None) };
        while let Some(&Reverse((next, source))) = self.order.peek()
            && next == key
        {
            self.order.pop();
            if let Some(entry) = self.advance(source)? {
                rows.push((source, entry));
            }
        }
        Ok(Some(key))
    }

    /// What the row of an entry of the `source`th index was made with.
    pub(in crate::output) fn fingerprints(&self, source: usize, entry: &IndexEntry) -> Option<&Fingerprints> {
        self.readers[source].fingerprints.get(entry.fingerprints as usize)
    }
}
