//! The records `stages-*` of a run: how long each stage of the pipeline worked and waited, one record for each process that made parts.
//! They are for people: no result depends on them, and a run without them is as good.

use serde::{Deserialize, Serialize};

use crate::output::store::OutputStore;
use crate::output::{OutputError, json, run_folder};
use crate::support::metrics::StageTimes;

/// The prefix of the records' names.
const STAGES: &str = "stages-";

/// How long one stage worked and waited, over all processes of a run, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StageRecord {
    /// Its name.
    pub stage: String,
    /// Working; the sum over concurrent work.
    pub busy_s: f64,
    /// Waiting for the stage before.
    pub wait_input_s: f64,
    /// Waiting for the stage after.
    pub wait_output_s: f64,
    /// Bytes of output.
    pub bytes: u64,
}

impl From<&StageTimes> for StageRecord {
    fn from(times: &StageTimes) -> Self {
        let StageTimes { stage, busy_s, wait_input_s, wait_output_s, bytes } = *times;
        Self { stage: stage.to_owned(), busy_s, wait_input_s, wait_output_s, bytes }
    }
}

/// Puts the times of this process.
///
/// # Errors
/// [`OutputError::Store`].
pub fn put_stage_times(store: &OutputStore, run: &str, stages: &[StageTimes]) -> Result<(), OutputError> {
    let worker = store.process().worker();
    let host: String = worker.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let path = format!("{}/{STAGES}{host}-{}-{}", run_folder(run), worker.pid, worker.started.unwrap_or(0));
    let record: Vec<StageRecord> = stages.iter().map(StageRecord::from).collect();
    store.put_over(&path, json(&record, &path)?)
}

/// The times of all processes that made parts of `run`, added up, in the order of the stages. Damaged records are left out.
///
/// # Errors
/// [`OutputError::Store`].
pub fn stage_times(store: &OutputStore, run: &str) -> Result<Vec<StageRecord>, OutputError> {
    let mut sums: Vec<StageRecord> = Vec::new();
    for name in store.files(&run_folder(run))?.iter().filter(|name| name.starts_with(STAGES)) {
        let Some(bytes) = store.get(&format!("{}/{name}", run_folder(run)))? else { continue };
        let record: Vec<StageRecord> = serde_json::from_slice(&bytes).unwrap_or_default();
        for times in record {
            match sums.iter_mut().find(|sum| sum.stage == times.stage) {
                Some(sum) => {
                    sum.busy_s += times.busy_s;
                    sum.wait_input_s += times.wait_input_s;
                    sum.wait_output_s += times.wait_output_s;
                    sum.bytes = sum.bytes.saturating_add(times.bytes);
                }
                None => sums.push(times),
            }
        }
    }
    Ok(sums)
}
