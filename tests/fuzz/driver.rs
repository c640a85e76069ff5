//! Runs the entry points on their corpora, on every input that once failed, and on inputs made of them.
//!
//! Each entry point runs in a process of its own with bounded memory, so that an abort, a stack overflow or an input without end is
//! seen as what it is: the process leaves the input at work in a file. An input that fails is made smaller and kept in
//! `target/fuzz/<target>`; the driver goes on behind it.
//!
//! `cargo test` runs the corpora and a fixed number of inputs; with `NIGHTCAP_FUZZ_MINUTES`, for all entry points together, as many as
//! there is time for. `NIGHTCAP_FUZZ_TARGET` names one of them. `make fuzz` sets both where there is no libFuzzer.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, setrlimit};
use tempfile::TempDir;

use super::mutate::{Random, mutate};
use super::{Outcome, TARGETS, Target, repo, scratch};

/// The test that all processes run.
const TEST: &str = "fuzz::driver::corpora_and_inputs_made_of_them_do_no_harm";
/// Inputs of each entry point in `cargo test`, beside the corpora.
const QUICK: u64 = 150;
/// The longest input.
const MOST_BYTES: usize = 1 << 16;
/// Address space of a process, threads and libraries included.
const ADDRESS_SPACE: u64 = 6 << 30;
/// Processor time of an input, in hundredths of a second: more is a finding.
const SLOW: u64 = 1_000;
/// Processor time and time after which the process is ended.
const STUCK: u64 = 3_000;
const STUCK_TIME: Duration = Duration::from_mins(10);
/// Findings after which an entry point is left.
const MOST_FINDINGS: usize = 40;
/// Attempts to make an input smaller.
const SMALLER: usize = 400;

/// What a child is asked to do; the environment carries it.
#[derive(Clone)]
struct Task {
    target: Target,
    /// Where it leaves its state and takes its inputs from.
    folder: PathBuf,
    seed: u64,
    /// Inputs of the corpora that are left out, because an earlier process has done them.
    skip: u64,
    /// Mutated inputs.
    inputs: u64,
    seconds: u64,
}

/// An input that failed, and how.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// What failed: the place of a panic, a signal, or a bound.
    kind: String,
    what: String,
    input: Vec<u8>,
}

#[test]
fn corpora_and_inputs_made_of_them_do_no_harm() {
    if let Some(task) = Task::of_this_process() {
        return child(task);
    }
    let number = |name: &str| variable(name).map(|text| text.parse::<f64>().expect("a number"));
    let only = variable("NIGHTCAP_FUZZ_TARGET").filter(|name| !name.is_empty());
    let targets: Vec<Target> =
        TARGETS.into_iter().filter(|target| only.as_deref().is_none_or(|only| only == target.name)).collect();
    assert!(!targets.is_empty(), "no target {only:?}; there are {}", TARGETS.map(|target| target.name).join(", "));
    let workers = std::thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    // A budget of time, from a place of its own, or the same inputs each time.
    let (seed, inputs, seconds) = match number("NIGHTCAP_FUZZ_MINUTES") {
        Some(minutes) => {
            let seconds = minutes * 60.0 * workers as f64 / targets.len() as f64;
            (std::process::id().into(), u64::MAX, seconds as u64)
        }
        None => (16, QUICK, 3600),
    };
    let seed = number("NIGHTCAP_FUZZ_SEED").map_or(seed, |seed| seed as u64);
    let queue = Mutex::new(targets);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                let next = || queue.lock().unwrap().pop();
                while let Some(target) = next() {
                    let folder = in_memory();
                    let task = Task { target, folder: folder.path().to_owned(), seed, skip: 0, inputs, seconds };
                    let (done, findings) = explore(task);
                    eprintln!("{}: {done} inputs, {} findings", target.name, findings.len());
                    let least = if inputs == QUICK { QUICK } else { 1 };
                    let few = (findings.is_empty() && done < least)
                        .then(|| format!("{}: expected at least {least} inputs, only {done} were run", target.name));
                    failed.lock().unwrap().extend(report(target, findings).into_iter().chain(few));
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}

impl Task {
    /// What this process was started for by [`start`]; None for that of the tests.
    fn of_this_process() -> Option<Self> {
        let name = variable("NIGHTCAP_FUZZ_CHILD")?;
        let number = |name: &str| variable(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Some(Self {
            target: Target::named(&name).expect("a target"),
            folder: variable("NIGHTCAP_FUZZ_FOLDER").expect("a folder").into(),
            seed: number("NIGHTCAP_FUZZ_SEED"),
            skip: number("NIGHTCAP_FUZZ_SKIP"),
            inputs: number("NIGHTCAP_FUZZ_INPUTS"),
            seconds: number("NIGHTCAP_FUZZ_SECONDS"),
        })
    }
}

/// The process that runs one entry point.
fn child(task: Task) {
    let limit = Rlimit { current: Some(ADDRESS_SPACE), maximum: Some(ADDRESS_SPACE) };
    setrlimit(Resource::As, limit).expect("a limit of memory");
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).expect("no core files");
    // As much stack as the main thread of a command has.
    let thread = std::thread::Builder::new().stack_size(8 << 20).spawn(move || Child::new(task).run());
    thread.expect("a thread").join().expect("the thread of the target");
}

/// A folder in memory, if there is one: on a disk, most of the time would go into making files durable.
fn in_memory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap_or_else(|_| scratch())
}

