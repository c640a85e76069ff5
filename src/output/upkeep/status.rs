//! `nightcap status`: the runs of an OUTPUT, from their records and part footers; records that cannot be read are findings.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::check::{Finding, check_run};
use crate::output::heartbeat::alive;
use crate::output::part::footer::{part_summary, wrong_part};
use crate::output::part::reader::read_part;
use crate::output::publish::finalize::check_part;
use crate::output::publish::repair::repair_hint;
use crate::output::records::outcome::{Outcome, outcome, outcome_path};
use crate::output::records::plan::{Plan, load_plan};
use crate::output::records::published::{NO_RUN_ID, Published, load_published, present_parts, runs_with_records};
use crate::output::records::run_id::is_run_id;
use crate::output::store::OutputStore;
use crate::output::worker::Worker;
use crate::output::{OutputError, part_path, plan_path, published_path};
use crate::support::counts::Counts;

/// Characters of an odd folder's path in a finding.
const LONGEST_SHOWN: usize = 200;

/// The state of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Complete and visible to readers that ask for published runs.
    Published,
    /// Published with the parts that were finished when it was closed.
    Partial,
    /// Its rows are in a newer run, which `compact` made; a later `compact` removes it.
    Superseded,
    /// It does not count; the next `compact` removes what is left of it.
    Discarded,
    /// It is decided that it is published, but its published record is not there yet. The next run or `finalize` puts it, unless a part
    /// or record was damaged in between: then a finding says what to do.
    Closing,
    /// Some parts are missing, or finalize has not run.
    Unfinished,
    /// A compaction that is not published, which the next `compact` finishes or removes.
    Compacting,
    /// It has no plan: it is being planned, or the process that planned it was killed.
    Unplanned,
}

impl State {
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::Published => "published",
            Self::Partial => "partial",
            Self::Superseded => "superseded",
            Self::Discarded => "discarded",
            Self::Closing => "closing",
            Self::Unfinished => "unfinished",
            Self::Compacting => "compacting",
            Self::Unplanned => "unplanned",
        }
    }
}

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct RunStatus {
    /// The run id.
    pub run: String,
    /// As in the parts; None without a plan.
    pub run_seq: Option<i64>,
    /// Its state.
    pub state: State,
    /// The process that is working on it; None also when that cannot be known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub alive: Option<Worker>,
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
pub struct OutputStatus {
    /// The runs.
    pub runs: Vec<RunStatus>,
    /// Damaged records and parts, and files that do not belong there.
    pub findings: Vec<Finding>,
}

impl OutputStatus {
    /// Reads the records, and for unfinished and closing runs the footers of the parts that are there; with `check` also every part of
    /// every run that counts or is to be published.
    ///
    /// # Errors
    /// [`OutputError::Store`] when OUTPUT cannot be listed.
    pub fn read(store: &OutputStore, check: bool) -> Result<Self, OutputError> {
        let mut reader =
            Reader { store, check, published: BTreeMap::new(), superseded: BTreeSet::new(), findings: Vec::new() };
        reader.read_published()?;
        let odd = reader.odd_folders()?;
        let mut names = runs_with_records(store)?;
        names.extend(reader.published.keys().cloned());
        names.extend(
            store
                .folders("")?
                .iter()
                .filter_map(|name| name.strip_prefix("run="))
                .filter(|run| is_run_id(run))
                .map(str::to_owned),
        );
        let names: BTreeSet<String> = names.into_iter().filter(|run| !odd.contains(run)).collect();
        let mut runs = names.iter().map(|run| reader.read_run(run)).collect::<Result<Vec<_>, _>>()?;
        // A run without a number has no plan; it is listed last.
        runs.sort_by_key(|run| run.run_seq.unwrap_or(i64::MAX));
        let Reader { published, superseded, mut findings, .. } = reader;
        let whole = |run: &&Published| check && !superseded.contains(&run.run) && !odd.contains(&run.run);
        for run in published.values().filter(whole) {
            check_run(store, run, &mut findings)?;
        }
        Ok(Self { runs, findings })
    }
}

struct Reader<'a> {
    store: &'a OutputStore,
    /// Whether all rows are read.
    check: bool,
    published: BTreeMap<String, Published>,
    superseded: BTreeSet<String>,
    findings: Vec<Finding>,
}

