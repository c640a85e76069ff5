//! The commands that meet in a simulation, as `nightcap::commands` runs them, but without a model and its arguments.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nightcap::output::OutputError;
use nightcap::output::format::check_format;
use nightcap::output::heartbeat::{Heartbeat, refuse_alive};
use nightcap::output::part::commit::commit_part;
use nightcap::output::publish::finalize::{complete, finalize, finalize_partial};
use nightcap::output::published_path;
use nightcap::output::records::outcome::outcome;
use nightcap::output::records::plan::load_plan;
use nightcap::output::records::published::{Published, present_parts};
use nightcap::output::store::OutputStore;
use nightcap::output::upkeep::compact::{CompactOutcome, CompactRequest, compact};
use nightcap::output::upkeep::discard::discard;
use nightcap::output::upkeep::status::OutputStatus;
use nightcap::plan::PlanError;
use nightcap::plan::claim::{Claim, claim};
use nightcap::plan::shard::Shard;
use nightcap::storage::{Cloud, Location};

use super::ledger::{GRACE, read_rows};
use super::nights::Night;
use super::process::SimulatedProcess;
use super::storage::SimulatedStorage;
use super::world::World;

/// A command with its arguments.
#[derive(Clone, Copy)]
pub enum Command {
    Run {
        night: &'static Night,
        id: Option<&'static str>,
    },
    Shard {
        night: &'static Night,
        id: &'static str,
        index: u64,
        count: u64,
    },
    Finalize {
        id: &'static str,
    },
    Close {
        id: &'static str,
    },
    Discard {
        id: &'static str,
    },
    Compact {
        id: Option<&'static str>,
    },
    Status,
    /// A reader with the views of docs/queries.md.
    Read,
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { night, id: None } => write!(f, "run night{}", night.number),
            Self::Run { night, id: Some(id) } => write!(f, "run night{} --run-id {id}", night.number),
            Self::Shard { night, id, index, count } => {
                write!(f, "run night{} --run-id {id} --shard {index}/{count}", night.number)
            }
            Self::Finalize { id } => write!(f, "finalize {id}"),
            Self::Close { id } => write!(f, "finalize {id} --partial"),
            Self::Discard { id } => write!(f, "discard {id}"),
            Self::Compact { id: None } => write!(f, "compact"),
            Self::Compact { id: Some(id) } => write!(f, "compact --run-id {id}"),
            Self::Status => write!(f, "status"),
            Self::Read => write!(f, "read"),
        }
    }
}

/// How a command ended that exits with 0.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    Published(String),
    /// Published with some of its parts.
    Closed(String),
    Discarded(String),
    Nothing,
    /// Of a reader: what it did not find of what it had listed.
    Lost(String),
    /// A report of `status --check` with findings.
    Findings(String),
}

/// OUTPUT, as `process` sees it.
pub fn output(world: &Arc<World>, process: usize) -> OutputStore {
    let storage = SimulatedStorage { world: world.clone(), process };
    let location = Location::Object { cloud: Cloud::S3, bucket: "simulation".to_owned(), key: "out".to_owned() };
    let process = SimulatedProcess { world: world.clone(), process, after_death: 0.into() };
    OutputStore::over(Arc::new(storage), location, Arc::new(process), 2).unwrap()
}

/// Runs `command` to its end.
pub fn execute(command: Command, store: &OutputStore) -> Result<Ending, PlanError> {
    check_format(store)?;
    match command {
        Command::Run { night, id } => run(store, night, id, None),
        Command::Shard { night, id, index, count } => run(store, night, Some(id), Some(Shard { index, count })),
        Command::Finalize { id } => {
            plan_of(store, id)?;
            let _heartbeat = Heartbeat::start(store, id)?;
            Ok(published(finalize(store, id)?))
        }
        Command::Close { id } => {
            plan_of(store, id)?;
            let _heartbeat = Heartbeat::start(store, id)?;
            refuse_alive(store, id)?;
            let closed = finalize_partial(store, id)?.ok_or_else(|| OutputError::NoParts { run: id.to_owned() })?;
            Ok(published(closed))
        }
        Command::Discard { id } => {
            discard(store, id)?;
            Ok(Ending::Discarded(id.to_owned()))
        }
        Command::Compact { id } => {
            let request = CompactRequest { keep: None, run: id.map(str::to_owned), grace: Duration::from_hours(1) };
            match compact(store, &request, &|| false)? {
                CompactOutcome::Compacted(compaction) => Ok(published(compaction.published)),
                CompactOutcome::Nothing(_) | CompactOutcome::Stopped => Ok(Ending::Nothing),
            }
        }
        Command::Status => {
            let status = OutputStatus::read(store, true)?;
            if status.findings.is_empty() { Ok(Ending::Nothing) } else { Ok(Ending::Findings(status.to_string())) }
        }
        Command::Read => read(store),
    }
}

