//! Which rows are the newest of their keys, by the indexes of the published runs; no part is opened.

use crate::output::OutputError;
use crate::output::publish::merge::Merge;
use crate::output::records::published::Published;
use crate::output::store::OutputStore;
use crate::row::signature::KeyHash;

/// The newest rows of several runs: 32 bytes a row in memory.
#[derive(Debug)]
pub(super) struct Newest {
    /// Key, `run_seq` and number of the run; sorted.
    rows: Vec<(KeyHash, i64, u32)>,
}

impl Newest {
    /// Compares the rows of `runs`, oldest first. None: every row is the newest of its key, because there is one run, and it is no
    /// compaction, which may keep two rows of a key.
    pub(super) fn choose(store: &OutputStore, runs: &[Published]) -> Result<Option<Self>, OutputError> {
        if let [run] = runs
            && run.supersedes.is_empty()
        {
            return Ok(None);
        }
        let mut merge = Merge::open(store, runs)?;
        let (mut entries, mut rows) = (Vec::new(), Vec::new());
        while let Some(key) = merge.next_key(&mut entries)? {
            rows.extend(
                entries.iter().map(|(run, entry)| (entry.run_seq, *run as u32)).max().map(|(seq, run)| (key, seq, run)),
            );
        }
        Ok(Some(Self { rows }))
    }

    /// Whether this row of the `run`th run is the newest one of its key.
    pub(super) fn has(&self, key: KeyHash, run_seq: i64, run: usize) -> bool {
        self.rows.binary_search(&(key, run_seq, run as u32)).is_ok()
    }
}