fn variable(name: &str) -> Option<String> {
    #[allow(clippy::disallowed_methods, reason = "tells the driver what to run")]
    std::env::var(name).ok()
}

/// Runs `task` in processes of its own until it is done. How many inputs were run, and those that failed.
fn explore(mut task: Task) -> (u64, Vec<Finding>) {
    let started = Instant::now();
    let (mut done, mut findings) = (0, BTreeMap::new());
    let seconds = task.seconds;
    loop {
        task.seconds = seconds.saturating_sub(started.elapsed().as_secs());
        let status = start(&task);
        let (ran, replayed) = progress(&task.folder);
        done += ran;
        for (kind, what, input) in left(&task.folder) {
            findings.entry(kind.clone()).or_insert(Finding { kind, what, input });
        }
        if status.success() {
            break;
        }
        let input = std::fs::read(task.folder.join("current")).unwrap_or_default();
        let kind = ended(status, &task.folder);
        if let std::collections::btree_map::Entry::Vacant(entry) = findings.entry(kind.clone()) {
            let input = smaller_in_children(&task, &kind, input);
            let read = |name: &str| std::fs::read_to_string(task.folder.join(name)).unwrap_or_default();
            let what = format!("the process ended: {kind}\n{}\n{}", read("log"), read("panic"));
            entry.insert(Finding { kind, what, input });
        }
        task.skip += replayed;
        task.seed = task.seed.wrapping_add(1_000_003);
        task.inputs = task.inputs.saturating_sub(ran.max(1));
        if findings.len() >= MOST_FINDINGS || task.inputs == 0 || started.elapsed().as_secs() >= seconds {
            break;
        }
    }
    (done, findings.into_values().collect())
}

/// Starts a process for `task` and waits for its end.
fn start(task: &Task) -> ExitStatus {
    for name in ["current", "progress", "verdict", "panic"] {
        let _ = std::fs::remove_file(task.folder.join(name));
    }
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["--exact", TEST, "--nocapture", "--test-threads=1"]);
    let values = [("SEED", task.seed), ("SKIP", task.skip), ("INPUTS", task.inputs), ("SECONDS", task.seconds)];
    command.envs(values.map(|(name, value)| (format!("NIGHTCAP_FUZZ_{name}"), value.to_string())));
    command
        .env("NIGHTCAP_FUZZ_CHILD", task.target.name)
        .env("NIGHTCAP_FUZZ_FOLDER", &task.folder)
        .env("TMPDIR", &task.folder);
    // One thread each, and memory that is given back when it is free, so that the memory of one input can be seen.
    command.env("POLARS_MAX_THREADS", "1").env("RAYON_NUM_THREADS", "1").env("MALLOC_ARENA_MAX", "1");
    command.env("MALLOC_MMAP_THRESHOLD_", "65536").env("MALLOC_TRIM_THRESHOLD_", "1048576");
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let log = std::fs::File::create(task.folder.join("log")).expect("a log");
    command.stderr(log).status().expect("a process")
}

