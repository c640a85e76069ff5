//! HTTP as object stores use it, with three additions: redirects are followed by the rules of [`super::redirect`], hosts of private
//! networks are requested by those of [`super::private_hosts`], and a refused request becomes an error of a public type.
//!
//! The HTTP client of `object_store` follows every redirect, and the status of a failed request is in a private type there. A
//! [`Refusal`] or a [`RefusedRedirect`] can be found in the chain of causes, and `object_store` retries a [`Refusal`] like a response
//! with its status.

use std::error::Error as StdError;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::header::{AUTHORIZATION, CONTENT_LENGTH, HeaderValue};
use object_store::client::{
    ClientConfigKey, HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService,
    SpawnService,
};
use object_store::{ClientOptions, Result};
use reqwest::redirect::Policy;
use tokio::runtime::Handle;
use url::Url;

use super::answers::{Refusal, retry_after};
use super::error::generic;
use super::keys;
use super::location::Location;
use super::private_hosts::{Guard, PrivateHost};
use super::redirect::{self, MAX_REDIRECTS, RefusedRedirect};
use super::settings::RequestPolicy;

/// Makes HTTP clients.
#[derive(Debug, Clone)]
pub(super) struct Connector {
    /// How long requests may take.
    pub(super) policy: RequestPolicy,
    /// Where redirects may lead; empty: anywhere.
    pub(super) roots: Arc<[Location]>,
    /// Which hosts of private networks may be requested.
    pub(super) guard: Guard,
    /// Whether the user has named the hosts that requests are for (a bucket's service, a file of a command line): those are not
    /// subject to `guard`, only other origins that they redirect to.
    pub(super) named: bool,
    /// Whether it requests objects of a bucket, which can be listed.
    pub(super) is_of_bucket: bool,
    /// The runtime that connections live in, while requests come from anywhere. None: the one that makes the requests, which
    /// must always be the same.
    pub(super) runtime: Option<Handle>,
}

/// The connect timeout of a metadata service, which is on the same network if it exists.
const METADATA_CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

