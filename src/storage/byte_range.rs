//! Images that are a part of a file, such as a member of a tar archive: `shard.tar#bytes=1536-46591`, with the first and the last byte as
//! in the `Range` header of a request.

use std::ops::Range;

const MARK: &str = "#bytes=";

/// The file that `text` names, and the bytes of it; None: all of them.
#[must_use]
pub fn split(text: &str) -> (&str, Option<Range<u64>>) {
    let number = |digits: &str| {
        let is_plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| digits.parse::<u64>().ok())?
    };
    let range = |text: &str| {
        let (first, last) = text.split_once('-')?;
        let (first, last) = (number(first)?, number(last)?);
        last.checked_add(1).filter(|end| first < *end).map(|end| first..end)
    };
    match text.rsplit_once(MARK) {
        Some((file, bytes)) => range(bytes).map_or((text, None), |range| (file, Some(range))),
        None => (text, None),
    }
}

/// The text for the bytes `range` of `file`; there is at least one.
#[must_use]
pub fn join(file: &str, range: &Range<u64>) -> String {
    format!("{file}{MARK}{}-{}", range.start, range.end.saturating_sub(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_files() {
        assert_eq!(split("a/0.tar#bytes=512-513"), ("a/0.tar", Some(512..514)));
        assert_eq!(split("https://h/0.tar?x=1#bytes=0-0"), ("https://h/0.tar?x=1", Some(0..1)));
        assert_eq!(split(&join("a#bytes=1-2", &(3..9))), ("a#bytes=1-2", Some(3..9)));
        let last = u64::MAX;
        for whole in ["0.tar", "a#bytes=", "a#bytes=5-4", "a#bytes=-4", "a#bytes=+1-4", "a#bytes=1-2.png"] {
            assert_eq!(split(whole), (whole, None));
        }
        assert_eq!(split(&format!("a#bytes=0-{last}")).1, None);
    }
}