/// How a process ended that should not have.
fn ended(status: ExitStatus, folder: &Path) -> String {
    use std::os::unix::process::ExitStatusExt;
    let verdict = std::fs::read_to_string(folder.join("verdict")).unwrap_or_default();
    let mut log = String::new();
    let read = std::fs::File::open(folder.join("log")).map(|log_file| log_file.take(1 << 20).read_to_string(&mut log));
    drop(read);
    let known = ["memory allocation of", "has overflowed its stack", "double free", "corrupted", "assertion"];
    let said = known.into_iter().find(|text| log.contains(text)).unwrap_or_default();
    let panic = std::fs::read_to_string(folder.join("panic")).unwrap_or_default();
    let said = if log.contains("non-unwinding") { panic.lines().next().unwrap_or_default() } else { said };
    match (verdict.as_str(), status.signal()) {
        ("", Some(signal)) => format!("signal {signal} {said}"),
        ("", None) => format!("exit status {:?} {said}", status.code()),
        (verdict, _) => verdict.to_owned(),
    }
}

/// How many inputs a process has run, and how many of them from the corpora.
fn progress(folder: &Path) -> (u64, u64) {
    let text = std::fs::read_to_string(folder.join("progress")).unwrap_or_default();
    let mut numbers = text.split_whitespace().filter_map(|number| number.parse().ok());
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

/// The findings that a process left.
fn left(folder: &Path) -> Vec<(String, String, Vec<u8>)> {
    let read = |number: usize, name: &str| std::fs::read(folder.join(format!("finding-{number}.{name}"))).ok();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let found = (0..)
        .map_while(|number| Some((text(read(number, "kind")?), text(read(number, "what")?), read(number, "input")?)));
    found.collect()
}

/// Keeps findings in `target/fuzz`; one line for each.
fn report(target: Target, findings: Vec<Finding>) -> Vec<String> {
    let folder = repo("target/fuzz").join(target.name);
    findings
        .into_iter()
        .map(|Finding { kind, what, input }| {
            let path = folder.join(&blake3::hash(&input).to_hex()[..12]);
            std::fs::create_dir_all(&folder)
                .and_then(|()| std::fs::write(&path, &input))
                .expect("a folder for findings");
            let what: String = what.chars().take(400).collect();
            let line = format!("{} ({kind}): {} of {} bytes: {what}", target.name, path.display(), input.len());
            eprintln!("{line}");
            line
        })
        .collect()
}

/// A smaller input that ends a process in the same way.
fn smaller_in_children(task: &Task, kind: &str, input: Vec<u8>) -> Vec<u8> {
    let folder = in_memory();
    let task = Task { folder: folder.path().to_owned(), seconds: 0, inputs: 0, skip: 0, ..task.clone() };
    // Starting a process takes longer than running an input, and what is stuck takes very long.
    let attempts = if kind.starts_with("stuck") { 0 } else { 40 };
    smaller(input, attempts, |input| {
        std::fs::write(folder.path().join("only"), input).expect("an input");
        let status = start(&task);
        !status.success() && ended(status, folder.path()) == kind
    })
}

/// `input` with pieces left out, as long as `fails` says so; at most `attempts` are made.
fn smaller(mut input: Vec<u8>, attempts: usize, mut fails: impl FnMut(&[u8]) -> bool) -> Vec<u8> {
    let (mut piece, mut left) = (input.len() / 2, attempts);
    while piece > 0 && left > 0 {
        let mut at = 0;
        while at < input.len() && left > 0 {
            let without = [&input[..at], &input[(at + piece).min(input.len())..]].concat();
            left -= 1;
            if fails(&without) { input = without } else { at += piece }
        }
        piece /= 2;
    }
    input
}

/// The state of a process that runs one entry point.
struct Child {
    task: Task,
    corpus: Vec<Vec<u8>>,
    seen: BTreeSet<String>,
    kinds: BTreeSet<String>,
    ran: u64,
    replayed: u64,
}

/// Processor time at which the input at work began; 0: none is at work.
static BEGAN: AtomicU64 = AtomicU64::new(0);
/// What the last panic said, and where.
static PANIC: Mutex<String> = Mutex::new(String::new());

impl Child {
    fn new(task: Task) -> Self {
        let left = task.folder.join("panic");
        std::panic::set_hook(Box::new(move |panic| {
            let place = panic.location().map(|at| format!("{}:{}", at.file(), at.line())).unwrap_or_default();
            let payload = panic.payload();
            let text = payload.downcast_ref::<&str>().map(ToString::to_string);
            let text = text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default();
            let said = format!("{place}\n{text}");
            // Read by the parent if the process does not survive it.
            let _ = std::fs::write(&left, &said);
            *PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = said;
        }));
        let folder = task.folder.clone();
        std::thread::spawn(move || watch(&folder));
        let only = std::fs::read(task.folder.join("only"));
        let corpus = only.map_or_else(|_| corpus(task.target), |only| vec![only]);
        Self { task, corpus, seen: BTreeSet::new(), kinds: BTreeSet::new(), ran: 0, replayed: 0 }
    }

    /// Runs the corpora, then inputs made of them.
    fn run(mut self) {
        let started = Instant::now();
        for input in self.corpus.clone().into_iter().skip(self.task.skip as usize) {
            self.replayed += 1;
            self.attempt(&input);
        }
        self.replayed = self.corpus.len() as u64;
        let mut random = Random(self.task.seed);
        let target = self.task.target;
        let mut made = 0;
        while made < self.task.inputs
            && started.elapsed().as_secs() < self.task.seconds
            && self.kinds.len() < MOST_FINDINGS
        {
            made += 1;
            let (seed, other) = (random.below(self.corpus.len()), random.below(self.corpus.len()));
            let (seed, other) = (self.corpus[seed].clone(), self.corpus[other].clone());
            let input = mutate(target.syntax, target.tokens, &seed, &other, MOST_BYTES, &mut random);
            self.attempt(&input);
        }
    }

    /// Runs one input. Keeps it as a seed if its outcome is new, and as a finding if it failed.
    fn attempt(&mut self, input: &[u8]) {
        let current = self.task.folder.join("current");
        std::fs::write(&current, input).expect("the input at work");
        self.ran += 1;
        std::fs::write(self.task.folder.join("progress"), format!("{} {}", self.ran, self.replayed))
            .expect("the progress");
        match measure(self.task.target, input) {
            Ok(outcome) => {
                if self.seen.insert(outcome.signature) && input.len() < MOST_BYTES / 4 && self.corpus.len() < 4000 {
                    self.corpus.push(input.to_vec());
                }
            }
            Err((kind, _)) if self.kinds.contains(&kind) => {}
            Err((kind, what)) => {
                let attempts = if kind == "slow" { 5 } else { SMALLER };
                let target = self.task.target;
                let input = smaller(input.to_vec(), attempts, |input| {
                    std::fs::write(&current, input).expect("the input at work");
                    measure(target, input).is_err_and(|(found, _)| found == kind)
                });
                let number = self.kinds.len();
                let write = |name: &str, bytes: &[u8]| {
                    let path = self.task.folder.join(format!("finding-{number}.{name}"));
                    std::fs::File::create(path).and_then(|mut file| file.write_all(bytes)).expect("a finding");
                };
                write("what", what.as_bytes());
                write("input", &input);
                write("kind", kind.as_bytes());
                self.kinds.insert(kind);
            }
        }
    }
}

/// Runs one input and measures it. An error is the kind of the failure, and what is known of it.
fn measure(target: Target, input: &[u8]) -> Result<Outcome, (String, String)> {
    let before = memory("VmRSS:");
    // Forgets the peak.
    std::fs::write("/proc/self/clear_refs", "5").expect("a new measurement");
    let began = processor_time();
    BEGAN.store(began, Ordering::Relaxed);
    let outcome = catch_unwind(AssertUnwindSafe(|| target.run(input)));
    BEGAN.store(0, Ordering::Relaxed);
    let (time, taken) = (processor_time() - began, memory("VmHWM:").saturating_sub(before));
    let Ok(outcome) = outcome else {
        let panic = PANIC.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
        let (place, text) = panic.split_once('\n').unwrap_or_default();
        return Err((format!("panic at {place}"), text.to_owned()));
    };
    if taken > outcome.memory {
        return Err(("memory".to_owned(), format!("{taken} bytes of memory, allowed are {}", outcome.memory)));
    }
    if time > SLOW {
        return Err(("slow".to_owned(), format!("{} s of processor time", time / 100)));
    }
    Ok(outcome)
}

/// Ends the process when an input takes too long.
fn watch(folder: &Path) {
    let (mut seen, mut since) = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_millis(200));
        let began = BEGAN.load(Ordering::Relaxed);
        if began != seen {
            (seen, since) = (began, Instant::now());
        }
        if began != 0 && (processor_time() - began > STUCK || since.elapsed() > STUCK_TIME) {
            std::fs::write(folder.join("verdict"), "stuck").expect("a verdict");
            std::process::abort();
        }
    }
}

