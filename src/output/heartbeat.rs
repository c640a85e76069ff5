//! Heartbeats: which unfinished runs somebody is working on right now.
//!
//! Each worker puts a small record every 15 seconds and removes it when it ends. Age is judged by the storage's own clock, so
//! that clocks which differ between machines, or go backwards, do not matter.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::store::OutputStore;
use super::{OutputError, run_folder};

/// How often a worker shows that it lives.
const BEAT: Duration = Duration::from_secs(15);
/// A heartbeat older than this is a dead worker's.
const FRESH: chrono::TimeDelta = chrono::TimeDelta::seconds(60);
/// The longest that one attempt to put a beat may take; with another attempt, still less than the time between beats.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);
/// Put to ask the storage for the time.
const CLOCK: &str = "_nightcap/clock";

/// Who is at work: a process that started when the machine had been up so long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Worker {
    /// The machine's name.
    pub host: String,
    /// The machine's current boot; None where the operating system does not tell.
    pub boot: Option<String>,
    /// Within which process numbers mean something: containers of one machine may share everything else.
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

    /// Whether this worker is certainly gone: of this machine's current boot, and no longer among its processes.
    fn is_gone(&self) -> bool {
        let here = self.host == host()
            && (self.boot.is_some() && self.boot == boot())
            && (self.pid_namespace.is_some() && self.pid_namespace == pid_namespace());
        here && self.started.is_some() && started(self.pid) != self.started
    }

    fn path(&self, run: &str) -> String {
        let name: String = self.host.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let started = self.started.unwrap_or(0);
        format!("{}/heartbeat-{name}-{}-{started}", run_folder(run), self.pid)
    }
}

/// The worker that is at work on `run`, if there is one besides this process.
///
/// # Errors
/// [`OutputError::Store`].
pub fn alive(store: &OutputStore, run: &str) -> Result<Option<Worker>, OutputError> {
    let this = Worker::this();
    for name in store.files(&run_folder(run))? {
        if !name.starts_with("heartbeat-") {
            continue;
        }
        let path = format!("{}/{name}", run_folder(run));
        // One that is gone or half written is of a worker that has just ended, or of nobody.
        let Some(worker) = store.get(&path)?.and_then(|bytes| serde_json::from_slice::<Worker>(&bytes).ok()) else {
            continue;
        };
        if worker == this || worker.is_gone() {
            continue;
        }
        store.put_over(CLOCK, "")?;
        let (Some(now), Some(beat)) = (store.modified(CLOCK)?, store.modified(&path)?) else { continue };
        if (now - beat).abs() < FRESH {
            return Ok(Some(worker));
        }
    }
    Ok(None)
}

/// Keeps the heartbeat of one run going until it is dropped.
pub struct Heartbeat {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Heartbeat {
    /// Puts the first beat, then one every 15 seconds from a thread of its own.
    ///
    /// # Errors
    /// [`OutputError::Store`] when the first one cannot be put.
    pub fn start(store: &OutputStore, run: &str) -> Result<Self, OutputError> {
        let store = store.for_heartbeats()?;
        let worker = Worker::this();
        let path = worker.path(run);
        let record = super::json(&worker, &path)?;
        store.put_over(&path, record.clone())?;
        let (stop, stopped) = channel();
        let beat = move || {
            while stopped.recv_timeout(BEAT) == Err(RecvTimeoutError::Timeout) {
                if let Err(error) = store.put_over(&path, record.clone()) {
                    tracing::warn!(%error, "the heartbeat of this run could not be written");
                }
            }
            // What cannot be removed grows old by itself.
            let _ = store.delete(&path);
        };
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(beat);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for the heartbeat")).ok();
        Ok(Self { stop: Some(stop), thread })
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        drop(self.stop.take());
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
