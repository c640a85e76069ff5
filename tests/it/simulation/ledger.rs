//! What must hold after every single change of OUTPUT, checked by an independent reading of its objects: nothing here calls
//! nightcap.
//!
//! The documented views (docs/queries.md) are the rows of every part in the folder of a published run that no other published run
//! supersedes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use arrow::array::{AsArray, RecordBatch};
use arrow::datatypes::Int64Type;
use bytes::Bytes;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

/// A promise that was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Broken {
    /// A published run has fewer rows in its folder than its record says.
    RowsMissing,
    /// A published run has more rows in its folder than its record says: readers count them.
    RowsExtra,
    /// A row is in the views twice.
    RowTwice,
    /// The newest published row of a key is no longer readable.
    RowLost,
    /// The newest row of a key that did not fail is no longer readable.
    LastGoodLost,
    /// A record that other processes rely on was changed.
    RecordChanged,
    /// An outcome vanished.
    OutcomeGone,
    /// Planning cannot read a published run: its plan or index is gone.
    RecordGone,
    /// A part was removed before it was decided how its run ends.
    RemovedUndecided,
    /// A part of a replaced run was removed while a query that had begun before could still read it.
    RemovedTooSoon,
    /// Two commands reported that one run ended in different ways.
    Contradiction,
    /// A command reported an end of a run that its outcome does not say.
    NotDecided,
    /// A reader found a file gone that it had just listed.
    ReaderLost,
    /// A calm run at the end did not succeed.
    RunFails,
    /// A row of the manifest is missing in the views at the end, or not up to date.
    NotUpToDate,
    /// `status --check` finds something at the end.
    CheckFinds,
    /// A compaction at the end failed.
    CompactFails,
}

#[derive(Debug, Clone)]
pub struct Fault {
    pub kind: Broken,
    pub what: String,
    /// Lines of the schedule before it.
    pub step: usize,
}

/// A row of a part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerRow {
    pub key: String,
    pub run_seq: i64,
    pub ok: bool,
    pub text: String,
}

/// The objects of OUTPUT, and what was seen of them before.
#[derive(Default)]
pub struct Ledger {
    objects: BTreeMap<String, Bytes>,
    rows: BTreeMap<String, Vec<LedgerRow>>,
    /// The `run_seq` of the newest row of each key that was ever readable, and the one of the newest that did not fail.
    newest: BTreeMap<String, i64>,
    last_good: BTreeMap<String, i64>,
    /// Runs that were published at some time.
    ever: BTreeSet<String>,
    /// When each run was replaced by a compaction.
    replaced: BTreeMap<String, Duration>,
    pub faults: Vec<Fault>,
    reported: BTreeSet<(Broken, String)>,
}

impl Ledger {
    pub fn fault(&mut self, kind: Broken, subject: &str, what: String, step: usize) {
        if self.reported.insert((kind, subject.to_owned())) {
            self.faults.push(Fault { kind, what, step });
        }
    }

    /// An object was put.
    pub fn put(&mut self, path: &str, bytes: &Bytes, renewed: bool, now: Duration, step: usize) {
        let before = self.objects.insert(path.to_owned(), bytes.clone());
        if before.is_some_and(|before| before != *bytes) && !renewed {
            self.fault(Broken::RecordChanged, path, format!("{path} was overwritten"), step);
        }
        if path.starts_with("run=") {
            self.rows.insert(path.to_owned(), read_rows(bytes));
        }
        if path.starts_with("_nightcap/published/") {
            for run in superseded(&serde_json::from_slice(bytes).unwrap()) {
                self.replaced.entry(run).or_insert(now);
            }
        }
        self.check(path, step);
    }

    /// An object was removed, if it was there.
    pub fn delete(&mut self, path: &str, now: Duration, step: usize) {
        if self.objects.remove(path).is_none() {
            return;
        }
        self.rows.remove(path);
        if path.starts_with("_nightcap/outcomes/") {
            self.fault(Broken::OutcomeGone, path, format!("{path} was removed"), step);
        }
        if let Some(run) = path.strip_prefix("run=").and_then(|rest| rest.split('/').next()) {
            self.check_removal(path, run, now, step);
        }
        self.check(path, step);
    }

    /// A part may be removed when it is decided that its run does not count, or when another has replaced it long enough.
    fn check_removal(&mut self, path: &str, run: &str, now: Duration, step: usize) {
        match self.outcome(run).as_deref() {
            Some("discarded") => {}
            None => {
                let what = format!("{path} was removed before the end of the run was decided");
                self.fault(Broken::RemovedUndecided, run, what, step);
            }
            Some(_) => {
                if self.replaced.get(run).is_none_or(|since| now.saturating_sub(*since) < GRACE) {
                    let what =
                        format!("{path} was removed too soon, the run was replaced at {:?}", self.replaced.get(run));
                    self.fault(Broken::RemovedTooSoon, run, what, step);
                }
            }
        }
    }

    /// What was decided about the end of `run`.
    pub fn outcome(&self, run: &str) -> Option<String> {
        let record = self.objects.get(&format!("_nightcap/outcomes/{run}.json"))?;
        let record: Value = serde_json::from_slice(record).unwrap();
        record["outcome"].as_str().map(str::to_owned)
    }

