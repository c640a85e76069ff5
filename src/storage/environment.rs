//! The process environment.

/// An environment variable that is set, valid UTF-8 and not empty.
#[must_use]
#[allow(clippy::disallowed_methods, reason = "what the rest of the crate reads the environment through")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Every variable that is valid UTF-8, with its value.
pub fn all_variables() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}
