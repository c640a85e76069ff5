//! Planning: which rows a run takes and how they are cut into parts, decided once for every shard and every attempt.
//!
//! In: the job, its manifest, the model's fingerprints, the published runs of OUTPUT. Out: a
//! [`Plan`](crate::output::records::plan::Plan) and the selected rows. Never here: image bytes from elsewhere than the manifest,
//! models.
//!
//! In the order of the data: [`claim`] finds the run to continue, or asks for a new plan; with shards, [`planner`] lets one process
//! plan while the others wait. [`decide`] then selects the rows: `scan` reads keys and signatures, `listing` lists sizes and versions
//! of images, [`delta`] compares both with the published runs. [`claim`] puts the plan, and [`shard`] says which of its parts a
//! process makes.

pub mod claim;
pub mod decide;
pub mod delta;
mod listing;
pub mod planner;
mod scan;
pub mod shard;

use std::collections::BTreeSet;

use roaring::RoaringBitmap;

use crate::manifest::ManifestError;
use crate::output::OutputError;
use crate::output::records::plan::Identity;
use crate::storage::Location;

/// A run that cannot be planned or continued. Ends the command with status 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// The manifest cannot be read.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// OUTPUT cannot be read or written.
    #[error(transparent)]
    Output(#[from] OutputError),
    /// The run exists with other settings.
    #[error(
        "run {run} was planned with other settings: {difference}\nhint: use another --run-id, or the job as it was"
    )]
    OtherJob {
        /// The run id.
        run: String,
        /// The settings that differ.
        difference: String,
    },
    /// The manifest is not the one that was planned.
    #[error(
        "the manifest has changed since run {run} was planned: {path}\nhint: start a new run with another --run-id"
    )]
    ManifestChanged {
        /// The run id.
        run: String,
        /// The file that changed.
        path: String,
    },
    /// A shard that is malformed, out of range or cannot be inferred.
    #[error("{0}")]
    Shard(String),
    /// Several rows have the same key.
    #[error(
        "{rows} rows of the manifest have the key of an earlier row, as in {}\nhint: `input.key` must tell rows apart; with input.on_duplicate_key = \"first\" the first row of each key is taken",
        examples.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
    )]
    DuplicateKeys {
        /// Rows whose key an earlier row has.
        rows: u64,
        /// Some of the keys.
        examples: Vec<String>,
    },
    /// Keys that hold a credential, which every part would show.
    #[error(
        "`input.key` = `{column}`: {rows} keys are URLs with a password or a signature in them, such as {}\nhint: parts hold no credentials, and a key must stay the same from night to night; give rows an id, or the URL without its query: regexp_replace({column}, '[?].*', '')",
        crate::support::redact::uri(example)
    )]
    SignedKeys {
        /// The key column.
        column: String,
        /// Rows with such a key.
        rows: u64,
        /// One of the keys.
        example: String,
    },
    /// More rows than 32-bit ordinals can number.
    #[error(
        "{rows} rows are selected; at most {} fit in one run\nhint: split the manifest with `input.where`",
        u32::MAX
    )]
    TooManyRows {
        /// Selected rows.
        rows: u64,
    },
    /// A folder of images that cannot be listed.
    #[error(
        "cannot list {folder}, where the manifest's images are: {message}\nhint: planning lists sizes and times of the images there; give `input.signature` columns to do without"
    )]
    Listing {
        /// The folder.
        folder: Location,
        /// Why.
        message: String,
    },
}

/// The selected rows of each manifest file, by row number.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection(pub Vec<RoaringBitmap>);

impl Selection {
    /// Those of these rows whose ordinals, counted over all files in order, are in `ordinals`.
    #[must_use]
    pub fn at(&self, ordinals: &RoaringBitmap) -> Self {
        let mut first = 0;
        let of_file = |rows: &RoaringBitmap| {
            let end = first + rows.len();
            let wanted = ordinals.range(saturated(first)..saturated(end));
            let mut kept = RoaringBitmap::new();
            if wanted.len() == rows.len() as usize {
                kept.clone_from(rows);
            } else {
                let mut wanted = wanted.peekable();
                for (ordinal, row) in (first..).zip(rows) {
                    if wanted.next_if(|&next| u64::from(next) == ordinal).is_some() {
                        kept.insert(row);
                    }
                }
            }
            first = end;
            kept.optimize();
            kept
        };
        Self(self.0.iter().map(of_file).collect())
    }

    /// Selected rows.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.0.iter().map(RoaringBitmap::len).sum()
    }

    /// The rows of `parts`, for each manifest file, where a part is `part_rows` consecutive selected rows.
    #[must_use]
    pub fn of_parts(&self, parts: &BTreeSet<u64>, part_rows: u64) -> Vec<RoaringBitmap> {
        let mut first = 0;
        let of_file = |rows: &RoaringBitmap| {
            let (start, end) = (first, first + rows.len());
            first = end;
            let mut kept = RoaringBitmap::new();
            if rows.is_empty() {
                return kept;
            }
            for &part in parts.range(start / part_rows..=(end - 1) / part_rows) {
                let from = (part * part_rows).max(start) - start;
                let to = ((part + 1) * part_rows).min(end) - start;
                let row = |ordinal: u64| rows.select(u32::try_from(ordinal).unwrap_or(u32::MAX));
                if let (Some(from), Some(to)) = (row(from), row(to - 1)) {
                    kept.insert_range(from..=to);
                }
            }
            kept &= rows;
            kept
        };
        self.0.iter().map(of_file).collect()
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// The names of the settings in which two identities differ.
#[must_use]
pub fn difference(ours: &Identity, theirs: &Identity) -> String {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let differ = names.into_iter().filter(|name| ours.get(*name) != theirs.get(*name));
    let show = |value: Option<&serde_json::Value>| value.map_or_else(|| "nothing".to_owned(), ToString::to_string);
    differ
        .map(|name| format!("{name} is {}, was {}", show(ours.get(name)), show(theirs.get(name))))
        .collect::<Vec<_>>()
        .join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Parts taken together are the selection, in order and without overlap, however rows are spread over files.
        #[test]
        fn parts_partition_the_selection(
            files in prop::collection::vec(prop::collection::btree_set(0u32..500, 0..60), 1..4),
            part_rows in 1u64..40,
        ) {
            let selection = Selection(files.iter().map(|rows| rows.iter().copied().collect()).collect());
            let expected: Vec<(usize, u32)> =
                files.iter().enumerate().flat_map(|(file, rows)| rows.iter().map(move |&row| (file, row))).collect();
            let parts = selection.rows().div_ceil(part_rows);
            let mut found = Vec::new();
            for part in 0..parts {
                let rows = selection.of_parts(&BTreeSet::from([part]), part_rows);
                let before = found.len();
                found.extend(rows.iter().enumerate().flat_map(|(file, rows)| rows.iter().map(move |row| (file, row))));
                prop_assert!((found.len() - before) as u64 <= part_rows);
            }
            prop_assert_eq!(found, expected.clone());
            let all = selection.of_parts(&(0..parts).collect(), part_rows);
            prop_assert_eq!(all.iter().map(RoaringBitmap::len).sum::<u64>(), expected.len() as u64);
        }
    }
}
