//! `[storage]`, and the retries and timeouts of requests. Secrets come from the environment only.

use std::time::Duration;

use backon::ExponentialBuilder;
use object_store::{BackoffConfig, ClientOptions, RetryConfig};
use serde::Deserialize;

/// `[storage]`: how remote storage is reached. What is None comes from the environment. Every secret is the name of an
/// environment variable, so that a job file cannot hold one.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct StorageSettings {
    /// URL of an S3 service other than Amazon's.
    pub endpoint: Option<String>,
    /// Region of the buckets.
    pub region: Option<String>,
    /// `https://host/bucket` (true, the default with an endpoint) or `https://bucket.host` (false).
    pub path_style: Option<bool>,
    /// Requests without credentials, for public data.
    pub anonymous: Option<bool>,
    /// The profile of `~/.aws`, instead of `AWS_PROFILE`; it takes precedence over the environment.
    pub profile: Option<String>,
    /// The variable that holds the S3 access key id, instead of `AWS_ACCESS_KEY_ID`.
    pub access_key_id_env: Option<String>,
    /// The variable that holds the S3 secret, instead of `AWS_SECRET_ACCESS_KEY`.
    pub secret_access_key_env: Option<String>,
    /// The variable that holds the S3 session token, instead of `AWS_SESSION_TOKEN`.
    pub session_token_env: Option<String>,
    /// The variable that holds a bearer token for gs:// and az://.
    pub token_env: Option<String>,
}

/// `limits.retries` unless the job sets it.
pub const DEFAULT_RETRIES: u32 = 3;
/// `limits.fetch_timeout_ms` unless the job sets it.
pub const DEFAULT_TIMEOUT: Duration = Duration::from_mins(1);

/// Retries and timeout of requests, whatever the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct RequestPolicy {
    /// Further attempts after a transient failure.
    pub(super) retries: u32,
    /// Timeout of one request, with its body.
    pub(super) timeout: Duration,
    /// The most bytes of a file of a web server that does not say its length before it is read; None: any number.
    pub(super) most_bytes: Option<u64>,
}

impl RequestPolicy {
    pub(super) fn retry(self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(10), base: 2.0 };
        let max_retries = self.retries as usize;
        RetryConfig { backoff, max_retries, retry_timeout: self.timeout * (self.retries + 1) }
    }

    pub(super) fn client(self) -> ClientOptions {
        ClientOptions::new().with_timeout(self.timeout).with_connect_timeout(self.connect_timeout())
    }

    pub(super) fn connect_timeout(self) -> Duration {
        self.timeout.min(Duration::from_secs(5))
    }
}

/// The pauses before `retries` further attempts: 0.1 s, doubled each time up to 5 s, plus a random part of up to the same length,
/// so that workers that failed together do not retry together.
pub(crate) const fn pauses(retries: u32) -> ExponentialBuilder {
    let pauses = ExponentialBuilder::new().with_min_delay(Duration::from_millis(100)).with_jitter();
    pauses.with_max_delay(Duration::from_secs(5)).with_max_times(retries as usize)
}

#[cfg(test)]
mod tests {
    use backon::BackoffBuilder;

    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound_and_end() {
        let all: Vec<Duration> = pauses(9).build().collect();
        assert_eq!(all.len(), 9);
        for (attempt, pause) in all.into_iter().enumerate() {
            let least = Duration::from_millis(100 * (1 << attempt)).min(Duration::from_secs(5));
            assert!((least..=2 * least).contains(&pause), "{attempt}: {pause:?}");
        }
        assert_eq!(pauses(0).build().next(), None);
    }
}
