//! Panics are faults of nightcap or of a library. They are logged as errors, and a caught one ends the command with
//! [`Error::Internal`] and its exit status.

use std::panic::{AssertUnwindSafe, catch_unwind, set_hook};

use crate::error::Error;
use crate::support::unwind::{is_expected, message};

/// Installs a panic hook that logs panics of any thread, one line each.
pub fn log() {
    set_hook(Box::new(|panic| {
        let thread = std::thread::current();
        let (thread, at) = (thread.name().unwrap_or("unnamed"), panic.location().map(ToString::to_string));
        let what = message(panic.payload());
        if is_expected() {
            tracing::debug!(thread, at = at.unwrap_or_default(), "a panic that becomes an error: {what}");
        } else {
            tracing::error!(thread, at = at.unwrap_or_default(), "panic: {what}");
        }
    }));
}

/// Runs `work`.
///
/// # Errors
/// Those of `work`, and [`Error::Internal`] if it panics; its message names `what`.
pub fn caught<T>(what: &str, work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    // Unwind safe: after a panic, what `work` borrowed is only dropped.
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Error::Internal(format!("{what} panicked: {}", message(&*panic)))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_with_its_message() {
        let number = std::hint::black_box(3);
        let outcome: Result<(), Error> = caught("the test", || panic!("number {number}"));
        assert_eq!(
            outcome.unwrap_err().to_string().lines().next(),
            Some("internal error: the test panicked: number 3")
        );
        assert!(caught("the test", || Ok(1)).is_ok());
    }
}