/// As `nightcap finalize` begins.
fn plan_of(store: &OutputStore, id: &str) -> Result<(), OutputError> {
    if let Some(outcome) = outcome(store, id)? {
        complete(store, id, outcome)?;
    }
    load_plan(store, id).map(drop)
}

fn published(published: Published) -> Ending {
    if published.partial.is_some() { Ending::Closed(published.run) } else { Ending::Published(published.run) }
}

fn run(store: &OutputStore, night: &Night, id: Option<&str>, shard: Option<Shard>) -> Result<Ending, PlanError> {
    let draft = night.draft(shard.is_some());
    let claimed = match claim(store, &draft, id, &|| false)? {
        Claim::Stopped => return Ok(Ending::Nothing),
        Claim::Run(claimed) => claimed,
        Claim::Plan(new_run) => {
            let decision = night.decide(store)?;
            if decision.selection.rows() == 0 && shard.is_none() {
                return Ok(Ending::Nothing);
            }
            Box::new(new_run.put(store, &draft, decision, 1)?)
        }
    };
    let run = claimed.plan.run.as_str();
    if let Some(found) = store.record::<Published>(&published_path(run))? {
        return Ok(published(found.whole()?));
    }
    let _heartbeat = Heartbeat::start(store, run)?;
    let present = present_parts(store, run)?;
    let ours = shard.unwrap_or(Shard::WHOLE);
    let missing: BTreeSet<u64> =
        (0..claimed.plan.parts).filter(|part| ours.makes(*part) && !present.contains(part)).collect();
    let digest = claimed.plan.digest();
    for part in missing {
        let bytes = night.part(store, &claimed, part)?;
        commit_part(store, run, &digest, part, bytes)?;
    }
    if shard.is_some() {
        return Ok(Ending::Nothing);
    }
    Ok(published(finalize(store, run)?))
}

/// Lists the published records, then the parts of those that count, and reads them.
fn read(store: &OutputStore) -> Result<Ending, PlanError> {
    let begun = store.process().elapsed();
    // A query that takes longer than replaced parts stay may fail.
    let lost = |what: String| {
        if store.process().elapsed().saturating_sub(begun) < GRACE { Ending::Lost(what) } else { Ending::Nothing }
    };
    let mut records = Vec::new();
    for name in store.files("_nightcap/published")? {
        match store.record::<Published>(&format!("_nightcap/published/{name}"))? {
            Some(record) => records.push(record),
            None => return Ok(lost(format!("the published record {name}"))),
        }
    }
    let gone: BTreeSet<String> = records.iter().flat_map(|record| record.supersedes.clone()).collect();
    let mut listed = Vec::new();
    for record in records.iter().filter(|record| !gone.contains(&record.run)) {
        let folder = format!("run={}", record.run);
        listed.push((record, store.files(&folder)?.into_iter().map(|name| format!("{folder}/{name}")).collect()));
    }
    for (record, paths) in listed {
        let (mut rows, paths): (usize, Vec<String>) = (0, paths);
        for path in paths {
            match store.get(&path)? {
                Some(bytes) => rows += read_rows(&bytes).len(),
                None => return Ok(lost(path)),
            }
        }
        if rows as u64 != record.counts.rows {
            return Ok(lost(format!("{rows} of the {} rows of run {}", record.counts.rows, record.run)));
        }
    }
    Ok(Ending::Nothing)
}
