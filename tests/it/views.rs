//! What users see of an OUTPUT: the rows of the documented views, in `DuckDB` and in Polars, beside the records of its runs.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde::Deserialize;
use serde_json::json;

use crate::common::repo;
use crate::documents::views;

/// A row of a view: key, `run_seq`, status, caption.
pub type Row = (String, i64, String, Option<String>);

/// A Python that answers one question after the other, since starting one takes longer than the answers.
pub struct Readers {
    questions: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    process: Child,
}

/// What readers see at one moment.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Seen {
    /// Run, key and `run_seq` of every published row.
    published: Vec<(String, String, i64)>,
    /// The newest row of each key.
    pub newest: Vec<Row>,
    last_good: Vec<Row>,
    /// The rows in the parts of each run.
    parts: BTreeMap<String, u64>,
    problem: Option<String>,
    /// The record of each published run.
    #[serde(skip)]
    records: BTreeMap<String, Record>,
}

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Record {
    rows: u64,
    #[serde(default)]
    supersedes: Vec<String>,
}

impl Readers {
    /// Of the Python that has the readers.
    pub fn start(python: &str) -> Self {
        let mut process = Command::new(python)
            .arg(repo("tests/readers/views.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(process.stdout.take().unwrap());
        Self { questions: process.stdin.take(), answers, process }
    }

    /// What is to be seen of the OUTPUT in `folder`.
    pub fn look(&mut self, folder: &Path) -> Seen {
        let here = |language: &str| views(language).replace("out/sample", folder.to_str().unwrap());
        let question = json!({ "folder": folder, "sql": here("sql"), "python": here("python") });
        writeln!(self.questions.as_mut().unwrap(), "{question}").unwrap();
        let mut answer = String::new();
        assert_ne!(self.answers.read_line(&mut answer).unwrap(), 0, "the readers have ended");
        let mut seen: Seen = serde_json::from_str(&answer).unwrap();
        seen.records = records(folder);
        seen
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        self.questions = None;
        let _ = self.process.wait();
    }
}

fn records(folder: &Path) -> BTreeMap<String, Record> {
    let Ok(entries) = std::fs::read_dir(folder.join("_nightcap/published")) else { return BTreeMap::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    // A killed put may leave its staging file, `name.json#1`.
    let paths = paths.filter(|path| path.extension().is_some_and(|extension| extension == "json"));
    paths
        .map(|path| {
            let run = path.file_stem().unwrap().to_str().unwrap().to_owned();
            (run, serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap())
        })
        .collect()
}

impl Seen {
    /// What is wrong at this moment: each published row has to be readable, once.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<String> = self.problem.iter().cloned().collect();
        let replaced: BTreeSet<&String> = self.records.values().flat_map(|record| &record.supersedes).collect();
        let mut viewed: BTreeMap<&str, u64> = BTreeMap::new();
        for (run, ..) in &self.published {
            *viewed.entry(run).or_default() += 1;
        }
        for (run, record) in &self.records {
            let (expected, found) =
                (if replaced.contains(run) { 0 } else { record.rows }, viewed.remove(run.as_str()).unwrap_or(0));
            if found != expected {
                faults.push(format!("run {run}: the view `published` has {found} rows, not {expected}"));
            }
            let found = self.parts.get(run).copied().unwrap_or(0);
            if !replaced.contains(run) && found != record.rows {
                faults.push(format!("run {run}: its record says {} rows, its parts have {found}", record.rows));
            }
        }
        faults.extend(viewed.iter().map(|(run, rows)| format!("run {run}: {rows} rows in the view without a record")));
        let rows: BTreeSet<_> = self.published.iter().map(|(_, key, seq)| (key, seq)).collect();
        if rows.len() != self.published.len() {
            faults.push(format!("{} of {} rows come twice", self.published.len() - rows.len(), self.published.len()));
        }
        let keys: BTreeSet<_> = self.newest.iter().map(|row| &row.0).collect();
        if keys.len() != self.newest.len() {
            faults.push("a key has two newest rows".to_owned());
        }
        faults
    }

    /// What was to be seen at an earlier moment, and is neither to be seen now nor replaced by something newer.
    pub fn lost_since(&self, earlier: &Self) -> Vec<String> {
        let lost = |name: &str, now: &[Row], then: &[Row]| {
            let now: BTreeMap<&String, i64> = now.iter().map(|row| (&row.0, row.1)).collect();
            let lost: Vec<&String> =
                then.iter().filter(|row| now.get(&row.0).is_none_or(|seq| *seq < row.1)).map(|row| &row.0).collect();
            (!lost.is_empty()).then(|| format!("{} rows of the view `{name}` are lost: {lost:?}", lost.len()))
        };
        let changed = earlier.records.iter().filter_map(|(run, record)| {
            let now = self.records.get(run)?;
            (now != record).then(|| format!("the record of run {run} has changed"))
        });
        lost("newest", &self.newest, &earlier.newest)
            .into_iter()
            .chain(lost("last_good", &self.last_good, &earlier.last_good))
            .chain(changed)
            .collect()
    }

    /// The newest caption of each key.
    pub fn captions(&self) -> BTreeMap<String, Option<String>> {
        self.newest.iter().map(|(key, _, _, caption)| (key.clone(), caption.clone())).collect()
    }

    /// How many runs are published.
    pub fn runs(&self) -> usize {
        self.records.len()
    }
}
