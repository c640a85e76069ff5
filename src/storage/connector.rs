//! HTTP as object stores use it, with one thing added: an answer that says "not now" becomes an error of a public type.
//!
//! `object_store` keeps the status of a failed request in a private type. A [`Refusal`] in the chain of causes can be found
//! again, and `object_store` retries it like the answer that it stands for.

use std::fmt;
use std::pin::Pin;

use object_store::client::{
    HttpClient, HttpConnector, HttpError, HttpErrorKind, HttpRequest, HttpResponse, HttpService, ReqwestConnector,
    SpawnedReqwestConnector,
};
use object_store::{ClientOptions, Result};
use tokio::runtime::Handle;

/// An answer without the object: its HTTP status, and the store's own word for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// As in `503`.
    pub(super) status: u16,
    /// As in `SlowDown`, from an XML body.
    pub(super) code: Option<String>,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.status)?;
        self.code.iter().try_for_each(|code| write!(f, " {code}"))
    }
}

impl std::error::Error for Refusal {}

/// Makes HTTP clients.
#[derive(Debug, Clone)]
pub(super) enum Connector {
    /// Connections live in the runtime that makes the requests, which must be one.
    Here,
    /// Connections live in this runtime, requests come from anywhere.
    In(Handle),
    /// All that connect share this client.
    Shared(HttpClient),
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> Result<HttpClient> {
        let client = match self {
            Self::Here => ReqwestConnector::default().connect(options)?,
            Self::In(runtime) => SpawnedReqwestConnector::new(runtime.clone()).connect(options)?,
            Self::Shared(client) => return Ok(client.clone()),
        };
        Ok(HttpClient::new(Service(client)))
    }
}

/// What stands in the query of a request that lists: of S3 and Google Cloud Storage, and of Azure.
const LISTINGS: [&str; 2] = ["list-type=", "comp=list"];

#[derive(Debug)]
struct Service(HttpClient);

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
            // Of listings, object_store tells no status apart.
            let is_listing =
                request.uri().query().is_some_and(|query| LISTINGS.iter().any(|mark| query.contains(mark)));
            let response = self.0.execute(request).await?;
            let status = response.status().as_u16();
            // What object_store tells apart itself stays as it is.
            if status < 400 || (!is_listing && matches!(status, 401 | 403 | 404 | 409 | 412)) {
                return Ok(response);
            }
            let passing = status >= 500 || matches!(status, 408 | 429);
            let kind = if passing { HttpErrorKind::Request } else { HttpErrorKind::Unknown };
            let body = response.into_body().bytes().await.unwrap_or_default();
            let body = String::from_utf8_lossy(&body);
            let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
            let code = code.map(|(code, _)| code.chars().take(64).collect());
            Err(HttpError::new(kind, Refusal { status, code }))
        })
    }
}
