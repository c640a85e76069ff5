//! Reads and conditional writes under OUTPUT, through `object_store`.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use backon::Retryable;
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::prefix::PrefixStore;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt, PutMode, PutOptions};
use serde::de::DeserializeOwned;

use super::process::{OperatingSystem, Process};
use super::{OutputError, local_files};
use crate::storage::{Failure, Location, Storage, lacks_condition, pauses};
use crate::support::{failpoint, regular_file};

/// What a conditional put found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// The object was created, whole.
    Created,
    /// An object was there already and was not changed.
    Exists,
}

/// The objects of one OUTPUT. Calls block; they may come from any thread.
#[derive(Debug)]
pub struct OutputStore {
    store: Arc<dyn ObjectStore>,
    /// The same store without retries: after a retry, "exists" may mean that the first attempt has succeeded.
    puts: Arc<dyn ObjectStore>,
    runtime: tokio::runtime::Runtime,
    connection: Connection,
    location: Location,
    process: Arc<dyn Process>,
}

/// How the object store was reached.
#[derive(Debug)]
enum Connection {
    /// Through this storage, which drives the connections.
    Storage(Arc<Storage>),
    /// The caller made it. Puts that meet an outage are repeated so many times.
    Given(u32),
}

impl OutputStore {
    /// Opens an OUTPUT without checking its format. In a bucket, a prefix without objects is an empty OUTPUT.
    ///
    /// # Errors
    /// [`OutputError::Folder`] when it cannot be read, [`OutputError::Unreachable`] when it cannot be listed.
    pub(super) fn connect(location: &Location, storage: &Arc<Storage>) -> Result<Self, OutputError> {
        let runtime = runtime(location)?;
        let (store, puts): (Arc<dyn ObjectStore>, Arc<dyn ObjectStore>) = match location {
            Location::Local(path) => {
                let folder = |source| OutputError::Folder { path: path.clone(), source };
                std::fs::read_dir(path).map_err(folder)?;
                let store = LocalFileSystem::new_with_prefix(path).map_err(|source| store_error("open", "", source))?;
                let store = Arc::new(store.with_fsync(true));
                (store.clone(), store)
            }
            Location::Http(_) => return Err(OutputError::WebServer { location: location.to_string() }),
            Location::Object { .. } => {
                let unreachable = |source| OutputError::Unreachable { location: location.to_string(), source };
                let (store, prefix) = storage.open(location).map_err(unreachable)?;
                let store = PrefixStore::new(store, prefix);
                let first = async { store.list(None).try_next().await };
                runtime.block_on(first).map_err(unreachable)?;
                let (puts, prefix) = storage.open_without_retries(location).map_err(unreachable)?;
                (Arc::new(store), Arc::new(PrefixStore::new(puts, prefix)))
            }
        };
        let (connection, process) = (Connection::Storage(storage.clone()), Arc::new(OperatingSystem::this()));
        Ok(Self { store, puts, runtime, connection, location: location.clone(), process })
    }

    /// The OUTPUT in any object store, used by `process`. `location` stands for it in messages, and must not be a local path. The
    /// store must not repeat a put on its own; a put that meets an outage is repeated here up to `retries` times.
    ///
    /// # Errors
    /// [`OutputError::Folder`] when the operating system refuses what blocking calls need.
    pub fn over(
        store: Arc<dyn ObjectStore>,
        location: Location,
        process: Arc<dyn Process>,
        retries: u32,
    ) -> Result<Self, OutputError> {
        let runtime = runtime(&location)?;
        Ok(Self { puts: store.clone(), store, runtime, connection: Connection::Given(retries), location, process })
    }

    /// The same OUTPUT, but requests are given up after `timeout`.
    ///
    /// # Errors
    /// [`OutputError::Folder`] and [`OutputError::Unreachable`].
    pub(super) fn with_timeout(&self, timeout: Duration) -> Result<Self, OutputError> {
        let process = self.process.clone();
        match &self.connection {
            Connection::Storage(storage) => {
                let storage = Arc::new(storage.for_short_requests(timeout));
                Ok(Self { process, ..Self::connect(&self.location, &storage)? })
            }
            Connection::Given(_) => Self::over(self.store.clone(), self.location.clone(), process, 0),
        }
    }

    /// The process that uses it.
    #[must_use]
    pub fn process(&self) -> &dyn Process {
        &*self.process
    }

    /// Where it is.
    #[must_use]
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// A random word of `digits` letters and digits, for names that no other process may choose.
    #[must_use]
    pub fn random(&self, digits: usize) -> String {
        let digit = |_| char::from_digit((self.process.random() % 36) as u32, 36).unwrap_or('0');
        (0..digits).map(digit).collect()
    }