impl Connector {
    /// How clients for `options` are made; of these only what [`RequestPolicy::client`] and `object_store` itself set is read.
    fn client_settings(&self, options: &ClientOptions) -> ClientSettings {
        let value = |key| options.get_config_value(&key);
        let timeouts = self.policy.client();
        // `object_store` sets a shorter one for a metadata service.
        let is_ours =
            value(ClientConfigKey::ConnectTimeout) == timeouts.get_config_value(&ClientConfigKey::ConnectTimeout);
        ClientSettings {
            timeout: self.policy.timeout,
            connect_timeout: if is_ours { self.policy.connect_timeout() } else { METADATA_CONNECT_TIMEOUT },
            https_only: value(ClientConfigKey::AllowHttp).as_deref() != Some("true"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct ClientSettings {
    timeout: Duration,
    connect_timeout: Duration,
    https_only: bool,
}

impl ClientSettings {
    /// A client that connects to hosts which `guard` allows, or to all.
    fn client(self, guard: Option<&Guard>) -> reqwest::Result<reqwest::Client> {
        let client = reqwest::Client::builder()
            .user_agent(concat!("nightcap/", env!("CARGO_PKG_VERSION")))
            .timeout(self.timeout)
            .connect_timeout(self.connect_timeout)
            .https_only(self.https_only)
            .redirect(Policy::none())
            // As in `object_store`: HTTP/2 is slower for large objects, and a decompressed body is longer than its `Content-Length`.
            .http1_only()
            .no_gzip()
            .no_brotli()
            .no_zstd()
            .no_deflate();
        match guard {
            Some(guard) => client.dns_resolver(guard.clone()).build(),
            None => client.build(),
        }
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let settings = self.client_settings(options);
        let named = if self.named { Some(settings.client(None).map_err(|error| generic(error.into()))?) } else { None };
        let (guard, roots) = (self.guard.clone(), self.roots.clone());
        let service =
            Service { settings, named, is_of_bucket: self.is_of_bucket, guard, guarded: Arc::default(), roots };
        Ok(match &self.runtime {
            Some(runtime) => HttpClient::new(SpawnService::new(service, runtime.clone())),
            None => HttpClient::new(service),
        })
    }
}

/// Query parameters of requests that list: S3 and Google Cloud Storage, and Azure.
const LISTINGS: [&str; 2] = ["list-type=", "comp=list"];

#[derive(Debug, Clone)]
struct Service {
    settings: ClientSettings,
    /// For the origin that a request is for, if the user has named it. It shares no connection with `guarded`.
    named: Option<reqwest::Client>,
    is_of_bucket: bool,
    guard: Guard,
    /// For all others. It is made when it is needed: most buckets never redirect.
    guarded: Arc<OnceLock<reqwest::Client>>,
    roots: Arc<[Location]>,
}

impl Service {
    /// The response after all redirects.
    async fn follow(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let (mut parts, body) = request.into_parts();
        let (mut url, credentials) = self.split(&parts.method, &parts.uri)?;
        let first = url.origin();
        if let Some(credentials) = credentials {
            parts.headers.entry(AUTHORIZATION).or_insert(credentials);
        }
        let mut redirects = 0;
        loop {
            parts.uri = url.as_str().parse().map_err(|_| refused(RefusedRedirect::Address))?;
            let client = match &self.named {
                Some(client) if url.origin() == first => client,
                _ => {
                    self.guard.check(&url).map_err(refused)?;
                    self.guarded()?
                }
            };
            let response = HttpService::call(client, HttpRequest::from_parts(parts.clone(), body.clone())).await;
            let response = response.map_err(|error| private(&error).map_or(error, refused))?;
            let next = redirect::target(&parts.method, &url, response.status(), response.headers(), &self.roots);
            let Some(next) = next.map_err(refused)? else { return Ok(response) };
            if redirects == MAX_REDIRECTS {
                return Err(refused(RefusedRedirect::TooMany { to: redirect::shown(&next) }));
            }
            if next.origin() != url.origin() {
                redirect::leave_origin(&mut parts.headers);
            }
            url = next;
            redirects += 1;
        }
    }

    /// The client for hosts that `guard` allows.
    fn guarded(&self) -> Result<&reqwest::Client, HttpError> {
        if let Some(client) = self.guarded.get() {
            return Ok(client);
        }
        let client = self.settings.client(Some(&self.guard));
        let client = client.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error))?;
        Ok(self.guarded.get_or_init(|| client))
    }

    /// A request's URL without name and password, and these as the header in which they are sent.
    fn split(&self, method: &http::Method, uri: &http::Uri) -> Result<(Url, Option<HeaderValue>), HttpError> {
        let client = self.named.as_ref().map_or_else(|| self.guarded(), Ok)?;
        let request = client.request(method.clone(), uri.to_string()).build();
        let request = request.map_err(|error| HttpError::new(HttpErrorKind::Unknown, error.without_url()))?;
        Ok((request.url().clone(), request.headers().get(AUTHORIZATION).cloned()))
    }
}

/// A page of a listing, without the keys for which `object_store` would refuse it or that it would take for others.
async fn listed(response: HttpResponse) -> Result<HttpResponse, HttpError> {
    static SAID: AtomicBool = AtomicBool::new(false);
    let (mut head, body) = response.into_parts();
    let body = body.bytes().await?;
    let Some((kept, left_out)) = std::str::from_utf8(&body).ok().and_then(keys::without_odd_keys) else {
        return Ok(HttpResponse::from_parts(head, body.into()));
    };
    if !SAID.swap(true, Ordering::Relaxed) {
        let expected = keys::EXPECTED;
        tracing::warn!(left_out, "objects are left out of a listing; expected {expected}");
    }
    head.headers.remove(CONTENT_LENGTH);
    Ok(HttpResponse::from_parts(head, kept.into()))
}

fn refused(why: impl StdError + Send + Sync + 'static) -> HttpError {
    HttpError::new(HttpErrorKind::Unknown, why)
}

/// The host that was not connected to, if that is why a request failed.
fn private(error: &HttpError) -> Option<PrivateHost> {
    let mut causes = std::iter::successors(error.source(), |&cause| cause.source());
    causes.find_map(|cause| cause.downcast_ref::<PrivateHost>()).cloned()
}

impl HttpService for Service {
    fn call<'service, 'future>(
        &'service self,
        request: HttpRequest,
    ) -> Pin<Box<dyn Future<Output = Result<HttpResponse, HttpError>> + Send + 'future>>
    where
        'service: 'future,
        Self: 'future,
    {
        Box::pin(async move {
            // `object_store` does not distinguish statuses of listings.
            let is_listing =
                request.uri().query().is_some_and(|query| LISTINGS.iter().any(|mark| query.contains(mark)));
            let response = self.follow(request).await?;
            let status = response.status().as_u16();
            if is_listing && self.is_of_bucket && status == 200 {
                return listed(response).await;
            }
            // Statuses that `object_store` distinguishes itself are left to it.
            if status < 300 || status == 304 || (!is_listing && matches!(status, 401 | 403 | 404 | 409 | 412)) {
                return Ok(response);
            }
            let retry_after = retry_after(response.headers());
            let passing = status >= 500 || matches!(status, 408 | 429);
            let kind = if passing { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
            let body = response.into_body().bytes().await.unwrap_or_default();
            let body = String::from_utf8_lossy(&body);
            let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
            let code = code.map(|(code, _)| code.chars().take(64).collect());
            Err(HttpError::new(kind, Refusal { status, code, retry_after }))
        })
    }
}
