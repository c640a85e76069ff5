//! Deterministic simulation: commands that meet on one OUTPUT, in orders that a seed decides.
//!
//! The real claim, commit, close, finalize, discard and compact run over `object_store`'s `InMemory`. Each simulated process is a
//! thread that waits before every operation on the storage until the scheduler gives it the turn; the scheduler also suspends
//! processes, kills them before or after an operation, loses answers, lets requests arrive late, and owns the clock of everything.
//! A seed decides all of it, so `NIGHTCAP_SEED=n` plays a failure again and prints its schedule; `NIGHTCAP_SEEDS=n` plays so many.
//!
//! - `random`: choices by a seed; `world`: the clock and the turns; `storage` and `process`: what the product sees of them;
//! - `nights`: the job and its manifests; `commands`: the commands; `scenario`: one seed;
//! - `ledger`: what must hold after every change.

mod commands;
mod ledger;
mod nights;
mod process;
mod random;
mod scenario;
mod storage;
mod world;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use self::scenario::{Report, play};

/// Seeds that `make test` plays.
const SEEDS: u64 = 1000;
/// Lines of a schedule that a failure shows.
const LINES: usize = 400;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().unwrap())
}

/// The kinds of faults that `NIGHTCAP_IGNORE` names, for versions that are known to have them.
fn ignored() -> Vec<String> {
    let names = std::env::var("NIGHTCAP_IGNORE").unwrap_or_default();
    names.split(',').map(str::to_owned).collect()
}

fn show(seed: u64, report: &Report) -> String {
    let mut text = format!("seed {seed}:\n");
    for fault in &report.faults {
        let _ = writeln!(text, "  {:?} after line {}: {}", fault.kind, fault.step, fault.what);
    }
    let end = report.faults.first().map_or(report.schedule.len(), |fault| fault.step + 5).min(report.schedule.len());
    let _ = writeln!(text, "schedule, up to the first of these (NIGHTCAP_SEED={seed} shows all of it):");
    for line in &report.schedule[end.saturating_sub(LINES)..end] {
        let _ = writeln!(text, "{line}");
    }
    text
}

#[test]
fn no_order_of_operations_loses_a_row() {
    if let Some(seed) = number("NIGHTCAP_SEED") {
        let report = play(seed);
        for (step, line) in report.schedule.iter().enumerate() {
            println!("{step:>5} {line}");
        }
        assert!(report.faults.is_empty(), "{}", show(seed, &report));
        return;
    }
    let (first, seeds) = (number("NIGHTCAP_FIRST_SEED").unwrap_or(0), number("NIGHTCAP_SEEDS").unwrap_or(SEEDS));
    let (next, turns) = (AtomicU64::new(first), AtomicU64::new(0));
    let failed: Mutex<BTreeMap<u64, Report>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(2, usize::from) {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        break;
                    }
                    let report = play(seed);
                    turns.fetch_add(report.turns, Ordering::Relaxed);
                    if report.faults.iter().any(|fault| !ignored().contains(&format!("{:?}", fault.kind))) {
                        failed.lock().unwrap().insert(seed, report);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    println!("{seeds} seeds, {} turns, {} seeds failed", turns.into_inner(), failed.len());
    let mut kinds: BTreeMap<_, Vec<u64>> = BTreeMap::new();
    for (seed, report) in &failed {
        for fault in &report.faults {
            kinds.entry(fault.kind).or_default().push(*seed);
        }
    }
    for (kind, seeds) in &kinds {
        println!("{kind:?}: {} seeds, as {:?}", seeds.len(), &seeds[..seeds.len().min(12)]);
    }
    if let Some((seed, report)) = failed.first_key_value() {
        panic!("{} of {seeds} seeds failed; the first:\n{}", failed.len(), show(*seed, report));
    }
}

#[test]
fn a_seed_decides_everything() {
    for seed in [1, 2, 3] {
        assert!(play(seed).schedule == play(seed).schedule, "seed {seed}");
    }
}
