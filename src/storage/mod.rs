//! Storage by URI: local paths, `s3://`, `gs://`, `az://`, `http(s)://`.
//!
//! In: `[storage]` of the job and the environment. Out: an object store and a path in it for any [`Location`]. Never here:
//! what is read or written. No message shows a credential: neither that of a [`Location`] nor that of a [`Failure`].
//!
//! [`Location`] is what users write (`paths` for local ones), `settings`, `environment` and `credentials` say how it is reached, `clouds`
//! makes the stores of buckets, `connector` and `redirect` their HTTP client, `private_hosts` and `addresses` say which hosts it may
//! connect to, `web` reads files of web servers, `failure` says what errors and `answers`
//! mean, `byte_range` says which part of a file is meant, `hidden_parents` finds a `..` that a URL hides, `keys` knows the keys that
//! no request can name. `cache` keeps local copies of
//! remote model directories; `diagnosis` is for `nightcap doctor`.

mod addresses;
mod answers;
pub mod byte_range;
mod cache;
mod clouds;
mod connector;
mod credentials;
pub mod data_uri;
mod diagnosis;
pub mod environment;
mod error;
mod failure;
mod hidden_parents;
pub(crate) mod keys;
mod location;
pub(crate) mod paths;
mod private_hosts;
mod redirect;
mod settings;
mod web;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use object_store::client::{HttpClient, HttpConnector};
use object_store::local::LocalFileSystem;
use object_store::path::Path as ObjectPath;
use object_store::{ObjectStore, Result};
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use self::clouds::Clouds;
use self::connector::Connector;
pub use self::diagnosis::{CredentialSources, credential_sources, model_cache};
use self::error::generic;
pub use self::failure::Failure;
pub(crate) use self::failure::{explain, lacks_condition, retry_after};
pub use self::location::{Cloud, Location, NotALocation};
use self::private_hosts::Guard;
pub use self::private_hosts::PrivateHosts;
use self::settings::RequestPolicy;
pub(crate) use self::settings::pauses;
pub use self::settings::{DEFAULT_RETRIES, DEFAULT_TIMEOUT, StorageSettings};
use self::web::WebFile;

/// A store and the path in it.
pub(crate) type StoreAndPath = (Arc<dyn ObjectStore>, ObjectPath);

/// The timeout of a request that carries a part, as a multiple of that for an image.
const PART_TIMEOUT_FACTOR: u32 = 5;

/// Opens locations, and keeps one object store for each bucket or server. Requests may come from any thread or runtime, since a
/// thread of its own drives the connections.
#[derive(Debug)]
pub struct Storage {
    clouds: Clouds,
    policy: RequestPolicy,
    /// The hosts of private networks that web servers may be on; None: all hosts are named by the user.
    private_hosts: Option<PrivateHosts>,
    /// Where redirects may lead; empty: anywhere.
    roots: Arc<[Location]>,
    connections: Mutex<Option<Connections>>,
    stores: Stores,
    without_retries: Stores,
}

/// The thread that drives the connections. It ends when this is dropped.
#[derive(Debug)]
struct Connections {
    runtime: Handle,
    _running: oneshot::Sender<()>,
}

impl Storage {
    /// Storage with the job's settings; `retries` and `timeout` as in its `[limits]`. Web servers may be on any host.
    #[must_use]
    pub fn new(settings: &StorageSettings, retries: u32, timeout: Duration) -> Self {
        Self::with(Clouds::new(settings), retries, timeout)
    }

    fn with(clouds: Clouds, retries: u32, timeout: Duration) -> Self {
        let policy = RequestPolicy { retries, timeout: timeout * PART_TIMEOUT_FACTOR, most_bytes: None };
        let (stores, without_retries) = (Stores::default(), Stores::default());
        let (private_hosts, roots) = (None, Arc::default());
        Self { clouds, policy, private_hosts, roots, connections: Mutex::new(None), stores, without_retries }
    }

    /// The same storage, which reads from web servers of private networks only if they are among `hosts`. The service of a bucket
    /// is not a web server: the operator has named it.
    #[must_use]
    pub fn on_private_hosts(mut self, hosts: &PrivateHosts) -> Self {
        self.private_hosts = Some(hosts.clone());
        self
    }

    /// The same storage for reading what a manifest names: redirects may lead into `roots` only; none: anywhere.
    pub(crate) fn within(&self, roots: &[Location]) -> Self {
        let Self { clouds, policy, private_hosts, .. } = self;
        let timeout = policy.timeout / PART_TIMEOUT_FACTOR;
        let private_hosts = private_hosts.clone();
        Self { private_hosts, roots: roots.into(), ..Self::with(clouds.clone(), policy.retries, timeout) }
    }

    /// Storage as the environment alone describes it, for commands without a job.
    #[must_use]
    pub fn from_environment() -> Self {
        Self::new(&StorageSettings::default(), DEFAULT_RETRIES, DEFAULT_TIMEOUT)
    }

    /// The same storage with another timeout for each request, and one retry.
    pub(crate) fn for_short_requests(&self, timeout: Duration) -> Self {
        let private_hosts = self.private_hosts.clone();
        Self { private_hosts, ..Self::with(self.clouds.clone(), 1, timeout / PART_TIMEOUT_FACTOR) }
    }

