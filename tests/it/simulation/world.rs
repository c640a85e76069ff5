//! The world of a simulation: one clock, the processes, and whose turn it is.
//!
//! Each process is a thread that runs the real code. Before each operation on the storage it waits for its turn; the scheduler
//! gives one turn at a time and waits until that process asks for the next one or has ended. So a seed determines everything.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use object_store::PutOptions;
use object_store::memory::InMemory;

use super::ledger::Ledger;
use super::random::Random;

/// How often a live process renews its heartbeats, as in `output::heartbeat`.
const BEAT: Duration = Duration::from_secs(15);

/// What a process waits to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Start,
    Sleep(Duration),
    Read(String),
    Put(String),
    Delete(String),
}

impl Operation {
    /// The time that it takes.
    pub fn time(&self) -> Duration {
        match self {
            Self::Sleep(pause) => *pause,
            _ => Duration::from_millis(20),
        }
    }
}

/// Whether an operation takes effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    Now,
    Never,
    /// The request is still on its way.
    Later,
}

/// What the process learns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    Real,
    Timeout,
    /// The process has crashed: it does nothing more.
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    pub effect: Effect,
    pub answer: Answer,
}

impl Verdict {
    pub const DO: Self = Self { effect: Effect::Now, answer: Answer::Real };
    pub const DEAD: Self = Self { effect: Effect::Never, answer: Answer::Crash };
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Phase {
    Waiting(Operation),
    Granted(Verdict),
    Running,
    Ended,
}

pub struct ProcessState {
    pub name: String,
    pub phase: Phase,
    pub crashed: bool,
    /// Suspended until that step of the scheduler.
    pub suspended: Option<u64>,
    random: Random,
    last_read: String,
}

/// A request of which nobody waits for the answer.
pub enum LateRequest {
    Put { name: String, path: String, bytes: Bytes, options: PutOptions },
    Delete { name: String, path: String },
}

type Action = Box<dyn FnMut() + Send>;

/// A heartbeat that a process renews.
struct Beat {
    process: usize,
    number: u64,
    action: Option<Action>,
}

pub struct State {
    pub now: Duration,
    last_beat: Duration,
    pub processes: Vec<ProcessState>,
    pub late: Vec<LateRequest>,
    beats: Vec<Beat>,
    next_beat: u64,
    /// When each object was put.
    pub modified: BTreeMap<String, Duration>,
    pub schedule: Vec<String>,
    pub ledger: Ledger,
}

pub struct World {
    state: Mutex<State>,
    changed: Condvar,
    pub objects: InMemory,
    seed: u64,
    /// Whether all processes are on one machine, where each knows which others have ended.
    pub one_machine: bool,
}

thread_local! {
    /// Whether this thread is the scheduler, whose operations need no turn.
    static SCHEDULER: Cell<bool> = const { Cell::new(false) };
}

impl World {
    /// A world without processes; this thread becomes its scheduler.
    pub fn new(seed: u64, one_machine: bool) -> Self {
        SCHEDULER.set(true);
        let state = State {
            now: Duration::ZERO,
            last_beat: Duration::ZERO,
            processes: Vec::new(),
            late: Vec::new(),
            beats: Vec::new(),
            next_beat: 0,
            modified: BTreeMap::new(),
            schedule: Vec::new(),
            ledger: Ledger::default(),
        };
        Self { state: Mutex::new(state), changed: Condvar::new(), objects: InMemory::new(), seed, one_machine }
    }

    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Adds a process, which waits for its start unless the scheduler itself runs it.
    pub fn add(&self, command: &str) -> usize {
        let mut state = self.lock();
        let process = state.processes.len();
        let random = Random::new(self.seed ^ (process as u64 + 1).wrapping_mul(0x0123_4567_89ab_cdef));
        state.processes.push(ProcessState {
            name: format!("P{process} {command}"),
            phase: Phase::Running,
            crashed: false,
            suspended: None,
            random,
            last_read: String::new(),
        });
        process
    }

