//! Panics of libraries on data that nobody vouches for, as errors. The panic hook asks [`is_expected`], so that a caught panic is no
//! alarm in the log.

use std::any::Any;
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};

thread_local! {
    /// How many calls of [`caught`] this thread is in.
    static DEPTH: Cell<u32> = const { Cell::new(0) };
}

/// What comes of `work`.
///
/// # Errors
/// The message of a panic. Whatever `work` was changing must not be used again.
pub(crate) fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    DEPTH.set(DEPTH.get() + 1);
    // Unwind safe: after a panic, what `work` borrowed is only dropped.
    let outcome = catch_unwind(AssertUnwindSafe(work));
    DEPTH.set(DEPTH.get() - 1);
    outcome.map_err(|panic| format!("the library that reads it panicked: {}", message(&*panic)))
}

/// Whether a panic on this thread becomes an error.
pub(crate) fn is_expected() -> bool {
    DEPTH.get() > 0
}

/// The message of a panic.
pub(crate) fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_its_message_and_expected() {
        let number = std::hint::black_box(3);
        let caught_once = caught(|| -> u32 {
            assert!(is_expected());
            panic!("number {number}")
        });
        assert_eq!(caught_once.unwrap_err(), "the library that reads it panicked: number 3");
        assert_eq!(caught(|| number), Ok(3));
        assert!(!is_expected());
    }
}
