//! Heartbeats: which unfinished runs a process is working on right now.
//!
//! A process puts a small record every 15 seconds and removes it when it ends. Its age is measured by the storage's clock, so
//! the clocks of the machines do not matter. The claim of the process that plans a run for
//! others (see `plan::planner`) is such a record too; it stays, and says how planning ended.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::process::Repeating;
use super::store::OutputStore;
use super::worker::Worker;
use super::{OutputError, run_folder};
use crate::support::failpoint::heartbeat_freshness;

/// How often a process shows that it is alive.
const INTERVAL: Duration = Duration::from_secs(15);
/// The process of a heartbeat older than this counts as dead: it was killed or is suspended.
const FRESH: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
/// The longest that one attempt to put a heartbeat may take; with another attempt, still less than the interval.
const PUT_TIMEOUT: Duration = Duration::from_secs(5);
/// An object that is put to read the clock of the storage.
const CLOCK: &str = "_nightcap/clock";
/// The prefix of heartbeat names.
const HEARTBEAT: &str = "heartbeat-";
/// The prefix of planning claim names.
const PLANNER: &str = "planner-";

/// How the work behind a heartbeat ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Ended {
    /// With success.
    Done,
    /// With an error.
    Failed,
}

/// The record of a heartbeat or a planning claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beat {
    /// The process that put it.
    #[serde(flatten)]
    pub worker: Worker,
    /// Which parts it makes: those whose number divided by the second one leaves the first one; None: it makes no parts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shard: Option<(u64, u64)>,
    /// None: the process is working as long as the record is fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl Beat {
    /// That of the process that uses `store`.
    #[must_use]
    pub fn this(store: &OutputStore) -> Self {
        Self { worker: store.process().worker(), shard: None, ended: None }
    }

    /// Reads the record at `path`; None when it is gone, or damaged: then it is no heartbeat.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn read(store: &OutputStore, path: &str) -> Result<Option<Self>, OutputError> {
        Ok(store.get(path)?.and_then(|bytes| serde_json::from_slice(&bytes).ok()))
    }

    /// Whether the work has certainly ended, as far as the record and the processes of this machine say.
    #[must_use]
    pub fn is_over(&self, store: &OutputStore) -> bool {
        self.ended.is_some() || store.process().is_gone(&self.worker)
    }
}

/// The path of the heartbeat of `worker` on `run`.
fn heartbeat_path(worker: &Worker, run: &str) -> String {
    let name: String = worker.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let started = worker.started.unwrap_or(0);
    format!("{}/{HEARTBEAT}{name}-{}-{started}", run_folder(run), worker.pid)
}

/// The path of the `number`th planning claim of `run`.
#[must_use]
pub fn planner_path(run: &str, number: u32) -> String {
    format!("{}/{PLANNER}{number:06}", run_folder(run))
}

/// The number of a planning claim, from its name in the run's folder.
#[must_use]
pub fn planner_number(name: &str) -> Option<u32> {
    name.strip_prefix(PLANNER)?.parse().ok()
}

/// Whether a record of this name is a heartbeat or a planning claim.
#[must_use]
pub fn is_heartbeat(name: &str) -> bool {
    name.starts_with(HEARTBEAT) || name.starts_with(PLANNER)
}

/// Whether the record at `path` was put within the last minute, by the storage's clock.
///
/// # Errors
/// [`OutputError::Store`].
pub fn is_fresh(store: &OutputStore, path: &str) -> Result<bool, OutputError> {
    store.put_over(CLOCK, "")?;
    let (now, beat) = (store.modified(CLOCK)?, store.modified(path)?);
    Ok(now.zip(beat).is_some_and(|(now, beat)| (now - beat).abs() < heartbeat_freshness(FRESH)))
}

/// How long ago the record at `path` was put, by the storage's clock; None when it is gone.
///
/// # Errors
/// [`OutputError::Store`].
pub fn age(store: &OutputStore, path: &str) -> Result<Option<Duration>, OutputError> {
    store.put_over(CLOCK, "")?;
    let (now, put) = (store.modified(CLOCK)?, store.modified(path)?);
    Ok(now.zip(put).map(|(now, put)| (now - put).to_std().unwrap_or_default()))
}

