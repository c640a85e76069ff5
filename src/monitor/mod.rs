//! What an operator's tools are told about a command while it runs and when it ends. In: the counters of the run, the exit status.
//! Out: a file of metrics for Prometheus, and pings to a dead man's switch. Never here: anything that changes how the command ends.
//!
//! Both are written by a thread of their own, so that a slow disk or network does not hold up the run.

mod exposition;
mod metrics_file;
mod observed;
mod ping;

use std::path::PathBuf;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use self::metrics_file::MetricsFile;
use self::observed::Observed;
pub use self::observed::RunProgress;
use self::ping::Pings;
pub use self::ping::{PingUrl, ping_url};
use crate::support::counts::Counts;
use crate::support::nvidia_smi;

/// How often the file is written while the command runs: scrapes are that far apart as a rule.
const INTERVAL: Duration = Duration::from_secs(15);

/// What is watched, and who is told.
#[derive(Debug, Default)]
pub struct MonitorSettings {
    /// The command's name, a label of every metric.
    pub command: &'static str,
    /// The job file or OUTPUT as the user has named it, a label of every metric.
    pub source: String,
    /// As in `0/4`, a label of every metric; empty: all parts.
    pub shard: String,
    /// The file of metrics.
    pub metrics_file: Option<PathBuf>,
    /// The dead man's switch.
    pub ping: Option<PingUrl>,
}

/// The monitor of one command; without a file and without pings it does nothing.
#[derive(Default)]
pub struct Monitor(Option<Running>);

struct Running {
    observed: Arc<Mutex<Observed>>,
    ended: Sender<()>,
    thread: JoinHandle<()>,
}

impl Monitor {
    /// Writes the file for the first time, and starts the thread that writes it again and sends the pings.
    ///
    /// # Errors
    /// A message, when the file cannot be written or a thread not be started.
    pub fn start(settings: MonitorSettings) -> Result<Self, String> {
        let MonitorSettings { command, source, shard, metrics_file, ping } = settings;
        if metrics_file.is_none() && ping.is_none() {
            return Ok(Self::default());
        }
        let observed = Observed {
            started_at: SystemTime::now(),
            started: Instant::now(),
            status: None,
            run: None,
            gpus: Vec::new(),
        };
        let labels = [("command", command.to_owned()), ("source", source), ("shard", shard)];
        let mut file = metrics_file.map(|path| MetricsFile::new(path, labels)).transpose()?;
        if let Some(file) = &mut file {
            file.write(&observed)?;
        }
        let mut pings = ping.map(Pings::new).transpose()?;
        let observed = Arc::new(Mutex::new(observed));
        let (ended, end) = mpsc::channel();
        let shared = observed.clone();
        let work = move || {
            pings.iter_mut().for_each(Pings::started);
            let mut gpus_answer = true;
            let mut rewrite = |file: &mut MetricsFile| {
                let mut seen = lock(&shared).clone();
                if gpus_answer && seen.run.as_ref().is_some_and(|run| run.uses_gpus) {
                    seen.gpus = nvidia_smi::memory();
                    gpus_answer = !seen.gpus.is_empty();
                }
                file.write(&seen).unwrap_or_else(|error| file.warn_once(&error));
            };
            while end.recv_timeout(INTERVAL) == Err(RecvTimeoutError::Timeout) {
                file.iter_mut().for_each(&mut rewrite);
            }
            file.iter_mut().for_each(rewrite);
            if let (Some(pings), Some(status)) = (&mut pings, lock(&shared).status) {
                pings.ended(status);
            }
        };
        let thread = std::thread::Builder::new().name("monitor".to_owned()).spawn(work);
        let thread = thread.map_err(|error| format!("cannot start the thread that writes the metrics: {error}"))?;
        Ok(Self(Some(Running { observed, ended, thread })))
    }

    /// Says which run the command works on from now on.
    pub fn observe(&self, run: RunProgress) {
        if let Some(running) = &self.0 {
            lock(&running.observed).run = Some(run);
        }
    }

    /// Says how the rows of the run ended.
    pub fn published(&self, run: &str, parts: u64, counts: &Counts) {
        if let Some(running) = &self.0 {
            let mut observed = lock(&running.observed);
            let run = RunProgress {
                run: run.to_owned(),
                planned_rows: counts.rows,
                planned_parts: parts,
                ..RunProgress::default()
            };
            observed.run.get_or_insert(run).published = Some(counts.clone());
        }
    }

    /// Tells everybody how the command ended, and waits until they are told.
    pub fn finish(self, status: u8) {
        let Some(Running { observed, ended, thread }) = self.0 else { return };
        lock(&observed).status = Some(status);
        drop(ended);
        if thread.join().is_err() {
            tracing::warn!("the monitor failed; the metrics file or the last ping may be missing");
        }
    }
}

/// The value behind a lock; a thread that panicked has left it whole, since every change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
