//! Gets image bytes from where a row says they are.
//!
//! In: a path or URI and the folder it is relative to. Out: size first, then bytes, so that the caller can make room in between.
//! What may pass is tried again; what remains is a [`RowError`]. Never here: decoding.

mod local;
mod probe;

use std::fmt::Display;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

use bytes::Bytes;
use object_store::{GetResult, ObjectStoreExt};

pub use self::probe::Roots;
use crate::job::Limits;
use crate::row_error::{ErrorKind, RowError, Stage};
use crate::storage::{Failure, Location, NotALocation, SingleAttempts, Storage};

/// The pause before the first further attempt; each later one is twice as long, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Opens images under the job's limits. All of its requests must come from one runtime.
#[derive(Debug)]
pub struct Fetcher {
    stores: SingleAttempts,
    roots: Vec<Location>,
    max_image_bytes: u64,
    timeout: Duration,
    retries: u32,
}

/// An image that exists and is small enough, not read yet.
#[derive(Debug)]
pub struct Object<'a> {
    /// Bytes it has.
    pub size: u64,
    location: Location,
    fetcher: &'a Fetcher,
    result: GetResult,
}

impl Fetcher {
    /// A fetcher for the job's limits.
    #[must_use]
    pub fn new(limits: &Limits, storage: &Storage) -> Self {
        let timeout = Duration::from_millis(limits.fetch_timeout_ms);
        Self {
            stores: storage.single_attempts(timeout),
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

    /// Opens the image at `uri`, seen from the folder `base`.
    ///
    /// # Errors
    /// `invalid_uri`, `forbidden`, `not_found`, `too_large`, or after `limits.retries` further attempts `timeout`, `throttled`,
    /// `server_error`, `connection` or `io`.
    pub async fn open(&self, uri: &str, base: &Location) -> Result<Object<'_>, RowError> {
        // What is no location is not repeated: nobody knows where in it a credential stands.
        let invalid = |error: NotALocation| RowError::new(Stage::Fetch, ErrorKind::InvalidUri, error.to_string());
        let location = base.resolve(uri).map_err(invalid)?;
        if matches!(&location, Location::Object { key, .. } if key.is_empty() || key.ends_with('/')) {
            let message = format!("{location}: expected the URI of an object, found that of a bucket or folder");
            return Err(RowError::new(Stage::Fetch, ErrorKind::InvalidUri, message));
        }
        let result = self.persistently(&location, async || self.get(&location).await).await?;
        let size = result.meta.size;
        self.check_size(size)?;
        Ok(Object { size, location, fetcher: self, result })
    }

    /// One attempt to open it: the headers are here, the body is not.
    async fn get(&self, location: &Location) -> Result<GetResult, RowError> {
        if let Some(path) = location.local() {
            local::check_file(path, &self.roots, self.timeout).await?;
        } else if !self.roots.is_empty() && !self.roots.iter().any(|root| location.lies_in(root)) {
            let message = format!("{location} lies in none of the places of `limits.roots`");
            return Err(RowError::new(Stage::Fetch, ErrorKind::Forbidden, message));
        }
        let get = async {
            let (store, path) = self.stores.open(location).map_err(|error| explain(location, &error))?;
            store.get(&path).await.map_err(|error| explain(location, &error))
        };
        within(self.timeout, location, get).await
    }

    /// Tries `attempt` until it succeeds, fails for good, or has failed once more than `limits.retries`.
    async fn persistently<T>(
        &self,
        location: &Location,
        mut attempt: impl AsyncFnMut() -> Result<T, RowError>,
    ) -> Result<T, RowError> {
        let mut pause = FIRST_PAUSE;
        let mut retries = if location.local().is_some() { 0 } else { self.retries };
        loop {
            match attempt().await {
                Err(error) if error.kind.is_transient() && retries > 0 => {
                    tracing::debug!(%location, kind = error.kind.as_str(), "trying again: {}", error.message);
                    retries -= 1;
                    tokio::time::sleep(jittered(pause)).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                outcome => return outcome,
            }
        }
    }
}

/// An image's bytes, with the version of the object that they are.
#[derive(Debug)]
pub struct Body {
    /// All of them.
    pub bytes: Bytes,
    /// What changes when the content does: the `ETag`, or the last modification in nanoseconds since 1970.
    pub version: String,
}

impl Object<'_> {
    /// Reads it. After an attempt that failed, it is opened anew, so that headers and body always belong together.
    ///
    /// # Errors
    /// As [`Fetcher::open`].
    pub async fn body(self) -> Result<Body, RowError> {
        let Self { location, fetcher, result, .. } = self;
        let mut opened = Some(result);
        let attempt = async || {
            let result = match opened.take() {
                Some(result) => result,
                None => fetcher.get(&location).await?,
            };
            let (size, version) = (result.meta.size, version(&location, &result));
            fetcher.check_size(size)?;
            let read = async { result.bytes().await.map_err(|error| explain(&location, &error)) };
            let bytes = within(fetcher.timeout, &location, read).await?;
            if bytes.len() as u64 != size {
                let message = format!("{location}: expected {size} bytes, found {}", bytes.len());
                return Err(RowError::new(Stage::Fetch, ErrorKind::Connection, message));
            }
            Ok(Body { bytes, version })
        };
        fetcher.persistently(&location, attempt).await
    }
}

fn version(location: &Location, result: &GetResult) -> String {
    let modified = || result.meta.last_modified.timestamp_nanos_opt().unwrap_or(0).to_string();
    match (&result.meta.e_tag, location) {
        (Some(tag), Location::Object { .. } | Location::Http(_)) => tag.clone(),
        _ => modified(),
    }
}

/// Half of `pause` to all of it, so that workers that failed together do not come back together.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish();
    pause.mul_f64(0.5 + 0.5 * (random as f64 / u64::MAX as f64))
}

async fn within<T>(
    timeout: Duration,
    shown: &impl Display,
    work: impl Future<Output = Result<T, RowError>>,
) -> Result<T, RowError> {
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        let limit_ms = timeout.as_millis();
        let message = format!("{shown}: no answer within {limit_ms} ms (`limits.fetch_timeout_ms`)");
        Err(RowError::new(Stage::Fetch, ErrorKind::Timeout, message))
    })
}

/// A store's error as the row's.
fn explain(location: &Location, error: &object_store::Error) -> RowError {
    if let Some(path) = location.local() {
        return local::explain(path, error);
    }
    let Failure { kind, what } = Failure::of(error);
    RowError::new(Stage::Fetch, kind, format!("cannot read {location}: {what}"))
}
