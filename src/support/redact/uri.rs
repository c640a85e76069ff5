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
    let scheme = text[..colon].trim_start();
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

/// The length of the scheme that `text` begins with, blanks before it included, if a colon and a slash follow it.
fn scheme(text: &str) -> Option<usize> {
    let colon = text.find(":/")?;
    let fits = |c: char| c.is_ascii_alphanumeric() || "+-._".contains(c);
    let scheme = text[..colon].trim_start();
    (!scheme.is_empty() && scheme.chars().all(fits)).then_some(colon)
}

/// `text` without name, password and signed query parameters, if it is a URI with a scheme. Everything else stays.
#[must_use]
pub fn uri(text: &str) -> Cow<'_, str> {
    let Some(colon) = scheme(text).filter(|_| text.contains(['?', '@', '#'])) else { return Cow::Borrowed(text) };
    let Some(Authority { start, end }) = authority(text, colon) else { return Cow::Borrowed(text) };
    let host = host(text, start, end);
    // A query, and a fragment, in which some services hand tokens on.
    let query = text[host..].find(['?', '#']).map_or(text.len(), |at| host + at);
    // Behind a path, which has a slash, a text is no part of the host. Slashes without a host are none: they add to those before.
    let has_path = text[host..query].trim_start_matches(['/', '\\']).contains(['/', '\\']);
    let kept = [&text[..start], &text[host..query], &unsigned(&text[query..], has_path)].concat();
    if kept == text { Cow::Borrowed(text) } else { Cow::Owned(kept) }
}

/// Where the host begins, behind name and password. Without a host, the slashes behind them may lead to others.
fn host(text: &str, mut start: usize, mut end: usize) -> usize {
    let mut host = start;
    while let Some(at) = text[start..end].rfind('@') {
        host = start + at + 1;
        if host < end {
            break;
        }
        start = text.len() - text[end..].trim_start_matches(['/', '\\']).len();
        end = text[start..].find(['/', '\\', '?', '#']).map_or(text.len(), |at| start + at);
    }
    host
}

/// Whether [`uri`] would leave something out.
#[must_use]
pub fn holds_credential(text: &str) -> bool {
    matches!(uri(text), Cow::Owned(_))
}

/// The parameters of `query` that are no part of a signature, and what follows the URI in a text. It begins with its `?` or `#`,
/// which stays before such a text if no path is before it: the text would be a part of the host.
fn unsigned(query: &str, has_path: bool) -> Cow<'_, str> {
    const SIGNS: [char; 3] = ['?', '&', '#'];
    let name = |parameter: &str| parameter.split('=').next().unwrap_or_default().to_owned();
    let all = || {
        let starts = query.match_indices(SIGNS).map(|(at, _)| at);
        starts
            .map(|at| query[at..].split_at(1))
            .map(|(sign, rest)| (sign, rest.split(SIGNS).next().unwrap_or_default()))
    };
    if !all().any(|(_, parameter)| is_signed(&name(parameter))) {
        return Cow::Borrowed(query);
    }
    let is_left_out = |parameter: &str| is_signed(&name(parameter)) || belongs_to_signature(&name(parameter));
    let mut kept = String::new();
    // The sign of a parameter that was left out, for the next one.
    let mut lead = None;
    for (sign, parameter) in all() {
        let mut rest = parameter;
        while !rest.is_empty() && is_left_out(rest) {
            rest = text_after(rest);
        }
        if rest.is_empty() && !parameter.is_empty() {
            lead = lead.or((sign != "&").then_some(sign));
            continue;
        }
        let sign = if sign == "&" { lead.unwrap_or(sign) } else { sign };
        lead = None;
        if rest.len() == parameter.len() || !kept.is_empty() || !has_path {
            kept.push_str(sign);
        }
        kept.push_str(rest);
    }
    Cow::Owned(kept)
}

/// What follows the value of `parameter` in a text, from the blank on; shorter than `parameter`.
fn text_after(parameter: &str) -> &str {
    let named = parameter.find('=').map_or(parameter.trim_start(), |at| &parameter[at + 1..]);
    named.find(char::is_whitespace).map_or("", |at| &named[at..])
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
            ("https://h/a?sig=secret\tis a text", "https://h/a\tis a text"),
            ("https://h/a?b c&sig=secret d", "https://h/a?b c& d"),
            ("https://h/a?sig=secret b&token=secret", "https://h/a b"),
            ("https://h/a?sig=secret see https://g/b?token=secret&c=1#d", "https://h/a see https://g/b?c=1#d"),
            ("https://h/a?url=https://g/b?sig=secret&c=1", "https://h/a?url=https://g/b?c=1"),
            ("https://h/a?b&sig= token=secret c", "https://h/a?b& c"),
            ("https:/me@//me:secret@/a", "https://a"),
            ("https://h?sig=secret a@b", "https://h? a@b"),
            ("https:/me@/?sig=secret a@b", "https://? a@b"),
            (" \nhttps://me:secret@h/a", " \nhttps://h/a"),
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
