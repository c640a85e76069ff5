//! The process environment.

/// An environment variable that is set, valid UTF-8 and not empty.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "what the rest of the crate reads the environment through")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}
