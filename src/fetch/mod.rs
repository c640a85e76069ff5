//! Fetches image bytes.
//!
//! In: a path or URI and the folder it is relative to. Out: the size, then the bytes, so that the caller can reserve memory in
//! between. Transient failures are retried; after that a failure is a [`RowError`]. Never here: decoding.
//!
//! [`Fetcher`] opens and reads one image; `local` checks files of this machine, `hosts` limits the requests to
//! a web server, `timeout` limits an attempt. When many images fail,
//! `common_folders` (found while planning) and `probe` find out whether the storage answers at all.

mod common_folders;
mod hosts;
mod local;
mod probe;
mod timeout;

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use object_store::{GetOptions, GetRange, GetResult};
use tokio::sync::OwnedSemaphorePermit;

pub use self::common_folders::CommonFolders;
use self::hosts::Hosts;
use self::timeout::within;
use crate::job::Limits;
use crate::row::error::{ErrorKind, RowError, Stage};
use crate::storage::byte_range;
use crate::storage::{Failure, Location, NotALocation, SingleAttempts, Storage, pauses, retry_after};
use crate::support::descriptors::is_exhausted;

/// Fetches images within the job's limits. All of its requests must come from one runtime.
#[derive(Debug)]
pub struct Fetcher {
    stores: SingleAttempts,
    hosts: Hosts,
    roots: Vec<Location>,
    max_image_bytes: u64,
    timeout: Duration,
    retries: u32,
}

/// An image that exists and is not too large, and that was not read yet.
#[derive(Debug)]
pub struct ImageObject<'a> {
    /// Bytes it has.
    pub size: u64,
    location: Location,
    part: Option<Range<u64>>,
    fetcher: &'a Fetcher,
    result: GetResult,
    turn: Option<OwnedSemaphorePermit>,
}

impl Fetcher {
    /// A fetcher for the job's limits.
    #[must_use]
    pub fn new(limits: &Limits, storage: &Storage) -> Self {
        let timeout = Duration::from_millis(limits.fetch_timeout_ms);
        Self {
            stores: storage.single_attempts(timeout, &limits.roots, limits.max_image_bytes),
            hosts: Hosts::new(limits.requests_per_host, timeout),
            roots: limits.roots.clone(),
            max_image_bytes: limits.max_image_bytes,
            timeout,
            retries: limits.retries,
        }
    }

    /// Refuses an image of `size` bytes if that is more than `limits.max_image_bytes`.
    ///
    /// # Errors
    /// `too_large`.
    pub fn check_size(&self, size: u64) -> Result<(), RowError> {
        if size <= self.max_image_bytes {
            return Ok(());
        }
        let message =
            format!("expected at most {} bytes (`limits.max_image_bytes`), found {size}", self.max_image_bytes);
        Err(RowError::new(Stage::Fetch, ErrorKind::TooLarge, message))
    }

