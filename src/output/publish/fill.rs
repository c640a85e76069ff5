//! Fillers: parts without rows that take the names of parts which may still arrive at a closed run.
//!
//! Readers count every file in the folder of a published run. So before the record of a closed run is put, no name may be left
//! that a suspended worker, or a request that is still on its way, could take. Only parts that a worker has announced can be such
//! ([`put_intent`](crate::output::records::put_intent)): one for each worker that died or is suspended, however many parts are missing.

use std::collections::BTreeSet;

use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;

use crate::output::part::reader::part_schema;
use crate::output::part::writer::{PartFooter, encode_batch};
use crate::output::records::plan::Plan;
use crate::output::records::published::present_parts;
use crate::output::records::put_intent::announced_parts;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_path};
use crate::support::counts::Counts;
use crate::support::failpoint;

/// Takes the names of the parts that may still arrive at the run of `plan`, which was closed. Returns the parts that are there, fillers
/// included: from now on, these do not change.
pub(super) fn fill(store: &OutputStore, plan: &Plan) -> Result<BTreeSet<u64>, OutputError> {
    let run = plan.run.as_str();
    let announced: BTreeSet<u64> = announced_parts(store, run)?.range(..plan.parts).copied().collect();
    let present = present_parts(store, run)?;
    let digest = plan.digest();
    let missing: Vec<u64> = announced.difference(&present).copied().collect();
    let schema = match (missing.first(), present.first()) {
        (Some(_), Some(first)) => part_schema(store, &part_path(run, *first))?,
        (Some(_), None) => return Err(OutputError::NoParts { run: run.to_owned() }),
        (None, _) => SchemaRef::new(Schema::empty()),
    };
    for part in missing {
        let footer =
            PartFooter { run, plan_digest: &digest, part, counts: &Counts::default(), halved: 0, is_filler: true };
        let encoded = encode_batch(&RecordBatch::new_empty(schema.clone()), &footer);
        let bytes = encoded.map_err(|source| OutputError::Encode { part, source })?;
        failpoint::hit("before_filler");
        // A part that has arrived in the meantime counts.
        store.put_new(&part_path(run, part), bytes)?;
    }
    Ok(present_parts(store, run)?.range(..plan.parts).copied().collect())
}
