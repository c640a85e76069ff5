//! Answers of servers that are not the object that was asked for. Never here: requests.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, NaiveDateTime, Utc};
use http::header::{HeaderMap, RETRY_AFTER};

/// A response without the object: its HTTP status, and the error code of the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As in `503`.
    pub(super) status: u16,
    /// As in `SlowDown`, from an XML body.
    pub(super) code: Option<String>,
    /// How long the server asks to wait, at most [`MOST_RETRY_AFTER`].
    pub(super) retry_after: Option<Duration>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        self.code.iter().try_for_each(|code| write!(f, " {code}"))
    }
}

impl std::error::Error for Refusal {}

/// The longest time that a server may ask to wait before the next attempt.
const MOST_RETRY_AFTER: Duration = Duration::from_mins(1);

/// `Retry-After`, in seconds or as a date.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let asked = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => (date(text)? - Utc::now()).to_std().unwrap_or_default(),
    };
    Some(asked.min(MOST_RETRY_AFTER))
}

/// Why an answer is not the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WrongAnswer {
    /// A content coding that is not read.
    #[error(
        "the server answers in the content coding {0}, which was not asked for; expected identity, gzip or deflate"
    )]
    Coding(&'static str),
    /// Compressed bytes that are damaged.
    #[error("the server answers in the content coding {coding}, and the bytes are damaged: {why}")]
    Damaged {
        /// `gzip` or `deflate`.
        coding: &'static str,
        /// What the library says.
        why: String,
    },
    /// A part of the file, where all of it was asked for.
    #[error("the server answers with a part of the file (status 206) where all of it was asked for")]
    Part,
    /// More bytes than may be read.
    #[error("expected at most {most} bytes (`limits.max_image_bytes`), found more")]
    TooLong {
        /// The limit.
        most: u64,
    },
}

/// A date of HTTP, in its three forms.
pub(super) fn date(text: &str) -> Option<DateTime<Utc>> {
    if let Ok(date) = DateTime::parse_from_rfc2822(text) {
        return Some(date.to_utc());
    }
    let forms = ["%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok()).map(|date| date.and_utc())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_to_wait_are_seconds_or_dates_and_bounded() {
        let asked = |text: &str| retry_after(&HeaderMap::from_iter([(RETRY_AFTER, text.parse().unwrap())]));
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!([asked("7"), asked(" 0"), asked("99999999999")], [seconds(7), seconds(0), seconds(60)]);
        for nothing in ["", "-1", "1.5", "soon", "99999999999999999999999"] {
            assert_eq!(asked(nothing), None, "{nothing}");
        }
        let at =
            |seconds| (Utc::now() + chrono::Duration::seconds(seconds)).format("%a, %d %b %Y %H:%M:%S GMT").to_string();
        assert_eq!([asked(&at(-100)), asked(&at(10_000))], [seconds(0), seconds(60)]);
        assert!((seconds(15)..=seconds(20)).contains(&asked(&at(20))));
    }

    #[test]
    fn dates_in_every_form_of_http() {
        let expected = Some("1994-11-06T08:49:37Z".parse::<DateTime<Utc>>().unwrap());
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(date(text), expected, "{text}");
        }
        assert_eq!([date(""), date("yesterday"), date("0")], [None; 3]);
    }
}
