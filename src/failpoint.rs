//! Named places at which a test can have the process killed, as by the out-of-memory killer.
//!
//! Builds with debug assertions read `NIGHTCAP_KILL_AT=name:count` and send themselves SIGKILL at the `count`th time that
//! place is reached. Release builds contain none of this.

/// Marks the place `name`.
#[cfg(debug_assertions)]
pub(crate) fn hit(name: &str) {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};

    static TARGET: OnceLock<Option<(String, u64)>> = OnceLock::new();
    static HITS: AtomicU64 = AtomicU64::new(0);

    let target = TARGET.get_or_init(|| {
        #[allow(clippy::disallowed_methods, reason = "a switch for tests only, absent from release builds")]
        let value = std::env::var("NIGHTCAP_KILL_AT").ok()?;
        let (name, count) = value.split_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((wanted, count)) = target
        && wanted == name
        && HITS.fetch_add(1, Ordering::SeqCst) + 1 == *count
    {
        let _ = rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
    }
}

/// Marks the place `name`.
#[cfg(not(debug_assertions))]
pub(crate) const fn hit(_name: &str) {}
