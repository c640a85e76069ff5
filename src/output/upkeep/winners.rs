//! Which rows a compaction keeps: of each key the newest one and, if that failed, the newest one that did not. They are what the two
//! documented views show. All indexes are merged in key order; one or two entries are remembered for each key.

use std::collections::HashSet;

use crate::output::OutputError;
use crate::output::part::rows::{Fingerprints, RowState};
use crate::output::publish::index::IndexEntry;
use crate::output::publish::merge::Merge;
use crate::output::records::published::Published;
use crate::output::store::OutputStore;
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
                let known = merge.fingerprints(*source, row);
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
