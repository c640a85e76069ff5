//! Names and numbers as records may hold them. OUTPUT may be shared, restored or damaged: a name out of a record becomes a path, and a
//! number an amount of memory, so both are checked while the record is parsed. For `#[serde(deserialize_with)]`.

use serde::Deserialize;
use serde::de::{Deserializer, Error};

use super::run_id::is_run_id;

/// The largest `run_seq`: names in `seq/` have twelve digits.
pub const LAST_RUN_SEQ: i64 = 999_999_999_999;
/// The most rows of a run. Far more than one can have, and few enough that sizes in bytes fit in 64 bits.
pub const MOST_ROWS: u64 = 1 << 40;
/// The most rows of a part: the limit of `output.part_rows`.
pub const MOST_PART_ROWS: u64 = 1_000_000;
/// Characters of a refused value that a message shows.
const SHOWN: usize = 100;

/// A run id.
///
/// # Errors
/// When it is none.
pub fn run_id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let run = String::deserialize(deserializer)?;
    if is_run_id(&run) { Ok(run) } else { Err(unfit("a run id, as in r20261123t041500z", &run)) }
}

/// Run ids.
///
/// # Errors
/// When one of them is none.
pub fn run_ids<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    let runs = Vec::<String>::deserialize(deserializer)?;
    match runs.iter().find(|run| !is_run_id(run)) {
        None => Ok(runs),
        Some(run) => Err(unfit("run ids, as in r20261123t041500z", run)),
    }
}

/// A number that a run claimed in `seq/`.
///
/// # Errors
/// When it is out of range.
pub fn run_seq<'de, D: Deserializer<'de>>(deserializer: D) -> Result<i64, D::Error> {
    let number = i64::deserialize(deserializer)?;
    if (1..=LAST_RUN_SEQ).contains(&number) {
        return Ok(number);
    }
    Err(unfit("a `run_seq` from 1 to 999999999999", &number.to_string()))
}

/// Whether `name` is `KIND-` and the 32 hex digits of a hash, as objects are named that a record refers to.
pub(crate) fn is_hashed_name(kind: &str, name: &str) -> bool {
    let hash = name.strip_prefix(kind).and_then(|rest| rest.strip_prefix('-'));
    hash.is_some_and(|hash| hash.len() == 32 && hash.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')))
}

/// Declares deserializers of names that are `KIND-` and a hash.
macro_rules! hashed_names {
    ($($(#[$doc:meta])* $function:ident = $kind:literal,)*) => {
        $($(#[$doc])*
        ///
        /// # Errors
        /// When it is none.
        pub fn $function<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
            hashed($kind, String::deserialize(deserializer)?)
        })*
    };
}

hashed_names! {
    /// The name of an index.
    index = "index",
    /// The name of a row mask.
    selection = "selection",
}

/// The name of a reuse index, or none.
///
/// # Errors
/// When it is something else.
pub fn reuse_index<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::<String>::deserialize(deserializer)?.map(|name| hashed("reuse-index", name)).transpose()
}

/// The name of a record of signatures; compactions have none, and an empty name.
///
/// # Errors
/// When it is something else.
pub fn signatures<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    if name.is_empty() { Ok(name) } else { hashed("signatures", name) }
}

fn hashed<E: Error>(kind: &str, name: String) -> Result<String, E> {
    if is_hashed_name(kind, &name) { Ok(name) } else { Err(unfit(&format!("a name such as {kind}-HASH"), &name)) }
}

fn unfit<E: Error>(expected: &str, found: &str) -> E {
    let shown: String = found.chars().take(SHOWN).collect();
    let more = if shown.len() < found.len() { "..." } else { "" };
    E::custom(format!("expected {expected}, found {shown:?}{more}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain_file_names() {
        let hash = "0123456789abcdef0123456789abcdef";
        assert!(is_hashed_name("index", &format!("index-{hash}")));
        for name in [
            String::new(),
            "index-".to_owned(),
            format!("index-{}", &hash[1..]),
            format!("index-{hash}0"),
            format!("index-../{}", &hash[3..]),
            format!("reuse-index-{hash}"),
            format!("index-{}", hash.to_uppercase()),
            format!("../index-{hash}"),
        ] {
            assert!(!is_hashed_name("index", &name), "{name}");
        }
    }
}
