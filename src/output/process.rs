//! What the use of an OUTPUT takes from the process around it, besides storage: a name among processes, time, random numbers.
//!
//! [`OperatingSystem`] is the process that nightcap runs in. Another [`Process`] lets one program hold several workers of one
//! OUTPUT, each with a name and a clock of its own.

use std::fmt::Debug;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use chrono::{DateTime, Utc};

use super::worker::Worker;
use crate::support::clock::utc;

/// A process, as the code that reads and changes an OUTPUT sees the one it runs in.
pub trait Process: Debug + Send + Sync {
    /// Its name, which no other process has.
    fn worker(&self) -> Worker;

    /// Whether another process has certainly ended; false when it cannot be known.
    fn is_gone(&self, other: &Worker) -> bool;

    /// The time for records and run ids. Nothing is decided by it.
    fn now(&self) -> DateTime<Utc>;

    /// The time since an arbitrary moment; it never goes back.
    fn elapsed(&self) -> Duration;

    /// A random number.
    fn random(&self) -> u64;

    /// Blocks the calling thread.
    fn sleep(&self, pause: Duration);

    /// Calls `action` again and again, each time after `interval`, as long as what it returns is not dropped. After the drop
    /// `action` neither runs nor is called.
    fn repeat(&self, interval: Duration, action: Box<dyn FnMut() + Send>) -> Box<dyn Repeating>;
}

/// Something that is repeated until this is dropped.
pub trait Repeating: Send {}

/// The process that nightcap runs in.
#[derive(Debug)]
pub struct OperatingSystem {
    worker: Worker,
    started: Instant,
}

impl OperatingSystem {
    /// This process.
    #[must_use]
    pub fn this() -> Self {
        Self { worker: Worker::this(), started: Instant::now() }
    }
}

impl Process for OperatingSystem {
    fn worker(&self) -> Worker {
        self.worker.clone()
    }

    fn is_gone(&self, other: &Worker) -> bool {
        other.is_gone()
    }

    fn now(&self) -> DateTime<Utc> {
        utc(SystemTime::now())
    }

    fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    fn random(&self) -> u64 {
        // The keys of each state are random and differ.
        RandomState::new().build_hasher().finish()
    }

    fn sleep(&self, pause: Duration) {
        std::thread::sleep(pause);
    }

    fn repeat(&self, interval: Duration, mut action: Box<dyn FnMut() + Send>) -> Box<dyn Repeating> {
        let (stop, stopped) = channel::<()>();
        let repeat = move || {
            while stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                action();
            }
        };
        let thread = std::thread::Builder::new().name("heartbeat".to_owned()).spawn(repeat);
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "no thread for the heartbeat")).ok();
        Box::new(RepeatingThread { stop: Some(stop), thread })
    }
}

/// A thread that repeats an action.
struct RepeatingThread {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Repeating for RepeatingThread {}

impl Drop for RepeatingThread {
    fn drop(&mut self) {
        self.stop = None;
        // The action reports its own failures.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}
