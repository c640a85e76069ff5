//! `[storage]`, and how it and the environment become object stores. Secrets come from the environment only.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::HttpConnector;
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, Result, RetryConfig};
use serde::Deserialize;

use super::connector::Connector;
use super::location::Cloud;
use super::profile;

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
    /// The profile of `~/.aws`, instead of `AWS_PROFILE`.
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

/// An environment variable that is set and not empty.
#[allow(clippy::disallowed_methods, reason = "the one place that reads what the job's `[storage]` refers to")]
pub(super) fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// How requests are made, whatever the store.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// Further attempts after a failure that may pass.
    pub(super) retries: u32,
    /// The longest one request may take.
    pub(super) timeout: Duration,
}

impl Patience {
    pub(super) fn retry(self) -> RetryConfig {
        let backoff =
            BackoffConfig { init_backoff: Duration::from_millis(200), max_backoff: Duration::from_secs(10), base: 2.0 };
        let max_retries = self.retries as usize;
        RetryConfig { backoff, max_retries, retry_timeout: self.timeout * (self.retries + 1) }
    }

    pub(super) fn client(self) -> ClientOptions {
        ClientOptions::new().with_timeout(self.timeout).with_connect_timeout(self.timeout.min(Duration::from_secs(5)))
    }
}

impl StorageSettings {
    /// The store that holds `bucket`.
    pub(super) fn bucket(
        &self,
        cloud: Cloud,
        bucket: &str,
        patience: Patience,
        connector: Connector,
    ) -> Result<Arc<dyn ObjectStore>> {
        match cloud {
            Cloud::S3 => self.s3(bucket, patience, connector),
            Cloud::Gs => self.gs(bucket, patience, connector),
            Cloud::Az => self.az(bucket, patience, connector),
        }
    }

    fn s3(&self, bucket: &str, patience: Patience, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        use AmazonS3ConfigKey::{AccessKeyId, Endpoint, Region, S3Endpoint, SecretAccessKey, Token};
        let mut builder = AmazonS3Builder::from_env();
        let profile = profile::load(self.profile.as_deref());
        // A profile's keys belong together, and a profile chosen by the job goes before the environment.
        let chosen = self.profile.is_some();
        if chosen || builder.get_config_value(&AccessKeyId).is_none() {
            for (key, name) in [
                (AccessKeyId, "aws_access_key_id"),
                (SecretAccessKey, "aws_secret_access_key"),
                (Token, "aws_session_token"),
            ] {
                if let Some(value) = profile.get(name) {
                    builder = builder.with_config(key, value);
                }
            }
        }
        for (key, name) in [(Region, "region"), (Endpoint, "endpoint_url")] {
            if let Some(value) = profile.get(name).filter(|_| chosen || builder.get_config_value(&key).is_none()) {
                builder = builder.with_config(key, value);
            }
        }
        for (key, name) in [
            (AccessKeyId, &self.access_key_id_env),
            (SecretAccessKey, &self.secret_access_key_env),
            (Token, &self.session_token_env),
        ] {
            if let Some(name) = name {
                builder = builder.with_config(key, referred(name)?);
            }
        }
        if let Some(region) = &self.region {
            builder = builder.with_region(region);
        }
        if let Some(endpoint) = &self.endpoint {
            builder = builder.with_config(S3Endpoint, endpoint);
        }
        let endpoint = builder.get_config_value(&S3Endpoint).or_else(|| builder.get_config_value(&Endpoint));
        let insecure = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        if let Some(path_style) = self.path_style {
            builder = builder.with_virtual_hosted_style_request(!path_style);
        }
        if let Some(anonymous) = self.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let builder = builder.with_bucket_name(bucket).with_retry(patience.retry()).with_http_connector(connector);
        let store = builder.with_client_options(patience.client().with_allow_http(insecure)).build()?;
        Ok(Arc::new(store))
    }

    fn gs(&self, bucket: &str, patience: Patience, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        let mut builder = GoogleCloudStorageBuilder::from_env();
        if let Some(name) = &self.token_env {
            builder = builder.with_bearer_token(referred(name)?);
        }
        if let Some(anonymous) = self.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let builder = builder.with_bucket_name(bucket).with_retry(patience.retry()).with_http_connector(connector);
        Ok(Arc::new(builder.with_client_options(patience.client()).build()?))
    }

    fn az(&self, container: &str, patience: Patience, connector: Connector) -> Result<Arc<dyn ObjectStore>> {
        let mut builder = MicrosoftAzureBuilder::from_env();
        if let Some(name) = &self.token_env {
            builder = builder.with_bearer_token_authorization(referred(name)?);
        }
        if let Some(anonymous) = self.anonymous {
            builder = builder.with_skip_signature(anonymous);
        }
        let builder = builder.with_container_name(container).with_retry(patience.retry());
        let builder = builder.with_http_connector(connector).with_client_options(patience.client());
        Ok(Arc::new(builder.build()?))
    }
}

/// The value of a variable that the job names.
fn referred(name: &str) -> Result<String> {
    variable(name).ok_or_else(|| object_store::Error::Generic {
        store: "nightcap",
        source: std::io::Error::other(format!(
            "`[storage]` refers to the environment variable {name}, which is not set"
        ))
        .into(),
    })
}

/// A client for plain web servers.
pub(super) fn http_client(patience: Patience, connector: &Connector) -> Result<Connector> {
    let options = patience.client().with_allow_http(true);
    Ok(Connector::Shared(connector.connect(&options)?))
}
