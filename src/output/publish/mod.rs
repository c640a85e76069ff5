//! Publishing a run. In: the plan and the parts of a run. Out: its indexes, then the record by which it counts. Never here: parts are
//! not changed.
//!
//! [`finalize`] checks the parts, builds the [`index`] (keys and signatures, which planning compares with the manifest) and the reuse
//! index (`reuse_index`: results by content), keeps the [`part_hashes`], decides that the run counts, and puts the published record last.
//! `merge` reads several indexes in the order of keys. `fill` makes sure that no part arrives at a closed run later, and `repair` says what to do about a run that was decided and then
//! damaged. [`reuse`] looks up results of published runs for a run that copies them.

pub(crate) mod fill;
pub mod finalize;
pub mod index;
pub(in crate::output) mod merge;
pub mod part_hashes;
pub(crate) mod repair;
pub mod reuse;
pub(crate) mod reuse_index;
