//! Bounds of what leaves: of each value, and of a message with all of its values.

use std::borrow::Cow;

use super::text::text;

/// The most characters of one value.
pub const MOST_OF_VALUE: usize = 300;
/// The most characters of a message.
pub const MOST_OF_MESSAGE: usize = 2000;
/// The most characters of a hint, which is kept when the message before it is cut.
const MOST_OF_HINT: usize = 800;

/// One value: without credentials, of at most [`MOST_OF_VALUE`] characters, on one line and without control characters.
#[must_use]
pub fn value(value: &str) -> String {
    cut(&escaped(&text(value), char::is_control), MOST_OF_VALUE).into_owned()
}

/// One value as [`value`], but with line breaks and control characters as they are, for callers that write it in quotes.
pub(crate) fn bounded(value: &str) -> String {
    cut(&text(value), MOST_OF_VALUE).into_owned()
}

/// A message: without credentials; of at most [`MOST_OF_MESSAGE`] characters, of which no word and nothing in quotes is longer than
/// [`MOST_OF_VALUE`]. Its hint is kept.
#[must_use]
pub fn message(message: &str) -> String {
    let message = words(&quotes(&escaped(&text(message), acts_in_message)));
    let Some(at) = message.rfind("\nhint:") else { return cut(&message, MOST_OF_MESSAGE).into_owned() };
    let hint = cut(&message[at..], MOST_OF_HINT);
    let most = MOST_OF_MESSAGE.saturating_sub(hint.chars().count());
    format!("{}{hint}", cut(&message[..at], most))
}

/// Several lines, each bounded as a message.
#[must_use]
pub fn lines(lines: &str) -> String {
    lines
        .split_inclusive('\n')
        .map(|line| line.strip_suffix('\n').map_or_else(|| message(line), |line| message(line) + "\n"))
        .collect()
}

/// `text` with the control characters that `acts` names in a form that no terminal acts on.
fn escaped(text: &str, acts: fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(acts) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if acts(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    Cow::Owned(shown)
}

/// A control character that is no line break and no tab.
fn acts_in_message(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
}

/// At most `most` characters of `text`: its start and its end.
fn cut(text: &str, most: usize) -> Cow<'_, str> {
    // A text of few bytes has few characters.
    if text.len() <= most {
        return Cow::Borrowed(text);
    }
    let count = text.chars().count();
    if count <= most {
        return Cow::Borrowed(text);
    }
    let mark = format!("[...{count} characters...]");
    let left = most.saturating_sub(mark.len());
    let (head, tail) = (left - left / 4, left / 4);
    let at = |place: usize| text.char_indices().nth(place).map_or(text.len(), |(at, _)| at);
    Cow::Owned(format!("{}{mark}{}", &text[..at(head)], &text[at(count - tail)..]))
}

/// Cuts every word.
fn words(text: &str) -> String {
    text.split_inclusive(char::is_whitespace)
        .map(|word| if word.len() <= MOST_OF_VALUE { Cow::Borrowed(word) } else { cut(word, MOST_OF_VALUE) })
        .collect()
}

/// Cuts everything between quotes.
fn quotes(text: &str) -> String {
    let (mut shown, mut rest) = (String::new(), text);
    while let Some(start) = rest.find(['"', '`']) {
        let quote = &rest[start..=start];
        let Some(end) = closing(&rest[start + 1..], quote).map(|end| start + 1 + end) else { break };
        shown.push_str(&rest[..=start]);
        shown.push_str(&cut(&rest[start + 1..end], MOST_OF_VALUE));
        shown.push_str(quote);
        rest = &rest[end + 1..];
    }
    shown + rest
}

fn closing(text: &str, quote: &str) -> Option<usize> {
    let ends = |at: usize| text[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 0;
    text.match_indices(quote).map(|(at, _)| at).find(|at| ends(*at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds() {
        let long = "n".repeat(600_000);
        assert_eq!(value(&long).chars().count(), MOST_OF_VALUE);
        assert_eq!(value("ä".repeat(300).as_str()).chars().count(), 300);
        assert!(value(&long).contains("[...600000 characters...]"), "{}", value(&long));
        let spaced = "a b ".repeat(100_000);
        for given in
            [&long, &spaced, &format!("`{spaced}` is `{long}`, and {long:?}"), &format!("{long}\nhint: {spaced}")]
        {
            let found = message(given);
            assert!(found.chars().count() <= MOST_OF_MESSAGE, "{}", found.len());
            assert!(found.split_whitespace().all(|word| word.chars().count() <= MOST_OF_VALUE + 2), "{found}");
        }
        let hinted = message(&format!("`{spaced}` is wrong\nhint: do this"));
        assert!(hinted.ends_with("` is wrong\nhint: do this") && hinted.len() < 400, "{hinted}");
        assert_eq!(value("a\u{1b}[2K\rb\n\tc"), "a\\u{1b}[2K\\rb\\n\\tc");
        assert_eq!(message("a\tb\nc\u{7}"), "a\tb\nc\\u{7}");
        assert_eq!(lines("a\nb\n"), "a\nb\n");
    }
}
