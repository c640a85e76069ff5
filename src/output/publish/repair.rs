//! What an operator does about a run whose end is decided, and whose published record cannot be put, because its parts or records were
//! damaged after the decision. Nothing is done by itself: only an operator knows whether there is a backup.

use crate::output::records::outcome::outcome_path;
use crate::output::records::plan::load_plan;
use crate::output::store::OutputStore;
use crate::output::{OutputError, part_folder};

/// The hint for `run`, of which `error` says what is damaged.
///
/// Without its outcome, the end of the run is open again: the next `run` of the job goes on with it and makes the parts that are missing, or
/// closes it.
pub(crate) fn repair_hint(store: &OutputStore, run: &str, error: &OutputError) -> String {
    let damaged = match error {
        OutputError::WrongPart { path, .. }
        | OutputError::ForeignPart { path, .. }
        | OutputError::Record { path, .. }
        | OutputError::Store { path, .. } => path.as_str(),
        _ => "what is missing",
    };
    let outcome = outcome_path(run);
    let instead = if load_plan(store, run).is_ok_and(|plan| !plan.supersedes.is_empty()) {
        "`nightcap compact OUTPUT` with another --run-id or none; until then, the runs that it was to replace count"
            .to_owned()
    } else if damaged.starts_with(&part_folder(run)) {
        format!(
            "remove it and {outcome}, and run the job again: it makes the part again, or, if the manifest has changed, publishes the other parts"
        )
    } else {
        format!("remove {outcome}, then `nightcap discard OUTPUT --run-id {run}`: the next run makes its rows again")
    };
    format!("put {damaged} back from a backup; or {instead}")
}
