//! What an object store's error means: a documented kind, and a message without URLs, headers or bodies, which may hold
//! credentials.

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use super::answers::{Refusal, WrongAnswer};
use super::credentials::NoCredentials;
use super::keys;
use super::private_hosts::PrivateHost;
use super::redirect::RefusedRedirect;
use crate::row::error::ErrorKind;

/// Why an object could not be read, written or listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// The documented kind.
    pub kind: ErrorKind,
    /// The message; callers add the name of the object.
    pub what: String,
}

impl Failure {
    /// What `error` means.
    #[must_use]
    pub fn of(error: &Error) -> Self {
        let new = |kind, what: &str| Self { kind, what: what.to_owned() };
        match error {
            Error::NotFound { .. } => return new(ErrorKind::NotFound, "there is no such object"),
            Error::PermissionDenied { .. } => return new(ErrorKind::Forbidden, "access denied (status 403)"),
            Error::Unauthenticated { .. } => {
                return new(ErrorKind::Forbidden, "the storage does not accept these credentials (status 401)");
            }
            Error::InvalidPath { .. } => return new(ErrorKind::InvalidUri, &format!("expected {}", keys::EXPECTED)),
            Error::AlreadyExists { .. } => return new(ErrorKind::Io, "it exists already"),
            Error::Precondition { .. } => return new(ErrorKind::Io, "it was changed in the meantime"),
            _ => {}
        }
        let mut transport = None;
        for cause in causes(error) {
            if let Some(refusal) = cause.downcast_ref::<Refusal>() {
                return Self::refused(refusal);
            }
            match cause.downcast_ref::<WrongAnswer>() {
                Some(answer @ WrongAnswer::TooLong { .. }) => return new(ErrorKind::TooLarge, &answer.to_string()),
                Some(answer @ WrongAnswer::Coding(_)) => {
                    return new(ErrorKind::UnsupportedFormat, &answer.to_string());
                }
                Some(answer) => return new(ErrorKind::Connection, &answer.to_string()),
                None => {}
            }
            if let Some(redirect) = cause.downcast_ref::<RefusedRedirect>() {
                return new(ErrorKind::Forbidden, &redirect.to_string());
            }
            if let Some(host) = cause.downcast_ref::<PrivateHost>() {
                return new(ErrorKind::Forbidden, &host.to_string());
            }
            if let Some(NoCredentials { kind, what }) = cause.downcast_ref() {
                return new(*kind, what);
            }
            if let Some(error) = cause.downcast_ref::<HttpError>() {
                transport = Some(error.kind());
            }
            if let Some(error) = cause.downcast_ref::<std::io::Error>()
                && transport.is_none()
            {
                return new(ErrorKind::Io, &error.to_string());
            }
        }
        match transport {
            Some(HttpErrorKind::Timeout) => new(ErrorKind::Timeout, "no answer in time"),
            Some(HttpErrorKind::Connect) => new(ErrorKind::Connection, "the server cannot be reached"),
            Some(_) => new(ErrorKind::Connection, "the connection broke off before the answer was complete"),
            None => new(ErrorKind::Io, "an answer that is not understood"),
        }
    }

    fn refused(refusal: &Refusal) -> Self {
        let kind = match refusal.status {
            429 | 503 => ErrorKind::Throttled,
            408 | 504 => ErrorKind::Timeout,
            500.. => ErrorKind::ServerError,
            401 | 403 => ErrorKind::Forbidden,
            404 | 410 => ErrorKind::NotFound,
            _ => ErrorKind::Io,
        };
        // S3 answers this for a bucket in another region, without naming the region.
        let region = if (300..400).contains(&refusal.status) { ", as for a bucket of another region" } else { "" };
        Self { kind, what: format!("the server answers with {refusal}{region}") }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

/// Whether a conditional put failed because the storage has none: status 501, or a file system without hard links.
pub(crate) fn lacks_condition(error: &Error) -> bool {
    // The answers to a link that the file system cannot make.
    let refused =
        |error: &std::io::Error| matches!(error.raw_os_error(), Some(libc::EPERM | libc::ENOSYS | libc::EOPNOTSUPP));
    matches!(error, Error::NotImplemented { .. } | Error::NotSupported { .. })
        || causes(error).any(|cause| cause.downcast_ref::<Refusal>().is_some_and(|refusal| refusal.status == 501))
        || is_local(error) && causes(error).any(|cause| cause.downcast_ref().is_some_and(refused))
}

/// How long the server asks to wait before the next attempt.
pub(crate) fn retry_after(error: &Error) -> Option<Duration> {
    causes(error).find_map(|cause| cause.downcast_ref::<Refusal>()?.retry_after)
}

/// The message of [`Failure::of`], with a hint if there is one; for errors that end a command.
pub(crate) fn explain(error: &Error) -> String {
    let failure = Failure::of(error);
    let hint = match failure.kind {
        _ if is_local(error) => "",
        ErrorKind::Forbidden if has_cause::<PrivateHost>(error) => {
            "\nhint: if it may be read from, name it, as in allow_private_hosts = [\"10.0.0.5\", \"images.example\"] below [limits]"
        }
        ErrorKind::Forbidden if !has_cause::<RefusedRedirect>(error) => {
            "\nhint: check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, `storage.profile`, ...) and what they may do; public data needs `storage.anonymous = true`"
        }
        ErrorKind::NotFound => "\nhint: check the bucket and the key",
        ErrorKind::Connection | ErrorKind::Timeout => {
            "\nhint: check `storage.endpoint` or AWS_ENDPOINT_URL, and that the network is there"
        }
        _ => "",
    };
    format!("{failure}{hint}")
}

fn causes(error: &Error) -> impl Iterator<Item = &(dyn StdError + 'static)> {
    std::iter::successors(Some(error as &(dyn StdError + 'static)), |&cause| cause.source())
}

fn is_local(error: &Error) -> bool {
    for cause in causes(error) {
        if cause.is::<HttpError>() {
            return false;
        }
        if cause.is::<std::io::Error>() {
            return true;
        }
    }
    false
}

fn has_cause<T: StdError + 'static>(error: &Error) -> bool {
    causes(error).any(<dyn StdError>::is::<T>)
}
