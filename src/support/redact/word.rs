//! Credentials within a word of a text: those of URLs, and signed parameters of what only looks like one.

use std::borrow::Cow;

use super::names::{HIDDEN, is_signed};
use super::uri::{Authority, authority};

/// Whether `c` is between two words. Parentheses and the like may be a part of a password.
pub(super) fn ends_word(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '`' | '<' | '>')
}

/// Schemes whose URIs have keys and paths with question marks in them, so that only signed parameters are left out.
const WITHOUT_QUERY: [&str; 4] = ["s3", "gs", "az", "file"];

/// `word` without credentials.
pub(super) fn hidden(word: &str) -> Cow<'_, str> {
    if !word.contains([':', '@', '?', '&', '#']) {
        return Cow::Borrowed(word);
    }
    if let Some(comma) = data_uri(word) {
        return Cow::Owned(format!("{}...", without_credentials(&word[..=comma])));
    }
    Cow::Owned(without_credentials(word))
}

/// `word`, which holds no content of a `data:` URI, without credentials.
fn without_credentials(word: &str) -> String {
    let mut shown = String::new();
    let mut rest = word;
    while let Some(colon) = rest.find(":/") {
        let is_scheme = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
        let start = rest[..colon]
            .rfind(|c| !is_scheme(c))
            .map_or(0, |at| at + rest[at..].chars().next().map_or(1, char::len_utf8));
        let (uri, scheme) = (&rest[start..], &rest[start..colon]);
        let Some(Authority { start: first, end }) = authority(uri, scheme.len()) else {
            shown.push_str(&rest[..=colon]);
            rest = &rest[colon + 1..];
            continue;
        };
        shown.push_str(&rest[..start]);
        shown.push_str(&uri[..first]);
        let host = match user_end(uri, first, end) {
            Some(at) => {
                shown.push_str(HIDDEN);
                at
            }
            None => first,
        };
        if !WITHOUT_QUERY.iter().any(|name| scheme.eq_ignore_ascii_case(name))
            && let Some(query) = uri[host..].find(['?', '#'])
        {
            shown.push_str(&uri[host..=host + query]);
            shown.push_str("...");
            shown.push_str(punctuation(&uri[host + query + 1..]));
            return shown;
        }
        // The host itself is looked at no more, unless it is the scheme of the next URL, and an `@` before it is the one that was
        // handled.
        let is_scheme = end > host && uri[..end].ends_with(':') && uri[end..].starts_with('/');
        let end = if is_scheme { host } else { end.max(host) };
        shown.push_str(&uri[host..end]);
        rest = &uri[end..];
    }
    shown.push_str(&parameters(&pairs(rest)));
    shown
}

/// The place of the `@` that ends name and password, if there are any.
fn user_end(uri: &str, first: usize, end: usize) -> Option<usize> {
    if let Some(at) = uri[first..end].rfind('@') {
        return Some(first + at);
    }
    // A password with a slash in it: what should be a port is no number.
    let port = uri[first..end].split_once(':')?.1;
    if port.is_empty() || port.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    uri[first..].rfind('@').map(|at| first + at)
}

/// The comma after which a `data:` URI has its content.
fn data_uri(word: &str) -> Option<usize> {
    let at = word.to_ascii_lowercase().find("data:")?;
    let begins = word[..at].chars().next_back().is_none_or(|before| !before.is_alphanumeric());
    begins.then(|| word[at..].find(',').map(|comma| at + comma))?
}

/// Closing punctuation at the end of a query or value, which belongs to the sentence around it.
fn punctuation(query: &str) -> &str {
    let query = query.strip_prefix("...").unwrap_or(query);
    let end = query.trim_end_matches(['\'', ')', ']', '}', ',', '.', ';', ':', '!', '\\']);
    &query[end.len()..]
}

/// Hides `name:password` before an `@`, as in a URL without its scheme.
fn pairs(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('@') {
        let start = rest[..at].rfind(['/', '\\', '=', '(', ',', '\'', '?', '&']).map_or(0, |before| before + 1);
        let is_pair =
            rest[start..at].split_once(':').is_some_and(|(name, password)| !name.is_empty() && !password.is_empty());
        shown.push_str(&rest[..start]);
        shown.push_str(if is_pair { HIDDEN } else { &rest[start..at] });
        shown.push('@');
        rest = &rest[at + 1..];
    }
    shown.push_str(rest);
    shown
}

/// Hides the values of signed parameters.
fn parameters(text: &str) -> String {
    let mut shown = String::new();
    let mut is_parameter = false;
    for piece in text.split_inclusive(['?', '&', '#', ';']) {
        let (parameter, end) = piece.split_at(piece.trim_end_matches(['?', '&', '#', ';']).len());
        match parameter.split_once('=') {
            Some((name, value)) if is_parameter && is_signed(name) && !value.is_empty() => {
                shown.push_str(name);
                shown.push_str("=...");
                shown.push_str(punctuation(value));
            }
            _ => shown.push_str(parameter),
        }
        shown.push_str(end);
        is_parameter = true;
    }
    shown
}
