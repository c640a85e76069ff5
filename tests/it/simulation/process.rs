//! A process of a simulation, as the product sees the one it runs in.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use nightcap::output::process::{Process, Repeating};
use nightcap::output::worker::Worker;

use super::storage::date;
use super::world::{Operation, Phase, Verdict, World};

/// The shortest simulated sleep: a process that waits asks often, and each time is a turn.
const LONG_ENOUGH: Duration = Duration::from_secs(5);

pub struct SimulatedProcess {
    pub world: Arc<World>,
    pub process: usize,
    /// The hours that a crashed process believes to have slept, so that no loop of it is endless.
    pub after_death: AtomicU64,
}

impl fmt::Debug for SimulatedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "simulated process {}", self.process)
    }
}

impl Process for SimulatedProcess {
    fn worker(&self) -> Worker {
        Worker {
            host: "simulation".to_owned(),
            boot: None,
            pid_namespace: None,
            pid: self.process as u32,
            started: Some(self.process as u64),
        }
    }

    fn is_gone(&self, other: &Worker) -> bool {
        let state = self.world.lock();
        let gone = |process: &super::world::ProcessState| process.crashed || process.phase == Phase::Ended;
        self.world.one_machine && state.processes.get(other.pid as usize).is_some_and(gone)
    }

    fn now(&self) -> DateTime<Utc> {
        date(self.world.lock().now)
    }

    fn elapsed(&self) -> Duration {
        let state = self.world.lock();
        if state.processes[self.process].crashed {
            return Duration::from_hours(1_000_000 + self.after_death.fetch_add(1, Ordering::Relaxed));
        }
        state.now
    }

    fn random(&self) -> u64 {
        self.world.random(self.process)
    }

    fn sleep(&self, pause: Duration) {
        let pause = pause.max(LONG_ENOUGH);
        // The scheduler lets the time pass.
        let verdict = self.world.turn(self.process, Operation::Sleep(pause));
        debug_assert!(verdict == Verdict::DO || verdict.answer == super::world::Answer::Crash);
    }

    fn repeat(&self, _: Duration, action: Box<dyn FnMut() + Send>) -> Box<dyn Repeating> {
        Box::new(Beating { world: self.world.clone(), number: self.world.repeat(self.process, action) })
    }
}

struct Beating {
    world: Arc<World>,
    number: u64,
}

impl Repeating for Beating {}

impl Drop for Beating {
    fn drop(&mut self) {
        self.world.end_beat(self.number);
    }
}