impl Reader<'_> {
    fn read_published(&mut self) -> Result<(), OutputError> {
        for name in self.store.files("_nightcap/published")? {
            let Some(run) = name.strip_suffix(".json") else { continue };
            let path = published_path(run);
            match load_published(self.store, run) {
                Ok(Some(published)) => {
                    self.superseded.extend(published.supersedes.iter().cloned());
                    self.published.insert(run.to_owned(), published);
                }
                Ok(None) => {}
                Err(error) => {
                    let hint = format!(
                        "put it back from a backup, or remove it and `nightcap finalize OUTPUT --run-id {run}`"
                    );
                    self.findings.push(Finding::new(&path, &error, hint));
                }
            }
        }
        Ok(())
    }

    /// Reports folders in which no run can be: of other names, and links. The ids of runs whose folders are links.
    fn odd_folders(&mut self) -> Result<BTreeSet<String>, OutputError> {
        let mut links = BTreeSet::new();
        for (above, prefix) in [("_nightcap/runs", ""), ("", "run=")] {
            for name in self.store.folders(above)? {
                let Some(run) = name.strip_prefix(prefix) else { continue };
                let path = if above.is_empty() { name.clone() } else { format!("{above}/{name}") };
                let hint = "move it away: nightcap has not made it, and does nothing to it";
                if !is_run_id(run) {
                    let shown: String = path.escape_debug().take(LONGEST_SHOWN).collect();
                    self.findings.push(Finding::new(&shown, &NO_RUN_ID, hint));
                } else if self.store.is_link(&path) {
                    links.insert(run.to_owned());
                    self.findings.push(Finding::new(
                        &path,
                        &"it is a link, through which nothing is read or removed",
                        hint,
                    ));
                }
            }
        }
        Ok(links)
    }

    fn read_run(&mut self, run: &str) -> Result<RunStatus, OutputError> {
        let path = plan_path(run);
        let superseded = self.superseded.contains(run);
        let plan = match load_plan(self.store, run) {
            Ok(plan) => Some(plan),
            Err(OutputError::NoSuchRun { .. }) => None,
            Err(error) => {
                let is_open = matches!(outcome(self.store, run), Ok(None | Some(Outcome::Discarded)));
                let hint = if is_open {
                    format!(
                        "put it back from a backup; or remove the run with `nightcap discard OUTPUT --run-id {run}`: the next run makes its rows again"
                    )
                } else if self.published.contains_key(run) {
                    "put it back from a backup".to_owned()
                } else {
                    repair_hint(self.store, run, &error)
                };
                self.findings.push(Finding::new(&path, &error, hint));
                None
            }
        };
        let (run_seq, selected, parts) =
            plan.as_ref().map_or((None, 0, 0), |plan| (Some(plan.run_seq), plan.rows, plan.parts));
        let blank = RunStatus {
            run: run.to_owned(),
            run_seq,
            state: State::Unplanned,
            alive: None,
            selected,
            parts,
            parts_present: 0,
            counts: Counts::default(),
        };
        if let Some(published) = self.published.get(run) {
            let state = match (superseded, &published.partial) {
                (true, _) => State::Superseded,
                (false, Some(_)) => State::Partial,
                (false, None) => State::Published,
            };
            if plan.is_none() && !superseded && self.findings.iter().all(|finding| finding.path != path) {
                self.findings.push(Finding::new(&path, &"it is missing", "put it back from a backup"));
            }
            let (run_seq, parts_present) = (Some(published.run_seq), published.parts);
            return Ok(RunStatus { run_seq, state, parts_present, counts: published.counts.clone(), ..blank });
        }
        if superseded {
            return Ok(RunStatus { state: State::Superseded, ..blank });
        }
        let decided = outcome(self.store, run).unwrap_or_else(|error| {
            self.findings.push(Finding::new(&outcome_path(run), &error, "put it back from a backup"));
            None
        });
        match (decided, &plan) {
            (Some(Outcome::Discarded), _) => {
                let parts_present = present_parts(self.store, run)?.len() as u64;
                return Ok(RunStatus { state: State::Discarded, parts_present, ..blank });
            }
            (Some(outcome), Some(plan)) => {
                let (parts_present, counts) = self.read_closing(plan, outcome)?;
                return Ok(RunStatus { state: State::Closing, parts_present, counts, ..blank });
            }
            (Some(_), None) => return Ok(RunStatus { state: State::Closing, ..blank }),
            (None, _) => {}
        }
        // Asking OUTPUT for the time needs write access.
        let alive = alive(self.store, run).unwrap_or_else(|error| {
            tracing::warn!(run, %error, "cannot tell whether a process is working on this run");
            None
        });
        let Some(plan) = plan else { return Ok(RunStatus { alive, ..blank }) };
        let state = if plan.supersedes.is_empty() { State::Unfinished } else { State::Compacting };
        let present = present_parts(self.store, run)?;
        let mut counts = Counts::default();
        for &part in &present {
            let path = part_path(run, part);
            match part_summary(self.store, &path) {
                Ok(summary) => counts.add(&summary.counts),
                Err(error) => {
                    let hint = "remove it, and run the job again with the same --run-id";
                    self.findings.push(Finding::new(&path, &error, hint));
                }
            }
        }
        Ok(RunStatus { state, alive, parts_present: present.len() as u64, counts, ..blank })
    }

    /// Reads the parts of a run that waits for its published record: how many there are, and their rows. What is wrong with one, so that
    /// the record cannot be put, is a finding.
    fn read_closing(&mut self, plan: &Plan, outcome: Outcome) -> Result<(u64, Counts), OutputError> {
        let present = present_parts(self.store, &plan.run)?;
        let missing = (0..plan.parts).find(|part| outcome == Outcome::Published && !present.contains(part));
        let mut counts = Counts::default();
        for part in present.iter().copied().chain(missing) {
            let path = part_path(&plan.run, part);
            match self.read_closing_part(plan, part, &path) {
                Ok(found) => counts.add(&found),
                Err(error) => {
                    let hint = repair_hint(self.store, &plan.run, &error);
                    self.findings.push(Finding::new(&path, &error, hint));
                }
            }
        }
        Ok((present.len() as u64, counts))
    }

    fn read_closing_part(&self, plan: &Plan, part: u64, path: &str) -> Result<Counts, OutputError> {
        let summary = part_summary(self.store, path)?;
        if summary.is_filler {
            return Ok(Counts::default());
        }
        check_part(plan, part, path, &summary)?;
        if self.check {
            for batch in read_part(self.store, path, None)? {
                batch.map_err(|error| wrong_part(path, &error))?;
            }
        }
        Ok(summary.counts)
    }
}

