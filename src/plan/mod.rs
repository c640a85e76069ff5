//! The plan: what one run will do, decided once and shared by every shard and every attempt.
//!
//! In: the job, its manifest, the model's fingerprints, what OUTPUT has published. Out: which rows are in, how they are cut
//! into parts, and the settings that results depend on. Never here: image bytes from elsewhere than the manifest, models.
//!
//! `scan` reads keys and signatures, `listing` what the storage lists, [`delta`] compares with the published runs,
//! [`decide`] puts them together, [`claim`] makes the plan or finds the run to go on with.

pub mod claim;
pub mod decide;
pub mod delta;
mod listing;
mod scan;
pub mod shard;

use std::collections::BTreeSet;

use roaring::RoaringBitmap;
use serde::{Deserialize, Serialize};

use self::delta::Reasons;
use crate::job::FailureLimits;
use crate::manifest::FileSnapshot;
use crate::signature::Signature;
use crate::storage::Location;

/// A run that cannot be planned or continued. Ends the command with status 2.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlanError {
    /// A run id that readers might take for a number or date.
    #[error(
        "--run-id {run:?}: expected a lower-case letter, then letters, digits, `_` or `-`, as in r20261123t041500z"
    )]
    RunId {
        /// As given.
        run: String,
    },
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
    /// A shard that makes no sense.
    #[error("{0}")]
    Shard(String),
    /// Rows that share a key.
    #[error(
        "{rows} rows of the manifest have the key of an earlier row, as in {}\nhint: `input.key` must tell rows apart; with input.on_duplicate_key = \"first\" the first row of each key is taken",
        examples.iter().map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ")
    )]
    DuplicateKeys {
        /// Rows whose key was there before.
        rows: u64,
        /// Some of the keys.
        examples: Vec<String>,
    },
    /// More rows than ordinals can number.
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

/// One manifest file of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedFile {
    /// The file when the plan was made.
    #[serde(flatten)]
    pub snapshot: FileSnapshot,
    /// Rows that are in.
    pub selected: u64,
    /// Name of the row mask among the run's records: a Roaring bitmap of row numbers.
    pub selection: String,
}

/// What results depend on besides the rows: two attempts belong to one run only if this is equal.
pub type Identity = serde_json::Map<String, serde_json::Value>;

/// A run's plan, the record `plan.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The run id.
    pub run: String,
    /// Grows with every run of an OUTPUT.
    pub run_seq: i64,
    /// The nightcap that made the plan.
    pub version: String,
    /// When, in UTC.
    pub created_at: String,
    /// Input, generation, embedding, columns, fingerprints, limit.
    pub identity: Identity,
    /// The key column.
    pub key: String,
    /// The published runs that were compared with the manifest.
    pub considered: Vec<String>,
    /// The published runs whose results may be copied, oldest first; empty unless `output.reuse_by_content` asks for it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reuses: Vec<String>,
    /// Why rows are in.
    pub reasons: Reasons,
    /// Name of the record with the rows' signatures, [`Signature::BYTES`] each, in order.
    pub signatures: String,
    /// The runs that this one replaces when it is published; empty unless it is a compaction.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub supersedes: Vec<String>,
    /// The manifest files in order.
    pub manifest: Vec<PlannedFile>,
    /// The deepest folder that all images of the job on one disk or in one bucket share, for each; see
    /// [`CommonFolders`](crate::fetch::CommonFolders).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub image_roots: Vec<String>,
    /// Selected rows of all files.
    pub rows: u64,
    /// Rows in a part; the last part may have fewer.
    pub part_rows: u64,
    /// Parts.
    pub parts: u64,
    /// Rows in a batch. Stored, because rounding may depend on it.
    pub batch_size: usize,
    /// How many failed rows `finalize` accepts.
    pub failures: FailureLimits,
    /// Names the graphs, tokenizer, preprocessing and settings behind captions; None without captions.
    pub caption_fingerprint: Option<String>,
    /// The same behind vectors.
    pub embedding_fingerprint: Option<String>,
}

impl Plan {
    /// Where the signatures of part `part` stand in their record: first byte and length.
    #[must_use]
    pub fn signature_range(&self, part: u64) -> (u64, u64) {
        let bytes = Signature::BYTES as u64;
        (part * self.part_rows * bytes, self.rows_in(part) * bytes)
    }

    /// Rows in part `part`.
    #[must_use]
    pub fn rows_in(&self, part: u64) -> u64 {
        self.rows.saturating_sub(part * self.part_rows).min(self.part_rows)
    }

    /// What ties parts to the plan they were made for: BLAKE3 of all in it that results depend on, hex.
    #[must_use]
    pub fn digest(&self) -> String {
        let timeless = Self { created_at: String::new(), failures: FailureLimits::default(), ..self.clone() };
        // A plan is plain data, which always serialises.
        let bytes = serde_json::to_vec(&timeless).unwrap_or_default();
        blake3::hash(&bytes).to_hex()[..32].to_owned()
    }
}

/// Which rows of each manifest file are in, by row number.
#[derive(Debug, Clone, PartialEq)]
pub struct Selection(pub Vec<RoaringBitmap>);

impl Selection {
    /// Of these rows, those at `ordinals`, counted over all files in order.
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
        /// Parts taken together are the selection, in order and without overlap, however rows lie in files.
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
