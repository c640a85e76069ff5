//! URIs as data: without name, password and signed query parameters, and otherwise as they were written. What is left is the same from
//! night to night, while signatures are new each time.

use std::borrow::Cow;

use super::names::{belongs_to_signature, is_signed};

/// The places in a text that starts with a scheme: of its authority, which may be empty.
pub(super) struct Authority {
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The authority of the URI `text`, which begins with the scheme of `colon` bytes and its colon. None for one that has none.
pub(super) fn authority(text: &str, colon: usize) -> Option<Authority> {
    let scheme = &text[..colon];
    let rest = &text[colon + 1..];
    let slashes = rest.bytes().take_while(|byte| b"/\\".contains(byte)).count();
    // As URL parsers and people do, any number of slashes is taken for two, except where a path may follow at once.
    if slashes == 0 || (scheme.eq_ignore_ascii_case("file") && slashes != 2) {
        return None;
    }
    let start = colon + 1 + slashes;
    let end = text[start..].find(['/', '\\', '?', '#']).map_or(text.len(), |end| start + end);
    Some(Authority { start, end })
}

/// The length of the scheme that `text` begins with, if a colon and a slash follow it.
fn scheme(text: &str) -> Option<usize> {
    let colon = text.find(":/")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    (colon > 0 && text[..colon].chars().all(fits)).then_some(colon)
}

/// `text` without name, password and signed query parameters, if it is a URI with a scheme. Everything else stays.
#[must_use]
pub fn uri(text: &str) -> Cow<'_, str> {
    let Some(colon) = scheme(text).filter(|_| text.contains(['?', '@', '#'])) else { return Cow::Borrowed(text) };
    let Some(Authority { start, end }) = authority(text, colon) else { return Cow::Borrowed(text) };
    let host = text[start..end].rfind('@').map_or(start, |at| start + at + 1);
    let mut kept = text[..start].to_owned();
    let mut rest = &text[host..];
    // A query, and a fragment, in which some services hand tokens on.
    while let Some(at) = rest.find(['?', '#']) {
        let (before, after) = rest.split_at(at + 1);
        let length = after.find(|c: char| c == '#' || c.is_whitespace()).unwrap_or(after.len());
        let parameters = unsigned(&after[..length]);
        kept.push_str(if parameters.is_empty() && length > 0 { &before[..at] } else { before });
        kept.push_str(&parameters);
        rest = &after[length..];
    }
    kept.push_str(rest);
    if kept == text { Cow::Borrowed(text) } else { Cow::Owned(kept) }
}

/// Whether [`uri`] would leave something out.
#[must_use]
pub fn holds_credential(text: &str) -> bool {
    matches!(uri(text), Cow::Owned(_))
}

/// The parameters that are no part of a signature.
fn unsigned(parameters: &str) -> String {
    let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
    let all = || parameters.split('&');
    if !all().any(|parameter| is_signed(&name(parameter))) {
        return parameters.to_owned();
    }
    let kept = all().filter(|parameter| !is_signed(&name(parameter)) && !belongs_to_signature(&name(parameter)));
    kept.collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signatures_are_left_out_of_uris() {
        for (given, kept) in [
            ("https://me:secret@host/a.jpg", "https://host/a.jpg"),
            ("https://secret@host/a@b.jpg?size=2", "https://host/a@b.jpg?size=2"),
            ("https://h/a?X-Amz-Date=1&X-Amz-Signature=secret", "https://h/a"),
            ("https://h/a?size=2&x-amz-signature=secret&b#part", "https://h/a?size=2&b#part"),
            ("https://h/a?sv=1&se=2&sp=r&sig=secret", "https://h/a"),
            ("https://h/a?Expires=1&Signature=secret&AWSAccessKeyId=k", "https://h/a"),
            ("https://h/a?a=1&amp;Signature=secret", "https://h/a?a=1"),
            ("https://h/a?alt=media&token=secret", "https://h/a?alt=media"),
            ("https://h/a#access_token=secret", "https://h/a"),
            ("HTTP:/me:secret@h/a", "HTTP:/h/a"),
            ("s3://me:secret@bucket/a", "s3://bucket/a"),
            ("https://h/a?sig=secret is a text", "https://h/a is a text"),
        ] {
            assert_eq!(uri(given), kept);
            assert!(holds_credential(given) && !holds_credential(kept), "{given}");
        }
        for given in [
            "a.jpg?token=1.png",
            "photos/me:you@home.jpg",
            "file:///home/me@host/a.jpg",
            "https://h/a?",
            "https://h/a?expires=1",
            "https://h/a?st=north&se=2",
            "https://h/a#b?c",
            "see https://h/a?sig=1",
        ] {
            assert!(matches!(uri(given), Cow::Borrowed(same) if same == given), "{}", uri(given));
        }
    }
}
