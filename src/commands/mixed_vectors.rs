//! Vectors of several models, which cannot be compared.

use std::collections::BTreeMap;

/// Says which values of `embedding_fingerprint` vectors have; `found` counts the rows of each.
pub(super) fn cannot_be_compared(found: &BTreeMap<String, u64>) -> String {
    let shown: Vec<String> = found.iter().map(|(name, rows)| format!("{rows} rows of {name}")).collect();
    format!("expected vectors of one embedding_fingerprint, found {}: they cannot be compared", shown.join(", "))
}

/// The condition that chooses the fingerprint of the most rows, as an argument of `--where`.
pub(super) fn where_most(found: &BTreeMap<String, u64>) -> String {
    let example = found.iter().max_by_key(|(_, rows)| **rows).map_or("", |(name, _)| name);
    format!("--where \"embedding_fingerprint = '{example}'\"")
}
