//! Publishing a run. In: the plan and the parts of a run. Out: its indexes, then the record by which it counts. Never here: parts are
//! not changed.
//!
//! [`finalize`] decides that a run counts; [`fill`] makes sure that no part arrives at a closed run later. It checks the parts, builds the [`index`] (keys and signatures, which planning compares with the manifest) and the reuse
//! index (`reuse_index`: results by content), and puts the published record last. [`reuse`] looks up results of published runs for a
//! run that copies them.

pub(crate) mod fill;
pub mod finalize;
pub mod index;
pub mod reuse;
pub(crate) mod reuse_index;