/// Processor time of this process in hundredths of a second, and one more.
fn processor_time() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("the state of this process");
    let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
    1 + fields.split(' ').skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum::<u64>()
}

/// A line of this process's memory, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the state of this process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}

/// The inputs in the folders of `target`, sorted.
fn corpus(target: Target) -> Vec<Vec<u8>> {
    let folders = ["tests/fuzz/corpus", "tests/fuzz/crashes"].map(|folder| repo(folder).join(target.name));
    let mut files: Vec<PathBuf> = folders
        .iter()
        .filter_map(|folder| std::fs::read_dir(folder).ok())
        .flat_map(|entries| entries.map(|entry| entry.expect("a file of a corpus").path()))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "{} has no corpus", target.name);
    files.iter().map(|file| std::fs::read(file).expect("a file of a corpus")).collect()
}

#[test]
fn every_folder_of_inputs_belongs_to_a_target() {
    for folder in ["tests/fuzz/corpus", "tests/fuzz/crashes"] {
        for entry in std::fs::read_dir(repo(folder)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            assert!(Target::named(&name).is_some(), "{folder}/{name}");
        }
    }
    let manifest = std::fs::read_to_string(repo("fuzz/Cargo.toml")).unwrap();
    let binaries: toml::Table = manifest.parse().unwrap();
    let names: Vec<&str> =
        binaries["bin"].as_array().unwrap().iter().map(|bin| bin["name"].as_str().unwrap()).collect();
    assert_eq!(names, TARGETS.map(|target| target.name), "fuzz/Cargo.toml has a binary for every target");
}

#[test]
fn what_fails_is_found_made_smaller_and_told() {
    let panics = |input: &[u8]| {
        assert!(!input.contains(&b'x'), "found an x");
        Outcome::ok()
    };
    let target = Target { name: "test", syntax: super::mutate::Syntax::Bytes, tokens: &[], run: panics };
    assert!(catch_unwind(|| target.run(b"abcxdef")).is_err());
    let small = smaller(b"abcxdefghij".to_vec(), SMALLER, |input| input.contains(&b'x'));
    assert_eq!(small, b"x");
    let seen = measure(target, b"abc").map(|outcome| outcome.signature);
    assert_eq!(seen, Ok("ok".to_owned()));
}