    /// Puts `bytes` at `path` unless there is an object: atomically.
    ///
    /// # Errors
    /// [`OutputError::Store`] for anything but "exists".
    pub fn put_new(&self, path: &str, bytes: impl Into<Bytes>) -> Result<Put, OutputError> {
        let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        failpoint::hit("before_put");
        self.refuse_links(path)?;
        let location = ObjectPath::from(path);
        let bytes: Bytes = bytes.into();
        let mut repeated = false;
        let retries = match &self.connection {
            Connection::Storage(storage) => storage.retries(),
            Connection::Given(retries) => *retries,
        };
        let process = self.process.clone();
        let put = (|| self.puts.put_opts(&location, bytes.clone().into(), options.clone()))
            .retry(pauses(retries))
            // Nothing else runs on this runtime.
            .sleep(move |pause| {
                process.sleep(pause);
                std::future::ready(())
            })
            .when(|error| Failure::of(error).kind.is_outage() && !lacks_condition(error))
            .notify(|error, _| {
                tracing::debug!("putting again: {}", Failure::of(error));
                repeated = true;
            });
        let result = self.runtime.block_on(put);
        let outcome = match result {
            Ok(_) => Ok(Put::Created),
            // The response of the first attempt may have been lost: then the retry finds the object that the first one put.
            Err(object_store::Error::AlreadyExists { .. }) if repeated && self.get(path)?.as_ref() == Some(&bytes) => {
                Ok(Put::Created)
            }
            Err(object_store::Error::AlreadyExists { .. }) => Ok(Put::Exists),
            Err(source) => Err(store_error("write", path, source)),
        };
        failpoint::hit("after_put");
        outcome
    }

