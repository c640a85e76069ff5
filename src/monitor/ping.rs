//! Pings of a dead man's switch, such as healthchecks.io: `URL/start` when the command starts, `URL` when it ends with status 0,
//! `URL/<exit status>` otherwise. A ping that fails is logged and changes nothing. The URL is a secret: it is never logged.

use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use reqwest::redirect::Policy;
use reqwest::{Client, StatusCode};
use tokio::runtime::{Builder, Runtime};
use url::Url;

use crate::support::redact;

/// The longest that one attempt may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The fewest characters of a URL's path that can be a secret.
const SHORTEST_SECRET: usize = 8;
/// Between two attempts.
const PAUSE: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 2;

/// The address of a dead man's switch; its `Debug` form does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct PingUrl(Url);

impl std::fmt::Debug for PingUrl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PingUrl({})", self.0.host_str().unwrap_or_default())
    }
}

/// Reads the argument of `--ping`.
///
/// # Errors
/// A message that does not repeat the text.
pub fn ping_url(text: &str) -> Result<PingUrl, String> {
    // Whatever it is, its part behind the scheme may be the secret; a shorter one is none, and may be a word of every message.
    let secret = |text: &str| {
        let text = text.trim_start_matches("https:").trim_start_matches("http:").trim_matches('/');
        if text.len() >= SHORTEST_SECRET {
            redact::remember(text);
        }
    };
    secret(text);
    let expected = |found: &str| format!("expected a URL as in https://hc-ping.com/UUID, found {found}");
    let url = Url::parse(text).map_err(|error| expected(&format!("something else ({error})")))?;
    match url.scheme() {
        "https" | "http" if url.has_host() => {}
        scheme => return Err(expected(&format!("scheme {}", redact::value(scheme)))),
    }
    secret(url.as_str());
    secret(url.path());
    Ok(PingUrl(url))
}

pub(super) struct Pings {
    url: Url,
    client: Client,
    runtime: Runtime,
}

impl Pings {
    pub(super) fn new(PingUrl(url): PingUrl) -> Result<Self, String> {
        let client = Client::builder()
            .user_agent(concat!("nightcap/", env!("CARGO_PKG_VERSION")))
            .timeout(TIMEOUT)
            // A redirect could lead from https to http.
            .redirect(Policy::none())
            .build();
        let client = client.map_err(|error| format!("--ping: cannot make an HTTP client: {}", error.without_url()))?;
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| format!("--ping: cannot start a runtime: {error}"))?;
        Ok(Self { url, client, runtime })
    }

    pub(super) fn started(&mut self) {
        self.send(Some("start"));
    }

    pub(super) fn ended(&mut self, status: u8) {
        match status {
            0 => self.send(None),
            status => self.send(Some(&status.to_string())),
        }
    }

    /// Requests the URL, with `suffix` as the last segment of its path.
    fn send(&self, suffix: Option<&str>) {
        let mut url = self.url.clone();
        if let (Some(suffix), Ok(mut path)) = (suffix, url.path_segments_mut()) {
            path.pop_if_empty().push(suffix);
        }
        let request = || async {
            let response = self.client.get(url.clone()).send().await.map_err(|error| cause(&error))?;
            let status = response.status();
            if status.is_success() { Ok(()) } else { Err(refusal(status)) }
        };
        let pause = ConstantBuilder::default().with_delay(PAUSE).with_max_times(ATTEMPTS - 1);
        let sent = self.runtime.block_on(async { request.retry(pause).sleep(tokio::time::sleep).await });
        if let Err(why) = sent {
            tracing::warn!(host = self.url.host_str(), event = suffix.unwrap_or("success"), "a ping failed: {why}");
        }
    }
}

fn refusal(status: StatusCode) -> String {
    let hint = if status.is_redirection() { "; redirects are not followed, give the address itself" } else { "" };
    format!("status {}{hint}", status.as_u16())
}

/// The innermost cause of an error, which does not hold the URL.
fn cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return format!("no answer within {} s", TIMEOUT.as_secs());
    }
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.last().map_or_else(|| "the request failed".to_owned(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    use super::ping_url;

    #[test]
    fn only_urls_of_web_servers_can_be_pinged_and_none_is_repeated() {
        assert!(ping_url("https://hc-ping.com/abc").is_ok() && ping_url("http://localhost:8000/p?x=1").is_ok());
        for text in ["hc-ping.com/5f2a", "ftp://host/5f2a", "file:///5f2a", "", "https://", "data:5f2a"] {
            let error = ping_url(text).unwrap_err();
            assert!(!error.contains("5f2a") && error.contains("expected a URL"), "{error}");
        }
        let shown = format!("{:?}", ping_url("https://user:5f2a@hc-ping.com/5f2a").unwrap());
        assert_eq!(shown, "PingUrl(hc-ping.com)");
    }
}
