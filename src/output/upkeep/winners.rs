//! Which rows a compaction keeps: of each key the newest one and, if that failed, the newest one that did not. They are what the two
//! documented views show. All indexes are merged in key order; one or two entries are remembered for each key.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashSet};

use crate::output::part::rows::{Fingerprints, RowState};
use crate::output::publish::index::{IndexEntry, IndexReader};
use crate::output::records::published::Published;
use crate::output::store::OutputStore;
use crate::output::{OutputError, published_path, run_folder};
use crate::row::signature::KeyHash;

/// A row that stays; 32 bytes in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Winner {
    key: KeyHash,
    run_seq: i64,
    source: u32,
}

/// The rows that stay.
#[derive(Debug, Default)]
pub(crate) struct Winners {
    /// Sorted.
    rows: Vec<Winner>,
    /// Rows that stay.
    pub(crate) kept: u64,
    /// Rows that newer ones of their keys replace.
    pub(crate) replaced: u64,
    /// Rows whose key is not among those to keep.
    pub(crate) deleted: u64,
    /// What the rows that stay were made with.
    pub(crate) fingerprints: HashSet<Fingerprints>,
}

impl Winners {
    /// Compares the rows of all `sources`, oldest first; `keep` holds the keys that may stay, sorted, or None for all.
    pub(crate) fn choose(
        store: &OutputStore,
        sources: &[Published],
        keep: Option<&[KeyHash]>,
    ) -> Result<Self, OutputError> {
        let mut winners = Self::default();
        let mut merge = Merge::open(store, sources)?;
        let (mut rows, mut seen) = (Vec::new(), 0);
        while let Some(key) = merge.next_key(&mut rows)? {
            if keep.is_some_and(|keep| keep.binary_search(&key).is_err()) {
                winners.deleted += rows.len() as u64;
                continue;
            }
            let winner =
                |&(source, row): &(usize, IndexEntry)| Winner { key, run_seq: row.run_seq, source: source as u32 };
            let newest = rows.iter().map(winner).max();
            let last_good = rows.iter().filter(|(_, row)| row.state == RowState::Ok).map(winner).max();
            let stay = [last_good.filter(|good| Some(*good) != newest), newest];
            // Rows without a key that have the same content are one winner.
            for (source, row) in rows.iter().filter(|row| stay.contains(&Some(winner(row)))) {
                winners.kept += 1;
                let known = merge.readers[*source].fingerprints.get(row.fingerprints as usize);
                if let Some(known) = known.filter(|known| !winners.fingerprints.contains(*known)) {
                    winners.fingerprints.insert(known.clone());
                }
            }
            // In order: the last good row is older.
            winners.rows.extend(stay.into_iter().flatten());
            seen += rows.len() as u64;
        }
        winners.replaced = seen - winners.kept;
        Ok(winners)
    }

    /// Whether every row stays.
    pub(crate) fn keep_all(&self) -> bool {
        self.replaced + self.deleted == 0
    }

    /// Whether this row of the `source`th run stays.
    pub(crate) fn keeps(&self, source: u32, key: KeyHash, run_seq: i64) -> bool {
        self.rows.binary_search(&Winner { key, run_seq, source }).is_ok()
    }
}

/// Several indexes as one, in key order.
struct Merge<'a> {
    readers: Vec<IndexReader<'a>>,
    /// The first entry that was not handed out yet, of each reader.
    heads: Vec<Option<IndexEntry>>,
    order: BinaryHeap<Reverse<(KeyHash, usize)>>,
}

impl<'a> Merge<'a> {
    fn open(store: &'a OutputStore, sources: &[Published]) -> Result<Self, OutputError> {
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
    fn next_key(&mut self, rows: &mut Vec<(usize, IndexEntry)>) -> Result<Option<KeyHash>, OutputError> {
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
}