    /// Puts `bytes` at `path`, also over an object: for heartbeats and for reading the clock of the storage, never for results.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn put_over(&self, path: &str, bytes: impl Into<Bytes>) -> Result<(), OutputError> {
        self.refuse_links(path)?;
        let location = ObjectPath::from(path);
        let put = self.store.put(&location, bytes.into().into());
        self.runtime.block_on(put).map(drop).map_err(|source| store_error("write", path, source))
    }

    /// Removes the object at `path`, if there is one.
    ///
    /// # Errors
    /// [`OutputError::Store`] for anything but "not found"; [`OutputError::Folder`] when a folder above it is a link.
    pub fn delete(&self, path: &str) -> Result<(), OutputError> {
        failpoint::hit("before_delete");
        if let Some(root) = self.location.local() {
            return local_files::remove(root, path).map_err(|source| folder_error(root, path, source));
        }
        match self.runtime.block_on(self.store.delete(&ObjectPath::from(path))) {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(source) => Err(store_error("remove", path, source)),
        }
    }

    /// Removes what no listing shows, on a local disk only: the staging files `NAME#1` of puts that were killed, and
    /// `folder` itself once it is empty.
    ///
    /// # Errors
    /// [`OutputError::Folder`].
    pub fn sweep(&self, folder: &str) -> Result<(), OutputError> {
        let Some(root) = self.location.local() else { return Ok(()) };
        local_files::sweep(root, folder).map_err(|source| folder_error(root, folder, source))
    }

    /// Refuses `path` if a folder above it is a link, on a local disk.
    fn refuse_links(&self, path: &str) -> Result<(), OutputError> {
        let Some(root) = self.location.local() else { return Ok(()) };
        local_files::refuse_links(root, path).map_err(|source| folder_error(root, path, source))
    }

    /// Whether `folder` is a link, on a local disk.
    pub(super) fn is_link(&self, folder: &str) -> bool {
        self.location.local().is_some_and(|root| local_files::is_link(root, folder))
    }

    /// When the object at `path` was last put, by the storage's own clock, or None.
    ///
    /// # Errors
    /// [`OutputError::Store`] for anything but "not found".
    pub fn modified(&self, path: &str) -> Result<Option<chrono::DateTime<chrono::Utc>>, OutputError> {
        match self.runtime.block_on(self.store.head(&ObjectPath::from(path))) {
            Ok(meta) => Ok(Some(meta.last_modified)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(store_error("look at", path, source)),
        }
    }

    /// Waits for `work`, which fetches from this OUTPUT.
    pub(in crate::output) fn wait<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// `length` bytes of the object at `path` from byte `start` on; fewer when it ends before.
    ///
    /// # Errors
    /// [`OutputError::Store`], also when it is not there.
    pub fn range(&self, path: &str, start: u64, length: u64) -> Result<Bytes, OutputError> {
        self.wait(self.fetch_range(path, start, length))
    }

    /// As [`OutputStore::range`], without blocking.
    pub(in crate::output) async fn fetch_range(
        &self,
        path: &str,
        start: u64,
        length: u64,
    ) -> Result<Bytes, OutputError> {
        if length == 0 {
            return Ok(Bytes::new());
        }
        let get = self.store.get_range(&ObjectPath::from(path), start..start + length).await;
        get.map_err(|source| store_error("read", path, source))
    }

    /// The file at `path`, opened; None if this OUTPUT is not on this machine.
    pub(in crate::output) fn open_local(&self, path: &str) -> Option<Result<File, OutputError>> {
        let found = regular_file::open(&self.location.local()?.join(path));
        Some(found.map_err(|source| {
            let source = Box::new(source);
            store_error("read", path, object_store::Error::Generic { store: "file", source })
        }))
    }

    /// The object at `path`, or None.
    ///
    /// # Errors
    /// [`OutputError::Store`] for anything but "not found".
    pub fn get(&self, path: &str) -> Result<Option<Bytes>, OutputError> {
        let get = async { self.store.get(&ObjectPath::from(path)).await?.bytes().await };
        match self.runtime.block_on(get) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(source) => Err(store_error("read", path, source)),
        }
    }

    /// The last `length` bytes of the object at `path` (all of it when it is shorter), and its size.
    ///
    /// # Errors
    /// [`OutputError::Store`], also when it is not there.
    pub fn tail(&self, path: &str, length: u64) -> Result<(Bytes, u64), OutputError> {
        self.wait(self.fetch_tail(path, length))
    }

    /// As [`OutputStore::tail`], without blocking.
    pub(in crate::output) async fn fetch_tail(&self, path: &str, length: u64) -> Result<(Bytes, u64), OutputError> {
        let location = ObjectPath::from(path);
        let get = async |range| {
            let options = GetOptions { range: Some(range), ..GetOptions::default() };
            let result = self.store.get_opts(&location, options).await?;
            let size = result.meta.size;
            Ok((result.bytes().await?, size))
        };
        let tail = match get(GetRange::Suffix(length)).await {
            // Azure does not support suffix ranges.
            Err(object_store::Error::NotSupported { .. }) => match self.store.head(&location).await {
                Ok(meta) => get(GetRange::Offset(meta.size.saturating_sub(length))).await,
                Err(error) => Err(error),
            },
            outcome => outcome,
        };
        tail.map_err(|source| store_error("read", path, source))
    }

    /// The JSON record at `path`, or None.
    ///
    /// # Errors
    /// [`OutputError::Store`], or [`OutputError::Record`] when it does not parse.
    pub fn record<T: DeserializeOwned>(&self, path: &str) -> Result<Option<T>, OutputError> {
        let Some(bytes) = self.get(path)? else { return Ok(None) };
        let parsed = serde_json::from_slice(&bytes);
        parsed.map(Some).map_err(|e| OutputError::Record { path: path.to_owned(), message: e.to_string() })
    }

    /// File names directly under `folder`, sorted.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn files(&self, folder: &str) -> Result<Vec<String>, OutputError> {
        if let Some(root) = self.location.local() {
            let entries = local_files::entries(root, folder);
            return Ok(entries.map_err(|source| folder_error(root, folder, source))?.files);
        }
        let listing = self.store.list(Some(&ObjectPath::from(folder))).map_ok(|meta| meta.location);
        let names = listing.try_filter_map(|location| async move {
            let below = location.as_ref().strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
            Ok(below.filter(|name| !name.contains('/')).map(str::to_owned))
        });
        let mut names: Vec<String> =
            self.runtime.block_on(names.try_collect()).map_err(|source| store_error("list", folder, source))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Names of the folders directly under `folder`, sorted.
    ///
    /// # Errors
    /// [`OutputError::Store`].
    pub fn folders(&self, folder: &str) -> Result<Vec<String>, OutputError> {
        if let Some(root) = self.location.local() {
            let entries = local_files::entries(root, folder);
            return Ok(entries.map_err(|source| folder_error(root, folder, source))?.folders);
        }
        let listing = self.runtime.block_on(self.store.list_with_delimiter(Some(&ObjectPath::from(folder))));
        let listing = listing.map_err(|source| store_error("list", folder, source))?;
        let mut names: Vec<String> =
            listing.common_prefixes.iter().filter_map(|path| path.filename().map(str::to_owned)).collect();
        names.sort_unstable();
        Ok(names)
    }
}

fn runtime(location: &Location) -> Result<tokio::runtime::Runtime, OutputError> {
    let failed = |source| OutputError::Folder { path: location.to_string().into(), source };
    tokio::runtime::Builder::new_current_thread().enable_time().build().map_err(failed)
}

fn folder_error(root: &Path, path: &str, source: std::io::Error) -> OutputError {
    OutputError::Folder { path: root.join(path), source }
}

fn store_error(action: &'static str, path: &str, source: object_store::Error) -> OutputError {
    OutputError::Store { action, path: path.to_owned(), source }
}
