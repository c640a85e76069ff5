//! `nightcap status --watch`: the shards of the runs that are not finished, from the heartbeats of the processes that make them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::Serialize;

use super::status::{OutputStatus, RunStatus, State};
use crate::output::OutputError;
use crate::output::heartbeat::workers;
use crate::output::records::published::present_parts;
use crate::output::store::OutputStore;

/// The process of a shard.
#[derive(Debug, Clone, Serialize)]
pub struct ShardWorker {
    /// Its machine.
    pub host: String,
    /// Its process number.
    pub pid: u32,
    /// How long ago it has shown that it is alive, in seconds.
    pub heartbeat_age_s: u64,
    /// Whether that is recent enough; if not, it was killed or is suspended.
    pub alive: bool,
}

/// One shard of a run.
#[derive(Debug, Clone, Serialize)]
pub struct ShardStatus {
    /// Its number.
    pub index: u64,
    /// Shards.
    pub count: u64,
    /// Parts that it is to make.
    pub parts: u64,
    /// Parts of these that are there.
    pub parts_present: u64,
    /// Its newest process; None: it has none, or the last one has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker: Option<ShardWorker>,
}

/// An unfinished run.
#[derive(Debug, Clone, Serialize)]
pub struct WatchedRun {
    /// The run.
    #[serde(flatten)]
    pub status: RunStatus,
    /// Its shards, as far as heartbeats tell how many there are.
    pub shards: Vec<ShardStatus>,
}

/// The unfinished runs of an OUTPUT.
#[derive(Debug, Clone, Serialize)]
pub struct Watched {
    /// The runs, oldest first.
    pub runs: Vec<WatchedRun>,
}

impl Watched {
    /// Reads the records of OUTPUT, and the heartbeats of unfinished runs.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn read(store: &OutputStore) -> Result<Self, OutputError> {
        let is_open = |run: &RunStatus| {
            matches!(run.state, State::Closing | State::Unfinished | State::Compacting | State::Unplanned)
        };
        let runs = OutputStatus::read(store, false)?.runs.into_iter().filter(is_open);
        let watched = |status: RunStatus| {
            let shards = shards(store, &status)?;
            Ok(WatchedRun { status, shards })
        };
        Ok(Self { runs: runs.map(watched).collect::<Result<_, _>>()? })
    }
}

/// The shards of `run`. A shard without a heartbeat has ended, has not started, or was killed together with its machine's records.
fn shards(store: &OutputStore, run: &RunStatus) -> Result<Vec<ShardStatus>, OutputError> {
    let present = present_parts(store, &run.run)?;
    let mut newest: BTreeMap<(u64, u64), ShardWorker> = BTreeMap::new();
    for (beat, age, alive) in workers(store, &run.run)? {
        let (Some((index, count)), heartbeat_age_s) =
            (beat.shard.filter(|(index, count)| index < count), age.as_secs())
        else {
            continue;
        };
        let worker = ShardWorker { host: beat.worker.host, pid: beat.worker.pid, heartbeat_age_s, alive };
        let is_newer =
            |known: &ShardWorker| (worker.alive, known.heartbeat_age_s) > (known.alive, worker.heartbeat_age_s);
        if newest.get(&(count, index)).is_none_or(is_newer) {
            newest.insert((count, index), worker);
        }
    }
    // Records may be damaged: a count is believed up to the number of parts.
    let counts: BTreeSet<u64> =
        newest.keys().map(|(count, _)| *count).filter(|count| *count <= run.parts.max(1)).collect();
    let shard = |count: u64, index: u64| ShardStatus {
        index,
        count,
        parts: (run.parts + count - 1 - index) / count,
        parts_present: present.iter().filter(|part| **part < run.parts && **part % count == index).count() as u64,
        worker: newest.get(&(count, index)).cloned(),
    };
    Ok(counts
        .into_iter()
        .flat_map(|count| (0..count).map(move |index| (count, index)))
        .map(|(count, index)| shard(count, index))
        .collect())
}

impl fmt::Display for Watched {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.runs.is_empty() {
            return writeln!(f, "no run is unfinished");
        }
        for WatchedRun { status, shards } in &self.runs {
            let counts = &status.counts;
            writeln!(
                f,
                "run {}: {}, {} of {} parts, {} rows ok, {} failed",
                status.run,
                status.state.as_str(),
                status.parts_present,
                status.parts,
                counts.ok,
                counts.failed
            )?;
            if shards.is_empty() {
                writeln!(f, "  no process has a heartbeat on it")?;
            }
            for shard in shards {
                let name = format!("{}/{}", shard.index, shard.count);
                let parts = format!("{} of {} parts", shard.parts_present, shard.parts);
                writeln!(f, "  shard {name:>9}  {parts:>22}  {}", Shown(shard))?;
            }
        }
        Ok(())
    }
}

/// What the process of a shard does.
struct Shown<'a>(&'a ShardStatus);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShardStatus { parts, parts_present, worker, .. } = self.0;
        match worker {
            Some(ShardWorker { host, pid, heartbeat_age_s, alive: true }) => {
                write!(f, "working: {host}, process {pid}, heartbeat {heartbeat_age_s} s ago")
            }
            Some(ShardWorker { host, pid, heartbeat_age_s, alive: false }) => {
                write!(f, "dead: {host}, process {pid}, last heartbeat {heartbeat_age_s} s ago; start it again")
            }
            None if parts_present >= parts => write!(f, "done"),
            None => write!(f, "no process"),
        }
    }
}