    /// Opens the image at `uri`, which may be relative to the folder `base`, and may be a part of a file (see [`byte_range`]).
    ///
    /// # Errors
    /// `invalid_uri`, `forbidden`, `not_found`, `too_large`, or after `limits.retries` further attempts `timeout`, `throttled`,
    /// `server_error`, `connection` or `io`.
    pub async fn open(&self, uri: &str, base: &Location) -> Result<ImageObject<'_>, RowError> {
        // The text is not shown: if it is not a location, any part of it may be a credential.
        let invalid = |error: NotALocation| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, error.to_string());
        let (file, part) = byte_range::split(uri);
        let location = base.resolve(file).map_err(invalid)?;
        if matches!(&location, Location::Object { key, .. } if key.is_empty() || key.ends_with('/')) {
            let message = format!("{location}: expected the URI of an object, found that of a bucket or folder");
            return Err(RowError::new(Stage::Fetch, ErrorKind::InvalidUri, message));
        }
        let turn = self.hosts.turn(&location).await;
        let result = {
            use backon::Retryable as _;
            let get = (|| self.get(&location, part.as_ref())).retry(pauses(self.retries(&location)));
            get.when(is_transient).adjust(wait_as_asked).notify(log_retry(&location)).await?
        };
        let size = result.range.end - result.range.start;
        self.check_size(size)?;
        Ok(ImageObject { size, location, part, fetcher: self, result, turn })
    }

    /// One attempt to open it, or `part` of it: receives the headers, not the body.
    async fn get(&self, location: &Location, part: Option<&Range<u64>>) -> Result<GetResult, RowError> {
        if let Some(path) = location.local() {
            let mut opened = local::open(path, &self.roots, self.timeout).await?;
            if let Some(part) = part {
                check_end(location, part, opened.meta.size)?;
                opened.range = part.clone();
            }
            return Ok(opened);
        }
        if !location.is_within(&self.roots) {
            let message = format!("{location} lies in none of the places of `limits.roots`");
            return Err(RowError::new(Stage::Fetch, ErrorKind::Forbidden, message));
        }
        let get = async {
            let (store, path) = self.stores.open(location).map_err(|error| explain(location, &error))?;
            let options = GetOptions { range: part.cloned().map(GetRange::Bounded), ..GetOptions::default() };
            let opened = store.get_opts(&path, options).await.map_err(|error| explain(location, &error))?;
            part.map_or(Ok(()), |part| check_end(location, part, opened.meta.size))?;
            Ok(opened)
        };
        within(self.timeout, location, get).await
    }

    /// Further attempts to read `location`.
    fn retries(&self, location: &Location) -> u32 {
        if location.local().is_some() { 0 } else { self.retries }
    }

    /// One attempt to read it, opening it first unless it is `opened`.
    async fn read(
        &self,
        location: &Location,
        part: Option<&Range<u64>>,
        opened: Option<GetResult>,
    ) -> Result<Bytes, RowError> {
        let result = match opened {
            Some(result) => result,
            None => self.get(location, part).await?,
        };
        let size = result.range.end - result.range.start;
        self.check_size(size)?;
        let read = async { result.bytes().await.map_err(|error| explain(location, &error)) };
        let bytes = within(self.timeout, location, read).await?;
        if bytes.len() as u64 != size {
            let message = format!("{location}: expected {size} bytes, found {}", bytes.len());
            return Err(RowError::new(Stage::Fetch, ErrorKind::Connection, message));
        }
        Ok(bytes)
    }
}

impl ImageObject<'_> {
    /// Reads it. After an attempt that failed, it is opened anew, so that headers and body always belong together.
    ///
    /// # Errors
    /// As [`Fetcher::open`].
    pub async fn body(self) -> Result<Bytes, RowError> {
        use backon::Retryable as _;
        let Self { location, part, fetcher, result, turn: _turn, .. } = self;
        let (location, part) = (&location, part.as_ref());
        let opened = Mutex::new(Some(result));
        let read = (|| fetcher.read(location, part, opened.lock().unwrap_or_else(PoisonError::into_inner).take()))
            .retry(pauses(fetcher.retries(location)));
        read.when(is_transient).adjust(wait_as_asked).notify(log_retry(location)).await
    }
}

/// Refuses a `part` that does not lie in a file of `size` bytes.
fn check_end(location: &Location, part: &Range<u64>, size: u64) -> Result<(), RowError> {
    if part.end <= size {
        return Ok(());
    }
    let message = format!("{location}: expected an image up to byte {}, found a file of {size} bytes", part.end - 1);
    Err(RowError::new(Stage::Fetch, ErrorKind::NotFound, message))
}

fn is_transient(error: &RowError) -> bool {
    error.kind.is_transient()
}

/// The pause before the next attempt, or the longer one that the server asks for.
fn wait_as_asked(error: &RowError, pause: Option<Duration>) -> Option<Duration> {
    Some(pause?.max(error.retry_after.unwrap_or_default()))
}

fn log_retry(location: &Location) -> impl FnMut(&RowError, Duration) {
    move |error, _| tracing::debug!(%location, kind = error.kind.as_str(), "trying again: {}", error.message)
}

/// The error of a row whose image the store did not give.
fn explain(location: &Location, error: &object_store::Error) -> RowError {
    if let Some(path) = location.local() {
        return local::explain(path, error);
    }
    let Failure { kind, what } = Failure::of(error);
    let message = format!("cannot read {location}: {what}");
    let retry_after = retry_after(error);
    RowError { is_exhausted: is_exhausted(error), retry_after, ..RowError::new(Stage::Fetch, kind, message) }
}
