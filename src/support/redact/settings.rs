//! Secrets in texts by the name before them: `password = "..."`, `"SecretAccessKey": "..."`, `Authorization: ...`, `Bearer ...`,
//! and private keys in PEM.

use super::names::{HIDDEN, is_header, is_secret_name, is_signed};

/// `text` with such values hidden.
pub(super) fn hidden(text: &str) -> String {
    bearers(&assignments(&private_keys(text)))
}

fn private_keys(text: &str) -> String {
    const END: &str = "PRIVATE KEY-----";
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(start) = rest.find("-----BEGIN ").filter(|start| rest[*start..].contains(END)) {
        let after = rest[start..].find(END).map_or(rest.len(), |end| start + end + END.len());
        let end = rest[after..].find(END).map_or(rest.len(), |end| after + end + END.len());
        shown.push_str(&rest[..start]);
        shown.push_str(HIDDEN);
        rest = &rest[end..];
    }
    shown + rest
}

fn assignments(text: &str) -> String {
    let (mut shown, mut done) = (String::new(), 0);
    for (at, sign) in text.bytes().enumerate().filter(|(_, byte)| b"=:".contains(byte)) {
        if at < done {
            continue;
        }
        let Some(name) = Name::before(&text[done..at]) else { continue };
        let is_secret = is_secret_name(name.text) && (sign == b'=' || !["sig", "signature"].contains(&name.text));
        if !is_secret || text[at + 1..].starts_with([':', '=', '>']) {
            continue;
        }
        let (start, end) = value(text, at + 1, &name);
        let found = &text[start..end];
        if found.is_empty() || found == HIDDEN || found.trim_end_matches(':') == "..." {
            continue;
        }
        shown.push_str(&text[done..start]);
        shown.push_str(HIDDEN);
        done = end;
    }
    shown.push_str(&text[done..]);
    shown
}

/// The name before a sign of assignment.
struct Name<'a> {
    text: &'a str,
    /// The quote before the name, if there is none after it: what follows is in quotes too.
    open: Option<char>,
}

impl<'a> Name<'a> {
    fn before(text: &'a str) -> Option<Self> {
        let text = text.trim_end_matches([' ', '\t']);
        let plain = text.trim_end_matches(['"', '\'']).trim_end_matches('\\');
        let is_closed = plain.len() < text.len();
        let start = plain.rfind(|c: char| !(c.is_ascii_alphanumeric() || "_.-".contains(c)));
        let start = start.map_or(0, |at| at + plain[at..].chars().next().map_or(1, char::len_utf8));
        let open = plain[..start].chars().next_back().filter(|before| "\"'`".contains(*before) && !is_closed);
        let name = plain[start..].trim_start_matches('-');
        // Parameters of a query are for `word`, which knows where they end.
        let is_parameter = plain[..start].ends_with(['?', '&', '#', ';']) && is_signed(name);
        (!name.is_empty() && !is_parameter).then_some(Self { text: name, open })
    }
}

/// The first byte of the value that begins at `at` or after blanks, and the byte after its last.
fn value(text: &str, at: usize, name: &Name<'_>) -> (usize, usize) {
    let start = text.len() - text[at..].trim_start_matches([' ', '\t']).len();
    let rest = &text[start..];
    for quote in ["\"\"\"", "'''", "\\\"", "\"", "'", "`"] {
        // A quote that was open before the name is closed by its next one.
        if rest.starts_with(quote) && name.open.is_none_or(|open| !quote.starts_with(open)) {
            let first = start + quote.len();
            return (first, closing(text, first, quote));
        }
    }
    let of_line = rest.find('\n').unwrap_or(rest.len());
    let length = match name.open {
        Some(open) => rest.find(open).unwrap_or(of_line),
        None if is_header(name.text) => rest.find(['\n', '"']).unwrap_or(rest.len()),
        None => rest.find(|c: char| c.is_whitespace() || c == '"').unwrap_or(rest.len()),
    };
    (start, start + length)
}

/// Where the quote that opened before `first` closes; the end of the text if it never does.
fn closing(text: &str, first: usize, quote: &str) -> usize {
    let mut at = first;
    while let Some(found) = text[at..].find(quote).map(|found| at + found) {
        let backslashes = text[first..found].bytes().rev().take_while(|byte| *byte == b'\\').count();
        if quote != "\"" || backslashes % 2 == 0 {
            return found;
        }
        at = found + quote.len();
    }
    text.len()
}

/// Hides what follows `Bearer`, and after `Basic` what may be base64.
fn bearers(text: &str) -> String {
    let is_token = |c: char| c.is_ascii_alphanumeric() || "._~+/=-".contains(c);
    let (mut shown, mut rest) = (String::new(), text);
    while let Some((at, word)) = ["bearer ", "basic "].iter().filter_map(|word| Some((find(rest, word)?, *word))).min()
    {
        let start = at + word.len();
        let token = &rest[start..start + rest[start..].find(|c| !is_token(c)).unwrap_or(rest.len() - start)];
        let is_word = ["token", "tokens", "authentication", "authorization", "credentials"].contains(&token);
        let is_secret = match word {
            "bearer " => token.len() >= 4 && !is_word,
            _ => token.len() >= 4 && token.contains(|c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '='),
        };
        shown.push_str(&rest[..start]);
        shown.push_str(if is_secret { HIDDEN } else { token });
        rest = &rest[start + token.len()..];
    }
    shown + rest
}

/// The place of `word`, in any case.
fn find(text: &str, word: &str) -> Option<usize> {
    text.as_bytes().windows(word.len()).position(|window| window.eq_ignore_ascii_case(word.as_bytes()))
}