    /// The published records whose runs count, by run.
    pub fn counting(&self) -> BTreeMap<String, Value> {
        let records = self.objects.range("_nightcap/published/".to_owned()..);
        let records = records.take_while(|(path, _)| path.starts_with("_nightcap/published/"));
        let records = records.map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).unwrap());
        let mut counting: BTreeMap<String, Value> =
            records.map(|record| (record["run"].as_str().unwrap().to_owned(), record)).collect();
        for run in counting.values().flat_map(superseded).collect::<Vec<_>>() {
            counting.remove(&run);
        }
        counting
    }

    /// The rows in the folder of `run`.
    pub fn rows_of(&self, run: &str) -> Vec<LedgerRow> {
        let folder = format!("run={run}/");
        let parts = self.rows.range(folder.clone()..).take_while(|(path, _)| path.starts_with(&folder));
        parts.flat_map(|(_, rows)| rows.iter().cloned()).collect()
    }

    /// The newest row of each key in the views.
    pub fn newest(&self) -> BTreeMap<String, LedgerRow> {
        let mut newest: BTreeMap<String, LedgerRow> = BTreeMap::new();
        for row in self.counting().keys().flat_map(|run| self.rows_of(run)) {
            let known = newest.entry(row.key.clone()).or_insert_with(|| row.clone());
            if known.run_seq < row.run_seq {
                *known = row;
            }
        }
        newest
    }

    /// Whether `run` was published at some time.
    pub fn counted(&self, run: &str) -> bool {
        self.ever.contains(run)
    }

    fn check(&mut self, changed: &str, step: usize) {
        if !changed.starts_with("run=") && !changed.starts_with("_nightcap/published/") {
            self.check_records(step);
            return;
        }
        let counting = self.counting();
        let (mut view, mut seen) = (Vec::new(), BTreeSet::new());
        self.ever.extend(counting.keys().cloned());
        for (run, record) in &counting {
            let rows = self.rows_of(run);
            let (found, expected) = (rows.len() as u64, record["rows"].as_u64().unwrap());
            if found != expected {
                let kind = if found < expected { Broken::RowsMissing } else { Broken::RowsExtra };
                let what = format!("run {run} is published with {expected} rows, its folder holds {found}");
                self.fault(kind, run, what, step);
            }
            view.extend(rows);
        }
        let (mut newest, mut last_good) = (BTreeMap::new(), BTreeMap::new());
        for row in &view {
            if !seen.insert((row.key.clone(), row.run_seq)) {
                let what = format!("the row of {} and run_seq {} is in the views twice", row.key, row.run_seq);
                self.fault(Broken::RowTwice, &row.key, what, step);
            }
            for (kept, of) in [(&mut newest, true), (&mut last_good, row.ok)] {
                if of {
                    let best = kept.entry(row.key.clone()).or_insert(row.run_seq);
                    *best = row.run_seq.max(*best);
                }
            }
        }
        let lost = |kept: &BTreeMap<String, i64>, now: &BTreeMap<String, i64>| {
            let lost = kept.iter().find(|(key, seq)| now.get(*key).is_none_or(|now| now < *seq));
            lost.map(|(key, seq)| (key.clone(), *seq))
        };
        for (kind, kept, now) in
            [(Broken::RowLost, &self.newest, &newest), (Broken::LastGoodLost, &self.last_good, &last_good)]
        {
            if let Some((key, seq)) = lost(kept, now) {
                let what = format!("the row of {key} and run_seq {seq} was readable and is not any more ({kind:?})");
                if self.reported.insert((kind, String::new())) {
                    self.faults.push(Fault { kind, what, step });
                }
                break;
            }
        }
        for (kept, now) in [(&mut self.newest, newest), (&mut self.last_good, last_good)] {
            for (key, seq) in now {
                let best = kept.entry(key).or_insert(seq);
                *best = seq.max(*best);
            }
        }
        self.check_records(step);
    }

    /// What planning reads of published runs must be there.
    fn check_records(&mut self, step: usize) {
        for (run, record) in self.counting() {
            let index = record["index"].as_str().unwrap();
            for name in ["plan.json", index] {
                let path = format!("_nightcap/runs/{run}/{name}");
                if !self.objects.contains_key(&path) {
                    self.fault(Broken::RecordGone, &path, format!("{path} of a published run is gone"), step);
                }
            }
        }
    }
}

/// How long the parts of a replaced run stay for queries that have begun.
pub const GRACE: Duration = Duration::from_hours(1);

fn superseded(record: &Value) -> Vec<String> {
    let runs = record["supersedes"].as_array().into_iter().flatten();
    runs.map(|run| run.as_str().unwrap().to_owned()).collect()
}

/// The rows of a part.
pub fn read_rows(bytes: &Bytes) -> Vec<LedgerRow> {
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes.clone()).unwrap().build().unwrap();
    let rows = reader.map(Result::unwrap).flat_map(|batch: RecordBatch| {
        let text = |name: &str| batch.column_by_name(name).unwrap().as_string::<i32>().clone();
        let (keys, texts, status) = (text("id"), text("text"), text("status"));
        let seqs = batch.column_by_name("run_seq").unwrap().as_primitive::<Int64Type>().clone();
        (0..batch.num_rows()).map(move |row| LedgerRow {
            key: keys.value(row).to_owned(),
            run_seq: seqs.value(row),
            ok: status.value(row) == "ok",
            text: texts.value(row).to_owned(),
        })
    });
    rows.collect()
}