/// The heartbeats of the processes that make parts of `run`, or did so until they were killed; each with its age by the storage's clock,
/// and whether the process is alive.
///
/// # Errors
/// [`OutputError::Store`].
pub fn workers(store: &OutputStore, run: &str) -> Result<Vec<(Beat, Duration, bool)>, OutputError> {
    store.put_over(CLOCK, "")?;
    let Some(now) = store.modified(CLOCK)? else { return Ok(Vec::new()) };
    let mut workers = Vec::new();
    for name in store.files(&run_folder(run))?.iter().filter(|name| name.starts_with(HEARTBEAT)) {
        let path = format!("{}/{name}", run_folder(run));
        let Some(beat) = Beat::read(store, &path)?.filter(|beat| beat.shard.is_some()) else { continue };
        let Some(put) = store.modified(&path)? else { continue };
        let is_alive = !beat.is_over(store) && (now - put).abs() < heartbeat_freshness(FRESH);
        workers.push((beat, (now - put).to_std().unwrap_or_default(), is_alive));
    }
    Ok(workers)
}

/// Another process that is working on `run`, if there is one.
///
/// # Errors
/// [`OutputError::Store`].
pub fn alive(store: &OutputStore, run: &str) -> Result<Option<Worker>, OutputError> {
    let this = store.process().worker();
    for name in store.files(&run_folder(run))?.iter().filter(|name| is_heartbeat(name)) {
        let path = format!("{}/{name}", run_folder(run));
        let Some(beat) = Beat::read(store, &path)?.filter(|beat| !beat.is_over(store) && beat.worker != this) else {
            continue;
        };
        if is_fresh(store, &path)? {
            return Ok(Some(beat.worker));
        }
    }
    Ok(None)
}

/// Refuses to change a run that another process is working on.
///
/// # Errors
/// [`OutputError::Alive`], and [`OutputError::Store`].
pub fn refuse_alive(store: &OutputStore, run: &str) -> Result<(), OutputError> {
    match alive(store, run)? {
        Some(worker) => Err(OutputError::Alive { run: run.to_owned(), host: worker.host, pid: worker.pid }),
        None => Ok(()),
    }
}

/// Renews the record of a heartbeat until it is dropped.
pub struct Heartbeat {
    store: Arc<OutputStore>,
    path: String,
    beat: Box<Beat>,
    /// How the record says that the work ended; None: the record is removed at the end.
    ended: Option<Ended>,
    renewal: Option<Box<dyn Repeating>>,
}

impl Heartbeat {
    /// Puts the heartbeat of this process on `run`, which is removed in the end.
    ///
    /// # Errors
    /// [`OutputError::Store`] when the first one cannot be put.
    pub fn start(store: &OutputStore, run: &str) -> Result<Self, OutputError> {
        Self::put_first(store, run, Beat::this(store))
    }

    /// The same, of a process that makes the parts of shard `shard.0` of `shard.1`.
    ///
    /// # Errors
    /// [`OutputError::Store`] when the first one cannot be put.
    pub fn of_shard(store: &OutputStore, run: &str, shard: (u64, u64)) -> Result<Self, OutputError> {
        Self::put_first(store, run, Beat { shard: Some(shard), ..Beat::this(store) })
    }

    fn put_first(store: &OutputStore, run: &str, beat: Beat) -> Result<Self, OutputError> {
        let (store, path) = (store.with_timeout(PUT_TIMEOUT)?, heartbeat_path(&beat.worker, run));
        store.put_over(&path, super::json(&beat, &path)?)?;
        Ok(Self::renew(store, path, beat, None))
    }

    /// Renews the planning claim of this process at `path`, which was put already. In the end it says that planning failed,
    /// unless [`Heartbeat::end`] says otherwise.
    ///
    /// # Errors
    /// When OUTPUT cannot be opened another time.
    pub fn of_planner(store: &OutputStore, path: String) -> Result<Self, OutputError> {
        Ok(Self::renew(store.with_timeout(PUT_TIMEOUT)?, path, Beat::this(store), Some(Ended::Failed)))
    }

    /// Ends it, and says how the work ended.
    pub fn end(mut self, ended: Ended) {
        self.ended = Some(ended);
    }

    fn renew(store: OutputStore, path: String, beat: Beat, ended: Option<Ended>) -> Self {
        let store = Arc::new(store);
        let put = {
            let (store, path, beat) = (store.clone(), path.clone(), beat.clone());
            move || {
                if let Err(error) = put(&store, &path, &beat) {
                    tracing::warn!(%error, "the heartbeat of this run could not be written");
                }
            }
        };
        let renewal = Some(store.process().repeat(INTERVAL, Box::new(put)));
        Self { store, path, beat: Box::new(beat), ended, renewal }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // From here on it is not renewed.
        self.renewal = None;
        // A record that cannot be removed or changed counts as dead after a minute.
        let _ = match self.ended {
            None => self.store.delete(&self.path),
            ended => put(&self.store, &self.path, &Beat { ended, ..(*self.beat).clone() }),
        };
    }
}

fn put(store: &OutputStore, path: &str, beat: &Beat) -> Result<(), OutputError> {
    store.put_over(path, super::json(beat, path)?)
}
