//! Failpoints: named places at which a test can kill the process, suspend it, or make a thread panic; and a limit above which a model
//! runs out of memory.
//!
//! Builds with debug assertions read `NIGHTCAP_KILL_AT=name:count` and `NIGHTCAP_STOP_AT=name:count`, and send themselves
//! SIGKILL or SIGSTOP at the `count`th time that place is reached; with `NIGHTCAP_PANIC_AT=name:count` the thread panics. With
//! `NIGHTCAP_OUT_OF_MEMORY_ABOVE=rows` larger batches run out of memory. Release builds contain none of this.

/// Marks the failpoint `name`.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    use rustix::process::Signal;

    static TARGET: OnceLock<Option<(Option<Signal>, String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    let target = TARGET.get_or_init(|| {
        let (kill, stop) = (Some(Signal::KILL), Some(Signal::STOP));
        let switches = [("NIGHTCAP_KILL_AT", kill), ("NIGHTCAP_STOP_AT", stop), ("NIGHTCAP_PANIC_AT", None)];
        switches.into_iter().find_map(|(variable, signal)| {
            #[allow(clippy::disallowed_methods, reason = "a switch for tests only, absent from release builds")]
            let value = std::env::var(variable).ok()?;
            let (name, count) = value.split_once(':')?;
            Some((signal, name.to_owned(), count.parse().ok()?))
        })
    });
    if let Some((signal, wanted, count)) = target
        && wanted == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        match signal {
            Some(signal) => {
                let _ = rustix::process::kill_process(rustix::process::getpid(), *signal);
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