    /// Whether `process` goes on to read the object that it read last: a part is read in many pieces, which need no turns.
    pub fn reads_on(&self, process: usize, path: &str) -> bool {
        let mut state = self.lock();
        let process = &mut state.processes[process];
        let same = path.ends_with(".parquet") && !process.crashed && process.last_read == path;
        path.clone_into(&mut process.last_read);
        same
    }

    /// Waits for the turn of `process`.
    pub fn turn(&self, process: usize, operation: Operation) -> Verdict {
        let mut state = self.lock();
        if state.processes[process].crashed {
            return Verdict::DEAD;
        }
        if !matches!(operation, Operation::Read(_)) {
            state.processes[process].last_read.clear();
        }
        if SCHEDULER.get() {
            drop(state);
            self.advance(operation.time());
            return Verdict::DO;
        }
        state.processes[process].phase = Phase::Waiting(operation);
        self.changed.notify_all();
        loop {
            if let Phase::Granted(verdict) = state.processes[process].phase {
                state.processes[process].phase = Phase::Running;
                return verdict;
            }
            state = self.changed.wait(state).unwrap();
        }
    }

    /// The process has ended.
    pub fn end(&self, process: usize, how: &str) {
        let mut state = self.lock();
        let name = state.processes[process].name.clone();
        let how = if state.processes[process].crashed { "crashed" } else { how };
        state.note(&name, &format!("ends: {how}"));
        state.processes[process].phase = Phase::Ended;
        self.changed.notify_all();
    }

    /// Gives a turn.
    pub fn grant(&self, process: usize, verdict: Verdict) {
        let mut state = self.lock();
        state.processes[process].phase = Phase::Granted(verdict);
        if verdict.answer == Answer::Crash {
            state.processes[process].crashed = true;
            state.beats.retain(|beat| beat.process != process);
        }
        drop(state);
        self.changed.notify_all();
        self.settle();
    }

    /// Waits until every process waits for a turn or has ended.
    pub fn settle(&self) {
        let mut state = self.lock();
        while state.processes.iter().any(|process| matches!(process.phase, Phase::Granted(_) | Phase::Running)) {
            state = self.changed.wait(state).unwrap();
        }
    }

    /// Lets time pass: processes that run renew their heartbeats.
    pub fn advance(&self, time: Duration) {
        let mut state = self.lock();
        state.now += time;
        if state.now.saturating_sub(state.last_beat) < BEAT {
            return;
        }
        state.last_beat = state.now;
        let due: Vec<u64> = state
            .beats
            .iter()
            .filter(|beat| state.processes[beat.process].suspended.is_none())
            .map(|beat| beat.number)
            .collect();
        drop(state);
        for number in due {
            let find = |state: &mut State| state.beats.iter().position(|beat| beat.number == number);
            let mut state = self.lock();
            let Some(mut action) = find(&mut state).and_then(|at| state.beats[at].action.take()) else { continue };
            drop(state);
            action();
            let mut state = self.lock();
            if let Some(at) = find(&mut state) {
                state.beats[at].action = Some(action);
            }
        }
    }

    pub fn repeat(&self, process: usize, action: Action) -> u64 {
        let mut state = self.lock();
        let number = state.next_beat;
        state.next_beat += 1;
        state.beats.push(Beat { process, number, action: Some(action) });
        number
    }

    pub fn end_beat(&self, number: u64) {
        let ended: Vec<Beat> = self.lock().beats.extract_if(.., |beat| beat.number == number).collect();
        drop(ended);
    }

    pub fn random(&self, process: usize) -> u64 {
        self.lock().processes[process].random.number()
    }
}

impl State {
    /// Writes a line of the schedule.
    pub fn note(&mut self, who: &str, what: &str) {
        let line = format!("{:>10.2} s  {who}: {what}", self.now.as_secs_f64());
        self.schedule.push(line);
    }
}
