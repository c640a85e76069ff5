//! Heartbeats: which unfinished runs a process is working on right now.
//!
//! A process puts a small record every 15 seconds and removes it when it ends. Its age is measured by the storage's clock, so
//! the clocks of the machines do not matter. The claim of the process that plans a run for
//! others (see `plan::planner`) is such a record too; it stays, and says how planning ended.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::store::OutputStore;
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

/// A process, identified among all processes of all machines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// The machine's name.
    pub host: String,
    /// The machine's current boot; None where the operating system does not tell.
    pub boot: Option<String>,
    /// The PID namespace: containers of one machine may share everything else.
    pub pid_namespace: Option<String>,
    /// Process number.
    pub pid: u32,
    /// When it started, in the kernel's clock ticks since boot.
    pub started: Option<u64>,
}

impl Worker {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        let pid = std::process::id();
        Self { host: host(), boot: boot(), pid_namespace: pid_namespace(), pid, started: started(pid) }
    }

    /// Whether this process has certainly ended: it ran on this machine since its last boot and does not exist any more.
    fn is_gone(&self) -> bool {
        let here = self.host == host()
            && (self.boot.is_some() && self.boot == boot())
            && (self.pid_namespace.is_some() && self.pid_namespace == pid_namespace());
        here && self.started.is_some() && started(self.pid) != self.started
    }

    fn path(&self, run: &str) -> String {
        let name: String = self.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let started = self.started.unwrap_or(0);
        format!("{}/{HEARTBEAT}{name}-{}-{started}", run_folder(run), self.pid)
    }
}

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
    /// None: the process is working as long as the record is fresh.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended: Option<Ended>,
}

impl Beat {
    /// That of this process.
    #[must_use]
    pub fn this() -> Self {
        Self { worker: Worker::this(), ended: None }
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
    pub fn is_over(&self) -> bool {
        self.ended.is_some() || self.worker.is_gone()
    }
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

/// Another process that is working on `run`, if there is one.
///
/// # Errors
/// [`OutputError::Store`].
pub fn alive(store: &OutputStore, run: &str) -> Result<Option<Worker>, OutputError> {
    let this = Worker::this();
    for name in store.files(&run_folder(run))?.iter().filter(|name| is_heartbeat(name)) {
        let path = format!("{}/{name}", run_folder(run));
        let Some(beat) = Beat::read(store, &path)?.filter(|beat| !beat.is_over() && beat.worker != this) else {
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

/// Renews the record of a heartbeat from a thread of its own until it is dropped.
pub struct Heartbeat {
    /// How the record says that the work ended; None: the record is removed at the end.
    ended: Option<Ended>,
    stop: Option<Sender<Option<Ended>>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Puts the heartbeat of this process on `run`, which is removed in the end.
    ///
    /// # Errors
    /// [`OutputError::Store`] when the first one cannot be put.
    pub fn start(store: &OutputStore, run: &str) -> Result<Self, OutputError> {
        let (store, beat) = (store.with_timeout(PUT_TIMEOUT)?, Beat::this());
        let path = beat.worker.path(run);
        store.put_over(&path, super::json(&beat, &path)?)?;
        Ok(Self::renew(store, path, beat, None))
    }

    /// Renews the planning claim of this process at `path`, which was put already. In the end it says that planning failed,
    /// unless [`Heartbeat::end`] says otherwise.
    ///
    /// # Errors
    /// When OUTPUT cannot be opened another time.
    pub fn of_planner(store: &OutputStore, path: String) -> Result<Self, OutputError> {
        Ok(Self::renew(store.with_timeout(PUT_TIMEOUT)?, path, Beat::this(), Some(Ended::Failed)))
    }

    /// Ends it, and says how the work ended.
    pub fn end(mut self, ended: Ended) {
        self.ended = Some(ended);
    }

    fn renew(store: OutputStore, path: String, beat: Beat, ended: Option<Ended>) -> Self {
        let (stop, stopped) = channel();
        let beats = move || {
            let put = |beat: &Beat| super::json(beat, &path).and_then(|record| store.put_over(&path, record));
            let ended = loop {
                match stopped.recv_timeout(INTERVAL) {
                    Err(RecvTimeoutError::Timeout) => {
                        if let Err(error) = put(&beat) {
                            tracing::warn!(%error, "the heartbeat of this run could not be written");
                        }
                    }
                    Ok(ended) => break ended,
                    Err(RecvTimeoutError::Disconnected) => break None,
                }
            };
            // A record that cannot be removed or changed counts as dead after a minute.
            let _ = match ended {
                None => store.delete(&path),
                ended => put(&Beat { ended, ..beat }),
            };
        };
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beats);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for the heartbeat")).ok();
        Self { ended, stop: Some(stop), thread }
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        // Fails if the thread could not be started.
        let _ = self.stop.take().map(|stop| stop.send(self.ended));
        // The thread reports its own failures.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn host() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}

fn boot() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

fn pid_namespace() -> Option<String> {
    Some(std::fs::read_link("/proc/self/ns/pid").ok()?.display().to_string())
}

/// The start time of a process, the 22nd field of its `stat`; the second one, a name in brackets, may hold anything.
fn started(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, after_name) = stat.rsplit_once(')')?;
    after_name.split_whitespace().nth(19)?.parse().ok()
}