    /// The store of `location`, which retries transient failures.
    ///
    /// # Errors
    /// When the settings or the environment make no store.
    pub(crate) fn open(&self, location: &Location) -> Result<StoreAndPath> {
        self.open_in(&self.stores, location, self.policy)
    }

    /// The store of `location`, which does not retry: for callers that must know whether a request was repeated.
    ///
    /// # Errors
    /// As [`Storage::open`].
    pub(crate) fn open_without_retries(&self, location: &Location) -> Result<StoreAndPath> {
        self.open_in(&self.without_retries, location, RequestPolicy { retries: 0, ..self.policy })
    }

    fn open_in(&self, stores: &Stores, location: &Location, policy: RequestPolicy) -> Result<StoreAndPath> {
        let runtime = match location {
            Location::Local(_) => None,
            _ => Some(self.runtime().map_err(|error| generic(error.into()))?),
        };
        stores.open(&self.clouds, location, &self.connector(policy, self.roots.clone(), runtime))
    }

    fn connector(&self, policy: RequestPolicy, roots: Arc<[Location]>, runtime: Option<Handle>) -> Connector {
        let guard = Guard::new(self.private_hosts.clone().unwrap_or_default());
        Connector { policy, roots, guard, named: self.private_hosts.is_none(), is_of_bucket: false, runtime }
    }

    /// Retries after a transient failure.
    pub(crate) const fn retries(&self) -> u32 {
        self.policy.retries
    }

    /// Stores for many requests for files of at most `most_bytes` from one runtime, without retries. Redirects may lead into `roots`
    /// only; none: anywhere.
    pub(crate) fn single_attempts(&self, timeout: Duration, roots: &[Location], most_bytes: u64) -> SingleAttempts {
        let policy = RequestPolicy { retries: 0, timeout, most_bytes: Some(most_bytes) };
        let connector = self.connector(policy, roots.into(), None);
        SingleAttempts { clouds: self.clouds.clone(), connector, stores: Stores::default() }
    }

    /// Blocks until `work` is done. Must not be called from a runtime's thread.
    ///
    /// # Errors
    /// Those of `work`; also when the thread that drives connections could not be started.
    pub(crate) fn wait<T: Send + 'static>(&self, work: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let runtime = self.runtime().map_err(|error| generic(error.into()))?;
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        runtime.spawn(async move {
            // Fails only if the waiting thread has ended.
            let _ = done.send(work.await);
        });
        outcome.recv().unwrap_or_else(|_| Err(generic("the storage thread has ended".into())))
    }

    fn runtime(&self) -> std::io::Result<Handle> {
        let mut connections = self.connections.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Connections { runtime, .. }) = &*connections {
            return Ok(runtime.clone());
        }
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (running, end) = oneshot::channel();
        std::thread::Builder::new().name("storage".to_owned()).spawn(move || {
            // Nothing is sent: the thread ends when the sender is dropped.
            let _ = runtime.block_on(end);
            runtime.shutdown_background();
        })?;
        *connections = Some(Connections { runtime: handle.clone(), _running: running });
        Ok(handle)
    }
}

/// Stores that do not retry, for a caller that does. All requests must come from one runtime.
#[derive(Debug)]
pub(crate) struct SingleAttempts {
    clouds: Clouds,
    connector: Connector,
    stores: Stores,
}

impl SingleAttempts {
    /// The store of `location`.
    pub(crate) fn open(&self, location: &Location) -> Result<StoreAndPath> {
        self.stores.open(&self.clouds, location, &self.connector)
    }
}

/// The stores in use: one for each bucket, one client for all web servers.
#[derive(Debug, Default)]
struct Stores {
    buckets: Mutex<HashMap<String, Arc<dyn ObjectStore>>>,
    web: Mutex<Option<HttpClient>>,
}

impl Stores {
    fn open(&self, clouds: &Clouds, location: &Location, connector: &Connector) -> Result<StoreAndPath> {
        match location {
            Location::Local(path) => Ok((Arc::new(LocalFileSystem::new()), ObjectPath::from_absolute_path(path)?)),
            Location::Object { cloud, bucket, key } => {
                // A slash at the end is written for a folder.
                let name = key.strip_suffix('/').unwrap_or(key);
                if !keys::is_spellable(name) {
                    let source = object_store::path::Error::EmptySegment { path: key.clone() };
                    return Err(object_store::Error::InvalidPath { source });
                }
                let path = ObjectPath::parse(name)?;
                let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(store) = buckets.get(&location.authority()) {
                    return Ok((store.clone(), path));
                }
                let store = clouds.bucket(
                    *cloud,
                    bucket,
                    Connector { named: true, is_of_bucket: true, ..connector.clone() },
                )?;
                buckets.insert(location.authority(), store.clone());
                Ok((store, path))
            }
            Location::Http(url) => {
                let mut web = self.web.lock().unwrap_or_else(PoisonError::into_inner);
                let client = match &*web {
                    Some(client) => client.clone(),
                    None => web.insert(connector.connect(&connector.policy.client().with_allow_http(true))?).clone(),
                };
                let file = WebFile::new(url.clone(), client, connector.policy.retries, connector.policy.most_bytes);
                Ok((Arc::new(file), ObjectPath::default()))
            }
        }
    }
}
