//! Failpoints: named places at which a test can kill the process, suspend it, or make a thread panic; and a limit above which a model
//! runs out of memory.
//!
//! Builds with debug assertions read `NIGHTCAP_KILL_AT=name:count` and `NIGHTCAP_STOP_AT=name:count`, and send themselves
//! SIGKILL or SIGSTOP at the `count`th time that place is reached; with `NIGHTCAP_PANIC_AT=name:count` the thread panics. Each may
//! name several places, separated by commas. With
//! `NIGHTCAP_OUT_OF_MEMORY_ABOVE=rows` larger batches run out of memory, and with `NIGHTCAP_HEARTBEAT_SECONDS=seconds` the process
//! takes others for dead whose heartbeats are older than that, so that no test has to wait for a minute. Release builds contain
//! none of this.

/// A place at which something happens, at the `count`th time that it is reached.
#[cfg(debug_assertions)]
struct Target {
    /// None: the thread panics.
    signal: Option<rustix::process::Signal>,
    name: String,
    count: u64,
    reached: std::sync::atomic::AtomicU64,
}

#[cfg(debug_assertions)]
fn targets() -> Vec<Target> {
    use rustix::process::Signal;

    let switches = [
        ("NIGHTCAP_KILL_AT", Some(Signal::KILL)),
        ("NIGHTCAP_STOP_AT", Some(Signal::STOP)),
        ("NIGHTCAP_PANIC_AT", None),
    ];
    let mut targets = Vec::new();
    for (variable, signal) in switches {
        #[allow(clippy::disallowed_methods, reason = "a switch for tests only, absent from release builds")]
        let places = std::env::var(variable).unwrap_or_default();
        targets.extend(places.split(',').filter_map(|place| {
            let (name, count) = place.split_once(':')?;
            Some(Target { signal, name: name.to_owned(), count: count.parse().ok()?, reached: 0.into() })
        }));
    }
    targets
}

/// Marks the failpoint `name`.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::Ordering;

    static TARGETS: OnceLock<Vec<Target>> = OnceLock::new();

    for target in TARGETS.get_or_init(targets).iter().filter(|target| target.name == name) {
        if target.reached.fetch_add(1, Ordering::SeqCst) + 1 != target.count {
            continue;
        }
        match target.signal {
            Some(signal) => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), signal);
                // Another thread may be the one that receives it: until it is scheduled, this one must not pass.
                std::thread::sleep(std::time::Duration::from_millis(100));
            }
            #[allow(clippy::panic, reason = "a switch for tests only, absent from release builds")]
            None => panic!("a switch for tests says so"),
        }
    }
}

/// Marks the failpoint `name`.
#[cfg(not(debug_assertions))]
pub(crate) const fn hit(_name: &str) {}

/// Whether a batch of `rows` rows has to run out of memory.
#[cfg(debug_assertions)]
pub(crate) fn runs_out_of_memory(rows: usize) -> bool {
    use std::sync::OnceLock;

    static MOST: OnceLock<Option<usize>> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "a switch for tests only, absent from release builds")]
    let most = MOST.get_or_init(|| std::env::var("NIGHTCAP_OUT_OF_MEMORY_ABOVE").ok()?.parse().ok());
    most.is_some_and(|most| rows > most)
}

/// Whether a batch of `rows` rows has to run out of memory.
#[cfg(not(debug_assertions))]
pub(crate) const fn runs_out_of_memory(_rows: usize) -> bool {
    false
}

/// How long the heartbeat of another process counts, if not as long as `usual`.
#[cfg(debug_assertions)]
pub(crate) fn heartbeat_freshness(usual: chrono::TimeDelta) -> chrono::TimeDelta {
    use std::sync::OnceLock;

    static SECONDS: OnceLock<Option<i64>> = OnceLock::new();
    #[allow(clippy::disallowed_methods, reason = "a switch for tests only, absent from release builds")]
    let seconds = SECONDS.get_or_init(|| std::env::var("NIGHTCAP_HEARTBEAT_SECONDS").ok()?.parse().ok());
    seconds.map_or(usual, chrono::TimeDelta::seconds)
}

/// How long the heartbeat of another process counts.
#[cfg(not(debug_assertions))]
pub(crate) const fn heartbeat_freshness(usual: chrono::TimeDelta) -> chrono::TimeDelta {
    usual
}