impl fmt::Display for OutputStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            writeln!(f, "no runs")?;
        } else {
            self.write_runs(f)?;
        }
        for Finding { path, found, hint } in &self.findings {
            writeln!(f, "\n{path}: {found}\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl OutputStatus {
    fn write_runs(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.runs.iter().map(|run| run.run.len()).max().unwrap_or(0).max("run".len());
        writeln!(
            f,
            "{:width$}  seq  state       {:>13}  {:>10}  {:>10}  {:>10}",
            "run", "parts", "rows", "ok", "failed"
        )?;
        for run in &self.runs {
            let seq = run.run_seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
            let parts = format!("{} of {}", run.parts_present, run.parts);
            let (state, counts) = (run.state.as_str(), &run.counts);
            write!(
                f,
                "{:width$}  {seq:>3}  {state:10}  {parts:>13}  {:>10}  {:>10}  {:>10}",
                run.run, counts.rows, counts.ok, counts.failed
            )?;
            match &run.alive {
                Some(worker) => writeln!(f, "  alive: process {} on {}", worker.pid, worker.host)?,
                None => writeln!(f)?,
            }
        }
        let mut failures = Counts::default();
        let counting = self.runs.iter().filter(|run| run.state != State::Superseded);
        counting.for_each(|run| failures.add(&run.counts));
        if !failures.failures.is_empty() {
            writeln!(f, "\nfailed rows by kind, over all runs:")?;
            for (kind, count) in &failures.failures {
                writeln!(f, "  {kind:22} {count:>10}")?;
            }
        }
        Ok(())
    }
}
