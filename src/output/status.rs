//! `nightcap status`: the runs of an OUTPUT, from their records and part footers.

use std::collections::BTreeSet;
use std::fmt;

use serde::Serialize;

use super::finalize::{Published, load_plan, part_summary, present_parts};
use super::store::OutputStore;
use super::{Counts, OutputError, part_path, published_path};

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Complete and visible to readers that ask for published runs.
    Published,
    /// Some parts are missing, or finalize has not run.
    Unfinished,
    /// Killed before its plan was written; nothing was computed.
    Unplanned,
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    /// The run id.
    pub run: String,
    /// As in the parts; None without a plan.
    pub run_seq: Option<i64>,
    /// How far it is.
    pub state: State,
    /// Rows the plan selected.
    pub selected: u64,
    /// Parts the plan asks for.
    pub parts: u64,
    /// Parts that are there.
    pub parts_present: u64,
    /// Rows in those parts, by outcome.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Every run of an OUTPUT, oldest first.
#[derive(Debug, Clone, Serialize)]
pub struct Status {
    /// The runs.
    pub runs: Vec<RunStatus>,
}

impl Status {
    /// Reads the records, and for unfinished runs the footers of the parts that are there.
    ///
    /// # Errors
    /// [`OutputError`] when a record or footer cannot be read.
    pub fn read(store: &OutputStore) -> Result<Self, OutputError> {
        let names: BTreeSet<String> = store.folders("_nightcap/runs")?.into_iter().collect();
        let mut runs = names.into_iter().map(|run| read_run(store, run)).collect::<Result<Vec<_>, _>>()?;
        // A run without a number came to no plan; it stands last.
        runs.sort_by_key(|run| run.run_seq.unwrap_or(i64::MAX));
        Ok(Self { runs })
    }
}

fn read_run(store: &OutputStore, run: String) -> Result<RunStatus, OutputError> {
    let plan = match load_plan(store, &run) {
        Ok(plan) => plan,
        Err(OutputError::NoSuchRun { .. }) => {
            let (state, counts) = (State::Unplanned, Counts::default());
            return Ok(RunStatus { run, run_seq: None, state, selected: 0, parts: 0, parts_present: 0, counts });
        }
        Err(error) => return Err(error),
    };
    let (run_seq, selected, parts) = (Some(plan.run_seq), plan.rows, plan.parts);
    if let Some(published) = store.record::<Published>(&published_path(&run))? {
        let (state, counts) = (State::Published, published.counts);
        return Ok(RunStatus { run, run_seq, state, selected, parts, parts_present: published.parts, counts });
    }
    let mut counts = Counts::default();
    let present = present_parts(store, &run)?;
    for &part in &present {
        counts.add(&part_summary(store, &part_path(&run, part))?.counts);
    }
    let parts_present = present.len() as u64;
    Ok(RunStatus { run, run_seq, state: State::Unfinished, selected, parts, parts_present, counts })
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            return writeln!(f, "no runs");
        }
        let width = self.runs.iter().map(|run| run.run.len()).max().unwrap_or(0).max("run".len());
        writeln!(
            f,
            "{:width$}  seq  state       {:>13}  {:>10}  {:>10}  {:>10}",
            "run", "parts", "rows", "ok", "failed"
        )?;
        for run in &self.runs {
            let state = match run.state {
                State::Published => "published",
                State::Unfinished => "unfinished",
                State::Unplanned => "unplanned",
            };
            let seq = run.run_seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            let parts = format!("{} of {}", run.parts_present, run.parts);
            let counts = &run.counts;
            writeln!(
                f,
                "{:width$}  {seq:>3}  {state:10}  {parts:>13}  {:>10}  {:>10}  {:>10}",
                run.run, counts.rows, counts.ok, counts.failed
            )?;
        }
        let mut failures = Counts::default();
        self.runs.iter().for_each(|run| failures.add(&run.counts));
        if !failures.failures.is_empty() {
            writeln!(f, "\nfailed rows by kind, over all runs:")?;
            for (kind, count) in &failures.failures {
                writeln!(f, "  {kind:22} {count:>10}")?;
            }
        }
        Ok(())
    }
}
